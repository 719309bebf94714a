"""What a plan is likely to take, from its shape, the sizes of inputs and the prices."""

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from building import RecordedRun, drive, setup, worker
from concertmaster.catalog.definitions import WorkerDefinition
from concertmaster.engine.estimate import HIGH, LOW, estimate
from concertmaster.engine.events import Amounts, Counts, Estimate, PlanAccepted
from concertmaster.engine.plan.plan import Plan, Subtask
from concertmaster.engine.request import Limits, RunRequest
from concertmaster.llm.messages import LLM
from concertmaster.llm.offline import OfflineLLM
from concertmaster.llm.pricing import Rates
from fakes import FakeLLM, Script, plan_json, subtask
from patterns import critique, decision, findings, judging, scores, screening

pytestmark = pytest.mark.anyio

FREE = FakeLLM()


def priced(**rates: float) -> FakeLLM:
    llm = FakeLLM()
    llm.rates = Rates(**rates)
    return llm


def likely(
    *subtasks: Subtask,
    llm: LLM = FREE,
    inputs: Mapping[str, str] | None = None,
    workers: Iterable[WorkerDefinition] = (),
    done: Iterable[str] = (),
    limits: Limits = Limits(),  # noqa: B008 (frozen)
    mode: str = "static",
    **asked: Any,
) -> Estimate:
    """Return what a run of a plan of these subtasks is likely to take."""
    plan = Plan.model_validate({"mode": mode, "subtasks": subtasks})
    request = RunRequest(task="t", plan=plan, limits=limits, **asked)
    run = RecordedRun(request, inputs=inputs).run
    return estimate(plan, run, setup(llm, workers=workers), done=frozenset(done))


CRITERIA = [{"name": "true"}, {"name": "short"}]
FILES = {"a": "alpha", "b": "beta", "c": "gamma"}

STRATEGIES: Mapping[str, tuple[Mapping[str, Any], int, int]] = {
    "single": ({"kind": "single"}, 1, 1),
    "revise": ({"kind": "revise", "rounds": 3}, 2, 8),
    "judge": ({"kind": "vote", "answers": 4}, 4, 5),
    "rubric": ({"kind": "vote", "answers": 4, "decide": "rubric", "criteria": CRITERIA}, 4, 8),
    "rubric by criterion": (
        {
            "kind": "vote",
            "answers": 4,
            "decide": "rubric",
            "criteria": CRITERIA,
            "separate_criteria": True,
        },
        4,
        12,
    ),
    "consensus": ({"kind": "vote", "answers": 4, "decide": "consensus"}, 3, 4),
    "weighted": (
        {"kind": "vote", "decide": "weighted", "voters": [{"weight": 2}, {"model": "x"}]},
        1,
        2,
    ),
    "inputs": ({"kind": "map"}, 3, 3),
    "contexts": ({"kind": "map", "over": "contexts", "contexts": [{"to": "de"}] * 5}, 5, 5),
}


@pytest.mark.parametrize(("strategy", "low", "high"), STRATEGIES.values(), ids=STRATEGIES)
def test_each_strategy_makes_as_many_calls_as_its_formula_says(
    strategy: Mapping[str, Any], low: int, high: int
) -> None:
    one = subtask("s1", strategy=strategy, inputs=list("abc"))
    assert likely(one, inputs=FILES).calls == Counts(low=low, high=high)


def test_sections_are_as_many_as_the_text_has_room_for_and_not_more_than_there_may_be() -> None:
    strategy = {"kind": "map", "over": "sections", "section_tokens": 100}
    one = subtask("s1", strategy=strategy, inputs=["a"])
    assert likely(one, inputs={"a": "x" * 4000}).calls == Counts(low=10, high=20)
    assert likely(one, inputs={"a": "x" * 400_000}).calls == Counts(low=100, high=100)
    assert likely(one, inputs={"a": ""}).calls == Counts(low=0, high=0)


@pytest.mark.parametrize(
    ("asked", "low", "high"),
    [
        ({}, 3, 3),
        ({"verify": "report"}, 4, 4),
        ({"verify": "mend"}, 4, 6),
        ({"guard": "critic"}, 4, 4),
        ({"mode": "adaptive", "limits": Limits(max_subtasks=5, rounds=4)}, 4, 5 + 4 + 1),
        ({"kind": "worker"}, 2, 2),
    ],
)
def test_what_a_run_does_besides_its_subtasks_is_counted(
    asked: dict[str, Any], low: int, high: int
) -> None:
    found = likely(subtask("s1"), subtask("s2", "critic"), **asked)
    if asked.get("kind") == "worker":
        found = likely(subtask("s1"), **asked)
        low, high = 1, 1
    assert found.calls == Counts(low=low, high=high)


