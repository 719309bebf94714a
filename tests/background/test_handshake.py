"""A front end and its server prove to each other that they know the secret."""

import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio import to_thread
from anyio.abc import SocketStream
from anyio.streams.buffered import BufferedByteStream

from concertmaster.background.handshake import LINE_BYTES, Report, Wish, admit, ask, tell
from concertmaster.errors import BackgroundError

pytestmark = pytest.mark.anyio

REPORT = Report(pid=1, version="0.1.0", since=0.0, sessions=2, runs=3)
KEY = "one secret"


@asynccontextmanager
async def joined() -> AsyncGenerator[tuple[socket.socket, BufferedByteStream]]:
    """Yield the ends of a front end and of a server."""
    front, server = socket.socketpair()
    with front:
        front.settimeout(10)
        async with await SocketStream.from_socket(server) as stream:
            yield front, BufferedByteStream(stream)


async def let_in(stream: BufferedByteStream, secret: str) -> Wish:
    wish = await admit(stream, secret)
    await tell(stream, REPORT)
    return wish


@pytest.mark.parametrize("wish", ["session", "report", "end"])
async def test_who_knows_the_secret_gets_what_is_wanted(wish: Wish) -> None:
    wishes: list[Wish] = []

    async def serve() -> None:
        wishes.append(await let_in(stream, KEY))
        # What comes next is the session's, and not lost.
        await stream.send(b"message\n")

    async with joined() as (front, stream), anyio.create_task_group() as tasks:
        tasks.start_soon(serve)
        assert await to_thread.run_sync(ask, front, KEY, wish) == REPORT
        assert await to_thread.run_sync(front.recv, 100) == b"message\n"
    assert wishes == [wish]


async def test_who_does_not_know_the_secret_is_not_let_in_and_learns_nothing() -> None:
    async def serve() -> None:
        with pytest.raises(BackgroundError):
            await let_in(stream, KEY)
        await stream.aclose()

    async with joined() as (front, stream), anyio.create_task_group() as tasks:
        tasks.start_soon(serve)
        opening = b'{"nonce": "%s"}\n' % (b"n" * 32)
        await to_thread.run_sync(front.sendall, opening)
        challenge = await to_thread.run_sync(front.recv, LINE_BYTES)
        assert KEY.encode() not in challenge
        proof = b'{"proof": "%s", "wish": "report"}\n' % (b"0" * 64)
        await to_thread.run_sync(front.sendall, proof)
        assert await to_thread.run_sync(front.recv, LINE_BYTES) == b""


async def test_a_front_end_wants_nothing_of_what_does_not_know_the_secret() -> None:
    said: list[bytes] = []

    async def pretend() -> None:
        await let_in(stream, "another secret")

    async with joined() as (front, stream), anyio.create_task_group() as tasks:
        tasks.start_soon(pretend)
        with pytest.raises(BackgroundError, match="does not know"):
            await to_thread.run_sync(ask, front, KEY, "session")
        tasks.cancel_scope.cancel()
    assert said == []


async def test_a_proof_cannot_be_sent_back_to_whom_it_came_from() -> None:
    async def echo() -> None:
        while True:
            await stream.send(await stream.receive())

    async with joined() as (front, stream), anyio.create_task_group() as tasks:
        tasks.start_soon(echo)
        with pytest.raises(BackgroundError):
            await to_thread.run_sync(ask, front, KEY, "session")
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("line", [b"", b"\n", b"GET / HTTP/1.1\r\n", b'{"nonce": "short"}\n'])
async def test_what_is_no_front_end_is_not_let_in(line: bytes) -> None:
    async with joined() as (front, stream):
        front.sendall(line)
        front.shutdown(socket.SHUT_WR)
        with pytest.raises((BackgroundError, anyio.IncompleteRead)):
            await admit(stream, KEY)
