"""More files for a dataset that is there: everything old stays, what is new joins by the recorded recipe."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from reference.datasets import ingest_text, lists, pairs, write
from reference.slow_ingest import slow_item_order, slow_merge

from xclass.cli import main
from xclass.data.dataset import Dataset, open_dataset
from xclass.errors import ArtefactError, ConfigError, DataError
from xclass.ingest import append as append_module
from xclass.ingest import pairs as pairs_module
from xclass.ingest.append import append
from xclass.ingest.ingest import ingest
from xclass.ingest.options import IngestOptions
from xclass.ingest.pairs import TEST, TRAIN, VALID, Pairs
from xclass.ingest.report import render_report
from xclass.ingest.splits import FREE, random_split
from xclass.ingest.writing import arrays as writing_module
from xclass.io import files as files_module
from xclass.io import manifest as manifest_module
from xclass.runtime.rng import numpy_generator

Row = tuple[str, str, float, int]


def random_rows(count: int, seed: int, first_time: int = 0) -> list[Row]:
    """The later part of a stream has people and things that the earlier has not."""
    draw = numpy_generator(seed, "rows")
    late = np.arange(first_time, first_time + count) // 150
    queries = draw.integers(0, 20 + 6 * late)
    items = (draw.random(count) ** 2 * (15 + 5 * late)).astype(int)
    return [
        (f"u{q}", f"i{i}", float(w), int(t))
        for q, i, w, t in zip(
            queries, items, draw.integers(1, 5, count), first_time + draw.permutation(count), strict=True
        )
    ]


def as_csv(rows: list[Row]) -> str:
    return "user,item,rating,timestamp\n" + "".join(f"{q},{i},{w},{t}\n" for q, i, w, t in rows)


def everything(dataset: Dataset) -> dict[tuple[Any, Any], tuple[str, float, int]]:
    """(query, item) → (part, weight, time)."""
    found = {}
    for split in dataset.splits:
        ragged, place = dataset.split(split), 0
        times = np.load(dataset.path / split / "times.npy")
        assert ragged.weights is not None
        for query, row in lists(dataset, split).items():
            for item in row:
                found[query, item] = (split, float(ragged.weights[place]), int(times[place]))
                place += 1
    return found


OLD, NEW = random_rows(300, 1), random_rows(200, 2, 300)


@pytest.mark.parametrize("split", ["time", "leave-last"])
def test_a_split_that_is_cut_anew_equals_one_ingest_of_everything(tmp_path: Path, split: str) -> None:
    shares = {"split": split, "valid_fraction": 0.1} | ({"test_fraction": 0.25} if split == "time" else {})
    old = ingest_text(tmp_path / "old", "a.csv", as_csv(OLD), **shares)
    grown = append(write(tmp_path / "b.csv", as_csv(NEW)), old.path)
    whole = ingest_text(tmp_path / "whole", "ab.csv", as_csv(OLD + NEW), **shares)
    assert grown.fingerprint == whole.fingerprint
    moved = grown.manifest["report"]["appended"]["moved"]
    assert moved["test to train"] > 0 and "train to test" not in moved if split == "time" else moved


def test_leave_last_without_times_goes_by_the_order_of_the_files(tmp_path: Path) -> None:
    shares = {"split": "leave-last", "valid_fraction": 0.1}
    old = ingest_text(tmp_path / "old", "a.csv", "user,item\na,3\na,1\na,2\nb,9\nb,1\n", **shares)
    grown = append(write(tmp_path / "b.csv", "user,item\na,7\nc,3\nb,9\n"), old.path)
    assert (lists(grown)["a"], lists(grown, "valid")["a"], lists(grown, "test")["a"]) == ([3, 1], [2], [7])
    assert lists(grown, "test")["b"] == [1], "a pair that was there stays where it was"


@pytest.mark.parametrize("block", [1 << 18, 5])
def test_random_old_pairs_keep_their_part_and_new_ones_fill_the_shares(
    tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs_module, "PAIRS_PER_BLOCK", block)
    old = ingest_text(tmp_path, "a.csv", as_csv(OLD), split="random", test_fraction=0.3, valid_fraction=0.1)
    before = everything(old)
    grown = append(write(tmp_path / "b.csv", as_csv(NEW)), old.path)
    after, merged = everything(grown), slow_merge(OLD + NEW)
    assert {pair: values[1:] for pair, values in after.items()} == merged
    assert {pair: after[pair][0] for pair in before} == {pair: before[pair][0] for pair in before}
    appended = grown.manifest["report"]["appended"]
    new = Counter(after[pair][0] for pair in after if pair not in before)
    assert appended["pairs"] == {part: new[part] for part in ("train", "valid", "test")}
    assert appended["merged"] == len(slow_merge(NEW)) - sum(new.values()) and not appended["moved"]
    assert appended["queries"] == grown.num_queries - old.num_queries > 0
    assert appended["items"] == grown.num_items - old.num_items > 0
    by_query = Counter((query, values[0]) for (query, _), values in after.items())
    for query in {query for query, _ in after}:
        total = sum(by_query[query, part] for part in ("train", "valid", "test"))
        room = sum(pair[0] == query for pair in after.keys() - before.keys())
        wanted = max(int(total * 0.3 + 0.5), by_query[query, "test"] if room == 0 else 0)
        assert by_query[query, "train"] >= 1
        assert by_query[query, "test"] <= wanted
        assert by_query[query, "test"] == wanted or by_query[query, "test"] >= room


def test_items_are_numbered_by_falling_train_count_then_id(tmp_path: Path) -> None:
    old = ingest_text(tmp_path, "a.csv", as_csv(OLD), split="random", test_fraction=0.3)
    grown = append(write(tmp_path / "b.csv", as_csv(NEW)), old.path)
    union = [pair for split in grown.splits for pair in pairs(grown, split)]
    assert grown.items["item_id"].to_list() == slow_item_order(pairs(grown), union)
    assert grown.queries["query_id"].to_list() == sorted({query for query, _ in union})
    counts = np.bincount(grown.split("train").values.numpy(), minlength=grown.num_items)
    assert grown.item_counts.tolist() == counts.tolist() and (np.diff(counts) <= 0).all()
    grown.verify()


def test_split_labels_that_are_fixed_stay_and_none_are_the_plain_split() -> None:
    draw = numpy_generator(0, "labels")
    query = np.sort(draw.integers(0, 40, 400))
    split = Pairs(query, draw.integers(0, 1 << 30, 400))
    free = np.full(400, FREE, dtype=np.int8)
    assert random_split(split, 0.3, 0.1, 5, free).tolist() == random_split(split, 0.3, 0.1, 5).tolist()
    fixed = draw.choice([FREE, TRAIN, VALID, TEST], 400).astype(np.int8)
    labels = random_split(split, 0.3, 0.1, 5, fixed)
    assert (labels[fixed != FREE] == fixed[fixed != FREE]).all() and (labels != FREE).all()
    for q in range(40):
        mine = query == q
        assert (labels[mine] == TRAIN).any() or not (fixed[mine] == FREE).any()


def test_appends_of_one_pair_a_day_keep_the_test_share(tmp_path: Path) -> None:
    """Divided alone, a query's single new pair would go to train every time."""
    dataset = ingest_text(tmp_path, "a.csv", "user,item\n1,100\n1,101\n", split="random", test_fraction=0.5)
    for day in range(8):
        dataset = append(write(tmp_path / "day.csv", f"user,item\n1,{day}\n"), dataset.path)
    assert {split: len(pairs(dataset, split)) for split in ("train", "test")} == {"train": 5, "test": 5}
    assert len(dataset.manifest["history"]) == 9


