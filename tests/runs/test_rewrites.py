"""Files that a run rewrites: which of its results count, and what they change."""

import json
from pathlib import Path

import pytest

from building import worker
from concertmaster.engine.plan.plan import Plan, Subtask
from concertmaster.errors import InputError, InvalidPlanError, UnknownRunError
from concertmaster.llm.messages import Request, WorkBrief
from concertmaster.runs.file_changes import rewritten_files
from concertmaster.runs.orders import RunOrder
from concertmaster.runs.service import RunService
from concertmaster.tools.changes import FileChange
from concertmaster.tools.inputs import InlineInput
from fakes import FakeLLM, subtask
from runs.test_service import service_in

pytestmark = pytest.mark.anyio

REWRITER = worker(
    "rewriter",
    output_schema={"type": "object", "properties": {"notes": {"type": "string"}}},
)


def rewritten(text: str | None, **fields: object) -> str:
    return json.dumps({"new_text": text, "notes": ""} | fields)


async def run(service: RunService, *subtasks: Subtask, **texts: str) -> str:
    """Return the id of a run of a plan over some inputs, once it has ended."""
    inputs = tuple(InlineInput(name=name, text=text) for name, text in texts.items())
    order = RunOrder(task="mend", inputs=inputs, plan=Plan(subtasks=subtasks))
    started = await service.start(order)
    await service.wait(started.run_id, seconds=5)
    return started.run_id


def by_input(request: Request) -> str:
    """Rewrite each input in capitals, but leave b as it is."""
    assert isinstance(request.brief, WorkBrief)
    (document,) = request.brief.inputs
    return rewritten(None if document.name == "b" else document.text.upper())


async def test_a_result_with_a_new_text_changes_the_input_of_its_subtask(tmp_path: Path) -> None:
    llm = FakeLLM({"worker:rewriter": by_input})
    async with service_in(tmp_path, llm=llm, workers=[REWRITER]) as service:
        run_id = await run(
            service,
            subtask("s1", "rewriter", inputs=["a"]),
            subtask("s2", "rewriter", inputs=["b"]),
            subtask("s3", inputs=["c"]),
            a="one\n",
            b="two\n",
            c="three\n",
        )
        assert await service.changes(run_id) == (
            FileChange(name="a", before="one\n", after="ONE\n"),
        )


async def test_a_map_over_inputs_changes_each_of_them(tmp_path: Path) -> None:
    llm = FakeLLM({"worker:rewriter": by_input})
    mapped = subtask("s1", "rewriter", inputs=["a", "b", "c"], strategy={"kind": "map"})
    async with service_in(tmp_path, llm=llm, workers=[REWRITER]) as service:
        changes = await service.changes(await run(service, mapped, a="x", b="y", c="z"))
    assert {change.name: change.after for change in changes} == {"a": "X", "c": "Z"}


async def test_a_map_that_is_mended_changes_what_its_parts_say_in_the_end(tmp_path: Path) -> None:
    def work(request: Request) -> str:
        first = json.loads(by_input(request))
        return rewritten(
            first["new_text"] and first["new_text"] + "!" * (len(request.messages) // 2)
        )

    finding = {"what": "they differ", "mend": "End it.", "severity": "high", "subtasks": ["s1"]}
    llm = FakeLLM({"worker:rewriter": work, "verifier": json.dumps({"findings": [finding]})})
    mapped = subtask("s1", "rewriter", inputs=["a", "b", "c"], strategy={"kind": "map"})
    async with service_in(tmp_path, llm=llm, workers=[REWRITER]) as service:
        inputs = tuple(InlineInput(name=name, text=name) for name in "abc")
        plan = Plan(subtasks=(mapped, subtask("s2")))
        order = RunOrder(task="mend", inputs=inputs, plan=plan, verify="mend")
        started = await service.start(order)
        ended = await service.wait(started.run_id, seconds=5)
        changes = await service.changes(started.run_id)
    assert ended.status == "succeeded"
    assert {change.name: change.after for change in changes} == {"a": "A!", "c": "C!"}


@pytest.mark.parametrize(
    ("answer", "fields"),
    [
        (rewritten("new"), {"inputs": ["a", "b"]}),
        (rewritten("new"), {"inputs": []}),
        (rewritten("new", more="x"), {"inputs": ["a"]}),
        (json.dumps({"notes": "x"}), {"inputs": ["a"]}),
        (rewritten("old"), {"inputs": ["a"]}),
        (
            rewritten("new"),
            {
                "inputs": ["a"],
                "strategy": {"kind": "map", "over": "contexts", "contexts": [{"locale": "de"}]},
            },
        ),
    ],
    ids=["two inputs", "no input", "more than a text", "no text", "the same text", "a context"],
)
async def test_other_results_change_nothing(
    tmp_path: Path, answer: str, fields: dict[str, object]
) -> None:
    llm = FakeLLM({"worker:rewriter": answer})
    async with service_in(tmp_path, llm=llm, workers=[REWRITER]) as service:
        run_id = await run(service, subtask("s1", "rewriter", **fields), a="old", b="old")
        assert (await service.get(run_id)).status == "succeeded"
        assert await service.changes(run_id) == ()


@pytest.mark.parametrize(
    ("before", "written", "after"),
    [
        ("a\r\nb\r\n", "a\nc\n", "a\r\nc\r\n"),
        ("a\r\nb\r\n", "a\r\nc\r\n", "a\r\nc\r\n"),
        ("a\r\nb\n", "a\nc\n", "a\nc\n"),
        ("a\n", "b", "b\n"),
        ("a", "b", "b"),
        ("a\n", "", ""),
    ],
)
async def test_a_new_text_has_the_line_ends_of_the_old_one(
    tmp_path: Path, before: str, written: str, after: str
) -> None:
    llm = FakeLLM({"worker:rewriter": rewritten(written)})
    async with service_in(tmp_path, llm=llm, workers=[REWRITER]) as service:
        run_id = await run(service, subtask("s1", "rewriter", inputs=["a"]), a=before)
        (change,) = await service.changes(run_id)
    assert change.after == after


async def test_a_subtask_that_has_not_ended_rewrites_nothing(tmp_path: Path) -> None:
    async with service_in(tmp_path, workers=[REWRITER]) as service:
        order = RunOrder(task="mend", plan=Plan(subtasks=(subtask("s1", "rewriter"),)))
        state = await service.start(order)
        assert rewritten_files(state) == {}


async def test_changes_of_no_run_are_refused(tmp_path: Path) -> None:
    async with service_in(tmp_path) as service:
        with pytest.raises(UnknownRunError):
            await service.changes("r-9")


async def test_an_order_can_be_checked_and_its_inputs_named_without_starting_it(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.md").write_text("x")
    async with service_in(tmp_path / "data", roots=(tmp_path,)) as service:
        assert await service.input_names(["*.md"]) == ("a.md",)
        with pytest.raises(InputError):
            await service.input_names(["b.md"])
        plan = Plan(subtasks=(subtask("s1", inputs=["a.md"]),))
        await service.check(RunOrder(task="x", plan=plan, inputs=("a.md",)))
        with pytest.raises(InvalidPlanError):
            await service.check(RunOrder(task="x", plan=plan))
        assert (await service.recent()).states == ()
