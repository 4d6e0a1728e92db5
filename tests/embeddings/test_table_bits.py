"""The bits of rows: how they start, how they are rounded, and that neither threads nor places nor compilers change them."""

import dataclasses
import math

import pytest
import torch

from xclass.embeddings import TABLES, MemoryTable, Place, TableOptions, _dispatch, host_table, row_ops
from xclass.embeddings.hashing import keys_of, mixed
from xclass.embeddings.init import write_normal
from xclass.embeddings.rounding import round_stochastically
from xclass.embeddings.row_ops import Step, Stored
from xclass.errors import ArtefactError, InputError
from xclass.optim import ROW_OPTIMIZERS, RowAdaGrad, RowSGD
from xclass.runtime.rng import torch_generator
from xclass.runtime.threads import in_parts

needs_numba = pytest.mark.skipif(not _dispatch.compiles(), reason="needs numba: pip install 'xclass[compiled]'")
BF16 = TableOptions(0.3, seed=5, dtype=torch.bfloat16, weight_decay=0.2, clip_norm=1.0)


def some(rows, dim, seed=0):
    return torch.randn(rows, dim, generator=torch_generator(seed, "rounding test"))


def test_the_mean_of_many_roundings_is_the_number():
    """A number at each of many places between two neighbours; 20,000 roundings of each; five standard errors."""
    low, high = 1.0, 1.0 + 2**-7
    shares = torch.linspace(0, 1, 17)[:-1]
    rows = (low + shares * (high - low)).repeat(20_000, 1)
    rounded = round_stochastically(rows, torch.arange(20_000), keys_of(0, "push", 1)).float()
    assert set(rounded.unique().tolist()) == {low, high}
    ups = (rounded == high).double().mean(0)
    error = 5 * (shares * (1 - shares) / 20_000).sqrt() + 2**-16
    assert bool(((ups - shares.double()).abs() <= error).all())
    assert bool((rounded[:, 0] == low).all()), "what needs no rounding is not changed"


def test_neither_neighbouring_rows_nor_dimensions_nor_steps_share_their_noise():
    rows = torch.full((2000, 64), 1.0 + 2**-8)
    first, second = (
        (round_stochastically(rows, torch.arange(2000), keys_of(0, "push", step)).float() > 1.0).double()
        for step in (1, 2)
    )
    assert abs(float(first.mean()) - 0.5) < 5 * 0.5 / math.sqrt(first.numel())
    for a, b in ((first, second), (first[1:], first[:-1]), (first[:, 1:], first[:, :-1])):
        correlation = 4 * float(((a - 0.5) * (b - 0.5)).mean())
        assert abs(correlation) < 5 / math.sqrt(a.numel())


def test_special_numbers_stay_what_they_are():
    rows = torch.tensor([[math.inf, -math.inf, math.nan, 0.0, -0.0, 1.5, -(2.0**-140), 3e38]])
    nan_in_the_low_bits = torch.tensor([[0x7F800001, -1]], dtype=torch.int32).view(torch.float32)
    for step in range(50):
        keys = keys_of(0, "push", step)
        got = round_stochastically(rows, torch.tensor([7]), keys).float()[0].tolist()
        assert got[:2] == [math.inf, -math.inf] and math.isnan(got[2]) and got[3:6] == [0.0, -0.0, 1.5]
        assert math.copysign(1, got[4]) == -1 and abs(got[7] / 3e38 - 1) < 2**-7
        assert bool(round_stochastically(nan_in_the_low_bits, torch.tensor([7]), keys).isnan().all())


def test_the_mixing_moves_half_of_the_bits():
    """Each of the 32 bits of the input flips each bit of the output about half of the time."""
    x = torch.randint(1 << 32, (4000,), generator=torch_generator(1, "mixing"))
    for bit in range(32):
        changed = mixed(x) ^ mixed(x ^ (1 << bit))
        flips = torch.stack([(changed >> place & 1).double().mean() for place in range(32)])
        assert float(flips.min()) > 0.4 and float(flips.max()) < 0.6


def test_small_updates_are_not_lost_in_bfloat16():
    """Steps of a hundredth of a unit in the last place: rounding to nearest would never move."""
    table = MemoryTable(500, 8, RowSGD(), TableOptions(dtype=torch.bfloat16))
    table.write(0, torch.ones(500, 8))
    ids, grads = torch.arange(500), torch.full((500, 8), -1.0)
    for _ in range(200):
        table.push(ids, grads, 2**-7 / 100)
    assert float(table.pull(ids).mean()) == pytest.approx(1 + 2 * 2**-7, abs=2**-7 / 15)


def stored(options, optimizer, rows=300, dim=12):
    table = MemoryTable(rows, dim, optimizer, options)
    decay = torch.linspace(-0.5, 0, rows).double() if options.weight_decay else None
    return Stored(table.weight, {name: value for name, value in table.tensors().items() if name in optimizer.state_shapes(dim)}, decay)  # fmt: skip


