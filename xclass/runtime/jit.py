"""Whether hot loops are compiled. Each has a plain form beside it that gives the same and serves without a compiler."""

from __future__ import annotations

import functools
import importlib.util
import os


@functools.cache
def compiles() -> bool:
    """Whether numba is installed, and not told to compile nothing (``NUMBA_DISABLE_JIT``)."""
    return importlib.util.find_spec("numba") is not None and os.environ.get("NUMBA_DISABLE_JIT", "0") in ("", "0")
