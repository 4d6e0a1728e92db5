"""Whom to retrieve for: queries of a dataset, some of them by id, or histories never seen; cut into batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import polars as pl
import torch
from torch import Tensor

from xclass.data.batches import take_features
from xclass.data.dataset import Dataset
from xclass.data.given import as_count
from xclass.data.ids import TAKEN_FOR_UNKNOWN, IdMap, Unknown, check_any_known, unknown
from xclass.data.lists import Lists
from xclass.errors import InputError
from xclass.queries.files import QueryFile
from xclass.runtime.rng import torch_generator
from xclass.types import Batch, Ragged, check_offsets, offsets_of

BATCH_QUERIES = 1024
INTEGERS = (torch.int64, torch.int32)
NOBODY = Unknown(0, [])


@dataclass(frozen=True, slots=True)
class Queries:
    """Q queries in order, with their history; what names nobody knows has been left out and counted.

    ids: external id of each query, as the answer will name it.
    numbers: int64 (Q,), query number in the dataset, −1 for a query the model has never seen.
    histories, rows: query i's history is list ``rows[i]`` of ``histories``, which may be a memory-mapped split.
    features: name → lists, of which list ``rows[i]`` is query i's; empty where there are none.
    hidden: lists of items that are never to be shown, list ``rows[i]`` to query i; None for none.
    known_items: how many items of all histories are known, where the queries were given by histories; else None.
    """

    ids: pl.Series
    numbers: Tensor
    histories: Lists
    rows: Tensor
    unknown_queries: Unknown = field(default=NOBODY)
    unknown_items: Unknown = field(default=NOBODY)
    features: Mapping[str, Lists] = field(default_factory=dict)
    hidden: Lists | None = None
    known_items: int | None = None

    def __len__(self) -> int:
        """Number of queries, Q."""
        return len(self.ids)

    def hidden_from(self, positions: Tensor) -> Ragged:
        """The hidden items of the queries at these positions; only where there are ``hidden`` lists."""
        assert self.hidden is not None
        return self.hidden.take(self.rows[positions]).long()

    def batches(self, size: int = BATCH_QUERIES) -> Iterator[tuple[Tensor, Batch]]:
        """(positions 0 … Q−1, batch) one after the other; only a batch's lists are read at a time."""
        for start in range(0, len(self), size):
            stop = min(start + size, len(self))
            rows = self.rows[start:stop]
            history, features = self.histories.take(rows).long(), take_features(self.features, rows)
            yield torch.arange(start, stop), Batch(self.numbers[start:stop], history, features=features)


def dataset_queries(
    dataset: Dataset, split: str = "test", only_with_positives: bool = False, most: int | None = None, seed: int = 0
) -> Queries:
    """Every query of the dataset, or those with a positive in ``split``; their history is what came before it.

    Args:
        most: a sample of so many of them, drawn by ``seed``, in rising order; None takes all.

    Raises:
        InputError: ``most`` is no integer of 1 or more.
    """
    most = None if most is None else as_count(most, "the number of queries")
    history = dataset.history(split)
    numbers = torch.arange(dataset.num_queries)
    if only_with_positives:
        numbers = numbers[dataset.split(split).lengths() > 0]
    if most is not None and len(numbers) > most:
        chosen = torch.randperm(len(numbers), generator=torch_generator(seed, "sample of queries"))[:most]
        numbers = numbers[chosen.sort().values]
    return _of_dataset(dataset, numbers, history)


def dataset_slice(dataset: Dataset, start: int, stop: int, split: str = "test") -> Queries:
    """Queries number ``start … stop − 1``, with all that came before ``split`` as their history."""
    return _of_dataset(dataset, torch.arange(start, stop), dataset.history(split))


def queries_by_id(
    dataset: Dataset, ids: pl.Series, split: str = "test", known: IdMap | None = None, none_known: bool = False
) -> Queries:
    """The queries with these external ids, in the order given.

    Args:
        known: the map of the dataset's query ids, where somebody has it.
        none_known: take ids of which not one is known.

    Raises:
        DataError: not one of them is known.
    """
    known = known or IdMap(dataset.queries["query_id"])
    numbers = known.numbers(ids)
    missing = unknown(ids, numbers)
    if not none_known:
        check_any_known(numbers, ids, "query", known)
    return _of_dataset(dataset, numbers[numbers >= 0], dataset.history(split), missing)


