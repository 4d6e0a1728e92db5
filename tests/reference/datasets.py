"""Small helpers of the data tests: write a file, ingest it, read the pairs back by external id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xclass.data.dataset import Dataset
from xclass.ingest.ingest import ingest
from xclass.ingest.options import IngestOptions


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def ingest_text(folder: Path, name: str, content: str | bytes, **options: Any) -> Dataset:
    """Ingest one file; everything goes to train unless a split is asked for."""
    options = {"test_fraction": 0, "valid_fraction": 0, **options}
    return ingest(write(folder / name, content), folder / "dataset", IngestOptions(**options))


def lists(dataset: Dataset, split: str = "train") -> dict[Any, list[Any]]:
    """Query id → item ids, in order."""
    items, queries = dataset.items["item_id"], dataset.queries["query_id"]
    return {queries[q]: [items[i] for i in row] for q, row in enumerate(dataset.split(split).to_lists())}


def pairs(dataset: Dataset, split: str = "train") -> list[tuple[Any, Any]]:
    """(query id, item id) of a split, sorted; empty when it has no such split."""
    if split not in dataset.splits:
        return []
    return sorted((query, item) for query, row in lists(dataset, split).items() for item in row)
