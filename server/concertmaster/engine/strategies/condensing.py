"""Results made short enough for one reader: whoever checks, decides, builds on or merges them."""

import hashlib
import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace

import anyio

from concertmaster.engine.concurrency import at_once
from concertmaster.engine.conversation import Conversation
from concertmaster.engine.run import Run, Setup, fenced_results
from concertmaster.engine.strategies.work import Work
from concertmaster.llm.messages import (
    MOST_SOURCES,
    Request,
    SynthesisBrief,
    UserMessage,
    WorkResult,
)

READABLE_CHARS = 400_000
"""How much one request reads of results, or a guard of inputs."""

ROUNDS = 3

TakeSlot = Callable[[], AbstractAsyncContextManager[None]]


async def condensed(
    run: Run,
    setup: Setup,
    results: Sequence[WorkResult],
    *,
    until: float,
    subtask_id: str | None = None,
    take_slot: TakeSlot | None = None,
) -> Sequence[WorkResult]:
    """Return results that fit one request: these, or groups of them condensed in parallel.

    What is still too long at the time `until` of anyio's clock, or when condensing has no
    effect, is cut and says so. The calls count for the subtask with `subtask_id`, if any.
    """
    slots = anyio.CapacityLimiter(run.request.limits.slots)
    condenser = _Condenser(run, setup, until, subtask_id, take_slot or (lambda: slots))
    for number in range(1, ROUNDS + 1):
        if length(results) <= READABLE_CHARS:
            return results
        shorter = await condenser.condense(results, number)
        if length(shorter) >= length(results):
            break
        results = shorter
    return results if length(results) <= READABLE_CHARS else cut(results, READABLE_CHARS)


async def with_condensed_dependencies(work: Work) -> Work:
    """Return the work with results to build on that its worker can read in one request."""
    dependencies = await condensed(
        work.run,
        work.setup,
        work.dependencies,
        until=anyio.current_time() + work.seconds() / 2,
        subtask_id=work.subtask.id,
        take_slot=work.slot,
    )
    return replace(work, dependencies=dependencies)


@dataclass(frozen=True, slots=True)
class _Condenser:
    """Condenses results group by group."""

    run: Run
    setup: Setup
    until: float
    subtask_id: str | None
    take_slot: TakeSlot

    async def condense(self, results: Sequence[WorkResult], round_number: int) -> list[WorkResult]:
        """Return what all groups come to, having condensed them at the same time."""

        async def one(numbered: tuple[int, Sequence[WorkResult]]) -> Sequence[WorkResult]:
            number, group = numbered
            return await self._condense_group(group, f"{round_number}.{number}")

        groups = await at_once(one, enumerate(_groups(results), start=1))
        return list(itertools.chain.from_iterable(groups))

    async def _condense_group(self, group: Sequence[WorkResult], name: str) -> Sequence[WorkResult]:
        """Return the group as one result, or as it is where that would be no shorter."""
        task = self.run.request.task
        prompt = self.setup.prompts.render("condense", task=task, results=fenced_results(group))
        request = Request(
            caller="condenser",
            model=self.setup.models.synthesizer,
            system=prompt.system,
            messages=(UserMessage(text=prompt.user),),
            brief=SynthesisBrief(task=task, results=tuple(group)),
            max_tokens=self.run.request.limits.max_tokens,
        )
        # When the run is resumed, or another reader comes, a group of that number may be
        # made of other results.
        digest = hashlib.sha256(prompt.user.encode()).hexdigest()[:12]
        owner = f"subtask/{self.subtask_id}/" if self.subtask_id else ""
        step = f"{owner}condense/{name}/{digest}"
        talk = Conversation(self.run, self.setup, request, step=step, subtask_id=self.subtask_id)
        async with self.take_slot():
            verdict = await talk.verdict(seconds=self.until - anyio.current_time())
        if not verdict.text or len(verdict.text) >= length(group):
            return group
        whole = all(result.status == "succeeded" for result in group)
        problems = [*(result.problem for result in group), verdict.problem]
        return [
            WorkResult(
                subtask_id="+".join(dict.fromkeys(result.subtask_id for result in group)),
                worker=", ".join(dict.fromkeys(result.worker for result in group)),
                objective="; ".join(dict.fromkeys(result.objective for result in group)),
                status=verdict.status if whole else "partial",
                text=verdict.text,
                problem=" ".join(filter(None, problems)),
                sources=tuple(dict.fromkeys(line for result in group for line in result.sources))[
                    :MOST_SOURCES
                ],
            )
        ]


def length(results: Sequence[WorkResult]) -> int:
    """Return how many characters results have."""
    return sum(len(result.text) for result in results)


def _groups(results: Sequence[WorkResult]) -> list[list[WorkResult]]:
    """Return the results, those too long in pieces, in groups that a model can read."""
    groups: list[list[WorkResult]] = []
    room = 0
    for result in results:
        for start in range(0, max(len(result.text), 1), READABLE_CHARS):
            piece = replace(result, text=result.text[start : start + READABLE_CHARS])
            if len(piece.text) > room:
                groups.append([])
                room = READABLE_CHARS
            groups[-1].append(piece)
            room -= len(piece.text)
    return groups


def cut(results: Sequence[WorkResult], chars: int) -> list[WorkResult]:
    """Return the results cut to so many characters: the last resort, which says so."""
    share = chars // len(results)
    return [
        replace(
            result,
            text=result.text[:share],
            problem=f"{result.problem} Cut to {share} characters to fit.".strip(),
        )
        if len(result.text) > share
        else result
        for result in results
    ]
