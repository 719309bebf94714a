"""Attempts at a call: on both back ends, and the waits between them in virtual time."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from trio.testing import MockClock

from concertmaster.errors import (
    ModelAccessError,
    ModelError,
    ModelReplyError,
    ModelRequestError,
    ModelUnavailableError,
)
from concertmaster.llm.learned_limits import KEEP_SECONDS, LearnedLimits
from concertmaster.llm.messages import Draft, Reply, Request
from concertmaster.llm.rate_limit import FIRST, Learned
from concertmaster.llm.retry import FIRST_WAIT, LONGEST_BACKOFF, SAVE_SECONDS, Gate
from concertmaster.llm.usage import NO_USAGE, Usage
from scripted_anthropic import ask

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return ("trio", {"clock": MockClock(autojump_threshold=0)})


def spent(tokens: int, usd: float | None = 0.25) -> Usage:
    return Usage(
        model="m", calls=1, attempts=1, tokens_in=tokens, tokens_out=10, usd=usd, seconds=2.0
    )


def done(**fields: Any) -> Reply:
    return Reply.model_validate({"text": "done", "stop_reason": "end", "usage": spent(1)} | fields)


def overloaded(text: str = "", **fields: Any) -> ModelUnavailableError:
    return ModelUnavailableError("Overloaded.", usage=spent(1), text=text, **fields)


Attempt = Reply | ModelError | Callable[[Draft], Awaitable[Reply]]


class ScriptedLLM:
    """Makes the attempts of a script one after the other, the last one for ever."""

    notice = "scripted"

    def __init__(self, *attempts: Attempt) -> None:
        self._attempts = list(attempts)
        self.times: list[float] = []

    def model_name(self, model: str, /) -> str:
        return f"scripted-{model}"

    def expected(self, _model: str, usage: Usage, /) -> Usage:
        return usage.model_copy(update={"usd": 0.5})

    async def complete(self, request: Request, draft: Draft, /) -> Reply:
        del request
        self.times.append(anyio.current_time())
        await anyio.lowlevel.checkpoint()
        attempt = self._attempts.pop(0) if len(self._attempts) > 1 else self._attempts[0]
        if isinstance(attempt, ModelError):
            draft.update(text=attempt.text, usage=attempt.usage or NO_USAGE)
            raise attempt
        return attempt if isinstance(attempt, Reply) else await attempt(draft)

    @property
    def waits(self) -> list[float]:
        return [after - before for before, after in zip(self.times, self.times[1:], strict=False)]


async def test_a_call_that_is_cancelled_while_it_waits_for_a_place_costs_nothing() -> None:
    under_way: list[Draft] = []

    async def hang(draft: Draft) -> Reply:
        draft.update(usage=spent(1))
        under_way.append(draft)
        await anyio.sleep_forever()
        raise AssertionError("unreachable")

    gate = Gate(ScriptedLLM(hang))
    drafts = [Draft() for _ in range(FIRST + 1)]
    async with anyio.create_task_group() as tasks:
        for draft in drafts:
            tasks.start_soon(gate.complete, ask(), draft)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert len(under_way) == FIRST
    assert sorted(draft.usage.calls for draft in drafts) == [0] + [1] * FIRST


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_a_reply_passes_as_it_is() -> None:
    draft = Draft()
    reply = await Gate(ScriptedLLM(done())).complete(ask(), draft)
    assert reply == done()
    assert (draft.text, draft.usage) == ("done", spent(1))


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_what_is_useless_to_repeat_is_not_repeated() -> None:
    llm = ScriptedLLM(ModelRequestError("No such model.", usage=spent(0, usd=0.0)))
    with pytest.raises(ModelRequestError, match=r"^No such model\.$") as caught:
        await Gate(llm).complete(ask(), Draft())
    assert len(llm.times) == 1
    assert caught.value.usage == spent(0, usd=0.0)


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_it_answers_for_the_model_behind_it() -> None:
    gate = Gate(ScriptedLLM(done()))
    assert gate.model_name("opus") == "scripted-opus"
    assert gate.notice == "scripted"
    assert gate.expected("opus", spent(7)).usd == 0.5


async def test_what_cannot_be_paid_for_is_not_repeated() -> None:
    llm = ScriptedLLM(overloaded())
    draft = Draft()
    asked: list[Usage] = []

    def may_repeat(usage: Usage) -> bool:
        asked.append(usage)
        return usage.tokens_in < 3

    draft.may_repeat = may_repeat
    with pytest.raises(ModelUnavailableError, match="no money left in the budget to try again"):
        await Gate(llm).complete(ask(), draft)
    assert len(llm.times) == 3
    assert [usage.tokens_in for usage in asked] == [1, 2, 3]


@pytest.mark.parametrize("exc", [overloaded(), ModelReplyError("No reply.", usage=spent(1))])
async def test_what_may_pass_is_repeated_until_it_has(exc: ModelError) -> None:
    llm = ScriptedLLM(exc, exc, done(usage=spent(100)))
    draft = Draft()
    reply = await Gate(llm).complete(ask(), draft)
    assert reply.text == "done"
    assert len(llm.times) == 3
    assert reply.usage == draft.usage
    assert reply.usage == Usage(
        model="m", calls=1, attempts=3, tokens_in=102, tokens_out=30, usd=0.75, seconds=6.0
    )


async def test_the_waits_grow_and_are_random() -> None:
    ceilings = [FIRST_WAIT, 2 * FIRST_WAIT, 4 * FIRST_WAIT]
    seen: list[list[float]] = []
    for _ in range(50):
        llm = ScriptedLLM(overloaded())
        with pytest.raises(ModelUnavailableError):
            await Gate(llm, max_attempts=4).complete(ask(), Draft())
        seen.append(llm.waits)
    for ceiling, waits in zip(ceilings, zip(*seen, strict=True), strict=True):
        assert all(0 <= wait <= ceiling for wait in waits)
        assert len(set(waits)) > 1
        assert max(waits) > ceiling / 2


async def test_the_waits_stop_growing() -> None:
    llm = ScriptedLLM(overloaded())
    with pytest.raises(ModelUnavailableError):
        await Gate(llm, max_attempts=40).complete(ask(), Draft())
    assert max(llm.waits) <= LONGEST_BACKOFF


async def test_the_wait_that_the_provider_asks_for_is_kept() -> None:
    llm = ScriptedLLM(overloaded(retry_after=45), done())
    await Gate(llm).complete(ask(), Draft())
    assert 45 <= llm.waits[0] <= 45 + FIRST_WAIT


async def test_a_wait_longer_than_the_bound_fails_at_once_and_is_named() -> None:
    llm = ScriptedLLM(overloaded("so far", retry_after=4_294_967))
    with pytest.raises(ModelUnavailableError, match="wait 4294967 s, longer than the 60 s") as exc:
        await Gate(llm).complete(ask(), Draft())
    assert len(llm.times) == 1
    assert exc.value.retry_after == 4_294_967
    assert (exc.value.usage, exc.value.text) == (spent(1), "so far")


@pytest.mark.parametrize(
    ("exc", "kind"),
    [
        (overloaded(retry_after=3), ModelUnavailableError),
        (ModelReplyError("No reply.", usage=spent(1)), ModelReplyError),
    ],
)
async def test_when_attempts_are_used_up_the_error_tells_of_all(
    exc: ModelError, kind: type[ModelError]
) -> None:
    llm = ScriptedLLM(exc)
    draft = Draft()
    with pytest.raises(kind, match=r"\. Tried 5 times\.$") as caught:
        await Gate(llm).complete(ask(), draft)
    assert len(llm.times) == 5
    assert caught.value.usage == draft.usage
    assert caught.value.usage == Usage(
        model="m", calls=1, attempts=5, tokens_in=5, tokens_out=50, usd=1.25, seconds=10.0
    )
    assert caught.value.__cause__ is exc


async def test_an_unknown_price_makes_the_sum_unknown() -> None:
    llm = ScriptedLLM(ModelReplyError("No reply.", usage=spent(1, usd=None)), done())
    assert (await Gate(llm).complete(ask(), Draft())).usage.usd is None


async def test_an_error_that_does_not_know_its_cost_costs_what_the_draft_shows() -> None:
    async def break_off(draft: Draft) -> Reply:
        draft.update(text="so far", usage=spent(7))
        raise ModelUnavailableError("Gone.")

    with pytest.raises(ModelUnavailableError) as caught:
        await Gate(ScriptedLLM(break_off), max_attempts=2).complete(ask(), Draft())
    assert caught.value.text == "so far"
    assert caught.value.usage is not None
    assert (caught.value.usage.attempts, caught.value.usage.tokens_in) == (2, 14)


async def test_the_longest_text_that_any_attempt_brought_is_kept() -> None:
    llm = ScriptedLLM(overloaded("a"), overloaded("a long way"), overloaded())
    with pytest.raises(ModelUnavailableError) as caught:
        await Gate(llm, max_attempts=3).complete(ask(), Draft())
    assert caught.value.text == "a long way"


async def test_the_draft_begins_anew_with_every_attempt_and_keeps_the_cost() -> None:
    seen: list[tuple[str, int]] = []

    async def write(draft: Draft) -> Reply:
        draft.update(text="anew", usage=spent(100))
        return done(usage=spent(100))

    gate = Gate(ScriptedLLM(overloaded("so far"), write))
    await gate.complete(
        ask(), Draft(lambda draft: seen.append((draft.text, draft.usage.tokens_in)))
    )
    assert seen == [("so far", 1), ("so far", 1), ("", 1), ("anew", 101), ("done", 101)]


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_a_cancelled_call_leaves_its_cost_in_the_draft() -> None:
    reached = anyio.Event()

    async def hang(draft: Draft) -> Reply:
        draft.update(text="so far", usage=spent(100))
        reached.set()
        await anyio.sleep_forever()
        raise AssertionError("unreachable")

    draft = Draft()
    llm = ScriptedLLM(hang)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Gate(llm).complete, ask(), draft)
        with anyio.fail_after(5):
            await reached.wait()
        tasks.cancel_scope.cancel()
    assert len(llm.times) == 1
    assert (draft.text, draft.usage) == ("so far", spent(100))


async def test_a_call_cancelled_while_it_waits_makes_no_further_attempt() -> None:
    llm = ScriptedLLM(overloaded(retry_after=50))
    draft = Draft()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Gate(llm).complete, ask(), draft)
        await anyio.sleep(20)
        tasks.cancel_scope.cancel()
    assert len(llm.times) == 1
    assert draft.usage == spent(1)


async def test_a_wait_that_would_pass_the_deadline_fails_at_once() -> None:
    llm = ScriptedLLM(overloaded("so far", retry_after=50))
    started = anyio.current_time()
    with anyio.fail_after(20):
        with pytest.raises(ModelUnavailableError, match="no time to wait and try again") as caught:
            await Gate(llm).complete(ask(), Draft())
    assert anyio.current_time() == started
    assert (caught.value.usage, caught.value.text) == (spent(1), "so far")


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_calls_at_the_same_time_do_not_count_each_other_s_attempts() -> None:
    both = anyio.Event()
    waiting: list[int] = []

    async def meet(draft: Draft) -> Reply:
        del draft
        waiting.append(1)
        if len(waiting) == 2:
            both.set()
        await both.wait()
        return done()

    gate = Gate(ScriptedLLM(meet))
    drafts = [Draft(), Draft()]
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for draft in drafts:
                tasks.start_soon(gate.complete, ask(), draft)
    assert [draft.usage.attempts for draft in drafts] == [1, 1]


def refusing(wait: float) -> Callable[[Request], Awaitable[Reply]]:
    async def refuse(request: Request) -> Reply:
        if request.model == "sonnet":
            raise overloaded(busy=True, retry_after=wait)
        await anyio.lowlevel.checkpoint()
        return done()

    return refuse


class ByRequest(ScriptedLLM):
    """Answers each request by a function of it."""

    def __init__(self, answer: Callable[[Request], Awaitable[Reply]]) -> None:
        super().__init__(done())
        self._answer = answer

    async def complete(self, request: Request, draft: Draft, /) -> Reply:
        del draft
        self.times.append(anyio.current_time())
        return await self._answer(request)


async def test_what_one_model_is_refused_does_not_hold_up_another() -> None:
    gate = Gate(ByRequest(refusing(30)), max_attempts=1)
    started = anyio.current_time()
    with pytest.raises(ModelUnavailableError):
        await gate.complete(ask(model="sonnet"), Draft())
    await gate.complete(ask(model="opus"), Draft())
    assert anyio.current_time() == started


async def test_a_refused_call_holds_up_the_others_of_its_model() -> None:
    gate = Gate(ScriptedLLM(overloaded(busy=True, retry_after=30), done()))
    started = anyio.current_time()
    waited: list[float] = []

    async def call() -> None:
        await gate.complete(ask(), Draft())
        waited.append(anyio.current_time() - started)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await anyio.sleep(1)
        tasks.start_soon(call)
    assert all(30 <= seconds <= 30 + FIRST_WAIT for seconds in waited)


async def test_a_wait_too_long_for_one_call_does_not_hold_up_the_others() -> None:
    gate = Gate(ScriptedLLM(overloaded(busy=True, retry_after=4_294_967), done()))
    started = anyio.current_time()
    with pytest.raises(ModelUnavailableError):
        await gate.complete(ask(), Draft())
    await gate.complete(ask(), Draft())
    assert anyio.current_time() == started


async def test_calls_that_wait_while_access_is_refused_are_not_made_and_later_ones_are(
    tmp_path: Path,
) -> None:
    async def refuse(request: Request) -> Reply:
        del request
        await anyio.sleep(1)
        raise ModelAccessError("The key is not accepted.", usage=spent(0))

    llm = ByRequest(refuse)
    limits = LearnedLimits(tmp_path / "limits.json")
    limits.save({llm.model_name(ask().model): Learned(width=8, refused_at=9)})
    gate = Gate(llm, limits=limits)
    attempts: list[int] = []

    async def call() -> None:
        with pytest.raises(ModelAccessError, match=r"^The key is not accepted\.$") as caught:
            await gate.complete(ask(), Draft())
        assert caught.value.usage is not None
        attempts.append(caught.value.usage.attempts)

    async with anyio.create_task_group() as tasks:
        for _ in range(30):
            tasks.start_soon(call)
    assert sorted(attempts) == [0] * 22 + [1] * 8
    await call()
    assert len(llm.times) == 9


async def test_waiting_for_a_place_is_no_attempt() -> None:
    async def answer(request: Request) -> Reply:
        del request
        await anyio.sleep(10)
        return done()

    gate = Gate(ByRequest(answer))
    attempts: list[int] = []

    async def call() -> None:
        attempts.append((await gate.complete(ask(), Draft())).usage.attempts)

    async with anyio.create_task_group() as tasks:
        for _ in range(30):
            tasks.start_soon(call)
    assert attempts == [1] * 30


def busy_beyond(allowed: int) -> "ByRequest":
    """Return a model that takes so many calls at once, which last a second each."""
    in_flight: list[Request] = []

    async def answer(request: Request) -> Reply:
        if len(in_flight) >= allowed:
            raise ModelUnavailableError("Too many calls.", busy=True)
        in_flight.append(request)
        try:
            await anyio.sleep(1)
        finally:
            in_flight.remove(request)
        return done()

    return ByRequest(answer)


async def call_together(gate: Gate, count: int) -> None:
    async with anyio.create_task_group() as tasks:
        for _ in range(count):
            tasks.start_soon(gate.complete, ask(), Draft())


async def test_a_limit_that_one_process_has_learned_is_where_the_next_one_starts(
    tmp_path: Path,
) -> None:
    llm = busy_beyond(10)
    limits = LearnedLimits(tmp_path / "limits.json", endpoint="http://one")
    first = Gate(llm, limits=limits)
    await call_together(first, 16)
    first.save_limits()
    made = len(llm.times)
    await call_together(Gate(llm, limits=limits), 16)
    assert len(llm.times) - made == 16
    elsewhere = LearnedLimits(tmp_path / "limits.json", endpoint="http://another")
    assert elsewhere.of(llm.model_name(ask().model)) is None


async def test_what_has_been_learned_is_kept_while_calls_are_made_since_a_process_may_be_killed(
    tmp_path: Path,
) -> None:
    llm = busy_beyond(10)
    limits = LearnedLimits(tmp_path / "limits.json")
    gate = Gate(llm, limits=limits)
    await call_together(gate, 16)
    await anyio.sleep(SAVE_SECONDS)
    await gate.complete(ask(), Draft())
    assert limits.of(llm.model_name(ask().model)) == Learned(width=10, refused_at=11)


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b'{"m": {"width": "wide"}}', b"\xff"])
def test_a_damaged_file_of_limits_is_as_good_as_none(tmp_path: Path, damage: bytes) -> None:
    file = tmp_path / "limits.json"
    file.write_bytes(damage)
    limits = LearnedLimits(file)
    assert limits.of("m") is None
    limits.save({"m": Learned(4, 5)})
    assert limits.of("m") == Learned(4, 5)


def test_limits_are_forgotten_after_a_week(tmp_path: Path) -> None:
    now = [1000.0]
    limits = LearnedLimits(tmp_path / "limits.json", clock=lambda: now[0])
    limits.save({"m": Learned(4, 5)})
    now[0] += KEEP_SECONDS
    assert limits.of("m") == Learned(4, 5)
    now[0] += 1
    assert limits.of("m") is None


def test_a_folder_that_cannot_be_written_costs_only_the_memory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    limits = LearnedLimits(tmp_path / "file" / "limits.json")
    limits.save({"m": Learned(4, 5)})
    assert limits.of("m") is None
