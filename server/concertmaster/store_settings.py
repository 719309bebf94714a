"""What an operator can choose about where runs are kept, and which processes work on them."""

from pathlib import Path

import platformdirs
from pydantic import BaseModel, Field, SecretStr

from concertmaster.setting_types import Folder


def _default_data_folder() -> Path:
    return platformdirs.user_data_path("concertmaster", appauthor=False)


class StoreSettings(BaseModel):
    """Where runs are kept and for how long, and who works on them."""

    data_folder: Folder = Field(
        default_factory=_default_data_folder, description="Where runs are kept."
    )
    network_folder: bool = Field(
        default=False,
        description="Keep runs in the data folder even if it is on a network share, where locks of "
        "files often do not hold.",
    )
    store: SecretStr | None = Field(
        default=None, description="Address of a Postgres that keeps the runs instead."
    )
    runs_at_once: int = Field(
        default=16, ge=1, description="Runs that one process works on at the same time, at most."
    )
    runs_in_all: int | None = Field(
        default=None, ge=1, description="Runs that all processes together work on, at most."
    )
    keep_days: float | None = Field(
        default=None, gt=0, description="Days that runs are kept; left out: for ever."
    )
    keep_runs: int | None = Field(
        default=None, ge=1, description="Runs that are kept, the newest; left out: all."
    )
    keep_megabytes: float | None = Field(
        default=None, gt=0, description="Megabytes of runs that are kept; left out: all."
    )
    resume_interrupted: bool = Field(
        default=False,
        description="A server goes on with runs whose process has died; with a store, always.",
    )
    drain_seconds: float = Field(
        default=6,
        ge=0,
        description="How long a process that is told to end lets calls under way end, in seconds; "
        "over stdio 3 at most.",
    )
    reuse_hours: float | None = Field(
        default=None,
        gt=0,
        description="Take over results of the same subtask from runs of the last so many hours; "
        "left out: from none.",
    )
