"""A run or a plan as a Mermaid flowchart: START, plan, workers, synthesis, END."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from concertmaster.engine.events import SubtaskStatus
from concertmaster.engine.plan.plan import Map, Plan, Revise, Subtask, Vote
from concertmaster.engine.request import RunRequest
from concertmaster.replies.markdown import one_line
from concertmaster.runs.state import RunState

TITLE_CHARS = 60
"""Characters of an objective or a task in a node."""

TIMES = "\N{MULTIPLICATION SIGN}"

MOST_EDGES = 450
"""Dependencies that are drawn; Mermaid refuses a chart with more than 500 edges."""

State = Literal["", "running", "done", "partial", "failed", "skipped"]
"""The class of a node; nothing for what has not begun."""

STYLES: Mapping[State, str] = {
    "running": "fill:#dbeafe,stroke:#2563eb,color:#111827",
    "done": "fill:#dcfce7,stroke:#16a34a,color:#111827",
    "partial": "fill:#fef3c7,stroke:#d97706,color:#111827",
    "failed": "fill:#fee2e2,stroke:#dc2626,color:#111827",
    "skipped": "fill:#f3f4f6,stroke:#6b7280,color:#111827,stroke-dasharray:4",
}

_STATES: Mapping[SubtaskStatus, State] = {
    "running": "running",
    "succeeded": "done",
    "partial": "partial",
    "failed": "failed",
    "skipped": "skipped",
    "cancelled": "skipped",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far each step of a run has come; nothing has begun where nothing is said."""

    guard: State = ""
    plan: State = ""
    subtasks: Mapping[str, SubtaskStatus] = field(default_factory=dict[str, SubtaskStatus])
    next_step: State = ""
    verification: State = ""
    synthesis: State = ""
    end: State = ""


NOT_BEGUN = Progress()


def run_graph(state: RunState) -> str:
    """Return the flowchart of a run, with the state that each of its steps is in."""
    # Until there is a plan, what is drawn are the subtasks that a draft of it has started.
    drafted = Plan(subtasks=tuple(item.subtask for item in state.subtasks.values()))
    return plan_graph(state.plan or drafted, state.request, _progress(state))


def plan_graph(plan: Plan, request: RunRequest, progress: Progress = NOT_BEGUN) -> str:
    """Return the flowchart of a run of `plan` for `request`."""
    chart = _Chart()
    chart.node("start", '(["START"])')
    if request.guard:
        chart.node("guard", _box("{{", "}}", f"guard: {request.guard}"), progress.guard)
        chart.edge("start", "guard")
    first = "start"
    if request.kind != "worker":
        title = "plan, given" if request.plan is not None else "plan"
        chart.node(
            "plan", _box("[", "]", title, one_line(request.task, TITLE_CHARS)), progress.plan
        )
        chart.edge("start", "plan")
        first = "plan"
    last = chart.subtasks(plan.subtasks, first, progress.subtasks)
    for name, text, node_state in _closing_steps(plan, request, progress):
        decision = name == "next_step"
        chart.node(name, _box("{", "}", text) if decision else _box("[", "]", text), node_state)
        for before in last:
            chart.edge(before, name)
        if decision:
            chart.edge("next_step", "plan", '-. "more to do" .->')
        last = [name]
    chart.node("finish", '(["END"])', progress.end)
    for before in last:
        chart.edge(before, "finish", '-- "direct answer" -->' if plan.direct_answer else "-->")
    if request.guard:
        chart.edge("guard", "finish", '-. "lets it pass" .->')
    return chart.text()


def _closing_steps(
    plan: Plan, request: RunRequest, progress: Progress
) -> Iterator[tuple[str, str, State]]:
    """Yield id, text and state of each step between the workers and the end."""
    direct = plan.direct_answer is not None
    if request.kind == "worker" or (direct and request.output_schema is None):
        return
    if plan.mode == "adaptive" and not direct:
        yield "next_step", "what next?", progress.next_step
    # The result of the only subtask is the answer, unless that has to be of a schema.
    if len(plan.subtasks) < 2 and plan.mode == "static" and request.output_schema is None:
        return
    verify = request.verify or plan.verify
    if verify != "none" and not direct:
        yield "verify", f"verify: {verify}", progress.verification
    yield "synthesis", "synthesis", progress.synthesis


def _progress(state: RunState) -> Progress:
    if state.request.kind == "plan":
        return Progress(plan=_plan_state(state))
    ends: Mapping[str, State] = {
        "succeeded": "done",
        "partial": "partial",
        "failed": "failed",
        "cancelled": "skipped",
    }
    end: State = ends.get(state.status, "")
    answered = end in ("done", "partial")
    working = set(state.calls.values())
    guards: Mapping[str, State] = {"pending": "running", "passed": "done", "objected": "failed"}
    synthesizing = state.status == "synthesizing"
    verified = synthesizing or state.findings or end == "done"
    return Progress(
        guard=guards.get(state.guard, ""),
        plan=_plan_state(state),
        subtasks={name: item.status for name, item in state.subtasks.items()},
        next_step="running" if "orchestrator" in working else "done" if state.decisions else "",
        verification="running" if "verifier" in working else "done" if verified else "",
        synthesis="running" if synthesizing else "done" if answered else "",
        end=end,
    )


