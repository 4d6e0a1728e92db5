"""The calibration: a small cut that looks like the whole, every sampler and tower, and what it leaves behind."""

from __future__ import annotations

import json

import pytest
import torch

from xclass.cli import main
from xclass.errors import Interrupted
from xclass.estimate import calibration, estimate
from xclass.estimate.calibration import calibrate
from xclass.estimate.sample import random_lists, shrink
from xclass.ingest.synthetic.pairs import PlantedModel
from xclass.runs.train import resolve_config, train_run
from xclass.training import Trainer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    model = PlantedModel(num_items=2000, num_queries=3000, pairs=60_000, num_topics=8, seed=3)
    return model.write_dataset(tmp_path_factory.mktemp("time") / "dataset")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(calibration, "TIMED_S", 0.1)
    monkeypatch.setattr(calibration, "PIECE_S", 0.01)


def config(**changes):
    model = {"embedding_dim": 8, **changes.pop("model", {})}
    train = {"batch": {"size": 256}, "validation": {"queries": 50}, **changes.pop("train", {})}
    return resolve_config({"model": model, "sampler": {"num_sampled": 32}, "train": train, **changes})


def test_a_cut_is_whole_queries_from_everywhere_with_folded_items(dataset):
    train, valid = dataset.split("train"), dataset.split("valid")
    few = shrink(dataset, 500, 300)
    assert (few.num_queries, few.num_items, len(few.train), len(few.valid)) == (500, 300, 500, 500)
    assert int(few.train.values.max()) < 300 and few.train.values.dtype == train.values.dtype
    lists = {tuple(item % 300 for item in row) for row in train.to_lists()}
    assert all(tuple(row) in lists for row in few.train.to_lists())
    assert few.train.to_lists()[0] == [item % 300 for item in train.to_lists()[0]]
    assert few.train.to_lists()[-1] == [item % 300 for item in train.to_lists()[-1]]
    assert int((few.valid.lengths() > 0).sum()) == min(256, int((valid.lengths() > 0).sum()))
    assert bool((few.item_counts.diff() <= 0).all()) and int(few.item_counts.sum()) == len(few.train.values)


def test_a_cut_of_a_small_dataset_is_all_of_it(dataset):
    few = shrink(dataset, 10**6, 10**6)
    assert torch.equal(few.train.values, dataset.split("train").values)
    assert few.num_items == dataset.num_items and few.num_queries == dataset.num_queries


def test_random_lists_have_no_repeats():
    lists = random_lists(50, 30, 100)
    assert all(len(set(row)) == len(row) == 30 and max(row) < 30 for row in lists.to_lists())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sampler": {"kind": "fixed-unigram", "num_sampled": 64, "replacement": False}},
        {"sampler": {"kind": "log-uniform", "num_sampled": 64}},
        {"sampler": {"kind": "learned-unigram", "num_sampled": 64}},
        {"sampler": {"kind": "given", "num_sampled": 5, "file": "not-read.csv"}},
        {"sampler": {"kind": "mixture", "parts": [{"kind": "hard", "num_sampled": 5}, {"kind": "uniform"}]}},
        {"sampler": {"kind": "all"}, "loss": {"kind": "full-softmax"}},
        {"sampler": {"kind": "in-batch"}, "model": {"query": {"kind": "id+history"}, "item": {"hidden": [8]}}},
        {"model": {"init": "spectral"}, "optimizer": "adam", "tables": {"storage": "mapped", "dtype": "bfloat16"}},
        {"train": {"batch": {"by": "query", "size": 64}, "learning_rate": 1e6}},
    ],
    ids=lambda changes: json.dumps(changes)[:60],
)
def test_every_kind_of_run_can_be_calibrated(dataset, tmp_path, changes):
    found = calibrate(dataset, config(**changes), CPU, tmp_path)
    assert found.steps >= 4 and found.step_s > 0 and found.positives_per_s > 0
    assert set(found.phase_ms) == {"load", "sample", "pull", "loss", "push"}
    assert found.table_bytes_per_s > 0 and found.write_bytes_per_s > 0 and found.validation_s_per_pair > 0
    assert (found.spectral_s > 0) == ("init" in changes.get("model", {}))
    assert list(tmp_path.iterdir()) == []


