"""Everything a file can get wrong: one clear message with the place, and nothing left behind."""

from __future__ import annotations

import errno
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from reference.datasets import ingest_text, pairs, write

from xclass.errors import ArtefactError, DataError, XclassError
from xclass.ingest.ingest import ingest
from xclass.ingest.options import IngestOptions
from xclass.ingest.writing import arrays

CASES: dict[str, tuple[str, str | bytes, dict[str, Any], list[str]]] = {
    "missing column": (
        "a.csv",
        "usr,item_id\n1,2\n",
        {"query_col": "user"},
        ["a.csv", "wanted: user", 'did you mean "usr"'],
    ),
    "no query column": ("a.csv", "foo,item_id\n1,2\n", {}, ["no column looks like the query ids", "--query-col"]),
    "same column": ("a.csv", "user,item\n1,2\n", {"query_col": "user", "item_col": "user"}, ["the same"]),
    "null id": ("a.csv", "user,item\n1,2\n,3\n4,\n5,6\n,7\n", {}, ["a.csv", 'column "user"', "line 3, 6"]),
    "quoted empty id": ("a.csv", 'user,item\n1,2\n3,""\n', {}, ['column "item"', "line 3"]),
    "many null ids": ("a.csv", "user,item\n" + "1,\n" * 9, {}, ["line 2, 3, 4, 5, 6 and more"]),
    "null id in jsonl": ("a.jsonl", '{"user":1,"item":2}\n\n{"user":1,"item":null}\n{"user":2}\n', {}, ["line 3, 4"]),
    "null in a list": ("a.jsonl", '{"user":1,"item":[2]}\n{"user":1,"item":[3,null]}\n', {}, ['"item"', "line 2"]),
    "too many fields": ("a.csv", "user,item\n1,2\n3,4,5\n", {}, ["a.csv, line 3", "wanted: 2 fields", "got: 3 fields"]),
    "too few fields": (
        "a.csv",
        "user,item,x\n1,2,3\n\n3,4\n",
        {},
        ["a.csv, line 4", "wanted: 3 fields", "got: 2 fields"],
    ),
    "ragged blanks": ("a.txt", "1 2 3\n1 2\n", {"format": "csv"}, ["a.txt, line 2", "wanted: 3 fields"]),
    "ragged ::": ("a.dat", "1::2::3\n1::2\n", {}, ["a.dat, line 2", "wanted: 3 fields"]),
    "open quote": ("a.csv", 'user,item\n1,2\n"3,4\n5,6\n', {}, ["line 3", "quote"]),
    "not UTF-8": ("a.csv", b"user,item\n1,2\n3,na\xefve\n", {}, ["not UTF-8", "line 3", "byte 5", "0xef", "iconv"]),
    "UTF-16": ("a.csv", "user,item\n1,2\n".encode("utf-16"), {}, ["UTF-16", "iconv -f utf-16"]),
    "not UTF-8, adjacency": ("a.txt", b"1 2\n2 \xff 3\n", {"format": "adjacency"}, ["not UTF-8", "line 2"]),
    "empty file": ("a.csv", "", {}, ["a.csv", "empty"]),
    "blank file": ("a.txt", "\n \n", {"format": "adjacency"}, ["empty"]),
    "empty parquet": ("a.parquet", b"", {}, ["a.parquet", "empty"]),
    "only a header": ("a.csv", "user,item\n", {}, ["a header and no rows"]),
    "two equal columns": ("a.csv", "user,item,item\n1,2,3\n", {}, ["same name"]),
    "queries alone": ("a.txt", "1\n2\n", {"format": "adjacency"}, ["no pairs"]),
    "cut gzip": (
        "a.csv.gz",
        gzip.compress(b"user,item\n" + bytes(range(48, 58)) * 50)[:-12],
        {},
        ["can't be read", "a.csv.gz"],
    ),
    "cut parquet": ("a.parquet", b"PAR1....", {}, ["not a Parquet file", "a.parquet"]),
    "mixed types": (
        "a.jsonl",
        '{"user":"a","item":"x"}\n{"user":"b","item":7}\n',
        {},
        ["line 2", "mixed types", "got: 7"],
    ),
    "mixed, numbers first": ("a.jsonl", '{"user":1,"item":1}\n{"user":1,"item":"x"}\n', {}, ["line 2", "mixed types"]),
    "mixed in a list": (
        "a.jsonl",
        '{"user":1,"item":["a"]}\n{"user":1,"item":["b",3]}\n',
        {},
        ["line 2", "mixed types"],
    ),
    "id is an object": ("a.jsonl", '{"user":1,"item":{"a":1}}\n', {}, ["mixed types"]),
    "float ids": ("a.jsonl", '{"user":1,"item":1.5}\n', {}, ["floating-point"]),
    "float id later": ("a.jsonl", '{"user":1,"item":1}\n{"user":1,"item":2.0}\n', {}, ["line 2", "floating-point"]),
    "id beyond 64 bits": (
        "a.jsonl",
        f'{{"user":1,"item":1}}\n{{"user":1,"item":{2**64}}}\n',
        {},
        ["line 2", "64 bits"],
    ),
    "not JSON": ("a.jsonl", '{"user":1,"item":1}\n{"user":1,\n', {}, ["line 2", "not JSON"]),
    "JSON array": ("a.json", '[{"user":1,"item":1}]\n', {}, ["line 1", "not a JSON object"]),
    "lists of two lengths": ("a.jsonl", '{"user":1,"item":[1,2],"rating":[1]}\n', {}, ["line 1", "differ in length"]),
    "time is text": (
        "a.csv",
        "user,item,time\n1,2,5\n1,3,May\n",
        {},
        ["line 3", "not a number", "'May'", "--time-col"],
    ),
    "time is missing": ("a.csv", "user,item,time\n1,2,5\n1,3,\n", {}, ["line 3", "not a number", "nothing"]),
    "weight is text": ("a.csv", "user,item,rating\n1,2,five\n", {}, ["line 2", "weight", "'five'"]),
    "NaN weight": ("a.csv", "user,item,rating\n1,2,1\n1,3,NaN\n", {}, ["line 3", "weight", "'NaN'"]),
    "infinite weight": ("a.csv", "user,item,rating\n1,2,inf\n", {}, ["line 2", "weight", "'inf'"]),
    "negative weight": ("a.csv", "user,item,rating\n1,2,-0.5\n", {}, ["line 2", "weight", "'-0.5'"]),
    "nothing meets the minimum": (
        "a.csv",
        "user,item\n1,2\n",
        {"min_query_count": 2},
        ["leave nothing", "min_query_count 2"],
    ),
    "time split without times": ("a.csv", "user,item\n1,2\n", {"split": "time"}, ["needs times", "--time-col"]),
    "one moment only": ("a.csv", "user,item,time\n1,2,5\n1,3,5\n", {"test_fraction": 0.5}, ["leaves no train pair"]),
    "given split of a file": ("a.csv", "user,item\n1,2\n", {"split": "given"}, ["no given split", "train.*"]),
    "columns of adjacency": ("a.txt", "1 2\n", {"format": "adjacency", "item_col": "x"}, ["--item-col"]),
    "inter without types": ("a.inter", "user_id\titem_id\n1\t2\n", {}, ["line 1", "no header with types"]),
    "extreme classification": ("a.txt", "2 9 3\n0,2 1:1 5:2\n1 3:x\n", {}, ["line 3", "not a finite number"]),
}


