"""Candidate sampling beside TensorFlow in one run: distinct draws with counts, building, learning.

    python benchmarks/bench_sampling.py [--large] [--runs 31] [--threads 2]

A draw is 8192 different classes with the expected counts of all of them and of 1024 × 5 true classes, which is what
TensorFlow's op returns; the learned unigrams have seen a million labels, and learn the true classes of every draw.
--large adds 100 million classes, where ours is compared with itself at 10 million. Samples are checked before anything
is timed: all different, counts that add up to 8192, as many classes of each octave of ids as the counts say. The ways
take turns; medians, and ratios to TensorFlow's median of the same run. Compare ratios only.

TensorFlow's fixed unigram is built in its first call, timed less what the next one takes: from a list (eagerly, which
is the fastest), and from a file, which spares it the conversion from Python. Ours is built from a tensor.

TensorFlow learns only in a draw: what a million labels take is a draw with a million true classes less one with 5120;
the update alone is that of the learned unigram less that of the fixed one, which counts as much and learns nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as xclass sets it, were it imported before torch

import polars as pl
import torch
from torch import Tensor

from xclass.rng import torch_generator
from xclass.sampling import FixedUnigram, LearnedUnigram, LogUniform
from xclass.sampling.drawn import Drawn
from xclass.types import Ragged

SAMPLED, BATCH, TRUE, SEEN = 8192, 1024, 5, 1_000_000
KINDS = ("log-uniform", "fixed unigram", "learned unigram")
CHECKED = 20  # samples
BLOCK = 1 << 22
WEIGHED = 10_000_000  # classes up to which TensorFlow is given weights
Way = Callable[[], object]


def labels_of(classes: int, number: int) -> Tensor:
    """int64 (number / 5, 5), log-uniform: frequent classes first."""
    labels = LogUniform(classes, number).draw(Ragged.from_lists([]), torch_generator(0, "bench sampling", classes))
    return labels.view(-1, TRUE)


def weights_of(classes: int) -> Tensor:
    """float32 (classes,): Zipf's law."""
    return (torch.arange(classes) + 1.0).reciprocal_()


def ragged(labels: Tensor) -> Ragged:
    return Ragged(torch.arange(0, labels.numel() + 1, labels.shape[1]), labels.reshape(-1))


def ours(kind: str, classes: int) -> Drawn:
    if kind == "log-uniform":
        return LogUniform(classes, SAMPLED, replacement=False)
    if kind == "fixed unigram":
        return FixedUnigram(weights_of(classes), SAMPLED, replacement=False)
    sampler = LearnedUnigram(classes, SAMPLED, replacement=False)
    sampler.update(labels_of(classes, SEEN).reshape(-1))
    return sampler


def file_of(weights: Tensor, folder: str) -> str:
    """The weights as TensorFlow reads them, a line each."""
    path = Path(folder) / f"{len(weights)}.csv"
    if not path.exists():
        pl.DataFrame({"weight": weights.numpy()}).write_csv(path, include_header=False)
    return str(path)


def tensorflow(threads: int) -> Any:
    """The module, with so many threads."""
    import tensorflow as tf

    if tf.config.threading.get_intra_op_parallelism_threads() == 0:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    return tf


def theirs(kind: str, classes: int, options: argparse.Namespace) -> Callable[[Tensor], Any]:
    """TensorFlow's sampler in one ``tf.function``, hence one state, for any number of labels."""
    tf = tensorflow(options.threads)
    name = kind.replace(" ", "_").replace("-", "_") + "_candidate_sampler"
    more = {"vocab_file": file_of(weights_of(classes), options.folder)} if kind == "fixed unigram" else {}
    op = getattr(tf.random, name)

    @tf.function(input_signature=[tf.TensorSpec([None, TRUE], tf.int64)])
    def draw(labels):
        return op(labels, TRUE, SAMPLED, True, classes, seed=7, **more)

    return lambda labels: draw(tf.constant(labels.numpy()))


def theirs_from_a_list(classes: int, options: argparse.Namespace) -> Way:
    """An eager call, whose first builds the sampler."""
    tf = tensorflow(options.threads)
    labels, weights = tf.zeros([1, 1], tf.int64), weights_of(classes).tolist()
    op = tf.random.fixed_unigram_candidate_sampler
    return lambda: op(labels, 1, 1, True, classes, unigrams=weights, seed=7)


def there() -> bool:
    return importlib.util.find_spec("tensorflow") is not None


def check(name: str, sampler: Drawn, batch: Ragged) -> None:
    """Different classes; counts add up; each octave of ids is met as often as its counts say, to 6 deviations."""
    octaves = sampler.num_items.bit_length() + 1
    total, spread = torch.zeros(octaves, dtype=torch.float64), torch.zeros(octaves, dtype=torch.float64)
    for start in range(0, sampler.num_items, BLOCK):
        ids = torch.arange(start, min(start + BLOCK, sampler.num_items))
        count, octave = sampler.expected_count(ids), (ids + 1).double().log2().long()
        total.index_add_(0, octave, count)
        spread.index_add_(0, octave, count * (1 - count))
    assert abs(float(total.sum()) / SAMPLED - 1) < 2e-3, f"{name}: counts add up to {float(total.sum()):.1f}"
    met, generator = torch.zeros(octaves, dtype=torch.float64), torch_generator(1, "bench sampling")
    for _ in range(CHECKED):
        ids = sampler.draw(batch, generator)
        assert len(ids) == len(ids.unique()) == SAMPLED, name
        met += torch.bincount((ids + 1).double().log2().long(), minlength=octaves) / CHECKED
    off = (met - total).abs() / (spread / CHECKED).sqrt().clamp(min=1.0)
    assert float(off.max()) < 6, f"{name}: octave {int(off.argmax())} is off by {float(off.max()):.1f} deviations"


