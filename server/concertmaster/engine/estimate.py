"""What carrying out a plan is likely to take, from its shape, before anything is paid for.

Two cases are worked out, one in which all goes smoothly and answers are short, and one in
which workers use their turns and answers are long. Neither is a bound: what calls may take at
most is reserved before each of them, and bound by the run's budget.
"""

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from graphlib import TopologicalSorter
from pathlib import Path

from concertmaster.catalog.definitions import WorkerDefinition
from concertmaster.catalog.prompts import PromptName
from concertmaster.engine.budget import LEAST_REPLY, Amount
from concertmaster.engine.events import Amounts, Counts, Estimate
from concertmaster.engine.plan.plan import MOST_PARTS, Map, Plan, Revise, Subtask, Verify, Vote
from concertmaster.engine.run import Run, Setup, workers_of
from concertmaster.engine.strategies.map import TOKEN_CHARS
from concertmaster.llm.token_count import (
    BYTES_OF_LONG_TOKENS,
    BYTES_OF_SHORT_TOKENS,
    most_served,
    size,
)
from concertmaster.llm.usage import NO_USAGE, Usage

PROMPT_TOKENS = 2000
"""What most prompts have at most, without the texts that are put into them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """How things go."""

    high: bool
    """Whether what may be needed is: further turns, revisions, subtasks."""
    bytes_per_token: float
    decision: int
    """Tokens of a decision on what to do next."""
    reply: int
    """Tokens of an answer, what the model thinks included."""
    tool_call: int
    """Tokens with which a turn asks for tools."""
    outcome: int
    """Tokens that the tools of a turn bring."""
    wait: float
    """Seconds before a reply begins."""
    speed: float
    """Tokens of a reply per second."""


LOW = Case(
    high=False,
    bytes_per_token=BYTES_OF_LONG_TOKENS,
    decision=50,
    reply=50,
    tool_call=40,
    outcome=50,
    wait=1.0,
    speed=100.0,
)
USUAL = Case(
    high=False,
    bytes_per_token=BYTES_OF_LONG_TOKENS,
    decision=200,
    reply=500,
    tool_call=100,
    outcome=500,
    wait=1.0,
    speed=100.0,
)
"""Without detours, as the best case, and with answers of a usual length."""
CAREFUL = replace(USUAL, reply=LEAST_REPLY)
"""The same with replies as long as the lowest bound lets them be."""
HIGH = Case(
    high=True,
    bytes_per_token=BYTES_OF_SHORT_TOKENS,
    decision=500,
    reply=4000,
    tool_call=300,
    outcome=2000,
    wait=5.0,
    speed=50.0,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Load:
    """What some work takes."""

    calls: int = 0
    tokens: int = 0
    usd: float | None = 0.0
    path: float = 0.0
    """Seconds if nothing that can go on at the same time has to wait for a slot."""
    work: float = 0.0
    """Seconds if one thing is done at a time."""

    def then(self, other: "_Load") -> "_Load":
        """Return what this takes and the other after it."""
        return self._with(other, path=self.path + other.path)

    def beside(self, other: "_Load") -> "_Load":
        """Return what this takes and the other at the same time."""
        return self._with(other, path=max(self.path, other.path))

    def _with(self, other: "_Load", *, path: float) -> "_Load":
        return _Load(
            calls=self.calls + other.calls,
            tokens=self.tokens + other.tokens,
            usd=None if self.usd is None or other.usd is None else self.usd + other.usd,
            path=path,
            work=self.work + other.work,
        )


NO_LOAD = _Load()


def estimate(plan: Plan, run: Run, setup: Setup, *, done: Collection[str] = ()) -> Estimate:
    """Return what it takes to carry out a plan in a run, its synthesis included.

    Subtasks that are `done` take nothing any more.
    """
    low, high = (_Reckoning(plan, run, setup, case, done).whole() for case in (LOW, HIGH))
    slots = run.request.limits.slots
    # The bounds of any schedule that leaves no slot empty while something could run.
    soonest = max(low.path, low.work / slots)
    latest = high.path + (high.work - high.path) / slots
    usd = None
    if low.usd is not None and high.usd is not None:
        usd = Amounts(low=_at_least(low.usd), high=_at_most(high.usd))
    return Estimate(
        calls=Counts(low=low.calls, high=high.calls),
        tokens=Counts(low=int(_at_least(low.tokens)), high=int(_at_most(high.tokens))),
        usd=usd,
        seconds=Amounts(low=_at_least(soonest), high=_at_most(latest)),
    )


def usual_amount(plan: Plan, run: Run, setup: Setup) -> tuple[int, float | None]:
    """Return the tokens, and the USD where they are known, that a plan takes without detours."""
    load = _Reckoning(plan, run, setup, USUAL, ()).whole()
    return load.tokens, load.usd


def subtask_amounts(
    subtasks: Sequence[Subtask], plan: Plan, run: Run, setup: Setup, case: Case
) -> dict[str, Amount]:
    """Return what each of some subtasks of a plan takes; money that is unknown is left out."""
    reckoning = _Reckoning(plan, run, setup, case, ())
    return {item.id: reckoning.subtask_amount(item) for item in subtasks}


def synthesis_usage(result_tokens: int, max_tokens: int) -> Usage:
    """Return what the synthesis of results takes, with a reply of `max_tokens`."""
    return Usage(tokens_in=PROMPT_TOKENS + result_tokens, tokens_out=max_tokens)


def _at_least(figure: float) -> float:
    """Return a figure rounded down to two digits, since it is not known any better."""
    return _rounded(figure, math.floor)


def _at_most(figure: float) -> float:
    """Return a figure rounded up to two digits."""
    return _rounded(figure, math.ceil)


def _rounded(figure: float, to_integer: Callable[[float], int]) -> float:
    if figure <= 0:
        return 0.0
    digits = 1 - math.floor(math.log10(figure))
    # What is an integer but for an error in the last place is taken for one.
    return round(to_integer(round(figure * 10.0**digits, 6)) / 10.0**digits, max(digits, 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Inputs:
    """What a call reads of a run's inputs."""

    name: object
    """The same for calls that read the same."""
    tokens: int


