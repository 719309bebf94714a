import anyio
import pytest

from building import drive
from concertmaster.engine import planner
from concertmaster.engine.plan.plan import Plan
from concertmaster.engine.request import Limits, RunRequest
from concertmaster.engine.strategies import condensing
from concertmaster.errors import ModelUnavailableError
from concertmaster.llm.messages import PlanBrief, Request, SynthesisBrief
from fakes import FakeLLM, reply_with, subtask

pytestmark = pytest.mark.anyio

SHORT = {"condenser": "in short", "synthesizer": "because"}
SIX = RunRequest(task="t", plan=Plan(subtasks=tuple(subtask(f"s{number}") for number in range(6))))


@pytest.fixture(autouse=True)
def small_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(condensing, "READABLE_CHARS", 1000)
    monkeypatch.setattr(planner, "PLANNER_CHARS", 1000)


def synthesizer_requests(llm: FakeLLM) -> list[Request]:
    return [request for request in llm.requests if request.caller == "synthesizer"]


def condensations(llm: FakeLLM) -> int:
    return llm.callers().count("condenser")


async def test_results_that_fit_are_synthesized_in_one_call() -> None:
    _, llm = await drive(SIX, {"worker:analyst": "x" * 100, "synthesizer": "because"})
    assert len(synthesizer_requests(llm)) == 1


async def test_results_that_do_not_fit_are_condensed_in_groups_first() -> None:
    run, llm = await drive(SIX, {"worker:analyst": "x" * 400, **SHORT})
    assert condensations(llm) == 3
    brief = synthesizer_requests(llm)[-1].brief
    assert isinstance(brief, SynthesisBrief)
    assert [result.text for result in brief.results] == ["in short"] * 3
    assert brief.results[0].subtask_id == "s0+s1"
    assert (run.end.status, run.end.answer) == ("succeeded", "because")


async def test_groups_are_condensed_at_the_same_time() -> None:
    all_started = anyio.Event()
    started: list[Request] = []

    async def wait_for_the_others(request: Request) -> str:
        started.append(request)
        if len(started) == 3:
            all_started.set()
        await all_started.wait()
        return "in short"

    with anyio.fail_after(60):
        await drive(
            SIX,
            {
                "worker:analyst": "x" * 400,
                "condenser": wait_for_the_others,
                "synthesizer": "because",
            },
        )
    assert len(started) == 3


async def test_a_single_result_longer_than_the_window_is_condensed_in_pieces() -> None:
    two = RunRequest(task="t", plan=Plan(subtasks=(subtask("s1"), subtask("s2", "critic"))))
    _, llm = await drive(two, {"worker:analyst": "x" * 2500, **SHORT})
    brief = synthesizer_requests(llm)[-1].brief
    assert isinstance(brief, SynthesisBrief)
    assert condensations(llm) == 3
    assert [result.subtask_id for result in brief.results] == ["s1", "s1", "s1+s2"]


async def test_a_group_that_cannot_be_condensed_goes_in_as_it_is_and_is_cut_in_the_end() -> None:
    run, llm = await drive(
        SIX,
        {
            "worker:analyst": "x" * 400,
            "condenser": ModelUnavailableError("overloaded"),
            "synthesizer": "because",
        },
    )
    brief = synthesizer_requests(llm)[-1].brief
    assert isinstance(brief, SynthesisBrief)
    assert sum(len(result.text) for result in brief.results) <= 1000
    assert all("Cut to" in result.problem for result in brief.results)
    assert run.end.answer == "because"


async def test_a_group_with_an_incomplete_result_is_incomplete() -> None:
    cut = reply_with("x" * 400, stop_reason="max_tokens")
    _, llm = await drive(SIX, {"worker:analyst": cut, **SHORT})
    brief = synthesizer_requests(llm)[-1].brief
    assert isinstance(brief, SynthesisBrief)
    assert {result.status for result in brief.results} == {"partial"}


async def test_results_that_fit_only_in_part_leave_short_ones_whole() -> None:
    limits = Limits(slots=2)
    run, llm = await drive(
        RunRequest(
            task="t",
            limits=limits,
            plan=Plan(subtasks=(subtask("s1"), subtask("s2", "critic"))),
        ),
        {
            "worker:analyst": "x" * 2000,
            "worker:critic": "short",
            "condenser": "y" * 900,
            "synthesizer": "because",
        },
    )
    brief = synthesizer_requests(llm)[-1].brief
    assert isinstance(brief, SynthesisBrief)
    assert sum(len(result.text) for result in brief.results) <= 1000
    assert run.end.answer == "because"


async def test_a_planner_reads_the_beginning_of_inputs_that_are_too_long() -> None:
    _, llm = await drive(
        RunRequest(task="t"), {}, inputs={"long.txt": "x" * 5000, "short.txt": "the short one"}
    )
    request = llm.requests[0]
    assert "[4,500 more characters]" in request.shared
    assert "the short one" in request.shared
    assert isinstance(request.brief, PlanBrief)
    assert len(request.brief.inputs[0].text) == 5000
