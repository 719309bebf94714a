import anyio
import pytest

from building import RecordedRun, drive, setup, worker
from concertmaster.engine.events import CallFailed, ToolCalled
from concertmaster.engine.plan.plan import Plan
from concertmaster.engine.request import RunRequest
from concertmaster.errors import ModelReplyError, ModelUnavailableError, ToolCallError
from concertmaster.llm.messages import AssistantMessage, Reply, Request, ToolMessage
from fakes import FakeLLM, FakeTool, in_turn, plan_json, reply_with, subtask, wants

pytestmark = pytest.mark.anyio

ONE = RunRequest(task="t", plan=Plan(subtasks=(subtask("s1"),)))


async def test_a_worker_gets_its_instructions_objective_and_expectations() -> None:
    request = RunRequest(
        task="the whole task",
        context="some background",
        constraints=("be brief",),
        plan=Plan(subtasks=(subtask("s1", expects="a list of three"),)),
    )
    _, llm = await drive(request, {})
    text = getattr(llm.requests[0].messages[0], "text", "")
    for part in (
        "You are the analyst.",
        "do s1",
        "a list of three",
        "the whole task",
        "some background",
        "be brief",
    ):
        assert part in text


async def test_all_workers_are_sent_the_same_system_prompt() -> None:
    request = RunRequest(task="t", plan=Plan(subtasks=(subtask("s1"), subtask("s2", "critic"))))
    _, llm = await drive(request, {})
    assert llm.requests[0].system == llm.requests[1].system != ""


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (reply_with(""), "The reply was empty."),
        (reply_with("  \n"), "The reply was empty."),
        (reply_with("half", stop_reason="max_tokens"), "cut after 10 tokens"),
        (reply_with("half", stop_reason="context_full"), "context window"),
        (reply_with("half", stop_reason="pause", detail="later"), "paused"),
        (reply_with("", stop_reason="refusal", detail="not that"), "refused: not that"),
        (reply_with("", stop_reason="refusal"), "The model refused."),
    ],
)
async def test_an_unsatisfying_reply_is_asked_for_once_more_with_the_reason(
    first: Reply, reason: str
) -> None:
    run, llm = await drive(ONE, {"worker:analyst": in_turn(first, "whole")})
    assert run.results["s1"].status == "succeeded"
    assert run.results["s1"].text == "whole"
    assert reason in getattr(llm.requests[1].messages[-1], "text", "")


async def test_a_reply_cut_twice_is_partial_with_the_later_text() -> None:
    cut = [reply_with(text, stop_reason="max_tokens") for text in ("first", "second")]
    run, _ = await drive(ONE, {"worker:analyst": in_turn(*cut)})
    assert (run.results["s1"].status, run.results["s1"].text) == ("partial", "second")
    assert run.end.status == "partial"


async def test_a_cut_reply_followed_by_an_empty_one_keeps_its_text() -> None:
    cut = reply_with("first", stop_reason="max_tokens")
    run, _ = await drive(ONE, {"worker:analyst": in_turn(cut, "")})
    assert (run.results["s1"].status, run.results["s1"].text) == ("partial", "first")


async def test_a_cut_reply_followed_by_a_failure_keeps_its_text_and_both_reasons() -> None:
    cut = reply_with("first", stop_reason="max_tokens")
    run, _ = await drive(ONE, {"worker:analyst": in_turn(cut, ModelUnavailableError("overloaded"))})
    assert (run.results["s1"].status, run.results["s1"].text) == ("partial", "first")
    assert "cut" in run.results["s1"].errors[0]
    assert "overloaded" in run.results["s1"].errors[0]


async def test_a_worker_that_refuses_twice_has_failed() -> None:
    refusal = reply_with("", stop_reason="refusal", detail="not that")
    run, llm = await drive(ONE, {"worker:analyst": refusal})
    assert run.results["s1"].status == "failed"
    assert len(llm.requests) == 2


async def test_text_that_arrived_before_the_connection_broke_is_partial() -> None:
    run, _ = await drive(ONE, {"worker:analyst": ModelReplyError("broken", text="so far")})
    assert (run.results["s1"].status, run.results["s1"].text) == ("partial", "so far")


async def test_what_a_failed_call_cost_is_counted() -> None:
    usage = reply_with("").usage
    run, _ = await drive(ONE, {"worker:analyst": ModelUnavailableError("busy", usage=usage)})
    assert run.results["s1"].usage == usage
    failed = [event for event in run.events if isinstance(event, CallFailed)]
    assert failed[0].usage == usage


async def test_usage_of_all_turns_is_summed() -> None:
    run, _ = await drive(ONE, {"worker:analyst": in_turn("", "whole")})
    assert run.results["s1"].usage.calls == 2
    assert run.results["s1"].usage.tokens_in == 200


SCHEMA = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}


async def test_a_worker_with_an_output_schema_gives_a_value() -> None:
    run, llm = await drive(
        ONE,
        {"worker:analyst": '{"n": 3}'},
        workers=[worker("analyst", output_schema=SCHEMA)],
    )
    assert run.results["s1"].value == {"n": 3}
    assert llm.requests[0].output_schema == SCHEMA


