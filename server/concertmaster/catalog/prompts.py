"""Prompts: what the planner, the workers and the synthesizer are told."""

import hashlib
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Literal

from pydantic import BaseModel, ConfigDict

from concertmaster.catalog.definitions import Text
from concertmaster.catalog.frontmatter import MarkdownFile, markdown_files, read_markdown
from concertmaster.errors import DefinitionError, did_you_mean
from concertmaster.llm.fencing import spelled
from concertmaster.llm.messages import WorkerCard

PromptName = Literal[
    "plan",
    "repair",
    "next_step",
    "work",
    "retry",
    "critique",
    "revise",
    "judge",
    "rubric",
    "verify",
    "guard",
    "condense",
    "synthesize",
]

USER_PART = "<!-- user -->"
"""The line of a prompt file above which its system part ends and its user part begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placeholders:
    """What a prompt is given to fill in. It must use all of it, each in its part.

    What is in the system part decides how widely a provider can cache it, so a placeholder
    does not move from one part to the other.
    """

    system: frozenset[str] = frozenset()
    user: frozenset[str] = frozenset()


PLACEHOLDERS: Mapping[PromptName, Placeholders] = {
    "plan": Placeholders(
        system=frozenset({"workers", "max_subtasks"}),
        user=frozenset({"task", "context", "input_names", "constraints", "decisions"}),
    ),
    "repair": Placeholders(user=frozenset({"problems"})),
    "next_step": Placeholders(
        system=frozenset({"workers"}),
        user=frozenset(
            {
                "task",
                "context",
                "input_names",
                "constraints",
                "subtasks",
                "results",
                "left",
                "occasion",
            }
        ),
    ),
    "work": Placeholders(
        user=frozenset(
            {
                "worker",
                "instructions",
                "task",
                "objective",
                "expects",
                "context",
                "constraints",
                "input_names",
                "dependencies",
            }
        )
    ),
    "retry": Placeholders(user=frozenset({"reason"})),
    "critique": Placeholders(
        user=frozenset(
            {"role", "task", "objective", "expects", "constraints", "dependencies", "result"}
        )
    ),
    "revise": Placeholders(user=frozenset({"points"})),
    "judge": Placeholders(
        user=frozenset({"task", "objective", "expects", "dependencies", "answers"})
    ),
    "rubric": Placeholders(
        user=frozenset({"task", "objective", "expects", "dependencies", "criteria", "answer"})
    ),
    "verify": Placeholders(user=frozenset({"task", "results"})),
    "guard": Placeholders(
        user=frozenset({"role", "task", "context", "constraints", "input_names"})
    ),
    "condense": Placeholders(user=frozenset({"task", "results"})),
    "synthesize": Placeholders(
        user=frozenset({"task", "context", "constraints", "results", "gaps", "form"})
    ),
}
"""Every prompt there is, and its placeholders."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedPrompt:
    """A prompt with its placeholders filled in; either part may be empty."""

    system: str
    user: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One prompt file."""

    name: PromptName
    description: str
    file: Path
    system: Template
    user: Template


class Prompts:
    """The prompts by name, all of them."""

    def __init__(self, prompts: Mapping[PromptName, Prompt]) -> None:
        self._prompts = dict(prompts)
        texts = sorted((name, p.system.template, p.user.template) for name, p in prompts.items())
        self.digest = hashlib.sha256(repr(texts).encode()).hexdigest()
        """What tells these prompts from others."""

    def length(self, name: PromptName) -> int:
        """Return how many characters the prompt `name` has without what is put into it."""
        prompt = self._prompts[name]
        return len(prompt.system.template) + len(prompt.user.template)

    def render(self, name: PromptName, /, **values: str) -> RenderedPrompt:
        """Return the prompt `name` with exactly its placeholders filled in.

        The values are put in as they are: a `$` in them means nothing.
        """
        expected = PLACEHOLDERS[name].system | PLACEHOLDERS[name].user
        if values.keys() != expected:
            raise TypeError(f"prompt {name!r} takes {sorted(expected)}, not {sorted(values)}")
        prompt = self._prompts[name]
        return RenderedPrompt(
            system=prompt.system.substitute(values), user=prompt.user.substitute(values)
        )


class PromptHeader(BaseModel):
    """The header of a prompt file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: Text
    description: Text