def given(folder: Path, train: str, test: str, **options: Any) -> Dataset:
    write(folder / "raw" / "train.txt", train)
    write(folder / "raw" / "test.txt", test)
    return ingest(folder / "raw", folder / "dataset", IngestOptions(format="adjacency", **options))


def test_given_parts_stay_and_a_plain_file_goes_to_train(tmp_path: Path) -> None:
    old = given(tmp_path, "1 5 6\n2 5\n", "1 7\n2 8\n")
    grown = append(write(tmp_path / "b.txt", "1 7 9\n3 5 11\n"), old.path)
    assert pairs(grown) == [(1, 5), (1, 6), (1, 9), (2, 5), (3, 5), (3, 11)]
    assert pairs(grown, "test") == [(1, 7), (2, 8)], "(1, 7) was in test and does not join train"
    shared = append(
        write(tmp_path / "c.csv", "".join(f"9 {n}\n" for n in range(10))),
        grown.path,
        IngestOptions(test_fraction=0.3, format="csv"),
        tmp_path / "elsewhere",
    )
    assert len([pair for pair in pairs(shared, "test") if pair[0] == 9]) == 3


def test_a_recorded_valid_share_of_a_given_split_holds(tmp_path: Path) -> None:
    old = given(tmp_path, "1 1 2 3 4\n2 1 2\n", "1 8 9\n", valid_fraction=0.25)
    assert len(pairs(old, "valid")) == 2
    grown = append(write(tmp_path / "b.txt", "1 11 12 13 14\n"), old.path)
    assert pairs(grown, "test") == [(1, 8), (1, 9)]
    assert len([pair for pair in pairs(grown, "valid") if pair[0] == 1]) == 2, "8 · 0.25, the test pairs left out"


