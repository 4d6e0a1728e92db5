"""Configurations trained on one dataset, side by side: quality, speed, memory."""

from xclass.contest.curves import Target, parse_target
from xclass.contest.result import Contest, Entry
from xclass.contest.running import TURNS, compare_configs

__all__ = ["TURNS", "Contest", "Entry", "Target", "compare_configs", "parse_target"]
