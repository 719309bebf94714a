"""Which model an alias stands for, and what a call of a model costs."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from importlib.resources import files
from typing import Any

from pydantic import Field, ValidationError

from concertmaster.errors import SettingsError
from concertmaster.llm.usage import Frozen, Usage

MILLION = 1_000_000
LEAST_CONTAINER_HOURS = 5 / 60
"""What a container is charged for at least; how much longer it ran, no reply tells."""
_SNAPSHOT = re.compile(r"-\d{8}$")
"""The date that ends the id of a model's snapshot: claude-haiku-4-5-20251001."""


class Rates(Frozen):
    """USD per million tokens of each kind; None where nobody has said."""

    input: float | None = Field(default=None, ge=0)
    output: float | None = Field(default=None, ge=0)
    cache_read: float | None = Field(default=None, ge=0)
    cache_write: float | None = Field(default=None, ge=0)

    def cost(self, usage: Usage) -> float | None:
        """Return the price of `usage` in USD, or None when a rate that it needs is unknown."""
        usd = 0.0
        for tokens, rate in (
            (usage.tokens_in, self.input),
            (usage.tokens_out, self.output),
            (usage.cache_read, self.cache_read),
            (usage.cache_write, self.cache_write),
        ):
            if tokens and rate is None:
                return None
            usd += tokens * (rate or 0.0) / MILLION
        return usd


class LongPromptRates(Rates):
    """What holds instead when a prompt has more than `over` tokens."""

    over: int = Field(gt=0)


class ModelFacts(Rates):
    """What is known of a model."""

    long: LongPromptRates | None = None
    context: int | None = None
    """Tokens that fit its window."""
    max_output: int | None = None
    """Tokens that a reply can have."""
    web_search: float | None = Field(default=None, ge=0)
    """USD for a thousand searches that the provider makes."""
    code_execution: float | None = Field(default=None, ge=0)
    """USD for an hour of a container that the provider runs code in."""

    def cost(self, usage: Usage) -> float | None:
        """Return the price of one call in USD, or None when a rate that it needs is unknown."""
        prompt = usage.tokens_in + usage.cache_read + usage.cache_write
        long = self.long if self.long is not None and prompt > self.long.over else None
        usd = super().cost(usage) if long is None else long.cost(usage)
        for amount, rate in (
            (usage.searches / 1000, self.web_search),
            (usage.containers * LEAST_CONTAINER_HOURS, self.code_execution),
        ):
            if amount:
                usd = None if usd is None or rate is None else usd + amount * rate
        return usd


class _ServerTools(Frozen):
    web_search: float
    code_execution: float


class _ModelFile(Frozen):
    as_of: date
    server_tools: _ServerTools
    aliases: dict[str, str]
    models: dict[str, ModelFacts]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """The models that are known, by id."""

    as_of: date
    """When the built-in prices were taken from the provider's list."""
    aliases: Mapping[str, str] = field(default_factory=dict[str, str])
    models: Mapping[str, ModelFacts] = field(default_factory=dict[str, ModelFacts])

    def resolve(self, model: str) -> str:
        """Return the id that `model`, an id or alias, stands for."""
        return self.aliases.get(model, model)

    def find(self, model_id: str) -> ModelFacts | None:
        """Return what is known of a model, or of the one that it is a dated snapshot of."""
        return self.models.get(model_id) or self.models.get(_SNAPSHOT.sub("", model_id))

    def cost(self, model_id: str, usage: Usage) -> float | None:
        """Return what one call costs in USD, or None when the price is unknown."""
        facts = self.find(model_id)
        return None if facts is None else facts.cost(usage)

    def saving(self, model_id: str, usage: Usage) -> float | None:
        """Return how much more one call would have cost in USD if nothing had been cached."""
        if not usage.cached:
            return 0.0
        prompt = usage.tokens_in + usage.cache_read + usage.cache_write
        uncached = usage.model_copy(update={"tokens_in": prompt, "cache_read": 0, "cache_write": 0})
        full, actual = self.cost(model_id, uncached), self.cost(model_id, usage)
        return None if full is None or actual is None else full - actual


@cache
def _built_in() -> _ModelFile:
    text = files("concertmaster.llm").joinpath("models.toml").read_text(encoding="utf-8")
    return _ModelFile.model_validate(tomllib.loads(text))


def load_prices(*overrides: Mapping[str, Mapping[str, Any]]) -> Prices:
    """Return the built-in prices with `overrides` on top, the later winning over the earlier.

    An override gives rates by model id or alias. It replaces those that it names, and does
    away with rates for long prompts that it does not name.

    Raises:
        SettingsError: an override has an unknown key, or a price that is none.
    """
    built_in = _built_in()
    served = built_in.server_tools.model_dump()
    models = {name: facts.model_copy(update=served) for name, facts in built_in.models.items()}
    for override in overrides:
        for name, rates in override.items():
            model_id = built_in.aliases.get(name, name)
            models[model_id] = _overridden(model_id, models.get(model_id), rates)
    return Prices(as_of=built_in.as_of, aliases=built_in.aliases, models=models)


def _overridden(model_id: str, known: ModelFacts | None, rates: Mapping[str, Any]) -> ModelFacts:
    kept = {} if known is None else known.model_dump(exclude={"long"}, exclude_unset=True)
    try:
        return ModelFacts.model_validate(kept | dict(rates))
    except ValidationError as exc:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"
            for item in exc.errors(include_url=False, include_input=False)
        )
        raise SettingsError(
            f"The prices of {model_id} in the settings are wrong: {problems}. "
            "A price is a number of USD per million tokens, for input, output, cache_read or "
            "cache_write; per thousand searches for web_search; per hour for code_execution."
        ) from None
