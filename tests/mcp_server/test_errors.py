"""Which failures reach a client's model, and how."""

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema_rs import Draft202012Validator

from clients import ERAS, connected
from concertmaster.errors import StoreError

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("mode", ERAS)]

FORBIDDING = ("additionalProperties", "minimum", "maximum", "minLength", "maxLength", "pattern")
"""Keywords with which a client's validator would refuse what the server explains better."""

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
    "missing argument": ("run_worker", {"worker": "analyst"}, "task is required."),
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
    "two misspelt parameters": (
        "cancel_run",
        {"run": "r-1", "runid": "r-1", "run_id": 5},
        "cancel_run has no parameter 'run'. Did you mean 'run_id'? "
        "cancel_run has no parameter 'runid'. Did you mean 'run_id'?",
    ),
    "wrong types": (
        "run_orchestration",
        {"task": ["x"], "max_subtasks": "many", "wait_seconds": 4000, "output_schema": "none"},
        'task must be text, not ["x"]. max_subtasks must be a whole number, not "many". '
        'output_schema must be an object, not "none". '
        "wait_seconds must be at most 3600, not 4000.",
    ),
    "values that there are not": (
        "run_orchestration",
        {"task": "x", "mode": "fast", "decomposition": "none", "verify": 1, "approve": "yes"},
        'mode must be "auto", "static" or "adaptive", not "fast". '
        'decomposition must be "constrained", "hybrid" or "dynamic", not "none". '
        'verify must be "none", "report" or "mend", not 1. '
        'approve must be "never", "over_budget" or "always", not "yes".',
    ),
    "out of range": ("get_run", {"offset": -1}, "offset must be at least 0, not -1."),
    "too long": (
        "run_worker",
        {"worker": "analyst", "task": "x", "idempotency_key": "k" * 300},
        "idempotency_key must have at most 200 characters, not 300.",
    ),
    "a long value is quoted in part": (
        "run_worker",
        {"worker": "analyst", "task": "x", "constraints": {"n": "y" * 300}},
        f'constraints must be a list, not {{"n": "{"y" * 52}….',
    ),
    "strange inputs": (
        "plan_task",
        {"task": "x", "inputs": [{"file": "a.py"}]},
        'inputs ([{"file": "a.py"}] was given): each input is a path, folder, glob or URI as '
        'text, or {"name": …, "text": …}.',
    ),
    "an input that is a number": (
        "plan_task",
        {"task": "x", "inputs": 5},
        "inputs (5 was given): each input is a path, folder, glob or URI as text, "
        'or {"name": …, "text": …}.',
    ),
    "a text without a name": (
        "plan_task",
        {"task": "x", "inputs": ["a.py", {"name": "", "text": "y"}]},
        "inputs[1].name must not be empty.",
    ),
    "malformed plan": (
        "run_orchestration",
        {
            "task": "x",
            "plan": {
                "subtasks": [
                    {"id": "s 1", "worker": "analyst", "priority": "urgent"},
                    {
                        "id": "s2",
                        "worker": "critic",
                        "objective": "x",
                        "strategy": {"kind": "vote", "share": 2},
                    },
                ]
            },
        },
        'plan.subtasks[0].id must match ^[A-Za-z][A-Za-z0-9_-]{0,39}$, not "s 1". '
        "plan.subtasks[0].objective is required. "
        'plan.subtasks[0].priority must be "high", "medium" or "low", not "urgent". '
        "plan.subtasks[1].strategy.share must be less than 1, not 2.",
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


async def test_an_optional_argument_that_is_null_counts_as_left_out(
    mode: str, tmp_path: Path
) -> None:
    async with connected(tmp_path, mode=mode) as connection:
        await connection.ask(
            "run_worker", worker="analyst", task="x", context=None, inputs=None, wait_seconds=None
        )
        assert await connection.refusal("run_worker", worker="analyst", task=None) == (
            "task must be text, not null."
        )


async def test_a_client_that_checks_arguments_itself_leaves_other_parameters_to_the_server(
    mode: str, tmp_path: Path
) -> None:
    async with connected(tmp_path, mode=mode) as connection:
        tools = (await connection.client.list_tools()).tools
    for tool in tools:
        validator = Draft202012Validator(tool.input_schema)
        given = dict.fromkeys(tool.input_schema.get("required", []), "x")
        assert validator.is_valid(given | {"colour": "red"})
        texts = json.dumps(tool.input_schema)
        assert [word for word in FORBIDDING if f'"{word}"' in texts] == []


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
