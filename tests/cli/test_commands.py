"""The subcommands in process: real files, real journal, the offline model or a scripted one."""

import io
import json
import logging
import os
import re
import signal
import sqlite3
import sys
import textwrap
from collections.abc import Callable, Sequence
from contextlib import closing, redirect_stdout
from pathlib import Path
from typing import Any, NoReturn

import anyio
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from concertmaster import __version__
from concertmaster.catalog.definitions import BUILT_IN_TOOLS
from concertmaster.cli.app import cli, main
from concertmaster.cli.view.render import runs_table, subtask_table
from concertmaster.llm.messages import Request
from concertmaster.runs.state import RunState
from fakes import FakeLLM, plan_json, subtask, texts

Invoke = Callable[..., Result]

no_signals_on_windows = pytest.mark.skipif(
    sys.platform == "win32", reason="event loops receive no signals there"
)


def run_id_of(result: Result) -> str:
    found = re.search(r"concertmaster show (r-\S+)", result.stderr)
    assert found is not None, result.stderr
    return found.group(1)


def test_the_answer_goes_to_stdout_and_everything_else_to_stderr(invoke: Invoke) -> None:
    result = invoke("run", "Review this code for problems", "app.py")
    assert result.exit_code == 0, result.stderr
    assert "S608" in result.stdout
    assert "app.py" in result.stdout
    assert result.stdout.rstrip().endswith("to have a language model do it._")
    assert "security-reviewer: started" not in result.stdout
    assert "security-reviewer: started" in result.stderr
    assert re.search(r"^succeeded · \d+ subtasks · .* · concertmaster show r-", result.stderr, re.M)


def test_json_has_the_whole_run(invoke: Invoke) -> None:
    result = invoke("run", "Review this code for problems", "app.py", "--json")
    run = json.loads(result.stdout)
    assert run["status"] == "succeeded"
    assert run["run_id"] == run_id_of(result)
    assert "S608" in run["answer"]
    assert {line["status"] for line in run["subtasks"]} == {"succeeded"}
    assert run["notice"]


def test_a_dash_reads_the_task_from_stdin(invoke: Invoke) -> None:
    result = invoke("plan", "-", "app.py", "--json", text="Review this code for problems\n")
    run_id = json.loads(result.stdout)["plan_id"]
    shown = invoke("show", run_id)
    assert "Review this code for problems" in shown.stdout


def test_a_plan_is_printed_and_nothing_is_run(invoke: Invoke) -> None:
    result = invoke("plan", "Review this code for problems", "app.py")
    assert result.exit_code == 0, result.stderr
    assert "security-reviewer" in result.stdout
    assert "started" not in result.stderr


def test_a_plan_as_json_has_its_subtasks(invoke: Invoke) -> None:
    plan = json.loads(invoke("plan", "Review this code", "app.py", "--json").stdout)
    assert "security-reviewer" in [item["worker"] for item in plan["subtasks"]]


def test_a_plan_in_a_file_is_run_without_a_planner(
    invoke: Invoke, answer_with: Callable[[FakeLLM], None], tmp_path: Path
) -> None:
    as_json = plan_json(subtask("s1", inputs=["app.py"]), subtask("s2", "writer"))
    as_yaml = """
        tasks:
          - task_id: s1
            task_type: analyst
            description: "Find faults: all of them."
          - {id: s2, worker: writer, objective: Write., depends_on: [s1]}
        """
    for name, text in (("plan.json", as_json), ("plan.yaml", textwrap.dedent(as_yaml))):
        (tmp_path / name).write_text(text)
        answer_with(llm := FakeLLM())
        result = invoke("run", "Do it", "app.py", "--plan", str(tmp_path / name), "--json")
        assert result.exit_code == 0, result.stderr
        assert [item["subtask_id"] for item in json.loads(result.stdout)["subtasks"]] == [
            "s1",
            "s2",
        ]
        assert sorted(llm.callers()) == ["synthesizer", "worker:analyst", "worker:writer"]


