"""What an operator can choose about a server that outlives its clients."""

from pydantic import BaseModel, Field


class BackgroundSettings(BaseModel):
    """Whether runs go on when the client that started them ends, and for how long."""

    background: bool = Field(
        default=False,
        description="Serve stdio clients from a server in the background, which goes on with "
        "their runs when they quit.",
    )
    background_idle_seconds: float = Field(
        default=300,
        gt=0,
        description="The background server ends when it has had no client and no run for so long.",
    )
