"""Runs as OpenTelemetry tells of them: a real SDK, which keeps what it would send."""

import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, get_args

import anyio
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from building import setup, worker
from clients import connected
from concertmaster.engine.request import Origin
from concertmaster.errors import ModelReplyError
from concertmaster.llm.messages import Draft, Request, SynthesisBrief
from concertmaster.llm.retry import Gate
from concertmaster.runs import trace as spans
from concertmaster.runs.intake import RunPolicy
from concertmaster.runs.orders import PlanOrder, RunOrder, WorkerOrder
from concertmaster.runs.service import RunService, open_service
from concertmaster.store.sqlite.store import open_sqlite
from concertmaster.telemetry.conventions import OPERATIONS, attributes_of
from concertmaster.telemetry.otel import OpenTelemetry
from fakes import (
    USAGE,
    FakeLLM,
    FakeTool,
    Script,
    in_turn,
    plan_json,
    reply_with,
    subtask,
    wants,
)
from processes import environment
from serving import collecting

pytestmark = pytest.mark.anyio

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
TWO = plan_json(subtask("s1"), subtask("s2", "critic"))


class Told:
    """What was told of runs."""

    def __init__(self) -> None:
        self._spans = InMemorySpanExporter()
        self._metrics = InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        self.meters = MeterProvider([self._metrics])

    def telemetry(self, *, content: bool = False) -> OpenTelemetry:
        return OpenTelemetry(self.tracers, self.meters, provider="anthropic", content=content)

    @property
    def spans(self) -> dict[str, ReadableSpan]:
        """Return the spans by name."""
        return {span.name: span for span in self.all_spans}

    @property
    def all_spans(self) -> tuple[ReadableSpan, ...]:
        """Return all spans, also those of the same name."""
        return self._spans.get_finished_spans()

    def points(self, name: str) -> list[Any]:
        """Return the latest points of a metric."""
        data = self._metrics.get_metrics_data()
        return [
            point
            for resource in (data.resource_metrics if data is not None else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]


@asynccontextmanager
async def told_of(
    folder: Path,
    told: Told,
    scripts: Mapping[str, Script],
    *,
    content: bool = False,
    tools: tuple[FakeTool, ...] = (),
) -> AsyncGenerator[RunService]:
    """Open a service whose runs are told of."""
    workers = [worker("analyst", tools=tuple(tool.spec.name for tool in tools))]
    chosen = setup(FakeLLM(scripts), workers=workers, tools=tools)
    async with (
        open_sqlite(folder) as journal,
        open_service(journal=journal, setup=chosen, policy=RunPolicy()) as service,
        told.telemetry(content=content).watching(service),
    ):
        yield service


async def finish(service: RunService, order: RunOrder | WorkerOrder, **fields: Any) -> str:
    started = await service.start(order, **fields)
    with anyio.fail_after(60):
        await service.wait(started.run_id, seconds=10)
    return started.run_id


async def test_a_run_that_ends_just_before_its_service_is_told_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told()
    looked, looked_again = anyio.Event(), anyio.Event()
    async with (
        open_sqlite(tmp_path) as journal,
        open_service(journal=journal, setup=setup(FakeLLM({})), policy=RunPolicy()) as service,
    ):
        trace = service.trace

        async def held(run_id: str, *, content: bool = False) -> spans.Span:
            span = await trace(run_id, content=content)
            if looked.is_set():
                looked_again.set()
            looked.set()
            with anyio.CancelScope(shield=True):
                await looked_again.wait()
            return span

        monkeypatch.setattr(service, "trace", held)
        with anyio.fail_after(60):
            async with told.telemetry().watching(service):
                await finish(service, WorkerOrder(worker="analyst", task="why?"))
                await looked.wait()
    assert [point.value for point in told.points("concertmaster.runs")] == [1]


async def test_a_run_is_told_of_as_a_tree_in_the_terms_of_the_conventions(tmp_path: Path) -> None:
    told = Told()
    look = FakeTool("look", lambda _arguments, _scope: "seen")
    scripts: dict[str, Script] = {
        "planner": TWO,
        "worker:analyst": in_turn(wants(("look", {})), "done"),
    }
    async with told_of(tmp_path, told, scripts, tools=(look,)) as service:
        run_id = await finish(service, RunOrder(task="why?"))
    spans = told.spans
    run = spans["invoke_workflow"]
    parents = {span.context.span_id: name for name, span in spans.items() if span.context}
    assert run.parent is None
    by_name = {
        name: parents[span.parent.span_id]
        for name, span in spans.items()
        if span.parent is not None
    }
    assert by_name["plan"] == "invoke_workflow"
    assert by_name["invoke_agent analyst"] == by_name["invoke_agent critic"] == "invoke_workflow"
    assert by_name["invoke_agent synthesizer"] == "invoke_workflow"
    assert by_name["execute_tool look"] == "invoke_agent analyst"
    assert dict(run.attributes or {})["concertmaster.run_id"] == run_id
    call = spans["chat fake-small"]
    assert call.kind is SpanKind.CLIENT
    assert dict(call.attributes or {}) | {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "anthropic",
        "gen_ai.request.model": "fake-small",
        "gen_ai.response.model": "fake",
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.output_tokens": 10,
    } == dict(call.attributes or {})
    assert all((span.end_time or 0) >= (span.start_time or 0) > 0 for span in spans.values())


async def test_what_the_provider_called_itself_is_told_within_its_call(tmp_path: Path) -> None:
    told = Told()
    use = {"id": "1", "name": "web_search", "arguments": {"query": "private"}}
    usage = USAGE.model_copy(update={"searches": 1})
    reply = reply_with("done", server_tool_uses=[use], usage=usage)
    async with told_of(tmp_path, told, {"planner": TWO, "worker:analyst": reply}) as service:
        await finish(service, RunOrder(task="why?"))
    search = told.spans["execute_tool web_search"]
    assert search.parent is not None
    assert "private" not in search.to_json()
    calls = {span.context.span_id: span for span in told.all_spans if span.context}
    call = calls[search.parent.span_id]
    assert dict(call.attributes or {})["concertmaster.searches"] == 1


async def test_a_run_belongs_to_the_trace_that_its_client_sent(tmp_path: Path) -> None:
    told = Told()
    context = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    async with told_of(tmp_path, told, {"planner": TWO}) as service:
        await finish(service, RunOrder(task="why?"), origin=Origin(trace_context=context))
    run = told.spans["invoke_workflow"]
    assert run.parent is not None
    assert f"{run.parent.span_id:016x}" == PARENT
    assert {f"{span.context.trace_id:032x}" for span in told.spans.values() if span.context} == {
        TRACE
    }


@pytest.mark.parametrize(
    ("meta", "kept"),
    [
        ({"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "a=1"}, True),
        ({"traceparent": "x" * 10_000}, False),
        ({"traceparent": 5}, False),
        ({}, False),
    ],
)
async def test_the_trace_context_of_a_call_is_kept_with_its_run(
    meta: Any, kept: bool, tmp_path: Path
) -> None:
    async with connected(tmp_path) as connection:
        arguments = {"worker": "analyst", "task": "why?"}
        await connection.client.call_tool("run_worker", arguments, meta=meta)
        (run,) = (await connection.service.recent()).states
        root = await connection.service.trace(run.run_id)
    assert root.attributes.get("trace_context", {}) == (meta if kept else {})


async def test_nothing_that_was_said_is_told_unless_it_is_wanted(tmp_path: Path) -> None:
    secret = plan_json(subtask("s1", objective="the-secret"))
    for content in (False, True):
        told = Told()
        scripts: dict[str, Script] = {
            "planner": secret,
            "worker:analyst": ModelReplyError("no reply to the-secret"),
        }
        async with told_of(tmp_path, told, scripts, content=content) as service:
            await finish(service, RunOrder(task="what of the-secret?"))
        everything = "".join(span.to_json() for span in told.spans.values())
        assert ("the-secret" in everything) is content
        agent = told.spans["invoke_agent analyst"]
        assert agent.status.status_code is StatusCode.ERROR
        assert dict(agent.attributes or {})["error.type"] == "failed"


async def test_runs_tokens_and_usd_are_counted(tmp_path: Path) -> None:
    told = Told()
    async with told_of(tmp_path, told, {"planner": plan_json(subtask("s1"))}) as service:
        await finish(service, RunOrder(task="why?"))
    (runs,) = told.points("concertmaster.runs")
    assert runs.value == 1
    assert dict(runs.attributes) == {"kind": "orchestration", "status": "succeeded"}
    assert sum(point.value for point in told.points("concertmaster.cost")) == pytest.approx(0.02)
    tokens = told.points("gen_ai.client.token.usage")
    assert sum(point.sum for point in tokens) == 220
    assert {point.attributes["gen_ai.token.type"] for point in tokens} == {"input", "output"}
    assert sum(point.count for point in told.points("gen_ai.client.operation.duration")) == 2
    assert [point.count for point in told.points("concertmaster.run.duration")] == [1]


async def test_what_is_under_way_can_be_seen(tmp_path: Path) -> None:
    told = Told()
    reached = anyio.Event()

    async def wait(_: Request) -> str:
        reached.set()
        await anyio.sleep_forever()
        raise AssertionError("unreachable")

    plan = plan_json(subtask("s1"), subtask("s2", "critic", depends_on=("s1",)))
    async with told_of(tmp_path, told, {"planner": plan, "worker:analyst": wait}) as service:
        run = await service.start(RunOrder(task="why?"))
        with anyio.fail_after(60):
            await reached.wait()
            while len((state := await service.get(run.run_id)).subtasks) < 2:
                await service.wait_for_change(run.run_id, seen=state.events, seconds=5)
        (active,) = told.points("concertmaster.runs.active")
        subtasks = {
            point.attributes["state"]: point.value
            for point in told.points("concertmaster.subtasks")
        }
        await service.cancel(run.run_id, reason="enough")
    assert active.value == 1
    assert subtasks == {"pending": 1, "running": 1}
    assert [dict(point.attributes)["status"] for point in told.points("concertmaster.runs")] == [
        "cancelled"
    ]


async def test_how_full_the_gate_is_can_be_seen() -> None:
    told = Told()
    reached = anyio.Event()

    async def wait(_: Request) -> str:
        reached.set()
        await anyio.sleep_forever()
        raise AssertionError("unreachable")

    gate = Gate(FakeLLM({"test": wait}))
    told.telemetry().watch_gate(gate)
    brief = SynthesisBrief(task="why?", results=())
    request = Request(caller="test", model="m", system="", messages=(), brief=brief, max_tokens=1)
    points: list[Any] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(gate.complete, request, Draft())
        with anyio.fail_after(60):
            await reached.wait()
        points += told.points("concertmaster.gate.calls")
        tasks.cancel_scope.cancel()
    found = {point.attributes["state"]: point.value for point in points}
    assert found["under way"] == 1
    assert found["waiting"] == 0
    assert found["allowed"] >= 1


async def test_a_run_that_is_cut_off_is_not_told_of_as_if_it_had_ended(tmp_path: Path) -> None:
    told = Told()

    async def wait(_: Request) -> str:
        await anyio.sleep_forever()
        raise AssertionError("unreachable")

    async with told_of(tmp_path, told, {"planner": wait}) as service:
        await service.start(PlanOrder(task="why?"))
    assert told.spans == {}


def test_the_command_sends_what_it_tells_to_a_collector(tmp_path: Path) -> None:
    file = tmp_path / "report.md"
    file.write_text("# Report\n\nSales rose by 5 % in 2025. Costs fell.\n")
    with collecting() as collector:
        variables = {
            "CONCERTMASTER_TELEMETRY": "true",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_SERVICE_NAME": "our-server",
        }
        command = [
            sys.executable,
            "-m",
            "concertmaster",
            "worker",
            "summarizer",
            "Sum up.",
            str(file),
        ]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=environment(tmp_path, variables),
            check=False,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    assert {path for path, _ in collector.posted} == {"/v1/traces", "/v1/metrics"}
    sent = b"".join(body for _, body in collector.posted)
    assert b"our-server" in sent
    assert b"invoke_agent summarizer" in sent


def test_without_telemetry_its_packages_are_not_imported() -> None:
    check = (
        "import sys, concertmaster.cli.bootstrap, concertmaster.mcp_server.transports.stdio\n"
        "assert 'concertmaster.telemetry.otel' not in sys.modules\n"
        "assert 'opentelemetry.sdk' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", check], check=True, timeout=60)


def test_every_kind_of_span_is_an_operation() -> None:
    assert set(OPERATIONS) == set(get_args(spans.SpanKind))


def test_a_question_names_the_tool_that_it_is_about() -> None:
    span = spans.Span(
        name="ask git.commit",
        kind="question",
        started_at=1,
        ended_at=2,
        status="denied",
        attributes={"arguments": "{}"},
    )
    told = attributes_of(span, provider="anthropic", content=False)
    assert (told["gen_ai.operation.name"], told["gen_ai.tool.name"]) == ("ask", "git.commit")
    assert told["concertmaster.status"] == "denied"
    assert "{}" not in told.values()
