"""An index as a directory: written whole or not at all, hashes checked before Faiss reads a byte.

index.json      kind, factory, metric, search parameter, counts, binding, SHA-256 of the vectors and of every file
vectors.npy     (N,D) float32, the item vectors
index.faiss     Faiss's own file; not there for the kinds that are built from the vectors in no time
frontier.parquet, frontier.png   what tuning measured; the plot where matplotlib is installed
lists.npy       (lists, D+1) float32, the centroids and spreads of "Spread,IVF…"
order.npy       (L,N) int32, the items of each hash table by bucket; starts.npy (L, buckets + 1) int32: lsh and wta
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pydantic
import torch
from numpy.lib import format as npy
from torch import Tensor

from xclass.errors import ArtefactError, InputError, nearest
from xclass.index.approximate import ApproximateIndex
from xclass.index.build import HASHED, INDEX_KINDS, Index
from xclass.index.exact import ExactIndex
from xclass.index.faiss.factory import faiss_module, lists_hold_all, num_lists
from xclass.index.faiss.index import FaissIndex
from xclass.index.faiss.spread import is_spread
from xclass.index.lsh.index import HashIndex
from xclass.index.tuning.frontier import TABLE, write_frontier
from xclass.io.files import atomic_directory, require_space, scratch_directory
from xclass.io.manifest import Manifest, read_manifest, verify_files, write_manifest
from xclass.io.records import Count, Record
from xclass.runtime.progress import say
from xclass.types.vectors import TensorVectors, Vectors, as_vectors

MANIFEST = "index.json"
KIND = "index"
FORMAT_VERSION = 2
VECTORS = "vectors.npy"
FAISS_FILE = "index.faiss"
ORDER_FILE = "order.npy"
STARTS_FILE = "starts.npy"
LISTS_FILE = "lists.npy"
REBUILT = ("exact", "flat")


def vectors_digest(vectors: Tensor | Vectors) -> str:
    """SHA-256 of shape and float32 values: equal for the vectors of the same model only."""
    source = as_vectors(vectors)
    digest = hashlib.sha256(f"{(len(source), source.dim)}".encode())
    for _, block in source.blocks():
        digest.update(block.cpu().contiguous().numpy().data)
    return digest.hexdigest()


def save_index(
    index: Index, path: Path, binding: str | None = None, report: dict[str, Any] | None = None, replace: bool = False
) -> dict[str, Any]:
    """Write a built index as a directory.

    Args:
        path: the directory to make; an ArtefactError if it is there and ``replace`` is false.
        binding: what the index belongs to, e.g. the id of the run; :func:`load_index` can insist on it.
        report: kept in the manifest as it is, e.g. the tuning table.

    Returns:
        The manifest.
    """
    path = Path(path)
    require_space(path, 2 * len(index.vectors) * index.vectors.dim * 4)
    with atomic_directory(path, replace=replace) as folder:
        _write_vectors(folder / VECTORS, index.vectors)
        _write_structure(folder, index)
        if report is not None and report.get("frontier") and not write_frontier(folder, report):
            say(f"{path / TABLE} has no plot beside it: matplotlib is not installed (pip install 'xclass[report]')")
        fields = {
            "index": index.describe(),
            "num_items": index.num_items,
            "dim": index.dim,
            "vectors_sha256": vectors_digest(index.vectors),
            "binding": binding,
            "report": report,
        }
        return write_manifest(folder, MANIFEST, KIND, FORMAT_VERSION, fields)


class DescribedRecord(Record):
    """What the manifest says of the index; an exact one has no factory string and was built in no time."""

    kind: str
    metric: str
    search_parameters: dict[str, Annotated[int, pydantic.Field(ge=1, lt=1 << 31)]]
    factory: str | None = None
    build_s: float | None = None
    caps: list[float] | None = None

    @pydantic.model_validator(mode="after")
    def _is_whole(self) -> DescribedRecord:
        if self.kind not in INDEX_KINDS:
            raise ValueError(f"kind: {nearest(self.kind, INDEX_KINDS)}")
        if self.kind != ExactIndex.kind and (self.factory is None or self.build_s is None):
            raise ValueError(f"{self.kind} has a factory and a build_s")
        if self.kind in HASHED and not self.caps:
            raise ValueError(f"{self.kind} has caps")
        return self

    def files(self) -> list[str]:
        """Those that it is read from."""
        needed = [VECTORS, *([ORDER_FILE, STARTS_FILE] if self.kind in HASHED else [])]
        needed += [FAISS_FILE] if self.kind not in (*HASHED, *REBUILT) else []
        return needed + ([LISTS_FILE] if is_spread(self.factory or "") else [])


class IndexRecord(Manifest):
    """The manifest of an index."""

    index: DescribedRecord
    num_items: Count
    dim: Count
    binding: str | None
    vectors_sha256: str
    report: dict[str, Any] | None = None

    @pydantic.model_validator(mode="after")
    def _names_its_files(self) -> IndexRecord:
        missing = set(self.index.files()) - self.files.keys()
        if missing:
            raise ValueError(f"files must have {min(missing)}")
        return self


def load_index(path: Path, binding: str | None = None, vectors: Tensor | Vectors | None = None) -> Index:
    """Open an index directory; its vectors stay memory-mapped until they are touched.

    Args:
        binding: when given, it must be the one that the index was saved with.
        vectors: when given, the index must have been built from exactly these, and searches in them; an approximate
            search reads the stored ones instead where these are computed as they are read.

    Raises:
        ArtefactError: not an index, of another version, of another run or of other vectors, cut or altered.
        ConfigError: it needs Faiss, which is not installed.
    """
    path = Path(path)
    manifest = read_manifest(path, MANIFEST, KIND, FORMAT_VERSION, IndexRecord)
    _check_binding(path, manifest, binding, vectors)
    verify_files(path, manifest)
    stored = _read_vectors(path, manifest)
    held = stored if vectors is None else as_vectors(vectors)
    described = manifest["index"]
    if described["kind"] == ExactIndex.kind:
        exact = ExactIndex()
        exact.build(held)
        return exact
    index = _read_structure(path, manifest, held if held.in_memory() is not None else stored)
    try:
        index.set_parameters(**described["search_parameters"])
    except InputError as error:
        raise ArtefactError("this index has other search parameters", where=path / MANIFEST, got=str(error)) from None
    return index


def read_index_manifest(path: Path) -> dict[str, Any]:
    """The manifest alone, checked for kind, version and file sizes: for ``xclass inspect``."""
    return read_manifest(Path(path), MANIFEST, KIND, FORMAT_VERSION, IndexRecord)


def laid_out(vectors: Vectors, folder: Path) -> Vectors:
    """Vectors that are computed as they are read, as a matrix in a nameless file of ``folder``; others as they are.

    An approximate search reads rows here and there, over and over: from a mapped file that costs no memory that the
    system can't take back. The file is gone with the process.
    """
    if vectors.in_memory() is not None:
        return vectors
    require_space(folder, len(vectors) * vectors.dim * 4)
    with scratch_directory(folder / "vectors") as scratch:
        _write_vectors(scratch / VECTORS, vectors)
        return TensorVectors(torch.from_numpy(_read_array(scratch / VECTORS)))


def _write_structure(folder: Path, index: Index) -> None:
    if isinstance(index, FaissIndex) and index.kind not in REBUILT:
        faiss_module().write_index(index.faiss, str(folder / FAISS_FILE))
    if isinstance(index, FaissIndex) and index.spread is not None:
        np.save(folder / LISTS_FILE, index.spread.table, allow_pickle=False)
    if isinstance(index, HashIndex):
        np.save(folder / ORDER_FILE, index.order, allow_pickle=False)
        np.save(folder / STARTS_FILE, index.starts, allow_pickle=False)


def _read_structure(path: Path, manifest: dict[str, Any], held: Vectors) -> ApproximateIndex:
    described = manifest["index"]
    if described["kind"] in HASHED:
        hashed = HashIndex(described["kind"], described["factory"])
        order, starts = _read_array(path / ORDER_FILE), _read_array(path / STARTS_FILE)
        hashed.restore(order, starts, described["caps"], held, described["build_s"])
        return hashed
    index = FaissIndex(described["kind"], described["factory"], described["metric"])
    if described["kind"] in REBUILT:
        index.build(held)
    else:
        faiss_index = _read_faiss(path, manifest, index)
        table = _read_lists(path, faiss_index) if is_spread(described["factory"]) else None
        index.restore(faiss_index, held, described["build_s"], table)
    return index


def _write_vectors(path: Path, vectors: Vectors) -> None:
    """A .npy file, block by block."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(vectors), vectors.dim)}
    with path.open("wb") as file:
        npy.write_array_header_1_0(file, header)
        for _, block in vectors.blocks():
            file.write(block.cpu().contiguous().numpy().astype("<f4", copy=False).data)


