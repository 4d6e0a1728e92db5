"""Conformance suite of the head seam: what every output layer must do, whatever its form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from xclass.embeddings import MemoryTable, Table, TableOptions, plan_rows
from xclass.heads import Head
from xclass.models.two_tower import TwoTower
from xclass.optim import ROW_OPTIMIZERS
from xclass.runtime.rng import torch_generator
from xclass.towers import IdSource, Projection, QueryTower
from xclass.types import Batch, Ragged, Rows

QUERIES = 5
DENSE_RATE = 0.02
TARGETS = [[0, 3], [1], [2, 0, 4], [], [3]]


def check_head(
    make: Callable[[], Head], tables: dict[str, tuple[int, int]], num_items: int, dim: int, exact_loss: bool = True
) -> None:
    """Run every check; an AssertionError says which property fails.

    Args:
        make: makes the head over a small catalogue (5 ≤ N ≤ 100).
        tables: name → (rows, dimensions) of the tables that it reads.
        num_items, dim: N, and D of its query vectors.
        exact_loss: the loss is −log of the probability, not an estimate of it.
    """
    case = _Case(make, tables, num_items, dim)
    check_probabilities_sum_to_one(case)
    check_log_z_is_of_the_scores(case)
    check_topk_is_the_sorted_probabilities(case)
    check_what_must_not_come_out_does_not(case)
    check_gradients(case)
    check_only_requested_rows_change(case)
    check_weights(case)
    if exact_loss:
        check_loss_is_the_mean_over_targets(case)
        check_training_raises_the_targets(case)


@dataclass
class _Case:
    make: Callable[[], Head]
    shapes: dict[str, tuple[int, int]]
    num_items: int
    dim: int

    def tables(self) -> dict[str, Table]:
        """Random rows, the same ones every time."""
        return {
            name: MemoryTable(rows, dim, ROW_OPTIMIZERS["sgd"](), TableOptions(init_std=0.7, seed=number))
            for number, (name, (rows, dim)) in enumerate(self.shapes.items())
        }

    def queries(self) -> Tensor:
        """(B, D)."""
        return torch.randn(QUERIES, self.dim, generator=torch_generator(1, "conformance"))

    def every_item(self) -> Ragged:
        """The whole catalogue as every query's list."""
        return Ragged(torch.arange(QUERIES + 1) * self.num_items, torch.arange(self.num_items).repeat(QUERIES))

    def batch(self, lists: list[list[int]], weights: Tensor | None = None, own: Tensor | None = None) -> Batch:
        """A training batch with these targets."""
        positives = Ragged.from_lists(lists)
        positives = Ragged(positives.offsets, positives.values, own)
        history = Ragged.from_lists([[] for _ in lists])
        return Batch(torch.arange(len(lists)), history, positives, positives, weights)

    def loss(
        self, head: Head, batch: Batch, query_BD: Tensor, tables: dict[str, Table]
    ) -> tuple[Tensor, dict[str, Rows]]:
        """(B,) and the rows that it read, leaves with gradient."""
        plan = head.plan(batch, torch_generator(2, "conformance"))
        plans = {name: plan_rows(requests) for name, requests in head.requests(batch, plan).items()}
        rows = {
            name: Rows(tables[name].pull(each.unique).requires_grad_(True), each.positions)
            for name, each in plans.items()
        }
        return head.loss(query_BD, batch, plan, rows), rows


def check_probabilities_sum_to_one(case: _Case) -> None:
    """Σ_i P(i | q) = 1, and one item's probability does not depend on which others are asked for."""
    head, tables = case.make(), case.tables()
    whole = head.log_probability(case.queries(), case.every_item(), tables).view(QUERIES, -1)
    torch.testing.assert_close(whole.exp().sum(1), torch.ones(QUERIES), rtol=1e-4, atol=1e-4)
    some = head.log_probability(case.queries(), Ragged.from_lists(TARGETS), tables)
    rows, items = Ragged.from_lists(TARGETS).rows(), Ragged.from_lists(TARGETS).values
    torch.testing.assert_close(some, whole[rows, items], rtol=1e-4, atol=1e-4)


