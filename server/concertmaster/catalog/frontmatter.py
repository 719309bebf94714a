"""Markdown files with a YAML header, read so that every fault can be told with its line."""

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import BaseModel, ValidationError
from yaml.constructor import SafeConstructor
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.reader import ReaderError

from concertmaster.errors import DefinitionError, did_you_mean

MAX_BYTES = 256 * 1024
"""How large a definition may be. A larger file is hardly one."""

KeyPath = tuple[str | int, ...]
"""Where a value stands in a header: `("output_schema", "properties", "line")`."""

HeaderT = TypeVar("HeaderT", bound=BaseModel)

_HEADER_LINE = 2
"""Line of a file on which its header's YAML begins, below the opening `---`."""

_PROSE = re.compile(r"^(description|initialPrompt):[ \t]+(\S.*)$", re.MULTILINE)
"""A line of a header that holds a person's sentences rather than data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkdownFile:
    """A Markdown file, split into its header and its body."""

    file: Path
    header: Mapping[str, Any]
    lines: Mapping[KeyPath, int]
    """The line of each value in the header."""
    body: str
    body_line: int
    """The line on which the body's text begins."""

    def line(self, path: Iterable[str | int]) -> int:
        """Return the line of the value at `path`, or of the nearest value around it."""
        at = tuple(path)
        while at and at not in self.lines:
            at = at[:-1]
        return self.lines.get(at, 1)

    def error(self, problem: str, *path: str | int) -> DefinitionError:
        """Return the error that `problem` is, at the line of the value at `path`."""
        return DefinitionError(problem, file=self.file, line=self.line(path))

    def parse_header(
        self,
        model: type[HeaderT],
        *path: str | int,
        ignoring: Collection[str] = frozenset(),
    ) -> HeaderT:
        """Return the header, or what stands at `path` of it, as a `model`.

        Keys that are worth `ignoring` are left out.

        Raises:
            DefinitionError: a key is unknown or missing, or a value is not what it should be.
        """
        at = ".".join(map(str, path))
        found = self._found(path)
        if not isinstance(found, Mapping):
            raise self.error(f"{at}: it must be lines of the form `key: value`", *path)
        given = cast("Mapping[str, Any]", found)
        known = {field.alias or name for name, field in model.model_fields.items()}
        for key in given:
            if key not in known and key not in ignoring:
                hint = did_you_mean(key, {*known, *ignoring})
                raise self.error(f"unknown key {key!r}. {hint}", *path, key)
        try:
            return model.model_validate({key: given[key] for key in given if key in known})
        except ValidationError as exc:
            faults = exc.errors(include_url=False, include_input=False)
        first = min(faults, key=lambda fault: self.line((*path, *fault["loc"])))
        key = ".".join(filter(None, [at, str(first["loc"][0])]))
        if first["type"] == "missing":
            raise self.error(f"the header lacks the key {key!r}", *path)
        raise self.error(f"{key}: {first['msg']}", *path, *first["loc"])

    def _found(self, path: Iterable[str | int]) -> object:
        found: Any = self.header
        for part in path:
            found = found[part]
        return found


def read_json_or_yaml(text: str) -> object:
    """Return the value that a text stands for.

    Raises:
        ValueError: it is neither JSON nor YAML.
    """
    try:
        # JSON is read as JSON: YAML knows fewer escapes, and has words for numbers and dates.
        return json.loads(text) if text.lstrip().startswith("{") else yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as exc:
        raise ValueError(f"It is neither JSON nor YAML: {' '.join(str(exc).split())}") from None


def markdown_files(folder: Path) -> list[Path]:
    """Return the definition files in `folder` and below, sorted; a README is none.

    Raises:
        DefinitionError: `folder` is no folder.
    """
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "there is no such folder"
        raise DefinitionError(problem, file=folder)
    return sorted(file for file in folder.rglob("*.md") if file.name.lower() != "readme.md")


def read_markdown(file: Path) -> MarkdownFile:
    """Return the file's header and body.

    Raises:
        DefinitionError: it cannot be read, is no text, or has no well-formed header.
    """
    lines = _read_text(file).split("\n")
    if lines[0].rstrip() != "---":
        raise DefinitionError("a header must come first: a line ---", file=file, line=1)
    end = next((at for at, line in enumerate(lines) if at and line.rstrip() == "---"), None)
    if end is None:
        raise DefinitionError("the header has no end: a second line ---", file=file, line=1)
    values = _HeaderValues(file)
    header = values.read(_compose("\n".join(lines[1:end]), file))
    body = "\n".join(lines[end + 1 :])
    blank = len(body) - len(body.lstrip())
    return MarkdownFile(
        file=file,
        header=header,
        lines=values.lines,
        body=body.strip(),
        body_line=end + 2 + body.count("\n", 0, blank),
    )


