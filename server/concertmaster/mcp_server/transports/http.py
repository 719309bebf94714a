"""Serving MCP over HTTP until a signal comes, and ending cleanly.

The runner of the SDK does not: it waits for open streams without bound.
"""

import json
import logging
import socket
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from hashlib import sha256
from typing import cast

import anyio
import uvicorn
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from mcp.server.auth.middleware.auth_context import AuthContextMiddleware
from mcp.server.auth.middleware.bearer_auth import (
    AuthenticatedUser,
    BearerAuthBackend,
    RequireAuthMiddleware,
)
from mcp.server.auth.provider import TokenVerifier
from mcp.server.auth.routes import build_resource_metadata_url, create_protected_resource_routes
from pydantic import AnyHttpUrl
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationError
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from concertmaster.errors import ConcertmasterError, SettingsError
from concertmaster.mcp_server.context import ServerState, principal_of
from concertmaster.mcp_server.incoming import request_id_in
from concertmaster.mcp_server.server import ConcertmasterServer
from concertmaster.mcp_server.transports.auth import (
    OPEN,
    HttpAccess,
    IssuerUnavailableError,
    ProtectedResource,
)
from concertmaster.mcp_server.transports.connections import (
    Connections,
    OpenRequests,
    client_address,
)
from concertmaster.mcp_server.transports.stdio import Ending

log = logging.getLogger(__name__)

PATH = "/mcp"

BAD_REQUEST = 400

BAD_TOKENS = RateLimitItemPerMinute(30)
"""How many tokens of one address are checked that turn out bad."""

REFUSED_SECONDS = 60.0
"""How long a token that was refused is refused unchecked."""

GOOD_SECONDS = 3600.0
"""How long a token that was good is checked even if its address sends bad ones."""

MOST_TOKENS = 10_000
"""Tokens of either kind that are remembered."""


def http_app(
    server: ConcertmasterServer, *, host: str, access: HttpAccess, verifier: TokenVerifier | None
) -> Starlette:
    """Return the application that serves MCP at `/mcp` on these terms, and tells its health."""
    mcp = server.streamable_http_app(
        streamable_http_path=PATH,
        transport_security=access.security(host),
        max_request_body_size=access.request_bytes,
    )
    served: ASGIApp = NamedErrors(mcp)
    if verifier is not None:
        served = RequestRate(_guarded(served, access.resource), access.requests_a_minute)
        backend = LimitedBearerAuth(verifier, access.requests_a_minute)
        served = AuthenticationMiddleware(
            AuthContextMiddleware(served), backend=backend, on_error=_unchecked
        )
    # Health is told whatever else is under way, and to whoever asks.
    served = OpenRequests(served, access)
    return Starlette(
        routes=[*_health(server.state), *_metadata(access.resource), Mount("/", served)],
        lifespan=mcp.router.lifespan_context,
    )


def _guarded(app: ASGIApp, resource: ProtectedResource | None) -> ASGIApp:
    """Return an application that answers those alone who have a token."""
    if resource is None:
        return RequireAuthMiddleware(app, [])
    told = build_resource_metadata_url(AnyHttpUrl(resource.url))
    return RequireAuthMiddleware(app, list(resource.scopes), told)


def _metadata(resource: ProtectedResource | None) -> list[Route]:
    if resource is None:
        return []
    return create_protected_resource_routes(
        resource_url=AnyHttpUrl(resource.url),
        authorization_servers=[AnyHttpUrl(resource.issuer)],
        scopes_supported=list(resource.scopes) or None,
        resource_name="Concertmaster",
    )


def _health(server: ServerState) -> list[Route]:
    async def alive(_: Request) -> JSONResponse:
        return JSONResponse({"status": "alive"})

    async def ready(_: Request) -> JSONResponse:
        try:
            await (await server.opened()).recent(1)
        except ConcertmasterError as exc:
            # Who asks need not be known, so the reason goes to the operator alone.
            log.warning("not ready: %s", exc)
            return JSONResponse({"status": "not ready"}, status_code=503)
        if server.ending:
            return JSONResponse({"status": "ending"}, status_code=503)
        return JSONResponse({"status": "ready"})

    return [Route("/healthz", alive), Route("/readyz", ready)]


