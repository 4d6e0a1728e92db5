"""The checkpoint of a run in the model of a larger catalogue: old rows at their new numbers, new rows drawn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import polars as pl
import safetensors
import torch
from torch import Tensor

from xclass.data.ids import match_ids, unknown
from xclass.embeddings import Table
from xclass.embeddings.init import write_normal
from xclass.embeddings.storage import blocks
from xclass.errors import ArtefactError
from xclass.io.tensors import read_header
from xclass.models.two_tower import TwoTower
from xclass.runtime.progress import Progress, say
from xclass.runtime.rng import derive_seed
from xclass.sampling.renumbering import renumbered
from xclass.towers.item_texts import CORRECTION
from xclass.training.checkpoint.model_state import SAMPLER, ModelState

# The ids that a table has a row of; the rows of any other table are features, numbered for that table alone.
SPACES = {"item": "item", "history": "item", "query": "query", CORRECTION: "item"}
BLOCK_ROWS = 1 << 16
SCALE_ROWS = 1 << 16


class Numbers(NamedTuple):
    """Which rows are which. new_of_old: int64 (old rows,); old_of_new: int64 (new rows,), −1 for what is new."""

    new_of_old: Tensor
    old_of_new: Tensor

    @classmethod
    def of(cls, old: pl.Series, new: pl.Series, what: str, where: Path) -> Numbers:
        """By external ids.

        Raises:
            ArtefactError: an old id is not among the new ones, or is of another type.
        """
        if old.dtype != new.dtype:
            raise ArtefactError(
                f"the {what} are of another type than the run's", where=where, wanted=old.dtype, got=new.dtype
            )
        new_of_old = match_ids(old, new)
        gone = unknown(old, new_of_old)
        if gone.count:
            raise ArtefactError(
                f"this dataset lacks {what} of the run",
                where=where,
                wanted=f"all {len(old):,} of them",
                got=f"{gone.count:,} are missing: {', '.join(gone.names)}",
                do="append to the dataset that the run was trained on: xclass ingest SOURCE --append --out DATASET",
            )
        old_of_new = torch.full((len(new),), -1, dtype=torch.int64)
        old_of_new[new_of_old] = torch.arange(len(old))
        return cls(new_of_old, old_of_new)

    @classmethod
    def longer(cls, old: int, new: int) -> Numbers:
        """Rows that keep their numbers, and new ones after them."""
        return cls(torch.arange(old), torch.cat([torch.arange(old), torch.full((new - old,), -1)]))

    @property
    def added(self) -> int:
        """How many are new."""
        return len(self.old_of_new) - len(self.new_of_old)


class NewRows(NamedTuple):
    """How new rows are drawn: N(0, std²). std None: the median over (a sample of) the old rows of their root mean
    square, for rows whose scale does not come from the configuration. number: how often the run has grown, this time
    included; with the seed it decides the draws.
    """

    std: float | None
    seed: int
    number: int


def space_of(table: str) -> str:
    """What the rows of a table are rows of: "item", "query", or the table itself."""
    return SPACES.get(table, table)


def table_of(name: str) -> str:
    """The table of a tensor by its name in a checkpoint.

    >>> table_of("table.feature.text.weight")
    'feature.text'
    """
    return name.removeprefix("table.").rpartition(".")[0]


def grow_tensors(
    path: Path, model: TwoTower, state: ModelState, maps: dict[str, Numbers], new_rows: NewRows
) -> dict[str, float]:
    """Everything that a checkpoint holds but the sampler's, into the grown model.

    Rows of tables go to their new numbers bit for bit, with their state; new rows are drawn and have state 0; all else
    is copied. One block of rows at a time is in memory beside the model.

    Args:
        path: tensors of the checkpoint, over the old catalogue.
        model: of the grown one; its tables hold zeros.
        state: of ``model``.
        maps: "item" and "query", and each table of features.
        new_rows: how they are drawn.

    Returns:
        The standard deviation of each table's new rows.

    Raises:
        ArtefactError: the checkpoint is of another model, or cut.
    """
    rows, small = dict[str, Tensor](), dict[str, Tensor]()
    for name, tensor in state.tensors().items():
        per_row = name.startswith("table.") and tensor.dim() > 0
        (rows if per_row else small)[name] = tensor
    _check_tensors(path, rows, small, model, maps)
    for name, tensor in small.items():
        with _stored(path, name) as stored:
            tensor.copy_(stored)
    spreads = {}
    for name, table in model.tables.items():
        numbers = maps[space_of(name)]
        spreads[name] = _spread(path, f"table.{name}.weight") if new_rows.std is None else new_rows.std
        spreads[name] *= name != CORRECTION  # which starts at 0: a new item is what its text says
        seed = derive_seed(new_rows.seed, f"grown.{name}", new_rows.number)
        _draw_new(table, numbers.old_of_new, spreads[name], seed)
        for key in [key for key in rows if table_of(key) == name]:
            _move_rows(path, key, rows[key], numbers.old_of_new)
    return spreads


def _spread(path: Path, name: str) -> float:
    with _stored(path, name) as stored:
        some = torch.linspace(0, len(stored) - 1, min(len(stored), SCALE_ROWS), dtype=torch.float64).long()
        return float(stored.index_select(0, some).float().square().mean(1).sqrt().median())


def _draw_new(table: Table, old_of_new: Tensor, spread: float, seed: int) -> None:
    """Every block of rows that has a new one is drawn, old rows too: these are overwritten. No decay is due on it."""
    for start, stop in blocks(table.num_rows, BLOCK_ROWS):
        if bool((old_of_new[start:stop] < 0).any()):
            write_normal(table.weight[:stop], spread, seed, first=start)
            table.write(start, table.weight[start:stop])


def _move_rows(path: Path, name: str, target: Tensor, old_of_new: Tensor) -> None:
    """Old rows to their new places, block by block, bit for bit; other rows stay as they are."""
    with Progress(f"move {name.removeprefix('table.')}", len(target), "rows") as progress:
        for start, stop in blocks(len(target), BLOCK_ROWS):
            old = old_of_new[start:stop]
            known = (old >= 0).nonzero().squeeze(1)
            with _stored(path, name) as stored:
                target[start:stop].index_copy_(0, known, stored.index_select(0, old[known]))
            progress.advance(len(old))


@contextmanager
def _stored(path: Path, name: str) -> Iterator[Tensor]:
    """A tensor of a checkpoint, mapped: its pages are read when touched, and let go at the end."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            yield file.get_tensor(name)
    except (safetensors.SafetensorError, OSError) as error:
        raise ArtefactError("this file can't be read: cut or altered", where=path, got=str(error)) from None


