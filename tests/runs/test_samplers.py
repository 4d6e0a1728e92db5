"""Samplers in a run: what they learn survives a resume bit for bit; lists from a file; hard negatives are mined."""

import json

import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from xclass.errors import ConfigError, DataError, InputError
from xclass.ingest.synthetic.pairs import PlantedModel
from xclass.queries.candidates import read_candidates
from xclass.runs.train import resolve_config, train_run
from xclass.training.build import build_model
from xclass.training.checkpoint.model_state import ModelState
from xclass.training.hard_negatives import hard_samplers, make_miner
from xclass.training.trainer import Trainer

TINY = {
    "model": {"embedding_dim": 8, "query": {"kind": "id"}},
    "train": {
        "epochs": 3,
        "learning_rate": 0.3,
        "checkpoint_every_s": 1e-9,  # after every step
        "batch": {"by": "query", "size": 64},
        "validation": {"queries": 50},
    },
}
LEARNED = {"kind": "learned-unigram", "num_sampled": 20}
UNIFORM = {"kind": "uniform", "num_sampled": 20}
SAMPLERS = {
    "learned": LEARNED,
    "learned, distinct": {**LEARNED, "replacement": False},
    "learned, tensorflow's counts": {**LEARNED, "replacement": False, "counts": "tensorflow"},
    "learned, window": {**LEARNED, "replacement": False, "window": 700},
    "learned, decay": {**LEARNED, "replacement": False, "decay": 0.8},
    "streaming": {"kind": "in-batch", "frequency": "streaming", "frequency_hashes": 2, "frequency_buckets": 60},
    "adaptive": {"kind": "adaptive", "num_sampled": 9, "proposal_rate": 0.4},
    "target": {"kind": "target", "num_sampled": 100},
    "hard": {"kind": "mixture", "parts": [{"kind": "hard", "depth": 12, "num_sampled": 5, "refresh_epochs": 2}, LEARNED]},
}  # fmt: skip


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("planted") / "dataset"
    return PlantedModel(num_items=120, num_queries=300, pairs=6_000, num_topics=6, seed=4).write_dataset(path)


def config(sampler, **changes):
    settings = [f"{key.replace('__', '.')}={json.dumps(value)}" for key, value in changes.items()]
    if sampler["kind"] == "adaptive":  # it goes by histories
        settings.append('model.query.kind="history"')
    return resolve_config({**TINY, "sampler": sampler}, settings)


def weights(run):
    return load_file(run / "model.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def stopped_and_resumed(dataset, settings, out, monkeypatch, at_step=8):
    """A run that dies in its second epoch and goes on; an epoch has five steps."""
    step = Trainer._step

    def dying(self, batch):
        if self.position.step == at_step:
            raise MemoryError
        return step(self, batch)

    monkeypatch.setattr(Trainer, "_step", dying)
    with pytest.raises(MemoryError):
        train_run(dataset, settings, out)
    monkeypatch.setattr(Trainer, "_step", step)
    return weights(train_run(dataset, settings, out, resume=True))


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_resumed_run_has_the_bits_of_an_undisturbed_one(dataset, tmp_path, monkeypatch, name):
    settings = config(SAMPLERS[name])
    whole = weights(train_run(dataset, settings, tmp_path / "whole"))
    assert same(stopped_and_resumed(dataset, settings, tmp_path / "resumed", monkeypatch), whole)


@pytest.mark.parametrize("name", ["learned", "streaming", "adaptive", "hard"])
def test_without_the_sampler_s_state_it_would_not(dataset, tmp_path, monkeypatch, name):
    settings = config(SAMPLERS[name])
    whole = weights(train_run(dataset, settings, tmp_path / "whole"))
    monkeypatch.setattr(ModelState, "load_sampler", lambda self, tensors: None)
    assert not same(stopped_and_resumed(dataset, settings, tmp_path / "resumed", monkeypatch), whole)


def write(path, rows):
    frame = pl.DataFrame(rows, schema=["query_id", "item_id"], orient="row")
    if path.suffix == ".parquet":
        frame.write_parquet(path)
    elif path.suffix == ".csv":
        frame.write_csv(path)
    else:
        lists = frame.group_by("query_id", maintain_order=True).agg(pl.col("item_id").alias("history"))
        path.write_text("".join(json.dumps(row) + "\n" for row in lists.to_dicts()))


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
def test_candidates_from_a_file(dataset, tmp_path, ending):
    queries, items = dataset.queries["query_id"].to_list(), dataset.items["item_id"].to_list()
    lists = {0: [5, 7, 100], 2: [3], 250: [1, 2]}
    path = tmp_path / f"lists.{ending}"
    write(path, [(queries[q], items[i]) for q, row in lists.items() for i in reversed(row)])
    settings = config({"kind": "given", "num_sampled": 0, "file": str(path)})
    model = build_model(settings, dataset, None, read_candidates=lambda file: read_candidates(file, dataset))
    found = model.head.sampler.candidates.to_lists()
    assert {q: sorted(row) for q, row in enumerate(found) if row} == lists
    train_run(dataset, config({"kind": "mixture", "parts": [settings.sampler.model_dump(), UNIFORM]}), tmp_path / "run")


def test_a_file_of_candidates_that_is_not_there(dataset, tmp_path):
    settings = config({"kind": "given", "num_sampled": 0, "file": str(tmp_path / "none.csv")})
    with pytest.raises(DataError, match="no such file"):
        train_run(dataset, settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("factory", [None, "Flat"])
def test_hard_negatives_are_the_best_items_that_are_no_positives(dataset, factory):
    if factory is not None:
        pytest.importorskip("faiss")
    hard = {"kind": "hard", "depth": 10, "num_sampled": 0, "refresh_epochs": 2, "factory": factory}
    settings = config({"kind": "mixture", "parts": [UNIFORM, hard]})
    train = dataset.split("train").long()
    model = build_model(settings, dataset, train)
    mine = make_miner(settings.sampler, train)
    (sampler,) = hard_samplers(model.head.sampler)
    mine(model, 0)
    scores = (
        model.tables["query"].weight @ model.item_vectors().tensor().T
    )  # ids' own vectors are normalised: the same order
    scores[train.rows(), train.values] = -torch.inf
    expected = scores.topk(10).indices
    for query in train.lengths().nonzero().squeeze(1).tolist():
        assert set(sampler.candidates.to_lists()[query]) == set(expected[query].tolist())
    first = sampler.candidates
    mine(model, 1)
    assert sampler.candidates is first
    mine(model, 2)
    assert sampler.candidates is not first


def test_what_a_sampler_cannot_do_is_said_before_training(dataset, tmp_path):
    with pytest.raises(InputError, match="num_sampled ≤ 120"):
        train_run(dataset, config({"kind": "uniform", "num_sampled": 121, "replacement": False}), tmp_path / "run")
    path = tmp_path / "weights.txt"
    path.write_text("1\n2\n3\n")
    with pytest.raises(ConfigError, match="120 weights"):
        train_run(dataset, config({"kind": "fixed-unigram", "file": str(path)}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
