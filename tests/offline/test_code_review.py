import pytest

from asking import cards, document, example, work
from concertmaster.llm.messages import ToolOutcome, WorkerCard
from concertmaster.llm.offline import code_review
from concertmaster.llm.offline.findings import Finding, ranked, read_finding

pytestmark = pytest.mark.anyio


async def findings(worker: str | WorkerCard, *sources: tuple[str, str]) -> list[Finding]:
    reply = await work(worker, *[document(name, text) for name, text in sources])
    assert reply.stop_reason == "end"
    found = [read_finding(line) for line in reply.text.splitlines()]
    return [item for item in found if item is not None]


async def rules(worker: str, source: str, name: str = "app.py") -> list[str]:
    return [f"{item.line} {item.rule}" for item in await findings(worker, (name, source))]


async def test_the_example_shop_shows_its_worst_faults_first() -> None:
    reply = await work("security-reviewer", example("shop/app.py"))
    lines = reply.text.splitlines()
    assert lines[0] == "2 critical, 3 high, 1 medium in shop/app.py."
    assert lines[2] == (
        "- **critical** shop/app.py:21 — Possible SQL injection vector through string-based query "
        "construction (S608). Fix: pass the values as parameters (`execute(query, values)`), "
        "never in text."
    )


async def test_every_reviewer_finds_something_in_the_example_shop() -> None:
    shop = example("shop/app.py")
    expected = {
        "performance-reviewer": "nested-loop",
        "style-reviewer": "B006",
        "test-reviewer": "untested-branches",
        "documentation-reviewer": "D103",
        "reviewer": "E722",
    }
    for worker, rule in expected.items():
        reply = await work(worker, shop)
        assert f"({rule}" in reply.text, worker


async def test_findings_are_ranked_and_those_of_one_rule_share_a_line() -> None:
    source = "\n".join(f"def f{number}(): pass" for number in range(6))
    (only,) = await findings("documentation-reviewer", ("app.py", f'"""M."""\n{source}\n'))
    assert (only.rule, only.line, only.also) == ("D103", 2, (3, 4, 5, 6, 7))


async def test_a_long_review_says_how_much_it_leaves_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_review, "SHOWN", 1)
    reply = await work("security-reviewer", example("shop/app.py"))
    assert reply.text.splitlines()[-1] == "- 5 more of critical severity or less"


async def test_code_without_faults_is_said_to_have_none() -> None:
    reply = await work("security-reviewer", document("app.py", "x = 1\n"))
    assert reply.text == "No findings in app.py."


async def test_each_python_input_is_linted_with_the_rules_of_the_worker() -> None:
    reply = await work(
        "security-reviewer", document("a.py", "eval(x)\n"), document("b.py", "exec(y)\n")
    )
    assert "a.py:1" in reply.text
    assert "b.py:1" in reply.text


async def test_what_is_no_python_is_named_as_not_reviewed() -> None:
    reply = await work("style-reviewer", document("a.py", "x = 1\n"), document("a.js", "var x"))
    assert reply.text.splitlines()[-1] == (
        "- Not reviewed: a.js is no Python; the offline model only reviews Python code."
    )


@pytest.mark.parametrize(
    ("inputs", "reason"), [(["a.js"], "a.js is no Python"), ([], "it was given no files")]
)
async def test_a_review_without_python_is_refused(inputs: list[str], reason: str) -> None:
    reply = await work("style-reviewer", *[document(name) for name in inputs])
    assert reply.stop_reason == "refusal"
    assert reason in reply.detail


async def test_without_the_tool_only_the_own_checks_are_made_and_that_is_said() -> None:
    card = WorkerCard(name="security", description="Looks.")
    reply = await work(card, document("a.py", "API_KEY = 'abcdefgh1'\neval(x)\n"))
    assert "a.py:1" in reply.text
    assert "a.py:2" not in reply.text
    assert reply.text.endswith(
        "- Not reviewed: a.py by ruff, because this worker may not use the tool `lint`."
    )


