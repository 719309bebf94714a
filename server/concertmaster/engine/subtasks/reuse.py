"""Results that other runs have for some work, if nothing has changed for them."""

import anyio

from concertmaster.engine.record.earlier import Offer, taken_over
from concertmaster.engine.record.events import SubtaskResult, ToolCalled
from concertmaster.engine.subtasks.work import Work
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