def test_a_plan_is_run_from_stdin(invoke: Invoke, answer_with: Callable[[FakeLLM], None]) -> None:
    answer_with(llm := FakeLLM())
    result = invoke("run", "Do it", "--plan", "-", text=plan_json(subtask("s1")))
    assert (result.exit_code, result.stdout) == (0, "done\n"), result.stderr
    assert llm.callers() == ["worker:analyst"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"subtasks": [{"id": "s1"}', "is no plan. It is neither JSON nor YAML: "),
        ("subtasks: [a: b: c]", "is no plan. It is neither JSON nor YAML: "),
        ("no plan at all", "is no plan. "),
        ("", "is no plan. "),
        ("subtasks:\n- id: s1\n  worker: analyst\n", "subtasks.0.objective: Field required."),
        (
            "subtasks:\n- {id: s1, worker: analyst, objectiv: x}\n",
            "subtasks.0.objectiv: there is no such key; did you mean 'objective'?",
        ),
        (
            "subtasks: [{id: s1, worker: poet, objective: x}]",
            "cannot be run. Subtask 's1' names the worker 'poet', which does not exist; ",
        ),
        (
            "subtasks: [{id: s1, worker: analyst, objective: x, inputs: [b.py]}]",
            'Subtask \'s1\' wants the input "b.py", which does not exist; available: "app.py".',
        ),
    ],
)
def test_a_faulty_plan_file_is_refused_with_file_and_field(
    text: str, sentence: str, invoke: Invoke, tmp_path: Path
) -> None:
    (tmp_path / "my.plan").write_text(text)
    result = invoke("run", "Do it", "app.py", "--plan", str(tmp_path / "my.plan"))
    assert result.exit_code == 2
    assert "my.plan" in result.stderr
    assert sentence in " ".join(result.stderr.split())


def test_workers_context_and_constraints_are_chosen_on_the_command_line(
    invoke: Invoke, answer_with: Callable[[FakeLLM], None]
) -> None:
    answer_with(llm := FakeLLM({"planner": plan_json(subtask("s1"), subtask("s2", "writer"))}))
    options = ("--worker", "analyst", "--worker", "writer", "--context", "It is May.")
    options += ("--constraint", "Be brief.", "--constraint", "Name no customer.")
    for command in ("run", "plan"):
        llm.requests.clear()
        result = invoke(command, "Do it", *options)
        assert result.exit_code == 0, result.stderr
        planner = llm.requests[0]
        assert "- **analyst**" in planner.system
        assert "- **researcher**" not in planner.system
        for request in llm.requests:
            assert "It is May." in texts([request])[0]
            assert "- Be brief.\n- Name no customer." in texts([request])[0]
    shown = " ".join(invoke("show", run_id_of(result)).stdout.split())
    assert "context It is May." in shown
    assert "constraints Be brief. Name no customer." in shown
    refused = invoke("run", "Do it", "--worker", "analist")
    assert refused.exit_code == 2
    assert "analist" in refused.stderr


def test_one_worker_may_be_given_a_model_context_and_constraints(
    invoke: Invoke, answer_with: Callable[[FakeLLM], None]
) -> None:
    answer_with(llm := FakeLLM())
    options = ("--model", "haiku", "--context", "It is May.", "--constraint", "Be brief.")
    result = invoke("worker", "analyst", "Think", *options)
    assert result.exit_code == 0, result.stderr
    (request,) = llm.requests
    assert request.model == "haiku"
    assert "It is May." in texts([request])[0]
    assert "- Be brief." in texts([request])[0]


