"""Checkpoints of several ranks: the rows of each in a file of its own, read by any number of ranks.

tensors.safetensors             what all ranks have alike; of one process, everything
rows-00001-of-00004.safetensors the rows of rank 1: row j is row 1 + 4·j of its table
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xclass.errors import ArtefactError
from xclass.tensorfile import Entry, checked_blocks

TENSORS = "tensors.safetensors"


class Place(NamedTuple):
    """One rank of several: row j of its part of a table is row ``rank + j·ranks``."""

    rank: int
    ranks: int


WHOLE = Place(0, 1)


class Wanted(NamedTuple):
    """What a rank reads.

    into: overwritten. others: prefix of what is returned. rows: names of ``into`` that hold rows, those at ``place``.
    """

    into: Mapping[str, Tensor]
    others: str
    rows: set[str]
    place: Place


def rows_file(place: Place) -> str:
    """The name of a rank's file.

    >>> rows_file(Place(1, 4))
    'rows-00001-of-00004.safetensors'
    """
    return f"rows-{place.rank:05d}-of-{place.ranks:05d}.safetensors"


def read_rows(path: Path, manifest: dict[str, Any], wanted: Wanted) -> dict[str, Tensor]:
    """A checkpoint of any number of ranks into one rank of any number; what else was asked for.

    Where both numbers are the same a rank reads its own file, else all of them, block by block. Hashes are checked.

    Raises:
        ArtefactError: a file is damaged, or of another model.
    """
    stored, here = manifest.get("ranks", 1), wanted.place
    left = {name: tensor.numel() for name, tensor in wanted.into.items()}
    others = dict[str, Tensor]()
    for source in _sources(stored, here):
        file = TENSORS if source is None else rows_file(source)
        for name, entry, start, block in checked_blocks(path / file, manifest["files"][file]["sha256"]):
            if name.startswith(wanted.others):
                _part_of(others, name, entry)[start : start + len(block)] = block
            else:
                _check(path / file, name, entry, wanted)
                left[name] -= _put(wanted, name, start, block, source or WHOLE)
    missing = [name for name, count in left.items() if count]
    if missing:
        raise ArtefactError("this checkpoint is of another model", where=path, wanted=", ".join(sorted(missing)[:5]))
    return others


def _sources(stored: int, here: Place) -> Iterator[Place | None]:
    yield None
    if stored == here.ranks > 1:
        yield here
    elif stored > 1:
        yield from (Place(rank, stored) for rank in range(stored))


def _part_of(others: dict[str, Tensor], name: str, entry: Entry) -> Tensor:
    if name not in others:
        others[name] = torch.empty(entry.shape, dtype=entry.dtype)
    return others[name] if entry.shape else others[name].view(1)


def _check(path: Path, name: str, entry: Entry, wanted: Wanted) -> None:
    target = wanted.into.get(name)
    rows = name in wanted.rows
    if target is not None and target.dtype == entry.dtype and target.shape[rows:] == entry.shape[rows:]:
        return
    raise ArtefactError(
        f'tensor "{name}" is none of this model, or has another shape or type',
        where=path,
        wanted="nothing" if target is None else f"{target.dtype} {list(target.shape)}",
        got=f"{entry.dtype} {list(entry.shape)}",
        do="use the dataset and the configuration that this run was trained with",
    )


def _put(wanted: Wanted, name: str, start: int, block: Tensor, source: Place) -> int:
    """Copy what lies here of a block; how many numbers that were."""
    target, here = wanted.into[name], wanted.place
    if name not in wanted.rows:
        (target[start : start + len(block)] if target.dim() else target).copy_(block)
        return block.numel()
    ids = source.rank + torch.arange(start, start + len(block)) * source.ranks
    kept = (ids % here.ranks == here.rank).nonzero().squeeze(1)
    places = torch.div(ids[kept], here.ranks, rounding_mode="floor")
    if len(places) and int(places[-1]) >= len(target):
        raise ArtefactError("this checkpoint has more rows than the model", got=name, wanted=f"{len(target):,} here")
    target[places.to(target.device)] = block[kept].to(target.device)
    return block[kept].numel()
