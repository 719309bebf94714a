"""Which of the provider's tools a worker may have, and why not the others."""

import pytest

from concertmaster.llm.messages import ServerTool
from concertmaster.tools.registry import Decision, ServedTools, ToolPolicy, ToolRegistry

SEARCH = ServerTool(name="web_search", max_uses=3)
SERVED = ServedTools(
    there={"web_search": SEARCH}, missing={"web_fetch": "not here", "code_execution": "not here"}
)
NAMES = ("read_file", "web_search", "web_fetch")


def test_a_worker_has_those_that_it_names_and_is_told_of_the_others_by_reason() -> None:
    box = ToolRegistry(served=SERVED).here(NAMES)
    assert box.served == (SEARCH,)
    assert box.missing == ("web_fetch: not here.",)
    assert box.specs == ()


def test_a_worker_that_names_none_is_told_of_none() -> None:
    box = ToolRegistry(served=SERVED).here(["read_file"])
    assert (box.served, box.missing) == ((), ())


def test_what_the_operator_leaves_out_is_told_to_the_operator_alone() -> None:
    served = ServedTools(left_out={"web_fetch": "not allowed"})
    assert ToolRegistry(served=served).here(NAMES).missing == ()
    assert served.reason("web_fetch", ToolPolicy()) == "not allowed"


def test_a_tool_that_nothing_is_known_of_is_missing_without_a_word() -> None:
    assert ToolRegistry().here(NAMES).missing == ()


@pytest.mark.parametrize("rule", ["web_search", "*"])
@pytest.mark.parametrize("decision", ["ask", "deny"])
def test_a_policy_rules_tools_out(rule: str, decision: Decision) -> None:
    policy = ToolPolicy({rule: decision})
    box = ToolRegistry(policy=policy, served=SERVED).here(NAMES)
    assert box.served == ()
    assert "web_search: not allowed by tool_policy." in box.missing


def test_the_rule_for_one_tool_counts_before_that_for_all() -> None:
    policy = ToolPolicy({"*": "deny", "web_search": "allow"})
    assert ToolRegistry(policy=policy, served=SERVED).here(NAMES).served == (SEARCH,)
