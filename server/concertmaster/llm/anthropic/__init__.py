"""The models of Anthropic, and of any endpoint that speaks the same protocol."""

from concertmaster.llm.anthropic.connection import Connection
from concertmaster.llm.anthropic.model import AnthropicLLM, open_anthropic

__all__ = ["AnthropicLLM", "Connection", "open_anthropic"]
