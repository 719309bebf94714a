"""Voting: several independent answers, of which one is taken."""

import json
from collections.abc import Callable, Mapping, Sequence

import anyio
import anyio.lowlevel
import pytest

from building import RecordedRun, drive, setup, worker
from concertmaster.engine.conversation import Verdict
from concertmaster.engine.events import (
    CallFailed,
    CallFinished,
    CallStarted,
    Event,
    SubtaskFinished,
)
from concertmaster.engine.orchestrator import Orchestrator
from concertmaster.engine.plan.plan import Plan
from concertmaster.engine.request import Limits, RunRequest
from concertmaster.engine.run import Run
from concertmaster.engine.steps import Steps
from concertmaster.engine.strategies.vote import normal_form
from concertmaster.errors import ModelUnavailableError, StoreError
from concertmaster.llm.messages import Draft, Reply, Request
from fakes import USAGE, FakeLLM, FakeTool, Script, in_turn, reply_with, subtask, texts, wants

pytestmark = pytest.mark.anyio

BUSY = ModelUnavailableError("overloaded", usage=USAGE)


def vote(slots: int = 8, **fields: object) -> RunRequest:
    strategy = {"kind": "vote"} | fields
    plan = Plan(subtasks=(subtask("s1", strategy=strategy),))
    return RunRequest(task="t", plan=plan, limits=Limits(slots=slots))


def by_voter(*answers: str | Reply | Exception) -> dict[str, Script]:
    """Return voters that are workers of their own, each with its answer."""
    return {f"worker:v{number}": answer for number, answer in enumerate(answers, start=1)}


def voters(*weights: float) -> list[dict[str, object]]:
    return [
        {"worker": f"v{number}", "weight": weight} for number, weight in enumerate(weights, start=1)
    ]


VOTERS = [worker(f"v{number}") for number in range(1, 10)]


def picking(word: str) -> Callable[[Request], str]:
    """Return a judge that takes the answer with `word` in it."""

    def pick(request: Request) -> str:
        (text,) = texts([request])
        schema = request.output_schema or {}
        for letter in schema["properties"]["best"]["enum"]:
            answer = text.split(f'name="{letter}">')[1].split("</answer")[0]
            if word in answer:
                return json.dumps({"best": letter, "reasons": "it is the one"})
        raise AssertionError("unreachable")

    return pick


def scoring(scores: Mapping[str, int]) -> Callable[[Request], str]:
    """Return a rubric that gives an answer the score of the first of these words in it."""

    def score(request: Request) -> str:
        (text,) = texts([request])
        found = next(value for word, value in scores.items() if word in text)
        items = (request.output_schema or {})["properties"]["scores"]["items"]
        names = items["properties"]["criterion"]["enum"]
        return json.dumps(
            {"scores": [{"criterion": name, "why": "so", "score": found} for name in names]}
        )

    return score


async def test_a_judge_takes_one_of_several_independent_answers() -> None:
    run, llm = await drive(
        vote(voters=voters(1, 1, 1)),
        {**by_voter("red", "green", "blue"), "judge": picking("green")},
        workers=VOTERS,
    )
    result = run.results["s1"]
    assert (result.status, result.text) == ("succeeded", "green")
    assert result.notes == ("A judge chose answer 2 of 3: it is the one",)
    assert result.usage.calls == len(llm.requests) == 4


async def test_the_judge_sees_the_answers_in_an_order_of_its_own_that_stays_the_same() -> None:
    orders: list[list[str]] = []
    for number in [*range(8), 0]:
        _, llm = await drive(
            vote(voters=voters(1, 1, 1)).model_copy(update={"task": f"task {number}"}),
            {**by_voter("RED", "GREEN", "BLUE"), "judge": picking("RED")},
            workers=VOTERS,
        )
        (text,) = texts(llm.requests[-1:])
        orders.append(sorted(["RED", "GREEN", "BLUE"], key=text.index))
    assert orders[0] == orders[-1]
    assert len({tuple(order) for order in orders}) > 1


SAME_TEXTS = ("Red.", "**red**", " red ")
SAME_VALUES = ('{"a": 1, "b": ["Yes."]}', '{"b": ["yes"], "a": 1.0}', '{"a":1,"b":["YES"]}')


