"""Differentiated and adaptive softmax against dense references and against torch's own layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from xclass.embeddings import MemoryTable, TableOptions, plan_rows
from xclass.errors import ConfigError, InputError
from xclass.heads import AdaptiveHead, DifferentiatedHead, Head
from xclass.heads import log_sum_exp as module
from xclass.heads.banded.bands import band_edges
from xclass.heads.log_sum_exp import log_sum
from xclass.runtime.rng import torch_generator
from xclass.types import Batch, Ragged, Rows

EDGES, DIMS, D = [0, 6, 20, 50], [5, 3, 2], 10
TARGETS = [[0, 30], [7], [], [49, 5, 19], [20]]


def tables_of(shapes: dict[str, tuple[int, int]]) -> dict[str, MemoryTable]:
    options = [TableOptions(init_std=0.8, seed=number) for number in range(len(shapes))]
    return {name: MemoryTable(*shape, None, each) for (name, shape), each in zip(shapes.items(), options, strict=True)}


def batch_of(targets: list[list[int]]) -> Batch:
    empty = Ragged.from_lists([[] for _ in targets])
    return Batch(torch.arange(len(targets)), empty, Ragged.from_lists(targets))


def run(
    head: Head, tables: dict[str, Any], query: Tensor, targets: list[list[int]]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss by query, and the gradient of its sum by table."""
    batch = batch_of(targets)
    plan = head.plan(batch, torch_generator(0, "test"))
    plans = {name: plan_rows(each) for name, each in head.requests(batch, plan).items()}
    rows = {
        name: Rows(tables[name].pull(each.unique).requires_grad_(True), each.positions) for name, each in plans.items()
    }
    loss = head.loss(query, batch, plan, rows)
    loss.sum().backward()
    return loss.detach(), {name: each.values.grad for name, each in rows.items() if each.values.grad is not None}


