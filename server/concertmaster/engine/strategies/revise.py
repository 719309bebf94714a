"""Evaluator and optimizer: a critic judges, the worker revises, until nothing is left to mend."""

import itertools

from concertmaster.engine.conversation import Conversation, Verdict
from concertmaster.engine.judgement import NoJudgementError, Question, judge
from concertmaster.engine.plan.plan import Revise
from concertmaster.engine.run import bullets, fenced_answer, fenced_results
from concertmaster.engine.strategies.work import Work, conversation
from concertmaster.llm.messages import closed_object
from concertmaster.llm.usage import Frozen

NEUTRAL_CRITIC = "You have no role of your own here: judge as a careful expert of the matter would."

CRITIQUE = closed_object(
    {
        "points": {"type": "array", "items": {"type": "string"}},
        "satisfactory": {"type": "boolean"},
    }
)


class Critique(Frozen):
    """What a critic says of a result."""

    satisfactory: bool
    points: tuple[str, ...]


async def do_with_revisions(work: Work, strategy: Revise) -> Verdict:
    """Return the result that satisfies the critic, or the last one with the open points."""
    async with work.slot():
        talk = conversation(work)
        verdict = await talk.verdict(seconds=work.seconds())
        for revisions in itertools.count():
            if not verdict.usable:
                return verdict
            try:
                critique = await _critique(work, strategy, verdict, revisions + 1)
            except NoJudgementError as exc:
                return verdict.with_problem(f"No critic could judge it: {exc}")
            verdict = verdict.with_notes(_note(revisions))
            if critique.satisfactory:
                return verdict
            if not critique.points:
                return verdict.with_problem("The critic was not satisfied and gave no points.")
            if revisions == strategy.rounds:
                return verdict.with_problem(f"The critic objects: {' '.join(critique.points)}")
            verdict = await _revised(work, talk, verdict, critique)
    raise AssertionError("unreachable")


async def _critique(work: Work, strategy: Revise, verdict: Verdict, number: int) -> Critique:
    setup, subtask = work.setup, work.subtask
    critic = work.workers.get(strategy.critic) if strategy.critic else None
    result = "\n\n".join(filter(None, [verdict.text, verdict.problem]))
    prompt = setup.prompts.render(
        "critique",
        role=critic.instructions if critic else NEUTRAL_CRITIC,
        task=work.run.request.task,
        objective=subtask.objective,
        expects=subtask.expects or "What the objective asks for.",
        constraints=bullets(work.run.request.constraints),
        dependencies=fenced_results(work.dependencies),
        result=fenced_answer(subtask.id, result),
    )
    question = Question(
        caller="critic",
        act="criticise a result",
        step=work.step(f"critique/{number}"),
        prompt=prompt,
        schema=CRITIQUE,
        model=(critic and critic.model) or setup.models.worker,
        documents=work.inputs,
        subtask_id=subtask.id,
    )
    seconds = work.seconds(strategy.critic)
    return await judge(Critique, question, run=work.run, setup=setup, seconds=seconds)


async def _revised(work: Work, talk: Conversation, verdict: Verdict, critique: Critique) -> Verdict:
    """Return the worker's next result; the last one, if no other comes."""
    wish = work.setup.prompts.render("revise", points=bullets(critique.points))
    revised = await talk.revise(verdict.text, wish.user, seconds=work.seconds())
    if revised.usable:
        return revised
    points = " ".join(critique.points)
    return verdict.with_problem(f"The critic objects: {points} No revision came: {revised.problem}")


def _note(revisions: int) -> str:
    times = {0: "not at all", 1: "once", 2: "twice"}.get(revisions, f"{revisions} times")
    return f"A critic read it; it was revised {times}."
