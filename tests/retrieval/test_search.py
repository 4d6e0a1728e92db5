"""Queries in, lists out: which queries, what is left out, what is written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import xclass.retrieval.parts as parts_module
import xclass.retrieval.search as retrieve_module
from xclass.data.dataset import Dataset
from xclass.data.ids import IdMap
from xclass.errors import ArtefactError, ConfigError, DataError, InputError
from xclass.index import ExactIndex
from xclass.ingest.ingest import ingest
from xclass.ingest.options import IngestOptions
from xclass.queries.files import read_query_file
from xclass.queries.queries import dataset_queries, histories_of, queries_by_id, queries_with_histories
from xclass.retrieval.parts import Counts, write_topk
from xclass.retrieval.search import restricted, retrieve
from xclass.types import Batch, Ragged, TopK

NUM_ITEMS = 6


class Counting:
    """A model whose score of item i is i for every query: the highest unseen number wins."""

    def query_vectors(self, batch: Batch) -> torch.Tensor:
        return torch.ones(len(batch), 1)

    def item_vectors(self) -> torch.Tensor:
        return torch.arange(float(NUM_ITEMS))[:, None]


def index() -> ExactIndex:
    result = ExactIndex()
    result.build(Counting().item_vectors())
    return result


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Queries "10", "9", "q é": train 5+4+1 pairs; items a … f by falling train count."""
    folder = tmp_path_factory.mktemp("files") / "raw"
    folder.mkdir()
    (folder / "train.txt").write_text("10 a b c d e\n9 a b c d\nqé a\n", encoding="utf-8")
    (folder / "test.txt").write_text("10 f\n9 e f\n", encoding="utf-8")
    return ingest(folder, folder.parent / "dataset", IngestOptions(format="adjacency"))


def lists(results: Iterator[tuple[torch.Tensor, TopK]]) -> list[tuple[int, list[int]]]:
    found = []
    for positions, topk in results:
        found += zip(positions.tolist(), Ragged(topk.offsets, topk.ids).to_lists(), strict=True)
    return found


def batches(*histories: list[int]) -> list[tuple[torch.Tensor, Batch]]:
    ragged = Ragged.from_lists(histories)
    return [(torch.arange(len(ragged)), Batch(torch.arange(len(ragged)), ragged))]


def test_seen_items_are_left_out_unless_asked_for() -> None:
    given = batches([5, 3], [], [0, 1, 2, 3, 4, 5])
    assert lists(retrieve(Counting(), index(), given, 3)) == [(0, [4, 2, 1]), (1, [5, 4, 3]), (2, [])]
    everything = lists(retrieve(Counting(), index(), given, 2, include_seen=True))
    assert everything == [(0, [5, 4]), (1, [5, 4]), (2, [5, 4])]


def test_a_global_deny_list_is_added_to_what_was_seen() -> None:
    given = batches([5, 3], [])
    deny = torch.tensor([4, 0])
    assert lists(retrieve(Counting(), index(), given, 9, exclude=deny)) == [(0, [2, 1]), (1, [5, 3, 2, 1])]
    everything = lists(retrieve(Counting(), index(), given, 9, exclude=deny, include_seen=True))
    assert everything == [(0, [5, 3, 2, 1]), (1, [5, 3, 2, 1])]


def test_allow_lists_and_long_deny_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    given = batches([5, 3], [])
    subset, left = restricted(index(), torch.tensor([0, 3, 4]), torch.tensor([4]))
    assert left is None
    assert lists(retrieve(Counting(), subset, given, 9)) == [(0, [0]), (1, [3, 0])]
    same, left = restricted(index(), None, torch.tensor([4]))
    assert (same.kind, left.tolist() if left is not None else None) == ("exact", [4])
    monkeypatch.setattr(retrieve_module, "LONG_DENY_LIST", 1)
    subset, left = restricted(index(), None, torch.tensor([4, 5]))
    assert (subset.kind, left) == ("subset", None)
    assert lists(retrieve(Counting(), subset, given, 2)) == [(0, [2, 1]), (1, [3, 2])]


def test_all_queries_of_a_dataset(dataset: Dataset) -> None:
    queries = dataset_queries(dataset)
    assert queries.ids.to_list() == dataset.queries["query_id"].to_list()
    items = dataset.items["item_id"].to_list()
    seen = {}
    for size in (1, 2, 10):
        for positions, batch in queries.batches(size):
            for position, history in zip(positions.tolist(), batch.history.to_lists(), strict=True):
                seen[queries.ids[position]] = sorted(items[item] for item in history)
        assert seen == {"10": list("abcde"), "9": list("abcd"), "qé": ["a"]}
    assert sorted(dataset_queries(dataset, only_with_positives=True).ids.to_list()) == ["10", "9"]


def test_queries_by_id_in_the_order_asked(dataset: Dataset) -> None:
    queries = queries_by_id(dataset, pl.Series(["qé", "nobody", "9", "qé"]))
    assert queries.ids.to_list() == ["qé", "9", "qé"]
    assert (queries.unknown_queries.count, queries.unknown_queries.names) == (1, ["nobody"])
    (_, batch), *_ = queries.batches()
    assert [len(history) for history in batch.history.to_lists()] == [1, 4, 1]
    assert batch.query_ids.tolist() == [dataset.queries["query_id"].to_list().index(name) for name in ("qé", "9", "qé")]
    with pytest.raises(DataError, match=r"not one query id is known[\s\S]*nobody"):
        queries_by_id(dataset, pl.Series(["nobody"]))


