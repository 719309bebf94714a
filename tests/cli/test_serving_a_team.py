"""What an operator sets up for several people over HTTP, and is told when it will not do."""

import subprocess
from pathlib import Path
from typing import Any, NoReturn

import httpx2
import pytest

from concertmaster.cli.commands import serve_http as http
from concertmaster.cli.commands.serve_http import access_of, read_tokens
from concertmaster.errors import SettingsError
from concertmaster.mcp_server.prompts import no_jobs
from concertmaster.mcp_server.transports.auth import ProtectedResource
from concertmaster.settings.load import Settings
from processes import COMMAND, environment, running
from serving import ANN

HOST = "concertmaster.example.org"
URL = f"https://{HOST}/mcp"
JWKS = "https://id.example.org/keys"
OAUTH = {"oauth_issuer": "https://id.example.org", "public_url": URL}
OURS = {"oauth_client_id": "us", "oauth_client_secret": "s"}
KEY = "0123456789abcdef0123456789abcdef"
ASKING = OAUTH | {"oauth_introspection_url": "https://id.example.org/introspect"}


def settings(**flags: Any) -> Settings:
    return Settings.load(flags).settings


def tokens_in(folder: Path, text: str, *, mode: int = 0o600) -> Path:
    file = folder / "tokens.toml"
    file.write_text(text, encoding="utf-8")
    file.chmod(mode)
    return file


def test_without_anything_set_this_machine_is_served_and_nobody_else() -> None:
    access = access_of(settings())
    assert access.open_verifier is None
    access.check("127.0.0.1")
    with pytest.raises(SettingsError, match="allowed_hosts"):
        access.check("0.0.0.0")  # noqa: S104


def test_names_and_a_file_of_tokens_are_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONCERTMASTER_ALLOWED_HOSTS", f"{HOST}, [::1]:8000 other")
    monkeypatch.setenv("CONCERTMASTER_REQUEST_MEGABYTES", "2")
    access = access_of(settings(tokens_file=tokens_in(tmp_path, f'ann = "{ANN}"')))
    access.check("0.0.0.0")  # noqa: S104
    assert access.hosts == (HOST, "[::1]:8000", "other")
    assert access.request_bytes == 2 * 1024 * 1024


@pytest.mark.parametrize("name", ["https://a.example.org", "a/mcp", "a b c:d", "*"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="no host name"):
        settings(allowed_hosts=[name])


def test_oauth_clients_call_the_server_by_its_public_address() -> None:
    access = access_of(settings(**OAUTH, oauth_jwks_url=JWKS, oauth_scopes="a,b"))
    access.check("0.0.0.0")  # noqa: S104
    assert access.hosts == (HOST,)
    assert access.resource == ProtectedResource(
        url=URL, issuer="https://id.example.org", scopes=("a", "b")
    )


def test_the_issuer_can_be_asked_about_tokens() -> None:
    access = access_of(settings(**ASKING, **OURS))
    assert access.open_verifier is not None


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"oauth_jwks_url": JWKS}, "oauth_jwks_url is of no use without oauth_issuer"),
        ({"oauth_scopes": "a"}, "oauth_scopes is of no use without oauth_issuer"),
        (OAUTH | {"tokens_file": Path("x")}, "keep one of them"),
        ({"oauth_issuer": "https://id.example.org"}, "oauth_issuer needs public_url"),
        (OAUTH, "needs one of oauth_jwks_url"),
        (ASKING | {"oauth_jwks_url": JWKS}, "needs one of oauth_jwks_url"),
        (ASKING, "needs oauth_client_id and oauth_client_secret"),
    ],
)
def test_what_does_not_go_together_is_told(flags: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        access_of(settings(**flags))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is empty"),
        (f"ann: {ANN}", "no valid TOML"),
        (f'"ann#2" = "{ANN}"', "letters, digits"),
        ("ann = 3", "a token is a text"),
        ('ann = "with a space in the middle of it"', "without spaces"),
        ('ann = "short"', "has 5 characters; at least 24"),
        (f'ann = "{ANN}"\nbob = "{ANN}"', "the same token"),
    ],
)
def test_a_file_of_tokens_that_will_not_do_is_told_without_showing_a_token(
    text: str, told: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=told) as refused:
        read_tokens(tokens_in(tmp_path, text))
    assert ANN not in str(refused.value)


def test_a_file_of_tokens_that_others_may_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="chmod 600"):
        read_tokens(tokens_in(tmp_path, f'ann = "{ANN}"', mode=0o640))


def test_a_file_of_tokens_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.toml cannot be read: No such file"):
        read_tokens(tmp_path / "none.toml")


@pytest.mark.parametrize("line", ['oauth_client_secret = "s"', f'request_state_keys = ["{KEY}"]'])
def test_a_secret_in_the_settings_file_is_for_its_owner_alone(line: str, tmp_path: Path) -> None:
    file = tmp_path / "config" / "concertmaster" / "settings.toml"
    file.parent.mkdir(parents=True)
    file.write_text(line)
    file.chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        settings()


def test_keys_of_what_clients_carry_are_given_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONCERTMASTER_REQUEST_STATE_KEYS", f"{KEY}1,{KEY}2")
    keys = settings().request_state_keys
    assert [key.get_secret_value() for key in keys] == [f"{KEY}1", f"{KEY}2"]


@pytest.mark.anyio
async def test_the_server_gets_each_key_once(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def note(*_: object, **options: Any) -> None:
        given.update(options)

    async def end_at_once(*_: object, **options: Any) -> int:
        given.update(options)
        return 0

    def not_opened() -> NoReturn:
        raise AssertionError("unreachable")

    monkeypatch.setattr(http, "create_server", note)
    monkeypatch.setattr(http, "serve_http", end_at_once)
    chosen = settings(request_state_keys=f"{KEY}1 {KEY}2 {KEY}1", keep_days=2)
    options: dict[str, Any] = {"host": "127.0.0.1", "port": 0, "ready": note, "listed": note}
    assert await http.serve(chosen, not_opened, no_jobs, **options) == 0
    assert (given["state_keys"], given["keep_days"]) == ([f"{KEY}1", f"{KEY}2"], 2)


def test_a_key_that_could_be_guessed_is_refused_without_being_shown() -> None:
    with pytest.raises(SettingsError, match="at least 32") as refused:
        settings(request_state_keys="short-key")
    assert "short-key" not in str(refused.value)


def test_the_command_says_what_is_missing(tmp_path: Path) -> None:
    command = [*COMMAND, "--http", "--host", "0.0.0.0", "--port", "0"]  # noqa: S104
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment(tmp_path), check=False, timeout=60
    )
    assert done.returncode == 2
    assert "allowed_hosts" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_lets_in_who_has_a_token(tmp_path: Path) -> None:
    variables = {"CONCERTMASTER_TOKENS_FILE": str(tokens_in(tmp_path, f'ann = "{ANN}"'))}
    with running(
        [*COMMAND, "--http", "--port", "0"],
        stderr=subprocess.PIPE,
        env=environment(tmp_path, variables),
    ) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        address = line.split()[-1]
        with httpx2.Client(timeout=30) as browser:
            refusal = browser.post(address, json={})
            headers = {"authorization": f"Bearer {ANN}"}
            answer = browser.post(address, json={}, headers=headers)
    assert refusal.status_code == 401
    assert answer.status_code not in (401, 403)
