"""What scorers of sparse features take: arrays whose sizes follow from the number of pairs and of feature values."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from xclass.estimate.parts import Part
from xclass.scorers.config import DocumentsConfig
from xclass.scorers.reference import LANES

FLOAT, INT = 4, 8
WEIGHTED_BYTES = 2 * INT + FLOAT  # of a feature's value while it is weighted, twice over
NEGATIVE_BYTES = 6 * INT  # of a mined negative while they are sorted


def scorer_parts(config: DocumentsConfig, queries: int, items: int, pairs: int, size: int, values: int) -> list[Part]:
    """Every part of training the scorers beside the towers.

    Args:
        queries, items, pairs: of the dataset. size: number of features. values: of all queries' lists.
    """
    return [*_shared(values, pairs), *_neighbours(config, values, pairs, size), *_linear(config, queries, items, size)]


def _shared(values: int, pairs: int) -> Iterator[Part]:
    yield Part("documents: features and items", "memory", values * (FLOAT + FLOAT) + pairs * FLOAT)
    yield Part("documents: features being weighted", "memory", values * WEIGHTED_BYTES, "start", certain=False)


def _neighbours(config: DocumentsConfig, values: int, pairs: int, size: int) -> Iterator[Part]:
    if "neighbours" in config.scorers or config.linear.negatives == "mined":
        postings = min(values, size * config.neighbours.max_postings) if config.neighbours.max_postings else values
        yield Part("neighbours: inverted index", "memory", postings * 2 * FLOAT + size * INT)
        if "neighbours" in config.scorers:
            disk = postings * 2 * FLOAT + size * (INT + FLOAT) + pairs * FLOAT
            yield Part("neighbours", "disk", disk, certain=False)


def _linear(config: DocumentsConfig, queries: int, items: int, size: int) -> Iterator[Part]:
    if "linear" not in config.scorers:
        return
    threads, linear = torch.get_num_threads(), config.linear
    if linear.negatives == "all":
        scratch = threads * LANES * FLOAT * (2 * size + 2 * queries)
        yield Part("linear: weights at work", "memory", scratch, "training")
        yield Part("linear: order of passes", "memory", linear.passes * queries * FLOAT, "training")
    else:
        mined = queries * linear.mined + items * linear.drawn
        yield Part("linear: mined negatives", "memory", mined * NEGATIVE_BYTES, "start", certain=False)
    if linear.max_weights:
        kept = items * linear.max_weights * 2 * FLOAT
        yield Part("linear: weights", "memory", kept, certain=False)
        yield Part("linear", "disk", kept, certain=False)