def _check_binding(path: Path, manifest: dict[str, Any], binding: str | None, vectors: Tensor | Vectors | None) -> None:
    if binding is not None and manifest["binding"] != binding:
        raise ArtefactError(
            "this index belongs to another run",
            where=path,
            wanted=binding,
            got=manifest["binding"],
            do="index the run again",
        )
    if vectors is not None and manifest["vectors_sha256"] != (digest := vectors_digest(vectors)):
        raise ArtefactError(
            "this index was built from other item vectors",
            where=path,
            wanted=f"vectors with SHA-256 {digest[:12]}…",
            got=f"{manifest['vectors_sha256'][:12]}…",
            do="index the run again",
        )


def _read_vectors(path: Path, manifest: dict[str, Any]) -> Vectors:
    held = _read_array(path / VECTORS)
    _check_shape(path / VECTORS, manifest, held.shape)
    if held.dtype != np.float32:
        raise ArtefactError("these vectors are of another type", where=path / VECTORS, wanted="float32", got=held.dtype)
    return TensorVectors(torch.from_numpy(held))


def _read_array(path: Path) -> np.ndarray[Any, Any]:
    try:
        held: np.ndarray[Any, Any] = np.load(path, mmap_mode="c", allow_pickle=False)
    except Exception as error:  # noqa: BLE001  NumPy parses the header as Python, which fails in many ways
        raise ArtefactError("this array can't be read", where=path, got=str(error)) from None
    if not held.flags.c_contiguous:
        raise ArtefactError("this array is stored by columns", where=path, do="index the run again")
    return held


