"""What must hold before NumPy, Polars and torch are loaded: one thread each, so that bits and times are the same."""

from __future__ import annotations

import os

THREADS = ("OMP_NUM_THREADS", "POLARS_MAX_THREADS", "NUMBA_NUM_THREADS")


def one_thread() -> None:
    """Said in this process's environment, which its children have, too."""
    os.environ.update(dict.fromkeys(THREADS, "1"))