class NamedErrors:
    """Gives errors the id of the request that they answer, also if it could not be parsed.

    A client would wait for an answer with its id for ever.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        body: list[bytes] = []
        held: list[Message] = []

        async def keep(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == BAD_REQUEST:
                held.append(message)
                return
            if held:
                message = _named(held[0], message, b"".join(body))
                await send(held.pop())
            body.clear()
            await send(message)

        async def read() -> Message:
            message = await receive()
            body.append(message.get("body", b""))
            return message

        await self._app(scope, read, keep)


def _named(start: Message, message: Message, request: bytes) -> Message:
    """Return the body of an error with the id of its request, and set its length in `start`."""
    try:
        error: object = json.loads(message.get("body", b""))
    except ValueError:
        return message
    if not isinstance(error, dict) or cast("dict[str, object]", error).get("id", "") is not None:
        return message
    found = request_id_in(request.decode(errors="replace"))
    named = json.dumps(cast("dict[str, object]", error) | {"id": found}).encode()
    others = [(name, value) for name, value in start["headers"] if name != b"content-length"]
    start["headers"] = [*others, (b"content-length", str(len(named)).encode())]
    return {**message, "body": named}


class LimitedBearerAuth(BearerAuthBackend):
    """Checks bearer tokens, within limits: an issuer may have to be asked about each.

    A token that was refused stays refused for a while. An address that has sent too many of them
    has to wait before another token of its is checked, unless that has been good before.
    """

    def __init__(self, verifier: TokenVerifier, a_minute: int) -> None:
        """Check a good token at most so many times a minute."""
        super().__init__(verifier)
        self._of_good = RateLimitItemPerMinute(a_minute)
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._refused = RecentTokens(REFUSED_SECONDS)
        self._good = RecentTokens(GOOD_SECONDS)
        self._checking: Counter[str] = Counter()

    async def authenticate(
        self, conn: HTTPConnection
    ) -> tuple[AuthCredentials, AuthenticatedUser] | None:
        """Return whom the token of a request stands for, if it has a good one.

        Raises:
            AuthenticationError: the token was not checked.
        """
        token = conn.headers.get("authorization", "")
        if not token or token in self._refused:
            return None
        if token in self._good:
            if not self._limiter.hit(self._of_good, _digest(token).hex()):
                raise AuthenticationError(too_many(self._of_good))
            return await super().authenticate(conn)
        return await self._check_unknown(conn, token, client_address(conn.scope))

    async def _check_unknown(
        self, conn: HTTPConnection, token: str, address: str
    ) -> tuple[AuthCredentials, AuthenticatedUser] | None:
        # Those that are being checked may turn out bad as well.
        if not self._limiter.test(BAD_TOKENS, address, cost=self._checking[address] + 1):
            raise AuthenticationError("Too many tokens from your address were refused.")
        self._checking[address] += 1
        try:
            found = await super().authenticate(conn)
        finally:
            self._checking[address] -= 1
            if not self._checking[address]:
                del self._checking[address]
        if found is None:
            self._limiter.hit(BAD_TOKENS, address)
            self._refused.add(token)
        else:
            self._good.add(token)
        return found


class RecentTokens:
    """Tokens that were seen lately, as digests."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until: dict[bytes, float] = {}
        """When each is forgotten; in the order in which they were added."""

    def add(self, token: str) -> None:
        """Remember a token, and forget the oldest if there are too many."""
        digest = _digest(token)
        self._until.pop(digest, None)
        self._until[digest] = anyio.current_time() + self._seconds
        if len(self._until) > MOST_TOKENS:
            del self._until[next(iter(self._until))]

    def __contains__(self, token: str) -> bool:
        return self._until.get(_digest(token), 0.0) > anyio.current_time()


