"""Voting: several independent answers, of which a judge, a rubric or a majority takes one."""

import json
import random
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from string import ascii_uppercase
from typing import cast

from pydantic import Field, JsonValue

from concertmaster.catalog.prompts import RenderedPrompt
from concertmaster.engine.concurrency import at_once, together
from concertmaster.engine.conversation import Verdict
from concertmaster.engine.judgement import NoJudgementError, Question, judge
from concertmaster.engine.plan.plan import Criterion, Vote, Voter
from concertmaster.engine.run import bullets, fenced_answer, fenced_results
from concertmaster.engine.strategies.work import Piece, Work, do
from concertmaster.llm.messages import JsonSchema, closed_object
from concertmaster.llm.usage import Frozen

TOP_SCORE = 10


class Choice(Frozen):
    """Which answer a judge takes."""

    best: str
    reasons: str


class Score(Frozen):
    """How well an answer meets one criterion."""

    criterion: str
    score: int = Field(ge=0, le=TOP_SCORE)
    why: str


class Scores(Frozen):
    """How well an answer meets some criteria."""

    scores: tuple[Score, ...]


async def best_of(work: Work, answers: Mapping[int, str]) -> tuple[int, str]:
    """Return the number of the answer that a judge takes, and its reasons.

    The judge sees them in an order of its own, so that position does not decide; it is the
    same each time that the run is resumed.

    Raises:
        NoJudgementError: the judge takes none.
    """
    order = list(answers)
    seed = f"{work.run.request.task}\0{work.subtask.id}"
    random.Random(seed).shuffle(order)  # noqa: S311 (not a secret)
    labelled = dict(zip(ascii_uppercase, order, strict=False))
    # A letter stands for an answer only among these: one that failed may come when the run
    # is resumed.
    among = "+".join(str(number) for number in sorted(answers))
    question = Question(
        caller="judge",
        act="judge between answers",
        step=work.step(f"judge/{among}"),
        prompt=_judge_prompt(work, {label: answers[each] for label, each in labelled.items()}),
        schema=closed_object({"reasons": {"type": "string"}, "best": {"enum": list(labelled)}}),
        documents=work.inputs,
        subtask_id=work.subtask.id,
    )
    async with work.slot():
        choice = await judge(
            Choice, question, run=work.run, setup=work.setup, seconds=work.seconds()
        )
    return labelled[choice.best], choice.reasons


def _judge_prompt(work: Work, answers: Mapping[str, str]) -> RenderedPrompt:
    return work.setup.prompts.render(
        "judge",
        task=work.run.request.task,
        objective=work.subtask.objective,
        expects=_expected(work),
        dependencies=fenced_results(work.dependencies),
        answers="\n\n".join(fenced_answer(label, text) for label, text in answers.items()),
    )


async def score(work: Work, strategy: Vote, answer: str, *, step: str) -> float:
    """Return the mean of an answer's scores, weighted as the criteria are, from 0 to 10.

    Raises:
        NoJudgementError: it is not scored by every criterion.
    """
    criteria = strategy.criteria
    groups = [(one,) for one in criteria] if strategy.separate_criteria else [criteria]

    async def score_by(numbered: tuple[int, Sequence[Criterion]]) -> dict[str, int]:
        number, group = numbered
        return await _scores(work, group, answer, step=f"{step}.{number}")

    scores: dict[str, int] = {}
    for some in await at_once(score_by, enumerate(groups, start=1)):
        scores |= some
    if missing := [one.name for one in criteria if one.name not in scores]:
        raise NoJudgementError(f"It was not scored by: {', '.join(missing)}.")
    total = sum(one.weight * scores[one.name] for one in criteria)
    return total / sum(one.weight for one in criteria)


