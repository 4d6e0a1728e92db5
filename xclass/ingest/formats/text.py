"""Documents as raw text: JSON lines or Parquet with columns for the text, the labels and maybe an id."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from xclass.errors import DataError, nearest
from xclass.ingest.formats.jsonl import has_surrogate, json_blocks, parse_object, sample_objects
from xclass.ingest.options import IngestOptions
from xclass.ingest.text import lines as text
from xclass.io.frames import parquet_blocks, parquet_schema, scan_parquet
from xclass.runtime.progress import say

ROWS_PER_BLOCK = 4096
BLOCK_BYTES = 1 << 22
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
PARQUET_SUFFIXES = (".parquet", ".pq")
WHOLE_TEXT = ("text",)
TEXT_PIECES = ("title", "abstract", "content", "body", "description", "name")
LABELS = ("labels", "label", "target_ind", "tags", "categories", "items", "item_ids", "item_id", "item")
IDS = ("id", "uid", "document_id", "doc_id", "query_id")


@dataclass(frozen=True, slots=True)
class TextColumns:
    """texts: joined by a line break into one. label: None in a file of labels or of queries. id: None where a row is
    known by its place. labels_listed: the label column holds lists. ids_whole, labels_whole: integers, not strings.
    labels_seen: the first rows have a label. unused: columns without a meaning."""

    texts: tuple[str, ...]
    label: str | None = None
    id: str | None = None
    labels_listed: bool = False
    ids_whole: bool = False
    labels_whole: bool = False
    labels_seen: bool = True
    unused: tuple[str, ...] = ()

    def used(self) -> dict[str, str]:
        """Meaning to column names, of those that are there."""
        meanings = {"text": ", ".join(self.texts), "label": self.label, "id": self.id}
        return {meaning: name for meaning, name in meanings.items() if name}


def holds_text(path: Path) -> bool:
    """Whether a file's ending is of a format that raw text is read from."""
    return _suffix(path) in JSON_SUFFIXES + PARQUET_SUFFIXES


def text_columns(path: Path, options: IngestOptions, with_labels: bool = True) -> TextColumns:
    """Which columns hold what: those that the options name, else the usual names.

    Raises:
        DataError: there is no text column, or no label column where there must be one; one of another type.
    """
    kinds = _kinds(path)
    texts = tuple(_there(name, kinds, path, "--text-col") for name in options.text_col) or _usual_texts(kinds)
    label = _chosen(options.item_col, LABELS, kinds, path, "--item-col") if with_labels else None
    identifier = _chosen(options.query_col, IDS, kinds, path, "--query-col")
    if not texts or (with_labels and label is None):
        what = "text" if not texts else "labels"
        usual = (*WHOLE_TEXT, *TEXT_PIECES) if what == "text" else LABELS
        flag = "--text-col" if what == "text" else "--item-col"
        raise DataError(
            f"no column looks like the {what}",
            where=path,
            wanted=f"one of {', '.join(usual)}",
            got=f"columns {', '.join(kinds)}",
            do=f"name it: {flag} NAME",
        )
    for name in texts:
        _check_kind(name, kinds[name], ("string", "null"), path)
    if label is not None:
        _check_kind(
            label, kinds[label], ("string", "int", "list of string", "list of int", "list of null", "null"), path
        )
    if identifier is not None:
        _check_kind(identifier, kinds[identifier], ("string", "int"), path)
    kind = "" if label is None else kinds[label]
    whole = identifier is not None and kinds[identifier] == "int"
    listed, whole_labels, seen = kind.startswith("list"), kind.endswith("int"), not kind.endswith("null")
    unused = tuple(name for name in kinds if name not in (*texts, label, identifier))
    return TextColumns(texts, label, identifier, listed, whole, whole_labels, seen, unused)


