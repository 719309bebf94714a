"""What is built from the settings: definitions, model, journal, run service."""

import importlib
import logging
import math
import os
import platform
import shlex
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import anyio

from concertmaster.catalog.catalog import Catalog, builtin_folder, load_catalog
from concertmaster.catalog.definitions import tool_named
from concertmaster.catalog.prompts import Prompts, load_prompts
from concertmaster.cli.app import load_in_background
from concertmaster.cli.environment import answering, postgres_module, program_environment
from concertmaster.engine.run import Setup
from concertmaster.errors import SettingsError, StoreError, did_you_mean
from concertmaster.llm.anthropic import Connection, open_anthropic
from concertmaster.llm.learned_limits import LearnedLimits
from concertmaster.llm.messages import LLM, SERVER_TOOLS, Models, ServerTool, ServerToolName
from concertmaster.llm.offline import OfflineLLM
from concertmaster.llm.pricing import Prices, load_prices
from concertmaster.llm.prompt_cache import SharedPrefixes
from concertmaster.llm.retry import Gate
from concertmaster.llm.wrapper import Brake, Braked, MissingKeyLLM
from concertmaster.runs.dispatch import Takeover
from concertmaster.runs.intake import RunPolicy
from concertmaster.runs.jobs import JobsReading, read_jobs
from concertmaster.runs.retention import Retention
from concertmaster.runs.service import RunService, open_service
from concertmaster.settings.load import LoadedSettings, Settings, configuration_folder
from concertmaster.store.journal import Journal
from concertmaster.store.sqlite.store import open_sqlite
from concertmaster.telemetry.watch import NO_TELEMETRY, Telemetry
from concertmaster.tools.builtin.defaults import ToolOptions, default_tools
from concertmaster.tools.mcp.pool import Server, open_servers
from concertmaster.tools.redaction import Masking
from concertmaster.tools.registry import ServedTools, ToolPolicy, ToolRegistry

WEB: tuple[ServerToolName, ...] = ("web_search", "web_fetch")

USUAL = WEB
"""Those of a connection to Anthropic's own address whose operator has not said which.

Code execution is not among them: what is put into a container stays with the provider for a
month, and no reply tells what it costs.
"""


def served_tools(loaded: LoadedSettings) -> ServedTools:
    """Return what workers may have the provider call."""
    settings = loaded.settings
    left_out = dict(_left_out(settings))
    missing = {
        name: reason
        for name in SERVER_TOOLS
        if name not in left_out and (reason := _why_missing(name, loaded))
    }
    there = {
        name: ServerTool(
            name=name,
            max_uses=settings.server_tool_uses,
            allowed_domains=settings.web_domains if name in WEB else (),
            blocked_domains=settings.web_domains_blocked if name in WEB else (),
        )
        for name in SERVER_TOOLS
        if name not in left_out and name not in missing
    }
    return ServedTools(there=there, missing=missing, left_out=left_out)


def _left_out(settings: Settings) -> Iterator[tuple[str, str]]:
    for name in SERVER_TOOLS:
        if name in WEB and not settings.web:
            yield name, "not allowed: web is false"
        elif settings.server_tools is not None and name not in settings.server_tools:
            yield name, "not allowed: not in server_tools"


def _why_missing(name: ServerToolName, loaded: LoadedSettings) -> str:
    """Return why there is no tool that the operator does not leave out; nothing if there is."""
    settings = loaded.settings
    if answering(loaded) != "anthropic":
        return "not there without a language model"
    if settings.server_tools is not None:
        return ""
    if name not in USUAL:
        return "not there unless server_tools names it"
    return "" if _at_anthropic(settings) else "not there at this base_url, unless in server_tools"


def _at_anthropic(settings: Settings) -> bool:
    address = settings.base_url
    return address is None or urlsplit(address).hostname == "api.anthropic.com"


log = logging.getLogger(__name__)

PRUNE_SECONDS = 3600
"""How long a server leaves alone what it is not to keep any more."""


def worker_folders(settings: Settings) -> tuple[Path, ...]:
    """Return the folders of worker files, the later winning over the earlier."""
    own = [configuration_folder() / "workers"]
    if settings.claude_agents:
        own.append(Path.cwd() / ".claude" / "agents")
    present = [folder for folder in own if folder.is_dir()]
    return (builtin_folder("workers"), *present, *settings.worker_folders)


def prompt_folders(settings: Settings) -> tuple[Path, ...]:
    """Return the folders of prompt files, the later winning over the earlier."""
    return (builtin_folder("prompts"), *settings.prompt_folders)


def build_catalog(settings: Settings) -> Catalog:
    """Return the workers that the settings provide.

    Raises:
        DefinitionError: a worker file is wrong.
    """
    return load_catalog(*worker_folders(settings), tools=tool_names(settings))


def tool_names(settings: Settings) -> tuple[str, ...]:
    """Return the names of worker tools, where `SERVER.*` stands for those of a server."""
    servers = (f"{name}.*" for name in settings.mcp_servers)
    return (*build_tools(settings).names, *SERVER_TOOLS, *servers)