async def _scores(
    work: Work, criteria: Sequence[Criterion], answer: str, *, step: str
) -> dict[str, int]:
    names = [criterion.name for criterion in criteria]
    prompt = work.setup.prompts.render(
        "rubric",
        task=work.run.request.task,
        objective=work.subtask.objective,
        expects=_expected(work),
        dependencies=fenced_results(work.dependencies),
        criteria=bullets(names),
        answer=fenced_answer(work.subtask.id, answer),
    )
    question = Question(
        caller="rubric",
        act="score an answer",
        step=work.step(step),
        prompt=prompt,
        schema=_scores_schema(names),
        documents=work.inputs,
        subtask_id=work.subtask.id,
    )
    async with work.slot():
        scores = await judge(
            Scores, question, run=work.run, setup=work.setup, seconds=work.seconds()
        )
    return {item.criterion: item.score for item in scores.scores}


def _scores_schema(names: Sequence[str]) -> JsonSchema:
    one = {
        "criterion": {"enum": list(names)},
        "why": {"type": "string"},
        "score": {"type": "integer", "minimum": 0, "maximum": TOP_SCORE},
    }
    return closed_object(
        {
            "scores": {
                "type": "array",
                "items": closed_object(one),
                "minItems": len(names),
                "maxItems": len(names),
            }
        }
    )


def _expected(work: Work) -> str:
    return work.subtask.expects or "What the objective asks for."


_MARKS = re.compile(r"[*_`#>]+")
_ENDS = " \t\n.,;:!?\"'()[]"


def normal_form(verdict: Verdict) -> str:
    """Return a text that is the same for answers that differ in spelling alone.

    Case, white space, Markdown's marks and punctuation at the ends do not count; in a value,
    neither does the order of keys.
    """
    if verdict.value is None:
        return _text(verdict.text)
    return json.dumps(_value(verdict.value), sort_keys=True, ensure_ascii=False)


def _value(value: JsonValue) -> JsonValue:
    match value:
        case str():
            return _text(value)
        case list():
            return [_value(item) for item in cast("list[JsonValue]", value)]
        case dict():
            return {key: _value(item) for key, item in cast("dict[str, JsonValue]", value).items()}
        case float() if value.is_integer():
            return int(value)
        case _:
            return value


def _text(text: str) -> str:
    plain = _MARKS.sub("", unicodedata.normalize("NFKC", text)).casefold()
    return " ".join(plain.split()).strip(_ENDS)


async def do_by_vote(work: Work, strategy: Vote) -> Verdict:
    """Return the answer that wins, with how it won; where none does, the best there is."""
    match strategy.decide:
        case "judge":
            return await _by_judge(work, strategy)
        case "rubric":
            return await _by_rubric(work, strategy)
        case _:
            return await _by_majority(work, strategy)


DENIED = "\0"
"""The form of all ballots that say that the objective cannot be met."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ballot:
    """One voter's answer."""

    number: int
    voter: Voter
    verdict: Verdict

    @property
    def valid(self) -> bool:
        return self.verdict.usable

    @property
    def denies(self) -> bool:
        """Tell whether the voter says that the objective cannot be met."""
        return self.verdict.outcome == "not_met"

    @property
    def counts(self) -> bool:
        """Tell whether it takes part in a vote by majority."""
        return self.valid or self.denies

    @property
    def form(self) -> str:
        """Return what is the same for all ballots that say the same."""
        return DENIED if self.denies else normal_form(self.verdict)

    @property
    def answer(self) -> str:
        """Return what a judge reads of it."""
        return "\n\n".join(filter(None, [self.verdict.text, self.verdict.problem]))


async def _ballots(
    work: Work, strategy: Vote, decided: Callable[[Sequence[_Ballot]], bool] = lambda _: False
) -> list[_Ballot]:
    """Return the ballots, in the voters' order, as soon as all are in or it is `decided`."""
    ballots: list[_Ballot] = []
    async with together() as tasks:

        async def cast(number: int, voter: Voter) -> None:
            piece = Piece(step=f"answer/{number}", worker=voter.worker, model=voter.model)
            verdict = await do(work, piece)
            ballots.append(_Ballot(number=number, voter=voter, verdict=verdict))
            if decided(ballots):
                tasks.cancel_scope.cancel()

        for number, voter in enumerate(strategy.electorate, start=1):
            tasks.start_soon(cast, number, voter)
    return sorted(ballots, key=lambda ballot: ballot.number)


