"""Every kind of table × type × optimiser against the contract, compiled and plain."""

import itertools

import pytest
import torch

from xclass.embeddings import TABLES, Place, TableOptions, _dispatch
from xclass.optim import ROW_OPTIMIZERS
from xclass.testing import check_table

DTYPES = (torch.float32, torch.bfloat16)


def maker(kind, tmp_path, device="cpu"):
    numbers = itertools.count()
    return lambda rows, dim, optimizer, options: TABLES[kind](
        rows, dim, optimizer, options, Place(device, tmp_path / str(next(numbers)))
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ROW_OPTIMIZERS)
@pytest.mark.parametrize("kind", TABLES)
def test_every_table_keeps_the_contract(kind, name, dtype, tmp_path):
    check_table(maker(kind, tmp_path), ROW_OPTIMIZERS[name](), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ROW_OPTIMIZERS)
def test_so_does_the_plain_form(name, dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(_dispatch, "compiles", lambda: False)
    check_table(maker("device", tmp_path), ROW_OPTIMIZERS[name](), dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ROW_OPTIMIZERS)
@pytest.mark.parametrize("kind", TABLES)
def test_so_does_every_table_beside_an_accelerator(kind, name, dtype, tmp_path):
    make = maker(kind, tmp_path, "cuda")
    check_table(make, ROW_OPTIMIZERS[name](), dtype)
    assert make(5, 2, None, TableOptions()).device.type == "cuda"
