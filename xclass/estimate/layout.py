"""Bytes an item and a query: read off a model of a few hundred rows that is really built.

A table, a tower and a sampler keep so many bytes a row, whatever the number of rows. Building them small and looking at
what they hold gives those bytes for every dtype, optimiser, tower and sampler without repeating here how they are made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import polars as pl
import torch
from torch import Tensor

from xclass.data.windows import SequenceFacts
from xclass.embeddings import Table
from xclass.estimate.own_sizes import check_own_sizes
from xclass.heads import CnnHead
from xclass.metrics.propensity import DEFAULT_A, DEFAULT_B
from xclass.models.two_tower import TwoTower
from xclass.sampling import SamplerConfig
from xclass.training.build import build_model
from xclass.training.checkpoint.model_state import ModelState
from xclass.training.run_config import RunConfig
from xclass.types import Ragged

Features = Mapping[str, Mapping[str, int]]
ROWS = 512  # and twice as many: what differs between the two grows with the catalogue


class Few:
    """A catalogue of a few rows, which notes whether anybody asked for train counts.

    Args:
        items, queries: how many.
        features: side → the names of its sets, of as many features each as the smallest of these catalogues has items.
        sequence: how positions of a text are read, where queries are such.
    """

    def __init__(
        self, items: int, queries: int, features: Features | None = None, sequence: SequenceFacts | None = None
    ) -> None:
        self.num_items, self.num_queries, self.sequence = items, queries, sequence
        self.counted = False
        self._features = features or {}
        self.query_features, self.item_features = dict[str, Ragged](), dict[str, Ragged]()

    @property
    def num_train_queries(self) -> int:
        """All of them."""
        return max(self.num_queries, 3)

    @property
    def propensity(self) -> tuple[float, float]:
        """As a rule."""
        return DEFAULT_A, DEFAULT_B

    def feature_sizes(self, side: str) -> dict[str, int]:
        """As many of each set."""
        return dict.fromkeys(self._features.get(side, {}), ROWS)

    def feature_counts(self, side: str, name: str) -> tuple[Tensor, int]:
        """Nobody has any."""
        return torch.zeros(ROWS, dtype=torch.int64), ROWS

    @property
    def item_texts(self) -> pl.Series:
        """Of a length as words have it."""
        return pl.Series("text", ["0123456789"] * self.num_items)

    @property
    def item_counts(self) -> Tensor:
        """int32 (items,), anew at every access, as a dataset gives them."""
        self.counted = True
        return torch.ones(self.num_items, dtype=torch.int32)


class Grows(NamedTuple):
    """``fixed + per_item · items + per_query · queries`` bytes."""

    fixed: float
    per_item: float
    per_query: float

    def at(self, items: int, queries: int) -> int:
        """Bytes over a catalogue."""
        return round(self.fixed + self.per_item * items + self.per_query * queries)


class Layout(NamedTuple):
    """What a model of this configuration holds.

    tables: table → name of a stored tensor → bytes a row.
    tower: what the query tower knows of items.
    sampler: what it is built from; what it learns comes on top.
    counts: bytes an item of the train counts, which are read at the start; 0 where nothing asks for them.
    dense: parameters of the towers; trained: parameters and what Adam keeps of them.
    head: what an output layer of its own knows of items beside its tables, such as a tree.
    """

    tables: dict[str, dict[str, int]]
    tower: Grows
    sampler: Grows
    counts: int
    dense: int
    trained: int
    head: Grows


def layout_of(config: RunConfig, features: Features | None = None, sequence: SequenceFacts | None = None) -> Layout:
    """Cost: three models of 512 and 1024 rows. ``features``: side → name → number of features of the dataset.

    Raises:
        XclassError: what does not depend on the dataset exceeds this machine's memory.
    """
    check_own_sizes(config)
    sizes = (ROWS, ROWS), (2 * ROWS, ROWS), (ROWS, 2 * ROWS)
    plain, items, queries = (_built(config, *size, features, sequence) for size in sizes)
    model = plain[1]
    state = ModelState(model, config.train.dense_learning_rate)
    tables = {name: _row_bytes(table) for name, table in model.tables.items()}
    return Layout(
        tables,
        Grows(*_growth([held(model.tower.sources) for _, model in (plain, items, queries)])),
        Grows(*_growth([held(_sampler(model)) for _, model in (plain, items, queries)])),
        plain[0].item_counts.element_size() if plain[0].counted else 0,
        sum(parameter.nbytes for parameter in model.parameters()),
        sum(tensor.nbytes for name, tensor in state.tensors().items() if name.startswith(("dense.", "adam."))),
        Grows(*_growth([_head_bytes(model) for _, model in (plain, items, queries)])),
    )


def _row_bytes(table: Table) -> dict[str, int]:
    stored = {key: tensor for key, tensor in table.tensors().items() if tensor.dim() and len(tensor) == table.num_rows}
    return {key: tensor.nbytes // table.num_rows for key, tensor in stored.items()}


def _growth(measured: list[int]) -> tuple[float, float, float]:
    """(fixed, per item, per query) of what three catalogues held."""
    plain, items, queries = measured
    per_item, per_query = (items - plain) / ROWS, (queries - plain) / ROWS
    return plain - ROWS * (per_item + per_query), per_item, per_query


def _built(
    config: RunConfig, items: int, queries: int, features: Features | None, sequence: SequenceFacts | None
) -> tuple[Few, TwoTower]:
    few = Few(items, queries, features, sequence)
    changes: dict[str, Any] = {
        "model": config.model.model_copy(update={"init": "random"}),
        "sampler": _small(config.sampler),
        "tables": config.tables.model_copy(update={"storage": "device"}),
    }
    return few, build_model(config.model_copy(update=changes), few, None)


def _small(config: SamplerConfig) -> SamplerConfig:
    """The same kind over few items, without its files."""
    changes: dict[str, Any] = {
        "num_sampled": 1,
        "num_reserved_ids": 0,
        "file": None,
        "parts": tuple(map(_small, config.parts)),
    }
    if config.kind == "fixed-unigram" and config.smoothing is None:
        changes["smoothing"] = 1.0
    return config.model_copy(update=changes)


def _sampler(model: TwoTower) -> object:
    return getattr(model.head, "sampler", None)


def _head_bytes(model: TwoTower) -> int:
    """Of an output layer of its own, without its dense layers; the texts that a network reads."""
    if isinstance(model.head, CnnHead):
        return held(model.head.texts)
    if model.head.searched_by == "vectors":
        return 0
    dense = [parameter for name, parameter in model.named_parameters() if name.startswith("head.")]
    return held(model.head) - held(dense)


def held(owner: object) -> int:
    """Bytes of all tensors that an object, a list or a mapping holds, directly or through what it holds; each once."""
    memories = [tensor.untyped_storage() for tensor in _tensors(owner, set())]
    return sum({memory.data_ptr(): memory.nbytes() for memory in memories}.values())


def _tensors(owner: object, visited: set[int]) -> Iterator[Tensor]:
    if id(owner) in visited or isinstance(owner, str | bytes | int | float | type(None)):
        return
    visited.add(id(owner))
    if isinstance(owner, Tensor):
        yield owner
    elif isinstance(owner, Mapping):
        for value in owner.values():
            yield from _tensors(value, visited)
    elif isinstance(owner, list | tuple | set):
        for value in owner:
            yield from _tensors(value, visited)
    else:
        names = [*getattr(owner, "__dict__", {}), *getattr(type(owner), "__slots__", ())]
        for name in names:
            yield from _tensors(getattr(owner, name, None), visited)
