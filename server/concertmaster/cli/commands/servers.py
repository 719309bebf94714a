"""The subcommand about other MCP servers: `servers`."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import click
import tomlkit
from pydantic import JsonValue
from rich.table import Table
from tomlkit.exceptions import TOMLKitError

from concertmaster.cli.app import FAILED
from concertmaster.cli.options import json_option, load, run_async
from concertmaster.cli.view.formatting import count, one_line
from concertmaster.cli.view.terminal import print_aside, print_data, print_json, table_of
from concertmaster.errors import SettingsError, ToolCallError
from concertmaster.llm.messages import ToolSpec
from concertmaster.settings.load import Settings, settings_file
from concertmaster.tools.mcp.config import read_client_servers
from concertmaster.tools.mcp.pool import Server, open_servers
from concertmaster.tools.registry import ToolPolicy

KEYS = ("mcpServers", "mcp_servers")
"""How the servers may be called in a settings file; the first where there is none yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerReport:
    """What a look at a server showed."""

    name: str
    about: str = ""
    """What it is, in short."""
    tools: tuple[ToolSpec, ...] = ()
    problem: str = ""
    """Why it cannot be used; nothing if it can."""


async def look_at_servers(settings: Settings) -> list[ServerReport]:
    """Start all servers at once and return what each is and has."""

    async def look(name: str) -> ServerReport:
        return await _look(name, servers[name])

    async with open_servers(settings.mcp_servers, call_seconds=settings.tool_seconds) as servers:
        return await anyio.amap(look, servers)


async def _look(name: str, server: Server) -> ServerReport:
    try:
        tools = tuple(tool.spec for tool in await server.tools())
        about = await server.about()
    except ToolCallError as exc:
        return ServerReport(name=name, problem=str(exc))
    parts = filter(None, [f"{about.name} {about.version}".strip(), f"MCP {about.protocol}"])
    return ServerReport(name=name, about=", ".join(parts), tools=tools)


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def servers(context: click.Context, as_json: bool) -> None:
    """List the MCP servers whose tools workers may call, and their tools.

    Each is started for that. Exits with 1 if one cannot be used.
    """
    if context.invoked_subcommand is not None:
        return
    settings = load({}).settings
    policy = ToolPolicy(settings.tool_policy)
    reports = run_async(lambda: look_at_servers(settings))
    if as_json:
        print_json({"servers": [_json(report, policy) for report in reports]})
    elif reports:
        print_data(_table(reports, policy))
    else:
        print_aside("There are no servers. To take over a client's: concertmaster servers import")
    for report in reports:
        if report.problem:
            print_aside(f"Error: {report.problem}", "red")
    context.exit(FAILED if any(report.problem for report in reports) else 0)


def _table(reports: list[ServerReport], policy: ToolPolicy) -> Table:
    table = table_of("tool", "changes", "policy", "description")
    for report in reports:
        about = report.about or "cannot be used"
        table.add_row(report.name, "", "", f"{about}: {count(len(report.tools), 'tool')}")
        for spec in report.tools:
            may_change = "maybe" if spec.effects else "nothing"
            description = one_line(spec.description)
            table.add_row(f"  {spec.name}", may_change, policy.decision(spec), description)
    return table


def _json(report: ServerReport, policy: ToolPolicy) -> JsonValue:
    return {
        "name": report.name,
        "about": report.about,
        "problem": report.problem,
        "tools": [
            {
                "name": spec.name,
                "description": spec.description,
                "may_change_something": spec.effects,
                "policy": policy.decision(spec),
            }
            for spec in report.tools
        ],
    }


@servers.command("import")
@click.argument("file", type=click.Path(path_type=Path))
def import_servers(file: Path) -> None:
    """Take over the servers of another MCP client into the settings.

    FILE is its configuration, such as claude_desktop_config.json or .mcp.json. Servers that
    the settings have already stay as they are.
    """
    try:
        found = read_client_servers(file.read_text(encoding="utf-8"))
    except OSError as exc:
        raise SettingsError(f"{file} cannot be read: {exc.strerror}.") from None
    except SettingsError as exc:
        raise SettingsError(f"{file}: {exc}") from None
    for note in found.notes:
        print_aside(note, "yellow")
    target = settings_file().resolve()
    added = add_servers(target, found.entries)
    print_aside(f"{target}: {', '.join(added) or 'nothing'} added")
    if added:
        print_aside(f"Name them in a worker file, such as `tools: [{added[0]}.*]`.")


def add_servers(file: Path, entries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Write servers into a settings file that it does not have yet, and return their names.

    Everything else in the file stays as it is. Afterwards it is closed to other users.

    Raises:
        SettingsError: the file cannot be read or written.
    """
    try:
        document = tomlkit.parse(file.read_text(encoding="utf-8") if file.exists() else "")
        key = next((key for key in KEYS if key in document), KEYS[0])
        there = document.setdefault(key, tomlkit.table(is_super_table=True))
        added = [name for name in entries if name not in there]
        for name in added:
            there[name] = entries[name]
        if added:
            _replace(file, tomlkit.dumps(document))
    except (TOMLKitError, UnicodeDecodeError) as exc:
        raise SettingsError(f"{file} is no valid TOML: {exc}.") from None
    except OSError as exc:
        raise SettingsError(f"{file} cannot be written: {exc.strerror}.") from None
    return added


def _replace(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    # Made readable for its owner alone: what servers are given is mostly a key.
    number, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    with os.fdopen(number, "w", encoding="utf-8") as new:
        new.write(text)
    Path(name).replace(file)
