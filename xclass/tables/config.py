"""What can be said of tables in a configuration."""

from __future__ import annotations

from typing import Literal

from xclass.config import Amount, Config


class TableConfig(Config):
    """The tables of vectors."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """How rows are stored; bfloat16 takes half the memory and is rounded stochastically. Optimiser state is float32."""
    storage: Literal["device", "host", "mapped"] = "device"
    """device: where the computation is; host: main memory, and a step's rows are moved; mapped: files in the run
    directory, for tables larger than memory."""
    weight_decay: Amount = 0.0
    """Every row is multiplied by 1 − rate · weight_decay in every step; computed when a row is next touched or read."""
    clip_norm: Amount = 0.0
    """A row's gradient is scaled down to this norm at most; 0 for no limit."""