def custom_worker_tools(settings: Settings) -> tuple[str, ...]:
    """Return the tools of workers that a planner writes.

    Raises:
        SettingsError: there is no tool of one of the names.
    """
    names = tool_names(settings)
    for name in settings.custom_worker_tools:
        if not tool_named(name, names):
            hint = did_you_mean(name, names)
            raise SettingsError(f"custom_worker_tools: there is no worker tool {name!r}. {hint}")
    return tuple(tool_named(name, names) for name in settings.custom_worker_tools)


def build_tools(settings: Settings) -> ToolRegistry:
    """Return the worker tools that the settings allow."""
    return default_tools(
        ToolOptions(
            web=settings.web,
            test_command=tuple(shlex.split(settings.test_command or "")),
            environment=program_environment(),
        )
    )


def masking_of(settings: Settings) -> Masking:
    """Return what keeps the operator's secrets out of what people are shown."""
    own = filter(None, (settings.api_key, settings.auth_token, settings.store))
    secrets = {secret.get_secret_value() for secret in own}
    for entry in settings.mcp_servers.values():
        secrets |= set(entry.secrets)
    return Masking(sorted(secrets, key=len, reverse=True))


def build_prompts(settings: Settings) -> Prompts:
    """Return the prompts that the settings provide.

    Raises:
        DefinitionError: a prompt file is wrong.
    """
    return load_prompts(*prompt_folders(settings))


def retention_of(settings: Settings) -> Retention:
    """Return which runs are kept under these settings."""
    return Retention(
        days=settings.keep_days, runs=settings.keep_runs, megabytes=settings.keep_megabytes
    )


def models_of(settings: Settings) -> Models:
    """Return which model each role uses."""
    return Models(
        planner=settings.model_planner,
        worker=settings.model_worker,
        synthesizer=settings.model_synthesizer,
    )


def connection_of(settings: Settings) -> Connection:
    """Return how to reach the provider.

    Raises:
        SettingsError: the key or token cannot be sent.
    """
    return Connection(
        api_key=settings.api_key.get_secret_value() if settings.api_key else None,
        auth_token=settings.auth_token.get_secret_value() if settings.auth_token else None,
        base_url=settings.base_url,
        auth_header=settings.auth_header,
        idle_seconds=settings.idle_seconds,
    )


def prices_of(settings: Settings) -> Prices:
    """Return what models cost, the settings' prices on top of the built-in ones."""
    return load_prices(
        {name: facts.model_dump(exclude_unset=True) for name, facts in settings.prices.items()}
    )


@asynccontextmanager
async def open_telemetry(loaded: LoadedSettings) -> AsyncGenerator[Telemetry]:
    """Open what tells of runs, if these settings want that.

    Raises:
        SettingsError: they do, and it is not installed.
    """
    settings = loaded.settings
    if not settings.telemetry:
        yield NO_TELEMETRY
        return
    try:
        otel = importlib.import_module("concertmaster.telemetry.otel")
    except ModuleNotFoundError as exc:
        raise SettingsError(
            f"telemetry is on, but {exc.name} is not installed. Install concertmaster[otel], or "
            "turn telemetry off."
        ) from exc
    provider = answering(loaded)
    async with otel.open_otlp(provider=provider, content=settings.telemetry_content) as telemetry:
        yield telemetry


@asynccontextmanager
async def open_llm(
    loaded: LoadedSettings,
    *,
    telemetry: Telemetry = NO_TELEMETRY,
    brake: Brake | None = None,
) -> AsyncGenerator[LLM]:
    """Open what answers requests under these settings, until the `brake` is pulled."""
    settings = loaded.settings
    answer = answering(loaded)
    if answer == "offline":
        yield OfflineLLM()
    elif answer == "missing":
        yield MissingKeyLLM()
    else:
        connection, prices = connection_of(settings), prices_of(settings)
        async with open_anthropic(connection, prices=prices) as llm:
            gate = Gate(
                Braked(llm, brake or Brake()),
                max_attempts=settings.max_attempts,
                share=settings.provider_share,
                limits=LearnedLimits(
                    settings.data_folder / "learned-limits.json", endpoint=settings.base_url or ""
                ),
            )
            telemetry.watch_gate(gate)
            try:
                yield SharedPrefixes(gate, prices)
            finally:
                gate.save_limits()


@asynccontextmanager
async def open_journal(settings: Settings, *, works: bool = False) -> AsyncGenerator[Journal]:
    """Open the journal that the settings choose, for a process that `works` or one that does not.

    Raises:
        SettingsError: the store is no Postgres, or the packages for it are missing.
    """
    if settings.store is None:
        network = settings.network_folder
        async with open_sqlite(settings.data_folder, network=network) as journal:
            yield journal
    else:
        store = postgres_module("store")
        async with store.open_postgres(settings.store.get_secret_value(), works=works) as journal:
            yield journal


