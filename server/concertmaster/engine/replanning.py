"""What to do next in an adaptive run: when to ask the orchestrator, and what becomes of it."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import anyio

from concertmaster.catalog.prompts import RenderedPrompt, describe_workers
from concertmaster.engine.events import PlanRevised, SubtaskResult
from concertmaster.engine.judgement import NoJudgementError, Question, judge
from concertmaster.engine.plan.plan import Plan, Subtask
from concertmaster.engine.plan.repair import RepairedPlan, repair_plan
from concertmaster.engine.plan.validation import (
    PlanRules,
    overlaps,
    plan_problems,
    subtask_schema,
    with_implied_dependencies,
)
from concertmaster.engine.run import (
    Run,
    Setup,
    bullets,
    fenced_results,
    input_names,
    work_result,
    workers_of,
)
from concertmaster.engine.scheduler import Scheduler
from concertmaster.engine.strategies.condensing import condensed
from concertmaster.llm.messages import JsonSchema, WorkResult, closed_object
from concertmaster.llm.usage import Frozen


class NextStep(Frozen):
    """The orchestrator's decision."""

    done: bool
    """Nothing more is needed: what is queued is skipped, and what runs is stopped."""
    reason: str
    add: tuple[Subtask, ...] = ()
    """New subtasks; one with the id of a subtask that has not been started replaces it."""
    drop: tuple[str, ...] = ()
    """Subtasks not started that are not needed any more."""


class Occasions:
    """Tells when what is known has changed in a way that matters."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._known = set(known)
        """The subtasks of whose end the orchestrator has been told."""
        self._all_started: tuple[str, ...] = ()

    def knows(self, subtask_id: str) -> bool:
        """Tell whether the end of a subtask is known."""
        return subtask_id in self._known

    def forget(self, subtask_id: str) -> None:
        """Take in that what is known of the end of a subtask does not hold any more."""
        self._known.discard(subtask_id)

    def of(self, plan: Plan, results: Mapping[str, SubtaskResult], scheduler: Scheduler) -> str:
        """Return why the orchestrator is to be asked now; nothing if it is not."""
        news = results.keys() - self._known
        occasion = self._occasion(plan, results, news, scheduler)
        if occasion:
            self._known |= news
        return occasion

    def _occasion(
        self,
        plan: Plan,
        results: Mapping[str, SubtaskResult],
        news: Collection[str],
        scheduler: Scheduler,
    ) -> str:
        if scheduler.over:
            return "All subtasks have ended."
        decisive = [
            f"{subtask.id} ({results[subtask.id].status})"
            for subtask in plan.subtasks
            if subtask.decisive and subtask.id in news
        ]
        if decisive:
            return f"Decisive subtasks have ended: {', '.join(decisive)}."
        important = {subtask.id for subtask in plan.subtasks if subtask.priority == "high"}
        if important & set(news) and important <= results.keys():
            return "All subtasks of high priority have ended; others have not."
        ids = tuple(subtask.id for subtask in plan.subtasks)
        if news and scheduler.all_started and self._all_started != ids:
            self._all_started = ids
            return "No subtask is left to start; some are still running."
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What the orchestrator is told before it decides."""

    plan: Plan
    results: Mapping[str, SubtaskResult]
    running: Collection[str]
    occasion: str
    number: int
    """The how manieth time it is asked."""
    seconds: float
    """What is left of the run's time for work."""


async def ask_what_next(run: Run, setup: Setup, situation: Situation) -> NextStep:
    """Return the orchestrator's decision.

    Raises:
        NoJudgementError: it made none.
    """
    custom = tuple(worker.name for worker in situation.plan.custom_workers)
    rules = run.rules(setup.catalog)
    # A decision may use the workers that came with the plan, and brings along no others.
    rules = replace(rules, workers=(*rules.workers, *custom), custom_workers=0)
    done = [
        work_result(subtask, situation.results[subtask.id])
        for subtask in situation.plan.subtasks
        if subtask.id in situation.results
    ]
    now = anyio.current_time()
    seconds = min(run.request.limits.subtask_seconds, situation.seconds)
    short = await condensed(run, setup, done, until=now + seconds / 2)
    question = Question(
        caller="orchestrator",
        act="decide what to do next",
        step=f"next-step/{situation.number}",
        prompt=_prompt(run, setup, situation, rules, short),
        schema=_schema(rules),
        model=setup.models.planner,
    )
    left = now + seconds - anyio.current_time()
    return await judge(NextStep, question, run=run, setup=setup, seconds=left)


