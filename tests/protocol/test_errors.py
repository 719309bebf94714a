"""Which failures reach a client's model, and how."""

from pathlib import Path
from typing import Any

import pytest

from clients import ERAS, connected
from concertmaster.errors import StoreError

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("mode", ERAS)]

REFUSALS: dict[str, tuple[str, dict[str, Any], str]] = {
    "unknown run": (
        "get_run",
        {"run_id": "r-9"},
        "No run 'r-9'. Call get_run without run_id, or read runs://recent, to list the runs "
        "there are.",
    ),
    "unknown worker": (
        "run_worker",
        {"worker": "poet", "task": "write"},
        "No worker named 'poet'. Available workers: analyst, critic, writer.",
    ),
    "a subtask of no run": (
        "get_run",
        {"subtask_id": "s1"},
        "subtask_id needs the run_id of the run that has the subtask.",
    ),
    "missing argument": (
        "run_worker",
        {"worker": "analyst"},
        "run_worker was called wrongly. task: this argument is required.",
    ),
    "misspelt parameter": (
        "run_worker",
        {"worker": "analyst", "task": "x", "input": ["a.py"]},
        "run_worker has no parameter 'input'. Did you mean 'inputs'?",
    ),
    "parameter of no tool": (
        "cancel_run",
        {"run_id": "r-1", "colour": "red"},
        "cancel_run has no parameter 'colour'. Known: run_id.",
    ),
    "wrong types": (
        "run_orchestration",
        {"task": "x", "max_subtasks": "many", "wait_seconds": 4000},
        "run_orchestration was called wrongly. max_subtasks: Input should be a valid integer, "
        "unable to parse string as an integer. wait_seconds: Input should be less than or equal "
        "to 3600.",
    ),
    "strange inputs": (
        "plan_task",
        {"task": "x", "inputs": [{"file": "a.py"}]},
        "plan_task was called wrongly. inputs: each input is a path, folder, glob or URI as text, "
        'or {"name": …, "text": …}.',
    ),
    "an input that is a number": (
        "plan_task",
        {"task": "x", "inputs": 5},
        "plan_task was called wrongly. inputs: each input is a path, folder, glob or URI as text, "
        'or {"name": …, "text": …}.',
    ),
    "a text without a name": (
        "plan_task",
        {"task": "x", "inputs": ["a.py", {"name": "", "text": "y"}]},
        "plan_task was called wrongly. inputs.1.document.name: String should have at least 1 "
        "character.",
    ),
    "malformed plan": (
        "run_orchestration",
        {"task": "x", "plan": {"subtasks": [{"id": "s1", "worker": "analyst"}]}},
        "run_orchestration was called wrongly. plan.subtasks.0.objective: this argument is "
        "required.",
    ),
}


@pytest.mark.parametrize(("tool", "arguments", "sentence"), REFUSALS.values(), ids=REFUSALS)
async def test_a_wrong_call_is_answered_with_a_sentence(
    tool: str, arguments: dict[str, Any], sentence: str, mode: str, tmp_path: Path
) -> None:
    async with connected(tmp_path, mode=mode) as connection:
        assert await connection.refusal(tool, **arguments) == sentence
        assert connection.llm.requests == []


@pytest.mark.parametrize(
    ("tool", "arguments", "end"),
    [
        ("run_worker", {"worker": "n" * 1_000_000, "task": "x"}, "analyst, critic, writer."),
        ("cancel_run", {"run_id": "r" * 1_000_000}, "to list the runs there are."),
        ("cancel_run", {"n" * 1_000_000: 1}, "Known: run_id."),
        ("plan_task", {"task": "x", "inputs": ["n" * 1_000_000]}, ""),
        ("n" * 1_000_000, {}, ""),
    ],
)
async def test_a_refusal_that_quotes_too_much_is_cut_and_keeps_what_to_do(
    tool: str, arguments: dict[str, Any], end: str, mode: str, tmp_path: Path
) -> None:
    async with connected(tmp_path, mode=mode) as connection:
        sentence = await connection.refusal(tool, **arguments)
    assert len(sentence) < 4_100
    assert "characters…]" in sentence
    assert sentence.endswith(end)


async def test_a_cyclic_plan_is_refused_before_any_work(mode: str, tmp_path: Path) -> None:
    plan = {
        "subtasks": [
            {"id": "s1", "worker": "analyst", "objective": "a", "depends_on": ["s2"]},
            {"id": "s2", "worker": "analyst", "objective": "b", "depends_on": ["s1"]},
        ]
    }
    async with connected(tmp_path, mode=mode) as connection:
        sentence = await connection.refusal("run_orchestration", task="x", plan=plan)
    assert sentence.startswith("The plan cannot be run: The dependencies form a cycle")


async def test_a_store_that_fails_says_so(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail() -> None:
        raise StoreError("The disk is full.")

    async with connected(tmp_path, mode=mode) as connection:
        monkeypatch.setattr(connection.service, "recent", fail)
        assert await connection.refusal("get_run") == "The disk is full."


async def test_a_fault_of_ours_is_logged_and_its_details_are_kept_from_clients(
    mode: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def crash() -> None:
        raise RuntimeError("the secret ingredient")

    async with connected(tmp_path, mode=mode) as connection:
        monkeypatch.setattr(connection.service, "recent", crash)
        sentence = await connection.refusal("get_run")
    assert "secret" not in sentence
    assert "secret" in caplog.text
