"""The n-gram tower's source against its formula, one query at a time."""

import pytest
import torch

from xclass.embeddings import plan_rows
from xclass.errors import ConfigError
from xclass.runtime.rng import torch_generator
from xclass.towers import ContextSource, Projection, QueryTower, check_positions, context_source, last_items
from xclass.towers.config import ContextConfig, QueryTowerConfig
from xclass.types import Batch, Ragged, Rows

LISTS = [[3, 1, 2], [], [3, 3, 0, 4, 1], [2]]
BATCH = Batch(torch.full((4,), -1), Ragged.from_lists(LISTS))
LENGTH, DIM = 3, 4


def source(mode, length=LENGTH):
    made = ContextSource("history", DIM, length, mode, torch_generator(0, "test"))
    for number, parameter in enumerate(made.parameters()):
        torch.nn.init.normal_(parameter, generator=torch_generator(number, "test"))
    return made


def vectors(made, table, batch=BATCH):
    plan = plan_rows({made.request: made.ids(batch)})
    return made(batch, Rows(table[plan.unique], plan.positions))


def by_hand(made, table, items):
    """The formula, place by place."""
    total = made.bias.clone()
    for place in range(made.length):
        item = items[-1 - place] if place < len(items) else None
        row = made.start if item is None else table[item]
        if made.mode == "weighted":
            total = total + made.places[place] * row
        else:
            total = total + row @ made.places[place * DIM : (place + 1) * DIM]
    return total


@pytest.mark.parametrize("mode", ["weighted", "concat"])
@pytest.mark.parametrize("length", [1, 3, 6])
def test_it_is_its_formula(mode, length):
    made, table = source(mode, length), torch.randn(5, DIM, generator=torch_generator(9, "test"))
    expected = torch.stack([by_hand(made, table, items) for items in LISTS])
    torch.testing.assert_close(vectors(made, table), expected)


@pytest.mark.parametrize("mode", ["weighted", "concat"])
def test_order_matters_and_gradients_are_right(mode):
    made = source(mode).double()
    table = torch.randn(5, DIM, dtype=torch.float64, generator=torch_generator(9, "test"), requires_grad=True)
    turned = Batch(BATCH.query_ids, Ragged.from_lists([items[::-1] for items in LISTS]))
    changed = (vectors(made, table) != vectors(made, table, turned)).any(1)
    assert changed.tolist() == [True, False, True, False]
    assert torch.autograd.gradcheck(lambda rows: vectors(made, rows), (table,))


def test_only_the_last_items_are_asked_for():
    made = source("concat", 2)
    assert made.ids(BATCH).tolist() == [1, 2, 4, 1, 2]
    assert last_items(BATCH.history, 2).to_lists() == [items[-2:] for items in LISTS]
    tower = QueryTower([made], Projection(DIM, (5,), False, torch_generator(0, "test")))
    assert tower.uses_history and "fields.0.places" in dict(tower.named_parameters())


def test_what_the_data_can_not_give_is_refused():
    generator = torch_generator(0, "test")
    assert context_source(ContextConfig(), 4, "history", DIM, generator).length == 4
    assert context_source(ContextConfig(length=2), 4, "history", DIM, generator).length == 2
    with pytest.raises(ConfigError, match="not that long"):
        context_source(ContextConfig(length=5), 4, "history", DIM, generator)
    with pytest.raises(ConfigError, match="not in order"):
        context_source(ContextConfig(), None, "history", DIM, generator)
    with pytest.raises(ConfigError, match="only once"):
        check_positions(QueryTowerConfig(kind="id+history"), "random")
    with pytest.raises(ConfigError, match="no such start"):
        check_positions(QueryTowerConfig(), "spectral")
    with pytest.raises(ValueError, match="is for query.kind"):
        QueryTowerConfig(context=ContextConfig(mode="weighted"))
