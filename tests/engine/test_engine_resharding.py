"""Checkpoints of any number of ranks, read by any number of ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from xclass.errors import ArtefactError
from xclass.manifest import read_manifest, write_manifest
from xclass.rng import torch_generator
from xclass.tensorfile import write_tensors
from xclass.training.checkpoint import FORMAT_VERSION, KIND, MANIFEST, read_checkpoint
from xclass.training.resharding import TENSORS, Place, rows_file
from xclass.training.shards import join

ROWS = {"table.item.weight", "table.item.sum", "table.query.weight"}
NAMES = {"item": ["table.item.weight", "table.item.sum"], "query": ["table.query.weight"]}
STATE = {"position": {"step": 7}}


def model() -> dict[str, Tensor]:
    draw = torch_generator(0, "model")
    return {
        "table.item.weight": torch.randn(103, 4, generator=draw),
        "table.item.sum": torch.rand(103, generator=draw),
        "table.query.weight": torch.randn(17, 3, generator=draw).bfloat16(),
        "dense.weight": torch.randn(3, 3, generator=draw),
        "adam.step": torch.tensor(7.0),
        "sampler.seen": torch.arange(9),
    }


def saved(path: Path, ranks: int) -> Path:
    """As ``ranks`` processes write it."""
    path.mkdir()
    tensors, fields = model(), {"state": STATE}
    if ranks == 1:
        known = {TENSORS: write_tensors(path / TENSORS, tensors)}
    else:
        known = {TENSORS: write_tensors(path / TENSORS, {n: t for n, t in tensors.items() if n not in ROWS})}
        fields = {**fields, "ranks": ranks}
        for rank in range(ranks):
            part = {name: tensors[name][rank::ranks].contiguous() for name in ROWS}
            known[rows_file(Place(rank, ranks))] = write_tensors(path / rows_file(Place(rank, ranks)), part)
    write_manifest(path, MANIFEST, KIND, FORMAT_VERSION, fields, known=known)
    return path


def empty(rank: int, ranks: int) -> dict[str, Tensor]:
    return {
        name: torch.zeros_like(tensor[rank::ranks] if name in ROWS else tensor)
        for name, tensor in model().items()
        if not name.startswith("sampler.")
    }


@pytest.mark.parametrize("stored", [1, 2, 3])
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_any_number_of_ranks_reads_any_other(tmp_path: Path, stored: int, ranks: int) -> None:
    path = saved(tmp_path / "checkpoint", stored)
    for rank in range(ranks):
        into = empty(rank, ranks)
        found = read_checkpoint(path, into, "sampler.", NAMES, Place(rank, ranks))
        assert found.state == STATE and torch.equal(found.others["sampler.seen"], torch.arange(9))
        for name, tensor in into.items():
            assert torch.equal(tensor, model()[name][rank::ranks] if name in ROWS else model()[name]), name


def test_one_of_several_ranks_is_joined_to_that_of_one_process(tmp_path: Path) -> None:
    alone, path = saved(tmp_path / "alone", 1), saved(tmp_path / "checkpoint", 3)
    join(path)
    assert sorted(file.name for file in path.iterdir()) == sorted(file.name for file in alone.iterdir())
    assert (path / TENSORS).read_bytes() == (alone / TENSORS).read_bytes()
    one, two = (read_manifest(each, MANIFEST, KIND, FORMAT_VERSION) for each in (alone, path))
    assert one["files"] == two["files"] and one["state"] == two["state"] and "ranks" not in two
    join(path)


def test_a_changed_byte_and_another_model_are_noticed(tmp_path: Path) -> None:
    path = saved(tmp_path / "checkpoint", 2)
    into = empty(0, 1)
    into["table.item.weight"] = torch.zeros(104, 4)
    with pytest.raises(ArtefactError, match="another model"):
        read_checkpoint(path, into, "sampler.", NAMES)
    into["table.item.weight"] = torch.zeros(102, 4)
    with pytest.raises(ArtefactError, match="more rows than the model"):
        read_checkpoint(path, into, "sampler.", NAMES)
    into["table.item.weight"] = torch.zeros(103, 5)
    with pytest.raises(ArtefactError, match="another shape or type"):
        read_checkpoint(path, into, "sampler.", NAMES)
    file = path / rows_file(Place(1, 2))
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    with pytest.raises(ArtefactError, match="altered"):
        read_checkpoint(path, empty(0, 1), "sampler.", NAMES)
    with pytest.raises(ArtefactError):
        join(path)
