"""Training of sparse linear weights, one item against the rest, by dual coordinate descent.

    min_w  ½‖w‖² + C Σ_i max(0, 1 − y_i w·x_i)²
    dual:  α_i ← max(α_i − (y_i w·x_i − 1 + α_i / 2C) / (‖x_i‖² + 1 / 2C), 0),   w = Σ_i α_i y_i x_i

Source: Hsieh, Chang, Lin, Keerthi & Sundararajan 2008, "A dual coordinate descent method for large-scale linear SVM",
algorithm 1 with the squared loss; one against the rest with pruned weights as Babbar & Schölkopf 2017 (DiSMEC); few
negatives for each item, those that a search takes for positives, as Jain et al. 2019 (Slice).

Over all documents the weights of sixteen items are trained side by side: they see the documents in the same order, so
a document's features are read once for all of them and a step is one instruction for sixteen; there is no shrinking.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from xclass.runtime.jit import compiles
from xclass.runtime.progress import Progress
from xclass.runtime.rng import numpy_generator
from xclass.runtime.threads import in_parts, num_threads
from xclass.scorers import reference
from xclass.scorers.config import LinearConfig
from xclass.scorers.reference import LANES, Rows, curvatures
from xclass.types import Ragged

CPU = torch.device("cpu")
BLOCKS_AT_ONCE = 8
ITEMS_AT_ONCE = 2048
PRIMES = np.array([7919, 104729, 3571, 17389, 1299709, 541, 27449, 611953], np.int64)
ALL_KEPT = 4096  # of an item's own list, where no limit is set

Weights = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Of some items: number of weights int64, features int32, weights float32, biases float32."""


