"""What a benchmark reports."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number beside its goal."""

    name: str
    value: float
    goal: float
    unit: str = "x"
    """`x` marks a ratio of two measurements of the same run of the program."""
    detail: str = ""
    least: bool = False
    """Whether the goal is a lower bound; else it is an upper one."""

    @property
    def met(self) -> bool:
        """Tell whether the goal is reached."""
        return self.value >= self.goal if self.least else self.value <= self.goal
