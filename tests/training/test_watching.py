"""What people see of a run: the line of progress, a function after each validation, TensorBoard."""

from __future__ import annotations

import json
import sys

import pytest

import xclass
from xclass.errors import ConfigError
from xclass.ingest.synthetic.pairs import PlantedModel
from xclass.runs.directory import RunDirectory
from xclass.runs.train import resolve_config, train_run
from xclass.training import trainer
from xclass.training.tensorboard import scalars

CONFIG = {
    "model": {"embedding_dim": 8},
    "sampler": {"num_sampled": 64},
    "train": {
        "epochs": 4,
        "learning_rate": 0.3,
        "checkpoint_every_s": 0,
        "batch": {"by": "query", "size": 64},
        "validation": {"queries": 100},
    },
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    model = PlantedModel(num_items=200, num_queries=400, pairs=8000, num_topics=8, seed=3)
    return model.write_dataset(tmp_path_factory.mktemp("watching") / "dataset")


def records(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_function_sees_each_validation_and_may_end_training(dataset, tmp_path):
    seen = []

    def watch(step, metrics):
        seen.append((step, metrics))
        return len(seen) == 2

    recommender = xclass.train(dataset, CONFIG, tmp_path / "run", on_validation=watch)
    written = [(record["step"], record["valid"]) for record in records(tmp_path / "run") if "valid" in record]
    assert seen == written and len(seen) == 2
    assert recommender.run.manifest["result"]["epochs"] == 2


@pytest.mark.parametrize("answer", [None, False])
def test_an_answer_that_is_not_true_lets_training_go_on(dataset, tmp_path, answer):
    seen = []
    xclass.train(dataset, CONFIG, tmp_path / "run", on_validation=lambda step, metrics: seen.append(step) or answer)
    assert len(seen) == 4


def test_what_the_function_does_to_the_metrics_stays_with_it(dataset, tmp_path):
    xclass.train(dataset, CONFIG, tmp_path / "run", on_validation=lambda step, metrics: metrics.clear())
    assert all("recall@20" in record["valid"] for record in records(tmp_path / "run") if "valid" in record)


def test_what_the_function_raises_ends_a_run_that_can_be_resumed(dataset, tmp_path):
    whole = RunDirectory(train_run(dataset, resolve_config(CONFIG), tmp_path / "whole"))

    def fail(step, metrics):
        raise KeyError("of mine")

    with pytest.raises(KeyError, match="of mine"):
        xclass.train(dataset, CONFIG, tmp_path / "run", on_validation=fail)
    resumed = RunDirectory(train_run(dataset, resolve_config(CONFIG), tmp_path / "run", resume=True))
    assert resumed.model_hash == whole.model_hash


def test_progress_tells_rate_time_left_loss_and_the_validation_metric(dataset, tmp_path, monkeypatch):
    lines = []

    def advance(self, count=1, note=None):
        self.done, self.note = self.done + count, note
        lines.append(self.line())

    monkeypatch.setattr(trainer.Progress, "advance", advance)
    train_run(dataset, resolve_config(CONFIG), tmp_path / "run")
    assert all("positives/s" in line and " left, loss " in line for line in lines)
    assert "recall@20" not in lines[0] and "recall@20" in lines[-1]
    assert lines[-1].startswith("train: ") and "(100%)" in lines[-1]


def test_records_have_the_learning_rate_and_the_time(dataset, tmp_path):
    *steps, end = records(train_run(dataset, resolve_config(CONFIG), tmp_path / "run"))
    rates, times = [record["learning_rate"] for record in steps], [record["train_s"] for record in steps]
    assert 0.3 > rates[0] > rates[-1] >= 0 and times == sorted(times) and times[0] > 0
    assert end["train_s"] == pytest.approx(times[-1], abs=1e-3)


def test_tensorboard_that_is_missing_is_said_before_anything_is_written(dataset, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ConfigError, match=r"train\.tensorboard(.|\n)*pip install 'xclass\[tensorboard\]'"):
        train_run(dataset, resolve_config(CONFIG, ["train.tensorboard=true"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def curves(folder):
    """Tag → [(step, value)] as TensorBoard reads them."""
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader", reason="needs tensorboard")
    found = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for event in loader.LegacyEventFileLoader(str(path)).Load():
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_tensorboard_shows_what_metrics_jsonl_holds_once_also_after_a_resume(dataset, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard", reason="needs tensorboard: pip install 'xclass[tensorboard]'")
    settings = resolve_config(CONFIG, ["train.tensorboard=true"])
    step = trainer.Trainer._step

    def dying(self, batch, *rest):
        if self.position.step == 20:
            raise MemoryError
        return step(self, batch, *rest)

    monkeypatch.setattr(trainer.Trainer, "_step", dying)
    with pytest.raises(MemoryError):
        train_run(dataset, settings, tmp_path / "run")
    monkeypatch.setattr(trainer.Trainer, "_step", step)
    run = train_run(dataset, settings, tmp_path / "run", resume=True)
    wanted = {}
    for record in records(run)[:-1]:
        for tag, value in scalars(record):
            wanted.setdefault(tag, []).append((record["step"], pytest.approx(value, rel=1e-6)))
    found = curves(run / "tensorboard")
    assert found == wanted
    assert {"train/loss", "train/learning_rate", "phase_ms/push", "train/rss_bytes", "valid/recall@20"} <= set(found)
    assert "collapse/query_effective_rank" in found and "train/positives_per_s" in found


def test_no_folder_without_being_asked(dataset, tmp_path):
    assert not (train_run(dataset, resolve_config(CONFIG), tmp_path / "run") / "tensorboard").exists()
