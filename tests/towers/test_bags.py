"""Weighted sums of rows: the compiled loops, torch's own and the formula, with their gradients."""

from __future__ import annotations

import pytest
import torch

from xclass.runtime.rng import torch_generator
from xclass.towers import bags
from xclass.towers.bags import weighted_bags
from xclass.types import offsets_of


def made(lists: int, rows: int, dim: int) -> tuple[torch.Tensor, ...]:
    generator = torch_generator(lists, "bags")
    lengths = torch.randint(0, 5, (lists,), generator=generator)
    positions = torch.randint(rows, (int(lengths.sum()),), generator=generator)
    shares = torch.randn(len(positions), generator=generator)
    return torch.randn(rows, dim, generator=generator), positions, offsets_of(lengths), shares


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(("lists", "rows", "dim"), [(0, 3, 4), (1, 1, 1), (40, 7, 5), (300, 50, 64)])
def test_they_are_the_formula(lists: int, rows: int, dim: int, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr(bags, "compiles", lambda: False)
    values, positions, offsets, shares = made(lists, rows, dim)
    matrix = torch.zeros(lists, rows, dtype=torch.float64)  # bag = matrix @ rows
    for b in range(lists):
        for place in range(int(offsets[b]), int(offsets[b + 1])):
            matrix[b, positions[place]] += shares[place].double()
    values.requires_grad_(True)
    found = weighted_bags(values, positions, offsets, shares)
    torch.testing.assert_close(found.double(), matrix @ values.detach().double(), rtol=1e-5, atol=1e-5)
    upstream = torch.randn(lists, dim, generator=torch_generator(1, "bags"))
    (gradient,) = torch.autograd.grad(found, values, upstream)
    torch.testing.assert_close(gradient.double(), matrix.T @ upstream.double(), rtol=1e-5, atol=1e-5)


def test_an_upstream_gradient_may_be_a_view_and_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values, positions, offsets, shares = made(300, 50, 64)
    results = []
    for threads in (1, 3):
        monkeypatch.setattr(bags, "PART_NUMBERS", 1 << 30 if threads == 1 else 1)
        monkeypatch.setattr("xclass.runtime.threads.num_threads", lambda threads=threads: threads)
        rows = values.clone().requires_grad_(True)
        found = weighted_bags(rows, positions, offsets, shares)
        found.sum().backward()  # an expanded gradient
        assert rows.grad is not None
        results.append((found.detach(), rows.grad))
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


def test_rows_of_another_type_go_through_torch() -> None:
    values, positions, offsets, shares = made(9, 4, 3)
    found = weighted_bags(values.double(), positions, offsets, shares.double())
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.float(), weighted_bags(values, positions, offsets, shares))