def load_prompts(folder: Path, *others: Path) -> Prompts:
    """Return the prompts of the folders, where a later folder's win over an earlier one's.

    Raises:
        DefinitionError: a folder does not exist, a file is wrong, or a prompt is missing.
    """
    prompts = _read_folder(folder)
    for other in others:
        prompts |= _read_folder(other)
    for name in PLACEHOLDERS:
        if name not in prompts:
            raise DefinitionError(f"there is no prompt {name!r}", file=folder)
    return Prompts(prompts)


def _read_folder(folder: Path) -> dict[PromptName, Prompt]:
    prompts: dict[PromptName, Prompt] = {}
    for file in markdown_files(folder):
        prompt = read_prompt(file)
        first = prompts.setdefault(prompt.name, prompt)
        if first is not prompt:
            problem = f"the prompt {prompt.name!r} is already defined by {first.file}"
            raise DefinitionError(problem, file=file)
    return prompts


def read_prompt(file: Path) -> Prompt:
    """Return the prompt that `file` defines.

    Raises:
        DefinitionError: the file is wrong; the error names the line and the remedy.
    """
    source = read_markdown(file)
    header = source.parse_header(PromptHeader)
    names: dict[str, PromptName] = {known: known for known in PLACEHOLDERS}
    name = names.get(header.name)
    if name is None:
        hint = did_you_mean(header.name, names)
        raise source.error(f"there is no prompt {header.name!r}. {hint}", "name")
    system, user = _parts(source)
    _check(source, system, PLACEHOLDERS[name].system, other=PLACEHOLDERS[name].user)
    _check(source, user, PLACEHOLDERS[name].user, other=PLACEHOLDERS[name].system)
    return Prompt(
        name=name,
        description=header.description,
        file=file,
        system=Template(system.text.strip()),
        user=Template(user.text.strip()),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    name: str
    text: str
    line: int
    """The line of the file on which the text begins."""


def _parts(source: MarkdownFile) -> tuple[_Part, _Part]:
    lines = source.body.split("\n")
    marks = [at for at, line in enumerate(lines) if line.strip() == USER_PART]
    if len(marks) > 1:
        raise DefinitionError(
            f"a second line {USER_PART}", file=source.file, line=source.body_line + marks[1]
        )
    if not marks:
        return (
            _Part(name="system", text=source.body, line=source.body_line),
            _Part(name="user", text="", line=source.body_line),
        )
    below = marks[0] + 1
    return (
        _Part(name="system", text="\n".join(lines[: marks[0]]), line=source.body_line),
        _Part(name="user", text="\n".join(lines[below:]), line=source.body_line + below),
    )


def _check(
    source: MarkdownFile, part: _Part, expected: frozenset[str], *, other: frozenset[str]
) -> None:
    """Raise unless `part` uses all the `expected` placeholders and nothing else."""
    found: set[str] = set()
    for match in Template.pattern.finditer(part.text):
        line = part.line + part.text.count("\n", 0, match.start())
        name = str(match["named"] or match["braced"] or "")
        if match["invalid"] is not None:
            problem = "a lone $; write $$ for the sign itself"
        elif name in other:
            problem = f"the placeholder ${name} belongs to the other side of {USER_PART}"
        elif name not in expected and match["escaped"] is None:
            problem = f"unknown placeholder ${name}. {did_you_mean(name, expected | other)}"
        else:
            found.add(name)
            continue
        raise DefinitionError(problem, file=source.file, line=line)
    if missing := sorted(expected - found):
        raise DefinitionError(
            f"the {part.name} part lacks ${', $'.join(missing)}", file=source.file, line=part.line
        )


DESCRIPTION_CHARS = 500
"""How much of a worker's description a planner reads. Some people's are pages of examples."""


def describe_workers(cards: Iterable[WorkerCard]) -> str:
    """Return the workers as a Markdown list for a planner."""
    return "\n".join(_describe(card) for card in cards)


def _describe(card: WorkerCard) -> str:
    description = textwrap.shorten(card.description, DESCRIPTION_CHARS, placeholder=" …")
    facts = {
        "Best for": _one_line("; ".join(card.best_for)),
        "Not for": _one_line("; ".join(card.not_for)),
        "Needs": _one_line(card.needs),
        "Tools": ", ".join(map(spelled, card.tools)),
    }
    lines = [f"- **{card.name}**: {description}"]
    lines += [f"  - {title}: {text}" for title, text in facts.items() if text]
    return "\n".join(lines)


def _one_line(text: str) -> str:
    return " ".join(text.split())
