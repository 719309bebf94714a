"""What a job file may say, what is said of one that is wrong, and the jobs that are built in."""

from pathlib import Path
from string import Template

import pytest

from concertmaster.catalog.catalog import builtin_folder, load_catalog
from concertmaster.engine.plan.plan import Map
from concertmaster.engine.plan.validation import PlanRules, plan_problems
from concertmaster.errors import DefinitionError
from concertmaster.runs.jobs import Job, read_job, read_jobs
from concertmaster.tools.builtin.defaults import default_tools

ARGUMENTS = """\
arguments:
  - name: files
    description: What to greet.
    kind: files
    several: true
  - name: tone
    description: How.
    choices: [warm, cool]
  - name: words
    description: With what.
    several: true
"""

SUBTASK = """\
subtasks:
  - id: s1
    worker: writer
    objective: Greet.
"""


def job_text(
    *lines: str,
    head: str = "name: greet\ntitle: Greet\ndescription: Greets.\n",
    arguments: str = ARGUMENTS,
    subtasks: str = SUBTASK,
    task: str = "Greet $files.",
) -> str:
    """Return a job file; `lines` go on with its only subtask, from line 20."""
    more = "".join(f"    {line}\n" for line in lines)
    return f"---\n{head}{arguments}{subtasks}{more}---\n{task}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "greet.md"


def read(file: Path, text: str) -> Job:
    file.write_text(text, encoding="utf-8")
    return read_job(file)


def test_a_job_without_arguments_is_one(file: Path) -> None:
    job = read(file, job_text(arguments="", task="Greet all."))
    assert (job.name, job.title, job.task, job.arguments) == ("greet", "Greet", "Greet all.", ())
    assert [item.worker for item in job.subtasks] == ["writer"]


def test_every_key_of_a_subtask_is_read(file: Path) -> None:
    job = read(
        file,
        job_text(
            "for_each: files",
            "when: {tone: warm}",
            "why: $number of them",
            "depends_on: s1b",
            "priority: high",
            "inputs: each",
            "expects: A greeting of $each.",
            "needs_all: true",
            "decisive: true",
            "strategy: {kind: revise, critic: reviewer}",
            "timeout_seconds: 5",
            "max_tokens: 100",
            subtasks=f"mode: adaptive\nverify: mend\nmax_subtasks: 4\nchanges_files: true\n"
            f"{SUBTASK.replace('s1', 's1b')}{SUBTASK.partition(chr(10))[2]}",
        ),
    )
    assert (job.mode, job.verify, job.max_subtasks, job.changes_files) == (
        "adaptive",
        "mend",
        4,
        True,
    )
    item = job.subtasks[1]
    assert item.when == {"tone": ("warm",)}
    assert item.strategy.kind == "revise"
    assert (item.timeout_seconds, item.max_tokens, item.depends_on) == (5, 100, ("s1b",))


ONE = "arguments:\n  - name: {name}\n    description: x\n    {more}\n"

MALFORMED = {
    "no header": ("Greet.\n", 1, "a header must come first"),
    "no title": (job_text(head="name: greet\ndescription: x\n"), 1, "lacks the key 'title'"),
    "no subtasks": (job_text(subtasks="subtasks: []\n"), 16, "subtasks: "),
    "no task": (job_text(task=""), 1, "no task below the header"),
    "unknown key": (job_text(head="name: a\ntitel: b\n"), 3, "Did you mean 'title'?"),
    "name with a hyphen": (job_text(head="name: a-b\ntitle: A\ndescription: x\n"), 2, "name: "),
    "unknown mode": (job_text(subtasks=f"mode: dynamic\n{SUBTASK}"), 16, "mode: "),
    "argument that is no mapping": (job_text(arguments="arguments:\n  - files\n"), 6, "key: value"),
    "argument without description": (
        job_text(arguments="arguments:\n  - name: a\n"),
        6,
        "lacks the key 'arguments.0.description'",
    ),
    "unknown key of an argument": (
        job_text(arguments=ONE.format(name="a", more="choice: [b]")),
        8,
        "Did you mean 'choices'?",
    ),
    "argument twice": (
        job_text(arguments=ARGUMENTS + "  - name: tone\n    description: x\n"),
        16,
        "'tone' is taken",
    ),
    "argument with the name of a placeholder": (
        job_text(arguments=ONE.format(name="each", more="several: true")),
        6,
        "'each' is taken",
    ),
    "two arguments of files": (
        job_text(arguments=ARGUMENTS + "  - name: more\n    description: x\n    kind: files\n"),
        18,
        "only one",
    ),
    "default that is no choice": (
        job_text(arguments=ONE.format(name="a", more="choices: [b]\n    default: c")),
        9,
        "'c' is none of the choices",
    ),
    "at least two where one is taken": (
        job_text(arguments=ONE.format(name="a", more="at_least: 2")),
        8,
        "it takes one value",
    ),
    "default of several where one is taken": (
        job_text(arguments=ONE.format(name="a", more="default: [b, c]")),
        8,
        "one value",
    ),
    "required that is no yes or no": (
        job_text(arguments=ONE.format(name="a", more="required: 3")),
        8,
        "arguments.0.required: ",
    ),
    "unknown placeholder in the task": (
        job_text(task="Greet\n$flies."),
        22,
        "$flies. Did you mean 'files'?",
    ),
    "placeholder without arguments": (
        job_text(arguments="", task="Greet $files."),
        10,
        "The job has no arguments.",
    ),
    "lone dollar in the task": (job_text(task="For 3 $ each."), 21, "a lone $"),
    "unknown placeholder in a subtask": (job_text("why: For $wrods"), 20, "Did you mean 'words'?"),
    "each of nothing": (job_text("why: For $each"), 20, "unknown placeholder $each"),
    "unknown key of a subtask": (job_text("dependson: [s1]"), 20, "Did you mean 'depends_on'?"),
    "unknown kind of strategy": (job_text("strategy: {kind: debate}"), 20, "subtasks.0.strategy"),
    "unknown dependency": (job_text("depends_on: [s2]"), 20, "depends_on: 's2'"),
    "dependency on itself": (job_text("depends_on: [s1]"), 16, "depends on itself"),
    "for each of one": (job_text("for_each: tone"), 20, "for_each: 'tone'"),
    "for each of nothing": (
        job_text("for_each: tone", arguments="", task="Greet."),
        9,
        "no such argument",
    ),
    "context of nothing": (job_text("contexts: {locale: locales}"), 20, "contexts: 'locales'"),
    "contexts and a strategy": (
        job_text("contexts: {word: words}", "strategy: {kind: vote}"),
        20,
        "leave the strategy out",
    ),
    "condition on text": (job_text("when: {words: hello}"), 20, "when: 'words'"),
    "condition that never holds": (job_text("when: {tone: rude}"), 20, "when: 'rude'"),
    "condition that leaves nothing": (job_text("when: {tone: warm}"), 16, "neither subtasks"),
    "each input of none": (job_text("inputs: each"), 20, "for_each of the files"),
    "inputs without files": (
        job_text("inputs: all", arguments="", task="Greet."),
        9,
        "has the kind `files`",
    ),
    "same id twice": (
        job_text(subtasks=SUBTASK + SUBTASK.partition("\n")[2]),
        20,
        "the id 's1' is taken",
    ),
    "rubric without criteria": (
        job_text("strategy: {kind: vote, decide: rubric}"),
        16,
        "names no criteria",
    ),
    "cycle": (
        job_text(
            "depends_on: [s1]",
            subtasks=SUBTASK + "    depends_on: [s2]\n" + "  - id: s2\n    worker: w\n"
            "    objective: o\n",
        ),
        16,
        "cycle",
    ),
}


