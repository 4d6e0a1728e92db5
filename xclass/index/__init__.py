"""Search by inner product: exact through torch, or any Faiss index, behind one seam."""

from xclass.index.build import AUTO_EXACT_ITEMS, INDEX_KINDS, Index, IndexConfig, build_index, choose_kind
from xclass.index.exact import ExactIndex
from xclass.index.faiss.index import FaissIndex
from xclass.index.lsh.index import HashIndex
from xclass.index.storage import laid_out, load_index, read_index_manifest, save_index, vectors_digest
from xclass.index.subset import SubsetIndex
from xclass.index.tuning.measure import INDEX_RECALL, Point, index_recall
from xclass.index.tuning.sweep import find_index
from xclass.index.tuning.tune import IndexReport, tune

__all__ = [
    "AUTO_EXACT_ITEMS",
    "INDEX_KINDS",
    "INDEX_RECALL",
    "ExactIndex",
    "FaissIndex",
    "HashIndex",
    "Index",
    "IndexConfig",
    "IndexReport",
    "Point",
    "SubsetIndex",
    "build_index",
    "choose_kind",
    "find_index",
    "index_recall",
    "laid_out",
    "load_index",
    "read_index_manifest",
    "save_index",
    "tune",
    "vectors_digest",
]
