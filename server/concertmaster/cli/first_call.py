"""All that a process's first model call needs, imported in one go before it is made."""

from concertmaster.cli import wiring as wiring
from concertmaster.llm.anthropic.calls import warm_up

warm_up()
