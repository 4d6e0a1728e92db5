"""Pull and push of a step's rows, beside what PyTorch and FBGEMM have, on tables of 100 thousand to 100 million rows.

    python benchmarks/bench_tables.py [--rows 100000 10000000] [--touched 8192 65536] [--threads 1] [--rounds 3]
                                      [--fbgemm PYTHON]

Ways: xclass (float32, bfloat16; in memory, mapped); the same row-wise AdaGrad written with torch's index operations;
nn.Embedding(sparse=True) with SparseAdam and with Adagrad; FBGEMM's fused row-wise AdaGrad, which TorchRec uses
(PYTHON: an interpreter with fbgemm-gpu-cpu). Each way runs in a process of its own, in turns, one table in memory at a
time, with freed memory kept. Ids are uniform, distinct and rising, new in every step; gradients are given; 16 MB of
other memory are written between pull and push. First every way must make the steps of its formula on a small table,
beside float64. Medians over all steps of all rounds, of the thread's own time with one thread and of the clock's with
more; ratios to xclass in float32. More than 20 million rows: only xclass in bfloat16 (100 million: 13 GiB).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

DIM, LR, EPS, STEPS, WARM = 64, 0.05, 1e-8, 30, 4
KEEP_FREED = {
    "MALLOC_MMAP_THRESHOLD_": "33554432",
    "MALLOC_TRIM_THRESHOLD_": "1073741824",
    "MALLOC_TOP_PAD_": "16777216",
}
LARGEST_FOR_ALL = 20_000_000


class Way(NamedTuple):
    """A table: ``pull(ids)`` gives rows, ``push(rows, ids, grads)`` makes the step; ``weight()`` is all of it."""

    pull: Callable[[Tensor], Tensor]
    push: Callable[[Tensor, Tensor, Tensor], object]
    weight: Callable[[], Tensor]


def xclass_table(rows: int, dtype: torch.dtype, storage: str) -> Way:
    from xclass.embeddings import TABLES, Place, TableOptions
    from xclass.optim import RowAdaGrad

    folder = Path(tempfile.mkdtemp()) / "table" if storage == "mapped" else None
    table = TABLES[storage](rows, DIM, RowAdaGrad(EPS), TableOptions(0.1, dtype=dtype), Place("cpu", folder))
    return Way(table.pull, lambda pulled, ids, grads: table.push(ids, grads, LR), lambda: table.weight)


def index_operations(rows: int) -> Way:
    weight, sums = torch.randn(rows, DIM).mul_(0.1), torch.zeros(rows)

    def push(pulled: Tensor, ids: Tensor, grads: Tensor) -> None:
        new = sums[ids] + torch.linalg.vector_norm(grads, dim=1).square_().div_(DIM)
        sums[ids] = new
        weight.index_add_(0, ids, grads * (-LR / (new.sqrt_() + EPS)).unsqueeze(1))

    return Way(lambda ids: weight.index_select(0, ids), push, lambda: weight)


def embedding(rows: int, kind: str) -> Way:
    module = torch.nn.Embedding(rows, DIM, sparse=True)
    adam = kind == "SparseAdam"
    parameters = list(module.parameters())
    optimizer = torch.optim.SparseAdam(parameters, LR) if adam else torch.optim.Adagrad(parameters, LR, eps=EPS)

    def push(pulled: Tensor, ids: Tensor, grads: Tensor) -> None:
        pulled.backward(grads)
        optimizer.step()
        optimizer.zero_grad()

    return Way(module, push, module.weight.detach)


def fbgemm(rows: int) -> Way:
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    table = SplitTableBatchedEmbeddingBagsCodegen(
        [(rows, DIM, EmbeddingLocation.HOST, ComputeDevice.CPU)],
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        learning_rate=LR,
        eps=EPS,
        pooling_mode=PoolingMode.SUM,
    )
    table.init_embedding_weights_uniform(-0.1, 0.1)

    def pull(ids: Tensor) -> Tensor:
        rows: Tensor = table(ids, torch.arange(len(ids) + 1))
        return rows

    return Way(pull, lambda pulled, ids, grads: pulled.backward(grads), lambda: table.split_embedding_weights()[0])


WAYS: dict[str, Callable[[int], Way]] = {
    "xclass float32": lambda rows: xclass_table(rows, torch.float32, "device"),
    "xclass bfloat16": lambda rows: xclass_table(rows, torch.bfloat16, "device"),
    "xclass float32 mapped": lambda rows: xclass_table(rows, torch.float32, "mapped"),
    "torch index operations": index_operations,
    "nn.Embedding + SparseAdam": lambda rows: embedding(rows, "SparseAdam"),
    "nn.Embedding + Adagrad": lambda rows: embedding(rows, "Adagrad"),
    "FBGEMM row-wise AdaGrad": fbgemm,
}


def expected_rows(name: str, rows: Tensor, steps: list[tuple[Tensor, Tensor]]) -> Tensor:
    """What the way's formula gives in float64."""
    rows, elementwise = rows.double().clone(), "Embedding" in name
    first = torch.zeros_like(rows)
    second = torch.zeros_like(rows) if elementwise else torch.zeros(len(rows), 1, dtype=torch.float64)
    for step, (ids, given) in enumerate(steps, 1):
        grads = given.double()
        if "Adam" in name and "AdaGrad" not in name:
            first[ids] = 0.9 * first[ids] + 0.1 * grads
            second[ids] = 0.999 * second[ids] + 0.001 * grads.square()
            rate = LR * (1 - 0.999**step) ** 0.5 / (1 - 0.9**step)
            rows[ids] -= rate * first[ids] / (second[ids].sqrt() + 1e-8)
        else:
            second[ids] += grads.square() if elementwise else grads.square().mean(1, keepdim=True)
            rows[ids] -= LR * grads / (second[ids].sqrt() + EPS)
    return rows


