"""Everything an operator can choose, read once from flags, environment and a TOML file.

What comes first wins: a flag, `CONCERTMASTER_…` in the environment, the settings file, the
default. `ANTHROPIC_API_KEY`, `ANTHROPIC_AUTH_TOKEN` and `ANTHROPIC_BASE_URL` stand in for a
connection that none of these describes.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import platformdirs
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
)
from pydantic_core import PydanticCustomError

from concertmaster.engine.request import Approve, Decomposition, Limits
from concertmaster.errors import SettingsError, did_you_mean
from concertmaster.llm.pricing import ModelFacts
from concertmaster.settings.schema import (
    HTTP_SECRETS,
    BackgroundSettings,
    Folders,
    HttpSettings,
    LogLevel,
    ServedSettings,
    StoreSettings,
    ToolSettings,
    absolute,
    read_json,
)
from concertmaster.store.private_files import check_owner_only
from concertmaster.tools.mcp.config import HttpEntry, ServerEntries, StdioEntry, give_anything


def _without_user(address: str) -> str:
    # Addresses are shown and logged, where a password must not be.
    if "@" in address:
        raise PydanticCustomError(
            "address_with_user",
            "an address must have no user name or password in it; use api_key or auth_token",
        )
    return address


Address = Annotated[str, Field(pattern=r"^https?://"), AfterValidator(_without_user)]


ENVIRONMENT_PREFIX = "CONCERTMASTER_"
FILE_VARIABLE = "CONCERTMASTER_CONFIG"
"""Names another settings file than the one in the configuration folder."""

SECRETS = ("api_key", "auth_token", "store", *HTTP_SECRETS)
_PATHS = ("roots", "worker_folders", "prompt_folders", "job_folders", "data_folder", "tokens_file")

_OTHER_SPELLINGS = {"mcpServers": "mcp_servers"}
"""How MCP clients write what is a key of the settings file here."""

_AMBIENT_SECRETS = {"api_key": "ANTHROPIC_API_KEY", "auth_token": "ANTHROPIC_AUTH_TOKEN"}
_AMBIENT_URL = "ANTHROPIC_BASE_URL"
_UNEXPANDED = re.compile(r"\$\{[^}]*\}")
"""A variable that a client's configuration refers to and that the client left as it was."""


def configuration_folder() -> Path:
    """Return the folder of the user's settings file and of the user's own workers."""
    return platformdirs.user_config_path("concertmaster", appauthor=False)


Role = Annotated[str, Field(min_length=1)]


