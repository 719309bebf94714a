"""Tools that the provider calls itself: offered, bounded, gone on with, paid for and cited."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import anyio
import pytest
from pydantic import JsonValue

from building import RecordedRun, setup, worker
from concertmaster.engine.conversation import MOST_CONTINUATIONS
from concertmaster.engine.events import (
    CallFailed,
    CallStarted,
    PlanAccepted,
    RunResumed,
    ToolsMissing,
)
from concertmaster.engine.plan.plan import CustomWorker, Plan
from concertmaster.engine.request import Limits, RunRequest
from concertmaster.engine.run import Setup
from concertmaster.errors import ModelRequestError, ServerToolsRefusedError
from concertmaster.llm.messages import AssistantMessage, Reply, Request, ServerTool, Source
from concertmaster.llm.pricing import ModelFacts
from concertmaster.llm.usage import Usage
from concertmaster.tools.registry import Decision, ServedTools
from fakes import USAGE, FakeLLM, FakeTool, Script, in_turn, plan_json, reply_with, subtask, texts
from patterns import critique, finding, findings, screening

pytestmark = pytest.mark.anyio

SEARCH = ServerTool(name="web_search", max_uses=3)
FETCH = ServerTool(name="web_fetch", max_uses=2)
CODE = ServerTool(name="code_execution", max_uses=2)
SERVED = ServedTools(there={tool.name: tool for tool in (SEARCH, FETCH, CODE)})
WEB = ServedTools(there={"web_search": SEARCH, "web_fetch": FETCH})
BLOCK: dict[str, JsonValue] = {"type": "server_tool_use", "id": "srv1", "encrypted": "as it was"}

ONE = RunRequest(task="t", plan=Plan(subtasks=(subtask("s1"),)))
HERE = Source(url="https://here.example", title="Here", cited="It is so.")
THERE = Source(url="https://there.example")


def made_of(
    llm: FakeLLM,
    *tools: FakeTool,
    served: ServedTools = WEB,
    names: Sequence[str] = ("web_search", "web_fetch", "code_execution"),
    policy: Mapping[str, Decision] | None = None,
    **fields: Any,
) -> Setup:
    named = (*names, *(tool.spec.name for tool in tools))
    workers = [worker("analyst", tools=named, **fields)]
    return setup(llm, workers=workers, tools=tools, served=served, policy=policy)


def used(*names: str, error: str = "") -> dict[str, Any]:
    """Return what a reply tells of uses of tools."""
    uses = [
        {"id": f"srv{number}", "name": name, "arguments": {"query": "x"}, "error": error}
        for number, name in enumerate(names)
    ]
    return {"server_tool_uses": uses}


def paused(text: str, *names: str, **fields: Any) -> Reply:
    return reply_with(text, stop_reason="pause", native=(BLOCK,), **(used(*names) | fields))


def offered(request: Request) -> dict[str, int]:
    return {tool.name: tool.max_uses for tool in request.server_tools}


async def ended(
    *answers: str | Reply | Exception, made: Mapping[str, Any] | None = None, **fields: Any
) -> tuple[RecordedRun, FakeLLM]:
    """Take a run of one subtask to its end, whose worker has the provider's tools."""
    llm = FakeLLM({"worker:analyst": in_turn(*answers)})
    recorded = RecordedRun(ONE)
    await recorded.drive(made_of(llm, **{**(made or {}), **fields}))
    return recorded, llm


async def test_a_worker_has_the_tools_that_it_names_and_others_have_none() -> None:
    llm = FakeLLM()
    request = RunRequest(task="t", plan=Plan(subtasks=(subtask("s1"), subtask("s2", "critic"))))
    await RecordedRun(request).drive(made_of(llm, names=["web_search"]))
    by_caller = {request.caller: offered(request) for request in llm.requests}
    assert by_caller == {
        "worker:analyst": {"web_search": 3},
        "worker:critic": {},
        "synthesizer": {},
    }


async def test_a_worker_goes_on_without_what_is_missing_and_the_reason_is_told() -> None:
    served = ServedTools(missing=dict.fromkeys(("web_search", "web_fetch"), "not there"))
    recorded, llm = await ended("whole", served=served)
    assert recorded.end.status == "succeeded"
    assert offered(llm.requests[0]) == {}
    assert recorded.first(ToolsMissing).problems == ("web_search, web_fetch: not there.",)


