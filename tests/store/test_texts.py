"""Long texts of events: kept once, for as long as a run has them, and read as they were written."""

import json
import random
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, LiteralString, cast, get_args

import anyio
import psycopg
import pytest
from anyio import to_thread
from anyio.abc import TaskGroup
from pydantic import JsonValue, ValidationError

from concertmaster.engine.events import (
    EVENT,
    CallFinished,
    CancelRequested,
    Event,
    PartResult,
    PlanAccepted,
    RunEnded,
    RunResumed,
    RunStarted,
    SubtaskFinished,
    SubtaskResult,
    ToolStarted,
)
from concertmaster.engine.plan.plan import Plan
from concertmaster.engine.request import Origin, RunRequest
from concertmaster.errors import (
    LostRunError,
    StoreError,
    UnknownRunError,
    UnreadableRunError,
    UsedKeyError,
)
from concertmaster.llm.messages import ServerToolUse, Source, ToolCall
from concertmaster.store.codec import LONG, digest
from fakes import reply_with, subtask
from stores import EVERY_KIND, PostgresStore, Store, cancel, started

pytestmark = pytest.mark.anyio

TEXT = "What was found, and what it rests on. " * 500


def called(text: str, number: int = 1) -> Event:
    return CallFinished(
        name=f"call/{number}", at=2, caller="worker:analyst", reply=reply_with(text)
    )


def finished(text: str, number: int = 1, **fields: Any) -> Event:
    result = SubtaskResult(
        subtask_id=f"s{number}", worker="analyst", status="succeeded", text=text, **fields
    )
    return SubtaskFinished(name=f"subtask/s{number}/result", at=3, result=result)


def stop(reason: str) -> Event:
    return CancelRequested(name="run/cancel/1", at=3, reason=reason)


def ended(answer: str = "") -> Event:
    return RunEnded(name="run/end", at=4, status="succeeded", answer=answer)


def kept(store: Store) -> list[str]:
    """Return the texts that are kept, having checked that each belongs to a run."""
    found = dict(store.look("SELECT digest, text FROM texts"))
    assert found.keys() == {name for (name,) in store.look("SELECT digest FROM run_texts")}
    return [text if isinstance(text, str) else bytes(text).decode() for text in found.values()]


async def test_a_text_is_kept_once_though_call_subtask_and_run_have_it(store: Store) -> None:
    events = [started(), called(TEXT), finished(TEXT, value=[TEXT, {"x": TEXT}]), ended(TEXT)]
    async with store.open() as journal:
        await journal.create("r-1", events[0], {digest(TEXT): TEXT})
        for event in events[1:]:
            await journal.append("r-1", event, epoch=1)
        assert await journal.events("r-1") == events
        (run,) = await journal.stock()
    assert kept(store) == [TEXT]
    assert len(TEXT) < run.size < len(TEXT) + 4000
    rows = store.look("SELECT * FROM events")
    assert sum(len(str(value)) for row in rows for value in row) < 6000


async def test_a_text_of_two_runs_is_kept_until_the_second_is_deleted(store: Store) -> None:
    async with store.open() as journal:
        for run_id in ("r-1", "r-2"):
            await journal.create(run_id, started(), {})
            await journal.append(run_id, finished(TEXT), epoch=1)
            await journal.append(run_id, ended(), epoch=1)
        assert kept(store) == [TEXT]
        await journal.delete(["r-1"])
        assert kept(store) == [TEXT]
        assert finished(TEXT) in await journal.events("r-2")
        await journal.delete(["r-2"])
    assert kept(store) == []


async def test_an_event_that_is_refused_leaves_no_text(store: Store) -> None:
    async with store.open() as journal, store.open() as other:
        await journal.create("r-1", started(), {}, key="a")
        await journal.append("r-1", finished("short"), epoch=1)
        with pytest.raises(StoreError, match="already"):
            await journal.append("r-1", finished(TEXT), epoch=1)
        with pytest.raises(LostRunError):
            await journal.append("r-1", called(TEXT), epoch=2)
        with pytest.raises(UnknownRunError):
            await journal.tell("r-9", stop(TEXT))
        with pytest.raises(LostRunError):
            await other.take_over("r-1", resumed(TEXT), epoch=2)
        with pytest.raises(UsedKeyError):
            await journal.create("r-2", a_start(TEXT), {"d1": "one"}, key="a")
    assert kept(store) == []


