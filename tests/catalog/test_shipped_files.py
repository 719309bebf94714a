"""The workers, prompts and jobs that come with Concertmaster."""

import json
import re
from collections.abc import Collection
from pathlib import Path
from string import Template
from typing import Any

import pytest

from concertmaster.catalog.catalog import Catalog, builtin_folder, load_catalog, read_folder
from concertmaster.catalog.prompts import PLACEHOLDERS, PromptName, load_prompts
from concertmaster.engine.conversation import schema_errors
from concertmaster.engine.plan.plan import Plan, Subtask, read_plan
from concertmaster.engine.plan.validation import (
    PlanRules,
    overlaps,
    plan_problems,
    plan_schema,
    subtask_schema,
)
from concertmaster.tools.builtin.defaults import default_tools
from concertmaster.tools.builtin.lint import LintArguments

WORKER_TOOLS = default_tools().names

SETS = {
    "general": {"researcher", "analyst", "writer", "coder", "reviewer", "rewriter", "guard"},
    "code-review": {
        "security-reviewer",
        "performance-reviewer",
        "style-reviewer",
        "test-reviewer",
        "documentation-reviewer",
    },
    "documents": {
        "structure-analyst",
        "obligations-analyst",
        "facts-analyst",
        "implications-analyst",
        "summarizer",
    },
}

PLAN_PROMPT = (builtin_folder("prompts") / "plan.md").read_text(encoding="utf-8")

EXAMPLES = re.findall(r"(?:No inputs|Inputs: (.*))\.\n\n```json\n((?s:.*?))\n```", PLAN_PROMPT)
"""The worked examples: the names of the inputs, and the plan."""

DECISIONS_OF_A_RUN: list[dict[str, Any]] = [
    json.loads(text)
    for text in re.findall(
        r"```json\n((?s:.*?))\n```",
        (builtin_folder("prompts") / "next_step.md").read_text(encoding="utf-8"),
    )
]
"""The worked examples of what to do next: to add, to wait, to finish."""

JUDGEMENTS = {
    "critique": {"points", "satisfactory"},
    "judge": {"reasons", "best"},
    "rubric": {"scores"},
    "verify": {"findings"},
    "guard": {"reason", "allowed"},
}
"""What is in the reply that each prompt asks for."""


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog(builtin_folder("workers"), tools=WORKER_TOOLS)


@pytest.mark.parametrize("folder", SETS)
def test_each_set_has_its_workers(folder: str) -> None:
    reading = read_folder(builtin_folder("workers") / folder, tools=WORKER_TOOLS)
    assert {worker.name for worker in reading.workers} == SETS[folder]
    assert reading.errors == ()


def test_there_are_no_workers_outside_the_sets(catalog: Catalog) -> None:
    assert set(catalog.names) == set().union(*SETS.values())


def test_every_worker_is_in_a_file_of_its_name(catalog: Catalog) -> None:
    assert [worker.file.stem for worker in catalog] == list(catalog.names)


def test_every_worker_says_what_it_is_for_and_not_for_and_what_it_needs(catalog: Catalog) -> None:
    for worker in catalog:
        assert worker.best_for, worker.name
        assert worker.not_for, worker.name
        assert worker.input, worker.name


def test_no_two_workers_are_best_for_the_same(catalog: Catalog) -> None:
    best_for = [phrase for worker in catalog for phrase in worker.best_for]
    assert len(best_for) == len(set(best_for))


def test_nothing_in_a_built_in_worker_is_ignored(catalog: Catalog) -> None:
    assert [worker.ignored for worker in catalog if worker.ignored] == []


def test_every_worker_says_how_it_works_what_it_leaves_to_others_and_its_output(
    catalog: Catalog,
) -> None:
    for worker in catalog:
        headings = re.findall(r"^## (.*)$", worker.instructions, flags=re.MULTILINE)
        assert headings[0] == "How to work", worker.name
        assert headings[-2:] == ["Leave to others", "Output"], worker.name


def test_every_worker_leaves_work_to_workers_that_exist(catalog: Catalog) -> None:
    for worker in catalog:
        section = worker.instructions.partition("## Leave to others")[2].partition("## ")[0]
        named = set(re.findall(r"\b[a-z]+-(?:reviewer|analyst)\b", section))
        assert named <= set(catalog.names) - {worker.name}, worker.name


def test_every_lint_call_that_a_worker_is_told_to_make_is_one_it_can_make(
    catalog: Catalog,
) -> None:
    for worker in catalog:
        calls = re.findall(r"with the rules\s+`(\[.*?\])`", worker.instructions)
        assert ("`lint`" in worker.instructions) == ("lint" in worker.tools), worker.name
        for rules in calls:
            LintArguments(file="a.py", rules=tuple(json.loads(rules)))


def test_every_code_reviewer_shows_findings_in_the_common_form() -> None:
    for name in SETS["code-review"] | {"reviewer"}:
        folder = "general" if name == "reviewer" else "code-review"
        text = (builtin_folder("workers") / folder / f"{name}.md").read_text(encoding="utf-8")
        findings = re.findall(
            r"^- \*\*(critical|high|medium|low)\*\* \S+?:\d+(?:, \d+)* — .+ Fix: .+$",
            text,
            flags=re.MULTILINE,
        )
        assert findings, name
        ranks = ["critical", "high", "medium", "low"]
        assert findings == sorted(findings, key=ranks.index), name