def check_log_z_is_of_the_scores(case: _Case) -> None:
    """Where a head has a score of every item: log P + log Z is ⟨query, item vector⟩ times one number."""
    head, tables = case.make(), case.tables()
    vectors, found = head.item_vectors(tables), head.log_parts(case.queries(), case.every_item(), tables)
    if found.log_z is None or vectors is None:
        return
    scores = found.log_probability.view(QUERIES, -1) + found.log_z.unsqueeze(1)
    products = case.queries() @ vectors.read(0, len(vectors)).T
    constant = (scores * products).sum() / products.square().sum()
    torch.testing.assert_close(scores, constant * products, rtol=1e-3, atol=1e-3)
    asked = head.log_probability(case.queries(), case.every_item(), tables)
    torch.testing.assert_close(found.log_probability, asked)


def check_topk_is_the_sorted_probabilities(case: _Case) -> None:
    """The exact search gives the items with the largest probabilities, in their order, for any k."""
    head, tables = case.make(), case.tables()
    whole = head.log_probability(case.queries(), case.every_item(), tables).view(QUERIES, -1)
    for k in (1, 7, case.num_items + 3):
        found = head.topk(case.queries(), k, tables, exact=True)
        width = min(k, case.num_items)
        assert found.lengths().tolist() == [width] * QUERIES
        assert torch.equal(found.ids.view(QUERIES, -1), whole.argsort(dim=1, descending=True, stable=True)[:, :width])
        if head.searched_by == "beam":
            torch.testing.assert_close(
                found.scores.view(QUERIES, -1), whole.gather(1, found.ids.view(QUERIES, -1)), rtol=1e-4, atol=1e-4
            )
    check_scores_are_logits(head, whole, tables, case)
    usual = head.topk(case.queries(), case.num_items, tables)
    assert torch.equal(usual.ids, head.topk(case.queries(), case.num_items, tables, exact=True).ids)


def check_scores_are_logits(head: Head, whole: Tensor, tables: dict[str, Table], case: _Case) -> None:
    """The difference log P(i | q) − score_scale · score_i is the same for all items of a query."""
    found = head.topk(case.queries(), case.num_items, tables, exact=True)
    rest = whole.gather(1, found.ids.view(QUERIES, -1)) - head.score_scale * found.scores.view(QUERIES, -1)
    torch.testing.assert_close(rest, rest[:, :1].expand_as(rest), rtol=1e-4, atol=1e-4)


def check_what_must_not_come_out_does_not(case: _Case) -> None:
    """A query's excluded items and items that nobody may get are left out, and nothing else is."""
    head, tables = case.make(), case.tables()
    whole = head.log_probability(case.queries(), case.every_item(), tables).view(QUERIES, -1)
    best = whole.argsort(dim=1, descending=True)
    hidden = Ragged.from_lists([row[:2] for row in best.tolist()])
    allowed = torch.arange(0, case.num_items, 2)
    for exact in (True, False):
        found = head.topk(case.queries(), 3, tables, hidden, allowed, exact=exact)
        for b in range(QUERIES):
            wanted = [item for item in best[b, 2:].tolist() if item % 2 == 0][:3]
            got = found.ids[found.offsets[b] : found.offsets[b + 1]].tolist()
            assert got == wanted if exact else (len(got) == len(wanted) and all(item % 2 == 0 for item in got))
            assert not set(got) & set(best[b, :2].tolist())


def check_gradients(case: _Case) -> None:
    """Central differences along random directions, for queries, for every table's rows and for dense parameters;
    unequal weights too."""
    for weights in (None, torch.linspace(0.5, 2.0, QUERIES)):
        head, tables, batch = case.make(), case.tables(), case.batch(TARGETS, weights)
        query = case.queries().requires_grad_(True)
        upstream = torch.linspace(1.0, 2.0, QUERIES) if weights is not None else torch.ones(QUERIES)
        loss, rows = case.loss(head, batch, query, tables)
        leaves = {"query": query, **{name: each.values for name, each in rows.items()}, **dict(head.named_parameters())}
        gradients = torch.autograd.grad((loss * upstream).sum(), list(leaves.values()), allow_unused=True)
        plan = head.plan(batch, torch_generator(2, "conformance"))
        for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True):
            way, values = torch.randn(leaf.shape, generator=torch_generator(3, name)), list[float]()
            far = 1e-2 if name == "query" or name in rows else 2e-4  # a network has kinks
            for step in (far, -2 * far, far):
                with torch.no_grad():
                    leaf += step * way
                    values.append(float((head.loss(query, batch, plan, rows) * upstream).sum()))
            slope, found = (
                (values[0] - values[1]) / (2 * far),
                0.0 if gradient is None else float((gradient * way).sum()),
            )
            assert abs(slope - found) <= 2e-2 * max(abs(slope), 1.0), f"{name}: {found}, by differences {slope}"


