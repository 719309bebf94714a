import json
from typing import Any, cast

import pytest

from concertmaster.engine.conversation import schema_errors
from concertmaster.engine.plan.plan import MOST_PARTS, CustomWorker, Plan, read_plan
from concertmaster.engine.plan.repair import repair_plan
from concertmaster.engine.plan.validation import PlanRules, plan_problems, plan_schema
from concertmaster.errors import InvalidPlanError
from fakes import plan_json, subtask

RULES = PlanRules(workers=["analyst", "critic", "writer"], inputs=["a.py", "b.py"], max_subtasks=3)


def plan(*subtasks: Any, **fields: Any) -> Plan:
    return Plan(subtasks=subtasks, **fields)


def vote(**fields: Any) -> dict[str, Any]:
    return {"kind": "vote", "decide": "rubric"} | fields


def test_a_plan_is_read_from_json() -> None:
    assert read_plan(plan_json(subtask("s1"))).subtasks == (subtask("s1"),)


def test_a_plan_is_read_from_json_in_a_code_fence() -> None:
    assert read_plan(f"```json\n{plan_json(subtask('s1'))}\n```").subtasks == (subtask("s1"),)


@pytest.mark.parametrize(
    "text",
    [
        "Here is {the plan}:\n\n{plan}\n\nIt has one subtask.",
        "Two steps.\n```json\n{plan}\n```\nThat is all.",
        "{plan} {}",
        'First I thought of {"subtasks": []}, but then: {plan}',
    ],
)
def test_a_plan_is_read_from_prose_around_it(text: str) -> None:
    whole = text.replace("{plan}", plan_json(subtask("s1", objective='find "{" and }')))
    assert [item.id for item in read_plan(whole).subtasks] == ["s1"]


def test_a_plan_that_breaks_off_is_refused_however_much_of_it_there_is() -> None:
    text = plan_json(*(subtask(f"s{number}") for number in range(500)))
    with pytest.raises(InvalidPlanError, match="EOF"):
        read_plan(text[:-2])


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "JSON"),
        ("I would begin with", "JSON"),
        ('{"subtasks": "all"}', "subtasks"),
        ('{"subtasks": [{"id": "s1", "worker": "analyst"}]}', "subtasks.0.objective"),
        ('{"subtasks": [{"id": "1 2", "worker": "a", "objective": "x"}]}', "subtasks.0.id"),
        ('{"steps": []}', "steps"),
        ('{"subtasks": [{"timeout_seconds": 1e999}]}', "timeout_seconds: Input should be a finite"),
        ('{"subtasks": [{"timeout_seconds": "nan"}]}', "timeout_seconds: Input should be"),
    ],
)
def test_text_that_is_no_plan_is_refused_with_the_place(text: str, hint: str) -> None:
    with pytest.raises(InvalidPlanError) as caught:
        read_plan(text)
    assert hint in " ".join(caught.value.problems)


OTHER_NAMES = {
    "id": "task_id",
    "worker": "task_type",
    "objective": "description",
    "depends_on": "dependencies",
    "subtasks": "tasks",
}


def with_other_names(value: Any) -> Any:
    """Return a plan as JSON data, with the second name of each key that has one."""
    if isinstance(value, list):
        return [with_other_names(item) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value).items()
        return {OTHER_NAMES.get(key, key): with_other_names(inner) for key, inner in fields}
    return value


def test_a_plan_may_use_the_other_common_names_of_its_keys() -> None:
    made = plan(subtask("s1"), subtask("s2", "writer", depends_on=["s1"]))
    text = json.dumps(with_other_names(json.loads(made.model_dump_json())))
    assert all(f'"{name}"' in text for name in OTHER_NAMES.values())
    assert read_plan(text) == made


def test_schemas_and_stored_plans_have_one_name_for_each_key() -> None:
    stored = read_plan('{"tasks": [{"task_id": "s1", "task_type": "critic", "description": "x"}]}')
    written = stored.model_dump(mode="json")
    published, schema = Plan.model_json_schema(), plan_schema(RULES)
    for keys in (
        written | written["subtasks"][0],
        published["properties"] | published["$defs"]["Subtask"]["properties"],
        schema["properties"] | schema["properties"]["subtasks"]["items"]["properties"],
    ):
        assert OTHER_NAMES.keys() <= keys.keys()
        assert not set(OTHER_NAMES.values()) & keys.keys()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"subtask": []}', "subtask: there is no such key; did you mean 'subtasks'?"),
        (
            '{"tasks": [{"id": "s1", "worker": "a", "objective": "x", "dependency": []}]}',
            "tasks.0.dependency: there is no such key; did you mean 'depends_on'?",
        ),
        (
            '{"tasks": [{"id": "s1", "task_id": "s2", "worker": "a", "objective": "x"}]}',
            "tasks.0.task_id: it means the same as 'id', which is given too; "
            "leave one of them out.",
        ),
        (
            '{"subtasks": [{"id": "s1", "agent": "a", "worker": "a", "objective": "x"}]}',
            "subtasks.0.agent: there is no such key; leave it out, or use one of id, worker, "
            "objective, why,",
        ),
        (
            '{"custom_workers": [{"name": "a", "role": "x", "descripton": "x"}]}',
            "custom_workers.0.descripton: there is no such key; did you mean 'description'?",
        ),
    ],
)
def test_a_wrong_key_is_refused_with_the_right_one(text: str, sentence: str) -> None:
    with pytest.raises(InvalidPlanError) as caught:
        read_plan(text)
    assert any(problem.startswith(sentence) for problem in caught.value.problems)


