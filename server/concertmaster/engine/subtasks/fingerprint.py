"""What tells a piece of work from another that may come to another result."""

import json
from dataclasses import asdict
from hashlib import sha256

from concertmaster.engine.plans.rules import strategy_workers
from concertmaster.engine.subtasks.work import Piece, Work


def fingerprint(work: Work) -> str:
    """Return a digest of all that the result of some work depends on, but for chance."""
    return sha256(json.dumps(_ingredients(work), sort_keys=True).encode()).hexdigest()


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
        "dependencies": [asdict(result) for result in work.dependencies],
        "workers": [
            {"definition": asdict(worker) | {"file": "", "ignored": ()}} for worker in workers
        ],
        "models": [work.model(Piece(worker=worker.name)) for worker in workers],
        "max_tokens": request.limits.max_tokens,
        "tools": [asdict(spec) for box in toolboxes for spec in box.specs],
        "served": [asdict(tool) for box in toolboxes for tool in box.served],
        "prompts": setup.prompts.digest,
    }
