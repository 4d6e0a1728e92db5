"""A training of several processes: the same curve, the same directory, resumed by any number of ranks."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks.hosts import two_hosts
from ranks.launching import ROOT, ended, launch, run, start

from xclass.data.dataset import open_dataset
from xclass.distributed import DistributedEngine, Group
from xclass.errors import ConfigError
from xclass.ingest.synthetic.pairs import PlantedModel
from xclass.runs.directory import RunDirectory
from xclass.runs.train import resolve_config, train_run

CONFIG = ROOT / "configs" / "tiny" / "distributed.toml"
VARIABLES = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
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


def torchrun(ranks: int) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]


def command(dataset: Path, out: Path, *changes: str) -> list[str]:
    """What torchrun is to start."""
    words = [word for change in changes for word in ("--set", change)]
    return ["-m", "xclass", "train", str(dataset), "--config", str(CONFIG), "--out", str(out), *words]


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
    where = [f"distributed.tables={tables}", f"distributed.sharding={sharding}", "distributed.shared_memory=false"]
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
    assert re.search(
        r"rank 2 \(.*\) gives no sign of life \(killed, stopped or cut off\); it was last seen at ", codes[0][2]
    )
    assert not (out / "run.json").exists()
    train_run(open_dataset(dataset), resolve_config(CONFIG, CHANGES), out, resume=True)
    check_same(out, alone)


def test_a_planner_without_torchrec_is_refused() -> None:
    with pytest.raises(ConfigError, match="the planner is TorchRec's"):
        DistributedEngine(Group(), "exchange", "planner")


def test_what_needs_the_whole_catalogue_is_refused(dataset: Path) -> None:
    from xclass.runs.claim import check_launch

    opened = open_dataset(dataset)
    check_launch(resolve_config(CONFIG), opened)
    for kind, told in (("hierarchical", "item vectors"),):
        plain = resolve_config({"head": {"kind": kind}})
        with pytest.raises(ConfigError, match=told):
            check_launch(plain, opened)


@pytest.mark.distributed
def test_torchrun_starts_again_from_the_last_checkpoint(dataset: Path, alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    launched = [*torchrun(2), "--max-restarts", "1", *command(dataset, out, *CHANGES)]
    with subprocess.Popen(launched, env=VARIABLES, stderr=subprocess.PIPE, text=True) as launcher:
        while not any(out.glob("checkpoints/step-*")):
            assert launcher.poll() is None, launcher.communicate()
            time.sleep(0.02)
        ranks = subprocess.check_output(["pgrep", "-P", str(launcher.pid)], text=True).split()
        os.kill(int(ranks[1]), signal.SIGKILL)
        said = launcher.communicate(timeout=300)[1]
    assert launcher.returncode == 0, said
    assert "resuming from step" in said
    check_same(out, alone)


def until(is_so: Callable[[], object], *processes: subprocess.Popen[str]) -> None:
    """Wait for something while all of these run."""
    while not is_so():
        assert all(each.poll() is None for each in processes), [each.communicate() for each in processes]
        time.sleep(0.02)


@pytest.mark.distributed
def test_a_stopped_rank_is_named_waited_for_and_given_up(dataset: Path, tmp_path: Path) -> None:
    out, told = tmp_path / "run", tmp_path / "stderr"
    endless = command(dataset, out, "distributed.timeout_s=20", "train.epochs=100000", "train.steps=1000000")
    with (
        told.open("w") as stderr,
        subprocess.Popen([*torchrun(3), *endless], env=VARIABLES, stderr=stderr, text=True) as launcher,
    ):
        until((out / "metrics.jsonl").exists, launcher)
        ranks = subprocess.check_output(["pgrep", "-P", str(launcher.pid)], text=True).split()
        before = len(told.read_text())
        os.kill(int(ranks[1]), signal.SIGSTOP)
        waits = r"rank 0 has waited \d+ s of 20: rank 1 \(.*, process \d+\) gives no sign of life \(.*\); it was last"
        until(lambda: re.search(waits, told.read_text()[before:]), launcher)
        os.kill(int(ranks[1]), signal.SIGCONT)
        records = len((out / "metrics.jsonl").read_text().splitlines())
        until(lambda: len((out / "metrics.jsonl").read_text().splitlines()) > records, launcher)
        os.kill(int(ranks[1]), signal.SIGSTOP)
        stopped = time.monotonic()
        lost = r"error: .*: rank [02] can't go on: .*\n  got: rank 1 \(.*\) gives no sign of life .* seen at "
        until(lambda: len(re.findall(lost, told.read_text())) == 2, launcher)
        assert time.monotonic() - stopped < 60
        os.kill(int(ranks[1]), signal.SIGCONT)  # else the launcher gives it half a minute
    assert launcher.returncode == 1
    assert told.read_text().count("Traceback") == 1, "a traceback beside the launcher's own"


@pytest.mark.distributed
def test_two_hosts_train_as_one_process(dataset: Path, alone: Path, tmp_path: Path) -> None:
    with two_hosts() as hosts, (tmp_path / "stderr").open("w+") as said:
        runs = [hosts.launcher(host, 1 + host, command(dataset, tmp_path / "run", *CHANGES), said) for host in (0, 1)]
        codes = [each.wait(300) for each in runs]
    assert codes == [0, 0], (tmp_path / "stderr").read_text()
    check_same(tmp_path / "run", alone)


@pytest.mark.distributed
def test_a_host_that_is_cut_off_is_named_on_both_sides(dataset: Path, alone: Path, tmp_path: Path) -> None:
    out, said = tmp_path / "run", [tmp_path / "stderr-a", tmp_path / "stderr-b"]
    with two_hosts() as hosts, said[0].open("w") as one, said[1].open("w") as two:
        arguments = command(dataset, out, *CHANGES, "distributed.timeout_s=10")
        runs = [hosts.launcher(host, 1, arguments, (one, two)[host]) for host in (0, 1)]
        until(lambda: any(out.glob("checkpoints/step-*")), *runs)
        hosts.cut()
        cut_off = r"is gone or cut off, and with it rank 0 \(host-a, .*\); this rank was at step \d"
        until(lambda: re.search(cut_off, said[1].read_text()), runs[1])
        assert runs[0].wait(60) == 1
        os.killpg(runs[1].pid, signal.SIGKILL)  # torchrun waits for its meeting point until the system gives it up
        runs[1].wait()
    assert re.search(r"got: rank 1 \(host-b, .*\) gives no sign of life .* it was last seen at", said[0].read_text())
    train_run(open_dataset(dataset), resolve_config(CONFIG, CHANGES), out, resume=True)
    check_same(out, alone)


@pytest.mark.distributed
def test_a_checkpoint_that_one_rank_cannot_write_is_none(tmp_path: Path) -> None:
    found = launch(2, run("full_disks", str(tmp_path / "checkpoints")))
    assert [code for code, _, _ in found] == [0, 0], found
    assert found[0][2].count("could not be written") == 3 and found[0][2].count("No space left") == 3
