"""What a configuration can say about the output layer."""

from __future__ import annotations

import math
from typing import Literal

import pydantic

from xclass.config import Config


class HeadConfig(Config):
    """The output layer."""

    kind: Literal["dot", "hierarchical"] = "dot"
    """dot: item vectors, with the sampler and the loss of their sections; hierarchical: a softmax over a tree, without
    item vectors, sampler or index."""
    tree: Literal["balanced", "huffman", "clustered"] = "huffman"
    """hierarchical: even in depth; frequent items near the root; or items that are alike together."""
    arity: int = pydantic.Field(2, ge=2)
    """hierarchical: the most children of a node."""
    beam: int = pydantic.Field(64, ge=1)
    """hierarchical: how many nodes of a level a search keeps; at least the length of the lists that are asked for."""
    cluster_by: str = "pairs"
    """hierarchical, clustered: pairs, which items have the same queries; or the name of the items' features."""

    @pydantic.model_validator(mode="after")
    def _keys_fit_the_kind(self) -> HeadConfig:
        allowed = dict.fromkeys(("tree", "arity", "beam", "cluster_by"), ("hierarchical",))
        for name, kinds in allowed.items():
            if self.kind not in kinds and getattr(self, name) != HeadConfig.model_fields[name].default:
                raise ValueError(f'{name} is not a key of kind = "{self.kind}"')
        if self.cluster_by != "pairs" and self.tree != "clustered":
            raise ValueError('cluster_by goes with tree = "clustered"')
        return self


def table_shapes(config: HeadConfig, num_items: int, dim: int) -> dict[str, tuple[int, int]]:
    """Name → (rows, dimensions) of the tables that the head reads."""
    if config.kind == "hierarchical":
        return {"node": (max(num_items - 1, 1), dim)}
    return {"item": (num_items, dim)}


def rows_asked(config: HeadConfig, num_items: int, positives: int) -> dict[str, int]:
    """Table → rows that a step with so many targets asks for, about; repeats counted."""
    if config.kind == "hierarchical":
        return {"node": round(positives * math.log(max(num_items, 2), config.arity) * (config.arity - 1))}
    return {}
