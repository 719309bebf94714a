"""What a worker file says, once it has been read and checked."""

from dataclasses import dataclass
from pathlib import Path

from concertmaster.llm.protocol import JsonSchema, WorkerCard


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerDefinition:
    """A named specialist: when to use it, what it may do, and its instructions."""

    name: str
    description: str
    instructions: str
    """The Markdown body of the file."""
    file: Path
    best_for: tuple[str, ...] = ()
    not_for: tuple[str, ...] = ()
    input: str = ""
    """What the worker needs to be given."""
    tools: tuple[str, ...] = ()
    """Worker tools it may call; none unless the file names them."""
    model: str | None = None
    """A model id or alias; None takes the run's worker model."""
    output_schema: JsonSchema | None = None
    examples: tuple[str, ...] = ()
    max_turns: int = 8
    max_tokens: int | None = None
    timeout_seconds: float | None = None
    ignored: tuple[str, ...] = ()
    """Keys of the file that other programs understand and that mean nothing here."""

    def card(self) -> WorkerCard:
        """Return what a planner is told of this worker."""
        return WorkerCard(
            name=self.name,
            description=self.description,
            best_for=self.best_for,
            not_for=self.not_for,
            needs=self.input,
            tools=self.tools,
        )
