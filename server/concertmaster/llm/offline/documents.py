"""Document analysis: the extracts of a skill from each document."""

from concertmaster.llm.messages import WorkBrief
from concertmaster.llm.offline.answers import Answer
from concertmaster.llm.offline.passages import read
from concertmaster.llm.offline.skills import DocumentSkill
from concertmaster.llm.offline.sources import is_code

NOT_READ = "Not read: "
"""How a line begins that names an input which was not looked at."""


def read_documents(skill: DocumentSkill, brief: WorkBrief) -> Answer:
    """Return what `skill` finds in the documents of a subtask."""
    documents = [document for document in brief.inputs if not is_code(document.name)]
    notes = [
        f"{document.name} is source code; the offline model extracts from documents only"
        for document in brief.inputs
        if is_code(document.name)
    ]
    if not documents:
        reasons = "; ".join(notes) or "it was given no documents"
        return Answer.refused(f"The offline model could not do this subtask: {reasons}.")
    parts = [skill.extract(read(document)) for document in documents]
    if notes:
        parts.append("\n".join(f"- {NOT_READ}{note}." for note in notes))
    return Answer(text="\n\n".join(parts))
