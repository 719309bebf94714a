"""The workers that a run may choose from."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from concertmaster.catalog.definitions import WorkerDefinition, read_worker
from concertmaster.catalog.frontmatter import markdown_files
from concertmaster.errors import DefinitionError, UnknownWorkerError
from concertmaster.llm.messages import WorkerCard


class Catalog:
    """Workers by name, sorted. Never changes."""

    def __init__(
        self,
        workers: Iterable[WorkerDefinition] = (),
        *,
        overridden: Iterable[WorkerDefinition] = (),
    ) -> None:
        self._workers = {
            worker.name: worker for worker in sorted(workers, key=lambda worker: worker.name)
        }
        self.overridden = tuple(overridden)
        """Definitions that gave way to one of the same name in a later folder."""

    def __iter__(self) -> Iterator[WorkerDefinition]:
        return iter(self._workers.values())

    def __len__(self) -> int:
        return len(self._workers)

    def __contains__(self, name: object) -> bool:
        return name in self._workers

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of all workers, sorted."""
        return tuple(self._workers)

    def get(self, name: str) -> WorkerDefinition:
        """Return the worker `name`.

        Raises:
            UnknownWorkerError: there is none of that name.
        """
        try:
            return self._workers[name]
        except KeyError:
            raise UnknownWorkerError(name, self.names) from None

    def subset(self, names: Iterable[str]) -> "Catalog":
        """Return a catalog of the workers `names` alone.

        Raises:
            UnknownWorkerError: there is none of one of these names.
        """
        return Catalog(self.get(name) for name in names)

    def joined(self, workers: Iterable[WorkerDefinition]) -> "Catalog":
        """Return a catalog of these and further workers."""
        return Catalog([*self, *workers])

    def cards(self, names: Sequence[str] = ()) -> tuple[WorkerCard, ...]:
        """Return what a planner is told of the workers `names`, or of all when there are none.

        Raises:
            UnknownWorkerError: there is none of one of these names.
        """
        return tuple(worker.card() for worker in (self.subset(names) if names else self))


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderReading:
    """What the worker files of a folder say, and what is wrong with those that say nothing."""

    workers: tuple[WorkerDefinition, ...]
    errors: tuple[DefinitionError, ...]


def read_folder(folder: Path, *, tools: Collection[str]) -> FolderReading:
    """Return the workers and every faulty file in `folder` and the folders below it.

    Raises:
        DefinitionError: there is no such folder.
    """
    workers: dict[str, WorkerDefinition] = {}
    errors: list[DefinitionError] = []
    for file in markdown_files(folder):
        try:
            worker = read_worker(file, tools=tools)
        except DefinitionError as exc:
            errors.append(exc)
            continue
        first = workers.setdefault(worker.name, worker)
        if first is not worker:
            problem = f"the worker {worker.name!r} is already defined by {first.file}"
            errors.append(DefinitionError(problem, file=file))
    return FolderReading(workers=tuple(workers.values()), errors=tuple(errors))


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogReading:
    """The catalog of all worker files that are right, and what is wrong with the others."""

    catalog: Catalog
    errors: tuple[DefinitionError, ...]


def read_catalog(*folders: Path, tools: Collection[str]) -> CatalogReading:
    """Return the workers and every fault of all `folders`; a later folder's workers win."""
    workers: dict[str, WorkerDefinition] = {}
    overridden: list[WorkerDefinition] = []
    errors: list[DefinitionError] = []
    for folder in folders:
        try:
            reading = read_folder(folder, tools=tools)
        except DefinitionError as exc:
            errors.append(exc)
            continue
        errors += reading.errors
        overridden += [workers[each.name] for each in reading.workers if each.name in workers]
        workers |= {each.name: each for each in reading.workers}
    catalog = Catalog(workers.values(), overridden=overridden)
    return CatalogReading(catalog=catalog, errors=tuple(errors))


def load_catalog(*folders: Path, tools: Collection[str]) -> Catalog:
    """Return the workers of all `folders`, where a later folder's win over an earlier one's.

    Raises:
        DefinitionError: a folder does not exist, or a file is wrong. It is the first of
            several; `read_catalog` has them all.
    """
    reading = read_catalog(*folders, tools=tools)
    if reading.errors:
        raise reading.errors[0]
    return reading.catalog


def builtin_folder(name: Literal["workers", "prompts", "jobs"]) -> Path:
    """Return the folder of the built-in definitions of a kind, in a wheel or a checkout."""
    package = Path(__file__).parents[1]
    installed = package / name
    return installed if installed.is_dir() else package.parents[1] / name
