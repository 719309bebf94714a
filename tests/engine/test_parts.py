"""Sectioning: the same worker does the same to each part."""

import json

import anyio
import anyio.lowlevel
import pytest

from building import RecordedRun, drive, setup, worker
from concertmaster.engine.events import CallFinished, CallStarted, Event, SubtaskFinished
from concertmaster.engine.orchestrator import Orchestrator
from concertmaster.engine.plan.plan import MOST_PARTS, Plan
from concertmaster.engine.request import Limits, RunRequest
from concertmaster.engine.run import Run
from concertmaster.engine.steps import Steps
from concertmaster.errors import ModelUnavailableError, StoreError
from concertmaster.llm.messages import Request, WorkBrief
from fakes import USAGE, FakeLLM, FakeTool, Script, reply_with, subtask, wants

pytestmark = pytest.mark.anyio

LOCALES = [{"locale": "de"}, {"locale": "fr"}, {"locale": "it"}]
FILES = {"a.md": "ALPHA", "b.txt": "BETA", "c.txt": "GAMMA"}


def parts(slots: int = 8, **fields: object) -> RunRequest:
    inputs = list(FILES)
    strategy = {"kind": "map"} | fields
    plan = Plan(subtasks=(subtask("s1", inputs=inputs, strategy=strategy),))
    return RunRequest(task="t", plan=plan, limits=Limits(slots=slots))


def brief(request: Request) -> WorkBrief:
    assert isinstance(request.brief, WorkBrief)
    return request.brief


def about(request: Request) -> str:
    """Return what the part is: its documents, and what sets it apart."""
    given = brief(request)
    return f"{'+'.join(item.name for item in given.inputs)} {given.context}".strip()


async def test_each_input_is_a_part_and_results_stand_in_the_order_of_the_parts() -> None:
    run, llm = await drive(parts(), {"worker:analyst": about}, inputs=FILES)
    assert run.results["s1"].text == ("## a.md\n\na.md\n\n## b.txt\n\nb.txt\n\n## c.txt\n\nc.txt")
    assert run.results["s1"].status == "succeeded"
    assert run.results["s1"].usage.calls == 3
    for request in llm.requests:
        assert sum(word in request.shared for word in FILES.values()) == 1


async def test_order_is_that_of_the_parts_though_the_last_ends_first() -> None:
    last = anyio.Event()

    async def backwards(request: Request) -> str:
        if about(request) == "c.txt":
            last.set()
        await last.wait()
        return about(request)

    with anyio.fail_after(60):
        run, _ = await drive(parts(), {"worker:analyst": backwards}, inputs=FILES)
    headings = [line for line in run.results["s1"].text.splitlines() if line.startswith("##")]
    assert headings == ["## a.md", "## b.txt", "## c.txt"]


async def test_each_context_is_a_part_with_all_of_the_inputs() -> None:
    run, _ = await drive(
        parts(over="contexts", contexts=LOCALES), {"worker:analyst": about}, inputs=FILES
    )
    assert run.results["s1"].text.startswith("## locale: de\n\na.md+b.txt+c.txt locale: de")


async def test_a_context_can_be_written_as_a_list_of_pairs() -> None:
    pairs = [[{"key": "locale", "value": "de"}, {"key": "platform", "value": "ios"}]]
    run, _ = await drive(
        parts(over="contexts", contexts=pairs), {"worker:analyst": "done"}, inputs=FILES
    )
    assert run.results["s1"].text == "## locale: de, platform: ios\n\ndone"


@pytest.mark.parametrize(
    "context", [[], {}, [{"key": "a"}], [{"key": "a", "value": "b", "why": "c"}], ["a"], "a"]
)
def test_a_context_that_says_nothing_is_refused(context: object) -> None:
    with pytest.raises(ValueError, match="contexts"):
        parts(over="contexts", contexts=[context])


async def test_sections_are_cut_where_paragraphs_end_and_lose_nothing() -> None:
    paragraphs = [f"Paragraph {number}. " + "word " * 50 for number in range(20)]
    text = "\n\n".join(paragraphs)
    _, llm = await drive(
        parts(over="sections", section_tokens=200), {}, inputs={"a.md": text, "b.txt": text}
    )
    seen = [item.text for request in llm.requests for item in brief(request).inputs]
    assert len(seen) > 8
    assert all(len(item) <= 800 for item in seen)
    assert all(item.startswith("Paragraph") for item in seen)
    assert sorted(" ".join(seen).split()) == sorted(f"{text} {text}".split())


