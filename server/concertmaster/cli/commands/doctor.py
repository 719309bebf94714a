"""The subcommand `doctor`: what is configured, what works, what is missing."""

import os
import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.metadata import version
from typing import Any, Literal

import click
from pydantic import JsonValue
from rich.table import Table
from rich.text import Text

from concertmaster.background.client import inquire
from concertmaster.background.files import ServerFiles, files_of_all
from concertmaster.cli.app import FAILED
from concertmaster.cli.bootstrap import (
    build_prompts,
    build_tools,
    connection_of,
    find_jobs,
    models_of,
    open_history,
    prices_of,
    prompt_folders,
    served_tools,
)
from concertmaster.cli.commands.servers import look_at_servers
from concertmaster.cli.commands.workers import read_definitions
from concertmaster.cli.environment import answering, place_of_runs
from concertmaster.cli.options import json_option, load, run_async, setup_options
from concertmaster.cli.view.formatting import count
from concertmaster.cli.view.terminal import print_data, print_json
from concertmaster.errors import ConcertmasterError
from concertmaster.llm.messages import SERVER_TOOLS, Document
from concertmaster.settings.load import SECRETS, LoadedSettings, Settings
from concertmaster.tools.registry import ToolPolicy, ToolRegistry
from concertmaster.tools.scope import ToolScope

PACKAGES = ("concertmaster", "mcp", "anthropic", "pydantic", "anyio")

WORKS_WITH = {
    "arxiv_search": ("arxiv",),
    "fetch_url": ("httpx2", "trafilatura"),
    "lint": ("ruff",),
    "python": ("pydantic-monty",),
    "read_file": ("python-calamine",),
    "search_files": ("google-re2",),
}
"""The packages behind worker tools."""

TRIALS: dict[str, dict[str, JsonValue]] = {
    "lint": {"file": "empty.py", "rules": ["F"]},
    "list_files": {"pattern": "*.py"},
    "python": {"code": "1 + 1"},
    "read_file": {"path": "empty.py"},
    "search_files": {"pattern": "x"},
}
"""Calls of worker tools that show whether they work."""

Verdict = Literal["ok", "note", "broken"]
_STYLES: dict[Verdict, str] = {"ok": "green", "note": "yellow", "broken": "red"}


@dataclass(frozen=True, slots=True)
class Finding:
    """What a look at one part of the installation showed."""

    about: str
    verdict: Verdict
    detail: str


@click.command()
@setup_options
@json_option
def doctor(as_json: bool, **flags: Any) -> None:
    """Tell what is configured, what works and what is missing.

    Exits with 1 if something is broken.
    """
    loaded = load(flags)
    findings = list(examine(loaded))
    if as_json:
        print_json(
            {
                "settings": {
                    name: {"value": shown(loaded.settings, name), "origin": origin}
                    for name, origin in loaded.origin.items()
                },
                "findings": [asdict(finding) for finding in findings],
            }
        )
    else:
        print_data(_settings_table(loaded), "", _findings_table(findings))
    broken = any(finding.verdict == "broken" for finding in findings)
    click.get_current_context().exit(FAILED if broken else 0)


def shown(settings: Settings, name: str) -> str:
    """Return a setting's value as it may be shown: of a secret, only that it is set."""
    if name in SECRETS:
        return "set" if getattr(settings, name) else "unset"
    match settings.model_dump(mode="json")[name]:
        case None:
            return "unset"
        case [*items]:
            return os.pathsep.join(items) or "none"
        case {**items} if name == "mcp_servers":
            return ", ".join(items) or "none"
        case bool(value):
            return "yes" if value else "no"
        case value:
            return str(value)


def examine(loaded: LoadedSettings) -> Iterator[Finding]:
    """Look at each part of the installation."""
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    yield Finding("versions", "ok", f"Python {platform.python_version()}, {packages}")
    yield _settings_file(loaded)
    yield _model(loaded)
    yield _attempt(_store_name(loaded), lambda: _open_store(loaded))
    yield from _background(loaded.settings)
    yield from _roots(loaded.settings)
    yield from _definitions(loaded.settings)
    yield _attempt("prompts", lambda: _prompts(loaded.settings))
    yield from _tools(loaded.settings)
    yield from _served(loaded)
    yield from _servers(loaded.settings)


def _model(loaded: LoadedSettings) -> Finding:
    answer = answering(loaded)
    if answer == "offline":
        return Finding("model", "note", "offline: no language model answers, rules do")
    if answer == "missing":
        return Finding("model", "broken", "asked for by name, but there is no key to call it")
    return _attempt("model", lambda: _provider(loaded.settings))


def _provider(settings: Settings) -> str:
    connection, prices, models = connection_of(settings), prices_of(settings), models_of(settings)
    roles = ", ".join(f"{role} {prices.resolve(name)}" for role, name in asdict(models).items())
    return f"{connection.base_url or 'Anthropic'}: {roles}; prices of {prices.as_of}"


def _settings_file(loaded: LoadedSettings) -> Finding:
    there = "" if loaded.file.exists() else " (there is none)"
    return Finding("settings file", "ok", f"{loaded.file}{there}")


