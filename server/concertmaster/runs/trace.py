"""The trace of a run: its events as a tree of timed spans.

Names follow the verbs of OpenTelemetry's conventions for generative AI. What was said to a
model or by it is not in the trace, and of tool calls only what they were made with, shortened;
unless somebody asks for the content of these. What a guard withholds is not in it at all.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

from pydantic import JsonValue

from concertmaster.engine.events import (
    ApprovalOffered,
    CallFailed,
    CallFinished,
    CallProgressed,
    CallStarted,
    CancelRequested,
    Event,
    GuardDecided,
    PlanAccepted,
    PlanRejected,
    PlanRevised,
    ResultsShortened,
    ResultsVerified,
    RunEnded,
    RunResumed,
    RunStarted,
    SubtaskDrafted,
    SubtaskFinished,
    SubtaskKept,
    SubtaskStarted,
    SynthesisStarted,
    ToolAnswered,
    ToolAsked,
    ToolCalled,
    ToolsMissing,
    ToolStarted,
)
from concertmaster.engine.plan.plan import Subtask
from concertmaster.errors import UnreadableRunError
from concertmaster.llm.messages import ServerToolUse
from concertmaster.llm.usage import NO_USAGE, Frozen, Usage
from concertmaster.runs.state import fold
from concertmaster.tools.arguments import shown
from concertmaster.tools.redaction import NO_MASKING

SpanKind = Literal["run", "plan", "subtask", "call", "question", "tool", "synthesis"]

_VISIBLE_ATTRIBUTES = frozenset({"chars", "made_again", "stop_reason", "usage"})
"""What the trace of a withheld run has of each span besides its kind, times and status."""

_VISIBLE_RUN_ATTRIBUTES = _VISIBLE_ATTRIBUTES | {
    "cancel_requested",
    "guard",
    "kind",
    "reasons",
    "resumed",
    "run_id",
    "trace_context",
}
"""What it has of the run itself; none of it was written by a worker or the planner."""


class Span(Frozen):
    """A part of a run, with the time it took and the parts it had."""

    name: str
    kind: SpanKind
    started_at: float
    """Unix time in seconds."""
    ended_at: float | None
    """None as long as it goes on; or for ever, if the run's process ended first."""
    status: str
    attributes: dict[str, JsonValue]
    spans: tuple["Span", ...] = ()
    """In the order of their starts."""


def visible_trace(
    run_id: str, events: Sequence[Event], *, alive: bool = True, content: bool = False
) -> Span:
    """Return the trace of a run as it may be shown.

    While its guard has not let it pass, each span is there with its model, status, usage and
    times, but without anything that a model wrote.

    Raises:
        UnreadableRunError: the events are not those of a run.
    """
    span = trace(run_id, events, alive=alive, content=content)
    withheld = fold(run_id, events, alive=True).withheld
    return _without_content(span) if withheld else span


def _without_content(span: Span, *, in_subtask: bool = False) -> Span:
    """Return a span and its parts without anything that a model wrote: names and ids included."""
    visible = _VISIBLE_RUN_ATTRIBUTES if span.kind == "run" else _VISIBLE_ATTRIBUTES
    attributes = {name: value for name, value in span.attributes.items() if name in visible}
    if caller := span.attributes.get("caller"):
        # A worker may have been written by the planner, with its name.
        attributes["caller"] = str(caller).partition(":")[0]
    if not in_subtask and (step := span.attributes.get("step")):
        # The steps of a subtask contain its id.
        attributes["step"] = step
    name = span.name
    if span.kind in ("question", "subtask", "tool"):
        name = name.partition(" ")[0]
    within = in_subtask or span.kind == "subtask"
    parts = tuple(_without_content(part, in_subtask=within) for part in span.spans)
    return span.model_copy(update={"name": name, "attributes": attributes, "spans": parts})


