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
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from xclass.errors import ArtefactError, InputError
from xclass.index.approximate import ApproximateIndex
from xclass.index.exact import ExactIndex
from xclass.index.factory import faiss_module, num_lists
from xclass.index.faiss_index import FaissIndex
from xclass.index.frontier import TABLE, write_frontier
from xclass.index.hash_index import HashIndex
from xclass.index.kinds import HASHED, INDEX_KINDS, Index
from xclass.index.spread import is_spread
from xclass.manifest import atomic_directory, read_manifest, require_space, verify_files, write_manifest
from xclass.progress import say
from xclass.vectors import TensorVectors, Vectors, as_vectors

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


DESCRIBED: dict[str, Any] = {"kind": str, "search_parameters": dict, "metric": str}
ALSO_APPROXIMATE: dict[str, Any] = {"factory": str, "build_s": (int, float)}


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
    manifest = read_manifest(path, MANIFEST, KIND, FORMAT_VERSION)
    _check_described(path / MANIFEST, manifest)
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
    return read_manifest(Path(path), MANIFEST, KIND, FORMAT_VERSION)


def laid_out(vectors: Vectors, folder: Path) -> Vectors:
    """Vectors that are computed as they are read, as a matrix in a nameless file of ``folder``; others as they are.

    An approximate search reads rows here and there, over and over: from a mapped file that costs no memory that the
    system can't take back. The file is gone with the process.
    """
    if vectors.in_memory() is not None:
        return vectors
    require_space(folder, len(vectors) * vectors.dim * 4)
    handle, name = tempfile.mkstemp(dir=folder, prefix=".vectors.", suffix=".npy.tmp")
    os.close(handle)
    try:
        _write_vectors(Path(name), vectors)
        return TensorVectors(torch.from_numpy(_read_array(Path(name))))
    finally:
        Path(name).unlink()


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


def _check_described(where: Path, manifest: dict[str, Any]) -> None:
    """What the manifest says of the index has the types that reading it relies on, and names the files it needs."""
    described = manifest.get("index")
    described = described if isinstance(described, dict) else {}
    kind = described.get("kind")
    wanted: dict[str, Any] = DESCRIBED if kind == ExactIndex.kind else DESCRIBED | ALSO_APPROXIMATE
    good = all(isinstance(described.get(name), type_) for name, type_ in wanted.items())
    good = good and kind in INDEX_KINDS and all(type(manifest.get(name)) is int for name in ("num_items", "dim"))
    good = good and all(type(value) is int for value in described["search_parameters"].values())
    if not good or (kind in HASHED and not _numbers(described.get("caps"))):
        raise ArtefactError("this manifest does not describe an index", where=where, do="index the run again")
    needed = [VECTORS, *([ORDER_FILE, STARTS_FILE] if kind in HASHED else [])]
    needed += [FAISS_FILE] if kind not in (*HASHED, *REBUILT) else []
    needed += [LISTS_FILE] if is_spread(described.get("factory") or "") else []
    missing = [name for name in needed if name not in manifest.get("files", {})]
    if missing:
        raise ArtefactError("this manifest does not name a file of its index", where=where, wanted=missing[0])


def _numbers(values: Any) -> bool:
    return isinstance(values, list) and bool(values) and all(isinstance(value, int | float) for value in values)


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
    except (ValueError, OSError, EOFError) as error:
        raise ArtefactError("this array can't be read", where=path, got=str(error)) from None
    return held


def _read_faiss(path: Path, manifest: dict[str, Any], index: FaissIndex) -> Any:
    try:
        faiss_index = faiss_module().read_index(str(path / FAISS_FILE))
    except RuntimeError as error:
        raise ArtefactError("Faiss can't read this index", where=path / FAISS_FILE, got=str(error)) from None
    extra = 1 if index.metric == "l2_augmented" else 0
    _check_shape(path / FAISS_FILE, manifest, (faiss_index.ntotal, faiss_index.d - extra))
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