def test_parts_of_the_source_are_taken_as_given(tmp_path: Path) -> None:
    old = ingest_text(tmp_path, "a.csv", "user,item\n1,5\n1,6\n2,5\n", split="random", test_fraction=0)
    write(tmp_path / "raw" / "train.csv", "user,item\n3,5\n3,6\n")
    write(tmp_path / "raw" / "test.csv", "user,item\n3,7\n1,8\n1,5\n")
    grown = append(tmp_path / "raw", old.path)
    assert pairs(grown) == [(1, 5), (1, 6), (2, 5), (3, 5), (3, 6)]
    assert pairs(grown, "test") == [(1, 8), (3, 7)]
    timed = ingest_text(tmp_path / "2", "a.csv", as_csv(OLD))
    with pytest.raises(ConfigError, match="cut anew"):
        append(tmp_path / "raw", timed.path)


def test_min_counts_drop_new_ones_only_and_look_at_everything(tmp_path: Path) -> None:
    content = "user,item\na,x\na,y\nb,x\nb,y\n"
    old = ingest_text(tmp_path, "a.csv", content, min_query_count=2, min_item_count=2)
    grown = append(write(tmp_path / "b.csv", "user,item\na,z\nb,z\nc,x\nd,x\nd,w\n"), old.path)
    # z has two; w has one and goes, then d has one and goes, as c does. Counts of old and new together.
    assert pairs(grown) == [("a", "x"), ("a", "y"), ("a", "z"), ("b", "x"), ("b", "y"), ("b", "z")]
    before = pairs(grown)
    again = append(write(tmp_path / "c.csv", "user,item\ne,q\n"), old.path, IngestOptions(min_item_count=50))
    assert pairs(again) == before, "old items stay below any minimum"
    assert again.manifest["options"]["min_item_count"] == 50


def test_ids_keep_their_type(tmp_path: Path) -> None:
    strings = ingest_text(tmp_path / "s", "a.csv", "user,item\n007,x\n10,y\n")
    grown = append(write(tmp_path / "b.csv", "user,item\n9,1\n10,y\n"), strings.path)
    assert grown.queries["query_id"].to_list() == ["007", "10", "9"]
    assert set(grown.items["item_id"]) == {"1", "x", "y"}
    integers = ingest_text(tmp_path / "i", "a.csv", "user,item\n7,1\n10,2\n")
    with pytest.raises(DataError, match=r"(?s)item ids are of another type.*wanted: int64.*got: string: 02"):
        append(write(tmp_path / "c.csv", "user,item\n7,02\n8,3\n"), integers.path)
    pl.DataFrame({"user": [3, 4], "item": ["x", "z"]}).write_parquet(tmp_path / "d.parquet")
    with pytest.raises(DataError, match=r"(?s)query ids are of another type.*wanted: string.*got: int64: 3, 4"):
        append(tmp_path / "d.parquet", strings.path)


