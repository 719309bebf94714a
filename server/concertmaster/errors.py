"""Every error of Concertmaster, in one tree.

    ConcertmasterError
    ├── SettingsError            a setting is missing, malformed or contradicts another
    ├── BackgroundError          the background server cannot be found, started or spoken to
    ├── DefinitionError          a worker or prompt file is wrong; names file, line and remedy
    ├── InputError               an input cannot be given to a worker; names it
    ├── RequestError             what a caller asked for cannot be done as asked
    │   ├── UnknownWorkerError
    │   ├── UnknownRunError
    │   ├── UnknownSubtaskError
    │   ├── UnknownQuestionError     it was never asked, or is answered by now
    │   ├── BusyRunError         a run is under way, and must not be
    │   ├── InvalidPlanError     carries every problem of the plan
    │   └── AllowanceError       the caller has used up what one person may use
    ├── StoreError               the journal cannot be read or written
    │   ├── LostRunError         another process owns this run now
    │   ├── UsedKeyError         there is a run with this idempotency key
    │   ├── ReservationError     a run needs more than its principal has left
    │   └── UnreadableRunError   one run's events make no sense; those of others may
    ├── ToolCallError            a worker tool cannot do what its caller asked; goes to the model
    │   └── ToolDeniedError          the operator does not allow it
    └── ModelError               a model call failed; carries what it cost
        ├── ModelRequestError    will fail again however often it is made
        │   └── ModelAccessError     and so will every other: key, model name, address, account
        ├── BudgetError          was not made, because the run cannot pay for it
        ├── ModelUnavailableError  may pass: overload, rate limit, connection, time
        └── ModelReplyError      the provider answered with something that is no reply

Messages are sentences for the reader who will get them: a person at a terminal or a
calling model. Each says what to do instead.
"""

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concertmaster.llm.usage import Usage


class ConcertmasterError(Exception):
    """Base of all errors that Concertmaster raises on purpose."""


class SettingsError(ConcertmasterError):
    """A setting is missing, malformed or contradicts another."""


class BackgroundError(ConcertmasterError):
    """The background server cannot be found, started or spoken to."""


class DefinitionError(ConcertmasterError):
    """A worker or prompt file is wrong."""

    def __init__(self, problem: str, *, file: Path, line: int | None = None) -> None:
        where = f"{file}:{line}" if line is not None else str(file)
        super().__init__(f"{where}: {problem}")
        self.problem = problem
        self.file = file
        self.line = line


class InputError(ConcertmasterError):
    """An input cannot be given to a worker."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"Input {name!r}: {problem}")
        self.name = name
        self.problem = problem


class RequestError(ConcertmasterError):
    """What a caller asked for cannot be done as asked."""


class UnknownWorkerError(RequestError):
    """No worker of that name is in the catalog."""

    def __init__(self, name: str, available: Sequence[str]) -> None:
        super().__init__(f"No worker named {name!r}. Available workers: {', '.join(available)}.")
        self.name = name
        self.available = tuple(available)


class UnknownRunError(RequestError):
    """No run of that id is in the store."""

    def __init__(self, run_id: str) -> None:
        super().__init__(
            f"No run {run_id!r}. Call get_run without run_id, or read runs://recent, "
            "to list the runs there are."
        )
        self.run_id = run_id


class UnknownSubtaskError(RequestError):
    """A run has no subtask of that id."""

    def __init__(self, run_id: str, subtask_id: str, available: Sequence[str]) -> None:
        known = f"Its subtasks: {', '.join(available)}." if available else "It has no subtasks."
        super().__init__(f"Run {run_id} has no subtask {subtask_id!r}. {known}")
        self.run_id = run_id
        self.subtask_id = subtask_id


class UnknownQuestionError(RequestError):
    """A run has no open question of that id."""

    def __init__(self, run_id: str, question_id: str, still_open: Sequence[str]) -> None:
        known = f"Open: {', '.join(still_open)}." if still_open else "None is open."
        super().__init__(
            f"Run {run_id} has no open question {question_id!r}: it is answered by now, it has "
            f"been waited for long enough, or it never was. {known}"
        )
        self.run_id = run_id
        self.question_id = question_id


class BusyRunError(RequestError):
    """A run is under way, and must not be for what is asked."""

    def __init__(self, run_id: str) -> None:
        super().__init__(
            f"Run {run_id} is under way. Wait for its end or stop it (concertmaster cancel "
            f"{run_id}), then try again."
        )
        self.run_id = run_id


class InvalidPlanError(RequestError):
    """A plan cannot be run; `problems` has one sentence for each thing to mend."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("The plan cannot be run: " + " ".join(problems))
        self.problems = tuple(problems)


