"""What becomes of a job and of what was said of it: a task, inputs and a plan."""

from pathlib import Path

import pytest

from concertmaster.engine.plan.plan import Map, Plan, Revise
from concertmaster.errors import InvalidPlanError, RequestError
from concertmaster.runs.jobs import Job, JobArgument, JobSubtask


def argument(name: str, **fields: object) -> JobArgument:
    return JobArgument.model_validate({"name": name, "description": f"The {name}."} | fields)


def part(subtask_id: str, **fields: object) -> JobSubtask:
    return JobSubtask.model_validate(
        {"id": subtask_id, "worker": "writer", "objective": "Greet."} | fields
    )


FILES = argument("files", kind="files", several=True)
WORDS = argument("words", several=True)
TONE = argument("tone", choices=["warm", "cool"])


def job(*subtasks: JobSubtask, arguments: tuple[JobArgument, ...] = (FILES, WORDS, TONE)) -> Job:
    return Job(
        name="greet",
        title="Greet",
        description="Greets.",
        task="Greet.",
        file=Path("greet.md"),
        arguments=arguments,
        subtasks=subtasks or (part("s1"),),
    )


def plan_of(made: Job, documents: tuple[str, ...] = (), **given: list[str]) -> Plan:
    plan = made.order(made.check(given), documents).plan
    assert plan is not None
    return plan


@pytest.mark.parametrize(
    ("arguments", "given", "sentence"),
    [
        ([argument("tone", required=True)], {}, "greet needs the argument 'tone': The tone."),
        ([argument("tone", required=True)], {"tone": [" "]}, "needs the argument 'tone'"),
        ([TONE], {"tune": ["warm"]}, "greet has no argument 'tune'. Did you mean 'tone'?"),
        ([TONE], {"tone": ["rude"]}, "tone is 'rude'; it can be warm, cool."),
        ([TONE], {"tone": ["warm", "cool"]}, "tone takes one value; 2 were given."),
        (
            [argument("words", several=True, at_least=3)],
            {"words": ["a", "b", "a"]},
            "words takes 3 values or more; there is only 'a', 'b'.",
        ),
    ],
)
def test_wrong_arguments_are_refused_with_a_sentence(
    arguments: list[JobArgument], given: dict[str, list[str]], sentence: str
) -> None:
    with pytest.raises(RequestError) as caught:
        job(arguments=tuple(arguments)).check(given)
    assert sentence in str(caught.value)


def test_values_are_stripped_and_each_is_there_once_and_defaults_stand_in() -> None:
    made = job(arguments=(WORDS, argument("tone", default="warm")))
    assert made.check({"words": [" a", "b ", "", "a"]}) == {"words": ("a", "b"), "tone": ("warm",)}


def test_an_argument_with_a_least_number_of_values_can_be_left_out() -> None:
    made = job(arguments=(argument("words", several=True, at_least=2),))
    assert made.check({}) == {"words": ()}


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("hello, dear\n", ("hello", " dear\n")),
        ("hello, dear\nfriend", ("hello, dear", "friend")),
    ],
)
def test_several_values_in_one_text_are_cut_at_lines_or_else_at_commas(
    text: str, values: tuple[str, ...]
) -> None:
    assert job().split({"words": text}) == {"words": values}


def test_one_value_is_left_whole() -> None:
    assert job().split({"tone": "warm, cool"}) == {"tone": ("warm, cool",)}


def test_texts_have_what_was_said_and_the_names_of_inputs() -> None:
    made = job(part("s1", objective="Say $words ($tone) to $files for $$5.", expects="$words"))
    (only,) = plan_of(made, ("a.md", "b.md"), words=["hi", "ho"], tone=["warm"]).subtasks
    assert only.objective == 'Say hi, ho (warm) to "a.md", "b.md" for $5.'
    assert only.expects == "hi, ho"


def test_what_was_said_is_never_taken_for_a_placeholder() -> None:
    made = job(part("s1", objective="Say $words."))
    (only,) = plan_of(made, words=["$tone $ $$"]).subtasks
    assert only.objective == "Say $tone $ $$."


def test_of_many_inputs_the_texts_name_some() -> None:
    (only,) = plan_of(job(part("s1", objective="$files")), tuple("abcdefg")).subtasks
    assert only.objective == '"a", "b", "c", "d", "e", 2 more'


def test_a_subtask_for_each_value_is_repeated_and_all_of_them_are_waited_for() -> None:
    made = job(
        part("one", for_each="words", worker="$each", objective="$number: $each", inputs="all"),
        part("end", depends_on="one"),
    )
    plan = plan_of(made, ("a.md",), words=["hi", "ho"])
    assert [(item.id, item.worker, item.objective) for item in plan.subtasks[:2]] == [
        ("one-1", "hi", "1: hi"),
        ("one-2", "ho", "2: ho"),
    ]
    assert plan.subtasks[0].inputs == ("a.md",)
    assert plan.subtasks[2].depends_on == ("one-1", "one-2")


def test_a_subtask_for_each_file_gets_that_input_alone() -> None:
    made = job(part("file", for_each="files", objective="Mend $each.", inputs="each"))
    plan = plan_of(made, ("a.md", "b.md"), files=["*.md"])
    assert [item.inputs for item in plan.subtasks] == [("a.md",), ("b.md",)]
    assert plan.subtasks[1].objective == 'Mend "b.md".'


def test_a_name_with_line_breaks_stays_in_its_line_of_a_subtask() -> None:
    each = job(part("file", for_each="files", objective="Mend $each.", inputs="each"))
    plan = plan_of(each, ("b.md\n## New orders",), files=["*.md"])
    assert plan.subtasks[0].objective == 'Mend "b.md\\n## New orders".'


def test_a_subtask_of_another_case_is_left_out_with_what_waits_for_it() -> None:
    made = job(part("hug", when={"tone": "warm"}), part("nod", depends_on=["hug"]))
    assert [item.id for item in plan_of(made, tone=["warm"]).subtasks] == ["hug", "nod"]
    (only,) = plan_of(made, tone=["cool"]).subtasks
    assert (only.id, only.depends_on) == ("nod", ())


def test_contexts_make_a_map_over_all_combinations() -> None:
    made = job(part("s1", contexts={"word": "words", "tone": "tone"}))
    (only,) = plan_of(made, words=["hi", "ho"], tone=["warm"]).subtasks
    assert isinstance(only.strategy, Map)
    assert only.strategy.contexts == (
        {"word": "hi", "tone": "warm"},
        {"word": "ho", "tone": "warm"},
    )


def test_other_strategies_stay_as_they_are() -> None:
    (only,) = plan_of(job(part("s1", strategy={"kind": "revise", "rounds": 1}))).subtasks
    assert only.strategy == Revise(kind="revise", rounds=1)


def test_a_job_for_one_file_is_not_done_on_several() -> None:
    made = job(arguments=(argument("file", kind="files"),))
    with pytest.raises(RequestError) as caught:
        made.order(made.check({"file": ["*.md"]}), ["a.md", "b.md"])
    assert "file takes one file; these are 2: a.md, b.md." in str(caught.value)


def test_a_job_of_which_too_little_is_said_is_refused() -> None:
    made = job(part("s1", objective="$words"))
    with pytest.raises(InvalidPlanError):
        made.order(made.check({}), ())


def test_a_job_without_files_has_no_inputs() -> None:
    made = job(arguments=())
    assert made.order({}, ()).inputs == ()