@pytest.mark.parametrize("decision", ["deny", "ask"])
async def test_a_tool_that_the_policy_rules_out_is_not_offered(decision: Decision) -> None:
    recorded, llm = await ended("whole", policy={"web_search": decision})
    assert offered(llm.requests[0]) == {"web_fetch": 2}
    assert recorded.first(ToolsMissing).problems == ("web_search: not allowed by tool_policy.",)


async def test_a_worker_that_the_planner_wrote_has_only_what_the_operator_names() -> None:
    written = CustomWorker(name="finder", description="d", instructions="i", why="w")
    plan = Plan(subtasks=(subtask("s1", "finder"),), custom_workers=(written,))
    for named, expected in (((), {}), (("web_search",), {"web_search": 3})):
        llm = FakeLLM()
        made = replace(made_of(llm), custom_worker_tools=named)
        await RecordedRun(RunRequest(task="t", plan=plan)).drive(made)
        assert offered(llm.requests[0]) == expected


async def test_nothing_is_looked_for_before_the_guard_lets_the_task_pass() -> None:
    reading, began = anyio.Event(), anyio.Event()

    async def read(_: Request) -> str:
        reading.set()
        await anyio.wait_all_tasks_blocked()
        assert not began.is_set()
        return screening(allowed=True)

    def work(_: Request) -> str:
        began.set()
        return "whole"

    llm = FakeLLM({"guard": read, "worker:analyst": work})
    recorded = RecordedRun(ONE.model_copy(update={"guard": "critic"}))
    with anyio.fail_after(60):
        await recorded.drive(made_of(llm))
    assert reading.is_set()
    assert recorded.end.status == "succeeded"


async def test_a_reply_that_the_provider_pauses_in_is_gone_on_with_as_it_was() -> None:
    recorded, llm = await ended(paused("Let me look."), paused(""), "It is so.")
    assert recorded.end.answer == "Let me look.\n\nIt is so."
    assert [call.name for call in recorded.calls] == [
        "subtask/s1/call/1",
        "subtask/s1/call/2",
        "subtask/s1/call/3",
    ]
    first, *said = llm.requests[-1].messages
    assert first.role == "user"
    assert said == [
        AssistantMessage(text="Let me look.", native=(BLOCK,)),
        AssistantMessage(text="", native=(BLOCK,)),
    ]


async def test_a_json_value_is_taken_from_the_last_part_of_a_reply() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    recorded, _ = await ended(paused("Let me look."), '{"a": 1}', output_schema=schema)
    assert recorded.results["s1"].value == {"a": 1}


async def test_a_reply_is_not_gone_on_with_for_ever() -> None:
    llm = FakeLLM({"worker:analyst": paused("Still looking.")})
    recorded = RecordedRun(ONE)
    await recorded.drive(made_of(llm))
    # Once, and once more when it is asked for again.
    assert len(llm.requests) == 2 * (1 + MOST_CONTINUATIONS)
    result = recorded.results["s1"]
    assert result.status == "partial"
    assert "paused before it had finished" in result.errors[0]


async def test_going_on_with_a_reply_takes_no_turns_from_the_tools() -> None:
    tool = FakeTool("look", lambda _arguments, _scope: "seen")
    wish = reply_with(
        "Now I look.",
        stop_reason="tool_use",
        tool_calls=[{"id": "t1", "name": "look", "arguments": {}}],
    )
    llm = FakeLLM({"worker:analyst": in_turn(paused("Hm."), wish, paused("So"), "it is.")})
    recorded = RecordedRun(ONE)
    await recorded.drive(made_of(llm, tool, max_turns=2))
    assert recorded.end.answer == "So\n\nit is."
    assert len(tool.calls) == 1
    roles = [message.role for message in llm.requests[-1].messages]
    assert roles == ["user", "assistant", "assistant", "tool", "assistant"]


async def test_what_was_said_before_a_pause_is_left_when_nothing_more_comes() -> None:
    recorded, _ = await ended(paused("Half of it."), ModelRequestError("Not today."))
    result = recorded.results["s1"]
    assert (result.status, result.text) == ("partial", "Half of it.")


async def test_what_was_said_beside_a_tool_that_breaks_is_left_with_what_came_before() -> None:
    def broken(_arguments: object, _scope: object) -> str:
        raise RuntimeError

    wish = reply_with(
        "the other half.",
        stop_reason="tool_use",
        tool_calls=[{"id": "t1", "name": "look", "arguments": {}}],
    )
    llm = FakeLLM({"worker:analyst": in_turn(paused("Half of it,"), wish)})
    recorded = RecordedRun(ONE)
    await recorded.drive(made_of(llm, FakeTool("look", broken)))
    assert recorded.results["s1"].text == "Half of it,\n\nthe other half."


