"""Heads: output layers. A head turns query vectors into a loss in training and into a top-k afterwards."""

from xclass.heads.dot import DotHead, DotPlan
from xclass.heads.seam import Head
from xclass.heads.top_weights import TopWeights

HEADS = {"dot": DotHead}

__all__ = ["HEADS", "DotHead", "DotPlan", "Head", "TopWeights"]
