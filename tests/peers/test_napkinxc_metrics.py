"""Our metrics of extreme classification beside napkinXC's, on random lists.

Set XCLASS_NAPKINXC to the Python of an environment that has it (python -m venv V; V/bin/pip install napkinxc).
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from xclass.metrics import Propensities, average, compute, parse_metrics
from xclass.runtime.rng import numpy_generator
from xclass.types import Ragged, TopK, offsets_of

PYTHON = os.environ.get("XCLASS_NAPKINXC", "")
K = 5
ITEMS, DOCUMENTS = 60, 200
CONSTANTS = ((0.55, 1.5), (0.5, 0.4), (0.6, 2.6))
pytestmark = pytest.mark.skipif(
    not Path(PYTHON).is_file(), reason="needs napkinXC: XCLASS_NAPKINXC is not the Python of an environment with it"
)


def random_case(number: int) -> dict[str, Any]:
    """Lists of five of 60 items, at least one positive each; counts that fall."""
    generator = numpy_generator(0, "napkinxc", number)
    queries = int(generator.integers(1, 40))
    found = [generator.permutation(ITEMS)[:K].tolist() for _ in range(queries)]
    truth = [generator.permutation(ITEMS)[: int(generator.integers(1, 12))].tolist() for _ in range(queries)]
    counts = sorted((generator.zipf(1.3, ITEMS).clip(max=DOCUMENTS)).tolist(), reverse=True)
    a, b = CONSTANTS[number % 3]
    return {"found": found, "truth": truth, "counts": counts, "documents": DOCUMENTS, "k": K, "a": a, "b": b}


def ours(case: dict[str, Any]) -> dict[str, float]:
    lengths = torch.full((len(case["found"]),), K)
    lists = torch.tensor(case["found"])
    scores = torch.arange(K, 0, -1).float().repeat(len(lists))
    found = TopK(offsets_of(lengths), lists.reshape(-1), scores)
    names = [f"{name}@{k}" for name in ("precision", "recall", "ndcg", "psp", "psndcg") for k in range(1, K + 1)]
    counts = torch.tensor(case["counts"])
    weights = Propensities.of(counts, case["documents"], case["a"], case["b"]).weights_N
    return average(compute(found, Ragged.from_lists(case["truth"]), parse_metrics(names), weights))


def test_equal_to_napkinxc() -> None:
    cases = [random_case(number) for number in range(30)]
    side = Path(__file__).with_name("napkinxc_side.py")
    done = subprocess.run([PYTHON, side], input=json.dumps(cases), capture_output=True, text=True, check=True)
    for case, theirs in zip(cases, json.loads(done.stdout), strict=True):
        got = ours(case)
        for name, values in theirs.items():
            for k, value in enumerate(values, 1):
                assert got[f"{name}@{k}"] == pytest.approx(value, rel=1e-9, abs=1e-12), f"{name}@{k}"
