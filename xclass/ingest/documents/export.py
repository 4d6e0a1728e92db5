"""A dataset of documents → the files of the field: extreme-classification text, svmlight, PECOS's matrices."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.lib import format as npy

from xclass.data.dataset import Dataset
from xclass.errors import DataError, lookup
from xclass.ingest.writing.features import blocks_of_lists
from xclass.io.files import atomic_directory
from xclass.runtime.progress import Progress, say
from xclass.types import Ragged, offsets_of

DOCUMENTS_PER_BLOCK = 8192
VALUES_PER_BLOCK = 1 << 20
NPZ_NAMES = {"train": "trn", "valid": "val", "test": "tst"}
UNSAFE_LABEL = r"[\s,:#]"


class _Part(NamedTuple):
    """The documents of one part of the split. rows: int64, query numbers, rising. size: features there can be.
    names: the label of every item number, as the file writes it; num_labels: of all."""

    name: str
    rows: torch.Tensor
    labels: Ragged
    features: Ragged
    size: int
    names: np.ndarray | pl.Series
    num_labels: int

    def label_blocks(self) -> Iterator[Ragged]:
        """Labels of the documents, block by block."""
        for rows in self.rows.split(DOCUMENTS_PER_BLOCK):
            yield self.labels.take(rows)

    def feature_blocks(self) -> Iterator[Ragged]:
        """Features of the documents, in the same blocks."""
        for rows in self.rows.split(DOCUMENTS_PER_BLOCK):
            yield self.features.take(rows)


def export_documents(dataset: Dataset, out: Path | str, form: str) -> dict[str, Any]:
    """Write the directory ``out`` with a file (npz: two) for each part of the split; ingest reads it back.

    xmc and npz number the labels: by their ids where these are integers from 0, else in the order of the ids, which
    ``label_names.txt`` then names. svmlight writes the ids. Names of features and titles of labels go beside xmc and
    npz; a filter goes beside as ``filter_labels_<part>.txt``.

    Args:
        form: xmc, svmlight or npz.

    Raises:
        DataError: not a dataset of documents; svmlight, and a label's id has a blank, a comma, a colon or a #.
        ArtefactError: ``out`` exists.

    Cost: O(values) time, memory of a block of documents.
    """
    write = lookup("format", form, WRITERS, where="--format")
    if not dataset.holds_documents or not dataset.query_features:
        raise DataError(
            "this dataset holds no documents with features",
            where=dataset.path,
            do="export needs a dataset of xmc, svmlight, npz or text",
        )
    name = next(iter(dataset.query_features))
    names, num_labels, named = _label_names(dataset, form)
    counts = {}
    with atomic_directory(Path(out)) as folder:
        for part in dataset.splits:
            rows = torch.from_numpy((dataset.queries["split"] == part).arg_true().to_numpy().astype(np.int64))
            size = dataset.feature_sizes("query")[name]
            documents = dataset.query_features[name]
            write(folder, _Part(part, rows, dataset.split(part), documents, size, names, num_labels))
            counts[part] = len(rows)
            if dataset.hidden is not None and form != "svmlight":
                _write_filter(folder / f"filter_labels_{part}.txt", dataset.hidden.take(rows), names)
        if form != "svmlight":
            _write_names(folder, dataset, name, named)
    return {"format": form, "features": name, "documents": counts, "labels": num_labels}


def _label_names(dataset: Dataset, form: str) -> tuple[np.ndarray | pl.Series, int, pl.Series | None]:
    """(label of every item number, labels there can be, names of the numbers or None)."""
    ids = dataset.items["item_id"]
    if form == "svmlight":
        texts = ids.cast(pl.String)
        unsafe = texts.filter(texts.str.contains(UNSAFE_LABEL))
        if len(unsafe):
            raise DataError(
                "svmlight can't write this label",
                where=dataset.path,
                wanted="labels without blanks, commas, colons and #",
                got=repr(unsafe[0]),
                do="export xmc or npz, which number the labels",
            )
        return texts, len(ids), None
    if ids.dtype == pl.Int64 and bool((ids >= 0).all()):
        names = ids.to_numpy()
        titles = dataset.items["title"] if "title" in dataset.items.columns else None
        size = int(names.max(initial=-1)) + 1
        if titles is None or size != len(ids):
            return names, size, None
        return names, size, titles.gather(np.argsort(names))
    order = ids.arg_sort().to_numpy()
    numbers = np.empty(len(ids), dtype=np.int64)
    numbers[order] = np.arange(len(ids))
    return numbers, len(ids), ids.gather(order).cast(pl.String)


def _write_xmc(folder: Path, part: _Part) -> None:
    with (folder / f"{part.name}.txt").open("w", encoding="utf-8", newline="\n") as file:
        file.write(f"{len(part.rows)} {part.size} {part.num_labels}\n")
        _write_lines(file.write, part)


def _write_svmlight(folder: Path, part: _Part) -> None:
    with (folder / f"{part.name}.svm").open("w", encoding="utf-8", newline="\n") as file:
        _write_lines(file.write, part)


def _write_lines(write: Callable[[str], int], part: _Part) -> None:
    """``label,label feature:value …`` for each document."""
    with Progress(f"export {part.name}", len(part.rows), "documents") as progress:
        for labels, features in zip(part.label_blocks(), part.feature_blocks(), strict=True):
            chosen = part.names[labels.values.numpy()] if isinstance(part.names, np.ndarray) else None
            written = (
                part.names.gather(labels.values.numpy().astype(np.int64))  # type: ignore[union-attr]
                if chosen is None
                else pl.Series(chosen).cast(pl.String)
            )
            assert features.weights is not None
            pairs = pl.select(
                pl.concat_str(pl.Series(features.values.numpy()), pl.Series(features.weights.numpy()), separator=":")
            ).to_series()
            lines = pl.select(_joined(written, labels, ",") + " " + _joined(pairs, features, " ")).to_series()
            write("\n".join(lines.to_list()) + "\n")
            progress.advance(len(lines))


def _joined(texts: pl.Series, lists: Ragged, separator: str) -> pl.Series:
    """The texts of each list in one."""
    table = pl.DataFrame({"row": lists.rows().numpy(), "text": texts})
    joined = table.group_by("row", maintain_order=True).agg(pl.col("text").str.join(separator))
    every = pl.DataFrame({"row": np.arange(len(lists))}).join(joined, on="row", how="left", maintain_order="left")
    return every["text"].fill_null("")


def _write_npz(folder: Path, part: _Part) -> None:
    assert isinstance(part.names, np.ndarray)
    names, numbers = part.names, NPZ_NAMES[part.name]
    labels = (Ragged(block.offsets, torch.from_numpy(names[block.values.numpy()])) for block in part.label_blocks())
    say(f"export {part.name}: {len(part.rows):,} documents")
    lengths = part.labels.lengths()[part.rows]
    write_matrix(folder / f"Y.{numbers}.npz", list(labels), lengths, part.num_labels)
    lengths = part.features.lengths()[part.rows]
    write_matrix(folder / f"X.{numbers}.npz", part.feature_blocks, lengths, part.size)


def write_matrix(
    path: Path, blocks: list[Ragged] | Callable[[], Iterator[Ragged]], lengths: torch.Tensor, columns: int
) -> None:
    """A CSR matrix as ``scipy.sparse.save_npz`` writes it, with float32 values (1 where there are no weights).

    ``blocks`` are gone through twice.
    """
    offsets = offsets_of(lengths)
    total = int(offsets[-1])
    with zipfile.ZipFile(path, "w") as file:
        _write_member(file, "indptr", [offsets.numpy()], len(offsets), np.int64)
        again = blocks if callable(blocks) else lambda: iter(blocks)
        _write_member(file, "indices", _canonical(again(), 0), total, np.int32)
        _write_member(file, "data", _canonical(again(), 1), total, np.float32)
        shape = np.array([len(lengths), columns], dtype=np.int64)
        for name, array in (("shape", shape), ("format", np.array(b"csr"))):
            with file.open(f"{name}.npy", "w") as member:
                npy.write_array(member, array, allow_pickle=False)


def _canonical(blocks: Iterator[Ragged], which: int) -> Iterator[np.ndarray]:
    """Columns (0) or values (1) of every block, columns rising in a row."""
    for block in blocks:
        rows, values = block.rows().numpy(), block.values.numpy()
        weights = np.ones(len(values)) if block.weights is None else block.weights.numpy()
        if ((rows[1:] == rows[:-1]) & (values[1:] < values[:-1])).any():
            order = np.lexsort((values, rows))
            values, weights = values[order], weights[order]
        yield values if which == 0 else weights


def _write_member(
    file: zipfile.ZipFile, name: str, parts: list[np.ndarray] | Iterator[np.ndarray], length: int, dtype: type
) -> None:
    with file.open(f"{name}.npy", "w", force_zip64=True) as member:
        kind = np.dtype(dtype)
        npy.write_array_header_1_0(
            member, {"descr": npy.dtype_to_descr(kind), "fortran_order": False, "shape": (length,)}
        )
        for part in parts:
            member.write(np.ascontiguousarray(part, dtype=kind).tobytes())


def _write_filter(path: Path, hidden: Ragged, names: np.ndarray | pl.Series) -> None:
    assert isinstance(names, np.ndarray)
    with path.open("w", encoding="utf-8") as file:
        for low, high in blocks_of_lists(hidden.offsets.numpy()):
            block = hidden.slice(low, high)
            rows, labels = block.rows().numpy() + low, names[block.values.numpy()]
            file.writelines(f"{row} {label}\n" for row, label in zip(rows.tolist(), labels.tolist(), strict=True))


def _write_names(folder: Path, dataset: Dataset, name: str, labels: pl.Series | None) -> None:
    """``label_names.txt`` and ``feature_names.txt``, where there are names."""
    features = dataset.vocabulary("query", name)["feature"]
    named = {"label": labels, "feature": features if features.dtype == pl.String else None}
    for what, names in named.items():
        if names is not None:
            lines = names.fill_null("").str.replace_all(r"[\r\n]", " ")
            (folder / f"{what}_names.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


WRITERS: dict[str, Callable[[Path, _Part], None]] = {
    "xmc": _write_xmc,
    "svmlight": _write_svmlight,
    "npz": _write_npz,
}
