import pytest

from asking import document, example, work
from concertmaster.llm.offline import quotes, summary
from concertmaster.llm.offline.passages import Reading, read

pytestmark = pytest.mark.anyio


async def text(worker: str, markdown: str, name: str = "d.md") -> str:
    reply = await work(worker, document(name, markdown))
    assert reply.stop_reason == "end"
    return reply.text


def places(reading: Reading) -> list[str]:
    return [f"{item.text} ({item.place})" for item in reading.sentences]


def test_sentences_have_the_line_and_the_clause_they_begin_on() -> None:
    reading = read(
        document(
            "d.md",
            "Preamble.\n\n# Terms\n\n1.1 First *sentence*. Second,\nof two lines. Third.\n"
            "1.2 Another clause.\n\n- a point\n- [linked](http://x.y) point\n",
        )
    )
    assert places(reading) == [
        "Preamble. (line 1)",
        "First sentence. (line 5, 1.1)",
        "Second, of two lines. (line 5, 1.1)",
        "Third. (line 6, 1.1)",
        "Another clause. (line 7, 1.2)",
        "a point (line 9, Terms)",
        "linked point (line 10, Terms)",
    ]


def test_abbreviations_and_initials_end_no_sentence() -> None:
    reading = read(document("d.md", "See e.g. Annex 1 by J. Smith of Oak Inc. Or not. It ends."))
    assert [item.text for item in reading.sentences] == [
        "See e.g. Annex 1 by J. Smith of Oak Inc. Or not.",
        "It ends.",
    ]


def test_a_sentence_without_end_is_cut() -> None:
    reading = read(document("d.md", f"word{' ' * 2500}{'x' * 1500}"))
    assert [len(item.text) for item in reading.sentences] == [4, 496, 1000, 4]


def test_tables_are_read_row_by_row() -> None:
    reading = read(document("d.md", "| Item | Price |\n| --- | --- |\n| Set-up | EUR 5 |\n| | |\n"))
    assert places(reading) == ["Item | Price (line 1)", "Set-up | EUR 5 (line 3)"]
    assert reading.tables == 1


def test_titles_of_a_plain_text_are_headings() -> None:
    reading = read(
        document(
            "d.txt",
            "SERVICES AGREEMENT\n\n1. DEFINITIONS\n1.1 A term.\n\nArticle 2 Payment\n\n"
            "    The fee is due.\n\nAll of this matters:\nmuch.\n",
        )
    )
    assert [(item.line, item.text) for item in reading.headings] == [
        (1, "SERVICES AGREEMENT"),
        (3, "1. DEFINITIONS"),
        (6, "Article 2 Payment"),
    ]
    assert places(reading)[1] == "The fee is due. (line 8, Article 2 Payment)"
    assert reading.numbers == {"1", "1.1", "2"}


def test_code_and_markup_in_a_document_do_not_stop_it_from_being_read() -> None:
    reading = read(
        document(
            "d.md", "```\ncode\n```\n\n<b>Bold</b> and `name` and ![i](x.png)\n\n[](x)\n\n***\n"
        )
    )
    assert len(reading.sentences) == 1


async def test_the_example_contract_yields_its_duties_by_party() -> None:
    reply = await work("obligations-analyst", example("contract.md"))
    for expected in (
        "**Supplier must**\n\n- “The Supplier shall provide",
        "**Supplier must not**\n\n- “The Supplier must not engage a subcontractor",
        "**Client may**\n\n- “The Client may terminate",
        "**Both parties must not**\n\n- “Neither party may assign",
        "**Invoices must**\n\n- “Invoices are payable within 30 days of receipt.” (line 39, 4.2)",
    ):
        assert expected in reply.text


async def test_the_example_contract_yields_its_risks_with_the_worst_first() -> None:
    reply = await work("obligations-analyst", example("contract.md"))
    risks = reply.text.partition("### Risks: contract.md\n\n")[2].splitlines()
    assert risks[0].startswith(
        "- **critical** contract.md:79 — Unlimited liability (8.3): “This indemnity is unlimited.”."
    )
    names = ("Automatic renewal", "Penalty or exit fee", "Price increase", "Law and courts")
    for name in names:
        assert any(f" — {name} (" in risk for risk in risks), name
    assert not any("insurance of at least" in risk for risk in risks)


async def test_who_a_rule_binds_is_told_without_named_parties_too() -> None:
    found = await text(
        "obligations-analyst",
        "If it rains, employees must stay. Visitors of the large hall on the third floor may "
        "not smoke.\n\nMust be signed.\n\n| a | shall |\n| --- | --- |\n",
    )
    assert "**Employees must**" in found
    assert "**The large hall on the third floor must not**" not in found
    assert "**Large hall on the third floor must not**" in found
    assert "**Somebody must**" in found
    assert "shall" not in found


async def test_a_document_without_what_is_looked_for_says_so() -> None:
    found = await text("obligations-analyst", "The sky is blue.")
    assert found.count("Nothing of this kind was found.") == 2


async def test_a_risk_without_a_heading_is_told_without_one() -> None:
    found = await text("obligations-analyst", "It renews automatically.")
    assert "Automatic renewal: “It renews automatically.”" in found


async def test_the_example_contract_yields_its_figures_with_their_places() -> None:
    found = (await work("facts-analyst", example("contract.md"))).text
    for expected in (
        "- **EUR 18,500** — “The Client shall pay a fixed fee",
        "(line 37, 4.1); again in line 48",
        "- **99.5%** — ",
        "- **250,000 forecasts** — ",
        "- **14 delivery regions** — ",
        "- “The Supplier shall answer critical incidents within 2 hours",
        '- “"Business Day" means a day',
    ):
        assert expected in found
    assert "**8.1 " not in found
    assert "**12 months" not in found


