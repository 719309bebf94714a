"""Subtasks done by revision, by vote and part by part, as MCP clients see them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from clients import hang
from concertmaster.errors import ModelRequestError
from concertmaster.llm.messages import Request
from fakes import Script, plan_json, subtask, texts
from patterns import InFlight, Ran, critique, judging, ran, scores

pytestmark = pytest.mark.anyio

BROKEN = ModelRequestError("The model is gone.")
THREE = [{"worker": name} for name in ("analyst", "critic", "writer")]
CONSENSUS = {"kind": "vote", "decide": "consensus", "voters": THREE}


async def one(
    folder: Path, strategy: Mapping[str, Any], scripts: Mapping[str, Script], **arguments: Any
) -> Ran:
    """Return a run of one subtask, which is done by `strategy`."""
    names = [item["name"] for item in arguments.get("inputs", ())]
    plan = plan_json(subtask("s1", strategy=strategy, inputs=names))
    return await ran(folder, {"planner": plan, **scripts}, **arguments)


def by_number(*answers: str) -> Script:
    """Answer the first call, the second and so on: for callers that ask one after another."""
    left = list(answers)
    return lambda _: left.pop(0)


# Revising


async def test_a_worker_revises_until_its_critic_is_satisfied(tmp_path: Path) -> None:
    scripts = {
        "worker:analyst": by_number("a draft", "the whole"),
        "critic": by_number(critique("Say why."), critique()),
    }
    run = await one(tmp_path, {"kind": "revise", "rounds": 3}, scripts)
    assert run.steps == [
        "plan/call/1",
        "subtask/s1/call/1",
        "subtask/s1/critique/1/call/1",
        "subtask/s1/call/2",
        "subtask/s1/critique/2/call/1",
    ]
    assert (run.reply["status"], run.reply["answer"]) == ("succeeded", "the whole")
    assert run.reply["subtasks"][0]["strategy"] == "revise up to 3"
    assert run.results["s1"]["notes"] == ["A critic read it; it was revised once."]


async def test_a_critic_that_is_never_satisfied_leaves_its_points(tmp_path: Path) -> None:
    run = await one(tmp_path, {"kind": "revise", "rounds": 2}, {"critic": critique("Say why.")})
    assert run.calls == {"planner": 1, "worker:analyst": 3, "critic": 3}
    assert (run.reply["status"], run.statuses) == ("partial", ["partial"])
    assert "The critic objects: Say why." in run.reply["reasons"][0]


async def test_the_critic_is_the_worker_that_the_plan_names(tmp_path: Path) -> None:
    run = await one(tmp_path, {"kind": "revise", "critic": "writer"}, {"critic": critique()})
    (request,) = [item for item in run.llm.requests if item.caller == "critic"]
    assert "You are the writer." in request.system + texts([request])[0]


async def test_a_critic_that_objects_without_a_point_is_told(tmp_path: Path) -> None:
    objection = json.dumps({"points": [], "satisfactory": False})
    run = await one(tmp_path, {"kind": "revise"}, {"critic": objection})
    assert (run.reply["status"], run.reply["answer"]) == ("partial", "done")
    assert "The critic was not satisfied and gave no points." in run.reply["reasons"][0]


async def test_a_result_without_a_critic_is_kept_and_told(tmp_path: Path) -> None:
    run = await one(tmp_path, {"kind": "revise"}, {"critic": BROKEN})
    assert (run.reply["status"], run.reply["answer"]) == ("partial", "done")
    assert "No critic could judge it: The model is gone." in run.reply["reasons"][0]


async def test_the_last_result_stays_when_no_revision_comes(tmp_path: Path) -> None:
    answers: list[Any] = ["a draft", BROKEN]
    scripts: dict[str, Script] = {
        "worker:analyst": lambda _: answers.pop(0),
        "critic": critique("Say why."),
    }
    run = await one(tmp_path, {"kind": "revise"}, scripts)
    assert (run.reply["status"], run.reply["answer"]) == ("partial", "a draft")
    (error,) = run.results["s1"]["errors"]
    assert error == ("The critic objects: Say why. No revision came: The model is gone.")


# Voting


async def test_answers_are_given_at_the_same_time_and_a_judge_takes_one(tmp_path: Path) -> None:
    vote = InFlight(3, lambda request: f"by {request.caller}")
    scripts: dict[str, Script] = {f"worker:{item['worker']}": vote for item in THREE}
    scripts["judge"] = judging("by worker:critic")
    run = await one(tmp_path, {"kind": "vote", "decide": "judge", "voters": THREE}, scripts)
    assert set(run.steps[1:4]) == {f"subtask/s1/answer/{number}/call/1" for number in (1, 2, 3)}
    assert run.steps[4:] == ["subtask/s1/judge/1+2+3/call/1"]
    assert (run.reply["status"], run.reply["answer"]) == ("succeeded", "by worker:critic")
    assert run.results["s1"]["notes"] == ["A judge chose answer 2 of 3: it says most"]


@pytest.mark.parametrize(
    ("broken", "status", "answer", "said"),
    [
        (["worker:critic"], "succeeded", "by worker:writer", "A judge chose answer 3 of 3"),
        (["judge"], "partial", "by worker:analyst", "No judge chose between the answers"),
        (["worker:critic", "worker:writer"], "partial", "by worker:analyst", "There was no vote"),
    ],
)
async def test_a_vote_goes_on_without_what_failed(
    broken: list[str], status: str, answer: str, said: str, tmp_path: Path
) -> None:
    scripts: dict[str, Script] = {
        f"worker:{item['worker']}": f"by worker:{item['worker']}" for item in THREE
    }
    scripts["judge"] = judging("by worker:writer")
    scripts |= dict.fromkeys(broken, BROKEN)
    run = await one(tmp_path, {"kind": "vote", "decide": "judge", "voters": THREE}, scripts)
    assert (run.reply["status"], run.reply["answer"]) == (status, answer)
    result = run.results["s1"]
    assert said in " ".join([*result.get("notes", ()), *result.get("errors", ())])
    if broken == ["worker:critic"]:
        assert result["notes"][1] == "Answer 2 did not count: The model is gone."
    assert len(run.failed) == len(broken)


RUBRIC = {"kind": "vote", "decide": "rubric", "voters": THREE}
CRITERIA = [{"name": "true", "weight": 2}, {"name": "short"}]


def marks(request: Request) -> str:
    """Score the critic's answer highest by what counts most."""
    (text,) = texts([request])
    given = {"true": 9, "short": 1} if "by worker:critic" in text else {"true": 2, "short": 9}
    return scores(**{name: given[name] for name in given if f"- {name}\n" in text + "\n"})


