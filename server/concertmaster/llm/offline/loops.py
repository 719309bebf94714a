"""Loops whose time grows faster than their data."""

import ast
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from concertmaster.llm.offline.calls import (
    QUERIES,
    Query,
    imported_calls,
    may_import,
    names_of,
    queries_in,
)
from concertmaster.llm.offline.findings import Finding, Severity
from concertmaster.llm.offline.lookups import Lookup, any_of
from concertmaster.llm.offline.sources import Source

_For = ast.For | ast.AsyncFor
_Loop = ast.For | ast.AsyncFor | ast.While
_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Inner = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda


def slow_loops(sources: Sequence[Source], beside: Sequence[Source]) -> list[Finding]:
    """Return nested loops over whole collections, and slow steps within loops.

    A call of a function that is in these sources, or in those beside, is as slow as that.
    """
    queries = queries_in([*sources, *beside])
    findings: list[Finding] = []
    for source in sources:
        slow = names_of(queries, source)
        for scope in ast.walk(source.tree):
            if isinstance(scope, _Function | ast.Module):
                findings += _Scope(source.name, scope, slow).findings()
    return findings


def definitions_of(sources: Sequence[Source]) -> Lookup | None:
    """Return where the functions are that loops call and other files have."""
    called = {name for source in sources for name in imported_calls(source)}
    if not called:
        return None
    return Lookup(
        pattern=rf"^(?:async\s+)?def\s+{any_of(called)}",
        files="**/*.py",
        fits=lambda hit: may_import(sources, hit.file),
    )


class _Scope:
    """The code of a function, or of a module outside its functions."""

    def __init__(self, file: str, scope: _Function | ast.Module, slow: Mapping[str, Query]) -> None:
        self._file = file
        self._slow = slow
        self._nodes = list(_within(scope.body))
        self._lists = self._assigned(_is_list)
        self._texts = self._assigned(_is_text)

    def _assigned(self, fits: Callable[[ast.expr], bool]) -> set[str]:
        """Return the names that are given a value which fits."""
        return {
            target.id
            for node in self._nodes
            if isinstance(node, ast.Assign) and fits(node.value)
            for target in node.targets
            if isinstance(target, ast.Name)
        }

    def findings(self) -> list[Finding]:
        """Return what is slow, once for each place."""
        found: dict[tuple[int, str], Finding] = {}
        for loop in self._nodes:
            if isinstance(loop, _Loop):
                for finding in self._in_loop(loop):
                    found.setdefault((finding.line, finding.rule), finding)
        return list(found.values())

    def _in_loop(self, loop: _Loop) -> Iterator[Finding]:
        body = list(_within(loop.body))
        if isinstance(loop, _For):
            yield from self._nested(loop, body)
        for node in body:
            yield from self._slow_call(node)
            yield from self._slow_text_or_search(node)

    def _slow_call(self, node: ast.AST) -> Iterator[Finding]:
        match node:
            case ast.Call(func=ast.Attribute(attr=name)) if name in QUERIES:
                yield self._finding(
                    node,
                    "medium",
                    "query-in-loop",
                    f"`{name}` runs once for each turn of the loop",
                    "fetch or write everything with one query (a join, `executemany`).",
                )
            case ast.Call(func=function) if place := self._slow.get(ast.unparse(function)):
                yield self._finding(
                    node,
                    "medium",
                    "query-in-loop",
                    f"`{ast.unparse(function)}` runs a query ({place}), once for each turn of "
                    "the loop",
                    "fetch or write everything with one query (a join, `executemany`).",
                )
            case ast.Call(
                func=ast.Attribute(attr="pop" | "insert"), args=[ast.Constant(value=0), *_]
            ):
                yield self._finding(
                    node,
                    "medium",
                    "list-shift-in-loop",
                    "Taking from or adding to the front of a list moves all other items",
                    "use `collections.deque`.",
                )
            case _:
                pass

    def _slow_text_or_search(self, node: ast.AST) -> Iterator[Finding]:
        match node:
            case ast.Compare(ops=[ast.In() | ast.NotIn()], comparators=[ast.Name(id=name)]) if (
                name in self._lists
            ):
                yield self._finding(
                    node,
                    "medium",
                    "list-search-in-loop",
                    f"Each turn of the loop searches the list `{name}` from its start",
                    "keep a set beside the list, or a set instead of it.",
                )
            case ast.AugAssign(op=ast.Add(), target=ast.Name(id=name)) if name in self._texts:
                yield self._finding(
                    node,
                    "low",
                    "text-grown-in-loop",
                    f"Each turn of the loop copies the text `{name}` to make it longer",
                    "collect the parts in a list and join them once.",
                )
            case _:
                pass

    def _nested(self, outer: _For, body: Iterable[ast.AST]) -> Iterator[Finding]:
        nodes = list(body)
        # What an inner loop takes from the outer one is a part of it: rows and their cells.
        bound = _bound(ast.walk(outer.target)) | _bound(nodes)
        for inner in nodes:
            if not isinstance(inner, _For) or _is_short(inner.iter):
                continue
            same = ast.dump(inner.iter) == ast.dump(outer.iter)
            if not same and bound & _loaded(inner.iter):
                continue
            whole, other = f"`{ast.unparse(outer.iter)}`", f"`{ast.unparse(inner.iter)}`"
            pairs = f"all pairs of {whole}" if same else f"{other} for each of {whole}"
            yield self._finding(
                inner,
                "high" if same else "medium",
                "nested-loop",
                f"Nested loops go through {pairs}: the time grows with the product of their sizes",
                "group the items by the compared value in a dictionary first, or sort them.",
            )

    def _finding(
        self, node: ast.expr | ast.stmt, severity: Severity, rule: str, what: str, fix: str
    ) -> Finding:
        return Finding(
            severity=severity, file=self._file, line=node.lineno, what=what, fix=fix, rule=rule
        )


def _within(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Yield all nodes below, those in functions and classes of their own left out."""
    waiting = list(body)[::-1]
    while waiting:
        node = waiting.pop()
        if not isinstance(node, _Inner):
            yield node
            waiting += list(ast.iter_child_nodes(node))[::-1]


def _bound(nodes: Iterable[ast.AST]) -> set[str]:
    return {
        node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }


def _loaded(node: ast.expr) -> set[str]:
    return {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}


def _is_list(value: ast.expr) -> bool:
    return isinstance(value, ast.List | ast.ListComp)


def _is_text(value: ast.expr) -> bool:
    return isinstance(value, ast.JoinedStr) or (
        isinstance(value, ast.Constant) and isinstance(value.value, str)
    )


def _is_short(items: ast.expr) -> bool:
    """Tell whether what is looped over is written out, so that it cannot grow."""
    match items:
        case ast.List() | ast.Tuple() | ast.Set() | ast.Dict():
            return True
        case ast.Call(func=ast.Name(id="range"), args=args):
            return all(isinstance(argument, ast.Constant) for argument in args)
        case _:
            return False
