"""Configurations trained on one dataset, side by side: quality, speed, memory."""

from xclass.comparison.curves import Target, parse_target
from xclass.comparison.result import Contest, Entry
from xclass.comparison.train_and_measure import TURNS, compare_configs

__all__ = ["TURNS", "Contest", "Entry", "Target", "compare_configs", "parse_target"]
