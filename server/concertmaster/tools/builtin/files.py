"""The worker tools that read: `read_file` and `list_files`."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Protocol

import re2
from anyio import to_thread
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from concertmaster.errors import InputError, ToolCallError
from concertmaster.llm.fencing import quoted, spelled
from concertmaster.llm.messages import Document, ToolSpec
from concertmaster.tools.arguments import parse_arguments
from concertmaster.tools.roots import Roots, TooLongError, matches, read_text
from concertmaster.tools.scope import ToolScope
from concertmaster.tools.tabular import is_spreadsheet, read_sheets

MAX_CHARS = 60_000
"""How much of a file one call returns."""

MAX_BYTES = 4_000_000
"""The longest file a worker may look into."""

MAX_NAMES = 1_000
"""How many names one call lists."""


class _Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ReadFileArguments(_Arguments):
    """What `read_file` is called with."""

    path: str = Field(min_length=1, description="Name of an input, or path of a file.")
    start_line: int = Field(default=1, ge=1, description="First line to return, from 1.")
    lines: int | None = Field(default=None, ge=1, description="How many lines; all by default.")


class ReadFile:
    """Returns an input of the subtask, or a file under the roots."""

    spec = ToolSpec(
        name="read_file",
        description=(
            "Returns the text of one of your inputs, by its name, or of a file that may be "
            "read, by its path. For a long file, ask for a range of lines."
        ),
        input_schema=ReadFileArguments.model_json_schema(),
        local=True,
    )

    async def call(self, arguments: Mapping[str, JsonValue], scope: ToolScope, /) -> str:
        """Return the lines that were asked for, and where they stop if there are more."""
        asked = parse_arguments(ReadFileArguments, arguments)
        return await to_thread.run_sync(_read, asked, scope, abandon_on_cancel=True)


def _read(asked: ReadFileArguments, scope: ToolScope) -> str:
    lines = _text(asked.path, scope).splitlines(keepends=True)
    first = asked.start_line - 1
    if first and first >= len(lines):
        raise ToolCallError(f"{asked.path} has only {len(lines)} lines.")
    last = len(lines) if asked.lines is None else min(first + asked.lines, len(lines))
    return _cut(lines, first, last)


def _text(path: str, scope: ToolScope) -> str:
    for document in scope.inputs:
        if document.name == path:
            return document.text
    try:
        roots = Roots(scope.roots)
        file = roots.find(path)
        if not roots.visible(file):
            raise ToolCallError(f"{path} is hidden or ignored by git, so only a user can give it.")
        if file.is_dir():
            raise ToolCallError(f"{path} is a folder. Call list_files to see what is in it.")
        return _content(file, path, roots.root(file))
    except InputError as exc:
        names = ", ".join(quoted(document.name) for document in scope.inputs) or "none"
        raise ToolCallError(f"{exc} Your inputs: {names}.") from None


def _content(file: Path, name: str, root: Path) -> str:
    if not is_spreadsheet(name):
        return read_text(file, name, root=root, max_bytes=MAX_BYTES)
    sheets = read_sheets(file, name, root=root, max_bytes=MAX_BYTES)
    for sheet, text in sheets.items():
        if len(text.encode()) > MAX_BYTES:
            raise TooLongError(f"{name}, sheet {sheet}", MAX_BYTES)
    return "\n".join(f"## {sheet}\n\n{text}" for sheet, text in sheets.items())


def _cut(lines: list[str], first: int, last: int) -> str:
    """Return whole lines within the limit; of a single line that is longer, its beginning."""
    end, chars = first, 0
    while end < last and chars + len(lines[end]) <= MAX_CHARS:
        chars += len(lines[end])
        end += 1
    text = "".join(lines[first:end])
    if end == first and first < last:
        left = len(lines[first]) - MAX_CHARS
        end += 1
        text = f"{lines[first][:MAX_CHARS]}\n[line {end} was cut: {left:,} more characters]\n"
    if end < last:
        text += f"[cut after line {end} of {len(lines)}; go on with start_line {end + 1}]"
    return text


class ListFilesArguments(_Arguments):
    """What `list_files` is called with."""

    pattern: str = Field(
        default="**",
        min_length=1,
        description="Which names to list, such as `**/*.py`; `**` stands for any folders.",
    )


class ListFiles:
    """Lists the inputs of the subtask and the files under the roots."""

    spec = ToolSpec(
        name="list_files",
        description="Lists the names of your inputs and of the other files that may be read.",
        input_schema=ListFilesArguments.model_json_schema(),
        local=True,
    )

    async def call(self, arguments: Mapping[str, JsonValue], scope: ToolScope, /) -> str:
        """Return a name on each line, the inputs first."""
        asked = parse_arguments(ListFilesArguments, arguments)
        return await to_thread.run_sync(_list, asked.pattern, scope, abandon_on_cancel=True)


def _list(pattern: str, scope: ToolScope) -> str:
    try:
        names = list(islice(_names(pattern, scope), MAX_NAMES + 1))
    except InputError as exc:
        raise ToolCallError(str(exc)) from None
    if not names:
        return f"Nothing that may be read matches {pattern!r}."
    if len(names) > MAX_NAMES:
        names[-1] = f"[cut after {MAX_NAMES} names; use a narrower pattern]"
    return "\n".join(names)


def _names(pattern: str, scope: ToolScope) -> Iterator[str]:
    listed = {document.name for document in scope.inputs}
    for document in scope.inputs:
        if matches(document.name, pattern):
            yield f"{spelled(document.name)} (input)"
    roots = Roots(scope.roots)
    for file in roots.files():
        name = roots.name(file)
        if name not in listed and matches(name, pattern):
            listed.add(name)
            yield spelled(name)


MAX_MATCHES = 200
"""How many lines one call returns."""

MAX_LINE = 300
"""How many characters of a line it returns."""

MAX_SEARCHED_BYTES = 1_000_000
"""Longer files are not searched."""

MAX_TOTAL_CHARS = 50_000_000
"""How much text one call looks through."""

MAX_PATTERN_BYTES = 4 << 20
"""How much memory the compiled pattern may take."""


class _Pattern(Protocol):
    def search(self, text: str, /) -> object | None: ...


class SearchFilesArguments(BaseModel):
    """What `search_files` is called with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pattern: str = Field(
        min_length=1,
        max_length=1000,
        description="Regular expression in the syntax of RE2 (no look-around, no references).",
    )
    files: str = Field(
        default="**",
        min_length=1,
        description="Which names to search, such as `**/*.py`; `**` stands for any folders.",
    )
    literal: bool = Field(default=False, description="Take `pattern` as plain text.")
    ignore_case: bool = False


