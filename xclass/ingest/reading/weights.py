"""Weights of pairs at ingest: those below a minimum go, and those that no training can use are refused."""

from __future__ import annotations

import numpy as np

from xclass.errors import DataError
from xclass.ingest.pairs import TRAIN, Pairs, blocks_of, query_blocks
from xclass.ingest.reading.reader import Table

LARGEST = float(np.finfo(np.float32).max)


def drop_low_weights(pairs: Pairs, least: float | None, source: str) -> int:
    """Drop the pairs with a lower weight; returns how many.

    Raises:
        DataError: none is left in train.
    """
    if least is None or pairs.weight is None:
        return 0
    keep = np.ones(len(pairs), dtype=bool)
    for low, high in blocks_of(len(pairs)):
        keep[low:high] = pairs.weight[low:high] >= least
    dropped = len(keep) - int(np.count_nonzero(keep))
    if dropped == len(keep) or (pairs.part is not None and not (pairs.part[keep] == TRAIN).any()):
        raise DataError(
            "no pair of train has the minimum weight",
            where=source,
            wanted=f"weights from {least:g}",
            got=f"at most {pairs.weight.max():g}",
            do="lower --min-weight",
        )
    if dropped:
        pairs.select(keep)
    return dropped


def check_weights(table: Table, labels: np.ndarray, source: str) -> None:
    """Refuse weights that no training can use, once repeated pairs are summed.

    Raises:
        DataError: the sum of a pair or of a query is beyond float32, and whose; all weights of train are 0.
    """
    weight, some = table.pairs.weight, False
    if weight is None:
        return
    for low, high in query_blocks(table.pairs.query, "check weights"):
        bad = np.flatnonzero(~np.isfinite(weight[low:high]))
        if len(bad):
            raise _too_large(table, low + int(bad[0]), source)
        _check_sums(table, low, high, source)
        some = some or bool((weight[low:high][labels[low:high] == TRAIN] > 0).any())
    if not some:
        raise DataError(
            "every weight of train is 0, so nothing can be learned",
            where=source,
            wanted="at least one weight above 0",
            got=f'column "{table.columns.weight}"',
            do='name the right column, or leave the weights out: --weight-col ""',
        )


def _check_sums(table: Table, low: int, high: int, source: str) -> None:
    """Training divides a query's weights by their sum."""
    query, weight = table.pairs.query[low:high], table.pairs.weight
    assert weight is not None
    starts = np.flatnonzero(np.concatenate([[True], query[1:] != query[:-1]]))
    bad = np.flatnonzero(np.add.reduceat(weight[low:high], starts, dtype=np.float64) > LARGEST)
    if len(bad):
        raise DataError(
            "the weights of one query have a sum that is too large",
            where=source,
            wanted=f"at most {LARGEST:.3g}",
            got=f"query {table.query_ids[int(query[starts[bad[0]]])]}",
            do='divide all weights by a constant, or leave them out: --weight-col ""',
        )


def _too_large(table: Table, row: int, source: str) -> DataError:
    query, item = table.query_ids[int(table.pairs.query[row])], table.item_ids[int(table.pairs.item[row])]
    return DataError(
        "the summed weight of a pair that comes several times is too large",
        where=source,
        wanted=f"at most {LARGEST:.3g}",
        got=f"query {query}, item {item}",
        do='divide all weights by a constant, or leave them out: --weight-col ""',
    )
