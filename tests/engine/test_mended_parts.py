"""Mending what has been done part by part."""

import json

import pytest

from building import RecordedRun, drive, setup, worker
from concertmaster.engine.events import SubtaskFinished
from concertmaster.engine.plan.plan import Plan
from concertmaster.engine.request import RunRequest
from concertmaster.errors import ModelUnavailableError
from concertmaster.llm.messages import Request, WorkBrief
from fakes import USAGE, Answer, FakeLLM, Script, subtask, texts

pytestmark = pytest.mark.anyio

BUSY = ModelUnavailableError("overloaded", usage=USAGE)
FILES = {"a.py": "ALPHA", "b.py": "BETA"}
REWRITER = worker("rewriter", output_schema={"type": "object"})


def checked(**strategy: object) -> RunRequest:
    mapped = subtask("s1", "rewriter", inputs=list(FILES), strategy={"kind": "map", **strategy})
    return RunRequest(task="t", plan=Plan(subtasks=(mapped, subtask("s2"))), verify="mend")


def found(*subtasks: str, mend: str = "use b") -> str:
    finding = {"what": "a.py and b.py differ", "mend": mend, "severity": "high"}
    return json.dumps({"findings": [finding | {"subtasks": subtasks}]})


def about(request: Request) -> str:
    """Return what a part is: its documents, and what sets it apart."""
    assert isinstance(request.brief, WorkBrief)
    names = "+".join(item.name for item in request.brief.inputs)
    return f"{names} {request.brief.context}".strip()


def mending(request: Request) -> bool:
    return any("has read your result" in getattr(each, "text", "") for each in request.messages)


def work(request: Request) -> str:
    return json.dumps({"of": about(request), "mended": mending(request)})


async def test_each_part_is_mended_by_itself_with_its_own_documents() -> None:
    run, llm = await drive(
        checked(),
        {"worker:rewriter": work, "verifier": found("s1")},
        inputs=FILES,
        workers=[REWRITER],
    )
    result = run.results["s1"]
    assert result.status == run.end.status == "succeeded"
    assert result.value == [{"part": name, "value": {"of": name, "mended": True}} for name in FILES]
    assert result.notes == ("Its worker revised it after the check of all results.",)
    asked = {about(request): request for request in llm.requests if mending(request)}
    assert set(asked) == set(FILES)
    for name, request in asked.items():
        assert [word in request.shared for word in FILES.values()] == [
            word == FILES[name] for word in FILES.values()
        ]
        assert getattr(request.messages[1], "text", "") == json.dumps({"of": name, "mended": False})


async def test_each_part_is_mended_with_the_context_that_sets_it_apart() -> None:
    contexts = [{"locale": "de"}, {"locale": "da"}]
    run, llm = await drive(
        checked(over="contexts", contexts=contexts),
        {"worker:rewriter": work, "verifier": found("s1", mend="Say du. (locale: de)")},
        inputs=FILES,
        workers=[REWRITER],
    )
    assert [about(request) for request in llm.requests if mending(request)] == [
        "a.py+b.py locale: de"
    ]
    assert [part.value for part in run.results["s1"].parts] == [
        {"of": "a.py+b.py locale: de", "mended": True},
        {"of": "a.py+b.py locale: da", "mended": False},
    ]


async def test_a_finding_on_another_subtask_leaves_the_parts_as_they_are() -> None:
    run, _ = await drive(
        checked(),
        {"worker:rewriter": work, "verifier": found("s2")},
        inputs=FILES,
        workers=[REWRITER],
    )
    assert run.end.status == "succeeded"
    assert [part.text for part in run.results["s1"].parts] == [
        json.dumps({"of": name, "mended": False}) for name in FILES
    ]


