"""Probabilities beside scores: against the softmax over all items written out, through every kind of search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from xclass.api import train
from xclass.cli import main
from xclass.data.dataset import Dataset
from xclass.errors import ConfigError, InputError
from xclass.ingest.synthetic.pairs import PlantedModel
from xclass.recommender import Recommender
from xclass.retrieval.probabilities import Probabilities
from xclass.types import Ragged

N, QUERIES = 150, 30
HEADS: dict[str, dict[str, Any]] = {
    "dot": {"kind": "dot"},
    "cnn": {"kind": "cnn", "filters": [4, 4], "correction": 3},
    "hierarchical": {"kind": "hierarchical", "beam": 6},
    "differentiated": {"kind": "differentiated", "cuts": [0.2], "dims": [8, 4]},
    "adaptive": {"kind": "adaptive", "cuts": [0.2], "dims": [4]},
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    path = tmp_path_factory.mktemp("planted") / "dataset"
    return PlantedModel(num_items=N, num_queries=400, pairs=9_000, num_topics=6, seed=4).write_dataset(path)


@pytest.fixture(scope="module")
def runs(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Recommender]:
    folder = tmp_path_factory.mktemp("runs")
    settings = {
        "model": {"embedding_dim": 12, "temperature": 0.3},
        "train": {"steps": 30, "learning_rate": 0.3, "batch": {"by": "query", "size": 64}},
    }
    return {name: train(dataset, {**settings, "head": head}, folder / name) for name, head in HEADS.items()}


def truth(recommender: Recommender, queries: list[str]) -> dict[tuple[str, str], float]:
    """P(item | query) over all items: for inner products e^{score / τ} over the sum, all of it written out."""
    from xclass.data.ids import as_id_series
    from xclass.queries.queries import queries_by_id

    batch = next(iter(queries_by_id(recommender.dataset, as_id_series(queries)).batches()))[1]
    vectors, model = recommender.model.query_vectors(batch), recommender.model
    if model.item_vectors() is not None:
        table = (vectors @ recommender.item_vectors.tensor().T / 0.3).double().softmax(1)
    else:
        every = Ragged(torch.arange(len(queries) + 1) * N, torch.arange(N).repeat(len(queries)))
        table = model.log_probability(vectors, every).double().exp().view(-1, N)
    ids = recommender.run.item_ids.to_list()
    return {(query, ids[i]): float(table[b, i]) for b, query in enumerate(queries) for i in range(N)}


@pytest.mark.parametrize("name", HEADS)
def test_exact_ones_are_the_softmax_over_all_items(runs: dict[str, Recommender], name: str) -> None:
    queries = runs[name].run.query_ids[:QUERIES].to_list()
    found, wanted = runs[name].retrieve(query_ids=queries, k=7, probabilities="exact"), truth(runs[name], queries)
    for query, item, probability in found.select("query_id", "item_id", "probability").iter_rows():
        assert probability == pytest.approx(wanted[query, item], rel=1e-4)
    whole = runs[name].retrieve(query_ids=queries, k=N, probabilities="exact", include_seen=True, exact=True)
    assert whole.group_by("query_id").agg(pl.col("probability").sum())["probability"].to_list() == pytest.approx(
        [1.0] * QUERIES, rel=1e-4
    )


@pytest.mark.parametrize("over", [None, 40])
@pytest.mark.parametrize("name", HEADS)
def test_retrieved_ones_are_exact_ones_over_what_was_found(
    runs: dict[str, Recommender], name: str, over: int | None
) -> None:
    queries = runs[name].run.query_ids[:QUERIES].to_list()
    found = runs[name].retrieve(query_ids=queries, k=7, probabilities="retrieved", over=over, exact=True)
    deep = runs[name].retrieve(query_ids=queries, k=over or 7, exact=True)
    wanted = truth(runs[name], queries)
    held = dict.fromkeys(queries, 0.0)
    for query, item in deep.select("query_id", "item_id").iter_rows():
        held[query] += wanted[query, item]
    assert found["item_id"].to_list() == deep.filter(pl.col("rank") <= 7)["item_id"].to_list()
    for query, item, probability in found.select("query_id", "item_id", "probability").iter_rows():
        assert probability == pytest.approx(wanted[query, item] / held[query], rel=1e-4)
        assert probability >= wanted[query, item] * (1 - 1e-4)
    if over is None:
        sums = found.group_by("query_id").agg(pl.col("probability").sum())["probability"].to_list()
        assert sums == pytest.approx([1.0] * QUERIES)


@pytest.mark.parametrize("kind", ["lsh", "wta", "hnsw"])
def test_through_an_index_the_command_says_what_share_they_hold(
    runs: dict[str, Recommender], tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    if kind == "hnsw":
        pytest.importorskip("faiss")
    run = str(runs["dot"].run.path)
    assert main(["index", run, "--kind", kind, "-k", "10", "--target-recall", "0.9", "--replace"]) == 0
    capsys.readouterr()
    out = tmp_path / "lists.parquet"
    assert (
        main(["retrieve", run, "--out", str(out), "-k", "5", "--probabilities", "retrieved", "--over", "20", "--json"])
        == 0
    )
    told = json.loads(capsys.readouterr().out)["probabilities"]
    found, recommender = pl.read_parquet(out), Recommender.load(run)
    queries = recommender.run.query_ids[: told["checked_queries"]].to_list()
    wanted = truth(recommender, queries)
    rows = found.filter((pl.col("rank") == 1) & pl.col("query_id").is_in(queries))
    held = [wanted[q, i] / p for q, i, p in rows.select("query_id", "item_id", "probability").iter_rows()]
    assert told["checked_queries"] == 64 and told["way"] == "retrieved"
    assert told["held_mean"] == pytest.approx(sum(held) / 64, rel=1e-4)
    assert told["held_least"] == pytest.approx(min(held), rel=1e-4) and told["held_least"] < 1


def test_the_same_column_in_every_format_and_after_a_resume(
    runs: dict[str, Recommender], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(runs["adaptive"].run.path)
    for name in ("lists.parquet", "lists.jsonl"):
        assert main(["retrieve", run, "--out", str(tmp_path / name), "-k", "3", "--probabilities", "exact"]) == 0
    table, lines = pl.read_parquet(tmp_path / "lists.parquet"), pl.read_ndjson(tmp_path / "lists.jsonl")
    assert table["probability"].to_list() == pytest.approx(lines["probability"].to_list())
    torch.testing.assert_close(
        torch.tensor(table["probability"].to_list()).log(), torch.tensor(table["score"].to_list())
    )
    capsys.readouterr()
    assert main(["retrieve", run, "--out", str(tmp_path / "x.trec"), "--probabilities", "exact"]) == 1
    assert "no place for probabilities" in capsys.readouterr().err
    assert main(["retrieve", run, "--out", str(tmp_path / "x.parquet"), "--over", "5"]) == 2


def test_what_was_filled_in(runs: dict[str, Recommender]) -> None:
    recommender = runs["dot"]
    some, queries = recommender.run.item_ids[:4].to_list(), recommender.run.query_ids[:QUERIES].to_list()
    settings: dict[str, Any] = {"query_ids": queries, "k": 4, "candidates": some, "short": "popular"}
    found = recommender.retrieve(probabilities="retrieved", **settings)
    filled = found["score"].is_null()
    assert filled.any() and (found["probability"].is_null() == filled).all()
    exact = recommender.retrieve(probabilities="exact", **settings)
    wanted = truth(recommender, queries)
    for query, item, probability in exact.select("query_id", "item_id", "probability").iter_rows():
        assert probability == pytest.approx(wanted[query, item], rel=1e-4)


def test_what_is_refused(runs: dict[str, Recommender]) -> None:
    model = runs["dot"].model
    with pytest.raises(ConfigError, match="way to probabilities"):
        Probabilities(model, "true")
    with pytest.raises(ConfigError, match="normalise over"):
        Probabilities(model, "exact", 10)
    with pytest.raises(ConfigError, match="goes with probabilities"):
        runs["dot"].retrieve(histories=[[]], over=10)
    with pytest.raises(InputError, match="no output layer"):
        Probabilities(object(), "exact")
