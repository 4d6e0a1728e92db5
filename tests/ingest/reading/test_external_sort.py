"""Ingest through the disk: the same files, bit for bit, as ingest in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.datasets import write

from xclass.errors import DataError
from xclass.ingest.ingest import ingest
from xclass.ingest.options import IngestOptions
from xclass.ingest.pairs import Pairs, count_codes
from xclass.ingest.reading import external_sort, id_sorted
from xclass.ingest.reading.id_sorted import Parted, SavedIds, SortedRuns, encode
from xclass.ingest.splits import nth_smallest
from xclass.runtime.rng import numpy_generator


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes at which some hundred pairs take every path: many ranges, blocks, runs."""
    monkeypatch.setattr(id_sorted, "IDS_AT_ONCE", 50)
    monkeypatch.setattr(id_sorted, "WAITING_BYTES", 4000)
    monkeypatch.setattr(external_sort, "SAMPLED", 200)
    monkeypatch.setattr(external_sort, "LEAST_MEMORY", 40_000)


def both(source: Path, folder: Path, **options: Any) -> None:
    """Ingested both ways; every file is the same, and nothing is left behind."""
    inside = ingest(source, folder / "inside", IngestOptions(**options, memory=64))
    through = ingest(source, folder / "through", IngestOptions(**options, memory=0))
    assert through.fingerprint == inside.fingerprint
    assert through.manifest == inside.manifest
    assert {path.name for path in folder.iterdir()} <= {"inside", "through", source.name}


def rows(count: int, texts: bool) -> pl.DataFrame:
    draw = numpy_generator(3, "spill")
    frame = pl.DataFrame(
        {
            "user": draw.integers(-40, 60, count),
            "item": (120 * draw.random(count) ** 2).astype(np.int64),
            "rating": draw.integers(0, 5, count) / 2,
            "ts": draw.integers(0, 500, count) + (1 << 55),
        }
    )
    if not texts:
        return frame
    return frame.with_columns(pl.format("u{}", "user").alias("user"), pl.format("ä {}", "item").alias("item"))


@pytest.mark.parametrize("split", ["random", "time", "leave-last"])
@pytest.mark.parametrize("texts", [False, True], ids=["integers", "strings"])
def test_the_same_files_from_a_directory_of_parquet(tmp_path: Path, split: str, texts: bool) -> None:
    (tmp_path / "raw").mkdir()
    for number, part in enumerate(rows(900, texts).iter_slices(100)):
        part.write_parquet(tmp_path / "raw" / f"part-{number}.parquet")
    both(tmp_path / "raw", tmp_path, split=split, min_query_count=4, min_item_count=3)


@pytest.mark.parametrize("odd", [None, "007", "x"])
def test_ids_of_text_are_integers_if_all_are(tmp_path: Path, odd: str | None) -> None:
    frame = rows(400, texts=False).with_columns(pl.col("item").cast(pl.String), ts=pl.col("ts") - 0.25)
    if odd is not None:
        frame[301, "item"] = odd
    frame.write_csv(tmp_path / "raw.csv")
    both(tmp_path / "raw.csv", tmp_path)
    kind = ingest(tmp_path / "raw.csv", tmp_path / "again", IngestOptions(memory=0)).manifest["id_types"]["item"]
    assert kind == ("int64" if odd is None else "string")


