"""The subcommand about worker files: `workers`."""

from dataclasses import dataclass
from typing import Any

import click
from pydantic import JsonValue
from rich.table import Table

from concertmaster.catalog.catalog import Catalog, read_folder
from concertmaster.catalog.definitions import WorkerDefinition
from concertmaster.cli.app import FAILED
from concertmaster.cli.options import definition_options, json_option, load
from concertmaster.cli.terminal import print_aside, print_data, print_json, table_of
from concertmaster.cli.wiring import tool_names, worker_folders
from concertmaster.cli.wording import one_line
from concertmaster.errors import DefinitionError
from concertmaster.settings import Settings


@click.command()
@definition_options
@json_option
def workers(as_json: bool, **flags: Any) -> None:
    """List the workers and check their files.

    Exits with 1 if a file is wrong, after telling what is wrong with each.
    """
    found = read_definitions(load(flags).settings)
    if as_json:
        print_json(
            {
                "workers": [_json(worker) for worker in found.catalog],
                "errors": [str(error) for error in found.errors],
                "overridden": [str(worker.file) for worker in found.catalog.overridden],
            }
        )
    else:
        print_data(_table(found.catalog))
    _tell(found.catalog)
    for error in found.errors:
        print_aside(f"Error: {error}", "red")
    click.get_current_context().exit(FAILED if found.errors else 0)


def _table(catalog: Catalog) -> Table:
    table = table_of("worker", "model", "tools", "description")
    for worker in catalog:
        table.add_row(
            worker.name, worker.model or "", ", ".join(worker.tools), one_line(worker.description)
        )
    return table


def _tell(catalog: Catalog) -> None:
    for worker in catalog:
        if worker.lacks:
            print_aside(f"{worker.name} goes without {', '.join(worker.lacks)}", "yellow")
        if worker.ignored:
            print_aside(f"{worker.file}: means nothing here: {', '.join(worker.ignored)}", "dim")
    for worker in catalog.overridden:
        print_aside(f"{worker.file}: gives way to {catalog.get(worker.name).file}", "dim")


def _json(worker: WorkerDefinition) -> JsonValue:
    return {
        "name": worker.name,
        "description": worker.description,
        "best_for": list(worker.best_for),
        "not_for": list(worker.not_for),
        "tools": list(worker.tools),
        "model": worker.model,
        "lacks": list(worker.lacks),
        "file": str(worker.file),
        "ignored": list(worker.ignored),
    }


@dataclass(frozen=True, slots=True)
class Definitions:
    """The workers whose files are right, and what is wrong with the others."""

    catalog: Catalog
    errors: tuple[DefinitionError, ...]


def read_definitions(settings: Settings) -> Definitions:
    """Return all workers and all faults of the folders that the settings name."""
    workers: dict[str, WorkerDefinition] = {}
    overridden: list[WorkerDefinition] = []
    errors: list[DefinitionError] = []
    for folder in worker_folders(settings):
        try:
            reading = read_folder(folder, tools=tool_names(settings))
        except DefinitionError as exc:
            errors.append(exc)
            continue
        errors += reading.errors
        for worker in reading.workers:
            if worker.name in workers:
                overridden.append(workers[worker.name])
            workers[worker.name] = worker
    return Definitions(Catalog(workers.values(), overridden=overridden), tuple(errors))
