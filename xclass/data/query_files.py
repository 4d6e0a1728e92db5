"""Files that say whom to retrieve for: query ids, or histories or texts that the model may never have seen.

    ids         .txt (one id a line, spaces belong to it), .csv .tsv .parquet (a column query_id, or the only column)
    histories   .jsonl ({"history": ["a", "b"], "query_id": "q"}; query_id may be left out),
                .csv .tsv .parquet (rows of query_id, item_id; a query's rows need not be together),
                .adj (`query item item …`, separated by spaces)
    texts       .jsonl ({"text": "…", "query_id": "q"}; query_id may be left out), .csv .tsv .parquet (query_id, text)

Ids are read as text or as integers, never as floats.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from torch import Tensor

from xclass.errors import DataError, InputError
from xclass.types import offsets_of

QUERY_COLUMN = "query_id"
ITEM_COLUMN = "item_id"
TEXT_COLUMN = "text"


class QueryFile(NamedTuple):
    """What a file holds, in external ids and in the file's order.

    query_ids: one per query; for histories and texts without ids the line number, from 1.
    offsets, items: query b's history is ``items[offsets[b]:offsets[b+1]]``; None in a file of ids or texts.
    texts: query b's text; None in a file of ids or histories.
    """

    query_ids: pl.Series
    offsets: Tensor | None = None
    items: pl.Series | None = None
    texts: pl.Series | None = None


def read_query_file(path: Path | str, query_col: str = QUERY_COLUMN, item_col: str = ITEM_COLUMN) -> QueryFile:
    """Read a file of query ids or of histories; its name's ending and its columns say which.

    Raises:
        DataError: no such file, another ending, not UTF-8, a missing column, a null id, a malformed line (numbered).
    """
    path = Path(path)
    reader = QUERY_FORMATS[checked_suffix(path)]
    with unreadable(path):
        found = reader(path, query_col, item_col)
    if not len(found.query_ids):
        raise DataError("this file holds no query", where=path)
    return found


def checked_suffix(path: Path) -> str:
    """The ending in lower case; DataError for a file that is not there or of another ending."""
    if not path.is_file():
        raise DataError("there is no such file", where=path)
    suffix = path.suffix.lower()
    if suffix not in QUERY_FORMATS:
        raise DataError("this file's ending is not known", where=path, wanted=" ".join(QUERY_FORMATS), got=path.suffix)
    return suffix


@contextlib.contextmanager
def unreadable(path: Path) -> Iterator[None]:
    """What Polars and the decoder say about a broken file becomes one message."""
    try:
        yield
    except (UnicodeDecodeError, pl.exceptions.PolarsError) as error:
        raise DataError("this file can't be read", where=path, got=str(error).splitlines()[0]) from None


def read_item_ids(path: Path | str, item_col: str = ITEM_COLUMN) -> pl.Series:
    """External item ids of a candidate or deny list: .txt, or .csv .tsv .parquet with a column ``item_id``."""
    path = Path(path)
    if path.suffix.lower() in (".csv", ".tsv", ".parquet", ".txt"):
        return read_query_file(path, query_col=item_col, item_col="").query_ids
    raise DataError("this file's ending is not known", where=path, wanted=".txt .csv .tsv .parquet", got=path.suffix)


def _read_text(path: Path, query_col: str, item_col: str) -> QueryFile:
    return ids_of_lines(path, list(lines_of(path)), query_col)


def ids_of_lines(path: Path, lines: list[tuple[int, str]], query_col: str = QUERY_COLUMN) -> QueryFile:
    """An id a line."""
    return QueryFile(pl.Series(query_col, [line for _, line in lines], dtype=pl.String))


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, line) of the lines that hold something; a blank in .txt is an id like any other."""
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            line = line.removesuffix("\n")
            if line if path.suffix.lower() == ".txt" else line.strip():
                yield number, line


def _read_table(path: Path, query_col: str, item_col: str) -> QueryFile:
    if path.suffix.lower() == ".parquet":
        table = pl.read_parquet(path)
    else:
        separator = "\t" if path.suffix.lower() == ".tsv" else ","
        table = pl.read_csv(path, separator=separator, infer_schema=False)
    return table_of(path, table, query_col, item_col)


def table_of(path: Path, table: pl.DataFrame, query_col: str, item_col: str) -> QueryFile:
    """The queries of a table's rows: ids, or histories or texts where it has a column of items or texts, too."""
    if query_col not in table.columns and len(table.columns) == 1 and table.columns != [TEXT_COLUMN]:
        table = table.rename({table.columns[0]: query_col})
    if query_col not in table.columns:
        raise DataError("a column is missing", where=path, wanted=query_col, got=", ".join(table.columns))
    if TEXT_COLUMN in table.columns and item_col not in table.columns:
        return _texts_of(path, table, query_col)
    names = [name for name in (query_col, item_col) if name in table.columns]
    table = table.select(names)
    for name in names:
        _check_ids(path, table[name])
    if item_col not in table.columns:
        return QueryFile(table[query_col])
    lists = table.group_by(query_col, maintain_order=True).agg(item_col)
    lengths = torch.tensor(lists[item_col].list.len().to_numpy().astype(np.int64))
    return QueryFile(lists[query_col], offsets_of(lengths), lists[item_col].explode())


def _read_adjacency(path: Path, query_col: str, item_col: str) -> QueryFile:
    return adjacency_of(path, list(lines_of(path)))


