"""Jobs on the command line: in process, with the offline model or one that follows a script."""

import json
import os
import re
import shlex
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from building import ROOT
from concertmaster.cli.app import cli
from concertmaster.llm.messages import Request, WorkBrief
from fakes import FakeLLM, Script, reply_with

EXAMPLES = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")

COMMANDS = {
    command.split()[1]: command
    for command in re.findall(r"^uv run concertmaster (job .*)$", EXAMPLES, re.MULTILINE)
}
"""The example of each job."""

OFFLINE = ("review_code", "analyze_document")

TEXTS = {"store.py": "def load(): ...\n", "use.py": "from store import load\n"}


def rewrite(request: Request) -> str:
    assert isinstance(request.brief, WorkBrief)
    (document,) = request.brief.inputs
    changed = re.sub(r"\bload\b", "load_orders", document.text)
    return json.dumps({"new_text": None if document.name.endswith(".md") else changed, "notes": ""})


SCRIPTS: Mapping[str, Script] = {
    "worker:rewriter": rewrite,
    "orchestrator": json.dumps({"reason": "enough", "done": True, "add": [], "drop": []}),
    "verifier": json.dumps({"findings": []}),
    "synthesizer": "# The answer",
}

Invoke = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory, which has two files and the examples."""
    made = tmp_path / "work"
    shutil.copytree(ROOT / "examples", made / "examples")
    for name, text in TEXTS.items():
        (made / name).write_text(text)
    monkeypatch.chdir(made)
    monkeypatch.setenv("CONCERTMASTER_DATA_FOLDER", str(tmp_path / "data"))
    return made


@pytest.fixture
def invoke(folder: Path) -> Invoke:
    del folder
    return lambda *arguments: CliRunner().invoke(cli, arguments, prog_name="concertmaster")


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeLLM]:
    """Return a function that puts a scripted model in place of the offline one."""

    def use(**scripts: Script) -> FakeLLM:
        named = {name.replace("_", ":"): script for name, script in scripts.items()}
        llm = FakeLLM({**SCRIPTS, **named})
        monkeypatch.setattr("concertmaster.cli.bootstrap.OfflineLLM", lambda: llm)
        return llm

    return use


def test_jobs_are_listed_with_what_they_take(invoke: Invoke) -> None:
    listed = invoke("job").stdout
    assert re.search(r"^review_code FILES… \[--reviewers …\]\n    Several reviewers", listed, re.M)
    assert re.search(r"^analyze_document FILE --kind contract\|report\|article$", listed, re.M)
    assert re.search(r"^research --question … \[FILES…\]$", listed, re.M)
    assert "…" not in "".join(line for line in listed.splitlines() if line.startswith(" "))


def test_jobs_are_listed_as_json(invoke: Invoke) -> None:
    listed = {item["name"]: item for item in json.loads(invoke("job", "--json").stdout)}
    assert set(listed) == set(COMMANDS)
    assert [item["name"] for item in listed["refactor_files"]["arguments"]] == ["files", "change"]
    assert [name for name, item in listed.items() if item["changes_files"]] == ["refactor_files"]


def test_the_help_of_jobs_names_them_and_that_of_one_its_arguments(invoke: Invoke) -> None:
    assert "review_code" in invoke("job", "--help").stdout
    told = " ".join(invoke("job", "refactor_files", "--help").stdout.split())
    for word in ("FILES…", "--change TEXT", "[required]", "--apply", "--diff FILE", "--json"):
        assert word in told
    assert "--apply" not in invoke("job", "review_code", "--help").stdout


@pytest.mark.parametrize("name", OFFLINE)
def test_an_example_that_needs_no_key_is_done_without_one(name: str, invoke: Invoke) -> None:
    result = invoke(*shlex.split(COMMANDS[name]))
    assert result.exit_code == 0, result.stderr
    assert "No language model was used" in result.stderr
    assert "Warning" not in result.stderr
    assert {"review_code": "app.py:21", "analyze_document": "shall"}[name] in result.stdout


@pytest.mark.parametrize("kind", ["contract", "report", "article"])
def test_each_kind_of_document_is_read_without_a_key(kind: str, invoke: Invoke) -> None:
    result = invoke("job", "analyze_document", "examples/contract.md", "--kind", kind)
    assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in OFFLINE])
def test_without_a_key_other_examples_say_what_is_missing(name: str, invoke: Invoke) -> None:
    result = invoke(*shlex.split(COMMANDS[name]))
    assert result.exit_code == 1
    assert "The offline model cannot do the work of" in result.stderr
    assert "ANTHROPIC_API_KEY" in result.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_is_done_with_a_model(
    name: str, invoke: Invoke, scripted: Callable[..., FakeLLM]
) -> None:
    scripted()
    result = invoke(*shlex.split(COMMANDS[name]))
    assert result.exit_code == 0, result.stderr
    assert result.stdout == (
        "## locale: de\n\ndone\n\n## locale: pt-BR\n\ndone\n"
        if name == "translate"
        else "done\n"
        if name == "research"
        else "# The answer\n"
    )


def test_the_example_of_a_change_is_a_diff_that_leaves_the_files(
    invoke: Invoke, scripted: Callable[..., FakeLLM], folder: Path
) -> None:
    scripted()
    before = (folder / "examples/orders/store.py").read_bytes()
    result = invoke(*shlex.split(COMMANDS["refactor_files"]))
    diff = (folder / "orders.diff").read_text()
    assert re.findall(r"^\+\+\+ (.*)$", diff, re.MULTILINE) == [
        "b/examples/orders/statement.py",
        "b/examples/orders/store.py",
    ]
    assert "+from store import load_orders\n" in diff
    assert (folder / "examples/orders/store.py").read_bytes() == before
    found = re.search(r"concertmaster show (r-\S+) --diff", result.stderr)
    assert found is not None
    assert invoke("show", found.group(1), "--diff").stdout == diff
    assert json.loads(invoke("show", found.group(1), "--diff", "--json").stdout) == {
        "run_id": found.group(1),
        "files": ["examples/orders/statement.py", "examples/orders/store.py"],
        "diff": diff,
    }
    assert (
        "The run changes 2 files, not written yet: examples/orders/statement.py, " in result.stderr
    )
    assert "The diff is in orders.diff." in result.stderr


def test_a_diff_takes_the_place_of_an_older_one(
    invoke: Invoke, scripted: Callable[..., FakeLLM], folder: Path
) -> None:
    scripted()
    arguments = ("job", "refactor_files", "store.py", "--change", "x", "--diff", "my.diff")
    (folder / "my.diff").touch()
    assert invoke(*arguments).exit_code == 0
    first = (folder / "my.diff").read_text()
    assert "+def load_orders" in first
    (folder / "store.py").write_text("def loader(): ...\n")
    assert invoke(*arguments).exit_code == 0
    assert (folder / "my.diff").read_text() == ""
    (folder / "my.diff").write_text(first)
    assert invoke(*arguments).exit_code == 0


def test_a_diff_takes_the_place_of_nothing_else(
    invoke: Invoke, scripted: Callable[..., FakeLLM], folder: Path
) -> None:
    llm = scripted()
    result = invoke("job", "refactor_files", "store.py", "--change", "x", "--diff", "use.py")
    assert result.exit_code == 2
    assert "use.py is there already, and is no diff" in result.stderr
    assert unchanged(folder)
    assert llm.requests == []


def test_a_diff_that_cannot_be_written_is_told_and_loses_nothing(
    invoke: Invoke, scripted: Callable[..., FakeLLM], folder: Path
) -> None:
    def take_the_name(request: Request) -> str:
        (folder / "my.diff").mkdir(exist_ok=True)
        return rewrite(request)

    scripted(worker_rewriter=take_the_name)
    result = invoke("job", "refactor_files", "store.py", "--change", "x", "--diff", "my.diff")
    assert result.exit_code == 1
    assert result.stdout == "# The answer\n"
    assert "the diff could not be written: " in result.stderr
    assert "To see how: concertmaster show r-" in result.stderr


@pytest.mark.parametrize(
    ("given", "sections"),
    [
        (["Past, Future"], ["Past", "Future"]),
        (["Past, as it was", "Future"], ["Past, as it was", "Future"]),
        (["Past, as it was\nFuture"], ["Past, as it was", "Future"]),
    ],
)
def test_several_values_are_one_text_with_commas_or_an_option_each(
    given: list[str], sections: list[str], invoke: Invoke, scripted: Callable[..., FakeLLM]
) -> None:
    llm = scripted()
    flags = [part for text in given for part in ("--sections", text)]
    assert invoke("job", "report", "--topic", "Us, and them", *flags).exit_code == 0
    briefs = [request.brief for request in llm.requests if request.caller == "worker:writer"]
    objectives = [brief.objective for brief in briefs if isinstance(brief, WorkBrief)]
    written = [found[1] for text in objectives if (found := re.search('section "(.*?)"', text))]
    assert sorted(written) == sorted(sections)


def test_a_comma_in_the_name_of_a_file_belongs_to_it(invoke: Invoke, folder: Path) -> None:
    (folder / "a,b.py").write_text("ONE = 1\n")
    assert invoke("job", "review_code", "a,b.py").exit_code == 0


def refactor(invoke: Invoke, *arguments: str) -> Result:
    return invoke("job", "refactor_files", *arguments, "--change", "Rename load", "--apply")


def test_files_are_changed_where_it_is_asked_for(
    invoke: Invoke, scripted: Callable[..., FakeLLM], folder: Path
) -> None:
    scripted()
    result = refactor(invoke, "*.py")
    assert result.exit_code == 0, result.stderr
    assert (folder / "store.py").read_text() == "def load_orders(): ...\n"
    assert (folder / "use.py").read_text() == "from store import load_orders\n"
    assert "Changed 2 files: " in result.stderr


def unchanged(folder: Path) -> bool:
    return all((folder / name).read_text() == text for name, text in TEXTS.items())


def test_no_file_is_changed_if_one_could_not_be_rewritten(
    invoke: Invoke, scripted: Callable[..., FakeLLM], folder: Path
) -> None:
    def refuse_one(request: Request) -> str | Exception:
        assert isinstance(request.brief, WorkBrief)
        refused = request.brief.inputs[0].name == "use.py"
        return "I will not." if refused else rewrite(request)

    scripted(worker_rewriter=refuse_one)
    result = refactor(invoke, "*.py")
    assert result.exit_code == 3
    assert "Nothing was changed, since the run is partial." in result.stderr
    assert "The run changes 1 file, not written yet: store.py" in result.stderr
    assert unchanged(folder)


def test_no_file_is_changed_if_somebody_has_changed_one_meanwhile(
    invoke: Invoke, scripted: Callable[..., FakeLLM], folder: Path
) -> None:
    def meddle(request: Request) -> str:
        (folder / "use.py").write_text("# mine\n")
        return rewrite(request)

    scripted(worker_rewriter=meddle)
    result = refactor(invoke, "*.py")
    assert result.exit_code == 1
    assert "Nothing was changed. use.py: it is not what the run has read" in result.stderr
    assert "To see how: concertmaster show r-" in result.stderr
    assert (folder / "store.py").read_text() == TEXTS["store.py"]


def test_no_file_outside_the_working_directory_is_changed_or_worked_on(
    invoke: Invoke, scripted: Callable[..., FakeLLM], folder: Path
) -> None:
    outside = folder.parent / "outside.py"
    outside.write_text("load()\n")
    llm = scripted()
    result = refactor(invoke, "*.py", str(outside))
    assert result.exit_code == 2
    assert f"{outside} is not. Name its folder with --root" in result.stderr
    assert llm.requests == []
    assert outside.read_text() == "load()\n"
    assert refactor(invoke, str(outside), "--root", str(folder.parent)).exit_code == 0
    assert outside.read_text() == "load_orders()\n"


@pytest.mark.parametrize("flag", [(), ("--apply",)])
def test_a_run_that_changes_nothing_says_so(
    flag: tuple[str, ...], invoke: Invoke, scripted: Callable[..., FakeLLM]
) -> None:
    scripted(worker_rewriter=json.dumps({"new_text": None, "notes": ""}))
    result = invoke("job", "refactor_files", "store.py", "--change", "Nothing", *flag)
    assert result.exit_code == 0, result.stderr
    assert "The run changes no file." in result.stderr
    assert "--diff" not in result.stderr
    found = re.search(r"concertmaster show (r-\S+)", result.stderr)
    assert found is not None
    shown = invoke("show", found.group(1), "--diff")
    assert (shown.exit_code, shown.stdout, shown.stderr) == (0, "", "The run changes no file.\n")


def test_a_failed_job_has_the_status_of_a_failed_run(
    invoke: Invoke, scripted: Callable[..., FakeLLM]
) -> None:
    scripted(worker_writer=reply_with("", stop_reason="refusal", detail="I will not."))
    result = invoke("job", "translate", "use.py", "--locales", "de", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["status"] == "failed"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["reveiw_code", "use.py"], "There is no job 'reveiw_code'. Did you mean 'review_code'?"),
        (["review_code"], "Missing argument 'FILES…'"),
        (["review_code", "none.py"], "none.py"),
        (["review_code", "use.py", "--reviewers", "poet"], "'poet', which does not exist"),
        (["analyze_document", "use.py", "--kind", "novel"], "'novel' is not one of"),
        (["analyze_document", "*.py", "--kind", "report"], "file takes one file; these are 2"),
        (["translate", "use.py"], "Missing option '--locales'"),
        (["translate", "use.py", "--locales", " "], "translate needs the argument 'locales'"),
        (
            ["refactor_files", "use.py", "--change", "x", "--diff", "no/such/folder"],
            "there is no folder no/such.",
        ),
        (
            ["compare", "--options", "a", "--criteria", "c"],
            "options takes 2 values or more; there is only 'a'.",
        ),
    ],
)
def test_wrong_use_is_told_before_anything_is_done(
    arguments: list[str], sentence: str, invoke: Invoke, scripted: Callable[..., FakeLLM]
) -> None:
    llm = scripted()
    result = invoke("job", *arguments)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert llm.requests == []


OWN_JOB = """\
---
name: greet
title: Greet
description: Greets.
arguments:
  - name: {argument}
    description: Whom.
    required: true