def _without_vote(ballots: Sequence[_Ballot]) -> Verdict:
    """Return what there is where too few answers came for a vote."""
    problems = " ".join(ballot.verdict.problem for ballot in ballots if ballot.verdict.problem)
    best = max(ballots, key=lambda ballot: (ballot.valid, ballot.verdict.text != ""))
    found = Verdict(status="failed") if not best.verdict.text else best.verdict
    count = sum(ballot.valid for ballot in ballots)
    problem = f"There was no vote: {count} of {len(ballots)} answers came. {problems}".strip()
    none = Verdict(status="failed", text=found.text, value=found.value, sources=found.sources)
    return none.with_problem(problem)


def _unanimous(ballots: Sequence[_Ballot]) -> Verdict | None:
    """Return the answer if all that count are the same, so that there is nothing to judge."""
    valid = [ballot for ballot in ballots if ballot.valid]
    if len({normal_form(ballot.verdict) for ballot in valid}) != 1:
        return None
    note = f"All {len(valid)} answers are the same, so none was judged."
    return valid[0].verdict.with_notes(note, *_uncounted(ballots))


def _mostly_denied(ballots: Sequence[_Ballot]) -> Verdict | None:
    """Return the verdict of most voters, if they say that the objective cannot be met."""
    denying = [ballot for ballot in ballots if ballot.denies]
    answering = [ballot for ballot in ballots if ballot.valid]
    if len(denying) <= len(answering):
        return None
    count = f"{len(denying)} of {len(ballots)} answers say that the objective was not met."
    return denying[0].verdict.with_notes(count, *_uncounted(ballots))


async def _by_judge(work: Work, strategy: Vote) -> Verdict:
    ballots = await _ballots(work, strategy)
    if denied := _mostly_denied(ballots):
        return denied
    valid = [ballot for ballot in ballots if ballot.valid]
    if len(valid) < 2:
        return _without_vote(ballots)
    if (unanimous := _unanimous(ballots)) is not None:
        return unanimous
    try:
        answers = {ballot.number: ballot.answer for ballot in valid}
        best, reasons = await best_of(work, answers)
    except NoJudgementError as exc:
        first = valid[0].verdict.with_problem(f"No judge chose between the answers: {exc}")
        return first.with_notes(*_uncounted(ballots))
    chosen = next(ballot.verdict for ballot in valid if ballot.number == best)
    note = f"A judge chose answer {best} of {len(ballots)}: {reasons}"
    return chosen.with_notes(note, *_uncounted(ballots))


async def _by_rubric(work: Work, strategy: Vote) -> Verdict:
    ballots = await _ballots(work, strategy)
    if denied := _mostly_denied(ballots):
        return denied
    valid = [ballot for ballot in ballots if ballot.valid]
    if len(valid) < 2:
        return _without_vote(ballots)
    if (unanimous := _unanimous(ballots)) is not None:
        return unanimous
    scores: dict[int, float] = {}
    unscored: dict[int, str] = {}

    async def score_one(ballot: _Ballot) -> None:
        try:
            scores[ballot.number] = await score(
                work, strategy, ballot.answer, step=f"score/{ballot.number}"
            )
        except NoJudgementError as exc:
            unscored[ballot.number] = str(exc)

    await at_once(score_one, valid)
    problems = _told("was not scored", "were not scored", unscored)
    if not scores:
        first = valid[0].verdict.with_problem(" ".join(problems))
        return first.with_notes(*_uncounted(ballots))
    # The first of those that have the same score, in the voters' order.
    best = max(
        (ballot for ballot in valid if ballot.number in scores),
        key=lambda ballot: (scores[ballot.number], -ballot.number),
    )
    marks = ", ".join(f"{number}: {scores[number]:.1f}" for number in sorted(scores))
    note = f"Answer {best.number} scored highest, of 10 by the rubric ({marks})."
    return best.verdict.with_notes(note, *problems, *_uncounted(ballots))