@pytest.mark.parametrize(("text", "line", "hint"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_job_is_refused_with_its_line_and_a_remedy(
    file: Path, text: str, line: int, hint: str
) -> None:
    with pytest.raises(DefinitionError) as caught:
        read(file, text)
    assert hint in caught.value.problem
    assert (caught.value.file, caught.value.line) == (file, line)


def test_a_job_of_a_later_folder_wins_and_faulty_files_harm_no_others(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
        (folder / "greet.md").write_text(job_text())
    (one / "wrong.md").write_text("nothing")
    (two / "twice.md").write_text(job_text())
    reading = read_jobs(one, two, tmp_path / "three")
    assert reading.jobs["greet"].file == two / "greet.md"
    assert [error.file for error in reading.errors] == [
        one / "wrong.md",
        two / "twice.md",
        tmp_path / "three",
    ]


BUILT_IN = read_jobs(builtin_folder("jobs"))
WORKERS = load_catalog(builtin_folder("workers"), tools=default_tools().names)


def test_the_jobs_that_are_built_in() -> None:
    assert BUILT_IN.errors == ()
    assert list(BUILT_IN.jobs) == [
        "analyze_document",
        "compare",
        "refactor_files",
        "report",
        "research",
        "review_code",
        "translate",
    ]
    assert [job.file.stem for job in BUILT_IN.jobs.values()] == list(BUILT_IN.jobs)


@pytest.mark.parametrize("job", BUILT_IN.jobs.values(), ids=BUILT_IN.jobs)
def test_every_plan_of_a_job_that_is_built_in_can_be_run(job: Job) -> None:
    choices = next((item.choices for item in job.arguments if item.choices), ("",))
    for choice in choices:
        given = {
            item.name: [choice] if item.choices else ["x", "y"][: item.at_least]
            for item in job.arguments
            if item.required
        }
        documents = ["a.md"] if job.files is not None and job.files.required else []
        order = job.order(job.check(given), documents)
        rules = PlanRules(workers=WORKERS.names, inputs=documents, max_subtasks=50)
        assert order.plan is not None
        assert plan_problems(order.plan, rules) == []
        assert not Template(order.task).get_identifiers()


def test_each_kind_of_document_is_analysed_in_a_way_of_its_own() -> None:
    job = BUILT_IN.jobs["analyze_document"]
    shapes: set[tuple[str, ...]] = set()
    for kind in ("contract", "report", "article"):
        plan = job.plan(job.check({"file": ["a.md"], "kind": [kind]}), ["a.md"])
        shapes.add(tuple(f"{item.worker}<{len(item.depends_on)}" for item in plan.subtasks))
    assert len(shapes) == 3


def test_a_translation_is_one_subtask_so_that_its_result_is_the_answer() -> None:
    job = BUILT_IN.jobs["translate"]
    plan = job.plan(job.check({"files": ["a.md"], "locales": ["de", "da"]}), ["a.md"])
    (only,) = plan.subtasks
    assert isinstance(only.strategy, Map)
    assert only.strategy.contexts == ({"locale": "de"}, {"locale": "da"})
