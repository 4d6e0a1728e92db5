"""Every format gives the pairs that stand in the file, ids exactly as written."""

from __future__ import annotations

import gzip
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from reference.datasets import ingest_text, lists, pairs, write

from xclass.errors import ConfigError, DataError
from xclass.ingest.formats.pairs import FORMATS, find_format
from xclass.ingest.ingest import ingest
from xclass.ingest.options import IngestOptions

ALL_TRAIN = IngestOptions(test_fraction=0, valid_fraction=0)
# Rows in an order that is sorted neither by query nor by item.
ROWS = [("b", "x"), ("a", "z"), ("b", "z"), ("c", "x"), ("a", "x")]
WANTED = {"a": ["z", "x"], "b": ["x", "z"], "c": ["x"]}


def parquet(folder: Path, name: str, columns: dict[str, Any]) -> Path:
    pl.DataFrame(columns).write_parquet(folder / name)
    return folder / name


def files_of_every_format(folder: Path) -> dict[str, Path]:
    lines = [f"{query},{item}" for query, item in ROWS]
    return {
        "csv": write(folder / "t.csv", "user_id,item_id\n" + "\n".join(lines) + "\n"),
        "inter": write(folder / "t.inter", "user_id:token\titem_id:token\n" + "\n".join(lines).replace(",", "\t")),
        "jsonl": write(folder / "t.jsonl", "".join(json.dumps({"user": q, "item": i}) + "\n" for q, i in ROWS)),
        "parquet": parquet(folder, "t.parquet", {"query_id": [q for q, _ in ROWS], "item_id": [i for _, i in ROWS]}),
        "adjacency": write(folder / "t.txt", "b x z\na z x\nc x\n"),
        "sequences": write(folder / "s.txt", "z x\nx z\nx\n"),
    }


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_reads_the_same_pairs(tmp_path: Path, name: str) -> None:
    path = files_of_every_format(tmp_path)[name]
    dataset = ingest(path, tmp_path / "out", ALL_TRAIN.model_copy(update={"format": name}))
    wanted = {1: ["z", "x"], 2: ["x", "z"], 3: ["x"]} if name == "sequences" else WANTED
    assert lists(dataset) == wanted
    assert dataset.manifest["report"]["formats"] == [name]
    dataset.verify()


@pytest.mark.parametrize("name", FORMATS)
def test_read_gives_the_seam_s_columns(tmp_path: Path, name: str) -> None:
    path = files_of_every_format(tmp_path)[name]
    columns = FORMATS[name].columns(path, IngestOptions())
    for frame in FORMATS[name].read(path, columns):
        assert frame.schema == {"query": pl.String, "item": pl.String}
    FORMATS[name].diagnose(path, columns)


@pytest.mark.parametrize("name", FORMATS)
def test_auto_finds_the_format(tmp_path: Path, name: str) -> None:
    content = {"sequences": "1 2\n3 4 5\n1 3\n", "adjacency": "1 2\n3 4 5\n2 7\n"}
    path = write(tmp_path / "t.txt", content[name]) if name in content else files_of_every_format(tmp_path)[name]
    assert find_format("auto", path) == name


def test_unknown_format_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='did you mean "parquet"'):
        ingest_text(tmp_path, "a.csv", "user,item\n1,2\n", format="parket")


HARD_IDS = ["007", "1.0", "NaN", "null", "None", "é ü", " blank ", "1e5", "True", "9007199254740993", "-", "日本"]


def test_string_ids_survive_exactly(tmp_path: Path) -> None:
    dataset = ingest_text(tmp_path, "a.csv", "user_id,item_id\n" + "".join(f"u{i},{i}\n" for i in HARD_IDS))
    assert dataset.manifest["id_types"] == {"query": "string", "item": "string"}
    assert sorted(dataset.items["item_id"]) == sorted(HARD_IDS)
    assert dataset.queries["query_id"].to_list() == sorted((f"u{i}" for i in HARD_IDS), key=str.encode)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_string_ids_survive_in_typed_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    frame = pl.DataFrame({"user_id": ["u"] * len(HARD_IDS), "item_id": HARD_IDS})
    frame.write_parquet(path) if suffix == "parquet" else frame.write_ndjson(path)
    assert lists(ingest(path, tmp_path / "out", ALL_TRAIN)) == {"u": HARD_IDS}


BIG = [2**53 + 1, 2**53, -(2**63), 2**63 - 1, 0, -7]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_int64_ids_survive_exactly(tmp_path: Path, suffix: str) -> None:
    frame, path = pl.DataFrame({"user_id": [5] * len(BIG), "item_id": BIG}), tmp_path / f"a.{suffix}"
    {"csv": frame.write_csv, "jsonl": frame.write_ndjson, "parquet": frame.write_parquet}[suffix](path)
    dataset = ingest(path, tmp_path / "out", ALL_TRAIN)
    assert dataset.manifest["id_types"] == {"query": "int64", "item": "int64"}
    assert lists(dataset) == {5: BIG}
    assert dataset.items["item_id"].to_list() == sorted(BIG)  # equal counts: by id, as numbers


