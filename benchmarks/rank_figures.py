"""What `xclass estimate --ranks` says of a training beside what its ranks really take.

    python benchmarks/bench_distributed.py estimate DATASET CONFIG --set train.steps=300 …

For 1, 2 and 4 ranks: the estimate, at the bandwidth and latency that as many ranks have here among themselves and with
the cores that each of them has; then a training of so many ranks, each of one thread. Every rank counts the bytes that
it hands to another one in a step, and looks at its own memory. Ratios are estimated / measured.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch

from xclass.distributed import Group
from xclass.estimate.machine import anonymous_bytes, resident_bytes

ROOT = Path(__file__).resolve().parent.parent
RANKS = (1, 2, 4)
EACH_STEP = {"a plan": "numbers", "a pull": "rows", "a push": "gradients", "a step's sums": "sums"}
BESIDE = "rows kept aside while a checkpoint is written"  # none is, before the end of these trainings
WARM_STEPS = 20
LARGE = 1 << 20
TRIES = 150


def launched(ranks: int, work: str, told: dict[str, Any]) -> list[dict[str, Any]]:
    """What each rank of a launch found: the functions of this file, by name."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks)] if ranks > 1 else []
        command = [sys.executable, *torchrun, __file__, work, json.dumps({**told, "found": folder})]
        subprocess.run(command, check=True, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL)
        return [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(ranks)]


