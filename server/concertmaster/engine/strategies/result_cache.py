"""Results that other runs have for some work, if nothing has changed for them."""

import json
from dataclasses import fields
from hashlib import sha256
from typing import Any

import anyio

from concertmaster.engine.events import SubtaskResult, ToolCalled
from concertmaster.engine.plan.validation import strategy_workers
from concertmaster.engine.replay import Offer, taken_over
from concertmaster.engine.strategies.work import Piece, Work
from concertmaster.errors import ToolCallError
from concertmaster.tools.scope import ToolScope


async def offered(work: Work, fingerprint: str) -> SubtaskResult | None:
    """Return the result that another run has for some work, as that of its subtask.

    Raises:
        StoreError: the journal cannot be read.
    """
    if work.subtask.id in work.run.request.redo:
        return None
    for offer in await work.run.offers(fingerprint):
        if await _still_true(offer, work):
            return taken_over(offer.result, work.subtask, run_id=offer.run_id)
    return None


async def _still_true(offer: Offer, work: Work) -> bool:
    """Tell whether all tools would say again what they said when the result was made."""
    if not offer.calls:
        return True
    async with work.slot():
        with anyio.move_on_after(work.seconds()):
            for call in offer.calls:
                if not await _says_the_same(call, work):
                    return False
            return True
    return False


async def _says_the_same(made: ToolCalled, work: Work) -> bool:
    tools = work.setup.tools.here([made.call.name])
    if not all(spec.local for spec in tools.specs) or not tools.specs:
        return False
    scope = ToolScope(inputs=work.inputs, roots=work.setup.roots)
    try:
        text = await tools.get(made.call.name).call(made.call.arguments, scope)
    except ToolCallError as exc:
        return made.outcome.failed and made.outcome.text == str(exc)
    return not made.outcome.failed and made.outcome.text == text


def fingerprint(work: Work) -> str:
    """Return a digest of all that the result of some work depends on, but for chance."""
    plain = json.dumps(_ingredients(work), sort_keys=True, default=_fields)
    return sha256(plain.encode()).hexdigest()


def _ingredients(work: Work) -> dict[str, object]:
    request, subtask, setup = work.run.request, work.subtask, work.setup
    names = [subtask.worker, *strategy_workers(subtask.strategy)]
    # Whoever is not there makes the work fail, and not this.
    known = [name for name in dict.fromkeys(names) if name in work.workers.names]
    workers = [work.workers.get(name) for name in known]
    toolboxes = [setup.tools.here(worker.tools) for worker in workers]
    own = {"worker", "objective", "expects", "strategy", "max_tokens"}
    return {
        "task": [request.kind, request.task, request.context, request.constraints],
        "schema": request.output_schema if request.kind == "worker" else None,
        "subtask": subtask.model_dump(mode="json", include=own),
        "inputs": [
            [item.name, item.digest] for item in request.inputs if item.name in subtask.inputs
        ],
        "dependencies": list(work.dependencies),
        "workers": [
            {"definition": _fields(worker) | {"file": "", "ignored": ()}} for worker in workers
        ],
        "models": [work.model(Piece(worker=worker.name)) for worker in workers],
        "max_tokens": request.limits.max_tokens,
        "tools": [spec for box in toolboxes for spec in box.specs],
        "served": [tool for box in toolboxes for tool in box.served],
        "prompts": setup.prompts.digest,
    }


def _fields(value: Any) -> dict[str, object]:
    """Return the fields of a dataclass as they are: to copy what is in them would take longer."""
    return {field.name: getattr(value, field.name) for field in fields(value)}