@pytest.mark.parametrize("name", PLACEHOLDERS)
def test_every_placeholder_of_every_prompt_is_filled(name: PromptName) -> None:
    expected = PLACEHOLDERS[name]
    values = {key: f"[value of {key}]" for key in expected.system | expected.user}
    rendered = load_prompts(builtin_folder("prompts")).render(name, **values)
    for part, keys in ((rendered.system, expected.system), (rendered.user, expected.user)):
        assert Template(part).get_identifiers() == []
        assert all(f"[value of {key}]" in part for key in keys)


def test_every_prompt_is_in_a_file_of_its_name() -> None:
    files = builtin_folder("prompts").rglob("*.md")
    assert sorted(file.stem for file in files) == sorted(PLACEHOLDERS)


def test_the_plan_prompt_shows_each_kind_of_plan() -> None:
    plans = [read_plan(text) for _, text in EXAMPLES]
    subtasks = [subtask for plan in plans for subtask in plan.subtasks]
    assert len(plans) == PLAN_PROMPT.count("```json") == 4
    assert any(plan.direct_answer for plan in plans)
    assert any(subtask.depends_on for subtask in subtasks)
    assert {subtask.strategy.kind for subtask in subtasks} == {"single", "revise", "map"}
    assert {plan.mode for plan in plans} == {"static", "adaptive"}


def test_an_example_of_a_plan_has_a_decisive_subtask_only_if_it_is_adaptive() -> None:
    for plan in (read_plan(text) for _, text in EXAMPLES):
        decisive = any(subtask.decisive for subtask in plan.subtasks)
        assert decisive == (plan.mode == "adaptive"), plan.analysis


@pytest.mark.parametrize(("inputs", "text"), EXAMPLES)
def test_every_example_of_the_plan_prompt_can_be_run(
    catalog: Catalog, inputs: str, text: str
) -> None:
    rules = example_rules(catalog, inputs=inputs.split(", ") if inputs else ())
    plan = read_plan(text)
    assert schema_errors(json.loads(text), plan_schema(rules)) == []
    assert plan_problems(plan, rules) == []
    assert overlaps(plan.subtasks) == []


def test_every_example_of_a_plan_has_its_fields_in_the_order_of_the_schema(
    catalog: Catalog,
) -> None:
    rules = example_rules(catalog)
    for _, text in EXAMPLES:
        plan = json.loads(text)
        assert list(plan) == list(plan_schema(rules)["properties"])
        for subtask in plan["subtasks"]:
            assert list(subtask) == list(subtask_schema(rules)["properties"])


def test_the_next_step_prompt_shows_how_to_add_to_wait_and_to_finish() -> None:
    shown = [(bool(reply["add"]), reply["done"]) for reply in DECISIONS_OF_A_RUN]
    assert shown == [(True, False), (False, False), (False, True)]
    assert all(set(reply) == {"reason", "done", "add", "drop"} for reply in DECISIONS_OF_A_RUN)


def test_every_subtask_that_the_next_step_prompt_adds_can_be_run(catalog: Catalog) -> None:
    inputs = ("app.log", "session.py", "cache.py", "proxy.conf")
    rules = example_rules(catalog, inputs=inputs)
    first = Subtask(id="s1", worker="analyst", objective="Determine where to look.")
    for reply in DECISIONS_OF_A_RUN:
        for added in reply["add"]:
            assert schema_errors(added, subtask_schema(rules)) == []
            plan = Plan(subtasks=(first, Subtask.model_validate(added)))
            assert plan_problems(plan, rules) == []


@pytest.mark.parametrize(("name", "keys"), JUDGEMENTS.items(), ids=JUDGEMENTS)
def test_every_prompt_that_asks_for_a_judgement_shows_one(name: str, keys: set[str]) -> None:
    text = (builtin_folder("prompts") / f"{name}.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```json\n((?s:.*?))\n```", text)
    assert set(json.loads(shown)) == keys
    assert all(f"`{key}`" in text for key in keys)


def example_rules(catalog: Catalog, *, inputs: Collection[str] = ()) -> PlanRules:
    return PlanRules(workers=catalog.names, inputs=inputs, max_subtasks=8, custom_workers=1)


@pytest.mark.parametrize(
    "file",
    [
        *builtin_folder("workers").rglob("*.md"),
        *builtin_folder("prompts").rglob("*.md"),
        *builtin_folder("jobs").rglob("*.md"),
    ],
    ids=lambda file: file.stem,
)
def test_every_file_is_tidy(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    assert "\t" not in text
    assert not re.search(r" $", text, flags=re.MULTILINE)


def test_every_worker_has_examples_of_what_to_ask_of_it() -> None:
    for item in load_catalog(builtin_folder("workers"), tools=WORKER_TOOLS):
        assert item.examples, item.name
        assert all(len(example) <= 120 for example in item.examples)
