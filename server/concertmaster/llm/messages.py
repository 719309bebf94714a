"""What the engine asks of a model, and what it gets back.

A `Request` holds both the rendered conversation (`system`, `messages`), which language
models read, and the `brief` it was rendered from, which the offline model reads. The
engine never knows which of them answers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol, get_args

from pydantic import Field, JsonValue

from concertmaster.llm.rate_limit import Allowance
from concertmaster.llm.usage import NO_USAGE, Frozen, Text, Usage

MediaType = Literal["image/png", "image/jpeg", "image/gif", "image/webp"]
"""What models can look at."""


class Image(Frozen):
    """An image, whole."""

    media_type: MediaType
    data: str
    """Its bytes in base64."""

    def __str__(self) -> str:
        """Return what it is, in words, without its data."""
        return f"{self.media_type}, {decoded_bytes(self.data):,} bytes"


def decoded_bytes(base64: str) -> int:
    """Return how many bytes a text in base64 stands for."""
    return len(base64) * 3 // 4 - base64[-2:].count("=")


ServerToolName = Literal["web_search", "web_fetch", "code_execution"]

SERVER_TOOLS: tuple[ServerToolName, ...] = get_args(ServerToolName)

FETCHED_TOKENS = 10_000
"""How much of a fetched page a model reads, about, at most."""

FOUND_TOKENS: dict[ServerToolName, int] = {
    "web_search": 8_000,
    "web_fetch": FETCHED_TOKENS,
    "code_execution": 1_000,
}
"""Tokens that one use of a tool gives a model to read: hardly ever more."""

CITED_CHARS = 300
"""How much of a cited text is kept."""

MOST_SOURCES = 30
"""How many sources of one result are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTool:
    """A tool that the provider may call, and within which bounds."""

    name: ServerToolName
    max_uses: int
    """How often, at most. For `code_execution` the provider takes no such bound."""
    allowed_domains: tuple[str, ...] = ()
    """The only ones that it may reach; all where there are none."""
    blocked_domains: tuple[str, ...] = ()


class ServerToolUse(Frozen):
    """One use that the provider made of a tool."""

    id: str
    name: str
    arguments: dict[str, JsonValue] = Field(default_factory=dict[str, JsonValue])
    result: Text = ""
    """What came of it, in words, cut where it is long."""
    result_chars: int = 0
    """How long that was before it was cut."""
    error: Text = ""
    """The provider's word for what went wrong: `max_uses_exceeded`, `url_not_allowed`…"""
    pending: bool = False
    """Whether what came of it is told in a later reply."""
    ago: float = 0.0
    """Seconds from its beginning to the end of the reply."""
    seconds: float = 0.0


class Source(Frozen):
    """Where something that a reply says comes from."""

    url: Text
    title: Text = ""
    cited: Text = ""
    """The words there that it rests on."""

    @property
    def line(self) -> str:
        """Return all of it in one line."""
        title = f"{self.title}, " if self.title else ""
        cited = f": “{self.cited}”" if self.cited else ""
        return f"{title}{self.url}{cited}"


def distinct(*groups: tuple[Source, ...]) -> tuple[Source, ...]:
    """Return the sources of all groups, each passage once, and no more of them than are kept."""
    return tuple(dict.fromkeys(source for group in groups for source in group))[:MOST_SOURCES]


JsonSchema = dict[str, Any]
"""A JSON Schema (2020-12) as plain data."""


def closed_object(properties: Mapping[str, Any]) -> JsonSchema:
    """Return the JSON Schema of an object with exactly these properties."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


StopReason = Literal["end", "max_tokens", "tool_use", "refusal", "pause", "context_full"]
"""Why a reply ended. `end` is the only one that means it is whole."""


class ToolCall(Frozen):
    """A model's wish to have a worker tool called."""

    id: str
    name: str
    arguments: dict[str, JsonValue]


class ToolOutcome(Frozen):
    """What a worker tool answered to the call with this `id`."""

    id: str
    text: str
    failed: bool = False
    images: tuple[Image, ...] = Field(default=(), exclude_if=lambda images: not images)
    """What the model is shown beside the text. A call that has failed has none."""


class UserMessage(Frozen):
    """Text for the model."""

    role: Literal["user"] = "user"
    text: str


class AssistantMessage(Frozen):
    """An earlier reply of the model in the same conversation."""

    role: Literal["assistant"] = "assistant"
    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    native: tuple[dict[str, JsonValue], ...] = ()
    """The `native` of that reply; where it is set, it says all that there is to say."""


class ToolMessage(Frozen):
    """The outcomes of all tool calls of the message before it."""

    role: Literal["tool"] = "tool"
    outcomes: tuple[ToolOutcome, ...]


