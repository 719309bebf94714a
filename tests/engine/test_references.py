"""Objectives that speak of results of other subtasks."""

import json
from pathlib import Path
from typing import Any

import pytest

from building import ROOT, drive
from concertmaster.engine.events import CallStarted, PlanAccepted
from concertmaster.engine.plan.plan import Plan, Subtask, read_plan
from concertmaster.engine.plan.validation import overlaps, with_implied_dependencies
from concertmaster.engine.request import RunRequest
from concertmaster.runs.jobs import read_jobs
from fakes import plan_json, subtask

pytestmark = pytest.mark.anyio

FIRST = (
    subtask("s1", "analyst", objective="Find the costs in a.md.", inputs=["a.md"]),
    subtask("s2", "critic", objective="Find the risks in a.md.", inputs=["a.md"]),
)


def third(objective: str, **fields: Any) -> Subtask:
    return subtask("s3", "writer", objective=objective, **fields)


def depending(last: Subtask) -> tuple[tuple[str, ...], int]:
    """Return what the last of three subtasks depends on in the end, and the number of warnings."""
    plan, warnings = with_implied_dependencies(Plan(subtasks=(*FIRST, last)))
    return plan.subtasks[2].depends_on, len(warnings)


@pytest.mark.parametrize(
    "objective",
    [
        "Summarize the findings.",
        "Summarise all the findings in half a page.",
        "Combine the results into one table.",
        "Rank the findings by severity.",
        "Summarize the findings for the management.",
        "Compare the previous results.",
        "Write a letter based on the above findings.",
        "Write a recommendation using the results of the other subtasks.",
        "Merge the findings of the previous workers.",
        "Compare s1 and s2.",
        "Rank what s1 and s2 found by cost.",
        "Write a letter from the result of s1 and the findings of s2.",
        "Use the analyst's findings and the results of the critic for a letter.",
    ],
)
def test_an_objective_that_speaks_of_the_results_of_others_depends_on_them(objective: str) -> None:
    assert depending(third(objective)) == (("s1", "s2"), 1)


@pytest.mark.parametrize(
    ("objective", "found"),
    [
        ("Write a letter based on the findings of s1.", ("s1",)),
        ("Verify the output of s2 against the price list.", ("s2",)),
        ("Use s1 to write the introduction. Leave the risks to s2.", ("s1",)),
    ],
)
def test_only_what_is_spoken_of_is_depended_on(objective: str, found: tuple[str, ...]) -> None:
    assert depending(third(objective)) == (found, 1)


SENSIBLE = [
    "Summarize a.md in half a page.",
    "Summarize the results of the experiment in a.md.",
    "Compare the findings in a.md with those of the year before.",
    "List the terms of payment. Leave the costs to s1 and the risks to s2.",
    "List the duties. What s1 covers is not part of it.",
    "Determine the deadlines; s2 handles the risks separately.",
    "Review the code for security. Performance belongs to s1.",
    "Find the reports that are overdue.",
    "Review the reports on sales for errors of arithmetic.",
    "Write unit tests for the analysis module.",
    "Use the results table from a.md to compute the mean.",
    "Check the S3 bucket policy against the rules.",
    "Compare S1 and S2 grade steel by strength.",
    "Explain how the analyst in the story is compared with the critic.",
    "Evaluate the answer key from 2024.",
    "Determine from the log what precedes the failure.",
    "Write the announcement of version 3 from notes.md.",
    "Rank the three offers by cost over three years.",
    "Draft the customer's letter that ends the contract. Leave the invoices to another worker.",
]


@pytest.mark.parametrize("objective", SENSIBLE)
def test_an_objective_that_can_be_met_without_others_stays_as_it_is(objective: str) -> None:
    assert depending(third(objective, inputs=["a.md"])) == ((), 0)


@pytest.mark.parametrize("objective", ["Compare s1 and s2.", "Summarize the findings."])
def test_what_is_depended_on_already_is_not_spoken_of(objective: str) -> None:
    given = third(objective, depends_on=["s2", "s1"])
    assert depending(given) == (("s2", "s1"), 0)


def test_results_that_may_be_those_in_an_input_are_only_warned_of() -> None:
    assert depending(third("Summarize the findings.", inputs=["a.md"])) == ((), 1)


def test_a_dependency_that_would_close_a_cycle_is_only_warned_of() -> None:
    one = subtask("s1", objective="Check the findings of s2.")
    two = subtask("s2", "critic", objective="Find risks.", depends_on=["s1"])
    plan, warnings = with_implied_dependencies(Plan(subtasks=(one, two)))
    assert plan.subtasks == (one, two)
    assert len(warnings) == 1


async def test_a_run_waits_for_the_results_that_an_objective_speaks_of_and_says_so() -> None:
    planned = plan_json(*FIRST, third("Summarize the findings."))
    run, llm = await drive(RunRequest(task="t"), {"planner": planned}, inputs={"a.md": "text"})
    accepted = run.first(PlanAccepted)
    assert accepted.plan.subtasks[2].depends_on == ("s1", "s2")
    assert "'s3' speaks of the results of 's1', 's2'" in accepted.warnings[0]
    started = [event.caller for event in run.events if isinstance(event, CallStarted)]
    assert started.index("worker:writer") > started.index("worker:critic")
    (asked,) = [each for each in llm.requests if each.caller == "worker:writer"]
    assert "s1 by analyst: succeeded" in getattr(asked.messages[0], "text", "")


TRIO = ("Analyze the code for issues", "Review the code quality", "Check the code for problems")


def test_three_ways_to_ask_for_the_same_are_noticed() -> None:
    three = [subtask(f"s{at}", objective=text) for at, text in enumerate(TRIO, start=1)]
    assert len(overlaps(three)) == 3


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Review the code for security problems.", "Review the code for slow queries."),
        ("Check the code for problems.", "Check the tests for problems."),
        ("Find errors in the dates.", "Find errors in the amounts."),
        ("Write a summary of a.md.", "Write a letter about a.md."),
        ("Review.", "Check."),
        ("List what the buyer must do.", "List what the seller must do."),
    ],
)
def test_subtasks_about_different_things_do_not_seem_the_same(one: str, other: str) -> None:
    assert overlaps([subtask("s1", objective=one), subtask("s2", objective=other)]) == []


def test_the_same_question_before_and_after_a_change_is_asked_twice_on_purpose() -> None:
    before = subtask("s1", objective=TRIO[0])
    after = subtask("s3", objective=TRIO[2], depends_on=["s2"])
    assert overlaps([before, after]) == []


def shipped_plans() -> list[Plan]:
    """Return the plans of the planner's own examples."""
    text = (ROOT / "prompts" / "plan.md").read_text(encoding="utf-8")
    blocks = [part.split("```", 1)[0] for part in text.split("```json\n")[1:]]
    return [read_plan(json.dumps(json.loads(block))) for block in blocks]


@pytest.mark.parametrize("plan", shipped_plans())
def test_no_example_of_the_planner_is_changed_or_warned_of(plan: Plan) -> None:
    assert with_implied_dependencies(plan) == (plan, ())
    assert overlaps(plan.subtasks) == []


@pytest.mark.parametrize("name", sorted(read_jobs(ROOT / "jobs").jobs))
def test_no_ready_made_job_lacks_a_dependency(name: str) -> None:
    made = read_jobs(Path(ROOT / "jobs")).jobs[name]
    arguments = {each.name: each.choices[:1] or ("one", "two") for each in made.arguments}
    plan = made.plan(arguments, ("one", "two"))
    assert with_implied_dependencies(plan) == (plan, ())
