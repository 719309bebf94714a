"""What models cost, and what their aliases stand for."""

from datetime import date
from typing import get_args

import pytest
from anthropic.types.model import Model

from concertmaster.errors import SettingsError
from concertmaster.llm.pricing import load_prices
from concertmaster.llm.usage import Usage

PRICES = load_prices()
MILLION = Usage(tokens_in=1_000_000)


def test_aliases_stand_for_models_that_the_sdk_knows_and_that_have_prices() -> None:
    known = get_args(get_args(Model)[0])
    assert set(PRICES.aliases) == {"opus", "sonnet", "haiku"}
    for alias in PRICES.aliases:
        model = PRICES.resolve(alias)
        assert model in known
        facts = PRICES.find(model)
        assert facts is not None
        assert None not in (facts.input, facts.output, facts.cache_read, facts.cache_write)
        assert facts.context == 1_000_000
        assert facts.max_output == 128_000


def test_an_alias_stands_for_the_newest_model_of_its_name() -> None:
    for alias in PRICES.aliases:
        family = [model for model in PRICES.models if model.startswith(f"claude-{alias}-")]
        assert PRICES.resolve(alias) == max(family)


def test_a_model_id_stands_for_itself() -> None:
    assert PRICES.resolve("claude-opus-4-8") == "claude-opus-4-8"


def test_searches_and_containers_have_their_price_beside_the_tokens() -> None:
    usage = Usage(tokens_in=1_000_000, searches=7, fetches=9, containers=2)
    opus = 4.0 + 7 * 0.01 + 2 * 0.05 * 5 / 60
    assert PRICES.cost("claude-opus-5-5", usage) == pytest.approx(opus)
    # Also where the prompt is so long that other rates hold for it.
    assert PRICES.cost("claude-haiku-5-5", usage) == pytest.approx(opus - 4.0 + 0.5)


def test_searches_of_a_model_that_nobody_gave_a_price_for_them_cost_nobody_knows_what() -> None:
    own = {"input": 1.0, "output": 1.0}
    usage = Usage(tokens_in=1_000_000, searches=1)
    assert load_prices({"mine": own}).cost("mine", usage) is None
    assert load_prices({"mine": own}).cost("mine", MILLION) == 1.0
    assert load_prices({"mine": own | {"web_search": 5.0}}).cost("mine", usage) == 1.005
    assert load_prices({"sonnet": own}).cost("claude-sonnet-5-5", usage) == 1.01
    assert load_prices({"mine": {}}).cost("mine", usage) is None


def test_what_the_cache_saves_has_nothing_to_do_with_searches() -> None:
    usage = Usage(cache_read=1_000_000)
    searched = usage.model_copy(update={"searches": 5})
    assert PRICES.saving("claude-sonnet-5-5", searched) == PRICES.saving("claude-sonnet-5-5", usage)


def test_every_kind_of_token_has_its_price() -> None:
    usage = Usage(tokens_in=1000, tokens_out=200, cache_read=5000, cache_write=2000)
    expected = (1000 * 4 + 200 * 20 + 5000 * 0.2 + 2000 * 5) / 1e6
    assert PRICES.cost("claude-opus-5-5", usage) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (Usage(tokens_in=100_000, tokens_out=1000), (100_000 * 0.1 + 1000 * 0.5) / 1e6),
        (Usage(tokens_in=100_001, tokens_out=1000), (100_001 * 0.5 + 1000 * 2.5) / 1e6),
        (
            Usage(tokens_in=1, cache_read=60_000, cache_write=60_000),
            (1 * 0.5 + 60_000 * 0.05 + 60_000 * 0.625) / 1e6,
        ),
    ],
)
def test_a_long_prompt_has_its_own_prices(usage: Usage, expected: float) -> None:
    assert PRICES.cost("claude-haiku-5-5", usage) == pytest.approx(expected)


def test_what_the_cache_saves_is_what_the_same_would_cost_without_it() -> None:
    read = Usage(tokens_in=1000, tokens_out=200, cache_read=5000)
    assert PRICES.saving("claude-opus-5-5", read) == pytest.approx(5000 * (4 - 0.2) / 1e6)
    written = Usage(tokens_in=1000, tokens_out=200, cache_write=5000)
    assert PRICES.saving("claude-opus-5-5", written) == pytest.approx(5000 * (4 - 5) / 1e6)


def test_without_the_cache_nothing_is_saved_and_without_a_price_nobody_knows() -> None:
    assert PRICES.saving("claude-opus-5-5", MILLION) == 0
    assert PRICES.saving("house-model", MILLION) == 0
    assert PRICES.saving("house-model", Usage(cache_read=1)) is None
    assert load_prices({"m": {"input": 3}}).saving("m", Usage(cache_read=1)) is None


def test_a_snapshot_costs_what_its_model_costs() -> None:
    snapshot = PRICES.cost("claude-haiku-4-5-20251001", MILLION)
    assert snapshot == PRICES.cost("claude-haiku-4-5", MILLION) == pytest.approx(1.0)


@pytest.mark.parametrize("model", ["claude-opus-6", "house-model", "claude-haiku-4-5-2025", ""])
def test_an_unknown_model_has_an_unknown_price(model: str) -> None:
    assert PRICES.cost(model, MILLION) is None


def test_the_prices_say_when_they_were_taken() -> None:
    assert date(2026, 10, 1) <= PRICES.as_of


def test_an_override_replaces_what_it_names_and_leaves_the_rest() -> None:
    prices = load_prices({"opus": {"input": 1}}, {"claude-opus-5-5": {"output": 2}})
    assert prices.cost("claude-opus-5-5", MILLION) == pytest.approx(1.0)
    assert prices.cost("claude-opus-5-5", Usage(tokens_out=1_000_000)) == pytest.approx(2.0)
    assert prices.cost("claude-opus-5-5", Usage(cache_read=1_000_000)) == pytest.approx(0.2)
    assert PRICES.cost("claude-opus-5-5", MILLION) == pytest.approx(4.0)


def test_an_overridden_price_holds_for_prompts_of_any_length() -> None:
    prices = load_prices({"haiku": {"input": 0.2}})
    assert prices.cost("claude-haiku-5-5", MILLION) == pytest.approx(0.2)


def test_a_price_that_an_override_leaves_out_is_unknown_but_only_where_it_is_needed() -> None:
    prices = load_prices({"house-model": {"input": 3, "output": 0}})
    assert prices.cost("house-model", MILLION) == pytest.approx(3.0)
    assert prices.cost("house-model", Usage(tokens_out=5)) == 0.0
    assert prices.cost("house-model", Usage(tokens_in=1, cache_read=1)) is None


@pytest.mark.parametrize(
    "rates", [{"inputs": 1}, {"input": -1}, {"input": "much"}, {"input": float("inf")}]
)
def test_an_override_that_is_wrong_is_named(rates: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match=r"prices of house-model .*input"):
        load_prices({"house-model": rates})
