"""Perplexity and calibration against plain sums over the whole catalogue, for every head."""

import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from typer.testing import CliRunner

from xclass.api import train
from xclass.cli.app import app
from xclass.comparison.compare import compare_runs
from xclass.errors import ConfigError, InputError
from xclass.evaluation.evaluate import metrics_at
from xclass.evaluation.likelihood import likelihood_of
from xclass.ingest.ingest import ingest
from xclass.ingest.options import IngestOptions
from xclass.metrics import Likelihood, unigram_likelihood
from xclass.recommender import Recommender
from xclass.training.state import Position
from xclass.types import Batch, Ragged

HEADS = {
    "dot": {"sampler": {"kind": "all"}, "loss": {"kind": "full-softmax"}},
    "sampled": {"sampler": {"kind": "log-uniform", "num_sampled": 8}},
    "hierarchical": {"head": {"kind": "hierarchical", "tree": "huffman"}},
    "clustered": {"head": {"kind": "hierarchical", "tree": "clustered"}},
    "differentiated": {"head": {"kind": "differentiated", "cuts": [0.3], "dims": [5, 3]}},
    "adaptive": {"head": {"kind": "adaptive", "cuts": [0.3], "dims": [4]}},
}
NORMALISED_BY_FORM = ("hierarchical", "clustered", "adaptive")


def settings(name, kind="context", **model):
    base = {"embedding_dim": 8, "normalize": False, "temperature": 0.7, "query": {"kind": kind}}
    loop = {"steps": 3, "batch": {"size": 64}, "validation": {"queries": 50}}
    return {"model": base | model, "train": loop, **HEADS[name]}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    rng = np.random.default_rng(3)
    for part, lines in (("train", 120), ("valid", 15), ("test", 20)):
        words = [" ".join(f"w{min(int(rng.exponential(6)), 40)}" for _ in range(6)) for _ in range(lines)]
        (folder / f"{part}.txt").write_text("\n".join(words))
    options = IngestOptions(format="text", vocabulary=30, context=3)
    return ingest(folder, folder / "data", options)