@pytest.mark.parametrize("failure", [BUSY, "", "no JSON"])
async def test_a_part_that_is_not_mended_stays_as_it_was_and_is_named(failure: Answer) -> None:
    def fail_on_a(request: Request) -> Answer:
        return failure if mending(request) and about(request) == "a.py" else work(request)

    run, _ = await drive(
        checked(),
        {"worker:rewriter": fail_on_a, "verifier": found("s1")},
        inputs=FILES,
        workers=[REWRITER],
    )
    result = run.results["s1"]
    assert result.status == run.end.status == "partial"
    assert result.value == [
        {"part": "a.py", "value": {"of": "a.py", "mended": False}},
        {"part": "b.py", "value": {"of": "b.py", "mended": True}},
    ]
    assert '"a.py" is incomplete: It was not revised after the check' in run.end.reasons[0]
    assert "b.py" not in run.end.reasons[0]


async def test_parts_none_of_which_is_mended_are_not_said_to_be() -> None:
    run, _ = await drive(
        checked(),
        {
            "worker:rewriter": lambda request: BUSY if mending(request) else work(request),
            "verifier": found("s1"),
        },
        inputs=FILES,
        workers=[REWRITER],
    )
    assert run.results["s1"].notes == ()
    assert run.results["s1"].usage.calls == 4


async def test_a_part_that_failed_is_not_tried_again_when_the_others_are_mended() -> None:
    def fail_on_a(request: Request) -> Answer:
        return BUSY if about(request) == "a.py" else work(request)

    run, llm = await drive(
        checked(),
        {"worker:rewriter": fail_on_a, "verifier": found("s1")},
        inputs=FILES,
        workers=[REWRITER],
    )
    assert [about(request) for request in llm.requests if mending(request)] == ["b.py"]
    assert run.results["s1"].status == "partial"
    assert run.end.reasons[0].endswith('"a.py" failed: overloaded')


async def test_what_a_part_lacked_it_still_lacks_when_it_is_mended() -> None:
    def cut(request: Request) -> Answer:
        return work(request) if mending(request) else "no JSON"

    run, _ = await drive(
        checked(),
        {"worker:rewriter": cut, "verifier": found("s1", mend="Change a.py.")},
        inputs=FILES,
        workers=[REWRITER],
    )
    assert [part.problem != "" for part in run.results["s1"].parts] == [True, True]
    assert run.results["s1"].value == [{"part": "a.py", "value": {"of": "a.py", "mended": True}}]


async def test_parts_that_a_resumed_run_cannot_tell_apart_are_not_mended() -> None:
    scripts: dict[str, Script] = {"worker:rewriter": work, "verifier": found("s1")}
    whole, _ = await drive(checked(), scripts, inputs=FILES, workers=[REWRITER])
    recorded = [
        event.model_copy(update={"result": event.result.model_copy(update={"parts": ()})})
        if isinstance(event, SubtaskFinished)
        else event
        for event in whole.events
        if "mend" not in event.name and event.name != "run/end"
    ]
    llm = FakeLLM(scripts)
    resumed = RecordedRun(checked(), inputs=FILES, recorded=recorded)
    end = await resumed.drive(setup(llm, workers=[REWRITER]))
    assert end.status == "partial"
    assert "its parts are not the same any more" in end.reasons[0]
    assert resumed.results["s1"].text == whole.results["s1"].text.replace("true", "false")
    assert not [request for request in llm.requests if mending(request)]


async def test_the_points_that_a_part_is_sent_are_those_that_concern_it() -> None:
    of_a, of_both = json.loads(found("s1", mend="In a.py, call it b.")), json.loads(found("s1"))
    findings = {"findings": [*of_a["findings"], *of_both["findings"]]}
    _, llm = await drive(
        checked(),
        {"worker:rewriter": work, "verifier": json.dumps(findings)},
        inputs=FILES,
        workers=[REWRITER],
    )
    points = {
        about(request): getattr(request.messages[2], "text", "")
        for request in llm.requests
        if mending(request)
    }
    assert all("use b" in text for text in points.values())
    assert ["call it b" in points[name] for name in FILES] == [True, False]
    assert texts(llm.requests[-1:])[0].count("sent back") == 2