@pytest.mark.parametrize(
    ("text", "reason"), [("three", "no JSON"), ('{"n": "three"}', "$.n"), ("{}", '"n"')]
)
async def test_a_reply_not_of_its_schema_is_retried_and_then_partial(
    text: str, reason: str
) -> None:
    run, llm = await drive(
        ONE, {"worker:analyst": text}, workers=[worker("analyst", output_schema=SCHEMA)]
    )
    assert len(llm.requests) == 2
    assert (run.results["s1"].status, run.results["s1"].text) == ("partial", text)
    assert reason in run.results["s1"].errors[0]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("NaN", "no JSON"),
        ("-Infinity", "no JSON"),
        ("1e999", "no JSON"),
        ('{"n": ' * 101 + "1" + "}" * 101, "more than 100 levels"),
        ("[" * 100_000, "more than 100 levels"),
    ],
)
async def test_what_could_not_be_written_to_the_journal_is_not_taken_for_json(
    value: str, reason: str
) -> None:
    answer = f'{{"n": {value}}}'
    run, _ = await drive(
        ONE,
        {"worker:analyst": answer},
        workers=[worker("analyst", output_schema={"type": "object"})],
    )
    assert (run.results["s1"].status, run.results["s1"].value) == ("partial", None)
    assert reason in run.results["s1"].errors[0]


async def test_a_value_has_whole_characters() -> None:
    run, _ = await drive(
        ONE,
        {"worker:analyst": r'{"half \udc00": "\ud83d\ude00 \ud83d"}'},
        workers=[worker("analyst", output_schema={"type": "object"})],
    )
    assert run.results["s1"].value == {"half \ufffd": "\N{GRINNING FACE} \ufffd"}


async def test_a_pattern_takes_no_longer_over_a_reply_that_nearly_matches() -> None:
    schema = {"type": "object", "properties": {"a": {"pattern": "^(a+)+$"}}}
    run, _ = await drive(
        ONE,
        {"worker:analyst": f'{{"a": "{"a" * 5000}!"}}'},
        workers=[worker("analyst", output_schema=schema)],
    )
    assert run.results["s1"].status == "partial"


async def test_a_reply_that_cannot_be_checked_is_kept_with_the_reason() -> None:
    schema = {"type": "object", "$ref": "#/$defs/nowhere"}
    run, _ = await drive(
        ONE, {"worker:analyst": "{}"}, workers=[worker("analyst", output_schema=schema)]
    )
    assert (run.results["s1"].status, run.results["s1"].text) == ("partial", "{}")
    assert "'/$defs/nowhere' does not exist" in run.results["s1"].errors[0]


async def test_a_schema_that_refers_to_itself_asks_for_what_it_says_besides() -> None:
    schema = {"type": "object", "$ref": "#", "required": ["n"]}
    run, _ = await drive(
        ONE, {"worker:analyst": '{"n": 3}'}, workers=[worker("analyst", output_schema=schema)]
    )
    assert run.results["s1"].value == {"n": 3}


async def test_only_the_first_few_faults_of_a_value_are_told() -> None:
    schema = {"type": "object", "required": [f"key{n}" for n in range(9)]}
    run, _ = await drive(
        ONE, {"worker:analyst": "{}"}, workers=[worker("analyst", output_schema=schema)]
    )
    assert "and 4 more" in run.results["s1"].errors[0]


async def test_a_worker_run_takes_the_schema_that_was_asked_for() -> None:
    request = ONE.model_copy(update={"kind": "worker", "output_schema": SCHEMA})
    run, _ = await drive(request, {"worker:analyst": '{"n": 3}'})
    assert run.end.value == {"n": 3}


async def test_tools_that_a_worker_asks_for_are_called_and_their_outcomes_go_back() -> None:
    tool = FakeTool("look", lambda arguments, _scope: f"saw {arguments['at']}")
    run, llm = await drive(
        ONE,
        {"worker:analyst": in_turn(wants(("look", {"at": "a"}), ("look", {"at": "b"})), "whole")},
        workers=[worker("analyst", tools=("look",))],
        tools=[tool],
    )
    assert run.results["s1"].text == "whole"
    message = llm.requests[1].messages[-1]
    assert isinstance(message, ToolMessage)
    assert [(item.id, item.text) for item in message.outcomes] == [
        ("call-1", "saw a"),
        ("call-2", "saw b"),
    ]
    called = {event.name for event in run.events if isinstance(event, ToolCalled)}
    assert called == {"subtask/s1/tool/1.1", "subtask/s1/tool/1.2"}


async def test_what_a_provider_needs_back_with_tool_outcomes_goes_back_unchanged() -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    asked = wants(("look", {})).model_copy(update={"native": (thought,)})
    _, llm = await drive(
        ONE,
        {"worker:analyst": in_turn(asked, "whole")},
        workers=[worker("analyst", tools=("look",))],
        tools=[FakeTool("look", lambda _arguments, _scope: "seen")],
    )
    message = llm.requests[1].messages[1]
    assert isinstance(message, AssistantMessage)
    assert message.native == (thought,)


