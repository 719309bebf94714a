"""Workers that report whether their objective was met."""

import json
from typing import Any

import pytest

from building import RecordedRun, drive, setup, worker
from concertmaster.engine.plan.plan import Plan
from concertmaster.engine.request import RunRequest
from concertmaster.errors import ModelReplyError
from concertmaster.llm.anthropic import AnthropicLLM
from concertmaster.llm.messages import Request
from concertmaster.llm.outcomes import Report, read_report, with_report
from concertmaster.llm.structured import schema_errors
from fakes import Script, in_turn, reply_with, subtask, texts
from scripted_anthropic import Provider, connected, stream, whole

pytestmark = pytest.mark.anyio

ONE = RunRequest(task="t", plan=Plan(subtasks=(subtask("s1"),)))
TWO = RunRequest(task="t", plan=Plan(subtasks=(subtask("s1"), subtask("s2", "critic"))))
SCHEMA = {
    "type": "object",
    "required": ["n"],
    "properties": {"n": {"type": "integer"}},
    "additionalProperties": False,
}
TYPED = [worker("analyst", output_schema=SCHEMA)]


def by(strategy: dict[str, Any], **fields: Any) -> RunRequest:
    return RunRequest(task="t", plan=Plan(subtasks=(subtask("s1", strategy=strategy, **fields),)))


def wrapped(result: object, outcome: str = "met", reason: str = "") -> str:
    return json.dumps({"result": result, "outcome": outcome, "reason": reason})


@pytest.mark.parametrize(
    "line",
    [
        "Not done: no file was given.",
        "not done: no file was given.",
        "NOT DONE: no file was given.",
        "**Not done**: no file was given.",
        "**Not done:** no file was given.",
        "**Not done: no file was given.**",
        "__Not done:__ no file was given.",
        "## Not done: no file was given.",
        "> Not done: no file was given.",
        "Not done - no file was given.",
        "Not done \u2014 no file was given.",
        "Not done. no file was given.",
        "Not done:\nno file was given.",
        "Not done\n\nno file was given.",
        "Outcome: not done: no file was given.",
        "**Outcome**: not met. no file was given.",
        "Objective not met: no file was given.",
        "The objective was not met: no file was given.",
        "\n\nNot done: no file was given.",
    ],
)
def test_the_first_line_is_understood_in_the_spellings_of_models(line: str) -> None:
    report, rest = read_report(f"{line.strip()}\n\nWhat is known: A.", None)
    assert report == Report("not_met", "no file was given.")
    assert rest == "What is known: A."


@pytest.mark.parametrize(
    "line",
    [
        "Partly done: the log ends early.",
        "**Partly done:** the log ends early.",
        "Partially done: the log ends early.",
        "Only partly done: the log ends early.",
        "Outcome: partly met: the log ends early.",
    ],
)
def test_partly_done_is_understood_as_well(line: str) -> None:
    report, rest = read_report(f"{line}\n\nA.", None)
    assert (report, rest) == (Report("partly_met", "the log ends early."), "A.")


@pytest.mark.parametrize(
    "text",
    [
        "Not done yet are the following: A, B.",
        "Not done, because there was enough without it.",
        "Notdone: A",
        "Not met: clauses 4 and 7.",
        "Done: A, B. Not done: C.",
        "- Not done: C",
        "The work is not done: C is open.",
        "A.\nNot done: C",
        "Partly met by clause 4.",
        "",
    ],
)
def test_an_answer_that_only_sounds_like_a_report_stays_as_it_is(text: str) -> None:
    report, rest = read_report(text, None)
    assert (report.outcome, rest) == ("met", text)


async def test_a_worker_that_reports_not_done_has_failed_with_its_reason() -> None:
    reply = "Not done: no file was given.\n\nThe task names one."
    run, llm = await drive(ONE, {"worker:analyst": reply})
    result = run.results["s1"]
    assert (result.status, result.text) == ("failed", "The task names one.")
    assert "not met: no file was given." in result.errors[0]
    assert (run.end.status, run.end.answer) == ("failed", "The task names one.")
    assert "no file was given." in run.end.reasons[0]
    assert len(llm.requests) == 1