@pytest.mark.parametrize("decide", ["judge", "rubric"])
@pytest.mark.parametrize(("answers", "schema"), [(SAME_TEXTS, None), (SAME_VALUES, {})])
async def test_identical_answers_are_not_judged(
    decide: str, answers: tuple[str, ...], schema: dict[str, object] | None
) -> None:
    run, llm = await drive(
        vote(voters=voters(1, 1, 1), decide=decide, criteria=[{"name": "right"}]),
        by_voter(*answers),
        workers=[worker(f"v{number}", output_schema=schema) for number in (1, 2, 3)],
    )
    result = run.results["s1"]
    assert (result.status, result.text) == ("succeeded", answers[0].strip())
    assert result.notes == ("All 3 answers are the same, so none was judged.",)
    assert sorted(llm.callers()) == ["worker:v1", "worker:v2", "worker:v3"]


async def test_identical_answers_are_not_judged_although_a_voter_failed() -> None:
    run, llm = await drive(
        vote(voters=voters(1, 1, 1)), by_voter("red", BUSY, "red"), workers=VOTERS
    )
    assert run.results["s1"].status == "succeeded"
    assert run.results["s1"].notes[1].startswith("Answer 2 did not count: ")
    assert "judge" not in llm.callers()


@pytest.mark.parametrize("failing", [1, 2, 3])
@pytest.mark.parametrize("failure", [BUSY, "", reply_with("cut", stop_reason="max_tokens")])
async def test_a_voter_that_fails_leaves_the_choice_to_the_others(
    failing: int, failure: str | Reply | Exception
) -> None:
    answers: list[str | Reply | Exception] = ["red", "green", "blue"]
    answers[failing - 1] = failure
    chosen = "green" if failing != 2 else "blue"
    run, _ = await drive(
        vote(voters=voters(1, 1, 1)),
        {**by_voter(*answers), "judge": picking(chosen)},
        workers=VOTERS,
    )
    result = run.results["s1"]
    assert (result.status, result.text) == ("succeeded", chosen)
    assert result.notes[1].startswith(f"Answer {failing} did not count: ")


@pytest.mark.parametrize("decide", ["judge", "rubric", "consensus"])
async def test_one_answer_alone_is_taken_without_a_vote_and_said_to_be(decide: str) -> None:
    run, llm = await drive(
        vote(voters=voters(1, 1, 1), decide=decide, criteria=[{"name": "right"}], share=0.3),
        by_voter(BUSY, "green", BUSY),
        workers=VOTERS,
    )
    result = run.results["s1"]
    assert (result.status, result.text) == ("partial", "green")
    assert "There was no vote: 1 of 3 answers came." in result.errors[0]
    assert not {"judge", "rubric"} & set(llm.callers())


@pytest.mark.parametrize("decide", ["judge", "rubric", "consensus"])
async def test_a_vote_without_answers_fails_with_every_reason(decide: str) -> None:
    run, _ = await drive(
        vote(voters=voters(1, 1), decide=decide, criteria=[{"name": "right"}]),
        by_voter(ModelUnavailableError("overloaded"), ModelUnavailableError("no route")),
        workers=VOTERS,
    )
    assert run.results["s1"].status == "failed"
    (error,) = run.results["s1"].errors
    assert "0 of 2 answers came" in error
    assert "overloaded" in error
    assert "no route" in error


@pytest.mark.parametrize("decide", ["judge", "rubric", "consensus"])
async def test_a_cut_answer_is_better_than_none_but_has_no_vote(decide: str) -> None:
    run, _ = await drive(
        vote(voters=voters(1, 1), decide=decide, criteria=[{"name": "right"}]),
        by_voter(BUSY, reply_with("cut short", stop_reason="max_tokens")),
        workers=VOTERS,
    )
    assert (run.results["s1"].status, run.results["s1"].text) == ("partial", "cut short")


@pytest.mark.parametrize("judge", [BUSY, "no JSON", '{"best": "Z", "reasons": ""}'])
async def test_a_judge_that_fails_leaves_the_first_answer_incomplete(judge: Script) -> None:
    run, _ = await drive(
        vote(voters=voters(1, 1)), {**by_voter("red", "green"), "judge": judge}, workers=VOTERS
    )
    assert (run.results["s1"].status, run.results["s1"].text) == ("partial", "red")
    assert "No judge chose between the answers" in run.results["s1"].errors[0]


