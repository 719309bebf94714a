"""Job files: Markdown, whose header has the arguments and the plan, and whose body the task."""

import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from pydantic import Field

from concertmaster.catalog.definitions import Text
from concertmaster.catalog.markdown import MarkdownFile, markdown_files, read_markdown
from concertmaster.engine.plans.plan import Plan, PlanMode, Verify
from concertmaster.engine.plans.rules import PlanRules, plan_problems
from concertmaster.engine.plans.strategy import Revise, Vote
from concertmaster.errors import DefinitionError, did_you_mean
from concertmaster.runs.jobs import (
    TEMPLATES,
    Arguments,
    Definition,
    Job,
    JobArgument,
    JobSubtask,
)

_SAMPLES = ("one", "two")
"""Values of arguments with which a file's plan is tried out."""


class JobHeader(Definition):
    """The header of a job file."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")
    title: Text
    description: Text
    arguments: list[Any] = Field(default_factory=list[Any])
    mode: PlanMode = "static"
    why: str = ""
    verify: Verify = "none"
    max_subtasks: int | None = Field(default=None, ge=1)
    changes_files: bool = False
    subtasks: list[Any] = Field(min_length=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobsReading:
    """The jobs whose files are right, by name and sorted, and what is wrong with the others."""

    jobs: dict[str, Job]
    errors: tuple[DefinitionError, ...] = ()


def read_jobs(*folders: Path) -> JobsReading:
    """Return the jobs and every fault of all `folders`; a later folder's jobs win."""
    jobs: dict[str, Job] = {}
    errors: list[DefinitionError] = []
    for folder in folders:
        try:
            files = markdown_files(folder)
        except DefinitionError as exc:
            errors.append(exc)
            continue
        jobs |= _read_files(files, errors)
    return JobsReading(jobs=dict(sorted(jobs.items())), errors=tuple(errors))


def _read_files(files: Collection[Path], errors: list[DefinitionError]) -> dict[str, Job]:
    jobs: dict[str, Job] = {}
    for file in files:
        try:
            job = read_job(file)
        except DefinitionError as exc:
            errors.append(exc)
            continue
        first = jobs.setdefault(job.name, job)
        if first is not job:
            problem = f"the job {job.name!r} is already defined by {first.file}"
            errors.append(DefinitionError(problem, file=file))
    return jobs


def read_job(file: Path) -> Job:
    """Return the job that `file` defines.

    Raises:
        DefinitionError: the file is wrong; the error names the line and the remedy.
    """
    source = read_markdown(file)
    header = source.parse_header(JobHeader)
    job = Job(
        name=header.name,
        title=header.title,
        description=header.description,
        task=source.body,
        file=file,
        arguments=tuple(
            source.parse_header(JobArgument, "arguments", number)
            for number in range(len(header.arguments))
        ),
        subtasks=tuple(
            source.parse_header(JobSubtask, "subtasks", number)
            for number in range(len(header.subtasks))
        ),
        mode=header.mode,
        why=header.why,
        verify=header.verify,
        max_subtasks=header.max_subtasks,
        changes_files=header.changes_files,
    )
    _check_arguments(source, job)
    _check_task(source, job)
    for number, item in enumerate(job.subtasks):
        _SubtaskCheck(source, job, item, number).check()
    _try_out(source, job)
    return job


def _check_arguments(source: MarkdownFile, job: Job) -> None:
    names: set[str] = set()
    files = [number for number, item in enumerate(job.arguments) if item.kind == "files"]
    if len(files) > 1:
        raise source.error("only one argument can be the files", "arguments", files[1], "kind")
    for number, item in enumerate(job.arguments):
        at = ("arguments", number)
        if item.name in names or item.name in ("each", "number"):
            raise source.error(f"the name {item.name!r} is taken", *at, "name")
        names.add(item.name)
        if strange := [text for text in item.default if item.choices and text not in item.choices]:
            raise source.error(f"default: {strange[0]!r} is none of the choices", *at, "default")
        if len(item.default) > 1 and not item.several:
            raise source.error("default: it takes one value", *at, "default")
        if item.at_least > 1 and not item.several:
            raise source.error("at_least: it takes one value", *at, "at_least")


