"""The thread that writes: what it commits together, and what becomes of those who wait."""

import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import anyio
import pytest

from concertmaster.engine.events import CancelRequested
from concertmaster.store.codec import Write, event_json
from concertmaster.store.writer import Pending, WritingThread

pytestmark = pytest.mark.anyio


class Commits:
    """Notes what is committed together, each time that it may go on."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.begun = threading.Event()
        self.go = threading.Event()

    def __call__(self, writes: Sequence[Pending]) -> None:
        self.begun.set()
        assert self.go.wait(60)
        self.groups.append([pending.write.event.name for pending in writes])


@asynccontextmanager
async def at_work(commits: Commits) -> AsyncGenerator[WritingThread]:
    thread = WritingThread(commits)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(thread.work)
            try:
                yield thread
            finally:
                thread.end()


def pending(name: str, *, wait: bool = True) -> Pending:
    event = CancelRequested(name=name, at=1.0)
    return Pending(Write(run_id="r-1", event=event, data=event_json(event)), wait=wait)


async def test_what_comes_during_a_commit_is_committed_together_after_it() -> None:
    commits = Commits()
    async with at_work(commits) as thread:
        thread.submit(pending("first"))
        assert await anyio.to_thread.run_sync(commits.begun.wait, 60)
        thread.submit(pending("second"))
        thread.submit(pending("third", wait=False))
        thread.submit(pending("fourth"))
        commits.go.set()
    assert commits.groups == [["first"], ["second", "third", "fourth"]]


async def test_what_nobody_waits_for_is_committed_though_nothing_else_comes() -> None:
    commits = Commits()
    commits.go.set()
    async with at_work(commits) as thread:
        thread.submit(pending("alone", wait=False))
        assert await anyio.to_thread.run_sync(commits.begun.wait, 60)
    assert commits.groups == [["alone"]]


async def test_what_was_given_before_the_end_is_done_and_what_comes_after_is_refused() -> None:
    commits = Commits()
    commits.go.set()
    async with at_work(commits) as thread:
        thread.submit(pending("before", wait=False))
    assert commits.groups == [["before"]]
    with pytest.raises(anyio.ClosedResourceError):
        thread.submit(pending("after"))


async def test_what_else_the_thread_does_is_done_in_order_though_its_caller_is_cancelled() -> None:
    commits = Commits()
    commits.go.set()
    async with at_work(commits) as thread:
        thread.submit(pending("before", wait=False))
        with anyio.CancelScope() as scope:
            scope.cancel()
            assert await thread.run(lambda: list(commits.groups)) == [["before"]]
