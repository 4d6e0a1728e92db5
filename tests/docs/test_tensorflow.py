"""docs/tensorflow.md: its examples run, and it speaks of every name."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from xclass.compat import tf

PAGE = (Path(__file__).resolve().parent.parent.parent / "docs" / "tensorflow.md").read_text(encoding="utf-8")


def test_the_examples_run() -> None:
    names: dict[str, object] = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
            exec(compile(block, "docs/tensorflow.md", "exec"), names)
    loss, weights = names["loss"], names["weights"]
    assert isinstance(loss, torch.Tensor) and loss.shape == (128,) and bool(torch.isfinite(loss).all())
    assert isinstance(weights, torch.Tensor) and weights.grad is not None and weights.grad.is_sparse
    assert torch.equal(names["resumed"].counts(), names["state"].counts())  # type: ignore[attr-defined]


def test_it_names_every_function() -> None:
    assert [name for name in tf.__all__ if name[0].islower() and name not in PAGE] == []
