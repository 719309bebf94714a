"""Which function of which file a call in a Python file is of."""

import ast
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from concertmaster.llm.offline.sources import Source, module_of

QUERIES = frozenset({"execute", "executescript", "urlopen"})

_IMPORT = re.compile(r"(?:from\s+\.*([\w.]*)\s+)?import\s+(.*)")
_MODULE = re.compile(r"\w+(?:\.\w+)*")

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

    @property
    def whole(self) -> tuple[str, ...]:
        """Return what it is if what is taken is a module too."""
        return (*self.module, self.name) if self.name else self.module


def imports_one_of(sources: Sequence[Source], line: str) -> bool:
    """Tell whether a line of code imports one of these files, as far as the line tells."""
    found = _IMPORT.match(line)
    if found is None:
        return False
    base = tuple(filter(None, (found[1] or "").split(".")))
    names = [(*base, *name.split(".")) for name in _MODULE.findall(found[2])]
    modules = [*filter(None, [base]), *names]
    return any(_is(source.module, module) for source in sources for module in modules)


def may_import(sources: Sequence[Source], file: str) -> bool:
    """Tell whether one of these files imports `file`, or something out of it."""
    return any(
        _is(module_of(file), module)
        for source in sources
        for item in _imports(source).values()
        for module in (item.module, item.whole)
    )


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
        for query in queries:
            if query.name == item.name and _is(query.source.module, item.module):
                names[local] = query
            if _is(query.source.module, item.whole):
                names[f"{local}.{query.name}"] = query
    return names


def _is_query(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Attribute(attr=name)):
            return name in QUERIES
        case _:
            return False


def _is(file: tuple[str, ...], module: tuple[str, ...]) -> bool:
    """Tell whether the module of a file is the one that is imported as `module`."""
    return file[len(file) - len(module) :] == module


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