def _plan_state(state: RunState) -> State:
    if state.plan is not None:
        return "done"
    if state.status == "planning":
        return "running"
    # What a guard holds back may have a plan.
    return "failed" if state.status == "failed" and not state.withheld else ""


class _Chart:
    """A flowchart as it is being written."""

    def __init__(self) -> None:
        self._nodes: list[str] = []
        self._edges: list[str] = []
        self._classes: dict[State, list[str]] = {}

    def node(self, name: str, shape: str, state: State = "") -> None:
        self._nodes.append(f"    {name}{shape}")
        if state:
            self._classes.setdefault(state, []).append(name)

    def edge(self, one: str, other: str, arrow: str = "-->") -> None:
        self._edges.append(f"    {one} {arrow} {other}")

    def subtasks(
        self, subtasks: Iterable[Subtask], first: str, statuses: Mapping[str, SubtaskStatus]
    ) -> list[str]:
        """Draw subtasks that begin after the node `first`; return the nodes that come last."""
        # Ids of subtasks may be words of Mermaid's own, such as `end`; those of nodes are not.
        names = {item.id: f"t{number}" for number, item in enumerate(subtasks, start=1)}
        if not names:
            return [first]
        edges: list[tuple[str, str]] = []
        for item in subtasks:
            status = statuses.get(item.id, "pending")
            self.node(names[item.id], _subtask_box(item, status), _STATES.get(status, ""))
            before = [names[name] for name in item.depends_on if name in names]
            edges += [(name, names[item.id]) for name in before or [first]]
        for one, other in edges[:MOST_EDGES]:
            self.edge(one, other)
        if left_out := edges[MOST_EDGES:]:
            self.node("more", _box("[", "]", f"{len(left_out)} more dependencies are not drawn"))
        awaited = {one for one, _ in edges}
        return [name for name in names.values() if name not in awaited]

    def text(self) -> str:
        """Return the chart as Mermaid text."""
        styles = [f"    classDef {name} {STYLES[name]}" for name in STYLES if name in self._classes]
        classes = [f"    class {','.join(self._classes[name])} {name}" for name in self._classes]
        return "\n".join(["flowchart TD", *self._nodes, *self._edges, *styles, *classes, ""])


def _subtask_box(subtask: Subtask, status: SubtaskStatus) -> str:
    heading = [subtask.id, subtask.worker, *([status] if status != "pending" else [])]
    way = _way(subtask)
    lines = [" · ".join(heading), one_line(subtask.objective, TITLE_CHARS), way]
    return _box("[[" if way else "[", "]]" if way else "]", *filter(None, lines))


def _way(subtask: Subtask) -> str:
    """Return the strategy of a subtask, in short; nothing if one worker does it once."""
    match subtask.strategy:
        case Vote() as vote:
            return f"vote {TIMES}{len(vote.electorate)} by {vote.decide}"
        case Revise(rounds=rounds):
            return f"revise {TIMES}{rounds} at most"
        case Map(over="sections"):
            return "map over sections"
        case Map(over=over, contexts=contexts):
            return (
                f"map {TIMES}{len(contexts if over == 'contexts' else subtask.inputs)} over {over}"
            )
        case _:
            return ""


def _box(opening: str, closing: str, *lines: str) -> str:
    """Return the shape of a node with these lines of text."""
    return f'{opening}"{"<br/>".join(map(_escaped, lines))}"{closing}'


_PAIR = re.compile(r"\$(?=\$)|\\(?=n)|:(?=\S)|\u00b6(?=\u00df)|\ufb02(?=\u00b0)")
"""The first half of what means something once entities are read: a formula, a new line, an icon,
and what Mermaid itself writes for entities meanwhile."""


def _escaped(text: str) -> str:
    """Return text as Mermaid shows it as it is.

    A quotation mark ends a label, and what looks like Markdown, HTML, a link or a directive
    becomes one. So each character that is no letter, digit or space, and not in a place where it
    is harmless, is written as Mermaid's entity for it. A space of no width keeps apart the halves
    of what means something in spite of that.
    """
    text = _PAIR.sub("\\g<0>\N{ZERO WIDTH SPACE}", text)
    around = zip(f" {text}", text, f"{text[1:]} ", strict=False)
    return "".join(
        char if _is_plain(before, char, after) else f"#{ord(char)};"
        for before, char, after in around
    )


def _is_plain(before: str, char: str, after: str) -> bool:
    match char:
        case " " | "," | "·" | "…":
            return True
        case "-" | "/":
            return before.isalnum() and after.isalnum()
        case "." | ":":
            return before.isalpha() and after == " "
        case _:
            return char.isalnum() or char == TIMES
