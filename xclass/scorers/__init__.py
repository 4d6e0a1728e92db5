"""Scorers that read a document's sparse features: linear weights per item, nearest train documents, their fusion."""

from xclass.scorers.config import FusionConfig, LinearConfig, NeighboursConfig
from xclass.scorers.fusion import Fusion, Suggestions, best_of_lists, choose_weights
from xclass.scorers.linear import LinearScorer
from xclass.scorers.neighbours import NeighboursScorer
from xclass.scorers.terms import Terms

__all__ = [
    "Fusion",
    "FusionConfig",
    "LinearConfig",
    "LinearScorer",
    "NeighboursConfig",
    "NeighboursScorer",
    "Suggestions",
    "Terms",
    "best_of_lists",
    "choose_weights",
]
