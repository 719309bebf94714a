"""Runs as OpenTelemetry spans and metrics.

A run is told of when it has ended, whole: its spans are those of its trace, which is made of
its journal, so a run that was resumed is one trace like any other.
"""

import logging
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from typing import NoReturn

import anyio
from anyio import to_thread
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from concertmaster import __version__
from concertmaster.errors import ConcertmasterError
from concertmaster.llm.retry import Gate
from concertmaster.runs.service import RunService
from concertmaster.runs.trace import Span
from concertmaster.telemetry.conventions import attributes_of, tokens_in, trace_context_of, usage_of

log = logging.getLogger(__name__)

NAME = "concertmaster"

LAST_SECONDS = 2.0
"""How long the end of a server may wait for the last runs to be told of."""


class OpenTelemetry:
    """Tells of runs through an OpenTelemetry SDK."""

    def __init__(
        self, tracers: TracerProvider, meters: MeterProvider, *, provider: str, content: bool
    ) -> None:
        """Name the model `provider`; export what was said in runs only with `content`."""
        self._tracer = tracers.get_tracer(NAME, __version__)
        self._meter = meter = meters.get_meter(NAME, __version__)
        self._provider = provider
        self._content = content
        self._changed: dict[str, None] = {}
        self._wake = anyio.Event()
        self._runs = meter.create_counter("concertmaster.runs", "{run}", "Runs that ended.")
        self._run_seconds = meter.create_histogram(
            "concertmaster.run.duration", "s", "Time from the start of a run to its end."
        )
        self._usd = meter.create_counter("concertmaster.cost", "USD", "Cost of model calls.")
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage", "{token}", "Number of input and output tokens used."
        )
        self._call_seconds = meter.create_histogram(
            "gen_ai.client.operation.duration", "s", "GenAI operation duration."
        )

    def watch_gate(self, gate: Gate) -> None:
        """Tell how full the gate is that model calls pass through."""

        def look(_: CallbackOptions) -> Iterable[Observation]:
            for model, found in gate.occupancy.items():
                counts = {
                    "allowed": found.places,
                    "under way": found.under_way,
                    "waiting": found.waiting,
                }
                for state, count in counts.items():
                    yield Observation(count, {"gen_ai.request.model": model, "state": state})

        self._meter.create_observable_gauge(
            "concertmaster.gate.calls", [look], "{call}", "Model calls: allowed, made, waiting."
        )

    @asynccontextmanager
    async def watching(self, service: RunService) -> AsyncGenerator[None]:
        """Tell of the runs that a service drives."""
        self._watch_queue(service)
        service.on_change(self._note)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._tell_on, service)
            try:
                yield
            finally:
                tasks.cancel_scope.cancel()
                with anyio.move_on_after(LAST_SECONDS, shield=True):
                    await self._tell(service)

    def _watch_queue(self, service: RunService) -> None:
        def runs(_: CallbackOptions) -> Iterable[Observation]:
            yield Observation(len(service.driven()))

        def subtasks(_: CallbackOptions) -> Iterable[Observation]:
            of_all = [item for state in service.driven() for item in state.subtasks.values()]
            for status in ("pending", "running"):
                count = sum(item.status == status for item in of_all)
                yield Observation(count, {"state": status})

        self._meter.create_observable_gauge(
            "concertmaster.runs.active", [runs], "{run}", "Runs under way."
        )
        self._meter.create_observable_gauge(
            "concertmaster.subtasks", [subtasks], "{subtask}", "Subtasks of runs under way."
        )

    def _note(self, run_id: str) -> None:
        self._changed[run_id] = None
        self._wake.set()

    async def _tell_on(self, service: RunService) -> NoReturn:
        while True:
            await self._wake.wait()
            self._wake = anyio.Event()
            await self._tell(service)

    async def _tell(self, service: RunService) -> None:
        """Tell of the runs that have ended among those that have changed."""
        under_way = {state.run_id for state in service.driven()}
        for run_id in [changed for changed in self._changed if changed not in under_way]:
            try:
                span = await service.trace(run_id)
            except ConcertmasterError as exc:
                log.warning("run not told of: %s", exc)
            else:
                # At the end this is under way twice for a moment.
                if run_id in self._changed:
                    self.export(span)
            self._changed.pop(run_id, None)

    def export(self, run: Span) -> None:
        """Tell of a run that has ended; one that was cut off is left until it is resumed."""
        if run.ended_at is None:
            return
        context = TraceContextTextMapPropagator().extract(trace_context_of(run))
        self._export(run, context, until=run.ended_at)
        self._runs.add(1, {"kind": str(run.attributes["kind"]), "status": run.status})
        self._run_seconds.record(run.ended_at - run.started_at, {"status": run.status})

    def _export(self, span: Span, context: Context, *, until: float) -> None:
        attributes = attributes_of(span, provider=self._provider, content=self._content)
        made = self._tracer.start_span(
            span.name,
            context,
            kind=SpanKind.CLIENT if span.kind == "call" else SpanKind.INTERNAL,
            attributes=attributes,
            start_time=_nanoseconds(span.started_at),
        )
        for inner in span.spans:
            self._export(inner, set_span_in_context(made, context), until=until)
        if span.status == "failed":
            made.set_status(StatusCode.ERROR)
        made.end(_nanoseconds(span.ended_at or until))
        if span.kind == "call":
            self._measure(span, until=until)

    def _measure(self, call: Span, *, until: float) -> None:
        usage = usage_of(call)
        about = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": self._provider,
            "gen_ai.request.model": call.name.partition(" ")[2],
        }
        self._call_seconds.record((call.ended_at or until) - call.started_at, about)
        self._tokens.record(tokens_in(usage), about | {"gen_ai.token.type": "input"})
        self._tokens.record(usage.tokens_out, about | {"gen_ai.token.type": "output"})
        if usage.usd:
            self._usd.add(usage.usd, about)


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


@asynccontextmanager
async def open_otlp(*, provider: str, content: bool) -> AsyncGenerator[OpenTelemetry]:
    """Open telemetry over OTLP, as the usual `OTEL_…` variables describe it."""
    named = OTELResourceDetector().detect().attributes.get("service.name", NAME)
    resource = Resource.create({"service.name": named, "service.version": __version__})
    tracers = TracerProvider(resource=resource)
    tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    meters = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())], resource)
    try:
        yield OpenTelemetry(tracers, meters, provider=provider, content=content)
    finally:
        with anyio.move_on_after(LAST_SECONDS, shield=True):
            await to_thread.run_sync(tracers.shutdown, abandon_on_cancel=True)
            await to_thread.run_sync(meters.shutdown, abandon_on_cancel=True)