def network(told: dict[str, Any]) -> dict[str, Any]:
    """Bytes a second that a rank sends while it receives as much, and the seconds of an exchange of nearly nothing."""
    with Group() as group:
        size = group.size

        def seconds(rows: int) -> float:
            values, took = torch.zeros(rows * size), []
            for _ in range(TRIES):
                began = time.perf_counter()
                group.exchange(values, [rows] * size, [rows] * size)
                took.append(time.perf_counter() - began)
            return statistics.mean(took[TRIES // 3 :])

        short, large = seconds(1), LARGE // 4 // size
        sent = 4 * large * (size - 1)
        return {"latency_s": short, "bytes_per_s": sent / max(seconds(large) - short, 1e-9)}


def training(told: dict[str, Any]) -> dict[str, Any]:
    """Train, and say what this rank sent in a step and had in memory."""
    from xclass.data.dataset import open_dataset
    from xclass.runs.train import resolve_config, train_run

    sent: list[tuple[str, int]] = []
    count_sent(sent)
    with watched() as peaks:
        config = resolve_config(Path(told["config"]), told["changes"])
        train_run(open_dataset(told["dataset"]), config, Path(told["out"]), device="cpu")
    return {**a_step(sent), **peaks}


def count_sent(into: list[tuple[str, int]]) -> None:
    """From now on every exchange and sum of this process is noted: what for, and the bytes for other ranks."""
    begin, total = Group.begin_exchange, Group.sum

    def counted(self: Group, values: Any, sends: list[int], receives: list[int], what: str = "", *rest: Any) -> Any:
        row_bytes = values[:1].nbytes if len(values) else 0
        into.append((what, row_bytes * (sum(sends) - sends[self.rank]) if self.size > 1 else 0))
        return begin(self, values, sends, receives, what, *rest)

    def summed(self: Group, values: Any, what: str = "") -> Any:
        before = len(into)
        found = total(self, values, what)
        if all(each != what for each, _ in into[before:]):  # else it was an exchange, which is noted
            into.append((what, round(2 * (self.size - 1) / self.size * values.nbytes)))
        return found

    Group.begin_exchange, Group.sum = counted, summed  # type: ignore[method-assign, assignment]


def a_step(sent: list[tuple[str, int]]) -> dict[str, Any]:
    """Bytes by purpose and the number of exchanges of a step, from what was noted up to the last push."""
    steps = max(sum(what == "a step's sums" for what, _ in sent), 1)
    last = max((place for place, (what, _) in enumerate(sent) if what == "a push"), default=-1)
    bytes_sent = dict.fromkeys(EACH_STEP.values(), 0)
    for what, count in sent[: last + 1]:
        if what in EACH_STEP:
            bytes_sent[EACH_STEP[what]] += count
    made = sum(what in EACH_STEP for what, _ in sent[: last + 1])
    return {"sent": {name: count / steps for name, count in bytes_sent.items()}, "exchanges": made / steps}


class watched:
    """The most memory of this process while the context is open: without pages of files, and with them."""

    def __enter__(self) -> dict[str, int]:
        self.peaks, self._ended = {"memory_bytes": 0, "with_files_bytes": 0}, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self.peaks

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.05):
            for name, now in (("memory_bytes", anonymous_bytes()), ("with_files_bytes", resident_bytes())):
                self.peaks[name] = max(self.peaks[name], now)


def step_s(out: Path) -> float:
    """Seconds of a step, the median over the records of a run."""
    found = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    records = [each for each in found if "event" not in each and each["step"] > WARM_STEPS]
    pairs = zip(records, records[1:], strict=False)
    return statistics.median(
        (two["train_s"] - one["train_s"]) / (two["step"] - one["step"])
        for one, two in pairs
        if two["step"] > one["step"]
    )


def predicted(ranks: int, arguments: list[str]) -> dict[str, Any]:
    """What the command says of so many ranks on this machine."""
    cores = (os.cpu_count() or 1) / ranks
    command = [
        sys.executable,
        "-m",
        "xclass",
        "estimate",
        *arguments,
        "--ranks",
        str(ranks),
        "--device",
        "cpu",
        "--json",
    ]
    command += ["--cores", f"{cores:g}"]
    if ranks > 1:
        there = launched(ranks, "network", {})[0]
        command += ["--bandwidth", f"{there['bytes_per_s']:.0f}", "--latency", f"{there['latency_s'] * 1e6:.1f}us"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    answer = subprocess.run(command, check=True, env=environment, cwd=ROOT, stdout=subprocess.PIPE)
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


def compared(ranks: int, dataset: str, config: str, changes: list[str]) -> dict[str, Any]:
    """Figure → estimated, measured (of the rank with the most), and their ratio."""
    sets = [word for change in changes for word in ("--set", change)]
    with tempfile.TemporaryDirectory() as folder:
        said = predicted(ranks, [dataset, "--config", config, *sets, "--out", folder])
        told = {"dataset": dataset, "config": config, "changes": [*changes, "train.report_every_s=0.25"]}
        found = launched(ranks, "training", {**told, "out": f"{folder}/run"})
        took_s = step_s(Path(folder) / "run")
    sent, there = said["exchange"], said["rank"]["memory"]
    memory = there["needed_bytes"] - there["components"].get(BESIDE, 0)
    figures = {
        "memory_mib": (memory / 2**20, max(each["memory_bytes"] for each in found) / 2**20),
        "memory_of_the_last_rank_mib": (memory / 2**20, found[-1]["memory_bytes"] / 2**20),
        **{
            name: (sent[f"{name}_bytes"], statistics.mean(each["sent"][name] for each in found))
            for name in EACH_STEP.values()
        },
        "exchanges": (sent["exchanges"], found[0]["exchanges"]),
        "step_ms": (1000 * said["step"]["step_s"], 1000 * took_s),
    }
    detail = {"cluster": said["cluster"], "step": said["step"]}
    shown = {
        name: {"estimated": round(one, 2), "measured": round(two, 2), "ratio": round(one / two, 3) if two else None}
        for name, (one, two) in figures.items()
    }
    return {"ranks": ranks, **shown, **detail}


def main() -> None:
    work, told = sys.argv[1], json.loads(sys.argv[2])
    found = {"network": network, "training": training}[work](told)
    (Path(told["found"]) / f"{os.environ.get('RANK', '0')}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