Message = Annotated[UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    """A worker tool as a model sees it."""

    name: str
    """`read_file`; or `SERVER.TOOL`, for a tool of an MCP server."""
    description: str
    input_schema: JsonSchema
    effects: bool = False
    """Whether a call may change something, so that the operator has to allow it."""
    parallel: bool = True
    """Whether it may be called while other calls of the same reply are under way."""
    outward: bool = False
    """Whether others learn what it is called with, so that a guard has to let that pass."""
    local: bool = False
    """Whether it tells of inputs and files alone, so that it can be asked again at no cost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One input of a run: a name and its text."""

    name: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerCard:
    """What a planner knows of a worker."""

    name: str
    description: str
    best_for: tuple[str, ...] = ()
    not_for: tuple[str, ...] = ()
    needs: str = ""
    tools: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkResult:
    """How a subtask ended, as later steps of the run are told."""

    subtask_id: str
    worker: str
    objective: str
    status: str
    text: str
    problem: str = ""
    """Why there is no result, or what is missing from it."""
    sources: tuple[str, ...] = ()
    """What it cites, a line each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanBrief:
    """The facts behind a planning request."""

    task: str
    inputs: tuple[Document, ...]
    workers: tuple[WorkerCard, ...]
    max_subtasks: int
    problems: tuple[str, ...] = ()
    """What was wrong with the previous plan, when it has to be written again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkBrief:
    """The facts behind a worker's request."""

    task: str
    worker: WorkerCard
    objective: str
    expects: str
    context: str
    constraints: tuple[str, ...]
    inputs: tuple[Document, ...]
    dependencies: tuple[WorkResult, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthesisBrief:
    """The facts behind the synthesis of a run, or behind condensing some results for it."""

    task: str
    results: tuple[WorkResult, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgementBrief:
    """The facts behind a request to judge work or to decide what to do next."""

    task: str
    act: str
    """What is asked for, as a verb: `criticise a result`, `decide what to do next`."""


Brief = PlanBrief | WorkBrief | SynthesisBrief | JudgementBrief


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One call of a model.

    A language model reads `system`, then `shared` and the first message as one user turn, then the
    other messages. What comes earlier is shared more widely, so that providers can cache it:
    `system` by all requests of a kind, `shared` by all workers of a run that have the same inputs.
    """

    caller: str
    """Who asks: `planner`, `worker:NAME`, `critic`, `judge`, `condenser`, `synthesizer`…"""
    run_id: str = ""
    """The run that asks. Runs take turns where calls have to wait."""
    model: str
    """A model id, or one of the aliases `opus`, `sonnet`, `haiku`."""
    system: str
    shared: str = ""
    """The inputs, fenced as data. May be empty."""
    messages: Sequence[Message]
    """Begins with a user message; user and tool messages alternate with assistant ones."""
    brief: Brief
    max_tokens: int
    """Upper bound of the reply, in tokens."""
    output_schema: JsonSchema | None = None
    """When set, the reply's text is to be one JSON value of this schema."""
    reports_outcome: bool = False
    """Whether the reply may also report that the objective was not met; see `outcomes`."""
    tools: Sequence[ToolSpec] = ()
    server_tools: Sequence[ServerTool] = ()
    """What the provider may call itself, within this call."""
    container: str = ""
    """Where the provider ran code for an earlier reply, so that it goes on there."""


class Reply(Frozen):
    """A model's answer to one request.

    The text of a request with an output schema should be JSON of that schema, but nobody
    has checked it yet: a cut or malformed reply is still a reply, and its usage counts.
    """

    text: Text
    stop_reason: StopReason
    usage: Usage
    tool_calls: tuple[ToolCall, ...] = ()
    detail: Text = ""
    """The provider's explanation, when it gave one for stopping."""
    native: tuple[dict[str, JsonValue], ...] = ()
    """The reply in the provider's own form, where it has to be given back unchanged for the
    conversation to go on; nobody but the model that wrote it reads it."""
    server_tool_uses: tuple[ServerToolUse, ...] = ()
    """What the provider called itself."""
    sources: tuple[Source, ...] = ()
    """What the text cites."""
    container: str = ""
    """Where the provider ran code, if it did."""

    @property
    def paused(self) -> bool:
        """Tell whether the provider goes on with it once it is given back."""
        return self.stop_reason == "pause" and bool(self.native)


class Draft:
    """A reply in the making, for whoever wants it before it is whole or is never made whole.

    The model updates it as text arrives; `watch` is called after each update. An attempt
    that is repeated starts again with empty text, while `usage` keeps what it cost, and
    `may_repeat` is asked before with what that is.
    """

    def __init__(self, watch: "Callable[[Draft], None] | None" = None) -> None:
        self.text = ""
        """The text so far of the attempt under way."""
        self.usage = NO_USAGE
        """What the provider has charged so far, earlier attempts included."""
        self.allowance: Allowance | None = None
        """What the provider has said, in answer to this attempt, that it will still take."""
        self.may_repeat: Callable[[Usage], bool] = lambda _spent: True
        """Whether there may be another attempt, where those so far have cost something."""
        self.measure: Callable[[], Usage] = lambda: self.usage
        """Returns the usage as of now, which `usage` lags behind while text arrives."""
        self.on_usage: Callable[[], None] = lambda: None
        """Called after each update of the usage."""
        self._watch = watch

    def update(
        self,
        *,
        text: str | None = None,
        usage: Usage | None = None,
        allowance: Allowance | None = None,
    ) -> None:
        """Replace what is given."""
        if text is not None:
            self.text = text
        if usage is not None:
            self.usage = usage
        if allowance is not None:
            self.allowance = allowance
        if usage is not None:
            self.on_usage()
        if self._watch is not None:
            self._watch(self)


class LLM(Protocol):
    """Anything that can answer a request."""

    async def complete(self, request: Request, draft: Draft, /) -> Reply:
        """Return the reply, keeping `draft` up to date while it arrives.

        The reply's usage covers every attempt that was made for it, and so does that of
        an error. When the call is cancelled, `draft` tells what had arrived and what it
        had cost.

        Raises:
            ModelRequestError: repeating the call would be useless.
            ModelUnavailableError: the provider did not answer; retries are used up.
            ModelReplyError: what came back is not a reply.
        """
        ...

    def model_name(self, model: str, /) -> str:
        """Return the id of the model that `model`, an id or alias, stands for."""
        ...

    def expected(self, model: str, usage: Usage, /) -> Usage:
        """Return what a call of `model` that takes these tokens will report, price included."""
        ...

    @property
    def notice(self) -> str:
        """Return what every reader of an answer must know of this model; mostly empty."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """Which model each role uses: an id, or an alias."""

    planner: str = "opus"
    worker: str = "sonnet"
    synthesizer: str = "opus"
