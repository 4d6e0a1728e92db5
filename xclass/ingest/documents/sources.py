"""Which files make up a source of documents: their parts, published splits, names of labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from xclass.errors import DataError, lookup
from xclass.ingest.formats.document_lines import NUMBER
from xclass.ingest.formats.documents import DOCUMENT_FORMATS, format_of_file
from xclass.ingest.formats.pairs import FORMATS
from xclass.ingest.formats.text import holds_text
from xclass.ingest.options import IngestOptions
from xclass.ingest.pairs import TEST, TRAIN
from xclass.ingest.sources import PARTS, WHOLE, find_parts
from xclass.ingest.text import lines

FORMAT_NAMES = ("auto", *FORMATS, *DOCUMENT_FORMATS, "text")
NPZ_PARTS = {"trn": "train", "train": "train", "val": "valid", "valid": "valid", "tst": "test", "test": "test"}


@dataclass(frozen=True, slots=True)
class DocumentSource:
    """form: "text" or a name of DOCUMENT_FORMATS. parts: as :func:`xclass.ingest.sources.find_parts` gives them. place:
    the source as it was named. splits: files of train and of test documents, of a source that is one file."""

    form: str
    parts: dict[str, list[Path]]
    place: Path
    splits: tuple[Path, Path] | None = None

    @property
    def folder(self) -> Path:
        """Where the files are."""
        return self.place if self.place.is_dir() else self.place.parent

    @property
    def given(self) -> bool:
        """Whether the source says which documents are train and test."""
        return WHOLE not in self.parts or self.splits is not None


def find_documents(source: Path, options: IngestOptions) -> DocumentSource | None:
    """The documents of a source, None when it holds pairs. JSON lines and Parquet hold raw text when that is said, or
    when they are called ``trn.*``.

    A directory may hold ``train.*`` and ``test.*``; one file ``*_train.*`` and one ``*_test.*``; PECOS's ``X.trn.npz``,
    ``Y.trn.npz`` and so on; or one file with all documents beside ``*_trSplit.txt`` and ``*_tstSplit.txt``, which hold
    the numbers of the documents, from 1, a column for each split.

    Raises:
        ConfigError: there is no such format. DataError: no such source.
    """
    if options.format != "auto":
        lookup("format", options.format, dict.fromkeys(FORMAT_NAMES), where="--format")
        if options.format in FORMATS:
            return None
    parts = (_npz_parts(source) or _short_names(source) or _suffixed(source)) if source.is_dir() else None
    splits = None
    if parts is None and source.is_dir() and (found := _split_files(source)) is not None:
        parts, splits = {WHOLE: [found[0]]}, found[1:]
    parts = find_parts(source) if parts is None else parts
    if options.format != "auto":
        return DocumentSource(options.format, parts, source, splits)
    first = next(iter(parts.values()))[0]
    form = format_of_file(first)
    if form is None and holds_text(first) and (options.text_col or first.name.startswith("trn.")):
        form = "text"
    return None if form is None else DocumentSource(form, parts, source, splits)


def read_split_files(splits: tuple[Path, Path], number: int, documents: int) -> np.ndarray:
    """int8 (documents,): TRAIN, TEST, or −1 for a document that is in neither column."""
    codes = np.full(documents, -1, dtype=np.int8)
    for path, part in zip(splits, (TRAIN, TEST), strict=True):
        for line_number, line in lines.numbered_lines(path):
            fields = line.split()
            if not fields:
                continue
            where = f"{path}, line {line_number:,}"
            if len(fields) < number:
                wanted = f"at least {number} columns, for --split-number {number}"
                raise DataError("this file has fewer splits", where=where, wanted=wanted, got=f"{len(fields)}")
            field = fields[number - 1]
            if not field.isascii() or not field.isdigit() or not 1 <= int(field) <= documents:
                raise DataError(
                    "this is not the number of a document", where=where, wanted=f"1 to {documents:,}", got=field[:80]
                )
            if codes[int(field) - 1] not in (-1, part):
                raise DataError("this document is in train and in test", where=where, got=field)
            codes[int(field) - 1] = part
    return codes


def read_filters(
    source: DocumentSource, counts: dict[str, int], item_ids: pl.Series
) -> tuple[np.ndarray, np.ndarray] | None:
    """Pairs of a document and a label that are the same thing, which nobody is to be shown: places of documents, and of
    labels among ``item_ids``. None where there is no ``filter_labels_train.txt`` or ``filter_labels_test.txt``.

    A line is the number of a document in its part and the number of a label, both from 0.
    """
    paths = {part: source.folder / f"filter_labels_{part}.txt" for part in PARTS}
    paths = {part: path for part, path in paths.items() if path.is_file() and source.place.is_dir()}
    if not paths:
        return None
    if item_ids.dtype != pl.Int64:
        path = next(iter(paths.values()))
        raise DataError(
            "a filter numbers the labels, but these have names", where=path, do="take it out of the directory"
        )
    if not set(paths) <= set(counts):
        path = next(path for part, path in paths.items() if part not in counts)
        raise DataError("there is a filter for a part that is not there", where=path, wanted=", ".join(counts))
    starts = dict(zip(counts, np.cumsum([0, *counts.values()]).tolist(), strict=False))
    found = [_read_filter(path, starts[part], counts[part], item_ids) for part, path in paths.items()]
    documents, labels = zip(*found, strict=True)
    return np.concatenate(documents), np.concatenate(labels)


def _read_filter(path: Path, start: int, count: int, item_ids: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    documents, labels = [], []
    limits = count, int(item_ids[-1]) + 1
    for number, line in lines.numbered_lines(path):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 2 or not all(
            NUMBER.fullmatch(field) and int(field) < limit for field, limit in zip(fields, limits, strict=True)
        ):
            raise DataError(
                "this is not a pair of a document and a label",
                where=f"{path}, line {number:,}",
                wanted=f"two numbers, 0 to {limits[0] - 1:,} and 0 to {limits[1] - 1:,}",
                got=line[:80],
            )
        documents.append(start + int(fields[0]))
        labels.append(int(fields[1]))
    places = item_ids.search_sorted(pl.Series(labels, dtype=pl.Int64)).to_numpy()
    return np.array(documents, dtype=np.int64), places.astype(np.int64)


def _npz_parts(source: Path) -> dict[str, list[Path]] | None:
    """X.trn.npz and the like, by part."""
    found = {}
    for path in sorted(source.glob("X.*.npz")):
        part = NPZ_PARTS.get(path.name.split(".")[1])
        if part is not None:
            found[part] = [path]
    return {name: found[name] for name in PARTS if name in found} if "train" in found else None


def _short_names(source: Path) -> dict[str, list[Path]] | None:
    """``trn.json.gz`` and ``tst.json.gz``: the repository's raw text."""
    found: dict[str, list[Path]] = {}
    for path in sorted(source.iterdir()):
        part = {"trn": "train", "tst": "test"}.get(path.name.split(".")[0])
        if path.is_file() and part is not None:
            found.setdefault(part, []).append(path)
    return found if len(found) == 2 and all(len(files) == 1 for files in found.values()) else None


def _suffixed(source: Path) -> dict[str, list[Path]] | None:
    """``eurlex_train.txt`` and ``eurlex_test.txt``: one file each whose name ends so."""
    found: dict[str, list[Path]] = {"train": [], "test": []}
    for path in sorted(source.iterdir()):
        part = path.name.split(".")[0].rpartition("_")[2].lower()
        if path.is_file() and "_" in path.name and "filter" not in path.name and part in found:
            found[part].append(path)
    return found if all(len(files) == 1 for files in found.values()) else None


def _split_files(source: Path) -> tuple[Path, Path, Path] | None:
    """(documents, train numbers, test numbers), when there are such files."""
    train, test = (sorted(source.glob(f"*{name}Split.txt")) for name in ("tr", "tst"))
    if len(train) != 1 or len(test) != 1:
        return None
    rest = [path for path in sorted(source.glob("*_data.*")) if path.is_file()]
    if len(rest) != 1:
        raise DataError(
            "there are files of splits, but not one file of documents", where=source, wanted="one file *_data.txt"
        )
    return rest[0], train[0], test[0]
