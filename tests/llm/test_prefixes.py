"""Calls that begin alike: who goes first, who waits, and who does not."""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from trio.testing import MockClock

from concertmaster.errors import ModelUnavailableError
from concertmaster.llm.messages import Draft, JudgementBrief, Reply, Request, UserMessage
from concertmaster.llm.pricing import load_prices
from concertmaster.llm.prompt_cache import LONGEST_WAIT, WARM_SECONDS, SharedPrefixes
from concertmaster.llm.usage import Usage
from fakes import USAGE

VIRTUAL_TIME = ("trio", {"clock": MockClock(autojump_threshold=0)})
pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", [VIRTUAL_TIME])]

LONG = "x" * 40_000


def request(**fields: Any) -> Request:
    values: dict[str, Any] = {
        "caller": "worker:analyst",
        "model": "sonnet",
        "system": "You work.",
        "shared": LONG,
        "messages": (UserMessage(text="go"),),
        "brief": JudgementBrief(task="t", act="work"),
        "max_tokens": 100,
    }
    return Request(**(values | fields))


class SlowLLM:
    """A model whose replies begin, and end, when the test says so."""

    notice = "a notice"

    def __init__(self, answer: Callable[[Request, Draft], Awaitable[None]] | None = None) -> None:
        self.begun = 0
        self.begin = anyio.Event()
        self.end = anyio.Event()
        self._answer = answer

    def model_name(self, model: str, /) -> str:
        return {"sonnet": "claude-sonnet-5-5"}.get(model, model)

    def expected(self, _model: str, usage: Usage, /) -> Usage:
        return usage

    async def complete(self, request: Request, draft: Draft, /) -> Reply:
        self.begun += 1
        if self._answer is not None:
            await self._answer(request, draft)
        await self.begin.wait()
        draft.update(text="so", usage=USAGE)
        await self.end.wait()
        return Reply(text="so be it", stop_reason="end", usage=USAGE)


def shared(llm: SlowLLM) -> SharedPrefixes:
    return SharedPrefixes(llm, load_prices())


async def test_calls_that_begin_alike_wait_until_the_reply_to_the_first_begins() -> None:
    llm = SlowLLM()
    prefixes = shared(llm)
    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(prefixes.complete, request(), Draft())
        await anyio.wait_all_tasks_blocked()
        assert llm.begun == 1
        llm.begin.set()
        await anyio.wait_all_tasks_blocked()
        assert llm.begun == 8
        llm.end.set()


async def test_a_call_that_comes_later_reads_the_prefix_and_waits_for_nobody() -> None:
    llm = SlowLLM()
    prefixes = shared(llm)
    llm.begin.set()
    llm.end.set()
    await prefixes.complete(request(), Draft())
    llm.begin = anyio.Event()
    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(prefixes.complete, request(), Draft())
        await anyio.wait_all_tasks_blocked()
        assert llm.begun == 3
        llm.begin.set()


async def test_a_prefix_that_was_not_used_for_long_is_written_again_by_one_call() -> None:
    llm = SlowLLM()
    prefixes = shared(llm)
    llm.begin.set()
    llm.end.set()
    await prefixes.complete(request(), Draft())
    await anyio.sleep(WARM_SECONDS + 1)
    llm.begin = anyio.Event()
    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(prefixes.complete, request(), Draft())
        await anyio.wait_all_tasks_blocked()
        assert llm.begun == 2
        llm.begin.set()


@pytest.mark.parametrize(
    "other",
    [
        request(shared="y" * 40_000),
        request(system="You judge."),
        request(model="opus"),
        request(output_schema={"type": "object"}),
    ],
    ids=["inputs", "system", "model", "schema"],
)
async def test_calls_that_begin_otherwise_do_not_wait(other: Request) -> None:
    llm = SlowLLM()
    prefixes = shared(llm)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(prefixes.complete, request(), Draft())
        tasks.start_soon(prefixes.complete, other, Draft())
        await anyio.wait_all_tasks_blocked()
        assert llm.begun == 2
        llm.begin.set()
        llm.end.set()