async def test_an_answer_that_is_asked_for_again_is_given_back_whole_and_in_words() -> None:
    cut = reply_with("the rest", stop_reason="max_tokens")
    _, llm = await ended(paused("The beginning,"), cut, "whole")
    user, said, again = llm.requests[-1].messages
    assert (user.role, again.role) == ("user", "user")
    assert said == AssistantMessage(text="The beginning,\n\nthe rest")


async def test_a_run_that_was_cut_off_in_a_pause_goes_on_there_and_repeats_nothing() -> None:
    recorded, _ = await ended(paused("One,", "web_search"), paused("two,"), "three.")
    upto = next(n for n, event in enumerate(recorded.events) if event.name.endswith("call/3/start"))
    llm = FakeLLM({"worker:analyst": "drei."})
    resumed = RecordedRun(ONE, recorded=recorded.events[:upto])
    await resumed.drive(made_of(llm))
    assert resumed.end.answer == "One,\n\ntwo,\n\ndrei."
    (request,) = llm.requests
    assert [message.role for message in request.messages] == ["user", "assistant", "assistant"]
    assert offered(request) == {"web_search": 2, "web_fetch": 2}
    assert resumed.results["s1"].usage.calls == 3


async def test_the_bound_on_uses_is_for_all_replies_of_a_conversation() -> None:
    tool = FakeTool("look", lambda _arguments, _scope: "seen")
    wish: dict[str, Any] = {
        "stop_reason": "tool_use",
        "tool_calls": [{"id": "t", "name": "look", "arguments": {}}],
    }
    answers = (
        reply_with("", **wish, **used("web_search", "web_search")),
        reply_with("", **wish, **used("web_search", "web_fetch")),
        "whole",
    )
    llm = FakeLLM({"worker:analyst": in_turn(*answers)})
    await RecordedRun(ONE).drive(made_of(llm, tool))
    assert [offered(request) for request in llm.requests] == [
        {"web_search": 3, "web_fetch": 2},
        {"web_search": 1, "web_fetch": 2},
        {"web_fetch": 1},
    ]


async def test_a_paused_reply_goes_on_with_a_tool_that_is_used_up() -> None:
    _, llm = await ended(paused("", *["web_search"] * 3), "whole")
    assert offered(llm.requests[-1]) == {"web_search": 1, "web_fetch": 2}


async def test_a_tool_that_is_used_up_stays_until_what_came_of_it_is_told() -> None:
    uses = [
        {"id": f"srv{number}", "name": "web_fetch", "arguments": {"url": "x"}, "pending": True}
        for number in range(2)
    ]
    wish: dict[str, Any] = {
        "stop_reason": "tool_use",
        "tool_calls": [{"id": "t", "name": "look", "arguments": {}}],
    }
    answers = (
        reply_with("", server_tool_uses=uses, **wish),
        reply_with("", server_tool_uses=[{"id": "srv0", "name": "web_fetch"}], **wish),
        "whole",
    )
    llm = FakeLLM({"worker:analyst": in_turn(*answers)})
    tool = FakeTool("look", lambda _arguments, _scope: "seen")
    await RecordedRun(ONE).drive(made_of(llm, tool))
    assert [offered(request).get("web_fetch") for request in llm.requests] == [2, 1, None]


async def test_code_goes_on_in_the_container_of_the_reply_before() -> None:
    _, llm = await ended(
        paused("", "code_execution", container="cont_1"), paused(""), "whole", served=SERVED
    )
    assert [request.container for request in llm.requests] == ["", "cont_1", "cont_1"]


async def test_what_replies_cite_is_in_the_result_and_before_the_synthesizer() -> None:
    cited = [
        paused("One", sources=(HERE,)),
        reply_with("and two.", sources=(HERE, THERE), **used("web_fetch", error="url_not_allowed")),
    ]
    llm = FakeLLM({"worker:analyst": in_turn(*cited)})
    request = RunRequest(task="t", plan=Plan(subtasks=(subtask("s1"), subtask("s2", "critic"))))
    recorded = RecordedRun(request)
    await recorded.drive(made_of(llm))
    result = recorded.results["s1"]
    assert result.sources == (HERE, THERE)
    assert result.notes == ("web_fetch failed with url_not_allowed.",)
    read = texts([llm.requests[-1]])[0]
    assert "- Here, https://here.example: “It is so.”\n- https://there.example" in read
    assert recorded.results["s2"].sources == ()


