"""Everything of a model in training that a checkpoint must hold, by name, and the optimiser of its dense layers."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from xclass.embeddings import Table
from xclass.errors import InputError
from xclass.io.tensors import Blocks, as_bytes, blocks_of, order_of
from xclass.models.two_tower import TwoTower

ITEMS = "table.item.weight"
SAMPLER = "sampler."  # what the sampler has learned: tensors of any size, by this prefix


class ModelState:
    """The tensors of a model and of its optimisers.

    ``table.<name>.weight`` and the row optimiser's state; ``dense.<parameter>`` and Adam's moments.
    """

    def __init__(self, model: TwoTower, dense_learning_rate: float) -> None:
        self.model = model
        self._named = dict(model.named_parameters())
        self._item_rows = model.head.item_rows_of(model.tables)
        self._adam = torch.optim.Adam(self._named.values(), lr=dense_learning_rate) if self._named else None
        self._start_adam()

    def dense_step(self, lr: float) -> None:
        """One Adam step of the dense layers; their gradients are cleared."""
        if self._adam is None:
            return
        self._adam.param_groups[0]["lr"] = lr
        self._adam.step()
        self._adam.zero_grad()

    def model_tensors(self) -> dict[str, Tensor]:
        """What a finished run holds: no optimiser state; of items with features their whole vectors, as rows of the
        table "item", of which here is type and size only (:meth:`model_blocks` has the bytes)."""
        weights = {f"table.{name}.weight": _whole(table) for name, table in self.model.tables.items()}
        if self._item_rows is not None:
            for name in [name for name in self._item_rows.tables if name not in self.model.tower.tables]:
                del weights[f"table.{name}.weight"]
            rows, like = self._item_rows, next(iter(weights.values()), next(iter(self.model.tables.values())).weight)
            weights[ITEMS] = torch.empty(rows.num_rows, rows.dim, dtype=like.dtype, device="meta")
        dense = {f"dense.{name}": parameter.detach() for name, parameter in self._named.items()}
        towers = {f"dense.{name}": buffer for name, buffer in self.model.tower.named_buffers("tower")}
        return weights | dense | towers | self._head_buffers()

    def model_blocks(self, tensors: dict[str, Tensor]) -> Blocks:
        """The bytes of :meth:`model_tensors`, block by block."""

        tables = {f"table.{name}.weight": table for name, table in self.model.tables.items()}

        def blocks(name: str) -> Iterable[np.ndarray]:
            if self._item_rows is None or name != ITEMS:
                return tables[name].blocks() if name in tables else blocks_of(tensors[name])
            return (as_bytes(part.to(tensors[ITEMS].dtype).cpu()) for part in self._item_rows.blocks())

        return blocks

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds; the tensors themselves, so loading copies into them."""
        found = {
            f"table.{name}.{key}": tensor
            for name, table in self.model.tables.items()
            for key, tensor in table.tensors().items()
        }
        found |= {f"dense.{name}": parameter.detach() for name, parameter in self._named.items()}
        found |= self._head_buffers()
        if self._adam is not None:
            for name, parameter in self._named.items():
                for key, value in self._adam.state[parameter].items():
                    found[f"adam.{name}.{key}"] = value
        return found

    def _head_buffers(self) -> dict[str, Tensor]:
        """What an output layer was built from and cannot be built from again, such as the order of a tree's leaves."""
        return {f"dense.{name}": buffer for name, buffer in self.model.head.named_buffers("head")}

    def row_names(self) -> dict[str, list[str]]:
        """Table → the names of the tensors that hold its rows: a push changes them at its ids only."""
        return {
            name: [
                f"table.{name}.{key}"
                for key, tensor in table.tensors().items()
                if tensor.dim() and tensor.shape[0] == table.rows_here
            ]
            for name, table in self.model.tables.items()
        }

    def sampler_tensors(self) -> dict[str, Tensor]:
        """What the sampler has learned; it is read back whole, as its sizes depend on what was seen."""
        sampler = getattr(self.model.head, "sampler", None)
        learned = {} if sampler is None else sampler.state()
        return {f"{SAMPLER}{key}": tensor.contiguous() for key, tensor in learned.items()}

    def load_sampler(self, tensors: dict[str, Tensor]) -> None:
        """Give the sampler back what :meth:`sampler_tensors` held.

        Raises:
            InputError: it can't be of this sampler.
        """
        sampler = getattr(self.model.head, "sampler", None)
        if sampler is None:
            return
        state = {key.removeprefix(SAMPLER): tensor for key, tensor in tensors.items()}
        own = sampler.state()
        for name, tensor in state.items():
            like = own.get(name, tensor)
            if (tensor.dtype, tensor.dim()) != (like.dtype, like.dim()):
                raise InputError(f'"{name}" of the sampler is of another type', wanted=like.dtype, got=tensor.dtype)
        try:
            sampler.load_state(state)
        except (LookupError, RuntimeError, TypeError, ValueError) as error:
            raise InputError("what the sampler had learned can't be read", got=f"{error!r}"[:200]) from None

    def send_blocks(self, tensors: dict[str, Tensor]) -> None:
        """What another process writes with :meth:`model_blocks`: this one's part, in the same order."""
        blocks = self.model_blocks(tensors)
        for name in order_of(tensors):
            for _ in blocks(name):
                pass

    def _start_adam(self) -> None:
        """Adam makes its state at the first step; made here, a checkpoint has the same names from the start."""
        if self._adam is None:
            return
        for parameter in self._named.values():
            self._adam.state[parameter] = {
                "step": torch.zeros(()),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }


def _whole(table: Table) -> Tensor:
    """The weight; of a table that lies in several processes its type and size."""
    if table.rows_here == table.num_rows:
        return table.weight
    return torch.empty(table.num_rows, table.dim, dtype=table.weight.dtype, device="meta")
