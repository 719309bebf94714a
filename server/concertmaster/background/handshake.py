"""How a front end and a background server make sure that they belong to the same user.

Four lines of JSON: each side proves that it knows the secret, without telling it, over two
numbers used once. So neither a stranger who has found a port gets in, nor one who has taken
the port of a dead server gets to see what a client says.
"""

import hmac
import secrets
import socket
from typing import Literal, TypeVar

from anyio.streams.buffered import BufferedByteStream
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from concertmaster.errors import BackgroundError

LINE_BYTES = 4096
HANDSHAKE_SECONDS = 10.0
"""How long a side waits for the other."""

Wish = Literal["session", "report", "end"]
"""What a front end wants: an MCP session, to know how the server is, or that it ends."""

_Nonce = Field(min_length=32, max_length=128)


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Opening(_Line):
    nonce: str = _Nonce


class _Challenge(_Line):
    nonce: str = _Nonce
    proof: str


class _Wanted(_Line):
    proof: str
    wish: Wish


class Report(_Line):
    """How a background server is."""

    pid: int
    version: str
    since: float
    """When it began, in seconds since 1970."""
    sessions: int
    """How many clients are connected."""
    runs: int
    """How many runs it drives."""


_L = TypeVar("_L", bound=_Line)


def _proof(secret: str, side: Literal["front", "server"], *nonces: str) -> str:
    return hmac.new(secret.encode(), " ".join((side, *nonces)).encode(), "sha256").hexdigest()


def _check(given: str, expected: str) -> None:
    if not hmac.compare_digest(given.encode(), expected.encode()):
        raise BackgroundError("What answers there does not know its secret.")


def _parsed(line: bytes, kind: type[_L]) -> _L:
    try:
        return kind.model_validate_json(line)
    except ValidationError:
        raise BackgroundError("What answers there is none, or it has just ended.") from None


def ask(connection: socket.socket, secret: str, wish: Wish) -> Report:
    """Ask a server for something, and return how it is.

    Raises:
        BackgroundError: what is at the other end is not the server.
        OSError: the connection fails.
    """
    # Unbuffered, since what follows the last line belongs to somebody else.
    with connection.makefile("rb", buffering=0) as lines:
        mine = secrets.token_hex(16)
        _say(connection, _Opening(nonce=mine))
        challenge = _parsed(lines.readline(LINE_BYTES), _Challenge)
        _check(challenge.proof, _proof(secret, "server", mine, challenge.nonce))
        proof = _proof(secret, "front", mine, challenge.nonce)
        _say(connection, _Wanted(proof=proof, wish=wish))
        return _parsed(lines.readline(LINE_BYTES), Report)


def _say(connection: socket.socket, line: _Line) -> None:
    connection.sendall(_written(line))


async def admit(stream: BufferedByteStream, secret: str) -> Wish:
    """Return what a caller wants, who is to be told then how the server is.

    Raises:
        BackgroundError: the caller is no front end of this server.
    """
    opening = _parsed(await stream.receive_until(b"\n", LINE_BYTES), _Opening)
    mine = secrets.token_hex(16)
    challenge = _Challenge(nonce=mine, proof=_proof(secret, "server", opening.nonce, mine))
    await stream.send(_written(challenge))
    wanted = _parsed(await stream.receive_until(b"\n", LINE_BYTES), _Wanted)
    _check(wanted.proof, _proof(secret, "front", opening.nonce, mine))
    return wanted.wish


async def tell(stream: BufferedByteStream, report: Report) -> None:
    """Tell a caller how the server is."""
    await stream.send(_written(report))


def _written(line: _Line) -> bytes:
    return f"{line.model_dump_json()}\n".encode()