async def test_a_tool_call_that_failed_is_named() -> None:
    outcomes = [ToolOutcome(id="lint-1", text="ruff took longer than 30 s.", failed=True)]
    reply = await work("security-reviewer", document("a.py", "eval(x)\n"), outcomes=outcomes)
    assert reply.text.endswith("- Not reviewed: a.py by ruff: ruff took longer than 30 s.")


async def test_code_that_is_no_python_is_a_finding_of_its_own() -> None:
    found = await findings("security-reviewer", ("a.py", "def (:\n"), ("b.py", "x = '\0'"))
    assert found[0].severity == "critical"
    assert "mend the syntax" in found[0].fix


@pytest.mark.parametrize(
    ("rule_line", "severity", "fix"),
    [
        ("1: S608 SQL", "critical", "pass the values"),
        ("1: S999 odd", "medium", "see what `ruff rule S999` says."),
        ("1: UP006 Use `list` [fix: Replace with `list`]", "low", "use the newer form"),
        ("1: PIE790 odd [fix: Remove `pass`]", "low", "remove `pass`."),
        ("1: Q000 odd", "low", "see what `ruff rule Q000` says."),
    ],
)
async def test_each_finding_says_how_bad_it_is_and_what_to_do(
    rule_line: str, severity: str, fix: str
) -> None:
    outcomes = [ToolOutcome(id="lint-1", text=f"1 findings.\n{rule_line}")]
    reply = await work("style-reviewer", document("a.py", "x = 1"), outcomes=outcomes)
    found = read_finding(reply.text.splitlines()[2])
    assert found is not None
    assert found.severity == severity
    assert found.fix.startswith(fix)


async def test_asserts_and_missing_docstrings_in_tests_are_no_findings() -> None:
    test = "def test_a():\n    assert 1\n"
    for name in ("test_a.py", "a_test.py", "tests/a.py", "conftest.py"):
        assert await rules("security-reviewer", test, name) == []
        assert await rules("documentation-reviewer", test, name) == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("api_key = 'Zx81kd93nd'", "1 secret-in-code"),
        ("auth_key: str = 'Zx81kd93nd'", "1 secret-in-code"),
        ("url = 'postgres://shop:hunter2@db/shop'", "1 secret-in-code"),
        ("key = '-----BEGIN RSA PRIVATE KEY-----'", "1 secret-in-code"),
    ],
)
async def test_secrets_in_code_are_found(source: str, expected: str) -> None:
    assert await rules("security-reviewer", source) == [expected]


@pytest.mark.parametrize(
    "source",
    [
        "api_key = 'SHOP_API_KEY'",
        "api_key = 'short'",
        "api_key = 'the key of the shop'",
        "api_key = load()",
        "url = 'https://example.com/a'",
        "x: int",
    ],
)
async def test_what_only_looks_like_a_secret_is_left_alone(source: str) -> None:
    assert await rules("security-reviewer", source) == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("for a in xs:\n    for b in xs:\n        f(a, b)", ["2 nested-loop"]),
        ("for a in xs:\n    for b in ys:\n        f(a, b)", ["2 nested-loop"]),
        ("def g():\n    for a in xs:\n        for b in xs:\n            f()", ["3 nested-loop"]),
        ("for row in rows:\n    for cell in row:\n        f(cell)", []),
        ("for k in ks:\n    rows = get(k)\n    for row in rows:\n        f(row)", []),
        ("for a in xs:\n    for b in range(3):\n        f(a, b)", []),
        ("for a in xs:\n    for b in (1, 2):\n        f(a, b)", []),
        ("for a in xs:\n    def g():\n        for b in xs:\n            f(b)", []),
        ("while go():\n    for b in xs:\n        f(b)", []),
        ("for i in ids:\n    db.execute(q, i)", ["2 query-in-loop"]),
        ("for row in db.execute(q):\n    f(row)", []),
        ("while xs:\n    xs.pop(0)", ["2 list-shift-in-loop"]),
        ("while xs:\n    xs.pop()", []),
        ("seen = []\nfor x in xs:\n    if x not in seen:\n        f(x)", ["3 list-search-in-loop"]),
        ("seen = set()\nfor x in xs:\n    if x not in seen:\n        f(x)", []),
        ("t = ''\nfor x in xs:\n    t += x", ["3 text-grown-in-loop"]),
        ("t = f'{a}'\nfor x in xs:\n    t += x", ["3 text-grown-in-loop"]),
        ("t = 0\nfor x in xs:\n    t += x", []),
    ],
)
async def test_slow_loops_are_told_from_harmless_ones(source: str, expected: list[str]) -> None:
    assert await rules("performance-reviewer", source) == expected