def _check_tensors(
    path: Path, rows: dict[str, Tensor], small: dict[str, Tensor], model: TwoTower, maps: dict[str, Numbers]
) -> None:
    """The checkpoint holds what the grown model has, of the same shapes and types but for the number of rows."""
    stored = {name: (entry.dtype, *entry.shape) for name, entry in read_header(path).items()}
    shapes = {name: shape for name, shape in stored.items() if not name.startswith(SAMPLER)}
    wanted = {name: (tensor.dtype, *tensor.shape) for name, tensor in small.items()}
    for name, tensor in rows.items():
        wanted[name] = (tensor.dtype, len(maps[space_of(table_of(name))].new_of_old), *tensor.shape[1:])
    if shapes != wanted:
        odd = sorted(name for name in shapes.keys() | wanted.keys() if shapes.get(name) != wanted.get(name))
        raise ArtefactError(
            "this checkpoint is of another model",
            where=path,
            wanted=", ".join(f"{name} {wanted.get(name)}" for name in odd[:3]),
            got=", ".join(f"{name} {shapes.get(name)}" for name in odd[:3]),
        )


def grow_sampler(model: TwoTower, learned: dict[str, Tensor], numbers: Tensor, same: bool) -> list[str]:
    """Give the grown model's sampler what the old one had learned; the names of samplers that begin anew.

    Args:
        learned: the old sampler's state, from its checkpoint.
        numbers: int64 (old N,), the new number of each old item.
        same: both have the same configuration.
    """
    learned = {name.removeprefix(SAMPLER): tensor for name, tensor in learned.items()}
    sampler = getattr(model.head, "sampler", None)
    if sampler is None or not learned:
        return []
    try:
        carried = renumbered(sampler, learned, numbers) if same else None
        if carried is not None:
            sampler.load_state(carried.state)
    except (LookupError, RuntimeError, TypeError, ValueError) as error:
        what = "what the sampler of this run had learned can't be read"
        raise ArtefactError(what, got=f"{error!r}"[:200], do="train anew, or restore the checkpoint") from None
    restarted = [type(sampler).__name__] if carried is None else carried.restarted
    for name in restarted:
        say(f"what the sampler {name} had learned does not fit the grown run: it begins anew")
    return restarted
