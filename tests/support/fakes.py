"""The fakes of all tests: a model and a worker tool. Everything else is real."""

import inspect
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import anyio.lowlevel
from pydantic import JsonValue

from concertmaster.engine.plan.plan import Subtask
from concertmaster.errors import ToolCallError
from concertmaster.llm.messages import Draft, JsonSchema, Reply, Request, ToolSpec
from concertmaster.llm.pricing import Rates
from concertmaster.llm.usage import Usage
from concertmaster.tools.images import Illustrated, OfferedImage
from concertmaster.tools.scope import ToolScope

USAGE = Usage(
    model="fake", calls=1, attempts=1, tokens_in=100, tokens_out=10, usd=0.01, seconds=1.0
)

FREE = Rates(input=0, output=0)

UNPLANNED = {"timeout_seconds", "max_tokens", "budget_usd"}
"""What planners leave to the operator and to people who edit plans."""

Answer = str | Reply | Exception
Script = Answer | Callable[[Request], Answer | Awaitable[Answer]]


class FakeLLM:
    """Answers each request by its caller, so that it does not matter who comes first.

    A script is an answer, or a function of the request, which may wait. Callers that have
    none get `default`.
    """

    def __init__(self, scripts: Mapping[str, Script] | None = None, *, default: Script = "done"):
        self.scripts = dict(scripts or {})
        self.default = default
        self.requests: list[Request] = []
        self.notice = ""
        self.rates = FREE

    def model_name(self, model: str, /) -> str:
        return f"fake-{model}"

    def expected(self, _model: str, usage: Usage, /) -> Usage:
        return usage.model_copy(update={"usd": self.rates.cost(usage)})

    async def complete(self, request: Request, draft: Draft, /) -> Reply:
        self.requests.append(request)
        await anyio.lowlevel.checkpoint()
        answer = self.scripts.get(request.caller, self.default)
        if callable(answer):
            answer = answer(request)
        if inspect.isawaitable(answer):
            answer = await answer
        if isinstance(answer, Exception):
            raise answer
        reply = answer if isinstance(answer, Reply) else reply_with(answer)
        draft.update(text=reply.text, usage=reply.usage)
        return reply

    def callers(self) -> list[str]:
        """Return who asked, in order."""
        return [request.caller for request in self.requests]


def in_turn(*answers: Answer) -> Callable[[Request], Answer]:
    """Return a script that gives each answer once."""
    remaining = iter(answers)
    return lambda _request: next(remaining)


def reply_with(text: str, **fields: Any) -> Reply:
    """Return a whole reply, with the usual usage."""
    return Reply.model_validate({"text": text, "stop_reason": "end", "usage": USAGE} | fields)


def plan_json(*subtasks: Subtask, direct_answer: str | None = None, **fields: Any) -> str:
    """Return what a planner would write."""
    plan = {
        "analysis": "what it is about",
        "direct_answer": direct_answer,
        "mode": "static",
        "why": "all is known from the start",
        "verify": "none",
        "subtasks": [subtask.model_dump(mode="json", exclude=UNPLANNED) for subtask in subtasks],
    }
    return json.dumps(plan | fields)


def subtask(subtask_id: str, worker: str = "analyst", **fields: Any) -> Subtask:
    """Return a subtask of a plan."""
    return Subtask.model_validate(
        {"id": subtask_id, "worker": worker, "objective": f"do {subtask_id}"} | fields
    )


class FakeTool:
    """A worker tool that answers with a function of its arguments, or raises."""

    def __init__(
        self,
        name: str,
        answer: Callable[[Mapping[str, JsonValue], ToolScope], str | Awaitable[str]],
        **traits: bool,
    ):
        self._answer = answer
        schema: JsonSchema = {"type": "object", "properties": {}}
        self.spec = ToolSpec(
            name=name, description=f"the tool {name}", input_schema=schema, **traits
        )
        self.calls: list[Mapping[str, JsonValue]] = []

    async def call(self, arguments: Mapping[str, JsonValue], scope: ToolScope, /) -> str:
        self.calls.append(arguments)
        outcome = self._answer(arguments, scope)
        return await outcome if inspect.isawaitable(outcome) else outcome


class FakeCamera:
    """A worker tool that offers images beside a text, each time the same."""

    def __init__(self, *images: OfferedImage):
        self._images = images
        self.spec = ToolSpec(name="look", description="looks", input_schema={"type": "object"})
        self.calls = 0

    async def call(self, _arguments: Mapping[str, JsonValue], scope: ToolScope, /) -> Illustrated:
        self.calls += 1
        await anyio.lowlevel.checkpoint()
        return scope.images.illustrated(["seen", *self._images])


class FakeSource:
    """A source of tools; or one that cannot be reached, where there is a `problem`."""

    def __init__(self, *tools: FakeTool, problem: str = ""):
        self._tools = tools
        self._problem = problem

    async def tools(self) -> Sequence[FakeTool]:
        await anyio.lowlevel.checkpoint()
        if self._problem:
            raise ToolCallError(self._problem)
        return self._tools


def wants(*calls: tuple[str, Mapping[str, JsonValue]]) -> Reply:
    """Return a reply that asks for tool calls."""
    tool_calls = [
        {"id": f"call-{number}", "name": name, "arguments": dict(arguments)}
        for number, (name, arguments) in enumerate(calls, start=1)
    ]
    return Reply.model_validate(
        {"text": "", "stop_reason": "tool_use", "usage": USAGE, "tool_calls": tool_calls}
    )


def texts(requests: Sequence[Request]) -> list[str]:
    """Return the first user text of each request."""
    return [getattr(request.messages[0], "text", "") for request in requests]
