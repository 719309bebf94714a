"""Plans that a person has to approve before they are carried out."""

from concertmaster.engine.plans.plan import Plan
from concertmaster.engine.record.amounts import Estimate
from concertmaster.engine.record.request import RunRequest


def waits_for_approval(
    request: RunRequest, plan: Plan, likely: Estimate | None, *, approved_usd: float
) -> bool:
    """Tell whether a plan must not be carried out yet that was approved for so much, if at all."""
    if request.kind == "plan" or not plan.subtasks or request.approve == "never":
        return False
    if request.approve == "over_budget" and _within_budget(request, likely):
        return False
    return request.limits.budget_usd > approved_usd


def _within_budget(request: RunRequest, likely: Estimate | None) -> bool:
    """Tell whether it is unlikely that the budget does not suffice; an unknown price may be any."""
    usd = likely.usd if likely is not None else None
    return usd is not None and usd.high <= request.limits.budget_usd
