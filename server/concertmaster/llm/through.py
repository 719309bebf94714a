"""What models have in common that have another one answer."""

from concertmaster.llm.protocol import LLM, Usage


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
