"""[tables] in a whole run: every type and place trains, resumes bit for bit and is opened again."""

import json

import pytest
import torch
from safetensors.torch import load_file

from xclass.errors import ConfigError
from xclass.ingest.synthetic.pairs import PlantedModel, best_recall
from xclass.runs.directory import RunDirectory
from xclass.runs.train import resolve_config, train_run
from xclass.training.build import build_model
from xclass.training.trainer import Trainer

PLAIN = {
    "model": {"embedding_dim": 16, "normalize": False, "temperature": 1.0},
    "sampler": {"num_sampled": 64},
    "train": {
        "epochs": 3,
        "learning_rate": 0.3,
        "checkpoint_every_s": 0,
        "batch": {"by": "query", "size": 64},
        "validation": {"queries": 200, "keep_best": False},
    },
}
HALF = {"dtype": "bfloat16"}
DECAYING = {"weight_decay": 0.02, "clip_norm": 0.05}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("planted") / "dataset"
    return PlantedModel(num_items=300, num_queries=600, pairs=12_000, num_topics=8, seed=3).write_dataset(path)


def config(tables, **changes):
    overrides = [f"{key.replace('__', '.')}={json.dumps(value)}" for key, value in changes.items()]
    return resolve_config({**PLAIN, "tables": tables}, overrides)


def weights(run):
    return load_file(run / "model.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def reached(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return max(line["valid"]["recall@20"] for line in lines if "valid" in line)


@pytest.mark.parametrize("tables", [HALF, DECAYING, HALF | DECAYING, HALF | DECAYING | {"storage": "mapped"}])
@pytest.mark.parametrize("optimizer", ["adagrad", "adam"])
def test_a_resumed_run_has_the_bits_of_an_undisturbed_one(dataset, tmp_path, monkeypatch, tables, optimizer):
    settings = config(tables, optimizer=optimizer, **({"train__learning_rate": 0.03} if optimizer == "adam" else {}))
    whole, out, step = train_run(dataset, settings, tmp_path / "whole"), tmp_path / "stopped", Trainer._step

    def dying(self, ready):
        if self.position.step == 15:
            raise MemoryError
        return step(self, ready)

    monkeypatch.setattr(Trainer, "_step", dying)
    with pytest.raises(MemoryError):
        train_run(dataset, settings, out)
    monkeypatch.setattr(Trainer, "_step", step)
    train_run(dataset, settings, out, resume=True)
    assert same(weights(out), weights(whole))
    assert reached(whole) > 0.6 * best_recall(dataset, 20, "valid")


def test_rows_in_files_or_host_memory_end_in_the_same_bits(dataset, tmp_path):
    runs = [train_run(dataset, config({"storage": kind}), tmp_path / kind) for kind in ("device", "host", "mapped")]
    assert same(weights(runs[0]), weights(runs[1])) and same(weights(runs[0]), weights(runs[2]))
    assert not (runs[2] / "tables").exists()


def test_a_finished_run_holds_its_type_and_keeps_no_state(dataset, tmp_path):
    run = RunDirectory(train_run(dataset, config(HALF | DECAYING | {"storage": "mapped"}), tmp_path / "run"))
    assert {value.dtype for name, value in weights(run.path).items() if "table" in name} == {torch.bfloat16}
    model = run.load_model()
    for name, table in model.tables.items():
        assert set(table.tensors()) == {"weight"} and torch.equal(
            table.weight, weights(run.path)[f"table.{name}.weight"]
        )
    assert model.item_vectors().read(0, 5).dtype == torch.float32


def test_weight_decay_shrinks_every_row_as_the_schedule_says(dataset, tmp_path):
    """Gradients clipped to next to nothing: what is left is the product of 1 − rate · weight_decay over all steps."""
    tables = {"weight_decay": 0.1, "clip_norm": 1e-12}
    schedule = {"train__schedule__kind": "linear", "train__schedule__warmup_steps": 5, "train__schedule__final": 0.1}
    settings = config(tables, optimizer="sgd", **schedule)
    run = train_run(dataset, settings, tmp_path / "run")
    steps = RunDirectory(run).manifest["result"]["steps"]
    product = 1.0
    for step in range(steps):
        share = (step + 1) / 5 if step < 5 else 0.1 + 0.9 * (1 - (step - 5) / (steps - 5))
        product *= 1 - 0.3 * share * 0.1
    start = build_model(settings, dataset, None).tables
    for name, table in start.items():
        torch.testing.assert_close(weights(run)[f"table.{name}.weight"], table.weight * product, rtol=1e-5, atol=1e-9)


def test_a_spectral_start_is_rounded_to_nearest(dataset):
    settings = [config(tables, model__init="spectral", model__normalize=True) for tables in ({}, HALF)]
    train = dataset.split("train")
    exact, half = (build_model(each, dataset, train).tables for each in settings)
    for name in ("item", "history"):
        assert torch.equal(half[name].weight, exact[name].weight.bfloat16())


def test_decay_that_leaves_nothing_of_a_row_is_refused():
    with pytest.raises(ConfigError, match="must be below 1"):
        config({"weight_decay": 4.0})
    with pytest.raises(ConfigError, match="storage"):
        config({"storage": "cloud"})
