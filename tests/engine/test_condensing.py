"""Results too long for one reader: who gets them condensed, when that ends, and what it costs."""

import json

import anyio
import pytest

from building import RecordedRun, drive, setup
from concertmaster.engine.events import CallFinished, SubtaskFinished
from concertmaster.engine.plan.plan import Plan, Subtask
from concertmaster.engine.request import Limits, RunRequest
from concertmaster.engine.strategies import condensing
from concertmaster.errors import ModelUnavailableError, StoreError
from concertmaster.llm.messages import Request
from fakes import FakeLLM, Script, subtask, texts
from patterns import decision, finding, findings

pytestmark = pytest.mark.anyio

LONG = "x" * 400
SIX = [subtask(f"s{number}") for number in range(6)]
IN_SHORT: dict[str, Script] = {"worker:analyst": LONG, "condenser": "in short"}


@pytest.fixture(autouse=True)
def small_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(condensing, "READABLE_CHARS", 1000)


def order(*subtasks: Subtask, **fields: object) -> RunRequest:
    plan = Plan(subtasks=subtasks)
    return RunRequest.model_validate({"task": "t", "plan": plan} | fields)


def read_by(llm: FakeLLM, caller: str) -> str:
    """Return what was last asked of a caller."""
    return texts([request for request in llm.requests if request.caller == caller])[-1]


def condensations(llm: FakeLLM) -> int:
    return llm.callers().count("condenser")


async def test_whoever_checks_results_and_whoever_merges_them_read_the_same_short_ones() -> None:
    run, llm = await drive(order(*SIX, verify="report"), {**IN_SHORT, "verifier": findings()})
    for caller in ("verifier", "synthesizer"):
        assert read_by(llm, caller).count("in short") == 3
        assert LONG not in read_by(llm, caller)
    assert condensations(llm) == 3
    assert run.end.status == "succeeded"


async def test_a_worker_builds_on_short_results_and_pays_for_them() -> None:
    last = subtask("last", "critic", depends_on=[item.id for item in SIX])
    run, llm = await drive(order(*SIX, last), {**IN_SHORT, "worker:critic": "y"})
    assert read_by(llm, "worker:critic").count("in short") == 3
    assert LONG not in read_by(llm, "worker:critic")
    assert run.results["last"].usage.calls == 4


async def test_a_worker_that_mends_builds_on_the_results_condensed_before() -> None:
    last = subtask("last", "critic", depends_on=[item.id for item in SIX])
    _, llm = await drive(
        order(*SIX, last, verify="mend"),
        {**IN_SHORT, "worker:critic": "y", "verifier": findings(finding("odd", "last"))},
    )
    assert llm.callers().count("worker:critic") == 2
    assert LONG not in read_by(llm, "worker:critic")
    # Three for the worker, and three of all results for whoever checks and merges them.
    assert condensations(llm) == 6


async def test_groups_for_a_worker_take_no_more_slots_than_there_are() -> None:
    at_work = most = 0

    async def condense(_: Request) -> str:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        await anyio.lowlevel.checkpoint()
        at_work -= 1
        return "in short"

    last = subtask("last", "critic", depends_on=[item.id for item in SIX])
    with anyio.fail_after(60):
        run, _ = await drive(
            order(*SIX, last, limits=Limits(slots=1)), {**IN_SHORT, "condenser": condense}
        )
    assert most == 1
    assert run.end.status == "succeeded"


async def test_whoever_decides_what_comes_next_reads_short_results() -> None:
    last = subtask("last", "critic", depends_on=[item.id for item in SIX])
    request = RunRequest(task="t", plan=Plan(subtasks=(*SIX, last), mode="adaptive"))
    run, llm = await drive(request, {**IN_SHORT, "orchestrator": decision(done=True)})
    assert read_by(llm, "orchestrator").count("in short") == 3
    assert LONG not in read_by(llm, "orchestrator")
    assert run.end.status == "succeeded"