async def test_of_two_writes_of_one_name_in_a_commit_the_text_of_the_one_that_is_added_is_kept(
    store: Store,
) -> None:
    async with store.open() as journal:
        await journal.create("r-1", started(), {})
        await journal.append("r-1", finished("refused " * LONG), epoch=9, wait=False)
        with pytest.raises(LostRunError):
            await journal.append("r-1", finished(TEXT), epoch=1)
        assert await journal.events("r-1") == [started(), finished(TEXT)]
    assert kept(store) == [TEXT]


def resumed(by: str) -> Event:
    return RunResumed(name="run/resume/2", at=3, epoch=2, by=by)


def a_start(task: str, principal: str = "") -> Event:
    request = RunRequest(task=task)
    return RunStarted(name="run/start", at=1, request=request, origin=Origin(principal=principal))


async def test_whatever_way_an_event_comes_its_text_is_kept_and_read(store: Store) -> None:
    texts = [f"{number} {TEXT}" for number in range(4)]
    async with store.open() as first:
        await first.create("r-1", a_start(texts[0]), {})
        await first.tell("r-1", stop(texts[1]))
        assert (await first.standing(["r-1"]))["r-1"].cancel_requested == texts[1]
    async with store.open() as second:
        await second.take_over("r-1", resumed(texts[2]), epoch=2)
        await second.append("r-1", called(texts[3]), epoch=2)
        assert await second.events("r-1") == [
            a_start(texts[0]),
            stop(texts[1]),
            resumed(texts[2]),
            called(texts[3]),
        ]
    assert sorted(kept(store)) == texts


ODD_TEXTS = ("", "texts", "\0", '"', "\\", '{"texts":[]}', "\u00e9\u4e2d\U0001f600", "\u2028\x7f")