def test_each_part_of_a_map_may_be_mended() -> None:
    contexts = [{"locale": "de"}, {"locale": "da"}]
    mapped = {"kind": "map", "over": "contexts", "contexts": contexts}
    found = likely(subtask("s1", strategy=mapped), subtask("s2", "critic"), verify="mend")
    assert found.calls == Counts(low=3 + 1 + 1, high=3 + 1 + 3 + 1)


def test_one_result_needs_no_synthesis_unless_the_answer_has_a_schema() -> None:
    assert likely(subtask("s1")).calls.high == 1
    assert likely(subtask("s1"), output_schema={"type": "object"}).calls.high == 2


async def test_a_direct_answer_is_not_estimated() -> None:
    run, _ = await drive(RunRequest(task="t"), {"planner": plan_json(direct_answer="Four.")})
    assert run.first(PlanAccepted).estimate is None


def test_workers_with_tools_may_use_all_of_their_turns() -> None:
    handy = worker("analyst", tools=("lint",), max_turns=5)
    assert likely(subtask("s1"), workers=[handy]).calls == Counts(low=1, high=5)


def test_what_is_done_takes_nothing_but_is_in_the_answer() -> None:
    plan = [subtask("s1"), subtask("s2", depends_on=["s1"]), subtask("s3")]
    assert likely(*plan, done=["s1", "s3"]).calls.low == 2
    assert likely(*plan, done=["s1", "s2", "s3"]).calls.low == 1


def test_seconds_follow_the_longest_chain() -> None:
    beside = likely(subtask("s1"), subtask("s2"), subtask("s3"))
    behind = likely(
        subtask("s1"), subtask("s2", depends_on=["s1"]), subtask("s3", depends_on=["s2"])
    )
    call = LOW.wait + LOW.reply / LOW.speed
    assert beside.seconds.low == 2 * call
    assert behind.seconds.low == 4 * call
    assert behind.seconds.high > beside.seconds.high


def test_too_few_slots_take_longer() -> None:
    plan = [subtask(f"s{number}") for number in range(6)]
    call = LOW.wait + LOW.reply / LOW.speed
    assert likely(*plan, limits=Limits(slots=1)).seconds.low == int(7 * call)
    assert likely(*plan, limits=Limits(slots=6)).seconds.low == 2 * call


def test_a_subtask_takes_no_longer_than_it_may() -> None:
    assert HIGH.wait + HIGH.reply / HIGH.speed > 9
    assert likely(subtask("s1", timeout_seconds=9)).seconds.high == 9
    slow = worker("analyst", timeout_seconds=7)
    assert likely(subtask("s1"), workers=[slow]).seconds.high == 7


def test_inputs_are_paid_for_by_their_size() -> None:
    llm = priced(input=100, output=0)
    small = likely(subtask("s1", inputs=["a"]), llm=llm, inputs={"a": "x", "b": "y" * 400_000})
    large = likely(subtask("s1", inputs=["b"]), llm=llm, inputs={"a": "x", "b": "y" * 400_000})
    assert small.usd is not None
    assert large.usd is not None
    assert large.usd.low - small.usd.low == pytest.approx(10, rel=0.05)
    assert large.usd.high - small.usd.high == pytest.approx(16, rel=0.05)
    assert large.tokens.low - small.tokens.low == pytest.approx(100_000, rel=0.05)


def test_what_several_read_is_written_to_the_cache_once_if_all_goes_well() -> None:
    llm = priced(input=0, output=0, cache_write=100, cache_read=10)
    plan = [subtask(f"s{number}", inputs=["a"]) for number in range(3)]
    found = likely(*plan, llm=llm, inputs={"a": "x" * 400_000}).usd
    assert found == Amounts(low=10 + 2, high=48)


def test_the_turns_of_a_conversation_read_what_the_first_has_written() -> None:
    llm = priced(input=0, output=0, cache_write=100, cache_read=10)
    handy = worker("analyst", tools=("lint",), max_turns=3)
    one = subtask("s1", inputs=["a"])
    found = likely(one, llm=llm, inputs={"a": "x" * 400_000}, workers=[handy]).usd
    # Sixteen, and twice a tenth of it, rounded up to two digits.
    assert found == Amounts(low=10, high=20)