def test_recorded_options_and_columns_hold(tmp_path: Path) -> None:
    old = ingest_text(
        tmp_path, "a.csv", "who;what;rating\n1;2;5\n", query_col="who", item_col="what", weight_col="", separator=";"
    )
    grown = append(write(tmp_path / "b.csv", "who;what;rating\n1;3;4\n"), old.path)
    assert pairs(grown) == [(1, 2), (1, 3)] and grown.split("train").weights is None
    other = write(tmp_path / "c.csv", "u,i\n5,6\n")
    read = IngestOptions(query_col="u", item_col="i", separator=",")
    more = append(other, grown.path, read)
    assert more.manifest["options"] == old.manifest["options"], "how one file was read is not what the dataset is"
    assert more.manifest["history"][-1]["options"] == {"query_col": "u", "item_col": "i", "separator": ","}
    assert [entry["source"] for entry in more.manifest["history"]] == [
        str(tmp_path / name) for name in ("a.csv", "b.csv", "c.csv")
    ]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("user,item\n1,2\n", {}, "--time-col|has times and this source has none|--weight-col"),
        ("user,item,rating\n1,2,3\n", {"time_col": ""}, "has times and this source has none"),
        ("user,item,rating,timestamp\n1,2,3,x\n", {}, "timestamp|time"),
        (as_csv(NEW), {"split": "random"}, "a dataset keeps its split"),
    ],
)
def test_what_does_not_fit_is_one_error_and_changes_nothing(
    tmp_path: Path, content: str, options: dict[str, Any], message: str
) -> None:
    old = ingest_text(tmp_path, "a.csv", as_csv(OLD))
    with pytest.raises((DataError, ConfigError), match=message):
        append(write(tmp_path / "b.csv", content), old.path, IngestOptions(**options))
    assert open_dataset(old.path).fingerprint == old.fingerprint
    assert not list(tmp_path.glob(".*"))


def test_a_source_with_a_weight_that_the_dataset_has_not(tmp_path: Path) -> None:
    old = ingest_text(tmp_path, "a.csv", "user,item\n1,2\n")
    source = write(tmp_path / "b.csv", "user,item,rating\n1,3,2\n")
    assert append(source, old.path, out=tmp_path / "left-out").split("train").weights is None
    with pytest.raises(DataError, match="the dataset has no weights"):
        append(source, old.path, IngestOptions(weight_col="rating"))


def test_planted_data_grows_from_files_and_never_from_a_plan(tmp_path: Path) -> None:
    old = ingest("planted:items=30,queries=20,pairs=150,topics=3", tmp_path / "dataset")
    undrawn = (old.item_counts == 0).sum()
    with pytest.raises(ConfigError, match="planted data can't be appended"):
        append("planted:items=30,queries=20,pairs=150", old.path)
    source = write(tmp_path / "b.csv", f"query,item\n{old.queries['query_id'][0]},a-new-one\nsomeone,a-new-one\n")
    grown = append(source, old.path)
    assert grown.num_items == 31 and grown.num_queries == 21, "items without a pair stay, too"
    assert (grown.item_counts == 0).sum() >= undrawn - 1
    assert "planted" not in grown.manifest and grown.items.columns == ["item_id", "train_count"]


def test_further_columns_of_items_stay(tmp_path: Path) -> None:
    old = ingest_text(tmp_path, "a.csv", "user,item\n1,2\n1,3\n2,3\n")
    old.items.with_columns(title=pl.format("item {}", "item_id")).write_parquet(old.path / "items.parquet")
    manifest = {key: value for key, value in old.manifest.items() if key not in ("kind", "format_version", "files")}
    manifest_module.write_manifest(old.path, "dataset.json", "dataset", 1, manifest)
    grown = append(write(tmp_path / "b.csv", "user,item\n1,4\n2,4\n3,4\n"), old.path)
    assert grown.items.rows() == [(4, 3, None), (3, 2, "item 3"), (2, 1, "item 2")]


def test_readers_keep_what_they_mapped_and_are_told_of_the_change(tmp_path: Path) -> None:
    old = ingest_text(tmp_path, "a.csv", as_csv(OLD), split="random", test_fraction=0.3)
    mapped, before = old.split("train"), old.split("train").to_lists()
    append(write(tmp_path / "b.csv", as_csv(NEW)), old.path)
    assert mapped.to_lists() == before
    with pytest.raises(ArtefactError, match="replaced while it was open"):
        _ = old.items
    with pytest.raises(ArtefactError, match="replaced while it was open"):
        old.split("test")