def _read_faiss(path: Path, manifest: dict[str, Any], index: FaissIndex) -> Any:
    try:
        faiss_index = faiss_module().read_index(str(path / FAISS_FILE))
    except RuntimeError as error:
        raise ArtefactError("Faiss can't read this index", where=path / FAISS_FILE, got=str(error)) from None
    extra = 1 if index.metric == "l2_augmented" else 0
    _check_shape(path / FAISS_FILE, manifest, (faiss_index.ntotal, faiss_index.d - extra))
    if not lists_hold_all(faiss_index):
        raise ArtefactError("the lists of this index do not hold every item once", where=path / FAISS_FILE)
    return faiss_index


def _read_lists(path: Path, faiss_index: Any) -> np.ndarray[Any, Any]:
    """The table of a Spread index: as many lists as Faiss has, all numbers finite."""
    table, wanted = _read_array(path / LISTS_FILE), (num_lists(faiss_index), faiss_index.d + 1)
    if table.shape != wanted or table.dtype != np.float32:
        raise ArtefactError(
            "these lists are of another shape", where=path / LISTS_FILE, wanted=wanted, got=(*table.shape, table.dtype)
        )
    if not np.isfinite(table).all():
        raise ArtefactError("these lists are not finite", where=path / LISTS_FILE, do="index the run again")
    return table


def _check_shape(where: Path, manifest: dict[str, Any], shape: tuple[int, ...]) -> None:
    wanted = (manifest["num_items"], manifest["dim"])
    if tuple(shape) != wanted:
        raise ArtefactError("this file is not of the manifest's shape", where=where, wanted=wanted, got=tuple(shape))
