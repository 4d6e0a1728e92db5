"""What a configuration can say about the output layer."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Literal

import pydantic

from xclass.config import MOST, Config, Count, Dimension, Dimensions, Number, Positive
from xclass.heads.banded.bands import band_edges
from xclass.towers.item_texts import CORRECTION

BANDED = ("differentiated", "adaptive")
SCORED = ("dot", "cnn")  # item vectors, trained against sampled items by the sections sampler and loss


class HeadConfig(Config):
    """The output layer."""

    kind: Literal["dot", "hierarchical", "differentiated", "adaptive", "cnn"] = "dot"
    """dot: item vectors, with [sampler] and [loss]. cnn: as dot, with item vectors computed from the characters of the
    items' texts (their titles, or their ids if they have none). hierarchical: a softmax over a tree; no item vectors,
    sampler or index. differentiated: a softmax over all items, with shorter vectors for rare items. adaptive: one
    softmax over frequent items and clusters of rare items, and one softmax within each cluster."""
    tree: Literal["balanced", "huffman", "clustered"] = "huffman"
    """hierarchical: balanced (all leaves at the same depth), huffman (frequent items near the root) or clustered
    (similar items together)."""
    arity: int = pydantic.Field(2, ge=2, le=MOST)
    """hierarchical: the largest number of children of a node."""
    beam: Positive = 64
    """hierarchical: how many nodes of a level the search keeps; at least the length of the requested lists."""
    cluster_by: str = "pairs"
    """hierarchical with tree = "clustered": pairs (items with the same queries are similar), or the name of a feature
    set of the items."""
    cuts: Annotated[tuple[Number, ...], pydantic.Field(max_length=64)] = ()
    """differentiated, adaptive: where each band after the first begins, as a share of the items in the order of their
    train counts. (0.05, 0.25) makes bands of 5%, 20% and 75%."""
    dims: Dimensions = ()
    """Dimensions of the bands. differentiated: of each band, with sum model.embedding_dim. adaptive: of each band but
    the first."""
    filters: tuple[Annotated[int, pydantic.Field(ge=0, le=1 << 16)], ...] = (32, 64, 64, 64, 64)
    """cnn: how many filters read 1, 2, 3, … bytes of the text at a time."""
    symbol_dim: Dimension = 16
    """cnn: dimensions of the vector of a byte."""
    highway: int = pydantic.Field(1, ge=0, le=64)
    """cnn: number of highway layers after the filters."""
    correction: Count = 0
    """cnn: dimensions of an extra vector for each item, which separates items with similar spelling; 0: none."""
    text_bytes: Positive = 48
    """cnn: how many bytes of a text are read."""

    @pydantic.model_validator(mode="after")
    def _keys_fit_the_kind(self) -> HeadConfig:
        allowed = {
            **dict.fromkeys(("tree", "arity", "beam", "cluster_by"), ("hierarchical",)),
            **dict.fromkeys(("cuts", "dims"), BANDED),
            **dict.fromkeys(("filters", "symbol_dim", "highway", "correction", "text_bytes"), ("cnn",)),
        }
        for name, kinds in allowed.items():
            if self.kind not in kinds and getattr(self, name) != HeadConfig.model_fields[name].default:
                raise ValueError(f'{name} is not a key of kind = "{self.kind}"')
        if self.cluster_by != "pairs" and self.tree != "clustered":
            raise ValueError('cluster_by goes with tree = "clustered"')
        if not sum(self.filters):
            raise ValueError("filters has one number above 0 at least")
        self._check_bands()
        return self

    def _check_bands(self) -> None:
        if self.kind not in BANDED:
            return
        if not self.cuts or any(low >= high for low, high in pairwise((0.0, *self.cuts, 1.0))):
            raise ValueError("cuts are rising shares between 0 and 1, one at least")
        wanted = len(self.cuts) + (self.kind == "differentiated")
        if len(self.dims) != wanted or min(self.dims) < 1:
            raise ValueError(f"dims has {wanted} numbers of at least 1 here")


def table_shapes(config: HeadConfig, num_items: int, dim: int) -> dict[str, tuple[int, int]]:
    """Name → (rows, dimensions) of the tables that the head reads."""
    if config.kind == "hierarchical":
        return {"node": (max(num_items - 1, 1), dim)}
    if config.kind in BANDED:
        sizes = [high - low for low, high in pairwise(band_edges(num_items, config.cuts))]
        if config.kind == "differentiated":
            return {f"band{number}": shape for number, shape in enumerate(zip(sizes, config.dims, strict=True))}
        tails = {f"tail{number}": shape for number, shape in enumerate(zip(sizes[1:], config.dims, strict=True))}
        return {"shortlist": (sizes[0] + len(config.dims), dim), **tails}
    if config.kind == "cnn":
        return {CORRECTION: (num_items, config.correction)} if config.correction else {}
    return {"item": (num_items, dim)}


def rows_asked(config: HeadConfig, num_items: int, positives: int) -> dict[str, int]:
    """Table → rows that a step with so many targets asks for, about, repeats counted; cnn: targets and negatives."""
    if config.kind == "hierarchical":
        return {"node": round(positives * math.log(max(num_items, 2), config.arity) * (config.arity - 1))}
    if config.kind in BANDED:
        return {name: rows for name, (rows, _) in table_shapes(config, num_items, 1).items()}
    if config.kind == "cnn":
        return {CORRECTION: positives}
    return {}