async def test_an_error_that_comes_again_is_told_once() -> None:
    failed = used("web_search", "web_search", error="unavailable")
    recorded, _ = await ended(reply_with("whole", **failed))
    assert recorded.results["s1"].notes == ("web_search failed with unavailable (2 times).",)


async def test_the_parts_of_a_result_cite_together() -> None:
    def answer(request: Request) -> Reply:
        source = HERE if "about a" in request.shared else THERE
        return reply_with("done", sources=(source,))

    llm = FakeLLM({"worker:analyst": answer})
    inputs = {"a": "about a", "b": "about b"}
    mapped = subtask("s1", strategy={"kind": "map"}, inputs=["a", "b"])
    recorded = RecordedRun(RunRequest(task="t", plan=Plan(subtasks=(mapped,))), inputs=inputs)
    await recorded.drive(made_of(llm))
    assert recorded.results["s1"].sources == (HERE, THERE)
    assert [part.sources for part in recorded.results["s1"].parts] == [(HERE,), (THERE,)]


async def test_a_revised_answer_keeps_what_the_first_one_cited() -> None:
    llm = FakeLLM(
        {
            "worker:analyst": in_turn(
                reply_with("first", sources=(HERE,), **used("web_fetch", error="unavailable")),
                "second",
            ),
            "critic": in_turn(critique("Say why."), critique()),
        }
    )
    revised = subtask("s1", strategy={"kind": "revise"})
    recorded = RecordedRun(RunRequest(task="t", plan=Plan(subtasks=(revised,))))
    await recorded.drive(made_of(llm))
    result = recorded.results["s1"]
    assert (result.text, result.sources) == ("second", (HERE,))
    assert result.notes[0] == "web_fetch failed with unavailable."
    assert result.notes[1].startswith("A critic read it")


@pytest.mark.parametrize("strategy", [{"kind": "single"}, {"kind": "map", "over": "contexts"}])
async def test_a_mended_result_keeps_what_it_cited(strategy: dict[str, Any]) -> None:
    if strategy["kind"] == "map":
        strategy = strategy | {"contexts": [{"of": "it"}]}
    llm = FakeLLM(
        {
            "worker:analyst": in_turn(
                reply_with("first", sources=(HERE,)), reply_with("second", sources=(THERE,))
            ),
            "verifier": findings(finding("They differ.", "s1", "s2")),
        }
    )
    first = subtask("s1", strategy=strategy)
    plan = Plan(verify="mend", subtasks=(first, subtask("s2", "critic")))
    recorded = RecordedRun(RunRequest(task="t", plan=plan))
    await recorded.drive(made_of(llm))
    assert "second" in recorded.results["s1"].text
    assert recorded.results["s1"].sources == (HERE, THERE)


async def test_an_answer_without_a_vote_keeps_what_it_cites() -> None:
    answers = in_turn(reply_with("one", sources=(HERE,)), *[ModelRequestError("No.")] * 2)
    llm = FakeLLM({"worker:analyst": answers})
    voted = subtask("s1", strategy={"kind": "vote", "answers": 3})
    recorded = RecordedRun(RunRequest(task="t", plan=Plan(subtasks=(voted,))))
    await recorded.drive(made_of(llm))
    assert recorded.results["s1"].sources == (HERE,)


REFUSED = ServerToolsRefusedError("It does not call tools itself.", usage=Usage())


async def test_a_worker_goes_on_without_what_the_provider_refuses_to_call() -> None:
    recorded, llm = await ended(REFUSED, "whole")
    assert recorded.end.status == "succeeded"
    assert [offered(request) for request in llm.requests] == [{"web_search": 3, "web_fetch": 2}, {}]
    assert recorded.first(ToolsMissing).problems == ("It does not call tools itself.",)
    assert recorded.first(CallFailed).step == "subtask/s1/call/1"


async def test_a_refusal_takes_no_turn_and_is_not_asked_for_twice() -> None:
    tool = FakeTool("look", lambda _arguments, _scope: "seen")
    wish = reply_with(
        "", stop_reason="tool_use", tool_calls=[{"id": "t", "name": "look", "arguments": {}}]
    )
    llm = FakeLLM({"worker:analyst": in_turn(REFUSED, wish, "whole")})
    recorded = RecordedRun(ONE)
    await recorded.drive(made_of(llm, tool, max_turns=2))
    assert (recorded.end.answer, len(tool.calls)) == ("whole", 1)
    assert [bool(request.server_tools) for request in llm.requests] == [True, False, False]


