"""External ids to numbers and back: exactly, with the unknown counted and named; files of queries."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xclass.data import ids as lookup
from xclass.data.ids import IdMap, Unknown, match_ids, unknown
from xclass.errors import DataError, InputError
from xclass.queries.files import read_item_ids, read_query_file
from xclass.types import Ragged

BIG = 2**53 + 1


def test_strings_are_exact() -> None:
    ids = IdMap(pl.Series(["b", "007", "7", "é", "", "a b", "1.0", "NaN"]))
    asked = ["7", "007", "é", "", "a b", "1.0", "NaN", "1", "nan", "B"]
    assert ids.numbers(asked).tolist() == [2, 1, 3, 4, 5, 6, 7, -1, -1, -1]
    assert ids.numbers([7]).tolist() == [2]


def test_integers_are_exact() -> None:
    ids = IdMap(pl.Series([5, BIG, -3, 17]))
    assert ids.numbers([BIG, BIG - 1, 17]).tolist() == [1, -1, 3]
    asked = ["17", "017", "+17", "17.0", " 17", str(BIG), str(BIG - 1), "-3", "x", str(2**70)]
    assert ids.numbers(asked).tolist() == [3, -1, -1, -1, -1, 1, -1, 2, -1, -1]
    assert ids.numbers(pl.Series([2**63 + 5, 17], dtype=pl.UInt64)).tolist() == [-1, 3]
    assert ids.numbers(pl.Series([17, None])).tolist() == [3, -1]
    assert ids.numbers([]).tolist() == []


@given(st.lists(st.text(max_size=3), unique=True), st.lists(st.text(max_size=3)))
def test_equals_a_dictionary(ids: list[str], asked: list[str]) -> None:
    numbers = {name: number for number, name in enumerate(ids)}
    got = IdMap(pl.Series(ids, dtype=pl.String)).numbers(asked)
    assert got.tolist() == [numbers.get(name, -1) for name in asked]


@given(st.lists(st.integers(-(2**63), 2**63 - 1), unique=True), st.lists(st.integers(-9, 9)))
def test_integers_equal_a_dictionary(ids: list[int], asked: list[int]) -> None:
    numbers = {name: number for number, name in enumerate(ids)}
    got = IdMap(pl.Series(ids, dtype=pl.Int64)).numbers(ids + asked)
    assert got.tolist() == [numbers.get(name, -1) for name in ids + asked]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("17", "a list of ids is wanted"),
        ([1.0], "strings or integers"),
        ([True], "strings or integers"),
        (["a", 1], "all strings or all integers"),
        (5, "a list of ids is wanted"),
    ],
)
def test_what_is_no_list_of_ids(asked: object, message: str) -> None:
    for ids in (pl.Series([1]), pl.Series(["a"])):
        with pytest.raises(InputError, match=message):
            IdMap(ids).numbers(asked)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="strings or int64"):
        IdMap(pl.Series([1.5]))


def test_unknown_ids_are_counted_and_named() -> None:
    ids = pl.Series(["a", "x", "y", "x", "z"])
    missing = unknown(ids, IdMap(pl.Series(["a"])).numbers(ids))
    assert missing == Unknown(4, ["x", "y", "z"])
    assert missing.message("query ids") == "4 unknown query ids left out: x, y, z, …"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_files_of_ids(tmp_path: Path) -> None:
    text = read_query_file(write(tmp_path / "a.txt", "007\n\na b\né\n"))
    assert (text.query_ids.to_list(), text.items) == (["007", "a b", "é"], None)
    assert read_query_file(write(tmp_path / "a.csv", "user\n007\n1.0\n")).query_ids.to_list() == ["007", "1.0"]
    table = read_query_file(write(tmp_path / "b.tsv", "x\tquery_id\n1\t2\n"))
    assert table.query_ids.to_list() == ["2"]
    pl.DataFrame({"query_id": [BIG, 5], "other": [1.5, 2.5]}).write_parquet(tmp_path / "a.parquet")
    assert read_query_file(tmp_path / "a.parquet").query_ids.to_list() == [BIG, 5]


def test_files_of_histories(tmp_path: Path) -> None:
    wanted = (["q", "r"], [["a", "7"], ["b"]])
    lines = '{"query_id": "q", "history": ["a", 7]}\n\n{"query_id": "r", "history": ["b"]}\n'
    pl.DataFrame({"query_id": ["q", "r", "q"], "item_id": ["a", "b", "7"]}).write_parquet(tmp_path / "c.parquet")
    for path in (
        write(tmp_path / "a.jsonl", lines),
        write(tmp_path / "b.csv", "query_id,item_id\nq,a\nr,b\nq,7\n"),
        tmp_path / "c.parquet",
        write(tmp_path / "d.adj", "q a 7\nr b\n"),
    ):
        found = read_query_file(path)
        assert found.offsets is not None
        assert found.items is not None
        numbers = IdMap(pl.Series(["a", "7", "b"])).numbers(found.items)
        lists = [[("a", "7", "b")[item] for item in row] for row in Ragged(found.offsets, numbers).to_lists()]
        assert (found.query_ids.to_list(), lists) == wanted


def test_histories_without_ids_are_named_by_line(tmp_path: Path) -> None:
    found = read_query_file(write(tmp_path / "a.jsonl", '{"history": ["a"]}\n\n{"history": []}\n'))
    assert found.query_ids.to_list() == ["1", "3"]
    assert found.offsets is not None
    assert found.offsets.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{"history": ["a"]}\n{"history"\n', r"a\.jsonl:2: this line is not JSON"),
        ("a.jsonl", '{"history": "a"}\n', r"a\.jsonl:1: this line has no list of items"),
        ("a.jsonl", '{"items": ["a"]}\n', "no list of items"),
        ("a.jsonl", '{"history": [1.5]}\n', "neither text nor an integer"),
        ("a.jsonl", '{"history": [], "query_id": null}\n', "neither text nor an integer"),
        ("a.csv", "x,y\n1,2\n", "wanted: query_id"),
        ("a.csv", "query_id,item_id\n1,\n", "null in row 1"),
        ("a.csv", "query_id\n", "holds no query"),
        ("a.txt", "\n", "holds no query"),
        ("a.xlsx", "1\n", "ending is not known"),
    ],
)
def test_files_that_are_refused(name: str, text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_query_file(write(tmp_path / name, text))


def test_more_files_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_query_file(tmp_path / "none.txt")
    for name in ("a.txt", "a.jsonl", "a.csv", "a.parquet"):
        (tmp_path / name).write_bytes(b"query_id\n\xff\xfe\xff\n")
        with pytest.raises(DataError, match=f"{name}.* (UTF-|can't be read)"):
            read_query_file(tmp_path / name)
    pl.DataFrame({"query_id": [1.0]}).write_parquet(tmp_path / "f.parquet")
    with pytest.raises(DataError, match="floating-point numbers"):
        read_query_file(tmp_path / "f.parquet")


def test_item_lists(tmp_path: Path) -> None:
    assert read_item_ids(write(tmp_path / "a.txt", "7\n007\n")).to_list() == ["7", "007"]
    assert read_item_ids(write(tmp_path / "a.csv", "item_id,title\n7,x\n")).to_list() == ["7"]
    with pytest.raises(DataError, match="ending is not known"):
        read_item_ids(write(tmp_path / "a.jsonl", "{}"))
    with pytest.raises(DataError, match="wanted: item_id"):
        read_item_ids(write(tmp_path / "b.csv", "x,y\n1,2\n"))


@pytest.mark.parametrize("strings", [True, False])
@pytest.mark.parametrize("per_part", [1 << 22, 7])
def test_matching_whole_catalogues_equals_looking_up(
    strings: bool, per_part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup, "IDS_PER_PART", per_part)
    known = pl.Series([f"{n:03d}" if strings else BIG + n for n in range(0, 200, 2)]).shuffle(seed=1)
    asked = pl.Series([f"{n:03d}" if strings else BIG + n for n in range(0, 90, 3)]).shuffle(seed=2)
    assert match_ids(asked, known).tolist() == IdMap(known).numbers(asked).tolist()
    assert (match_ids(asked, known) < 0).sum() == 15
    assert match_ids(asked.head(0), known).tolist() == []