def test_a_given_split_with_lists_and_queries_that_stand_alone(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    draw = numpy_generator(1, "lists")
    for name in ("train", "test"):
        lists = [draw.permutation(50)[: draw.integers(0, 6)] * 2 + (name == "test") for _ in range(60)]
        frame = pl.DataFrame({"user": np.arange(60), "items": [part.tolist() for part in lists]})
        frame.write_parquet(tmp_path / "raw" / f"{name}.parquet")
    both(tmp_path / "raw", tmp_path, valid_fraction=0.2)
    manifest = ingest(tmp_path / "raw", tmp_path / "again", IngestOptions(memory=0)).manifest
    assert manifest["report"]["queries_without_pairs"] > 0 and manifest["split"] == "given"


def test_times_of_which_some_have_fractions_in_some_files(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for number, time in enumerate((1, 2.0, 3.5)):
        pl.DataFrame({"user": [1, 2], "item": [number, 7], "ts": [time, time]}).write_parquet(
            tmp_path / "raw" / f"{number}.parquet"
        )
    both(tmp_path / "raw", tmp_path, test_fraction=0.3, valid_fraction=0.3)


def test_pairs_in_two_parts_are_refused_by_their_ids(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    write(tmp_path / "raw" / "train.csv", "user,item\na,x\nb,y\nb,z\n")
    write(tmp_path / "raw" / "test.csv", "user,item\nb,y\n")
    with pytest.raises(DataError, match="1 pairs stand in more than one part") as raised:
        ingest(tmp_path / "raw", tmp_path / "out", IngestOptions(memory=0))
    assert raised.value.got == "(b, y) in test and train"
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


@pytest.mark.parametrize(
    ("columns", "wanted"),
    [
        ({"user": [1, None], "item": [1, 2]}, "without an id"),
        ({"user": ["a", ""], "item": [1, 2]}, "without an id"),
        ({"user": [1, 2], "item": pl.Series([1, (1 << 63) + 5], dtype=pl.UInt64)}, "not all fit 64 bits"),
        ({"user": [1, 2], "item": [1, 2], "rating": [1.0, -1.0]}, "not a finite number from 0"),
    ],
)
def test_what_is_wrong_is_said_as_in_memory(tmp_path: Path, columns: dict[str, Any], wanted: str) -> None:
    pl.DataFrame(columns).write_parquet(tmp_path / "raw.parquet")
    said = []
    for memory in (0, 64):
        with pytest.raises(DataError) as raised:
            ingest(tmp_path / "raw.parquet", tmp_path / "out", IngestOptions(memory=memory))
        said.append(str(raised.value))
    assert said[0] == said[1]


IDS = st.one_of(
    st.lists(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20), min_size=1, max_size=6),
    st.lists(st.lists(st.text(max_size=4), max_size=20), min_size=1, max_size=6),
)


@settings(max_examples=40, deadline=None)
@given(runs=IDS)
def test_runs_merge_into_one_rising_list(tmp_path_factory: pytest.TempPathFactory, runs: list[list[Any]]) -> None:
    kind = pl.String if any(isinstance(value, str) for run in runs for value in run) else pl.Int64
    merger = SortedRuns(tmp_path_factory.mktemp("runs") / "r")
    wanted = sorted({value for run in runs for value in run}, key=lambda v: v.encode() if isinstance(v, str) else v)
    if not wanted:
        return
    kept = []
    for run in runs:
        distinct, places = encode(pl.Series(run, dtype=kind))
        assert [distinct[int(place)] for place in places] == run
        merger.add(distinct)
        kept.append(distinct.to_list())
    ids, places_of = merger.merge()
    assert [ids[code] for code in range(len(ids))] == wanted
    assert [[wanted[place] for place in places] for places in places_of] == kept


def test_saved_ids_in_any_order(tmp_path: Path) -> None:
    ids = SavedIds(tmp_path / "ids")
    for low in range(0, 300, 70):
        ids.append(pl.Series([f"id {code}" for code in range(low, min(low + 70, 300))]))
    order = numpy_generator(0, "order").permutation(300)[:250]
    blocks = list(ids.blocks(order, 32))
    assert [len(block) for block in blocks] == [32] * 7 + [26]
    assert pl.concat(blocks).to_list() == [f"id {code}" for code in order]
    assert ids.gather(order[:3]).to_list() == [f"id {code}" for code in order[:3]]


def test_parts_keep_the_order_they_came_in(tmp_path: Path) -> None:
    parted, draw = Parted(tmp_path / "p"), numpy_generator(0, "parts")
    part = draw.integers(0, 5, 3000)
    for low in range(0, 3000, 400):
        rows = pl.DataFrame({"row": np.arange(low, min(low + 400, 3000))})
        parted.add(rows, pl.Series(part[low : low + 400]))
    parted.flush()
    for number in range(5):
        found = parted.take(number)
        assert found is not None and found["row"].to_list() == np.flatnonzero(part == number).tolist()
        assert parted.take(number) is None


@settings(max_examples=60, deadline=None)
@given(
    values=st.one_of(
        st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=30).map(lambda v: np.array(v, dtype=np.int64)),
        st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=30).map(np.array),
    ),
    share=st.floats(0, 0.999),
)
def test_nth_smallest_is_what_sorting_finds(values: np.ndarray, share: float) -> None:
    n = int(share * len(values))
    assert nth_smallest(values, n) == np.sort(values)[n]


def test_arrays_on_disk_are_closed_up_in_their_place(tmp_path: Path) -> None:
    mapped = np.lib.format.open_memmap(tmp_path / "a.npy", mode="w+", dtype=np.int32, shape=(100,))
    mapped[:] = np.arange(100)
    keep = np.arange(100) % 3 == 0
    pairs = Pairs(mapped, mapped.copy())
    pairs.select(keep)
    assert pairs.query.tolist() == pairs.item.tolist() == list(range(0, 100, 3))
    assert np.shares_memory(pairs.query, mapped)


def test_counts_of_a_mask() -> None:
    assert count_codes(np.array([2, 0, 2]), 3, np.array([True, True, False])).tolist() == [1, 0, 1]
