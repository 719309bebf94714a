"""The subcommand about worker files: `workers`."""

from dataclasses import dataclass
from typing import Any

import click
from pydantic import JsonValue
from rich.table import Table

from concertmaster.catalog.catalog import Catalog, read_folder
from concertmaster.catalog.definitions import WorkerDefinition
from concertmaster.cli.app import FAILED
from concertmaster.cli.bootstrap import tool_names, worker_folders
from concertmaster.cli.options import definition_options, json_option, load
from concertmaster.cli.view.formatting import harmless, one_line
from concertmaster.cli.view.terminal import print_aside, print_data, print_json, table_of
from concertmaster.errors import DefinitionError
from concertmaster.settings.load import Settings


@click.command()
@click.argument("name", required=False)
@definition_options
@json_option
def workers(name: str | None, as_json: bool, **flags: Any) -> None:
    """List the workers and check their files, or show the worker NAME with examples.

    Exits with 1 if a file is wrong, after telling what is wrong with each.
    """
    found = read_definitions(load(flags).settings)
    if name is not None:
        _show(found.catalog.get(name), as_json=as_json)
        return
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


def _show(worker: WorkerDefinition, *, as_json: bool) -> None:
    if as_json:
        print_json(_json(worker))
        return
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.add_column(style="dim")
    facts.add_column(overflow="fold")
    rows = {
        "worker": worker.name,
        "does": worker.description,
        "best for": "; ".join(worker.best_for),
        "not for": "; ".join(worker.not_for),
        "needs": worker.input,
        "tools": ", ".join(worker.tools),
        "model": worker.model or "",
        "examples": "\n".join(worker.examples),
        "file": str(worker.file),
    }
    for title, text in rows.items():
        if text:
            facts.add_row(title, harmless(text))
    print_data(facts)


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
        "examples": list(worker.examples),
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