def check(name: str) -> None:
    """Three steps on a small table follow the formula, to rounding."""
    way, generator = WAYS[name](1000), torch.Generator().manual_seed(1)
    before = way.weight().float().clone()
    steps = []
    for _ in range(3):
        ids = torch.randperm(1000, generator=generator)[:200].sort().values
        steps.append((ids, torch.randn(200, DIM, generator=generator)))
    for ids, grads in steps:
        pulled = way.pull(ids)
        assert torch.equal(pulled.detach(), way.weight()[ids].float()), f"{name}: pull"
        way.push(pulled, ids, grads)
    error = (way.weight().double() - expected_rows(name, before, steps)).abs().max()
    assert float(error) < (0.02 if "bfloat16" in name else 2e-6), f"{name}: off by {float(error)}"


def measure(name: str, rows: int, touched: int, threads: int) -> dict[str, Any]:
    """Milliseconds of each pull and push, and seconds to make the table."""
    torch.set_num_threads(threads)
    check(name)
    started = time.perf_counter()
    way, generator = WAYS[name](rows), torch.Generator().manual_seed(touched)
    made_s, other = time.perf_counter() - started, torch.zeros(4_000_000)
    times: dict[str, list[float]] = {"pull": [], "push": []}
    clock = time.thread_time if threads == 1 else time.perf_counter
    for step in range(STEPS):
        ids = torch.randint(rows, (touched,), generator=generator).unique()
        grads = torch.randn(len(ids), DIM, generator=generator)
        start = clock()
        pulled = way.pull(ids)
        middle = clock()
        other += 1
        resumed = clock()
        way.push(pulled, ids, grads)
        end = clock()
        if step >= WARM:
            times["pull"].append(1000 * (middle - start))
            times["push"].append(1000 * (end - resumed))
    return {**times, "made_s": made_s}


def in_turns(names: list[str], rows: int, touched: int, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Every way in a process of its own, ``rounds`` times."""
    found: dict[str, dict[str, Any]] = {name: {"pull": [], "push": [], "made_s": []} for name in names}
    for _ in range(options.rounds):
        for name in names:
            python = options.fbgemm if "FBGEMM" in name else sys.executable
            numbers = {"--rows": rows, "--touched": touched, "--threads": options.threads}
            command = [python, __file__, "--way", name, *(str(part) for pair in numbers.items() for part in pair)]
            environment = {**os.environ, **KEEP_FREED, "OMP_NUM_THREADS": str(options.threads)}
            done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
            result = json.loads(done.stdout.splitlines()[-1])
            found[name]["pull"] += result["pull"]
            found[name]["push"] += result["push"]
            found[name]["made_s"].append(result["made_s"])
    return found


def report(rows: int, touched: int, found: dict[str, dict[str, Any]]) -> None:
    """A table in Markdown."""
    print(f"\n{rows:,} rows × {DIM}, {touched:,} touched\n")
    print("| | pull ms | push ms | together | to xclass float32 | made in s |\n|---|--:|--:|--:|--:|--:|")
    medians = {name: [statistics.median(times[kind]) for kind in ("pull", "push")] for name, times in found.items()}
    first = sum(next(iter(medians.values())))
    for name, (pull, push) in medians.items():
        made_s = statistics.median(found[name]["made_s"])
        cells = f"{pull:.2f} | {push:.2f} | {pull + push:.2f} | {(pull + push) / first:.2f} | {made_s:.1f}"
        print(f"| {name} | {cells} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 10_000_000])
    parser.add_argument("--touched", type=int, nargs="+", default=[8192, 65536])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--fbgemm", help="an interpreter with fbgemm-gpu-cpu")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure(options.way, options.rows[0], options.touched[0], options.threads)))
        return
    for rows in options.rows:
        names = [name for name in WAYS if options.fbgemm or "FBGEMM" not in name]
        if rows > LARGEST_FOR_ALL:
            names = ["xclass bfloat16"]
        for touched in options.touched:
            report(rows, touched, in_turns(names, rows, touched, options))


if __name__ == "__main__":
    main()
