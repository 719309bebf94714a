"""The state of one subtask of a run."""

from dataclasses import dataclass, field

from concertmaster.engine.plans.plan import Subtask
from concertmaster.engine.record.events import SubtaskResult, SubtaskStatus
from concertmaster.llm.protocol import NO_USAGE, Usage


@dataclass(slots=True, kw_only=True)
class SubtaskState:
    """Where one subtask stands."""

    subtask: Subtask
    status: SubtaskStatus = "pending"
    started_at: float | None = None
    ended_at: float | None = None
    usage: Usage = NO_USAGE
    """What its calls took so far."""
    calls: dict[str, str] = field(default_factory=dict[str, str])
    """The models it waits for, by step."""
    result: SubtaskResult | None = None
    """How it ended; until then, what an earlier attempt had brought."""
    earlier_times: tuple[float | None, float | None] = (None, None)
    """When that attempt began and ended."""

    def begin(self, at: float) -> None:
        """Take in that it got its slot."""
        self._remember_times()
        self.status, self.started_at, self.ended_at = "running", at, None

    def try_again(self) -> None:
        """Take in that it is to be done again."""
        self._remember_times()
        self.status = "pending"
        self.started_at = self.ended_at = None
        if self.result is not None and not self.result.text:
            self.result = None

    def leave(self) -> None:
        """Take in that the run ends before it does."""
        if self.result is None or self.is_unconfirmed:
            self.status = "cancelled"
        else:
            self.status = self.result.status
        self.calls.clear()

    def _remember_times(self) -> None:
        if self.ended_at is not None:
            self.earlier_times = (self.started_at, self.ended_at)

    @property
    def is_unconfirmed(self) -> bool:
        """Tell whether it had succeeded, and is being done again or may have to be."""
        return (
            self.ended_at is None and self.result is not None and self.result.status == "succeeded"
        )

    def keep(self) -> None:
        """Take in that the success of an earlier attempt stands."""
        self.status = "succeeded"
        self.started_at, self.ended_at = self.earlier_times

    @property
    def unplanned_warning(self) -> str:
        """Return what to say if it was begun and the accepted plan does not contain it."""
        usage, subtask = self.usage, self.subtask
        usd = f" ({usage.usd:.4f} USD)" if usage.usd else ""
        took = f"took {usage.tokens:,} tokens{usd}" if usage.tokens else "has taken nothing so far"
        return (
            f"Subtask {subtask.id!r} ({subtask.worker}) was begun from a draft of the plan, and "
            f"the accepted plan does not contain it. It {took}: {subtask.objective}"
        )

    @property
    def doing(self) -> str:
        """Return the models it waits for, such as `sonnet (3)`; nothing while it does not."""
        models = list(self.calls.values())
        return ", ".join(
            f"{model} ({models.count(model)})" if models.count(model) > 1 else model
            for model in dict.fromkeys(models)
        )