def odd_text(chance: random.Random) -> str:
    return chance.choice(ODD_TEXTS) * chance.choice((1, 2, LONG // 2, LONG, LONG + 1))


def odd_value(chance: random.Random, depth: int = 0) -> JsonValue:
    """Return JSON that has, by chance, anything that could be mistaken for something else."""
    match chance.randrange(8 if depth < 5 else 5):
        case 0:
            return chance.choice((None, True, 0, -0.0, 1e300, 10**30, 0.1))
        case 1 | 2:
            return odd_text(chance)
        case 3:
            return [["reply", "text"], digest(TEXT)]
        case 4:
            return {"texts": [[["name"], digest(TEXT)]], "": TEXT}
        case 5:
            return [odd_value(chance, depth + 1) for _ in range(chance.randrange(4))]
        case _:
            values = (odd_value(chance, depth + 1) for _ in range(chance.randrange(4)))
            return {odd_text(chance) + str(number): value for number, value in enumerate(values)}


async def test_what_is_read_is_what_was_written_whatever_it_looks_like(store: Store) -> None:
    chance = random.Random(1)
    events = [finished(odd_text(chance), n, value=odd_value(chance)) for n in range(300)]
    async with store.open() as journal:
        await journal.create("r-1", started(), {})
        for event in events:
            await journal.append("r-1", event, epoch=1, wait=False)
        await journal.append("r-1", ended(), epoch=1)
        assert await journal.events("r-1") == [started(), *events, ended()]
        await journal.delete(["r-1"])
    assert kept(store) == []


async def test_half_a_character_does_not_cost_the_long_text_that_has_it(store: Store) -> None:
    async with store.open() as journal:
        await journal.create("r-1", started(), {})
        await journal.append("r-1", stop("a\ud800\u00e9" * LONG), epoch=1)
        _, read = await journal.events("r-1")
    assert read == stop("a\ud800\u00e9" * LONG).model_copy(update={"reason": "a?\u00e9" * LONG})


async def test_what_is_nested_deep_is_kept_and_what_is_too_deep_is_its_runs_alone(
    store: Store,
) -> None:
    def nested(depth: int) -> JsonValue:
        return TEXT if depth == 0 else [nested(depth - 1)]

    async with store.open() as journal:
        for run_id, depth in (("r-1", 190), ("r-2", 220)):
            await journal.create(run_id, started(), {})
            await journal.append(run_id, finished("", value=nested(depth)), epoch=1)
        assert (await journal.events("r-1"))[1:] == [finished("", value=nested(190))]
        with pytest.raises(UnreadableRunError, match="damaged"):
            await journal.events("r-2")


TALKATIVE: list[Event] = [
    *EVERY_KIND,
    PlanAccepted(name="plan/2", at=6, plan=Plan(analysis="a", subtasks=(subtask("s1", why="w"),))),
    ToolStarted(
        name="tool/start",
        at=7,
        step="tool",
        subtask_id="s1",
        call=ToolCall(id="1", name="lint", arguments={"a": "b"}),
    ),
    CallFinished(
        name="call/2",
        at=8,
        caller="planner",
        reply=reply_with(
            "t",
            detail="d",
            native=({"a": "b"},),
            server_tool_uses=(ServerToolUse(id="1", name="web_search", arguments={"a": "b"}),),
            sources=(Source(url="https://example.org", title="t"),),
        ),
    ),
    SubtaskFinished(
        name="subtask/s2/result",
        at=9,
        result=SubtaskResult(
            subtask_id="s2",
            worker="analyst",
            status="partial",
            value={"a": ["b"]},
            parts=(PartResult(name="n", text="t", value="v", problem="p"),),
            errors=("e",),
            notes=("n",),
            sources=(Source(url="https://example.org", title="t"),),
        ),
    ),
    RunEnded(name="run/end/2", at=12, status="partial", answer="a", value="v", reasons=("r",)),
]


def lengthened(event: Event) -> Iterator[Event]:
    """Yield the event with each of its strings made long in turn, where it may be that."""
    plain = EVENT.dump_json(event).decode()
    for number in range(plain.count('"') // 2):
        for long in ("x" * LONG, "https://example.org/" + "x" * LONG):
            count = 0

            def longer(value: Any, long: str = long, number: int = number) -> Any:
                nonlocal count
                if isinstance(value, str):
                    count += 1
                    return long if count == number else value
                if isinstance(value, dict):
                    pairs = cast("dict[str, Any]", value).items()
                    return {key: longer(inner) for key, inner in pairs}
                if isinstance(value, list):
                    return [longer(inner) for inner in cast("list[Any]", value)]
                return value

            try:
                yield EVENT.validate_python(longer(json.loads(plain)))
            except ValidationError:
                continue


async def test_runs_can_be_outlined_whichever_of_their_texts_are_long(store: Store) -> None:
    events = [
        event.model_copy(update={"name": f"e/{number}"})
        for number, event in enumerate(each for some in TALKATIVE for each in lengthened(some))
    ]
    async with store.open() as journal:
        await journal.create("r-1", started(), {})
        for event in events:
            await journal.append("r-1", event, epoch=1, wait=False)
        await journal.append("r-1", cancel(), epoch=1)
        assert await journal.events("r-1") == [started(), *events, cancel()]
        outline = (await journal.outlines(["r-1"]))["r-1"]
    assert isinstance(outline, list)
    told = [event for event in events if event.kind not in ("call-started", "tool-called")]
    assert [event.name for event in outline] == [
        "run/start",
        *(e.name for e in told),
        cancel().name,
    ]


async def test_an_outline_has_what_was_asked_for_and_not_what_was_said_of_it(
    store: Store,
) -> None:
    start = a_start(TEXT)
    plan = PlanAccepted(name="plan/1", at=2, plan=Plan(subtasks=(subtask("s1", objective=TEXT),)))
    end = RunEnded(name="run/end", at=4, status="partial", reasons=(TEXT,))
    said = [called("short"), finished(f"1 {TEXT}"), ended(f"2 {TEXT}")]
    async with store.open() as journal:
        await journal.create("r-1", start, {})
        for event in (plan, end):
            await journal.append("r-1", event, epoch=1)
        await journal.create("r-2", started(), {})
        for event in said:
            await journal.append("r-2", event, epoch=1)
        store.change("DELETE FROM texts WHERE digest <> ?", digest(TEXT))
        outlines = await journal.outlines(["r-1", "r-2"])
    assert outlines["r-1"] == [start, plan, end]
    assert outlines["r-2"] == [started(), called(""), finished(""), ended("")]


async def test_a_run_belongs_to_somebody_with_a_long_name(store: Store) -> None:
    async with store.open() as journal:
        await journal.create("r-1", a_start(TEXT, principal=TEXT), {})
        await journal.append("r-1", called(TEXT), epoch=1)
        await journal.append("r-1", finished(TEXT, fingerprint="f"), epoch=1)
        assert (await journal.row("r-1")).principal == TEXT
        assert (await journal.usage_of(TEXT, since=0)).spent_usd == pytest.approx(0.01)
        assert await journal.offering("f", principal=TEXT, since=0) == ["r-1"]
        assert await journal.offering("f", principal="", since=0) == []


async def test_a_text_that_is_gone_makes_its_run_unreadable_and_no_other(store: Store) -> None:
    async with store.open() as journal:
        for run_id in ("r-1", "r-2"):
            await journal.create(run_id, a_start(f"{run_id} {TEXT}"), {})
            await journal.tell(run_id, stop(f"stop {run_id} {TEXT}"))
        for text in (f"r-1 {TEXT}", f"stop r-1 {TEXT}"):
            store.change("DELETE FROM texts WHERE digest = ?", digest(text))
        missing = f"Run r-1 cannot be read: .* not in the store .{digest(f'r-1 {TEXT}')}"
        with pytest.raises(UnreadableRunError, match=missing):
            await journal.events("r-1")
        outlines = await journal.outlines(["r-1", "r-2"])
        assert isinstance(outlines["r-1"], UnreadableRunError)
        assert isinstance(outlines["r-2"], list)
        standing = await journal.standing(["r-1", "r-2"])
        told = [standing[run_id].cancel_requested for run_id in ("r-1", "r-2")]
        assert told == [None, f"stop r-2 {TEXT}"]


async def test_a_run_that_is_deleted_while_it_is_read_is_unknown(store: Store) -> None:
    async with store.open() as journal:
        await journal.create("r-1", a_start(TEXT), {})
        store.change("DELETE FROM texts")
        store.change("DELETE FROM runs")
        with pytest.raises(UnknownRunError):
            await journal.events("r-1")


@pytest.mark.parametrize(
    "data",
    [
        '{"texts":',
        '{"texts":[]}',
        '{"texts":[[[],"d1"]],"name":"n","at":1,"kind":"synthesis-started"}',
        '{"texts":[[["name","x"],"d1"]],"name":"n","at":1,"kind":"synthesis-started"}',
        '{"texts":[[["at",0],"d1"]],"name":"n","at":1,"kind":"synthesis-started"}',
        '{"texts":[[["x",0],"d1"]],"name":"n","at":1,"kind":"synthesis-started"}',
        '{"texts":[[["x"],"d1"]],"name":"n","at":1,"kind":"synthesis-started"}',
        '{"texts":{"name":"d1"},"name":"n","at":1,"kind":"synthesis-started"}',
    ],
)
async def test_an_event_whose_list_of_texts_is_damaged_is_an_error_in_one_line(
    store: Store, data: str
) -> None:
    async with store.open() as journal:
        await journal.create("r-1", started(), {"d1": "one"})
        store.change("UPDATE events SET data = ?", data)
        with pytest.raises(UnreadableRunError, match=r"Run r-1 .* damaged") as caught:
            await journal.events("r-1")
        assert "\n" not in str(caught.value)
        assert (await journal.outlines(["r-1"]))["r-1"]


def test_no_event_has_a_field_of_the_name_that_the_list_of_texts_has() -> None:
    for kind in get_args(get_args(Event)[0]):
        assert "texts" not in kind.model_fields


def ordered_texts(count: int) -> list[str]:
    """Return long texts in the order of their digests."""
    return sorted((f"{number} {TEXT}" for number in range(count)), key=digest)


async def locked(store: PostgresStore, waiting: int) -> None:
    """Return when so many connections wait for others."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    with anyio.fail_after(60):
        while await to_thread.run_sync(store.look, query) != [(waiting,)]:
            await anyio.lowlevel.checkpoint()


@asynccontextmanager
async def held_up(
    store: PostgresStore, statement: LiteralString, *given: object
) -> AsyncGenerator[TaskGroup]:
    """Let whoever needs what a statement locks wait for it until the end, and for them then."""
    async with anyio.create_task_group() as tasks:
        with psycopg.connect(store.url) as connection:
            await to_thread.run_sync(lambda: connection.execute(statement, given))
            yield tasks
            await to_thread.run_sync(connection.rollback)


KEEP: LiteralString = "INSERT INTO texts VALUES (%s, '')"
"""The text that those who keep it too wait for."""

LAST_RUN: LiteralString = "SELECT FROM runs WHERE run_id = 'r-1' FOR UPDATE"
"""The run whose deletion is held up."""


async def test_two_who_keep_the_same_texts_in_different_order_do_not_block_each_other(
    shared: PostgresStore,
) -> None:
    texts = ordered_texts(3)
    forth, back = finished("", value=[*texts]), finished("", value=[*reversed(texts)])
    async with shared.open() as one, shared.open() as other:
        await one.create("r-1", started(), {})
        await other.create("r-2", started(), {})
        async with held_up(shared, KEEP, digest(texts[1])) as tasks:
            tasks.start_soon(partial(one.append, "r-1", forth, epoch=1))
            tasks.start_soon(partial(other.append, "r-2", back, epoch=1))
            await locked(shared, 2)
        assert await one.events("r-2") == [started(), back]
        assert await other.events("r-1") == [started(), forth]
    assert sorted(kept(shared), key=digest) == texts


async def test_a_text_that_is_said_again_while_its_run_is_deleted_is_there_afterwards(
    shared: PostgresStore,
) -> None:
    async with shared.open() as one, shared.open() as other:
        await one.create("r-1", a_start(TEXT), {})
        await one.append("r-1", ended(), epoch=1)
        await other.create("r-2", started(), {})
        async with held_up(shared, LAST_RUN) as tasks:
            tasks.start_soon(one.delete, ["r-1"])
            await locked(shared, 1)
            tasks.start_soon(partial(other.append, "r-2", called(TEXT), epoch=1))
            await locked(shared, 2)
        assert await one.events("r-2") == [started(), called(TEXT)]
        with pytest.raises(UnknownRunError):
            await one.row("r-1")
    assert kept(shared) == [TEXT]


async def test_a_text_whose_run_is_deleted_while_it_is_said_again_is_there_afterwards(
    shared: PostgresStore,
) -> None:
    texts = ordered_texts(2)
    both = finished("", value=[*texts])
    async with shared.open() as one, shared.open() as other:
        await one.create("r-1", a_start(texts[0]), {})
        await one.append("r-1", ended(), epoch=1)
        await other.create("r-2", started(), {})
        async with held_up(shared, KEEP, digest(texts[1])) as tasks:
            tasks.start_soon(partial(other.append, "r-2", both, epoch=1))
            await locked(shared, 1)
            tasks.start_soon(one.delete, ["r-1"])
            await locked(shared, 2)
        assert await one.events("r-2") == [started(), both]
    assert sorted(kept(shared), key=digest) == texts


async def test_what_is_told_to_a_run_while_it_is_deleted_leaves_nothing(
    shared: PostgresStore,
) -> None:
    async with shared.open() as one, shared.open() as other:
        await one.create("r-1", started(), {})
        await one.append("r-1", ended(), epoch=1)
        async with held_up(shared, LAST_RUN) as tasks:
            tasks.start_soon(partial(other.tell, "r-1", cancel()))
            await locked(shared, 1)
            tasks.start_soon(one.delete, ["r-1"])
            await locked(shared, 2)
    assert shared.look("SELECT name FROM events") == []