def _read_text(file: Path) -> str:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise DefinitionError(f"is larger than {MAX_BYTES // 1024} KB", file=file)
        data = file.read_bytes()
    except OSError as exc:
        raise DefinitionError(f"cannot be read: {exc.strerror}", file=file) from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise DefinitionError("is not UTF-8 text", file=file, line=line) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _compose(header: str, file: Path) -> Node | None:
    try:
        return _yaml_node(header)
    except yaml.YAMLError as exc:
        fault = exc
    # Claude Code takes `description: Use it when… Examples: …` for text, though the second
    # colon makes it no YAML. With such lines in quotes, the rest still has to be YAML.
    try:
        return _yaml_node(_PROSE.sub(_in_quotes, header))
    except yaml.YAMLError:
        raise _yaml_error(fault, header, file) from None


def _yaml_node(header: str) -> Node | None:
    try:
        return yaml.compose(header, Loader=yaml.SafeLoader)
    except RecursionError:
        raise yaml.YAMLError("too deeply nested") from None


def _in_quotes(line: re.Match[str]) -> str:
    text = line[2].rstrip().replace("'", "''")
    return f"{line[1]}: '{text}'"


def _yaml_error(fault: yaml.YAMLError, header: str, file: Path) -> DefinitionError:
    line = None
    problem = str(fault)
    if isinstance(fault, ReaderError):
        line = header.count("\n", 0, fault.position) + _HEADER_LINE
        problem = "it has an unprintable character"
    elif isinstance(fault, yaml.MarkedYAMLError) and fault.problem_mark is not None:
        line = fault.problem_mark.line + _HEADER_LINE
        problem = f"{fault.problem}. Text with a colon or quotes in it needs quotes around it"
    return DefinitionError(f"the header is not valid YAML: {problem}.", file=file, line=line)


class _HeaderValues:
    """Turns YAML nodes into plain values, noting the line of each.

    Stricter than YAML, so that a header says what it seems to say: no key twice, no
    aliases, and a date stays the text it is.
    """

    def __init__(self, file: Path) -> None:
        self.lines: dict[KeyPath, int] = {}
        self._file = file
        self._seen: set[int] = set()

    def read(self, root: Node | None) -> dict[str, Any]:
        """Return the header's keys and values."""
        if root is None:
            return {}
        if not isinstance(root, MappingNode):
            raise self._error("the header must be lines of the form `key: value`", root)
        return self._mapping(root, ())

    def _value(self, node: Node, path: KeyPath) -> Any:
        if id(node) in self._seen:
            raise self._error("YAML aliases (*name) are not supported; repeat the value", node)
        self._seen.add(id(node))
        if isinstance(node, MappingNode):
            return self._mapping(node, path)
        if isinstance(node, SequenceNode):
            items = cast("Sequence[Node]", node.value)
            return [self._item(item, (*path, at)) for at, item in enumerate(items)]
        return _scalar(cast("ScalarNode", node))

    def _item(self, node: Node, path: KeyPath) -> Any:
        self.lines[path] = _line(node)
        return self._value(node, path)

    def _mapping(self, node: MappingNode, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in cast("Sequence[tuple[Node, Node]]", node.value):
            if not isinstance(key_node, ScalarNode):
                raise self._error("a key must be a word", key_node)
            key = str(key_node.value)
            if key in values:
                raise self._error(f"the key {key!r} is there twice", key_node)
            self.lines[*path, key] = _line(key_node)
            values[key] = self._value(value_node, (*path, key))
        return values

    def _error(self, problem: str, node: Node) -> DefinitionError:
        return DefinitionError(problem, file=self._file, line=_line(node))


def _line(node: Node) -> int:
    return int(node.start_mark.line) + _HEADER_LINE


_PLAIN_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float")}


def _scalar(node: ScalarNode) -> str | int | float | bool | None:
    if node.tag not in _PLAIN_TAGS:
        return str(node.value)
    constructor: Any = SafeConstructor()
    try:
        return constructor.construct_object(node)
    except (ValueError, LookupError):
        # Tagged by hand (`!!int many`), or a number of thousands of digits.
        return str(node.value)
