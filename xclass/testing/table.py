"""The contract of a table, checked against a dense float64 reference: run it over your own kind.

from xclass.testing import check_table
check_table(lambda rows, dim, optimizer, options: MyTable(...), RowAdaGrad())
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from xclass.embeddings import RowOptimizer, Table, TableOptions
from xclass.errors import InputError
from xclass.runtime.rng import torch_generator

ROWS, DIM, STEPS = 60, 5, 12
MakeTable = Callable[[int, int, RowOptimizer | None, TableOptions], Table]
UNIT = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8}


def check_table(make: MakeTable, optimizer: RowOptimizer, dtype: torch.dtype = torch.float32) -> None:
    """Every promise of :class:`xclass.embeddings.Table`; an AssertionError names the one that is broken.

    Args:
        make: a new table of so many rows, dimensions, with this optimiser and options; the same arguments give the same
            rows.
        optimizer: what it applies.
        dtype: what rows are stored as.
    """
    plain = TableOptions(init_std=0.5, seed=3, dtype=dtype)
    decaying = dataclasses.replace(plain, weight_decay=0.3)
    clipping = dataclasses.replace(plain, weight_decay=0.05, clip_norm=0.7)
    for options in (plain, decaying, clipping):
        made = partial(make, ROWS, DIM, optimizer, options)
        check_start(made, options)
        check_each_push(made, optimizer, options)
        check_many_pushes(made, optimizer, options)
        check_untouched_rows(made)
        check_empty_push(made, options)
        check_settling(made, options)
        check_writing(made, options)
        check_same_again(made)
        check_save_and_load(made)
    check_one_row(make, optimizer, plain)
    check_clipping(make, dataclasses.replace(plain, clip_norm=0.7), optimizer)
    check_refusals(make, optimizer, decaying)


def check_start(made: Callable[[], Table], options: TableOptions) -> None:
    """Sizes and types; reading is pulling; pulled rows are a copy; tensors are rows or small, and always the same."""
    table = made()
    assert (table.num_rows, table.dim) == (ROWS, DIM), "num_rows and dim are the size"
    assert table.weight.shape == (ROWS, DIM) and table.weight.dtype == options.dtype, "weight is (num_rows, D)"
    rows = _all(table)
    assert rows.dtype == torch.float32 and rows.shape == (ROWS, DIM), "pull gives float32 (U, D)"
    assert torch.equal(table.read(7, 31).cpu(), rows[7:31]), "read gives what pull gives"
    assert 0.3 < float(rows.std()) < 0.7, "rows start with the standard deviation asked for"
    before = _bits(table)
    table.pull(torch.arange(ROWS, device=table.device)).zero_()
    assert _same(before, _bits(table)), "a pulled row is the table's own memory"
    assert table.tensors()["weight"] is table.weight, "tensors() has the weight by its name"
    for name, tensor in table.tensors().items():
        assert tensor is table.tensors()[name], "tensors() gives the tensors themselves"
        assert (tensor.dim() > 0 and len(tensor) == ROWS) or tensor.numel() < 16, f"{name} is neither rows nor small"


def check_each_push(made: Callable[[], Table], optimizer: RowOptimizer, options: TableOptions) -> None:
    """Every push: touched rows become what the formula gives in float64, or one of its neighbours in bfloat16."""
    table = made()
    state = _zero_state(optimizer)
    for ids, grads, lr in _steps(seed=1):
        expected = _pull(table, ids).double() * (1 - lr * options.weight_decay)
        touched = {name: values[ids] for name, values in state.items()}
        optimizer.step(expected, touched, _clipped(grads.double(), options.clip_norm), lr)
        for name, values in touched.items():
            state[name][ids] = values
        _push(table, ids, grads, lr)
        _near(_pull(table, ids), expected, options.dtype, "a push does not follow the formula")
        for name, values in touched.items():
            _near(
                table.tensors()[name].cpu()[ids], values, torch.float32, f"the optimiser's {name} is not the formula's"
            )


def check_many_pushes(made: Callable[[], Table], optimizer: RowOptimizer, options: TableOptions) -> None:
    """After a schedule of pushes every row, touched or not, is what decaying all rows in every step gives."""
    table = made()
    dense, state = _all(table).double(), _zero_state(optimizer)
    largest = dense.abs()
    for ids, grads, lr in _steps(seed=2):
        dense *= 1 - lr * options.weight_decay
        rows, touched = dense[ids], {name: values[ids] for name, values in state.items()}
        optimizer.step(rows, touched, _clipped(grads.double(), options.clip_norm), lr)
        dense[ids] = rows
        for name, values in touched.items():
            state[name][ids] = values
        _push(table, ids, grads, lr)
        largest = torch.maximum(largest, dense.abs())
    _near(_all(table), dense, options.dtype, "many pushes drift from the dense reference", STEPS * largest)


def check_untouched_rows(made: Callable[[], Table]) -> None:
    """No bit changes in a row, or in its state, that was not named; every named row changes."""
    table = made()
    for ids, grads, lr in _steps(seed=4):
        before = _bits(table)
        _push(table, ids, grads, lr)
        rest = torch.ones(ROWS, dtype=torch.bool).index_fill(0, ids, False)
        for name, tensor in _bits(table).items():
            if tensor.dim() > 0 and len(tensor) == ROWS:
                assert torch.equal(tensor[rest], before[name][rest]), f"{name} changes in rows that were not touched"
        assert not torch.equal(table.weight.cpu()[ids], before["weight"][ids]), "a push changes nothing"


def check_empty_push(made: Callable[[], Table], options: TableOptions) -> None:
    """No row: nothing moves but weight decay, which counts the step."""
    table = made()
    before, rows = _bits(table), _all(table)
    for lr in (0.5, 0.1):
        _push(table, torch.zeros(0, dtype=torch.int64), torch.zeros(0, DIM), lr)
    assert torch.equal(table.weight.cpu(), before["weight"]), "an empty push changes rows"
    factor = (1 - 0.5 * options.weight_decay) * (1 - 0.1 * options.weight_decay)
    torch.testing.assert_close(
        _all(table), rows * factor, rtol=1e-6, atol=0, msg="decay over a gap is not (1−lr·wd)^gap"
    )


def check_settling(made: Callable[[], Table], options: TableOptions) -> None:
    """Settling changes no row that pull gives, but by rounding; then the weight is what pull gives; again: nothing."""
    table = made()
    for ids, grads, lr in _steps(seed=5):
        _push(table, ids, grads, lr)
    rows = _all(table)
    table.settle()
    _near(_all(table), rows.double(), options.dtype, "settling changes rows")
    assert torch.equal(table.weight.cpu().float(), _all(table)), "decay is still due after settling"
    before = _bits(table)
    table.settle()
    assert _same(before, _bits(table)), "settling twice changes something"


def check_writing(made: Callable[[], Table], options: TableOptions) -> None:
    """Written rows are read back, rounded to nearest; earlier decay is not due on them."""
    table = made()
    for ids, grads, lr in _steps(seed=6):
        _push(table, ids, grads, lr)
    rows = torch.linspace(-3, 3, 4 * DIM).view(4, DIM)
    before = _all(table)
    table.write(10, rows.to(table.device))
    before[10:14] = rows.to(options.dtype).float()
    assert torch.equal(_all(table), before), "written rows are not what is read"


def check_same_again(made: Callable[[], Table]) -> None:
    """The same seed and steps give the same bits."""
    first, second = made(), made()
    assert _same(_bits(first), _bits(second)), "two tables of one seed start differently"
    for ids, grads, lr in _steps(seed=7):
        _push(first, ids, grads, lr)
        _push(second, ids, grads, lr)
    assert _same(_bits(first), _bits(second)), "the same pushes give other bits"


def check_save_and_load(made: Callable[[], Table]) -> None:
    """A table that takes over another's tensors goes on with the same bits."""
    first, second = made(), made()
    steps = _steps(seed=8)
    for ids, grads, lr in steps[:5]:
        _push(first, ids, grads, lr)
    for name, tensor in second.tensors().items():
        tensor.copy_(first.tensors()[name].clone())
    for ids, grads, lr in steps[5:]:
        _push(first, ids, grads, lr)
        _push(second, ids, grads, lr)
    for table in (first, second):
        table.settle()
    assert _same(_bits(first), _bits(second)), "tensors() leaves out what a resume needs"


