"""The worker tool that runs ruff: `lint`."""

import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Annotated, cast

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream
from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, TypeAdapter
from ruff import find_ruff_bin  # pyright: ignore[reportMissingTypeStubs] (it has none)

from concertmaster.errors import ToolCallError
from concertmaster.llm.fencing import quoted
from concertmaster.llm.messages import Document, ToolSpec
from concertmaster.tools.arguments import parse_arguments
from concertmaster.tools.scope import ToolScope

PYTHON_SUFFIXES = frozenset({".py", ".pyi"})

MAX_FINDINGS = 500
"""How many findings one call returns."""

# Newer syntax than the newest Python that ruff knows would be called a syntax error.
TARGET_VERSION = "py314"

Rule = Annotated[str, StringConstraints(pattern=r"^[A-Z]{1,6}[0-9]{0,4}$")]


class LintArguments(BaseModel):
    """What `lint` is called with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str = Field(min_length=1, description="Name of one of your inputs, a Python file.")
    rules: tuple[Rule, ...] = Field(
        min_length=1,
        max_length=50,
        description='Codes or beginnings of codes of ruff rules, such as ["S", "B006"]: S is '
        "security, PERF and C4 performance, C901 complexity, E, F, N, B, SIM, UP and RET style, "
        "D documentation, PT tests; ALL is every rule.",
    )


class _Place(BaseModel):
    row: int


class _Fix(BaseModel):
    message: str | None = None


class _Finding(BaseModel):
    code: str | None
    message: str
    location: _Place
    fix: _Fix | None = None

    def line(self) -> str:
        hint = f" [fix: {self.fix.message}]" if self.fix and self.fix.message else ""
        return " ".join(
            f"{self.location.row}: {self.code or 'invalid-syntax'} {self.message}{hint}".split()
        )


_FINDINGS = TypeAdapter(list[_Finding])


def is_python(name: str) -> bool:
    """Tell by its name whether a document is Python source."""
    return PurePosixPath(name).suffix.lower() in PYTHON_SUFFIXES


class Lint:
    """Runs ruff's rules over one Python input."""

    spec = ToolSpec(
        name="lint",
        description=(
            "Checks one of your inputs, a Python file, with the rules of the linter ruff. "
            "Returns a line for each finding: line number, code of the rule, message."
        ),
        input_schema=LintArguments.model_json_schema(),
        local=True,
    )

    def __init__(self, *, seconds: float = 30) -> None:
        self._seconds = seconds
        self._slots = anyio.CapacityLimiter(os.cpu_count() or 4)

    async def call(self, arguments: Mapping[str, JsonValue], scope: ToolScope, /) -> str:
        """Return `N findings.` and a line for each: `LINE: CODE message`."""
        asked = parse_arguments(LintArguments, arguments)
        document = _python_input(asked.file, scope.inputs)
        command = [
            find_ruff_bin(),
            "check",
            "--isolated",
            "--no-cache",
            "--exit-zero",
            f"--target-version={TARGET_VERSION}",
            "--output-format=json",
            f"--select={','.join(asked.rules)}",
            f"--stdin-filename={PurePosixPath(document.name).name}",
            "-",
        ]
        return _report(await self._run(command, document))

    async def _run(self, command: Sequence[str], document: Document) -> bytes:
        async with self._slots:
            with anyio.move_on_after(self._seconds):
                ended = await _run_process(command, document.text.encode())
                if ended.status == 0:
                    return ended.output
                words = " ".join(ended.errors.decode(errors="replace").split())[-300:]
                raise ToolCallError(
                    f"ruff could not check {document.name}: {words or 'it gave no reason'}"
                )
        raise ToolCallError(f"ruff took longer than {self._seconds:g} s for {document.name}.")


@dataclass(frozen=True, slots=True)
class _Ended:
    status: int
    output: bytes
    errors: bytes


async def _run_process(command: Sequence[str], text: bytes) -> _Ended:
    """Return how a program that was given `text` has ended; when cancelled, it is killed.

    A program that ends without reading all of it is no error, as it is to `run_process`.
    """
    async with await anyio.open_process(command) as process:
        # Started like this, a program has all three streams.
        steps: list[Callable[[], Coroutine[None, None, bytes]]] = [
            partial(_send, cast("ByteSendStream", process.stdin), text),
            partial(_receive, cast("ByteReceiveStream", process.stdout)),
            partial(_receive, cast("ByteReceiveStream", process.stderr)),
        ]
        _, output, errors = await anyio.amap(lambda step: step(), steps)
        return _Ended(await process.wait(), output, errors)


async def _send(stream: ByteSendStream, text: bytes) -> bytes:
    with suppress(anyio.BrokenResourceError):
        await stream.send(text)
    await stream.aclose()
    return b""


async def _receive(stream: ByteReceiveStream) -> bytes:
    return b"".join([chunk async for chunk in stream])


def _python_input(name: str, inputs: Sequence[Document]) -> Document:
    for document in inputs:
        if document.name == name:
            if is_python(name):
                return document
            raise ToolCallError(f"{name} is no Python file; lint checks only .py and .pyi files.")
    names = ", ".join(quoted(document.name) for document in inputs) or "none"
    raise ToolCallError(f"You have no input {name!r}. Your inputs: {names}.")


def _report(output: bytes) -> str:
    findings = _FINDINGS.validate_json(output)
    lines = [f"{len(findings)} findings." if findings else "No findings."]
    lines += [finding.line() for finding in findings[:MAX_FINDINGS]]
    if len(findings) > MAX_FINDINGS:
        lines.append(f"[cut after {MAX_FINDINGS} findings; use fewer rules]")
    return "\n".join(lines)
