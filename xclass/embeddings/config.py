"""What can be said of tables in a configuration."""

from __future__ import annotations

from typing import Literal

from xclass.config import Amount, Config


class TableConfig(Config):
    """The tables of vectors."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the stored rows. bfloat16 takes half the memory and is rounded stochastically. The state of the optimiser
    is float32."""
    storage: Literal["device", "host", "mapped"] = "device"
    """Where rows are stored. device: on the device that computes. host: in main memory; the rows of a step are moved to
    the device. mapped: in files of the run directory, for tables larger than memory."""
    weight_decay: Amount = 0.0
    """Every row is multiplied by 1 − rate · weight_decay in every step. A row is updated when it is next read or
    changed."""
    clip_norm: Amount = 0.0
    """Largest norm of a row's gradient; larger gradients are scaled down to it. 0: no limit."""
