"""Batches in which nothing is to be learned: queries that have every item, weights of 0."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import polars as pl
import pytest
import torch

import xclass
from xclass.api import train
from xclass.data.dataset import Dataset
from xclass.errors import ConfigError, InputError
from xclass.ingest.ingest import ingest
from xclass.ingest.options import IngestOptions
from xclass.losses import LOSSES
from xclass.sampling import SamplerConfig

KINDS = get_args(SamplerConfig.model_fields["kind"].annotation)
ITEMS, QUERIES = 3, 4


def made(folder: Path, weights: list[float] | None = None) -> Dataset:
    """Every query has every item; one train pair of each weight in turn."""
    pairs = [(f"q{query}", f"i{item}") for query in range(QUERIES) for item in range(ITEMS)]
    columns: dict[str, Any] = {"user_id": [q for q, _ in pairs], "item_id": [i for _, i in pairs]}
    if weights is not None:
        columns["weight"] = [weights[place % len(weights)] for place in range(len(pairs))]
    pl.DataFrame(columns).write_csv(folder / "pairs.csv")
    options = IngestOptions(split="random", test_fraction=0, valid_fraction=0)
    return ingest(folder / "pairs.csv", folder / "dataset", options)


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return made(tmp_path_factory.mktemp("everything"))


def config(sampler: dict[str, Any], loss: dict[str, Any], by: str) -> dict[str, Any]:
    return {
        "model": {"embedding_dim": 4, "query": {"kind": "id"}},
        "sampler": sampler,
        "loss": loss,
        "train": {"epochs": 2, "batch": {"by": by, "size": 2}},
    }


def sampler_of(kind: str, dataset: Dataset) -> dict[str, Any]:
    candidates = dataset.path.parent / "candidates.csv"  # all of them are positives
    candidates.write_text("query_id,item_id\nq0,i1\nq2,i0\n")
    own: dict[str, dict[str, Any]] = {
        "given": {"file": str(candidates)},
        "adaptive": {"proposal": "unigram"},
        "mixture": {"parts": [{"kind": "hard", "num_sampled": 2}, {"kind": "uniform", "num_sampled": 2}]},
    }
    sizes = {"num_sampled": 2} if kind not in ("all", "in-batch", "mixture") else {}
    return {"kind": kind, **sizes, **own.get(kind, {})}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by", ["pair", "query"])
def test_queries_that_have_every_item_train_with_every_loss(
    kind: str, by: str, everything: Dataset, tmp_path: Path
) -> None:
    trained = 0
    for loss in LOSSES:
        try:
            settings = config(sampler_of(kind, everything), {"kind": loss}, by)
            run = train(everything, settings, tmp_path / loss, check_memory=False)
        except ConfigError:
            continue  # this loss does not go with this sampler
        trained += 1
        assert torch.isfinite(run.item_vectors.tensor()).all(), loss
    assert trained


@pytest.mark.parametrize("by", ["pair", "query"])
def test_weights_that_are_all_0_are_refused_at_the_start(
    by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a dataset that was made before ingest refused them."""
    monkeypatch.setattr("xclass.ingest.ingest.check_weights", lambda *_: None)
    zeros = made(tmp_path, [0.0])
    with pytest.raises(InputError, match="weights of all train pairs are 0"):
        train(zeros, config({"num_sampled": 2}, {}, by), tmp_path / "run", check_memory=False)


@pytest.mark.parametrize("by", ["pair", "query"])
@pytest.mark.parametrize("loss", [name for name in LOSSES if not LOSSES[name].all_items])
def test_batches_and_queries_whose_weights_are_all_0(by: str, loss: str, tmp_path: Path) -> None:
    """Of 12 pairs in batches of 2 one has a weight: most batches have none."""
    mostly = made(tmp_path, [0.0] * 11 + [2.0])
    run = xclass.train(
        mostly, config({"num_sampled": 2}, {"kind": loss}, by), tmp_path / "run", overrides=["train.batch.size=1"]
    )
    assert torch.isfinite(run.item_vectors.tensor()).all()