def check_one_row(make: MakeTable, optimizer: RowOptimizer, options: TableOptions) -> None:
    """A table of one row and one dimension."""
    table = make(1, 1, optimizer, options)
    before = _pull(table, torch.tensor([0]))
    _push(table, torch.tensor([0]), torch.tensor([[2.0]]), 0.25)
    assert float(_pull(table, torch.tensor([0]))) < float(before), "one row does not go downhill"


def check_clipping(make: MakeTable, options: TableOptions, optimizer: RowOptimizer) -> None:
    """A gradient above the limit does what it does scaled to the limit; one below does what it does."""
    tables = [make(ROWS, DIM, optimizer, options), make(ROWS, DIM, optimizer, options)]
    ids, lr = torch.tensor([1, 4, 9]), 0.1
    long = torch.tensor([[30.0, 40.0, 0.0, 0.0, 0.0], [0.1, 0.0, 0.2, 0.0, 0.0], [0.0, -1e5, 0.0, 0.0, 0.0]])
    short = torch.tensor([[0.42, 0.56, 0.0, 0.0, 0.0], [0.1, 0.0, 0.2, 0.0, 0.0], [0.0, -0.7, 0.0, 0.0, 0.0]])
    for table, grads in zip(tables, (long, short), strict=True):
        _push(table, ids, grads, lr)
    got, wanted = (_pull(table, ids) for table in tables)
    _near(got, wanted.double(), options.dtype, "a long gradient is not scaled to the limit")