@pytest.mark.parametrize("of_the_worker", [True, False])
def test_a_subtask_costs_no_more_than_it_may(of_the_worker: bool) -> None:
    own: dict[str, Any] = {} if of_the_worker else {"budget_usd": 0.5}
    analyst = worker("analyst", budget_usd=0.5 if of_the_worker else None)
    llm = priced(input=0, output=1_000_000)
    found = likely(subtask("s1", **own), llm=llm, workers=[analyst])
    assert found.usd == Amounts(low=0.5, high=0.5)
    assert likely(subtask("s1", **own), llm=priced(), workers=[analyst]).usd is None


def test_a_price_that_nobody_knows_makes_the_sum_unknown_and_not_nothing() -> None:
    found = likely(subtask("s1"), subtask("s2"), llm=priced())
    assert found.usd is None
    assert "an unknown price" in found.words
    assert "usd" not in found.model_dump(exclude_defaults=True)


def test_the_offline_model_is_known_to_cost_nothing_and_reads_no_tokens() -> None:
    found = likely(subtask("s1"), subtask("s2"), llm=OfflineLLM())
    assert found.words == "3 calls, 0 tokens, $0.00, 0 seconds"


@pytest.mark.parametrize("usd", [0.0123, 0.0987, 1.28, 12.3, 129.0])
def test_low_is_rounded_down_and_high_is_rounded_up(usd: float) -> None:
    llm = priced(input=0, output=usd * 1_000_000 / LOW.reply)
    found = likely(subtask("s1"), llm=llm, limits=Limits(max_tokens=LOW.reply)).usd
    assert found is not None
    assert found.low <= usd <= found.high
    assert found.high - found.low <= 0.1 * usd


def test_a_worker_that_nobody_knows_is_reckoned_like_any_other() -> None:
    assert likely(subtask("s1", "nobody")).calls.low == 1


def test_an_estimate_is_told_in_one_phrase() -> None:
    found = Estimate(
        calls=Counts(low=1, high=1),
        tokens=Counts(low=900, high=12000),
        usd=Amounts(low=0.004, high=1.5),
        seconds=Amounts(low=2.5, high=90),
    )
    assert found.words == "1 call, 900 to 12000 tokens, $0.004 to $1.50, 2.5 to 90 seconds"


SCENARIOS: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Script]]] = {
    "single": ({}, {}, {}),
    "happy critic": ({"kind": "revise"}, {}, {"critic": critique()}),
    "stern critic": ({"kind": "revise", "rounds": 3}, {}, {"critic": critique("Say why.")}),
    "judge": ({"kind": "vote"}, {}, {"judge": judging("done")}),
    "rubric": (
        {"kind": "vote", "decide": "rubric", "criteria": CRITERIA},
        {},
        {"rubric": scores(true=1, short=2)},
    ),
    "map": ({"kind": "map"}, {}, {}),
    "adaptive": ({}, {"mode": "adaptive"}, {"orchestrator": decision(done=True)}),
    "growing": (
        {},
        {"mode": "adaptive"},
        {
            "orchestrator": lambda request: (
                decision(done=True) if "do s9" in str(request) else decision(add=[subtask("s9")])
            )
        },
    ),
    "verified": ({}, {"verify": "report"}, {"verifier": findings()}),
    "guarded": ({}, {"guard": "writer"}, {"guard": screening(allowed=True)}),
}


@pytest.mark.parametrize(("strategy", "asked", "scripts"), SCENARIOS.values(), ids=SCENARIOS)
async def test_what_a_run_takes_is_within_what_was_said_before(
    strategy: Mapping[str, Any], asked: Mapping[str, Any], scripts: Mapping[str, Script]
) -> None:
    first = subtask("s1", inputs=list("abc"), strategy=strategy or {"kind": "single"})
    subtasks = (first, subtask("s2", "critic", depends_on=["s1"]), subtask("s3", "writer"))
    plan = Plan(subtasks=subtasks, mode=asked.get("mode", "static"))
    request = RunRequest.model_validate({"task": "t", "plan": plan, **asked})
    run, llm = await drive(request, scripts, inputs=FILES)
    said = run.first(PlanAccepted).estimate
    assert run.end.status in ("succeeded", "partial")
    assert said is not None
    assert said.calls.low <= len(llm.requests) <= said.calls.high
