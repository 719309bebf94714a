"""Ready-made jobs: what each asks for, and the order that it makes of the answers."""

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError

from concertmaster.catalog.definitions import Text
from concertmaster.catalog.frontmatter import MarkdownFile, markdown_files, read_markdown
from concertmaster.engine.plan.plan import (
    SINGLE,
    Map,
    Plan,
    PlanMode,
    Priority,
    Revise,
    Strategy,
    Subtask,
    Verify,
    Vote,
    shape_problems,
)
from concertmaster.engine.plan.validation import PlanRules, plan_problems
from concertmaster.errors import DefinitionError, InvalidPlanError, RequestError, did_you_mean
from concertmaster.llm.fencing import quoted, spelled
from concertmaster.llm.usage import Frozen
from concertmaster.runs.orders import RunOrder

SHOWN_NAMES = 5
"""How many of several names a text has; how many more there are, it says."""


def _several(value: object) -> object:
    """Return a tuple, where a single text may have been written without a list."""
    if isinstance(value, list):
        return tuple(cast("list[object]", value))
    return (value,) if isinstance(value, str) else value


Texts = Annotated[tuple[Text, ...], BeforeValidator(_several)]


class Definition(Frozen):
    """Base of what is read from a job file."""

    model_config = ConfigDict(strict=True)


