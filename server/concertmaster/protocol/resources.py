"""The MCP resources: workers, runs, and what runs consist of."""

import json
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from mcp.server.caching import CacheHint
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError
from mcp.server.mcpserver.resources import FunctionResource

from concertmaster.errors import ConcertmasterError, RequestError
from concertmaster.protocol.graph import run_graph
from concertmaster.protocol.pages import page_of
from concertmaster.protocol.sources import cited_answer
from concertmaster.protocol.state import Ctx, ServerState, state_of
from concertmaster.protocol.trace_pages import trace_page
from concertmaster.protocol.views import DETAILS, long_text, run_reply, runs_reply
from concertmaster.tools.changes import unified_diff

if TYPE_CHECKING:
    from concertmaster.catalog.definitions import WorkerDefinition

JSON = "application/json"
MARKDOWN = "text/markdown"
DIFF = "text/x-diff"
MERMAID = "text/vnd.mermaid"
"""What Mermaid's documentation recommends; IANA has it under application/."""

UNCHANGING = CacheHint(ttl_ms=300_000, scope="public")
"""For what is the same for everybody for as long as the server lives: lists, and workers."""


@contextmanager
def protocol_errors() -> Generator[None]:
    """Tell the reader of a resource what is wrong, in the protocol's terms."""
    try:
        yield
    except RequestError as exc:
        raise ResourceNotFoundError(str(exc)) from exc
    except ConcertmasterError as exc:
        raise ResourceError(str(exc)) from exc


async def worker_catalog(server: ServerState) -> str:
    """Return all workers: what each is for and what it needs."""
    with protocol_errors():
        catalog = (await server.service()).catalog
    cards = [asdict(worker.card()) for worker in catalog]
    return json.dumps({"workers": cards}, ensure_ascii=False, indent=2)


async def recent_runs(server: ServerState) -> str:
    """Return the latest runs, newest first."""
    with protocol_errors():
        service = await server.service()
        return runs_reply(await service.recent(), notice=service.notice).model_dump_json(indent=2)


async def worker(ctx: Ctx, name: str) -> str:
    """Return one worker, with its instructions."""
    with protocol_errors():
        definition = (await state_of(ctx).service()).catalog.get(name)
    return json.dumps(_worker_facts(definition), ensure_ascii=False, indent=2)


def _worker_facts(definition: "WorkerDefinition") -> dict[str, Any]:
    return asdict(definition.card()) | {
        "model": definition.model,
        "output_schema": definition.output_schema,
        "examples": definition.examples,
        "max_turns": definition.max_turns,
        "max_tokens": definition.max_tokens,
        "budget_usd": definition.budget_usd,
        "timeout_seconds": definition.timeout_seconds,
        "instructions": definition.instructions,
    }


async def run(ctx: Ctx, run_id: str) -> str:
    """Return where a run stands, with its whole answer."""
    with protocol_errors():
        state = await (await state_of(ctx).service()).get(run_id)
    text = long_text(state)
    page = page_of(text, offset=0, limit=len(text))
    return run_reply(state, page, DETAILS[0]).model_dump_json(indent=2, exclude_defaults=True)


async def run_plan(ctx: Ctx, run_id: str) -> str:
    """Return the plan of a run."""
    with protocol_errors():
        state = await (await state_of(ctx).service()).get(run_id)
        if state.plan is None:
            raise RequestError(f"Run {run_id} has no plan ({state.status}).")
    return state.plan.model_dump_json(indent=2)


async def run_picture(ctx: Ctx, run_id: str) -> str:
    """Return a run as a flowchart."""
    with protocol_errors():
        return run_graph(await (await state_of(ctx).service()).get(run_id))


async def run_trace(ctx: Ctx, run_id: str, offset: str = "0") -> str:
    """Return what happened in a run, as a tree of timed spans, in pages."""
    with protocol_errors():
        span = await (await state_of(ctx).service()).trace(run_id)
        if not offset.isdecimal() or len(offset) > 9:
            raise RequestError(f"offset is {offset!r}, but it has to be the number of a span.")
        return trace_page(span, uri=f"runs://{run_id}/trace", offset=int(offset))


async def run_subtask(ctx: Ctx, run_id: str, subtask_id: str) -> str:
    """Return the result of one subtask."""
    with protocol_errors():
        result = await (await state_of(ctx).service()).result(run_id, subtask_id)
    return result.model_dump_json(indent=2)


async def run_answer(ctx: Ctx, run_id: str) -> str:
    """Return the answer of a run."""
    with protocol_errors():
        state = await (await state_of(ctx).service()).get(run_id)
        if not state.answer:
            raise RequestError(f"Run {run_id} has no answer ({state.status}).")
    return cited_answer(state)


async def run_diff(ctx: Ctx, run_id: str) -> str:
    """Return how the results of a run change its inputs, as a unified diff."""
    with protocol_errors():
        diff = unified_diff(await (await state_of(ctx).service()).changes(run_id))
        if not diff:
            raise RequestError(f"Run {run_id} changes no file.")
    return diff


STATIC: tuple[tuple[str, Callable[[ServerState], Awaitable[str]], str], ...] = (
    ("workers://catalog", worker_catalog, "All workers: what each is for and what it needs."),
    ("runs://recent", recent_runs, "The latest runs, newest first."),
)

TEMPLATES: tuple[tuple[str, Callable[..., Awaitable[str]], str, str], ...] = (
    ("workers://{name}", worker, JSON, "One worker, with its instructions."),
    ("runs://{run_id}", run, JSON, "Where a run stands, with its whole answer."),
    ("runs://{run_id}/plan", run_plan, JSON, "The plan of a run."),
    ("runs://{run_id}/graph", run_picture, MERMAID, "A run as a flowchart in Mermaid."),
    (
        "runs://{run_id}/trace{?offset}",
        run_trace,
        JSON,
        "What happened in a run, as timed spans; a long trace says where it goes on.",
    ),
    ("runs://{run_id}/subtasks/{subtask_id}", run_subtask, JSON, "One subtask's result."),
    ("runs://{run_id}/answer", run_answer, MARKDOWN, "The answer of a run, whole."),
    ("runs://{run_id}/diff", run_diff, DIFF, "Files that a run rewrote, as a unified diff."),
)


def add_resources(server: MCPServer[ServerState], state: ServerState) -> None:
    """Register all resources and their templates."""
    for uri, read, description in STATIC:
        server.add_resource(
            FunctionResource(
                uri=uri,
                name=read.__name__,
                description=description,
                mime_type=JSON,
                fn=partial(read, state),
            )
        )
    for uri, read, mime_type, description in TEMPLATES:
        server.resource(uri, mime_type=mime_type, description=description)(read)


async def hint_at_workers(
    ctx: ServerRequestContext[Any, Any], call_next: CallNext
) -> HandlerResult:
    """Let clients keep what they read of workers; what they read of runs is theirs and changes."""
    result = await call_next(ctx)
    reads_worker = str((ctx.params or {}).get("uri", "")).startswith("workers://")
    if ctx.method != "resources/read" or not reads_worker or not isinstance(result, dict):
        return result
    if "ttlMs" not in result:
        # Before 2026-07-28, results carry no hints.
        return result
    return {**result, "ttlMs": UNCHANGING.ttl_ms, "cacheScope": UNCHANGING.scope}
