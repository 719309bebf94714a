"""Paid calls as named steps, whose outcomes the journal keeps.

Resuming a run is running the same code again: a step that the journal already has returns
its recorded outcome, and only the others are made.
"""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import anyio

from concertmaster.engine.budget import LEAST_REPLY, Spending
from concertmaster.engine.concurrency import together
from concertmaster.engine.events import (
    CallFailed,
    CallFinished,
    CallProgressed,
    CallStarted,
    Event,
    ToolCalled,
    ToolStarted,
)
from concertmaster.engine.replay import Recorded
from concertmaster.engine.request import Limits
from concertmaster.errors import ModelAccessError, ModelError, ToolCallError, ToolDeniedError
from concertmaster.llm.messages import (
    LLM,
    Draft,
    Reply,
    Request,
    ToolCall,
    ToolOutcome,
    UserMessage,
)
from concertmaster.llm.usage import NO_USAGE, Usage
from concertmaster.llm.wrapper import Brake
from concertmaster.tools.images import Illustrated

COMMIT_SECONDS = 45
"""How long a commit may hold up a run that is being cancelled.

Longer than a store may take to find out that it cannot commit, the commit before this one
included: else a reply could be given up that is on its way to the disk.
"""

USAGE_SECONDS = 1.0
"""How often the usage of calls under way is recorded at most."""

LONGEST_USAGE_SECONDS = 5.0
"""How long the usage of a call under way that grows may go unrecorded.

The pause before the next record is a quarter of the call's age, within these bounds, so that
a call of a minute takes about twenty records.
"""

UNKNOWN_OUTCOME = (
    "This call had begun when the process that made it ended, so nobody knows whether it took "
    "effect. It was not made again: find out first whether it has to be."
)


USUAL_LIMITS = Limits()

WORDS_PER_TOKEN = 0.5
"""Words that surely fit in a token of a reply, in English as in German."""


def _kept_short(request: Request, max_tokens: int) -> Request:
    """Return a request with a bound on its reply, of which the model learns if it is a low one."""
    bounded = replace(request, max_tokens=max_tokens)
    *before, last = request.messages
    if not max_tokens < request.max_tokens or max_tokens > LEAST_REPLY:
        return bounded
    if request.output_schema is not None or not isinstance(last, UserMessage):
        return bounded
    words = int(max_tokens * WORDS_PER_TOKEN)
    note = f"The budget is short: reply in {words} words at most, the most important first."
    short = UserMessage(text=f"{last.text}\n\n{note}")
    return replace(bounded, messages=(*before, short))


class Append(Protocol):
    """Writes an event to the journal of one run."""

    async def __call__(self, event: Event, /, *, wait: bool = True) -> None:
        """Return once the event is committed; without `wait`, at once."""
        ...


@dataclass(eq=False, slots=True, kw_only=True)
class _CallUnderWay:
    """A call, and what the journal has of its usage so far."""

    step: str
    caller: str
    subtask_id: str | None
    draft: Draft
    began: float
    recorded_at: float
    recorded_tokens: int = 0
    records: int = 0
    reported: bool = False
    """Whether the provider has begun to reply."""
    urgent: bool = False
    """Whether that is still to be recorded."""

    def notice_report(self) -> bool:
        """Return whether the provider has just begun to reply."""
        usage = self.draft.usage
        if self.reported or usage.tokens <= usage.estimated:
            return False
        self.reported = self.urgent = True
        return True

    def due(self, now: float) -> Usage | None:
        """Return the usage if it is time to record it."""
        pause = min(max((now - self.began) / 4, USAGE_SECONDS), LONGEST_USAGE_SECONDS)
        if not self.urgent and now - self.recorded_at < pause:
            return None
        usage = self.draft.measure()
        if usage.tokens == self.recorded_tokens:
            return None
        self.urgent = False
        self.recorded_at, self.recorded_tokens = now, usage.tokens
        self.records += 1
        return usage