async def test_a_worker_that_reports_partly_done_is_partial_with_its_reason() -> None:
    run, llm = await drive(ONE, {"worker:analyst": "**Partly done**: it ends early.\n\nA."})
    result = run.results["s1"]
    assert (result.status, result.text) == ("partial", "A.")
    assert "in part only: it ends early." in result.errors[0]
    assert (run.end.status, run.end.answer) == ("partial", "A.")
    assert len(llm.requests) == 1


async def test_all_that_a_worker_says_in_the_line_of_its_report_is_kept() -> None:
    run, _ = await drive(ONE, {"worker:analyst": "Partly done: A is 5, B is unknown."})
    result = run.results["s1"]
    assert (result.status, result.text) == ("partial", "A is 5, B is unknown.")


async def test_a_run_whose_workers_all_report_not_done_has_failed() -> None:
    run, _ = await drive(TWO, {"synthesizer": "nothing is known"} | _denying("there is no log."))
    assert run.end.status == "failed"
    assert "s1 (analyst)" in run.end.reasons[0]
    assert "there is no log." in run.end.reasons[0]


async def test_what_workers_established_that_were_not_done_still_makes_an_answer() -> None:
    scripts = _denying("there is no log.\n\nIt is said to be on host A.")
    run, _ = await drive(TWO, {"synthesizer": "Ask for the log on host A."} | scripts)
    assert (run.end.status, run.end.answer) == ("failed", "Ask for the log on host A.")


async def test_the_synthesis_is_told_what_was_not_done_and_why() -> None:
    scripts: dict[str, Script] = {
        "worker:analyst": "Not done: there is no log.\n\nIt is on host A.",
        "worker:critic": "fine",
    }
    run, llm = await drive(TWO, scripts)
    assert run.end.status == "partial"
    (told,) = texts([each for each in llm.requests if each.caller == "synthesizer"])
    assert "It is on host A." in told
    assert "s1 by analyst: failed" in told
    assert "not met: there is no log." in told.split("Gaps")[1]
    assert "Not done:" not in told


async def test_a_subtask_that_needs_all_is_skipped_when_one_reports_not_done() -> None:
    needing = subtask("s2", "critic", depends_on=["s1"], needs_all=True)
    request = RunRequest(task="t", plan=Plan(subtasks=(subtask("s1"), needing)))
    run, llm = await drive(request, {"worker:analyst": "Not done: no.\n\nBut A."})
    assert run.results["s2"].status == "skipped"
    assert "worker:critic" not in llm.callers()


async def test_a_reply_that_is_cut_below_its_report_says_both() -> None:
    cut = reply_with("Partly done: no log.\n\nhalf", stop_reason="max_tokens")
    run, _ = await drive(ONE, {"worker:analyst": cut})
    result = run.results["s1"]
    assert (result.status, result.text) == ("partial", "half")
    assert "cut" in result.errors[0]
    assert "no log." in result.errors[0]


async def test_a_report_that_arrived_before_the_connection_broke_counts() -> None:
    broken = ModelReplyError("broken", text="Not done: no log.\n\nhalf")
    run, _ = await drive(ONE, {"worker:analyst": broken})
    result = run.results["s1"]
    assert (result.status, result.text) == ("failed", "half")
    assert "no log." in result.errors[0]
    assert "broken" in result.errors[0]


