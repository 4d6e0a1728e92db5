"""Heads: output layers. A head turns query vectors into a loss in training and into a top-k afterwards."""

from xclass.heads.banded.adaptive import AdaptiveHead
from xclass.heads.banded.differentiated import DifferentiatedHead
from xclass.heads.build import KnownItems, build_head
from xclass.heads.cnn import CnnHead
from xclass.heads.config import HeadConfig, rows_asked, table_shapes
from xclass.heads.dot import DotHead, DotPlan
from xclass.heads.interface import Head
from xclass.heads.search import OwnSearch
from xclass.heads.tree.head import HierarchicalHead
from xclass.heads.tree.tree import Tree, balanced_tree, huffman_tree
from xclass.losses.fused.top_k_weights import TopWeights

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