async def test_loops_over_all_pairs_are_worse_than_over_two_collections() -> None:
    source = "for a in xs:\n    for b in xs:\n        for c in ys:\n            f(a, b, c)"
    found = await findings("performance-reviewer", ("a.py", source))
    assert [(item.severity, item.line) for item in found] == [("high", 2), ("medium", 3)]


CODE = """\
def plain(): ...
def branchy(a):
    if a:
        for b in a:
            while b: ...
def _private(): ...
class Shop:
    def sell(self): ...
class _Hidden:
    def sell_quietly(self): ...
"""


async def test_functions_that_no_test_mentions_are_named() -> None:
    found = await findings("test-reviewer", ("app.py", CODE))
    assert [(item.severity, item.line, item.rule) for item in found] == [
        ("medium", 2, "untested-branches"),
        ("low", 1, "untested"),
    ]
    assert "`plain`, `sell`" in found[1].what


async def test_functions_that_a_test_mentions_are_not_named() -> None:
    tests = "def test_all(shop):\n    assert branchy(plain()) == shop.sell()\n"
    assert await findings("test-reviewer", ("app.py", CODE), ("test_app.py", tests)) == []


async def test_tests_that_check_nothing_are_found() -> None:
    tests = """\
def test_nothing():
    run()
def test_raises():
    with pytest.raises(ValueError): run()
def test_helper():
    assert_ran(run())
def helper(): ...
"""
    found = await findings("test-reviewer", ("test_app.py", tests))
    assert [(item.line, item.rule) for item in found if item.rule == "test-without-assert"] == [
        (1, "test-without-assert")
    ]


async def test_a_reviewer_of_everything_combines_all_checks() -> None:
    own = WorkerCard(name="code-reviewer", description="Expert.", tools=("lint",))
    reply = await work(own, example("shop/app.py"))
    for rule in ("S608", "nested-loop", "B006", "untested", "D103", "SIM115"):
        assert f"({rule}" in reply.text


async def test_the_same_request_gets_the_same_reply() -> None:
    shop = example("shop/app.py")
    assert await work("style-reviewer", shop) == await work("style-reviewer", shop)


@pytest.mark.parametrize(
    "finding",
    [
        Finding(severity="high", file="a b.py", line=3, what="Odd. Very", fix="mend it."),
        Finding(severity="low", file="a.py", line=3, what="Odd", fix="a.", rule="S1", also=(4, 5)),
        Finding(
            severity="low", file="a", line=3, what="Odd", fix="a.", rule="r", workers=("x", "y")
        ),
    ],
)
def test_a_finding_can_be_read_back(finding: Finding) -> None:
    assert read_finding(str(finding)) == finding


def test_text_that_is_no_finding_is_none() -> None:
    assert read_finding("- **Amounts** — EUR 5") is None


def test_cards_of_the_reviewers_have_the_tool_they_need() -> None:
    assert all("lint" in cards()[name].tools for name in cards() if name.endswith("-reviewer"))


def test_findings_are_ranked_by_severity_and_place() -> None:
    low = Finding(severity="low", file="a.py", line=1, what="w", fix="f")
    high = Finding(severity="high", file="b.py", line=9, what="w", fix="f")
    first = Finding(severity="high", file="b.py", line=2, what="w", fix="f")
    assert ranked([low, high, first]) == [first, high, low]
