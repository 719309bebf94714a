"""Serving over HTTP on the terms that the settings lay down."""

import re
import tomllib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from concertmaster.errors import SettingsError
from concertmaster.mcp_server.lazy_service import OpenService
from concertmaster.mcp_server.prompts import LoadJobs
from concertmaster.mcp_server.server import create_server
from concertmaster.mcp_server.transports.auth import (
    HttpAccess,
    OpenVerifier,
    ProtectedResource,
    SignedTokens,
    StaticTokens,
    always,
    open_introspection,
)
from concertmaster.mcp_server.transports.http import serve_http
from concertmaster.runs.principals import Allowance, Principals
from concertmaster.settings.load import Settings
from concertmaster.store.private_files import check_owner_only

TOKEN_CHARS = 24
"""What a token must have at least: fewer could be guessed."""

_USER = re.compile(r"[\w.@+-]+")
_OAUTH = ("oauth_jwks_url", "oauth_introspection_url", "oauth_client_id", "oauth_scopes")


async def serve(
    settings: Settings,
    open_service: OpenService,
    load_jobs: LoadJobs,
    *,
    host: str,
    port: int,
    ready: Callable[[str], object],
    listed: Callable[[], object],
) -> int:
    """Serve until a signal comes; return the exit status.

    Raises:
        SettingsError: the settings do not do for serving at this host.
    """
    access = access_of(settings)
    principals = principals_of(settings) if access.open_verifier is not None else None
    server = create_server(
        open_service,
        load_jobs,
        at_once=settings.resume_interrupted or settings.store is not None,
        principals=principals,
        state_keys=[key.get_secret_value() for key in dict.fromkeys(settings.request_state_keys)],
        keep_days=settings.keep_days,
        listed=listed,
    )
    return await serve_http(
        server,
        host=host,
        port=port,
        access=access,
        ready=ready,
        drain_seconds=settings.drain_seconds,
    )


def principals_of(settings: Settings) -> Principals:
    """Return those who use the server, with what each may use."""
    return Principals(Allowance(runs=settings.user_runs, usd_a_day=settings.user_usd_per_day))


def access_of(settings: Settings) -> HttpAccess:
    """Return the terms on which the server may be used over HTTP.

    Raises:
        SettingsError: what is set does not go together, or the file of tokens cannot be used.
    """
    hosts = settings.allowed_hosts
    if settings.public_url and not hosts:
        hosts = (urlsplit(settings.public_url).netloc.lower(),)
    resource = _resource(settings)
    return HttpAccess(
        hosts=hosts,
        open_verifier=_tokens(settings) if resource is None else _oauth(settings, resource),
        resource=resource,
        requests_a_minute=settings.requests_per_minute,
        connections=settings.connections,
        connections_per_address=settings.connections_per_address,
        trusted_proxies=settings.trusted_proxies,
        request_bytes=settings.request_megabytes * 1024 * 1024,
    )


def _resource(settings: Settings) -> ProtectedResource | None:
    if settings.oauth_issuer is None:
        for name in _OAUTH:
            if getattr(settings, name):
                raise SettingsError(f"{name} is of no use without oauth_issuer. Set that too.")
        return None
    if settings.tokens_file is not None:
        raise SettingsError("Both tokens_file and oauth_issuer are set; keep one of them.")
    if settings.public_url is None:
        raise SettingsError(
            "oauth_issuer needs public_url: the address of this server that clients use, for "
            "which their tokens must be made out, such as https://concertmaster.example.org/mcp."
        )
    return ProtectedResource(
        url=settings.public_url, issuer=settings.oauth_issuer, scopes=settings.oauth_scopes
    )


def _oauth(settings: Settings, resource: ProtectedResource) -> OpenVerifier:
    jwks, introspection = settings.oauth_jwks_url, settings.oauth_introspection_url
    user, secret = settings.oauth_client_id, settings.oauth_client_secret
    if jwks is not None and introspection is None:
        signed = SignedTokens(jwks, issuer=resource.issuer, resource=resource.url)
        return always(signed)
    if introspection is None or jwks is not None:
        raise SettingsError(
            "oauth_issuer needs one of oauth_jwks_url (its tokens are JWTs, as with most) and "
            "oauth_introspection_url (they are not)."
        )
    if not user or secret is None:
        raise SettingsError(
            "oauth_introspection_url needs oauth_client_id and oauth_client_secret: what this "
            "server is known as to the authorization server."
        )
    return partial(
        open_introspection,
        introspection,
        credentials=(user, secret.get_secret_value()),
        issuer=resource.issuer,
        resource=resource.url,
    )


def _tokens(settings: Settings) -> OpenVerifier | None:
    if settings.tokens_file is None:
        return None
    return always(StaticTokens(read_tokens(settings.tokens_file)))


def read_tokens(file: Path) -> Mapping[str, str]:
    """Return the token of each user that a file of tokens names.

    Raises:
        SettingsError: the file cannot be used, or others may read it.
    """
    try:
        check_owner_only(file)
        tokens = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as exc:
        raise SettingsError(f"tokens_file {file} cannot be read: {exc.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        # What is wrong is not repeated, because it may be a token.
        raise SettingsError(
            f'tokens_file {file} is no valid TOML. Write a line for each user: name = "token".'
        ) from None
    if not tokens:
        raise SettingsError(f'tokens_file {file} is empty. Add a line: name = "token".')
    for user, token in tokens.items():
        if problem := _problem(user, token):
            raise SettingsError(f"tokens_file {file}: {user}: {problem}")
    if len(set(tokens.values())) < len(tokens):
        raise SettingsError(f"tokens_file {file}: two users have the same token. Change one.")
    return tokens


def _problem(user: str, token: object) -> str:
    if not _USER.fullmatch(user):
        return "a user's name has letters, digits and any of . _ @ + - only."
    if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
        return 'a token is a text without spaces, such as "dGhpcyBpcyBubyB0b2tlbg".'
    if len(token) < TOKEN_CHARS:
        return (
            f"the token has {len(token)} characters; at least {TOKEN_CHARS} are needed. Make one "
            "with: openssl rand -hex 24"
        )
    return ""