def _attempt(about: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(about, "ok", look())
    except (ConcertmasterError, OSError) as exc:
        return Finding(about, "broken", str(exc))


def _store_name(loaded: LoadedSettings) -> str:
    return "data folder" if loaded.settings.store is None else "store"


def _open_store(loaded: LoadedSettings) -> str:
    async def look() -> str:
        async with open_history(loaded.settings) as service:
            await service.recent(1)
        place = place_of_runs(loaded.settings)
        if loaded.settings.store is not None:
            return f"{place} (Postgres; processes on several machines can share it)"
        return f"{place} (SQLite; processes take turns to commit)"

    return run_async(look)


def _background(settings: Settings) -> Iterator[Finding]:
    alive = [files for files in files_of_all(settings.data_folder) if files.alive]
    for files in alive:
        yield _attempt("background server", lambda files=files: _about(files))
    if settings.background and not alive:
        yield Finding("background server", "ok", "none now: the next client over stdio starts one")


def _about(files: ServerFiles) -> str:
    report = inquire(files, "report")
    since = datetime.fromtimestamp(report.since).astimezone().isoformat(" ", "seconds")
    work = f"{count(report.sessions, 'client')}, {count(report.runs, 'run')} under way"
    return f"process {report.pid} since {since}, {report.version}: {work}; log: {files.log}"


def _roots(settings: Settings) -> Iterator[Finding]:
    if not settings.roots:
        yield Finding("roots", "ok", "none: MCP clients can give inputs only as text")
    for root in settings.roots:
        if root.is_dir():
            yield Finding("roots", "ok", str(root))
        else:
            yield Finding("roots", "broken", f"{root} is no folder")


def _definitions(settings: Settings) -> Iterator[Finding]:
    workers, jobs = read_definitions(settings), find_jobs(settings)
    yield _files("worker", len(workers.catalog), len(workers.errors), listed_by="workers")
    yield _files("job", len(jobs.jobs), len(jobs.errors), listed_by="job")


def _files(noun: str, right: int, wrong: int, *, listed_by: str) -> Finding:
    number = count(right, noun)
    if wrong:
        faults = f"{count(wrong, 'file')} wrong: concertmaster {listed_by}"
        return Finding(f"{noun}s", "broken", f"{number}; {faults}")
    return Finding(f"{noun}s", "ok", number)


def _prompts(settings: Settings) -> str:
    build_prompts(settings)
    return ", ".join(str(folder) for folder in prompt_folders(settings))


def _servers(settings: Settings) -> Iterator[Finding]:
    policy = ToolPolicy(settings.tool_policy)
    for report in run_async(lambda: look_at_servers(settings)):
        about = f"server {report.name}"
        if report.problem:
            yield Finding(about, "broken", report.problem)
        else:
            decisions = [policy.decision(spec) for spec in report.tools]
            tools = f"{count(len(decisions), 'tool')}, {decisions.count('allow')} may be called"
            if asked := decisions.count("ask"):
                tools += f", {asked} if somebody agrees"
            yield Finding(about, "ok", f"{report.about}: {tools}")


def _tools(settings: Settings) -> Iterator[Finding]:
    tools = build_tools(settings)
    for name in sorted({*tools.names, *tools.missing}):
        about = f"tool {name}"
        if name in tools.missing:
            yield Finding(about, "note", tools.missing[name])
        else:
            yield _attempt(about, lambda name=name: _tool(tools, name, settings))


def _served(loaded: LoadedSettings) -> Iterator[Finding]:
    """Tell which tools the provider calls itself; only a call of one would show more."""
    served, policy = served_tools(loaded), ToolPolicy(loaded.settings.tool_policy)
    for name in SERVER_TOOLS:
        if reason := served.reason(name, policy):
            yield Finding(f"tool {name}", "note", reason)
        else:
            uses = count(loaded.settings.server_tool_uses, "use")
            yield Finding(f"tool {name}", "ok", f"by the provider, {uses} in a conversation")


def _tool(tools: ToolRegistry, name: str, settings: Settings) -> str:
    """Return what a worker tool works with, having tried it where that costs nothing."""
    if name in TRIALS:
        scope = ToolScope(inputs=(Document(name="empty.py", text=""),))
        run_async(lambda: tools.here([name]).get(name).call(TRIALS[name], scope))
    if name == "run_tests":
        return f"{settings.test_command}, with your rights"
    return ", ".join(f"{each} {version(each)}" for each in WORKS_WITH.get(name, ())) or "there"


def _settings_table(loaded: LoadedSettings) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for title in ("setting", "value", "from"):
        table.add_column(title, overflow="fold")
    for name, origin in loaded.origin.items():
        table.add_row(name, shown(loaded.settings, name), Text(origin, style="dim"))
    return table


def _findings_table(findings: Iterable[Finding]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for finding in findings:
        table.add_row(
            Text(finding.verdict, style=_STYLES[finding.verdict]), finding.about, finding.detail
        )
    return table