def against_all(rows: Rows, documents_of: Ragged, config: LinearConfig, seed: int) -> Iterator[Weights]:
    """Weights of every item over all documents, some items at a time.

    Args:
        documents_of: for each item the documents that have it; one with an empty list gets no weights.

    Cost: documents · features · passes / 16 for each item. Memory: 64 bytes · (features + 2 · documents) a thread.
    """
    generator = numpy_generator(seed, "linear order")
    number = len(rows.offsets) - 1
    orders = np.stack([generator.permutation(number) for _ in range(config.passes)]).astype(np.int32)
    blocks = -(-len(documents_of) // LANES)
    at_once = BLOCKS_AT_ONCE * num_threads()
    with Progress("linear", len(documents_of), "items") as progress:
        for start in range(0, blocks, at_once):
            stop = min(start + at_once, blocks)

            def some(low: int, high: int, start: int = start) -> list[Weights]:
                return [_block(rows, documents_of, start + block, orders, config) for block in range(low, high)]

            for part in in_parts(some, stop - start, stop - start, CPU):
                yield from part
            progress.advance(min(stop * LANES, len(documents_of)) - progress.done)


def _block(rows: Rows, documents_of: Ragged, block: int, orders: np.ndarray, config: LinearConfig) -> Weights:
    low, high = block * LANES, min((block + 1) * LANES, len(documents_of))
    own = documents_of.slice(low, high)
    there = (own.lengths() > 0).numpy()
    if not there.any():
        return np.zeros(high - low, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros(high - low, "f")
    signs = np.full((len(rows.offsets) - 1, LANES), -1, np.float32)
    signs[own.values.numpy(), own.rows().numpy()] = 1
    w, bias = _descend(rows, signs, orders, config)
    w, bias = np.ascontiguousarray(w[:, : high - low].T), bias[: high - low].copy()
    w[~there], bias[~there] = 0, 0
    keep = (np.abs(w) >= config.prune) & (w != 0)
    if config.max_weights and config.max_weights < w.shape[1]:
        cut = np.partition(np.abs(w), w.shape[1] - config.max_weights, axis=1)[:, -config.max_weights]
        keep &= np.abs(w) >= cut[:, None]
    _, features = keep.nonzero()
    return keep.sum(1), features.astype(np.int32), w[keep], bias


def _descend(rows: Rows, signs: np.ndarray, orders: np.ndarray, config: LinearConfig) -> tuple[np.ndarray, np.ndarray]:
    if not compiles():
        return reference.descend(rows, signs, orders, config.cost, config.bias, config.tolerance)
    from xclass.scorers import _numba

    w, alpha = np.zeros((rows.size + 1, LANES), np.float32), np.zeros_like(signs)
    numbers = (np.float32(number) for number in (0.5 / config.cost, config.bias, config.tolerance))
    curvature = curvatures(rows, config.cost, config.bias)
    _numba.descend_lanes(*rows[:3], curvature, signs, orders, *numbers, w, alpha)
    return w[:-1], w[-1] * np.float32(config.bias)


def against_lists(rows: Rows, lists: Ragged, positives: np.ndarray, config: LinearConfig) -> Iterator[Weights]:
    """Weights of every item over its own list of documents, some items at a time.

    Args:
        lists: for each item documents that have it, then some that don't.
        positives: int64, how many of each list have the item; 0: it gets no weights.

    Cost: documents of all lists · features of a document · passes.
    """
    with Progress("linear", len(lists), "items") as progress:
        for start in range(0, len(lists), ITEMS_AT_ONCE):
            stop = min(start + ITEMS_AT_ONCE, len(lists))
            part, own = lists.slice(start, stop), positives[start:stop]
            if compiles():
                yield from _compiled_lists(rows, part, own, config)
            else:
                yield _plain_lists(rows, part, own, config)
            progress.advance(stop - start)


def _compiled_lists(rows: Rows, lists: Ragged, positives: np.ndarray, config: LinearConfig) -> list[Weights]:
    most = config.max_weights or ALL_KEPT
    documents = *rows[:3], curvatures(rows, config.cost, config.bias), rows.size
    given = lists.offsets.numpy(), lists.values.numpy(), positives
    numbers = [np.float32(x) for x in (0.5 / config.cost, config.bias, config.tolerance, config.prune)]
    steps = PRIMES[np.arange(config.passes) % len(PRIMES)]

    def some(low: int, high: int) -> Weights:
        from xclass.scorers import _numba

        shape = high - low, most
        features, values = np.empty(shape, np.int32), np.empty(shape, np.float32)
        bias, counts = np.zeros(high - low, np.float32), np.zeros(high - low, np.int64)
        _numba.descend_lists(low, high, documents, given, steps, *numbers, most, features, values, bias, counts)
        keep = np.arange(most) < counts[:, None]
        return counts, features[keep], values[keep], bias

    return in_parts(some, len(lists), len(lists), CPU)


def _plain_lists(rows: Rows, lists: Ragged, positives: np.ndarray, config: LinearConfig) -> Weights:
    most = config.max_weights or ALL_KEPT
    counts, features, values = np.zeros(len(lists), np.int64), [], []
    biases = np.zeros(len(lists), np.float32)
    steps = PRIMES[np.arange(config.passes) % len(PRIMES)]
    for item, documents in enumerate(lists.to_lists()):
        if not positives[item]:
            continue
        own = _some_rows(rows, np.array(documents))
        signs = np.where(np.arange(len(documents)) < positives[item], 1.0, -1.0).astype(np.float32)[:, None]
        orders = np.stack([reference.walk(len(documents), turn, steps) for turn in range(config.passes)])
        w, bias = reference.descend(own, signs, orders, config.cost, config.bias, config.tolerance)
        kept = _largest(w[:, 0], config.prune, most)
        counts[item], biases[item] = len(kept), bias[0]
        features.append(kept.astype(np.int32))
        values.append(w[kept, 0])
    empty = np.zeros(0, np.int32), np.zeros(0, np.float32)
    return counts, np.concatenate([empty[0], *features]), np.concatenate([empty[1], *values]), biases


def _some_rows(rows: Rows, chosen: np.ndarray) -> Rows:
    part = rows.matrix()[chosen]
    return Rows(part.indptr.astype(np.int64), part.indices, part.data, rows.size)


def _largest(w: np.ndarray, prune: float, most: int) -> np.ndarray:
    """Places of the weights that are kept, rising."""
    places = np.flatnonzero((np.abs(w) >= np.float32(prune)) & (w != 0))
    if len(places) > most:
        cut = np.sort(np.abs(w[places]))[len(places) - most]
        places = places[np.abs(w[places]) >= cut][:most]
    return places
