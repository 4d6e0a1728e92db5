"""Sampled softmax and NCE, forward and backward, beside TensorFlow in one run; and the memory that the loss takes.

    python benchmarks/bench_losses.py [--negatives 1024 8192] [--runs 15] [--threads 2]
    python benchmarks/bench_losses.py --memory

A million classes of 64 dimensions, batch 1024, 5 true classes a row, candidates given. Each way reads its rows from the
table and ends with the gradients of the rows it read and of the inputs (TensorFlow's IndexedSlices). Values and
gradients must agree before anything is timed. The ways take turns of five calls, with freed memory kept; medians, and
ratios to TensorFlow's median of the same run. Compare ratios only. Without TensorFlow the ratios are to plain PyTorch.

--memory: batch 4096 × 16,384 negatives, each way in a fresh process: the peak of the resident set during forward and
backward, less what was resident before and less the gradients.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as xclass sets it, were it imported before torch

import torch
from torch import Tensor
from torch.nn import functional

from xclass.compat import tf as compat
from xclass.losses import LossConfig, build_loss
from xclass.losses.fused.accidental_hits import Hits, find_hits
from xclass.losses.fused.sampled_loss import Scoring, blocked_loss
from xclass.runtime.memory import keep_freed_memory
from xclass.runtime.rng import torch_generator
from xclass.types import Negatives, Ragged

CALLS, PAUSE_S = 5, 0.05
LOSSES = {"sampled softmax": "sampled_softmax_loss", "nce": "nce_loss"}
KINDS = {"sampled softmax": "sampled-softmax", "nce": "nce"}


class Problem(NamedTuple):
    """One call. Candidates are distinct, as a sampler draws them; biases are 0 where a way has any."""

    table: Tensor
    biases: Tensor
    inputs: Tensor
    labels: Tensor
    sampled: Tensor
    true_count: Tensor
    count: Tensor


class Answer(NamedTuple):
    """Loss (B,), gradient of the mean for the inputs, and for the rows of ``ids``; TensorFlow's tensors are its own."""

    loss: Tensor
    inputs: Tensor
    ids: Tensor
    rows: Tensor


def problem(classes: int, dim: int, batch: int, num_true: int, negatives: int) -> Problem:
    generator = torch_generator(0, "bench losses", negatives)
    labels = torch.randint(classes, (batch, num_true), generator=generator)
    sampled, true_count, count = compat.log_uniform_candidate_sampler(
        labels, num_true, negatives, True, classes, generator
    )
    table = torch.randn(classes, dim, generator=generator) / 8
    inputs = torch.randn(batch, dim, generator=generator)
    return Problem(table, torch.zeros(classes), inputs, labels, sampled, true_count, count)


def kernel(p: Problem, kind: str, dtype: torch.dtype) -> Answer:
    """``blocked_loss`` on rows gathered from the table."""
    ids = torch.cat([p.labels.reshape(-1), p.sampled])
    rows = p.table.index_select(0, ids).requires_grad_()
    inputs = p.inputs.detach().requires_grad_()
    num_positives = p.labels.numel()
    positives = Ragged(torch.arange(0, num_positives + 1, p.labels.shape[1]), p.labels.reshape(-1))
    none = positives.offsets[:0]
    hits = find_hits(positives, p.sampled) if kind == "sampled softmax" else Hits(none, none)
    negatives = Negatives(p.sampled, p.count.log(), p.true_count.log().reshape(-1))
    places = torch.arange(len(ids))
    loss = build_loss(LossConfig(kind=KINDS[kind], positives="joint"), len(p.sampled), len(p.table))
    scoring = Scoring(positives, negatives, hits, loss, product_dtype=dtype)
    value = blocked_loss(inputs, rows, places[:num_positives], places[num_positives:], scoring)
    value.mean().backward()
    assert inputs.grad is not None and rows.grad is not None
    return Answer(value.detach(), inputs.grad, ids, rows.grad)


