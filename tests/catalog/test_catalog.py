"""How worker files in folders become the workers of a run."""

from pathlib import Path

import pytest

from concertmaster.catalog.catalog import (
    Catalog,
    builtin_folder,
    load_catalog,
    read_catalog,
    read_folder,
)
from concertmaster.catalog.definitions import WorkerDefinition
from concertmaster.errors import DefinitionError, UnknownWorkerError


def write(file: Path, name: str, *, description: str = "Works.") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    text = f"---\nname: {name}\ndescription: {description}\n---\nWork.\n"
    file.write_text(text, encoding="utf-8")
    return file


def worker(name: str) -> WorkerDefinition:
    return WorkerDefinition(
        name=name, description=f"Is {name}.", instructions="Work.", file=Path(f"{name}.md")
    )


def test_workers_are_in_the_order_of_their_names() -> None:
    catalog = Catalog([worker("b"), worker("c"), worker("a")])
    assert catalog.names == ("a", "b", "c")
    assert [each.name for each in catalog] == ["a", "b", "c"]
    assert len(catalog) == 3
    assert "b" in catalog
    assert "d" not in catalog


def test_a_worker_that_is_not_there_is_an_error_that_names_those_that_are() -> None:
    catalog = Catalog([worker("b"), worker("a")])
    assert catalog.get("a") == worker("a")
    with pytest.raises(UnknownWorkerError) as caught:
        catalog.get("c")
    assert caught.value.available == ("a", "b")


def test_cards_are_of_all_workers_or_of_those_named() -> None:
    catalog = Catalog([worker("b"), worker("a")])
    assert catalog.cards() == (worker("a").card(), worker("b").card())
    assert catalog.cards(["b"]) == (worker("b").card(),)
    with pytest.raises(UnknownWorkerError):
        catalog.cards(["c"])


def test_a_subset_has_the_named_workers_alone() -> None:
    catalog = Catalog([worker("a"), worker("b"), worker("c")])
    assert catalog.subset(["c", "a"]).names == ("a", "c")
    with pytest.raises(UnknownWorkerError):
        catalog.subset(["a", "d"])


def test_files_are_found_in_folders_below_but_a_readme_is_no_worker(tmp_path: Path) -> None:
    write(tmp_path / "b.md", "b")
    write(tmp_path / "deep" / "down" / "a.md", "a")
    (tmp_path / "README.md").write_text("# Workers\n", encoding="utf-8")
    (tmp_path / "deep" / "readme.md").write_text("# More\n", encoding="utf-8")
    (tmp_path / "notes.txt").write_text("Notes\n", encoding="utf-8")
    assert load_catalog(tmp_path, tools=()).names == ("a", "b")


def test_a_later_folder_wins_and_what_it_overrides_is_kept(tmp_path: Path) -> None:
    first = write(tmp_path / "one" / "a.md", "a", description="First.")
    write(tmp_path / "one" / "b.md", "b")
    second = write(tmp_path / "two" / "x.md", "a", description="Second.")
    third = write(tmp_path / "three" / "a.md", "a", description="Third.")
    catalog = load_catalog(
        tmp_path / "one", tmp_path / "two", tmp_path / "three", tools=("read_file",)
    )
    assert catalog.names == ("a", "b")
    assert catalog.get("a").file == third
    assert [each.file for each in catalog.overridden] == [first, second]


def test_two_files_with_one_name_in_one_folder_are_an_error_naming_both(tmp_path: Path) -> None:
    first = write(tmp_path / "a.md", "a")
    second = write(tmp_path / "sub" / "b.md", "a")
    with pytest.raises(DefinitionError) as caught:
        load_catalog(tmp_path, tools=())
    assert caught.value.file == second
    assert str(first) in caught.value.problem


def test_reading_a_folder_reports_every_faulty_file(tmp_path: Path) -> None:
    write(tmp_path / "a.md", "A")
    write(tmp_path / "b.md", "b")
    (tmp_path / "c.md").write_text("nothing\n", encoding="utf-8")
    reading = read_folder(tmp_path, tools=())
    assert [each.name for each in reading.workers] == ["b"]
    assert [error.file.name for error in reading.errors] == ["a.md", "c.md"]


def test_reading_a_catalog_reports_every_fault_of_all_folders(tmp_path: Path) -> None:
    write(tmp_path / "one" / "a.md", "A")
    write(tmp_path / "one" / "b.md", "b")
    write(tmp_path / "two" / "c.md", "C")
    write(tmp_path / "two" / "d.md", "d")
    folders = (tmp_path / "one", tmp_path / "missing", tmp_path / "two")
    reading = read_catalog(*folders, tools=())
    assert reading.catalog.names == ("b", "d")
    assert [error.file.name for error in reading.errors] == ["a.md", "missing", "c.md"]
    with pytest.raises(DefinitionError) as caught:
        load_catalog(*folders, tools=())
    assert str(caught.value) == str(reading.errors[0])


def test_a_folder_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError) as caught:
        load_catalog(tmp_path / "missing", tools=())
    assert caught.value.file == tmp_path / "missing"


def test_a_file_in_place_of_a_folder_is_an_error(tmp_path: Path) -> None:
    file = write(tmp_path / "a.md", "a")
    with pytest.raises(DefinitionError) as caught:
        load_catalog(file, tools=())
    assert caught.value.problem == "is not a folder"


@pytest.mark.parametrize("name", ["workers", "prompts"])
def test_the_built_in_folders_are_found(name: str) -> None:
    folder = builtin_folder("workers" if name == "workers" else "prompts")
    assert folder.name == name
    assert list(folder.rglob("*.md"))
