"""Faiss at arm's length: imported when first wanted, driven by factory strings and named parameters."""

from __future__ import annotations

import contextlib
import importlib
import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from xclass.errors import ConfigError

POINTS_PER_LIST = 39
LEAST_GRAPH = 2048
LONG = 64
EXACT_STORAGE = re.compile(r"(Flat|HNSW\d*(,Flat)?|IVF\d+(_HNSW\d+)?,Flat|.*,RFlat)")
LEAST_TO_LEARN = {"ivfpq": POINTS_PER_LIST * 256, "fastscan": POINTS_PER_LIST * 16}


def faiss_module() -> Any:
    """The ``faiss`` module; a ConfigError that names the extra where it is not installed."""
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        raise ConfigError(
            "this index kind needs Faiss, which is not installed",
            got=str(error),
            do="pip install 'xclass[cpu]', or choose the kind exact",
        ) from None


def faiss_installed() -> bool:
    """Whether ``import faiss`` works here."""
    try:
        faiss_module()
    except ConfigError:
        return False
    return True


def default_factory(kind: str, num_items: int, dim: int) -> str:
    """The factory string of a kind for a catalogue of this size: the first of :func:`builds`.

    >>> default_factory("hnsw", 1_000_000, 64), default_factory("ivf", 1_000_000, 64)
    ('HNSW32,Flat', 'IVF1024,Flat')
    """
    return builds(kind, num_items, dim)[0]


def builds(kind: str, num_items: int, dim: int) -> list[str]:
    """The factory strings of a kind that are worth trying on a catalogue of this size, the likeliest first.

    With too few vectors to learn codes from, the lists hold the vectors as they are.

    >>> builds("fastscan", 1_000_000, 64)[:3]
    ['Spread,IVF4096_HNSW32,PQ64x4fs', 'Spread,IVF4096,PQ64x4fs', 'Spread,IVF1024,PQ64x4fs']
    >>> builds("fastscan", 1_000_000, 64)[3:]
    ['IVF4096_HNSW32,PQ64x4fs']
    """
    few, many = _lists(num_items, 1), _lists(num_items, 4)
    graph = "_HNSW32" if many >= LEAST_GRAPH else ""
    half, whole = _parts(dim, 2), dim
    if num_items < LEAST_TO_LEARN.get(kind, 0):
        kind = "ivf"
    choices = {
        "flat": ["Flat"],
        "hnsw": ["HNSW32,Flat", "HNSW32,SQ8"],
        "ivf": [f"IVF{few},Flat", f"IVF{many},Flat"],
        "ivfpq": [f"IVF{few},PQ{half}", f"IVF{many},PQ{half}"],
        "sq": [f"IVF{few},SQ8", f"IVF{many},SQ8"],
        "fastscan": [
            f"Spread,IVF{many}{graph},PQ{whole}x4fs",
            f"Spread,IVF{many},PQ{whole}x4fs",
            f"Spread,IVF{few},PQ{whole}x4fs",
            f"IVF{many}{graph},PQ{whole}x4fs",
            *([f"Spread,IVF{many}{graph},PQ{half}x4fs"] if dim > LONG else []),
        ],
    }[kind]
    return list(dict.fromkeys(fit_lists(choice, num_items) for choice in choices))


def _lists(num_items: int, factor: int) -> int:
    """A power of two near ``factor`` · √N."""
    return 1 << max(round(math.log2(factor * num_items**0.5)), 0)


def _parts(dim: int, per_part: int) -> int:
    """The most parts of equal length that ``dim`` has with at least ``per_part`` dimensions in each."""
    return max(parts for parts in range(1, max(dim // per_part, 1) + 1) if dim % parts == 0)


def fit_lists(factory: str, num_items: int) -> str:
    """The factory string with fewer lists where there are less than 39 vectors for each: training needs them.

    >>> fit_lists("IVF4096,Flat", 1000)
    'IVF25,Flat'
    """

    def fitted(found: re.Match[str]) -> str:
        return f"IVF{min(int(found[1]), max(1, num_items // POINTS_PER_LIST))}"

    return re.sub(r"IVF(\d+)", fitted, factory)


def stores_vectors(factory: str) -> bool:
    """Whether the index holds the vectors as they are, so that its scores need no second look."""
    return EXACT_STORAGE.fullmatch(factory) is not None


def make_faiss(dim: int, factory: str, l2: bool) -> Any:
    """An empty Faiss index; an unknown factory string is a ConfigError."""
    faiss = faiss_module()
    try:
        return faiss.index_factory(dim, factory, faiss.METRIC_L2 if l2 else faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise ConfigError(
            "Faiss does not take this factory string",
            got=f'"{factory}" for {dim} dimensions: {faiss_reason(error)}',
            do='see Faiss\'s "index factory"; for example HNSW32,Flat or IVF4096,Flat',
        ) from None


def search_parameter_name(index: Any) -> str | None:
    """``efSearch`` or ``nprobe``, whichever this Faiss index has; None where there is nothing to turn."""
    faiss, index = faiss_module(), unwrapped(index)
    if isinstance(index, faiss.IndexHNSW):
        return "efSearch"
    return "nprobe" if isinstance(index, faiss.IndexIVF) else None


def refines(index: Any) -> bool:
    """Whether this Faiss index scores what it finds again by itself."""
    faiss = faiss_module()
    return isinstance(faiss.downcast_index(index), faiss.IndexRefine)


def num_lists(index: Any) -> int:
    """Inverted lists of an IVF index, 1 for another."""
    return int(getattr(unwrapped(index), "nlist", 1))


def lists_hold_all(index: Any) -> bool:
    """Whether the inverted lists of an IVF index hold every item once; True for another index. O(N)."""
    faiss, ivf = faiss_module(), unwrapped(index)
    if not isinstance(ivf, faiss.IndexIVF):
        return True
    seen = np.zeros(index.ntotal, np.bool_)
    sizes = [ivf.invlists.list_size(part) for part in range(ivf.nlist)]
    if sum(sizes) != len(seen):
        return False
    for part, size in enumerate(sizes):
        if size:
            ids = faiss.rev_swig_ptr(ivf.invlists.get_ids(part), size)
            if ids.min() < 0 or ids.max() >= len(seen):
                return False
            seen[ids] = True
    return bool(seen.all())


def faiss_bytes(index: Any) -> int:
    """Length of the index as Faiss writes it, counted without keeping it."""
    faiss = faiss_module()
    total = 0

    def count(block: bytes) -> None:
        nonlocal total
        total += len(block)

    faiss.write_index(index, faiss.PyCallbackIOWriter(count))
    return total


def unwrapped(index: Any) -> Any:
    """The Faiss index inside transforms, refinements and id maps."""
    faiss = faiss_module()
    index = faiss.downcast_index(index)
    while isinstance(index, faiss.IndexPreTransform | faiss.IndexRefine | faiss.IndexIDMap):
        index = faiss.downcast_index(index.base_index if isinstance(index, faiss.IndexRefine) else index.index)
    return index


def set_parameter(index: Any, name: str, value: int) -> None:
    """Set a named parameter of a Faiss index, through whatever wraps it."""
    faiss_module().ParameterSpace().set_index_parameter(index, name, value)


@contextlib.contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Run Faiss on ``count`` threads, then on as many as before; None changes nothing."""
    if count is None:
        yield
        return
    faiss = faiss_module()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def faiss_reason(error: Exception) -> str:
    """The last part of a Faiss message: what was wrong, without its source lines."""
    return str(error).strip().splitlines()[-1].rpartition("failed: ")[2] or str(error)
