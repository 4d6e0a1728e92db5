"""Limits of the process, and settings of its environment, under which the libraries can't be loaded or used."""

from __future__ import annotations

import os
import resource

from xclass.errors import XclassError

LIBRARIES_BYTES = 10 << 28  # 2.5 GiB of addresses, most of them never touched
THREADS = ("POLARS_MAX_THREADS", "NUMBA_NUM_THREADS")  # of the environment; a wrong number breaks the library
THREAD_BYTES = 64 << 20  # stack, arena and buffers of each thread of a library's pool


def check_limits() -> None:
    """XclassError when this process may have fewer addresses than torch, Polars, Faiss and numba map (``ulimit -v``).

    Below that their allocators abort the process, here and there. Above it memory that runs out is an ordinary error.
    And when a library is told by the environment to use a number of threads that is none.
    """
    for name in THREADS:
        given = os.environ.get(name, "")
        if given and not (given.isdecimal() and int(given) > 0):
            raise XclassError(
                "this is no number of threads",
                where=name,
                wanted="1 or more",
                got=given,
                do=f"change it, or: unset {name}",
            )
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    wanted = LIBRARIES_BYTES + THREAD_BYTES * (os.cpu_count() or 1)
    if limit != resource.RLIM_INFINITY and limit < wanted:
        raise XclassError(
            "this process may not use enough address space",
            wanted=f"{wanted / 1e9:.1f} GB or more for the libraries alone",
            got=f"{limit / 1e9:.1f} GB",
            do=f"raise the limit: ulimit -v {-(-wanted // 1024)}, or unlimited",
        )
