"""Runs of scorers: trained, resumed, refused, searched and measured like any other run."""

import json
import shutil

import numpy as np
import polars as pl
import pytest
import torch

import xclass
import xclass.data.batches
from xclass.api import index_run
from xclass.batch.retrieve import Job, retrieve_to_file
from xclass.config import build_config
from xclass.errors import ArtefactError, ConfigError, InputError, Interrupted
from xclass.estimate import estimate
from xclass.index import IndexConfig
from xclass.ingest.ingest import ingest
from xclass.ingest.options import IngestOptions
from xclass.metrics import parse_metrics
from xclass.recommender import Recommender
from xclass.runs.inspect import describe
from xclass.runs.train import train_run
from xclass.runtime.rng import numpy_generator
from xclass.scorers import artifact
from xclass.training.run_config import RunConfig
from xclass.types import Ragged

LABELS, WORDS = 12, 40
BOTH = {"documents": {"scorers": ["linear", "neighbours"], "fusion": {"cut": 0.25}, "neighbours": {"k": 10}}}
PRECISION = parse_metrics(["precision@1"])


def write_documents(path, number, generator):
    """Three words of its label and two of any, a line a document."""
    lines = [f"{number} {WORDS} {LABELS}"]
    for _ in range(number):
        label = int(generator.integers(LABELS))
        words = {label * 3, label * 3 + 1, label * 3 + 2, *generator.integers(WORDS, size=2).tolist()}
        lines.append(f"{label} " + " ".join(f"{word}:{1 + word % 2}" for word in sorted(words)))
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("documents")
    (folder / "source").mkdir()
    generator = numpy_generator(0, "documents")
    write_documents(folder / "source" / "train.txt", 150, generator)
    write_documents(folder / "source" / "test.txt", 60, generator)
    ingest(str(folder / "source"), folder / "dataset", build_config(IngestOptions, {"format": "xmc"}))
    xclass.train(folder / "dataset", BOTH, folder / "run")
    return folder


@pytest.fixture
def recommender(place):
    return Recommender.load(place / "run")


def some_queries(recommender, number=4):
    test = recommender.dataset.split("test").lengths().nonzero().squeeze(1)[:number]
    return recommender.run.query_ids.gather(test.numpy()).to_list(), test


@pytest.mark.parametrize("scorers", [["linear"], ["neighbours"], ["linear", "neighbours"]], ids="+".join)
def test_each_alone_and_both_find_the_labels(place, tmp_path, scorers):
    run = xclass.train(place / "dataset", {"documents": {"scorers": scorers, "fusion": {"cut": 0.2}}}, tmp_path / "run")
    assert run.measure(PRECISION).metrics["precision@1"] > 0.9
    assert set(run.run.manifest["files"]) >= {f"{name}.safetensors" for name in scorers}
    assert "model.safetensors" not in run.run.manifest["files"]


def test_new_documents_get_the_lists_of_the_same_features(recommender):
    ids, numbers = some_queries(recommender)
    by_id = recommender.retrieve(query_ids=ids, k=3)
    features = {name: lists.take(numbers) for name, lists in recommender.dataset.query_features.items()}
    new = recommender.retrieve(features=features, k=3)
    assert by_id["item_id"].to_list() == new["item_id"].to_list()
    np.testing.assert_allclose(by_id["score"], new["score"], atol=1e-6)


def test_filters_hold(recommender):
    ids, _ = some_queries(recommender)
    best = recommender.retrieve(query_ids=ids, k=1)["item_id"].to_list()
    without = recommender.retrieve(query_ids=ids, k=3, exclude=best)
    assert not set(without["item_id"]) & set(best)
    own = recommender.retrieve(query_ids=ids, k=3, exclude=[[item] for item in best])
    second = recommender.retrieve(query_ids=ids, k=2).filter(pl.col("rank") == 2)["item_id"].to_list()
    assert own.filter(pl.col("rank") == 1)["item_id"].to_list() == second
    some = recommender.run.item_ids[:2].to_list()
    assert set(recommender.retrieve(query_ids=ids, k=3, candidates=some)["item_id"]) <= set(some)
    among = recommender.retrieve(query_ids=ids, k=2, candidates=[some] * len(ids))
    assert len(among) == 2 * len(ids) and set(among["item_id"]) == set(some)


def test_a_job_writes_the_same_lists(recommender, tmp_path):
    written = retrieve_to_file(recommender, tmp_path / "topk.parquet", Job(k=2))
    ids, _ = some_queries(recommender)
    lists = pl.read_parquet(tmp_path / "topk.parquet").filter(pl.col("query_id").is_in(ids))
    wanted = recommender.retrieve(query_ids=ids, k=2)
    assert lists.sort("query_id", "rank")["item_id"].to_list() == wanted.sort("query_id", "rank")["item_id"].to_list()
    assert written.counts.queries == recommender.run.num_queries


def test_the_same_seed_gives_the_same_files(place, tmp_path):
    again = xclass.train(place / "dataset", BOTH, tmp_path / "again")
    hashes = [Recommender.load(path).run.manifest["files"] for path in (place / "run", again.run.path)]
    for name in ("linear.safetensors", "neighbours.safetensors", "fusion.json"):
        assert hashes[0][name] == hashes[1][name]


