"""Tables: their columns, described by what the `python` tool calculates."""

from pathlib import PurePosixPath

from concertmaster.llm.messages import Request, ToolCall, WorkBrief
from concertmaster.llm.offline.answers import Answer
from concertmaster.llm.offline.outcomes import outcomes_of

TOOL = "python"
"""The worker tool that calculates."""

_CODE = """
from collections import Counter

def shown(value):
    if isinstance(value, (int, float)):
        return f"{value:,.2f}".rstrip("0").rstrip(".")
    return str(value).replace("|", "/").replace("\\n", " ")[:40]

def described(values):
    if all(isinstance(value, (int, float)) for value in values):
        ordered = sorted(values)
        half = len(ordered) // 2
        median = (ordered[half] + ordered[-half - 1]) / 2
        mean = sum(ordered) / len(ordered)
        numbers = [ordered[0], median, mean, ordered[-1], sum(ordered)]
        return [shown(number) for number in numbers] + [""]
    common = Counter([shown(value) for value in values]).most_common(3)
    often = [f"{value} ({count})" for value, count in common if count > 1]
    return [""] * 5 + [", ".join(often) or "all differ"]

for name, rows in tables.items():
    rows = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    print(f"### {shown(name)}: {len(rows)} rows\\n")
    if rows:
        print("| Column | Filled | Smallest | Median | Mean | Largest | Sum | Most often |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")
        for column in rows[0]:
            values = [row.get(column) for row in rows]
            values = [value for value in values if value is not None and value != ""]
            cells = [shown(column), str(len(values))]
            print("| " + " | ".join(cells + (described(values) if values else [""] * 6)) + " |")
        print()
"""


def is_table(name: str) -> bool:
    """Tell by its name whether an input is a table."""
    return PurePosixPath(name).suffix.lower() in (".csv", ".tsv")


def describe_tables(brief: WorkBrief, request: Request) -> Answer:
    """Return the tool call that describes the tables of a subtask or, once made, what it says."""
    if not brief.inputs or not all(is_table(document.name) for document in brief.inputs):
        return Answer.refused(
            f"The offline model cannot do the work of {brief.worker.name}, but for describing "
            "tables, and it was given other inputs or none. For the rest, configure a language "
            "model (ANTHROPIC_API_KEY or CONCERTMASTER_API_KEY)."
        )
    call = ToolCall(id="describe", name=TOOL, arguments={"code": _CODE})
    outcome = outcomes_of(request.messages).get(call.id)
    if outcome is None:
        return Answer(stop_reason="tool_use", tool_calls=(call,))
    if outcome.failed:
        return Answer.refused(f"The tables could not be described. {outcome.text}")
    return Answer(text=outcome.text.strip())
