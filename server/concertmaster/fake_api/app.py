"""The scripted endpoint as a web application: POST /v1/messages, and GET /ledger."""

import socket
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace

import anyio
import uvicorn
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from concertmaster.errors import SettingsError
from concertmaster.fake_api.behaviour import Behaviour, Fault, FaultMix, Lengths
from concertmaster.fake_api.replies import (
    ConnectionDropped,
    Reply,
    answer,
    goes_on,
    make_reply,
    may_search,
    paused,
    stream,
)
from concertmaster.fake_api.requests import MessagesRequest
from concertmaster.fake_api.usage import (
    MOST_MARKS,
    CacheUse,
    Entry,
    Ledger,
    Limits,
    PromptCache,
    Refusal,
)

MODELS = "claude-"
"""How the name of a model begins that the endpoint has."""


NO_HEADERS: Mapping[str, str] = {}


class RefusedError(Exception):
    """A request is answered with JSON instead of a stream: mostly an error."""

    def __init__(
        self, status: int, kind: str, message: str, *, headers: Mapping[str, str] = NO_HEADERS
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.headers = dict(headers)


class FakeApi:
    """An endpoint with its limits, its cache and its ledger."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.ledger = Ledger()
        self.app = Starlette(
            routes=[
                Route("/v1/messages", self._messages, methods=["POST"]),
                Route("/ledger", self._show_ledger),
            ]
        )
        self._behaviour = behaviour
        self._faults = FaultMix(behaviour)
        self._lengths = Lengths(behaviour)
        self._cache = PromptCache()
        self._limits = Limits(concurrent=behaviour.concurrent, per_minute=behaviour.per_minute)
        self._started = anyio.current_time()

    def now(self) -> float:
        """Return the time by the clock of the ledger."""
        return anyio.current_time() - self._started

    async def _show_ledger(self, _request: Request) -> Response:
        return Response(self.ledger.model_dump_json(), media_type="application/json")

    async def _messages(self, request: Request) -> Response:
        try:
            body = await request.body()
        except ClientDisconnect:
            # Nobody is there to be answered.
            return Response(status_code=400)
        number = len(self.ledger.entries) + 1
        entry = Entry(request_id=f"req_{number:08}", status=200, began=self.now())
        self.ledger.entries.append(entry)
        try:
            return self._answer(entry, body, request.headers)
        except RefusedError as exc:
            entry.status = exc.status
            entry.ended = self.now()
            error = {"type": exc.kind, "message": str(exc)}
            told = {"type": "error", "error": error, "request_id": entry.request_id}
            headers = self._headers(entry) | exc.headers
            return JSONResponse(told, exc.status, headers=headers)

    def _headers(self, entry: Entry) -> dict[str, str]:
        limits = self._limits.headers(now=self.now(), clock=time.time())
        return {"request-id": entry.request_id, **limits}

    def _answer(self, entry: Entry, body: bytes, headers: Mapping[str, str]) -> Response:
        self._check_key(headers)
        asked = _read(body)
        entry.model = asked.model
        if (refusal := self._limits.admit(now=self.now())) is not None:
            raise _rate_limited(refusal)
        try:
            entry.fault = self._faults.next(body)
            _fail(entry.fault, self._behaviour)
        except RefusedError:
            self._limits.leave()
            raise
        text = answer(
            asked,
            subtasks=self._behaviour.subtasks,
            tokens=self._lengths.next(body),
            values=self._behaviour.values,
        )
        reply = make_reply(text, max_tokens=asked.max_tokens, fault=entry.fault)
        if entry.fault is None and may_search(asked):
            reply = self._searching(asked, reply)
        use = self._cache.look(asked.model, asked.blocks, now=self.now())
        return _Streamed(
            self._events(entry, reply, use),
            headers=self._headers(entry),
            at_end=lambda: self._end(entry),
        )

    def _searching(self, asked: MessagesRequest, reply: Reply) -> Reply:
        """Return a reply that begins with a search, unless one was made for it before."""
        searched = replace(reply, cites=True, searched=not goes_on(asked))
        return paused(searched) if searched.searched and self._behaviour.pause else searched

    async def _events(self, entry: Entry, reply: Reply, use: CacheUse) -> AsyncGenerator[bytes]:
        await anyio.sleep(self._behaviour.first_token_seconds)
        self._cache.keep(use, now=self.now())
        async for event in stream(reply, entry, use, self._behaviour):
            yield event
        if not reply.broken_off:
            entry.sent = self.now()

    def _end(self, entry: Entry) -> None:
        entry.ended = self.now()
        self._limits.leave()

    def _check_key(self, headers: Mapping[str, str]) -> None:
        given = headers.get("x-api-key") or headers.get("authorization", "")
        if self._behaviour.key is not None and given.removeprefix("Bearer ") != self._behaviour.key:
            raise RefusedError(401, "authentication_error", "invalid key")


class _Streamed(StreamingResponse):
    """A response that says when it has ended, however it does."""

    def __init__(
        self,
        events: AsyncGenerator[bytes],
        *,
        headers: Mapping[str, str],
        at_end: Callable[[], None],
    ) -> None:
        super().__init__(events, headers=headers, media_type="text/event-stream")
        self._events = events
        self._at_end = at_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events, or as many as are to be sent."""
        try:
            async with aclosing(self._events):
                await super().__call__(scope, receive, send)
        except ConnectionDropped:
            # The server closes the connection of a response that is left unfinished.
            return
        finally:
            self._at_end()


def _read(body: bytes) -> MessagesRequest:
    try:
        asked = MessagesRequest.model_validate_json(body)
    except ValidationError as exc:
        problem = exc.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise RefusedError(400, "invalid_request_error", f"{where}: {problem['msg']}") from None
    if not asked.stream:
        raise RefusedError(400, "invalid_request_error", "stream: only streams are scripted")
    if sum(block.marked for block in asked.blocks) > MOST_MARKS:
        problem = f"cache_control: at most {MOST_MARKS} blocks may have it"
        raise RefusedError(400, "invalid_request_error", problem)
    if not asked.model.startswith(MODELS):
        raise RefusedError(404, "not_found_error", f"model: {asked.model}")
    return asked


def _fail(fault: Fault | None, behaviour: Behaviour) -> None:
    """Raise the error that a fault is, if it is one instead of a reply."""
    match fault:
        case "rate_limit":
            raise _rate_limited(Refusal("It was scripted.", retry_after=behaviour.retry_after))
        case "rate_limit_bare":
            raise _rate_limited(Refusal("It was scripted."))
        case "not_a_stream":
            raise RefusedError(200, "api_error", "It was scripted.")
        case "redirect":
            location = {"location": "/maintenance"}
            raise RefusedError(302, "api_error", "It was scripted.", headers=location)
        case "forbidden":
            raise RefusedError(403, "permission_error", "It was scripted.")
        case "overloaded":
            raise RefusedError(529, "overloaded_error", "Overloaded")
        case "server_error":
            raise RefusedError(500, "api_error", "Internal server error")
        case _:
            return


def _rate_limited(refusal: Refusal) -> RefusedError:
    wait = refusal.retry_after
    headers = NO_HEADERS if wait is None else {"retry-after": str(wait)}
    return RefusedError(429, "rate_limit_error", refusal.reason, headers=headers)


HOST = "127.0.0.1"
CLOSE_SECONDS = 1
"""How long open responses may hold up the end."""


@dataclass(frozen=True, slots=True)
class ServedApi:
    """A scripted endpoint that can be called."""

    address: str
    ledger: Ledger
    now: Callable[[], float]
    """Tells the time by the clock of the ledger."""


@asynccontextmanager
async def serve_fake_api(
    behaviour: Behaviour | None = None, *, port: int = 0
) -> AsyncGenerator[ServedApi]:
    """Serve a scripted endpoint on loopback; port 0 is any that is free.

    Raises:
        SettingsError: the port cannot be had.
    """
    api = FakeApi(behaviour or Behaviour())
    config = uvicorn.Config(
        api.app,
        log_level="error",
        access_log=False,
        ws="none",
        lifespan="off",
        timeout_graceful_shutdown=CLOSE_SECONDS,
    )
    with _listen(port) as listener:
        server = _Uvicorn(config)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve, [listener])
            yield ServedApi(f"http://{HOST}:{listener.getsockname()[1]}", api.ledger, api.now)
            server.should_exit = True


class _Uvicorn(uvicorn.Server):
    """A uvicorn that leaves signals to the program that it is a part of."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Capture none."""
        yield


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server((HOST, port))
    except OSError as exc:
        raise SettingsError(
            f"Port {port} cannot be had: {exc.strerror}. Choose another port."
        ) from exc
