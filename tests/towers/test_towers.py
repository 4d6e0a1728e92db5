"""Query towers and the projection."""

import pytest
import torch

from xclass.embeddings import plan_rows
from xclass.errors import InputError
from xclass.runtime.rng import torch_generator
from xclass.towers import QUERY_TOWERS, HistorySource, IdSource, Projection, QueryTower, unit
from xclass.types import Batch, Ragged, Rows

HISTORY = Ragged.from_lists([[3, 1], [], [3, 3, 0]])
BATCH = Batch(torch.tensor([4, -1, 2]), HISTORY)


def rows(source, table):
    plan = plan_rows({source.request: source.ids(BATCH)})
    return Rows(table[plan.unique], plan.positions)


def test_history_is_the_mean_of_its_items_and_zero_when_empty():
    table = torch.arange(8.0).reshape(4, 2)
    source = HistorySource("history")
    expected = [[4.0, 5.0], [0.0, 0.0], [4.0, 5.0]]
    torch.testing.assert_close(source(BATCH, rows(source, table)), torch.tensor(expected))


def test_degree_weights_multiply_each_item():
    table = torch.ones(4, 1)
    source = HistorySource("history", torch.tensor([1.0, 0.5, 9.0, 0.25]))
    expected = [[(0.25 + 0.5) / 2], [0.0], [(0.25 + 0.25 + 1.0) / 3]]
    torch.testing.assert_close(source(BATCH, rows(source, table)), torch.tensor(expected))


def test_an_unknown_query_has_the_zero_vector():
    table = torch.arange(1.0, 7.0).unsqueeze(1)
    source = IdSource()
    assert source(BATCH, rows(source, table)).flatten().tolist() == [5.0, 0.0, 3.0]


def test_the_query_vector_does_not_depend_on_company():
    table = torch.randn(5, 4)
    tower = QueryTower([IdSource(), HistorySource("history")], Projection(4, (8,), True, torch_generator(0, "test")))
    torch.nn.init.normal_(tower.projection.mlp[-1].weight)

    def vectors(batch):
        plans = {name: plan_rows(parts) for name, parts in tower.requests(batch).items()}
        return tower(batch, {name: Rows(table[plan.unique], plan.positions) for name, plan in plans.items()})

    together = vectors(BATCH)
    for b in range(3):
        alone = Batch(BATCH.query_ids[b : b + 1], HISTORY.slice(b, b + 1))
        torch.testing.assert_close(vectors(alone)[0], together[b])
    assert together.norm(dim=1).tolist() == pytest.approx([1.0, 0.0, 1.0])


def test_shared_tables_are_asked_for_once():
    tower = QueryTower([HistorySource("item")], Projection(4, (), False, torch_generator(0, "test")))
    assert list(tower.requests(BATCH)) == ["item"] and list(tower.requests(BATCH)["item"]) == ["history"]


def test_projection_starts_as_the_identity_and_learns():
    projection = Projection(3, (6, 5), False, torch_generator(0, "test"))
    x = torch.randn(4, 3)
    assert torch.equal(projection(x), x) and not projection.is_identity
    projection(x).pow(2).sum().backward()
    assert float(projection.mlp[-1].weight.grad.abs().sum()) > 0
    unit = Projection(3, (), True, torch_generator(0, "test"))(torch.cat([x, torch.zeros(1, 3)]))
    assert unit.norm(dim=1).tolist() == pytest.approx([1, 1, 1, 1, 0])
    assert Projection(3, (), False, torch_generator(0, "test")).is_identity


def test_every_registered_tower_is_made_of_known_sources():
    assert {name for parts in QUERY_TOWERS.values() for name in parts} == {"id", "history", "context", "features"}


def test_a_tower_of_ids_refuses_new_queries():
    tower = QueryTower([IdSource()], Projection(2, (), False, torch_generator(0, "test")))
    with pytest.raises(InputError, match="by id only"):
        tower.check_new_queries()
    QueryTower([HistorySource("item")], Projection(2, (), False, torch_generator(0, "test"))).check_new_queries()


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("rows", [0, 1, 37, 9000])
def test_unit_rows_and_their_gradient(monkeypatch, rows, compiled):
    monkeypatch.setattr(unit, "compiles", lambda: compiled)
    generator = torch_generator(0, "unit")
    vectors = torch.randn(rows, 32, generator=generator)
    vectors[3::7] = 0.0
    upstream = torch.randn(32, rows, generator=generator).T
    upstream[3::7] = 0.0
    leaf, wide = vectors.clone().requires_grad_(), vectors.double().requires_grad_()
    ours, plain = unit.unit_rows(leaf), wide / wide.norm(dim=1, keepdim=True).clamp(min=1e-12)
    torch.testing.assert_close(ours.double(), plain, rtol=1e-6, atol=1e-7)
    (got,) = torch.autograd.grad(ours, leaf, upstream)
    (expected,) = torch.autograd.grad(plain, wide, upstream.double())
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-6)


def test_unit_rows_by_numerical_gradient():
    vectors = torch.randn(5, 3, dtype=torch.float64, generator=torch_generator(1, "unit"), requires_grad=True)
    assert torch.autograd.gradcheck(unit.unit_rows, vectors)
    eps, x, g = 1e-2, vectors.detach().float(), torch.randn(5, 3, generator=torch_generator(2, "unit"))
    leaf = x.clone().requires_grad_()
    (got,) = torch.autograd.grad(unit.unit_rows(leaf), leaf, g)
    for cell in range(15):
        step = torch.zeros(15).scatter_(0, torch.tensor(cell), eps).view(5, 3)
        up, down = ((unit.unit_rows(x + sign * step) * g).sum() for sign in (1, -1))
        assert float((up - down) / (2 * eps)) == pytest.approx(float(got.flatten()[cell]), abs=2e-3)
