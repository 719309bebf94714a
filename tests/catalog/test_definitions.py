"""What a worker file may say, and what is said of one that is wrong."""

from pathlib import Path

import pytest

from concertmaster.catalog.definitions import WorkerDefinition, read_worker
from concertmaster.errors import DefinitionError
from concertmaster.llm.messages import WorkerCard

TOOLS = ("lint", "list_files", "read_file")

MINIMAL = "---\nname: critic\ndescription: Criticises.\n---\nCriticise.\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "critic.md"


def read(file: Path, text: str | bytes) -> WorkerDefinition:
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_worker(file, tools=TOOLS)


def with_header(*lines: str) -> str:
    return "\n".join(
        ["---", "name: critic", "description: Criticises.", *lines, "---", "Do it.", ""]
    )


def test_a_file_with_name_description_and_instructions_is_enough(file: Path) -> None:
    assert read(file, MINIMAL) == WorkerDefinition(
        name="critic", description="Criticises.", instructions="Criticise.", file=file
    )


def test_every_key_of_ours_is_read(file: Path) -> None:
    worker = read(
        file,
        with_header(
            "best_for: [plays, films]",
            "not_for: music, dance",
            "input: A text.",
            "tools: [read_file]",
            "model: opus",
            "output_schema:",
            "  type: object",
            "  properties: {stars: {type: integer, minimum: 1}}",
            "  additionalProperties: false",
            "examples:",
            "  - Hamlet, reviewed",
            "maxTurns: 3",
            "max_tokens: 2000",
            "timeout_seconds: 30",
        ),
    )
    assert worker == WorkerDefinition(
        name="critic",
        description="Criticises.",
        instructions="Do it.",
        file=file,
        best_for=("plays", "films"),
        not_for=("music", "dance"),
        input="A text.",
        tools=("read_file",),
        model="opus",
        output_schema={
            "type": "object",
            "properties": {"stars": {"type": "integer", "minimum": 1}},
            "additionalProperties": False,
        },
        examples=("Hamlet, reviewed",),
        max_turns=3,
        max_tokens=2000,
        timeout_seconds=30.0,
    )
    assert worker.card() == WorkerCard(
        name="critic",
        description="Criticises.",
        best_for=("plays", "films"),
        not_for=("music", "dance"),
        needs="A text.",
        tools=("read_file",),
    )


def test_a_single_example_may_contain_commas(file: Path) -> None:
    worker = read(file, with_header("examples: Hamlet, reviewed"))
    assert worker.examples == ("Hamlet, reviewed",)


def test_the_instructions_keep_their_own_rules_and_blank_lines(file: Path) -> None:
    worker = read(file, "---\nname: a\ndescription: b\n---\n\n\n# One\n\n---\n\n    two\n\n")
    assert worker.instructions == "# One\n\n---\n\n    two"


@pytest.mark.parametrize("text", [MINIMAL.replace("\n", "\r\n"), MINIMAL.replace("\n", "\r")])
def test_line_ends_of_other_systems_are_accepted(file: Path, text: str) -> None:
    assert read(file, text).instructions == "Criticise."


def test_a_byte_order_mark_is_accepted(file: Path) -> None:
    assert read(file, b"\xef\xbb\xbf" + MINIMAL.encode()).name == "critic"


def test_a_date_is_the_text_it_is(file: Path) -> None:
    assert read(file, with_header("input: 2024-13-45")).input == "2024-13-45"


CLAUDE_CODE_DESCRIPTION = (
    r"Use this agent when reviewing a pull request. Examples:\n\n<example>\nContext: Daisy's "
    r'PR #12.\nDaisy: "Can you review it?"\n</example>'
)

CLAUDE_CODE_FILE = f"""---
name: silent-failure-hunter
description: {CLAUDE_CODE_DESCRIPTION}
tools: Read, Glob, Grep, Bash(git diff:*, git log:*), mcp__github__get_issue, Read(src/**)
disallowedTools:
  - Write
model: inherit
maxTurns: 20
permissionMode: plan
hooks:
  PreToolUse:
    - matcher: Bash
color: yellow
mcpServers: [github]
---

You hunt silent failures.
"""


def test_a_claude_code_subagent_file_is_accepted_as_it_is(file: Path) -> None:
    worker = read(file, CLAUDE_CODE_FILE)
    assert worker.name == "silent-failure-hunter"
    assert worker.description == CLAUDE_CODE_DESCRIPTION
    assert worker.model is None
    assert worker.max_turns == 20
    assert worker.tools == ("read_file", "list_files")
    assert worker.ignored == (
        "permissionMode",
        "hooks",
        "color",
        "tools: Grep",
        "tools: Bash(git diff:*, git log:*)",
        "tools: mcp__github__get_issue",
        "mcpServers: github",
    )


def with_servers(file: Path, *header: str) -> WorkerDefinition:
    file.write_text(with_header(*header), encoding="utf-8")
    return read_worker(file, tools=("lint", "read_file", "git.*", "time.*"))


