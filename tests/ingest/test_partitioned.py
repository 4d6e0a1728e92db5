"""Directories of Parquet files as Spark and Ray write them: keys in folder names, marks, empty files, other types."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from reference.datasets import lists, pairs, write

from xclass.errors import DataError
from xclass.ingest.formats.parquet import Parquet
from xclass.ingest.ingest import ingest
from xclass.ingest.options import IngestOptions
from xclass.ingest.reading.hive import FolderKeys
from xclass.ingest.sources import find_parts

ALL_TRAIN = {"test_fraction": 0, "valid_fraction": 0}


def part(root: Path, folder: str, columns: dict[str, Any], name: str = "part-00000.snappy.parquet") -> None:
    (root / folder).mkdir(parents=True, exist_ok=True)
    pl.DataFrame(columns).write_parquet(root / folder / name, compression="snappy")


def all_train(root: Path, **options: Any) -> Any:
    return ingest(root, root.parent / "out", IngestOptions(**{**ALL_TRAIN, **options}))


def test_keys_of_folders_are_columns(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    part(raw, "user_id=7/day=2024-05-01", {"item_id": ["x", "y"]})
    part(raw, "user_id=7/day=2024-05-02", {"item_id": ["z"]})
    part(raw, "user_id=12/day=2024-05-01", {"item_id": ["x"]})
    dataset = all_train(raw, time_col="day", split="time")
    assert lists(dataset) == {7: ["x", "y", "z"], 12: ["x"]}
    day = int(datetime(2024, 5, 1, tzinfo=UTC).timestamp() * 1e6)
    assert dataset.manifest["report"]["splits"]["train"]["first_time"] == day
    assert dataset.manifest["id_types"] == {"query": "int64", "item": "string"}


def test_keys_keep_leading_zeros_and_escaped_characters(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    part(raw, "user=007", {"item": [1]})
    part(raw, "user=8", {"item": [1]})
    part(raw, "user=a%3Ab%20c", {"item": [2]})
    assert lists(all_train(raw)) == {"007": [1], "8": [1], "a:b c": [2]}


def test_a_key_goes_before_a_column_inside(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    part(raw, "item=5", {"user": [1, 2], "item": [9, 9]})
    assert pairs(all_train(raw)) == [(1, 5), (2, 5)]


def test_a_key_that_is_not_used_is_left_alone(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    part(raw, "country=DE", {"user": [1], "item": [2]})
    part(raw, "", {"user": [2], "item": [2]}, "loose.parquet")
    assert pairs(all_train(raw)) == [(1, 2), (2, 2)]


@pytest.mark.parametrize("role", ["user", "item", "rating", "ts"])
def test_a_null_key_is_refused_where_it_is_needed(tmp_path: Path, role: str) -> None:
    raw = tmp_path / "raw"
    others = {name: [1] for name in ("user", "item", "rating", "ts") if name != role}
    part(raw, f"{role}=1", others)
    part(raw, f"{role}=__HIVE_DEFAULT_PARTITION__", others)
    with pytest.raises(DataError) as raised:
        all_train(raw)
    assert "DEFAULT_PARTITION" in str(raised.value.where)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [("20240501", 20240501), ("1970-01-02", 86_400_000_000), ("1970-01-01 00:00:02", 2_000_000),
     ("1970-01-01T01:00:00+01:00", 0)],
)  # fmt: skip
def test_times_of_folders(tmp_path: Path, value: str, wanted: int) -> None:
    raw = tmp_path / "raw"
    part(raw, f"time={value.replace(':', '%3A')}", {"user": [1], "item": [2]})
    facts = all_train(raw, split="time").manifest["report"]["splits"]["train"]
    assert facts["first_time"] == wanted


def test_marks_and_empty_files_are_passed_over(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    part(raw, "d=1", {"user": [1], "item": [2]})
    part(raw, "d=1", {"user": [9], "item": [9]}, ".part-00001.parquet.crc")
    part(raw, "_temporary/0", {"user": [9], "item": [9]})
    part(raw, "_d=2", {"user": [3], "item": [4]})
    write(raw / "_SUCCESS", "")
    write(raw / "_committed_1234", "{}")
    # an empty part, as Ray writes it, knows no types
    empty = pl.DataFrame({"user": pl.Series([], dtype=pl.Null), "item": pl.Series([], dtype=pl.Null)})
    empty.write_parquet(raw / "d=1" / "part-00002.parquet")
    dataset = all_train(raw)
    assert pairs(dataset) == [(1, 2), (3, 4)]
    assert dataset.manifest["id_types"] == {"query": "int64", "item": "int64"}


def test_only_empty_files(tmp_path: Path) -> None:
    for name in ("a.parquet", "b.parquet"):
        part(tmp_path / "raw", "", {"user": pl.Series([], dtype=pl.Int64), "item": []}, name)
    with pytest.raises(DataError, match="there are no pairs"):
        all_train(tmp_path / "raw")


def test_schemas_that_go_together(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    moment = datetime(1970, 1, 1, 0, 0, 1)
    part(
        raw,
        "a",
        {"user": pl.Series([1], dtype=pl.Int32), "item": ["x"], "ts": pl.Series([moment], dtype=pl.Datetime("ns"))},
    )
    part(raw, "b", {"more": [0.5], "ts": pl.Series([moment], dtype=pl.Datetime("ms")), "user": [1 << 40],
                    "item": pl.Series(["y"], dtype=pl.Categorical)})  # fmt: skip
    part(
        raw, "c", {"user": pl.Series([3], dtype=pl.UInt8), "item": ["x"], "ts": pl.Series([1_000_000], dtype=pl.Int64)}
    )
    dataset = all_train(raw, split="time")
    assert lists(dataset) == {1: ["x"], 3: ["x"], 1 << 40: ["y"]}
    part_facts = dataset.manifest["report"]["splits"]["train"]
    assert part_facts["first_time"] == part_facts["last_time"] == 1_000_000


def test_schemas_that_do_not_go_together(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    part(raw, "a", {"user": [1], "item": ["x"]})
    part(raw, "b", {"user": ["1"], "item": ["x"]})
    with pytest.raises(DataError, match="strings in one file and integers in another"):
        all_train(raw)


def test_a_split_that_spark_wrote(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for name, item in (("train", 1), ("validation", 2), ("test", 3)):
        part(raw, f"split={name}/day=1", {"user": [1], "item": [item]})
    dataset = ingest(raw, tmp_path / "out")
    assert [pairs(dataset, name) for name in dataset.splits] == [[(1, 1)], [(1, 2)], [(1, 3)]]
    assert dataset.manifest["split"] == "given"


def test_many_files(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for number in range(100):
        part(raw, f"day={number % 7}", {"user": [number % 10], "item": [number]}, f"part-{number:05d}.parquet")
    assert len(find_parts(raw)["all"]) == 100
    assert sorted(pairs(all_train(raw))) == sorted((number % 10, number) for number in range(100))


def test_a_single_file_in_a_keyed_folder_has_no_keys(tmp_path: Path) -> None:
    part(tmp_path, "user=1", {"item": [2]}, "f.parquet")
    file = tmp_path / "user=1" / "f.parquet"
    assert FolderKeys.of(file, [file]).integers == {}
    with pytest.raises(DataError, match="no column looks like the query ids"):
        Parquet().columns(file, IngestOptions())
