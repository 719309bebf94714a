"""How close each mode and strategy comes to its own critical path."""

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

from concertmaster.catalog.catalog import Catalog, builtin_folder
from concertmaster.catalog.definitions import WorkerDefinition
from concertmaster.catalog.prompts import load_prompts
from concertmaster.engine.plan.plan import Plan
from concertmaster.engine.run import Setup
from concertmaster.llm.messages import Draft, Models, Reply, Request
from concertmaster.llm.usage import Usage
from concertmaster.runs.intake import RunPolicy
from concertmaster.runs.orders import RunOrder
from concertmaster.runs.service import open_service
from concertmaster.store.sqlite.store import open_sqlite
from concertmaster.tools.inputs import InlineInput
from concertmaster.tools.registry import ToolRegistry
from measure import Figure

USAGE = Usage(model="timed", calls=1, attempts=1, tokens_in=1000, tokens_out=200, usd=0.0)
WORKERS = ("one", "two", "three", "four")
GOAL = 1.05

Timed = tuple[float, str]
"""How long a call takes, in seconds, and what its reply says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """A run of known shape."""

    name: str
    subtasks: tuple[Mapping[str, Any], ...]
    calls: Mapping[str, tuple[Timed, ...]]
    """By caller: its calls in the order in which it makes them; the last one stands for more."""
    critical_path: float
    """The time of the longest chain of calls that wait for one another."""
    inputs: tuple[str, ...] = ()
    order: Mapping[str, Any] = field(default_factory=dict[str, Any])


class PatternLLM:
    """A model that takes its time as a pattern says, and notes when calls begin and end."""

    notice = ""

    def __init__(self, pattern: Pattern) -> None:
        self._left = {caller: list(calls) for caller, calls in pattern.calls.items()}
        self.first = 0.0
        self.last = 0.0

    def model_name(self, model: str, /) -> str:
        """Return the model's name."""
        return model

    def expected(self, _model: str, usage: Usage, /) -> Usage:
        """Return `usage`, at no cost."""
        return usage

    async def complete(self, request: Request, draft: Draft, /) -> Reply:
        """Answer after the time of the caller's next call."""
        del draft
        self.first = self.first or time.perf_counter()
        left = self._left[request.caller.removeprefix("worker:")]
        seconds, text = left.pop(0) if len(left) > 1 else left[0]
        await anyio.sleep(seconds)
        self.last = time.perf_counter()
        return Reply(text=text, stop_reason="end", usage=USAGE)


def _subtask(name: str, worker: str = "one", **fields: Any) -> Mapping[str, Any]:
    return {"id": name, "worker": worker, "objective": f"do {name}"} | fields


def _voting(name: str, calls: Mapping[str, tuple[Timed, ...]], path: float, **vote: Any) -> Pattern:
    voters = [{"worker": worker} for worker in ("one", "two", "three")]
    strategy = {"kind": "vote", "voters": voters} | vote
    subtask = _subtask("s1", strategy=strategy)
    return Pattern(name=name, subtasks=(subtask,), calls=calls, critical_path=path)


def _revise() -> Pattern:
    wish = json.dumps({"points": ["Say why."], "satisfactory": False})
    content = json.dumps({"points": [], "satisfactory": True})
    return Pattern(
        name="revise, 1 revision",
        subtasks=(_subtask("s1", strategy={"kind": "revise"}),),
        calls={"one": ((0.3, "a result"),), "critic": ((0.2, wish), (0.2, content))},
        critical_path=0.3 + 0.2 + 0.3 + 0.2,
    )


def _judge() -> Pattern:
    choice = json.dumps({"best": "A", "reasons": "it is whole"})
    calls = {**_answers(0.2, 0.4, 0.6), "judge": ((0.3, choice),)}
    return _voting("vote of 3, judge", calls, 0.6 + 0.3, decide="judge")


def _rubric() -> Pattern:
    scores = json.dumps({"scores": [{"criterion": "true", "score": 7, "why": ""}]})
    calls = {**_answers(0.2, 0.4, 0.6), "rubric": ((0.3, scores),)}
    criteria = [{"name": "true"}]
    return _voting("vote of 3, rubric", calls, 0.6 + 0.3, decide="rubric", criteria=criteria)


def _consensus() -> Pattern:
    calls = _answers(0.4, 0.6, 30.0, same=True)
    return _voting("vote of 3, consensus of the first 2", calls, 0.6, decide="consensus")


def _answers(*seconds: float, same: bool = False) -> dict[str, tuple[Timed, ...]]:
    return {
        worker: ((time_taken, "yes" if same else f"yes, says {worker}"),)
        for worker, time_taken in zip(WORKERS, seconds, strict=False)
    }