def trace(
    run_id: str, events: Sequence[Event], *, alive: bool = True, content: bool = False
) -> Span:
    """Return the tree of a run's spans, as far as its `events` go.

    With `content`, spans of tool calls have their arguments and results in full.
    What has not ended is `running`, or where the run's process is not `alive`, `interrupted` or,
    if the run was asked to stop, `cancelled`.

    Raises:
        UnreadableRunError: the events are not those of a run.
    """
    if not events or not isinstance(events[0], RunStarted):
        raise UnreadableRunError(run_id, "its journal does not begin with its start.")
    tree = _Tree(run_id, started_at=events[0].steady_at, content=content)
    for event in events:
        try:
            tree.apply(event)
        except LookupError:
            problem = f"nothing goes before its event {event.name!r} that it belongs to."
            raise UnreadableRunError(run_id, problem) from None
    if not alive:
        tree.root.stop(None, "cancelled" if tree.cancelling else "interrupted")
    return tree.root.span()


@dataclass(slots=True, kw_only=True)
class _Node:
    """A span in the making."""

    name: str
    kind: SpanKind
    started_at: float
    parent: "_Node | None" = None
    ended_at: float | None = None
    status: str = ""
    usage: Usage = NO_USAGE
    """What the calls in it took."""
    so_far: Usage = NO_USAGE
    """Of a call under way: what it has taken, which counts if it never ends."""
    attributes: dict[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    nodes: "list[_Node]" = field(default_factory=list["_Node"])

    def begin(self, name: str, kind: SpanKind, at: float, **attributes: JsonValue) -> "_Node":
        node = _Node(name=name, kind=kind, started_at=at, parent=self, attributes=attributes)
        self.nodes.append(node)
        return node

    def end(self, at: float, status: str, **attributes: JsonValue) -> None:
        self.ended_at = at
        self.status = status
        self.attributes |= {key: value for key, value in attributes.items() if value}

    def stop(self, at: float | None, status: str) -> None:
        """Give what is still going on in it, and itself if it is, a status."""
        for node in self.nodes:
            node.stop(at, status)
        if not self.status:
            self.charge(self.so_far.as_estimate)
            self.ended_at = at
            self.status = status

    def charge(self, usage: Usage) -> None:
        self.usage += usage
        if self.parent is not None:
            self.parent.charge(usage)

    def span(self) -> Span:
        usage: dict[str, JsonValue] = {}
        if self.usage != NO_USAGE:
            usage["usage"] = self.usage.model_dump(mode="json")
        nodes = sorted(self.nodes, key=lambda node: node.started_at)
        return Span(
            name=self.name,
            kind=self.kind,
            started_at=self.started_at,
            ended_at=self.ended_at,
            status=self.status or "running",
            attributes=self.attributes | usage,
            spans=tuple(node.span() for node in nodes),
        )


class _Tree:
    def __init__(self, run_id: str, *, started_at: float, content: bool) -> None:
        self._content = content
        self.root = _Node(
            name="invoke_workflow",
            kind="run",
            started_at=started_at,
            attributes={"run_id": run_id},
        )
        self._subtasks: dict[str, Subtask] = {}
        self._plan: _Node | None = None
        self._synthesis: _Node | None = None
        self._begun: dict[str, _Node] = {}
        """Subtasks by id. One that has ended may go on, when its result is mended."""
        self._calls: dict[str, _Node] = {}
        """Calls of models and tools under way by step."""
        self._questions: dict[str, _Node] = {}
        """Those that are open, by id."""
        self._cut_off: set[str] = set()
        """Steps whose calls were under way when the run was interrupted."""
        self.cancelling = False
        """Whether the run was asked to stop since it was last resumed."""

    def apply(self, event: Event) -> None:
        match event:
            case CallStarted() | CallProgressed() | CallFinished() | CallFailed():
                self._apply_call(event)
            case ToolAsked() | ToolAnswered():
                self._apply_question(event)
            case ToolStarted() | ToolCalled() | ToolsMissing():
                self._apply_tool(event)
            case PlanRejected() | PlanAccepted() | PlanRevised():
                self._apply_plan(event)
            case SubtaskDrafted() | SubtaskStarted() | SubtaskFinished():
                self._apply_subtask(event)
            case ApprovalOffered() | SubtaskKept() | ResultsShortened():
                pass
            case _:
                self._apply_run(event)

    def _apply_run(
        self,
        event: RunStarted
        | RunResumed
        | GuardDecided
        | ResultsVerified
        | SynthesisStarted
        | CancelRequested
        | RunEnded,
    ) -> None:
        match event:
            case RunStarted():
                self.root.attributes["kind"] = event.request.kind
                if event.origin.trace_context:
                    self.root.attributes["trace_context"] = dict(event.origin.trace_context)
            case RunResumed():
                self._resume(event)
            case SynthesisStarted():
                self._synthesis = self.root.begin(
                    "invoke_agent synthesizer", "synthesis", event.steady_at
                )
            case GuardDecided():
                self.root.attributes["guard"] = "passed" if event.passed else event.reason
            case ResultsVerified():
                self.root.attributes["findings"] = [finding.what for finding in event.findings]
            case CancelRequested():
                self.root.attributes["cancel_requested"] = event.reason
                self.cancelling = True
            case _:
                self.root.stop(event.steady_at, event.status)
                self.root.end(
                    event.steady_at,
                    event.status,
                    chars=len(event.answer),
                    reasons=list(event.reasons),
                )

    def _resume(self, event: RunResumed) -> None:
        self.cancelling = False
        self._cut_off |= self._calls.keys()
        self.root.stop(None, "interrupted")
        self.root.status, self.root.ended_at = "", None
        self._plan = self._synthesis = None
        self._begun = {name: node for name, node in self._begun.items() if node.ended_at}
        self._calls.clear()
        self._questions.clear()
        resumed = self.root.attributes.setdefault("resumed", [])
        told: dict[str, JsonValue] = {"at": event.at, "by": event.by, "epoch": event.epoch}
        if event.budget_usd is not None:
            told["budget_usd"] = event.budget_usd
        if event.approved:
            told["approved"] = True
        cast("list[JsonValue]", resumed).append(told)

    def _apply_plan(self, event: PlanRejected | PlanAccepted | PlanRevised) -> None:
        plan = self._planning(event.steady_at)
        self._plan = None
        match event:
            case PlanRejected():
                plan.end(event.steady_at, "rejected", problems=list(event.problems))
            case PlanRevised():
                self._subtasks |= {subtask.id: subtask for subtask in event.plan.subtasks}
                plan.end(
                    event.steady_at,
                    "succeeded",
                    subtasks=len(event.plan.subtasks),
                    done=event.done,
                    reason=event.reason,
                    warnings=list(event.warnings),
                    left_out=list(event.left_out),
                )
            case _:
                self._subtasks |= {subtask.id: subtask for subtask in event.plan.subtasks}
                plan.end(
                    event.steady_at,
                    "succeeded",
                    subtasks=len(event.plan.subtasks),
                    warnings=list(event.warnings),
                    left_out=list(event.left_out),
                )

    def _planning(self, at: float) -> _Node:
        """Return the span of the plan that is being written."""
        self._plan = self._plan or self.root.begin("plan", "plan", at)
        return self._plan

    def _apply_subtask(self, event: SubtaskDrafted | SubtaskStarted | SubtaskFinished) -> None:
        match event:
            case SubtaskDrafted(subtask=subtask):
                self._subtasks[subtask.id] = subtask
            case SubtaskStarted():
                self._begin_subtask(event.subtask_id, event.steady_at)
            case _:
                result = event.result
                # A subtask that was skipped ends without having started.
                if result.subtask_id not in self._begun:
                    self._begin_subtask(result.subtask_id, event.steady_at)
                self._begun[result.subtask_id].end(
                    event.steady_at,
                    result.status,
                    chars=len(result.text),
                    errors=list(result.errors),
                    taken_from=result.taken_from,
                    saved=result.saved and result.saved.model_dump(mode="json"),
                )

    def _begin_subtask(self, subtask_id: str, at: float) -> None:
        subtask = self._subtasks[subtask_id]
        node = self.root.begin(
            f"invoke_agent {subtask.worker}",
            "subtask",
            at,
            subtask_id=subtask.id,
            objective=subtask.objective,
            depends_on=list(subtask.depends_on),
        )
        _replace(self._begun, subtask_id, node)

    def _apply_call(self, event: CallStarted | CallProgressed | CallFinished | CallFailed) -> None:
        match event:
            case CallStarted():
                self._begin_call(event)
            case CallProgressed():
                self._calls[event.step].so_far = event.usage
            case CallFinished(reply=reply):
                call = self._calls.pop(event.name)
                call.charge(reply.usage)
                call.end(
                    event.steady_at,
                    "succeeded",
                    stop_reason=reply.stop_reason,
                    chars=len(reply.text),
                    tool_calls=len(reply.tool_calls),
                )
                for use in reply.server_tool_uses:
                    self._show_use(call, use, until=event.steady_at)
            case _:
                call = self._calls.pop(event.step)
                call.charge(event.usage)
                call.end(event.steady_at, "failed", error=event.error)

    def _apply_tool(self, event: ToolStarted | ToolCalled | ToolsMissing) -> None:
        match event:
            case ToolStarted():
                _replace(
                    self._calls, event.step, self._begin_tool(event, event.step, event.steady_at)
                )
            case ToolCalled(outcome=outcome):
                tool = self._calls.pop(event.name, None) or self._begin_tool(
                    event, event.name, event.steady_at - event.seconds
                )
                status = "failed" if outcome.failed else "succeeded"
                said: dict[str, JsonValue] = {"result": outcome.text} if self._content else {}
                said["images"] = list(map(str, outcome.images))
                tool.end(
                    event.steady_at, status, chars=len(outcome.text), denied=event.denied, **said
                )
            case _:
                self._begun[event.subtask_id].attributes["tools_missing"] = list(event.problems)

    def _apply_question(self, event: ToolAsked | ToolAnswered) -> None:
        match event:
            case ToolAsked():
                node = self._begun[event.subtask_id].begin(
                    f"ask {event.tool}",
                    "question",
                    event.steady_at,
                    question_id=event.question_id,
                    arguments=event.arguments,
                )
                _replace(self._questions, event.question_id, node)
            # The first answer counts, and one that comes when nobody waits for it does not.
            case _ if (node := self._questions.pop(event.question_id, None)) is not None:
                said = "allowed" if event.allowed else "denied"
                node.end(event.steady_at, said if event.by else "unanswered", by=event.by)
            case _:
                pass

    def _begin_tool(self, event: ToolStarted | ToolCalled, step: str, at: float) -> _Node:
        call = event.call
        return self._begun[event.subtask_id].begin(
            f"execute_tool {call.name}",
            "tool",
            at,
            step=step,
            arguments=self._shown(call.arguments),
        )

    def _shown(self, arguments: dict[str, JsonValue]) -> str:
        if self._content:
            return json.dumps(arguments, ensure_ascii=False)
        return shown(arguments, NO_MASKING)

    def _show_use(self, call: _Node, use: ServerToolUse, *, until: float) -> None:
        """Show within a call what the provider called itself."""
        at = max(until - use.ago, call.started_at)
        name, arguments = f"execute_tool {use.name}", self._shown(use.arguments)
        tool = call.begin(name, "tool", at, by="the provider", arguments=arguments)
        said: dict[str, JsonValue] = {"result": use.result} if self._content else {}
        status = "pending" if use.pending else "failed" if use.error else "succeeded"
        tool.end(at + use.seconds, status, chars=use.result_chars, error=use.error, **said)

    def _begin_call(self, event: CallStarted) -> None:
        if event.subtask_id is not None:
            parent = self._begun[event.subtask_id]
        elif event.caller in ("planner", "orchestrator"):
            parent = self._planning(event.steady_at)
        else:
            parent = self._synthesis or self.root
        node = parent.begin(
            f"chat {event.model}", "call", event.steady_at, step=event.step, caller=event.caller
        )
        if event.step in self._cut_off:
            node.attributes["made_again"] = True
        _replace(self._calls, event.step, node)


def _replace(nodes: dict[str, _Node], key: str, node: _Node) -> None:
    """Put `node` where one may be that was going on when the process of its run ended."""
    if key in nodes:
        nodes[key].stop(None, "interrupted")
    nodes[key] = node