async def test_a_refusal_that_was_come_to_terms_with_is_no_failure_when_a_run_tries_again() -> None:
    cut = reply_with("so far", stop_reason="max_tokens")
    recorded, _ = await ended(REFUSED, cut, cut)
    assert recorded.end.status == "partial"
    llm = FakeLLM({"worker:analyst": "whole"})
    resumption = RunResumed(name="run/resumed/2", at=0, epoch=2, by="test")
    again = RecordedRun(ONE, recorded=[*recorded.events, resumption])
    await again.drive(made_of(llm))
    assert again.end.answer == "whole"


async def test_a_judge_whose_provider_refuses_tools_that_it_never_had_fails_like_any_other() -> (
    None
):
    llm = FakeLLM({"verifier": REFUSED})
    plan = Plan(verify="report", subtasks=(subtask("s1"), subtask("s2", "critic")))
    recorded = RecordedRun(RunRequest(task="t", plan=plan))
    await recorded.drive(made_of(llm))
    assert recorded.end.status == "partial"


# What it costs.

PRICED = ModelFacts(input=0, output=0, web_search=100_000)
"""A hundred dollars a search: nothing else counts beside it."""


def priced(scripts: Mapping[str, Script]) -> FakeLLM:
    llm = FakeLLM(scripts)
    llm.rates = PRICED
    return llm


def found(searches: int) -> Reply:
    usage = USAGE.model_copy(update={"searches": searches, "usd": 100.0 * searches})
    return reply_with("whole", usage=usage)


def asked(usd: float, *names: str) -> RunRequest:
    plan = Plan(subtasks=tuple(subtask(name) for name in names))
    return RunRequest(task="t", plan=plan, limits=Limits(budget_usd=usd), kind="worker")


async def test_a_call_that_could_not_pay_for_all_its_searches_is_not_made() -> None:
    llm = priced({})
    recorded = RecordedRun(asked(299, "s1"))
    await recorded.drive(made_of(llm))
    assert llm.requests == []
    assert recorded.results["s1"].status == "skipped"
    assert "run's budget of 299 USD" in recorded.results["s1"].errors[0]


async def test_searches_are_settled_with_what_was_made_of_them() -> None:
    llm = priced({"worker:analyst": found(1)})
    recorded = RecordedRun(asked(400, "s1", "s2"))
    await recorded.drive(made_of(llm))
    # The second waits for what the first did not use: three each are reserved.
    assert [recorded.results[name].status for name in ("s1", "s2")] == ["succeeded"] * 2
    assert sum(result.usage.searches for result in recorded.results.values()) == 2
    assert recorded.results["s1"].usage.usd == 100


@pytest.mark.parametrize(("cost", "whole"), [(200.0, True), (201.0, False)])
async def test_a_paused_reply_is_gone_on_with_only_as_far_as_the_budget_allows(
    cost: float, whole: bool
) -> None:
    usage = USAGE.model_copy(update={"searches": 2, "usd": cost})
    first = paused("One", "web_search", "web_search", usage=usage)
    llm = priced({"worker:analyst": in_turn(first, "two")})
    recorded = RecordedRun(asked(300, "s1"))
    await recorded.drive(made_of(llm))
    result = recorded.results["s1"]
    assert (result.status, result.text) == (
        ("succeeded", "One\n\ntwo") if whole else ("partial", "One")
    )
    assert len(llm.requests) == 1 + whole


async def test_an_estimate_has_the_searches_of_workers_that_may_make_them() -> None:
    llm = priced({"planner": plan_json(subtask("s1"))})
    recorded = RecordedRun(RunRequest(task="t", limits=Limits(budget_usd=1000)))
    await recorded.drive(made_of(llm))
    estimate = recorded.first(PlanAccepted).estimate
    assert estimate is not None
    assert estimate.usd is not None
    assert (estimate.usd.low, estimate.usd.high) == (100, 300)


async def test_a_watcher_is_told_of_each_part_of_a_paused_reply() -> None:
    recorded, _ = await ended(paused("One"), "two")
    starts = [event.step for event in recorded.events if isinstance(event, CallStarted)]
    assert starts == ["subtask/s1/call/1", "subtask/s1/call/2"]