def test_a_lenient_reader_leaves_out_what_a_plan_does_not_have() -> None:
    vote = {"kind": "vote", "voters": [{"worker": "critic", "mood": "good"}, {}], "at": "once"}
    text = json.dumps(
        {
            "colour": "red",
            "subtasks": [
                {"id": "s1", "worker": "analyst", "objective": "x", "where": "here"},
                {"id": "s2", "worker": "analyst", "objective": "x", "strategy": vote},
            ],
        }
    )
    with pytest.raises(InvalidPlanError, match="colour"):
        read_plan(text)
    first, second = read_plan(text, lenient=True).subtasks
    assert (first.id, second.id) == ("s1", "s2")
    assert second.strategy.kind == "vote"


def test_a_lenient_reader_still_refuses_what_a_plan_lacks() -> None:
    with pytest.raises(InvalidPlanError, match="objective"):
        read_plan('{"subtasks": [{"id": "s1", "worker": "a", "mood": "good"}]}', lenient=True)


def test_a_good_plan_has_no_problems() -> None:
    good = plan(subtask("s1", inputs=["a.py"]), subtask("s2", "writer", depends_on=["s1"]))
    assert plan_problems(good, RULES) == []


def test_a_direct_answer_alone_has_no_problems() -> None:
    assert plan_problems(plan(direct_answer="42"), RULES) == []


def over_contexts(count: int) -> dict[str, object]:
    contexts = [{"n": str(number)} for number in range(count)]
    return {"kind": "map", "over": "contexts", "contexts": contexts}


def test_a_plan_may_have_as_many_parts_as_a_subtask_may() -> None:
    most = plan(subtask("s1", strategy=over_contexts(MOST_PARTS)))
    assert plan_problems(most, RULES) == []


@pytest.mark.parametrize("empty", ["description", "instructions", "why"])
def test_a_custom_worker_that_says_nothing_is_refused(empty: str) -> None:
    poet = {"name": "poet", "description": " d ", "instructions": "i", "why": "w"}
    assert CustomWorker.model_validate(poet).description == "d"
    with pytest.raises(InvalidPlanError, match=empty):
        read_plan(json.dumps({"subtasks": [], "custom_workers": [poet | {empty: " \n"}]}))


@pytest.mark.parametrize(
    ("broken", "hint"),
    [
        (plan(), "neither subtasks nor"),
        (plan(direct_answer=" "), "direct_answer is empty"),
        (plan(subtask("s1"), direct_answer="42"), "direct_answer is set"),
        (plan(subtask("s1", "poet")), "'poet', which does not exist; available: analyst, critic"),
        (plan(subtask("s1"), subtask("s1")), "Several subtasks have the id 's1'"),
        (plan(subtask("s1", depends_on=["s9"])), "'s9', which is no subtask"),
        (plan(subtask("s1", depends_on=["s1"])), "depends on itself"),
        (plan(subtask("s1", inputs=["c.py"])), '"c.py", which does not exist; available: "a.py"'),
        (plan(subtask("s1", objective=" ")), "empty objective"),
        (plan(*[subtask(f"s{n}") for n in range(4)]), "has 4 subtasks; at most 3"),
        (
            plan(subtask("s1", depends_on=["s2"]), subtask("s2", depends_on=["s1"])),
            "form a cycle",
        ),
        (
            plan(subtask("s1", strategy=vote(criteria=[{"name": "a"}, {"name": "a"}]))),
            "names a criterion twice",
        ),
        (plan(subtask("s1", strategy=vote(voters=[{}], decide="judge"))), "takes two to vote"),
        (plan(subtask("s1", strategy=vote(criteria=[]))), "names no criteria"),
        (plan(subtask("s1", strategy=over_contexts(0))), "but names none"),
        (plan(subtask("s1", strategy={"kind": "map"})), "but the subtask has none"),
        (
            plan(subtask("s1", strategy=over_contexts(MOST_PARTS + 1))),
            "has 101 parts; one subtask may have 100",
        ),
        (
            plan(subtask("s1", inputs=["a.py"] * (MOST_PARTS + 1), strategy={"kind": "map"})),
            "has 101 parts; one subtask may have 100",
        ),
    ],
)
def test_each_fault_of_a_plan_is_one_problem(broken: Plan, hint: str) -> None:
    problems = plan_problems(broken, RULES)
    assert len(problems) == 1
    assert hint in problems[0]


def test_all_faults_of_a_plan_are_told_at_once() -> None:
    broken = plan(subtask("s1", "poet", depends_on=["s9"], inputs=["c.py"]))
    assert len(plan_problems(broken, RULES)) == 3