def test_tables_are_cut_to_what_fits(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "TABLE_BYTES", 40_000)
    built = []
    build = calibration.build_model
    monkeypatch.setattr(
        calibration, "build_model", lambda *args, **rest: built.append(build(*args, **rest)) or built[-1]
    )
    found = calibrate(dataset, config(model={"query": {"kind": "id"}}), CPU, tmp_path)
    size = sum(tensor.nbytes for table in built[0].tables.values() for tensor in table.tensors().values())
    assert size <= 44_000 and found.items < dataset.num_items and found.queries < dataset.num_queries


def test_it_does_not_say_what_training_would_say(dataset, tmp_path, capsys):
    calibrate(dataset, config(), CPU, tmp_path)
    said = capsys.readouterr().err
    assert "train:" not in said and "epoch" not in said


def test_an_interruption_leaves_nothing(dataset, tmp_path, monkeypatch):
    def stopped(self):
        raise Interrupted("stopped", "resume")

    monkeypatch.setattr(Trainer, "run", stopped)
    with pytest.raises(KeyboardInterrupt):
        calibrate(dataset, config(), CPU, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_steps_epochs_and_the_sum_of_times(dataset, tmp_path):
    settings = config(train={"epochs": 6, "batch": {"size": 256}, "validation": {"queries": 50, "every_epochs": 4}})
    found = estimate(dataset, settings, CPU, tmp_path / "run")
    pairs = len(dataset.split("train").values)
    assert found.steps == 6 * -(-pairs // 256) and found.positives == 6 * pairs
    times = found.time_s
    assert times["train_s"] == pytest.approx(found.steps * times["step_s"])
    assert times["epoch_s"] == pytest.approx(times["train_s"] / 6)
    several = 2 * times["validation_s"] + 3 * times["checkpoint_s"]  # two validations, each the best, and the last
    assert times["total_s"] == pytest.approx(times["start_s"] + times["train_s"] + several + times["finish_s"])
    fewer = estimate(dataset, resolve_config(settings, ["train.steps=10"]), CPU, tmp_path / "run", calibration=False)
    assert fewer.steps == 10 and fewer.positives < found.positives and fewer.time_s is None
    none = estimate(dataset, resolve_config(settings, ["train.epochs=0"]), CPU, tmp_path / "run")
    assert none.steps == 0 and none.time_s is None


def test_measured_batches_take_the_place_of_guessed_ones(dataset, tmp_path):
    found = estimate(dataset, config(), CPU, tmp_path / "run")
    batches = [part for part in found.parts if part.component == "batch: rows, gradients, blocks"]
    assert [part.bytes for part in batches] == [found.rates.batch_bytes]
    assert not [part for part in found.parts if part.component.startswith("loader")]


def test_the_order_of_magnitude_is_that_of_a_real_run(dataset, tmp_path, monkeypatch):
    """Not a test of speed: an estimate that is ten times off on a quiet machine is a wrong formula."""
    monkeypatch.setattr(calibration, "TIMED_S", 0.5)
    settings = config(train={"epochs": 4, "batch": {"size": 512}, "validation": {"queries": 50}})
    found = estimate(dataset, settings, CPU, tmp_path / "run")
    run = train_run(dataset, settings, tmp_path / "run")
    end = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert 0.1 < found.time_s["train_s"] / end["train_s"] < 10


def test_the_command_prints_times(dataset, tmp_path, capsys):
    (tmp_path / "config.toml").write_text("[model]\nembedding_dim = 8\n")
    arguments = ["estimate", str(dataset.path), "--config", str(tmp_path / "config.toml"), "--device", "cpu"]
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr()
    assert "positives/s" in printed.out and "total, all epochs" in printed.out and "calibrating" in printed.err
    assert list(tmp_path.iterdir()) == [tmp_path / "config.toml"]
