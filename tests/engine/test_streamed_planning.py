"""Subtasks that start while the plan that has them is still being written."""

import json
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from building import RecordedRun, setup
from concertmaster.engine.events import Event, PlanAccepted, RunStarted, SubtaskDrafted
from concertmaster.engine.plan.plan import Plan, Subtask
from concertmaster.engine.plan.streaming import Drafts, PlanReader, settle
from concertmaster.engine.plan.validation import PlanRules
from concertmaster.engine.request import Limits, RunRequest
from concertmaster.errors import ModelUnavailableError
from concertmaster.llm.messages import Draft, Reply, Request
from concertmaster.runs.state import RunState, fold
from fakes import USAGE, FakeLLM, Script, plan_json, reply_with, subtask
from patterns import decision

pytestmark = pytest.mark.anyio

RULES = PlanRules(workers=("analyst", "critic"), inputs=("a.py",), max_subtasks=8)
NASTY = subtask(
    "s1",
    objective='Find "}" and ]} and \\ in {"a": [1]}.',
    strategy={"kind": "map", "over": "contexts", "contexts": [{"locale": "de"}]},
)
PLAN = plan_json(NASTY, subtask("s2", depends_on=["s1"]), subtask("s3"))


def ends_of_subtasks(text: str, count: int) -> list[int]:
    """Return where each subtask ends, found by decoding them one by one."""
    decoder = json.JSONDecoder()
    at = text.index('"subtasks": [') + len('"subtasks": [')
    ends: list[int] = []
    for _ in range(count):
        _, at = decoder.raw_decode(text, at)
        ends.append(at)
        at += len(", ")
    return ends


def test_a_subtask_is_found_with_its_last_character_and_not_before() -> None:
    reader = PlanReader()
    found: list[tuple[int, int]] = []
    for end in range(1, len(PLAN) + 1):
        plan = reader.read(PLAN[:end])
        if plan is not None:
            found.append((end, len(plan.subtasks)))
    assert found == list(zip(ends_of_subtasks(PLAN, 3), (1, 2, 3), strict=True))


@pytest.mark.parametrize("seed", range(20))
def test_however_the_text_is_cut_the_last_plan_found_is_whole(seed: int) -> None:
    random_numbers = random.Random(seed)
    text = f"```json\n{PLAN}\n```" if seed % 2 else PLAN
    reader, last, at = PlanReader(), None, 0
    while at < len(text):
        at += random_numbers.randint(1, 200)
        last = reader.read(text[:at]) or last
    assert last is not None
    assert [item.id for item in last.subtasks] == ["s1", "s2", "s3"]
    assert last.subtasks[0] == NASTY


def test_text_of_another_attempt_is_read_from_its_start() -> None:
    reader = PlanReader()
    assert reader.read(PLAN) is not None
    assert reader.read("") is None
    again = reader.read(plan_json(subtask("s9")))
    assert again is not None
    assert again.subtasks[0].id == "s9"


def test_a_subtask_is_found_in_a_plan_that_uses_the_other_names_of_keys() -> None:
    text = (
        '{"tasks": [{"task_id": "s1", "task_type": "critic", "description": "x"}, '
        '{"task_id": "s2", "task_type": "analyst", "description": "y", "dependencies": ["s1"]}, '
    )
    found = PlanReader().read(text)
    assert found is not None
    assert [(item.id, item.worker) for item in found.subtasks] == [
        ("s1", "critic"),
        ("s2", "analyst"),
    ]
    assert found.subtasks[1].depends_on == ("s1",)


@pytest.mark.parametrize("text", ["", "}", "I plan {nothing}", '{"subtasks": 1}', '{"a": {}}'])
def test_text_that_is_no_plan_has_no_subtasks(text: str) -> None:
    assert PlanReader().read(text) is None


def drafts(**rules: Any) -> tuple[Drafts, list[list[str]]]:
    started: list[list[str]] = []

    def start(plan: Plan) -> None:
        started.append([item.id for item in plan.subtasks])

    fields: dict[str, Any] = {
        "workers": RULES.workers,
        "inputs": RULES.inputs,
        "max_subtasks": RULES.max_subtasks,
    }
    return Drafts(PlanRules(**(fields | rules)), start), started


