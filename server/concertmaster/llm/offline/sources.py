"""Python inputs, parsed."""

import ast
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from concertmaster.llm.messages import Document

_parsing = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A Python file of the inputs."""

    name: str
    tree: ast.Module

    @property
    def module(self) -> tuple[str, ...]:
        """Return what the file is imported by, from the outermost folder on."""
        return module_of(self.name)

    @property
    def is_test(self) -> bool:
        """Tell whether the file holds tests."""
        return is_test(self.name)


def module_of(name: str) -> tuple[str, ...]:
    """Return what the Python file `name` is imported by, from the outermost folder on."""
    path = PurePosixPath(name)
    return path.parent.parts if path.stem == "__init__" else path.with_suffix("").parts


def is_test(name: str) -> bool:
    """Tell by its name whether a Python file holds tests."""
    path = PurePosixPath(name)
    return (
        path.stem.startswith("test_")
        or path.stem.endswith("_test")
        or path.stem == "conftest"
        or any(part in ("test", "tests") for part in path.parts[:-1])
    )


def parse(documents: Sequence[Document]) -> list[Source]:
    """Return those documents that are valid Python."""
    sources: list[Source] = []
    for document in documents:
        try:
            # A warning about the code under review is of no use here, and the filters of
            # warnings are shared by all threads.
            with _parsing, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(document.text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        sources.append(Source(name=document.name, tree=tree))
    return sources


_CODE_SUFFIXES = frozenset(
    {
        *(".py", ".pyi", ".ipynb", ".js", ".jsx", ".mjs", ".cjs", ".ts", ".tsx", ".vue"),
        *(".java", ".kt", ".scala", ".go", ".rs", ".c", ".h", ".cc", ".cpp", ".hpp", ".cs"),
        *(".rb", ".php", ".swift", ".m", ".sh", ".bash", ".ps1", ".sql", ".css", ".scss"),
        *(".lua", ".pl", ".r"),
    }
)


def is_python(name: str) -> bool:
    """Tell by its name whether a document is Python source."""
    return PurePosixPath(name).suffix.lower() in (".py", ".pyi")


def is_code(name: str) -> bool:
    """Tell by its name whether a document is source code."""
    return PurePosixPath(name).suffix.lower() in _CODE_SUFFIXES
