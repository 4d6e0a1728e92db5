"""Candidate samplers without replacement, their updates and tables, beside TensorFlow where it is installed.

    python benchmarks/bench_sampling.py [--items 1000000 10000000 100000000] [--runs 31] [--tables 3]

For each catalogue: 8192 distinct draws with expected counts, log-uniform, fixed unigram and learned unigram (after a
million labels); a million labels learned; building the fixed unigram from weights in memory (TensorFlow takes a list;
it is left out above ten million). Weights and labels follow Zipf's law. What is drawn must be distinct and in range,
and the expected counts must add up to what is drawn, before anything is timed. The ways take turns, on one thread;
medians, and ratios to TensorFlow's median of the same run. Compare ratios only.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as xclass sets it, were it imported before torch

import torch
from torch import Tensor

from xclass.runtime.rng import torch_generator
from xclass.sampling import FixedUnigram, LearnedUnigram, LogUniform, Sampler
from xclass.types import Ragged

DRAWN, LABELS, MOST_OF_TENSORFLOW = 8192, 1_000_000, 10_000_000
POSITIVES = Ragged.from_lists([[1, 2, 3]])
Ways = dict[str, Callable[[], object]]


def zipf_weights(items: int) -> Tensor:
    return (1e7 / torch.arange(1, items + 1, dtype=torch.float64)).float()


def zipf_labels(items: int, generator: torch.Generator) -> Tensor:
    u = torch.rand(LABELS, generator=generator, dtype=torch.float64)
    return (items**u).long().sub_(1).clamp_(0, items - 1)


def check(sampler: Sampler, items: int) -> None:
    """Distinct, in range; Σ 1/q over the sample estimates the number of items, counts add up to the sample."""
    sample = sampler.sample(POSITIVES, torch_generator(1, "bench sampling"))
    assert len(sample.ids.unique()) == DRAWN
    assert int(sample.ids.min()) >= 0 and int(sample.ids.max()) < items
    assert bool((sample.log_q <= 0).all())
    if items <= MOST_OF_TENSORFLOW:
        total = float(sampler.log_expected_count(torch.arange(items), POSITIVES).exp().sum())
        assert abs(total / DRAWN - 1) < 1e-4, total


def seconds(ways: Ways, runs: int) -> dict[str, float]:
    """Median of each way; they take turns."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(runs):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in taken.items()}


def ours(items: int) -> tuple[dict[str, Sampler], Tensor, torch.Generator]:
    generator = torch_generator(0, "bench sampling")
    labels = zipf_labels(items, generator)
    learned = LearnedUnigram(items, DRAWN, replacement=False)
    learned.update(labels)
    samplers: dict[str, Sampler] = {
        "log-uniform": LogUniform(items, DRAWN, replacement=False),
        "fixed unigram": FixedUnigram(zipf_weights(items), DRAWN, replacement=False),
        "learned unigram": learned,
    }
    return samplers, labels, generator


def theirs(items: int, labels: Tensor) -> Ways:
    """TensorFlow's draws and updates, each a function of its own that keeps its kernel."""
    import tensorflow as tf  # type: ignore[import-not-found,unused-ignore]

    tf.config.threading.set_intra_op_parallelism_threads(1)
    true = tf.constant([[1, 2, 3]], tf.int64)
    many = tf.constant(labels.reshape(1000, -1).numpy())
    weights = zipf_weights(items).tolist()

    def call(name: str, classes: Any, num_true: int, drawn: int, unique: bool, **more: Any) -> Callable[[], object]:
        draw = getattr(tf.random, f"{name}_candidate_sampler")
        compiled = tf.function(lambda: draw(classes, num_true, drawn, unique, items, seed=1, **more))

        def run() -> object:
            return compiled()[0].numpy()

        return run

    return {
        "log-uniform": call("log_uniform", true, 3, DRAWN, True),
        "fixed unigram": call("fixed_unigram", true, 3, DRAWN, True, unigrams=weights),
        "learned unigram": learned(items, true, labels),
        "a million labels": call("learned_unigram", many, many.shape[1], 1, False),
    }


def learned(items: int, true: Any, labels: Tensor) -> Callable[[], object]:
    """One function for any number of rows, since each traced shape has a state of its own; it has seen the labels."""
    import tensorflow as tf  # type: ignore[import-not-found,unused-ignore]

    shape = tf.TensorSpec([None, 3], tf.int64)

    @tf.function(input_signature=[shape])  # type: ignore[untyped-decorator,unused-ignore]
    def draw(classes: Any) -> Any:
        return tf.random.learned_unigram_candidate_sampler(classes, 3, DRAWN, True, items, seed=2)

    draw(tf.constant(labels[: len(labels) // 3 * 3].reshape(-1, 3).numpy()))

    def run() -> object:
        return draw(true)[0].numpy()

    return run


def build_of_tensorflow(items: int) -> Callable[[], object]:
    """A new fixed unigram from a list: its first call makes the table."""
    import tensorflow as tf  # type: ignore[import-not-found,unused-ignore]

    weights, true = zipf_weights(items).tolist(), tf.constant([[1]], tf.int64)

    numbers = iter(range(1, 1000))

    def build() -> object:
        return tf.raw_ops.FixedUnigramCandidateSampler(
            true_classes=true,
            num_true=1,
            num_sampled=1,
            unique=False,
            range_max=items,
            unigrams=weights,
            seed=next(numbers),
            seed2=1,
        )

    return build


def row(items: int, what: str, own: float, other: float | None) -> str:
    beside = "| | |" if other is None else f"| {other * 1e3:.3f} | {other / own:.1f} × |"
    return f"| {items:,} | {what} | {own * 1e3:.3f} {beside}"


def measure(items: int, runs: int, tables: int, beside: bool) -> None:
    samplers, labels, generator = ours(items)
    for sampler in samplers.values():
        check(sampler, items)
    reference = theirs(items, labels) if beside else {}
    for name, sampler in samplers.items():
        ways: Ways = {"xclass": lambda sampler=sampler: sampler.sample(POSITIVES, generator)}  # type: ignore[misc]
        if name in reference:
            ways["tensorflow"] = reference[name]
        found = seconds(ways, runs)
        print(row(items, f"{DRAWN} distinct draws, {name}", found["xclass"], found.get("tensorflow")), flush=True)
    learning, counting = (LearnedUnigram(items, DRAWN, replacement=kind) for kind in (False, True))
    ways = {"calibrated": lambda: learning.update(labels), "with replacement": lambda: counting.update(labels)}
    if "a million labels" in reference:
        ways["tensorflow"] = reference["a million labels"]
    found = seconds(ways, max(runs // 4, 3))
    for name in ("calibrated", "with replacement"):
        print(row(items, f"learning a million labels ({name})", found[name], found.get("tensorflow")), flush=True)
    weights = zipf_weights(items)
    ways = {"xclass": lambda: FixedUnigram(weights, DRAWN, replacement=False)}
    if beside:
        ways["tensorflow"] = build_of_tensorflow(items)
    found = seconds(ways, tables)
    print(row(items, "building the fixed unigram", found["xclass"], found.get("tensorflow")), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--runs", type=int, default=31)
    parser.add_argument("--tables", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    there = importlib.util.find_spec("tensorflow") is not None
    print("| items | what | xclass ms | TensorFlow ms | faster |\n|--:|---|--:|--:|--:|")
    for items in options.items:
        measure(items, options.runs, options.tables, there and items <= MOST_OF_TENSORFLOW)


if __name__ == "__main__":
    main()
