"""Judging between answers: by comparing them, or by scoring each against criteria."""

import random
from collections.abc import Mapping, Sequence
from string import ascii_uppercase

from pydantic import Field

from concertmaster.catalog.prompts import RenderedPrompt
from concertmaster.engine.concurrency import at_once
from concertmaster.engine.conversations.judgement import NoJudgementError, Question, judge
from concertmaster.engine.plans.strategy import Criterion, Vote
from concertmaster.engine.run import bullets, fenced_answer, fenced_results
from concertmaster.engine.subtasks.work import Work
from concertmaster.llm.protocol import Frozen, JsonSchema, closed_object

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
