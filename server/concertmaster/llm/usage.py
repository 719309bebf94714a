"""What model calls take: tokens, money, time."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict


def whole_characters(text: str) -> str:
    """Return `text` with its characters whole: a half whose other half is missing is a `\ufffd`.

    JSON may spell a character as two halves, neither of which UTF-8 can express.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


Text = Annotated[str, AfterValidator(whole_characters)]
"""Text from outside, which JSON may have spelled with halves of characters."""


class Frozen(BaseModel):
    """Base of the models that are written to the journal or to the wire."""

    # JSON has no word for infinity; what is written as null cannot be read again.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)


class Usage(Frozen):
    """What one or more model calls took.

    `usd` is None when the price of the model is unknown; it is never 0 for that reason.
    """

    model: Text = ""
    """The model that answered; several are joined with a comma."""
    calls: int = 0
    """Calls that the engine made."""
    attempts: int = 0
    """Requests that were sent for them, retries included."""
    tokens_in: int = 0
    """Input tokens charged at the full price; cached ones are counted apart."""
    estimated_in: int = 0
    """Of those in, how many no provider has reported: they follow from the length of requests."""
    tokens_out: int = 0
    estimated_out: int = 0
    """Of those out, how many nobody has reported: they are told by the length of what came."""
    cache_read: int = 0
    cache_write: int = 0
    usd: float | None = 0.0
    saved_usd: float | None = 0.0
    """What it would have cost more if nothing had been cached; below zero where writing to
    the cache was not worth it, None where a price is unknown."""
    seconds: float = 0.0
    """Time spent waiting for the model, summed over calls."""
    searches: int = 0
    """Web searches that the provider made and charges for."""
    fetches: int = 0
    """Pages that the provider fetched."""
    containers: int = 0
    """Containers that the provider opened to run code in and charges for."""

    @property
    def tokens(self) -> int:
        """Return the tokens of all kinds."""
        return self.tokens_in + self.tokens_out + self.cache_read + self.cache_write

    @property
    def new_tokens(self) -> int:
        """Return the tokens of all kinds but those read from the cache."""
        return self.tokens - self.cache_read

    @property
    def metered(self) -> bool:
        """Tell whether a provider was asked, so that tokens and money say anything."""
        return bool(self.attempts or self.tokens)

    @property
    def estimated(self) -> int:
        """Return the tokens that no provider has reported."""
        return self.estimated_in + self.estimated_out

    @property
    def as_estimate(self) -> "Usage":
        """Return it with all output marked as estimated: the call went on after it was taken."""
        return self.model_copy(update={"estimated_out": self.tokens_out})

    @property
    def cached(self) -> bool:
        """Tell whether anything was written to the cache or read from it."""
        return bool(self.cache_read or self.cache_write)

    @property
    def cache_hit_rate(self) -> float:
        """Return the part of all input tokens that was read from the cache, from 0 to 1."""
        read = self.tokens_in + self.cache_read + self.cache_write
        return self.cache_read / read if read else 0.0

    def __add__(self, other: "Usage") -> "Usage":
        if other is NO_USAGE:
            return self
        if self is NO_USAGE:
            return other
        names = [name for name in (*self.model.split(", "), *other.model.split(", ")) if name]
        return Usage(
            model=", ".join(dict.fromkeys(names)),
            calls=self.calls + other.calls,
            attempts=self.attempts + other.attempts,
            tokens_in=self.tokens_in + other.tokens_in,
            estimated_in=self.estimated_in + other.estimated_in,
            tokens_out=self.tokens_out + other.tokens_out,
            estimated_out=self.estimated_out + other.estimated_out,
            cache_read=self.cache_read + other.cache_read,
            cache_write=self.cache_write + other.cache_write,
            usd=_sum(self.usd, other.usd),
            saved_usd=_sum(self.saved_usd, other.saved_usd),
            seconds=self.seconds + other.seconds,
            searches=self.searches + other.searches,
            fetches=self.fetches + other.fetches,
            containers=self.containers + other.containers,
        )


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other


NO_USAGE = Usage()