def test_a_plan_and_a_run_are_drawn_as_mermaid_text(
    invoke: Invoke, answer_with: Callable[[FakeLLM], None]
) -> None:
    planned = plan_json(subtask("s1"), subtask("s2", "writer", strategy="vote"))
    answer_with(FakeLLM({"planner": planned, "judge": '{"best": "A", "reasons": "x"}'}))
    drawn = invoke("plan", "Do it", "--graph")
    assert drawn.exit_code == 0, drawn.stderr
    assert drawn.stdout.startswith("flowchart TD\n")
    assert "    class plan done\n" in drawn.stdout
    assert invoke("show", run_id_of(drawn), "--graph").stdout == drawn.stdout
    run_id = run_id_of(invoke("run", "Do it"))
    shown = invoke("show", run_id, "--graph").stdout
    assert 't2[["s2 · writer · succeeded<br/>do s2<br/>vote ' in shown
    assert "    class plan,t1,t2,synthesis,finish done\n" in shown
    for arguments in (("plan", "Do it"), ("show", run_id)):
        refused = invoke(*arguments, "--graph", "--json")
        assert refused.exit_code == 2
        assert "not with --json" in refused.stderr


def test_one_worker_does_one_subtask(invoke: Invoke) -> None:
    result = invoke("worker", "security-reviewer", "Find injection faults", "app.py")
    assert result.exit_code == 0, result.stderr
    assert "S608" in result.stdout
    assert "succeeded · 1 subtask" in result.stderr


def test_a_file_that_is_named_may_be_outside_the_working_directory(
    invoke: Invoke, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere.py").write_text(Path("app.py").read_text())
    result = invoke("worker", "security-reviewer", "Review", str(tmp_path / "elsewhere.py"))
    assert result.exit_code == 0, result.stderr
    assert "elsewhere.py" in result.stdout


def test_an_output_schema_reaches_the_model(
    invoke: Invoke, answer_with: Callable[[FakeLLM], None], tmp_path: Path
) -> None:
    schema = {"type": "object", "properties": {"faults": {"type": "integer"}}}
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    answer_with(FakeLLM(default='{"faults": 1}'))
    result = invoke("worker", "analyst", "Count", "--output-schema", str(tmp_path / "schema.json"))
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) == {"faults": 1}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", " "], "task is empty"),
        (["run", "Review", "none.py"], "none.py"),
        (["run", "Review", "~nobody-of-that-name/x.py"], "x.py"),
        (["worker", "security-reviwer", "Review"], "Available workers: "),
        (["run", "Review", "--max-subtasks", "0"], "max_subtasks"),
        (["run", "Review", "--workers-dir", "none"], "none"),
        (["run", "Review", "--output-schema", "app.py"], "app.py is no JSON object"),
        (["show", "r-none"], "concertmaster runs"),
        (["show", "r-none", "--trace"], "concertmaster runs"),
        (["show", "r-none", "--subtask", "s1"], "concertmaster runs"),
        (["show", "r-none", "--content"], "give --trace too"),
        (["cancel", "r-none"], "concertmaster runs"),
        (["runs", "--limit", "0"], "--limit"),
        (["rum", "Review"], "No such command 'rum'"),
    ],
)
def test_wrong_use_ends_with_2_and_a_sentence(
    arguments: Sequence[str], sentence: str, invoke: Invoke
) -> None:
    result = invoke(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr


def test_a_shell_completes_subcommands_and_their_flags_but_none_of_unknown_ones() -> None:
    def completions(*words: str) -> str:
        env = {
            "_CONCERTMASTER_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(("concertmaster", *words)),
            "COMP_CWORD": str(len(words)),
        }
        return CliRunner().invoke(cli, env=env, prog_name="concertmaster").stdout

    assert "plain,workers" in completions("work")
    assert "plain,--prompts-dir" in completions("workers", "--p")
    assert completions("rum", "--p").strip() == ""


def test_streams_that_cannot_be_set_up_are_used_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["concertmaster", "--version"])
    with redirect_stdout(io.StringIO()) as told, pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert told.getvalue() == f"concertmaster, version {__version__}\n"