@pytest.fixture(scope="module")
def runs(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {name: train(dataset, settings(name), folder / name, check_memory=name == "dot") for name in HEADS}


def slow(recommender, dataset, split):
    """Position by position: log P from the probabilities of the whole catalogue, one query at a time."""
    model, ids = recommender.model, dataset.split(split).lengths().nonzero().squeeze(1)
    everything = Ragged(torch.tensor([0, dataset.num_items]), torch.arange(dataset.num_items))
    losses, log_z = [], []
    for query in ids:
        history = dataset.windows.take(query.reshape(1))
        vector = model.query_vectors(Batch(query.reshape(1), history))
        item = int(dataset.split(split).take(query.reshape(1)).values)
        vectors = model.item_vectors()
        if vectors is None:
            logs = model.log_probability(vector, everything).double()
            assert float(logs.exp().sum()) == pytest.approx(1, abs=1e-4)
        else:
            scores = (vector @ vectors.read(0, dataset.num_items).T).squeeze(0).double() / 0.7
            log_z.append(float(scores.logsumexp(0)))
            logs = scores - log_z[-1]
        losses.append(-float(logs[item]))
    return np.array(losses), np.array(log_z)


@pytest.mark.parametrize("name", HEADS)
def test_perplexity_is_that_of_all_positions(runs, dataset, name):
    losses, log_z = slow(runs[name], dataset, "test")
    found = runs[name].measure(metrics_at([1, 5], ["recall", "mrr"]), "test")
    assert found.num_queries == len(losses) == dataset.manifest["splits"]["test"]["pairs"] and found.num_skipped == 0
    assert found.metrics["perplexity"] == pytest.approx(math.exp(losses.mean()), rel=1e-4)
    assert found.metrics["log_loss"] == pytest.approx(losses.mean(), rel=1e-4)
    measured = found.per_query["log_loss"]
    assert measured[~measured.isnan()].tolist() == pytest.approx(losses, rel=1e-3, abs=1e-4)
    if name in NORMALISED_BY_FORM:
        assert found.calibration == {}
    else:
        assert found.calibration["log_z_mean"] == pytest.approx(log_z.mean(), rel=1e-4)
        assert found.calibration["log_z_std"] == pytest.approx(log_z.std(), rel=1e-3)
    assert set(found.metrics) | set(found.calibration) <= set(found.definitions)
    alone = runs[name].measure([], "test")
    assert alone.metrics == {key: found.metrics[key] for key in ("perplexity", "log_loss")}
    assert alone.num_queries == found.num_queries


def test_popularity_beside_it_is_the_unigram(runs, dataset):
    counts = dataset.item_counts.double()
    targets = dataset.split("test").values.long()
    share = (counts + 1) / (counts.sum() + len(counts))
    found = runs["dot"].measure([], "test").popularity
    assert found["perplexity"] == pytest.approx(float((-share[targets].log().mean()).exp()))


def test_words_that_came_before_stay_in_the_lists(runs, dataset):
    top = runs["dot"].measure(metrics_at([dataset.num_items], ["recall"]), "test")
    assert top.metrics[f"recall@{dataset.num_items}"] == 1 and top.num_short == 0 and top.by_history == {}
    words = dataset.items["item_id"].to_list()
    found = runs["dot"].retrieve(histories=[[words[3], words[3]], ["never met"]], k=dataset.num_items)
    assert len(found) == 2 * dataset.num_items
    unknown = runs["dot"].retrieve(histories=[["<unk>"]], k=5)
    assert found.filter(pl.col("query_id") == 1).head(5)["item_id"].to_list() == unknown["item_id"].to_list()


def test_order_counts_in_retrieval(runs, dataset):
    words = dataset.items["item_id"].to_list()[:3]
    found = runs["dot"].retrieve(histories=[words, words[::-1], ["w0", *words]], k=3)
    scores = [found.filter(pl.col("query_id") == query)["score"].to_list() for query in range(3)]
    assert scores[0] != scores[1] and scores[0] == scores[2]  # the context is three words long


def test_pairs_count_by_their_weights(runs, dataset):
    model = runs["dot"].model
    query = model.query_vectors(Batch(torch.arange(2), dataset.windows.take(torch.arange(2))))
    heavy = Ragged(torch.tensor([0, 2, 2]), torch.tensor([3, 5]), torch.tensor([3.0, 1.0]))
    found = likelihood_of(model, query, heavy)
    logs = model.log_probability(query, Ragged(heavy.offsets, heavy.values)).double()
    assert found.metrics()["log_loss"] == pytest.approx(-float(3 * logs[0] + logs[1]) / 4)
    assert found.weight.tolist() == [4, 0] and bool(found.log_z.isnan()[1]) and not bool(found.log_z.isnan()[0])
    repeated = Ragged.from_lists([[3, 3, 3, 5], []])
    assert likelihood_of(model, query, repeated).metrics()["log_loss"] == pytest.approx(found.metrics()["log_loss"])


def test_no_pair_has_no_perplexity():
    nothing = Likelihood(torch.zeros(3).double(), torch.zeros(3).double(), torch.full((3,), torch.nan).double())
    assert math.isnan(nothing.metrics()["perplexity"]) and nothing.calibration() == {}
    assert unigram_likelihood(torch.tensor([3, 1]), Ragged.from_lists([[]])).weight.tolist() == [0]


def test_a_model_of_no_numbers_is_an_error(runs, dataset):
    with pytest.raises(InputError, match="not a number"):
        likelihood_of(runs["dot"].model, torch.full((1, 8), torch.nan), Ragged.from_lists([[1]]))


def test_it_can_be_asked_of_pairs_too(tmp_path):
    data = ingest("planted:items=80,queries=30,pairs=600", tmp_path / "data")
    recommender = train(data, {"model": {"embedding_dim": 4}, "train": {"steps": 2}}, tmp_path / "run")
    usual = recommender.measure(metrics_at([5], ["recall"]))
    assert "perplexity" not in usual.metrics and usual.calibration == {}
    found = recommender.measure(metrics_at([5], ["recall"]), likelihood=True)
    assert found.metrics["recall@5"] == usual.metrics["recall@5"]
    model, truth = recommender.model, data.split("test")
    history = data.seen("test").take(torch.arange(data.num_queries)).long()
    logs = model.log_probability(model.query_vectors(Batch(torch.arange(data.num_queries), history)), truth.long())
    assert found.metrics["perplexity"] == pytest.approx(math.exp(-float(logs.double().mean())), rel=1e-4)
    assert found.num_queries == int((truth.lengths() > 0).sum())
    with_interval = found.with_intervals(100)
    low, high = with_interval.intervals["perplexity"]
    assert low < found.metrics["perplexity"] < high


def test_validation_goes_by_perplexity(runs, dataset, tmp_path):
    records = [json.loads(line) for line in (runs["dot"].run.path / "metrics.jsonl").read_text().splitlines()]
    measured = [record["valid"] for record in records if "valid" in record]
    assert list(measured[-1]) == ["perplexity", "recall@20", "ndcg@20"]
    whole = runs["dot"].measure([], "valid")
    sampled = train(dataset, settings("dot") | {"train": {"steps": 3, "batch": {"size": 64}}}, tmp_path / "all")
    last = json.loads((sampled.run.path / "metrics.jsonl").read_text().splitlines()[-2])["valid"]
    assert last["perplexity"] == pytest.approx(whole.metrics["perplexity"], rel=1e-4)
    assert sampled.run.manifest["result"]["best"] == pytest.approx(last["perplexity"])
    here = Position()
    assert [here.judge(value, 2, lower=True) for value in (9.0, 8.0, 8.5, 8.1)] == [True, True, False, False]
    assert here.best == 8.0 and here.stopped


def test_runs_of_text_can_be_compared(runs):
    names = ("dot", "hierarchical")
    found = compare_runs([runs[name].run.path for name in names], metrics=metrics_at([5], ["recall"]), resamples=100)
    assert [d.metric for d in found.differences] == ["log_loss", "recall@5"]
    assert "perplexity" in found.table()["metric"].to_list()


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"init": "spectral", "query": {"kind": "history"}}, "no such start"), ({"query": {"kind": "id"}}, "only once")],
)
def test_what_is_not_for_positions_is_refused(dataset, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        train(dataset, settings("dot") | {"model": changes}, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_command_line_needs_no_options(tmp_path, runs, dataset):
    def call(*arguments):
        result = CliRunner().invoke(app, list(map(str, arguments)))
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    run = runs["dot"].run.path
    found = call("evaluate", run, "--json")
    assert list(found["metrics"])[:3] == ["perplexity", "log_loss", "recall@1"]
    assert (
        set(found["calibration"]) == {"log_z_mean", "log_z_std", "log_z_constant"}
        and "perplexity" in found["popularity"]
    )
    only = call("evaluate", run, "--metric", "perplexity", "--max-queries", 20, "--json")
    assert set(only["metrics"]) == {"perplexity", "log_loss"} and only["num_queries"] == 20
    ranking = call("evaluate", run, "--metric", "recall", "-k", 3, "--json")
    assert list(ranking["metrics"]) == ["recall@3"]
    estimate = call("estimate", dataset.path, "--config", Path("configs/tiny/mf.toml"), "--set", "model.query.kind=history",
                    "--no-calibrate", "--json")  # fmt: skip
    assert estimate


def test_recommender_opens_without_its_dataset(runs):
    found = Recommender.load(runs["dot"].run.path)
    assert found.may_repeat and found.run.sequence.context == 3


def test_an_unknown_word_is_said_to_be_taken_for_one(runs, tmp_path, capsys):
    runs["dot"].retrieve(histories=[["w0", "never met"]], k=2)
    assert "1 unknown items of histories taken for the unknown word: never met" in capsys.readouterr().err
    path = tmp_path / "queries.jsonl"
    path.write_text('{"query_id": "a", "history": ["w1", "new"]}\n')
    arguments = ["retrieve", runs["dot"].run.path, "--queries", path, "-k", 3, "--out", tmp_path / "lists.parquet"]
    assert CliRunner().invoke(app, list(map(str, arguments))).exit_code == 0
    assert len(pl.read_parquet(tmp_path / "lists.parquet")) == 3
