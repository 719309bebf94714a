"""Asking a model until there is an answer: tool calls, one retry, a deadline."""

import logging
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Protocol

import anyio
from pydantic import JsonValue

from concertmaster.engine.concurrency import at_once
from concertmaster.engine.events import PartResult, SubtaskStatus
from concertmaster.engine.run import Run, Setup
from concertmaster.errors import (
    ModelAccessError,
    ModelError,
    ModelRequestError,
    ServerToolsRefusedError,
    StoreError,
)
from concertmaster.llm import structured
from concertmaster.llm.messages import (
    AssistantMessage,
    Draft,
    JsonSchema,
    Message,
    Reply,
    Request,
    ServerTool,
    Source,
    ToolCall,
    ToolMessage,
    ToolOutcome,
    ToolSpec,
    UserMessage,
    distinct,
)
from concertmaster.llm.outcomes import Outcome, Report, read_report

SHOWN_ERRORS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a reply is worth: `succeeded`, `partial` with something usable, or `failed`."""

    status: SubtaskStatus
    text: str = ""
    value: JsonValue = None
    problem: str = ""
    """What is wrong, as a sentence for the model and for the reader."""
    parts: tuple[PartResult, ...] = ()
    """What it is made of, where there are parts."""
    sources: tuple[Source, ...] = ()
    """What the answer cites."""
    notes: tuple[str, ...] = ()
    """How the answer came about, where more than one model's word decided it."""
    outcome: Outcome = "met"
    """What the worker reports of its objective, in a reply that has the form asked for."""

    @property
    def usable(self) -> bool:
        """Tell whether there is an answer in the form asked for, to at least a part of it."""
        return self.status == "succeeded" or self.outcome == "partly_met"

    def with_problem(self, problem: str) -> "Verdict":
        """Return the verdict that what there is, is incomplete: one more thing is wrong."""
        whole = " ".join(filter(None, [self.problem, problem]))
        usable = self.text and self.outcome != "not_met"
        return replace(self, status="partial" if usable else "failed", problem=whole)

    def with_notes(self, *notes: str) -> "Verdict":
        """Return the verdict with notes on how the answer came about."""
        return replace(self, notes=(*self.notes, *notes))


def judge_reply(reply: Reply, schema: JsonSchema | None) -> Verdict:
    """Return what `reply` is worth to whoever asked for text, or for JSON of `schema`."""
    text = reply.text.strip()
    if reply.stop_reason == "refusal":
        return Verdict(status="failed", problem=_sentence("The model refused", reply.detail))
    if reply.tool_calls:
        return _usable_at_best(text, "The model went on asking for tools instead of answering.")
    if reply.stop_reason in ("max_tokens", "context_full", "pause"):
        return _usable_at_best(text, _cut(reply))
    if not text:
        return Verdict(status="failed", problem="The reply was empty.")
    if schema is None:
        return Verdict(status="succeeded", text=text)
    return _judge_json(text, schema)


def judge_work(reply: Reply, schema: JsonSchema | None) -> Verdict:
    """Return what a worker's reply is worth, by its form and by what it reports itself."""
    if reply.stop_reason == "refusal":
        return judge_reply(reply, schema)
    report, text = read_report(reply.text.strip(), schema)
    if report.outcome == "partly_met" and schema is None:
        # Some say in that one line all that there is to say.
        text = text or report.reason
    verdict = judge_reply(reply.model_copy(update={"text": text}), schema)
    if report.outcome == "not_met" and reply.stop_reason == "end":
        # What could be established need not have the form of a result, nor need there be any.
        verdict = replace(verdict, problem="")
    return reported(verdict, report)


def reported(verdict: Verdict, report: Report) -> Verdict:
    """Return the verdict on a reply that also reports on the worker's objective."""
    match report.outcome:
        case "not_met":
            problem = " ".join(filter(None, [report.sentence, verdict.problem]))
            return replace(verdict, status="failed", problem=problem, outcome="not_met")
        case "partly_met" if verdict.status == "succeeded":
            return replace(verdict.with_problem(report.sentence), outcome="partly_met")
        case "partly_met":
            return verdict.with_problem(report.sentence)
        case _:
            return verdict


def _cut(reply: Reply) -> str:
    if reply.stop_reason == "max_tokens":
        return f"The reply was cut after {reply.usage.tokens_out} tokens."
    if reply.stop_reason == "context_full":
        return "The reply was cut because the model's context window was full."
    return _sentence("The model paused before it had finished", reply.detail)


def _sentence(start: str, detail: str) -> str:
    return f"{start}: {detail}" if detail else f"{start}."


def _usable_at_best(text: str, problem: str) -> Verdict:
    return Verdict(status="partial" if text else "failed", text=text, problem=problem)


def _judge_json(text: str, schema: JsonSchema) -> Verdict:
    try:
        value = structured.read_json(text)
    except ValueError as exc:
        return Verdict(status="partial", text=text, problem=f"The reply is no JSON: {exc}.")
    try:
        errors = schema_errors(value, schema)
    except ValueError as exc:
        problem = f"The reply cannot be checked against the output schema: {exc}."
        return Verdict(status="partial", text=text, problem=problem)
    if errors:
        problem = "The reply does not match the output schema: " + "; ".join(errors) + "."
        return Verdict(status="partial", text=text, problem=problem)
    return Verdict(status="succeeded", text=text, value=value)


