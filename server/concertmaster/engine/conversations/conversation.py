"""Asking a model until there is an answer: tool calls, one retry, a deadline."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Protocol

import anyio

from concertmaster.engine.concurrency import at_once
from concertmaster.engine.conversations.replies import Verdict, judge_reply
from concertmaster.engine.conversations.time_limit import TimeLimit
from concertmaster.engine.run import Run, Setup
from concertmaster.errors import ModelError, StoreError
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

log = logging.getLogger(__name__)

NO_TURNS_LEFT = "Not called: you have no turns left. Answer now with what you have."


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


class NoTools:
    """Nothing to call."""

    async def offer(self) -> Sequence[ToolSpec]:
        """Return nothing."""
        return ()

    async def call(self, _step: str, call: ToolCall, _time: TimeLimit, /) -> ToolOutcome:
        """Refuse a tool call, since none was offered."""
        return ToolOutcome(id=call.id, text="You have no tools. Answer with text.", failed=True)


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
        self._turn = 0

    async def verdict(self, *, seconds: float) -> Verdict:
        """Return what the answer is worth; what there is of one after `seconds`, or a failure.

        Raises:
            StoreError: the journal cannot be written any more.
        """
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
        if self._unsatisfying is not None:
            text = text or self._unsatisfying.text
            problem = f"{self._unsatisfying.problem} Then: {problem}"
        text = text or "\n\n".join(self._said)
        return Verdict(status="partial" if text else "failed", text=text, problem=problem)

    async def _converse(self, time: TimeLimit) -> Verdict:
        if self._offered is None:
            self._offered = await self._tools.offer()
            self._request = replace(self._request, tools=self._offered)
        schema = self._request.output_schema
        first = judge_reply(await self._answer(time), schema)
        if first.status == "succeeded":
            return first
        self._unsatisfying = first
        retry = self._setup.prompts.render("retry", reason=first.problem)
        self._messages += [
            AssistantMessage(text=first.text or "(nothing)"),
            UserMessage(text=retry.user),
        ]
        second = judge_reply(await self._answer(time), schema)
        return second if second.text or not first.text else first

    async def _answer(self, time: TimeLimit) -> Reply:
        """Return the next reply that asks for no tools, having called those that others did."""
        while True:
            reply = await self._next_reply()
            if not reply.tool_calls or self._turn > self._last_turn:
                return reply
            self._said += filter(None, [reply.text.strip()])
            outcomes = await self._call_tools(reply.tool_calls, time)
            self._messages += [
                AssistantMessage(text=reply.text, tool_calls=reply.tool_calls, native=reply.native),
                ToolMessage(outcomes=tuple(outcomes)),
            ]

    async def _next_reply(self) -> Reply:
        self._turn += 1
        self._draft = Draft()
        return await self._steps.call(
            f"{self._step}/call/{self._turn}",
            self._setup.llm,
            replace(self._request, messages=tuple(self._messages)),
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