@pytest.mark.parametrize(
    ("model", "chars", "waits"),
    [
        ("sonnet", 40_000, True),
        ("sonnet", 4_000, False),
        ("haiku", 12_000, False),
        ("of-unknown-price", 12_000, False),
        ("of-unknown-price", 20_000, True),
    ],
)
async def test_waiting_has_to_be_worth_its_while(model: str, chars: int, *, waits: bool) -> None:
    llm = SlowLLM()
    prefixes = shared(llm)
    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            same = request(model=model, shared="x" * chars)
            tasks.start_soon(prefixes.complete, same, Draft())
        await anyio.wait_all_tasks_blocked()
        assert llm.begun == (1 if waits else 2)
        llm.begin.set()
        llm.end.set()


async def test_when_the_first_call_fails_the_next_goes_first() -> None:
    async def fail_once(_request: Request, _draft: Draft) -> None:
        if llm.begun == 1:
            await anyio.sleep(1)
            raise ModelUnavailableError("overloaded")

    llm = SlowLLM(fail_once)
    prefixes = shared(llm)
    failed: list[str] = []

    async def call() -> None:
        try:
            await prefixes.complete(request(), Draft())
        except ModelUnavailableError as exc:
            failed.append(str(exc))

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(call)
        await anyio.sleep(2)
        assert llm.begun == 2
        llm.begin.set()
        llm.end.set()
    assert failed == ["overloaded"]
    assert llm.begun == 3


async def test_a_first_call_that_does_not_get_under_way_holds_nobody_up_for_long() -> None:
    llm = SlowLLM()
    prefixes = shared(llm)
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(prefixes.complete, request(), Draft())
        await anyio.sleep(LONGEST_WAIT + 1)
        assert llm.begun == 3
        llm.begin.set()
        llm.end.set()


async def test_a_first_call_that_is_cancelled_lets_the_others_go() -> None:
    llm = SlowLLM()
    prefixes = shared(llm)
    async with anyio.create_task_group() as tasks:
        with anyio.move_on_after(1):
            await prefixes.complete(request(), Draft())
        tasks.start_soon(prefixes.complete, request(), Draft())
        await anyio.wait_all_tasks_blocked()
        assert llm.begun == 2
        llm.begin.set()
        llm.end.set()


async def test_the_beginning_can_show_in_the_usage_alone() -> None:
    async def account(_request: Request, draft: Draft) -> None:
        draft.update(usage=Usage(model="m", cache_write=9000))

    llm = SlowLLM(account)
    prefixes = shared(llm)
    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(prefixes.complete, request(), Draft())
        await anyio.wait_all_tasks_blocked()
        assert llm.begun == 2
        llm.begin.set()
        llm.end.set()


async def test_the_caller_sees_the_reply_arrive() -> None:
    llm = SlowLLM()
    prefixes = shared(llm)
    llm.begin.set()
    llm.end.set()
    draft = Draft()
    reply = await prefixes.complete(request(), draft)
    assert (reply.text, draft.text, draft.usage) == ("so be it", "so", USAGE)
    assert prefixes.notice == llm.notice


async def test_whether_a_call_may_be_repeated_is_asked_of_whoever_made_it() -> None:
    asked: list[bool] = []

    async def repeat(_: Request, draft: Draft) -> None:
        asked.append(draft.may_repeat(USAGE))

    llm = SlowLLM(repeat)
    llm.begin.set()
    llm.end.set()
    draft = Draft()
    draft.may_repeat = lambda _: False
    await shared(llm).complete(request(), draft)
    assert asked == [False]


async def test_it_knows_what_a_call_will_cost_from_the_model_behind_it() -> None:
    assert shared(SlowLLM()).expected("sonnet", USAGE) == USAGE
