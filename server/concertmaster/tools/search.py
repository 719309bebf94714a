"""The worker tool that looks for a text in many files: `search_files`.

It matches with google-re2, which the RE2 project keeps: time grows with the length of the
text alone, whatever pattern a model writes, and Python's own `re` would hold up every run of
the process. The programs and bindings of ripgrep open paths by themselves; here files are
found and opened by `Roots`, so that one place decides what may be read.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import Protocol

import re2
from anyio import to_thread
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from concertmaster.errors import InputError, ToolCallError
from concertmaster.llm.fencing import spelled
from concertmaster.llm.protocol import Document, ToolSpec
from concertmaster.tools.arguments import parse_arguments
from concertmaster.tools.reading import read_text
from concertmaster.tools.roots import Roots, matches
from concertmaster.tools.scope import ToolScope

MAX_MATCHES = 200
"""How many lines one call returns."""

MAX_LINE = 300
"""How many characters of a line it returns."""

MAX_BYTES = 1_000_000
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
                text = read_text(file, name, root=roots.root(file), max_bytes=MAX_BYTES)
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
