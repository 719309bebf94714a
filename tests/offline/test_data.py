from dataclasses import replace

import pytest

from asking import cards, document, plan, work
from concertmaster.llm.messages import Document, ToolOutcome

pytestmark = pytest.mark.anyio

DISK = document("disk.csv", "time,used,writer,note\n8:00,400,db,\n9:00,410.5,db,\n9:30,500,x,\n")
LETTER = document("letter.md", "# Letter\n\nThe supplier shall pay 5 EUR by 1 May 2027.\n")


async def test_each_column_of_a_table_is_described() -> None:
    assert (await work("analyst", DISK)).text.splitlines() == [
        "### disk.csv: 3 rows",
        "",
        "| Column | Filled | Smallest | Median | Mean | Largest | Sum | Most often |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| time | 3 |  |  |  |  |  | all differ |",
        "| used | 3 | 400 | 410.5 | 436.83 | 500 | 1,310.5 |  |",
        "| writer | 3 |  |  |  |  |  | db (2) |",
        "| note | 0 |  |  |  |  |  |  |",
    ]


async def test_a_table_without_rows_is_told_of() -> None:
    assert (await work("analyst", document("a.csv", "n,m\n"))).text == "### a.csv: 0 rows"


@pytest.mark.parametrize("inputs", [(), (LETTER,), (DISK, LETTER)])
async def test_a_worker_that_calculates_is_refused_all_but_tables(
    inputs: tuple[Document, ...],
) -> None:
    reply = await work("analyst", *inputs)
    assert reply.stop_reason == "refusal"
    assert "but for describing tables" in reply.detail


async def test_a_calculation_that_fails_is_told_of() -> None:
    failed = ToolOutcome(id="describe", text="The sandbox gave up.", failed=True)
    reply = await work("analyst", DISK, outcomes=[failed])
    assert reply.stop_reason == "refusal"
    assert "The sandbox gave up." in reply.detail


async def test_tables_go_to_whoever_may_calculate_and_documents_to_the_others() -> None:
    made = await plan("Analyse this", DISK, LETTER)
    inputs = {subtask.worker: subtask.inputs for subtask in made.subtasks}
    assert inputs.pop("analyst") == ("disk.csv",)
    assert inputs
    assert set(inputs.values()) == {("letter.md",)}


async def test_where_nobody_may_calculate_a_table_is_a_document() -> None:
    workers = [replace(card, tools=()) for card in cards().values()]
    made = await plan("Analyse this", DISK, workers=workers)
    assert {subtask.inputs for subtask in made.subtasks} == {("disk.csv",)}
    assert "analyst" not in {subtask.worker for subtask in made.subtasks}