async def test_a_fault_in_the_tool_of_one_voter_loses_no_other_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def break_down(_arguments: object, _scope: object) -> str:
        raise ZeroDivisionError

    run, _ = await drive(
        vote(voters=voters(1, 1, 1), decide="consensus"),
        by_voter("red", wants(("look", {})), "red"),
        workers=[*VOTERS[:1], worker("v2", tools=("look",)), *VOTERS[2:]],
        tools=[FakeTool("look", break_down)],
    )
    assert run.results["s1"].status == "succeeded"
    assert "conversation broke" in caplog.text


async def test_each_voter_has_its_own_worker_and_model() -> None:
    _, llm = await drive(
        vote(voters=[{"worker": "critic", "model": "opus"}, {"model": "haiku"}, {}]),
        {"judge": BUSY},
    )
    asked = {(request.caller, request.model) for request in llm.requests[:3]}
    assert asked == {
        ("worker:critic", "opus"),
        ("worker:analyst", "haiku"),
        ("worker:analyst", "small"),
    }


@pytest.mark.parametrize("separate", [False, True])
async def test_the_rubric_takes_the_answer_with_the_highest_weighted_mean(separate: bool) -> None:
    marks = {
        ("red", "right"): 10,
        ("red", "short"): 1,
        ("green", "right"): 6,
        ("green", "short"): 9,
    }

    def score(request: Request) -> str:
        (text,) = texts([request])
        colour = "red" if "red" in text else "green"
        items = (request.output_schema or {})["properties"]["scores"]["items"]
        names = items["properties"]["criterion"]["enum"]
        scores = [{"criterion": n, "why": "", "score": marks[colour, n]} for n in names]
        return json.dumps({"scores": scores})

    run, llm = await drive(
        vote(
            decide="rubric",
            voters=voters(1, 1),
            criteria=[{"name": "right", "weight": 3}, {"name": "short"}],
            separate_criteria=separate,
        ),
        {**by_voter("red", "green"), "rubric": score},
        workers=VOTERS,
    )
    assert run.results["s1"].text == "red"
    assert "(1: 7.8, 2: 6.8)" in run.results["s1"].notes[0]
    assert llm.callers().count("rubric") == (4 if separate else 2)


async def test_of_answers_with_the_same_score_the_first_is_taken() -> None:
    run, _ = await drive(
        vote(decide="rubric", voters=voters(1, 1, 1), criteria=[{"name": "right"}]),
        {**by_voter("red", "green", "blue"), "rubric": scoring({"red": 4, "": 7})},
        workers=VOTERS,
    )
    assert run.results["s1"].text == "green"


TOO_MUCH = json.dumps({"scores": [{"criterion": "right", "why": "", "score": 11}]})


@pytest.mark.parametrize("score", [BUSY, "no JSON", '{"scores": []}', TOO_MUCH])
async def test_answers_that_cannot_be_scored_leave_the_first_incomplete(score: Script) -> None:
    run, _ = await drive(
        vote(decide="rubric", voters=voters(1, 1), criteria=[{"name": "right"}]),
        {**by_voter("red", "green"), "rubric": score},
        workers=VOTERS,
    )
    assert (run.results["s1"].status, run.results["s1"].text) == ("partial", "red")
    assert "Answers 1, 2 were not scored" in run.results["s1"].errors[0]


async def test_an_answer_that_cannot_be_scored_is_not_taken_and_that_is_noted() -> None:
    def score(request: Request) -> str:
        return "no JSON" if "red" in texts([request])[0] else scoring({"": 1})(request)

    run, _ = await drive(
        vote(decide="rubric", voters=voters(1, 1), criteria=[{"name": "right"}]),
        {**by_voter("red", "green"), "rubric": score},
        workers=VOTERS,
    )
    assert run.results["s1"].text == "green"
    assert "Answer 1 was not scored" in run.results["s1"].notes[1]


async def test_an_answer_scored_twice_by_one_criterion_is_not_scored_by_the_other() -> None:
    one = {"criterion": "right", "why": "", "score": 9}
    run, _ = await drive(
        vote(decide="rubric", voters=voters(1, 1), criteria=[{"name": "right"}, {"name": "short"}]),
        {**by_voter("red", "green"), "rubric": json.dumps({"scores": [one, one]})},
        workers=VOTERS,
    )
    assert "It was not scored by: short." in run.results["s1"].errors[0]


