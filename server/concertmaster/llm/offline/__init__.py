"""A model that is no language model: it works by rules, without a network or an account."""

from concertmaster.llm.offline.model import OfflineLLM

__all__ = ["OfflineLLM"]
