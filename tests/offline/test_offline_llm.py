import json
from typing import Any

import pytest

from asking import ask, cards, document, result, synthesis, work
from concertmaster.errors import ModelRequestError
from concertmaster.llm.messages import LLM, Draft, SynthesisBrief, WorkerCard
from concertmaster.llm.offline import OfflineLLM
from concertmaster.llm.usage import Usage

pytestmark = pytest.mark.anyio

FAULTY = document("a.py", "eval(x)\n")


def schema(**item: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"findings": {"type": "array", "items": item}},
        "required": ["findings"],
        "additionalProperties": False,
    }


def test_it_says_what_it_is_and_how_to_get_more() -> None:
    llm: LLM = OfflineLLM()
    assert llm.model_name("opus") == "offline"
    assert "No language model was used" in llm.notice
    assert "ANTHROPIC_API_KEY or CONCERTMASTER_API_KEY" in llm.notice


async def test_a_reply_costs_nothing_and_the_draft_has_it_too() -> None:
    draft = Draft()
    brief = SynthesisBrief(task="t", results=(result("writer", "Dear Sir."),))
    reply = await ask(brief, draft=draft)
    assert reply.usage == Usage(model="offline", calls=1, usd=0.0)
    assert (draft.text, draft.usage) == (reply.text, reply.usage)


async def test_it_works_on_trio(anyio_backend: str) -> None:
    assert anyio_backend in ("asyncio", "trio")
    assert (await work("security-reviewer", FAULTY)).text.startswith("1 critical in a.py.")


test_it_works_on_trio = pytest.mark.parametrize("anyio_backend", ["trio"])(test_it_works_on_trio)


async def test_a_worker_that_rules_cannot_stand_in_for_refuses_and_says_what_could_be_done() -> (
    None
):
    reply = await work("writer", FAULTY)
    assert reply.stop_reason == "refusal"
    assert reply.detail.startswith("The offline model cannot do the work of writer")
    assert "only reviews Python code and extracts what documents say" in reply.detail


async def test_a_schema_for_findings_is_filled() -> None:
    reply = await work("security-reviewer", FAULTY, output_schema=schema())
    (finding,) = json.loads(reply.text)["findings"]
    assert finding == {
        "severity": "critical",
        "file": "a.py",
        "line": 1,
        "what": "Use of possibly insecure function; consider using `ast.literal_eval`",
        "rule": "S307",
        "fix": "parse the input instead (`ast.literal_eval`, `json.loads`).",
    }


async def test_a_schema_gets_no_other_properties_than_it_names() -> None:
    item = {
        "type": "object",
        "properties": {"file": {"type": "string"}, "line": {"type": "integer"}},
        "additionalProperties": False,
    }
    reply = await work("security-reviewer", FAULTY, output_schema=schema(**item))
    assert json.loads(reply.text) == {"findings": [{"file": "a.py", "line": 1}]}


async def test_a_synthesis_fills_a_schema_for_findings_too() -> None:
    text = await synthesis(
        result("one", "- **low** a.py:1 — Odd (F401). Fix: remove it."), output_schema=schema()
    )
    assert json.loads(text)["findings"][0]["rule"] == "F401"


@pytest.mark.parametrize(
    "output_schema",
    [
        {"type": "object", "properties": {"grade": {"type": "string"}}, "required": ["grade"]},
        schema(type="string"),
        {"type": "object", "properties": {"findings": {"type": "object"}}},
    ],
)
async def test_a_schema_that_rules_cannot_fill_is_an_error_with_its_usage(
    output_schema: dict[str, Any],
) -> None:
    with pytest.raises(ModelRequestError, match="cannot fill this output schema") as caught:
        await work("security-reviewer", FAULTY, output_schema=output_schema)
    assert caught.value.usage == Usage(model="offline", calls=1, usd=0.0)


async def test_a_refusal_is_no_matter_of_a_schema() -> None:
    assert (await work("writer", FAULTY, output_schema=schema())).stop_reason == "refusal"


async def test_an_analyst_of_everything_combines_all_extracts() -> None:
    card = WorkerCard(name="contract-reader", description="Reads.")
    reply = await work(card, document("d.md", "The Client shall pay EUR 5 if it rains."))
    headings = [line for line in reply.text.splitlines() if line.startswith("### ")]
    assert len(headings) == 6


def test_every_shipped_reviewer_is_known_here() -> None:
    assert len([name for name in cards() if name.endswith("-reviewer")]) == 5
