"""The sentences of a document that say most, chosen by LexRank.

A sentence counts as much as those that resemble it, as pages do by the links to them.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from concertmaster.llm.offline.passages import Reading, Sentence, words
from concertmaster.llm.offline.quotes import listed, section

MOST_COMPARED = 400
"""Sentences of a long document that are compared with each other: those nearest its topic."""

_FEWEST_WORDS = 6
_RESEMBLES = 0.1
_REPEATS = 0.5
_DAMPING = 0.85
_ROUNDS = 30

STOP_WORDS = frozenset(
    """
    a about after all also an and any are as at be been before but by can could did do does each
    for from had has have he her his how i if in into is it its may more most must no nor not of
    on only or other our out over own per shall she should so some such than that the their them
    then there these they this those to under until up upon was we were what when where which while
    who whom will with would you your
    """.split()  # noqa: SIM905 (as a list of strings it is unreadable)
)

_Vector = Mapping[str, float]


def summarize(reading: Reading) -> str:
    """Return the key sentences in the order of the document."""
    sentences = [
        sentence
        for sentence in reading.sentences
        if not sentence.in_table
        and "__" not in sentence.text
        and len(words(sentence.text)) >= _FEWEST_WORDS
    ]
    # A longer document gets a longer summary, but not in proportion.
    wanted = min(12, max(3, round(math.sqrt(reading.words) / 4)))
    size = f"{reading.words} words in {len(reading.headings)} sections."
    lines = [f"{item.text} ({item.place})" for item in key_sentences(sentences, wanted)]
    return section("Key points", reading.name, size, listed(lines))


def key_sentences(sentences: Sequence[Sentence], wanted: int) -> list[Sentence]:
    """Return the sentences that say most, in their order, none saying what another has said."""
    vectors = _vectors(sentences)
    compared = _nearest_topic(vectors)
    ranks = _ranks([vectors[number] for number in compared])
    chosen: list[int] = []
    for _, number in sorted(
        zip(ranks, compared, strict=True), key=lambda pair: (-pair[0], pair[1])
    ):
        if len(chosen) == wanted:
            break
        if all(_cosine(vectors[number], vectors[other]) < _REPEATS for other in chosen):
            chosen.append(number)
    return [sentences[number] for number in sorted(chosen)]


def _vectors(sentences: Sequence[Sentence]) -> list[_Vector]:
    """Return the weight of each word of each sentence, in vectors of length one."""
    counts = [
        Counter(_stem(word) for word in words(sentence.text) if word not in STOP_WORDS)
        for sentence in sentences
    ]
    spread = Counter(word for count in counts for word in count)
    return [
        _unit(
            {
                word: number * math.log(1 + len(counts) / spread[word])
                for word, number in count.items()
            }
        )
        for count in counts
    ]


def _stem(word: str) -> str:
    for ending in ("ies", "ing", "ed", "es", "s", "\u2019s", "'s"):
        if word.endswith(ending) and len(word) - len(ending) >= 4:
            return word[: -len(ending)]
    return word


def _unit(vector: _Vector) -> _Vector:
    length = math.sqrt(sum(weight * weight for weight in vector.values())) or 1.0
    return {word: weight / length for word, weight in vector.items()}


def _cosine(one: _Vector, other: _Vector) -> float:
    if len(one) > len(other):
        one, other = other, one
    return sum(weight * other.get(word, 0.0) for word, weight in one.items())


def _nearest_topic(vectors: Sequence[_Vector]) -> list[int]:
    numbers = list(range(len(vectors)))
    if len(numbers) <= MOST_COMPARED:
        return numbers
    topic: Counter[str] = Counter()
    for vector in vectors:
        topic.update(vector)
    nearness = [_cosine(vector, topic) for vector in vectors]
    return sorted(sorted(numbers, key=lambda number: -nearness[number])[:MOST_COMPARED])


def _ranks(vectors: Sequence[_Vector]) -> list[float]:
    size = len(vectors)
    links: list[list[tuple[int, float]]] = [[] for _ in vectors]
    for one in range(size):
        for other in range(one):
            likeness = _cosine(vectors[one], vectors[other])
            if likeness > _RESEMBLES:
                links[one].append((other, likeness))
                links[other].append((one, likeness))
    totals = [sum(likeness for _, likeness in link) for link in links]
    ranks = [1.0] * size
    for _ in range(_ROUNDS):
        ranks = [
            1
            - _DAMPING
            + _DAMPING * sum(ranks[other] * likeness / totals[other] for other, likeness in link)
            for link in links
        ]
    return ranks