def check_theirs(name: str, sampler: Drawn, drawn: Any, batch: Ragged) -> None:
    """TensorFlow draws from the same law: its counts of the true classes agree, but for its total, a float32 sum."""
    expected = sampler.expected_count(batch.values)
    got = torch.from_numpy(drawn[1].numpy()).reshape(-1).double()
    off = float((got / expected - 1).abs().median())
    assert off < 0.2, f"{name}: TensorFlow's counts differ by {off:.3f}"


def measure(ways: dict[str, Way], runs: int) -> dict[str, float]:
    """Median seconds of each way; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(runs):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in times.items()}


def once(way: Way) -> tuple[float, Any]:
    start = time.perf_counter()
    found = way()
    return time.perf_counter() - start, found


def row(what: str, classes: int, mine: float, other: float | None) -> None:
    rest = "– | –" if other is None else f"{other * 1000:.3f} | {other / mine:.2f}×"
    print(f"| {what} | {classes:,} | {mine * 1000:.3f} | {rest} |", flush=True)


def draws(kind: str, sizes: list[int], options: argparse.Namespace) -> None:
    """One table row for each size; all sizes take turns."""
    ways: dict[str, Way] = {}
    for classes in sizes:
        sampler, labels, generator = ours(kind, classes), labels_of(classes, BATCH * TRUE), torch_generator(0, "draws")
        batch = ragged(labels)
        check(f"{kind}, {classes}", sampler, batch)
        ways[f"{classes}"] = lambda sampler=sampler, batch=batch, generator=generator: sampler.sample(batch, generator)
        if there() and (kind != "fixed unigram" or classes <= WEIGHED):
            draw = theirs(kind, classes, options)
            if kind == "learned unigram":
                draw(labels_of(classes, SEEN))
            check_theirs(f"{kind}, {classes}", sampler, draw(labels), batch)
            ways[f"{classes} TensorFlow"] = lambda draw=draw, labels=labels: draw(labels)[0].numpy()
    for way in ways.values():
        way()
    medians = measure(ways, options.runs)
    for classes in sizes:
        row(f"8192 draws, {kind}", classes, medians[f"{classes}"], medians.get(f"{classes} TensorFlow"))
    for small, large in zip(sizes, sizes[1:], strict=False):
        print(f"\n{kind}: {large:,} / {small:,} classes: {medians[str(large)] / medians[str(small)]:.2f}\n", flush=True)


def building(classes: int, options: argparse.Namespace) -> None:
    """Of a fixed unigram."""
    weights = weights_of(classes)
    ways: dict[str, Way] = {
        "building": lambda: FixedUnigram(weights, SAMPLED),
        "building, to draw without replacement": lambda: FixedUnigram(weights, SAMPLED, replacement=False),
        "building, power .75": lambda: FixedUnigram(weights, SAMPLED, 0.75),
    }
    for way in ways.values():
        way()
    first = measure(ways, 3)
    listed = read = None
    if there() and classes <= WEIGHED:
        way = theirs_from_a_list(classes, options)
        listed = once(way)[0] - once(way)[0]
        file_of(weights, options.folder)
        draw, labels = theirs("fixed unigram", classes, options), labels_of(classes, BATCH * TRUE)
        read = once(lambda: draw(labels))[0] - once(lambda: draw(labels))[0]
    second = measure(ways, 3)
    for name in ways:
        row(name, classes, (first[name] + second[name]) / 2, None if "power" in name else listed)
    if read is not None:
        row("building; TensorFlow from a file", classes, (first["building"] + second["building"]) / 2, read)


def learning(classes: int, options: argparse.Namespace) -> None:
    """A million labels into a learned unigram, alone and with their counts."""
    sampler = LearnedUnigram(classes, SAMPLED, replacement=False)
    many, few = labels_of(classes, SEEN), labels_of(classes, BATCH * TRUE)
    flat, batch, generator = many.reshape(-1), ragged(many), torch_generator(0, "learning")
    ways: dict[str, Way] = {
        "update": lambda: sampler.update(flat),
        "sample": lambda: sampler.sample(batch, generator),
        "small": lambda: sampler.sample(ragged(few), generator),
    }
    if there() and classes <= WEIGHED:
        learned, fixed = theirs("learned unigram", classes, options), theirs("fixed unigram", classes, options)
        for name, draw in (("learned", learned), ("fixed", fixed)):
            ways[f"{name} many"] = lambda draw=draw: draw(many)[0].numpy()
            ways[f"{name} few"] = lambda draw=draw: draw(few)[0].numpy()
    for way in ways.values():
        way()
    before = sampler.law.num_seen
    sampler.update(flat)
    assert sampler.law.num_seen == before + SEEN and int(sampler.law.counts().sum()) == sampler.law.total
    m = measure(ways, max(options.runs // 3, 3))
    both = m["learned many"] - m["learned few"] if "learned many" in m else None
    alone = both - (m["fixed many"] - m["fixed few"]) if both is not None else None
    row("1M updates, learned unigram", classes, m["update"], alone)
    row("1M labels counted and learned", classes, m["sample"] - m["small"], both)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="100 million classes, too")
    parser.add_argument("--classes", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--runs", type=int, default=31)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sizes = [*options.classes, *([100_000_000] if options.large else [])]
    print("| | classes | ours, ms | TensorFlow, ms | speed |\n|---|--:|--:|--:|--:|", flush=True)
    with tempfile.TemporaryDirectory() as options.folder:
        for classes in sizes:
            building(classes, options)
        for classes in options.classes:
            learning(classes, options)
        for kind in KINDS:
            draws(kind, sizes, options)


if __name__ == "__main__":
    main()
