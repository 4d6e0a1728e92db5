"""Writes tests/compat/tensorflow_vectors.npz: answers of TensorFlow, so that parity is tested without it.

    python tests/peers/make_vectors.py        (TensorFlow 2.21)

Per case of the losses: the arguments, and value and gradients in float32. Per call of a sampler: what it returned.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from peers import cases  # noqa: E402
from peers import tensorflow_side as theirs  # noqa: E402

OUT = ROOT / "tests" / "compat" / "tensorflow_vectors.npz"
NUM_CASES = 96
MOST = (30, 8, 4, 16)
WEIGHTS = [30.0, 1.0, 0.0, 7.5, 7.5, 2.0, 0.25, 12.0, 3.0, 3.0, 1.0, 19.0]
FIELDS = ("weights", "biases", "labels", "inputs", "sampled", "true_count", "sampled_count", "upstream")
SWITCHES = ("remove_accidental_hits", "subtract_log_q", "strategy", "weight_shards", "bias_shards", "loss")


def losses() -> dict[str, np.ndarray]:
    """Cases whose answer TensorFlow's own rounding leaves within half of the bar."""
    found: dict[str, np.ndarray] = {}
    number = kept = 0
    while kept < NUM_CASES:
        case = cases.random_case(8, number, MOST)
        number += 1
        answer, exact = theirs.answer(case), theirs.answer(case.astype(np.float64))
        if max(cases.distance(answer[name], exact[name]) for name in answer) > 5e-7:
            continue
        found |= {f"loss/{kept}/{name}": np.asarray(getattr(case, name)) for name in (*FIELDS, *SWITCHES)}
        found |= {f"loss/{kept}/answer/{name}": np.asarray(value, np.float32) for name, value in answer.items()}
        kept += 1
    return found


def samplers() -> dict[str, np.ndarray]:
    """Four calls each; every class is a true class, so that all counts are there."""
    tf = theirs.load()
    calls = {
        "uniform": (tf.random.uniform_candidate_sampler, 30, {}),
        "log_uniform": (tf.random.log_uniform_candidate_sampler, 25, {}),
        "fixed_unigram": (tf.random.fixed_unigram_candidate_sampler, 12, {"unigrams": WEIGHTS}),
        "fixed_unigram_distorted": (
            tf.random.fixed_unigram_candidate_sampler,
            14,
            {"unigrams": WEIGHTS, "distortion": 0.75, "num_reserved_ids": 2},
        ),
    }
    found = {}
    for name, (call, classes, extra) in calls.items():
        for number in range(4):
            sizes = (classes, 7, number > 0, classes)
            drawn = call(np.arange(classes).reshape(1, -1), *sizes, seed=number + 1, **extra)
            for part, value in zip(("ids", "true_count", "count"), drawn, strict=True):
                found[f"sampler/{name}/{number}/{part}"] = value.numpy()
    return found


def main() -> None:
    found = losses() | samplers() | {"tensorflow": np.array(theirs.load().__version__)}
    np.savez_compressed(OUT, **found)
    print(f"{OUT.relative_to(ROOT)}: {len(found)} arrays, {OUT.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
