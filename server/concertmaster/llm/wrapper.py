"""What models have in common that have another one answer."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import NoReturn

import anyio

from concertmaster.errors import ModelAccessError
from concertmaster.llm.messages import LLM, Draft, Reply, Request
from concertmaster.llm.usage import NO_USAGE, Usage


class Through:
    """Passes for the model that it answers through, in all but how it has that one answer."""

    def __init__(self, llm: LLM) -> None:
        self._llm = llm

    @property
    def notice(self) -> str:
        """Return what every reader of an answer must know of the model."""
        return self._llm.notice

    def model_name(self, model: str, /) -> str:
        """Return the id of the model that `model` stands for."""
        return self._llm.model_name(model)

    def expected(self, model: str, usage: Usage, /) -> Usage:
        """Return what a call of `model` that takes these tokens will report."""
        return self._llm.expected(model, usage)


class Brake:
    """Counts the calls under way, of models and of tools, and keeps others from beginning."""

    def __init__(self) -> None:
        self._pulled = False
        self._under_way = 0
        self._stopped = anyio.Event()

    @property
    def pulled(self) -> bool:
        """Tell whether no further call begins."""
        return self._pulled

    @asynccontextmanager
    async def call(self) -> AsyncGenerator[None]:
        """Make a call in this block; once the brake is pulled, wait for ever before it."""
        if self._pulled:
            await anyio.sleep_forever()
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            if self._pulled and not self._under_way:
                self._stopped.set()

    async def pull(self) -> None:
        """Let no further call begin, and return when those under way have ended."""
        self._pulled = True
        if self._under_way:
            await self._stopped.wait()


class Braked(Through):
    """Answers through another model, until a brake is pulled."""

    def __init__(self, llm: LLM, brake: Brake) -> None:
        super().__init__(llm)
        self._brake = brake

    async def complete(self, request: Request, draft: Draft, /) -> Reply:
        """Return the reply.

        Raises:
            ModelError: as the other model does.
        """
        async with self._brake.call():
            return await self._llm.complete(request, draft)


class MissingKeyLLM:
    """Turns every request away with a sentence that says what to set."""

    notice = ""

    async def complete(self, request: Request, draft: Draft, /) -> NoReturn:
        """Raise ModelAccessError."""
        del draft
        raise ModelAccessError(
            f"The settings ask for the model {request.model!r}, but there is no key for it. "
            "Set ANTHROPIC_API_KEY, for instance in the env block of the client's "
            "configuration, or api_key in the settings file; or set offline to work without "
            "a language model. `concertmaster doctor` tells what is set."
        )

    def model_name(self, model: str, /) -> str:
        """Return `model`."""
        return model

    def expected(self, _model: str, _usage: Usage, /) -> Usage:
        """Return nothing, since no call is made."""
        return NO_USAGE