def queries_with_histories(
    query_ids: IdMap, item_ids: IdMap, file: QueryFile, none_known: bool = False, unknown_item: int | None = None
) -> Queries:
    """Queries given by their histories. The history given counts, also for a query that the dataset knows.

    Items that nobody knows are left out of the histories, or become ``unknown_item``, and are counted. ``none_known``
    takes histories of such only.

    Raises:
        DataError: not one item is known.
    """
    assert file.offsets is not None and file.items is not None
    items = item_ids.numbers(file.items)
    missing = unknown(file.items, items)
    if not none_known:
        check_any_known(items, file.items, "item", item_ids)
    history = Ragged(file.offsets, items)
    if unknown_item is None:
        history = history.filter(items >= 0)
    else:
        history = Ragged(file.offsets, torch.where(items < 0, unknown_item, items))
        missing = replace(missing, became=TAKEN_FOR_UNKNOWN)
    everything = torch.arange(len(file.query_ids))
    numbers, known_items = query_ids.numbers(file.query_ids), int((items >= 0).sum())
    return Queries(file.query_ids, numbers, history, everything, unknown_items=missing, known_items=known_items)


def queries_with_features(
    features: Mapping[str, Ragged], ids: pl.Series | None = None, sizes: Mapping[str, int] | None = None
) -> Queries:
    """Queries that the model has never seen, given by their features; without ``ids`` they are named 0, 1, …

    Args:
        sizes: name → features that there can be.

    Raises:
        InputError: there is no field; two fields are of different length; a number that is none of a feature;
            offsets or values that do not make lists.
    """
    if not isinstance(features, Mapping) or {type(each) for each in features.values()} != {Ragged}:
        wanted, got = '{"name": xclass.Ragged, …}', repr(features)[:80]
        raise InputError("features must be Ragged by name", wanted=wanted, got=got)
    for name, lists in features.items():
        _check_features(name, lists, (sizes or {}).get(name))
    lengths = {name: len(lists) for name, lists in features.items()}
    if len(set(lengths.values())) != 1:
        raise InputError(
            "features of all fields must be of the same queries", wanted="a list for each query", got=lengths
        )
    number = next(iter(lengths.values()))
    named = pl.Series("query_id", range(number), dtype=pl.Int64) if ids is None else ids
    none = Ragged(torch.zeros(number + 1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
    return Queries(named, torch.full((number,), -1), none, torch.arange(number), features=features)


def _check_features(name: str, lists: Ragged, size: int | None) -> None:
    values = lists.values
    check_offsets(lists.offsets, len(values), f'"{name}"')  # a caller may have altered them since
    if len(values) and values.dtype not in INTEGERS:
        raise InputError(f'the features "{name}" are no numbers of features', wanted="integers", got=values.dtype)
    if len(values) and (int(values.min()) < 0 or (size is not None and int(values.max()) >= size)):
        wanted = "0 or more" if size is None else f"0 to {size - 1:,}"
        got = f"{int(values.min()):,} to {int(values.max()):,}"
        raise InputError(f'there is no feature "{name}" of this number', wanted=wanted, got=got)


def histories_of(lists: list[list[str]] | list[list[int]]) -> QueryFile:
    """Histories from Python lists of external item ids; the queries are named 0, 1, …"""
    lengths = torch.tensor([len(history) for history in lists], dtype=torch.int64)
    flat = [item for history in lists for item in history]
    items = pl.Series("item_id", flat, dtype=None if flat else pl.String)
    return QueryFile(pl.Series("query_id", range(len(lists)), dtype=pl.Int64), offsets_of(lengths), items)


def empty_histories(number: int) -> str:
    """The note about queries whose history is empty, where the model goes by histories alone."""
    return (
        f"{number:,} queries have no known item in their history: all of them get the same list, which says nothing of"
        " them (the most popular items with score 0, as a rule)"
    )


def _of_dataset(dataset: Dataset, numbers: Tensor, history: Lists, missing: Unknown = NOBODY) -> Queries:
    ids = dataset.queries["query_id"].gather(numbers.numpy())
    return Queries(ids, numbers, history, numbers, missing, features=dataset.query_features, hidden=dataset.hidden)
