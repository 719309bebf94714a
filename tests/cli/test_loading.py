import gc
import subprocess
import sys

import pytest

from concertmaster.cli.loading import load_module

PROGRAM = """
import gc
import sys

from concertmaster.cli.loading import load_module

imported = load_module("stop").stop
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
    load_module("stop")
    made: list[object] = [[]]
    load_module("stop")
    assert any(made is found for found in gc.get_objects())