@pytest.mark.parametrize(("separate", "calls"), [(False, 3), (True, 6)])
async def test_answers_are_scored_at_the_same_time_and_the_highest_sum_wins(
    separate: bool, calls: int, tmp_path: Path
) -> None:
    scripts: dict[str, Script] = {
        f"worker:{item['worker']}": f"by worker:{item['worker']}" for item in THREE
    }
    scripts["rubric"] = InFlight(calls, marks)
    strategy = RUBRIC | {"criteria": CRITERIA, "separate_criteria": separate}
    run = await one(tmp_path, strategy, scripts)
    assert run.calls["rubric"] == calls
    assert (run.reply["status"], run.reply["answer"]) == ("succeeded", "by worker:critic")
    (note,) = run.results["s1"]["notes"]
    assert note.startswith("Answer 2 scored highest")
    assert "2: 6.3" in note


async def test_an_answer_that_is_not_scored_does_not_win(tmp_path: Path) -> None:
    def some_marks(request: Request) -> Any:
        return BROKEN if "by worker:critic" in texts([request])[0] else marks(request)

    scripts: dict[str, Script] = {
        f"worker:{item['worker']}": f"by worker:{item['worker']}" for item in THREE
    }
    scripts["rubric"] = some_marks
    run = await one(tmp_path, RUBRIC | {"criteria": CRITERIA}, scripts)
    assert (run.reply["status"], run.reply["answer"]) == ("succeeded", "by worker:analyst")
    assert run.results["s1"]["notes"][1] == "Answer 2 was not scored: The model is gone."


async def test_one_answer_alone_is_no_majority(tmp_path: Path) -> None:
    scripts: dict[str, Script] = {"worker:critic": BROKEN, "worker:writer": BROKEN}
    run = await one(tmp_path, CONSENSUS | {"share": 0.3}, scripts)
    assert (run.reply["status"], run.reply["answer"]) == ("partial", "done")
    assert "There was no vote: 1 of 3 answers came." in run.reply["reasons"][0]


async def test_a_majority_does_not_wait_for_the_last_answer(tmp_path: Path) -> None:
    agreed = InFlight(2, "It is *Four*.")
    scripts: dict[str, Script] = {
        "worker:analyst": agreed,
        "worker:critic": agreed,
        "worker:writer": hang,
    }
    run = await one(tmp_path, CONSENSUS, scripts)
    assert (run.reply["status"], run.reply["answer"]) == ("succeeded", "It is *Four*.")
    assert run.results["s1"]["notes"] == ["Won by a majority of 2 of 3."]
    assert run.failed == ["subtask/s1/answer/3/call/1"]


async def test_a_vote_without_a_majority_says_so(tmp_path: Path) -> None:
    scripts: dict[str, Script] = {
        "worker:analyst": "four",
        "worker:critic": "five",
        "worker:writer": BROKEN,
    }
    run = await one(tmp_path, CONSENSUS, scripts)
    assert run.reply["status"] == "partial"
    (error,) = run.results["s1"]["errors"]
    assert error.startswith("No majority: the most common answer has 1 of 3")


