"""Faiss's parameters of one search, which leave those of others alone: how far it looks, and among what."""

from __future__ import annotations

from typing import Any

import numpy as np

from xclass.index.faiss.factory import faiss_module

# Types outside the families below that look at a selector; PQ and fast-scan codes without lists refuse one.
PLAIN = ("IndexFlat", "IndexFlatIP", "IndexFlatL2", "IndexScalarQuantizer")


def search_parameters(index: Any, reach: int, bits: np.ndarray | None = None) -> Any:
    """Faiss's parameters of a search; what else the index is set to stays.

    Args:
        index: any Faiss index, wrapped or not.
        reach: ``nprobe`` or ``efSearch``, whichever it has.
        bits: uint8, only items whose bit is set come out: item i is bit i mod 8 of byte i div 8. It must live as long
            as the search. None: all items.

    Returns:
        None where this index type takes no such parameters: then no bitmap can be handed in.
    """
    faiss = faiss_module()
    selector = None if bits is None else faiss.IDSelectorBitmap(bits)
    return _parameters(faiss, faiss.downcast_index(index), reach, selector)


def _parameters(faiss: Any, index: Any, reach: int, selector: Any) -> Any:
    if isinstance(index, faiss.IndexPreTransform):
        inner = _parameters(faiss, faiss.downcast_index(index.index), reach, selector)
        return inner and faiss.SearchParametersPreTransform(index_params=inner)
    if isinstance(index, faiss.IndexRefine):
        inner = _parameters(faiss, faiss.downcast_index(index.base_index), reach, selector)
        return inner and faiss.IndexRefineSearchParameters(k_factor=index.k_factor, base_index_params=inner)
    if isinstance(index, faiss.IndexIVF):
        kind = faiss.IVFPQSearchParameters if isinstance(index, faiss.IndexIVFPQ) else faiss.SearchParametersIVF
        return kind(sel=selector, nprobe=reach, max_codes=index.max_codes)
    if isinstance(index, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(sel=selector, efSearch=reach)
    return faiss.SearchParameters(sel=selector) if selector and type(index).__name__ in PLAIN else None
