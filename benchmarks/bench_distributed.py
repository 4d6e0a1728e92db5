"""Training in several processes.

    python benchmarks/bench_distributed.py kernel                  a table beside FBGEMM's fused kernel, one process
    python benchmarks/bench_distributed.py exchange                rows between two ranks, by shared memory and by gloo
    python benchmarks/bench_distributed.py speed DATASET CONFIG    positives/s: one process of two threads, two of one
    python benchmarks/bench_distributed.py curves DATASET CONFIG   loss curves of 1, 2 and 4 ranks
    python benchmarks/bench_distributed.py kills DATASET CONFIG    kill -9 of a random rank, resume, 20 times
    python benchmarks/bench_distributed.py estimate DATASET CONFIG what `xclass estimate --ranks` says, and what is so

What is compared is checked first. Runs alternate; medians and ratios. Lines of JSON.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import rank_figures
import torch
from rank_kills import kills

from xclass.distributed import Group, launched
from xclass.embeddings import MemoryTable, TableOptions
from xclass.optim import ROW_OPTIMIZERS
from xclass.runtime.rng import torch_generator

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node"]
EACH_STEP = ["--set", "train.report_every_s=1e-6"]


def show(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


def train(out: Path, ranks: int, threads: int, arguments: list[str]) -> int:
    """One training to its end; the exit code."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "NUMBA_NUM_THREADS": str(threads)}
    start = [sys.executable] if ranks == 1 else [*TORCHRUN, str(ranks)]
    command = [*start, "-m", "xclass", "train", *arguments, "--out", str(out)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.run(command, check=False, env=environment, **quiet).returncode


def records(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def kernel(rounds: int) -> None:
    """Pull and push of the same rows: the two end with the same rows and sums."""
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import ComputeDevice
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import SplitTableBatchedEmbeddingBagsCodegen as Fused

    for rows, touched in ((1_000_000, 8192), (1_000_000, 65_536)):
        ours = MemoryTable(rows, 64, ROW_OPTIMIZERS["adagrad"](), TableOptions(0.1, 0))
        fused = Fused(
            [(rows, 64, EmbeddingLocation.HOST, ComputeDevice.CPU)],
            optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
            learning_rate=0.1,
            eps=1e-8,
            pooling_mode=PoolingMode.NONE,
            device=torch.device("cpu"),
        )
        theirs = fused.split_embedding_weights()[0]
        theirs.copy_(ours.weight)
        took: dict[str, list[float]] = {"ours": [], "fbgemm": []}
        for number in range(rounds):
            draw = torch_generator(number, "rows")
            ids = torch.unique(torch.randint(0, rows, (touched,), generator=draw))
            grads = torch.randn(len(ids), 64, generator=draw) * 0.01
            began = time.perf_counter()
            ours.pull(ids)
            ours.push(ids, grads, 0.1)
            took["ours"].append(time.perf_counter() - began)
            offsets = torch.arange(len(ids) + 1)
            began = time.perf_counter()
            fused(ids, offsets).backward(grads)
            took["fbgemm"].append(time.perf_counter() - began)
        assert torch.allclose(ours.weight, theirs, atol=1e-4), "other rows"
        ms = {name: round(1000 * statistics.median(each[3:]), 3) for name, each in took.items()}
        show(
            rows=rows,
            touched=touched,
            threads=torch.get_num_threads(),
            ms=ms,
            ratio=round(ms["fbgemm"] / ms["ours"], 2),
        )


def exchanges(group: Group, rounds: int) -> None:
    """On each of two ranks: rows × 64 each way, and a sum of five numbers, through shared memory and through gloo."""
    for through in ("shared memory", "gloo"):
        if through == "gloo":
            group.share_no_memory()
        assert group.shares_memory == (through == "shared memory")
        for rows in (300, 3800):
            values, each = torch.randn(2 * rows, 64), [rows, rows]
            ms = median_ms(group, rounds, functools.partial(group.exchange, values, each, each))
            if group.is_first:
                show(through=through, rows_each_way=rows, ms=ms)
        ms = median_ms(group, rounds, lambda: group.sum(torch.ones(5)))
        if group.is_first:
            show(through=through, sum_of=5, ms=ms)


def median_ms(group: Group, rounds: int, work: Callable[[], object]) -> float:
    took = []
    for number in range(rounds):
        if number % 20 == 0:
            group.barrier("a round")
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return round(1000 * statistics.median(took[rounds // 10 :]), 3)


def speed(arguments: list[str], rounds: int) -> None:
    """Alternating runs of both; the rate that a run writes at its end."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            for ranks in (1, 2):
                out = Path(folder) / f"{ranks}-{number}"
                assert train(out, ranks, 2 // ranks, arguments) == 0
                end = records(out)[-1]
                rates[ranks].append(float(end["positives_per_s"]))  # type: ignore[arg-type]
                show(ranks=ranks, positives_per_s=end["positives_per_s"], phase_ms=end["phase_ms"])
                shutil.rmtree(out)
    one, two = (statistics.median(rates[ranks]) for ranks in (1, 2))
    show(one_process_two_threads=one, two_ranks=two, ratio=round(two / one, 3))


def curve(out: Path) -> dict[int, float]:
    return {each["step"]: each["loss"] for each in records(out) if each.get("loss") is not None}  # type: ignore[misc]


def worst(one: dict[int, float], two: dict[int, float]) -> float:
    assert one.keys() == two.keys(), "other steps"
    return max(abs(one[step] - two[step]) / abs(one[step]) for step in one)


def curves(arguments: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        runs = {ranks: Path(folder) / str(ranks) for ranks in (1, 2, 4)}
        for ranks, out in runs.items():
            assert train(out, ranks, 1, [*arguments, *EACH_STEP]) == 0
        for ranks, out in runs.items():
            valid = [each["valid"] for each in records(out) if "valid" in each]
            show(ranks=ranks, steps=len(curve(out)), worst_relative=worst(curve(runs[1]), curve(out)), valid=valid[-1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["kernel", "exchange", "speed", "curves", "kills", "estimate"])
    parser.add_argument("dataset", nargs="?")
    parser.add_argument("config", nargs="?")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="of kills: the number of the first trial")
    given = parser.parse_args()
    changes = [word for change in given.set for word in ("--set", change)]
    arguments = [given.dataset, "--config", given.config, *changes]
    if given.what == "kernel":
        kernel(given.rounds or 30)
    elif given.what == "exchange" and launched():
        with Group() as group:
            exchanges(group, given.rounds or 300)
    elif given.what == "exchange":
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([*TORCHRUN, "2", *sys.argv], check=True, env=environment)
    elif given.what == "speed":
        speed(arguments, given.rounds or 3)
    elif given.what == "curves":
        curves(arguments)
    elif given.what == "estimate":
        for ranks in rank_figures.RANKS:
            show(**rank_figures.compared(ranks, given.dataset, given.config, given.set))
    else:
        kills(arguments, given.first, given.rounds or 20)


if __name__ == "__main__":
    main()
