"""Which function of which file a call in a Python file is of."""

import ast
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from concertmaster.llm.offline.sources import Source

QUERIES = frozenset({"execute", "executescript", "urlopen"})

_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A function that runs a query."""

    source: Source
    name: str
    line: int

    def __str__(self) -> str:
        return f"{self.source.name}:{self.line}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Import:
    module: tuple[str, ...]
    """From the outermost folder on, as far as that is known."""
    name: str = ""
    """What is taken from the module; nothing where it is the module itself."""


def imported_calls(source: Source) -> set[str]:
    """Return the names of functions of other files that loops of a file call."""
    imports = _imports(source)
    called: set[str] = set()
    for loop in ast.walk(source.tree):
        if isinstance(loop, ast.For | ast.AsyncFor | ast.While):
            for node in ast.walk(loop):
                match node:
                    case ast.Call(func=ast.Name(id=name)) if name in imports:
                        called.add(imports[name].name)
                    case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=attribute)) if (
                        name in imports
                    ):
                        called.add(attribute)
                    case _:
                        pass
    return called - {""}


def queries_in(sources: Sequence[Source]) -> list[Query]:
    """Return the functions of these files that run queries."""
    return [
        Query(source=source, name=node.name, line=node.lineno)
        for source in sources
        for node in source.tree.body
        if isinstance(node, _Function) and any(map(_is_query, ast.walk(node)))
    ]


def names_of(queries: Sequence[Query], source: Source) -> Mapping[str, Query]:
    """Return those functions that a file can call, by what they are called there."""
    names = {query.name: query for query in queries if query.source is source}
    for local, item in _imports(source).items():
        inner = (*item.module, item.name) if item.name else item.module
        for query in queries:
            if query.name == item.name and _is(query.source, item.module):
                names[local] = query
            if _is(query.source, inner):
                names[f"{local}.{query.name}"] = query
    return names


def _is_query(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Attribute(attr=name)):
            return name in QUERIES
        case _:
            return False


def _is(source: Source, module: tuple[str, ...]) -> bool:
    return source.module[len(source.module) - len(module) :] == module


def _imports(source: Source) -> dict[str, _Import]:
    """Return what a file imports at its top, by its name there, the standard library left out."""
    imports: dict[str, _Import] = {}
    for node in source.tree.body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                # Of `import a.b`, the name is `a`, and calls are of `a.b.function`.
                if alias.asname or "." not in alias.name:
                    module = tuple(alias.name.split("."))
                    imports[alias.asname or alias.name] = _Import(module=module)
        elif isinstance(node, ast.ImportFrom):
            module = _origin(source, node)
            for alias in node.names:
                imports[alias.asname or alias.name] = _Import(module=module, name=alias.name)
    return {local: item for local, item in imports.items() if not _is_standard(item.module)}


def _is_standard(module: tuple[str, ...]) -> bool:
    return module[:1] != () and module[0] in sys.stdlib_module_names


def _origin(source: Source, node: ast.ImportFrom) -> tuple[str, ...]:
    """Return what a statement imports from, as seen from the root."""
    module = tuple(node.module.split(".")) if node.module else ()
    if not node.level:
        return module
    package = source.module if source.name.endswith("__init__.py") else source.module[:-1]
    return (*package[: len(package) - node.level + 1], *module)