def test_a_subtask_with_a_fault_does_not_start_and_the_next_does() -> None:
    drafted, started = drafts()
    drafted.read(plan_json(subtask("s1", worker="nobody"), subtask("s2"), subtask("s3")))
    assert started == [["s2", "s3"]]


def test_what_depends_on_something_that_has_not_been_written_yet_waits_for_it() -> None:
    drafted, started = drafts()
    text = plan_json(subtask("s1", depends_on=["s2"]), subtask("s2"))
    first, _ = ends_of_subtasks(text, 2)
    drafted.read(text[:first])
    assert started == []
    drafted.read(text)
    assert started == [["s2"]]
    drafted.read(plan_json(subtask("s1", depends_on=["s2"]), subtask("s2"), subtask("s3")))
    assert started[-1] == ["s2", "s1", "s3"]


def test_no_more_subtasks_start_than_a_run_may_have() -> None:
    drafted, started = drafts(max_subtasks=2)
    drafted.read(plan_json(*(subtask(f"s{number}") for number in range(5))))
    assert started == [["s0", "s1"]]


def test_nothing_starts_beside_a_direct_answer() -> None:
    drafted, started = drafts()
    drafted.read(plan_json(subtask("s1"), direct_answer="42"))
    assert started == []


def test_subtasks_of_workers_that_the_plan_brings_along_wait_for_the_whole_plan() -> None:
    custom = {"name": "poet", "description": "d", "instructions": "i", "why": "w"}
    drafted, started = drafts(custom_workers=1)
    text = plan_json(subtask("s1", worker="poet"), subtask("s2"), custom_workers=[custom])
    drafted.read(text)
    assert started == [["s2"]]


def test_a_subtask_that_is_not_what_was_started_gets_another_id_and_so_does_what_needs_it() -> None:
    started = {
        item.id: item
        for item in (
            subtask("s1"),
            subtask("s2", depends_on=["s1"]),
            subtask("s3", why="one reason"),
            subtask("s4"),
        )
    }
    plan = Plan(
        subtasks=(
            subtask("s2", depends_on=["s1"]),
            subtask("s1", objective="something else"),
            subtask("s3", why="another", priority="high"),
        )
    )
    settled = settle(plan, started)
    assert [(item.id, item.depends_on) for item in settled.subtasks] == [
        ("s2_2", ("s1_2",)),
        ("s1_2", ()),
        ("s3", ()),
    ]


def test_work_that_was_started_keeps_its_id_where_the_plan_gives_it_another() -> None:
    started = {item.id: item for item in (subtask("s1"), subtask("s2", depends_on=["s1"]))}
    plan = Plan(
        subtasks=(
            subtask("s1", objective="something new"),
            subtask("s2", objective="do s1"),
            subtask("s3", objective="do s2", depends_on=["s2"]),
            subtask("s4", depends_on=["s3", "s1"]),
        )
    )
    settled = settle(plan, started)
    assert [(item.id, item.objective, item.depends_on) for item in settled.subtasks] == [
        ("s1_2", "something new", ()),
        ("s1", "do s1", ()),
        ("s2", "do s2", ("s1",)),
        ("s4", "do s4", ("s2", "s1_2")),
    ]


class WritingLLM(FakeLLM):
    """A model whose planner writes its plan piece by piece, when it is told to go on."""

    def __init__(
        self, *attempts: Sequence[str | Exception], scripts: Mapping[str, Script] | None = None
    ):
        super().__init__(scripts)
        self._attempts = list(attempts)
        self.written = [anyio.Event() for _ in range(20)]
        self.streamed: dict[str, Callable[[Request, Draft], Awaitable[Reply]]] = {}

    def write_all(self) -> None:
        """Let it write without waiting."""
        for event in self.written:
            event.set()

    async def complete(self, request: Request, draft: Draft, /) -> Reply:
        if (script := self.streamed.get(request.caller)) is not None:
            self.requests.append(request)
            return await script(request, draft)
        if request.caller != "planner":
            return await super().complete(request, draft)
        self.requests.append(request)
        text = ""
        for number, piece in enumerate(self._attempts.pop(0)):
            if isinstance(piece, Exception):
                raise piece
            text += piece
            draft.update(text=text, usage=USAGE)
            await self.written[number].wait()
        return reply_with(text)


