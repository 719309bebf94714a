import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from concertmaster.cli.app import load_module

PROGRAM = """
import gc
import sys

from concertmaster.cli.app import load_module

imported = load_module("commands.stop").stop
looked_through = any(imported is found for found in gc.get_objects())
sys.exit(looked_through or not gc.isenabled())
"""


def test_what_is_imported_is_not_looked_through_for_garbage_and_all_else_still_is() -> None:
    assert subprocess.run([sys.executable, "-c", PROGRAM], check=False).returncode == 0


def test_a_command_that_cannot_be_imported_leaves_garbage_collected() -> None:
    with pytest.raises(ModuleNotFoundError):
        load_module("nothing_of_that_name")
    assert gc.isenabled()


def test_what_has_become_garbage_is_found_though_a_module_is_asked_for_again() -> None:
    load_module("commands.stop")
    made: list[object] = [[]]
    load_module("commands.stop")
    assert any(made is found for found in gc.get_objects())


SERVER = """
import sys
import threading

from concertmaster.cli.options import load
from concertmaster.cli.commands.serve import Served

served = Served(loaded=load({}), accept_only="accept" in sys.argv, drain_seconds=0.0)
SDK = "concertmaster.llm.anthropic.client"
assert SDK not in sys.modules and "concertmaster.cli.bootstrap" not in sys.modules
served.prepare()
for thread in threading.enumerate():
    if thread is not threading.current_thread():
        thread.join()
assert "concertmaster.cli.bootstrap" in sys.modules
print(SDK in sys.modules)
"""


@pytest.mark.parametrize(
    ("key", "arguments", "imported"),
    [("a-key", [], True), ("a-key", ["accept"], False), ("", [], False)],
)
def test_a_server_that_is_left_alone_imports_what_its_first_model_call_will_need(
    key: str, arguments: list[str], imported: bool, tmp_path: Path
) -> None:
    variables = {**os.environ, "CONCERTMASTER_DATA_FOLDER": str(tmp_path)}
    if key:
        variables["CONCERTMASTER_API_KEY"] = key
    done = subprocess.run(
        [sys.executable, "-c", SERVER, *arguments],
        check=True,
        capture_output=True,
        text=True,
        env=variables,
        timeout=60,
    )
    assert done.stdout.strip() == str(imported)
    assert done.stderr == ""
