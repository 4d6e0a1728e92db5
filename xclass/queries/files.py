"""Files that say whom to retrieve for: query ids, or histories or texts that the model may never have seen.

    ids         .txt (one id a line, spaces belong to it), .csv .tsv .parquet (a column query_id, or the only column)
    histories   .jsonl ({"history": ["a", "b"], "query_id": "q"}; query_id may be left out),
                .csv .tsv .parquet (rows of query_id, item_id; a query's rows need not be together),
                .adj (`query item item …`, separated by spaces)
    texts       .jsonl ({"text": "…", "query_id": "q"}; query_id may be left out), .csv .tsv .parquet (query_id, text)

All but Parquet also with .gz or .zst behind. Ids are read as text or as integers, never as floats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from torch import Tensor

from xclass.data.ids import IdMap
from xclass.errors import DataError
from xclass.ingest.columns import query_names
from xclass.ingest.text.first_bad_line import float_ids
from xclass.ingest.text.lines import lone_return, numbered_lines, split_line
from xclass.queries.given_files import ending_of, json_object, read_table, say_unused, unreadable
from xclass.types import offsets_of

Lines = list[tuple[int, str]]  # (number from 1, line)
QUERY_COLUMN = "query_id"
ITEM_COLUMN = "item_id"
TEXT_COLUMN = "text"
HISTORY_LINE = '{"history": ["item", …], "query_id": "…"}'
TEXT_LINE = '{"text": "…", "query_id": "…"}'


class QueryFile(NamedTuple):
    """What a file holds, in external ids and in the file's order.

    query_ids: one per query; for histories and texts without ids the line number, from 1.
    offsets, items: query b's history is ``items[offsets[b]:offsets[b+1]]``; None in a file of ids or texts.
    texts: query b's text; None in a file of ids or histories.
    unnamed: the first line that says no query id, where the file may leave it out.
    """

    query_ids: pl.Series
    offsets: Tensor | None = None
    items: pl.Series | None = None
    texts: pl.Series | None = None
    unnamed: int | None = None


def read_query_file(
    path: Path | str, query_col: str = QUERY_COLUMN, item_col: str = ITEM_COLUMN, known: IdMap | None = None
) -> QueryFile:
    """Read a file of query ids or of histories; its name's ending and its columns say which.

    Args:
        known: ids of ``query_col`` that are known: the first line of a file of one column is no header if it is one.

    Raises:
        DataError: no such file, another ending, not UTF-8, a missing column, a null id, a malformed line (numbered).
    """
    path = Path(path)
    ending = ending_of(path, QUERY_FORMATS)
    with unreadable(path):
        if ending in LINES:
            found = LINES[ending](path, list(lines_of(path, ending)))
        else:
            table = read_table(path, ending, known)
            say_unused(path, table.columns, (query_col, item_col, TEXT_COLUMN))
            found = table_of(path, table, query_col, item_col)
    if not len(found.query_ids):
        raise DataError(f"this file holds no {_word(query_col)}", where=path)
    return found


def read_item_ids(path: Path | str, item_col: str = ITEM_COLUMN, known: IdMap | None = None) -> pl.Series:
    """External item ids of a candidate or deny list: .txt, or .csv .tsv .parquet with a column ``item_id``."""
    ending_of(Path(path), (".txt", *TABLES))
    return read_query_file(path, item_col, "", known).query_ids


def read_item_filter(path: Path, known: IdMap | None = None) -> QueryFile:
    """Item ids for everybody, as ``query_ids``; or each query's own, as histories.

    Own lists are what a file of histories is: .jsonl, .adj, or a table with the columns query_id and item_id.

    Raises:
        DataError: as read_query_file; a line of an own list without a query id.
    """
    ending = ending_of(path, QUERY_FORMATS)
    if ending in TABLES:
        table = read_table(path, ending, known)
        own = {QUERY_COLUMN, ITEM_COLUMN} <= set(table.columns)
        if not own and ITEM_COLUMN in table.columns:
            _check_named(path, table.columns)
        say_unused(path, table.columns, (ITEM_COLUMN, QUERY_COLUMN))
        found = table_of(path, table, *((QUERY_COLUMN, ITEM_COLUMN) if own else (ITEM_COLUMN, "")))
        if not len(found.query_ids):
            raise DataError("this file holds no item", where=path)
        return found
    return read_query_file(path, ITEM_COLUMN, "") if ending == ".txt" else read_own_lists(path)


def read_own_lists(path: Path) -> QueryFile:
    """Items of each query's own: a file of histories in which every query is named; else a DataError."""
    found = read_query_file(path)
    if found.items is None:
        raise DataError("this file has no items", where=path, wanted=f"columns {QUERY_COLUMN} and {ITEM_COLUMN}")
    if found.unnamed is not None:
        what = "this line does not say whose items it has"
        raise DataError(what, where=f"{path}:{found.unnamed}", wanted=QUERY_COLUMN)
    return _joined(found) if found.query_ids.n_unique() < len(found.query_ids) else found


def lines_of(path: Path, ending: str) -> Iterator[tuple[int, str]]:
    """(number from 1, line) of the lines that hold something; a blank in .txt is an id like any other.

    Raises:
        DataError: a carriage return inside a line of ids.
    """
    for number, line in numbered_lines(path):
        if "\r" in line and ending in (".txt", ".adj"):
            raise lone_return(path, number)
        if line if ending == ".txt" else line.strip():
            yield number, line