@needs_numba
@pytest.mark.parametrize("options", [BF16, dataclasses.replace(BF16, dtype=torch.float32), TableOptions(0.3)])
@pytest.mark.parametrize("name", ROW_OPTIMIZERS)
def test_compiled_and_plain_agree(name, options):
    optimizer = ROW_OPTIMIZERS[name]()
    ours, theirs = stored(options, optimizer), stored(options, optimizer)
    for step in range(6):
        ids = torch.randperm(300, generator=torch_generator(step, "agree"))[:100].sort().values
        grads = some(100, 12, step) * 10.0 ** (step - 3)
        how = Step(0.1, options.clip_norm, -0.7 * step, keys_of(0, "push", step))
        _dispatch.push(ours, optimizer, ids, grads, how)
        row_ops.push(theirs, optimizer, ids, grads, how)
        for name_ in ours.state:
            torch.testing.assert_close(
                ours.state[name_], theirs.state[name_], rtol=1e-5, atol=1e-7 * 10.0 ** (step - 3)
            )
        near = torch.isclose(ours.weight.float(), theirs.weight.float(), rtol=2e-5, atol=1e-6)
        assert float(near.float().mean()) > (0.995 if options.dtype == torch.bfloat16 else 0.99999)
        theirs.weight.copy_(ours.weight)
        for name_ in ours.state:
            theirs.state[name_].copy_(ours.state[name_])
    out = torch.empty(50, 12)
    ids = torch.arange(50, 100)
    _dispatch.pull(ours, ids, -9.0, out)
    torch.testing.assert_close(out, row_ops.pull(ours, ids, -9.0), rtol=1e-6, atol=0)


@needs_numba
def test_compiled_and_plain_rounding_are_the_same_bits_up_to_rows_beyond_32_bits():
    from xclass.embeddings import _numba

    for first in (0, 2**31 - 2, 2**32 - 2, 2**40):
        rows, keys = some(64, 33), keys_of(9, "settle", first)
        table, until = torch.zeros(64, 33, dtype=torch.bfloat16), torch.ones(64, dtype=torch.float64)
        wanted = round_stochastically(rows.bfloat16().float() * math.exp(-1.5), torch.arange(first, first + 64), keys)
        table.copy_(rows)
        _dispatch.settle(Stored(table, {}, until), first, -0.5, keys)
        assert torch.equal(table, wanted) and bool((until == -0.5).all())
    assert _numba.GOLDEN == 0x9E3779B9


@needs_numba
def test_a_table_of_more_than_two_billion_rows():
    """Four gibibytes of addresses, of which the system gives the touched pages only."""
    rows = 2**31 + 1000
    try:
        table = MemoryTable(rows, 1, RowSGD(), TableOptions(dtype=torch.bfloat16))
    except InputError:
        pytest.skip("this machine does not promise 4 GiB of addresses")
    ids = torch.tensor([0, 5, 2**31 - 1, 2**31, 2**31 + 999])
    table.push(ids, torch.tensor([[1.0], [2.0], [4.0], [8.0], [16.0]]), -1.0)
    assert table.pull(ids).flatten().tolist() == [1, 2, 4, 8, 16] == table.weight[ids].flatten().tolist()
    assert float(table.pull(torch.tensor([2**31 + 998]))) == 0.0
    with pytest.raises(InputError, match="no such row"):
        table.push(torch.tensor([0, rows]), torch.ones(2, 1), 0.1)
    with pytest.raises(InputError, match="no such row"):
        table.pull(torch.tensor([-1]))


@needs_numba
@pytest.mark.parametrize("name", ROW_OPTIMIZERS)
def test_threads_do_not_change_a_bit(name, monkeypatch):
    def run(threads):
        monkeypatch.setattr(_dispatch, "CELLS_PER_THREAD", 1)
        monkeypatch.setattr(_dispatch, "in_parts", lambda work, rows, worth, device: in_parts(work, rows, worth, device, threads))  # fmt: skip
        table = MemoryTable(500, 7, ROW_OPTIMIZERS[name](), BF16)
        for step in range(5):
            ids = torch.randperm(500, generator=torch_generator(step, "threads"))[:301].sort().values
            table.push(ids, some(301, 7, step), 0.2)
        table.settle()
        return [*(value.clone() for value in table.tensors().values()), table.pull(torch.arange(500))]

    alone = run(1)
    for threads in (2, 3):
        assert all(torch.equal(a, b) for a, b in zip(alone, run(threads), strict=True))


