import pytest

from concertmaster.errors import InputError
from concertmaster.llm.messages import Document
from concertmaster.tools.tabular import is_data, read_data


def read(name: str, text: str) -> object:
    return read_data(Document(name=name, text=text))


@pytest.mark.parametrize(
    ("name", "text", "data"),
    [
        ("a.csv", "n,m\n1,x\n", [{"n": 1, "m": "x"}]),
        ("a.CSV", "n|m\n-1.5|00\n", [{"n": -1.5, "m": "00"}]),
        ("a.csv", "n\n0.30000000000000004\n", [{"n": 0.1 + 0.2}]),
        ("a.tsv", "n\tm, o\n1\t2,5\n", [{"n": 1, "m, o": "2,5"}]),
        ("a.csv", 'n\n"two\nlines"\n\n3\n', [{"n": "two\nlines"}, {"n": 3}]),
        (
            "a.csv",
            "n,,n\n1,2,3,4\n5\n",
            [
                {"n": 1, "column_2": 2, "n_3": 3, "column_4": 4},
                {"n": 5, "column_2": None, "n_3": None},
            ],
        ),
        ("a.csv", "", []),
        ("a.json", '[{"n": 1}]', [{"n": 1}]),
        ("a.jsonl", '{"n": 1}\n\n{"n": 2}\n', [{"n": 1}, {"n": 2}]),
    ],
)
def test_data_is_read_as_its_name_says(name: str, text: str, data: object) -> None:
    assert is_data(name)
    assert read(name, text) == data


@pytest.mark.parametrize(
    "cell", ["1e400", "007", "+1", "1_000", "1.", ".5", "\u0661", "9" * 5000, "NaN"]
)
def test_what_is_no_plain_number_stays_text(cell: str) -> None:
    assert read("a.csv", f"n\n{cell}\n") == [{"n": cell}]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", "{"),
        ("a.json", "[" * 100_000),
        ("a.jsonl", "1\nx"),
        ("a.csv", f"n\n{'x' * 200_000}"),
        ("a.csv", "," * 2_000),
        ("a.json", "9" * 5_000),
    ],
)
def test_what_cannot_be_read_is_refused(name: str, text: str) -> None:
    with pytest.raises(InputError, match="cannot be read as data"):
        read(name, text)


def test_other_inputs_are_no_data() -> None:
    assert not is_data("notes.csv.md")