@pytest.mark.parametrize("odd", ["007", "+7", "7.0", "-0", str(2**63), "7 "])
def test_one_odd_id_keeps_the_column_text(tmp_path: Path, odd: str) -> None:
    dataset = ingest_text(tmp_path, "a.csv", f"user_id,item_id\n1,10\n1,9\n1,{odd}\n")
    assert dataset.manifest["id_types"] == {"query": "int64", "item": "string"}
    assert lists(dataset) == {1: ["10", "9", odd]}


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_typed_strings_stay_strings(tmp_path: Path, suffix: str) -> None:
    frame, path = pl.DataFrame({"user_id": ["1", "2"], "item_id": ["3", "3"]}), tmp_path / f"a.{suffix}"
    frame.write_parquet(path) if suffix == "parquet" else frame.write_ndjson(path)
    assert pairs(ingest(path, tmp_path / "out", ALL_TRAIN)) == [("1", "3"), ("2", "3")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "user_id,item_id,rating,timestamp\n1,10,5,100\n1,11,3.5,90\n"),
        ("a.csv", "\ufeffUserId;Item-ID;Rating;Timestamp\r\n1;10;5;100\r\n1;11;3.5;90\r\n"),
        ("a.tsv", "timestamp\trating\titem_id\tuser_id\n100\t5\t10\t1\n90\t3.5\t11\t1"),
        ("ratings.dat", "1::10::5::100\n1::11::3.5::90\n"),
        ("u.data.txt", "1 10 5 100\n1  11 3.5 90 \n"),
        ("u.txt", "1\t10\t5\t100\n1\t11\t3.5\t90\n"),
        (
            "a.inter",
            "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t10\t5\t100.0\n1\t11\t3.5\t9.0E1\n",
        ),
        ("a.csv", '"user_id","item_id","rating","timestamp"\n"1","10","5","100"\n"1","11",3.5,90\n'),
        (
            "a.jsonl",
            '{"user":1,"item":10,"rating":5,"time":100,"x":{"y":1}}\n\n{"user":1,"item":11,"rating":3.5,"time":90}\n',
        ),
        ("a.jsonl", '{"user":1,"items":[10,11],"rating":[5,3.5],"time":[100,90]}\n'),
    ],
)
def test_tables_of_all_dialects(tmp_path: Path, name: str, content: str) -> None:
    dataset = ingest_text(tmp_path, name, content, split="random")
    assert lists(dataset) == {1: [11, 10]}, "in the order of time"
    train = dataset.split("train")
    assert train.weights is not None
    assert train.weights.tolist() == [3.5, 5.0]
    times = np.load(dataset.path / "train" / "times.npy")
    assert times.tolist() == [90, 100]
    assert times.dtype == np.int64


def test_values_with_quotes_separators_and_newlines(tmp_path: Path) -> None:
    dataset = ingest_text(tmp_path, "a.csv", 'user_id,item_id\n"a,b","say ""x"""\n"two\nlines",z\n')
    assert pairs(dataset) == [("a,b", 'say "x"'), ("two\nlines", "z")]


def test_inter_does_not_know_quotes(tmp_path: Path) -> None:
    dataset = ingest_text(tmp_path, "a.inter", 'user_id:token\titem_id:token\n"a\tb"\n')
    assert pairs(dataset) == [('"a', 'b"')]


def test_header_is_optional_and_can_be_said(tmp_path: Path) -> None:
    assert pairs(ingest_text(tmp_path / "1", "a.csv", "1,2\n3,4\n")) == [(1, 2), (3, 4)]
    assert pairs(ingest_text(tmp_path / "2", "a.csv", "a,b\nc,d\n", header=False)) == [("a", "b"), ("c", "d")]
    named = ingest_text(tmp_path / "3", "a.csv", "9,a,5\n8,b,6\n", query_col="2", item_col="1", time_col="3")
    assert pairs(named) == [("a", 9), ("b", 8)]
    assert named.manifest["columns"] == {"query": "2", "item": "1", "time": "3"}


def test_three_columns_without_header_use_two(tmp_path: Path) -> None:
    assert ingest_text(tmp_path, "a.csv", "1,2,5\n3,4,5\n").manifest["columns"] == {"query": "1", "item": "2"}


def test_empty_column_name_leaves_weights_and_times_out(tmp_path: Path) -> None:
    content = "user,item,rating,time\n1,2,-1,x\n"
    dataset = ingest_text(tmp_path, "a.csv", content, weight_col="", time_col="")
    assert dataset.split("train").weights is None
    assert dataset.manifest["split"] == "random"


