"""What a worker file says, once it has been read and checked."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from concertmaster.catalog.frontmatter import MarkdownFile, read_markdown
from concertmaster.errors import did_you_mean
from concertmaster.llm.messages import JsonSchema, WorkerCard
from concertmaster.llm.structured import schema_problem

KEYS = frozenset(
    {
        "background",
        "color",
        "effort",
        "experimental",
        "hooks",
        "initialPrompt",
        "isolation",
        "memory",
        "omitClaudeMd",
        "permissionMode",
        "skills",
    }
)
"""Header keys that mean nothing here."""

SAME_TOOLS = {
    "Glob": "list_files",
    "Grep": "search_files",
    "LS": "list_files",
    "Read": "read_file",
    "WebFetch": "fetch_url",
    "WebSearch": "web_search",
}
"""The worker tool that does the work of a Claude Code tool."""

OTHER_TOOLS = frozenset(
    {
        "Agent",
        "AskUserQuestion",
        "Bash",
        "BashOutput",
        "CronCreate",
        "CronDelete",
        "CronList",
        "Edit",
        "EnterPlanMode",
        "EnterWorktree",
        "ExitPlanMode",
        "ExitWorktree",
        "KillBash",
        "KillShell",
        "LSP",
        "ListMcpResourcesTool",
        "Monitor",
        "MultiEdit",
        "NotebookEdit",
        "NotebookRead",
        "PowerShell",
        "ReadMcpResourceTool",
        "SendMessage",
        "Skill",
        "SlashCommand",
        "Task",
        "TaskCreate",
        "TaskGet",
        "TaskList",
        "TaskOutput",
        "TaskStop",
        "TaskUpdate",
        "TeamCreate",
        "TeamDelete",
        "TodoRead",
        "TodoWrite",
        "ToolSearch",
        "Write",
    }
)
"""Claude Code tools that no worker tool stands in for."""


BUILT_IN_TOOLS = frozenset(
    {
        "arxiv_search",
        "code_execution",
        "fetch_url",
        "lint",
        "list_files",
        "python",
        "read_file",
        "run_tests",
        "search_files",
        "web_fetch",
        "web_search",
    }
)
"""A worker file may name them everywhere; where one is missing, the worker goes without."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerDefinition:
    """A named specialist: when to use it, what it may do, and its instructions."""

    name: str
    description: str
    instructions: str
    """The Markdown body of the file."""
    file: Path
    best_for: tuple[str, ...] = ()
    not_for: tuple[str, ...] = ()
    input: str = ""
    """What the worker needs to be given."""
    tools: tuple[str, ...] = ()
    """Worker tools it may call, `SERVER.*` for all of a server; none unless the file names them."""
    refused_tools: tuple[str, ...] = ()
    """Tools of servers that it may not call although `tools` has them."""
    model: str | None = None
    """A model id or alias; None takes the run's worker model."""
    output_schema: JsonSchema | None = None
    examples: tuple[str, ...] = ()
    max_turns: int = 8
    max_tokens: int | None = None
    budget_usd: float | None = None
    """What all calls for one subtask may cost."""
    timeout_seconds: float | None = None
    lacks: tuple[str, ...] = ()
    """Worker tools that the file names and this server goes without."""
    ignored: tuple[str, ...] = ()
    """Keys of the file that other programs understand and that mean nothing here."""

    def card(self) -> WorkerCard:
        """Return what a planner is told of this worker."""
        return WorkerCard(
            name=self.name,
            description=self.description,
            best_for=self.best_for,
            not_for=self.not_for,
            needs=self.input,
            tools=self.tools,
        )


def _list(value: object) -> object:
    """Return the tuple that a YAML list, a comma-separated text or nothing stands for."""
    if value is None:
        return ()
    if isinstance(value, str):
        # A comma within parentheses belongs to the item: `Bash(git add:*, git commit:*)`.
        parts = re.split(r",(?![^(]*\))", value)
        return tuple(part.strip() for part in parts if part.strip())
    return tuple(cast("list[object]", value)) if isinstance(value, list) else value


def _texts(value: object) -> object:
    return _list([value] if isinstance(value, str) else value)


def _servers(value: object) -> object:
    """Return the names of MCP servers, which Claude Code allows to be described on the spot."""
    if isinstance(value, Mapping):
        return tuple(cast("Mapping[str, object]", value))
    items = _list(value)
    if not isinstance(items, tuple):
        return items
    parts = cast("tuple[object, ...]", items)
    return tuple(
        name
        for part in parts
        for name in (cast("Mapping[str, object]", part) if isinstance(part, Mapping) else (part,))
    )


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Names = Annotated[tuple[Text, ...], BeforeValidator(_list)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(_texts)]


