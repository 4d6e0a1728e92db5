"""Checkpoints of any number of ranks, read by any number of ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from xclass.errors import ArtefactError
from xclass.io.manifest import read_manifest, write_manifest
from xclass.io.tensors import write_tensors
from xclass.runtime.rng import torch_generator
from xclass.training.checkpoint.resharding import TENSORS, Place, rows_file
from xclass.training.checkpoint.sharded_store import join
from xclass.training.checkpoint.store import FORMAT_VERSION, KIND, MANIFEST, read_checkpoint

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


def saved(path: Path, ranks: int, owner: int | None = None) -> Path:
    """As ``ranks`` processes write it; ``owner`` holds the whole table "item"."""
    path.mkdir()
    tensors, fields = model(), {"state": STATE}
    if ranks == 1:
        known = {TENSORS: write_tensors(path / TENSORS, tensors)}
    else:
        known = {TENSORS: write_tensors(path / TENSORS, {n: t for n, t in tensors.items() if n not in ROWS})}
        fields = {**fields, "ranks": ranks}
        for rank in range(ranks):
            part = {name: rows_at(name, rank, ranks, owner).contiguous() for name in ROWS}
            known[rows_file(Place(rank, ranks))] = write_tensors(path / rows_file(Place(rank, ranks)), part)
    write_manifest(path, MANIFEST, KIND, FORMAT_VERSION, fields, known=known)
    return path


def rows_at(name: str, rank: int, ranks: int, owner: int | None) -> Tensor:
    whole = model()[name]
    if owner is None or name not in NAMES["item"]:
        return whole[rank::ranks]
    return whole if rank == owner else whole[:0]


def empty(rank: int, ranks: int, owner: int | None = None) -> dict[str, Tensor]:
    return {
        name: torch.zeros_like(rows_at(name, rank, ranks, owner) if name in ROWS else tensor)
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


@pytest.mark.parametrize(("stored", "before"), [(3, 1), (3, None), (2, 0), (1, None), (20, None)])
@pytest.mark.parametrize(("ranks", "now"), [(3, 1), (3, 2), (1, None), (4, None), (20, None)])
def test_whoever_holds_a_table(tmp_path: Path, stored: int, before: int | None, ranks: int, now: int | None) -> None:
    """A table on one rank, on all, on the first of more ranks than it has rows: any is read as any other."""
    path = saved(tmp_path / "checkpoint", stored, before)
    holders = {name: list(range(min(ranks, len(model()[name])))) for name in ROWS}
    if now is not None:
        holders |= {name: [now] for name in NAMES["item"]}
    for rank in range(ranks):
        into = empty(rank, ranks, now)
        read_checkpoint(path, into, "sampler.", NAMES, Place(rank, ranks), holders)
        for name in ROWS:
            assert torch.equal(into[name], rows_at(name, rank, ranks, now)), name


@pytest.mark.parametrize(("stored", "owner"), [(3, None), (3, 2), (20, None)])
def test_one_of_several_ranks_is_joined_to_that_of_one_process(tmp_path: Path, stored: int, owner: int | None) -> None:
    alone, path = saved(tmp_path / "alone", 1), saved(tmp_path / "checkpoint", stored, owner)
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
