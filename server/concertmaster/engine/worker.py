"""What a worker is asked to do of a subtask."""

from concertmaster.catalog.definitions import WorkerDefinition
from concertmaster.engine.conversation import Conversation
from concertmaster.engine.replies import Verdict
from concertmaster.engine.run import bullets, fenced_inputs, fenced_results, input_names
from concertmaster.engine.work import WHOLE, Piece, Work
from concertmaster.llm.protocol import (
    Document,
    Request,
    ToolCall,
    ToolOutcome,
    UserMessage,
    WorkBrief,
)
from concertmaster.tools.registry import ToolScope


async def do(work: Work, piece: Piece = WHOLE) -> Verdict:
    """Return what a worker's answer to a piece of the work is worth."""
    async with work.slot():
        return await conversation(work, piece).verdict(seconds=work.seconds(piece.worker))


def conversation(work: Work, piece: Piece = WHOLE) -> Conversation:
    """Return the conversation in which a worker does a piece of the work."""
    worker = work.workers.get(piece.worker or work.subtask.worker)
    documents = work.inputs if piece.documents is None else piece.documents
    request = _request(work, piece, worker, documents)
    scope = ToolScope(inputs=documents, roots=work.setup.roots)
    tools = work.setup.tools

    async def call_tool(step: str, call: ToolCall) -> ToolOutcome:
        async def make() -> str:
            return await tools.get(call.name, worker.tools).call(call.arguments, scope)

        return await work.run.steps.tool(step, call, make, subtask_id=work.subtask.id)

    return Conversation(
        work.run,
        work.setup,
        request,
        step=work.step(piece.step),
        subtask_id=work.subtask.id,
        call_tool=call_tool,
        max_turns=worker.max_turns,
    )


def _request(
    work: Work, piece: Piece, worker: WorkerDefinition, documents: tuple[Document, ...]
) -> Request:
    request, subtask = work.run.request, work.subtask
    context = "\n".join(
        filter(None, [request.context, *(f"{key}: {text}" for key, text in piece.context.items())])
    )
    prompt = work.setup.prompts.render(
        "work",
        worker=worker.name,
        instructions=worker.instructions,
        task=request.task,
        objective=subtask.objective,
        expects=subtask.expects or "What the instructions say.",
        context=context or "None.",
        constraints=bullets(request.constraints),
        input_names=input_names(documents),
        dependencies=fenced_results(work.dependencies),
    )
    asked_for = request.output_schema if request.kind == "worker" else None
    return Request(
        caller=f"worker:{worker.name}",
        model=piece.model or worker.model or work.setup.models.worker,
        system=prompt.system,
        shared=fenced_inputs(documents),
        messages=(UserMessage(text=prompt.user),),
        brief=WorkBrief(
            task=request.task,
            worker=worker.card(),
            objective=subtask.objective,
            expects=subtask.expects,
            context=context,
            constraints=request.constraints,
            inputs=documents,
            dependencies=tuple(work.dependencies),
        ),
        max_tokens=work.max_tokens(worker.name),
        output_schema=asked_for or worker.output_schema,
        tools=work.setup.tools.specs(worker.tools),
    )
