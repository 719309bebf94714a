"""One subtask, carried out by its worker."""

import logging
from collections.abc import Sequence

from concertmaster.catalog.definitions import WorkerDefinition
from concertmaster.engine.conversation import Conversation
from concertmaster.engine.events import SubtaskResult
from concertmaster.engine.plan import Subtask
from concertmaster.engine.replies import Verdict
from concertmaster.engine.run import (
    Run,
    Setup,
    bullets,
    fenced_inputs,
    fenced_results,
    input_names,
)
from concertmaster.errors import StoreError
from concertmaster.llm.protocol import (
    Request,
    ToolCall,
    ToolOutcome,
    UserMessage,
    WorkBrief,
    WorkResult,
)
from concertmaster.tools.registry import ToolScope

log = logging.getLogger(__name__)


async def carry_out(
    run: Run,
    setup: Setup,
    subtask: Subtask,
    dependencies: Sequence[WorkResult],
    *,
    seconds: float,
) -> SubtaskResult:
    """Return how the subtask ended, within `seconds` and whatever goes wrong in it."""
    started = run.steps.now()
    verdict = await _verdict(run, setup, subtask, dependencies, seconds)
    return SubtaskResult(
        subtask_id=subtask.id,
        worker=subtask.worker,
        status=verdict.status,
        text=verdict.text,
        value=verdict.value,
        errors=(verdict.problem,) if verdict.problem else (),
        usage=run.steps.usage(subtask.id),
        seconds=run.steps.now() - started,
    )


async def _verdict(
    run: Run,
    setup: Setup,
    subtask: Subtask,
    dependencies: Sequence[WorkResult],
    seconds: float,
) -> Verdict:
    worker = setup.catalog.get(subtask.worker)
    scope = ToolScope(inputs=run.inputs_of(subtask), roots=setup.roots)

    async def call_tool(step: str, call: ToolCall) -> ToolOutcome:
        async def make() -> str:
            return await setup.tools.get(call.name, worker.tools).call(call.arguments, scope)

        return await run.steps.tool(step, call, make, subtask_id=subtask.id)

    conversation = Conversation(
        run,
        setup,
        _request(run, setup, subtask, worker, dependencies),
        step=f"subtask/{subtask.id}",
        subtask_id=subtask.id,
        call_tool=call_tool,
        max_turns=worker.max_turns,
    )
    try:
        return await conversation.verdict(seconds=seconds)
    except StoreError:
        raise
    except Exception as exc:
        # A fault in a tool or in this program fails one subtask and not its siblings.
        log.exception("subtask broke", extra={"subtask": subtask.id})
        return conversation.broken_off(f"An internal error ended it: {type(exc).__name__}.")


def _request(
    run: Run,
    setup: Setup,
    subtask: Subtask,
    worker: WorkerDefinition,
    dependencies: Sequence[WorkResult],
) -> Request:
    request = run.request
    inputs = run.inputs_of(subtask)
    prompt = setup.prompts.render(
        "work",
        worker=worker.name,
        instructions=worker.instructions,
        task=request.task,
        objective=subtask.objective,
        expects=subtask.expects or "What the instructions say.",
        context=request.context or "None.",
        constraints=bullets(request.constraints),
        input_names=input_names(inputs),
        dependencies=fenced_results(dependencies),
    )
    asked_for = request.output_schema if request.kind == "worker" else None
    return Request(
        caller=f"worker:{worker.name}",
        model=worker.model or setup.models.worker,
        system=prompt.system,
        shared=fenced_inputs(inputs),
        messages=(UserMessage(text=prompt.user),),
        brief=WorkBrief(
            task=request.task,
            worker=worker.card(),
            objective=subtask.objective,
            expects=subtask.expects,
            context=request.context,
            constraints=request.constraints,
            inputs=inputs,
            dependencies=tuple(dependencies),
        ),
        max_tokens=subtask.max_tokens or worker.max_tokens or request.limits.max_tokens,
        output_schema=asked_for or worker.output_schema,
        tools=setup.tools.specs(worker.tools),
    )