def _check_named(where: object, names: Sequence[str]) -> None:
    """DataError where a query is named under another name than the one that is read."""
    others = query_names(names)
    if others and QUERY_COLUMN not in names:
        do = f"rename {others[0]}, or remove it"
        raise DataError("the query ids have another name", where=where, wanted=QUERY_COLUMN, got=others[0], do=do)


def _word(column: str) -> str:
    return "item" if column == ITEM_COLUMN else "query"


def ids_of_lines(path: Path, lines: Lines) -> QueryFile:
    """An id a line."""
    return QueryFile(pl.Series(QUERY_COLUMN, [line for _, line in lines], dtype=pl.String))


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


def adjacency_of(path: Path, lines: Lines) -> QueryFile:
    """`query item item …` a line."""
    rows = [split_line(line, " ") for _, line in lines]
    return _histories([row[0] for row in rows], [row[1:] for row in rows])


def json_lines(path: Path, lines: Lines) -> QueryFile:
    """One JSON object a line; a query without an id has its line's number. The first says: histories or texts."""
    texts = bool(lines) and json_object(path, *lines[0], HISTORY_LINE).get(TEXT_COLUMN) is not None
    wanted = TEXT_LINE if texts else HISTORY_LINE
    entries = [(number, json_object(path, number, line, wanted)) for number, line in lines]
    ids = [_id(path, number, entry.get(QUERY_COLUMN, number), wanted) for number, entry in entries]
    unnamed = next((number for number, entry in entries if QUERY_COLUMN not in entry), None)
    for number, entry in entries:
        _check_named(f"{path}:{number}", list(entry))
    if not texts:
        return _histories(ids, [_history(path, *each) for each in entries])._replace(unnamed=unnamed)
    found = pl.Series(TEXT_COLUMN, [_text(path, *each) for each in entries], dtype=pl.String)
    return QueryFile(pl.Series(QUERY_COLUMN, ids, dtype=pl.String), texts=found, unnamed=unnamed)


def _history(path: Path, number: int, entry: dict[str, Any]) -> list[str]:
    history = entry.get("history")
    if not isinstance(history, list):
        got = str(entry)[:80]
        raise DataError("this line has no list of items", where=f"{path}:{number}", wanted=HISTORY_LINE, got=got)
    return [_id(path, number, item, HISTORY_LINE) for item in history]


def _text(path: Path, number: int, entry: dict[str, Any]) -> str:
    text = entry.get(TEXT_COLUMN)
    if not isinstance(text, str):
        wanted, got = f"{TEXT_LINE}, as in the first line", str(entry)[:80]
        raise DataError("this line has no text", where=f"{path}:{number}", wanted=wanted, got=got)
    return text


def _id(path: Path, number: int, value: Any, wanted: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        got = str(value)[:80]
        raise DataError("an id is neither text nor an integer", where=f"{path}:{number}", wanted=wanted, got=got)
    return str(value)


def _texts_of(path: Path, table: pl.DataFrame, query_col: str) -> QueryFile:
    """Ids and texts of a table's rows."""
    texts = table[TEXT_COLUMN]
    if texts.dtype != pl.String or texts.null_count():
        got = f"null in row {int(texts.is_null().arg_true()[0]) + 1}" if texts.null_count() else texts.dtype
        raise DataError("a text is missing", where=f"{path}, column {TEXT_COLUMN}", wanted="a string each", got=got)
    _check_ids(path, table[query_col])
    return QueryFile(table[query_col], texts=texts)


def _joined(found: QueryFile) -> QueryFile:
    """The lists of a query that comes again, one behind the other as one."""
    assert found.offsets is not None and found.items is not None
    lists: dict[str, list[str]] = {}
    items, bounds = found.items.to_list(), found.offsets.tolist()
    for query, start, stop in zip(found.query_ids.to_list(), bounds, bounds[1:], strict=False):
        lists.setdefault(query, []).extend(items[start:stop])
    return _histories(list(lists), list(lists.values()))


def _histories(ids: list[str], histories: list[list[str]]) -> QueryFile:
    lengths = torch.tensor([len(history) for history in histories], dtype=torch.int64)
    items = pl.Series(ITEM_COLUMN, [item for history in histories for item in history], dtype=pl.String)
    return QueryFile(pl.Series(QUERY_COLUMN, ids, dtype=pl.String), offsets_of(lengths), items)


def _check_ids(path: Path, ids: pl.Series) -> None:
    where = f"{path}, column {ids.name}"
    if ids.dtype.is_float():
        raise float_ids(path, ids.name, ids.dtype)
    if ids.dtype != pl.String and not ids.dtype.is_integer():
        raise DataError("ids are of the wrong type", where=where, wanted="strings or integers", got=ids.dtype)
    if ids.null_count():
        row = int(ids.is_null().arg_true()[0]) + 1
        raise DataError("an id is missing", where=f"{path}, column {ids.name}", got=f"null in row {row}")


LINES: dict[str, Callable[[Path, Lines], QueryFile]] = {
    ".txt": ids_of_lines,
    ".jsonl": json_lines,
    ".ndjson": json_lines,
    ".adj": adjacency_of,
}
TABLES = (".csv", ".tsv", ".parquet")
QUERY_FORMATS = (*LINES, *TABLES)