def check_only_requested_rows_change(case: _Case) -> None:
    """A training step leaves every row that it did not ask for as it was, bit for bit; some rows change."""
    head, tables = (
        case.make(),
        case.tables() | {"query": MemoryTable(QUERIES, case.dim, ROW_OPTIMIZERS["sgd"](), TableOptions(init_std=1.0))},
    )
    tower = QueryTower([IdSource()], Projection(case.dim, (), False, torch_generator(0, "conformance")))
    model = TwoTower(tower, head, tables)
    prepared = model.prepare(case.batch([[0], [1], [0], [], [1]]), torch_generator(0, "conformance"))
    before = {name: table.weight.clone() for name, table in tables.items()}
    rows = model.pull(prepared.row_plans, requires_grad=True)
    model.loss(prepared, rows).mean().backward()
    model.push(prepared.row_plans, rows, 0.1)
    for name, table in tables.items():
        asked = torch.zeros(table.num_rows, dtype=torch.bool)
        if name in prepared.row_plans:
            asked[prepared.row_plans[name].unique] = True
        same = (table.weight == before[name]).all(1)
        assert bool(same[~asked].all()), f"a row of table {name} changed that was not asked for"
    changed = any(not torch.equal(table.weight, before[name]) for name, table in tables.items() if name in case.shapes)
    assert changed or any(each.grad is not None and bool(each.grad.any()) for each in head.parameters())


def check_weights(case: _Case) -> None:
    """A query's weight multiplies its loss; a query without targets has loss 0; a target of weight 0 is none."""
    head, tables = case.make(), case.tables()
    plain = case.loss(head, case.batch(TARGETS), case.queries(), tables)[0].detach()
    weights = torch.tensor([2.0, 0.0, 1.0, 3.0, 0.5])
    weighted = case.loss(head, case.batch(TARGETS, weights), case.queries(), tables)[0].detach()
    torch.testing.assert_close(weighted, plain * weights)
    assert float(plain[3]) == 0.0


def check_loss_is_the_mean_over_targets(case: _Case) -> None:
    """loss_b = −Σ_p w_p log P(p | q_b) / Σ_p w_p."""
    head, tables, targets = case.make(), case.tables(), Ragged.from_lists(TARGETS)
    own = torch.linspace(0.5, 2.0, len(targets.values))
    for weights in (None, own):
        loss = case.loss(head, case.batch(TARGETS, None, weights), case.queries(), tables)[0].detach()
        logs = head.log_probability(case.queries(), targets, tables)
        each = own if weights is not None else torch.ones_like(own)
        total = torch.zeros(QUERIES).index_add_(0, targets.rows(), each).clamp(min=1e-9)
        wanted = torch.zeros(QUERIES).index_add_(0, targets.rows(), -each * logs) / total
        torch.testing.assert_close(loss, wanted, rtol=1e-4, atol=1e-4)


def check_training_raises_the_targets(case: _Case) -> None:
    """A few steps of gradient descent on tables and dense parameters make the targets likelier."""
    head, tables, batch = case.make(), case.tables(), case.batch(TARGETS)
    losses = []
    for _ in range(20):
        loss, rows = case.loss(head, batch, case.queries(), tables)
        loss.mean().backward()
        plan = head.plan(batch, torch_generator(2, "conformance"))
        for name, requests in head.requests(batch, plan).items():
            gradient = rows[name].values.grad
            assert gradient is not None
            tables[name].push(plan_rows(requests).unique, gradient, 0.5)
        with torch.no_grad():
            for each in head.parameters():
                each.sub_(torch.zeros_like(each) if each.grad is None else DENSE_RATE * each.grad)
        head.zero_grad()
        losses.append(float(loss.detach().mean()))
    assert losses[-1] < 0.8 * losses[0]