def _check_task(source: MarkdownFile, job: Job) -> None:
    if not source.body:
        raise source.error("there is no task below the header")
    known = [item.name for item in job.arguments]
    for start, problem in _placeholder_problems(source.body, known):
        line = source.body_line + source.body.count("\n", 0, start)
        raise DefinitionError(problem, file=source.file, line=line)


def _placeholder_problems(text: str, known: Collection[str]) -> Iterator[tuple[int, str]]:
    for match in Template.pattern.finditer(text):
        name = str(match["named"] or match["braced"] or "")
        if match["invalid"] is not None:
            yield match.start(), "a lone $; write $$ for the sign itself"
        elif match["escaped"] is None and name not in known:
            hint = did_you_mean(name, known) if known else "The job has no arguments."
            yield match.start(), f"unknown placeholder ${name}. {hint}"


@dataclass(frozen=True, slots=True)
class _SubtaskCheck:
    """Tells what is wrong with one subtask of a job file."""

    source: MarkdownFile
    job: Job
    item: JobSubtask
    number: int

    def check(self) -> None:
        item = self.item
        if item.id in [other.id for other in self.job.subtasks[: self.number]]:
            raise self._error(f"the id {item.id!r} is taken", "id")
        arguments = {argument.name: argument for argument in self.job.arguments}
        several = [name for name, argument in arguments.items() if argument.several]
        if item.for_each:
            self._one_of(item.for_each, several, "for_each")
        for key, name in item.contexts.items():
            self._one_of(name, several, "contexts", key)
        for name, values in item.when.items():
            choices = arguments[name].choices if name in arguments else ()
            self._one_of(name, [name for name in arguments if arguments[name].choices], "when")
            for value in values:
                self._one_of(value, choices, "when", name)
        for name in item.depends_on:
            self._one_of(name, [other.id for other in self.job.subtasks], "depends_on")
        self._check_inputs()
        self._check_placeholders([*arguments, *(("each", "number") if item.for_each else ())])

    def _one_of(self, name: str, known: Collection[str], *path: str) -> None:
        if name not in known:
            hint = did_you_mean(name, known) if known else "The job has no such argument."
            raise self._error(f"{path[0]}: {name!r} cannot be used here. {hint}", *path)

    def _check_inputs(self) -> None:
        files = self.job.files
        if self.item.inputs != "none" and files is None:
            raise self._error("inputs: no argument of the job has the kind `files`", "inputs")
        if self.item.inputs == "each" and (files is None or self.item.for_each != files.name):
            raise self._error("inputs: `each` is for a subtask for_each of the files", "inputs")
        if self.item.contexts and self.item.strategy.kind != "single":
            raise self._error("contexts make it a map; leave the strategy out", "contexts")

    def _check_placeholders(self, known: Collection[str]) -> None:
        for key in TEMPLATES:
            for _, problem in _placeholder_problems(getattr(self.item, key), known):
                raise self._error(f"{key}: {problem}", key)

    def _error(self, problem: str, *path: str) -> DefinitionError:
        return self.source.error(problem, "subtasks", self.number, *path)


def _try_out(source: MarkdownFile, job: Job) -> None:
    """Raise unless the plan can be run, whatever is chosen."""
    for arguments in _samples(job):
        documents = arguments[job.files.name] if job.files is not None else ()
        plan = job.plan(arguments, documents)
        rules = PlanRules(
            # Which workers there are is known where the job is done.
            workers=list(_workers(plan)),
            inputs=documents,
            max_subtasks=len(plan.subtasks),
        )
        if problems := plan_problems(plan, rules):
            raise source.error(" ".join(problems), "subtasks")


def _workers(plan: Plan) -> Iterator[str]:
    for item in plan.subtasks:
        yield item.worker
        match item.strategy:
            case Revise():
                yield item.strategy.critic
            case Vote():
                yield from (voter.worker for voter in item.strategy.voters)
            case _:
                pass


def _samples(job: Job) -> Iterator[Arguments]:
    """Yield arguments with each combination of choices."""
    names = [item.name for item in job.arguments]
    values = [
        [(choice,) for choice in item.choices] or [_SAMPLES[: 1 + item.several]]
        for item in job.arguments
    ]
    for combination in itertools.product(*values):
        yield dict(zip(names, combination, strict=True))