subtasks:
  - id: s1
    worker: writer
    objective: Greet ${argument}.
---
Greet.
"""


def own_job(folder: Path, argument: str) -> None:
    folder.mkdir(parents=True)
    (folder / "greet.md").write_text(OWN_JOB.format(argument=argument))


def test_jobs_of_ones_own_are_done_like_the_others(
    invoke: Invoke, scripted: Callable[..., FakeLLM], folder: Path
) -> None:
    own_job(folder / "mine", "dear_one")
    llm = scripted()
    result = invoke("job", "--jobs-dir", "mine", "greet", "--dear-one", "you")
    assert (result.exit_code, result.stdout) == (0, "done\n")
    brief = llm.requests[0].brief
    assert isinstance(brief, WorkBrief)
    assert brief.objective == "Greet you."


def test_jobs_in_the_configuration_folder_are_there(invoke: Invoke) -> None:
    own_job(Path(os.environ["XDG_CONFIG_HOME"]) / "concertmaster" / "jobs", "whom")
    assert "greet" in invoke("job").stdout


def test_a_faulty_job_is_told_and_leaves_the_others(invoke: Invoke, folder: Path) -> None:
    own_job(folder / "mine", "whom")
    (folder / "mine" / "wrong.md").write_text("nothing")
    result = invoke("job", "--jobs-dir", "mine")
    assert result.exit_code == 1
    assert "greet" in result.stdout
    assert "wrong.md:1: a header must come first" in result.stderr
    result = invoke("job", "--jobs-dir", "mine", "wrong")
    assert result.exit_code == 2
    assert "There is no job 'wrong'. " in result.stderr
    assert "wrong.md:1: a header must come first" in result.stderr


def test_an_argument_with_the_name_of_a_flag_is_refused(invoke: Invoke, folder: Path) -> None:
    own_job(folder / "mine", "json")
    result = invoke("job", "--jobs-dir", "mine", "greet", "--json", "you")
    assert result.exit_code == 2
    assert "--json is a flag of all jobs" in result.stderr