def test_an_interrupted_run_goes_on_behind_what_is_finished(place, tmp_path, monkeypatch):
    def stop(*given):
        raise KeyboardInterrupt

    config = build_config(
        RunConfig, {"documents": {**BOTH["documents"], "fusion": {"weights": {"linear": 1, "neighbours": 1}}}}
    )
    dataset = xclass.open_dataset(place / "dataset")
    with monkeypatch.context() as patch:
        patch.setattr(artifact, "_linear", stop)
        with pytest.raises(Interrupted, match="kept"):
            train_run(dataset, config, tmp_path / "run")
    kept = (tmp_path / "run" / "neighbours.safetensors").stat().st_mtime_ns
    with pytest.raises(ArtefactError, match="not finished"):
        Recommender.load(tmp_path / "run")
    train_run(dataset, config, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "neighbours.safetensors").stat().st_mtime_ns == kept
    assert Recommender.load(tmp_path / "run").measure(PRECISION).metrics["precision@1"] > 0.9


def test_an_altered_scorer_is_refused(place, tmp_path):
    shutil.copytree(place / "run", tmp_path / "run")
    path = tmp_path / "run" / "linear.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtefactError, match="altered"):
        Recommender.load(tmp_path / "run")


def test_towers_join_with_given_weights_and_have_an_index(place, tmp_path):
    config = {
        "documents": {
            "scorers": ["towers", "linear", "neighbours"],
            "fusion": {"weights": {"towers": 0.5, "linear": 1.0, "neighbours": 1.0}},
        },
        "model": {"embedding_dim": 8, "query": {"kind": "features"}},
        "sampler": {"num_sampled": 8},
        "train": {"epochs": 2, "batch": {"by": "query", "size": 32}},
    }
    run = xclass.train(place / "dataset", config, tmp_path / "run")
    assert {"model.safetensors", "linear.safetensors", "fusion.json"} <= set(run.run.manifest["files"])
    assert run.measure(PRECISION).metrics["precision@1"] > 0.9
    index_run(run, IndexConfig(kind="exact"), 0.9, 5)
    again = Recommender.load(tmp_path / "run")
    measured = again.measure(PRECISION)
    assert measured.index_recall["index_recall@1"] == 1.0
    ids, numbers = some_queries(again, 1)
    alone = again.retrieve(query_ids=ids, k=LABELS)
    batch = next(
        iter(
            xclass.data.batches.inference_batches(again.dataset.seen("test"), numbers, 1, again.dataset.query_features)
        )
    )
    towers = again.model.query_vectors(batch) @ again.item_vectors.tensor().T
    item = again.item_map.numbers(alone["item_id"])
    fusion, _ = again.run.load_scorers()
    both = fusion.suggest(batch.features["features"], among=Ragged.from_lists([list(range(LABELS))]))
    wanted = 0.5 * towers[0, item] + (both.scores["linear"] + both.scores["neighbours"])[item]
    np.testing.assert_allclose(alone["score"], wanted.numpy(), atol=1e-4)


def test_what_does_not_go_is_said(place, recommender, tmp_path):
    with pytest.raises(InputError, match="no item vectors"):
        index_run(recommender, IndexConfig(), 0.9, 5)
    with pytest.raises(InputError, match="without the features"):
        recommender.retrieve(features={"other": Ragged.from_lists([[1]], [[1.0]])}, k=1)
    with pytest.raises(ConfigError, match="don't grow"):
        xclass.train(place / "dataset", BOTH, place / "run", resume=True, grow_vocab=True)
    with pytest.raises(ConfigError, match="need features"):
        xclass.train(place / "dataset", {"documents": {**BOTH["documents"], "features": "text"}}, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "documents",
    [
        {"scorers": []},
        {"scorers": ["linear", "linear"]},
        {"scorers": ["linear"], "linear": {"search": "shortlist"}},
        {"scorers": ["linear", "neighbours"], "fusion": {"cut": 0.0}},
        {"scorers": ["linear", "neighbours"], "fusion": {"weights": {"linear": 1.0}}},
    ],
)
def test_scorers_that_do_not_fit_are_refused(documents):
    with pytest.raises(ConfigError):
        build_config(RunConfig, {"documents": documents})


def test_inspect_and_estimate_know_it(place, tmp_path):
    found = describe(place / "run")
    assert found["scorers"]["fusion"]["chosen_on"] == "25% of train" and found["scorers"]["documents"] == 150
    config = build_config(RunConfig, BOTH)
    said = estimate(xclass.open_dataset(place / "dataset"), config, torch.device("cpu"), tmp_path, calibration=True)
    names = set(said.to_json()["memory"]["components"])
    assert {"neighbours: inverted index", "linear: weights at work"} <= names
    assert not any(name.startswith("table ") for name in names) and said.verdict.answer == "fits"
    assert json.loads((place / "run" / "fusion.json").read_text())["weights"].keys() == {"linear", "neighbours"}