async def test_a_majority_wins_whatever_the_spelling() -> None:
    run, _ = await drive(
        vote(decide="consensus", voters=voters(1, 1, 1)),
        by_voter("blue", " **Red**. ", "red"),
        workers=VOTERS,
    )
    assert run.results["s1"].status == "succeeded"
    assert normal_form(Verdict(status="succeeded", text=run.results["s1"].text)) == "red"
    assert run.results["s1"].notes == ("Won by a majority of 2 of 3.",)


async def test_without_a_majority_the_most_common_answer_is_incomplete() -> None:
    run, llm = await drive(
        vote(decide="consensus", voters=voters(1, 1, 1, 1, 1), share=0.6),
        by_voter("red", "blue", "green", "blue", "blue"),
        workers=VOTERS,
    )
    result = run.results["s1"]
    assert (result.status, result.text) == ("partial", "blue")
    assert "has 3 of 5, and more than 3 were needed" in result.errors[0]
    assert len(llm.requests) == 5


async def test_voters_that_fail_count_among_those_of_whom_a_majority_is_needed() -> None:
    run, _ = await drive(
        vote(decide="consensus", voters=voters(1, 1, 1, 1)),
        by_voter("red", "red", BUSY, BUSY),
        workers=VOTERS,
    )
    assert run.results["s1"].status == "partial"
    assert "2 of 4" in run.results["s1"].errors[0]


async def test_weights_decide_where_they_are_to() -> None:
    answers = by_voter("red", "blue", "blue")
    heavy = voters(5, 1, 1)
    by_weight, _ = await drive(vote(decide="weighted", voters=heavy), answers, workers=VOTERS)
    by_head, _ = await drive(vote(decide="consensus", voters=heavy), answers, workers=VOTERS)
    assert (by_weight.results["s1"].text, by_head.results["s1"].text) == ("red", "blue")


async def test_a_vote_that_outweighs_all_others_together_wins_without_them() -> None:
    run, _ = await drive(
        vote(decide="weighted", voters=voters(5, 1, 1)),
        by_voter("red", BUSY, BUSY),
        workers=VOTERS,
    )
    result = run.results["s1"]
    assert (result.status, result.text) == ("succeeded", "red")
    assert result.notes[0] == "Won by a majority of 5 of 7."


async def test_a_vote_that_does_not_waits_for_a_second_answer() -> None:
    run, llm = await drive(
        vote(decide="weighted", voters=voters(3, 3, 1), share=0.4, slots=1),
        by_voter("red", BUSY, "blue"),
        workers=VOTERS,
    )
    assert len(llm.requests) == 3
    assert run.results["s1"].notes[0] == "Won by a majority of 3 of 7."


@pytest.mark.parametrize("failing", ["judge", "rubric"])
async def test_a_vote_that_nobody_decides_tells_of_answers_that_did_not_count(
    failing: str,
) -> None:
    run, _ = await drive(
        vote(decide=failing, voters=voters(1, 1, 1), criteria=[{"name": "right"}]),
        {**by_voter("red", BUSY, "blue"), failing: "no JSON"},
        workers=VOTERS,
    )
    assert run.results["s1"].status == "partial"
    assert run.results["s1"].notes == ("Answer 2 did not count: overloaded",)


async def test_a_tie_of_weights_that_binary_fractions_cannot_express_is_a_tie() -> None:
    run, _ = await drive(
        vote(decide="weighted", voters=voters(0.1, 0.2, 0.3)),
        by_voter("red", "red", "blue"),
        workers=VOTERS,
    )
    assert run.results["s1"].status == "partial"
    assert "has 0.3 of 0.6" in run.results["s1"].errors[0]


class LastVoterWaits(FakeLLM):
    """Has the voters answer one after another, and the last one wait for ever."""

    def __init__(self, answers: Sequence[str | Exception]) -> None:
        super().__init__()
        self._answers = answers
        self._turns = [anyio.Event() for _ in answers]
        self.waits = anyio.Event()

    async def complete(self, request: Request, draft: Draft, /) -> Reply:
        number = int(request.caller.removeprefix("worker:v"))
        self.requests.append(request)
        if number > len(self._answers):
            draft.update(text="so f", usage=USAGE)
            self.waits.set()
            await anyio.sleep_forever()
        await self.waits.wait()
        if number > 1:
            await self._turns[number - 2].wait()
        self._turns[number - 1].set()
        answer = self._answers[number - 1]
        if isinstance(answer, Exception):
            raise answer
        return reply_with(answer)


