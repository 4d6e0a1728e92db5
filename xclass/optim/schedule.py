"""Learning-rate schedules: the share of the base rate at each point of training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import pydantic

from xclass.config import Config, Count

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
}


class ScheduleConfig(Config):
    """How the learning rate moves from the first step to the last."""

    kind: Literal["constant", "linear", "cosine"] = "cosine"
    """constant; or linear or cosine decrease to ``final`` × the base rate."""
    warmup_steps: Count = 0
    """Number of first steps in which the rate rises linearly from 0."""
    final: float = pydantic.Field(0.0, ge=0.0, le=1.0)
    """Rate at the end, as a share of the base rate."""


def learning_rate(config: ScheduleConfig, base: float, step: int, total_steps: int) -> float:
    """The rate of step ``step`` (0 … total_steps−1).

    >>> [learning_rate(ScheduleConfig(kind="linear"), 1.0, step, 4) for step in range(4)]
    [1.0, 0.75, 0.5, 0.25]
    """
    if step < config.warmup_steps:
        return base * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(total_steps - config.warmup_steps, 1)
    share = SCHEDULES[config.kind](min(progress, 1.0))
    return base * (config.final + (1.0 - config.final) * share)