@pytest.mark.parametrize(
    ("header", "tools"),
    [
        ("tools: [time.now, git.*]", ("time.now", "git.*")),
        ("tools: [mcp__time__now, mcp__git__*]", ("time.now", "git.*")),
        ("tools: mcp__git", ("git.*",)),
        ("tools: '*'", ("lint", "read_file")),
        ("mcpServers: [git, time]", ("git.*", "time.*")),
        ("mcpServers: git, time", ("git.*", "time.*")),
        ("mcpServers: {git: {command: x}}", ("git.*",)),
        ("mcpServers: [git, {time: {command: x}}]", ("git.*", "time.*")),
        ("mcpServers:", ()),
    ],
)
def test_a_worker_may_name_tools_of_servers(
    file: Path, header: str, tools: tuple[str, ...]
) -> None:
    worker = with_servers(file, header)
    assert worker.tools == tools
    assert worker.ignored == ()


def test_servers_that_are_not_here_are_named_as_meaning_nothing(file: Path) -> None:
    worker = with_servers(file, "mcpServers: [jira, {slack: {command: x}}]", "tools: mcp__jira")
    assert worker.tools == ()
    assert worker.ignored == ("tools: mcp__jira", "mcpServers: jira", "mcpServers: slack")


def test_a_tool_of_a_server_that_is_not_here_is_refused(file: Path) -> None:
    with pytest.raises(DefinitionError, match=r"'jira\.search' is of an MCP server that the"):
        with_servers(file, "tools: [jira.search]")


def test_what_is_no_list_of_servers_is_refused(file: Path) -> None:
    with pytest.raises(DefinitionError, match="mcpServers"):
        with_servers(file, "mcpServers: 3")


def test_tools_of_servers_can_be_taken_away_again(file: Path) -> None:
    worker = with_servers(
        file,
        "tools: [lint, git.*, time.now]",
        "disallowedTools: [git.git_push, mcp__time, lint]",
    )
    assert worker.tools == ("git.*",)
    assert "git.git_push" in worker.refused_tools


@pytest.mark.parametrize(
    "description",
    [
        "*Always* criticises.",
        "Use it when: or before:",
        "It's used: never # or always",
        '"Use" this: always',
        "[Use] this: always",
        "🎻 Plays: always",
    ],
)
def test_a_description_that_is_no_yaml_is_taken_for_text(file: Path, description: str) -> None:
    worker = read(file, MINIMAL.replace("Criticises.", description))
    assert worker.description == description


@pytest.mark.parametrize("tools", ["tools:", "tools: []", "tools: ''", "color: red"])
def test_a_worker_has_no_tools_unless_it_names_them(file: Path, tools: str) -> None:
    assert read(file, with_header(tools)).tools == ()


def test_a_star_stands_for_all_tools_but_the_disallowed(file: Path) -> None:
    worker = read(file, with_header('tools: "*"', "disallowedTools: Read"))
    assert worker.tools == ("lint", "list_files")


def test_a_tool_named_twice_is_there_once(file: Path) -> None:
    assert read(file, with_header("tools: Glob, LS, list_files")).tools == ("list_files",)


def test_a_claude_code_tool_whose_counterpart_this_server_lacks_is_ignored(file: Path) -> None:
    file.write_text(with_header("tools: Read"), encoding="utf-8")
    worker = read_worker(file, tools=())
    assert (worker.tools, worker.ignored, worker.lacks) == ((), ("tools: Read",), ())


def test_a_built_in_tool_that_this_server_goes_without_is_no_error(file: Path) -> None:
    worker = read(file, with_header("tools: read_file, run_tests, fetch_url"))
    assert worker.tools == ("read_file",)
    assert worker.lacks == ("run_tests", "fetch_url")
    assert worker.ignored == ()


