"""Tasks at the same time, whose errors come out as they went in, and what they wait for."""

from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

import anyio
from anyio.abc import TaskGroup

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


@asynccontextmanager
async def together() -> AsyncGenerator[TaskGroup]:
    """Open a task group that raises one error of its tasks, rather than a group of them.

    What fails a whole run, such as a journal that cannot be written, fails each of its tasks
    in the same way: one of these errors says all. It also says more than that other tasks
    were cancelled at the same time.
    """
    try:
        async with anyio.create_task_group() as tasks:
            yield tasks
    except BaseExceptionGroup as group:
        _, errors = group.split(anyio.get_cancelled_exc_class())
        raise _first(errors or group) from None


async def at_once(
    function: Callable[[ItemT], Coroutine[Any, Any, ResultT]], items: Iterable[ItemT]
) -> list[ResultT]:
    """Return what `function` makes of each item, in order, calling it for all at once."""
    async with together() as tasks:
        handles = [tasks.start_soon(function, item) for item in items]
    return [handle.return_value for handle in handles]


class Changes:
    """Lets tasks wait for the next change of something; one that nobody waits for costs nothing."""

    def __init__(self) -> None:
        self._next: anyio.Event | None = None

    @property
    def next(self) -> anyio.Event:
        """Return what is set at the next change from here on."""
        if self._next is None:
            self._next = anyio.Event()
        return self._next

    def tell(self) -> None:
        """Wake those that wait."""
        if self._next is not None:
            self._next.set()
            self._next = None


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error