def check_refusals(make: MakeTable, optimizer: RowOptimizer, options: TableOptions) -> None:
    """A step whose decay leaves nothing, a push to a table that is only read, and no rows at all are InputErrors."""
    table = make(ROWS, DIM, optimizer, options)
    ids, grads = torch.tensor([1, 2]), torch.ones(2, DIM)
    before = _bits(table)
    _refuses("leaves nothing", lambda: _push(table, ids, grads, 1.0 / options.weight_decay))
    assert _same(before, _bits(table)), "a refused push changes something"
    _refuses("only read", lambda: _push(make(ROWS, DIM, None, options), ids, grads, 0.1))
    _refuses("empty", lambda: make(0, DIM, optimizer, options))


def _steps(seed: int) -> list[tuple[Tensor, Tensor, float]]:
    """Rising distinct ids, gradients of many sizes, a falling rate."""
    generator = torch_generator(seed, "table conformance")
    made = []
    for step in range(STEPS):
        count = int(torch.randint(1, ROWS // 2, (), generator=generator))
        ids = torch.randperm(ROWS, generator=generator)[:count].sort().values
        sizes = 10.0 ** torch.randint(-3, 2, (count, 1), generator=generator)
        made.append((ids, torch.randn(count, DIM, generator=generator) * sizes, 0.2 * (1 - step / STEPS)))
    return made


def _zero_state(optimizer: RowOptimizer) -> dict[str, Tensor]:
    shapes = optimizer.state_shapes(DIM)
    return {name: torch.zeros(ROWS, *shape, dtype=torch.float64) for name, shape in shapes.items()}


def _clipped(grads: Tensor, clip: float) -> Tensor:
    if clip == 0.0:
        return grads
    return torch.stack([row * min(1.0, clip / max(math.sqrt(float(row @ row)), 1e-30)) for row in grads])


def _push(table: Table, ids: Tensor, grads: Tensor, lr: float) -> None:
    table.push(ids.to(table.device), grads.to(table.device), lr)


def _pull(table: Table, ids: Tensor) -> Tensor:
    return table.pull(ids.to(table.device)).cpu()


def _all(table: Table) -> Tensor:
    return _pull(table, torch.arange(table.num_rows))


def _bits(table: Table) -> dict[str, Tensor]:
    """A copy on the CPU of everything that a checkpoint holds."""
    return {name: tensor.cpu().clone() for name, tensor in table.tensors().items()}


def _same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def _near(got: Tensor, wanted: Tensor, dtype: torch.dtype, broken: str, size: Tensor | None = None) -> None:
    """Within a unit in the last place of numbers of that size (the wanted ones'), and what float32 sums may be off."""
    error = (got.double() - wanted).abs()
    bound = 2 * UNIT[dtype] * (wanted.abs() if size is None else size) + 2e-5 * wanted.abs() + 2e-6
    assert bool((error <= bound).all()), f"{broken}: off by {float((error - bound).max()):.3g} more than rounding"


def _refuses(message: str, act: Callable[[], object]) -> None:
    try:
        act()
    except InputError as error:
        assert message in str(error), f'the message says "{error}", not "{message}"'
    else:
        raise AssertionError(f"accepted what must be refused: {message}")
