"""What a prompt is charged when parts of it are cached."""

import pytest

from concertmaster.fake_api.usage import LIFETIME, LOOKBACK, Block, CacheUse, PromptCache

MODEL = "claude-sonnet-5-5"
SHARED = Block("the inputs", 5000, marked=True)


def charged(use: CacheUse) -> tuple[int, int, int]:
    return use.read, use.write, use.fresh


class Prompts:
    """Prompts whose replies begin as soon as they arrive."""

    def __init__(self) -> None:
        self.cache = PromptCache()

    def send(self, *blocks: Block, model: str = MODEL, now: float = 0.0) -> tuple[int, int, int]:
        use = self.cache.look(model, blocks, now=now)
        self.cache.keep(use, now=now)
        return charged(use)


def own(number: int, *, marked: bool = False) -> Block:
    return Block(f"objective {number}", 10, marked=marked)


def test_the_first_prompt_writes_and_the_next_with_the_same_beginning_reads() -> None:
    prompts = Prompts()
    assert prompts.send(SHARED, own(1)) == (0, 5000, 10)
    assert prompts.send(SHARED, own(2)) == (5000, 0, 10)


def test_a_prompt_that_arrives_before_a_reply_has_begun_finds_nothing() -> None:
    cache = PromptCache()
    first = cache.look(MODEL, [SHARED, own(1)], now=0)
    assert charged(cache.look(MODEL, [SHARED, own(2)], now=0)) == (0, 5000, 10)
    cache.keep(first, now=0)
    assert charged(cache.look(MODEL, [SHARED, own(3)], now=0)) == (5000, 0, 10)


def test_without_a_mark_nothing_is_cached() -> None:
    prompts = Prompts()
    for _ in range(2):
        assert prompts.send(Block("the inputs", 5000)) == (0, 0, 5000)


@pytest.mark.parametrize(
    ("model", "tokens", "cached"),
    [
        ("claude-sonnet-5-5", 1023, False),
        ("claude-sonnet-5-5", 1024, True),
        ("claude-opus-5-5", 4095, False),
        ("claude-opus-5-5", 4096, True),
        ("claude-other", 1024, True),
    ],
)
def test_a_beginning_is_cached_from_a_length_that_depends_on_the_model(
    model: str, tokens: int, cached: bool
) -> None:
    prompts = Prompts()
    beginning = Block("the inputs", tokens, marked=True)
    prompts.send(beginning, own(1), model=model)
    read, _, _ = prompts.send(beginning, own(2), model=model)
    assert read == (tokens if cached else 0)


def test_each_model_has_its_own_cache() -> None:
    prompts = Prompts()
    prompts.send(SHARED, own(1))
    assert prompts.send(SHARED, own(1), model="claude-haiku-5-5") == (0, 5000, 10)


def test_one_different_block_before_the_mark_is_another_beginning() -> None:
    prompts = Prompts()
    prompts.send(own(1), SHARED)
    assert prompts.send(own(2), SHARED) == (0, 5010, 0)


def test_a_beginning_is_kept_for_five_minutes_after_it_was_last_used() -> None:
    prompts = Prompts()
    prompts.send(SHARED, own(1))
    assert prompts.send(SHARED, own(2), now=LIFETIME - 1)[0] == 5000
    assert prompts.send(SHARED, own(3), now=2 * LIFETIME - 2)[0] == 5000
    assert prompts.send(SHARED, own(4), now=3 * LIFETIME - 2)[0] == 0


def test_a_longer_beginning_reads_the_shorter_one_and_writes_the_rest() -> None:
    prompts = Prompts()
    prompts.send(SHARED, own(1))
    assert prompts.send(SHARED, own(1), own(2, marked=True)) == (5000, 20, 0)


@pytest.mark.parametrize(("between", "read"), [(LOOKBACK - 1, 5000), (LOOKBACK, 0)])
def test_an_earlier_beginning_is_looked_for_twenty_blocks_back(between: int, read: int) -> None:
    prompts = Prompts()
    prompts.send(SHARED)
    turns = [own(number) for number in range(between)]
    unmarked = Block(SHARED.text, SHARED.tokens)
    assert prompts.send(unmarked, *turns, own(-1, marked=True))[0] == read