async def test_weights_outvote_heads(tmp_path: Path) -> None:
    voters = [THREE[0] | {"weight": 5}, *THREE[1:]]
    # The heavy voter alone decides, so the others need not answer.
    scripts: dict[str, Script] = {
        "worker:analyst": "four",
        "worker:critic": hang,
        "worker:writer": hang,
    }
    strategy = {"kind": "vote", "decide": "weighted", "voters": voters}
    run = await one(tmp_path, strategy, scripts)
    assert (run.reply["status"], run.reply["answer"]) == ("succeeded", "four")
    assert run.results["s1"]["notes"] == ["Won by a majority of 5 of 7."]


# Parts

INPUTS = [{"name": f"{name}.md", "text": f"# About {name}\n\nIt is {name}."} for name in "abc"]


def of_a_part(request: Request) -> str:
    found = [item["name"] for item in INPUTS if item["text"] in request.shared]
    return f"read {', '.join(found)}"


async def test_each_input_is_a_part_and_all_are_done_at_the_same_time(tmp_path: Path) -> None:
    scripts = {"worker:analyst": InFlight(3, of_a_part)}
    run = await one(tmp_path, {"kind": "map"}, scripts, inputs=INPUTS)
    assert set(run.steps[1:]) == {f"subtask/s1/part/{number}/call/1" for number in (1, 2, 3)}
    assert run.reply["status"] == "succeeded"
    assert run.reply["answer"] == "\n\n".join(f"## {name}.md\n\nread {name}.md" for name in "abc")


async def test_a_part_that_fails_is_named_and_the_others_stay(tmp_path: Path) -> None:
    def some(request: Request) -> Any:
        return BROKEN if "It is b." in request.shared else of_a_part(request)

    run = await one(tmp_path, {"kind": "map"}, {"worker:analyst": some}, inputs=INPUTS)
    assert (run.reply["status"], run.statuses) == ("partial", ["partial"])
    assert '"b.md" failed: The model is gone.' in run.reply["reasons"][0]
    assert "read c.md" in run.reply["answer"]


async def test_sections_are_parts(tmp_path: Path) -> None:
    chapter = "It goes on and on. " * 15
    book = {"name": "book.md", "text": f"# One\n\n{chapter}\n\n# Two\n\n{chapter}\n"}
    strategy = {"kind": "map", "over": "sections", "section_tokens": 100}
    run = await one(tmp_path, strategy, {"worker:analyst": InFlight(2)}, inputs=[book])
    assert run.calls["worker:analyst"] == 2
    assert "## book.md, section 2 of 2" in run.reply["answer"]


async def test_contexts_are_parts_with_all_of_the_inputs(tmp_path: Path) -> None:
    contexts = [{"language": "de"}, {"language": "fr"}]
    strategy = {"kind": "map", "over": "contexts", "contexts": contexts}
    scripts = {"worker:analyst": InFlight(2, of_a_part)}
    run = await one(tmp_path, strategy, scripts, inputs=INPUTS)
    assert run.reply["answer"].count("read a.md, b.md, c.md") == 2
    assert "## language: de" in run.reply["answer"]
    told = texts([item for item in run.llm.requests if item.caller == "worker:analyst"])
    assert sorted("language: de" in text for text in told) == [False, True]


@pytest.mark.parametrize(
    "strategy",
    [
        {"kind": "revise"},
        {"kind": "vote", "decide": "judge", "voters": THREE},
        {"kind": "vote", "decide": "consensus", "answers": 3},
        {"kind": "map"},
    ],
)
async def test_the_answer_of_any_strategy_can_have_a_schema(
    strategy: Mapping[str, Any], tmp_path: Path
) -> None:
    schema = {"type": "object", "properties": {"count": {"type": "integer"}}}
    scripts: dict[str, Script] = {
        "critic": critique(),
        "judge": judging("done"),
        "synthesizer": json.dumps({"count": 3}),
    }
    run = await one(tmp_path, strategy, scripts, inputs=INPUTS, output_schema=schema)
    assert (run.reply["status"], run.reply["value"]) == ("succeeded", {"count": 3})
    assert run.steps[-1] == "synthesis/call/1"


async def test_a_later_subtask_reads_what_a_vote_and_its_parts_came_to(tmp_path: Path) -> None:
    plan = plan_json(
        subtask("s1", "critic", strategy={"kind": "vote", "decide": "consensus", "answers": 3}),
        subtask("s2", "analyst", strategy={"kind": "map"}, inputs=["a.md", "b.md"]),
        subtask("s3", "writer", depends_on=["s1", "s2"]),
    )
    # Three voters and two parts at work at once.
    at_once = InFlight(5, lambda request: f"by {request.caller}")
    scripts: dict[str, Script] = {
        "planner": plan,
        "worker:critic": at_once,
        "worker:analyst": at_once,
    }
    run = await ran(tmp_path, scripts, inputs=INPUTS)
    assert run.statuses == ["succeeded"] * 3
    (told,) = texts([item for item in run.llm.requests if item.caller == "worker:writer"])
    assert "by worker:critic" in told
    assert told.count("by worker:analyst") == 2
