"""All benchmarks, one table: `uv run benchmarks/run.py`.

Ratios are taken in one run of the program, so that a slow machine slows both sides.
"""

import sys

from rich.console import Console
from rich.table import Table

from crashes import crash_figures
from faults import fault_figures
from first_call import first_call_figures
from gate import gate_figures
from hand_offs import hand_off_figures
from journal import journal_figures
from measure import Figure
from modes import pattern_figures
from outside import run_cpu_figures, startup_figures
from planning import planning_figures
from prefix import prefix_figures
from scheduling import makespan_figures, scheduler_figures
from sharing import sharing_figures
from spending import spending_figures
from wide import wide_figures
from window import window_figures


def table(figures: list[Figure]) -> Table:
    """Return the figures as a table."""
    rows = Table("measured", "value", "goal", "", "detail", title="Concertmaster benchmarks")
    for figure in figures:
        digits = 3 if figure.unit in ("x", "ms") else 0
        rows.add_row(
            figure.name,
            f"{figure.value:,.{digits}f} {figure.unit}",
            f"{'≥' if figure.least else '≤'} {figure.goal:,g}",
            "[green]met[/]" if figure.met else "[red]missed[/]",
            figure.detail,
        )
    return rows


def main() -> int:
    """Measure everything, print the table, and return 1 if a goal is missed."""
    figures = [
        *scheduler_figures(),
        *makespan_figures(),
        *pattern_figures(),
        *startup_figures(),
        *first_call_figures(),
        *run_cpu_figures(),
        *planning_figures(),
        *prefix_figures(),
        *spending_figures(),
        *wide_figures(),
        *gate_figures(),
        *fault_figures(),
        *journal_figures(),
        *window_figures(),
        *crash_figures(),
        *crash_figures(store="postgres"),
        *sharing_figures(),
        *hand_off_figures(),
    ]
    Console(width=140 if not sys.stdout.isatty() else None).print(table(figures))
    return 0 if all(figure.met for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