def _digest(token: str) -> bytes:
    return sha256(token.encode(errors="surrogatepass")).digest()


def too_many(limit: RateLimitItemPerMinute) -> str:
    """Return why a request is refused that is one too many."""
    return f"More than {limit.amount} requests in a minute."


def _unchecked(_conn: HTTPConnection, exc: Exception) -> JSONResponse:
    """Return the answer to a request whose token was not checked."""
    if isinstance(exc, IssuerUnavailableError):
        return JSONResponse({"error": str(exc)}, 503, headers={"Retry-After": "5"})
    headers = {"Retry-After": "60"}
    return JSONResponse({"error": f"{exc} Try again later."}, 429, headers=headers)


class RequestRate:
    """Turns requests away that come too often: of one user, or of one address without a token."""

    def __init__(self, app: ASGIApp, a_minute: int) -> None:
        self._app = app
        self._limit = RateLimitItemPerMinute(a_minute)
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if self._limiter.hit(self._limit, _sender(scope)):
            await self._app(scope, receive, send)
            return
        refusal = JSONResponse(
            {"error": f"{too_many(self._limit)} Try again later."},
            status_code=429,
            headers={"Retry-After": "60"},
        )
        await refusal(scope, receive, send)


def _sender(scope: Scope) -> str:
    user = scope.get("user")
    if isinstance(user, AuthenticatedUser):
        return f"user {principal_of(user.access_token)}"
    return f"address {client_address(scope)}"


CUT_SECONDS = 0.5
"""How long open HTTP responses may go on once the server is to end."""

GRACE_SECONDS = 2
"""How long connections may stay open after that."""


async def serve_http(
    server: ConcertmasterServer,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    access: HttpAccess = OPEN,
    ready: Callable[[str], object] = log.info,
    drain_seconds: float = 0.0,
) -> int:
    """Serve Streamable HTTP until a signal comes; `ready` is told the address once it is open.

    The run service may take `drain_seconds` longer to close than it usually does.
    Returns the exit status: 0, or 128 plus the number of the signal.

    Raises:
        SettingsError: these terms do not do for the host, or the port cannot be had.
    """
    access.check(host)
    ending = Ending(drain_seconds)

    async def stop() -> None:
        server.state.end()
        runner.should_exit = True
        await anyio.sleep(CUT_SECONDS)
        app.cut()

    async with access.verifying() as verifier:
        app = Cuttable(http_app(server, host=host, access=access, verifier=verifier))
        runner = _Uvicorn(_config(app, access))
        with _listen(host, port) as listener:
            async with ending.at_signal(stop):
                address = f"[{host}]" if ":" in host else host
                ready(f"http://{address}:{listener.getsockname()[1]}{PATH}")
                await runner.serve(sockets=[listener])
    return ending.status


def _config(app: ASGIApp, access: HttpAccess) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=Connections(access).protocol,
        ws="none",
        log_config=None,
        access_log=False,
        forwarded_allow_ips=list(access.trusted_proxies),
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


class _Uvicorn(uvicorn.Server):
    """A uvicorn that leaves signals to us, since it would send them again at its end."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Capture none."""
        yield


class Cuttable:
    """An ASGI application whose open responses can be brought to an end.

    Some last as long as the client wants, and uvicorn would report those as failures.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._open: set[anyio.CancelScope] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def note_start(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        with anyio.CancelScope() as response:
            self._open.add(response)
            try:
                await self._app(scope, receive, note_start)
            finally:
                self._open.discard(response)
        if response.cancelled_caught:
            if not started:
                await send({"type": "http.response.start", "status": 503, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    def cut(self) -> None:
        """End all open responses."""
        for response in self._open:
            response.cancel()


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise SettingsError(f"port is {port}, but it must be from 0 to 65535.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as exc:
        raise SettingsError(
            f"HTTP cannot be served at {host}, port {port}: {exc.strerror}. Choose another port."
        ) from exc