def test_a_malformed_setting_ends_with_2(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONCERTMASTER_SLOTS", "many")
    result = invoke("runs")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: CONCERTMASTER_SLOTS: ")


def test_a_variable_that_is_no_setting_is_warned_of(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONCERTMASTER_SLOT", "4")
    result = invoke("runs")
    assert result.exit_code == 0
    assert "Warning: The environment variable CONCERTMASTER_SLOT is no setting" in result.stderr


def test_a_model_that_is_asked_for_without_a_key_fails_with_what_to_set(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONCERTMASTER_MODEL_WORKER", "haiku")
    result = invoke("worker", "security-reviewer", "Review", "app.py")
    assert result.exit_code == 1
    assert "Set ANTHROPIC_API_KEY" in result.stderr


def test_offline_wins_over_a_model_that_is_asked_for(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONCERTMASTER_MODEL_WORKER", "haiku")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "no-such-key")
    result = invoke("worker", "security-reviewer", "Review", "app.py", "--offline")
    assert result.exit_code == 0, result.stderr


def test_a_run_with_something_missing_ends_with_3_and_says_what(
    invoke: Invoke, answer_with: Callable[[FakeLLM], None]
) -> None:
    plan = plan_json(subtask("s1", "analyst"), subtask("s2", "writer"))
    answer_with(FakeLLM({"planner": plan, "worker:writer": "", "synthesizer": "Half an answer."}))
    result = invoke("run", "Do it")
    assert (result.exit_code, result.stdout) == (3, "Half an answer.\n")
    assert "s2" in result.stderr
    assert re.search(r"^partial · 2 subtasks", result.stderr, re.M)


def test_a_run_whose_workers_all_fail_ends_with_1(
    invoke: Invoke, answer_with: Callable[[FakeLLM], None]
) -> None:
    answer_with(FakeLLM({"planner": plan_json(subtask("s1", "analyst"))}, default=""))
    result = invoke("run", "Do it")
    assert (result.exit_code, result.stdout) == (1, "")
    assert re.search(r"^failed · 1 subtask", result.stderr, re.M)


def test_a_direct_answer_is_printed_without_a_plan(
    invoke: Invoke, answer_with: Callable[[FakeLLM], None]
) -> None:
    answer_with(FakeLLM({"planner": plan_json(direct_answer="Forty-two.")}))
    assert invoke("run", "What is it?").stdout == "Forty-two.\n"
    assert "Forty-two." in invoke("plan", "What is it?").stdout


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@no_signals_on_windows
def test_ctrl_c_cancels_the_run_and_keeps_what_is_finished(
    invoke: Invoke, answer_with: Callable[[FakeLLM], None]
) -> None:
    async def work(request: Request) -> str:
        del request
        press_ctrl_c()
        await anyio.sleep_forever()
        return ""

    answer_with(FakeLLM({"worker:analyst": work}))
    result = invoke("worker", "analyst", "Think")
    assert result.exit_code == 130
    assert f"Stopping. What is finished stays: concertmaster resume {run_id_of(result)}" in (
        result.stderr
    )
    assert re.search(r"^cancelled · 1 subtask", result.stderr, re.M)


@no_signals_on_windows
def test_a_second_ctrl_c_does_not_wait_for_the_run_to_end(
    invoke: Invoke, answer_with: Callable[[FakeLLM], None]
) -> None:
    async def work(request: Request) -> str:
        del request
        press_ctrl_c()
        try:
            await anyio.sleep_forever()
        finally:
            press_ctrl_c()
            with anyio.CancelScope(shield=True):
                await anyio.wait_all_tasks_blocked()
        return ""

    answer_with(FakeLLM({"worker:analyst": work}))
    result = invoke("worker", "analyst", "Think")
    assert result.exit_code == 130
    assert result.stderr.endswith("Interrupted.\n")
    assert "cancelled ·" not in result.stderr


def test_where_no_signals_are_received_a_run_is_followed_all_the_same(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_signals: signal.Signals) -> NoReturn:
        raise NotImplementedError

    monkeypatch.setattr(anyio, "open_signal_receiver", refuse)
    assert invoke("worker", "security-reviewer", "Review", "app.py").exit_code == 0


def test_without_runs_the_list_says_how_to_start_one(invoke: Invoke) -> None:
    result = invoke("runs")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "concertmaster run" in result.stderr
    assert json.loads(invoke("runs", "--json").stdout) == []


def test_runs_are_listed_newest_first(invoke: Invoke) -> None:
    ids = [run_id_of(invoke("plan", f"Plan {number}", "app.py")) for number in range(3)]
    listed = invoke("runs", "--limit", "2")
    assert [name for name in ids if name in listed.stdout] == ids[1:]
    data = json.loads(invoke("runs", "--json").stdout)
    assert [line["run_id"] for line in data] == ids[::-1]


def test_a_run_that_cannot_be_read_is_named_beside_the_list_of_the_others(
    invoke: Invoke, tmp_path: Path
) -> None:
    bad = run_id_of(invoke("plan", "Plan it", "app.py"))
    with closing(sqlite3.connect(tmp_path / "data" / "runs.db")) as database, database:
        database.execute("UPDATE events SET data = '{}'")
    alone = invoke("runs")
    assert (alone.exit_code, alone.stdout) == (0, "")
    assert "There are no runs" not in alone.stderr
    good = run_id_of(invoke("plan", "Plan it", "app.py"))
    listed = invoke("runs", "--json")
    assert [line["run_id"] for line in json.loads(listed.stdout)] == [good]
    assert f"Run {bad} cannot be read" in listed.stderr
    assert listed.exit_code == 0


def test_a_run_can_be_shown_again(invoke: Invoke) -> None:
    answer = invoke("run", "Review this code for problems", "app.py")
    run_id = run_id_of(answer)
    shown = invoke("show", run_id)
    assert shown.exit_code == 0
    text, notice = answer.stdout.strip().rsplit("\n\n", maxsplit=1)
    for part in (run_id, "succeeded", "app.py", "security-reviewer", text):
        assert part in shown.stdout
    data: dict[str, Any] = json.loads(invoke("show", run_id, "--json").stdout)
    assert data["answer"].strip() == text
    assert f"_{data['notice']}_" == notice


def test_a_subtask_can_be_shown_in_full(invoke: Invoke) -> None:
    run_id = run_id_of(invoke("worker", "security-reviewer", "Review", "app.py"))
    result = invoke("show", run_id, "--subtask", "s1")
    assert "S608" in result.stdout
    data = json.loads(invoke("show", run_id, "--subtask", "s1", "--json").stdout)
    assert (data["run_id"], data["subtask_id"], data["worker"]) == (
        run_id,
        "s1",
        "security-reviewer",
    )
    assert "S608" in data["result"]


def test_a_subtask_without_a_result_says_so(
    invoke: Invoke, answer_with: Callable[[FakeLLM], None]
) -> None:
    answer_with(FakeLLM(default=""))
    run_id = run_id_of(invoke("worker", "analyst", "Think"))
    result = invoke("show", run_id, "--subtask", "s1")
    assert result.stdout == "s1 has no text (failed).\n"
    assert "empty" in result.stderr


def test_a_trace_is_a_tree_of_what_happened(invoke: Invoke) -> None:
    run_id = run_id_of(invoke("worker", "security-reviewer", "Review", "app.py"))
    lines = invoke("show", run_id, "--trace").stdout.splitlines()
    assert lines[0].startswith("invoke_workflow")
    assert any("invoke_agent security-reviewer" in line for line in lines)
    span = json.loads(invoke("show", run_id, "--trace", "--json").stdout)
    assert span["kind"] == "run"


def test_in_80_columns_there_is_room_for_what_a_run_and_its_subtasks_are_for(
    run_at: Callable[[str], RunState],
) -> None:
    state = run_at("run/end")
    state.run_id = f"r-{'x' * 22}"
    printed = io.StringIO()
    Console(width=80, file=printed).print(
        runs_table([state]), subtask_table(state.subtasks.values())
    )
    assert "Review this code" in printed.getvalue()
    assert "Find injection faults" in printed.getvalue()


def test_cancelling_a_run_that_is_over_changes_nothing(invoke: Invoke) -> None:
    run_id = run_id_of(invoke("plan", "Plan it", "app.py"))
    result = invoke("cancel", run_id)
    assert result.exit_code == 0
    assert f"{run_id}: succeeded already" in result.stderr
    assert json.loads(invoke("cancel", run_id, "--json").stdout)["status"] == "succeeded"


def worker_file(folder: Path, name: str, header: str = "") -> Path:
    file = folder / f"{name}.md"
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(f"---\nname: {name}\ndescription: Does it.\n{header}---\nDo it.\n")
    return file


def test_a_worker_is_shown_with_examples_of_what_to_ask_of_it(invoke: Invoke) -> None:
    result = invoke("workers", "analyst")
    assert result.exit_code == 0, result.stderr
    assert "Determine from app.log" in result.stdout
    shown = json.loads(invoke("workers", "analyst", "--json").stdout)
    assert shown["name"] == "analyst"
    assert any("Determine from app.log" in example for example in shown["examples"])


def test_a_worker_that_there_is_none_of_cannot_be_shown(invoke: Invoke) -> None:
    result = invoke("workers", "analist")
    assert result.exit_code != 0
    assert "analyst" in result.stderr


def test_workers_are_listed_with_those_of_further_folders(invoke: Invoke, tmp_path: Path) -> None:
    worker_file(tmp_path / "mine", "my-own", "color: red\n")
    overriding = worker_file(tmp_path / "mine", "analyst")
    result = invoke("workers", "--workers-dir", str(tmp_path / "mine"))
    assert result.exit_code == 0, result.stderr
    assert "my-own" in result.stdout
    assert "security-reviewer" in result.stdout
    assert "color" in result.stderr
    assert f"gives way to {overriding}" in result.stderr
    data = json.loads(invoke("workers", "--workers-dir", str(tmp_path / "mine"), "--json").stdout)
    mine = next(item for item in data["workers"] if item["name"] == "my-own")
    assert mine["ignored"] == ["color"]
    assert len(data["overridden"]) == 1


def test_a_worker_that_goes_without_a_tool_is_named(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONCERTMASTER_WEB", "no")
    result = invoke("workers", "--json")
    assert "researcher goes without fetch_url, arxiv_search" in result.stderr
    assert "coder goes without run_tests" in result.stderr
    lacks = {item["name"]: item["lacks"] for item in json.loads(result.stdout)["workers"]}
    assert lacks["researcher"] == ["fetch_url", "arxiv_search"]
    assert lacks["writer"] == []


def test_every_fault_of_worker_files_is_told(invoke: Invoke, tmp_path: Path) -> None:
    worker_file(tmp_path / "mine", "one", "tols: []\n")
    worker_file(tmp_path / "mine", "two", "max_tokens: many\n")
    folders = ("--workers-dir", str(tmp_path / "mine"), "--workers-dir", str(tmp_path / "none"))
    result = invoke("workers", *folders)
    assert result.exit_code == 1
    for part in ("one.md:4", "tols", "two.md:4", str(tmp_path / "none")):
        assert part in result.stderr
    assert len(json.loads(invoke("workers", *folders, "--json").stdout)["errors"]) == 3


def test_the_users_own_workers_and_claude_agents_join_where_they_are_wanted(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker_file(tmp_path / "work" / ".claude" / "agents", "agent")
    worker_file(tmp_path / "config" / "concertmaster" / "workers", "own")
    names = [item["name"] for item in json.loads(invoke("workers", "--json").stdout)["workers"]]
    assert "own" in names
    assert "agent" not in names
    monkeypatch.setenv("CONCERTMASTER_CLAUDE_AGENTS", "1")
    names = [item["name"] for item in json.loads(invoke("workers", "--json").stdout)["workers"]]
    assert "agent" in names


def test_doctor_tells_each_setting_and_where_it_is_from_but_no_secret(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-private")
    monkeypatch.setenv("CONCERTMASTER_SLOTS", "3")
    result = invoke("doctor", "--root", ".")
    assert result.exit_code == 0, result.stdout
    assert re.search(r"^api_key +set +environment ANTHROPIC_API_KEY", result.stdout, re.M)
    assert re.search(r"^slots +3 +environment CONCERTMASTER_SLOTS", result.stdout, re.M)
    assert re.search(r"^base_url +unset +default", result.stdout, re.M)
    assert re.search(r"^claude_agents +no +default", result.stdout, re.M)
    assert re.search(r"^worker_folders +none +default", result.stdout, re.M)
    assert "private" not in result.stdout + result.stderr
    data = json.loads(invoke("doctor", "--json").stdout)
    assert data["settings"]["api_key"] == {
        "value": "set",
        "origin": "environment ANTHROPIC_API_KEY",
    }
    verdicts = {finding["about"]: finding["verdict"] for finding in data["findings"]}
    assert {about for about, verdict in verdicts.items() if verdict != "ok"} == {
        "tool code_execution",
        "tool run_tests",
    }


def findings(result: Result) -> dict[str, str]:
    return {item["about"]: item["verdict"] for item in json.loads(result.stdout)["findings"]}


def test_doctor_has_a_word_on_every_built_in_tool(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONCERTMASTER_TEST_COMMAND", "pytest -q")
    monkeypatch.setenv("CONCERTMASTER_WEB", "no")
    result = json.loads(invoke("doctor", "--json").stdout)
    details = {item["about"]: item["detail"] for item in result["findings"]}
    assert {about for about in details if about.startswith("tool ")} == {
        f"tool {name}" for name in BUILT_IN_TOOLS
    }
    assert details["tool run_tests"] == "pytest -q, with your rights"
    assert details["tool fetch_url"] == "not allowed: web is false"
    assert details["tool python"].startswith("pydantic-monty ")


def test_doctor_finds_a_tool_that_does_not_work(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MONTY_BIN", "/bin/false")
    result = invoke("doctor", "--json")
    assert result.exit_code == 1
    assert findings(result)["tool python"] == "broken"


def test_doctor_notes_that_no_language_model_answers(invoke: Invoke) -> None:
    result = invoke("doctor", "--json")
    assert result.exit_code == 0
    assert findings(result)["model"] == "note"


@pytest.mark.parametrize(
    ("variable", "value", "about"),
    [
        ("CONCERTMASTER_MODEL_PLANNER", "opus", "model"),
        ("CONCERTMASTER_OFFLINE", "no", "model"),
        ("ANTHROPIC_API_KEY", "two words", "model"),
        ("CONCERTMASTER_DATA_FOLDER", "app.py", "data folder"),
        ("CONCERTMASTER_ROOTS", "none", "roots"),
        ("CONCERTMASTER_WORKER_FOLDERS", "none", "workers"),
        ("CONCERTMASTER_JOB_FOLDERS", "none", "jobs"),
        ("CONCERTMASTER_PROMPT_FOLDERS", "none", "prompts"),
    ],
)
def test_doctor_ends_with_1_and_names_what_is_broken(
    variable: str, value: str, about: str, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    result = invoke("doctor", "--json")
    assert result.exit_code == 1
    broken = [name for name, verdict in findings(result).items() if verdict == "broken"]
    assert broken == [about]


def test_the_libraries_that_send_requests_log_neither_them_nor_their_addresses(
    invoke: Invoke, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    assert invoke("workers").exit_code == 0
    for name in ("anthropic._base_client", "httpx2", "httpcore2.http11"):
        assert not logging.getLogger(name).isEnabledFor(logging.INFO)