def test_a_differentiated_softmax_is_one_over_a_block_sparse_matrix() -> None:
    tables = tables_of({f"band{k}": (EDGES[k + 1] - EDGES[k], DIMS[k]) for k in range(3)})
    head = DifferentiatedHead(EDGES, DIMS, 0.7)
    query = torch.randn(5, D, generator=torch_generator(1, "test")).requires_grad_(True)
    dense = torch.zeros(50, D)
    columns = [0, 5, 8, 10]
    blocks = [(slice(EDGES[k], EDGES[k + 1]), slice(columns[k], columns[k + 1])) for k in range(3)]
    for k, block in enumerate(blocks):
        dense[block] = tables[f"band{k}"].weight
    torch.testing.assert_close(head.item_vectors(tables).tensor(), dense)
    torch.testing.assert_close(head.item_vectors(tables).take(torch.tensor([49, 3, 3, 8])), dense[[49, 3, 3, 8]])
    torch.testing.assert_close(head.item_vectors(tables).read(4, 30), dense[4:30])
    loss, gradients = run(head, tables, query, TARGETS)
    by_query, query.grad = query.grad, None
    dense.requires_grad_(True)
    logs = (query @ dense.T / 0.7).log_softmax(1)
    wanted = torch.stack([-logs[b, row].mean() if row else logs[b].sum() * 0 for b, row in enumerate(TARGETS)])
    wanted.sum().backward()
    torch.testing.assert_close(loss, wanted.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(by_query, query.grad, rtol=1e-4, atol=1e-5)
    assert dense.grad is not None
    for k, block in enumerate(blocks):
        torch.testing.assert_close(gradients[f"band{k}"], dense.grad[block], rtol=1e-4, atol=1e-5)


def test_an_adaptive_softmax_is_torch_s_with_the_same_weights() -> None:
    tables = tables_of({"shortlist": (8, D), "tail0": (14, 4), "tail1": (30, 2)})
    head = AdaptiveHead(EDGES, D, [4, 2], 1.0, torch_generator(0, "test"))
    theirs = nn.AdaptiveLogSoftmaxWithLoss(D, 50, EDGES[1:-1], div_value=2.2)
    with torch.no_grad():
        theirs.head.weight.copy_(tables["shortlist"].weight)
        for number in range(2):
            inner, outer = theirs.tail[number]
            assert inner.weight.shape == head.projections[number].weight.shape
            inner.weight.copy_(head.projections[number].weight)
            outer.weight.copy_(tables[f"tail{number}"].weight)
    targets = [[item] for item in (0, 5, 6, 19, 20, 49)]
    query = torch.randn(6, D, generator=torch_generator(1, "test")).requires_grad_(True)
    loss, gradients = run(head, tables, query, targets)
    by_query, query.grad = query.grad, None
    found = theirs(query, torch.tensor(targets).squeeze(1))
    (-found.output).sum().backward()
    torch.testing.assert_close(loss, -found.output.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(by_query, query.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradients["shortlist"], theirs.head.weight.grad, rtol=1e-4, atol=1e-5)
    for number in range(2):
        inner, outer = theirs.tail[number]
        torch.testing.assert_close(gradients[f"tail{number}"], outer.weight.grad, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(head.projections[number].weight.grad, inner.weight.grad, rtol=1e-4, atol=1e-5)
    logs = theirs.log_prob(query).detach()
    every = Ragged(torch.arange(7) * 50, torch.arange(50).repeat(6))
    torch.testing.assert_close(
        head.log_probability(query.detach(), every, tables).view(6, 50), logs, rtol=1e-4, atol=1e-4
    )
    best = logs.topk(4)
    mine = head.topk(query.detach(), 4, tables)
    assert torch.equal(mine.ids.view(6, 4), best.indices)
    torch.testing.assert_close(mine.scores.view(6, 4), best.values, rtol=1e-4, atol=1e-4)


def test_an_adaptive_step_reads_only_the_clusters_of_its_targets() -> None:
    head = AdaptiveHead(EDGES, D, [4, 2], 1.0, torch_generator(0, "test"))
    plan = head.plan(batch_of([[0]]), torch_generator(0, "test"))
    assert set(head.requests(batch_of([[0], [5]]), plan)) == {"shortlist"}
    assert set(head.requests(batch_of([[0], [49]]), plan)) == {"shortlist", "tail1"}


@pytest.mark.parametrize("cells", [1 << 20, 40])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])  # float32 is compiled
def test_log_sum_and_its_gradient(cells: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_CELLS", cells)
    monkeypatch.setattr(module, "PART_CELLS", 20)
    generator = torch_generator(0, "test")
    query, rows = (torch.randn(*size, generator=generator, dtype=torch.float64).to(dtype) for size in ((7, 4), (33, 4)))
    query[0] *= 400 if dtype == torch.float64 else 40
    both = [query.requires_grad_(True), rows.requires_grad_(True)]
    upstream = torch.linspace(-1, 2, 7, dtype=dtype)
    found = torch.autograd.grad(log_sum(*both), both, upstream)
    plain = torch.autograd.grad((query @ rows.T).logsumexp(1), both, upstream)
    torch.testing.assert_close(log_sum(*both), (query @ rows.T).logsumexp(1), rtol=1e-5, atol=1e-5)
    for one, other in zip(found, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@given(st.integers(3, 10_000), st.lists(st.floats(0.0001, 0.9999), min_size=1, max_size=2, unique=True))
def test_bands_cover_the_catalogue(num_items: int, cuts: list[float]) -> None:
    edges = band_edges(num_items, sorted(cuts))
    assert edges[0] == 0 and edges[-1] == num_items
    assert all(low < high for low, high in zip(edges[:-1], edges[1:], strict=True))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="fewer items than bands"):
        band_edges(2, [0.1, 0.2])
    with pytest.raises(InputError, match="one dimension for each band"):
        DifferentiatedHead([0, 2, 5], [4])
    with pytest.raises(InputError, match="one dimension for each cluster"):
        AdaptiveHead([0, 2, 5], 4, [2, 2], 1.0, torch_generator(0, "test"))
