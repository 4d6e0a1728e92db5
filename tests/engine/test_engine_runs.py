"""A training of several processes: the same curve, the same directory, resumed by any number of ranks."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from engine.launching import ROOT, ended, launch, run, start

from xclass.data.planted import PlantedModel
from xclass.data.store import open_dataset
from xclass.engine import DistributedEngine, Group
from xclass.errors import ConfigError
from xclass.run import RunDirectory, resolve_config, train_run

CONFIG = ROOT / "configs" / "tiny" / "distributed.toml"
CHANGES = [
    "train.report_every_s=1e-6",
    "train.steps=24",
    "train.epochs=4",
    "train.batch.size=512",
    "train.checkpoint_every_s=0.001",
    "train.validation.queries=100",
    "train.validation.keep_best=false",
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("planted") / "dataset"
    model = PlantedModel(num_items=301, num_queries=400, pairs=6000, num_topics=8, seed=3)
    return Path(model.write_dataset(out).path)


@pytest.fixture(scope="module")
def alone(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "run"
    return train_run(open_dataset(dataset), resolve_config(CONFIG, CHANGES), out)


def job(dataset: Path, out: Path, **fields: Any) -> list[str]:
    told = {"dataset": str(dataset), "config": str(CONFIG), "out": str(out), "changes": CHANGES} | fields
    return run("train", json.dumps(told))


def curve(out: Path) -> dict[int, float]:
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {each["step"]: each["loss"] for each in records if each.get("loss") is not None}


def check_same(out: Path, alone: Path) -> None:
    assert {path.relative_to(out) for path in out.rglob("*")} == {path.relative_to(alone) for path in alone.rglob("*")}
    one, two = curve(alone), curve(out)
    assert one.keys() == two.keys() and all(two[step] == pytest.approx(one[step], rel=1e-4) for step in one)
    weights = [RunDirectory(path).load_model().tables["item"].weight for path in (out, alone)]
    assert torch.allclose(*weights, atol=1e-3)
    assert RunDirectory(out).manifest["result"]["positives"] == RunDirectory(alone).manifest["result"]["positives"]


def test_two_ranks_give_the_curve_and_the_directory_of_one_process(dataset: Path, alone: Path, tmp_path: Path) -> None:
    found = launch(2, job(dataset, tmp_path / "run"))
    assert [code for code, _, _ in found] == [0, 0], found
    check_same(tmp_path / "run", alone)


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("ranks", "tables", "sharding"),
    [(2, "exchange", "table-wise"), (4, "torchrec", "table-wise"), (2, "torchrec", "planner")],
)
def test_whichever_ranks_hold_the_tables(
    ranks: int, tables: str, sharding: str, dataset: Path, alone: Path, tmp_path: Path
) -> None:
    """The same curve and directory."""
    where = [f"distributed.tables={tables}", f"distributed.sharding={sharding}"]
    found = launch(ranks, job(dataset, tmp_path / "run", changes=[*CHANGES, *where]))
    assert [code for code, _, _ in found] == [0] * ranks, found
    check_same(tmp_path / "run", alone)


@pytest.mark.distributed
def test_a_table_wise_checkpoint_is_resumed_row_wise(dataset: Path, alone: Path, tmp_path: Path) -> None:
    out, slow = tmp_path / "run", [*CHANGES, "distributed.sharding=table-wise"]
    ranks = start(2, job(dataset, out, changes=slow))
    while not any(out.glob("checkpoints/step-*")):
        assert all(rank.poll() is None for rank in ranks), ended(ranks)
        time.sleep(0.02)
    os.kill(ranks[1].pid, signal.SIGKILL)
    ended(ranks)
    assert not (out / "run.json").exists()
    found = launch(3, job(dataset, out, resume=True))
    assert [code for code, _, _ in found] == [0, 0, 0], found
    check_same(out, alone)


@pytest.mark.distributed
def test_a_killed_rank_ends_the_others_and_any_number_goes_on(dataset: Path, alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    ranks = start(4, job(dataset, out))
    while not any(out.glob("checkpoints/step-*")):
        assert all(rank.poll() is None for rank in ranks), ended(ranks)
        time.sleep(0.02)
    os.kill(ranks[2].pid, signal.SIGKILL)
    killed = time.monotonic()
    codes = ended(ranks)
    assert time.monotonic() - killed < 60
    assert [code for code, _, _ in codes] == [1, 1, -9, 1]
    assert re.search(r"rank 2 \(.*\) was killed or is cut off; it was last seen at ", codes[0][2])
    assert not (out / "run.json").exists()
    train_run(open_dataset(dataset), resolve_config(CONFIG, CHANGES), out, resume=True)
    check_same(out, alone)


def test_a_planner_without_torchrec_is_refused() -> None:
    with pytest.raises(ConfigError, match="the planner is TorchRec's"):
        DistributedEngine(Group(), "exchange", "planner")


def test_what_needs_the_whole_catalogue_is_refused(dataset: Path) -> None:
    from xclass.launching import check_launch

    opened = open_dataset(dataset)
    check_launch(resolve_config(CONFIG), opened)
    for kind, told in (("hierarchical", "item vectors"),):
        plain = resolve_config({"head": {"kind": kind}})
        with pytest.raises(ConfigError, match=told):
            check_launch(plain, opened)


@pytest.mark.distributed
def test_torchrun_starts_again_from_the_last_checkpoint(dataset: Path, alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1", "-m"]
    changes = [word for change in CHANGES for word in ("--set", change)]
    arguments = ["xclass", "train", str(dataset), "--config", str(CONFIG), "--out", str(out), *changes]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([*command, *arguments], env=variables, stderr=subprocess.PIPE, text=True) as launcher:
        while not any(out.glob("checkpoints/step-*")):
            assert launcher.poll() is None, launcher.communicate()
            time.sleep(0.02)
        ranks = subprocess.check_output(["pgrep", "-P", str(launcher.pid)], text=True).split()
        os.kill(int(ranks[1]), signal.SIGKILL)
        said = launcher.communicate(timeout=300)[1]
    assert launcher.returncode == 0, said
    assert "resuming from step" in said
    check_same(out, alone)
