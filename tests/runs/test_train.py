"""Training end to end on planted data: it learns, it resumes bit for bit, and every way to go wrong says what to do."""

import itertools
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from xclass.config import to_toml
from xclass.data.dataset import open_dataset
from xclass.errors import ArtefactError, ConfigError, XclassError
from xclass.ingest.synthetic.pairs import PlantedModel, best_recall
from xclass.runs.directory import RunDirectory
from xclass.runs.train import resolve_config, train_run
from xclass.training import trainer
from xclass.training.checkpoint.store import CheckpointStore
from xclass.training.run_config import RunConfig

TINY = {
    "model": {
        "embedding_dim": 16,
        "normalize": False,
        "temperature": 1.0,
        "query": {"kind": "history", "hidden": [16]},
    },
    "sampler": {"num_sampled": 128},
    "train": {
        "epochs": 4,
        "learning_rate": 0.3,
        "checkpoint_every_s": 0,
        "batch": {"by": "query", "size": 64},
        "validation": {"queries": 400},
    },
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("planted") / "dataset"
    return PlantedModel(num_items=300, num_queries=1000, pairs=25_000, num_topics=8, seed=3).write_dataset(path)


def config(**changes):
    return resolve_config(TINY, [f"{key.replace('__', '.')}={json.dumps(value)}" for key, value in changes.items()])


def weights(run):
    return load_file(run / "model.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def records(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_it_learns_what_was_planted(dataset, tmp_path):
    run = train_run(dataset, config(train__epochs=8), tmp_path / "run")
    reached = [record["valid"]["recall@20"] for record in records(run) if "valid" in record]
    assert reached[-1] > reached[0]
    assert max(reached) > 0.8 * best_recall(dataset, 20, "valid")


def test_records_and_manifest(dataset, tmp_path):
    run = train_run(dataset, config(), tmp_path / "run")
    *steps, end = records(run)
    assert [record["epoch"] for record in steps] == [1, 2, 3, 4]
    for record in steps:
        assert {"step", "epoch", "loss", "positives_per_s", "phase_ms", "rss_bytes", "valid"} <= set(record)
        assert list(record["phase_ms"]) == ["load", "sample", "pull", "loss", "push"]
        assert sum(record["phase_share"].values()) == pytest.approx(1.0, abs=1e-3)
    for phase, ms in end["phase_ms"].items():
        assert ms == pytest.approx(statistics.mean(record["phase_ms"][phase] for record in steps), rel=1e-2, abs=1e-3)
    assert end["event"] == "end" and end["step"] == steps[-1]["step"] == 4 * 16
    assert end["positives"] == RunDirectory(run).manifest["result"]["positives"] > 0
    assert RunDirectory(run).config == config()
    model = RunDirectory(run).load_model()
    torch.testing.assert_close(model.tables["item"].weight, weights(run)["table.item.weight"])


def test_same_seed_same_bits_and_other_seed_other_bits(dataset, tmp_path):
    first, second, third = (
        weights(train_run(dataset, config(train__epochs=1, train__seed=seed), tmp_path / str(number)))
        for number, seed in enumerate([0, 0, 1])
    )
    assert same(first, second) and not same(first, third)


@pytest.mark.parametrize("by", ["pair", "query"])
@pytest.mark.parametrize("kind", ["id", "history", "id+history"])
def test_every_tower_and_cut_goes_downhill(dataset, tmp_path, by, kind):
    settings = config(
        model__query__kind=kind, train__batch__by=by, train__batch__size=512 if by == "pair" else 64, train__epochs=2
    )
    losses = [record["loss"] for record in records(train_run(dataset, settings, tmp_path / "run")) if "loss" in record]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    "sampler", [{"kind": "log-uniform"}, {"kind": "fixed-unigram"}, {"kind": "in-batch"}, {"kind": "all"}]
)
def test_every_sampler_trains(dataset, tmp_path, sampler):
    values = {**TINY, "sampler": sampler, "train": {**TINY["train"], "epochs": 2}}
    losses = [
        record["loss"]
        for record in records(train_run(dataset, resolve_config(values), tmp_path / "run"))
        if "loss" in record
    ]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"model.query.share_item_table": "true"},
        {"model.item.hidden": "[8]"},
        {"optimizer": '"rmsprop"', "train.learning_rate": "0.03"},
        {"optimizer": '"sgd"', "train.learning_rate": "30.0"},
        {"loss.positive_in_denominator": "false", "loss.denominator_power": "1.2"},
        {
            "loss.subtract_log_q": "false",
            "loss.remove_known_positives": "false",
            "loss.remove_accidental_hits": "false",
        },
        {"product_dtype": '"bfloat16"', "train.schedule.warmup_steps": "5"},
        {"train.batch.positives_per_query": "3"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_every_switch_trains(dataset, tmp_path, changes):
    """Recall becomes more than twice that of the untrained model, which ranks at random."""
    settings = resolve_config(TINY, [f"{key}={value}" for key, value in changes.items()])
    run = train_run(dataset, settings, tmp_path / "run")
    untrained = train_run(dataset, config(train__epochs=0), tmp_path / "untrained")
    assert records(run)[-2]["valid"]["recall@20"] > 2 * records(untrained)[0]["valid"]["recall@20"]
    assert RunDirectory(run).load_model().item_vectors().tensor().shape == (300, 16)


@pytest.mark.parametrize(
    "changes",
    [
        ["loss.kind=full-softmax"],
        ["loss.kind=full-softmax", "sampler.kind=all", "loss.denominator_power=1.2"],
        ["sampler.kind=mixture"],
        ["model.init=spectral", "model.query.kind=id"],
        ["model.init=spectral", "model.embedding_dim=301"],
    ],
)
def test_what_does_not_fit_together_is_refused_and_leaves_nothing(dataset, tmp_path, changes):
    with pytest.raises(XclassError):
        train_run(dataset, resolve_config(TINY, changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_sampled_loss_over_all_items_trains_like_the_full_softmax(dataset, tmp_path):
    """One positive per row, nothing else masked: the two losses are the same number, so the two runs are too."""
    runs = {}
    for kind in ("sampled-softmax", "full-softmax"):
        values = {**TINY, "sampler": {"kind": "all"}, "loss": {"kind": kind, "remove_known_positives": False}}
        values["train"] = {**TINY["train"], "batch": {"by": "pair", "size": 256}, "steps": 10}
        runs[kind] = weights(train_run(dataset, resolve_config(values), tmp_path / kind))
    for name, value in runs["full-softmax"].items():
        torch.testing.assert_close(runs["sampled-softmax"][name], value, rtol=1e-3, atol=1e-4)


def test_a_spectral_start_is_usable_without_training(dataset, tmp_path):
    values = {"model": {"embedding_dim": 16, "normalize": False, "init": "spectral"}, "train": {"epochs": 0}}
    for weighting in ("mean", "degree"):
        values["model"]["query"] = {"history_weights": weighting}
        run = train_run(dataset, resolve_config(values), tmp_path / weighting)
        assert records(run)[0]["valid"]["recall@20"] > 0.6 * best_recall(dataset, 20, "valid")
    mean, degree = (records(tmp_path / name)[0]["valid"] for name in ("mean", "degree"))
    assert mean == pytest.approx(degree, abs=1e-3)


def test_early_stopping_keeps_the_best_weights(dataset, tmp_path):
    """A learning rate far too high makes later epochs worse."""
    settings = config(
        train__epochs=30, train__learning_rate=5.0, train__validation__patience=2, train__schedule__kind="constant"
    )
    run = train_run(dataset, settings, tmp_path / "run")
    result = RunDirectory(run).manifest["result"]
    reached = {record["step"]: record["valid"]["recall@20"] for record in records(run) if "valid" in record}
    assert len(reached) < 30 and result["best"] == max(reached.values()) and result["best_step"] < result["steps"]
    shorter = config(
        train__epochs=30, train__learning_rate=5.0, train__schedule__kind="constant", train__steps=result["best_step"]
    )
    assert same(weights(run), weights(train_run(dataset, shorter, tmp_path / "shorter")))


SCRIPT = """
import sys, time
import xclass.training.trainer as loop
from xclass.data.dataset import open_dataset
from xclass.errors import Interrupted
from xclass.runs.train import resolve_config, train_run
step = loop.Trainer._step
def slow(self, batch):
    time.sleep(0.01)
    return step(self, batch)
loop.Trainer._step = slow
try:
    train_run(open_dataset(sys.argv[1]), resolve_config(sys.argv[2]), sys.argv[3], resume=True)
except Interrupted as stop:
    print(stop)
    sys.exit(3)
"""


def start(dataset, settings, out, tmp_path):
    (tmp_path / "config.toml").write_text(to_toml(settings))
    command = [sys.executable, "-c", SCRIPT, str(dataset.path), str(tmp_path / "config.toml"), str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def wait_for(condition, process):
    until = time.monotonic() + 300
    while not condition():
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.005)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_ends_with_the_weights_of_an_undisturbed_one(dataset, tmp_path, how):
    settings = config(train__validation__patience=9)
    whole = weights(train_run(dataset, settings, tmp_path / "whole"))
    out = tmp_path / "stopped"
    process = start(dataset, settings, out, tmp_path)
    wait_for(lambda: any(out.glob("checkpoints/step-*/checkpoint.json")), process)
    process.send_signal(how)
    said, _ = process.communicate(timeout=300)
    assert not (out / "run.json").exists()
    if how != signal.SIGKILL:
        assert process.returncode == 3 and "--resume" in said
    with pytest.raises(ArtefactError, match="not finished"):
        RunDirectory(out)
    train_run(dataset, settings, out, resume=True)
    assert same(weights(out), whole)
    assert [r["step"] for r in records(out) if "valid" in r] == [16, 32, 48, 64]
    assert sum("event" in r for r in records(out)) == 1


def interrupted(dataset, settings, out, monkeypatch, at_step):
    """A run that dies just before step ``at_step``."""
    from xclass.training.trainer import Trainer

    step = Trainer._step

    def dying(self, batch):
        if self.position.step == at_step:
            raise MemoryError
        return step(self, batch)

    monkeypatch.setattr(Trainer, "_step", dying)
    with pytest.raises(MemoryError):
        train_run(dataset, settings, out)
    monkeypatch.setattr(Trainer, "_step", step)


def test_a_damaged_checkpoint_is_passed_over(dataset, tmp_path, monkeypatch, capsys):
    whole = weights(train_run(dataset, config(), tmp_path / "whole"))
    out = tmp_path / "run"
    interrupted(dataset, config(), out, monkeypatch, at_step=50)
    checkpoints = sorted(out.glob("checkpoints/step-*"))
    assert [path.name for path in checkpoints] == ["step-000000000032", "step-000000000048"]
    tensors = checkpoints[-1] / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[: tensors.stat().st_size // 2])
    train_run(dataset, config(), out, resume=True)
    said = capsys.readouterr().err
    assert "step-000000000048" in said and "cut or altered" in said and "resuming from step 32" in said
    assert same(weights(out), whole)


def test_only_damaged_checkpoints_are_an_error(dataset, tmp_path, monkeypatch):
    out = tmp_path / "run"
    interrupted(dataset, config(), out, monkeypatch, at_step=20)
    (tensors,) = out.glob("checkpoints/step-*/tensors.safetensors")
    data = bytearray(tensors.read_bytes())
    data[-1] ^= 1
    tensors.write_bytes(bytes(data))
    with pytest.raises(ArtefactError, match="altered"):
        train_run(dataset, config(), out, resume=True)


def test_resume_refuses_another_configuration_or_dataset(dataset, tmp_path, monkeypatch):
    out = tmp_path / "run"
    interrupted(dataset, config(), out, monkeypatch, at_step=20)
    with pytest.raises(ConfigError, match=r"train\.learning_rate"):
        train_run(dataset, config(train__learning_rate=0.2), out, resume=True)
    other = PlantedModel(num_items=300, num_queries=1000, pairs=25_000, num_topics=8, seed=4).write_dataset(
        tmp_path / "other"
    )
    with pytest.raises(ArtefactError, match="another dataset"):
        train_run(other, config(), out, resume=True)


def test_an_existing_directory_is_left_alone(dataset, tmp_path):
    out = train_run(dataset, config(train__epochs=1), tmp_path / "run")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(ArtefactError, match="exists already"):
        train_run(dataset, config(), out)
    train_run(dataset, config(train__epochs=1), out, resume=True)
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_two_processes_do_not_share_a_run(dataset, tmp_path):
    out = tmp_path / "run"
    process = start(dataset, config(train__epochs=500), out, tmp_path)
    wait_for((out / "metrics.jsonl").exists, process)
    with pytest.raises(ArtefactError, match="another process"):
        train_run(dataset, config(), out, resume=True)
    process.kill()
    process.communicate()


def test_a_run_mixed_from_two_is_refused(dataset, tmp_path):
    first = train_run(dataset, config(train__epochs=1), tmp_path / "first")
    second = train_run(dataset, config(train__epochs=1, train__seed=5), tmp_path / "second")
    shutil.copy(second / "model.safetensors", first / "model.safetensors")
    with pytest.raises(ArtefactError, match=r"model\.safetensors.*altered"):
        RunDirectory(first)


def test_a_moved_or_other_dataset_is_noticed(dataset, tmp_path):
    place = tmp_path / "dataset"
    shutil.copytree(dataset.path, place)
    run = RunDirectory(train_run(open_dataset(place), config(train__epochs=1), tmp_path / "run"))
    os.rename(place, tmp_path / "moved")
    with pytest.raises(ArtefactError, match="--dataset"):
        run.dataset()
    assert run.dataset(tmp_path / "moved").fingerprint == dataset.fingerprint
    other = PlantedModel(num_items=300, num_queries=1000, pairs=25_000, num_topics=8, seed=4).write_dataset(
        tmp_path / "other"
    )
    with pytest.raises(ArtefactError, match="not the dataset"):
        run.dataset(other.path)


def test_a_diverging_loss_stops_the_run(dataset, tmp_path):
    with pytest.raises(XclassError, match=r"finite number(.|\n)*train\.learning_rate"):
        train_run(dataset, config(train__learning_rate=1e30, train__schedule__kind="constant"), tmp_path / "run")


@pytest.mark.parametrize("metric", ["recal@20", "recall", "psp@5"])
def test_a_metric_that_can_not_be_validated_is_refused(dataset, tmp_path, metric):
    with pytest.raises(ConfigError, match=r"train\.validation\.metric"):
        train_run(dataset, config(train__validation__metric=metric), tmp_path / "run")


def test_a_full_disk_leaves_nothing_half_written(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(XclassError, match="onto the disk"):
        train_run(dataset, config(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ArtefactError, match="too full"):
        train_run(dataset, config(), tmp_path / "run", check_memory=False)
    assert not list((tmp_path / "run").rglob("*.safetensors")) and not (tmp_path / "run" / "run.json").exists()


def test_devices(dataset, tmp_path):
    same_device = train_run(dataset, config(train__epochs=1), tmp_path / "cpu", device="cpu")
    assert RunDirectory(same_device).load_model().device.type == "cpu"
    with pytest.raises(ConfigError, match='did you mean "cuda"'):
        train_run(dataset, config(), tmp_path / "run", device="cude")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no CUDA device"):
            train_run(dataset, config(), tmp_path / "run", device="cuda")
    assert not (tmp_path / "run").exists()


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["id", "history", "id+history"])
def test_an_accelerator_gives_the_same_run_within_rounding(dataset, tmp_path, kind):
    settings = config(model__query__kind=kind, train__epochs=2)
    losses = {}
    for device in ("cpu", "cuda"):
        run = train_run(dataset, settings, tmp_path / device, device=device)
        losses[device] = [record["loss"] for record in records(run) if "loss" in record]
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=1e-3)


def test_the_default_configuration_round_trips(tmp_path):
    (tmp_path / "config.toml").write_text(to_toml(RunConfig()))
    assert resolve_config(tmp_path / "config.toml") == RunConfig()


def test_short_epochs_are_checkpointed_too(dataset, tmp_path, monkeypatch):
    """The time since the last checkpoint goes on over the ends of epochs: here a second passes at each look."""
    saved, seconds = [], itertools.count()
    monkeypatch.setattr(trainer, "time", SimpleNamespace(monotonic=lambda: float(next(seconds))))
    for how in ("save", "begin"):
        monkeypatch.setattr(CheckpointStore, how, lambda self, name, *rest, **named: saved.append(name))
    changes = {"train__epochs": 6, "train__checkpoint_every_s": 40, "train__validation__keep_best": False}
    train_run(dataset, config(**changes), tmp_path / "run")
    assert len(saved) >= 3, saved
