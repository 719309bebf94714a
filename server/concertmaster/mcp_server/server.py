"""The MCP server, put together."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
from mcp.server.caching import CacheableMethod
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.server.mcpserver import MCPServer, RequestStateSecurity
from mcp.server.runner import serve_dual_era_loop
from mcp.server.stdio import stdio_server
from mcp.server.subscriptions import ListenHandler
from mcp.types import (
    CallToolResult,
    GetPromptResult,
    InputRequiredResult,
    Prompt,
    SubscribeRequestParams,
    SubscriptionsListenRequestParams,
    UnsubscribeRequestParams,
)
from pydantic import AnyUrl

from concertmaster import __version__
from concertmaster.mcp_server.context import Ctx, ServerState, principal_of_caller
from concertmaster.mcp_server.elicitation import ANSWER_SECONDS
from concertmaster.mcp_server.incoming import Incoming, Outgoing
from concertmaster.mcp_server.lazy_service import OpenService, ServiceOnDemand, nobody
from concertmaster.mcp_server.middleware import FollowedListening, GuardedSubscriptions, watch
from concertmaster.mcp_server.prompts import JobPrompts, LoadJobs, complete, no_jobs
from concertmaster.mcp_server.resources import UNCHANGING, add_resources, hint_at_workers
from concertmaster.mcp_server.results import short_errors
from concertmaster.mcp_server.subscriptions import LegacySubscriptions
from concertmaster.mcp_server.tasks import RunTasks, TaskListening, TasksExtension, TaskSource
from concertmaster.mcp_server.tools import TASK_TOOLS, TOOLS
from concertmaster.mcp_server.transports.opening import Opening

if TYPE_CHECKING:
    from concertmaster.runs.principals import Principals


INSTRUCTIONS = """\
Concertmaster gets large tasks done by many specialists at once. It plans a task, hands each part \
to a worker with a context of its own, runs the parts in parallel as far as they do not depend on \
each other, and merges the findings into one answer. Files you name go to the workers and never \
come back into your context.

Use it for work with several angles or much material: reviewing code for security, performance, \
style and tests at once; going through a contract or a report; comparing, researching, checking. \
Answer small questions yourself.

- run_orchestration(task, inputs): the whole job in one call. Say in task what is wanted, for \
whom and in what form; name the files in inputs.
- plan_task, then run_orchestration(plan_id): the same with a look at the plan in between.
- The prompts are ready-made jobs: each says which call of run_orchestration does it.
- run_worker(worker, task, inputs): one specialist; workers://catalog lists them.
- get_run(run_id, wait_seconds): follow a run that is not over, read on in a long answer, or see \
one subtask's result. cancel_run(run_id) stops it; resume_run(run_id) goes on with it.

