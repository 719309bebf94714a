"""Asking a model until there is an answer: tool calls, one retry, a deadline."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Protocol

import anyio

from concertmaster.engine.concurrency import at_once
from concertmaster.engine.conversations.images import Images
from concertmaster.engine.conversations.replies import (
    Verdict,
    judge_reply,
    judge_work,
    reported,
)
from concertmaster.engine.conversations.served import Served
from concertmaster.engine.conversations.time_limit import TimeLimit
from concertmaster.engine.run import Run, Setup
from concertmaster.errors import (
    ModelAccessError,
    ModelError,
    ModelRequestError,
    ServerToolsRefusedError,
    StoreError,
)
from concertmaster.llm.outcomes import read_report
from concertmaster.llm.protocol import (
    AssistantMessage,
    Draft,
    Message,
    Reply,
    Request,
    ToolCall,
    ToolMessage,
    ToolOutcome,
    ToolSpec,
    UserMessage,
)
from concertmaster.llm.server_tools import ServerTool

log = logging.getLogger(__name__)

NO_TURNS_LEFT = "Not called: you have no turns left. Answer now with what you have."

MOST_CONTINUATIONS = 5
"""How often a reply that the provider pauses in is gone on with."""


class Tools(Protocol):
    """What a model may call in a conversation."""

    async def offer(self) -> Sequence[ToolSpec]:
        """Return what there is."""
        ...

    async def call(self, step: str, call: ToolCall, time: TimeLimit, /) -> ToolOutcome:
        """Return the outcome of the tool call that is this step; a failed one if it fails.

        It takes from the `time` of the conversation, but while a person is asked.
        """
        ...

    @property
    def served(self) -> Sequence[ServerTool]:
        """Return what the provider may call itself, of what was offered."""
        ...

    async def give_up_served(self, why: str, /) -> None:
        """Take in that the provider calls none of it."""
        ...


class NoTools:
    """Nothing to call."""

    async def offer(self) -> Sequence[ToolSpec]:
        """Return nothing."""
        return ()

    async def call(self, _step: str, call: ToolCall, _time: TimeLimit, /) -> ToolOutcome:
        """Refuse a tool call, since none was offered."""
        return ToolOutcome(id=call.id, text="You have no tools. Answer with text.", failed=True)

    @property
    def served(self) -> Sequence[ServerTool]:
        """Return nothing."""
        return ()

    async def give_up_served(self, why: str, /) -> None:
        """Do nothing: nothing was offered."""


NO_TOOLS = NoTools()


class Conversation:
    """A request, and the turns that it takes to get an answer to it.

    The step of turn N is `{step}/call/N`, that of its tool call M `{step}/tool/N.M`.
    """

    def __init__(
        self,
        run: Run,
        setup: Setup,
        request: Request,
        *,
        step: str,
        subtask_id: str | None = None,
        tools: Tools = NO_TOOLS,
        max_turns: int = 2,
    ) -> None:
        self._steps = run.steps
        self._setup = setup
        self._request = request
        self._step = step
        self._subtask_id = subtask_id
        self._tools = tools
        self._offered: Sequence[ToolSpec] | None = None
        self._max_turns = max_turns
        self._last_turn = max_turns
        self._messages: list[Message] = list(request.messages)
        self._draft = Draft()
        self._unsatisfying: Verdict | None = None
        self._said: list[str] = []
        """What was said beside tool calls: all there is of an answer if none comes."""
        self._paused: list[str] = []
        """What was said of the answer under way before the provider paused."""
        self._served = Served()
        self._images = Images()
        self._turn = 0

    async def verdict(self, *, seconds: float) -> Verdict:
        """Return what the answer is worth; what there is of one after `seconds`, or a failure.

        Raises:
            StoreError: the journal cannot be written any more.
        """
        verdict = await self._verdict(seconds)
        served = replace(verdict, sources=self._served.sources)
        return served.with_notes(*self._served.notes, *self._images.notes)

    async def _verdict(self, seconds: float) -> Verdict:
        if seconds <= 0:
            return self.broken_off("No time was left for it.")
        try:
            with anyio.move_on_after(seconds) as scope:
                return await self._converse(TimeLimit(scope))
        except ModelError as exc:
            return self.broken_off(str(exc), exc.text)
        except StoreError:
            raise
        except Exception as exc:
            # A fault in a tool or in this program ends one conversation, and not what others did.
            log.exception("conversation broke", extra={"step": self._step})
            return self.broken_off(f"An internal error ended it: {type(exc).__name__}.")
        return self.broken_off(f"It passed its deadline of {seconds:.0f} s.", self._draft.text)

    async def revise(self, answer: str, wish: str, *, seconds: float) -> Verdict:
        """Return what the next answer is worth, where the last one was `answer` and is not it."""
        self._messages += [AssistantMessage(text=answer), UserMessage(text=wish)]
        self._unsatisfying = None
        self._said.clear()
        self._last_turn = self._turn + self._max_turns
        return await self.verdict(seconds=seconds)

    def broken_off(self, problem: str, text: str = "") -> Verdict:
        """Return the verdict on what there is when no answer comes any more."""
        text = "\n\n".join(filter(None, [*self._paused, text]))
        if self._unsatisfying is not None:
            text = text or self._unsatisfying.text
            problem = f"{self._unsatisfying.problem} Then: {problem}"
        text = text or "\n\n".join(self._said)
        verdict = Verdict(status="partial" if text else "failed", text=text, problem=problem)
        if not self._request.reports_outcome:
            return verdict
        report, text = read_report(text, self._request.output_schema)
        return reported(replace(verdict, text=text), report)

    async def _converse(self, time: TimeLimit) -> Verdict:
        if self._offered is None:
            self._offered = await self._tools.offer()
            self._request = replace(self._request, tools=self._offered)
            self._served.offer(self._tools.served)
        first = self._judged(await self._answer(time))
        if first.status == "succeeded" or first.outcome != "met":
            return first
        self._unsatisfying = first
        retry = self._setup.prompts.render("retry", reason=first.problem)
        self._messages += [
            AssistantMessage(text=first.text or "(nothing)"),
            UserMessage(text=retry.user),
        ]
        second = self._judged(await self._answer(time))
        keeps = second.text or second.outcome == "not_met"
        return second if keeps or not first.text else first

    def _judged(self, reply: Reply) -> Verdict:
        judged = judge_work if self._request.reports_outcome else judge_reply
        return judged(reply, self._request.output_schema)

    async def _answer(self, time: TimeLimit) -> Reply:
        """Return the next reply that asks for no tools, having called those that others did."""
        while True:
            turn = len(self._messages)
            reply = await self._unpaused_reply()
            if not reply.tool_calls or self._turn > self._last_turn:
                # Whatever is said next is said to the answer as a whole.
                del self._messages[turn:]
                return self._whole(reply)
            self._said += filter(None, [*self._paused, reply.text.strip()])
            self._paused.clear()
            outcomes = await self._call_tools(reply.tool_calls, time)
            self._messages += [
                AssistantMessage(text=reply.text, tool_calls=reply.tool_calls, native=reply.native),
                ToolMessage(outcomes=tuple(outcomes)),
            ]

    def _whole(self, reply: Reply) -> Reply:
        """Return the last part of a reply with what was said before the provider paused in it."""
        if not self._paused:
            return reply
        parts = [*self._paused, reply.text]
        self._paused.clear()
        if self._request.output_schema is not None:
            return reply.model_copy(update={"text": next(filter(None, reversed(parts)), "")})
        return reply.model_copy(update={"text": "\n\n".join(filter(None, parts))})

    async def _unpaused_reply(self) -> Reply:
        """Return the next reply, having gone on with those that the provider paused in."""
        self._paused.clear()
        reply = await self._served_reply()
        for _ in range(MOST_CONTINUATIONS):
            if not reply.paused:
                break
            self._paused += filter(None, [reply.text.strip()])
            self._messages.append(AssistantMessage(text=reply.text, native=reply.native))
            self._last_turn += 1
            reply = await self._served_reply(paused=True)
        return reply

    async def _served_reply(self, *, paused: bool = False) -> Reply:
        """Return the next reply, without what the provider calls itself if it refuses that."""
        try:
            reply = await self._seeing_reply(paused=paused)
        except ServerToolsRefusedError as exc:
            self._served.offer(())
            self._last_turn += 1
            await self._tools.give_up_served(str(exc))
            reply = await self._seeing_reply()
        self._served.take(reply)
        return reply

    async def _seeing_reply(self, *, paused: bool = False) -> Reply:
        """Return the next reply, without the images of the conversation if they are refused."""
        if not self._images.among(self._messages):
            return await self._next_reply(paused=paused)
        if self._steps.recorded.was_passed_over(self._call_step(), self._call_step(2)):
            self._turn += 1
        else:
            try:
                return await self._next_reply(paused=paused)
            except (ModelAccessError, ServerToolsRefusedError):
                raise
            except ModelRequestError:
                pass
        self._images.give_up()
        self._last_turn += 1
        return await self._next_reply(paused=paused)

    def _call_step(self, further: int = 1) -> str:
        return f"{self._step}/call/{self._turn + further}"

    async def _next_reply(self, *, paused: bool = False) -> Reply:
        step = self._call_step()
        self._turn += 1
        self._draft = Draft()
        request = replace(self._request, messages=self._images.shown(self._messages))
        return await self._steps.call(
            step,
            self._setup.llm,
            self._served.added_to(request, paused=paused),
            subtask_id=self._subtask_id,
            draft=self._draft,
        )

    async def _call_tools(self, calls: Sequence[ToolCall], time: TimeLimit) -> list[ToolOutcome]:
        """Return the outcomes in the order of `calls`.

        Calls that follow one another are made at the same time as far as their tools allow it.
        """
        if self._turn == self._last_turn:
            return [ToolOutcome(id=call.id, text=NO_TURNS_LEFT, failed=True) for call in calls]

        async def outcome(numbered: tuple[int, ToolCall]) -> ToolOutcome:
            number, call = numbered
            return await self._tools.call(f"{self._step}/tool/{self._turn}.{number}", call, time)

        alone = {spec.name for spec in self._request.tools if not spec.parallel}
        outcomes: list[ToolOutcome] = []
        for one_by_one, group in groupby(
            enumerate(calls, start=1), key=lambda numbered: numbered[1].name in alone
        ):
            if one_by_one:
                outcomes += [await outcome(numbered) for numbered in group]
            else:
                outcomes += await at_once(outcome, group)
        return outcomes
