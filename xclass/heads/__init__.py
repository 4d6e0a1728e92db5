"""Heads: output layers. A head turns query vectors into a loss in training and into a top-k afterwards."""

from xclass.heads.adaptive import AdaptiveHead
from xclass.heads.building import KnownItems, build_head
from xclass.heads.cnn import CnnHead
from xclass.heads.config import HeadConfig, rows_asked, table_shapes
from xclass.heads.differentiated import DifferentiatedHead
from xclass.heads.dot import DotHead, DotPlan
from xclass.heads.hierarchical import HierarchicalHead
from xclass.heads.seam import Head
from xclass.heads.search import OwnSearch
from xclass.heads.top_weights import TopWeights
from xclass.heads.trees import Tree, balanced_tree, huffman_tree

HEADS: dict[str, type[Head]] = {
    "dot": DotHead,
    "hierarchical": HierarchicalHead,
    "differentiated": DifferentiatedHead,
    "adaptive": AdaptiveHead,
    "cnn": CnnHead,
}

__all__ = [
    "HEADS",
    "AdaptiveHead",
    "CnnHead",
    "DifferentiatedHead",
    "DotHead",
    "DotPlan",
    "Head",
    "HeadConfig",
    "HierarchicalHead",
    "KnownItems",
    "OwnSearch",
    "TopWeights",
    "Tree",
    "balanced_tree",
    "build_head",
    "huffman_tree",
    "rows_asked",
    "table_shapes",
]