def read_rows(path: Path, columns: TextColumns, wanted: Sequence[str]) -> Iterator[pl.DataFrame]:
    """Blocks with the columns ``wanted`` among text (String), labels (List of String), id (String).

    Raises:
        DataError: the first row that is wrong.
    """
    try:
        for frame in _frames(path, columns):
            block = frame.select(_expression(name, columns) for name in wanted)
            if any(block[name].null_count() for name in wanted if name != "labels"):
                raise _diagnosed(path, columns)
            if "labels" in wanted and not block["labels"].explode(empty_as_null=False).is_null().any():
                yield block
            elif "labels" in wanted:
                raise _diagnosed(path, columns)
            else:
                yield block
    except (*text.POLARS_ERRORS, *text.READ_ERRORS) as error:
        raise _diagnosed(path, columns, str(error)) from None


def _expression(name: str, columns: TextColumns) -> pl.Expr:
    if name == "text":
        pieces = [pl.col(piece) for piece in columns.texts]
        joined = pieces[0] if len(pieces) == 1 else pl.concat_str(pieces, separator="\n", ignore_nulls=True)
        return joined.alias("text")
    if name == "id":
        assert columns.id is not None
        return pl.col(columns.id).cast(pl.String).replace("", None).alias("id")
    assert columns.label is not None
    labels = pl.col(columns.label)
    if not columns.labels_listed:
        labels = (
            pl.when(labels.is_null())
            .then(pl.lit([], dtype=pl.List(pl.String)))
            .otherwise(labels.cast(pl.String).reshape((-1, 1)).arr.to_list())
        )
    return labels.cast(pl.List(pl.String)).fill_null([]).list.eval(pl.element().replace("", None)).alias("labels")


def _frames(path: Path, columns: TextColumns) -> Iterator[pl.DataFrame]:
    """The used columns, block after block."""
    if _suffix(path) in PARQUET_SUFFIXES:
        names = [name for name in {*columns.texts, columns.label, columns.id} if name is not None]
        yield from parquet_blocks(path, names, ROWS_PER_BLOCK)
        return
    schema: dict[str, Any] = dict.fromkeys(columns.texts, pl.String)
    if columns.label is not None:
        inner = pl.Int64 if columns.labels_whole else pl.String
        schema[columns.label] = pl.List(inner) if columns.labels_listed else inner
    if columns.id is not None:
        schema[columns.id] = pl.Int64 if columns.ids_whole else pl.String
    strings = dict.fromkeys(columns.texts, False)
    if columns.label is not None and not columns.labels_whole:
        strings[columns.label] = columns.labels_listed
    if columns.id is not None and not columns.ids_whole:
        strings[columns.id] = False

    def check() -> None:
        if (error := _first_problem(path, columns)) is not None:
            raise error

    yield from json_blocks(path, schema, strings, check, BLOCK_BYTES)


def _kinds(path: Path) -> dict[str, str]:
    """Column → string, int, float, list of string, …, from the first rows or the file's schema."""
    if _suffix(path) in PARQUET_SUFFIXES:
        text.check_regular(path)
        try:
            return {name: _polars_kind(kind) for name, kind in parquet_schema(path).items()}
        except (*text.POLARS_ERRORS, OSError) as error:
            raise DataError("this file can't be read", where=path, got=str(error)[:200]) from None
    if _suffix(path) not in JSON_SUFFIXES:
        raise DataError(
            "raw text is read from JSON lines or Parquet", where=path, wanted="a .jsonl, .json or .parquet file"
        )
    kinds: dict[str, str] = {}
    for record in sample_objects(path).values():
        for name, value in record.items():
            known = kinds.get(name, "null")
            kinds[name] = _json_kind(value) if known in ("null", "list of null") else known
    return kinds


def _json_kind(value: Any) -> str:
    if isinstance(value, list):
        inner = next((_json_kind(part) for part in value if part is not None), "null")
        return f"list of {inner}"
    names = {bool: "bool", int: "int", float: "float", str: "string", type(None): "null"}
    return names.get(type(value), "object")


def _polars_kind(kind: Any) -> str:
    if isinstance(kind, pl.List):
        return f"list of {_polars_kind(kind.inner)}"
    if isinstance(kind, pl.String | pl.Categorical | pl.Enum):
        return "string"
    return "int" if kind.is_integer() else "null" if kind == pl.Null else str(kind)


