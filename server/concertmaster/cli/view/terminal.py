"""Where the command line writes: data to stdout, everything else to stderr."""

import sys

from pydantic import JsonValue, TypeAdapter
from rich.console import Console, RenderableType
from rich.markdown import Markdown
from rich.padding import Padding
from rich.table import Table

from concertmaster.cli.view.formatting import harmless

_PIPED_WIDTH = 160
"""Columns of a table that goes to a file or another program."""

_JSON: TypeAdapter[JsonValue] = TypeAdapter(JsonValue)


def stdout() -> Console:
    """Return the console for data."""
    width = None if sys.stdout.isatty() else _PIPED_WIDTH
    return Console(highlight=False, markup=False, emoji=False, width=width)


def stderr() -> Console:
    """Return the console for everything that is not data."""
    return Console(stderr=True, highlight=False, markup=False, emoji=False)


def table_of(*titles: str) -> Table:
    """Return an empty table whose last column gets the room that the others leave."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False, expand=True)
    for title in titles[:-1]:
        table.add_column(title, no_wrap=True)
    table.add_column(titles[-1], no_wrap=True, overflow="ellipsis", ratio=1)
    return table


def print_json(value: JsonValue) -> None:
    """Print a value as JSON."""
    sys.stdout.write(_JSON.dump_json(value, indent=2).decode() + "\n")


def print_markdown(text: str) -> None:
    """Print Markdown: rendered for a terminal, as it is for a pipe."""
    if sys.stdout.isatty():
        stdout().print(Padding(Markdown(harmless(text)), (1, 0)))
    else:
        sys.stdout.write(text if text.endswith("\n") else f"{text}\n")


def print_raw(text: str) -> None:
    """Print a text that other programs read, without what would steer a terminal."""
    sys.stdout.write(harmless(text) if sys.stdout.isatty() else text)


def print_data(*parts: RenderableType) -> None:
    """Print texts and tables to stdout."""
    console = stdout()
    with console.capture() as captured:
        for part in parts:
            console.print(part, soft_wrap=isinstance(part, str))
    # Tables fill their width with spaces, which only get in the way of other programs.
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def print_aside(text: str, style: str = "") -> None:
    """Print a line that is no data to stderr."""
    stderr().print(harmless(text), style=style or None, soft_wrap=True)
