"""Faiss's search parameters with the allowed items in them, for the index types that can look at those alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from xclass.index.factory import faiss_module

# Types outside the families below that look at a selector; PQ and fast-scan codes without lists refuse one.
PLAIN = ("IndexFlat", "IndexFlatIP", "IndexFlatL2", "IndexScalarQuantizer")


def parameters_among(index: Any, bits: np.ndarray) -> Any:
    """Search parameters that let only the items of a bitmap through, with what the index is set to; None: it can't.

    Args:
        index: any Faiss index, wrapped or not.
        bits: uint8, item i is bit i mod 8 of byte i div 8. It must live as long as the search.
    """
    faiss = faiss_module()
    return _parameters(faiss, faiss.downcast_index(index), faiss.IDSelectorBitmap(bits))


def _parameters(faiss: Any, index: Any, selector: Any) -> Any:
    if isinstance(index, faiss.IndexPreTransform):
        inner = _parameters(faiss, faiss.downcast_index(index.index), selector)
        return inner and faiss.SearchParametersPreTransform(index_params=inner)
    if isinstance(index, faiss.IndexRefine):
        inner = _parameters(faiss, faiss.downcast_index(index.base_index), selector)
        return inner and faiss.IndexRefineSearchParameters(k_factor=index.k_factor, base_index_params=inner)
    if isinstance(index, faiss.IndexIVF):
        kind = faiss.IVFPQSearchParameters if isinstance(index, faiss.IndexIVFPQ) else faiss.SearchParametersIVF
        return kind(sel=selector, nprobe=index.nprobe, max_codes=index.max_codes)
    if isinstance(index, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(sel=selector, efSearch=index.hnsw.efSearch)
    return faiss.SearchParameters(sel=selector) if type(index).__name__ in PLAIN else None