@pytest.mark.parametrize("kind", [kind for kind in TABLES if kind != "device"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_where_rows_lie_changes_no_bit(kind, dtype, tmp_path):
    options = dataclasses.replace(BF16, dtype=dtype)
    tables = [TABLES[name](9000, 3, RowAdaGrad(), options, Place("cpu", tmp_path / name)) for name in ("device", kind)]
    for step in range(5):
        ids = torch.randperm(9000, generator=torch_generator(step, "kinds"))[:200].sort().values
        for table in tables:
            table.push(ids, some(200, 3, step), 0.2)
        if step == 3:
            for table in tables:
                table.settle()
    first, second = (table.tensors() for table in tables)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(tables[0].read(5, 7000), tables[1].read(5, 7000))


def test_mapped_rows_are_in_the_file_and_the_file_goes_with_the_table(tmp_path):
    table = TABLES["mapped"](100, 4, RowAdaGrad(), TableOptions(0.5), Place("cpu", tmp_path / "tables" / "item"))
    folder = tmp_path / "tables" / "item"
    assert {path.name for path in folder.iterdir()} == {"weight.bin", "sum_of_squares.bin"}
    table.push(torch.tensor([3]), torch.ones(1, 4), 0.1)
    kept = torch.frombuffer(bytearray((folder / "weight.bin").read_bytes()), dtype=torch.float32).view(100, 4)
    assert torch.equal(kept, table.weight)
    del table
    assert not (tmp_path / "tables").exists()


def test_a_mapped_table_takes_over_no_old_file(tmp_path):
    (tmp_path / "item").mkdir()
    (tmp_path / "item" / "weight.bin").write_bytes(b"left by a killed run")
    table = TABLES["mapped"](10, 4, None, TableOptions(), Place("cpu", tmp_path / "item"))
    assert not bool(table.weight.any())


def test_a_table_that_goes_leaves_the_files_of_the_one_that_took_its_place(tmp_path):
    old, new = (TABLES["mapped"](10, 4, None, TableOptions(0.5), Place("cpu", tmp_path / "item")) for _ in range(2))
    assert torch.equal(old.weight, new.weight), "a mapped file lives as long as its table"
    new.write(0, torch.ones(10, 4))
    del old
    assert (tmp_path / "item" / "weight.bin").exists() and bool((new.weight == 1).all())


def test_a_table_that_does_not_fit_says_what_to_change():
    with pytest.raises(InputError, match=r"does not fit[\s\S]*bfloat16"):
        MemoryTable(1 << 44, 64, None)


def test_a_mapped_table_is_refused_before_the_disk_is_full(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="directory of its own"):
        TABLES["mapped"](10, 4, None)
    with pytest.raises(ArtefactError, match="disk is too full"):
        TABLES["mapped"](1 << 40, 64, None, TableOptions(), Place("cpu", tmp_path / "item"))

    def full(handle, start, size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(host_table.os, "posix_fallocate", full)
    with pytest.raises(ArtefactError, match="No space left"):
        TABLES["mapped"](10, 4, None, TableOptions(), Place("cpu", tmp_path / "item"))
    assert not (tmp_path / "item").exists()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dim", [1, 4, 7])
def test_initial_rows_depend_on_seed_and_number_only(dim, dtype, monkeypatch):
    """Not on where drawing begins, on how many rows there are, on what draws them, or on threads."""

    def drawn(rows, first=0, seed=7):
        weight = torch.zeros(rows, dim, dtype=dtype)
        write_normal(weight, 0.5, seed, first)
        return weight

    whole = drawn(70_001)
    assert torch.equal(drawn(70_001, first=9_999)[9_999:], whole[9_999:])
    assert not bool(drawn(10_000, first=9_999)[:9_999].any())
    assert torch.equal(drawn(300), whole[:300]) and not torch.equal(drawn(300, seed=8), whole[:300])
    monkeypatch.setattr(_dispatch, "in_parts", lambda work, rows, worth, device: in_parts(work, rows, 9, device, 3))
    assert torch.equal(drawn(70_001), whole)
    monkeypatch.setattr(_dispatch, "compiles", lambda: False)
    assert torch.equal(drawn(70_001), whole)


def test_initial_rows_are_independent_normal_numbers():
    """Moments, the law's distribution function, and correlations between neighbours, all within five standard errors."""
    rows = torch.zeros(60_000, 6)
    write_normal(rows, 0.25, 11)
    x = rows.double() / 0.25
    n = x.numel()
    assert abs(float(x.mean())) < 5 / math.sqrt(n) and abs(float(x.square().mean()) - 1) < 5 * math.sqrt(2 / n)
    assert abs(float(x.pow(4).mean()) - 3) < 5 * math.sqrt(96 / n)
    places = torch.linspace(-3, 3, 41).double()
    for column in x.T:
        share = torch.searchsorted(column.sort().values, places).double() / len(column)
        wanted = torch.special.ndtr(places)
        assert bool(((share - wanted).abs() < 5 * (wanted * (1 - wanted) / len(column)).sqrt()).all())
    pairs = [(x[1:], x[:-1])] + [(x[:, i], x[:, j]) for i in range(6) for j in range(i)]
    assert all(abs(float((a * b).mean())) < 5 / math.sqrt(a.numel()) for a, b in pairs)
    assert len(rows.unique(dim=0)) == len(rows)
