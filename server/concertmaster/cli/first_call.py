"""All that a process's first model call needs, imported in one go before it is made."""

from concertmaster.cli import bootstrap as bootstrap
from concertmaster.llm.anthropic.client import warm_up

warm_up()
