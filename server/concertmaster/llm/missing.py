"""What answers when a model was asked for by name and there is no key to call it with."""

from typing import NoReturn

from concertmaster.errors import ModelAccessError
from concertmaster.llm.protocol import NO_USAGE, Draft, Request, Usage


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
