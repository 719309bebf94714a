"""Guards that screen a task, and checks of results against one another, through MCP."""

import json
from pathlib import Path
from typing import Any

import anyio
import pytest

from building import worker
from clients import connected, hang
from concertmaster.engine.request import Limits
from concertmaster.errors import ModelRequestError
from concertmaster.llm.messages import Request
from concertmaster.runs.intake import RunPolicy
from fakes import Script, plan_json, subtask, texts
from patterns import InFlight, finding, findings, ran, run_on, screening

pytestmark = pytest.mark.anyio

TWO = plan_json(subtask("s1"), subtask("s2", "critic"))
HIDDEN = "what nobody may see yet"


def said_by(answers: dict[str, str]) -> Script:
    return lambda request: answers[request.caller]


async def test_work_goes_on_while_the_guard_reads(tmp_path: Path) -> None:
    answers = {"guard": screening(allowed=True), "worker:analyst": "done"}
    both = InFlight(2, said_by(answers))
    scripts: dict[str, Script] = {"planner": TWO, "guard": both, "worker:analyst": both}
    run = await ran(tmp_path, scripts, guard="writer")
    assert run.reply["status"] == "succeeded"
    assert run.calls["guard"] == 1
    (request,) = [item for item in run.llm.requests if item.caller == "guard"]
    assert "You are the writer." in request.system + texts([request])[0]


async def test_nothing_is_shown_before_the_guard_has_decided(tmp_path: Path) -> None:
    plan = plan_json(subtask("s1", objective=HIDDEN), analysis=HIDDEN)
    answering = anyio.Event()
    go = anyio.Event()

    async def guard(_: Request) -> str:
        await go.wait()
        return screening(allowed=True)

    def answer(_: Request) -> str:
        answering.set()
        return HIDDEN

    scripts: dict[str, Script] = {"planner": plan, "worker:analyst": answer, "guard": guard}
    async with connected(tmp_path, scripts) as connection:
        with anyio.fail_after(60):
            ask = connection.ask
            run = await ask("run_orchestration", task="check it", guard="writer", wait_seconds=0)
            run_id = run["run_id"]
            await answering.wait()
            state = await ask("get_run", run_id=run_id, wait_seconds=0.1)
            trace = await connection.client.read_resource(f"runs://{run_id}/trace")
            assert HIDDEN not in f"{state}{trace}"
            assert "guard" in state["progress"]
            go.set()
            state = await ask("get_run", run_id=run_id, wait_seconds=60)
    assert (state["status"], state["answer"]) == ("succeeded", HIDDEN)


async def test_a_guard_that_objects_stops_what_is_under_way_and_nothing_gets_out(
    tmp_path: Path,
) -> None:
    both = InFlight(1)

    async def guard(request: Request) -> str:
        # Only once the worker has begun, which has nothing to wait for but this.
        await both(request)
        return screening(allowed=False, reason="It names customers.")

    plan = plan_json(subtask("s1", objective=HIDDEN), analysis=HIDDEN)
    scripts: dict[str, Script] = {"planner": plan, "worker:analyst": hang, "guard": guard}
    run = await ran(tmp_path, scripts, guard="writer")
    assert run.reply["status"] == "failed"
    assert run.reply["reasons"] == ["The guard writer did not let it pass: It names customers."]
    assert "subtasks" not in run.reply
    assert HIDDEN not in str(run.reply)


async def test_the_trace_of_a_run_that_a_guard_stopped_has_each_paid_call_and_no_content(
    tmp_path: Path,
) -> None:
    working = anyio.Event()

    async def work(request: Request) -> str:
        working.set()
        await hang(request)

    async def guard(_: Request) -> str:
        await working.wait()
        return screening(allowed=False, reason="It names customers.")

    plan = plan_json(subtask("secret-id", objective=HIDDEN), analysis=HIDDEN)
    scripts: dict[str, Script] = {"planner": plan, "worker:analyst": work, "guard": guard}
    async with connected(tmp_path, scripts) as connection:
        run = await run_on(connection, guard="writer")
        uri = run.reply["links"]["trace"]
        (page,) = (await connection.client.read_resource(uri)).contents
        made = connection.llm.callers()
    assert sorted(made) == ["guard", "planner", "worker:analyst"]
    assert sorted(run.steps) == ["guard/call/1", "plan/call/1", "worker"]
    text = getattr(page, "text", "")
    assert HIDDEN not in text
    assert "secret-id" not in text
    trace = json.loads(text)
    assert trace["attributes"]["usage"]["calls"] == sum(
        usage["calls"] for usage in run.reply["usage"]
    )
    calls = [span for span in flat(trace) if span["kind"] == "call"]
    assert {span["name"] for span in calls} == {"chat fake-small", "chat fake-big"}
    assert all(span["ended_at"] and span["status"] != "running" for span in calls)