class JobArgument(Definition):
    """What whoever wants a job done has to say, or may."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,30}$")
    description: Text
    kind: Literal["text", "files", "worker"] = "text"
    """Files become the inputs of the run; a worker is one of the catalog."""
    required: bool = False
    several: bool = False
    at_least: int = Field(default=1, ge=1)
    """How many values there are of several, if any."""
    choices: Texts = ()
    """What it may be; anything when empty."""
    default: Texts = ()

    @property
    def amount(self) -> str:
        """Return how many values it takes, in words; nothing if it takes one."""
        if not self.several:
            return ""
        return f"{self.at_least} or more" if self.at_least > 1 else "Several"


class JobSubtask(Definition):
    """A subtask of the plan, whose texts have placeholders."""

    id: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$", max_length=30)
    for_each: str = ""
    """An argument with several values: there is a subtask for each, which is `$each` in texts."""
    when: dict[str, Texts] = Field(default_factory=dict[str, Texts])
    """Only where each of these arguments has one of these values."""
    worker: Text
    objective: Text
    why: str = ""
    depends_on: Texts = ()
    """Ids; one of a subtask with `for_each` means all of them."""
    priority: Priority = "medium"
    inputs: Literal["none", "all", "each"] = "none"
    """`each` is the input that a subtask for each of the files is for."""
    expects: str = ""
    needs_all: bool = False
    decisive: bool = False
    strategy: Strategy = SINGLE
    contexts: dict[str, str] = Field(default_factory=dict[str, str])
    """A map over the values of these arguments, under these keys: `{locale: locales}`."""
    timeout_seconds: float | None = Field(default=None, gt=0)
    max_tokens: int | None = Field(default=None, gt=0)
    budget_usd: float | None = Field(default=None, gt=0)


Arguments = Mapping[str, tuple[str, ...]]
"""The values of a job's arguments, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A task whose plan is known: only what it is about has to be said."""

    name: str
    title: str
    description: str
    task: str
    """With a placeholder for each argument that it names."""
    file: Path
    arguments: tuple[JobArgument, ...]
    subtasks: tuple[JobSubtask, ...]
    mode: PlanMode = "static"
    why: str = ""
    verify: Verify = "none"
    max_subtasks: int | None = None
    changes_files: bool = False
    """Whether its results are new texts of its inputs."""

    @property
    def files(self) -> JobArgument | None:
        """Return the argument that names the inputs, if it has one."""
        return next((item for item in self.arguments if item.kind == "files"), None)

    def check(self, given: Mapping[str, Sequence[str]]) -> Arguments:
        """Return the value of each argument, with defaults where nothing was given.

        Raises:
            RequestError: an argument is missing, unknown, or not one of its choices.
        """
        names = [item.name for item in self.arguments]
        for name in given:
            if name not in names:
                hint = did_you_mean(name, names)
                raise RequestError(f"{self.name} has no argument {name!r}. {hint}")
        return {item.name: self._values(item, given.get(item.name, ())) for item in self.arguments}

    def _values(self, argument: JobArgument, given: Sequence[str]) -> tuple[str, ...]:
        values = tuple(dict.fromkeys(text for value in given if (text := value.strip())))
        values = values or argument.default
        if not values and argument.required:
            raise RequestError(
                f"{self.name} needs the argument {argument.name!r}: {argument.description}"
            )
        if len(values) > 1 and not argument.several:
            raise RequestError(f"{argument.name} takes one value; {len(values)} were given.")
        if values and len(values) < argument.at_least:
            raise RequestError(
                f"{argument.name} takes {argument.at_least} values or more; there is only "
                f"{', '.join(map(repr, values))}."
            )
        for value in values:
            if argument.choices and value not in argument.choices:
                raise RequestError(
                    f"{argument.name} is {value!r}; it can be {', '.join(argument.choices)}."
                )
        return values

    def split(self, given: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
        """Return values that are each written as one text.

        Several have lines or commas between them; commas belong to values where there are lines.
        """
        several = {item.name for item in self.arguments if item.several}
        return {
            name: tuple(text.split("\n" if "\n" in text.strip() else ","))
            if name in several
            else (text,)
            for name, text in given.items()
        }

    def inputs(self, arguments: Arguments) -> tuple[str, ...]:
        """Return what names the inputs of the run: files, folders, patterns."""
        return arguments[self.files.name] if self.files is not None else ()

    def order(self, arguments: Arguments, documents: Sequence[str]) -> RunOrder:
        """Return the order for checked arguments, whose inputs have the names `documents`.

        Raises:
            RequestError: several files are given where one is asked for, or too little is said.
        """
        if self.files is not None and not self.files.several and len(documents) > 1:
            raise RequestError(
                f"{self.files.name} takes one file; these are {len(documents)}: "
                f"{listed(list(map(spelled, documents)))}."
            )
        filling = _Filling(self, arguments, documents)
        try:
            plan = filling.plan()
        except ValidationError as exc:
            # What is not said leaves a text empty that must not be.
            raise InvalidPlanError(shape_problems(exc)) from None
        return RunOrder(
            task=Template(self.task).substitute(filling.texts),
            inputs=self.inputs(arguments),
            plan=plan,
            max_subtasks=self.max_subtasks,
        )

    def plan(self, arguments: Arguments, documents: Sequence[str]) -> Plan:
        """Return the plan for checked arguments, not yet checked against rules."""
        return _Filling(self, arguments, documents).plan()


@dataclass(frozen=True, slots=True)
class _Filling:
    """A job with what was said of it."""

    job: Job
    arguments: Arguments
    documents: Sequence[str]

    @property
    def texts(self) -> dict[str, str]:
        """Return what stands in texts for each argument."""
        texts = {name: ", ".join(values) for name, values in self.arguments.items()}
        if self.job.files is not None:
            texts[self.job.files.name] = listed(list(map(quoted, self.documents)))
        return texts

    def plan(self) -> Plan:
        applying = [item for item in self.job.subtasks if self._applies(item)]
        ids = {item.id: self._ids(item) for item in applying}
        return Plan(
            analysis=self.job.description,
            mode=self.job.mode,
            why=self.job.why,
            verify=self.job.verify,
            subtasks=tuple(made for item in applying for made in self._subtasks(item, ids)),
        )

    def _applies(self, item: JobSubtask) -> bool:
        return all(set(self.arguments[name]) & set(values) for name, values in item.when.items())

    def _each(self, item: JobSubtask) -> Sequence[str]:
        """Return what a subtask is repeated for."""
        return self.documents if self._over_files(item) else self.arguments[item.for_each]

    def _over_files(self, item: JobSubtask) -> bool:
        files = self.job.files
        return files is not None and item.for_each == files.name

    def _ids(self, item: JobSubtask) -> list[str]:
        if not item.for_each:
            return [item.id]
        return [f"{item.id}-{number}" for number, _ in enumerate(self._each(item), start=1)]

    def _subtasks(self, item: JobSubtask, ids: Mapping[str, Sequence[str]]) -> Iterator[Subtask]:
        depends_on = tuple(name for other in item.depends_on if other in ids for name in ids[other])
        for number, subtask_id in enumerate(ids[item.id]):
            each = self._each(item)[number] if item.for_each else ""
            shown = quoted(each) if self._over_files(item) else each
            texts = self.texts | {"each": shown, "number": str(number + 1)}
            inputs = {"none": (), "all": tuple(self.documents), "each": (each,)}
            yield Subtask(
                id=subtask_id,
                worker=Template(item.worker).substitute(texts),
                objective=Template(item.objective).substitute(texts),
                why=Template(item.why).substitute(texts),
                depends_on=depends_on,
                priority=item.priority,
                inputs=inputs[item.inputs],
                expects=Template(item.expects).substitute(texts),
                needs_all=item.needs_all,
                decisive=item.decisive,
                strategy=self._strategy(item),
                timeout_seconds=item.timeout_seconds,
                max_tokens=item.max_tokens,
                budget_usd=item.budget_usd,
            )

    def _strategy(self, item: JobSubtask) -> Strategy:
        if not item.contexts:
            return item.strategy
        values = itertools.product(*(self.arguments[name] for name in item.contexts.values()))
        contexts = tuple(dict(zip(item.contexts, each, strict=True)) for each in values)
        return Map(kind="map", over="contexts", contexts=contexts)


TEMPLATES = ("worker", "objective", "why", "expects")
"""The texts of a subtask that may have placeholders."""


def listed(names: Sequence[str]) -> str:
    """Return the first of some names, and how many more there are."""
    more = [f"{len(names) - SHOWN_NAMES} more"] if len(names) > SHOWN_NAMES else []
    return ", ".join([*names[:SHOWN_NAMES], *more])


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