async def test_tools_of_one_turn_run_at_the_same_time() -> None:
    both = anyio.Event()
    started: list[object] = []

    async def wait_for_the_other(arguments: object, _scope: object) -> str:
        started.append(arguments)
        if len(started) == 2:
            both.set()
        await both.wait()
        return "done"

    with anyio.fail_after(60):
        await drive(
            ONE,
            {"worker:analyst": in_turn(wants(("look", {}), ("look", {})), "whole")},
            workers=[worker("analyst", tools=("look",))],
            tools=[FakeTool("look", wait_for_the_other)],
        )
    assert len(started) == 2


async def test_a_tool_that_was_called_before_a_restart_is_not_called_again() -> None:
    tool = FakeTool("look", lambda _arguments, _scope: "seen")
    workers = [worker("analyst", tools=("look",))]
    script = {"worker:analyst": in_turn(wants(("look", {})), "whole")}
    whole, _ = await drive(ONE, script, workers=workers, tools=[tool])
    recorded = [event for event in whole.events if not event.name.endswith("result")]
    resumed = RecordedRun(ONE, recorded=recorded)
    await resumed.drive(setup(FakeLLM(), workers=workers, tools=[tool]))
    assert len(tool.calls) == 1
    assert resumed.end.answer == "whole"


async def test_a_tool_that_cannot_do_it_tells_the_worker_why() -> None:
    def refuse(_arguments: object, _scope: object) -> str:
        raise ToolCallError("There is no such file.")

    _, llm = await drive(
        ONE,
        {"worker:analyst": in_turn(wants(("look", {})), "whole")},
        workers=[worker("analyst", tools=("look",))],
        tools=[FakeTool("look", refuse)],
    )
    message = llm.requests[1].messages[-1]
    assert isinstance(message, ToolMessage)
    assert message.outcomes[0].failed
    assert message.outcomes[0].text == "There is no such file."


@pytest.mark.parametrize("name", ["unknown", "hidden"])
async def test_a_tool_that_is_not_the_worker_s_is_not_called(name: str) -> None:
    hidden = FakeTool("hidden", lambda _arguments, _scope: "secret")
    _, llm = await drive(
        ONE,
        {"worker:analyst": in_turn(wants((name, {})), "whole")},
        workers=[worker("analyst", tools=("look",))],
        tools=[hidden, FakeTool("look", lambda _arguments, _scope: "seen")],
    )
    assert hidden.calls == []
    message = llm.requests[1].messages[-1]
    assert isinstance(message, ToolMessage)
    assert "Your tools: look" in message.outcomes[0].text


async def test_a_worker_that_uses_up_its_turns_is_told_to_answer() -> None:
    tool = FakeTool("look", lambda _arguments, _scope: "seen")

    def ask_until_told(request: Request) -> str | Reply:
        last = request.messages[-1]
        told = isinstance(last, ToolMessage) and "no turns left" in last.outcomes[0].text
        return "whole" if told else wants(("look", {}))

    run, _ = await drive(
        ONE,
        {"worker:analyst": ask_until_told},
        workers=[worker("analyst", tools=("look",), max_turns=3)],
        tools=[tool],
    )
    assert run.results["s1"].text == "whole"
    assert len(tool.calls) == 2


async def test_a_worker_that_only_asks_for_tools_fails_in_the_end() -> None:
    run, llm = await drive(
        ONE,
        {"worker:analyst": wants(("look", {}))},
        workers=[worker("analyst", tools=("look",), max_turns=2)],
        tools=[FakeTool("look", lambda _arguments, _scope: "seen")],
    )
    assert run.results["s1"].status == "failed"
    assert len(llm.requests) == 4


async def test_a_tool_call_where_no_tools_are_given_is_answered_with_that() -> None:
    answers = in_turn(wants(("look", {})), "because")
    two = plan_json(subtask("s1"), subtask("s2"))
    run, _ = await drive(
        RunRequest(task="t"), {"planner": two, "synthesizer": answers, "worker:analyst": "done"}
    )
    assert run.end.answer == "because"


async def test_a_fault_in_a_tool_fails_its_subtask_and_no_sibling(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def break_down(_arguments: object, _scope: object) -> str:
        raise ZeroDivisionError

    run, _ = await drive(
        RunRequest(task="t", plan=Plan(subtasks=(subtask("s1"), subtask("s2", "critic")))),
        {"worker:analyst": wants(("look", {}))},
        workers=[worker("analyst", tools=("look",))],
        tools=[FakeTool("look", break_down)],
    )
    assert run.results["s1"].status == "failed"
    assert run.results["s2"].status == "succeeded"
    assert "conversation broke" in caplog.text


async def test_half_a_character_in_a_reply_does_no_harm() -> None:
    run, _ = await drive(ONE, {"worker:analyst": "half \ud800 a character"})
    assert run.results["s1"].text == "half \ufffd a character"
    assert run.end.model_dump_json()
