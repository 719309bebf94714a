import math

import pytest

from building import worker
from concertmaster.catalog.catalog import Catalog
from concertmaster.engine.plan.plan import Plan
from concertmaster.engine.request import Limits, RunRequest
from concertmaster.errors import InvalidPlanError, RequestError, UnknownWorkerError
from concertmaster.llm.messages import Document, JsonSchema
from concertmaster.runs.intake import TASK_CHARS, RunPolicy, check_order
from concertmaster.runs.orders import Order, PlanOrder, RunOrder, WorkerOrder
from concertmaster.store.codec import digest
from concertmaster.tools.inputs import Inputs
from fakes import subtask

CATALOG = Catalog([worker("analyst"), worker("critic", timeout_seconds=30)])
POLICY = RunPolicy(limits=Limits(), most_subtasks=10, most_seconds=1000, most_usd=5)
DOCUMENT = Document(name="a.txt", text="alpha")
INPUTS = Inputs(documents=(DOCUMENT,))


def checked(order: Order) -> RunRequest:
    return check_order(order, INPUTS, CATALOG, POLICY).request


def test_an_order_becomes_a_request_with_the_usual_limits_and_its_inputs() -> None:
    request = checked(RunOrder(task=" why? ", workers=("critic", "critic")))
    assert request.kind == "orchestration"
    assert request.task == "why?"
    assert request.workers == ("critic",)
    assert request.limits == Limits()
    assert [(item.name, item.digest, item.chars) for item in request.inputs] == [
        ("a.txt", digest("alpha"), 5)
    ]


def test_texts_are_kept_by_their_digest() -> None:
    order = check_order(RunOrder(task="t"), INPUTS, CATALOG, POLICY)
    assert order.texts == {digest("alpha"): "alpha"}
    assert order.documents == {"a.txt": DOCUMENT}


def test_limits_that_are_asked_for_hold() -> None:
    request = checked(PlanOrder(task="t", max_subtasks=3, deadline_seconds=60))
    assert request.kind == "plan"
    assert (request.limits.max_subtasks, request.limits.run_seconds) == (3, 60)


@pytest.mark.parametrize(
    "order",
    [
        PlanOrder(task="t", budget_usd=5),
        RunOrder(task="t", budget_usd=5),
        WorkerOrder(worker="critic", task="t", budget_usd=5),
    ],
)
def test_every_order_can_have_a_budget(order: Order) -> None:
    assert checked(order).limits == Limits(budget_usd=5)


def test_the_usual_budget_can_be_asked_for_however_large_it_is() -> None:
    policy = RunPolicy(limits=Limits(budget_usd=50), most_usd=5)
    order = RunOrder(task="t", budget_usd=50)
    assert check_order(order, Inputs(documents=()), CATALOG, policy).request.limits.budget_usd == 50


def test_an_order_for_a_worker_becomes_a_plan_of_one_subtask_with_all_inputs() -> None:
    request = checked(
        WorkerOrder(worker="critic", task="judge it", context="c", constraints=("brief",))
    )
    assert request.kind == "worker"
    assert request.plan is not None
    only = request.plan.subtasks[0]
    assert (only.worker, only.objective, only.inputs) == ("critic", "judge it", ("a.txt",))
    assert (request.context, request.constraints) == ("c", ("brief",))


@pytest.mark.parametrize(
    ("name", "asked", "expected"), [("critic", None, 30), ("critic", 5, 5), ("analyst", None, 120)]
)
def test_a_worker_s_time_is_what_was_asked_for_or_its_own_or_the_usual(
    name: str, asked: float | None, expected: float
) -> None:
    request = checked(WorkerOrder(worker=name, task="t", deadline_seconds=asked))
    assert request.plan is not None
    assert request.plan.subtasks[0].timeout_seconds == expected


def test_a_plan_that_is_given_may_be_as_large_as_any() -> None:
    plan = Plan(subtasks=tuple(subtask(f"s{number}") for number in range(10)))
    assert checked(RunOrder(task="t", plan=plan)).plan == plan


