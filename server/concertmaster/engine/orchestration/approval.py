"""Plans that a person has to approve before they are carried out."""

import json
from hashlib import sha256

from concertmaster.engine.plans.plan import Plan
from concertmaster.engine.record.amounts import Estimate
from concertmaster.engine.record.request import RunRequest


def plan_digest(plan: Plan) -> str:
    """Return what a plan is known by to those who approve it: a SHA-256, in hexadecimal."""
    # Without defaults, so that a field that a later version adds changes nothing.
    fields = plan.model_dump(mode="json", exclude_defaults=True)
    text = json.dumps(fields, ensure_ascii=False, sort_keys=True)
    # Half a character is written to the journal as this too.
    return sha256(text.encode(errors="replace")).hexdigest()


def waits_for_approval(
    request: RunRequest, plan: Plan, likely: Estimate | None, *, approved: str
) -> bool:
    """Tell whether a plan must not be carried out yet, the one with the digest `approved` may."""
    if request.kind == "plan" or not plan.subtasks or request.approve == "never":
        return False
    if request.approve == "over_budget" and _within_budget(request, likely):
        return False
    return approved != plan_digest(plan)


def _within_budget(request: RunRequest, likely: Estimate | None) -> bool:
    """Tell whether it is unlikely that the budget does not suffice; an unknown price may be any."""
    usd = likely.usd if likely is not None else None
    return usd is not None and usd.high <= request.limits.budget_usd
