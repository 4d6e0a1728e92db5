"""The working set and the table in memory."""

import pytest
import torch

from xclass.embeddings import TABLES, MemoryTable, Place, TableOptions, plan_rows
from xclass.errors import InputError
from xclass.optim import RowAdaGrad, RowSGD
from xclass.types import Rows


def make(rows=50, dim=4, optimizer=None):
    return MemoryTable(rows, dim, optimizer or RowAdaGrad(), TableOptions(0.1))


def test_the_plan_finds_each_row_once():
    plan = plan_rows({"a": torch.tensor([7, 2, 7]), "b": torch.tensor([], dtype=torch.int64), "c": torch.tensor([2])})
    assert plan.unique.tolist() == [2, 7]
    rows = Rows(torch.tensor([[2.0], [7.0]]), plan.positions)
    assert (
        rows.of("a").flatten().tolist() == [7, 2, 7] and rows.of("b").shape == (0, 1) and rows.of("c").tolist() == [[2]]
    )


@pytest.mark.parametrize("largest", [0, 1, 399, 400, 5000, (1 << 40) - 1])
def test_the_plan_is_that_of_a_sort(largest):
    """Ids below four times their number have a place each, larger ones are sorted."""
    ids = torch.randint(largest + 1, (100,), generator=torch.Generator().manual_seed(1))
    ids[57] = largest
    plan = plan_rows({"a": ids[:60], "b": ids[60:]})
    unique, inverse = torch.unique(ids, return_inverse=True)
    assert torch.equal(plan.unique, unique) and torch.equal(torch.cat(list(plan.positions.values())), inverse)


@pytest.mark.parametrize("name", TABLES)
def test_untouched_rows_stay_bit_identical(name, tmp_path):
    table = TABLES[name](50, 4, RowAdaGrad(), TableOptions(0.1), Place("cpu", tmp_path / "table"))
    before = {key: value.clone() for key, value in table.tensors().items()}
    ids = torch.tensor([3, 17, 49])
    for _ in range(3):
        table.push(ids, torch.randn(3, 4), 0.1)
    untouched = torch.ones(50, dtype=torch.bool)
    untouched[ids] = False
    for key, value in table.tensors().items():
        assert torch.equal(value[untouched], before[key][untouched])
        assert not torch.equal(value[ids], before[key][ids])


def test_pull_is_a_copy():
    table = make()
    rows = table.pull(torch.tensor([1, 2]))
    rows.zero_()
    assert float(table.weight[1].abs().sum()) > 0


def test_rows_asked_for_twice_get_one_summed_gradient():
    table = make(optimizer=RowSGD())
    before = table.weight.clone()
    plan = plan_rows({"a": torch.tensor([5, 5, 9])})
    rows = Rows(table.pull(plan.unique).requires_grad_(), plan.positions)
    (rows.of("a") * torch.tensor([[1.0], [2.0], [4.0]])).sum().backward()
    table.push(plan.unique, rows.values.grad, 0.5)
    torch.testing.assert_close(
        before - table.weight,
        torch.zeros(50, 4).index_fill(0, torch.tensor([5]), 1.5).index_fill(0, torch.tensor([9]), 2.0),
    )


def test_an_empty_table_is_refused():
    with pytest.raises(InputError, match="at least one row"):
        make(rows=0)
