import pytest

from concertmaster.llm.messages import ToolSpec
from concertmaster.tools.registry import Decision, ToolPolicy


def spec(name: str, *, effects: bool = False) -> ToolSpec:
    return ToolSpec(name=name, description="", input_schema={}, effects=effects)


def test_without_rules_a_tool_may_be_called_if_it_changes_nothing() -> None:
    policy = ToolPolicy()
    assert policy.decision(spec("git.log")) == "allow"
    assert policy.decision(spec("git.commit", effects=True)) == "deny"


@pytest.mark.parametrize(
    ("name", "decision"),
    [
        ("git.commit", "allow"),
        ("git.push", "ask"),
        ("mail.send", "deny"),
        ("read_file", "deny"),
    ],
)
def test_the_rule_that_fits_fewest_tools_counts(name: str, decision: Decision) -> None:
    policy = ToolPolicy({"*": "deny", "git.*": "ask", "git.commit": "allow"})
    assert policy.decision(spec(name, effects=True)) == decision


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        ({}, "the operator has not allowed that"),
        ({"git.commit": "deny"}, "may not be called by workers"),
    ],
)
def test_a_model_is_told_why_a_tool_is_not_called(rules: dict[str, Decision], reason: str) -> None:
    refusal = ToolPolicy(rules).refusal(spec("git.commit", effects=True))
    assert refusal.startswith("Not called: git.commit ")
    assert reason in refusal


@pytest.mark.parametrize("decision", ["allow", "ask"])
def test_a_tool_that_is_allowed_or_asked_about_is_not_refused(decision: Decision) -> None:
    assert ToolPolicy({"*": decision}).refusal(spec("git.commit", effects=True)) == ""
