"""Logarithms of sums over rows: the compiled loops beside torch's, in float64, with gradients."""

from __future__ import annotations

import pytest
import torch

from xclass.heads import log_sum as module
from xclass.heads.log_sum import log_sum, row_log_sums
from xclass.heads.normaliser import log_normaliser
from xclass.rng import torch_generator
from xclass.vectors import as_vectors


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("scale", [0.1, 1.0, 60.0])
@pytest.mark.parametrize(("rows", "cells"), [(1, 1), (3, 5), (7, 9000)])
def test_rows(rows: int, cells: int, scale: float, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr(module, "compiles", lambda: False)
    generator = torch_generator(cells, "log sums")
    for shift in (0.0, -500.0, 500.0):
        values = scale * torch.randn(rows, cells, generator=generator) + shift
        torch.testing.assert_close(row_log_sums(values), values.double().logsumexp(1), rtol=1e-6, atol=2e-6)


def test_many_small_cells_are_not_lost() -> None:
    values = torch.full((1, 3_000_000), -8.0)
    values[0, 0] = 8.0
    assert float(row_log_sums(values)) == pytest.approx(float(values.double().logsumexp(1)), abs=1e-6)


@pytest.mark.parametrize("compiled", [True, False])
def test_the_gradient_is_the_softmax(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr(module, "compiles", lambda: False)
    monkeypatch.setattr(module, "BLOCK_CELLS", 64)
    generator = torch_generator(0, "log sums")
    query, rows = torch.randn(6, 8, generator=generator), torch.randn(50, 8, generator=generator)
    upstream = torch.randn(6, generator=generator)
    found, expected = [], []
    for dtype, into in ((torch.float32, found), (torch.float64, expected)):
        given = [each.to(dtype).requires_grad_(True) for each in (query, rows)]
        value = log_sum(*given) if dtype == torch.float32 else (given[0] @ given[1].T).logsumexp(1)
        into += [value.detach(), *torch.autograd.grad(value, given, upstream.to(dtype))]
    for got, wanted in zip(found, expected, strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-5)


def test_the_normaliser_in_blocks_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch_generator(1, "log sums")
    query, rows = torch.randn(5, 8, generator=generator), torch.randn(700, 8, generator=generator)
    wanted = (query.double() @ rows.double().T * 0.5).logsumexp(1)
    for block, part in ((1 << 20, 1 << 18), (64, 1), (1, 1)):
        monkeypatch.setattr("xclass.heads.normaliser.BLOCK_SCORES", block)
        monkeypatch.setattr("xclass.heads.normaliser.PART_CELLS", part)
        monkeypatch.setattr("xclass.workers.num_threads", lambda: 2)
        torch.testing.assert_close(log_normaliser(query, as_vectors(rows), 0.5), wanted, rtol=1e-6, atol=1e-6)