def test_repair_gives_an_unknown_worker_s_subtask_to_the_nearest_name() -> None:
    repaired = repair_plan(plan(subtask("s1", "critics")), RULES, task="t")
    assert repaired.plan.subtasks[0].worker == "critic"
    assert "'critics'" in repaired.warnings[0]


def test_repair_gives_an_unlike_name_to_a_general_worker() -> None:
    repaired = repair_plan(plan(subtask("s1", "zookeeper")), RULES, task="t")
    assert repaired.plan.subtasks[0].worker == "analyst"


def test_repair_takes_any_worker_where_no_general_one_is_allowed() -> None:
    rules = PlanRules(workers=["zed", "critic"], inputs=[], max_subtasks=3)
    repaired = repair_plan(plan(subtask("s1", "poet")), rules, task="t")
    assert repaired.plan.subtasks[0].worker == "critic"


def test_repair_drops_references_to_what_does_not_exist() -> None:
    broken = plan(subtask("s1", depends_on=["s1", "s9"], inputs=["a.py", "c.py"]))
    repaired = repair_plan(broken, RULES, task="t")
    assert repaired.plan.subtasks[0].depends_on == ()
    assert repaired.plan.subtasks[0].inputs == ("a.py",)
    assert len(repaired.warnings) == 3


def test_repair_breaks_a_cycle_at_the_edge_that_points_to_later_work() -> None:
    broken = plan(subtask("s1", depends_on=["s2"]), subtask("s2", depends_on=["s1"]))
    repaired = repair_plan(broken, RULES, task="t")
    assert [item.depends_on for item in repaired.plan.subtasks] == [(), ("s1",)]


def test_repair_keeps_the_most_important_subtasks_and_tells_what_is_left_out() -> None:
    broken = plan(
        subtask("s1", priority="low"),
        subtask("s2", depends_on=["s1"]),
        subtask("s3", priority="high"),
        subtask("s4"),
    )
    repaired = repair_plan(broken, RULES, task="t")
    assert [item.id for item in repaired.plan.subtasks] == ["s2", "s3", "s4"]
    assert repaired.plan.subtasks[0].depends_on == ()
    assert "'s1'" in repaired.left_out[0]


def test_repair_renames_a_second_subtask_of_the_same_id() -> None:
    repaired = repair_plan(plan(subtask("s1"), subtask("s1"), subtask("s1")), RULES, task="t")
    assert [item.id for item in repaired.plan.subtasks] == ["s1", "s1_2", "s1_3"]


def test_repair_tells_any_number_of_subtasks_with_one_long_id_apart() -> None:
    for name in ("a" * 40, "a" * 37 + "_2", "a" * 38 + "_2"):
        repaired = repair_plan(plan(*[subtask(name)] * 12), RULES, task="t")
        ids = [item.id for item in repaired.plan.subtasks]
        assert len(set(ids)) == len(ids) == RULES.max_subtasks


def test_repair_leaves_out_subtasks_without_an_objective() -> None:
    repaired = repair_plan(plan(subtask("s1", objective=" "), subtask("s2")), RULES, task="t")
    assert [item.id for item in repaired.plan.subtasks] == ["s2"]


def test_repair_prefers_subtasks_to_a_direct_answer() -> None:
    repaired = repair_plan(plan(subtask("s1"), direct_answer="42"), RULES, task="t")
    assert repaired.plan.direct_answer is None
    assert repaired.warnings


def test_repair_gives_the_whole_task_to_one_worker_when_nothing_is_left() -> None:
    repaired = repair_plan(plan(), RULES, task="the whole task")
    only = repaired.plan.subtasks[0]
    assert (only.worker, only.objective, only.inputs) == (
        "analyst",
        "the whole task",
        ("a.py", "b.py"),
    )


@pytest.mark.parametrize(
    "broken",
    [
        plan(),
        plan(subtask("s1", "poet", depends_on=["s2"]), subtask("s2", depends_on=["s1", "x"])),
        plan(*[subtask("s1", depends_on=["s1"]) for _ in range(5)]),
        plan(
            subtask("a", depends_on=["b"]),
            subtask("b", depends_on=["c", "a"]),
            subtask("c", depends_on=["a"]),
        ),
    ],
)
def test_a_repaired_plan_has_no_problems(broken: Plan) -> None:
    assert plan_problems(repair_plan(broken, RULES, task="t").plan, RULES) == []


def test_the_schema_for_planners_accepts_a_plan_and_no_unknown_names() -> None:
    schema = plan_schema(RULES)
    good = json.loads(plan_json(subtask("s1", inputs=["a.py"])))
    assert schema_errors(good, schema) == []
    assert schema_errors(json.loads(plan_json(direct_answer="42")), schema) == []
    good["subtasks"][0]["worker"] = "poet"
    assert schema_errors(good, schema) != []


def test_the_schema_for_planners_has_no_empty_choice_where_there_are_no_inputs() -> None:
    rules = PlanRules(workers=["analyst"], inputs=[], max_subtasks=3)
    assert schema_errors(json.loads(plan_json(subtask("s1"))), plan_schema(rules)) == []