class SearchFiles:
    """Finds the lines of inputs and files that a pattern matches."""

    spec = ToolSpec(
        name="search_files",
        description=(
            "Finds the lines that a regular expression matches, in your inputs and in the other "
            "files that may be read. Returns `name:line: text` for each."
        ),
        input_schema=SearchFilesArguments.model_json_schema(),
        local=True,
    )

    async def call(self, arguments: Mapping[str, JsonValue], scope: ToolScope, /) -> str:
        """Return a line for each that matches, the inputs first."""
        asked = parse_arguments(SearchFilesArguments, arguments)
        return await to_thread.run_sync(_search, asked, scope, abandon_on_cancel=True)


def _search(asked: SearchFilesArguments, scope: ToolScope) -> str:
    options = re2.Options()
    options.literal = asked.literal
    options.case_sensitive = not asked.ignore_case
    options.max_mem = MAX_PATTERN_BYTES
    options.log_errors = False
    try:
        pattern = re2.compile(asked.pattern, options)
        texts = _within_limit(_texts(asked.files, scope))
        found = list(islice(_matching_lines(pattern, texts), MAX_MATCHES + 1))
    except re2.error as exc:
        raise ToolCallError(f"The pattern is wrong: {_words(exc)}.") from None
    except InputError as exc:
        raise ToolCallError(str(exc)) from None
    if not found:
        return f"No line of what may be read in {asked.files!r} matches."
    if len(found) > MAX_MATCHES:
        found[-1] = f"[cut after {MAX_MATCHES} lines; use a narrower pattern]"
    return "\n".join(found)


def _words(error: Exception) -> str:
    """Return what RE2 has to say, which comes as bytes."""
    (reason,) = error.args
    return reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)


def _texts(names: str, scope: ToolScope) -> Iterator[Document]:
    seen: set[str] = set()
    for document in scope.inputs:
        if matches(document.name, names):
            seen.add(document.name)
            yield document
    roots = Roots(scope.roots)
    for file in roots.files():
        name = roots.name(file)
        if name not in seen and matches(name, names):
            seen.add(name)
            with suppress(InputError):
                text = read_text(file, name, root=roots.root(file), max_bytes=MAX_SEARCHED_BYTES)
                yield Document(name=name, text=text)


def _within_limit(texts: Iterator[Document]) -> Iterator[Document]:
    left = MAX_TOTAL_CHARS
    for document in texts:
        left -= len(document.text)
        if left < 0:
            raise InputError(document.name, "there is too much text up to here. Narrow `files`.")
        yield document


def _matching_lines(pattern: _Pattern, texts: Iterator[Document]) -> Iterator[str]:
    for document in texts:
        for number, line in enumerate(document.text.splitlines(), start=1):
            if pattern.search(line) is not None:
                text = line.strip()
                cut = "…" if len(text) > MAX_LINE else ""
                yield f"{spelled(document.name)}:{number}: {text[:MAX_LINE]}{cut}"
