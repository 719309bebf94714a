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

    def try_again(self) -> None:
        """Take in that it is to be done again."""
        self.status = "pending"
        self.started_at = self.ended_at = None
        if self.result is not None and not self.result.text:
            self.result = None

    @property
    def doing(self) -> str:
        """Return the models it waits for, such as `sonnet (3)`; nothing while it does not."""
        models = list(self.calls.values())
        return ", ".join(
            f"{model} ({models.count(model)})" if models.count(model) > 1 else model
            for model in dict.fromkeys(models)
        )
