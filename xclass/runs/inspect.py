"""What lies at a path: a dataset, a run, an index, a checkpoint, lists, safetensors. Checked, then described."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from xclass.config import read_toml
from xclass.data import dataset as store
from xclass.data.dataset_record import DatasetRecord
from xclass.errors import ArtefactError, XclassError
from xclass.index import storage
from xclass.io import list_manifest as list_manifest_module
from xclass.io.frames import scan_parquet
from xclass.io.manifest import Manifest, read_manifest, verify_files
from xclass.runs import directory as directory_module
from xclass.runs.record import RunRecord, read_started
from xclass.runtime.progress import Progress
from xclass.training.checkpoint import store as checkpoint

# A manifest's name → its kind, its format version and what the manifest must hold.
ARTEFACTS: dict[str, tuple[str, int, type[Manifest]]] = {
    store.MANIFEST: (store.KIND, store.FORMAT_VERSION, DatasetRecord),
    directory_module.MANIFEST: (directory_module.KIND, directory_module.FORMAT_VERSION, RunRecord),
    checkpoint.MANIFEST: (checkpoint.KIND, checkpoint.FORMAT_VERSION, checkpoint.CheckpointRecord),
    storage.MANIFEST: (storage.KIND, storage.FORMAT_VERSION, storage.IndexRecord),
    **dict.fromkeys(
        list_manifest_module.MANIFESTS, (list_manifest_module.KIND, list_manifest_module.FORMAT_VERSION, Manifest)
    ),
}

TOPK_COLUMNS = ("query_id", "rank", "item_id", "score")
DEPTH = 2  # how far below a directory other artefacts are looked for: run/index, run/checkpoints/<step>
HOW_TO_MAKE = "give the path of a dataset, run, index, checkpoint or lists directory, a .parquet or a .safetensors file"


def describe(path: Path | str, verify: bool = True) -> dict[str, Any]:
    """What lies at ``path``: ``kind``, ``path`` and what its manifest or its columns say.

    Args:
        path: a directory with a manifest, or a Parquet or safetensors file.
        verify: read every file of a manifest and compare its SHA-256; ``verified`` says whether that was done.

    Raises:
        ArtefactError: there is nothing at ``path``, or it is cut, altered or of another format version.
    """
    path = Path(path)
    if not path.exists():
        raise ArtefactError("there is nothing here", where=path, do=HOW_TO_MAKE)
    if path.is_dir():
        return _describe_directory(path, verify)
    describer = FILE_KINDS.get(path.suffix)
    if describer is None or not path.is_file():
        raise ArtefactError(
            "xclass does not know this kind of file", where=path, got=path.suffix or None, do=HOW_TO_MAKE
        )
    try:
        return describer(path)
    except (OSError, XclassError):
        raise
    except (Exception, pl.exceptions.PanicException) as error:  # noqa: BLE001  Polars and safetensors have their own
        raise ArtefactError("this file can't be read: cut or altered", where=path, got=str(error)) from None


def _describe_directory(path: Path, verify: bool) -> dict[str, Any]:
    name, below = _manifest_of(path), _artefacts_below(path)
    contains = {"contains": below} if below else {}
    if name is None and (path / "started.json").is_file():
        return {"kind": directory_module.KIND, "path": str(path), "finished": False, **_describe_run(path), **contains}
    if name is None:
        do = f"it holds {', '.join(below)}: inspect one of them" if below else HOW_TO_MAKE
        raise ArtefactError("this directory is not an artefact of xclass: it has no manifest", where=path, do=do)
    kind = ARTEFACTS[name][0]
    manifest = read_manifest(path, name, *ARTEFACTS[name])
    if verify:
        _verify(path, manifest)
    files = manifest["files"]
    fields = {key: value for key, value in manifest.items() if key not in ("kind", "files")}
    extra = DIRECTORY_KINDS[kind](path) if kind in DIRECTORY_KINDS else {}
    size = {"files": len(files), "bytes": sum(entry["bytes"] for entry in files.values()), "verified": verify}
    return {"kind": kind, "path": str(path), **fields, **extra, **size, **contains}


def _manifest_of(directory: Path) -> str | None:
    """The name of the manifest that lies in the directory."""
    return next((name for name in ARTEFACTS if (directory / name).is_file()), None)


def _artefacts_below(directory: Path) -> dict[str, str]:
    """Path below ``directory`` → kind, of every artefact at most ``DEPTH`` levels down."""
    below: dict[str, str] = {}
    for depth in range(1, DEPTH + 1):
        for folder in sorted(directory.glob("/".join("*" * depth))):
            relative = folder.relative_to(directory)
            name = None if any(part.startswith(".") for part in relative.parts) else _manifest_of(folder)
            if name is not None:
                below[relative.as_posix()] = ARTEFACTS[name][0]
    return below


def _describe_run(path: Path) -> dict[str, Any]:
    """What the run was started with."""
    started = {key: value for key, value in read_started(path).items() if key != "grown"}
    return {"dataset": started, "config": read_toml(path / "config.toml")}


def _describe_dataset(path: Path) -> dict[str, Any]:
    """What only the arrays tell: how many queries have pairs, and how long their lists are."""
    dataset = store.open_dataset(path)
    splits = {}
    for name in dataset.splits:
        lengths = dataset.lengths(name)
        pairs, queries = int(lengths.sum()), int((lengths > 0).sum())
        splits[name] = {
            **dataset.manifest["splits"][name],
            "queries": queries,
            "pairs_per_query": pairs / queries if queries else 0.0,
            "longest_list": int(lengths.max()) if len(lengths) else 0,
        }
    features = {side: _describe_features(dataset, side) for side in store.SIDES}
    there = {"features": {side: part for side, part in features.items() if part}} if any(features.values()) else {}
    return {"splits": splits, **there, "fingerprint": dataset.fingerprint}


def _describe_features(dataset: store.Dataset, side: str) -> dict[str, Any]:
    """Name → size of the vocabulary, values of all rows, values per row, rows without any, the longest row."""
    found = {}
    for name, size in dataset.feature_sizes(side).items():
        lengths = dataset.lengths(f"{side}_features/{name}")
        found[name] = {
            "size": size,
            "values": int(lengths.sum()),
            "values_per_row": float(lengths.double().mean()) if len(lengths) else 0.0,
            "empty_rows": int((lengths == 0).sum()),
            "longest_row": int(lengths.max()) if len(lengths) else 0,
        }
    return found


def _verify(path: Path, manifest: dict[str, Any]) -> None:
    files = manifest.get("files", {})
    with Progress("verify", sum(entry["bytes"] for entry in files.values()), "bytes") as progress:
        for relative, entry in files.items():
            verify_files(path, manifest, only=[relative])
            progress.advance(entry["bytes"])


def _describe_parquet(path: Path) -> dict[str, Any]:
    rows = scan_parquet(path)
    schema = {name: str(kind) for name, kind in rows.collect_schema().items()}
    if not set(TOPK_COLUMNS) <= set(schema):
        count = rows.select(pl.len()).collect().item()
        return {"kind": "parquet", "path": str(path), "rows": count, "columns": schema, "bytes": path.stat().st_size}
    lists = rows.group_by("query_id").agg(length=pl.len())
    summary = lists.select(
        queries=pl.len(),
        rows=pl.col("length").sum(),
        longest_list=pl.col("length").max(),
        shortest_list=pl.col("length").min(),
    )
    counts = summary.collect(engine="streaming").row(0, named=True)
    items = rows.select(pl.col("item_id").n_unique()).collect(engine="streaming").item()
    return {
        "kind": "topk",
        "path": str(path),
        **counts,
        "items": items,
        "columns": schema,
        "bytes": path.stat().st_size,
    }


def _describe_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        tensors = {name: _describe_tensor(file.get_slice(name)) for name in sorted(file.keys())}
        return {
            "kind": "safetensors",
            "path": str(path),
            "metadata": file.metadata() or {},
            "tensors": tensors,
            "bytes": path.stat().st_size,
        }


def _describe_tensor(tensor: Any) -> str:
    return f"{tensor.get_dtype()} ({', '.join(map(str, tensor.get_shape()))})"


# What a kind tells beyond its manifest.
DIRECTORY_KINDS: dict[str, Callable[[Path], dict[str, Any]]] = {
    store.KIND: _describe_dataset,
    directory_module.KIND: _describe_run,
}

FILE_KINDS: dict[str, Callable[[Path], dict[str, Any]]] = {
    ".parquet": _describe_parquet,
    ".safetensors": _describe_safetensors,
}
