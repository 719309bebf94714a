"""Values of settings, as people write them in a file, a variable or a flag."""

import json
import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator


def absolute(path: Path) -> Path:
    """Return a path as written on a command line or in a variable, from the root on."""
    return path.expanduser().absolute()


def read_json(value: object) -> object:
    """Return what JSON stands for, which a variable may hold; anything else as it is."""
    return json.loads(value) if isinstance(value, str) else value


def _split_folders(value: object) -> object:
    if isinstance(value, str):
        return [part for part in value.split(os.pathsep) if part]
    return [value] if isinstance(value, Path) else value


FilePath = Annotated[Path, AfterValidator(absolute)]
Folder = FilePath
Folders = Annotated[tuple[Folder, ...], BeforeValidator(_split_folders)]
LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"],
    BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value),
]