def _map() -> Pattern:
    seconds = (1.0, 0.9, 0.8, 0.7, 0.5, 0.4, 0.3, 0.2)
    inputs = tuple(f"part-{number}" for number in range(len(seconds)))
    return Pattern(
        name="map of 8 parts",
        subtasks=(_subtask("s1", inputs=inputs, strategy={"kind": "map"}),),
        calls={"one": tuple((item, "a result") for item in seconds)},
        critical_path=max(seconds),
        inputs=inputs,
    )


def _adaptive() -> Pattern:
    """Return a run in which a decisive result calls for another subtask, beside a longer one."""
    new = {
        **_subtask("s3", "three"),
        "why": "",
        "depends_on": ["s1"],
        "priority": "medium",
        "inputs": [],
        "expects": "",
        "needs_all": False,
        "decisive": False,
        "strategy": {"kind": "single"},
    }
    more = json.dumps({"done": False, "reason": "s1 says so", "add": [new], "drop": []})
    wait = json.dumps({"done": False, "reason": "s3 is at work", "add": [], "drop": []})
    done = json.dumps({"done": True, "reason": "all is there", "add": [], "drop": []})
    return Pattern(
        name="adaptive, 1 subtask added",
        subtasks=(_subtask("s1", decisive=True), _subtask("s2", "two")),
        calls={
            **_answers(0.3, 0.6, 0.4),
            "orchestrator": ((0.2, more), (0.2, wait), (0.2, done)),
            "synthesizer": ((0.2, "the answer"),),
        },
        # s1, the decision, s3, the decision at the end, the synthesis.
        critical_path=0.3 + 0.2 + 0.4 + 0.2 + 0.2,
        order={"mode": "adaptive"},
    )


def _mend() -> Pattern:
    found = {"what": "They differ.", "mend": "", "severity": "high", "subtasks": ["s1", "s2"]}
    return Pattern(
        name="verify, 2 of 3 results mended",
        subtasks=tuple(
            _subtask(name, worker)
            for name, worker in zip(("s1", "s2", "s3"), WORKERS, strict=False)
        ),
        calls={
            "one": ((0.4, "a result"), (0.3, "mended")),
            "two": ((0.2, "a result"), (0.2, "mended")),
            "three": ((0.3, "a result"),),
            "verifier": ((0.2, json.dumps({"findings": [found]})),),
            "synthesizer": ((0.2, "the answer"),),
        },
        critical_path=0.4 + 0.2 + 0.3 + 0.2,
        order={"verify": "mend"},
    )


def _guard() -> Pattern:
    return Pattern(
        name="guard beside a worker",
        subtasks=(_subtask("s1"),),
        calls={
            "one": ((0.6, "a result"),),
            "guard": ((0.5, json.dumps({"reason": "", "allowed": True})),),
        },
        critical_path=0.6,
        order={"guard": "four"},
    )


PATTERNS: tuple[Callable[[], Pattern], ...] = (
    _revise,
    _judge,
    _rubric,
    _consensus,
    _map,
    _adaptive,
    _mend,
    _guard,
)


async def makespan(pattern: Pattern) -> float:
    """Return the time from the first call of a run to the end of its last, in seconds."""
    llm = PatternLLM(pattern)
    workers = [
        WorkerDefinition(name=name, description=name, instructions="Do.", file=Path("-"))
        for name in WORKERS
    ]
    setup = Setup(
        llm=llm,
        models=Models(),
        catalog=Catalog(workers),
        prompts=load_prompts(builtin_folder("prompts")),
        tools=ToolRegistry(),
    )
    order = RunOrder(
        task="t",
        plan=Plan.model_validate({"subtasks": pattern.subtasks}),
        inputs=tuple(InlineInput(name=name, text=f"text of {name}") for name in pattern.inputs),
        **pattern.order,
    )
    with tempfile.TemporaryDirectory() as folder:
        async with (
            open_sqlite(Path(folder)) as journal,
            open_service(journal=journal, setup=setup, policy=RunPolicy()) as service,
        ):
            state = await service.start(order)
            state = await service.wait(state.run_id, seconds=60)
            assert state.status == "succeeded", state
    return llm.last - llm.first


def pattern_figures() -> list[Figure]:
    """Measure each pattern against its own critical path."""
    figures: list[Figure] = []
    for pattern in (make() for make in PATTERNS):
        took = anyio.run(makespan, pattern)
        figures.append(
            Figure(
                f"makespan / critical path, {pattern.name}",
                took / pattern.critical_path,
                GOAL,
                detail=f"{took:.3f} s / {pattern.critical_path:.3f} s",
            )
        )
    return figures
