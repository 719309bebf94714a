"""What an adaptive run asks its orchestrator, when, and how often."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from concertmaster.engine.conversations.judgement import NoJudgementError
from concertmaster.engine.orchestration.next_step import (
    NextStep,
    Occasions,
    Situation,
    ask_what_next,
    revise_plan,
)
from concertmaster.engine.orchestration.scheduler import Scheduler
from concertmaster.engine.plans.plan import Plan
from concertmaster.engine.record.events import PlanRevised, SubtaskResult
from concertmaster.engine.run import Run, Setup


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