def in_pieces(text: str, count: int) -> list[str]:
    ends = ends_of_subtasks(text, count)
    return [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]


def working(name: str, log: list[str], *, until: anyio.Event | None = None) -> Script:
    async def work(_request: Request) -> str:
        log.append(name)
        if until is not None:
            await until.wait()
        return f"{name} done"

    return work


async def test_a_worker_starts_while_the_rest_of_the_plan_is_on_its_way() -> None:
    log: list[str] = []
    text = plan_json(subtask("s1"), subtask("s2", worker="critic", depends_on=["s1"]))
    scripts = {"worker:analyst": working("s1", log), "worker:critic": working("s2", log)}
    llm = WritingLLM(in_pieces(text, 2), scripts=scripts)
    recorded = RecordedRun(RunRequest(task="why?"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(recorded.drive, setup(llm))
        with anyio.fail_after(60):
            await until(lambda: log == ["s1"])
            assert not any(isinstance(event, PlanAccepted) for event in recorded.events)
            llm.written[0].set()
            # What it waits for is done, and the plan is still not whole.
            await until(lambda: log == ["s1", "s2"])
            llm.write_all()
    assert recorded.end.status == "succeeded"
    assert {name: item.status for name, item in recorded.results.items()} == {
        "s1": "succeeded",
        "s2": "succeeded",
    }


async def test_where_slots_are_scarce_the_first_one_is_kept_for_what_matters_most() -> None:
    log: list[str] = []
    text = plan_json(subtask("s1", priority="low"), subtask("s2", worker="critic", priority="high"))
    scripts = {"worker:analyst": working("s1", log), "worker:critic": working("s2", log)}
    llm = WritingLLM(in_pieces(text, 2), scripts=scripts)
    recorded = RecordedRun(RunRequest(task="why?", limits=Limits(slots=1)))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(recorded.drive, setup(llm))
        with anyio.fail_after(60):
            await anyio.wait_all_tasks_blocked()
            assert log == []
            llm.written[0].set()
            # It starts before the plan is whole, and before what was written first.
            await until(lambda: log == ["s2"])
            assert not any(isinstance(event, PlanAccepted) for event in recorded.events)
            llm.write_all()
    assert log == ["s2", "s1"]
    assert recorded.end.status == "succeeded"


async def test_where_slots_are_free_low_priority_starts_at_once() -> None:
    log: list[str] = []
    text = plan_json(subtask("s1", priority="low"), subtask("s2", worker="critic"))
    scripts = {"worker:analyst": working("s1", log), "worker:critic": working("s2", log)}
    llm = WritingLLM(in_pieces(text, 2), scripts=scripts)
    recorded = RecordedRun(RunRequest(task="why?", limits=Limits(slots=2, max_subtasks=4)))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(recorded.drive, setup(llm))
        with anyio.fail_after(60):
            await until(lambda: log == ["s1"])
            llm.write_all()
    assert log == ["s1", "s2"]


async def test_nothing_after_a_decisive_subtask_starts_while_the_plan_may_become_adaptive() -> None:
    log: list[str] = []
    first = subtask("s1", decisive=True)
    text = plan_json(first, subtask("s2", worker="critic", depends_on=["s1"]), mode="adaptive")
    scripts: dict[str, Script] = {
        "worker:analyst": working("s1", log),
        "worker:critic": working("s2", log),
        "orchestrator": decision(done=True, reason="enough"),
    }
    llm = WritingLLM(in_pieces(text, 2), scripts=scripts)
    recorded = RecordedRun(RunRequest(task="why?"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(recorded.drive, setup(llm))
        with anyio.fail_after(60):
            await until(lambda: "s1" in recorded.results)
            llm.written[0].set()
            await anyio.wait_all_tasks_blocked()
            llm.write_all()
    assert log == ["s1"]
    assert recorded.end.status == "succeeded"


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await anyio.lowlevel.checkpoint()


async def test_what_was_started_is_kept_where_the_mended_plan_still_has_it() -> None:
    log: list[str] = []
    broken = plan_json(subtask("s1"), subtask("s2", worker="nobody"))
    mended = plan_json(subtask("s1"), subtask("s2", worker="critic"))
    scripts = {"worker:analyst": working("s1", log), "worker:critic": working("s2", log)}
    llm = WritingLLM(in_pieces(broken, 2), in_pieces(mended, 2), scripts=scripts)
    recorded = RecordedRun(RunRequest(task="why?"))
    llm.write_all()
    with anyio.fail_after(60):
        await recorded.drive(setup(llm))
    assert sorted(log) == ["s1", "s2"]
    assert recorded.end.status == "succeeded"


async def test_what_was_started_is_stopped_where_the_mended_plan_does_without_it() -> None:
    never = anyio.Event()
    log: list[str] = []
    broken = plan_json(subtask("s1"), subtask("s2", worker="nobody"))
    mended = plan_json(subtask("s1", worker="critic"))
    scripts = {
        "worker:analyst": working("s1", log, until=never),
        "worker:critic": working("the new s1", log),
    }
    llm = WritingLLM(in_pieces(broken, 2), in_pieces(mended, 1), scripts=scripts)
    recorded = RecordedRun(RunRequest(task="why?"))
    llm.write_all()
    with anyio.fail_after(60):
        await recorded.drive(setup(llm))
    assert recorded.end.status == "succeeded"
    assert recorded.end.answer == "the new s1 done"
    assert recorded.results["s1"].status == "cancelled"
    assert recorded.results["s1_2"].status == "succeeded"


async def test_what_had_ended_before_the_mended_plan_did_without_it_is_no_part_of_the_answer() -> (
    None
):
    log: list[str] = []
    broken = plan_json(subtask("s1"), subtask("s2", worker="nobody"))
    mended = plan_json(subtask("s2", worker="critic"))
    scripts = {"worker:analyst": working("s1", log), "worker:critic": working("s2", log)}
    llm = WritingLLM(in_pieces(broken, 2), in_pieces(mended, 1), scripts=scripts)
    recorded = RecordedRun(RunRequest(task="why?"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(recorded.drive, setup(llm))
        with anyio.fail_after(60):
            await until(lambda: "s1" in recorded.results)
            llm.write_all()
    assert recorded.results["s1"].status == "succeeded"
    assert recorded.end.answer == "s2 done"


def state_of(recorded: RecordedRun) -> RunState:
    started = RunStarted(name="run/start", at=0.0, request=recorded.run.request)
    return fold("r-1", [started, *recorded.events], alive=True)


@pytest.mark.parametrize("has_ended", [True, False])
async def test_what_was_begun_and_is_not_in_the_accepted_plan_is_named_with_its_cost(
    has_ended: bool,
) -> None:
    never = anyio.Event()

    async def work(_request: Request, draft: Draft) -> Reply:
        draft.update(text="half", usage=USAGE)
        await never.wait()
        return reply_with("unreachable")

    broken = plan_json(subtask("s1"), subtask("s2", worker="nobody"))
    accepted = plan_json(subtask("s2", worker="critic"))
    llm = WritingLLM(in_pieces(broken, 2), in_pieces(accepted, 1))
    if not has_ended:
        llm.streamed["worker:analyst"] = work
    recorded = RecordedRun(RunRequest(task="why?"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(recorded.drive, setup(llm))
        with anyio.fail_after(60):
            await until(
                lambda: (
                    "s1" in recorded.results
                    if has_ended
                    else any(request.caller == "worker:analyst" for request in llm.requests)
                )
            )
            await anyio.wait_all_tasks_blocked()
            llm.write_all()
    state = state_of(recorded)
    assert state.status == "succeeded"
    assert state.warnings == (
        "Subtask 's1' (analyst) was begun from a draft of the plan, and the accepted plan does not "
        "contain it. It took 110 tokens (0.0100 USD): do s1",
    )
    assert list(state.subtasks) == ["s2"]


async def test_what_was_begun_before_a_direct_answer_is_named() -> None:
    log: list[str] = []
    broken = plan_json(subtask("s1"), subtask("s2", worker="nobody"))
    llm = WritingLLM(
        in_pieces(broken, 2),
        [plan_json(direct_answer="42")],
        scripts={"worker:analyst": working("s1", log)},
    )
    recorded = RecordedRun(RunRequest(task="why?"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(recorded.drive, setup(llm))
        with anyio.fail_after(60):
            await until(lambda: "s1" in recorded.results)
            llm.write_all()
    (warning,) = state_of(recorded).warnings
    assert recorded.end.answer == "42"
    assert warning.startswith("Subtask 's1' (analyst) was begun from a draft of the plan")


async def test_a_whole_plan_wrapped_in_prose_is_carried_out_at_once() -> None:
    text = f"Here is the plan:\n\n```json\n{plan_json(subtask('s1'))}\n```\n\nIt is short."
    llm = WritingLLM([text])
    llm.write_all()
    recorded = RecordedRun(RunRequest(task="why?"))
    with anyio.fail_after(60):
        await recorded.drive(setup(llm))
    assert (recorded.end.status, recorded.end.reasons) == ("succeeded", ())
    assert llm.callers() == ["planner", "worker:analyst"]


async def test_a_whole_plan_is_repaired_by_rule_where_the_planner_cannot_be_asked_again() -> None:
    broken = plan_json(subtask("s1"), subtask("s2", worker="nobody"))
    llm = WritingLLM(in_pieces(broken, 2), [ModelUnavailableError("The provider is busy.")])
    llm.write_all()
    recorded = RecordedRun(RunRequest(task="why?"))
    with anyio.fail_after(60):
        await recorded.drive(setup(llm))
    assert recorded.end.status == "succeeded"
    assert recorded.results.keys() == {"s1", "s2"}
    assert recorded.first(PlanAccepted).warnings[0] == (
        "The planner could not be asked to repair its plan: The provider is busy."
    )


async def test_a_planner_that_breaks_off_leaves_what_was_started() -> None:
    log: list[str] = []
    text = plan_json(subtask("s1"), subtask("s2", worker="critic"))
    pieces: list[str | Exception] = [in_pieces(text, 2)[0], ModelUnavailableError("overloaded")]
    llm = WritingLLM(pieces, scripts={"worker:analyst": working("s1", log)})
    recorded = RecordedRun(RunRequest(task="why?"))
    llm.write_all()
    with anyio.fail_after(60):
        await recorded.drive(setup(llm))
    assert recorded.end.status == "partial"
    assert recorded.end.answer == "s1 done"
    assert any("overloaded" in reason for reason in recorded.end.reasons)


async def test_a_plan_that_is_only_asked_for_starts_nothing() -> None:
    llm = WritingLLM(in_pieces(plan_json(subtask("s1")), 1))
    recorded = RecordedRun(RunRequest(kind="plan", task="why?"))
    llm.write_all()
    with anyio.fail_after(60):
        await recorded.drive(setup(llm))
    assert llm.callers() == ["planner"]


async def killed_while_planning(first: Subtask) -> list[Event]:
    """Return what is recorded of a run that ended before its plan was whole, and `first` after."""
    before = RecordedRun(RunRequest(task="why?"))
    llm = WritingLLM(
        [in_pieces(plan_json(first), 1)[0], ModelUnavailableError("gone")],
        scripts={"worker:analyst": "the old work"},
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(before.drive, setup(llm))
        with anyio.fail_after(60):
            await until(lambda: first.id in before.results)
            llm.write_all()
    return [
        event
        for event in before.events
        if not isinstance(event, PlanAccepted) and event.kind != "run-ended"
    ]


async def test_after_a_restart_other_work_does_not_pass_for_what_was_done_under_its_id() -> None:
    recorded = await killed_while_planning(subtask("s1"))
    assert any(isinstance(event, SubtaskDrafted) for event in recorded)
    after = RecordedRun(RunRequest(task="why?"), recorded=recorded)
    new = subtask("s1", objective="something else")
    again = WritingLLM([plan_json(new)], scripts={"worker:analyst": "the new work"})
    again.write_all()
    with anyio.fail_after(60):
        await after.drive(setup(again))
    assert after.end.answer == "the new work"


async def test_after_a_restart_the_same_work_is_not_done_again() -> None:
    recorded = await killed_while_planning(subtask("s1"))
    after = RecordedRun(RunRequest(task="why?"), recorded=recorded)
    again = WritingLLM([plan_json(subtask("s1"))])
    again.write_all()
    with anyio.fail_after(60):
        await after.drive(setup(again))
    assert after.end.answer == "the old work"
    assert again.callers() == ["planner"]
