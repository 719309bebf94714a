"""How bad the findings of ruff's rules are, and what to do about them."""

from dataclasses import dataclass

from concertmaster.llm.offline.findings import Severity


@dataclass(frozen=True, slots=True)
class Advice:
    """What is said of a rule beside ruff's own message."""

    severity: Severity
    fix: str = ""


_SQL = Advice(
    "critical", "pass the values as parameters (`execute(query, values)`), never in text."
)
_SHELL = Advice("critical", "pass a list of arguments without a shell, so that input stays input.")
_SECRET = Advice("high", "read it from the environment or a secret store, and replace it.")
_UNPICKLE = Advice("high", "loading it can run any code: use JSON, or sign what you store.")
_EVAL = Advice("critical", "parse the input instead (`ast.literal_eval`, `json.loads`).")
_HASH = Advice("high", "hash passwords with `hashlib.scrypt`, other data with SHA-256.")
_XML = Advice("medium", "parse untrusted XML with the `defusedxml` package.")
_CERTIFICATE = Advice("high", "keep certificate checks on; give the CA file if it is your own.")
_TIMEOUT = Advice("medium", "give every request a timeout, or it may wait forever.")
_SWALLOWED = Advice("medium", "catch the one error you expect, and log or raise the others.")
_TEMP = Advice("medium", "use the `tempfile` module: others can foresee the name.")
_COMPLEX = Advice("medium", "move each part that has a name of its own into a function.")
_DOCSTRING = Advice("low", "say in one sentence what the caller gets.")
_UNUSED = Advice("low", "remove it.")
_UNDEFINED = Advice("high", "define or import the name: this line raises NameError.")

_ADVICE: dict[str, Advice] = {
    "invalid-syntax": Advice("critical", "mend the syntax: the file cannot be imported."),
    "S102": _EVAL,
    "S104": Advice("medium", "bind to 127.0.0.1 unless the whole network is to reach it."),
    "S105": _SECRET,
    "S106": _SECRET,
    "S107": _SECRET,
    "S108": _TEMP,
    "S110": _SWALLOWED,
    "S112": _SWALLOWED,
    "S113": _TIMEOUT,
    "S201": Advice("critical", "turn debug mode off: its console runs any code."),
    "S202": Advice("high", "check each member's path, or extract with `filter='data'`."),
    "S301": _UNPICKLE,
    "S302": _UNPICKLE,
    "S306": _TEMP,
    "S307": _EVAL,
    "S308": Advice("high", "escape the text; mark as safe only what you wrote yourself."),
    "S314": _XML,
    "S318": _XML,
    "S320": _XML,
    "S311": Advice("low", "use the `secrets` module for anything that must not be guessed."),
    "S324": _HASH,
    "S303": _HASH,
    "S501": _CERTIFICATE,
    "S502": Advice("high", "use `ssl.create_default_context()`."),
    "S503": Advice("high", "use `ssl.create_default_context()`."),
    "S506": Advice("critical", "use `yaml.safe_load`: this can run any code."),
    "S507": Advice("high", "load the known hosts and reject unknown keys."),
    "S602": _SHELL,
    "S603": Advice("low", "make sure that no argument comes from outside unchecked."),
    "S604": _SHELL,
    "S605": _SHELL,
    "S607": Advice("low", "name the program by its full path, or trust the PATH knowingly."),
    "S608": _SQL,
    "S610": _SQL,
    "S611": _SQL,
    "S701": Advice("high", "turn autoescaping on, or input becomes markup."),
    "S702": Advice("high", "escape with the `h` filter by default."),
    "B006": Advice("high", "use None and make the object inside: all calls share this one."),
    "B008": Advice("medium", "call it inside the function: this runs once, at definition."),
    "B023": Advice("high", "bind the loop variable as a default argument: all see its last value."),
    "B904": Advice("low", "raise `from` the error, or from None, to keep the trace clear."),
    "B011": Advice("medium", "raise AssertionError: `python -O` drops asserts."),
    "E711": Advice("low", "compare with `is None`: `==` may be overloaded."),
    "E712": Advice("low", "use the value itself as the condition."),
    "E722": Advice("high", "name the error: this also catches Ctrl-C and hides every bug."),
    "E741": Advice("low", "use a longer name: this one looks like a digit."),
    "F401": _UNUSED,
    "F841": _UNUSED,
    "F821": _UNDEFINED,
    "F822": _UNDEFINED,
    "F823": _UNDEFINED,
    "F811": Advice("medium", "rename or remove one: the first is never used."),
    "F631": Advice("high", "drop the parentheses: a tuple is always true."),
    "C901": _COMPLEX,
    "PLR0911": _COMPLEX,
    "PLR0912": _COMPLEX,
    "PLR0915": _COMPLEX,
    "PERF203": Advice("low", "move the `try` around the loop, if one failure may end it."),
    "PERF401": Advice("low", "write a comprehension."),
    "PERF402": Advice("low", "use `list(…)` or `extend`."),
    "SIM102": Advice("low", "join the conditions with `and`."),
    "SIM103": Advice("low", "return the condition itself."),
    "SIM105": Advice("low", "write `with contextlib.suppress(…)`."),
    "SIM108": Advice("low", "write a conditional expression."),
    "SIM110": Advice("low", "write `any(…)` or `all(…)`."),
    "SIM115": Advice("medium", "open it in a `with` block: otherwise it may never be closed."),
    "A001": Advice("low", "choose another name: this one hides a builtin."),
    "A002": Advice("low", "choose another name: this one hides a builtin."),
    "PT011": Advice("low", "name the exact error, or `match` its message."),
    "PT012": Advice("low", "keep only the call that should raise inside the block."),
    "PT015": Advice("medium", "use `pytest.fail`, or expect the error with `pytest.raises`."),
    "PT018": Advice("low", "split it, so that a failure says which part was wrong."),
}

_FAMILIES: dict[str, Advice] = {
    "S": Advice("medium"),
    "ASYNC": Advice("high", "use the asynchronous way: this blocks every other task."),
    "B": Advice("medium"),
    "PLE": Advice("high"),
    "PLW": Advice("medium"),
    "D": _DOCSTRING,
    "FIX": Advice("low", "do it, or open an issue for it and remove the note."),
    "ERA": Advice("low", "remove it; version control remembers it."),
    "N": Advice("low", "name it as PEP 8 says: readers tell by the form what it is."),
    "RET": Advice("low", "return where the result is known, and drop what follows."),
    "UP": Advice("low", "use the newer form; `ruff check --fix` can do it."),
    "C": Advice("low", "write the comprehension or literal; `ruff check --fix` can do it."),
    "W": Advice("low", "run a formatter."),
}
"""By the letters that the rules' codes begin with."""

_OTHER = Advice("low")


def advice(rule: str) -> Advice:
    """Return how bad a finding of `rule` is, and what to do about it where that is known."""
    family = rule.rstrip("0123456789")
    return _ADVICE.get(rule) or _FAMILIES.get(family, _OTHER)