async def test_once_a_majority_is_there_the_other_voters_are_stopped_and_their_cost_counted() -> (
    None
):
    run = RecordedRun(vote(decide="consensus", voters=voters(1, 1, 1)))
    with anyio.fail_after(60):
        await run.drive(setup(LastVoterWaits(["red", "red"]), workers=VOTERS))
    assert run.results["s1"].text == "red"
    assert run.results["s1"].usage.calls == 3
    stopped = [event for event in run.events if isinstance(event, CallFailed)]
    assert [(event.step, event.usage) for event in stopped] == [
        ("subtask/s1/answer/3/call/1", USAGE)
    ]


async def test_once_no_majority_can_come_any_more_and_the_leader_is_safe_nobody_waits() -> None:
    run = RecordedRun(vote(decide="consensus", voters=voters(1, 1, 1, 1, 1), share=0.8))
    with anyio.fail_after(60):
        await run.drive(setup(LastVoterWaits(["red", "red", "blue", "red"]), workers=VOTERS))
    assert (run.results["s1"].status, run.results["s1"].text) == ("partial", "red")


async def test_a_voter_whose_answer_may_be_the_only_one_is_not_stopped() -> None:
    run, _ = await drive(
        vote(decide="consensus", voters=voters(1, 1, 1), slots=1),
        by_voter(BUSY, BUSY, "red"),
        workers=VOTERS,
    )
    assert (run.results["s1"].status, run.results["s1"].text) == ("partial", "red")


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("last", ["red", "blue"])
async def test_stopping_early_changes_no_outcome(share: float, last: str) -> None:
    answers = ["red", "blue", "blue", "red", last]
    run, _ = await drive(
        vote(decide="consensus", voters=voters(1, 1, 1, 1, 1), share=share),
        by_voter(*answers),
        workers=VOTERS,
    )
    assert normal_form(Verdict(status="succeeded", text=run.results["s1"].text)) == last
    assert run.results["s1"].status == ("partial" if share == 0.8 else "succeeded")


async def test_voters_never_take_more_slots_than_there_are() -> None:
    at_once = most = 0

    async def count(_request: Request) -> str:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await anyio.lowlevel.checkpoint()
        at_once -= 1
        return "done"

    strategy = {"kind": "vote", "answers": 9, "decide": "rubric", "criteria": [{"name": "right"}]}
    plan = Plan(subtasks=tuple(subtask(f"s{n}", strategy=strategy) for n in range(3)))
    llm = FakeLLM(default=count)
    run = RecordedRun(RunRequest(task="t", plan=plan, limits=Limits(slots=4)))
    await run.drive(setup(llm))
    assert most == 4
    assert llm.callers().count("worker:analyst") == 27


async def test_voters_are_in_flight_at_the_same_time() -> None:
    all_in = anyio.Event()
    count = 0

    async def wait_for_all(_request: Request) -> str:
        nonlocal count
        count += 1
        if count == 9:
            all_in.set()
        await all_in.wait()
        return "done"

    request = vote(answers=9, decide="consensus", slots=9)
    with anyio.fail_after(60):
        run, _ = await drive(request, {"worker:analyst": wait_for_all})
    assert run.results["s1"].status == "succeeded"


JUDGED: dict[str, Script] = {**by_voter("red", "green", "blue"), "judge": picking("blue")}


@pytest.mark.parametrize("stopped_after", range(13))
async def test_a_vote_taken_up_at_any_event_makes_no_finished_call_again(
    stopped_after: int,
) -> None:
    request = vote(voters=voters(1, 1, 1))
    whole, _ = await drive(request, JUDGED, workers=VOTERS)
    recorded: list[Event] = whole.events[:stopped_after]
    finished = sum(isinstance(event, CallFinished) for event in recorded)
    llm = FakeLLM(JUDGED)
    resumed = RecordedRun(request, recorded=recorded)
    await resumed.drive(setup(llm, workers=VOTERS))
    assert resumed.end.answer == "blue"
    assert len(llm.requests) == 4 - finished


