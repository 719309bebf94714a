"""The subcommand `resume`, and servers that go on with runs by themselves."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from click.testing import Result

from concertmaster.cli import bootstrap as wiring
from concertmaster.errors import ModelUnavailableError
from concertmaster.llm.pricing import Rates
from concertmaster.llm.usage import Usage
from concertmaster.runs.orders import WorkerOrder
from concertmaster.settings.load import Settings
from fakes import FakeLLM, plan_json, reply_with, subtask
from services import Gate, service_in

Invoke = Callable[..., Result]
BUSY = ModelUnavailableError("The provider is busy.")


async def leave_behind(folder: Path) -> str:
    """Leave an interrupted run behind."""
    gate = Gate()
    async with service_in(folder, {"worker:analyst": gate}) as service:
        run_id = (await service.start(WorkerOrder(worker="analyst", task="think"))).run_id
        await gate.reached.wait()
    return run_id


def test_an_interrupted_run_goes_on_and_its_answer_is_printed(
    invoke: Invoke, answer_with: Callable[[FakeLLM], None], tmp_path: Path
) -> None:
    run_id = anyio.run(leave_behind, tmp_path / "data")
    assert f"concertmaster resume {run_id}" in invoke("show", run_id).stdout
    answer_with(FakeLLM(default="thought"))
    result = invoke("resume", run_id)
    assert (result.exit_code, result.stdout) == (0, "thought\n")
    assert f"concertmaster show {run_id}" in result.stderr


def test_what_did_not_succeed_is_tried_again(
    invoke: Invoke, answer_with: Callable[[FakeLLM], None]
) -> None:
    plan = plan_json(subtask("s1"), subtask("s2", "writer"))
    answer_with(FakeLLM({"planner": plan, "worker:writer": BUSY}))
    first = invoke("run", "Do it", "--json")
    assert first.exit_code == 3
    run_id = json.loads(first.stdout)["run_id"]
    again = FakeLLM()
    answer_with(again)
    result = invoke("resume", run_id, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["status"] == "succeeded"
    assert again.callers() == ["worker:writer", "synthesizer"]


def test_a_run_with_nothing_left_to_retry_says_so_and_what_could_be_done(
    invoke: Invoke, answer_with: Callable[[FakeLLM], None]
) -> None:
    plan = plan_json(*(subtask(f"s{number}", "writer") for number in range(10)))
    answer_with(FakeLLM({"planner": plan}))
    first = invoke("run", "Do it", "--json")
    run_id = json.loads(first.stdout)["run_id"]
    shown = " ".join(invoke("show", run_id).stdout.split())
    assert f"concertmaster resume {run_id} --from SUBTASK, or --plan FILE" in shown
    again = FakeLLM()
    answer_with(again)
    result = invoke("resume", run_id, "--json")
    assert (result.exit_code, again.requests) == (3, [])
    reasons = json.loads(result.stdout)["reasons"]
    assert "nothing could be tried again, so no call was made" in reasons[-1]


def test_a_run_that_its_budget_cut_goes_on_with_another(
    invoke: Invoke, answer_with: Callable[[FakeLLM], None]
) -> None:
    answer_with(dear_llm())
    first = invoke("run", "Do it", "--budget", "4", "--json")
    run_id = json.loads(first.stdout)["run_id"]
    command = f"concertmaster resume {run_id} --budget 10.02"
    assert command in first.stderr
    assert command in invoke("show", run_id).stdout
    answer_with(dear_llm())
    result = invoke("resume", run_id, "--budget", "10.02", "--json")
    assert (first.exit_code, result.exit_code) == (3, 0)
    assert json.loads(result.stdout)["budget"]["usd"] == 10.02


def dear_llm() -> FakeLLM:
    """Return a model two of whose answers cost more than 7 USD allow."""
    usage = Usage(model="fake", calls=1, attempts=1, tokens_out=2000, usd=2)
    plan = plan_json(subtask("s1"), subtask("s2", "writer", depends_on=["s1"]))
    llm = FakeLLM({"planner": plan, "worker:analyst": reply_with("done", usage=usage)})
    llm.rates = Rates(input=0, output=1000)
    return llm


def test_a_run_that_succeeded_prints_its_answer_again(invoke: Invoke) -> None:
    done = invoke("worker", "security-reviewer", "Review", "app.py", "--json")
    again = invoke("resume", json.loads(done.stdout)["run_id"], "--json")
    assert again.exit_code == 0
    assert json.loads(again.stdout) == json.loads(done.stdout)


def test_a_run_that_is_not_there_is_not_resumed(invoke: Invoke) -> None:
    result = invoke("resume", "r-none")
    assert result.exit_code == 2
    assert "concertmaster runs" in result.stderr


@pytest.mark.anyio
@pytest.mark.parametrize("wanted", [True, False])
async def test_a_server_goes_on_with_runs_of_dead_processes_if_that_is_wanted(
    wanted: bool, answer_with: Callable[[FakeLLM], None], tmp_path: Path
) -> None:
    run_id = await leave_behind(tmp_path)
    answer_with(FakeLLM())
    loaded = Settings.load({"offline": True, "data_folder": tmp_path, "resume_interrupted": wanted})
    part = wiring.part_of(loaded.settings)
    async with (
        wiring.open_runs(loaded, roots=(), part=part) as service,
        wiring.tending(service, loaded.settings, part=part),
    ):
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(60):
            while wanted and (await service.get(run_id)).status != "succeeded":
                await anyio.lowlevel.checkpoint()
        status = (await service.get(run_id)).status
    assert status == ("succeeded" if wanted else "interrupted")


def test_a_plan_is_printed_edited_and_run_anew(
    invoke: Invoke, answer_with: Callable[[FakeLLM], None], tmp_path: Path
) -> None:
    answer_with(FakeLLM({"planner": plan_json(subtask("s1"), subtask("s2", "writer"))}))
    run_id = json.loads(invoke("run", "Do it", "--json").stdout)["run_id"]
    plan = invoke("show", run_id, "--plan").stdout
    (tmp_path / "plan.json").write_text(plan.replace("do s2", "do it again"))
    again = FakeLLM()
    answer_with(again)
    result = invoke("resume", run_id, "--plan", str(tmp_path / "plan.json"), "--json")
    assert result.exit_code == 0, result.stderr
    data = json.loads(result.stdout)
    assert again.callers() == ["worker:writer", "synthesizer"]
    assert data["reused"].startswith(f"s1 from {run_id}; saved 1 call")
    assert f"Taken over: {data['reused']}" in result.stderr
    assert f"s1 from {run_id}" in invoke("show", data["run_id"]).stdout.replace("\n", "")


def test_a_plan_that_was_only_made_is_run_by_the_commands_that_it_comes_with(
    invoke: Invoke, answer_with: Callable[[FakeLLM], None], tmp_path: Path
) -> None:
    llm = FakeLLM({"planner": plan_json(subtask("s1"), subtask("s2", "writer"))})
    answer_with(llm)
    planned = invoke("plan", "Do it")
    told = re.search(
        r"concertmaster (show \S+ --plan) > plan.json, then concertmaster (resume \S+ --plan)",
        planned.stderr,
    )
    assert told is not None
    show, resume = (command.split() for command in told.groups())
    (tmp_path / "plan.json").write_text(invoke(*show).stdout)
    assert invoke(*resume, str(tmp_path / "plan.json")).exit_code == 0
    assert llm.callers().count("planner") == 1


def test_from_a_subtask_on_a_run_is_made_anew(
    invoke: Invoke, answer_with: Callable[[FakeLLM], None]
) -> None:
    plan = plan_json(subtask("s1"), subtask("s2", "writer", depends_on=["s1"]))
    answer_with(FakeLLM({"planner": plan}))
    run_id = json.loads(invoke("run", "Do it", "--json").stdout)["run_id"]
    again = FakeLLM()
    answer_with(again)
    assert invoke("resume", run_id, "--from", "s2").exit_code == 0
    assert again.callers() == ["worker:writer", "synthesizer"]


def test_a_run_takes_over_what_others_have_if_it_is_told_to(
    invoke: Invoke, answer_with: Callable[[FakeLLM], None]
) -> None:
    plan = plan_json(subtask("s1"), subtask("s2", "writer"))
    answer_with(FakeLLM({"planner": plan}))
    run_id = json.loads(invoke("run", "Do it", "--json").stdout)["run_id"]
    again = FakeLLM({"planner": plan})
    answer_with(again)
    data = json.loads(invoke("run", "Do it", "--reuse-hours", "1", "--json").stdout)
    assert again.callers() == ["planner", "synthesizer"]
    assert data["reused"].startswith(f"s1, s2 from {run_id}; saved 2 calls")
    trace = invoke("show", data["run_id"], "--trace").stdout.replace("\n", "")
    assert f"taken over from {run_id}" in trace


def test_what_is_no_plan_says_what_is_wrong(
    invoke: Invoke, answer_with: Callable[[FakeLLM], None], tmp_path: Path
) -> None:
    answer_with(FakeLLM({"planner": "no plan"}))
    run_id = json.loads(invoke("run", "Do it", "--json").stdout)["run_id"]
    assert f"Run {run_id} has no plan" in invoke("show", run_id, "--plan").stderr
    (tmp_path / "plan.json").write_text('{"subtasks": [{"id": 1}]}')
    result = invoke("resume", run_id, "--plan", str(tmp_path / "plan.json"))
    assert result.exit_code == 2
    assert "plan.json is no plan. subtasks.0.id: " in result.stderr


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_plan_is_read_as_any_terminal_wrote_it(
    invoke: Invoke, answer_with: Callable[[FakeLLM], None], tmp_path: Path, encoding: str
) -> None:
    answer_with(FakeLLM({"planner": plan_json(subtask("s1"), subtask("s2"))}))
    run_id = json.loads(invoke("run", "Do it", "--json").stdout)["run_id"]
    file = tmp_path / "plan.json"
    file.write_text(invoke("show", run_id, "--plan").stdout.replace("do s1", "dö s1"), encoding)
    data = json.loads(invoke("resume", run_id, "--plan", str(file), "--json").stdout)
    assert data["subtasks"][0]["objective"] == "dö s1"


def test_what_is_no_text_is_no_plan(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_bytes(b"\x80\xff")
    result = invoke("resume", "r-1", "--plan", str(tmp_path / "plan.json"))
    assert result.exit_code == 2
    assert "plan.json is no text in UTF-8" in result.stderr
