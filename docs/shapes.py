"""Draws the shapes of modes and strategies in the README: `uv run docs/shapes.py`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Literal

WIDTH, HEIGHT = 300, 170
"""Of one panel."""

COLUMNS = 3
BOX = (68, 24)

FILLS = {"work": "#dbeafe", "judge": "#fef3c7", "end": "#dcfce7"}
"""Who works, who judges or decides, and what comes out."""

Kind = Literal["work", "judge", "end"]


@dataclass(frozen=True, slots=True)
class Box:
    """One call, or what comes of several, in a grid of columns and rows."""

    text: str
    column: float
    row: float
    kind: Kind = "work"

    @property
    def centre(self) -> tuple[float, float]:
        """Return where it is in its panel."""
        return 48 + self.column * 102, 62 + self.row * 34


@dataclass(frozen=True, slots=True)
class Shape:
    """A mode or strategy: its boxes by name, and arrows from box to box."""

    title: str
    boxes: Mapping[str, Box]
    arrows: Sequence[str]
    """Such as `a>b`; `a~b` is an arrow that is taken only if need be."""


SHAPES = (
    Shape(
        "revise",
        {
            "w": Box("worker", 0, 0),
            "c": Box("critic", 1, 0, "judge"),
            "r": Box("result", 2, 0, "end"),
            "again": Box("worker", 1, 2),
        },
        ("w>c", "c>r", "c~again", "again~c"),
    ),
    Shape(
        "vote: judge",
        {
            "1": Box("answer", 0, 0),
            "2": Box("answer", 0, 1),
            "3": Box("answer", 0, 2),
            "j": Box("judge", 1, 1, "judge"),
            "r": Box("one", 2, 1, "end"),
        },
        ("1>j", "2>j", "3>j", "j>r"),
    ),
    Shape(
        "vote: rubric",
        {
            "1": Box("answer", 0, 0),
            "2": Box("answer", 0, 1),
            "3": Box("answer", 0, 2),
            "s1": Box("score", 1, 0, "judge"),
            "s2": Box("score", 1, 1, "judge"),
            "s3": Box("score", 1, 2, "judge"),
            "r": Box("highest", 2, 1, "end"),
        },
        ("1>s1", "2>s2", "3>s3", "s1>r", "s2>r", "s3>r"),
    ),
    Shape(
        "vote: consensus, weighted",
        {
            "1": Box("answer", 0, 0),
            "2": Box("answer", 0, 1),
            "3": Box("answer", 0, 2),
            "r": Box("majority", 2, 1, "end"),
        },
        ("1>r", "2>r", "3~r"),
    ),
    Shape(
        "map",
        {
            "1": Box("part 1", 0, 0),
            "2": Box("part 2", 0, 1),
            "3": Box("part n", 0, 2),
            "r": Box("in order", 2, 1, "end"),
        },
        ("1>r", "2>r", "3>r"),
    ),
    Shape(
        "adaptive",
        {
            "1": Box("subtask", 0, 0),
            "2": Box("subtask", 0, 2),
            "o": Box("next?", 1, 1, "judge"),
            "3": Box("new", 2, 0),
            "r": Box("done", 2, 2, "end"),
        },
        ("1>o", "2>o", "o~3", "3~o", "o>r"),
    ),
    Shape(
        "verify: report",
        {
            "1": Box("subtask", 0, 0),
            "2": Box("subtask", 0, 1),
            "3": Box("subtask", 0, 2),
            "v": Box("verifier", 1, 1, "judge"),
            "r": Box("answer", 2, 1, "end"),
        },
        ("1>v", "2>v", "3>v", "v>r"),
    ),
    Shape(
        "verify: mend",
        {
            "v": Box("verifier", 0, 1, "judge"),
            "1": Box("mended", 1, 0),
            "2": Box("mended", 1, 2),
            "r": Box("answer", 2, 1, "end"),
        },
        ("v~1", "v~2", "v>r", "1~r", "2~r"),
    ),
    Shape(
        "guard",
        {
            "g": Box("guard", 0.5, 0, "judge"),
            "w": Box("the run", 0.5, 2),
            "r": Box("answer", 2, 1, "end"),
        },
        ("g>r", "w>r"),
    ),
)


def drawn(shape: Shape) -> str:
    """Return one panel."""
    parts = [f'<text class="title" x="14" y="26">{escape(shape.title)}</text>']
    for arrow in shape.arrows:
        sign = "~" if "~" in arrow else ">"
        start, end = (shape.boxes[name] for name in arrow.split(sign))
        parts.append(_arrow(start, end, "maybe" if sign == "~" else "always"))
    for box in shape.boxes.values():
        (x, y), (width, height) = box.centre, BOX
        parts.append(
            f'<rect x="{x - width / 2:g}" y="{y - height / 2:g}" width="{width}" '
            f'height="{height}" rx="6" fill="{FILLS[box.kind]}" stroke="#475569"/>'
            f'<text x="{x:g}" y="{y + 4:g}" text-anchor="middle">{escape(box.text)}</text>'
        )
    return "".join(parts)


def _arrow(start: Box, end: Box, kind: str) -> str:
    """Return a line from the side of one box to that of another."""
    (x1, y1), (x2, y2) = start.centre, end.centre
    width, height = BOX
    if abs(x2 - x1) > width:
        x1, x2 = (x1 + width / 2, x2 - width / 2) if x2 > x1 else (x1 - width / 2, x2 + width / 2)
    else:
        # Side by side, so that the way there and the way back can be told apart.
        shift = 10 if y2 > y1 else -10
        x1, x2 = x1 - shift, x2 - shift
        y1, y2 = (
            (y1 + height / 2, y2 - height / 2) if y2 > y1 else (y1 - height / 2, y2 + height / 2)
        )
    return f'<line class="{kind}" x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}"/>'


STYLE = """
text { font: 12px system-ui, sans-serif; fill: #0f172a }
.title { font-weight: 600; font-size: 14px }
line { stroke: #475569; stroke-width: 1.4; marker-end: url(#tip) }
.maybe { stroke-dasharray: 4 3 }
"""


def main() -> None:
    """Write all panels, row by row."""
    rows = -(-len(SHAPES) // COLUMNS)
    panels = [
        f'<g transform="translate({index % COLUMNS * WIDTH} {index // COLUMNS * HEIGHT})">'
        f"{drawn(shape)}</g>"
        for index, shape in enumerate(SHAPES)
    ]
    size = f"{COLUMNS * WIDTH} {rows * HEIGHT}"
    drawing = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}">'
        f"<style>{STYLE}</style>"
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z" fill="#475569"/></marker></defs>'
        f'<rect width="100%" height="100%" rx="8" fill="#f8fafc"/>{"".join(panels)}</svg>\n'
    )
    Path(__file__).with_name("shapes.svg").write_text(drawing, encoding="utf-8")


if __name__ == "__main__":
    main()