def _uncounted(ballots: Sequence[_Ballot]) -> list[str]:
    """Return a sentence for each reason why answers took no part in the vote."""
    reasons = {item.number: item.verdict.problem for item in ballots if not item.valid}
    return _told("did not count", "did not count", reasons)


def _told(of_one: str, of_many: str, reasons: Mapping[int, str]) -> list[str]:
    """Return a sentence for each reason why something became of answers, by their numbers."""
    numbers: dict[str, list[str]] = defaultdict(list)
    for number in sorted(reasons):
        numbers[reasons[number]].append(str(number))
    return [
        f"Answer {same[0]} {of_one}: {reason}"
        if len(same) == 1
        else f"Answers {', '.join(same)} {of_many}: {reason}"
        for reason, same in numbers.items()
    ]


async def _by_majority(work: Work, strategy: Vote) -> Verdict:
    count = _Count(strategy)
    ballots = await _ballots(work, strategy, count.decided)
    if sum(ballot.counts for ballot in ballots) < 2 and not count.decided(ballots):
        return _without_vote(ballots)
    leaders = count.leaders(ballots)
    if leaders[0][0] == DENIED and leaders[0][1] <= count.needed and len(leaders) > 1:
        # Too few deny it to keep the answers of the others from the reader.
        del leaders[0]
    form, most = leaders[0]
    alike = [ballot for ballot in ballots if ballot.counts and ballot.form == form]
    # Of those that say the same, one that has nothing to hold against itself.
    first = min(alike, key=lambda ballot: ballot.verdict.status != "succeeded")
    agree = f"{float(most):g} of {float(count.whole):g}"
    uncounted = _uncounted(ballots)
    if most > count.needed:
        return first.verdict.with_notes(f"Won by a majority of {agree}.", *uncounted)
    problem = (
        f"No majority: the most common answer has {agree}, and more than "
        f"{float(count.needed):g} were needed."
    )
    return first.verdict.with_problem(problem).with_notes(*uncounted)


class _Count:
    """Counts votes by what they say."""

    def __init__(self, strategy: Vote) -> None:
        # Fractions, because weights of 0.1 and 0.2 are to tie with one of 0.3.
        self._weights = [
            Fraction(str(voter.weight)) if strategy.decide == "weighted" else Fraction(1)
            for voter in strategy.electorate
        ]
        self.whole = sum(self._weights, Fraction())
        self.needed = Fraction(str(strategy.share)) * self.whole

    def leaders(self, ballots: Sequence[_Ballot]) -> list[tuple[str, Fraction]]:
        """Return the answers and what each has, most first; among equals, the first given."""
        sums: dict[str, Fraction] = defaultdict(Fraction)
        for ballot in ballots:
            if ballot.counts:
                sums[ballot.form] += self._weight(ballot)
        return sorted(sums.items(), key=lambda item: -item[1])

    def decided(self, ballots: Sequence[_Ballot]) -> bool:
        """Tell whether the leader stays in the lead, and has won or cannot win, come what may."""
        counting = [ballot for ballot in ballots if ballot.counts]
        if not counting:
            return False
        if len(counting) < 2:
            # One answer alone is a vote only if it outweighs whatever the others could say.
            ballots = counting
        leaders = self.leaders(ballots)
        most = leaders[0][1]
        next_most = leaders[1][1] if len(leaders) > 1 else Fraction()
        left = self.whole - sum(self._weight(ballot) for ballot in ballots)
        settled = most > self.needed or most + left <= self.needed
        return settled and most > next_most + left

    def _weight(self, ballot: _Ballot) -> Fraction:
        return self._weights[ballot.number - 1]