@pytest.mark.parametrize(
    ("reply", "status", "value", "text"),
    [
        (wrapped({"n": 3}), "succeeded", {"n": 3}, '{"n": 3}'),
        ('{"n": 3}', "succeeded", {"n": 3}, '{"n": 3}'),
        (wrapped({"n": 3}, "partly_met", "no log"), "partial", {"n": 3}, '{"n": 3}'),
        (wrapped({"n": 3}, "not_met", "no log"), "failed", {"n": 3}, '{"n": 3}'),
        (wrapped(None, "not_met", "no log"), "failed", None, ""),
        ('{"outcome": "not_met", "reason": "no log", "result": null}', "failed", None, ""),
        ('{"result": {"n": 3}, "outcome": "met"}', "succeeded", {"n": 3}, '{"n": 3}'),
        ('Not done: no log\n\n{"n": 3}', "failed", {"n": 3}, '{"n": 3}'),
        ("Not done: no log\n\nAsk host A.", "failed", None, "Ask host A."),
        ('Partly done: no log\n{"n": 3}', "partial", {"n": 3}, '{"n": 3}'),
    ],
)
async def test_a_typed_worker_reports_beside_its_value_which_has_nothing_of_the_report(
    reply: str, status: str, value: object, text: str
) -> None:
    run, llm = await drive(ONE, {"worker:analyst": reply}, workers=TYPED)
    result = run.results["s1"]
    assert (result.status, result.value, result.text) == (status, value, text)
    assert ("no log" in " ".join(result.errors)) == (status != "succeeded")
    assert len(llm.requests) == 1


@pytest.mark.parametrize("first", [wrapped(None), wrapped({"n": "x"}), wrapped({"n": 1, "m": 2})])
async def test_a_wrapped_value_of_another_schema_is_asked_for_once_more(first: str) -> None:
    run, llm = await drive(ONE, {"worker:analyst": in_turn(first, '{"n": 3}')}, workers=TYPED)
    assert run.results["s1"].value == {"n": 3}
    assert len(llm.requests) == 2


async def test_a_wrapped_reply_that_is_cut_shows_the_result_alone() -> None:
    cut = reply_with('{"result": {"n": 3', stop_reason="max_tokens")
    run, _ = await drive(ONE, {"worker:analyst": cut}, workers=TYPED)
    assert (run.results["s1"].status, run.results["s1"].text) == ("partial", '{"n": 3')


LIKE_A_REPORT = {
    "type": "object",
    "required": ["result", "outcome"],
    "properties": {
        "result": {"type": "string"},
        "outcome": {"enum": ["met", "not_met"]},
        "reason": {"type": "string"},
    },
}


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (wrapped("A", "not_met", "of the contract"), "succeeded"),
        (wrapped({"result": "A", "outcome": "not_met"}), "succeeded"),
        (wrapped({"result": "A", "outcome": "met"}, "not_met", "no log"), "failed"),
    ],
)
async def test_a_schema_that_looks_like_a_report_is_not_taken_for_one(
    reply: str, status: str
) -> None:
    workers = [worker("analyst", output_schema=LIKE_A_REPORT)]
    run, _ = await drive(ONE, {"worker:analyst": reply}, workers=workers)
    value = run.results["s1"].value
    assert run.results["s1"].status == status
    assert isinstance(value, dict)
    assert value["result"] == "A"


async def test_a_caller_that_wants_a_value_of_one_worker_gets_nothing_of_the_report() -> None:
    request = RunRequest(
        kind="worker", task="t", plan=Plan(subtasks=(subtask("s1"),)), output_schema=SCHEMA
    )
    reply = wrapped({"n": 3}, "partly_met", "no log")
    run, _ = await drive(request, {"worker:analyst": reply})
    assert (run.end.status, run.end.value, run.end.answer) == ("partial", {"n": 3}, '{"n": 3}')


@pytest.mark.parametrize("reply", ['{"n": 3}', 'Not done: no log.\n\n{"n": 3}', wrapped({"n": 3})])
async def test_only_workers_report(reply: str) -> None:
    request = RunRequest(task="t", plan=TWO.plan, output_schema=SCHEMA)
    run, llm = await drive(request, {"synthesizer": reply})
    assert (run.end.value == {"n": 3}) == (reply == '{"n": 3}')
    reporting = {each.caller for each in llm.requests if each.reports_outcome}
    assert reporting == {"worker:analyst", "worker:critic"}