class Steps:
    """The journal of one run, as the code that drives the run sees it."""

    def __init__(
        self,
        append: Append,
        *,
        run_id: str = "",
        limits: Limits = USUAL_LIMITS,
        recorded: Iterable[Event] = (),
        brake: Brake | None = None,
    ) -> None:
        self._append = append
        self._brake = brake or Brake()
        self._run_id = run_id
        self.recorded = Recorded(recorded)
        """What the journal tells of the run before it was resumed."""
        self._made: dict[str, Reply] = {}
        """Replies since then, for steps that more than one reader asks for."""
        self._usage = dict(self.recorded.usage)
        self._refusals: dict[str | None, ModelAccessError] = {}
        self.calls_made = 0
        """Calls that were sent to a model since the run was resumed."""
        self._under_way: dict[str, _CallUnderWay] = {}
        """Calls by step."""
        self._progress = anyio.Event()
        """Set when there is usage to record at once."""
        self._cut_short = False
        """Whether something was given up that the end of the process may have held up."""
        self.spending = Spending(limits)
        """What the run may still spend."""
        for usage in self._usage.values():
            self.spending.charge(usage)

    def _charge(self, subtask_id: str | None, usage: Usage) -> None:
        self._usage[subtask_id] = self.usage(subtask_id) + usage

    def usage(self, subtask_id: str | None) -> Usage:
        """Return what the calls for a subtask took so far, failed ones included."""
        return self._usage.get(subtask_id, NO_USAGE)

    def now(self) -> float:
        """Return the time for an event: Unix seconds."""
        return time.time()

    def elapsed(self) -> float:
        """Return seconds of a clock that nobody sets, to measure how long something takes."""
        return time.monotonic()

    async def record(self, event: Event, *, wait: bool = True) -> None:
        """Commit an event, even when the caller is being cancelled meanwhile.

        What may have come about only because the process is to end is left to whoever resumes
        the run: then this waits for that end.
        """
        if self._cut_short:
            await anyio.sleep_forever()
        await self._commit(event, wait=wait)

    async def _commit(self, event: Event, *, wait: bool = True) -> None:
        if not wait:
            await self._append(event, wait=False)
            return
        with anyio.move_on_after(COMMIT_SECONDS, shield=True):
            await self._append(event)

    @contextmanager
    def noticing_the_end(self) -> Generator[None]:
        """Notice if a block that waits for calls is given up once the process is to end.

        In a process that goes on there may have been time for them.
        """
        try:
            yield
        except anyio.get_cancelled_exc_class():
            self._cut_short = self._cut_short or self._brake.pulled
            raise

    @asynccontextmanager
    async def recording_usage(self) -> AsyncGenerator[None]:
        """Record in this block, as it grows, what the calls under way have taken.

        If the process is killed, the journal knows what they had cost but for the last pause.
        """
        async with together() as tasks:
            tasks.start_soon(self._record_usage)
            yield
            tasks.cancel_scope.cancel()

    async def _record_usage(self) -> None:
        while True:
            with anyio.move_on_after(USAGE_SECONDS if self._under_way else None):
                await self._progress.wait()
            self._progress = anyio.Event()
            for call in list(self._under_way.values()):
                await self._record_progress(call)

    async def _record_progress(self, call: _CallUnderWay) -> None:
        # Its end, which is in the journal by now, says more.
        if self._under_way.get(call.step) is not call:
            return
        if (usage := call.due(anyio.current_time())) is None:
            return
        event = CallProgressed(
            name=f"{call.step}/usage/{call.records}",
            at=self.now(),
            step=call.step,
            caller=call.caller,
            subtask_id=call.subtask_id,
            usage=usage,
        )
        await self._commit(event, wait=False)

    @contextmanager
    def _observed(
        self, name: str, caller: str, subtask_id: str | None, draft: Draft
    ) -> Generator[None]:
        """Have the usage of a call recorded for as long as it is under way."""
        now = anyio.current_time()
        call = _CallUnderWay(
            step=name,
            caller=caller,
            subtask_id=subtask_id,
            draft=draft,
            began=now,
            recorded_at=now,
        )

        def notice() -> None:
            if call.notice_report():
                self._progress.set()

        draft.on_usage = notice
        if not self._under_way:
            self._progress.set()
        self._under_way[name] = call
        try:
            yield
        finally:
            del self._under_way[name]
            draft.on_usage = lambda: None

    def refusal(self, model: str) -> ModelAccessError | None:
        """Return why no call of `model` can succeed in this run, if one has found that out."""
        return self._refusals.get(None) or self._refusals.get(model)

    async def call(
        self,
        name: str,
        llm: LLM,
        request: Request,
        *,
        subtask_id: str | None = None,
        draft: Draft | None = None,
    ) -> Reply:
        """Return the reply of the step `name`, making the call if it has not been made.

        However the call ends, what it cost is in the journal before this returns or raises.
        A call that cannot succeed, as another has found out, is not made; nor is one that
        the run's budget does not allow.
        """
        if (reply := self.recorded.replies.get(name) or self._made.get(name)) is not None:
            return reply
        model = llm.model_name(request.model)
        if (refusal := self.refusal(model)) is not None:
            raise ModelAccessError(str(refusal), model=refusal.model)
        started = CallStarted(
            name=f"{name}/start",
            at=self.now(),
            step=name,
            caller=request.caller,
            model=model,
            subtask_id=subtask_id,
        )
        await self._commit(started, wait=False)
        reply = await self._reply(name, llm, request, subtask_id, draft or Draft())
        finished = CallFinished(
            name=name, at=self.now(), caller=request.caller, subtask_id=subtask_id, reply=reply
        )
        await self._commit(finished)
        self._made[name] = reply
        self._charge(subtask_id, reply.usage)
        return reply

    async def _reply(
        self, name: str, llm: LLM, request: Request, subtask_id: str | None, draft: Draft
    ) -> Reply:
        """Return the reply to a call; what one cost that brings none is in the journal."""
        try:
            # Where the budget has no room, it is other calls that are waited for.
            with (
                self.noticing_the_end(),
                self._observed(name, request.caller, subtask_id, draft),
            ):
                return await self._paid(llm, request, draft, subtask_id)
        except ModelError as exc:
            if isinstance(exc, ModelAccessError):
                self._refusals[exc.model] = exc
            usage = exc.usage or draft.usage
            await self._record_failure(name, request.caller, subtask_id, str(exc), usage)
            raise
        except anyio.get_cancelled_exc_class():
            await self._record_failure(name, request.caller, subtask_id, "abandoned", draft.usage)
            raise

    async def _paid(
        self, llm: LLM, request: Request, draft: Draft, subtask_id: str | None
    ) -> Reply:
        """Return the reply to a call that the budget allows, perhaps with a lower bound."""
        async with self.spending.reserved(llm, request, draft, subtask_id) as leave:
            bounded = replace(_kept_short(request, leave.max_tokens), run_id=self._run_id)
            self.calls_made += 1
            reply = await llm.complete(bounded, draft)
            leave.usage = reply.usage
        return reply

    async def _record_failure(
        self, name: str, caller: str, subtask_id: str | None, error: str, usage: Usage
    ) -> None:
        self._charge(subtask_id, usage)
        await self._commit(
            CallFailed(
                name=f"{name}/failed",
                at=self.now(),
                step=name,
                caller=caller,
                subtask_id=subtask_id,
                error=error,
                usage=usage,
            )
        )

    async def tool(
        self,
        name: str,
        call: ToolCall,
        make: Callable[[], Awaitable[str | Illustrated]],
        *,
        subtask_id: str,
        once: bool = False,
    ) -> ToolOutcome:
        """Return the outcome of the tool call `name`, making it if it has not been made.

        A tool that cannot do what was asked is an outcome too: the model reads why. A call
        that is to be made only `once` is not made again if it had begun.
        """
        if (outcome := self.recorded.outcomes.get(name)) is not None:
            return outcome
        if name in self.recorded.begun:
            return ToolOutcome(id=call.id, text=UNKNOWN_OUTCOME, failed=True)
        with self.noticing_the_end():
            async with self._brake.call():
                return await self._call_tool(name, call, make, subtask_id=subtask_id, once=once)

    async def _call_tool(
        self,
        name: str,
        call: ToolCall,
        make: Callable[[], Awaitable[str | Illustrated]],
        *,
        subtask_id: str,
        once: bool,
    ) -> ToolOutcome:
        started = self.elapsed()
        if once:
            await self._commit(
                ToolStarted(
                    name=f"{name}/start",
                    at=self.now(),
                    step=name,
                    subtask_id=subtask_id,
                    call=call,
                )
            )
        denied = False
        try:
            said = await make()
            if isinstance(said, str):
                said = Illustrated(text=said)
            outcome = ToolOutcome(id=call.id, text=said.text, images=said.images)
        except ToolCallError as exc:
            denied = isinstance(exc, ToolDeniedError)
            outcome = ToolOutcome(id=call.id, text=str(exc), failed=True)
        await self._commit(
            ToolCalled(
                name=name,
                at=self.now(),
                subtask_id=subtask_id,
                call=call,
                outcome=outcome,
                seconds=self.elapsed() - started,
                denied=denied,
            )
        )
        return outcome