async def test_sections_of_markdown_are_cut_at_its_headings() -> None:
    sections = [f"# Heading {n}\n\n" + "word " * 60 for n in range(3)]
    _, llm = await drive(
        parts(over="sections", section_tokens=100), {}, inputs={"a.md": "\n\n".join(sections)}
    )
    seen = [item.text for request in llm.requests for item in brief(request).inputs]
    firsts = sorted(item.splitlines()[0] for item in seen)
    assert firsts == ["# Heading 0", "# Heading 1", "# Heading 2"]


async def test_inputs_without_text_leave_nothing_to_go_over_and_that_is_said() -> None:
    run, llm = await drive(parts(over="sections"), {}, inputs={"a.md": " \n", "b.txt": ""})
    assert run.results["s1"].status == "failed"
    assert "no text" in run.end.reasons[0]
    assert llm.requests == []


async def test_more_parts_than_a_subtask_may_have_fail_it_before_any_call() -> None:
    contexts = [{"n": str(number)} for number in range(MOST_PARTS + 1)]
    run, llm = await drive(parts(over="contexts", contexts=contexts), {}, inputs=FILES)
    assert "It has 101 parts; one subtask may have 100" in run.end.reasons[0]
    assert llm.requests == []


async def test_as_many_parts_as_a_subtask_may_have_are_all_done() -> None:
    contexts = [{"n": str(number)} for number in range(MOST_PARTS)]
    run, llm = await drive(parts(over="contexts", contexts=contexts, slots=3), {}, inputs=FILES)
    assert run.end.status == "succeeded"
    assert len(llm.requests) == MOST_PARTS


@pytest.mark.parametrize("failing", list(FILES))
@pytest.mark.parametrize("failure", [ModelUnavailableError("overloaded"), ""])
async def test_a_part_that_fails_is_named_with_the_reason_and_leaves_the_others(
    failing: str, failure: str | Exception
) -> None:
    run, _ = await drive(
        parts(),
        {"worker:analyst": lambda request: failure if about(request) == failing else "done"},
        inputs=FILES,
    )
    result = run.results["s1"]
    assert result.status == "partial"
    assert f'"{failing}" failed: ' in result.errors[0]
    reason = "The reply was empty." if failure == "" else "overloaded"
    assert f"## {failing}\n\n(This part failed: {reason})" in result.text
    assert f"(This part failed: {reason})" in run.end.answer
    assert result.text.count("done") == 2


async def test_a_part_that_is_cut_is_called_incomplete() -> None:
    cut = reply_with("so far", stop_reason="max_tokens")
    run, _ = await drive(
        parts(),
        {"worker:analyst": lambda request: cut if about(request) == "b.txt" else "done"},
        inputs=FILES,
    )
    assert run.results["s1"].status == "partial"
    assert '"b.txt" is incomplete: The reply was cut' in run.results["s1"].errors[0]


async def test_when_all_parts_fail_the_subtask_fails_with_every_reason() -> None:
    run, _ = await drive(
        parts(), {"worker:analyst": ModelUnavailableError("overloaded")}, inputs=FILES
    )
    assert run.results["s1"].status == "failed"
    assert run.results["s1"].errors[0].count("failed: overloaded") == 3


async def test_a_fault_in_a_tool_fails_one_part_and_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def break_down(_arguments: object, _scope: object) -> str:
        raise ZeroDivisionError

    run, _ = await drive(
        parts(),
        {
            "worker:analyst": lambda request: (
                wants(("look", {})) if about(request) == "b.txt" else "done"
            )
        },
        inputs=FILES,
        workers=[worker("analyst", tools=("look",))],
        tools=[FakeTool("look", break_down)],
    )
    assert run.results["s1"].status == "partial"
    assert (
        '"b.txt" failed: An internal error ended it: ZeroDivisionError.'
        in (run.results["s1"].errors[0])
    )
    assert "conversation broke" in caplog.text