class AllowanceError(RequestError):
    """The caller has used up what one person may use of a server that several people share."""


class StoreError(ConcertmasterError):
    """The journal cannot be read or written."""


class LostRunError(StoreError):
    """Another process owns this run now, so this one must stop working on it."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"Run {run_id} is owned by another process now.")
        self.run_id = run_id


class UsedKeyError(StoreError):
    """There is a run with this idempotency key already."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"Run {run_id} has this idempotency key.")
        self.run_id = run_id


class ReservationError(StoreError):
    """A run was not begun, because it needs more than is left to its principal."""

    def __init__(self, principal: str) -> None:
        super().__init__(f"The limits of {principal} leave no room for this run.")


class UnreadableRunError(StoreError):
    """The events of one run cannot be read; those of other runs may well be."""

    def __init__(self, run_id: str, problem: str) -> None:
        super().__init__(f"Run {run_id} cannot be read: {problem}")
        self.run_id = run_id
        self.problem = problem


class ToolCallError(ConcertmasterError):
    """A worker tool cannot do what its caller asked; the message goes back to the model."""


class ToolDeniedError(ToolCallError):
    """The operator does not allow a worker to make this call."""


class ModelError(ConcertmasterError):
    """A model call failed; `usage` is what the provider had charged by then.

    `text` is the part of the reply that had arrived.
    """

    def __init__(self, message: str, *, usage: "Usage | None" = None, text: str = "") -> None:
        super().__init__(message)
        self.usage = usage
        self.text = text


class ModelRequestError(ModelError):
    """The call will fail again however often it is made: key, model name or request is wrong."""


class ModelAccessError(ModelRequestError):
    """Every call like this one will fail, whatever it asks: key, model name, address or account.

    `model` is the id of the model that all of this concerns; None is every model.
    """

    def __init__(
        self,
        message: str,
        *,
        usage: "Usage | None" = None,
        text: str = "",
        model: str | None = None,
    ) -> None:
        super().__init__(message, usage=usage, text=text)
        self.model = model


class BudgetError(ModelError):
    """The call was not made, because what is left of a budget is too little for it.

    `least_usd` is what it takes to be worth making.
    """

    def __init__(self, message: str, *, least_usd: float) -> None:
        super().__init__(message)
        self.least_usd = least_usd


class ServerToolsRefusedError(ModelRequestError):
    """The provider does not call tools itself: not for this model, or not for this account."""


class ModelUnavailableError(ModelError):
    """The call may succeed later: overload, rate limit, lost connection, time-out.

    `busy` says that the provider has too many calls to take this one. `retry_after` is the
    number of seconds it asked to wait, where it said so.
    """

    def __init__(
        self,
        message: str,
        *,
        usage: "Usage | None" = None,
        text: str = "",
        busy: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, usage=usage, text=text)
        self.busy = busy
        self.retry_after = retry_after


class ModelReplyError(ModelError):
    """The provider answered, but with something that is not a reply."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a sentence that helps whoever wrote `name` and meant one of `known`."""
    folded = {candidate.lower(): candidate for candidate in known}
    if near := difflib.get_close_matches(name.lower(), folded, n=1):
        return f"Did you mean {folded[near[0]]!r}?"
    return f"Known: {', '.join(sorted(folded.values()))}."