def schema_errors(value: JsonValue, schema: JsonSchema) -> list[str]:
    """Return what makes `value` no instance of `schema`, a clause each; the first few.

    Raises:
        ValueError: `schema` cannot be used.
    """
    found = structured.schema_errors(value, schema)
    more = [f"and {len(found) - SHOWN_ERRORS} more"] if len(found) > SHOWN_ERRORS else []
    return found[:SHOWN_ERRORS] + more


class TimeLimit:
    """The time of a cancel scope, which stands still while a person is asked."""

    def __init__(self, scope: anyio.CancelScope) -> None:
        self._scope = scope
        self._stops = 0
        self._left = 0.0
        self._aside = AsyncExitStack()

    @asynccontextmanager
    async def stopped(
        self, aside: AbstractAsyncContextManager[None], *, until: float
    ) -> AsyncGenerator[None]:
        """Let no time pass in the block; but at `until`, by anyio's clock, it is over anyway.

        Of several such blocks at a time, the conversation is `aside` in the first until the
        last has ended, and learns if that has failed.
        """
        self._stops += 1
        try:
            if self._stops == 1:
                self._left = self._scope.deadline - anyio.current_time()
                self._scope.deadline = until
                await self._aside.enter_async_context(aside)
            yield
        except BaseException as exc:
            await self._go_on(until, exc)
            raise
        await self._go_on(until)

    async def _go_on(self, until: float, failure: BaseException | None = None) -> None:
        try:
            if self._stops == 1:
                if failure is None:
                    await self._aside.aclose()
                else:
                    trace = failure.__traceback__
                    await self._aside.__aexit__(type(failure), failure, trace)
        finally:
            self._stops -= 1
            if not self._stops:
                self._scope.deadline = min(until, anyio.current_time() + self._left)


NOT_SHOWN = "[The images of this result could not be shown to you.]"

REFUSED = (
    "The provider refused a request with images that a tool had returned; the worker went on "
    "without seeing any."
)


class Images:
    """Whether a model is shown the images of one conversation."""

    def __init__(self) -> None:
        self._refused = False

    def give_up(self) -> None:
        """Show none any more."""
        self._refused = True

    def among(self, messages: Iterable[Message]) -> bool:
        """Tell whether a request with these messages has images that are shown."""
        return not self._refused and any(
            outcome.images
            for message in messages
            if isinstance(message, ToolMessage)
            for outcome in message.outcomes
        )

    def shown(self, messages: Iterable[Message]) -> tuple[Message, ...]:
        """Return the messages as the model gets them."""
        return tuple(map(_in_words, messages)) if self._refused else tuple(messages)

    @property
    def notes(self) -> tuple[str, ...]:
        """Return a sentence if the model was shown none of the images that there were."""
        return (REFUSED,) if self._refused else ()


def _in_words(message: Message) -> Message:
    if not isinstance(message, ToolMessage):
        return message
    return ToolMessage(outcomes=tuple(map(_blind, message.outcomes)))


def _blind(outcome: ToolOutcome) -> ToolOutcome:
    if not outcome.images:
        return outcome
    return outcome.model_copy(update={"text": f"{outcome.text}\n{NOT_SHOWN}", "images": ()})


class Served:
    """The tools that the provider calls itself in one conversation.

    Their bounds are on all replies together, while the provider knows of one at a time.
    """

    def __init__(self) -> None:
        self._tools: Sequence[ServerTool] = ()
        self._uses: Counter[str] = Counter()
        self._errors: Counter[tuple[str, str]] = Counter()
        self._pending: set[str] = set()
        """The tools that the last reply had called and not heard of yet."""
        self._container = ""
        self.sources: tuple[Source, ...] = ()
        """What the replies so far have cited."""

    def offer(self, tools: Sequence[ServerTool]) -> None:
        """Have these tools from now on, and no others."""
        self._tools = tools

    def added_to(self, request: Request, *, paused: bool) -> Request:
        """Return a request with the tools that may still be used.

        A tool whose outcome is pending has to stay, and all of them where a reply has `paused`.
        """
        if not (self._tools or self._container):
            return request
        left = [(tool, tool.max_uses - self._uses[tool.name]) for tool in self._tools]
        tools = tuple(
            replace(tool, max_uses=max(uses, 1))
            for tool, uses in left
            if uses > 0 or paused or tool.name in self._pending
        )
        return replace(request, server_tools=tools, container=self._container)

    def take(self, reply: Reply) -> None:
        """Take in what a reply tells of the tools."""
        for use in reply.server_tool_uses:
            # A use that began in an earlier reply has no arguments in this one, and counts once.
            self._uses[use.name] += bool(use.arguments)
            self._errors[use.name, use.error] += bool(use.error)
        self._pending = {use.name for use in reply.server_tool_uses if use.pending}
        self._container = reply.container or self._container
        self.sources = distinct(self.sources, reply.sources)

    @property
    def notes(self) -> tuple[str, ...]:
        """Return a sentence for each thing that went wrong with a tool."""
        return tuple(
            f"{name} failed with {error}{f' ({count} times)' if count > 1 else ''}."
            for (name, error), count in self._errors.items()
            if count
        )


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
