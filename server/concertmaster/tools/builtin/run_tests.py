"""The worker tool that runs tests: `run_tests`. It is there only where an operator allows it.

Tests are programs. Whoever can write a file under the roots can have them do anything that
the user of this process can do, so the command is the operator's, and a model chooses nothing
but which of the files under the roots are given to it.
"""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import anyio
from anyio.abc import ByteReceiveStream, Process
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from concertmaster.errors import InputError, ToolCallError
from concertmaster.llm.messages import ToolSpec
from concertmaster.tools.arguments import parse_arguments
from concertmaster.tools.roots import Roots
from concertmaster.tools.scope import ToolScope

MAX_OUTPUT_BYTES = 16_000
"""How much of the end of the output is kept: that is where tests sum up."""


class RunTestsArguments(BaseModel):
    """What `run_tests` is called with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tests: tuple[str, ...] = Field(
        default=(),
        max_length=50,
        description="Test files or folders, or `file::name` for single tests; all by default.",
    )


class RunTests:
    """Runs the operator's test command in a root."""

    spec = ToolSpec(
        name="run_tests",
        description="Runs the tests of the project. Returns the exit status and the output.",
        input_schema=RunTestsArguments.model_json_schema(),
    )

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        seconds: float = 100,
    ) -> None:
        self._command = tuple(command)
        self._environment = environment
        self._seconds = seconds
        self._turns = anyio.CapacityLimiter(1)

    async def call(self, arguments: Mapping[str, JsonValue], scope: ToolScope, /) -> str:
        """Return how the tests ended and the end of what they wrote."""
        asked = parse_arguments(RunTestsArguments, arguments)
        folder, tests = _places(asked.tests, scope.roots)
        # Tests of one folder often cannot run beside one another.
        async with self._turns:
            return await self._run([*self._command, *tests], folder)

    async def _run(self, command: Sequence[str], folder: Path) -> str:
        try:
            process = await anyio.open_process(
                command,
                cwd=folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as exc:
            raise ToolCallError(f"The tests cannot be run: {exc.strerror}.") from None
        output = bytearray()
        try:
            with anyio.move_on_after(self._seconds):
                await _read_end(process.stdout, output)
                return f"Exit status {await process.wait()}.\n{_shown(output)}"
            return f"Stopped after {self._seconds:g} s.\n{_shown(output)}"
        finally:
            await _end(process)


def _places(tests: Sequence[str], folders: Sequence[Path]) -> tuple[Path, list[str]]:
    """Return the root to run tests in, and the tests by their full paths.

    A full path is no option of any program.
    """
    roots = Roots(folders)
    found: list[str] = []
    places: list[Path] = []
    for test in tests:
        path, separator, name = test.partition("::")
        try:
            place = roots.find(path)
        except InputError as exc:
            raise ToolCallError(str(exc)) from None
        if not roots.visible(place):
            raise ToolCallError(f"{path} is hidden or ignored by git, so it is not run.")
        places.append(place)
        found.append(f"{place}{separator}{name}")
    if not folders:
        raise ToolCallError("No folder is open, so there are no tests.")
    return (roots.root(places[0]) if places else folders[0]), found


async def _read_end(stream: ByteReceiveStream | None, output: bytearray) -> None:
    async for chunk in stream or ():
        output += chunk
        del output[:-MAX_OUTPUT_BYTES]


def _shown(output: bytearray) -> str:
    return output.decode(errors="replace").strip() or "[no output]"


async def _end(process: Process) -> None:
    """Kill a program and what it started."""
    with suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    with anyio.CancelScope(shield=True):
        await process.aclose()