def _usual_texts(kinds: dict[str, str]) -> tuple[str, ...]:
    for names in (WHOLE_TEXT, TEXT_PIECES):
        found = tuple(name for name in names if kinds.get(name) in ("string", "null"))
        if found:
            return found
    return ()


def _chosen(asked: str | None, usual: Sequence[str], kinds: dict[str, str], path: Path, flag: str) -> str | None:
    if asked:
        return _there(asked, kinds, path, flag)
    return next((name for name in usual if name in kinds), None)


def _there(name: str, kinds: dict[str, str], path: Path, flag: str) -> str:
    if name not in kinds:
        raise DataError(
            f"there is no column for {flag}",
            where=path,
            wanted=name,
            got=f"columns {', '.join(kinds)}",
            do=nearest(name, list(kinds)),
        )
    return name


def _check_kind(name: str, kind: str, wanted: tuple[str, ...], path: Path) -> None:
    if kind not in wanted:
        raise DataError(f'column "{name}" is of the wrong type', where=path, wanted=" or ".join(wanted[:4]), got=kind)


def _diagnosed(path: Path, columns: TextColumns, error: str = "") -> DataError:
    """The error of the first row that is wrong."""
    found = _first_problem(path, columns)
    return found or DataError("this file can't be read", where=path, got=error.strip().split("\n")[0][:200] or None)


def _first_problem(path: Path, columns: TextColumns) -> DataError | None:
    say(f"{path}: something looks wrong, checking every row")
    unit = "line" if _suffix(path) in JSON_SUFFIXES else "row"
    with contextlib.closing(_rows(path)) as rows:
        for number, row in rows:
            problem = _row_problem(row, columns)
            if problem is not None:
                where = f"{path}, {unit} {number:,}"
                return DataError(problem[0], where=where, wanted=problem[1], got=problem[2][:80])
    return None


def _rows(path: Path) -> Generator[tuple[int, dict[str, Any]]]:
    """(number from 1, columns) of every row."""
    if _suffix(path) in JSON_SUFFIXES:
        with contextlib.closing(text.numbered_lines(path)) as lines:
            for number, line in lines:
                if line.strip():
                    yield number, parse_object(line, path, number)
        return
    blocks = scan_parquet(path).collect_batches(chunk_size=ROWS_PER_BLOCK, maintain_order=True)
    yield from enumerate((row for block in blocks for row in block.iter_rows(named=True)), 1)


def _row_problem(row: dict[str, Any], columns: TextColumns) -> tuple[str, str, str] | None:
    """(what is wrong, wanted, got) of one row, or None."""
    texts = [row.get(name) for name in columns.texts]
    if all(part is None for part in texts) or not all(part is None or isinstance(part, str) for part in texts):
        return "this document has no text", f"a string in {' or '.join(columns.texts)}", repr(texts)
    if columns.id is not None and not _is_id(row.get(columns.id), columns.ids_whole):
        return "this document has no id, or one of another type", _wanted(columns.ids_whole), repr(row.get(columns.id))
    if columns.label is None:
        return None
    labels = row.get(columns.label)
    if labels is not None and isinstance(labels, list) != columns.labels_listed:
        return "the labels are lists in some rows only", "one form, as in the first rows", repr(labels)
    given = labels if isinstance(labels, list) else [] if labels is None else [labels]
    for label in given:
        if not _is_id(label, columns.labels_whole):
            return "this is not a label, or one of another type", _wanted(columns.labels_whole), repr(label)
    return None


def _is_id(value: Any, whole: bool) -> bool:
    if whole:
        return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
    return isinstance(value, str) and value != "" and not has_surrogate(value)


def _wanted(whole: bool) -> str:
    return (
        "an integer of 64 bits, as in the first rows" if whole else "a string that is not empty, as in the first rows"
    )


def _suffix(path: Path) -> str:
    return Path(text.plain_name(path)).suffix.lower()
