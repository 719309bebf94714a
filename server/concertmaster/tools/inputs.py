"""The inputs of a run: what a caller names, read into documents."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from anyio import to_thread
from pydantic import Field

from concertmaster.errors import InputError
from concertmaster.llm.messages import Document
from concertmaster.llm.usage import Frozen, Text
from concertmaster.tools.roots import (
    NotTextError,
    Roots,
    TooLongError,
    is_pattern,
    printable,
    read_text,
)
from concertmaster.tools.tabular import SpreadsheetError, is_spreadsheet, read_sheets


class InlineInput(Frozen):
    """An input given as text."""

    name: str = Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")
    text: Text


InputSpec = str | InlineInput
"""A file, a folder, a pattern or a `file://` URI; or the text itself under a name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputLimits:
    """Bounds on the inputs of one run."""

    file_bytes: int = 1_000_000
    total_bytes: int = 4_000_000
    files: int = 200


DEFAULT_LIMITS = InputLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What the inputs of a run are."""

    documents: tuple[Document, ...]
    left_out: tuple[str, ...] = ()
    """What a reader may have expected among them and is not there, a sentence each."""


async def read_inputs(
    specs: Sequence[InputSpec], *, roots: Sequence[Path], limits: InputLimits = DEFAULT_LIMITS
) -> Inputs:
    """Return the documents that `specs` stand for, in their order, each file once.

    A document from a file is named by its path relative to the root it is in; one from a sheet
    of a spreadsheet by that and `/SHEET.tsv`. Folders are walked; binary files in them, and such
    that a pattern matches, are left out, as are spreadsheets that cannot be read, which is noted.

    Raises:
        InputError: an input cannot be read; names it and says what to do.
    """
    return await to_thread.run_sync(_read, specs, roots, limits, abandon_on_cancel=True)


async def complete_path(begun: str, *, roots: Sequence[Path]) -> list[str]:
    """Return the paths under the roots that go on from `begun` by one name."""
    return await to_thread.run_sync(Roots(roots).complete, begun, abandon_on_cancel=True)


def _read(specs: Sequence[InputSpec], folders: Sequence[Path], limits: InputLimits) -> Inputs:
    roots = Roots(folders)
    collection = _Collection(roots, limits)
    for spec in specs:
        if isinstance(spec, InlineInput):
            collection.add(spec.name, spec.text, source="a text given directly")
        else:
            collection.add_files(spec, _files(spec, roots))
    documents = tuple(collection.documents.values())
    return Inputs(documents=documents, left_out=tuple(collection.left_out))


@dataclass(frozen=True, slots=True)
class _Files:
    paths: Iterable[Path]
    named: bool
    """The caller named this very file, so that leaving it out would be wrong."""


def _files(spec: str, roots: Roots) -> _Files:
    try:
        path = roots.find(spec)
    except InputError:
        # A file's name may look like a pattern, so it is tried as a name first.
        if not is_pattern(spec):
            raise
        return _Files(roots.glob(spec), named=False)
    if path.is_dir():
        return _Files(roots.walk(spec, path), named=False)
    return _Files([path], named=True)


class _Collection:
    """The documents so far, within the limits."""

    def __init__(self, roots: Roots, limits: InputLimits) -> None:
        self.documents: dict[str, Document] = {}
        self.left_out: dict[str, None] = {}
        """Sentences, each once."""
        self._sources: dict[str, str] = {}
        self._roots = roots
        self._limits = limits
        self._bytes = 0

    def add_files(self, spec: str, files: _Files) -> None:
        # Counted before the first is read: a large folder is refused at once.
        paths = list(islice(files.paths, self._limits.files + 1))
        if len(paths) > self._limits.files:
            raise self._too_many(spec)
        texts = [self._add_file(path, named=files.named) for path in paths]
        if not any(texts):
            told = " ".join(["there is no text file in it.", *self.left_out])
            raise InputError(spec, f"{told} Name the files to read.")

    def _add_file(self, path: Path, *, named: bool) -> bool:
        """Tell whether the file is among the documents now."""
        name = self._roots.name(path)
        if self._sources.get(name) == str(path):
            return True
        try:
            texts = self._texts(path, name)
        except NotTextError as exc:
            if named:
                raise
            if isinstance(exc, SpreadsheetError):
                self.left_out[str(exc)] = None
            return False
        for part, text in texts.items():
            self.add(part, text, source=str(path))
        self._sources[name] = str(path)
        return True

    def _texts(self, path: Path, name: str) -> Mapping[str, str]:
        """Return what becomes of a file, by name."""
        root, most = self._roots.root(path), self._limits.file_bytes
        if not is_spreadsheet(name):
            return {name: read_text(path, name, root=root, max_bytes=most)}
        sheets = read_sheets(path, name, root=root, max_bytes=most)
        texts = {f"{name}/{sheet}.tsv": text for sheet, text in sheets.items()}
        for part, text in texts.items():
            if len(text.encode()) > most:
                raise SpreadsheetError(part, TooLongError(part, most).problem)
        return texts

    def add(self, name: str, text: str, *, source: str) -> None:
        limits = self._limits
        if name in self.documents:
            raise InputError(
                name,
                f"{printable(self._sources[name])} and {printable(source)} have this name. Leave "
                "one out, or give its text under another name.",
            )
        if len(self.documents) == limits.files:
            raise self._too_many(name)
        size = len(text.encode())
        if size > limits.file_bytes:
            raise TooLongError(name, limits.file_bytes)
        self._bytes += size
        if self._bytes > limits.total_bytes:
            raise InputError(
                name,
                f"with it, the inputs are longer than {limits.total_bytes:,} bytes in all. "
                "Give fewer, or only the parts that matter.",
            )
        self.documents[name] = Document(name=name, text=text)
        self._sources[name] = source

    def _too_many(self, name: str) -> InputError:
        return InputError(
            name,
            f"it makes more than {self._limits.files} files. Name fewer: a folder further "
            "down, or a pattern such as `src/**/*.py`.",
        )