@pytest.mark.parametrize("case", CASES)
def test_one_clear_message(tmp_path: Path, case: str) -> None:
    name, content, options, words = CASES[case]
    with pytest.raises(XclassError) as caught:
        ingest_text(tmp_path, name, content, **options)
    message = str(caught.value)
    assert [word for word in words if word not in message] == [], message
    assert "polars" not in message.lower()
    assert sorted(path.name for path in tmp_path.iterdir()) == [name], "nothing is left behind"


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"user": [1, None, 3, None], "item": [1, 2, 3, 4]}, ['"user"', "row 2, 4"]),
        ({"user": ["a", "b"], "item": ["x", ""]}, ['"item"', "row 2"]),
        ({"user": [1, 2], "item": [[1], [2, None]]}, ['"item"', "row 2"]),
        ({"user": [1, 2], "item": [[1], None]}, ['"item"', "row 2"]),
        ({"user": [1.0], "item": [1]}, ["floating-point", "Float64"]),
        ({"user": [1], "item": [[1.5]]}, ["floating-point"]),
        ({"user": [True], "item": [1]}, ["can't hold ids", "Boolean"]),
        ({"user": [[1]], "item": [1]}, ["holds lists"]),
        ({"user": [1, 1], "item": [1, 2], "rating": [1.0, float("nan")]}, ["row 2", "weight"]),
        ({"user": [1, 1], "item": [1, 2], "rating": [1, -1]}, ["row 2", "weight"]),
        ({"user": [1, 1], "item": [1, 2], "time": ["3", "x"]}, ["row 2", "'x'"]),
        ({"user": [1, 1], "item": [1, 2], "time": [3, None]}, ["row 2", "not a number"]),
        ({"user": pl.Series([2**63], dtype=pl.UInt64), "item": [1]}, ["fit 64 bits", str(2**63)]),
    ],
)
def test_parquet_messages_name_the_row(tmp_path: Path, columns: dict[str, Any], words: list[str]) -> None:
    pl.DataFrame(columns).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError) as caught:
        ingest(tmp_path / "a.parquet", tmp_path / "out")
    assert [word for word in [*words, "a.parquet"] if word not in str(caught.value)] == [], str(caught.value)


def test_bad_row_far_behind_the_first_lines(tmp_path: Path) -> None:
    rows = "".join(f"{n},{n + 1},{n}\n" for n in range(60_000))
    with pytest.raises(DataError, match=r"line 60,002.*wanted: a number"):
        try:
            ingest_text(tmp_path, "a.csv", "user,item,rating\n" + rows + "1,2,x\n")
        except DataError as error:
            raise DataError(str(error).replace("\n", " ")) from None


