"""Runs that take over from an earlier one what nothing has changed for."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import anyio
import pytest

from building import RecordedRun, setup, worker
from concertmaster.engine.events import (
    GuardDecided,
    RunResumed,
    RunStarted,
    SubtaskFinished,
    SubtaskResult,
    SubtaskStarted,
)
from concertmaster.engine.plan.plan import Plan, Subtask
from concertmaster.engine.replay import (
    EarlierRun,
    Offer,
    and_dependants,
    earlier_results,
    offers_of,
)
from concertmaster.engine.request import Limits, RunRequest
from concertmaster.engine.run import Setup
from concertmaster.errors import ModelUnavailableError, ToolCallError
from concertmaster.llm.messages import Models
from fakes import FakeLLM, FakeTool, Script, in_turn, subtask, wants
from patterns import finding, findings

pytestmark = pytest.mark.anyio

CHAIN = (
    subtask("s1"),
    subtask("s2", "critic", depends_on=["s1"]),
    subtask("s3", "writer", depends_on=["s2"]),
    subtask("s4", "analyst", objective="something else"),
)


def request_for(subtasks: Iterable[Subtask] = CHAIN, **fields: object) -> RunRequest:
    plan = Plan(subtasks=tuple(subtasks))
    return RunRequest.model_validate({"task": "why?", "plan": plan} | fields)


async def first_run(
    request: RunRequest,
    scripts: Mapping[str, Script] | None = None,
    chosen: Setup | None = None,
    inputs: Mapping[str, str] | None = None,
) -> EarlierRun:
    """Return what a run has for one like it."""
    run = RecordedRun(request, inputs=inputs)
    await run.drive(chosen or setup(FakeLLM(scripts)))
    return EarlierRun(run_id="r-1", results=earlier_results(run.events))


async def done_again(
    earlier: EarlierRun,
    request: RunRequest,
    scripts: Mapping[str, Script] | None = None,
    chosen: Setup | None = None,
    inputs: Mapping[str, str] | None = None,
) -> tuple[set[str], RecordedRun]:
    """Return the subtasks that are called for in another run, and that run."""
    run = RecordedRun(request, inputs=inputs, earlier=earlier)
    await run.drive(chosen or setup(FakeLLM(scripts)))
    taken = {name for name, result in run.results.items() if result.saved is not None}
    return run.results.keys() - taken, run


async def test_a_run_like_another_pays_only_for_its_synthesis() -> None:
    earlier = await first_run(request_for(), {"worker:analyst": "found"})
    again, run = await done_again(earlier, request_for())
    assert again == set()
    assert (run.results["s1"].text, run.results["s1"].usage.calls) == ("found", 0)
    saved = run.results["s1"].saved
    assert saved is not None
    assert saved.calls == 1
    assert run.results["s1"].notes == ("Taken over from run r-1.",)
    assert (run.end.status, run.end.answer) == ("succeeded", "done")


async def test_what_is_taken_over_twice_still_tells_what_it_took() -> None:
    earlier = await first_run(request_for())
    _, second = await done_again(earlier, request_for())
    _, third = await done_again(
        EarlierRun(run_id="r-1", results=earlier_results(second.events)), request_for()
    )
    saved = third.results["s1"].saved
    assert saved is not None
    assert saved.calls == 1
    assert third.results["s1"].notes == ("Taken over from run r-1.",)


def changed(name: str, **fields: object) -> tuple[Subtask, ...]:
    return tuple(item.model_copy(update=fields) if item.id == name else item for item in CHAIN)


async def test_what_changed_is_done_anew_and_what_builds_on_it() -> None:
    earlier = await first_run(request_for())
    plan = changed("s2", objective="do it otherwise")
    again, _ = await done_again(earlier, request_for(plan), {"worker:critic": "otherwise"})
    assert again == {"s2", "s3"}


async def test_what_comes_to_the_same_result_changes_nothing_further() -> None:
    earlier = await first_run(request_for(changed("s2", why="because")))
    again, _ = await done_again(earlier, request_for(changed("s2", why="why not", priority="high")))
    assert again == set()


async def test_a_subtask_of_another_id_takes_over_what_is_the_same_work() -> None:
    earlier = await first_run(request_for([subtask("s1", objective="do it")]))
    again, run = await done_again(earlier, request_for([subtask("s9", objective="do it")]))
    assert again == set()
    assert run.results["s9"].subtask_id == "s9"


@pytest.mark.parametrize(
    "fields",
    [
        {"task": "why not?"},
        {"context": "in winter"},
        {"constraints": ("be brief",)},
        {"limits": Limits(max_tokens=1)},
    ],
    ids=lambda fields: next(iter(fields)),
)
async def test_everything_is_done_anew_where_the_run_as_a_whole_is_another(
    fields: dict[str, Any],
) -> None:
    earlier = await first_run(request_for())
    again, _ = await done_again(earlier, request_for(**fields))
    assert again == {"s1", "s2", "s3", "s4"}


async def test_what_has_an_input_is_done_anew_when_its_content_is_another() -> None:
    request = request_for([subtask("s1", inputs=["a"]), subtask("s2", "critic")])
    earlier = await first_run(request, inputs={"a": "ALPHA"})
    assert (await done_again(earlier, request, inputs={"a": "ALPHA"}))[0] == set()
    assert (await done_again(earlier, request, inputs={"a": "BETA"}))[0] == {"s1"}


async def test_a_worker_a_model_or_a_tool_that_is_another_counts() -> None:
    tool = FakeTool("look", lambda _arguments, _scope: "seen")
    plan = [subtask("s1", "reader"), subtask("s2", "analyst")]
    before = setup(FakeLLM(), workers=[worker("reader", tools=("look",))], tools=(tool,))
    earlier = await first_run(request_for(plan), chosen=before)

    async def again(chosen: Setup) -> set[str]:
        return (await done_again(earlier, request_for(plan), chosen=chosen))[0]

    assert await again(before) == set()
    other = worker("reader", tools=("look",), instructions="Read twice.")
    assert await again(setup(FakeLLM(), workers=[other], tools=(tool,))) == {"s1"}
    assert await again(replace(before, models=Models(worker="opus"))) == {"s1", "s2"}
    toolless = setup(FakeLLM(), workers=[worker("reader", tools=("look",))])
    assert await again(toolless) == {"s1"}


async def test_a_voter_that_is_another_counts() -> None:
    strategy = {"kind": "vote", "voters": [{"worker": "analyst"}, {"worker": "reader"}]}
    plan = [subtask("s1", strategy=strategy), subtask("s2")]
    scripts: dict[str, Script] = {"judge": '{"reasons": "", "best": 1}'}
    before = setup(FakeLLM(scripts), workers=[worker("reader")])
    earlier = await first_run(request_for(plan), chosen=before)
    other = setup(FakeLLM(scripts), workers=[worker("reader", instructions="Read twice.")])
    assert (await done_again(earlier, request_for(plan), chosen=other))[0] >= {"s1"}
    assert "s2" not in (await done_again(earlier, request_for(plan), chosen=other))[0]


async def test_what_did_not_succeed_is_not_taken_over() -> None:
    busy = ModelUnavailableError("The provider is busy.")
    earlier = await first_run(request_for(), {"worker:critic": busy})
    again, _ = await done_again(earlier, request_for())
    assert again == {"s2", "s3"}


async def test_what_is_to_be_done_anew_is_and_all_that_depends_on_it() -> None:
    earlier = await first_run(request_for())
    redo = and_dependants(["s2"], reversed(CHAIN))
    again, _ = await done_again(replace(earlier, redo=redo), request_for())
    assert again == {"s2", "s3"}


async def test_what_was_mended_is_taken_over_as_it_was_before() -> None:
    scripts: dict[str, Script] = {
        "verifier": findings(finding("They differ.", "s1")),
        "worker:analyst": lambda request: "one" if len(request.messages) == 1 else "mended",
    }
    plan = [subtask("s1"), subtask("s2", "critic")]
    earlier = await first_run(request_for(plan, verify="mend"), scripts)
    again, run = await done_again(earlier, request_for(plan))
    assert again == set()
    assert run.results["s1"].text == "one"


async def test_what_was_done_after_a_check_in_an_earlier_life_of_a_run_counts() -> None:
    run = RecordedRun(request_for([subtask("s1"), subtask("s2", "critic")], verify="report"))
    await run.drive(setup(FakeLLM({"verifier": findings()})))
    resumed = RunResumed(name="run/resume/2", at=9.0, epoch=2, by="test")
    events = [*run.events, resumed, *run.events]
    assert len(earlier_results(events)) == len(earlier_results(run.events)) == 2
    started, (finished, *_) = (
        run.events[:-1],
        [event for event in run.events if isinstance(event, SubtaskFinished)],
    )
    later = finished.model_copy(
        update={"result": finished.result.model_copy(update={"text": "later"})}
    )
    taken = earlier_results([*started, resumed, later])
    assert "later" in {result.text for result in taken.values()}


class Shelf:
    """What other runs have, with the questions for it."""

    def __init__(self, *offers: Offer) -> None:
        self.offers = offers

    async def find(self, fingerprint: str, /) -> Sequence[Offer]:
        return [offer for offer in self.offers if offer.result.fingerprint == fingerprint]


READS = [subtask("s1", "reader", inputs=["a"])]


def reading(tool: FakeTool) -> Setup:
    llm = FakeLLM({"worker:reader": in_turn(wants(("look", {"at": "b"})), "read it")})
    return setup(llm, workers=[worker("reader", tools=("look",))], tools=(tool,))


async def offered_by(request: RunRequest, chosen: Setup) -> Shelf:
    run = RecordedRun(request, inputs={"a": "ALPHA"})
    await run.drive(chosen)
    assert run.end.status == "succeeded"
    return Shelf(*offers_of("r-1", run.events).values())


async def done_with(shelf: Shelf, request: RunRequest, chosen: Setup) -> SubtaskResult:
    run = RecordedRun(request, inputs={"a": "ALPHA"}, offers=shelf.find)
    await run.drive(chosen)
    return run.results["s1"]


@pytest.mark.parametrize(
    ("traits", "says", "taken"),
    [
        ({"local": True}, "B", "r-1"),
        ({"local": True}, "C", ""),
        ({"local": True}, ToolCallError("There is no b."), ""),
        ({}, "B", ""),
        ({"outward": True}, "B", ""),
    ],
)
async def test_what_a_worker_learnt_from_tools_must_still_be_so(
    traits: dict[str, bool], says: str | ToolCallError, taken: str
) -> None:
    answers: list[str | ToolCallError] = ["B", says, says]

    def look(_arguments: object, _scope: object) -> str:
        answer = answers.pop(0)
        if isinstance(answer, ToolCallError):
            raise answer
        return answer

    tool = FakeTool("look", look, **traits)
    request = request_for(READS)
    shelf = await offered_by(request, reading(tool))
    result = await done_with(shelf, request, reading(tool))
    assert (result.status, result.taken_from) == ("succeeded", taken)


@pytest.mark.parametrize(("says", "taken"), [("There is no b.", "r-1"), ("Nor an a.", "")])
async def test_that_a_tool_failed_must_still_be_so(says: str, taken: str) -> None:
    answers = ["There is no b.", says, says]

    def look(_arguments: object, _scope: object) -> str:
        raise ToolCallError(answers.pop(0))

    tool = FakeTool("look", look, local=True)
    request = request_for(READS)
    shelf = await offered_by(request, reading(tool))
    assert (await done_with(shelf, request, reading(tool))).taken_from == taken


async def test_tools_that_take_too_long_to_ask_again_leave_the_work_to_be_done() -> None:
    calls: list[int] = []

    async def look(_arguments: object, _scope: object) -> str:
        calls.append(1)
        if len(calls) == 2:
            await anyio.sleep_forever()
        return "B"

    tool = FakeTool("look", look, local=True)
    request = request_for([READS[0].model_copy(update={"timeout_seconds": 0.05})])
    shelf = await offered_by(request, reading(tool))
    assert (await done_with(shelf, request, reading(tool))).taken_from == ""


async def test_a_result_of_another_run_is_taken_over_with_what_it_took() -> None:
    request = request_for([subtask("s1"), subtask("s2", "critic")])
    shelf = await offered_by(request, setup(FakeLLM({"worker:analyst": "found"})))
    result = await done_with(shelf, request, setup(FakeLLM()))
    assert (result.text, result.taken_from, result.usage.calls) == ("found", "r-1", 0)
    assert result.saved is not None
    assert result.saved.calls == 1
    assert result.notes == ("Taken over from run r-1.",)
    again = await done_with(shelf, request.model_copy(update={"redo": ("s1",)}), setup(FakeLLM()))
    assert (again.text, again.taken_from) == ("done", "")


async def test_what_was_taken_over_or_did_not_succeed_is_for_no_other_run() -> None:
    request = request_for([subtask("s1"), subtask("s2", "critic")])
    shelf = await offered_by(request, setup(FakeLLM()))
    run = RecordedRun(request, inputs={"a": "ALPHA"}, offers=shelf.find)
    await run.drive(setup(FakeLLM()))
    assert offers_of("r-2", run.events) == {}
    busy = ModelUnavailableError("The provider is busy.")
    failing = RecordedRun(request)
    await failing.drive(setup(FakeLLM({"worker:critic": busy})))
    (offer,) = offers_of("r-3", failing.events).values()
    assert offer.result.subtask_id == "s1"


@pytest.mark.parametrize(
    ("guard", "decisions", "offers"),
    [("", (), 1), ("critic", (), 0), ("critic", (True,), 1), ("critic", (False,), 0)],
)
async def test_what_no_guard_has_let_pass_is_for_no_other_run(
    guard: str, decisions: Sequence[bool], offers: int
) -> None:
    request = request_for([subtask("s1")], guard=guard)
    run = RecordedRun(request_for([subtask("s1")]))
    await run.drive(setup(FakeLLM()))
    events = [
        RunStarted(name="run/start", at=1.0, request=request),
        *run.events,
        *(GuardDecided(name="guard", at=9.0, passed=passed) for passed in decisions),
    ]
    assert len(offers_of("r-1", events)) == offers


async def test_a_result_does_not_pass_for_that_of_an_attempt_that_came_to_no_end() -> None:
    def started(fingerprint: str) -> SubtaskStarted:
        return SubtaskStarted(
            name="subtask/s1/start", at=1.0, subtask_id="s1", fingerprint=fingerprint
        )

    result = SubtaskResult(subtask_id="s1", worker="analyst", status="succeeded", text="done")
    finished = SubtaskFinished(name="subtask/s1/result", at=2.0, result=result)
    assert earlier_results([started("one"), finished]) == {"one": result}
    assert earlier_results([started("one"), finished, started("other")]) == {}