A call never blocks for long: if a run is not over after wait_seconds, the reply has status \
running (or queued: no process has room for it yet), and the run goes on. Read `next` in every \
reply: it says what to call. Statuses: succeeded; partial (an answer exists, what is missing is \
in reasons, tell the user); failed; cancelled; needs_approval (show the user the plan; only they \
can agree to it); interrupted (its process ended; resume_run goes on). Runs cost money when a \
language model is configured; `usage` says how much. If a reply has a `notice`, pass it on to the \
user.
"""

LISTS: tuple[CacheableMethod, ...] = (
    "server/discover",
    "tools/list",
    "resources/list",
    "resources/templates/list",
    "prompts/list",
)


LISTED_SECONDS = 0.1
"""How long the answer to `tools/list` has to get out before `listed` is called."""


def nothing() -> None:
    """Do nothing."""


class ConcertmasterServer(MCPServer[ServerState]):
    """An MCP server over one run service, which is opened when it is first needed."""

    def __init__(
        self,
        state: ServerState,
        load_jobs: LoadJobs,
        *,
        state_keys: Sequence[str] = (),
        keep_days: float | None = None,
        listed: Callable[[], object] = nothing,
    ) -> None:
        self.state = state
        self._listed: Callable[[], object] | None = listed
        self._keep_days = keep_days
        self._jobs = JobPrompts(self.state, load_jobs)
        tasks = self.task_source()
        super().__init__(
            name="concertmaster",
            title="Concertmaster",
            version=__version__,
            instructions=INSTRUCTIONS,
            tools=list(TOOLS),
            extensions=[TasksExtension(tasks)],
            subscriptions=self.state.bus,
            log_level="WARNING",
            cache_hints=dict.fromkeys(LISTS, UNCHANGING),
            middleware=[
                hint_at_workers,
                self._notice_listing,
                *([GuardedSubscriptions(self.state)] if state.tells_people_apart else []),
                FollowedListening(self.state),
            ],
            lifespan=lambda _: self.state.lifespan(),
            request_state_security=(
                RequestStateSecurity(keys=state_keys, ttl=ANSWER_SECONDS)
                if state_keys
                else RequestStateSecurity.ephemeral(ttl=ANSWER_SECONDS)
            ),
        )
        add_resources(self, self.state)
        self.completion()(partial(complete, self.state, self._jobs))
        self._serve_subscriptions(tasks)

    def task_source(self) -> TaskSource:
        """Return what answers calls with tasks."""
        return RunTasks(self.state, TASK_TOOLS, keep_days=self._keep_days)

    async def _notice_listing(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """Call `listed` once, soon after a client has been sent the tools."""
        result = await call_next(ctx)
        if ctx.method == "tools/list" and self._listed is not None:
            listed, self._listed = self._listed, None

            async def call_later() -> None:
                await anyio.sleep(LISTED_SECONDS)
                listed()

            self.state.start_soon(call_later)
        return result

    def _serve_subscriptions(self, tasks: TaskSource) -> None:
        bus = self.state.bus
        legacy = LegacySubscriptions(bus, self.state.start_soon, partial(watch, self.state))
        listening = TaskListening(ListenHandler(bus), tasks)
        add = self._lowlevel_server.add_request_handler
        add("resources/subscribe", SubscribeRequestParams, legacy.subscribe)
        add("resources/unsubscribe", UnsubscribeRequestParams, legacy.unsubscribe)
        add("subscriptions/listen", SubscriptionsListenRequestParams, listening)

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Ctx | None = None
    ) -> CallToolResult | InputRequiredResult:
        """Call a tool; an error is a text that clients can take."""
        with short_errors():
            return await super().call_tool(name, arguments, context)

    async def read_resource(
        self, uri: AnyUrl | str, context: Ctx | None = None
    ) -> Iterable[ReadResourceContents] | InputRequiredResult:
        """Read a resource; an error is a text that clients can take."""
        with short_errors():
            return await super().read_resource(uri, context)

    async def list_prompts(self) -> list[Prompt]:
        """Return a prompt for each job."""
        return await self._jobs.list()

    async def get_prompt(
        self, name: str, arguments: dict[str, Any] | None = None, context: Ctx | None = None
    ) -> GetPromptResult | InputRequiredResult:
        """Return the prompt of a job; an error is a text that clients can take."""
        del context  # It asks its client nothing.
        with short_errors():
            return await self._jobs.get(name, arguments or {})

    async def serve_stdio(self, stdin: anyio.AsyncFile[str], stdout: anyio.AsyncFile[str]) -> None:
        """Serve the client that writes to `stdin` and reads `stdout`, until it stops writing."""
        async with stdio_server(stdin=stdin, stdout=stdout) as (incoming, outgoing):
            await self.serve_session(incoming, outgoing)

    async def serve_session(self, incoming: Incoming, outgoing: Outgoing) -> None:
        """Serve one client, in the way of the protocol version that it begins with."""
        server = self._lowlevel_server
        opening = Opening(incoming, outgoing)
        options = server.create_initialization_options()
        async with server.lifespan(server) as state:
            serve = partial(
                serve_dual_era_loop, server, opening, lifespan_state=state, init_options=options
            )
            await serve(opening.outgoing)
            if opening.initialize is not None:
                await serve(outgoing)


def create_server(
    open_service: OpenService,
    load_jobs: LoadJobs = no_jobs,
    *,
    at_once: bool = False,
    principals: "Principals | None" = None,
    state_keys: Sequence[str] = (),
    keep_days: float | None = None,
    listed: Callable[[], object] = nothing,
) -> ConcertmasterServer:
    """Return the server that gives MCP clients access to a service, and to ready-made jobs.

    The service is opened when a call first needs it, or `at_once` when the server is first in
    use. With `principals`, callers must have a token, and see their own runs only. What clients
    carry from one call to the next is sealed with the first of `state_keys`, and opened with any;
    without one, this server alone can open it. Clients are told that tasks are kept `keep_days`.
    Soon after the tools have been listed for the first time, `listed` is called: a client that has
    them is about to call one.
    """
    whose = nobody if principals is None else principal_of_caller
    service = ServiceOnDemand(open_service, at_once=at_once, whose=whose)
    state = ServerState(service, principals=principals)
    return ConcertmasterServer(
        state, load_jobs, state_keys=state_keys, keep_days=keep_days, listed=listed
    )