async def test_dates_are_in_order_whatever_their_form() -> None:
    found = await text(
        "facts-analyst",
        "On 31/12/2025, March 3rd, 2026 and 2 Jan. 2026, then 2026-02-01, Sept 2026, "
        "the 4th of May 2026 and in 2026-99-99 it was May.",
    )
    dates = [line.split("**")[1] for line in found.splitlines() if line.startswith("- **")]
    assert dates == [
        "31/12/2025",
        "2 Jan. 2026",
        "2026-02-01",
        "March 3rd, 2026",
        "4th of May 2026",
        "Sept 2026",
        "2026-99-99",
    ]


async def test_amounts_are_found_before_and_after_the_number() -> None:
    found = await text(
        "facts-analyst", "It costs $5 million, 300 euros, £2.50 or 1,000 CHF. Again $5 million."
    )
    amounts = [line.split("**")[1] for line in found.splitlines() if line.startswith("- **")]
    assert amounts == ["$5 million", "300 euros", "£2.50", "1,000 CHF"]
    assert "again" not in found


async def test_the_example_contract_yields_conditions_and_what_follows() -> None:
    found = (await work("implications-analyst", example("contract.md"))).text
    for expected in (
        "**If an invoice remains unpaid for more than 45 days** → the Supplier may suspend",
        "**unless the Client objects in writing** → The Supplier may use",
        "(line 71, 7.2; concerns Client, Supplier)",
        "**if both parties have signed them** → Changes to this Agreement are only valid in "
        "writing (line 99",
        "end of the month concerned, otherwise** → the claim lapses",
    ):
        assert expected in found


async def test_a_condition_whose_consequence_cannot_be_told_apart_is_quoted() -> None:
    found = await text(
        "implications-analyst", "If and only if. As a result prices will rise. It rains."
    )
    assert "- “If and only if.” (line 1)" in found
    assert "**Stated effects**\n\n- “As a result prices will rise.” (line 1)" in found
    assert "It rains" not in found


async def test_the_example_contract_yields_its_outline_and_what_is_broken() -> None:
    found = (await work("structure-analyst", example("contract.md"))).text
    assert "12 headings, 47 numbered sections and clauses, 1 tables." in found
    assert "- Services Agreement (line 1, " in found
    assert "\n  - 9. Termination (line 83, " in found
    assert "contract.md:91 — Refers to 12, which there is not" in found
    assert "contract.md:112 — Left open" in found


async def test_references_to_other_documents_are_not_broken() -> None:
    found = await text(
        "structure-analyst",
        "Before it.\n\n# 1. One\n\nSee section 4 of the Act, section 1 of this Agreement and "
        "clauses 1, 2 and 3.\n\n# Two\n\n# two\n",
    )
    assert "Refers to 4" not in found
    assert "Refers to 1," not in found
    assert "Refers to 2, which" in found
    assert "Refers to 3, which" in found
    assert "d.md:9 — The heading “two” is also in line 7" in found


async def test_a_text_without_numbers_has_no_broken_references() -> None:
    assert "Refers" not in await text("structure-analyst", "See section 4.")


async def test_a_summary_has_the_key_sentences_in_order_and_none_twice() -> None:
    markdown = """# Bees

Bees pollinate the flowers of most fruit trees. Without bees most fruit trees bear no fruit.
My uncle once drove a very old red car to Norway. Bees pollinate the flowers of most fruit trees.
Farmers plant flowers so that bees find food near their fruit trees. Short one.

Signed: ______ by the person who wrote all of this down

| a table with many words | in it that is left out of the summary |
| --- | --- |
"""
    found = await text("summarizer", markdown)
    lines = [line for line in found.splitlines() if line.startswith("- ")]
    assert len(lines) == 3
    assert lines[0] == "- Bees pollinate the flowers of most fruit trees. (line 3, Bees)"
    assert "Norway" not in found
    assert "Signed" not in found


async def test_a_long_document_is_compared_by_its_sentences_nearest_the_topic(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(summary, "MOST_COMPARED", 2)
    found = await text(
        "summarizer",
        "The bees fly to many fruit trees. The bees pollinate many fruit trees daily. "
        "Somebody painted an old wooden fence green.",
    )
    assert "fence" not in found


async def test_an_empty_document_has_no_key_points() -> None:
    assert await text("summarizer", "") == "### Key points: d.md\n\n0 words in 0 sections."


async def test_source_code_is_named_as_not_read() -> None:
    reply = await work("summarizer", document("a.md", "Some text."), document("a.py", "x = 1"))
    assert reply.text.endswith(
        "- Not read: a.py is source code; the offline model extracts from documents only."
    )


@pytest.mark.parametrize(
    ("names", "reason"), [(["a.py"], "a.py is source code"), ([], "it was given no documents")]
)
async def test_work_without_documents_is_refused(names: list[str], reason: str) -> None:
    reply = await work("summarizer", *[document(name) for name in names])
    assert reply.stop_reason == "refusal"
    assert reason in reply.detail


async def test_a_long_sentence_is_quoted_around_what_matters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(quotes, "SHOWN", 1)
    found = await text(
        "facts-analyst", f"{'word ' * 60}EUR 77 {'word ' * 60}\n\nEUR 78 {'word ' * 60}"
    )
    assert "**EUR 77** — “… word" in found
    assert " EUR 77 word" in found
    assert "word …” (line 1)" in found
    assert "- … and 1 more" in found
