"""What a plan is known by to those who approve it."""

import json
from hashlib import sha256

from concertmaster.engine.plans.plan import Plan


def plan_digest(plan: Plan) -> str:
    """Return a SHA-256 of all that a plan says, in hexadecimal."""
    # Without defaults, so that a field that a later version adds changes nothing.
    fields = plan.model_dump(mode="json", exclude_defaults=True)
    text = json.dumps(fields, ensure_ascii=False, sort_keys=True)
    # Half a character is written to the journal as this too.
    return sha256(text.encode(errors="replace")).hexdigest()
