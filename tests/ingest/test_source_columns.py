"""What ingest says of a source: columns used and not, the split and its reason; what is refused instead of ignored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from reference.datasets import ingest_text, write

from xclass.cli import main
from xclass.data.dataset import Dataset
from xclass.errors import ConfigError, DataError
from xclass.ingest.append import append
from xclass.ingest.ingest import ingest
from xclass.ingest.option_use import READS
from xclass.ingest.options import IngestOptions
from xclass.ingest.report import render_report

RATINGS = "user,item,rating\n1,7,5\n1,8,1\n2,7,4\n2,9,2\n2,9,5\n3,8,3\n"
NOTHING_HELD_OUT = {"split": "random", "test_fraction": 0, "valid_fraction": 0}


def pairs(dataset: Dataset) -> set[tuple[Any, Any, float]]:
    train, queries, items = dataset.split("train"), dataset.queries["query_id"], dataset.items["item_id"]
    weights = [1.0] * len(train.values) if train.weights is None else train.weights.tolist()
    rows = zip(train.rows().tolist(), train.values.tolist(), weights, strict=True)
    return {(queries[row], items[item], weight) for row, item, weight in rows}


@pytest.mark.parametrize("memory", [None, 0])
def test_a_minimum_weight_looks_at_rows_before_they_are_merged(tmp_path: Path, memory: float | None) -> None:
    dataset = ingest_text(tmp_path, "a.csv", RATINGS, min_weight=4, memory=memory, **NOTHING_HELD_OUT)
    assert pairs(dataset) == {(1, 7, 5.0), (2, 7, 4.0), (2, 9, 5.0)}
    assert dataset.num_items == 2 and dataset.num_queries == 2
    assert dataset.manifest["report"]["dropped"]["low_weights"] == 3
    assert "dropped    3 pairs below the minimum weight" in render_report(dataset.manifest["report"])
    more = append(write(tmp_path / "b.csv", "user,item,rating\n4,9,4\n4,7,3\n"), dataset.path)
    assert pairs(more) == {(1, 7, 5.0), (2, 7, 4.0), (2, 9, 5.0), (4, 9, 4.0)}


def test_a_minimum_weight_of_a_given_split_leaves_every_part_its_own(tmp_path: Path) -> None:
    write(tmp_path / "in" / "train.csv", "user,item,rating\n1,7,5\n1,8,1\n2,7,5\n")
    write(tmp_path / "in" / "test.csv", "user,item,rating\n1,9,1\n2,8,5\n2,9,5\n")
    dataset = ingest(tmp_path / "in", tmp_path / "out", IngestOptions(min_weight=2))
    assert pairs(dataset) == {(1, 7, 5.0), (2, 7, 5.0)}
    assert dataset.split("test").lengths().tolist() == [0, 2]


def test_a_minimum_weight_that_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no pair of train has the minimum weight"):
        ingest_text(tmp_path, "a.csv", RATINGS, min_weight=6)
    with pytest.raises(ConfigError, match="a minimum weight needs weights"):
        ingest_text(tmp_path / "2", "a.csv", "user,item\n1,7\n", min_weight=1)


EVENTS = [
    {"event_type": kind, "user": user, "sku": sku, "price": 3, "seen": f"2024-05-0{day}"}
    for day, (user, sku, kind) in enumerate([("a", "x", "view"), ("a", "y", "cart"), ("b", "x", "view")], 1)
]


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_columns_that_were_not_used_are_told(tmp_path: Path, ending: str) -> None:
    frame, path = pl.DataFrame(EVENTS), tmp_path / f"a.{ending}"
    if ending == "jsonl":
        frame.write_ndjson(path)
    elif ending == "parquet":
        frame.write_parquet(path)
    else:
        frame.write_csv(path, separator="\t" if ending == "tsv" else ",")
    report = ingest(path, tmp_path / "out").manifest["report"]
    assert report["columns"] == {"query": "user", "item": "sku"}
    assert report["unused"] == ["event_type", "price", "seen"]
    assert report["look_like_times"] == ["seen"]
    assert report["look_like_events"] == {"event_type": ["cart", "view"]}
    text = render_report(report)
    assert "columns    query user, item sku; not used: event_type, price, seen" in text
    assert "split      random, as there are no times" in text
    assert '"seen" looks like a time and is not used: --time-col "seen"' in text
    assert '"event_type" is not used: cart, view count alike' in text


def test_usual_names_of_times_are_used_and_the_split_is_told(tmp_path: Path) -> None:
    lines = "".join(f"u{day % 3},i{day % 7},2024-05-{day:02}\n" for day in range(1, 21))
    dataset = ingest_text(tmp_path, "a.csv", "user_id,item_id,event_time\n" + lines)
    report = dataset.manifest["report"]
    assert dataset.manifest["split"] == "time" and report["look_like_times"] == []
    assert 'split      time, as the column "event_time" holds times' in render_report(report)


def test_missing_parts_are_told(tmp_path: Path) -> None:
    dataset = ingest_text(tmp_path, "a.csv", RATINGS, **NOTHING_HELD_OUT)
    text = render_report(dataset.manifest["report"])
    assert "no query has a test part" in text and "no query has a valid part" in text


GIVEN = {
    "query_col": "1", "item_col": "2", "weight_col": "3", "time_col": "4", "text_col": ("a",), "item_text": "a.jsonl",
    "text": {"hash_bits": 4}, "min_query_count": 2, "min_item_count": 2, "vocabulary": 9, "context": 3,
    "borders": "cross", "split_number": 2, "header": True, "separator": ";", "min_weight": 2, "memory": 0.5,
    "propensity_a": 0.6, "propensity_b": 2.6, "format": "csv",
}  # fmt: skip
SOURCES = {
    "csv": "planted.csv", "jsonl": "a.jsonl", "adjacency": "a.adj", "planted data": "planted:items=9,queries=9,pairs=30",
    "planted text": "planted-text:items=400,words=90",
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (kind, name)
        for kind in SOURCES
        for name in GIVEN
        if name not in READS[kind] and (kind, name) != ("jsonl", "text_col")
    ],
)
def test_an_option_without_effect_is_refused(tmp_path: Path, kind: str, name: str) -> None:
    (tmp_path / "planted.csv").write_text("user,item\n1,2\n2,3\n")
    (tmp_path / "a.jsonl").write_text('{"user": 1, "item": 2}\n')
    (tmp_path / "a.adj").write_text("1 2 3\n2 3\n")
    source = SOURCES[kind] if ":" in SOURCES[kind] else tmp_path / SOURCES[kind]
    options = IngestOptions.model_validate({name: GIVEN[name], **({"format": kind} if kind == "adjacency" else {})})
    with pytest.raises(ConfigError, match="this option has no effect on this source"):
        ingest(source, tmp_path / "out", options)
    assert not (tmp_path / "out").exists()


def test_every_option_is_read_by_some_source() -> None:
    assert set(IngestOptions.model_fields) == set.union(*READS.values())


@pytest.mark.parametrize("split", ["leave-last", "given"])
def test_shares_without_effect_are_refused(tmp_path: Path, split: str) -> None:
    for part in ("train", "test"):
        write(tmp_path / "in" / f"{part}.csv", f"user,item\n1,{len(part)}\n2,7{len(part)}\n")
    source = tmp_path / "in" if split == "given" else tmp_path / "in" / "train.csv"
    with pytest.raises(ConfigError, match="--test-fraction: this option has no effect with this split"):
        ingest(source, tmp_path / "out", IngestOptions(split=split, test_fraction=0.3))  # type: ignore[arg-type]


@pytest.mark.parametrize("at", [2, 4, 5])
def test_a_header_that_comes_again_is_named(tmp_path: Path, at: int) -> None:
    lines = ["user,item", "1,2", "2,3", "3,4"]
    lines.insert(at - 1, lines[0])
    with pytest.raises(DataError, match=rf"a.csv, line {at}: the header comes again"):
        ingest_text(tmp_path, "a.csv", "\n".join(lines) + "\n")


def test_sums_beyond_float32_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)summed weight.*query 1, item 7"):
        ingest_text(tmp_path, "a.csv", "user,item,rating\n0,7,1\n1,7,3e38\n1,7,3e38\n")
    old = ingest_text(tmp_path / "2", "a.csv", "user,item,rating\n1,7,3e38\n2,7,1\n", **NOTHING_HELD_OUT)
    with pytest.raises(DataError, match=r"(?s)summed weight.*query 1, item 7"):
        append(write(tmp_path / "b.csv", "user,item,rating\n1,7,3e38\n"), old.path)


def test_train_weights_of_zero_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="every weight of train is 0"):
        ingest_text(tmp_path, "a.csv", "user,item,rating\n1,7,0\n2,8,0\n")
    write(tmp_path / "in" / "train.csv", "user,item,rating\n1,7,0\n2,7,0\n")
    write(tmp_path / "in" / "test.csv", "user,item,rating\n1,8,5\n")
    with pytest.raises(DataError, match="every weight of train is 0"):
        ingest(tmp_path / "in", tmp_path / "out")


def test_times_in_two_units_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)different units.*seconds.*milliseconds"):
        ingest_text(tmp_path, "a.csv", "user,item,time\n1,7,1700000000\n1,8,1700000001000\n2,7,1700000002\n")
    old = ingest_text(tmp_path / "2", "a.csv", "user,item,time\n1,7,1700000000\n1,8,1700000001\n", split="leave-last")
    with pytest.raises(DataError, match="different units"):
        append(write(tmp_path / "b.csv", "user,item,time\n1,9,1700000001000\n"), old.path)


def test_times_of_zero_are_told(tmp_path: Path) -> None:
    dataset = ingest_text(
        tmp_path, "a.csv", "user,item,time\n1,7,0\n1,8,1700000001\n2,7,1700000002\n", split="leave-last"
    )
    assert "1 times are 0 or before 1970" in render_report(dataset.manifest["report"])


def test_words_that_people_use_for_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.csv", "a,b,c,d\n1,7,5,1700000000\n2,8,3,1700000001\n")
    given = ["--user-col", "a", "--item-col", "b", "--rating-col", "c", "--timestamp-col", "d", "--json"]
    assert main(["ingest", str(path), "--out", str(tmp_path / "out"), *given]) == 0
    columns = json.loads(capsys.readouterr().out)["columns"]
    assert columns == {"query": "a", "item": "b", "weight": "c", "time": "d"}


@pytest.mark.parametrize("values", [["Friday", "Monday"], ["05/12/2019", "05/13/2019"]])
def test_a_date_that_is_none_is_told_and_not_used(tmp_path: Path, values: list[str]) -> None:
    rows = "".join(f"{n % 3},{n},{values[n % 2]}\n" for n in range(9))
    report = ingest_text(tmp_path, "a.csv", f"user,item,date\n{rows}").manifest["report"]
    assert report["columns"] == {"query": "user", "item": "item"}
    assert report["look_like_times"] == ["date"]
    with pytest.raises(DataError, match="is not a number"):
        ingest_text(tmp_path / "sure", "a.csv", f"user,item,timestamp\n{rows}")


@pytest.mark.parametrize(
    ("column", "values", "told"),
    [
        ("visit_date", ["5/1/24", "6/1/24"], '"visit_date" looks like a time'),
        ("createdAtTime", ["noon", "night"], '"createdAtTime" looks like a time'),
        ("seen", ["1700000000", "1700000001"], '"seen" looks like a time'),
        ("kind", ["view", "purchase"], '"kind" is not used: purchase, view count alike'),
        ("label", ["0", "1"], '"label" is not used: rows with 0 and 1 count alike'),
        ("is_click", ["0", "1"], '--weight-col "is_click" --min-weight 1'),
        ("price", ["3", "4"], None),
        ("label", ["3", "4"], None),
        ("title", ["view of a town", "Hat"], None),
    ],
)
def test_what_a_column_may_be_is_told(tmp_path: Path, column: str, values: list[str], told: str | None) -> None:
    rows = "".join(f"{n % 3},{n},{values[n % 2]}\n" for n in range(9))
    report = ingest_text(tmp_path, "a.csv", f"user,item,{column}\n{rows}").manifest["report"]
    notes = [line for line in render_report(report).splitlines() if line.startswith("note") and column in line]
    assert report["unused"] == [column]
    assert (len(notes) == 1 and told in notes[0]) if told else notes == []


def test_ids_that_may_be_meant_otherwise_are_told(tmp_path: Path) -> None:
    floats = ingest_text(tmp_path / "1", "a.csv", "user,item\nu1,2.0\nu2,3.0\n")
    assert "item ids are written with a fraction: 2.0 is another id than 2" in render_report(floats.manifest["report"])
    both = ingest_text(tmp_path / "2", "a.csv", "user,item\n1,x\n1.0,y\nz,y\n")
    assert "query ids are written with a fraction" in render_report(both.manifest["report"])
    listed = ingest_text(tmp_path / "3", "a.csv", "user,item\n1,7 8 9\n2,7 8\n3,4\n")
    assert '"7 8" is one item' in render_report(listed.manifest["report"])
    plain = ingest_text(tmp_path / "4", "a.csv", "user,item\n1,7 kg\n2,1.5\n2,7.0 kg\n")
    assert plain.manifest["report"]["remarks"] == []


def test_files_that_are_not_read_are_told(tmp_path: Path) -> None:
    write(tmp_path / "box" / "ml.inter", "user_id:token\titem_id:token\n1\t2\n2\t3\n")
    write(tmp_path / "box" / "ml.user", "user_id:token\tage:float\n1\t20\n")
    write(tmp_path / "box" / "ml.item", "item_id:token\ttitle:token_seq\n2\tToy Story\n")
    dataset = ingest(tmp_path / "box", tmp_path / "1")
    assert dataset.manifest["report"]["not_read"] == ["ml.item", "ml.user"]
    assert len(pairs(dataset)) == 2
    assert "not read   ml.item, ml.user" in render_report(dataset.manifest["report"])
    write(tmp_path / "given" / "train.txt", "0 1 2 3\n1 4 5\n")
    write(tmp_path / "given" / "test.txt", "0 4\n1 2\n")
    write(tmp_path / "given" / "item_list.txt", "org_id remap_id\na 1\n")
    report = ingest(tmp_path / "given", tmp_path / "2").manifest["report"]
    assert (report["not_read"], report["formats"]) == (["item_list.txt"], ["adjacency"])
    write(tmp_path / "notes" / "a.csv", "user,item\n1,2\n")
    write(tmp_path / "notes" / "README", "two columns, in this order\n")
    assert ingest(tmp_path / "notes", tmp_path / "3").manifest["report"]["not_read"] == ["README"]


@pytest.mark.parametrize(
    ("name", "told"), [("adjacency", "then its items"), ("sequences", "the first too, is an item")]
)
def test_lines_without_columns_are_explained(tmp_path: Path, name: str, told: str) -> None:
    dataset = ingest_text(tmp_path, "a.txt", "1 2 3\n2 5\n3 7 8 9\n", format=name)
    assert told in render_report(dataset.manifest["report"])


def test_the_weights_of_one_query_are_summed_without_overflow(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)weights of one query.*query 2"):
        ingest_text(tmp_path, "a.csv", "user,item,rating\n1,7,3e38\n2,7,3e38\n2,8,3e38\n")


def test_ids_of_light_pairs_only_are_not_counted_twice(tmp_path: Path) -> None:
    dataset = ingest_text(tmp_path, "a.csv", RATINGS, min_weight=4, min_query_count=2)
    counts = dataset.manifest["report"]["dropped"]
    assert counts == {
        "duplicates": 0,
        "low_weights": 3,
        "min_counts": {"pairs": 1, "queries": 1, "items": 0, "rounds": 1},
    }


def test_columns_of_raw_text_are_told(tmp_path: Path) -> None:
    lines = [{"id": n, "title": "a toy", "labels": [n % 2], "price": 3} for n in range(6)]
    path = write(tmp_path / "a.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    report = ingest(path, tmp_path / "out", IngestOptions(format="text")).manifest["report"]
    assert report["columns"] == {"text": "title", "label": "labels", "id": "id"}
    assert "columns    text title, label labels, id id; not used: price" in render_report(report)
