"""How a run gets its plan: from its request, or from the planner and, if need be, repair."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from concertmaster.catalog.prompts import describe_workers
from concertmaster.engine.events import PlanRejected
from concertmaster.engine.plan.plan import Plan, read_plan
from concertmaster.engine.plan.repair import RepairedPlan, repair_plan
from concertmaster.engine.plan.validation import (
    PlanRules,
    merged,
    overlaps,
    plan_problems,
    plan_schema,
    with_implied_dependencies,
)
from concertmaster.engine.run import Run, Setup, bullets, fenced_inputs, input_names
from concertmaster.errors import InvalidPlanError, ModelError
from concertmaster.llm.messages import (
    AssistantMessage,
    Document,
    Draft,
    Message,
    PlanBrief,
    Reply,
    Request,
    UserMessage,
)
from concertmaster.llm.usage import Usage

REPAIRS = 2
"""How often a plan that cannot be run goes back to the planner."""

PLANNER_CHARS = 200_000
"""How much of the inputs a planner reads; workers get theirs whole."""


TYPICAL_TURN = Usage(tokens_in=5000, tokens_out=2000)
"""What a worker's turn takes, about."""


async def make_plan(
    run: Run, setup: Setup, *, watch: Callable[[str], None] | None = None
) -> RepairedPlan:
    """Return the plan to run; `watch` is told what has been written of it as it is written.

    Raises:
        InvalidPlanError: the planner did not come up with anything that is a plan.
        ModelError: the planner could not be reached.
    """
    rules = run.rules(setup.catalog)
    if run.request.plan is not None:
        # Whoever gives a plan means it: what looks like waste in one that was made is none here.
        plan = _in_mode(run.request.plan, rules)
        return RepairedPlan(plan=plan, left_out=run.request.plan_gaps)
    messages: list[Message] = []
    problems: Sequence[str] = ()
    plan: Plan | None = None
    for attempt in range(1, REPAIRS + 2):
        request = _request(run, setup, rules, messages, problems)
        draft = Draft(lambda draft: watch(draft.text)) if watch is not None else None
        try:
            reply = await run.steps.call(f"plan/call/{attempt}", setup.llm, request, draft=draft)
        except ModelError as exc:
            if plan is None:
                raise
            return _repaired_without_planner(plan, rules, run, exc)
        plan, problems = _judge(reply, rules, last=plan, lenient=attempt > REPAIRS)
        if plan is not None and not problems:
            return _accepted(plan, rules)
        await run.steps.record(
            PlanRejected(
                name=f"plan/rejected/{attempt}", at=run.steps.now(), problems=tuple(problems)
            )
        )
        repair = setup.prompts.render("repair", problems=bullets(problems))
        messages = [
            *request.messages,
            AssistantMessage(text=reply.text or "(nothing)"),
            UserMessage(text=repair.user),
        ]
    if plan is None:
        raise InvalidPlanError(problems)
    return _accepted(plan, rules, repair_plan(plan, rules, task=run.request.task))


def _repaired_without_planner(
    plan: Plan, rules: PlanRules, run: Run, error: ModelError
) -> RepairedPlan:
    """Return a plan that is whole, repaired by rule because its planner could not be asked to."""
    repaired = repair_plan(plan, rules, task=run.request.task)
    warning = f"The planner could not be asked to repair its plan: {error}"
    return _accepted(plan, rules, replace(repaired, warnings=(warning, *repaired.warnings)))


def _accepted(plan: Plan, rules: PlanRules, repaired: RepairedPlan | None = None) -> RepairedPlan:
    """Return the plan to run, in the mode that it must have, without what would be waste."""
    repaired = repaired or RepairedPlan(plan=plan)
    plan, merges = merged(repaired.plan)
    plan, implied = with_implied_dependencies(plan)
    return replace(
        repaired,
        plan=_in_mode(plan, rules),
        warnings=(*repaired.warnings, *merges, *implied, *overlaps(plan.subtasks)),
    )


def _in_mode(plan: Plan, rules: PlanRules) -> Plan:
    return plan.model_copy(update={"mode": rules.mode or plan.mode})


def _judge(
    reply: Reply, rules: PlanRules, *, last: Plan | None, lenient: bool
) -> tuple[Plan | None, list[str]]:
    """Return the plan in a reply and its problems; the `last` plan where there is none in it."""
    if reply.stop_reason == "refusal":
        return last, [f"The planner refused: {reply.detail or 'no reason given'}."]
    try:
        plan = read_plan(reply.text, lenient=lenient)
    except InvalidPlanError as exc:
        cut = ["The reply was cut; write a shorter plan."] if reply.stop_reason != "end" else []
        return last, [*cut, *exc.problems]
    return plan, plan_problems(plan, rules)


def _request(
    run: Run,
    setup: Setup,
    rules: PlanRules,
    messages: Sequence[Message],
    problems: Sequence[str],
) -> Request:
    request = run.request
    documents = tuple(run.documents.values())
    cards = setup.catalog.cards(request.workers)
    prompt = setup.prompts.render(
        "plan",
        workers=describe_workers(cards),
        max_subtasks=str(rules.max_subtasks),
        task=request.task,
        context=request.context or "None.",
        input_names=input_names(documents),
        constraints=bullets(request.constraints),
        decisions=bullets([*_decisions(run, rules), *_money(run, setup)]),
    )
    return Request(
        caller="planner",
        model=setup.models.planner,
        system=prompt.system,
        shared=fenced_inputs(_excerpts(documents)),
        messages=messages or [UserMessage(text=prompt.user)],
        brief=PlanBrief(
            task=request.task,
            inputs=documents,
            workers=cards,
            max_subtasks=rules.max_subtasks,
            problems=tuple(problems),
        ),
        max_tokens=request.limits.max_tokens,
        output_schema=plan_schema(rules),
    )


def _decisions(run: Run, rules: PlanRules) -> list[str]:
    """Return what is decided already of how the run proceeds, and what is left to the plan."""
    custom = {0: "none, so leave custom_workers out", 1: "one at most"}
    mode = f'"{rules.mode}"' if rules.mode else "as you see fit"
    verify = f'"{run.request.verify}"' if run.request.verify else "as you see fit"
    return [
        f"mode: {mode}.",
        f"verify: {verify}.",
        f"Custom workers: {custom.get(rules.custom_workers, 'as many as are needed')}.",
    ]


def _money(run: Run, setup: Setup) -> list[str]:
    """Return what the run may spend and what work costs, where that is known and not nothing."""
    turn = setup.llm.expected(setup.models.worker, TYPICAL_TURN).usd
    if not turn:
        return []
    return [
        f"Budget: {run.request.limits.budget_usd:g} USD for all model calls of the run; an answer "
        f"of a worker costs about {turn:.2g} USD, and as much again for each turn with tools."
    ]


def _excerpts(documents: Sequence[Document]) -> list[Document]:
    """Return the documents, each cut to an equal share where all of them are too long."""
    if sum(len(document.text) for document in documents) <= PLANNER_CHARS:
        return list(documents)
    share = PLANNER_CHARS // len(documents)
    return [
        document
        if len(document.text) <= share
        else Document(
            name=document.name,
            text=f"{document.text[:share]}\n[{len(document.text) - share:,} more characters]",
        )
        for document in documents
    ]