def flat(span: dict[str, Any]) -> list[dict[str, Any]]:
    return [span, *(inner for part in span["spans"] for inner in flat(part))]


@pytest.mark.parametrize(
    ("guard", "why"),
    [
        (ModelRequestError("The model is gone."), "The model is gone."),
        ("I would rather not say.", "The reply is no JSON"),
        (hang, "It passed its deadline"),
    ],
)
async def test_a_guard_that_is_silent_lets_nothing_pass(
    guard: Script, why: str, tmp_path: Path
) -> None:
    policy = RunPolicy(limits=Limits(subtask_seconds=0.2))
    scripts: dict[str, Script] = {"planner": TWO, "guard": guard}
    async with connected(tmp_path, scripts, policy=policy) as connection:
        run = await run_on(connection, guard="writer")
    assert run.reply["status"] == "failed"
    (reason,) = run.reply["reasons"]
    assert reason.startswith("The guard writer did not let it pass: It could not be screened.")
    assert why in reason
    assert "answer" not in run.reply


async def test_what_is_too_long_for_the_guard_is_not_worked_on(tmp_path: Path) -> None:
    inputs = [{"name": name, "text": "x" * 200_001} for name in "ab"]
    async with connected(tmp_path, {"planner": TWO}) as connection:
        run = await run_on(connection, guard="writer", inputs=inputs)
        assert connection.llm.requests == []
    assert run.reply["status"] == "failed"
    assert "of which a guard reads 400,000 at most" in run.reply["reasons"][0]


async def test_a_guard_that_does_not_exist_is_told_before_any_call(tmp_path: Path) -> None:
    async with connected(tmp_path) as connection:
        sentence = await connection.refusal("run_orchestration", task="x", guard="warden")
        assert connection.llm.requests == []
    assert "No worker named 'warden'. Available workers: analyst, critic, writer." in sentence


# Checks of results against one another


async def test_results_too_long_for_one_reader_are_checked_and_merged_in_short(
    tmp_path: Path,
) -> None:
    long = "x" * 250_000
    scripts: dict[str, Script] = {
        "planner": TWO,
        "worker:analyst": long,
        "worker:critic": long,
        "condenser": "in short",
        "verifier": findings(),
    }
    run = await ran(tmp_path, scripts, verify="report")
    assert run.reply["status"] == "succeeded"
    assert run.calls["condenser"] == 2
    for caller in ("verifier", "synthesizer"):
        (read,) = texts([item for item in run.llm.requests if item.caller == caller])
        assert read.count("in short") == 2
        assert len(read) < 50_000


FILES = {"a.py": "one = 1\n", "b.py": "two = 2\n"}
DISAGREE = findings(finding("s1 says four, s2 says five.", "s1", "s2"))


async def test_what_disagrees_is_reported_and_told_to_whoever_writes_the_answer(
    tmp_path: Path,
) -> None:
    run = await ran(tmp_path, {"planner": TWO, "verifier": DISAGREE}, verify="report")
    assert run.steps[-2:] == ["verify/call/1", "synthesis/call/1"]
    assert run.reply["status"] == "succeeded"
    assert run.reply["findings"] == ["s1 says four, s2 says five."]
    (told,) = texts([item for item in run.llm.requests if item.caller == "synthesizer"])
    assert "s1 says four, s2 says five." in told
    assert run.calls["worker:analyst"] == 1


