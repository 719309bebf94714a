"""The worker tool that calculates: `python`, in a sandbox.

The code of a model that reads strangers' texts is a stranger's code. It runs in Monty
(`pydantic-monty`, kept by the makers of Pydantic): an interpreter of its own in a process of
its own, which has no files, network, environment or imports from outside to give, starts in
milliseconds, and bounds time and memory itself. CPython compiled to WebAssembly, run by
wasmtime, would be a whole Python, but needs a build of it that nobody publishes as a package,
29 MB and about a second a call; `exec` with fewer names is no sandbox at all.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from decimal import Decimal
from typing import cast

from anyio import CapacityLimiter, to_thread
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from concertmaster.errors import InputError, ToolCallError
from concertmaster.llm.messages import Document, ToolSpec
from concertmaster.tools.arguments import parse_arguments
from concertmaster.tools.scope import ToolScope
from concertmaster.tools.tabular import is_data, read_data

MAX_MEMORY_BYTES = 256 << 20
MAX_PRINTED_BYTES = 40_000
MAX_SHOWN_ITEMS = 200
"""A value with more items is not shown unless it is printed."""
MAX_INT_BITS = 10_000
"""Nor is a longer number, which Python refuses to write out."""


class PythonArguments(BaseModel):
    """What `python` is called with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    code: str = Field(min_length=1, max_length=20_000, description="Python code. Print the result.")


class Python:
    """Runs Python code that has the inputs of the subtask and nothing else."""

    spec = ToolSpec(
        name="python",
        description=(
            "Runs Python code to calculate with, and returns what it prints and the value of its "
            "last line. `tables` has the rows of each CSV, TSV or JSON input by name, as a list "
            "of dicts; `texts` has the text of every input by name. There are no files, no "
            "network, no generators (`yield`) and no packages, but math, re, json, csv, "
            "datetime, decimal, collections, itertools and functools. Each call starts anew."
        ),
        input_schema=PythonArguments.model_json_schema(),
        local=True,
    )

    def __init__(self, *, seconds: float = 10) -> None:
        self._seconds = seconds
        self._slots = CapacityLimiter(os.cpu_count() or 4)

    async def call(self, arguments: Mapping[str, JsonValue], scope: ToolScope, /) -> str:
        """Return what the code printed, and the value of its last line if it is small."""
        asked = parse_arguments(PythonArguments, arguments)
        return await to_thread.run_sync(
            self._run, asked.code, scope.inputs, abandon_on_cancel=True, limiter=self._slots
        )

    def _run(self, code: str, inputs: Sequence[Document]) -> str:
        # Takes a tenth of a second to import, and most runs calculate nothing.
        import pydantic_monty  # noqa: PLC0415

        printed = pydantic_monty.CollectString(max_bytes=MAX_PRINTED_BYTES)
        tables, notes = _tables(inputs)
        try:
            with (
                pydantic_monty.Monty(
                    max_processes=1, request_timeout=2 * self._seconds
                ) as interpreter,
                interpreter.checkout(
                    limits={
                        "max_feed_duration_secs": self._seconds,
                        "max_memory": MAX_MEMORY_BYTES,
                    },
                    os_policy={"sleep": "zero"},
                ) as session,
            ):
                names = {"tables": tables, "texts": {item.name: item.text for item in inputs}}
                value = session.feed_run(code, inputs=names, print_callback=printed)
        except (pydantic_monty.MontyRuntimeError, pydantic_monty.MontySyntaxError) as exc:
            raise ToolCallError("\n".join([*notes, printed.output + exc.display()])) from None
        except pydantic_monty.MontyError as exc:
            raise ToolCallError(f"The sandbox gave up: {exc}.") from None
        return "\n".join([*notes, *_outcome(printed.output, value)])


def _tables(inputs: Sequence[Document]) -> tuple[dict[str, JsonValue], list[str]]:
    """Return the data of the inputs, and a sentence for each that has none though it should."""
    tables: dict[str, JsonValue] = {}
    notes: list[str] = []
    for document in inputs:
        if is_data(document.name):
            try:
                tables[document.name] = read_data(document)
            except InputError as exc:
                notes.append(str(exc))
    return tables, notes


def _outcome(printed: str, value: object) -> list[str]:
    shown = [printed.rstrip("\n")] if printed else []
    if value is not None:
        shown.append(str(value) if _is_small(value) else "[the value is large; print a part]")
    return shown or ["[nothing was printed]"]


def _is_small(value: object) -> bool:
    """Tell whether all of a value can be shown.

    A list may hold itself, or one list many times over, and that many times again.
    """
    waiting, seen = [value], 0
    while waiting and seen < MAX_SHOWN_ITEMS:
        seen += 1
        item = waiting.pop()
        if isinstance(item, dict):
            for pair in cast("dict[object, object]", item).items():
                waiting += pair
        elif isinstance(item, list | tuple | set | frozenset):
            waiting += cast("Iterable[object]", item)
        elif not _is_short(item):
            return False
    return not waiting


def _is_short(item: object) -> bool:
    if isinstance(item, int):
        return item.bit_length() <= MAX_INT_BITS
    return item is None or isinstance(item, str | bytes | float | Decimal | date | timedelta)