def through_compat(p: Problem, kind: str, dtype: torch.dtype | None) -> Answer:
    """``xclass.compat.tf`` on the whole table, with sparse gradients."""
    table, inputs = p.table.detach().requires_grad_(), p.inputs.detach().requires_grad_()
    value = getattr(compat, LOSSES[kind])(
        table, p.biases, p.labels, inputs, len(p.sampled), len(table), p.labels.shape[1],
        (p.sampled, p.true_count, p.count), sparse_grad=True, product_dtype=dtype,
    )  # fmt: skip
    value.mean().backward()
    assert inputs.grad is not None and table.grad is not None
    return Answer(value.detach(), inputs.grad, table.grad._indices()[0], table.grad._values())


def plain(p: Problem, kind: str) -> Answer:
    """The formula in PyTorch, gradients by autograd."""
    ids = torch.cat([p.labels.reshape(-1), p.sampled])
    rows, inputs = p.table.index_select(0, ids).requires_grad_(), p.inputs.detach().requires_grad_()
    true_rows, sampled_rows = rows.split([p.labels.numel(), len(p.sampled)])
    true = torch.einsum("bd,btd->bt", inputs, true_rows.view(*p.labels.shape, -1)) - p.true_count.log()
    sampled = inputs @ sampled_rows.T - p.count.log()
    if kind == "sampled softmax":
        row, position, _ = compat.compute_accidental_hits(p.labels, p.sampled, p.labels.shape[1])
        sampled = sampled.index_put((row.long(), position), torch.tensor(torch.finfo(torch.float32).min))
        value = torch.cat([true, sampled], 1).logsumexp(1) - true.mean(1)
    else:
        value = (functional.softplus(true) - true / p.labels.shape[1]).sum(1) + functional.softplus(sampled).sum(1)
    value.mean().backward()
    assert inputs.grad is not None and rows.grad is not None
    return Answer(value.detach(), inputs.grad, ids, rows.grad)


def tensorflow_ways(p: Problem, threads: int) -> dict[str, Callable[[str], Answer]]:
    """TensorFlow's loss in a ``tf.function``; empty where it is not installed."""
    if importlib.util.find_spec("tensorflow") is None:
        return {}
    import tensorflow as tf

    if not tf.executing_eagerly() or tf.config.threading.get_intra_op_parallelism_threads() != threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    table, biases = tf.Variable(p.table.numpy()), tf.Variable(p.biases.numpy())
    inputs, labels = tf.constant(p.inputs.numpy()), tf.constant(p.labels.numpy())
    values = tuple(tf.constant(value.numpy()) for value in (p.sampled, p.true_count, p.count))
    sizes = (len(p.sampled), len(p.table), p.labels.shape[1])

    @functools.cache
    def graph(kind: str) -> Callable:
        @tf.function
        def step(inputs, labels, values):
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                value = getattr(tf.nn, LOSSES[kind])(table, biases, labels, inputs, *sizes, sampled_values=values)
                mean = tf.reduce_mean(value)
            by_inputs, by_rows, _ = tape.gradient(mean, [inputs, table, biases])
            return value, by_inputs, by_rows.indices, by_rows.values

        return step

    def run(kind: str) -> Answer:
        return Answer(*graph(kind)(inputs, labels, values))

    return {"TensorFlow": run}


def ways(p: Problem, threads: int, beside_tensorflow: bool = True) -> dict[str, Callable[[str], Answer]]:
    return {
        **(tensorflow_ways(p, threads) if beside_tensorflow else {}),
        "plain PyTorch": lambda kind: plain(p, kind),
        "kernel, float32": lambda kind: kernel(p, kind, torch.float32),
        "kernel, bfloat16": lambda kind: kernel(p, kind, torch.bfloat16),
        "compat.tf, float32": lambda kind: through_compat(p, kind, None),
        "compat.tf, bfloat16": lambda kind: through_compat(p, kind, torch.bfloat16),
    }


def in_torch(answer: Answer) -> Answer:
    """The same as torch tensors; not part of what is timed."""
    return Answer(*(part if isinstance(part, Tensor) else torch.from_numpy(part.numpy()) for part in answer))