@pytest.mark.parametrize("when", ["write_pairs", "write_dataset_manifest", "swap"])
@pytest.mark.parametrize("exchange", [True, False])
def test_a_failure_leaves_the_old_dataset(
    tmp_path: Path, when: str, exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = ingest_text(tmp_path, "a.csv", as_csv(OLD))
    source = write(tmp_path / "b.csv", as_csv(NEW))
    with monkeypatch.context() as patch:
        patch.setattr(files_module, "_exchange", files_module._exchange if exchange else lambda *_: False)
        module, name = (files_module, "_swap_in") if when == "swap" else (writing_module, when)
        patch.setattr(module, name, _fail)
        with pytest.raises((RuntimeError, ArtefactError)):
            append(source, old.path)
        assert open_dataset(old.path).fingerprint == old.fingerprint
        open_dataset(old.path).verify()
        assert not list(tmp_path.glob(".*"))
        patch.undo()
        patch.setattr(files_module, "_exchange", files_module._exchange if exchange else lambda *_: False)
        grown = append(source, old.path)
    grown.verify()
    assert not list(tmp_path.glob(".*"))


def _fail(*_: Any, **__: Any) -> None:
    raise RuntimeError("pulled the plug")


def test_one_append_at_a_time_and_what_a_killed_one_left_is_removed(tmp_path: Path) -> None:
    old = ingest_text(tmp_path, "a.csv", as_csv(OLD))
    source = write(tmp_path / "b.csv", as_csv(NEW))
    for name in (".dataset.a1b2c3_d.tmp", ".dataset.other.a1b2c3_d.tmp"):
        shutil.copytree(old.path, tmp_path / name)
    with append_module._alone(old.path), pytest.raises(ArtefactError, match="another process is appending"):
        append(source, old.path)
    assert [path.name for path in tmp_path.glob(".*")] == [".dataset.other.a1b2c3_d.tmp"]
    append(source, old.path)


def test_a_damaged_dataset_is_not_built_upon(tmp_path: Path) -> None:
    old = ingest_text(tmp_path, "a.csv", as_csv(OLD))
    values = old.path / "train" / "values.npy"
    data = bytearray(values.read_bytes())
    data[-1] ^= 1
    values.write_bytes(data)
    with pytest.raises(ArtefactError, match="hash"):
        append(write(tmp_path / "b.csv", as_csv(NEW)), old.path)


def test_a_link_to_a_dataset_stays_a_link(tmp_path: Path) -> None:
    old = ingest_text(tmp_path, "a.csv", as_csv(OLD))
    os.symlink(old.path, tmp_path / "link")
    append(write(tmp_path / "b.csv", as_csv(NEW)), tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and len(open_dataset(old.path).manifest["history"]) == 2


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = ingest_text(tmp_path, "a.csv", as_csv(OLD), split="random", test_fraction=0.3)
    source = write(tmp_path / "b.csv", as_csv(NEW))
    other = tmp_path / "larger"
    assert main(["ingest", str(source), "--append", "--base", str(old.path), "--out", str(other)]) == 0
    assert open_dataset(old.path).fingerprint == old.fingerprint
    report = open_dataset(other).manifest["report"]
    appended = report["appended"]
    out = capsys.readouterr().out
    assert out.startswith(render_report(report))
    assert f"{appended['queries']:,} new queries, {appended['items']:,} new items" in out
    assert f"merged     {appended['merged']:,} pairs that the dataset had" in out
    assert main(["ingest", str(source), "--append", "--out", str(old.path), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["report"]["appended"] == appended and len(answer["history"]) == 2
    assert open_dataset(old.path).fingerprint == open_dataset(other).fingerprint
    for arguments, message in [
        (["--append", "--out", str(tmp_path / "nothing")], "there is no dataset to append to"),
        (["--append", "--base", str(old.path), "--out", str(other)], "exists already"),
        (["--append", "--out", str(tmp_path)], "not a dataset"),
    ]:
        assert main(["ingest", str(source), *arguments]) == 1
        assert message in capsys.readouterr().err
    assert main(["ingest", str(source), "--base", str(old.path), "--out", str(tmp_path / "x")]) == 2
