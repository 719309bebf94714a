"""The HTTP side of the server: who is let in, how often, and whether it is well."""

import logging

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
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from concertmaster.errors import ConcertmasterError
from concertmaster.protocol.access import HttpAccess, ProtectedResource
from concertmaster.protocol.callers import principal_of
from concertmaster.protocol.server import ConcertmasterServer
from concertmaster.protocol.state import ServerState

log = logging.getLogger(__name__)

PATH = "/mcp"


def http_app(
    server: ConcertmasterServer, *, host: str, access: HttpAccess, verifier: TokenVerifier | None
) -> Starlette:
    """Return the application that serves MCP at `/mcp` on these terms, and tells its health."""
    mcp = server.streamable_http_app(
        streamable_http_path=PATH,
        transport_security=access.security(host),
        max_request_body_size=access.request_bytes,
    )
    served: ASGIApp = mcp
    middleware: list[Middleware] = []
    if verifier is not None:
        served = RequestRate(_guarded(mcp, access.resource), access.requests_a_minute)
        middleware = [
            Middleware(AuthenticationMiddleware, backend=BearerAuthBackend(verifier)),
            Middleware(AuthContextMiddleware),
        ]
    return Starlette(
        routes=[*_health(server.state), *_metadata(access.resource), Mount("/", served)],
        middleware=middleware,
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
            {"error": f"More than {self._limit.amount} requests in a minute. Try again later."},
            status_code=429,
            headers={"Retry-After": "60"},
        )
        await refusal(scope, receive, send)


def _sender(scope: Scope) -> str:
    user = scope.get("user")
    if isinstance(user, AuthenticatedUser):
        return f"user {principal_of(user.access_token)}"
    return f"address {(scope.get('client') or ('unknown',))[0]}"