class WorkerHeader(BaseModel):
    """The keys of a worker file's header that mean something here."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")
    description: Text
    best_for: Names = ()
    not_for: Names = ()
    input: Text | None = None
    tools: Names = ()
    disallowed_tools: Names = Field(default=(), alias="disallowedTools")
    mcp_servers: Annotated[tuple[Text, ...], BeforeValidator(_servers)] = Field(
        default=(), alias="mcpServers"
    )
    model: str | None = Field(default=None, pattern=r"^\S+$")
    output_schema: dict[str, Any] | None = None
    examples: Texts = ()
    max_turns: int = Field(default=8, alias="maxTurns", ge=1, le=1000)
    max_tokens: int | None = Field(default=None, ge=1)
    budget_usd: float | None = Field(default=None, gt=0)
    timeout_seconds: float | None = Field(default=None, gt=0)


def read_worker(file: Path, *, tools: Collection[str]) -> WorkerDefinition:
    """Return the worker that `file` defines, where `tools` are the worker tools there are.

    `SERVER.*` among these stands for all tools of an MCP server, whatever they are.

    Raises:
        DefinitionError: the file is wrong; the error names the line and the remedy.
    """
    source = read_markdown(file)
    header = source.parse_header(WorkerHeader, ignoring=KEYS)
    if header.output_schema is not None:
        _check_schema(source, header.output_schema)
    if not source.body:
        raise source.error("there are no instructions below the header")
    allowed = _worker_tools(source, "tools", header.tools, tools)
    disallowed = _worker_tools(source, "disallowedTools", header.disallowed_tools, tools)
    servers = {name: f"{name}.*" for name in header.mcp_servers}
    granted = [name for names in allowed.values() for name in names]
    granted += [name for name in servers.values() if name in tools]
    refused = [name for names in disallowed.values() for name in names]
    refused += [name for name in granted if f"{name.partition('.')[0]}.*" in refused]
    ignored = [key for key in source.header if key in KEYS]
    nameless = [name for name, stand_ins in allowed.items() if not stand_ins]
    ignored += [f"tools: {name}" for name in nameless if name not in BUILT_IN_TOOLS]
    ignored += [f"mcpServers: {name}" for name, them in servers.items() if them not in tools]
    return WorkerDefinition(
        name=header.name,
        description=header.description,
        instructions=source.body,
        file=file,
        best_for=header.best_for,
        not_for=header.not_for,
        input=header.input or "",
        tools=tuple(name for name in dict.fromkeys(granted) if name not in refused),
        refused_tools=tuple(name for name in refused if "." in name),
        model=None if header.model == "inherit" else header.model,
        output_schema=header.output_schema,
        examples=header.examples,
        max_turns=header.max_turns,
        max_tokens=header.max_tokens,
        budget_usd=header.budget_usd,
        timeout_seconds=header.timeout_seconds,
        lacks=tuple(name for name in nameless if name in BUILT_IN_TOOLS),
        ignored=tuple(ignored),
    )


def _check_schema(source: MarkdownFile, schema: JsonSchema) -> None:
    if problem := schema_problem(schema):
        raise source.error(f"output_schema {problem.text}", "output_schema", *problem.path)


def _worker_tools(
    source: MarkdownFile, key: str, names: Iterable[str], known: Collection[str]
) -> dict[str, tuple[str, ...]]:
    """Return the worker tools that each of `names` stands for; none for what is not here.

    `*` is all that are here: a worker gets tools of a server only if it names the server.
    """
    foreign = {*SAME_TOOLS, *OTHER_TOOLS}
    meaning: dict[str, tuple[str, ...]] = {}
    for name in names:
        # Claude Code may narrow a tool down: `Bash(git diff:*)`.
        bare = name.partition("(")[0].strip()
        if bare == "*":
            meaning[name] = tuple(sorted(tool for tool in known if not tool.endswith(".*")))
        elif tool := tool_named(bare, known):
            meaning[name] = (tool,)
        elif bare in foreign or bare in BUILT_IN_TOOLS or bare.startswith("mcp__"):
            meaning[name] = ()
        else:
            problem = f"unknown worker tool {bare!r}. {did_you_mean(bare, {*known, *foreign})}"
            if "." in bare:
                problem = f"{bare!r} is of an MCP server that the settings do not have"
            raise source.error(f"{key}: {problem}", key)
    return meaning


def tool_named(name: str, known: Collection[str]) -> str:
    """Return the tool that `name` stands for, in our words or Claude Code's; nothing if none.

    That of a server is `SERVER.TOOL` or `SERVER.*`; or `mcp__SERVER__TOOL`, `mcp__SERVER__*` or
    `mcp__SERVER`.
    """
    if (same := SAME_TOOLS.get(name, name)) in known:
        return same
    server, _, tool = name.partition(".")
    if name.startswith("mcp__"):
        server, _, tool = name.removeprefix("mcp__").partition("__")
        tool = tool or "*"
    return f"{server}.{tool}" if tool and f"{server}.*" in known else ""
