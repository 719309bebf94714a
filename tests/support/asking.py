"""Requests to the offline model, with real worker tools, and their replies."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from concertmaster.catalog.catalog import builtin_folder, load_catalog
from concertmaster.engine.plan.plan import Plan, read_plan
from concertmaster.engine.plan.validation import PlanRules, plan_problems
from concertmaster.errors import ToolCallError
from concertmaster.llm.messages import (
    AssistantMessage,
    Brief,
    Document,
    Draft,
    JsonSchema,
    Message,
    PlanBrief,
    Reply,
    Request,
    SynthesisBrief,
    ToolCall,
    ToolMessage,
    ToolOutcome,
    UserMessage,
    WorkBrief,
    WorkerCard,
    WorkResult,
)
from concertmaster.llm.offline import OfflineLLM
from concertmaster.tools.builtin.defaults import default_tools
from concertmaster.tools.scope import ToolScope

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@cache
def cards() -> dict[str, WorkerCard]:
    """Return the cards of the workers that are built in."""
    catalog = load_catalog(builtin_folder("workers"), tools=default_tools().names)
    return {worker.name: worker.card() for worker in catalog}


def document(name: str, text: str = "") -> Document:
    """Return an input."""
    return Document(name=name, text=text)


def example(name: str) -> Document:
    """Return one of the inputs in `examples/`."""
    return document(name, (EXAMPLES / name).read_text())


async def ask(
    brief: Brief,
    *messages: Message,
    tools: Sequence[str] = (),
    output_schema: JsonSchema | None = None,
    draft: Draft | None = None,
) -> Reply:
    """Return the offline model's reply."""
    request = Request(
        caller="test",
        model="sonnet",
        system="",
        messages=(UserMessage(text="do it"), *messages),
        brief=brief,
        max_tokens=1000,
        tools=default_tools().here(tools).specs,
        output_schema=output_schema,
    )
    return await OfflineLLM().complete(request, draft or Draft())


async def plan(
    task: str,
    *inputs: Document,
    workers: Sequence[WorkerCard] | None = None,
    max_subtasks: int = 8,
) -> Plan:
    """Return the plan for a task, which the engine's rules accept."""
    available = tuple(cards().values() if workers is None else workers)
    brief = PlanBrief(task=task, inputs=inputs, workers=available, max_subtasks=max_subtasks)
    text = (await ask(brief)).text
    made = read_plan(text)
    rules = PlanRules(
        workers=[card.name for card in available],
        inputs=[item.name for item in inputs],
        max_subtasks=max_subtasks,
    )
    assert plan_problems(made, rules) == []
    allowed = {"id", "worker", "objective", "why", "depends_on", "priority"}
    allowed |= {"inputs", "expects", "needs_all"}
    assert all(set(item) == allowed for item in json.loads(text)["subtasks"])
    return made


async def work(
    worker: str | WorkerCard,
    *inputs: Document,
    objective: str = "the objective",
    outcomes: Sequence[ToolOutcome] = (),
    output_schema: JsonSchema | None = None,
    roots: Sequence[Path] = (),
    asked: list[ToolCall] | None = None,
) -> Reply:
    """Return the reply of a worker, having made the tool calls that it asked for.

    Calls with the ids of `outcomes` come to those. All calls are added to `asked`.
    """
    card = cards()[worker] if isinstance(worker, str) else worker
    brief = WorkBrief(
        task="the task",
        worker=card,
        objective=objective,
        expects="",
        context="",
        constraints=(),
        inputs=inputs,
        dependencies=(),
    )
    scope = ToolScope(inputs=inputs, roots=tuple(roots))
    known = {outcome.id: outcome for outcome in outcomes}
    messages: list[Message] = []
    while True:
        reply = await ask(brief, *messages, tools=card.tools, output_schema=output_schema)
        if not reply.tool_calls:
            return reply
        if asked is not None:
            asked += reply.tool_calls
        came = [
            known.get(call.id) or await _outcome(call, card, scope) for call in reply.tool_calls
        ]
        messages += [
            AssistantMessage(tool_calls=reply.tool_calls),
            ToolMessage(outcomes=tuple(came)),
        ]


async def _outcome(call: ToolCall, card: WorkerCard, scope: ToolScope) -> ToolOutcome:
    try:
        said = await default_tools().here(card.tools).get(call.name).call(call.arguments, scope)
    except ToolCallError as exc:
        return ToolOutcome(id=call.id, text=str(exc), failed=True)
    assert isinstance(said, str)
    return ToolOutcome(id=call.id, text=said)


def result(worker: str, text: str, **fields: Any) -> WorkResult:
    """Return how a subtask ended."""
    usual: dict[str, Any] = {
        "subtask_id": "s1",
        "worker": worker,
        "objective": "the objective",
        "status": "succeeded",
        "text": text,
    }
    return WorkResult(**(usual | fields))


async def synthesis(*results: WorkResult, output_schema: JsonSchema | None = None) -> str:
    """Return the answer made of some results."""
    brief = SynthesisBrief(task="the task", results=results)
    return (await ask(brief, output_schema=output_schema)).text
