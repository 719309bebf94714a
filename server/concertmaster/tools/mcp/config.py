"""How a server is reached, in the form in which MCP clients are told about servers."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    SecretStr,
    StringConstraints,
    Tag,
    TypeAdapter,
    ValidationError,
)

from concertmaster.errors import SettingsError

SECRET_CHARS = 8
"""Shorter values are no secrets, and are too likely to be found in any text."""

ITSELF = "it is Concertmaster itself"
"""Why a server is not used that would have workers give work to workers."""

_THIS_PROGRAM = re.compile(r"concertmaster(?:[@=\[].*)?")
_OF_A_KEY = re.compile(r"key|token|secret|pass|credential|auth|header", re.IGNORECASE)
_PASSWORD = re.compile(r"://[^/\s:@]*:([^/\s@]+)@")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]+")


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def _secrets(values: Iterable[str]) -> tuple[str, ...]:
    """Return those values that are long enough to be secrets, the longest first."""
    secrets = {value for value in values if len(value) >= SECRET_CHARS}
    return tuple(sorted(secrets, key=lambda secret: (-len(secret), secret)))


def _keys_among(arguments: Sequence[str]) -> list[str]:
    """Return the keys that a program is given on its command line, as far as can be told."""
    keys: list[str] = []
    for before, argument in pairwise(("", *arguments)):
        name, given, value = argument.partition("=")
        if given and _OF_A_KEY.search(name):
            keys.append(value)
        elif _is_option(before) and not _is_option(argument) and _OF_A_KEY.search(before):
            # Of a header, the key is what its name is followed by.
            keys += [argument, *argument.rpartition(":")[2].split()]
        keys += _PASSWORD.findall(argument)
    return keys


def _is_option(argument: str) -> bool:
    return argument.startswith("-") and "=" not in argument


class StdioEntry(_Entry):
    """A server that is started as a process, and spoken to over its stdin and stdout."""

    type: Literal["stdio"] = "stdio"
    command: str = Field(min_length=1)
    args: tuple[str, ...] = ()
    env: dict[str, SecretStr] = Field(default_factory=dict[str, SecretStr])
    cwd: Path | None = None

    @property
    def is_this_program(self) -> bool:
        """Tell whether it is Concertmaster that would be started."""
        names = (Path(self.command).stem, *self.args)
        return any(_THIS_PROGRAM.fullmatch(name) for name in names)

    @property
    def secrets(self) -> tuple[str, ...]:
        """Return what must not be shown, the longest first."""
        values = [value.get_secret_value() for value in self.env.values()]
        values += _keys_among(self.args)
        return _secrets(value for value in values if not _is_path(value))


class HttpEntry(_Entry):
    """A server that is reached by Streamable HTTP."""

    type: Literal["http", "streamable-http"] = "http"
    url: str = Field(pattern=r"^https?://[^/?#@\s]+([/?#]\S*)?$")
    headers: dict[str, SecretStr] = Field(default_factory=dict[str, SecretStr])

    @property
    def is_this_program(self) -> bool:
        """Return False: only its answer tells what it is."""
        return False

    @property
    def secrets(self) -> tuple[str, ...]:
        """Return what must not be shown, the longest first."""
        headers = [value.get_secret_value() for value in self.headers.values()]
        words = [word for value in headers for word in value.split()]
        # Some hand out addresses with a key in them.
        return _secrets([*headers, *words, *re.split(r"[&=]", self.url.partition("?")[2])])


def _is_path(value: str) -> bool:
    """Tell whether a value names a file or folder, which results have to be able to name too."""
    try:
        return Path(value).expanduser().exists()
    except (OSError, RuntimeError, ValueError):
        return False


def _kind(value: object) -> str:
    if isinstance(value, HttpEntry):
        return "http"
    return "http" if isinstance(value, Mapping) and "url" in value else "stdio"


ServerEntry = Annotated[
    Annotated[StdioEntry, Tag("stdio")] | Annotated[HttpEntry, Tag("http")], Discriminator(_kind)
]
ServerName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,40}$")]


def _read_json(value: object) -> object:
    return json.loads(value) if isinstance(value, str) else value


ServerEntries = Annotated[dict[ServerName, ServerEntry], BeforeValidator(_read_json)]
"""Servers by name; text is taken for JSON."""

_ENTRY: TypeAdapter[StdioEntry | HttpEntry] = TypeAdapter(ServerEntry)


def give_anything(servers: object) -> bool:
    """Tell whether unchecked entries give any server a variable, header or key."""
    entries = cast("dict[str, object]", servers).values() if isinstance(servers, dict) else ()
    return any(
        _member(entry, "env")
        or _member(entry, "headers")
        or _secrets(_keys_among(_arguments(entry)))
        for entry in entries
    )


def _arguments(entry: object) -> list[str]:
    given = cast("Mapping[str, object]", entry).get("args") if isinstance(entry, Mapping) else None
    if not isinstance(given, list):
        return []
    return [item for item in cast("list[object]", given) if isinstance(item, str)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientServers:
    """The servers that another MCP client is configured with."""

    entries: Mapping[str, dict[str, Any]]
    """By name, each as it is to be written into the settings."""
    notes: tuple[str, ...]
    """A sentence for each thing that was left out or changed."""


def read_client_servers(text: str) -> ClientServers:
    """Return the servers of a client's configuration, such as `claude_desktop_config.json`.

    Raises:
        SettingsError: it is no such configuration.
    """
    try:
        found = json.loads(text)
    except ValueError as exc:
        raise SettingsError(f"It is no JSON: {exc}.") from None
    servers = _member(found, "mcpServers") or _member(found, "servers")
    if servers is None:
        raise SettingsError('It has no "mcpServers", which MCP clients keep their servers under.')
    entries: dict[str, dict[str, Any]] = {}
    notes: list[str] = []
    for given, value in servers.items():
        name = _NOT_IN_NAMES.sub("-", given)[:40]
        if name != given:
            notes.append(f"{given!r} is called {name!r} here.")
        entry, remarks = _entry(value)
        notes += [f"{name}: {remark}" for remark in remarks]
        if entry is not None:
            entries[name] = entry
    return ClientServers(entries=entries, notes=tuple(notes))


def _member(value: object, key: str) -> dict[str, Any] | None:
    if not isinstance(value, Mapping):
        return None
    member = cast("Mapping[str, object]", value).get(key)
    return cast("dict[str, Any]", member) if isinstance(member, dict) else None


def _entry(value: object) -> tuple[dict[str, Any] | None, list[str]]:
    """Return a server's entry with the keys that mean something here, and what is said of it."""
    if not isinstance(value, Mapping):
        return None, ["left out, because it is no object."]
    given = cast("Mapping[str, Any]", value)
    if given.get("disabled") is True:
        return None, ["left out, because it is disabled."]
    known = (HttpEntry if _kind(given) == "http" else StdioEntry).model_fields
    kept = {key: item for key, item in given.items() if key in known}
    try:
        entry = _ENTRY.validate_python(kept)
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in error["loc"][1:])
        return None, [f"left out, because of {place}: {error['msg']}."]
    if entry.is_this_program:
        return None, [f"left out, because {ITSELF}."]
    dropped = sorted(given.keys() - kept.keys())
    return kept, [f"{', '.join(dropped)} mean nothing here."] if dropped else []
