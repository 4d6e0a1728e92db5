"""Planted documents: what is drawn is what the world says, and the best ranking is the best."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from xclass.data.dataset import Dataset, open_dataset
from xclass.errors import ArtefactError, ConfigError
from xclass.ingest.ingest import ingest
from xclass.ingest.options import IngestOptions
from xclass.ingest.synthetic.documents import (
    APPLY,
    KEPT,
    SLOTS,
    WORDS,
    DocumentWorld,
    best_lists,
    parse_planted_documents,
    planted_documents,
)
from xclass.metrics import average, compute, parse_metric

SOURCE = "planted-documents:documents=6000,features=2000,labels=3000,seed=3"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return ingest(SOURCE, tmp_path_factory.mktemp("planted") / "dataset")


def test_the_dataset_is_the_world(dataset: Dataset) -> None:
    world = planted_documents(dataset)
    assert world == DocumentWorld(6000, 2000, 3000, seed=3) and world.num_themes == 1500
    dataset.verify()
    assert (dataset.num_queries, dataset.num_items) == (6000, 3000)
    assert dataset.feature_sizes("query") == dataset.feature_sizes("item") == {"features": 2000}
    ids = dataset.items["item_id"].to_numpy()
    lengths, labels, features = world.block(0)
    ends = np.cumsum(lengths)
    queries, fields = dataset.query_features["features"], dataset.item_features["features"]
    for document in (0, 1, 77, 5999):
        part = dataset.split(dataset.queries["split"][document])
        got = sorted(ids[item] for item in part.slice(document, document + 1).values.tolist())
        assert got == sorted(labels[ends[document] - lengths[document] : ends[document]].tolist())
    assert queries.values[: features.lengths[0]].tolist() == features.values[: features.lengths[0]].tolist()
    for item in (0, 5, 2999):
        assert set(fields.slice(item, item + 1).values.tolist()) == set(world.words[ids[item]].tolist())


def test_slots_hold_every_label_and_no_theme_one_twice() -> None:
    world = DocumentWorld(400, 100, 300)
    assert set(world.slots[world.slots >= 0].tolist()) == set(range(300))
    for theme in world.slots.tolist():
        there = [label for label in theme if label >= 0]
        assert len(there) == len(set(there))


def test_labels_apply_as_often_as_the_world_says() -> None:
    world = DocumentWorld(8000, 100, 300, noise=5)
    lengths, labels, features = world.block(0)
    themes, rows = world.slots[world.themes_of(0)], np.repeat(np.arange(8000), lengths)
    for slot in range(SLOTS):
        there = themes[:, slot] >= 0
        hits = np.bincount(rows[labels == themes[rows, slot]], minlength=8000)[there]
        assert hits.mean() == pytest.approx(APPLY[slot], abs=0.03)
    total = float(features.weights.sum())
    assert total == pytest.approx(((themes >= 0).sum() * WORDS * KEPT) + 5 * 8000, rel=0.01)


def test_the_tail_is_long(dataset: Dataset) -> None:
    counts = dataset.item_counts.numpy()
    assert counts[0] > 20 * np.median(counts) and (counts <= 3).mean() > 0.3


def test_the_best_ranking_reaches_what_the_law_promises_and_no_other_does(dataset: Dataset) -> None:
    positives = dataset.split("test")
    queries = positives.lengths().nonzero().squeeze(1)
    best, truth = best_lists(dataset, queries.numpy(), 5), positives.take(queries).long()
    metrics = [parse_metric(f"precision@{k}") for k in (1, 3, 5)]
    reached = average(compute(best, truth, metrics))
    for k in (1, 3, 5):  # a theme may lack a slot that another one had: a little below the mean of APPLY
        assert reached[f"precision@{k}"] == pytest.approx(APPLY[:k].mean(), abs=0.05)
    worse = best_lists(dataset, np.roll(queries.numpy(), 1), 5)
    assert average(compute(worse, truth, metrics))["precision@1"] < 0.2


def test_a_block_can_be_drawn_alone_and_seeds_differ() -> None:
    first, again, other = (DocumentWorld(20_000, 100, 300, seed=seed) for seed in (0, 0, 1))
    assert first.num_blocks == 3
    for a, b, c in zip(first.block(2)[:2], again.block(2)[:2], other.block(2)[:2], strict=True):
        assert a.tolist() == b.tolist() != c.tolist()
    assert len(first.themes_of(2)) == 20_000 - 2 * 8192


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("planted-documents:documents=100,features=50", {}, "needs labels"),
        ("planted-documents:documents=100,features=50,label=20", {}, 'no "label"'),
        ("planted-documents:documents=100,features=5,labels=20", {}, "too few"),
        ("planted-documents:documents=100,features=50,labels=80,themes=9", {}, "too few"),
        ("planted-documents:documents=100,features=50,labels=20", {"min_item_count": 2}, "has no effect"),
        ("planted-documents:documents=100,features=50,labels=20", {"split": "time"}, "split at random"),
    ],
)
def test_what_cannot_be(tmp_path: Path, source: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ingest(source, tmp_path / "out", IngestOptions(**options))  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_only_planted_documents_have_a_best_ranking(tmp_path: Path) -> None:
    assert parse_planted_documents("planted-documents:documents=1e3,features=5,labels=2")["documents"] == 1000
    (tmp_path / "a.txt").write_text("2 2 2\n0 0:1\n1 1:1\n")
    ingest(tmp_path / "a.txt", tmp_path / "out", IngestOptions(test_fraction=0.0, valid_fraction=0.0))
    with pytest.raises(ArtefactError, match="not planted"):
        planted_documents(open_dataset(tmp_path / "out"))
