"""Voting: several independent answers, of which a judge, a rubric or a majority takes one."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from concertmaster.engine.concurrency import at_once, together
from concertmaster.engine.conversations.judgement import NoJudgementError
from concertmaster.engine.conversations.replies import Verdict
from concertmaster.engine.plans.strategy import Vote, Voter
from concertmaster.engine.subtasks.choice import best_of, score
from concertmaster.engine.subtasks.normal_form import normal_form
from concertmaster.engine.subtasks.work import Piece, Work
from concertmaster.engine.subtasks.worker import do


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
