"""Images that tools return: shown to the model, kept for those who resume, given up if refused."""

from dataclasses import replace

import pytest

from building import RecordedRun, setup, worker
from concertmaster.engine.conversation import NOT_SHOWN, REFUSED
from concertmaster.engine.events import EVENT, CallFailed, Event, SubtaskFinished, ToolCalled
from concertmaster.engine.plan.plan import Plan
from concertmaster.engine.request import RunRequest
from concertmaster.errors import ModelAccessError, ModelRequestError, ServerToolsRefusedError
from concertmaster.llm.messages import Image, Request, ToolMessage, ToolOutcome
from concertmaster.llm.token_count import IMAGE_TOKENS, most_tokens_in
from concertmaster.tools.images import OfferedImage
from concertmaster.tools.registry import WorkerTool
from fakes import FakeCamera, FakeLLM, FakeTool, in_turn, subtask, wants

pytestmark = pytest.mark.anyio

ONE = RunRequest(task="t", plan=Plan(subtasks=(subtask("s1"),)))
PNG = Image(media_type="image/png", data="iVBORw0KGgpkYXRhb2Z0aGVpbWFnZQ==")
LOOK = wants(("look", {}))
LOOK_AROUND = wants(*(("look", {"at": number}) for number in range(5)))
REFUSAL = ModelRequestError("It cannot look at images (400).")


def camera(*images: Image) -> FakeCamera:
    return FakeCamera(
        *(OfferedImage(media_type=each.media_type, data=each.data) for each in images)
    )


async def driven(
    llm: FakeLLM, *tools: WorkerTool, recorded: list[Event] | None = None, max_turns: int = 5
) -> RecordedRun:
    run = RecordedRun(ONE, recorded=recorded or [])
    clerk = worker("analyst", tools=tuple(tool.spec.name for tool in tools), max_turns=max_turns)
    await run.drive(setup(llm, workers=[clerk], tools=tools))
    return run


def outcomes(request: Request) -> list[ToolOutcome]:
    messages = [message for message in request.messages if isinstance(message, ToolMessage)]
    return [outcome for message in messages for outcome in message.outcomes]


def shown(llm: FakeLLM) -> list[int]:
    """Return how many images each request of the worker had."""
    requests = [request for request in llm.requests if request.caller == "worker:analyst"]
    return [sum(len(outcome.images) for outcome in outcomes(request)) for request in requests]


async def test_images_stay_in_the_conversation_in_which_a_tool_returned_them() -> None:
    llm = FakeLLM({"worker:analyst": in_turn(LOOK, LOOK, "whole")})
    run = await driven(llm, camera(PNG, PNG))
    assert run.end.status == "succeeded"
    assert shown(llm) == [0, 2, 4]
    assert outcomes(llm.requests[1])[0].images == (PNG, PNG)
    assert run.results["s1"].notes == ()


async def test_an_outcome_without_images_is_written_as_if_there_were_none() -> None:
    for images in ((), (PNG,)):
        llm = FakeLLM({"worker:analyst": in_turn(LOOK, "whole")})
        run = await driven(llm, camera(*images))
        called = run.first(ToolCalled)
        written = EVENT.dump_json(called).decode()
        assert ('"images"' in written) == bool(images)
        assert EVENT.validate_json(written) == called


async def test_a_worker_goes_on_without_images_that_the_provider_refuses() -> None:
    llm = FakeLLM({"worker:analyst": in_turn(LOOK, REFUSAL, LOOK, "whole")})
    tool = camera(PNG)
    run = await driven(llm, tool)
    assert run.end.status == "succeeded"
    assert shown(llm) == [0, 1, 0, 0]
    assert tool.calls == 2
    told = [outcome.text for outcome in outcomes(llm.requests[3])]
    assert all(text.endswith(f"\n{NOT_SHOWN}") for text in told)
    assert len(told) == 2
    assert run.results["s1"].notes == (REFUSED,)
    assert run.first(CallFailed).error == str(REFUSAL)


async def test_texts_are_left_as_they_are_where_images_are_refused() -> None:
    read = FakeTool("read", lambda _arguments, _scope: "plain")
    both = wants(("look", {}), ("read", {}))
    llm = FakeLLM({"worker:analyst": in_turn(both, REFUSAL, "whole")})
    await driven(llm, camera(PNG), read)
    illustrated, plain = outcomes(llm.requests[2])
    assert illustrated.text.endswith(NOT_SHOWN)
    assert plain.text == "plain"


