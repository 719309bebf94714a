import pytest

from asking import cards, document, plan
from concertmaster.errors import ModelRequestError
from concertmaster.llm.messages import Document, WorkerCard
from concertmaster.llm.offline.skills import skill_of

pytestmark = pytest.mark.anyio

CODE = document("app.py", "x = 1\n")
CONTRACT = document("contract.md", "# Contract\n\nThe Client shall pay.\n")
REVIEWERS = {
    "security-reviewer",
    "performance-reviewer",
    "style-reviewer",
    "test-reviewer",
    "documentation-reviewer",
}
ANALYSTS = {
    "structure-analyst",
    "obligations-analyst",
    "facts-analyst",
    "implications-analyst",
    "summarizer",
}


async def workers_for(task: str, *inputs: Document) -> set[str]:
    made = await plan(task, *inputs)
    return {subtask.worker for subtask in made.subtasks}


def test_each_shipped_specialist_and_whoever_may_calculate_or_search_has_a_skill() -> None:
    skilled = {name for name, card in cards().items() if skill_of(card) is not None}
    assert skilled == {*REVIEWERS, *ANALYSTS, "reviewer", "analyst", "researcher"}


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("Review this code for problems", REVIEWERS),
        ("app.py", REVIEWERS),
        ("Find the bugs in this module", REVIEWERS | {"reviewer"}),
        ("Are there security holes in it?", {"security-reviewer"}),
        ("Check security and performance", {"security-reviewer", "performance-reviewer"}),
        ("Is the documentation complete?", {"documentation-reviewer"}),
        ("Let style-reviewer look at the injection risks", {"style-reviewer"}),
        ("Review docs/security.py for problems", REVIEWERS),
    ],
)
async def test_code_gets_the_reviewers_that_the_task_wants(task: str, expected: set[str]) -> None:
    assert await workers_for(task, CODE) == expected


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("Analyse this contract", ANALYSTS),
        ("Summarise contract.md", {"summarizer"}),
        ("Write a summary of it", {"summarizer"}),
        ("What are our obligations and deadlines?", {"obligations-analyst", "facts-analyst"}),
        ("How is it structured? Show the outline", {"structure-analyst"}),
    ],
)
async def test_documents_get_the_analysts_that_the_task_wants(
    task: str, expected: set[str]
) -> None:
    assert await workers_for(task, CONTRACT) == expected


async def test_each_subtask_gets_the_inputs_of_its_kind() -> None:
    made = await plan("Check all of this", CODE, CONTRACT, document("app.js"), max_subtasks=20)
    by_worker = {subtask.worker: subtask.inputs for subtask in made.subtasks}
    assert by_worker["security-reviewer"] == ("app.py",)
    assert by_worker["summarizer"] == ("contract.md",)
    assert set(by_worker) == REVIEWERS | ANALYSTS
    assert "Not used, as no rule fits the task and them: app.js." in made.analysis


async def test_a_task_about_one_kind_leaves_the_other_alone() -> None:
    assert await workers_for("Review this code", CODE, CONTRACT) == REVIEWERS
    assert await workers_for("Analyse this agreement", CODE, CONTRACT) == ANALYSTS


async def test_fewer_subtasks_are_the_most_important_and_the_rest_is_named() -> None:
    made = await plan("Review this code", CODE, max_subtasks=2)
    assert {item.worker for item in made.subtasks} == {"security-reviewer", "performance-reviewer"}
    assert (
        "at most 2 subtasks: test-reviewer, style-reviewer, documentation-reviewer."
        in made.analysis
    )


async def test_security_and_the_summary_come_first() -> None:
    code = await plan("Review this code", CODE, max_subtasks=1)
    text = await plan("Analyse this contract", CONTRACT, max_subtasks=1)
    assert [item.worker for item in (*code.subtasks, *text.subtasks)] == [
        "security-reviewer",
        "summarizer",
    ]


async def test_subtasks_are_numbered_and_say_why() -> None:
    made = await plan("Check the security", *[document(f"{n}.py") for n in range(7)])
    (only,) = made.subtasks
    assert (only.id, only.priority, only.depends_on) == ("s1", "high", ())
    assert only.objective.endswith("in 0.py, 1.py, 2.py, 3.py, 4.py, 2 more.")
    assert only.why.startswith("The task says “secur”; this one is for security review")


async def test_a_plan_that_cannot_do_all_says_so() -> None:
    made = await plan("Find the problems and fix them", CODE)
    assert made.analysis.endswith("Nothing is written or changed; that needs a language model.")


@pytest.mark.parametrize(
    ("task", "inputs", "reason"),
    [
        ("Why is the sky blue?", [], "no inputs were given"),
        ("Translate it to French", [CONTRACT], "it does not write or change anything"),
        ("Review this code", [document("app.js")], "app.js is neither"),
        ("Summarise this", [CODE], "none"),
    ],
)
async def test_what_rules_cannot_do_is_said_at_once(
    task: str, inputs: list[Document], reason: str
) -> None:
    workers = [cards()["summarizer"]] if inputs == [CODE] else None
    with pytest.raises(ModelRequestError, match=reason) as told:
        await plan(task, *inputs, workers=workers)
    assert "ANTHROPIC_API_KEY or CONCERTMASTER_API_KEY" in str(told.value)


async def test_only_the_workers_offered_are_used() -> None:
    offered = [cards()[name] for name in ("security-reviewer", "summarizer", "writer")]
    made = await plan("Review this code", CODE, workers=offered)
    assert [subtask.worker for subtask in made.subtasks] == ["security-reviewer"]
    with pytest.raises(ModelRequestError, match="none of the workers that may be used"):
        await plan("Review this code", CODE, workers=[cards()["writer"]])


async def test_a_worker_for_everything_does_it_when_no_specialist_is_offered() -> None:
    own = WorkerCard(name="code-reviewer", description="Expert in reviews.")
    made = await plan("Review this code", CODE, workers=[own])
    assert [subtask.worker for subtask in made.subtasks] == ["code-reviewer"]
    assert "this one is for Expert in reviews." in made.subtasks[0].why
    with_specialists = await plan("Review it", CODE, workers=[own, *cards().values()])
    assert {item.worker for item in with_specialists.subtasks} == REVIEWERS
    with_words = await plan("Do a code review", CODE, workers=[own, *cards().values()])
    assert {item.worker for item in with_words.subtasks} == REVIEWERS


async def test_of_two_workers_of_one_skill_the_one_nearer_to_the_task_is_used() -> None:
    own = WorkerCard(
        name="z-audit",
        description="Looks for vulnerabilities in payment services.",
        best_for=("payment security", "injection"),
    )
    workers = [own, *cards().values()]
    made = await plan("Check the security of this payment code", CODE, workers=workers)
    assert [subtask.worker for subtask in made.subtasks] == ["z-audit"]
    made = await plan("Check for vulnerabilities in source code", CODE, workers=workers)
    assert [subtask.worker for subtask in made.subtasks] == ["security-reviewer"]


@pytest.mark.parametrize(
    "card",
    [
        WorkerCard(name="test-writer", description="Writes unit tests."),
        WorkerCard(name="fixer", description="Finds and fixes security vulnerabilities."),
        WorkerCard(name="cook", description="Knows recipes."),
        WorkerCard(
            name="lawyer",
            description="Explains duties, risks and liability.",
            not_for=("listing obligations",),
        ),
    ],
)
def test_a_worker_that_rules_cannot_stand_in_for_has_no_skill(card: WorkerCard) -> None:
    assert skill_of(card) is None
