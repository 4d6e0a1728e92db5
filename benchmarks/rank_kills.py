"""Kill -9 of a random rank of 2 or 4 at a random moment, resume on 1, 2 or 4: ``bench_distributed.py kills``.

Every third trial kills while a checkpoint is being written, every third while a validation runs, the rest at any time.
Then the launch must end by itself, and its run go on with --resume to the loss of one that nobody disturbed.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from xclass.runtime.rng import numpy_generator

LOOK_S = 0.002
STOOD_STILL_S = 1.0
LIMIT_S = 400.0
MOMENTS = ("any", "checkpoint", "validation")
EACH_STEP = ["--set", "train.report_every_s=1e-6"]


def command(out: Path, ranks: int, arguments: list[str]) -> list[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
    return [*([sys.executable] if ranks == 1 else torchrun), "-m", "xclass", "train", *arguments, "--out", str(out)]


def train(out: Path, ranks: int, arguments: list[str]) -> int:
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.run(command(out, ranks, arguments), check=False, env=environment(), **quiet).returncode


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}


def records(out: Path) -> list[dict[str, object]]:
    path = out / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def last_loss(out: Path) -> float:
    return float([each["loss"] for each in records(out) if each.get("loss") is not None][-1])  # type: ignore[arg-type]


def kills(arguments: list[str], first: int, trials: int) -> None:
    """Trials ``first`` … ``first + trials`` − 1: each has its own draws."""
    with tempfile.TemporaryDirectory() as name:
        folder, arguments = Path(name), [*arguments, *EACH_STEP]
        assert train(folder / "undisturbed", 1, arguments) == 0
        loss = last_loss(folder / "undisturbed")
        ends = [int(each["step"]) for each in records(folder / "undisturbed") if "valid" in each]  # type: ignore[call-overload]
        found = [trial(folder / f"killed-{n}", arguments, n, loss, ends) for n in range(first, first + trials)]
        took = [float(each["ended_after_s"]) for each in found if each["killed"] is not None]  # type: ignore[arg-type]
        show(
            trials=trials,
            killed=len(took),
            ended_after_s={"median": statistics.median(took), "worst": max(took)},
            worst_relative=max(float(each["relative"]) for each in found),  # type: ignore[arg-type]
            all_named=all(each["named"] for each in found if each["killed"] is not None),
        )


def trial(out: Path, arguments: list[str], number: int, loss: float, ends: list[int]) -> dict[str, object]:
    draw = numpy_generator(number, "kills")
    ranks, again, moment = (2, 4)[number % 2], int(draw.choice([1, 2, 4])), MOMENTS[number % 3]
    found = killed(out, ranks, arguments, int(draw.integers(ranks)), due(moment, out, draw, ends))
    left = sorted(path.name for path in (out / "checkpoints").glob("*"))
    code = train(out, again, [*arguments, "--resume"])
    relative = abs(last_loss(out) - loss) / abs(loss) if code == 0 else float("inf")
    leftovers = [str(path) for path in out.rglob(".*") if path.suffix in {".tmp", ".old"}]
    told = {"trial": number, "ranks": ranks, "moment": moment, **found, "left": left}
    told |= {"resumed_on": again, "resumed": code == 0, "relative": relative, "leftovers": leftovers}
    show(**told)
    shutil.rmtree(out)
    return told


def due(moment: str, out: Path, draw: np.random.Generator, ends: list[int]) -> Callable[[], bool]:
    """Whether the moment to kill has come."""
    if moment == "checkpoint":
        skip = int(draw.integers(3))
        seen: set[str] = set()

        def writing() -> bool:
            seen.update(path.name for path in (out / "checkpoints").glob(".step-*"))
            return len(seen) > skip

        return writing
    if moment == "validation":
        end = ends[int(draw.integers(len(ends) - 1))]
        return lambda: any(each["step"] == end for each in records(out))
    step = int(draw.integers(1, ends[-1]))
    return lambda: any(int(each["step"]) >= step for each in records(out))  # type: ignore[call-overload]


def killed(out: Path, ranks: int, arguments: list[str], rank: int, is_due: Callable[[], bool]) -> dict[str, object]:
    """Kill a rank when it is due; how long the launch went on, and whether the others named it."""
    said = out.parent / f"{out.name}.stderr"
    with (
        said.open("w") as stderr,
        subprocess.Popen(
            command(out, ranks, arguments), env=environment(), stdout=subprocess.DEVNULL, stderr=stderr
        ) as run,
    ):
        while run.poll() is None and not is_due():
            time.sleep(LOOK_S)
        children = subprocess.run(["pgrep", "-P", str(run.pid)], capture_output=True, text=True, check=False)
        pids = {rank_of(pid): pid for pid in map(int, children.stdout.split())}
        if run.poll() is not None or rank not in pids:
            return {"killed": None, "code": run.wait(), "named": False}
        at = max((int(each["step"]) for each in records(out)), default=0)  # type: ignore[call-overload]
        os.kill(pids[rank], signal.SIGKILL)
        took_s = running_time(run)
    text = said.read_text()
    named = f"rank {rank} (" in text and "gives no sign of life" in text
    walls = text.count("Traceback (most recent call last)") - text.count("raise ChildFailedError")
    return {
        "killed": rank,
        "at_step": at,
        "ended_after_s": round(took_s, 1),
        "code": run.returncode,
        "named": named,
        "tracebacks": walls,
    }


def rank_of(pid: int) -> int:
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next((int(each[5:]) for each in variables if each.startswith(b"RANK=")), -1)


def running_time(run: subprocess.Popen[bytes]) -> float:
    """Until it ends, without the time in which this process, and the launch with it, was stopped by others."""
    took_s, last = 0.0, time.monotonic()
    for _ in itertools.count():
        if run.poll() is not None:
            return took_s
        assert took_s < LIMIT_S, "the launch hangs"
        time.sleep(0.02)
        now = time.monotonic()
        took_s += now - last if now - last < STOOD_STILL_S else 0.0
        last = now
    raise AssertionError


def show(**fields: object) -> None:
    print(json.dumps(fields), flush=True)