def test_blank_lines_are_harmless(tmp_path: Path) -> None:
    assert pairs(ingest_text(tmp_path, "a.csv", "user,item\n\n1,2\n\n3,4\n\n\n")) == [(1, 2), (3, 4)]


def test_strings_that_look_like_json_keys_are_harmless(tmp_path: Path) -> None:
    rows = [{"user": "a", "item": "b", "text": '"item": 5'}, {"user": "c", "item": "d", "meta": {"item": 5}}]
    dataset = ingest_text(tmp_path, "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert pairs(dataset) == [("a", "b"), ("c", "d")]


def directory(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        write(folder / name, content)
    return folder


@pytest.mark.parametrize(
    ("files", "options", "words"),
    [
        ({"test.txt": "1 2\n", "x.txt": "1 3\n"}, {}, ["a test part but no train part", "got: test.txt, x.txt"]),
        ({"train.csv": "user,item\n1,2\n", "train.txt": "1 2\n"}, {}, ["two train parts"]),
        (
            {"train.txt": "1 2 3\n2 4\n", "test.txt": "1 9 3\n2 4\n"},
            {},
            ["2 pairs stand in more than one part", "(1, 3) in test and train"],
        ),
        ({"train.txt": "1 2 3\n", "valid.txt": "1 2\n", "test.txt": "1 5\n"}, {}, ["(1, 2) in train and valid"]),
        ({"train.csv": "user,item,time\n1,2,3\n", "test.csv": "user,item\n1,4\n"}, {}, ["test.csv", "time column"]),
        ({"train.txt": "1 2\n", "test.txt": "1 5\n"}, {"split": "random"}, ["already is split"]),
        (
            {"train.txt": "1 2\n", "valid.txt": "1 3\n", "test.txt": "1 5\n"},
            {"valid_fraction": 0.1},
            ["valid part already"],
        ),
        ({"train.txt": "1 2\n", "test.txt": ""}, {"format": "adjacency"}, ["test.txt", "empty"]),
        ({"train.txt": "1 2\n", "test.txt": "1 3\n"}, {"format": "adjacency", "min_item_count": 2}, ["leave nothing"]),
        ({}, {}, ["no files"]),
    ],
)
def test_directories(tmp_path: Path, files: dict[str, str], options: dict[str, Any], words: list[str]) -> None:
    source = directory(tmp_path / "raw", files)
    source.mkdir(exist_ok=True)
    with pytest.raises(XclassError) as caught:
        ingest(source, tmp_path / "out", IngestOptions(format=options.pop("format", "auto"), **options))
    assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)
    assert not (tmp_path / "out").exists()


def test_source_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or directory"):
        ingest(tmp_path / "nowhere", tmp_path / "out")


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.csv", "user,item\n1,2\n")
    real = Path.open

    def refuse(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self == path:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"a.csv: this file can't be read\n  got: Permission denied"):
        ingest(path, tmp_path / "out")


def test_out_that_exists_is_refused_before_reading(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ArtefactError, match="exists already"):
        ingest(tmp_path / "nowhere", tmp_path / "out")


def test_full_disk_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(ArtefactError, match="too full"):
        ingest_text(tmp_path, "a.csv", "user,item\n1,2\n")
    assert not (tmp_path / "dataset").exists()


@pytest.mark.parametrize(
    "failure",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError("4096 requested and 0 written"),
        pl.exceptions.ComputeError("parquet: underlying IO error: No space left on device (os error 28)"),
    ],
)
def test_full_disk_while_writing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise failure

    monkeypatch.setattr(pl.LazyFrame, "sink_parquet", fail)
    with pytest.raises(ArtefactError, match="the disk is full"):
        ingest_text(tmp_path, "a.csv", "user,item\n1,2\n")
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(arrays, "write_dataset_manifest", interrupt)
    with pytest.raises(KeyboardInterrupt):
        ingest_text(tmp_path, "a.csv", "user,item\n1,2\n")
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_fractions_must_leave_train(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leave nothing for train"):
        IngestOptions(test_fraction=0.6, valid_fraction=0.4)


def test_unknown_test_query_and_item_are_kept_and_named(tmp_path: Path) -> None:
    source = directory(tmp_path / "raw", {"train.txt": "1 5 6\n2 5\n", "test.txt": "1 9 8\n3 5 9\n"})
    dataset = ingest(source, tmp_path / "out", IngestOptions(format="adjacency"))
    report = dataset.manifest["report"]
    assert report["cold_items"]["test"] == {"items": 2, "pairs": 3, "samples": [8, 9]}
    assert report["queries_without_history"]["test"] == {"queries": 1, "samples": [3]}
    assert dataset.items["item_id"].to_list() == [5, 6, 8, 9]
    assert dataset.item_counts.tolist() == [2, 1, 0, 0]
    assert dataset.split("train").to_lists() == [[0, 1], [0], []]
    assert dataset.split("test").values.numpy().dtype == np.int32
