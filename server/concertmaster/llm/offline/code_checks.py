"""Faults in Python code that ruff has no rules for."""

import ast
import re
from collections.abc import Iterator, Sequence

from concertmaster.llm.offline.calls import imports_one_of
from concertmaster.llm.offline.findings import Finding
from concertmaster.llm.offline.lookups import Lookup, any_of
from concertmaster.llm.offline.sources import Source, is_test

_Function = ast.FunctionDef | ast.AsyncFunctionDef

BRANCHY = 3
"""Branches that make it worth a finding of its own that a function has no test."""

_SECRET_NAME = re.compile(
    r"(?:api|access|private|auth|signing|encryption)_?key|credential", re.IGNORECASE
)
# What ruff takes for a password (`password`, `secret`, `token`) is left to it.
_SECRET_TEXT = re.compile(
    r"AKIA[0-9A-Z]{16}|gh[pousr]_\w{30,}|sk-[\w-]{20,}|xox[abpr]-[\w-]{10,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----|[a-z]{2,15}://[^/\s:@{}]{1,99}:[^/\s:@{}]{1,99}@"
)
_ASSERTING = re.compile(r"assert|raises|warns|fail", re.IGNORECASE)


def nothing(_sources: Sequence[Source], _beside: Sequence[Source]) -> list[Finding]:
    """Return no findings."""
    return []


def secrets(sources: Sequence[Source], _beside: Sequence[Source]) -> list[Finding]:
    """Return where keys and passwords are written into the code."""
    return [
        Finding(
            severity="critical" if shaped else "high",
            file=source.name,
            line=line,
            what="A key or password is written into the code",
            fix="read it from the environment or a secret store, and replace the leaked one.",
            rule="secret-in-code",
        )
        for source in sources
        for line, shaped in _secret_lines(source.tree)
    ]


def _secret_lines(tree: ast.Module) -> Iterator[tuple[int, bool]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if _SECRET_TEXT.search(node.value):
                yield node.lineno, True
        elif isinstance(node, ast.Assign | ast.AnnAssign) and _is_secret(node):
            yield node.lineno, False


def _is_secret(node: ast.Assign | ast.AnnAssign) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    match node.value:
        case ast.Constant(value=str(text)) if len(text) >= 8 and " " not in text:
            named = any(_SECRET_NAME.search(ast.unparse(target)) for target in targets)
            # `API_KEY = "SHOP_API_KEY"` names a variable of the environment.
            return named and not text.isupper() and not _SECRET_TEXT.search(text)
        case _:
            return False


def tests_of(sources: Sequence[Source]) -> Lookup | None:
    """Return where the tests are of modules whose functions are to be tested."""
    to_test = [
        source
        for source in sources
        if source.module and not source.is_test and _public(source.tree)
    ]
    if not to_test:
        return None
    names = any_of(source.module[-1] for source in to_test)
    return Lookup(
        pattern=rf"^\s*(?:from|import)\s.*{names}",
        files="**/*test*.py",
        fits=lambda hit: is_test(hit.file) and imports_one_of(to_test, hit.text),
    )


def untested(sources: Sequence[Source], beside: Sequence[Source]) -> list[Finding]:
    """Return the public functions that no test mentions, and the tests that check nothing."""
    tests = [source for source in sources if source.is_test]
    found = [source for source in beside if source.is_test]
    mentioned = {name for source in (*tests, *found) for name in _names_used(source.tree)}
    findings = [finding for source in tests for finding in _idle_tests(source)]
    for source in sources:
        if not source.is_test:
            functions = [item for item in _public(source.tree) if item.name not in mentioned]
            findings += _without_tests(source.name, functions)
    return findings


def _names_used(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr


def _public(tree: ast.Module) -> list[_Function]:
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    bodies = [tree.body, *(node.body for node in classes if not node.name.startswith("_"))]
    return [
        node
        for body in bodies
        for node in body
        if isinstance(node, _Function) and not node.name.startswith("_")
    ]


def _without_tests(file: str, functions: Sequence[_Function]) -> Iterator[Finding]:
    plain: list[_Function] = []
    for function in functions:
        branches = _branches(function)
        if branches < BRANCHY:
            plain.append(function)
            continue
        yield Finding(
            severity="medium",
            file=file,
            line=function.lineno,
            what=f"`{function.name}` has {branches} branches, and no known test mentions it",
            fix="write a test for each branch, the failing ones first.",
            rule="untested-branches",
        )
    if plain:
        yield Finding(
            severity="low",
            file=file,
            line=plain[0].lineno,
            what=f"No known test mentions {', '.join(f'`{item.name}`' for item in plain)}",
            fix="write a test for the usual case and one for the smallest and oddest input.",
            rule="untested",
        )


def _branches(function: _Function) -> int:
    branching = ast.If | ast.IfExp | ast.For | ast.AsyncFor | ast.While | ast.ExceptHandler
    return sum(isinstance(node, branching | ast.match_case) for node in ast.walk(function))


def _idle_tests(source: Source) -> Iterator[Finding]:
    for node in ast.walk(source.tree):
        if isinstance(node, _Function) and node.name.startswith("test") and not _checks(node):
            yield Finding(
                severity="medium",
                file=source.name,
                line=node.lineno,
                what=f"`{node.name}` checks nothing; it only fails if the code raises",
                fix="assert what the code should have returned or changed.",
                rule="test-without-assert",
            )


def _checks(function: _Function) -> bool:
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call) and _ASSERTING.search(ast.unparse(node.func)):
            return True
    return False