def test_histories_of_people_never_seen(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "h.jsonl").write_text(
        '{"history": ["a", "zzz", "c"]}\n{"query_id": "9", "history": ["f"]}\n', encoding="utf-8"
    )
    maps = IdMap(dataset.queries["query_id"]), IdMap(dataset.items["item_id"])
    queries = queries_with_histories(*maps, read_query_file(tmp_path / "h.jsonl"))
    ((positions, batch),) = queries.batches()
    items = dataset.items["item_id"].to_list()
    assert positions.tolist() == [0, 1]
    assert [[items[item] for item in row] for row in batch.history.to_lists()] == [["a", "c"], ["f"]]
    assert batch.query_ids.tolist() == [-1, dataset.queries["query_id"].to_list().index("9")]
    assert (queries.unknown_items.count, queries.unknown_items.names) == (1, ["zzz"])
    with pytest.raises(DataError, match="not one item id is known"):
        queries_with_histories(*maps, histories_of([["x", "y"]]))
    assert queries_with_histories(*maps, histories_of([["a"], []])).ids.to_list() == [0, 1]


IDS = pl.Series(["x", "007", "é"])
ITEMS = pl.Series([2**53 + 1, 1, 2, 3, 4, 5])


def written(path: Path, given: list[tuple[torch.Tensor, Batch]], k: int = 3) -> Counts:
    return write_topk(path, retrieve(Counting(), index(), given, k), IDS, ITEMS, k).counts


def test_rows_of_the_file(tmp_path: Path) -> None:
    counts = written(tmp_path / "topk.parquet", batches([5, 4, 3, 2], [], [0, 1, 2, 3, 4, 5]))
    table = pl.read_parquet(tmp_path / "topk.parquet")
    assert table.schema == {"query_id": pl.String, "rank": pl.Int32, "item_id": pl.Int64, "score": pl.Float32}
    assert table.rows() == [
        ("x", 1, 1, 1.0),
        ("x", 2, 2**53 + 1, 0.0),
        ("007", 1, 5, 5.0),
        ("007", 2, 4, 4.0),
        ("007", 3, 3, 3.0),
    ]
    assert (counts.queries, counts.rows, counts.short_lists, counts.empty_lists) == (3, 5, 2, 1)
    assert [file.name for file in tmp_path.iterdir()] == ["topk.parquet"]


def test_json_lines_have_the_same_rows(tmp_path: Path) -> None:
    given = batches([5], [2])
    written(tmp_path / "topk.parquet", given)
    written(tmp_path / "topk.jsonl", given)
    assert pl.read_ndjson(tmp_path / "topk.jsonl").rows() == pl.read_parquet(tmp_path / "topk.parquet").rows()


def test_many_parts_become_one_file_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = [(torch.tensor([b % 3]), batches([b % 6])[0][1]) for b in range(40)]
    written(tmp_path / "whole.parquet", given)
    monkeypatch.setattr(parts_module, "PART_ROWS", 10)
    written(tmp_path / "parts.parquet", given)
    assert pl.read_parquet(tmp_path / "parts.parquet").equals(pl.read_parquet(tmp_path / "whole.parquet"))
    assert len(list(tmp_path.iterdir())) == 2


def test_no_query_gives_an_empty_table(tmp_path: Path) -> None:
    counts = written(tmp_path / "topk.parquet", [])
    table = pl.read_parquet(tmp_path / "topk.parquet")
    assert (counts.queries, table.columns, len(table)) == (0, ["query_id", "rank", "item_id", "score"], 0)


def test_only_a_part_is_held_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are made when they are needed: when part n is written, batch n+1 has not been asked for."""
    monkeypatch.setattr(ExactIndex, "queries_at_once", 1)
    monkeypatch.setattr(parts_module, "PART_ROWS", 3)
    asked, parts = 0, []
    original = pl.DataFrame.write_parquet

    def watched(frame: pl.DataFrame, path: Path) -> None:
        parts.append((asked, len(frame)))
        original(frame, path)

    def given() -> Iterator[tuple[torch.Tensor, Batch]]:
        nonlocal asked
        for _ in range(5):
            asked += 1
            yield batches([])[0]

    monkeypatch.setattr(pl.DataFrame, "write_parquet", watched)
    written(tmp_path / "topk.parquet", given())  # type: ignore[arg-type]
    assert parts == [(number, 3) for number in range(1, 6)]


def test_a_failure_in_the_middle_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts_module, "PART_ROWS", 1)

    def broken() -> Iterator[tuple[torch.Tensor, Batch]]:
        yield batches([])[0]
        raise KeyboardInterrupt

    (tmp_path / "topk.parquet").write_text("what was there before")
    with pytest.raises(KeyboardInterrupt):
        written(tmp_path / "topk.parquet", broken())  # type: ignore[arg-type]
    assert [file.name for file in tmp_path.iterdir()] == ["topk.parquet"]
    assert (tmp_path / "topk.parquet").read_text() == "what was there before"


def test_a_full_disk_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(frame: pl.DataFrame, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", full)
    with pytest.raises(ArtefactError, match="No space left on device"):
        written(tmp_path / "topk.parquet", batches([]))
    assert list(tmp_path.iterdir()) == []


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="k is too small"):
        retrieve(Counting(), index(), [], 0)
    with pytest.raises(ConfigError, match='did you mean "parquet"'):
        write_topk(tmp_path / "a", [], IDS, ITEMS, 3, format="parket")

    class Short(Counting):
        def query_vectors(self, batch: Batch) -> torch.Tensor:
            return torch.ones(1, 1)

    with pytest.raises(InputError, match="another number of vectors"):
        list(retrieve(Short(), index(), batches([], []), 2))

    class Nan(Counting):
        def query_vectors(self, batch: Batch) -> torch.Tensor:
            return torch.full((len(batch), 1), np.nan)

    with pytest.raises(InputError, match="query 0 is not finite"):
        list(retrieve(Nan(), index(), batches([], []), 2))