def _prompt(
    run: Run,
    setup: Setup,
    situation: Situation,
    rules: PlanRules,
    results: Sequence[WorkResult],
) -> RenderedPrompt:
    workers = workers_of(situation.plan, setup).cards(tuple(rules.workers))
    return setup.prompts.render(
        "next_step",
        workers=describe_workers(workers),
        task=run.request.task,
        context=run.request.context or "None.",
        input_names=input_names(run.documents.values()),
        constraints=bullets(run.request.constraints),
        subtasks=bullets(_state(subtask, situation) for subtask in situation.plan.subtasks),
        results=fenced_results(results),
        left=_left(run, situation),
        occasion=situation.occasion,
    )


def _schema(rules: PlanRules) -> JsonSchema:
    return closed_object(
        {
            "reason": {"type": "string"},
            "done": {"type": "boolean"},
            "add": {"type": "array", "items": subtask_schema(rules)},
            "drop": {"type": "array", "items": {"type": "string"}},
        }
    )


def _state(subtask: Subtask, situation: Situation) -> str:
    if subtask.id in situation.results:
        status = situation.results[subtask.id].status
    else:
        status = "running" if subtask.id in situation.running else "not started"
    after = f", after {', '.join(subtask.depends_on)}" if subtask.depends_on else ""
    return f"{subtask.id} ({subtask.worker}, {subtask.priority}{after}): {status}. " + (
        subtask.objective
    )


def _left(run: Run, situation: Situation) -> str:
    limits = run.request.limits
    subtasks = limits.max_subtasks - len(situation.plan.subtasks)
    left = run.steps.spending.left
    return (
        f"{max(subtasks, 0)} more subtasks, {limits.rounds - situation.number} more times to be "
        f"asked, {situation.seconds:.0f} seconds, {max(left.usd, 0.0):.2g} of "
        f"{limits.budget_usd:g} USD."
    )


def revise_plan(
    plan: Plan, step: NextStep, started: Collection[str], run: Run, setup: Setup
) -> RepairedPlan:
    """Return the plan that `step` makes of `plan`, with what had to be changed to make it run.

    What has been started stays as it is.
    """
    if step.done:
        return RepairedPlan(plan=plan)
    kept, added, warnings = _changes(plan, step, started)
    # Those that came with the plan stay; a decision brings none along.
    rules = replace(run.rules(setup.catalog), custom_workers=len(plan.custom_workers))
    room = max(0, rules.max_subtasks - len(kept))
    left_out = [
        f"Subtask {subtask.id!r} was left out, because a run has at most {rules.max_subtasks}: "
        f"{subtask.objective}"
        for subtask in added[room:]
    ]
    candidate = plan.model_copy(update={"subtasks": (*kept, *added[:room])})
    repaired = RepairedPlan(plan=candidate)
    if plan_problems(candidate, rules):
        repaired = repair_plan(candidate, rules, task=run.request.task)
    new = {subtask.id for subtask in added} - set(started)
    others = {subtask.id for subtask in repaired.plan.subtasks} - new
    whole, implied = with_implied_dependencies(repaired.plan, fixed=others)
    known = overlaps(plan.subtasks)
    overlapping = [each for each in overlaps(whole.subtasks) if each not in known]
    return RepairedPlan(
        plan=whole,
        warnings=(*warnings, *repaired.warnings, *implied, *overlapping),
        left_out=(*left_out, *repaired.left_out),
    )


def _changes(
    plan: Plan, step: NextStep, started: Collection[str]
) -> tuple[list[Subtask], list[Subtask], list[str]]:
    """Return the subtasks of the plan from here on, those that are new, and warnings."""
    warnings = [
        f"Subtask {subtask.id!r} was to be replaced, but had been started; it was left as it is."
        for subtask in step.add
        if subtask.id in started
    ]
    warnings += [
        f"Subtask {name!r} was to be dropped, but had been started; it was left as it is."
        for name in step.drop
        if name in started
    ]
    new = {subtask.id: subtask for subtask in step.add if subtask.id not in started}
    dropped = set(step.drop) - set(started) - new.keys()
    kept = [new.pop(subtask.id, subtask) for subtask in plan.subtasks if subtask.id not in dropped]
    warnings += [
        f"Subtask {subtask.id!r} was dropped, because {step.reason}: {subtask.objective}"
        for subtask in plan.subtasks
        if subtask.id in dropped
    ]
    return kept, list(new.values()), warnings