@pytest.mark.parametrize(
    "condenser", ["y" * 801, "", ModelUnavailableError("overloaded")], ids=["long", "none", "error"]
)
async def test_condensing_that_shortens_nothing_is_not_repeated(condenser: Script) -> None:
    run, llm = await drive(order(*SIX), {"worker:analyst": LONG, "condenser": condenser})
    # Once more each where the reply was empty.
    assert condensations(llm) == (6 if condenser == "" else 3)
    assert read_by(llm, "synthesizer").count("Cut to 166 characters to fit.") == 6
    assert run.end.status == "succeeded"


async def test_a_group_that_is_not_shortened_leaves_the_others_short() -> None:
    def condense(request: Request) -> str:
        return "y" * 900 if "do s0" in texts([request])[0] else "in short"

    _, llm = await drive(order(*SIX), {"worker:analyst": LONG, "condenser": condense})
    text = read_by(llm, "synthesizer")
    assert (text.count(LONG), text.count("in short")) == (2, 2)


async def test_results_that_stay_long_are_condensed_in_more_rounds() -> None:
    def condense(request: Request) -> str:
        return "y" * 400 if LONG in texts([request])[0] else "in short"

    _, llm = await drive(order(*SIX), {"worker:analyst": LONG, "condenser": condense})
    assert condensations(llm) == 5
    assert read_by(llm, "synthesizer").count("in short") == 2


async def test_results_that_only_shrink_a_little_are_cut_after_a_few_rounds() -> None:
    def condense(request: Request) -> str:
        return "y" * (max(map(len, texts([request])[0].split())) - 1)

    _, llm = await drive(
        order(subtask("s1"), subtask("s2", "critic")),
        {"worker:analyst": "x" * 900, "worker:critic": "x" * 900, "condenser": condense},
    )
    assert condensations(llm) == 2 * 3
    assert "Cut to 500 characters to fit." in read_by(llm, "synthesizer")


@pytest.mark.parametrize("stopped_after", range(0, 40, 3))
async def test_a_run_taken_up_at_any_event_condenses_nothing_again(stopped_after: int) -> None:
    last = subtask("last", "critic", depends_on=[item.id for item in SIX])
    scripts = {**IN_SHORT, "worker:critic": "y"}
    whole, first = await drive(order(*SIX, last), scripts)
    recorded = whole.events[:stopped_after]
    finished = sum(isinstance(event, CallFinished) for event in recorded)
    llm = FakeLLM(scripts)
    await RecordedRun(order(*SIX, last), recorded=recorded).drive(setup(llm))
    assert len(llm.requests) == len(first.requests) - finished


async def test_what_was_condensed_before_is_not_taken_for_other_results() -> None:
    whole, _ = await drive(order(*SIX), IN_SHORT)
    recorded = [
        event.model_copy(
            update={"result": event.result.model_copy(update={"text": event.result.text + "!"})}
        )
        if isinstance(event, SubtaskFinished)
        else event
        for event in whole.events
        if not event.name.startswith(("synthesis", "run/end"))
    ]
    llm = FakeLLM({**IN_SHORT, "condenser": "anew"})
    await RecordedRun(order(*SIX), recorded=recorded).drive(setup(llm))
    assert read_by(llm, "synthesizer").count("anew") == 3


async def test_a_journal_that_cannot_be_written_stops_condensing() -> None:
    async def refuse(event: object) -> None:
        if isinstance(event, CallFinished) and event.caller == "condenser":
            raise StoreError("disk full")

    with pytest.raises(StoreError):
        await RecordedRun(order(*SIX), before=refuse).drive(setup(FakeLLM(IN_SHORT)))


async def test_a_run_whose_answer_has_a_schema_condenses_into_text_first() -> None:
    schema = {"type": "object"}
    run, llm = await drive(
        order(*SIX, output_schema=schema), {**IN_SHORT, "synthesizer": json.dumps({"a": 1})}
    )
    schemas = {request.caller: request.output_schema for request in llm.requests}
    assert (schemas["condenser"], schemas["synthesizer"]) == (None, schema)
    assert run.end.value == {"a": 1}
