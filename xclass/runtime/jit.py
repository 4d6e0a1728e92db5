"""Whether hot loops are compiled. Each has a plain form beside it that gives the same and serves without a compiler."""

from __future__ import annotations

import functools
import importlib.util


@functools.cache
def compiles() -> bool:
    """Whether numba is installed."""
    return importlib.util.find_spec("numba") is not None
