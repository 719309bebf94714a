"""What models write when a pattern asks them, and what of a run can be seen through MCP."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from mcp.types import TextResourceContents

from clients import Connection, connected
from concertmaster.engine.plan.plan import Subtask
from concertmaster.llm.messages import Request
from fakes import UNPLANNED, Answer, FakeLLM, Script, texts


def decision(
    *, done: bool = False, reason: str = "as things stand", add: Iterable[Subtask] = (), **more: Any
) -> str:
    """Return what an orchestrator decides to do next."""
    added = [item.model_dump(mode="json", exclude=UNPLANNED) for item in add]
    return json.dumps({"done": done, "reason": reason, "add": added, "drop": []} | more)


def critique(*points: str) -> str:
    """Return what a critic says: it is satisfied if it has no points."""
    return json.dumps({"points": points, "satisfactory": not points})


def scores(**marks: int) -> str:
    """Return how an answer scores by each criterion."""
    return json.dumps(
        {"scores": [{"criterion": name, "score": mark, "why": ""} for name, mark in marks.items()]}
    )


def finding(what: str, *subtasks: str) -> dict[str, Any]:
    """Return something that results do not agree on."""
    return {"what": what, "mend": "Look again.", "severity": "high", "subtasks": list(subtasks)}


def findings(*found: Mapping[str, Any]) -> str:
    """Return what a verifier writes."""
    return json.dumps({"findings": found})


def screening(*, allowed: bool, reason: str = "by the rules") -> str:
    """Return what a guard says."""
    return json.dumps({"reason": reason, "allowed": allowed})


def judging(favourite: str) -> Script:
    """Return the script of a judge that takes the answer with the text `favourite`."""

    def choose(request: Request) -> str:
        (text,) = texts([request])
        label = text[: text.index(f">\n{favourite}")].rsplit('name="', 1)[1].rstrip('"')
        return json.dumps({"best": label, "reasons": "it says most"})

    return choose


class InFlight:
    """Answers its calls only once so many of them are under way at the same time."""

    def __init__(self, count: int, answer: Script = "done") -> None:
        self._missing = count
        self._all_there = anyio.Event()
        self._answer = answer

    async def __call__(self, request: Request) -> Answer:
        self._missing -= 1
        if not self._missing:
            self._all_there.set()
        await self._all_there.wait()
        answer = self._answer(request) if callable(self._answer) else self._answer
        assert isinstance(answer, Answer)
        return answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """A run that was asked for through MCP."""

    reply: dict[str, Any]
    results: dict[str, dict[str, Any]]
    """What `get_run` shows of each subtask."""
    steps: list[str]
    """The steps of its model calls in the trace, in the order of their starts."""
    failed: list[str]
    """Those of the steps whose call failed or was abandoned."""
    llm: FakeLLM

    @property
    def statuses(self) -> list[str]:
        """Return how the subtasks ended, in the order of the plan."""
        return [line["status"] for line in self.reply["subtasks"]]

    @property
    def calls(self) -> dict[str, int]:
        """Return how many calls each caller made."""
        callers = self.llm.callers()
        return {caller: callers.count(caller) for caller in dict.fromkeys(callers)}


async def ran(folder: Path, scripts: Mapping[str, Script], **arguments: Any) -> Ran:
    """Return what became of `run_orchestration` with a model that follows `scripts`."""
    async with connected(folder, scripts) as connection:
        return await run_on(connection, **arguments)


async def run_on(connection: Connection, **arguments: Any) -> Ran:
    """Return what became of `run_orchestration` on a connection."""
    with anyio.fail_after(60):
        reply = await connection.ask("run_orchestration", **({"task": "check it"} | arguments))
    run_id = reply["run_id"]
    results = {
        line["subtask_id"]: await connection.ask(
            "get_run", run_id=run_id, subtask_id=line["subtask_id"]
        )
        for line in reply.get("subtasks", ())
    }
    calls = sorted(await _calls(connection, run_id), key=lambda span: span["started_at"])
    return Ran(
        reply=reply,
        results=results,
        steps=[_step(span) for span in calls],
        failed=[_step(span) for span in calls if span["status"] == "failed"],
        llm=connection.llm,
    )


def _step(span: dict[str, Any]) -> str:
    """Return the step of a call, or only its caller where a guard withholds the step."""
    attributes = span["attributes"]
    return attributes.get("step", attributes["caller"])


async def _calls(connection: Connection, run_id: str) -> list[dict[str, Any]]:
    resource = await connection.client.read_resource(f"runs://{run_id}/trace")
    (content,) = resource.contents
    assert isinstance(content, TextResourceContents)
    return list(_call_spans(json.loads(content.text)))


def _call_spans(span: dict[str, Any]) -> Iterable[dict[str, Any]]:
    if span["kind"] == "call":
        yield span
    for inner in span["spans"]:
        yield from _call_spans(inner)