async def test_a_judgement_between_fewer_answers_is_not_taken_for_one_between_all() -> None:
    request = vote(voters=voters(1, 1, 1))
    before, _ = await drive(request, {**JUDGED, "worker:v2": BUSY}, workers=VOTERS)
    recorded = [event for event in before.events if isinstance(event, CallFinished)]
    resumed = RecordedRun(request, recorded=recorded)
    llm = FakeLLM({**JUDGED, "judge": picking("green")})
    await resumed.drive(setup(llm, workers=VOTERS))
    assert llm.callers() == ["worker:v2", "judge"]
    assert resumed.end.answer == "green"


@pytest.mark.parametrize("call", range(1, 5))
async def test_a_run_cancelled_at_any_call_of_a_vote_writes_no_result(call: int) -> None:
    scope = anyio.CancelScope()

    async def stop(_request: Request) -> str:
        if len(llm.requests) == call:
            scope.cancel()
            await anyio.sleep_forever()
        return f"answer {len(llm.requests)}"

    llm = FakeLLM(default=stop)
    run = RecordedRun(vote(answers=3, slots=1))
    with scope:
        await run.drive(setup(llm))
    assert scope.cancelled_caught
    assert len(llm.requests) == call
    assert not any(isinstance(event, SubtaskFinished) for event in run.events)
    assert sum(isinstance(event, CallStarted) for event in run.events) == call


@pytest.mark.parametrize("refused", ["answer/1/call/1", "answer/3/call/1", "judge/1+2+3/call/1"])
async def test_a_journal_that_cannot_be_written_stops_a_vote(refused: str) -> None:
    async def append(event: Event, /, *, wait: bool = True) -> None:
        del wait
        if event.name == f"subtask/s1/{refused}":
            raise StoreError("disk full")

    run = Run(request=vote(voters=voters(1, 1, 1)), documents={}, steps=Steps(append))
    with pytest.raises(StoreError):
        await Orchestrator(setup(FakeLLM(JUDGED), workers=VOTERS)).drive(run)


async def test_a_journal_that_cannot_be_written_says_so_though_the_run_is_cancelled_too() -> None:
    async def append(event: Event, /, *, wait: bool = True) -> None:
        del wait
        if isinstance(event, CallFailed):
            raise StoreError("disk full")

    async def stop(request: Request) -> str:
        if len(llm.requests) == 3:
            scope.cancel()
        await anyio.sleep_forever()
        return request.caller

    scope = anyio.CancelScope()
    llm = FakeLLM(default=stop)
    run = Run(request=vote(answers=3), documents={}, steps=Steps(append))
    with pytest.raises(StoreError), scope:
        await Orchestrator(setup(llm)).drive(run)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Yes.", "yes"),
        ("**42**", "42"),
        ("the  answer\nis", "The answer is"),
        ("ﬁne", "FINE"),
        ("# Heading", "heading"),
    ],
)
def test_texts_that_differ_in_spelling_alone_are_the_same(one: str, other: str) -> None:
    assert normal_form(Verdict(status="succeeded", text=one)) == normal_form(
        Verdict(status="succeeded", text=other)
    )


def test_values_are_the_same_in_any_order_of_keys_and_spelling_of_texts_and_numbers() -> None:
    one = Verdict(status="succeeded", text="1", value={"a": ["Yes.", 1.0, 0.5], "b": None})
    other = Verdict(status="succeeded", text="2", value={"b": None, "a": ["yes", 1, 0.5]})
    assert normal_form(one) == normal_form(other)


@pytest.mark.parametrize(("one", "other"), [("yes", "no"), ("1.5", "15"), ("a b", "ab")])
def test_texts_that_say_something_else_are_not_the_same(one: str, other: str) -> None:
    assert normal_form(Verdict(status="succeeded", text=one)) != normal_form(
        Verdict(status="succeeded", text=other)
    )


async def test_a_vote_whose_answers_are_asked_again_counts_each_voter_once() -> None:
    cut = reply_with("", stop_reason="max_tokens")
    run, llm = await drive(
        vote(decide="consensus", answers=2, slots=1),
        {"worker:analyst": in_turn(cut, "red", "red")},
    )
    assert run.results["s1"].notes == ("Won by a majority of 2 of 2.",)
    assert len(llm.requests) == 3