def test_gzip_is_read_through(tmp_path: Path) -> None:
    assert pairs(ingest_text(tmp_path / "1", "a.csv.gz", gzip.compress(b"user,item\n1,2\n"))) == [(1, 2)]
    assert lists(ingest_text(tmp_path / "2", "a.txt.gz", gzip.compress(b"1 2\n2 3 4\n"))) == {1: [2], 2: [3, 4]}


def test_adjacency_keeps_queries_without_items(tmp_path: Path) -> None:
    dataset = ingest_text(tmp_path, "a.txt", "0 5 7 \n\n1\n2\t9  5\n0 8\n", format="adjacency")
    assert lists(dataset) == {0: [5, 7, 8], 1: [], 2: [9, 5]}
    assert dataset.manifest["report"]["queries_without_pairs"] == 1


def test_sequences_are_named_by_line(tmp_path: Path) -> None:
    dataset = ingest_text(tmp_path, "a.txt", "b a\n\nc b a\n", format="sequences")
    assert lists(dataset) == {1: ["b", "a"], 3: ["c", "b", "a"]}


def test_list_columns(tmp_path: Path) -> None:
    path = parquet(tmp_path, "a.parquet", {"user_id": ["u", "v", "w"], "items": [["a", "b"], [], ["b"]]})
    assert lists(ingest(path, tmp_path / "out", ALL_TRAIN)) == {"u": ["a", "b"], "v": [], "w": ["b"]}


def test_parquet_dates_become_microseconds(tmp_path: Path) -> None:
    moments = [datetime(2020, 1, 2, 3, 4, 5, 6), datetime(1970, 1, 1)]
    path = parquet(tmp_path, "a.parquet", {"user": [1, 1], "item": [1, 2], "time": moments})
    dataset = ingest(path, tmp_path / "out", IngestOptions(test_fraction=0, valid_fraction=0))
    assert np.load(dataset.path / "train" / "times.npy").tolist() == [0, 1577934245000006]


def test_times_beyond_2_to_53_are_exact(tmp_path: Path) -> None:
    dataset = ingest_text(tmp_path, "a.csv", f"user,item,time\n1,2,{2**60 + 1}\n1,3,{2**60}\n")
    assert np.load(dataset.path / "train" / "times.npy").tolist() == [2**60, 2**60 + 1]


def test_a_directory_of_part_files_is_one_table(tmp_path: Path) -> None:
    for number, row in enumerate(ROWS):
        folder = tmp_path / "raw" / f"day={number // 2}"
        folder.mkdir(parents=True, exist_ok=True)
        # columns in another order in every second file
        names = ["user_id", "item_id"] if number % 2 else ["item_id", "user_id"]
        values = dict(zip(["user_id", "item_id"], row, strict=True))
        pl.DataFrame({name: [values[name]] for name in names}).write_parquet(folder / f"part-{number}.parquet")
    write(tmp_path / "raw" / "_SUCCESS", "")
    assert lists(ingest(tmp_path / "raw", tmp_path / "out", ALL_TRAIN)) == WANTED


def test_given_split_in_folders_and_recbole_names(tmp_path: Path) -> None:
    (tmp_path / "p" / "train").mkdir(parents=True)
    pl.DataFrame({"user": [1], "item": [1]}).write_parquet(tmp_path / "p" / "train" / "0.parquet")
    pl.DataFrame({"user": [2], "item": [1]}).write_parquet(tmp_path / "p" / "train" / "1.parquet")
    (tmp_path / "p" / "test").mkdir()
    pl.DataFrame({"user": [1], "item": [2]}).write_parquet(tmp_path / "p" / "test" / "0.parquet")
    dataset = ingest(tmp_path / "p", tmp_path / "out")
    assert (pairs(dataset), pairs(dataset, "test")) == ([(1, 1), (2, 1)], [(1, 2)])
    for part, row in {"train": "a\tx", "valid": "a\ty", "test": "a\tz"}.items():
        write(tmp_path / "r" / f"ml.{part}.inter", f"user_id:token\titem_id:token\n{row}\n")
    recbole = ingest(tmp_path / "r", tmp_path / "out2")
    assert [pairs(recbole, part) for part in ("train", "valid", "test")] == [[("a", "x")], [("a", "y")], [("a", "z")]]


def test_text_and_typed_ids_of_two_parts_must_agree(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    parquet(tmp_path / "p", "train.parquet", {"user": [1], "item": [1]})
    parquet(tmp_path / "p", "test.parquet", {"user": ["1"], "item": [2]})
    with pytest.raises(DataError, match="query ids are strings in one file and integers in another"):
        ingest(tmp_path / "p", tmp_path / "out")
