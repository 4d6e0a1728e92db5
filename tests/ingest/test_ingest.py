"""From rows to a dataset directory: numbers, duplicates, minimum counts, the report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference.datasets import ingest_text, lists, pairs, write
from reference.slow_ingest import slow_item_order, slow_merge, slow_min_counts

from xclass.data.dataset import open_dataset
from xclass.data.npy_stream import ArrayWriter, rewrite_blocks
from xclass.errors import ConfigError
from xclass.ingest import pairs as pairs_module
from xclass.ingest.ingest import ingest
from xclass.ingest.options import IngestOptions
from xclass.ingest.pairs import filter_min_counts
from xclass.ingest.reading.id_encoder import IdEncoder, index_dtype, recode
from xclass.ingest.report import as_date, render_report
from xclass.ingest.writing import arrays
from xclass.runtime.rng import numpy_generator


def random_rows(count: int, seed: int = 0) -> list[tuple[str, str, float, int]]:
    draw = numpy_generator(seed, "rows")
    queries, items = draw.integers(0, 30, count), (20 * draw.random(count) ** 2).astype(int)
    return [
        (f"u{q}", f"i{i}", float(w), int(t))
        for q, i, w, t in zip(queries, items, draw.integers(1, 5, count), draw.permutation(count), strict=True)
    ]


def as_csv(rows: list[tuple[str, str, float, int]]) -> str:
    return "user,item,rating,timestamp\n" + "".join(f"{q},{i},{w},{t}\n" for q, i, w, t in rows)


def test_items_fall_with_train_count_then_id_and_queries_rise(tmp_path: Path) -> None:
    dataset = ingest_text(tmp_path, "a.csv", as_csv(random_rows(300)), split="random", test_fraction=0.4)
    everything = [pair for split in dataset.splits for pair in pairs(dataset, split)]
    assert dataset.items["item_id"].to_list() == slow_item_order(pairs(dataset), everything)
    assert (np.diff(dataset.item_counts.numpy()) <= 0).all()
    assert dataset.queries["query_id"].to_list() == sorted({query for query, _ in everything})
    counts = np.bincount(dataset.split("train").values.numpy(), minlength=dataset.num_items)
    assert dataset.item_counts.tolist() == counts.tolist()


def test_equal_counts_go_by_number_for_int64_ids(tmp_path: Path) -> None:
    dataset = ingest_text(tmp_path, "a.csv", "user,item\n1,10\n1,9\n2,100\n2,10\n")
    assert dataset.items["item_id"].to_list() == [10, 9, 100]


def test_item_only_in_test_comes_last(tmp_path: Path) -> None:
    write(tmp_path / "raw" / "train.txt", "b z y\nc z\n")
    write(tmp_path / "raw" / "test.txt", "b a\nc y a\n")
    dataset = ingest(tmp_path / "raw", tmp_path / "out", IngestOptions(format="adjacency"))
    assert dataset.items.rows() == [("z", 2), ("y", 1), ("a", 0)]
    assert "1 items of test are not in train (2 pairs): a" in render_report(dataset.manifest["report"])


def test_duplicates_are_merged_like_the_slow_version(tmp_path: Path) -> None:
    rows = random_rows(400)
    dataset = ingest_text(tmp_path, "a.csv", as_csv(rows), split="random")
    merged, train = slow_merge(rows), dataset.split("train")
    times = np.load(dataset.path / "train" / "times.npy")
    assert train.weights is not None
    got = {}
    for position, (query, item) in enumerate((q, i) for q, row in lists(dataset).items() for i in row):
        got[query, item] = (float(train.weights[position]), int(times[position]))
    assert got == merged
    assert dataset.manifest["report"]["dropped"]["duplicates"] == len(rows) - len(merged)


def test_blocks_of_any_size_give_the_same_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = as_csv(random_rows(500))
    whole = ingest_text(tmp_path / "1", "a.csv", content, split="random", test_fraction=0.2)
    monkeypatch.setattr(pairs_module, "PAIRS_PER_BLOCK", 7)
    monkeypatch.setattr("xclass.ingest.reading.reader.ROWS_PER_BATCH", 11)
    blocks = ingest_text(tmp_path / "2", "a.csv", content, split="random", test_fraction=0.2)
    assert whole.fingerprint == blocks.fingerprint


PAIRS = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=40, unique=True)


@given(PAIRS, st.integers(0, 4), st.integers(0, 4))
def test_min_counts_against_the_slow_version(rows: list[tuple[int, int]], min_query: int, min_item: int) -> None:
    query, item = np.array(rows).T
    kept = filter_min_counts(query, item, 8, 8, min_query, min_item)
    mask = kept.queries[query] & kept.items[item]
    assert [row for row, there in zip(rows, mask, strict=True) if there] == slow_min_counts(rows, min_query, min_item)
    assert kept.dropped_queries == 8 - kept.queries.sum()


def test_min_counts_take_as_many_rounds_as_a_chain_needs() -> None:
    # the chain q0-i0-q1-i1-q2-i2-q3, eaten from both ends: q0 and q3; then i0, i2 and so q1, q2; then i1
    query, item = np.array([0, 1, 1, 2, 2, 3]), np.array([0, 0, 1, 1, 2, 2])
    kept = filter_min_counts(query, item, 4, 3, 2, 2)
    assert (kept.rounds, kept.queries.any(), kept.items.any()) == (3, False, False)


def test_min_counts_count_distinct_pairs_and_are_reported(tmp_path: Path) -> None:
    content = "user,item\na,x\na,x\na,x\nb,x\nb,y\nb,z\nc,x\nc,y\n"
    dataset = ingest_text(tmp_path, "a.csv", content, min_query_count=2, min_item_count=2)
    assert pairs(dataset) == [("b", "x"), ("b", "y"), ("c", "x"), ("c", "y")]
    dropped = dataset.manifest["report"]["dropped"]
    assert dropped == {
        "duplicates": 2,
        "min_counts": {"pairs": 2, "queries": 1, "items": 1, "rounds": 1},
        "low_weights": 0,
    }
    text = render_report(dataset.manifest["report"])
    assert "2 pairs, 1 queries and 1 items below the minimum counts, in 1 round" in text


def test_min_counts_of_a_given_split_look_at_train_only(tmp_path: Path) -> None:
    write(tmp_path / "raw" / "train.txt", "1 5 6\n2 5 6\n3 7\n")
    write(tmp_path / "raw" / "test.txt", "1 7 8\n2 9\n3 5\n4 6\n")
    kept = ingest(tmp_path / "raw", tmp_path / "1", IngestOptions(format="adjacency", min_query_count=2))
    assert pairs(kept) == [(1, 5), (1, 6), (2, 5), (2, 6)]
    assert pairs(kept, "test") == [(1, 7), (1, 8), (2, 9)], "queries 3 and 4 went, cold items stayed"
    strict = ingest(tmp_path / "raw", tmp_path / "2", IngestOptions(format="adjacency", min_item_count=1))
    assert pairs(strict, "test") == [(1, 7), (3, 5), (4, 6)], "items 8 and 9 are not in train"


def test_a_valid_part_can_be_cut_from_a_given_train(tmp_path: Path) -> None:
    write(tmp_path / "raw" / "train.txt", "1 1 2 3 4\n2 1 2\n")
    write(tmp_path / "raw" / "test.txt", "1 9\n2 3\n")
    options = IngestOptions(format="adjacency", valid_fraction=0.25)
    dataset = ingest(tmp_path / "raw", tmp_path / "out", options)
    assert {split: len(pairs(dataset, split)) for split in dataset.splits} == {"train": 4, "valid": 2, "test": 2}
    assert sorted(pairs(dataset) + pairs(dataset, "valid")) == [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2)]


def test_manifest_and_files(tmp_path: Path) -> None:
    dataset = ingest_text(tmp_path, "a.csv", as_csv(random_rows(200)), split="random", test_fraction=0.3, seed=4)
    again = open_dataset(dataset.path)
    again.verify()
    manifest = again.manifest
    assert manifest["options"]["seed"] == 4
    assert manifest["columns"] == {"query": "user", "item": "item", "weight": "rating", "time": "timestamp"}
    for split in again.splits:
        ragged = again.split(split)
        assert len(ragged) == again.num_queries
        assert ragged.values.numpy().dtype == np.int32
        assert manifest["splits"][split] == {"pairs": len(ragged.values), "queries": int((ragged.lengths() > 0).sum())}
    assert sorted(path.name for path in dataset.path.iterdir()) == [
        "dataset.json", "items.parquet", "queries.parquet", "test", "train",
    ]  # fmt: skip
    assert not list(tmp_path.glob(".*")), "no temporary files"


def test_same_input_same_bytes(tmp_path: Path) -> None:
    content = as_csv(random_rows(200))
    first = ingest_text(tmp_path / "1", "a.csv", content, split="random", test_fraction=0.3, seed=1)
    second = ingest_text(tmp_path / "2", "a.csv", content, split="random", test_fraction=0.3, seed=1)
    other = ingest_text(tmp_path / "3", "a.csv", content, split="random", test_fraction=0.3, seed=2)
    assert first.fingerprint == second.fingerprint != other.fingerprint


def test_report_of_a_time_split_shows_dates(tmp_path: Path) -> None:
    content = "user,item,time\n" + "".join(f"1,{n},{1_600_000_000 + n * 86400}\n" for n in range(4))
    dataset = ingest_text(tmp_path, "a.csv", content, test_fraction=0.25)
    text = render_report(dataset.manifest["report"])
    assert "test       1 pairs of 1 queries, 1 items, 2020-09-16 12:26:40 to 2020-09-16 12:26:40" in text
    assert "cut-off of test: pairs at or after 2020-09-16 12:26:40" in text
    assert as_date(1_600_000_000_000_000_000, "nanoseconds") == as_date(1_600_000_000.0, "seconds")


def test_encoder_codes_over_several_frames() -> None:
    encoder = IdEncoder()
    codes = [
        pl.DataFrame({"id": ids}).select(encoder.expression("id"))["id"].to_numpy() for ids in (["b", "a"], ["c", "b"])
    ]
    ids, places = encoder.finish(3, {"text"}, "here", "item")
    assert ids.to_list() == ["a", "b", "c"]
    assert [recode(part.copy(), places).tolist() for part in codes] == [[1, 0], [2, 1]]
    assert "a" in encoder
    assert "z" not in encoder


def test_numbers_beyond_int32_are_int64() -> None:
    assert index_dtype(2**31 - 1) is np.int32
    assert index_dtype(2**31) is np.int64
    # codes are uint32: positions above 2^31 must not turn negative on the way
    codes = np.array([2**32 - 1, 0], dtype=np.uint32)
    assert recode(codes, _Places()).tolist() == [2**32 - 1, 0]  # type: ignore[arg-type]


class _Places:
    """Stands for a table of 2^32 places without holding it: place = code."""

    dtype = np.dtype(np.int64)

    def __getitem__(self, codes: np.ndarray) -> np.ndarray:
        return codes.astype(np.int64)


def test_array_writer_grows(tmp_path: Path) -> None:
    with ArrayWriter(tmp_path / "a.npy", np.int64) as array:
        for start in range(0, 100, 10):
            array.append(np.arange(start, start + 10))
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.arange(100))
    for block in rewrite_blocks(tmp_path / "a.npy"):
        block += 1
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy", mmap_mode="r"), np.arange(1, 101))
    with ArrayWriter(tmp_path / "empty.npy", np.int32):
        pass
    assert np.load(tmp_path / "empty.npy").shape == (0,)
    assert list(rewrite_blocks(tmp_path / "empty.npy")) == []


def test_bytes_needed_covers_what_is_written(tmp_path: Path) -> None:
    dataset = ingest_text(tmp_path, "a.csv", as_csv(random_rows(5000)), split="random", test_fraction=0.3)
    written = sum(entry["bytes"] for entry in dataset.manifest["files"].values())
    ids = [dataset.items["item_id"], dataset.queries["query_id"]]
    assert written <= arrays.bytes_needed(dataset.manifest["report"]["kept"], dataset.num_queries, ids, True, True)


def test_unknown_option_is_refused() -> None:
    from xclass.config import build_config

    with pytest.raises(ConfigError, match='did you mean "min_item_count"'):
        build_config(IngestOptions, {"min_items_count": 3})
