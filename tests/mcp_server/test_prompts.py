"""The prompts: what a client lists, gets and completes, and that the call they give works."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from mcp import MCPError
from mcp.types import INVALID_PARAMS, PromptReference, TextContent

from clients import ERAS, Connection, connected
from concertmaster.llm.messages import JudgementBrief, Request, WorkBrief
from concertmaster.runs.intake import RunPolicy
from fakes import Script, plan_json, reply_with, subtask

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("mode", ERAS)]

FILES = {"a.py": "ONE = 1\n", "b.py": "from a import ONE\n", "notes.md": "# Notes\n\nHello.\n"}

GIVEN: dict[str, dict[str, str]] = {
    "analyze_document": {"file": "notes.md", "kind": "report"},
    "compare": {"options": "SQLite, Postgres", "criteria": "price, care"},
    "refactor_files": {"files": "*.py", "change": "Rename ONE to FIRST"},
    "report": {"topic": "Our shop", "sections": "Past, Future", "files": "notes.md"},
    "research": {"question": "Why?"},
    "review_code": {"files": "a.py,b.py"},
    "translate": {"files": "notes.md", "locales": "de,pt-BR"},
}
"""Arguments for each prompt."""

WORKERS = {
    "analyze_document": ["summarizer", "facts-analyst", "implications-analyst"],
    "compare": ["analyst", "analyst"],
    "refactor_files": ["coder", "rewriter", "rewriter"],
    "report": ["analyst", "writer", "writer"],
    "research": ["researcher", "analyst"],
    "review_code": [
        "security-reviewer",
        "performance-reviewer",
        "reviewer",
        "style-reviewer",
        "test-reviewer",
        "documentation-reviewer",
    ],
    "translate": ["writer"],
}
"""Who works on each, in the order of the plan."""


def rewrite(request: Request) -> str:
    assert isinstance(request.brief, WorkBrief)
    (document,) = request.brief.inputs
    return json.dumps({"new_text": document.text.replace("ONE", "FIRST"), "notes": ""})


def decide(request: Request) -> str:
    """Have one question looked into after the scout, and then be content."""
    assert isinstance(request.brief, JudgementBrief)
    more = json.loads(plan_json(subtask("q1", objective="Weigh it.")))["subtasks"]
    asked = "Weigh it." in str(request.messages)
    return json.dumps({"reason": "r", "done": asked, "add": [] if asked else more, "drop": []})


SCRIPTS: Mapping[str, Script] = {
    "worker:rewriter": rewrite,
    "orchestrator": decide,
    "verifier": json.dumps({"findings": []}),
    "synthesizer": "the answer",
}


def policy(folder: Path) -> RunPolicy:
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return RunPolicy(roots=(folder,))


async def call_of(connection: Connection, name: str, given: dict[str, str]) -> dict[str, Any]:
    """Return the arguments of the call that a prompt asks for."""
    (message,) = (await connection.client.get_prompt(name, given)).messages
    assert isinstance(message.content, TextContent)
    assert "run_orchestration" in message.content.text
    (block,) = re.findall(r"```json\n(.*?)\n```", message.content.text, re.DOTALL)
    return json.loads(block)


async def test_every_job_is_a_prompt_that_says_what_it_needs(mode: str, tmp_path: Path) -> None:
    async with connected(tmp_path, mode=mode, built_in=True) as connection:
        listed = {item.name: item for item in (await connection.client.list_prompts()).prompts}
    assert list(listed) == list(GIVEN)
    assert all(item.title and item.description for item in listed.values())
    needed = {
        name: [item.name for item in prompt.arguments or () if item.required]
        for name, prompt in listed.items()
    }
    assert needed["analyze_document"] == ["file", "kind"]
    assert needed["review_code"] == ["files"]
    described = {item.name: item.description for item in listed["review_code"].arguments or ()}
    assert "Several with commas between them." in str(described["files"])
    assert "Default: security-reviewer, " in str(described["reviewers"])
    (options,) = [item for item in listed["compare"].arguments or () if item.name == "options"]
    assert "2 or more with commas between them." in str(options.description)
    (kind,) = [item for item in listed["analyze_document"].arguments or () if item.name == "kind"]
    assert "One of: contract, report, article." in str(kind.description)


async def test_a_server_without_jobs_has_no_prompts(mode: str, tmp_path: Path) -> None:
    async with connected(tmp_path, mode=mode) as connection:
        assert (await connection.client.list_prompts()).prompts == []


@pytest.mark.parametrize("name", GIVEN)
async def test_the_call_of_a_prompt_does_the_job(name: str, mode: str, tmp_path: Path) -> None:
    async with connected(
        tmp_path, SCRIPTS, mode=mode, built_in=True, policy=policy(tmp_path)
    ) as connection:
        call = await call_of(connection, name, GIVEN[name])
        reply = await connection.ask("run_orchestration", **call)
    assert reply["status"] == "succeeded", reply
    assert [line["worker"] for line in reply["subtasks"]] == WORKERS[name]
    assert "planner" not in connection.llm.callers()
    assert "warnings" not in reply


FAILING = {
    "analyze_document": ("summarizer", "partial"),
    "compare": ("analyst", "failed"),
    "refactor_files": ("rewriter", "partial"),
    "report": ("writer", "partial"),
    "research": ("researcher", "partial"),
    "review_code": ("security-reviewer", "partial"),
    "translate": ("writer", "failed"),
}
"""For each job a worker that fails, and what becomes of the run."""


@pytest.mark.parametrize("name", GIVEN)
async def test_a_job_whose_worker_fails_says_so(name: str, mode: str, tmp_path: Path) -> None:
    worker, status = FAILING[name]
    refused = reply_with("", stop_reason="refusal", detail="I will not.")
    scripts = {**SCRIPTS, f"worker:{worker}": refused}
    async with connected(
        tmp_path, scripts, mode=mode, built_in=True, policy=policy(tmp_path)
    ) as connection:
        call = await call_of(connection, name, GIVEN[name])
        reply = await connection.ask("run_orchestration", **call)
    assert reply["status"] == status
    assert worker in " ".join(reply["reasons"])


async def test_what_a_prompt_was_told_reaches_the_workers(mode: str, tmp_path: Path) -> None:
    async with connected(
        tmp_path, SCRIPTS, mode=mode, built_in=True, policy=policy(tmp_path)
    ) as connection:
        call = await call_of(connection, "translate", GIVEN["translate"])
        reply = await connection.ask("run_orchestration", **call)
        contexts = {getattr(request.brief, "context", "") for request in connection.llm.requests}
    assert contexts == {"locale: de", "locale: pt-BR"}
    assert reply["answer"] == "## locale: de\n\ndone\n\n## locale: pt-BR\n\ndone"


async def test_changed_files_are_a_diff_that_the_reply_links_to(mode: str, tmp_path: Path) -> None:
    async with connected(
        tmp_path, SCRIPTS, mode=mode, built_in=True, policy=policy(tmp_path)
    ) as connection:
        call = await call_of(connection, "refactor_files", GIVEN["refactor_files"])
        reply = await connection.ask("run_orchestration", **call)
        (content,) = (await connection.client.read_resource(reply["links"]["diff"])).contents
        other = await connection.ask("run_worker", worker="analyst", task="x")
        with pytest.raises(MCPError, match="changes no file"):
            await connection.client.read_resource(f"runs://{other['run_id']}/diff")
    assert content.mime_type == "text/x-diff"
    assert getattr(content, "text", "") == (
        "--- a/a.py\n+++ b/a.py\n@@ -1 +1 @@\n-ONE = 1\n+FIRST = 1\n"
        "--- a/b.py\n+++ b/b.py\n@@ -1 +1 @@\n-from a import ONE\n+from a import FIRST\n"
    )
    assert "diff" not in other["links"]
    assert (tmp_path / "a.py").read_text() == FILES["a.py"]


WRONG: dict[str, tuple[str, dict[str, str], str]] = {
    "unknown prompt": ("reveiw_code", {}, "There is no prompt 'reveiw_code'. Did you mean"),
    "missing argument": ("review_code", {}, "review_code needs the argument 'files': "),
    "unknown argument": ("review_code", {"file": "a.py"}, "Did you mean 'files'?"),
    "no choice": (
        "analyze_document",
        {"file": "notes.md", "kind": "novel"},
        "kind is 'novel'; it can be contract, report, article.",
    ),
    "too few": (
        "compare",
        {"options": "SQLite", "criteria": "price"},
        "options takes 2 values or more; there is only 'SQLite'.",
    ),
    "file that is not there": ("review_code", {"files": "c.py"}, "Input 'c.py': no such file"),
    "several files": (
        "analyze_document",
        {"file": "*.py", "kind": "report"},
        "file takes one file; these are 2: a.py, b.py.",
    ),
    "unknown worker": (
        "review_code",
        {"files": "a.py", "reviewers": "poet"},
        "names the worker 'poet', which does not exist",
    ),
    "too many": (
        "report",
        {"topic": "x", "sections": ",".join(map(str, range(60)))},
        "The plan has 61 subtasks; at most 50.",
    ),
    "long nonsense": ("n" * 100_000, {}, "characters…]"),
}


@pytest.mark.parametrize(("name", "given", "sentence"), WRONG.values(), ids=WRONG)
async def test_a_prompt_that_was_asked_for_wrongly_says_what_is_wrong(
    name: str, given: dict[str, str], sentence: str, mode: str, tmp_path: Path
) -> None:
    async with connected(tmp_path, mode=mode, built_in=True, policy=policy(tmp_path)) as connection:
        with pytest.raises(MCPError) as caught:
            await connection.client.get_prompt(name, given)
    assert caught.value.code == INVALID_PARAMS
    assert sentence in caught.value.message
    assert len(caught.value.message) < 4_100


@pytest.mark.parametrize(
    ("name", "argument", "begun", "values"),
    [
        ("analyze_document", "kind", "", ["contract", "report", "article"]),
        ("analyze_document", "kind", "re", ["report"]),
        ("analyze_document", "file", "", ["a.py", "b.py", "deep/", "notes.md"]),
        ("analyze_document", "file", "n", ["notes.md"]),
        ("analyze_document", "file", "deep/", ["deep/c.py", "deep/deeper/"]),
        ("analyze_document", "file", "deep/c", ["deep/c.py"]),
        ("analyze_document", "file", "./deep/d", ["./deep/deeper/"]),
        ("analyze_document", "file", "deep/missing/", []),
        ("analyze_document", "file", ".", []),
        ("analyze_document", "file", "..", []),
        ("analyze_document", "file", "../", []),
        ("analyze_document", "file", "/etc/", []),
        ("analyze_document", "file", "https://", []),
        ("analyze_document", "file", "a\0", []),
        ("review_code", "files", "a.py, b", ["a.py, b.py"]),
        ("analyze_document", "genre", "", []),
        ("review_code", "reviewers", "perf", ["performance-reviewer"]),
        (
            "review_code",
            "reviewers",
            "analyst, perf",
            ["analyst, performance-reviewer"],
        ),
    ],
)
async def test_arguments_complete(
    name: str, argument: str, begun: str, values: list[str], mode: str, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    for file in ("deep/c.py", "deep/deeper/d.py", "ignored/e.py", ".hidden", ".git/config"):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    (root / ".gitignore").write_text("ignored\n")
    (root / "out").symlink_to(tmp_path)
    async with connected(tmp_path, mode=mode, built_in=True, policy=policy(root)) as connection:
        result = await connection.client.complete(
            PromptReference(name=name), {"name": argument, "value": begun}
        )
    assert result.completion.values == values


async def test_arguments_of_no_prompt_do_not_complete(mode: str, tmp_path: Path) -> None:
    async with connected(tmp_path, mode=mode, built_in=True) as connection:
        with pytest.raises(MCPError, match="There is no prompt"):
            await connection.client.complete(
                PromptReference(name="sing"), {"name": "song", "value": ""}
            )