async def test_those_that_a_finding_concerns_mend_their_results_at_the_same_time(
    tmp_path: Path,
) -> None:
    mending = InFlight(2, "mended")

    async def work(request: Request) -> Any:
        return await mending(request) if len(request.messages) > 1 else "first"

    plan = plan_json(subtask("s1"), subtask("s2", "critic"), subtask("s3", "writer"))
    scripts: dict[str, Script] = {
        "planner": plan,
        "worker:analyst": work,
        "worker:critic": work,
        "worker:writer": work,
        "verifier": DISAGREE,
    }
    run = await ran(tmp_path, scripts, verify="mend")
    assert run.steps[-4] == "verify/call/1"
    assert set(run.steps[-3:-1]) == {"subtask/s1/mend/call/1", "subtask/s2/mend/call/1"}
    assert run.steps[-1] == "synthesis/call/1"
    assert run.reply["status"] == "succeeded"
    results = {name: result["result"] for name, result in run.results.items()}
    assert results == {"s1": "mended", "s2": "mended", "s3": "first"}


async def test_files_rewritten_by_a_map_are_mended_one_by_one_and_stay_a_diff(
    tmp_path: Path,
) -> None:
    def rewrite(request: Request) -> str:
        ((name, text),) = [item for item in FILES.items() if item[1] in request.shared]
        mended = "mended" if len(request.messages) > 1 else "new"
        return json.dumps({"new_text": f"{name} {mended} {text}", "notes": ""})

    mapped = subtask("s1", "rewriter", inputs=list(FILES), strategy={"kind": "map"})
    check = findings(finding("s1 says four, s2 says five.", "s1"))
    scripts: dict[str, Script] = {
        "planner": plan_json(mapped, subtask("s2")),
        "worker:rewriter": rewrite,
        "verifier": check,
    }
    rewriter = worker("rewriter", output_schema={"type": "object"})
    async with connected(tmp_path, scripts, workers=[rewriter]) as connection:
        inputs = [{"name": name, "text": text} for name, text in FILES.items()]
        run = await run_on(connection, inputs=inputs, verify="mend")
        (content,) = (await connection.client.read_resource(run.reply["links"]["diff"])).contents
    assert run.reply["status"] == "succeeded"
    diff = getattr(content, "text", "")
    assert "-one = 1\n+a.py mended one = 1\n" in diff
    assert "-two = 2\n+b.py mended two = 2\n" in diff
    mending = {"subtask/s1/mend/part/1/call/1", "subtask/s1/mend/part/2/call/1"}
    assert mending < set(run.steps)


async def test_a_result_that_is_not_mended_stays_and_is_told(tmp_path: Path) -> None:
    def work(request: Request) -> Any:
        return ModelRequestError("The model is gone.") if len(request.messages) > 1 else "first"

    scripts: dict[str, Script] = {"planner": TWO, "worker:critic": work, "verifier": DISAGREE}
    run = await ran(tmp_path, scripts, verify="mend")
    assert (run.reply["status"], run.statuses) == ("partial", ["succeeded", "partial"])
    assert run.results["s2"]["result"] == "first"
    assert "It was not revised after the check of all results" in run.reply["reasons"][0]


async def test_results_that_could_not_be_checked_are_answered_from_and_told(
    tmp_path: Path,
) -> None:
    scripts: dict[str, Script] = {"planner": TWO, "verifier": ModelRequestError("Gone.")}
    run = await ran(tmp_path, scripts, verify="mend")
    assert run.reply["status"] == "partial"
    assert run.reply["reasons"] == ["The results were not checked against one another: Gone."]
    assert run.statuses == ["succeeded", "succeeded"]


@pytest.mark.parametrize(("asked", "calls"), [({}, 1), ({"verify": "none"}, 0)])
async def test_whoever_asks_for_a_run_decides_on_the_check_over_its_plan(
    asked: dict[str, str], calls: int, tmp_path: Path
) -> None:
    plan = plan_json(subtask("s1"), subtask("s2", "critic"), verify="report")
    run = await ran(tmp_path, {"planner": plan, "verifier": findings()}, **asked)
    assert run.calls.get("verifier", 0) == calls
    assert run.reply["status"] == "succeeded"
