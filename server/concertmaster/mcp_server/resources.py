"""The MCP resources: workers, runs, and what runs consist of."""

import bisect
import json
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, cast

from mcp.server.caching import CacheHint
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError
from mcp.server.mcpserver.resources import FunctionResource

from concertmaster.errors import ConcertmasterError, RequestError
from concertmaster.mcp_server.context import Ctx, ServerState, state_of
from concertmaster.replies.build import DETAILS, cited_answer, long_text, run_reply, runs_reply
from concertmaster.replies.graph import run_graph
from concertmaster.replies.markdown import one_line
from concertmaster.replies.pagination import page_of
from concertmaster.runs.trace import Span
from concertmaster.tools.changes import unified_diff

if TYPE_CHECKING:
    from concertmaster.catalog.definitions import WorkerDefinition
    from concertmaster.llm.messages import WorkerCard


TRACE_CHARS = 9_500
"""How long a page of a trace is at most: there are clients that cut what is over 10,000."""

_FRAME_CHARS = 1_500
"""What a page may need for where it goes on, and for the spans that hold what is on it."""

_TEXTS = (2_000, 400, 80, 20)
"""To how many characters the texts of a span are cut that does not fit on a page of its own."""


def trace_page(span: Span, *, uri: str, offset: int = 0) -> str:
    """Return the spans from number `offset` on, as many as fit, counted as they are listed.

    Spans before that are named where they hold some of the page. What comes next is said.

    Raises:
        RequestError: there are no spans from `offset` on.
    """
    page = _Page(offset)
    tree = page.take(span)
    if tree is None:
        raise RequestError(f"offset is {offset}, but the trace has {page.total} spans.")
    if page.end is not None:
        tree |= {"next_offset": page.end, "total": page.total, "next": f"{uri}?offset={page.end}"}
    return json.dumps(tree, ensure_ascii=False)


class _Page:
    def __init__(self, offset: int) -> None:
        self.total = 0
        self.end: int | None = None
        """The number of the first span that did not fit."""
        self._offset = offset
        self._room = TRACE_CHARS - _FRAME_CHARS
        self._empty = True

    def take(self, span: Span) -> dict[str, Any] | None:
        """Return the span with as many of its parts as are on the page; none if nothing is."""
        number, self.total = self.total, self.total + 1
        facts = self._facts(span, number)
        spans = [taken for part in span.spans if (taken := self.take(part)) is not None]
        if not facts and not spans:
            return None
        named = facts or {
            "name": one_line(span.name, 100),
            "kind": span.kind,
            "status": span.status,
        }
        return named | {"spans": spans}

    def _facts(self, span: Span, number: int) -> dict[str, Any]:
        if number < self._offset or self.end is not None:
            return {}
        facts = span.model_dump(mode="json", exclude={"spans"})
        if self._empty:
            facts = self._fitting(facts)
        size = _size(facts)
        if size > self._room and not self._empty:
            self.end = number
            return {}
        self._room -= size
        self._empty = False
        return facts

    def _fitting(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Return the facts of a span, with its texts cut as far as a page of its own needs it."""
        shortened = (_cut(facts, text, items=text // 10) for text in _TEXTS)
        fits = (cut for cut in chain((facts,), shortened) if _size(cut) <= self._room)
        return next(fits, facts | {"attributes": {"left_out": "too long for a page"}})


def _size(facts: dict[str, Any]) -> int:
    """Return how long a span is on a page, with what surrounds it there."""
    return len(json.dumps(facts | {"spans": []}, ensure_ascii=False)) + len(", ")


def _cut(value: Any, text: int, *, items: int) -> Any:
    """Return a JSON value whose texts have at most `text` characters, its lists so many items."""
    match value:
        case str():
            return one_line(value, text) if len(value) > text else value
        case list():
            kept = cast("list[Any]", value)
            more = [f"… and {len(kept) - items} more."] if len(kept) > items else []
            return [*(_cut(item, text, items=items) for item in kept[:items]), *more]
        case dict():
            facts = cast("dict[str, Any]", value)
            return {name: _cut(item, text, items=items) for name, item in facts.items()}
        case _:
            return value


JSON = "application/json"
MARKDOWN = "text/markdown"
DIFF = "text/x-diff"
MERMAID = "text/vnd.mermaid"
"""What Mermaid's documentation recommends; IANA has it under application/."""

UNCHANGING = CacheHint(ttl_ms=300_000, scope="public")
"""For what is the same for everybody for as long as the server lives: lists, and workers."""

CATALOG_CHARS = 9_500
"""The longest catalog: there are clients that cut what is over 10,000 characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CardDetail:
    """How much the catalog shows of each worker."""

    items: int
    """How many items of a list; if none, only name and description are shown."""
    text: int
    """How many characters of a text."""


CARD_DETAILS = (
    CardDetail(items=100, text=2_000),
    CardDetail(items=5, text=400),
    CardDetail(items=4, text=300),
    CardDetail(items=3, text=200),
    CardDetail(items=0, text=200),
    CardDetail(items=0, text=80),
)
"""From the fullest down."""


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
    return catalog_page([worker.card() for worker in catalog])


def catalog_page(cards: Sequence["WorkerCard"]) -> str:
    """Return the fullest list of workers of at most CATALOG_CHARS characters.

    Its items are shortened or left out as far as needed; it says so, and where the rest is.
    """
    for detail in CARD_DETAILS:
        shown = [_shortened_card(card, detail) for card in cards]
        page = _catalog_json(shown, shortened=detail != CARD_DETAILS[0])
        if len(page) <= CATALOG_CHARS:
            return page
    shown = [_shortened_card(card, CARD_DETAILS[-1]) for card in cards]
    fitting = bisect.bisect_right(
        range(len(shown)),
        CATALOG_CHARS,
        key=lambda count: len(_catalog_json(shown[:count], more=len(shown) - count)),
    )
    return _catalog_json(shown[: fitting - 1], more=len(shown) - fitting + 1)


def _shortened_card(card: "WorkerCard", detail: CardDetail) -> dict[str, Any]:
    facts = {name: value for name, value in asdict(card).items() if value}
    if not detail.items:
        return {"name": card.name, "description": one_line(card.description, detail.text)}
    for name, value in facts.items():
        if isinstance(value, str):
            facts[name] = one_line(value, detail.text)
        elif name != "tools":
            facts[name] = value[: detail.items]
    return facts


def _catalog_json(cards: Sequence[dict[str, Any]], *, shortened: bool = True, more: int = 0) -> str:
    lines = ",\n".join(json.dumps(card, ensure_ascii=False) for card in cards)
    where = ', "next": "Texts are shortened; workers://NAME has all of one worker."'
    left_out = f', "more_workers": {more}' if more else ""
    return f'{{"workers": [\n{lines}\n]{left_out}{where if shortened else ""}}}'


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