class Settings(BackgroundSettings, HttpSettings, ToolSettings, ServedSettings, StoreSettings):
    """What an operator chose; every field is a key of the settings file."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )

    api_key: SecretStr | None = Field(
        default=None, description="Key for the model provider. Without one, work is done offline."
    )
    auth_token: SecretStr | None = Field(
        default=None, description="Bearer token for the model provider, instead of a key."
    )
    base_url: Address | None = Field(
        default=None,
        description="Address of an Anthropic-compatible endpoint, if not Anthropic's own.",
    )
    auth_header: Literal["bearer", "x-api-key"] = Field(
        default="bearer", description="How the key is sent: as a bearer token, or as x-api-key."
    )
    offline: bool | None = Field(
        default=None,
        description="Use no language model. Left out: when no key, token or address is set.",
    )
    model_planner: Role = Field(
        default="opus", description="Model that plans: an id, or opus, sonnet or haiku."
    )
    model_worker: Role = Field(
        default="sonnet", description="Model of the workers whose file names none."
    )
    model_synthesizer: Role = Field(
        default="opus", description="Model that merges the results into the answer."
    )
    max_subtasks: int = Field(default=8, ge=1, description="Subtasks of a run, at most.")
    decomposition: Decomposition = Field(
        default="hybrid",
        description="Workers that a planner may write for a run: constrained (none), hybrid (one) "
        "or dynamic (any number).",
    )
    approve: Approve = Field(
        default="never", description="Plans that a person approves: never, over_budget or always."
    )
    rounds: int = Field(
        default=6, ge=1, description="How often an adaptive run asks what to do next, at most."
    )
    slots: int = Field(default=8, ge=1, description="Subtasks at work at the same time, at most.")
    subtask_seconds: float = Field(default=120, gt=0, description="Time for one subtask.")
    run_seconds: float = Field(default=900, gt=0, description="Time for one run.")
    max_tokens: int = Field(
        default=16384, ge=1, description="Tokens of one model reply, thinking included, at most."
    )
    budget_usd: float = Field(
        default=2.0,
        gt=0,
        allow_inf_nan=False,
        description="What one run may spend, in USD, unless it says otherwise.",
    )
    most_usd: float = Field(
        default=20.0,
        gt=0,
        allow_inf_nan=False,
        description="What a call may ask a run to spend, in USD, at most.",
    )
    budget_tokens: int = Field(
        default=2_000_000,
        ge=1,
        description="Tokens that one run may take, but for those read from the provider's cache.",
    )
    idle_seconds: float = Field(
        default=60, gt=0, description="A model that sends nothing for so long is given up."
    )
    max_attempts: int = Field(
        default=5, ge=1, description="Attempts at a model call that the provider turns away."
    )
    provider_share: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Part of what the provider lets through that this process uses, where several "
        "have one key: 0.5 is half.",
    )
    prices: Annotated[dict[str, ModelFacts], BeforeValidator(read_json)] = Field(
        default_factory=dict[str, ModelFacts],
        description="Prices of models in USD per million tokens, over the built-in ones.",
    )
    mcp_servers: ServerEntries = Field(
        default_factory=dict[str, StdioEntry | HttpEntry],
        description="Other MCP servers, whose tools workers may call.",
    )
    roots: Folders = Field(
        default=(),
        description="Folders that inputs and worker tools may read. On the command line, "
        "the working directory where none is set.",
    )
    worker_folders: Folders = Field(
        default=(), description="Folders with worker files, beside the built-in ones."
    )
    prompt_folders: Folders = Field(
        default=(), description="Folders with prompt files, instead of the built-in ones."
    )
    job_folders: Folders = Field(
        default=(), description="Folders with job files, beside the built-in ones."
    )
    claude_agents: bool = Field(
        default=False, description="Also use the subagents in .claude/agents as workers."
    )
    telemetry: bool = Field(
        default=False, description="Tell of runs over OpenTelemetry; needs concertmaster[otel]."
    )
    telemetry_content: bool = Field(
        default=False,
        description="Tell over it also what was to be done and why something failed, in words.",
    )
    log_level: LogLevel = Field(default="warning", description="What is worth a line on stderr.")

    @classmethod
    def load(cls, flags: Mapping[str, object]) -> "LoadedSettings":
        """Return the settings in force, and where each comes from.

        A flag that is None or an empty tuple was not given.

        Raises:
            SettingsError: a value is malformed, or the settings file cannot be used.
        """
        file = settings_file()
        found = _from_file(file)
        found |= _from_environment()
        found |= {
            name: _Found(value, "flag") for name, value in flags.items() if value not in (None, ())
        }
        found |= _ambient_connection(found)
        try:
            settings = cls.model_validate({name: item.value for name, item in found.items()})
        except ValidationError as exc:
            raise SettingsError(_sentences(exc, found)) from None
        origin = {
            name: found[name].origin if name in found else "default" for name in cls.model_fields
        }
        if settings.api_key and settings.auth_token:
            raise SettingsError(
                f"Both api_key ({origin['api_key']}) and auth_token ({origin['auth_token']}) "
                "are set; keep one of them."
            )
        return LoadedSettings(settings, origin, file, _unknown_variables())

    @property
    def limits(self) -> Limits:
        """Return the bounds on one run."""
        return Limits(**{name: getattr(self, name) for name in Limits.model_fields})

    @property
    def connected(self) -> bool:
        """Tell whether there is a language model to call."""
        return bool(self.api_key or self.auth_token or self.base_url)


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """The settings in force, and how they came about."""

    settings: Settings
    origin: Mapping[str, str]
    """For each field: `flag`, `environment NAME`, `file PATH` or `default`."""
    file: Path
    """The settings file, which need not exist."""
    warnings: tuple[str, ...] = ()
    """A sentence for each thing that was left aside."""


@dataclass(frozen=True, slots=True)
class _Found:
    value: Any
    origin: str


def settings_file() -> Path:
    """Return the path of the settings file, whether or not there is one."""
    named = _variable(FILE_VARIABLE)
    if named:
        return absolute(Path(named))
    return configuration_folder() / "settings.toml"


def _variable(name: str) -> str | None:
    value = os.environ.get(name, "").strip()
    # Clients hand on an empty string, or the placeholder itself, for a variable they lack.
    return None if not value or _UNEXPANDED.fullmatch(value) else value


def environment() -> dict[str, str]:
    """Return the environment, with the secrets in it."""
    return dict(os.environ)


def _from_environment() -> dict[str, _Found]:
    variables = {name: ENVIRONMENT_PREFIX + name.upper() for name in Settings.model_fields}
    return {
        name: _Found(value, f"environment {variable}")
        for name, variable in variables.items()
        if (value := _variable(variable)) is not None
    }


def _unknown_variables() -> tuple[str, ...]:
    known = {ENVIRONMENT_PREFIX + name.upper() for name in Settings.model_fields}
    given = {name for name in os.environ if name.startswith(ENVIRONMENT_PREFIX)}
    return tuple(
        f"The environment variable {name} is no setting and is ignored. {did_you_mean(name, known)}"
        for name in sorted(given - known - {FILE_VARIABLE})
    )


def _ambient_connection(found: Mapping[str, _Found]) -> dict[str, _Found]:
    """Return what the provider's own variables add to the connection.

    They speak for other programs too, so the address among them is not used for a key
    that was set for this one: the key would go to a host it was not meant for.
    """
    if any(name in found for name in _AMBIENT_SECRETS):
        return {}
    ambient: dict[str, _Found] = {}
    for name, variable in _AMBIENT_SECRETS.items():
        if not ambient and (secret := _variable(variable)) is not None:
            ambient[name] = _Found(secret, f"environment {variable}")
    if "base_url" not in found and (url := _variable(_AMBIENT_URL)) is not None:
        ambient["base_url"] = _Found(url, f"environment {_AMBIENT_URL}")
    return ambient


def _from_file(file: Path) -> dict[str, _Found]:
    values = _read_file(file)
    for key in values:
        if key not in Settings.model_fields:
            raise SettingsError(
                f"{file}: unknown key {key!r}. {did_you_mean(key, Settings.model_fields)}"
            )
    if any(values.get(name) for name in SECRETS) or give_anything(values.get("mcp_servers")):
        check_owner_only(file)
    return {
        name: _Found(_anchored(value, file.parent) if name in _PATHS else value, f"file {file}")
        for name, value in values.items()
        if value != ""
    }


def _read_file(file: Path) -> dict[str, Any]:
    """Return what a settings file says, in our spelling."""
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if _variable(FILE_VARIABLE):
            raise SettingsError(f"{file}, which {FILE_VARIABLE} names, does not exist.") from None
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise SettingsError(f"{file} is no valid TOML: {exc}.") from None
    except OSError as exc:
        raise SettingsError(f"{file} cannot be read: {exc.strerror}.") from None
    for spelling, name in _OTHER_SPELLINGS.items():
        if spelling in values and name in values:
            raise SettingsError(f"{file}: {spelling} and {name} are the same; keep one of them.")
    return {_OTHER_SPELLINGS.get(key, key): value for key, value in values.items()}


def _anchored(value: object, folder: Path) -> object:
    """Return the paths of a settings file as seen from its folder."""
    if isinstance(value, str):
        return folder / Path(value).expanduser()
    if isinstance(value, list):
        return [_anchored(item, folder) for item in cast("list[object]", value)]
    return value


def _sentences(error: ValidationError, found: Mapping[str, _Found]) -> str:
    """Return what is wrong, each with the place to mend it, and without the values."""
    sentences: list[str] = []
    for item in error.errors(include_url=False, include_input=False, include_context=False):
        name = str(item["loc"][0])
        kind, _, where = found[name].origin.partition(" ")
        place = {
            "flag": f"The flag for {name}",
            "environment": where,
            "file": f"{where}: {'.'.join(str(part) for part in item['loc'])}",
        }[kind]
        sentences.append(f"{place}: {item['msg']}.")
    return " ".join(sentences)
