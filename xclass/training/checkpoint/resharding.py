"""Checkpoints of several ranks: the rows of each in a file of its own, read by any number of ranks.

tensors.safetensors             what all ranks have alike; of one process, everything
rows-00001-of-00004.safetensors the rows of rank 1

The ranks that hold rows of a table take turns: of W such ranks the one of place w holds rows w, w + W, w + 2W, …
Row-wise all ranks do, so row j of the file above is row 1 + 4·j of its table; table-wise one has all rows, and the
others' files none. Who holds a table is seen by who has rows of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xclass.errors import ArtefactError
from xclass.io.tensors import Entry, checked_blocks, read_header

TENSORS = "tensors.safetensors"


class Place(NamedTuple):
    """One rank of several."""

    rank: int
    ranks: int


WHOLE = Place(0, 1)
Holders = Mapping[str, list[int]]


class Wanted(NamedTuple):
    """What a rank reads.

    into: overwritten. others: prefix of what is returned. rows: names of ``into`` that hold rows, those at ``place``.
    holders: name of ``rows`` → the ranks that hold some, rising.
    """

    into: Mapping[str, Tensor]
    others: str
    rows: set[str]
    place: Place
    holders: Holders


def rows_file(place: Place) -> str:
    """The name of a rank's file.

    >>> rows_file(Place(1, 4))
    'rows-00001-of-00004.safetensors'
    """
    return f"rows-{place.rank:05d}-of-{place.ranks:05d}.safetensors"


def read_rows(path: Path, manifest: dict[str, Any], wanted: Wanted) -> dict[str, Tensor]:
    """A checkpoint of any number of ranks into one rank of any number; what else was asked for.

    Where the same ranks of as many hold the tables each reads its own file, else all of them, block by block. Hashes
    are checked.

    Raises:
        ArtefactError: a file is damaged, or of another model.
    """
    stored, here = manifest.get("ranks", 1), wanted.place
    left = {name: tensor.numel() for name, tensor in wanted.into.items()}
    others, holders = dict[str, Tensor](), stored_holders(path, stored)
    alike = stored == here.ranks and all(wanted.holders[name] == holders.get(name) for name in wanted.rows)
    for source in _sources(stored, here if alike else None):
        file = TENSORS if source is None else rows_file(source)
        for name, entry, start, block in checked_blocks(path / file, manifest["files"][file]["sha256"]):
            if name.startswith(wanted.others):
                _part_of(others, name, entry)[start : start + len(block)] = block
            else:
                _check(path / file, name, entry, wanted)
                turn = _turn(holders.get(name, [0]), 0 if source is None else source.rank)
                left[name] -= _put(wanted, name, start, block, turn)
    missing = [name for name, count in left.items() if count]
    if missing:
        raise ArtefactError("this checkpoint is of another model", where=path, wanted=", ".join(sorted(missing)[:5]))
    return others


def stored_holders(path: Path, ranks: int) -> dict[str, list[int]]:
    """Name of a tensor of rows → the ranks of a checkpoint whose files have rows of it; nothing for one process."""
    found = dict[str, list[int]]()
    for rank in range(ranks if ranks > 1 else 0):
        for name, entry in read_header(path / rows_file(Place(rank, ranks))).items():
            found.setdefault(name, []).extend([rank] if entry.shape[0] else [])
    return found


def _sources(stored: int, alone: Place | None) -> Iterator[Place | None]:
    yield None
    if stored > 1 and alone is not None:
        yield alone
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


def _turn(holders: list[int], rank: int) -> tuple[int, int]:
    """(place, W) of a rank among those that take turns; a place that never comes for one that does not."""
    return (holders.index(rank) if rank in holders else -1), max(len(holders), 1)


def _put(wanted: Wanted, name: str, start: int, block: Tensor, turn: tuple[int, int]) -> int:
    """Copy what lies here of a block; how many numbers that were. turn: (place, W) of who held it."""
    target = wanted.into[name]
    if name not in wanted.rows:
        (target[start : start + len(block)] if target.dim() else target).copy_(block)
        return block.numel()
    mine, turns = _turn(wanted.holders[name], wanted.place.rank)
    ids = turn[0] + torch.arange(start, start + len(block)) * turn[1]
    kept = (ids % turns == mine).nonzero().squeeze(1)
    places = torch.div(ids[kept], turns, rounding_mode="floor")
    if len(places) and int(places[-1]) >= len(target):
        raise ArtefactError("this checkpoint has more rows than the model", got=name, wanted=f"{len(target):,} here")
    target[places.to(target.device)] = block[kept].to(target.device)
    return block[kept].numel()