async def test_a_refusal_takes_no_turn() -> None:
    llm = FakeLLM({"worker:analyst": in_turn(LOOK, REFUSAL, LOOK, "whole")})
    tool = camera(PNG)
    run = await driven(llm, tool, max_turns=3)
    assert (run.end.answer, tool.calls) == ("whole", 2)


async def test_a_request_that_is_refused_without_images_too_has_failed() -> None:
    llm = FakeLLM({"worker:analyst": in_turn(LOOK, REFUSAL, REFUSAL)})
    run = await driven(llm, camera(PNG))
    assert run.results["s1"].status == "failed"
    assert run.results["s1"].errors == (str(REFUSAL),)
    assert shown(llm) == [0, 1, 0]


@pytest.mark.parametrize("error", [ModelAccessError, ServerToolsRefusedError])
async def test_what_images_have_no_part_in_is_not_tried_again_without_them(
    error: type[ModelRequestError],
) -> None:
    llm = FakeLLM({"worker:analyst": in_turn(LOOK, error("No."), "whole")})
    run = await driven(llm, camera(PNG))
    assert 0 not in shown(llm)[1:]
    assert run.results["s1"].notes == ()


async def test_a_request_without_images_that_is_refused_is_not_made_again() -> None:
    llm = FakeLLM({"worker:analyst": in_turn(LOOK, REFUSAL, "whole")})
    run = await driven(llm, camera())
    assert run.results["s1"].status == "failed"
    assert shown(llm) == [0, 0]


def cut_off(run: RecordedRun, step: str) -> list[Event]:
    """Return the events up to the end of a step."""
    at = next(n for n, event in enumerate(run.events) if event.name == step)
    return run.events[: at + 1]


async def test_a_run_that_was_cut_off_shows_the_images_again_and_calls_no_tool_again() -> None:
    llm = FakeLLM({"worker:analyst": in_turn(LOOK, "whole")})
    tool = camera(PNG)
    run = await driven(llm, tool)
    again = FakeLLM()
    resumed = await driven(again, tool, recorded=cut_off(run, "subtask/s1/tool/1.1"))
    assert resumed.end.status == "succeeded"
    assert shown(again) == [1]
    assert tool.calls == 1


async def test_a_run_that_was_cut_off_after_a_refusal_neither_repeats_nor_forgets_it() -> None:
    llm = FakeLLM({"worker:analyst": in_turn(LOOK, REFUSAL, LOOK, "whole")})
    tool = camera(PNG)
    run = await driven(llm, tool)
    again = FakeLLM()
    resumed = await driven(again, tool, recorded=cut_off(run, "subtask/s1/tool/3.1"))
    assert resumed.end.status == "succeeded"
    assert shown(again) == [0]
    assert again.requests[0].messages == llm.requests[3].messages
    assert tool.calls == 2
    assert resumed.first(SubtaskFinished).result.notes == (REFUSED,)


async def test_a_run_that_was_cut_off_in_a_refusal_asks_again() -> None:
    llm = FakeLLM({"worker:analyst": in_turn(LOOK, REFUSAL, "whole")})
    tool = camera(PNG)
    run = await driven(llm, tool)
    again = FakeLLM({"worker:analyst": in_turn(REFUSAL, "whole")})
    resumed = await driven(again, tool, recorded=cut_off(run, "subtask/s1/call/2/failed"))
    assert resumed.end.answer == "whole"
    assert shown(again) == [1, 0]
    assert tool.calls == 1


async def test_images_from_before_a_restart_count_with_those_after_it() -> None:
    llm = FakeLLM({"worker:analyst": in_turn(LOOK_AROUND, "whole")})
    tool = camera(PNG, PNG, PNG, PNG)
    run = await driven(llm, tool)
    at = next(n for n, event in enumerate(run.events) if event.name == "subtask/s1/call/2/start")
    again = FakeLLM({"worker:analyst": in_turn(LOOK, "whole")})
    await driven(again, tool, recorded=run.events[:at])
    assert shown(again) == [20, 20]
    assert "you have been shown as much as you can be" in outcomes(again.requests[1])[-1].text


async def test_an_image_counts_with_all_that_it_may_take() -> None:
    llm = FakeLLM({"worker:analyst": in_turn(LOOK, "whole")})
    await driven(llm, camera(PNG))
    request = llm.requests[1]
    *others, last = request.messages
    assert isinstance(last, ToolMessage)
    plain = ToolMessage(outcomes=(last.outcomes[0].model_copy(update={"images": ()}),))
    without = most_tokens_in(replace(request, messages=[*others, plain]))
    assert most_tokens_in(request).all - without.all == IMAGE_TOKENS
