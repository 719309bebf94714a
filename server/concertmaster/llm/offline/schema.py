"""Output schemas, as far as rules can fill them."""

import json
from typing import Any, cast

from jsonschema import Draft202012Validator
from jsonschema.protocols import Validator
from referencing import Registry

from concertmaster.llm.messages import JsonSchema
from concertmaster.llm.offline.findings import Finding, read_finding


def fill_schema(text: str, schema: JsonSchema) -> str | None:
    """Return the findings in `text` as JSON of `schema`; None where they do not fit it."""
    findings = [item for line in text.splitlines() if (item := read_finding(line)) is not None]
    wanted = _item_properties(schema)
    value = {"findings": [_as_data(item, wanted) for item in findings]}
    # An empty registry: a reference to another document is never fetched.
    validator: Validator = Draft202012Validator(schema, registry=Registry())
    errors = validator.iter_errors(value)  # pyright: ignore[reportUnknownMemberType] (its stubs)
    return json.dumps(value) if not any(errors) else None


def _item_properties(schema: JsonSchema) -> set[str] | None:
    """Return the properties that the schema names for a finding; None where it names none."""
    value: object = schema
    for key in ("properties", "findings", "items", "properties"):
        value = cast("dict[str, object]", value).get(key) if isinstance(value, dict) else None
    return set(cast("dict[str, object]", value)) if isinstance(value, dict) else None


def _as_data(finding: Finding, wanted: set[str] | None) -> dict[str, Any]:
    data = {
        "severity": finding.severity,
        "file": finding.file,
        "line": finding.line,
        "what": finding.what,
        "rule": finding.rule,
        "fix": finding.fix,
    }
    return {key: item for key, item in data.items() if wanted is None or key in wanted}
