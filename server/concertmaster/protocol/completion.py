"""Completion: what parameters of resources and arguments of prompts may be."""

from contextlib import suppress

from mcp.types import (
    Completion,
    CompletionArgument,
    CompletionContext,
    PromptReference,
    ResourceTemplateReference,
)

from concertmaster.errors import RequestError
from concertmaster.protocol.prompts import JobPrompts
from concertmaster.protocol.resources import protocol_errors
from concertmaster.protocol.state import ServerState

COMPLETIONS = 100
"""The most values that one completion may have."""


async def complete(
    server: ServerState,
    prompts: JobPrompts,
    reference: PromptReference | ResourceTemplateReference,
    argument: CompletionArgument,
    context: CompletionContext | None,
) -> Completion:
    """Return what a parameter of a resource template or an argument of a prompt may be."""
    if isinstance(reference, PromptReference):
        fitting = await prompts.complete(reference.name, argument.name, argument.value)
    else:
        # No two templates mean different things by the same parameter.
        with protocol_errors():
            known = await _known(server, argument.name, context)
        fitting = [value for value in known if value.startswith(argument.value)]
    return Completion(values=fitting[:COMPLETIONS], total=len(fitting), has_more=False)


async def _known(
    server: ServerState, parameter: str, context: CompletionContext | None
) -> list[str]:
    service = await server.service()
    match parameter:
        case "name":
            return list(service.catalog.names)
        case "run_id":
            return [state.run_id for state in (await service.recent(COMPLETIONS)).states]
        case "subtask_id":
            given = (context.arguments if context is not None else None) or {}
            with suppress(RequestError):
                return list((await service.get(given.get("run_id", ""))).subtasks)
        case _:
            pass
    return []