MALFORMED = {
    "empty file": ("", 1, "a header must come first"),
    "no header": ("# Critic\n", 1, "a header must come first"),
    "header without end": ("---\nname: critic\n", 1, "a second line ---"),
    "empty header": ("---\n---\nDo it.\n", 1, "lacks the key 'name'"),
    "header that is a list": ("---\n- name\n---\n", 2, "`key: value`"),
    "header that is a word": ("---\n\nname\n---\n", 3, "`key: value`"),
    "no name": ("---\ndescription: x\n---\nDo it.\n", 1, "lacks the key 'name'"),
    "no description": ("---\nname: critic\n---\nDo it.\n", 1, "lacks the key 'description'"),
    "empty description": (MINIMAL.replace("Criticises.", "' '"), 3, "description: "),
    "no value": (MINIMAL.replace("Criticises.", ""), 3, "description: "),
    "no instructions": (MINIMAL.replace("\nCriticise.", "\n \n"), 1, "no instructions"),
    "name with capitals": (MINIMAL.replace("critic", "Critic"), 2, "name: "),
    "name with a line end": (MINIMAL.replace("critic", r'"critic\n"'), 2, "name: "),
    "name that is a number": (MINIMAL.replace("critic", "7"), 2, "name: "),
    "unknown key": (with_header("bestfor: [plays]"), 4, "Did you mean 'best_for'?"),
    "key in the wrong case": (with_header("", "maxturns: 3"), 5, "Did you mean 'maxTurns'?"),
    "key in our style": (with_header("max_turns: 3"), 4, "Did you mean 'maxTurns'?"),
    "key of Claude Code misspelt": (with_header("colour: red"), 4, "Did you mean 'color'?"),
    "key near to none": (with_header("zzz: 1"), 4, "Known: background, best_for, budget_usd,"),
    "key twice": (with_header("name: other"), 4, "'name' is there twice"),
    "key twice below": (with_header("hooks:", "  a: 1", "  a: 2"), 6, "'a' is there twice"),
    "key that is no word": (with_header("? [a, b]", ": 1"), 4, "a key must be a word"),
    "alias": (with_header("not_for: &x [a]", "best_for: *x"), 4, "aliases"),
    "tab": (with_header("best_for:", "\t- plays"), 5, "not valid YAML"),
    "bracket without end": (with_header("best_for: [plays"), 4, "not valid YAML"),
    "quoted text goes on": (with_header('input: "A" text'), 4, "needs quotes around it"),
    "unprintable character": (with_header("input: A", "model: \x07"), 5, "unprintable"),
    "nesting without end": (with_header("hooks: " + "[" * 5000), None, "too deeply nested"),
    "text in place of a number": (with_header("max_tokens: many"), 4, "max_tokens: "),
    "tag that does not fit": (with_header("max_tokens: !!int many"), 4, "max_tokens: "),
    "number of too many digits": (with_header("max_tokens: " + "9" * 5000), 4, "max_tokens: "),
    "yes in place of a number": (with_header("maxTurns: yes"), 4, "maxTurns: "),
    "no turns": (with_header("maxTurns: 0"), 4, "maxTurns: "),
    "no tokens": (with_header("max_tokens: 0"), 4, "max_tokens: "),
    "no time": (with_header("timeout_seconds: 0"), 4, "timeout_seconds: "),
    "no end of time": (with_header("timeout_seconds: .inf"), 4, "timeout_seconds: "),
    "model with a space": (with_header("model: a b"), 4, "model: "),
    "list with a mapping": (with_header("best_for:", "  - plays", "  - {a: b}"), 6, "best_for: "),
    "mapping in place of a list": (with_header("examples: {a: b}"), 4, "examples: "),
    "several faults": (with_header("color: red", "maxTurns: 0", "max_tokens: 0"), 5, "maxTurns: "),
    "tool misspelt": (with_header("tools: [read_fil]"), 4, "Did you mean 'read_file'?"),
    "tool of Claude Code misspelt": (with_header("tools: Raed"), 4, "Did you mean 'Read'?"),
    "tool to disallow misspelt": (
        with_header("tools: Read", "disallowedTools: Wrte"),
        5,
        "Did you mean 'Write'?",
    ),
    "schema that is no mapping": (with_header("output_schema: text"), 4, "output_schema: "),
    "schema of no object": (with_header("output_schema: {type: array}"), 4, '"type" to "object"'),
    "schema with a wrong type": (
        with_header(
            "output_schema:",
            "  type: object",
            "  properties:",
            "    stars:",
            "      type: [integer, star]",
        ),
        8,
        "no JSON Schema",
    ),
    "schema with a look-around": (
        with_header(
            "output_schema:",
            "  type: object",
            "  properties:",
            "    stars:",
            "      pattern: (?=a)b",
        ),
        8,
        "'(?=a)b'",
    ),
    "schema that refers to nothing": (
        with_header("output_schema: {type: object, $ref: '#/$defs/nowhere'}"),
        4,
        "'/$defs/nowhere' does not exist",
    ),
}


@pytest.mark.parametrize(("text", "line", "hint"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_file_is_refused_with_its_line_and_a_remedy(
    file: Path, text: str, line: int | None, hint: str
) -> None:
    with pytest.raises(DefinitionError) as caught:
        read(file, text)
    assert (caught.value.file, caught.value.line) == (file, line)
    assert hint in caught.value.problem


def test_a_file_that_is_not_utf_8_is_refused_with_its_line(file: Path) -> None:
    with pytest.raises(DefinitionError) as caught:
        read(file, MINIMAL.encode() + b"caf\xe9\n")
    assert caught.value.line == 6
    assert "UTF-8" in caught.value.problem


def test_a_file_over_the_size_limit_is_refused(file: Path) -> None:
    with pytest.raises(DefinitionError) as caught:
        read(file, MINIMAL + "x" * 256 * 1024)
    assert "256 KB" in caught.value.problem


def test_a_file_that_cannot_be_read_is_refused(file: Path) -> None:
    file.mkdir()
    with pytest.raises(DefinitionError) as caught:
        read_worker(file, tools=TOOLS)
    assert caught.value.file == file
