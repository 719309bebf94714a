"""What an operator can choose about the tools of workers."""

import shlex
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from concertmaster.setting_types import read_json
from concertmaster.tools.policy import Decision


def _splittable(command: str) -> str:
    shlex.split(command)
    return command


class ToolSettings(BaseModel):
    """What workers may call, how long that may take, and who has to agree."""

    tool_policy: Annotated[dict[str, Decision], BeforeValidator(read_json)] = Field(
        default_factory=dict[str, Decision],
        description="Which tools workers may call: allow, ask or deny for `SERVER.TOOL`, "
        "`SERVER.*` or `*`. Without a rule, those that change nothing.",
    )
    tool_seconds: float = Field(
        default=60, gt=0, description="Time for one call of a tool of an MCP server."
    )
    ask_seconds: float = Field(
        default=120, gt=0, description="How long a call of a tool waits for somebody to agree."
    )
    custom_worker_tools: Annotated[tuple[str, ...], BeforeValidator(read_json)] = Field(
        default=(), description="Tools of workers that a planner writes for a run."
    )
    web: bool = Field(
        default=True,
        description="Let workers read public pages and search the web and arXiv.",
    )
    test_command: Annotated[str, AfterValidator(_splittable)] | None = Field(
        default=None,
        description="Command that workers may run the tests of a root with, such as pytest -q. "
        "Left out: they run none.",
    )
