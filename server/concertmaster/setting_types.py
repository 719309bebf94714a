"""Values of settings, as people write them in a file, a variable or a flag."""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


def _split_folders(value: object) -> object:
    if isinstance(value, str):
        return [part for part in value.split(os.pathsep) if part]
    return [value] if isinstance(value, Path) else value


Folder = Annotated[Path, AfterValidator(_absolute)]
Folders = Annotated[tuple[Folder, ...], BeforeValidator(_split_folders)]
LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"],
    BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value),
]
