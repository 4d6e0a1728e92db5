"""What people read where something is missing or was interrupted, and what objects say of themselves."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

import xclass
from xclass.cli import main
from xclass.comparison.compare import compare_runs
from xclass.data.dataset import Dataset
from xclass.errors import ConfigError, InputError
from xclass.estimate import Cluster
from xclass.index.checks import checked_k
from xclass.ingest.ingest import ingest
from xclass.ingest.options import IngestOptions
from xclass.ingest.synthetic.pairs import PlantedModel
from xclass.metrics import parse_metric, parse_metrics
from xclass.recommender import Recommender
from xclass.training import trainer

CONFIG = "[model]\nembedding_dim = 4\n[train]\nepochs = 3\n[train.batch]\nsize = 64\n"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    model = PlantedModel(num_items=40, num_queries=50, pairs=500, num_topics=4, seed=0)
    return model.write_dataset(tmp_path_factory.mktemp("messages") / "dataset")


@pytest.fixture(scope="module")
def run(dataset: Dataset) -> Recommender:
    return xclass.train(dataset, {"model": {"embedding_dim": 4}, "train": {"epochs": 1}}, dataset.path.parent / "run")


def stopping(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """SIGTERM arrives once, at this step."""
    whole, sent = trainer.Trainer._step, list[int]()

    def taken(self: Any, ready: Any) -> int:
        if self.position.step == step and not sent:
            sent.append(step)
            signal.raise_signal(signal.SIGTERM)
        return whole(self, ready)

    monkeypatch.setattr(trainer.Trainer, "_step", taken)


def test_an_interrupted_comparison_says_the_command_that_goes_on(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.toml").write_text(CONFIG)
    (tmp_path / "b.toml").write_text(CONFIG.replace("= 4", "= 6"))
    command = ["compare", str(dataset.path), "--config", str(tmp_path / "a.toml"), "--config", str(tmp_path / "b.toml")]
    stopping(monkeypatch, 5)
    assert main([*command, "--out", str(tmp_path / "out")]) == 3
    said = capfd.readouterr().err
    assert "--resume" not in said and "do: run the same command again: xclass compare" in said
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    assert "resuming from step" in capfd.readouterr().err
    stopping(monkeypatch, 5)
    assert main(command) == 3
    assert "--out DIRECTORY" in capfd.readouterr().err


def test_an_interrupted_demonstration_does_not_speak_of_resuming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    stopping(monkeypatch, 2)
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 3
    said = capfd.readouterr().err
    assert "--resume" not in said and f"remove {tmp_path / 'demo'}" in said


def test_a_dataset_without_a_valid_split_is_announced(
    dataset: Dataset, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pairs.csv").write_text("user_id,item_id\n" + "".join(f"u{n % 9},i{n % 7}\n" for n in range(60)))
    options = IngestOptions(split="random", test_fraction=0.2, valid_fraction=0)
    without = ingest(tmp_path / "pairs.csv", tmp_path / "dataset", options)
    small = {"model": {"embedding_dim": 4}, "train": {"epochs": 1}}
    xclass.train(without, small, tmp_path / "run")
    assert "no valid split" in capfd.readouterr().err
    xclass.train(dataset, small, tmp_path / "other")
    assert "no valid split" not in capfd.readouterr().err


def test_objects_say_what_they_are_in_one_line(run: Recommender) -> None:
    evaluation = run.measure(parse_metrics(["recall@5"]))
    comparison = compare_runs([run.run.path, run.run.path], metrics=parse_metrics(["recall@5"]), resamples=100)
    assert "recall@5 0." in repr(evaluation) and "queries" in repr(comparison)
    assert "40 × 4" in repr(run.item_vectors) and "50 queries, 40 items" in repr(run.run)
    assert all(len(repr(each)) < 400 and "\n" not in repr(each) for each in (evaluation, comparison))


def test_advice_names_the_option_and_the_argument(run: Recommender) -> None:
    with pytest.raises(xclass.errors.ArtefactError, match=r"--resume, in Python resume=True"):
        xclass.train(run.dataset, {}, run.run.path)


@pytest.mark.parametrize("wrong", [{"ranks": 2**31}, {"ranks": 0}, {"cores": float("nan")}, {"cores": float("inf")}])
@pytest.mark.parametrize("rate", [1.0, 0.0, float("nan"), float("inf"), -1.0, 1e300])
def test_ranks_that_can_not_be(wrong: dict[str, Any], rate: float) -> None:
    plain: dict[str, Any] = {"ranks": 2, "device_bytes": None, "bytes_per_s": 1e9, "latency_s": 1e-5}
    with pytest.raises(ConfigError, match="such ranks can't be"):
        Cluster(**plain | wrong)
    if rate != 1.0:
        with pytest.raises(ConfigError, match="such ranks can't be"):
            Cluster(**plain | {"bytes_per_s": rate})


def test_lists_longer_than_any_catalogue() -> None:
    with pytest.raises(InputError, match="k is too large"):
        checked_k(2**31)
    with pytest.raises(InputError, match="cut-off"):
        parse_metric("recall@9223372036854775807")
    with pytest.raises(InputError, match="cut-off"):
        parse_metric("recall@" + "9" * 5000)