async def test_values_of_parts_are_listed_with_their_names() -> None:
    schema = {"type": "object", "required": ["n"]}
    run, _ = await drive(
        parts(),
        {
            "worker:analyst": lambda request: (
                "no JSON" if about(request) == "b.txt" else json.dumps({"n": about(request)})
            )
        },
        inputs=FILES,
        workers=[worker("analyst", output_schema=schema)],
    )
    assert run.results["s1"].value == [
        {"part": "a.md", "value": {"n": "a.md"}},
        {"part": "c.txt", "value": {"n": "c.txt"}},
    ]


async def test_parts_are_in_flight_at_the_same_time_but_never_more_than_slots() -> None:
    at_once = most = 0

    async def count(_request: Request) -> str:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await anyio.lowlevel.checkpoint()
        at_once -= 1
        return "done"

    await drive(parts(slots=2), {"worker:analyst": count}, inputs=FILES)
    assert most == 2


async def test_parts_of_important_subtasks_go_before_those_of_others() -> None:
    order: list[str] = []

    async def note(request: Request) -> str:
        order.append(brief(request).objective)
        await anyio.lowlevel.checkpoint()
        return "done"

    plan = Plan(
        subtasks=(
            subtask("low", priority="low", inputs=list(FILES), strategy="map"),
            subtask("high", priority="high", inputs=list(FILES), strategy="map"),
        )
    )
    request = RunRequest(task="t", plan=plan, limits=Limits(slots=1))
    await drive(request, {"worker:analyst": note}, inputs=FILES)
    assert order == ["do high"] * 3 + ["do low"] * 3


SCRIPTS: dict[str, Script] = {"worker:analyst": about}


@pytest.mark.parametrize("stopped_after", range(11))
async def test_parts_taken_up_at_any_event_make_no_finished_call_again(stopped_after: int) -> None:
    whole, _ = await drive(parts(), SCRIPTS, inputs=FILES)
    recorded: list[Event] = whole.events[:stopped_after]
    finished = sum(isinstance(event, CallFinished) for event in recorded)
    llm = FakeLLM(SCRIPTS)
    resumed = RecordedRun(parts(), inputs=FILES, recorded=recorded)
    end = await resumed.drive(setup(llm))
    assert end.answer == whole.end.answer
    assert len(llm.requests) == 3 - finished


@pytest.mark.parametrize("call", range(1, 4))
async def test_a_run_cancelled_at_any_part_writes_no_result(call: int) -> None:
    scope = anyio.CancelScope()

    async def stop(_request: Request) -> str:
        if len(llm.requests) == call:
            scope.cancel()
            await anyio.sleep_forever()
        return "done"

    llm = FakeLLM(default=stop)
    run = RecordedRun(parts(slots=1), inputs=FILES)
    with scope:
        await run.drive(setup(llm))
    assert scope.cancelled_caught
    assert len(llm.requests) == call
    assert not any(isinstance(event, SubtaskFinished) for event in run.events)
    assert sum(isinstance(event, CallStarted) for event in run.events) == call


@pytest.mark.parametrize("refused", ["part/1/call/1", "part/3/call/1", "result"])
async def test_a_journal_that_cannot_be_written_stops_all_parts(refused: str) -> None:
    async def append(event: Event, /, *, wait: bool = True) -> None:
        del wait
        if event.name == f"subtask/s1/{refused}":
            raise StoreError("disk full")

    template = RecordedRun(parts(), inputs=FILES).run
    run = Run(request=template.request, documents=template.documents, steps=Steps(append))
    with pytest.raises(StoreError):
        await Orchestrator(setup(FakeLLM(SCRIPTS))).drive(run)


async def test_a_strategy_that_breaks_fails_its_subtask_and_no_sibling(
    caplog: pytest.LogCaptureFixture,
) -> None:
    nobody = subtask("s1", "nobody", inputs=["a.md"], strategy="map")
    plan = Plan(subtasks=(nobody, subtask("s2")))
    run, _ = await drive(RunRequest(task="t", plan=plan), {}, inputs=FILES)
    assert run.results["s1"].status == "failed"
    assert run.results["s2"].status == "succeeded"
    assert "subtask broke" in caplog.text


async def test_what_parts_cost_that_failed_is_counted() -> None:
    busy = ModelUnavailableError("overloaded", usage=USAGE)
    run, _ = await drive(
        parts(),
        {"worker:analyst": lambda request: busy if about(request) == "b.txt" else "done"},
        inputs=FILES,
    )
    assert run.results["s1"].usage.calls == 3