@pytest.mark.parametrize(
    ("order", "hint"),
    [
        (RunOrder(task="  "), "task is empty"),
        (WorkerOrder(worker="critic", task=""), "task is empty"),
        (RunOrder(task="x" * (TASK_CHARS + 1)), "Put long material into inputs"),
        (WorkerOrder(worker="critic", task="t", context="x" * (TASK_CHARS + 1)), "context has"),
        (WorkerOrder(worker="critic", task="t", constraints=("",)), "constraints is empty"),
        (RunOrder(task="t", max_subtasks=0), "from 1 to 10"),
        (RunOrder(task="t", max_subtasks=11), "from 1 to 10"),
        (RunOrder(task="t", deadline_seconds=0), "over 0 and at most 1000"),
        (PlanOrder(task="t", deadline_seconds=1001), "over 0 and at most 1000"),
        (WorkerOrder(worker="critic", task="t", deadline_seconds=-1), "over 0"),
        (RunOrder(task="t", output_schema={"type": "no"}), "is no JSON Schema"),
        (RunOrder(task="t", output_schema={"type": "array"}), 'set its "type" to "object"'),
        (RunOrder(task="t", deadline_seconds=math.nan), "over 0"),
        (RunOrder(task="t", budget_usd=0), "over 0 and at most 5. The setting most_usd"),
        (PlanOrder(task="t", budget_usd=5.01), "at most 5"),
        (WorkerOrder(worker="critic", task="t", budget_usd=math.nan), "over 0"),
        (WorkerOrder(worker="critic", task="t", budget_usd=math.inf), "at most 5"),
        (WorkerOrder(worker="critic", task="t", deadline_seconds=math.inf), "at most 1000"),
    ],
)
def test_what_cannot_be_done_is_refused_with_what_to_change(order: Order, hint: str) -> None:
    with pytest.raises(RequestError) as caught:
        checked(order)
    assert hint in str(caught.value)


def nested(levels: int) -> JsonSchema:
    schema: JsonSchema = {"type": "object"}
    for _ in range(levels):
        schema = {"type": "object", "not": schema}
    return schema


@pytest.mark.parametrize(
    ("keywords", "hint"),
    [
        ({"$ref": "http://x/y"}, "Resource 'http://x/y' is not present in a registry. Other doc"),
        ({"$ref": "#/$defs/nowhere"}, "'/$defs/nowhere' does not exist"),
        ({"properties": {"a": {"$dynamicRef": "#nowhere"}}}, "'nowhere' does not exist"),
        ({"properties": {"a": {"pattern": "(?=a)b"}}}, "a pattern that cannot be used, '(?=a)b'"),
        ({"patternProperties": {r"(a)\1": {}}}, "a pattern that cannot be used"),
        ({"properties": {"a": {"pattern": "(a{1000}){1000}"}}}, "too large"),
        ({"required": {1, 2}}, "is no JSON Schema"),
        (nested(100), "more than 100 levels"),
        (nested(100_000), "more than 100 levels"),
    ],
)
def test_a_schema_that_no_reply_could_be_checked_against_is_refused(
    keywords: JsonSchema, hint: str
) -> None:
    with pytest.raises(RequestError) as caught:
        checked(RunOrder(task="t", output_schema={"type": "object"} | keywords))
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    "keywords",
    [
        {
            "properties": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}},
            "$defs": {"a": {"type": "string"}},
        },
        {"properties": {"child": {"$ref": "#"}}},
        {"properties": {"$ref": {"type": "string"}}},
        {"properties": {"a": {"enum": [{"$ref": "http://x/y"}]}}},
        {"default": {"$ref": "http://x/y"}, "examples": [{"$ref": "#/nowhere"}]},
        {"properties": {"a": {"pattern": r"^\p{L}{1,64}-\d+$"}}},
        nested(99),
    ],
)
def test_a_schema_that_refers_to_itself_or_only_seems_to_refer_is_fine(
    keywords: JsonSchema,
) -> None:
    schema: JsonSchema = {"type": "object"} | keywords
    assert checked(RunOrder(task="t", output_schema=schema)).output_schema == schema


@pytest.mark.parametrize(
    "order",
    [RunOrder(task="t", workers=("poet",)), WorkerOrder(worker="poet", task="t")],
)
def test_an_unknown_worker_is_refused_with_those_there_are(order: Order) -> None:
    with pytest.raises(UnknownWorkerError) as caught:
        checked(order)
    assert caught.value.available == ("analyst", "critic")


@pytest.mark.parametrize(
    "plan",
    [
        Plan(),
        Plan(subtasks=(subtask("s1", "poet"),)),
        Plan(subtasks=(subtask("a", depends_on=["b"]), subtask("b", depends_on=["a"]))),
        Plan(subtasks=tuple(subtask(f"s{number}") for number in range(11))),
    ],
)
def test_a_plan_that_cannot_be_run_is_refused_and_not_mended(plan: Plan) -> None:
    with pytest.raises(InvalidPlanError):
        checked(RunOrder(task="t", plan=plan))
