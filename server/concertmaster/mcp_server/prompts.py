"""The MCP prompts: a ready-made job each, which becomes a call of `run_orchestration`."""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mcp.types import (
    Completion,
    CompletionArgument,
    CompletionContext,
    GetPromptResult,
    Prompt,
    PromptArgument,
    PromptMessage,
    PromptReference,
    ResourceTemplateReference,
    TextContent,
)

from concertmaster.errors import RequestError, did_you_mean
from concertmaster.mcp_server.context import ServerState
from concertmaster.mcp_server.resources import protocol_errors
from concertmaster.mcp_server.results import request_errors

if TYPE_CHECKING:
    from concertmaster.runs.jobs import Job, JobArgument
    from concertmaster.runs.orders import RunOrder


LoadJobs = Callable[[], Awaitable[Mapping[str, "Job"]]]
"""Returns the jobs there are, by name."""


async def no_jobs() -> Mapping[str, "Job"]:
    """Return no jobs."""
    return {}


CALL = """\
Call the tool run_orchestration with exactly these arguments. The plan is complete: do not call \
plan_task, and do not read the files yourself.

```json
{call}
```

If the reply has the status running, call get_run with its run_id and wait_seconds 45 until it has \
another. Then give the answer to the user as it is. If the status is partial or failed, say what \
is missing, from reasons. If the reply has a notice, pass it on."""

DIFF = """

The changed files are in the resource that links.diff of the reply names, as a unified diff. \
Nothing has been written. Show the diff to the user, and change files by it only if the user says \
so."""


class JobPrompts:
    """The prompts of a server."""

    def __init__(self, server: ServerState, load: LoadJobs) -> None:
        self._server = server
        self._load = load
        self._jobs: Mapping[str, Job] | None = None

    async def list(self) -> list[Prompt]:
        """Return all prompts."""
        return [_prompt(job) for job in (await self._all()).values()]

    async def get(self, name: str, given: Mapping[str, str]) -> GetPromptResult:
        """Return a prompt that says which call does the job.

        Raises:
            MCPError: there is no such prompt, or its arguments will not do.
        """
        with request_errors():
            job = await self._job(name)
            order = await self._order(job, given)
        text = CALL.format(call=json.dumps(_call(order), ensure_ascii=False, indent=2))
        content = TextContent(type="text", text=text + DIFF * job.changes_files)
        return GetPromptResult(
            description=job.description, messages=[PromptMessage(role="user", content=content)]
        )

    async def complete(self, name: str, argument: str, begun: str) -> "list[str]":
        """Return what an argument may be that has been `begun`.

        Raises:
            MCPError: there is no such prompt.
        """
        with request_errors():
            job = await self._job(name)
            found = next((item for item in job.arguments if item.name == argument), None)
            if found is None:
                return []
            # Of several with commas between them, the last is being written.
            before, comma, last = begun.rpartition(",") if found.several else ("", "", begun)
            space = " " * (len(last) - len(last.lstrip()))
            values = await self._values(found, last.lstrip())
        return [
            f"{before}{comma}{space}{value}" for value in values if value.startswith(last.lstrip())
        ]

    async def _values(self, argument: "JobArgument", begun: str) -> Sequence[str]:
        match argument.kind:
            case "worker":
                return (await self._server.service()).catalog.names
            case "files":
                return await (await self._server.service()).complete_path(begun)
            case "text":
                return argument.choices

    async def _all(self) -> Mapping[str, "Job"]:
        if self._jobs is None:
            self._jobs = await self._load()
        return self._jobs

    async def _job(self, name: str) -> "Job":
        jobs = await self._all()
        if name not in jobs:
            raise RequestError(f"There is no prompt {name!r}. {did_you_mean(name, jobs)}")
        return jobs[name]

    async def _order(self, job: "Job", given: Mapping[str, str]) -> "RunOrder":
        """Return the order, which the tool would take at this moment."""
        arguments = job.check(job.split(given))
        service = await self._server.service()
        order = job.order(arguments, await service.input_names(job.inputs(arguments)))
        await service.check(order)
        return order


def _prompt(job: "Job") -> Prompt:
    return Prompt(
        name=job.name,
        title=job.title,
        description=job.description,
        arguments=[
            PromptArgument(name=item.name, description=_described(item), required=item.required)
            for item in job.arguments
        ],
    )


def _described(argument: "JobArgument") -> str:
    """Return what an argument is, and how to write it into one line."""
    parts = [argument.description]
    if argument.choices:
        parts.append(f"One of: {', '.join(argument.choices)}.")
    if argument.several:
        parts.append(f"{argument.amount} with commas between them.")
    if argument.default:
        parts.append(f"Default: {', '.join(argument.default)}.")
    return " ".join(parts)


def _call(order: "RunOrder") -> dict[str, Any]:
    """Return an order as the arguments of `run_orchestration`."""
    plan = order.plan.model_dump(mode="json", exclude_defaults=True) if order.plan else {}
    call = {
        "task": order.task,
        "inputs": order.inputs,
        "max_subtasks": order.max_subtasks,
        "plan": plan,
    }
    return {name: value for name, value in call.items() if value}


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