async def test_a_critic_reads_what_was_not_done_and_the_reason_stays() -> None:
    content = json.dumps({"points": [], "satisfactory": True})
    scripts: dict[str, Script] = {
        "worker:analyst": "Partly done: no log.\n\nA.",
        "critic": content,
    }
    run, llm = await drive(by({"kind": "revise"}), scripts)
    result = run.results["s1"]
    assert (result.status, result.text) == ("partial", "A.")
    assert "no log." in texts(llm.requests[1:])[0]


async def test_a_worker_that_could_do_nothing_is_not_criticised() -> None:
    run, llm = await drive(by({"kind": "revise"}), {"worker:analyst": "Not done: no log."})
    assert run.results["s1"].status == "failed"
    assert llm.callers() == ["worker:analyst"]


async def test_a_revision_that_does_the_rest_leaves_no_reason_behind() -> None:
    objection = json.dumps({"points": ["B is missing"], "satisfactory": False})
    content = json.dumps({"points": [], "satisfactory": True})
    scripts: dict[str, Script] = {
        "worker:analyst": in_turn("Partly done: B is missing.\n\nA.", "A and B."),
        "critic": in_turn(objection, content),
    }
    run, _ = await drive(by({"kind": "revise"}), scripts)
    assert (run.results["s1"].status, run.results["s1"].text) == ("succeeded", "A and B.")
    assert run.results["s1"].errors == ()


async def test_a_revision_that_is_not_done_leaves_the_result_before_it() -> None:
    objection = json.dumps({"points": ["B is missing"], "satisfactory": False})
    scripts: dict[str, Script] = {
        "worker:analyst": in_turn("A.", "Not done: B is unknown."),
        "critic": objection,
    }
    run, _ = await drive(by({"kind": "revise"}), scripts)
    result = run.results["s1"]
    assert (result.status, result.text) == ("partial", "A.")
    assert "B is missing" in result.errors[0]
    assert "B is unknown" in result.errors[0]


VOTERS = [{"worker": "analyst"}, {"worker": "critic"}, {"worker": "writer"}]
DENIAL = "Not done: no log."


@pytest.mark.parametrize("decide", ["consensus", "weighted", "judge", "rubric"])
async def test_a_vote_in_which_most_say_not_done_is_not_done(decide: str) -> None:
    scripts: dict[str, Script] = {
        "worker:analyst": DENIAL,
        "worker:critic": "**Not done**: it is not there.",
        "worker:writer": "A",
    }
    criteria = [{"name": "right", "weight": 1}] if decide == "rubric" else []
    strategy = {"kind": "vote", "decide": decide, "voters": VOTERS, "criteria": criteria}
    run, llm = await drive(by(strategy), scripts)
    result = run.results["s1"]
    assert (result.status, result.text) == ("failed", "")
    assert "not met" in result.errors[0]
    assert run.end.status == "failed"
    assert not {"judge", "rubric"} & set(llm.callers())


async def test_a_voter_that_could_not_do_it_is_outvoted_and_named() -> None:
    scripts: dict[str, Script] = {"worker:analyst": DENIAL}
    strategy = {"kind": "vote", "decide": "consensus", "voters": VOTERS, "share": 0.6}
    run, _ = await drive(by(strategy), {"worker:critic": "A", "worker:writer": "A"} | scripts)
    result = run.results["s1"]
    assert (result.status, result.text) == ("succeeded", "A")


async def test_too_few_that_say_not_done_do_not_hide_the_answers_of_the_others() -> None:
    voters = [*VOTERS, {"worker": "a"}, {"worker": "b"}]
    strategy = {"kind": "vote", "decide": "consensus", "voters": voters}
    scripts: dict[str, Script] = {
        "worker:analyst": DENIAL,
        "worker:critic": DENIAL,
        "worker:writer": "A",
        "worker:a": "B",
        "worker:b": "C",
    }
    run, _ = await drive(by(strategy), scripts, workers=[worker("a"), worker("b")])
    result = run.results["s1"]
    assert (result.status, result.text) == ("partial", "A")
    assert "No majority" in result.errors[0]