class _Reckoning:
    """What the parts of a plan take, in one case."""

    def __init__(
        self, plan: Plan, run: Run, setup: Setup, case: Case, done: Collection[str]
    ) -> None:
        self._plan = plan
        self._todo = [subtask for subtask in plan.subtasks if subtask.id not in done]
        self._run = run
        self._setup = setup
        self._case = case
        self._limits = run.request.limits
        self._workers = workers_of(plan, setup)
        self._sizes = {name: size(item.text) for name, item in run.documents.items()}
        self._cached: set[object] = set()
        """How calls begin that a provider has cached by then, if all goes smoothly."""

    def whole(self) -> _Load:
        request, results = self._run.request, len(self._plan.subtasks)
        load = self._delegated()
        if self._plan.mode == "adaptive" and self._case.high:
            results = max(results, self._limits.max_subtasks)
        alone = request.kind == "worker" or request.output_schema is None
        if results > 1 or not alone:
            load = load.then(self._verification(results)).then(self._synthesis(results))
        return load.beside(self._guard())

    def subtask_amount(self, subtask: Subtask) -> Amount:
        load = self._subtask(subtask)
        return Amount(tokens=load.tokens, usd=load.usd or 0.0)

    def _delegated(self) -> _Load:
        """Return what the subtasks take; in an adaptive run, with those that may be added."""
        loads = {item.id: self._subtask(item) for item in self._todo}
        both = reduce(_Load.beside, loads.values(), NO_LOAD)
        load = replace(both, path=_longest(self._todo, loads))
        if self._plan.mode != "adaptive" or not loads:
            return load
        decision = self._decision(results=len(loads))
        if not self._case.high:
            return load.then(decision)
        more = max(0, self._limits.max_subtasks - len(self._plan.subtasks))
        dearest = max(loads.values(), key=lambda one: one.tokens)
        load = _times(dearest, more, _Load.then, first=load)
        return _times(decision, self._limits.rounds, _Load.then, first=load)

    def _decision(self, *, results: int) -> _Load:
        usage = Usage(
            tokens_in=self._prompt("next_step") + results * self._case.reply,
            tokens_out=self._case.decision,
        )
        return self._call(self._setup.models.planner, usage)

    def _synthesis(self, results: int, prompt: PromptName = "synthesize") -> _Load:
        usage = Usage(
            tokens_in=self._prompt(prompt) + results * self._case.reply,
            tokens_out=min(self._case.reply, self._limits.max_tokens),
        )
        return self._call(self._setup.models.synthesizer, usage)

    def _prompt(self, name: PromptName) -> int:
        """Return the tokens of a prompt without the texts that are put into it."""
        tokens = self._tokens(self._setup.prompts.length(name))
        return max(tokens, PROMPT_TOKENS) if self._case.high else tokens

    def _verification(self, results: int) -> _Load:
        verify: Verify = self._run.request.verify or self._plan.verify
        if verify == "none":
            return NO_LOAD
        load = self._synthesis(results, "verify")
        if verify == "report" or not self._case.high:
            return load
        mended = (self._mended(item) for item in self._plan.subtasks)
        return load.then(reduce(_Load.beside, mended, NO_LOAD))

    def _mended(self, subtask: Subtask) -> _Load:
        if isinstance(subtask.strategy, Map):
            return self._mapped(subtask, subtask.strategy)
        return self._answer(subtask, self._inputs(subtask))

    def _guard(self) -> _Load:
        guard = self._run.request.guard
        if not guard:
            return NO_LOAD
        model = self._worker(guard).model or self._setup.models.worker
        return self._judgement("guard", model, self._of(self._sizes), answers=0)

    def _subtask(self, subtask: Subtask) -> _Load:
        load = self._by_strategy(subtask)
        most = subtask.budget_usd or self._worker(subtask.worker).budget_usd
        if most is None or load.usd is None:
            return load
        return replace(load, usd=min(load.usd, most))

    def _by_strategy(self, subtask: Subtask) -> _Load:
        inputs = self._inputs(subtask)
        match subtask.strategy:
            case Revise() as strategy:
                return self._revised(subtask, strategy, inputs)
            case Vote() as strategy:
                return self._voted(subtask, strategy, inputs)
            case Map() as strategy:
                return self._mapped(subtask, strategy)
            case _:
                return self._answer(subtask, inputs)

    def _revised(self, subtask: Subtask, strategy: Revise, inputs: _Inputs) -> _Load:
        critic = self._worker(strategy.critic).model if strategy.critic else None
        answer = self._answer(subtask, inputs)
        model = critic or self._setup.models.worker
        critique = self._judgement("critique", model, inputs, answers=1)
        rounds = 1 + strategy.rounds if self._case.high else 1
        return _times(answer.then(critique), rounds, _Load.then)

    def _voted(self, subtask: Subtask, strategy: Vote, inputs: _Inputs) -> _Load:
        answers = [
            self._answer(subtask, inputs, worker=voter.worker, model=voter.model)
            for voter in strategy.electorate
        ]
        if not self._case.high:
            # Equal answers are not judged, and a majority may be there before all have come.
            answers.sort(key=lambda answer: answer.tokens)
            return reduce(_Load.beside, answers[: _fewest_answers(strategy)])
        load = reduce(_Load.beside, answers)
        model = self._setup.models.synthesizer
        match strategy.decide:
            case "judge":
                return load.then(self._judgement("judge", model, inputs, answers=len(answers)))
            case "rubric":
                each = len(strategy.criteria) if strategy.separate_criteria else 1
                one = self._judgement("rubric", model, inputs, answers=1)
                return load.then(_times(one, len(answers) * each, _Load.beside))
            case _:
                return load

    def _mapped(self, subtask: Subtask, strategy: Map) -> _Load:
        parts = [self._answer(subtask, part) for part in self._parts(subtask, strategy)]
        return reduce(_Load.beside, parts, NO_LOAD)

    def _parts(self, subtask: Subtask, strategy: Map) -> Sequence[_Inputs]:
        """Return what each part reads of the inputs."""
        match strategy.over:
            case "contexts":
                return [self._inputs(subtask)] * len(strategy.contexts)
            case "inputs":
                return [self._of([name]) for name in subtask.inputs]
            case _:
                longest = strategy.section_tokens * TOKEN_CHARS
                # Cut where sentences end, sections are down to half as long as they may be.
                longest //= 2 if self._case.high else 1
                sizes = [self._sizes.get(name, 0) for name in subtask.inputs]
                count = min(sum(-(-size // longest) for size in sizes), MOST_PARTS)
                tokens = self._tokens(sum(sizes) // max(count, 1))
                return [_Inputs(name=(subtask.id, part), tokens=tokens) for part in range(count)]

    def _inputs(self, subtask: Subtask) -> _Inputs:
        return self._of(subtask.inputs)

    def _of(self, names: Iterable[str]) -> _Inputs:
        known = tuple(name for name in self._sizes if name in names)
        return _Inputs(name=known, tokens=self._tokens(sum(self._sizes[name] for name in known)))

    def _tokens(self, length: int) -> int:
        return round(length / self._case.bytes_per_token)

    def _worker(self, name: str) -> WorkerDefinition:
        """Return a worker; for a name that there is none of, one of which nothing is known."""
        if name in self._workers:
            return self._workers.get(name)
        return WorkerDefinition(name=name, description="", instructions="", file=Path())

    def _answer(
        self, subtask: Subtask, inputs: _Inputs, *, worker: str = "", model: str = ""
    ) -> _Load:
        """Return what a worker's conversation takes."""
        case, definition = self._case, self._worker(worker or subtask.worker)
        bound = subtask.max_tokens or definition.max_tokens or self._limits.max_tokens
        turns = definition.max_turns if case.high and definition.tools else 1
        template = self._prompt("work")
        prompt = template + self._tokens(size(definition.instructions))
        prompt += len(subtask.depends_on) * case.reply
        asked_for = model or self._run.request.model
        model = asked_for or definition.model or self._setup.models.worker
        load = NO_LOAD
        shared = template if self._is_cached(("work", model, definition.tools)) else 0
        for turn in range(turns):
            words = min(case.tool_call if turn < turns - 1 else case.reply, bound)
            usage = Usage(
                tokens_in=prompt - shared + turn * (case.tool_call + case.outcome),
                cache_read=shared,
                tokens_out=words,
            )
            usage += self._served(definition) if turn == 0 else NO_USAGE
            begins_as = (model, definition.tools, inputs.name)
            load = load.then(self._call(model, usage, inputs, begins_as, again=turn > 0))
        most = definition.timeout_seconds or self._limits.subtask_seconds
        most = min(subtask.timeout_seconds or most, load.path)
        return replace(load, path=most, work=most)

    def _served(self, definition: WorkerDefinition) -> Usage:
        """Return what the provider calls itself for a worker: each tool once, or all it may."""
        tools = self._setup.tools.here(definition.tools).served
        if not self._case.high:
            tools = [replace(tool, max_uses=1) for tool in tools]
        return most_served(tools)

    def _is_cached(self, beginning: object) -> bool:
        """Return whether a call that begins so finds it cached; from here on, others do."""
        known = not self._case.high and beginning in self._cached
        self._cached.add(beginning)
        return known

    def _judgement(self, prompt: PromptName, model: str, inputs: _Inputs, *, answers: int) -> _Load:
        usage = Usage(
            tokens_in=self._prompt(prompt) + answers * self._case.reply,
            tokens_out=min(self._case.reply // 4, self._limits.max_tokens),
        )
        return self._call(model, usage, inputs, (model, "judgement", inputs.name))

    def _call(
        self,
        model: str,
        usage: Usage,
        inputs: _Inputs | None = None,
        begins_as: object = None,
        *,
        again: bool = False,
    ) -> _Load:
        """Return what a call takes that reads `inputs` before all that is in `usage`."""
        tokens = inputs.tokens if inputs is not None else 0
        cached = self._is_cached(begins_as) or again
        read = usage + (Usage(cache_read=tokens) if cached else Usage(cache_write=tokens))
        expected = self._setup.llm.expected(model, read)
        if expected.usd is None:
            # Not every provider has a price for what is cached.
            whole = usage.tokens_in + usage.cache_read + tokens
            plain = usage.model_copy(update={"tokens_in": whole, "cache_read": 0})
            expected = self._setup.llm.expected(model, plain)
        # What reads no tokens does not think either.
        seconds = self._case.wait + usage.tokens_out / self._case.speed if expected.tokens else 0.0
        return _Load(calls=1, tokens=expected.tokens, usd=expected.usd, path=seconds, work=seconds)


def _fewest_answers(strategy: Vote) -> int:
    """Return how many answers may settle a vote."""
    voters = strategy.electorate
    if strategy.decide in ("judge", "rubric"):
        return len(voters)
    weighted = strategy.decide == "weighted"
    weights = sorted((voter.weight if weighted else 1.0 for voter in voters), reverse=True)
    needed = strategy.share * sum(weights)
    sums = itertools.accumulate(weights)
    return next((count for count, most in enumerate(sums, start=1) if most > needed), len(voters))


def _times(
    load: _Load, count: int, joined: Callable[[_Load, _Load], _Load], *, first: _Load = NO_LOAD
) -> _Load:
    return reduce(joined, [load] * count, first)


def _longest(subtasks: Sequence[Subtask], loads: Mapping[str, _Load]) -> float:
    """Return the seconds of the longest chain of subtasks of which each waits for the last."""
    graph = {item.id: [name for name in item.depends_on if name in loads] for item in subtasks}
    ends: dict[str, float] = {}
    for name in TopologicalSorter(graph).static_order():
        ends[name] = loads[name].path + max((ends[other] for other in graph[name]), default=0.0)
    return max(ends.values(), default=0.0)
