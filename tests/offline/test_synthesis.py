import pytest

from asking import document, example, result, synthesis, work
from concertmaster.llm.offline import synthesis as module

pytestmark = pytest.mark.anyio

HIGH = "- **high** a.py:3 — Odd (E722). Fix: name the error."
LOW = "- **low** a.py:1 — Unused (F401). Fix: remove it."


async def test_findings_of_all_workers_become_one_ranked_list() -> None:
    answer = await synthesis(
        result("style-reviewer", f"1 low in a.py.\n\n{LOW}"),
        result("security-reviewer", f"1 high in a.py.\n\n{HIGH}"),
    )
    assert answer == (
        "## Summary\n\n"
        "- 1 high, 1 low findings in 1 file. The first to look at: a.py:3, Odd.\n\n"
        "## Findings, the worst first\n\n"
        f"{HIGH} [security-reviewer]\n{LOW} [style-reviewer]"
    )


async def test_what_two_workers_found_is_told_once_with_the_worse_severity() -> None:
    milder = HIGH.replace("high", "medium").replace("E722)", "E722; also lines 9)")
    answer = await synthesis(result("one", milder), result("two", HIGH))
    assert "1 high findings in 1 file" in answer
    assert "- **high** a.py:3 — Odd (E722; also lines 9). Fix: name the error. [one, two]" in answer


async def test_findings_of_an_earlier_synthesis_keep_their_workers() -> None:
    answer = await synthesis(result("one, two", f"{HIGH} [one]"), result("three", LOW))
    assert f"{HIGH} [one]" in answer


async def test_files_are_counted() -> None:
    answer = await synthesis(result("one", f"{HIGH}\n{LOW.replace('a.py', 'b.py')}"))
    assert "findings in 2 files" in answer


async def test_many_findings_of_low_severity_are_cut() -> None:
    lines = [f"- **low** a.py:{number} — Odd {number}. Fix: do." for number in range(20)]
    answer = await synthesis(result("one", "\n".join(lines)))
    assert answer.endswith("- … and 5 more of low severity in the workers' results")


async def test_what_is_missing_is_named_with_its_reason() -> None:
    answer = await synthesis(
        result("style-reviewer", HIGH),
        result("test-reviewer", "", subtask_id="s2", status="failed", problem="It was too slow."),
        result("writer", "", subtask_id="s3", status="skipped"),
        result("security-reviewer", "- Not reviewed: a.js is no Python."),
        result("test-reviewer", "- Not reviewed: a.js is no Python."),
    )
    assert answer.partition("## What is missing\n\n")[2].splitlines() == [
        "- test-reviewer (s2) is failed: It was too slow.",
        "- writer (s3) is skipped: no reason is known",
        "- Not reviewed: a.js is no Python.",
    ]


async def test_other_texts_are_given_as_they_are() -> None:
    answer = await synthesis(
        result("writer", "Dear Sir."), result("analyst", "### Cost\n\nIt is dear.")
    )
    assert answer == "## writer\n\nDear Sir.\n\n## Cost\n\nIt is dear."


async def test_nothing_at_all_is_said_to_be_nothing() -> None:
    assert await synthesis(result("writer", "")) == "The workers found nothing."


async def test_a_long_section_is_cut_and_says_where_the_rest_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SECTION_LINES", 2)
    answer = await synthesis(result("writer", "one\ntwo\nthree\nfour", subtask_id="s7"))
    assert answer == "## writer\n\none\ntwo\n\n(2 more lines in the result of subtask s7.)"


async def test_the_example_contract_gets_a_summary_first_then_sections_in_order() -> None:
    names = (
        "structure-analyst",
        "implications-analyst",
        "facts-analyst",
        "obligations-analyst",
        "summarizer",
    )
    contract = example("contract.md")
    results = [result(name, (await work(name, contract)).text) for name in names]
    answer = await synthesis(*results)
    headings = [line for line in answer.splitlines() if line.startswith("## ")]
    assert headings == [
        "## Summary",
        "## Findings, the worst first",
        "## Obligations: contract.md",
        "## Facts and figures: contract.md",
        "## Implications: contract.md",
        "## Structure: contract.md",
    ]
    assert "The first to look at: contract.md:79, Unlimited liability" in answer
    assert len(answer) < 20_000


async def test_the_example_shop_has_the_injection_on_top() -> None:
    shop = example("shop/app.py")
    names = (
        "documentation-reviewer",
        "style-reviewer",
        "performance-reviewer",
        "security-reviewer",
    )
    results = [result(name, (await work(name, shop)).text) for name in names]
    answer = await synthesis(*results)
    findings = answer.partition("## Findings, the worst first\n\n")[2].splitlines()
    assert findings[0].startswith("- **critical** shop/app.py:21 — Possible SQL injection")
    assert [line.split("**")[1] for line in findings] == sorted(
        (line.split("**")[1] for line in findings),
        key=["critical", "high", "medium", "low"].index,
    )


async def test_a_review_without_findings_says_so_in_the_answer() -> None:
    reply = await work("security-reviewer", document("a.py", "x = 1\n"))
    assert "No findings in a.py." in await synthesis(result("security-reviewer", reply.text))