def by_class(answer: Answer, ids: Tensor) -> Tensor:
    """Gradient of each of ``ids`` (sorted, distinct), repeats added."""
    rows = torch.zeros(len(ids), answer.rows.shape[1], dtype=torch.float64)
    return rows.index_add_(0, torch.searchsorted(ids, answer.ids), answer.rows.double())


def check(p: Problem, kind: str, found: dict[str, Callable[[str], Answer]]) -> None:
    """Every way gives plain PyTorch's loss and gradients: to 1e-5 of the largest, in bfloat16 to 2e-2."""
    ids = torch.cat([p.labels.reshape(-1), p.sampled]).unique()
    expected = in_torch(found["plain PyTorch"](kind))
    for name, way in found.items():
        answer, bar = in_torch(way(kind)), 2e-2 if "bfloat16" in name else 1e-5
        for first, second in (
            (answer.loss, expected.loss),
            (answer.inputs, expected.inputs),
            (by_class(answer, ids), by_class(expected, ids)),
        ):
            error = float((first - second).abs().max() / second.abs().max())
            assert error < bar, f"{kind}, {name}: {error:.1e}"


def measure(kind: str, found: dict[str, Callable[[str], Answer]], runs: int) -> dict[str, float]:
    """Median seconds of each way; they take turns of ``CALLS`` calls.

    A pause before each turn: the threads of the way before may still be spinning.
    """
    times: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(runs):
        for name, way in found.items():
            time.sleep(PAUSE_S)
            for _ in range(CALLS):
                start = time.perf_counter()
                way(kind)
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in times.items()}


def resident(field: str) -> float:
    """MiB: VmRSS now, VmHWM the peak since it was reset."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line for line in text.splitlines() if line.startswith(field)).split()[1]) / 1024


def peak_of(name: str, kind: str, options: argparse.Namespace) -> None:
    """In a fresh process: MiB above what was there and above the gradients."""
    theirs = name == "TensorFlow"
    small = ways(problem(20_000, options.dim, 64, options.true, 4096), options.threads, theirs)[name]
    small(kind)  # libraries, threads, compiled code
    p = problem(options.classes, options.dim, 4096, options.true, 16_384)
    way = ways(p, options.threads, theirs)[name]
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    answer = way(kind)
    peak = resident("VmHWM")
    answer = in_torch(answer)
    gradients = sum(part.numel() * part.element_size() for part in (answer.loss, answer.inputs, answer.rows)) / 2**20
    print(f"| {kind} | {name} | {peak - before - gradients:.0f} | {gradients:.0f} |", flush=True)


def all_peaks(options: argparse.Namespace) -> None:
    print("| loss | way | peak above inputs and gradients, MiB | gradients, MiB |\n|---|---|--:|--:|", flush=True)
    names = ["plain PyTorch", "kernel, float32", "kernel, bfloat16", "compat.tf, float32", "compat.tf, bfloat16"]
    if importlib.util.find_spec("tensorflow") is not None:
        names.insert(0, "TensorFlow")
    for kind in LOSSES:
        for name in names:
            own = [sys.executable, __file__, "--peak-of", name, kind, "--threads", str(options.threads)]
            subprocess.run(own, check=True)


def timed(options: argparse.Namespace) -> None:
    print("| loss | negatives | way | median ms | speed |\n|---|--:|---|--:|--:|")
    for negatives in options.negatives:
        p = problem(options.classes, options.dim, options.batch, options.true, negatives)
        found = ways(p, options.threads)
        for kind in LOSSES:
            check(p, kind, found)
            medians = measure(kind, found, options.runs)
            unit = medians[next(iter(found))]
            for name, median in medians.items():
                row = f"| {kind} | {negatives} | {name} | {median * 1000:.1f} | {unit / median:.2f}× |"
                print(row, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--negatives", type=int, nargs="+", default=[1024, 8192])
    parser.add_argument("--classes", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--true", type=int, default=5)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--peak-of", nargs=2, metavar=("WAY", "LOSS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if not options.peak_of:
        keep_freed_memory()
    if options.peak_of:
        peak_of(*options.peak_of, options)
    elif options.memory:
        all_peaks(options)
    else:
        timed(options)


if __name__ == "__main__":
    main()