@dataclass(frozen=True, slots=True)
class Advice:
    """What the orchestrator wants done next, or why it could not be asked."""

    step: NextStep | None
    problem: str = ""
    ended: tuple[str, ...] = ()
    """The subtasks whose results it was shown, as far as that is certain."""
    shown: frozenset[str] = frozenset()
    """The subtasks that had ended when it was asked."""


class Consultation:
    """Asks the orchestrator of one run what to do next, one question at a time.

    Until it `begin`s, there is nothing to ask.
    """

    def __init__(self, run: Run, setup: Setup) -> None:
        self._run = run
        self._setup = setup
        self._recorded = run.steps.recorded
        self._rounds = len(self._recorded.revisions)
        self._occasions = Occasions(self._recorded.told)
        self._decided = True
        """Whether there is nothing to ask, or nothing more."""
        self.asking = False
        """Whether a question is out."""
        self.failed = False
        """Whether it could not be asked, so that another attempt may lead to more."""
        self.gaps: list[str] = []
        """What is missing because of the answers, or for want of them; a sentence each."""

    @property
    def open(self) -> bool:
        """Tell whether the orchestrator is still to be asked what to do next."""
        return not self._decided

    def begin(self, *, adaptive: bool) -> None:
        """Take in that the plan is whole, and whether it may change as results come in."""
        self._decided = not adaptive

    def knows(self, subtask_id: str) -> bool:
        """Tell whether the orchestrator has been asked with the result of a subtask known."""
        return self._occasions.knows(subtask_id)

    def begun(self, subtask_id: str) -> None:
        """Take in that a subtask is being done, perhaps again: how it ends will be news."""
        self._occasions.forget(subtask_id)

    def due(
        self,
        plan: Plan,
        results: Mapping[str, SubtaskResult],
        scheduler: Scheduler,
        *,
        running: Collection[str],
        seconds: float,
    ) -> Situation | None:
        """Return what to `ask` about, if what is known has changed enough to ask now."""
        if self._decided or self.asking:
            return None
        occasion = self._occasions.of(plan, results, scheduler)
        if not occasion:
            return None
        if self._rounds >= self._run.request.limits.rounds:
            self._decided = True
            self.gaps.append(
                f"The orchestrator was asked {self._rounds} times what to do next, which is the "
                "most that a run may, and had not finished."
            )
            return None
        self._rounds += 1
        self.asking = True
        return Situation(
            plan=plan,
            results=dict(results),
            running=frozenset(running),
            occasion=occasion,
            number=self._rounds,
            seconds=seconds,
        )

    async def ask(self, situation: Situation) -> Advice:
        """Return what the orchestrator says to a situation."""
        try:
            step = await ask_what_next(self._run, self._setup, situation)
        except NoJudgementError as exc:
            return Advice(None, f"The orchestrator could not be asked what to do next: {exc}")
        # What it said before a restart it may have said when less had ended than has now.
        again = self._recorded.was_made(f"next-step/{situation.number}")
        shown = frozenset(situation.results)
        return Advice(step, ended=() if again else tuple(situation.results), shown=shown)

    def heed(self, advice: Advice, plan: Plan, started: Collection[str]) -> PlanRevised | None:
        """Return what advice makes of the plan, which it leaves alone where there is none."""
        self.asking = False
        if advice.step is None:
            self._decided = True
            self.failed = True
            self.gaps.append(advice.problem)
            return None
        change = revise_plan(plan, advice.step, started, self._run, self._setup)
        return PlanRevised(
            name=f"plan/{self._rounds + 1}",
            at=self._run.steps.now(),
            plan=change.plan,
            done=advice.step.done,
            reason=advice.step.reason,
            ended=advice.ended,
            warnings=change.warnings,
            left_out=change.left_out,
        )

    def take_in(self, revision: PlanRevised, plan: Plan) -> None:
        """Take in how `plan` is revised: what that leaves open, and if there is more to ask."""
        at_end = {subtask.id for subtask in plan.subtasks} <= set(revision.ended)
        if revision.done:
            self._decided = True
        elif at_end and revision.plan.subtasks == plan.subtasks:
            self._decided = True
            self.gaps.append(
                f"The orchestrator wanted more, but planned nothing: {revision.reason}"
            )
        self.gaps += revision.left_out
