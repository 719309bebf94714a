"""What telemetry has to offer, and none."""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from concertmaster.llm.retry import Gate
from concertmaster.runs.service import RunService


class Telemetry(Protocol):
    """Tells others how runs go."""

    def watch_gate(self, gate: Gate) -> None:
        """Tell how full the gate is that model calls pass through."""
        ...

    def watching(self, service: RunService) -> AbstractAsyncContextManager[None]:
        """Tell of the runs that a service drives."""
        ...


class NoTelemetry:
    """Tells nobody anything."""

    def watch_gate(self, gate: Gate) -> None:
        """Do nothing."""

    @asynccontextmanager
    async def watching(self, service: RunService) -> AsyncGenerator[None]:
        """Do nothing."""
        del service
        yield


NO_TELEMETRY = NoTelemetry()
