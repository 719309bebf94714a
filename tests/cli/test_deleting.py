"""The subcommands that delete runs."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from click.testing import Result

from concertmaster.cli import bootstrap as wiring
from concertmaster.runs.orders import PlanOrder
from concertmaster.settings.load import Settings
from services import service_in

Invoke = Callable[..., Result]


def planned(invoke: Invoke, number: int) -> str:
    return json.loads(invoke("plan", f"Plan {number}", "app.py", "--json").stdout)["plan_id"]


def listed(invoke: Invoke) -> list[str]:
    return [line["run_id"] for line in json.loads(invoke("runs", "--json").stdout)]


def test_runs_are_deleted_by_name(invoke: Invoke) -> None:
    first, second, third = (planned(invoke, number) for number in range(3))
    result = invoke("runs", "delete", first, third)
    assert result.exit_code == 0
    assert result.stderr == f"{first}: deleted\n{third}: deleted\n"
    assert listed(invoke) == [second]
    again = invoke("runs", "delete", first)
    assert again.exit_code == 2
    assert f"No run '{first}'" in again.stderr


def test_all_but_the_newest_runs_are_deleted(invoke: Invoke) -> None:
    runs = [planned(invoke, number) for number in range(3)]
    result = invoke("runs", "prune", "--keep-runs", "2")
    assert (result.exit_code, result.stdout) == (0, "")
    assert re.fullmatch(r"Deleted 1 run, \d kB\.\n", result.stderr)
    assert listed(invoke) == [runs[2], runs[1]]
    assert json.loads(invoke("runs", "prune", "--keep-runs", "1", "--json").stdout) == [runs[1]]
    assert invoke("runs", "prune", "--keep-runs", "1").stderr == "Deleted 0 runs.\n"


def test_what_is_kept_may_be_a_setting(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    planned(invoke, 1)
    monkeypatch.setenv("CONCERTMASTER_KEEP_DAYS", "0.000000001")
    assert invoke("runs", "prune").exit_code == 0
    assert listed(invoke) == []


def test_without_a_bound_nothing_is_deleted(invoke: Invoke) -> None:
    run_id = planned(invoke, 1)
    result = invoke("runs", "prune")
    assert result.exit_code == 2
    assert "--keep-days" in result.stderr
    assert listed(invoke) == [run_id]


@pytest.mark.anyio
async def test_a_server_deletes_what_is_not_to_be_kept_when_it_opens_its_journal(
    tmp_path: Path,
) -> None:
    async with service_in(tmp_path) as service:
        runs = [await service.start(PlanOrder(task="why?")) for _ in range(2)]
    loaded = Settings.load({"offline": True, "data_folder": tmp_path, "keep_runs": 1})
    async with (
        wiring.open_runs(loaded, roots=()) as service,
        wiring.tending(service, loaded.settings),
    ):
        (state,) = (await service.recent()).states
        assert state.run_id == runs[1].run_id


@pytest.mark.anyio
async def test_a_server_that_goes_on_for_long_deletes_what_comes_to_be_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wiring, "PRUNE_SECONDS", 0.01)
    loaded = Settings.load({"offline": True, "data_folder": tmp_path, "keep_runs": 1})
    async with (
        wiring.open_runs(loaded, roots=()) as service,
        wiring.tending(service, loaded.settings),
    ):
        runs = [await service.start(PlanOrder(task="why?")) for _ in range(3)]
        with anyio.fail_after(60):
            while len(left := (await service.recent()).states) > 1:
                await anyio.lowlevel.checkpoint()
    assert [state.run_id for state in left] == [runs[-1].run_id]
