"""Voting: several independent answers, of which a judge, a rubric or a majority takes one."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from concertmaster.engine.concurrency import at_once, together
from concertmaster.engine.judgement import NoJudgementError
from concertmaster.engine.replies import Verdict
from concertmaster.engine.strategies.choice import best_of, score
from concertmaster.engine.strategies.normal_form import normal_form
from concertmaster.engine.strategy import Vote, Voter
from concertmaster.engine.work import Piece, Work
from concertmaster.engine.worker import do


async def do_by_vote(work: Work, strategy: Vote) -> Verdict:
    """Return the answer that wins, with how it won; where none does, the best there is."""
    match strategy.decide:
        case "judge":
            return await _by_judge(work, strategy)
        case "rubric":
            return await _by_rubric(work, strategy)
        case _:
            return await _by_majority(work, strategy)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ballot:
    """One voter's answer."""

    number: int
    voter: Voter
    verdict: Verdict

    @property
    def valid(self) -> bool:
        return self.verdict.status == "succeeded"


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
    return Verdict(status="failed", text=found.text, value=found.value).with_problem(problem)


async def _by_judge(work: Work, strategy: Vote) -> Verdict:
    ballots = await _ballots(work, strategy)
    valid = [ballot for ballot in ballots if ballot.valid]
    if len(valid) < 2:
        return _without_vote(ballots)
    try:
        best, reasons = await best_of(work, [ballot.verdict.text for ballot in valid])
    except NoJudgementError as exc:
        return valid[0].verdict.with_problem(f"No judge chose between the answers: {exc}")
    note = f"A judge chose answer {valid[best].number} of {len(ballots)}: {reasons}"
    return valid[best].verdict.with_notes(note)


async def _by_rubric(work: Work, strategy: Vote) -> Verdict:
    ballots = await _ballots(work, strategy)
    valid = [ballot for ballot in ballots if ballot.valid]
    if len(valid) < 2:
        return _without_vote(ballots)
    scores: dict[int, float] = {}
    unscored: dict[int, str] = {}

    async def score_one(ballot: _Ballot) -> None:
        try:
            scores[ballot.number] = await score(
                work, strategy, ballot.verdict.text, step=f"score/{ballot.number}"
            )
        except NoJudgementError as exc:
            unscored[ballot.number] = str(exc)

    await at_once(score_one, valid)
    problems = _unscored(unscored)
    if not scores:
        return valid[0].verdict.with_problem(" ".join(problems))
    # The first of those that have the same score, in the voters' order.
    best = max(
        (ballot for ballot in valid if ballot.number in scores),
        key=lambda ballot: (scores[ballot.number], -ballot.number),
    )
    marks = ", ".join(f"{number}: {scores[number]:.1f}" for number in sorted(scores))
    note = f"Answer {best.number} scored highest, of 10 by the rubric ({marks})."
    return best.verdict.with_notes(note, *problems)


def _unscored(reasons: Mapping[int, str]) -> list[str]:
    """Return a sentence for each reason why answers, by their numbers, have no score."""
    numbers: dict[str, list[str]] = defaultdict(list)
    for number in sorted(reasons):
        numbers[reasons[number]].append(str(number))
    return [
        f"Answer {same[0]} was not scored: {reason}"
        if len(same) == 1
        else f"Answers {', '.join(same)} were not scored: {reason}"
        for reason, same in numbers.items()
    ]


async def _by_majority(work: Work, strategy: Vote) -> Verdict:
    electorate = strategy.electorate
    weights = [voter.weight if strategy.decide == "weighted" else 1.0 for voter in electorate]
    needed = strategy.share * sum(weights)

    def tally(ballots: Sequence[_Ballot]) -> dict[str, float]:
        sums: dict[str, float] = defaultdict(float)
        for ballot in ballots:
            if ballot.valid:
                sums[normal_form(ballot.verdict)] += weights[ballot.number - 1]
        return sums

    def decided(ballots: Sequence[_Ballot]) -> bool:
        """Tell whether one answer has won, or none can win any more."""
        most = max(tally(ballots).values(), default=0.0)
        open_weight = sum(weights) - sum(weights[ballot.number - 1] for ballot in ballots)
        return most > needed or most + open_weight <= needed

    ballots = await _ballots(work, strategy, decided)
    sums = tally(ballots)
    if not sums:
        return _without_vote(ballots)
    winner = max(sums, key=lambda form: sums[form])
    first = next(
        ballot for ballot in ballots if ballot.valid and normal_form(ballot.verdict) == winner
    )
    agree = f"{sums[winner]:g} of {sum(weights):g}"
    if sums[winner] > needed:
        return first.verdict.with_notes(f"Won by a majority of {agree}.")
    return first.verdict.with_problem(
        f"No majority: the most common answer has {agree}, and more than {needed:g} were needed."
    )