def adjacency_of(path: Path, lines: list[tuple[int, str]]) -> QueryFile:
    """`query item item …` a line."""
    rows = [line.split() for _, line in lines]
    return _histories([row[0] for row in rows], [row[1:] for row in rows])


def _read_json_lines(path: Path, query_col: str, item_col: str) -> QueryFile:
    return json_histories(path, list(lines_of(path)))


def json_histories(path: Path, lines: list[tuple[int, str]]) -> QueryFile:
    """One JSON object a line; a query without an id has its line's number. The first says: histories or texts."""
    if lines and _json_object(*lines[0], path).get(TEXT_COLUMN) is not None:
        return _json_texts(path, lines)
    ids: list[Any] = []
    histories: list[list[Any]] = []
    for number, line in lines:
        entry = _json_entry(path, number, line, QUERY_COLUMN)
        ids.append(str(entry.get(QUERY_COLUMN, number)))
        histories.append([str(item) for item in entry["history"]])
    return _histories(ids, histories)


def _json_texts(path: Path, lines: list[tuple[int, str]]) -> QueryFile:
    ids: list[str] = []
    texts: list[str] = []
    for number, line in lines:
        entry = _json_object(number, line, path)
        words, name = entry.get(TEXT_COLUMN), entry.get(QUERY_COLUMN, number)
        if not isinstance(words, str) or isinstance(name, bool) or not isinstance(name, str | int):
            wanted = '{"text": "…", "query_id": "…"}, as in the first line'
            raise DataError("this line has no text", where=f"{path}:{number}", wanted=wanted, got=line.strip()[:80])
        ids.append(str(name))
        texts.append(words)
    return QueryFile(
        pl.Series(QUERY_COLUMN, ids, dtype=pl.String), texts=pl.Series(TEXT_COLUMN, texts, dtype=pl.String)
    )


def _json_object(number: int, line: str, path: Path) -> dict[str, Any]:
    """The object of a line, or an empty one: what is wrong with it is said later."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return entry if isinstance(entry, dict) else {}


def _texts_of(path: Path, table: pl.DataFrame, query_col: str) -> QueryFile:
    """Ids and texts of a table's rows."""
    texts = table[TEXT_COLUMN]
    if texts.dtype != pl.String or texts.null_count():
        got = f"null in row {int(texts.is_null().arg_true()[0]) + 1}" if texts.null_count() else texts.dtype
        raise DataError("a text is missing", where=f"{path}, column {TEXT_COLUMN}", wanted="a string each", got=got)
    if query_col not in table.columns:
        raise DataError("a column is missing", where=path, wanted=query_col, got=", ".join(table.columns))
    _check_ids(path, table[query_col])
    return QueryFile(table[query_col], texts=texts)


def _json_entry(path: Path, number: int, line: str, query_col: str) -> dict[str, Any]:
    wanted = '{"history": ["item", …], "query_id": "…"}'
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise DataError("this line is not JSON", where=f"{path}:{number}", wanted=wanted, got=str(error)) from None
    history = entry.get("history") if isinstance(entry, dict) else None
    if not isinstance(history, list):
        raise DataError(
            "this line has no list of items", where=f"{path}:{number}", wanted=wanted, got=line.strip()[:80]
        )
    ids = [*history, entry[query_col]] if query_col in entry else history
    for value in ids:
        if isinstance(value, bool) or not isinstance(value, str | int):
            got = json.dumps(value)
            raise DataError("an id is neither text nor an integer", where=f"{path}:{number}", wanted=wanted, got=got)
    return entry


def _histories(ids: list[str], histories: list[list[str]]) -> QueryFile:
    lengths = torch.tensor([len(history) for history in histories], dtype=torch.int64)
    items = pl.Series(ITEM_COLUMN, [item for history in histories for item in history], dtype=pl.String)
    return QueryFile(pl.Series(QUERY_COLUMN, ids, dtype=pl.String), offsets_of(lengths), items)


def _check_ids(path: Path, ids: pl.Series) -> None:
    if ids.dtype != pl.String and not ids.dtype.is_integer():
        where = f"{path}, column {ids.name}"
        raise DataError("ids are of the wrong type", where=where, wanted="strings or integers", got=ids.dtype)
    if ids.null_count():
        row = int(ids.is_null().arg_true()[0]) + 1
        raise DataError("an id is missing", where=f"{path}, column {ids.name}", got=f"null in row {row}")


QUERY_FORMATS: dict[str, Callable[[Path, str, str], QueryFile]] = {
    ".txt": _read_text,
    ".csv": _read_table,
    ".tsv": _read_table,
    ".parquet": _read_table,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".adj": _read_adjacency,
}


def texts_given(texts: Sequence[str] | None) -> pl.Series:
    """A series of strings; a string where a list is wanted is an InputError."""
    if texts is None or isinstance(texts, str) or not all(isinstance(each, str) for each in texts):
        raise InputError("texts must be a list of strings", wanted='["a text", …]', got=repr(texts)[:80])
    return pl.Series("text", list(texts), dtype=pl.String)


def histories_given(histories: Sequence[Sequence[str]] | Sequence[Sequence[int]]) -> list[list[str]]:
    """Plain lists of strings; a string where a list is wanted is an InputError."""
    if isinstance(histories, str) or any(isinstance(history, str) for history in histories):
        raise InputError("histories must be lists of item ids", wanted='[["41", "7"], …]', got=repr(histories)[:80])
    return [[str(item) for item in history] for history in histories]