async def test_a_part_that_was_not_done_is_named_and_the_others_stand() -> None:
    contexts = [{"locale": "de"}, {"locale": "da"}]

    def translate(request: Request) -> str:
        return "Not done: no Danish." if "da" in getattr(request.brief, "context", "") else "Hallo"

    strategy = {"kind": "map", "over": "contexts", "contexts": contexts}
    run, _ = await drive(by(strategy), {"worker:analyst": translate})
    result = run.results["s1"]
    assert result.status == "partial"
    assert "Hallo" in result.text
    assert '"locale: da" failed: ' in result.errors[0]
    assert "no Danish." in result.errors[0]


async def test_a_map_of_which_no_part_was_done_has_failed_though_there_is_text() -> None:
    contexts = [{"locale": "de"}, {"locale": "da"}]
    strategy = {"kind": "map", "over": "contexts", "contexts": contexts}
    run, _ = await drive(by(strategy), {"worker:analyst": "Not done: no.\n\nAsk A."})
    result = run.results["s1"]
    assert result.status == "failed"
    assert "Ask A." in result.text
    assert run.end.status == "failed"


def test_the_schema_with_a_report_accepts_each_result_and_the_lack_of_one() -> None:
    schema = with_report(SCHEMA)
    for reply in (wrapped({"n": 3}), wrapped(None, "not_met", "no log")):
        assert schema_errors(json.loads(reply), schema) == []
    assert schema_errors(json.loads(wrapped({"n": "x"})), schema)


def test_definitions_of_a_schema_are_found_where_it_is_wrapped() -> None:
    referring = {
        "type": "object",
        "properties": {"part": {"$ref": "#/$defs/part"}},
        "required": ["part"],
        "additionalProperties": False,
        "$defs": {"part": SCHEMA},
    }
    schema = with_report(referring)
    assert (
        schema_errors({"result": {"part": {"n": 3}}, "outcome": "met", "reason": ""}, schema) == []
    )
    assert schema_errors(json.loads(wrapped({"part": {}})), schema)


async def test_a_provider_is_held_to_a_schema_with_a_field_for_the_report() -> None:
    reply = wrapped({"n": 3}, "partly_met", "no log")
    provider = Provider(stream(whole(reply)))
    async with connected(provider) as llm:
        run = await _driven(llm, SCHEMA)
    schema = provider.body["output_config"]["format"]["schema"]
    assert schema["required"] == ["result", "outcome", "reason"]
    assert schema["properties"]["result"]["anyOf"][0]["properties"] == SCHEMA["properties"]
    result = run.results["s1"]
    assert (result.status, result.value) == ("partial", {"n": 3})


async def test_a_schema_that_no_provider_is_held_to_is_sent_as_it_is_with_a_line_above() -> None:
    provider = Provider(stream(whole('Not done: no log.\n\n{"any": 1}')))
    async with connected(provider) as llm:
        run = await _driven(llm, {"type": "object"})
    assert "output_config" not in provider.body
    words = provider.body["messages"][0]["content"][-1]["text"]
    assert '{"type": "object"}' in words
    assert "Not done: " in words
    result = run.results["s1"]
    assert (result.status, result.value) == ("failed", {"any": 1})


async def test_a_report_in_words_arrives_over_a_stream() -> None:
    provider = Provider(stream(whole("Not done: no log.\n\nAsk host A.")))
    async with connected(provider) as llm:
        run = await _driven(llm, None)
    result = run.results["s1"]
    assert (result.status, result.text) == ("failed", "Ask host A.")


async def _driven(llm: AnthropicLLM, schema: dict[str, Any] | None) -> RecordedRun:
    run = RecordedRun(ONE)
    workers = [worker("analyst", output_schema=schema, model="sonnet")]
    await run.drive(setup(llm, workers=workers))
    return run


def _denying(reason: str) -> dict[str, Script]:
    return dict.fromkeys(("worker:analyst", "worker:critic"), f"Not done: {reason}")


def test_a_model_that_reports_nothing_leaves_the_result_untouched() -> None:
    assert read_report("A plain answer.", None) == (Report(), "A plain answer.")