Part = Literal["alone", "accepts", "works"]
"""What a process does on a store: its own runs; leave them to others; or anybody's, in turn."""


def part_of(settings: Settings, *, accept_only: bool = False) -> Part:
    """Return what a server does on a store."""
    if accept_only:
        return "accepts"
    return "works" if settings.resume_interrupted or settings.store is not None else "alone"


def policy_of(settings: Settings, part: Part, folders: tuple[Path, ...]) -> RunPolicy:
    """Return what the operator allows and prefers, for a process that does this part."""
    return RunPolicy(
        limits=settings.limits,
        most_usd=settings.most_usd,
        decomposition=settings.decomposition,
        approve=settings.approve,
        roots=folders,
        runs_here={"alone": None, "accepts": 0, "works": settings.runs_at_once}[part],
        runs_in_all=None if part == "alone" else settings.runs_in_all,
        reuse_hours=settings.reuse_hours,
    )


@asynccontextmanager
async def open_usable_servers(loaded: LoadedSettings) -> AsyncGenerator[Mapping[str, Server]]:
    """Have the servers at hand that work may need; none offline, where nothing calls tools."""
    settings = loaded.settings
    entries = {} if answering(loaded) == "offline" else settings.mcp_servers
    async with open_servers(entries, call_seconds=settings.tool_seconds) as servers:
        yield servers


@asynccontextmanager
async def open_runs(
    loaded: LoadedSettings,
    *,
    roots: tuple[Path, ...],
    named: tuple[Path, ...] = (),
    part: Part = "alone",
) -> AsyncGenerator[RunService]:
    """Open everything it takes to start runs.

    Inputs may come from the `roots`, and from the files and folders that are `named`;
    worker tools reach the roots alone.

    Raises:
        DefinitionError: a worker or prompt file is wrong.
        SettingsError: a setting names what there is not, or packages for the store are missing.
        StoreError: the store cannot be used.
    """
    settings = loaded.settings
    if answering(loaded) == "anthropic":
        load_in_background("first_call")
    catalog = build_catalog(settings)
    prompts = build_prompts(settings)
    custom_tools = custom_worker_tools(settings)
    policy = policy_of(settings, part, (*roots, *named))
    brake = Brake()
    async with (
        open_telemetry(loaded) as telemetry,
        open_llm(loaded, telemetry=telemetry, brake=brake) as llm,
        open_journal(settings, works=part == "works") as journal,
        open_usable_servers(loaded) as servers,
    ):
        setup = Setup(
            llm=llm,
            models=models_of(settings),
            catalog=catalog,
            prompts=prompts,
            tools=build_tools(settings).joined(
                servers,
                ToolPolicy(settings.tool_policy),
                masking=masking_of(settings),
                served=served_tools(loaded),
            ),
            roots=roots,
            custom_worker_tools=custom_tools,
            brake=brake,
        )
        async with (
            open_service(journal=journal, setup=setup, policy=policy) as service,
            telemetry.watching(service),
        ):
            yield service


@asynccontextmanager
async def tending(
    service: RunService,
    settings: Settings,
    *,
    part: Part = "alone",
    most_seconds: float = math.inf,
) -> AsyncGenerator[None]:
    """Delete what is not to be kept, now and then, and take up what nobody has, if it works.

    At the end, calls under way may end too, if that takes no longer than `most_seconds`.
    """
    if retention := retention_of(settings):
        await service.prune(retention)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_keep_to, service, retention)
        if part == "works":
            by = f"process {os.getpid()} on {platform.node()}"
            tasks.start_soon(Takeover(service, by=by).keep_on)
        try:
            yield
        finally:
            tasks.cancel_scope.cancel()
            await service.drain(seconds=min(settings.drain_seconds, most_seconds))


async def _keep_to(service: RunService, retention: Retention) -> None:
    while retention:
        await anyio.sleep(PRUNE_SECONDS)
        try:
            await service.prune(retention)
        except StoreError as exc:
            log.warning("nothing deleted: %s", exc)


@asynccontextmanager
async def open_history(settings: Settings) -> AsyncGenerator[RunService]:
    """Open the runs that exist, to read and to stop them; needs neither model nor workers."""
    setup = Setup(
        llm=MissingKeyLLM(),
        models=Models(),
        catalog=Catalog(),
        prompts=Prompts({}),
        tools=ToolRegistry(),
    )
    async with (
        open_journal(settings) as journal,
        open_service(journal=journal, setup=setup, policy=RunPolicy()) as service,
    ):
        yield service


def job_folders(settings: Settings) -> tuple[Path, ...]:
    """Return the folders of job files, the later winning over the earlier."""
    own = configuration_folder() / "jobs"
    present = [own] if own.is_dir() else []
    return (builtin_folder("jobs"), *present, *settings.job_folders)


def find_jobs(settings: Settings) -> JobsReading:
    """Return all jobs, and what is wrong with files that are none."""
    return read_jobs(*job_folders(settings))
