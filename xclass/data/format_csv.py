"""Tables as text: CSV, TSV, MovieLens' ``::``, blanks between fields, header or none; RecBole's ``.inter``."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from xclass.data import text
from xclass.data.columns import Columns, is_usual_name, resolve_columns
from xclass.data.diagnosis import RowChecks, ragged
from xclass.data.options import IngestOptions
from xclass.errors import DataError

COUNT_BLOCK_BYTES = 1 << 24


class Csv:
    """One pair per line. Ids are kept as they are written, blanks included; quotes as in RFC 4180."""

    quoted = True

    def columns(self, path: Path, options: IngestOptions) -> Columns:
        """From the first lines: separator, header or not, and what the columns are called."""
        lines = text.head(path)
        bare = [re.sub(r'"[^"]*"', "", line) for line in lines]
        separator = options.separator or self._separator(path, bare)
        first = next(_fields(iter([(1, lines[0])]), separator, self.quoted, path))[1]
        header = _has_header(first, options) if options.header is None else options.header
        names = first if header else [str(position + 1) for position in range(len(first))]
        if len(set(names)) < len(names):
            raise DataError("two columns have the same name", where=path, got=", ".join(names), do="rename one")
        if header and len(lines) == 1:
            raise DataError(
                "this file has a header and no rows", where=path, wanted="at least one row", got=lines[0][:200]
            )
        found = resolve_columns(self._plain_names(names), options, path, header)
        position = {name: names[index] for index, name in enumerate(self._plain_names(names))}
        real = {role: None if name is None else position[name] for role, name in found.items()}
        quoted = self.quoted and len(separator) == 1 and separator != " "
        return Columns(**real, names=tuple(names), header=header, separator=separator, quoted=quoted)  # type: ignore[arg-type]

    def read(self, path: Path, columns: Columns) -> pl.LazyFrame:
        """Polars' CSV reader, every field as text; lines cut by expressions where the separator is no single byte."""
        used = columns.used()
        if len(columns.separator.encode()) > 1 or columns.separator == " ":
            frame = _cut_lines(path, columns)
        else:
            names = list(columns.names)
            frame = pl.scan_csv(
                path,
                has_header=columns.header,
                new_columns=None if columns.header else names,
                separator=columns.separator,
                quote_char='"' if columns.quoted else None,
                infer_schema=False,
                glob=False,
            )
        frame = frame.select(pl.col(column).alias(role) for role, column in used.items())
        blank = pl.col("query").is_null() & pl.col("item").is_null()
        return frame.with_columns(pl.when(~blank).then(pl.col("item").fill_null("")).alias("item"))

    def looks_wrong(self, path: Path, columns: Columns) -> bool:
        """Whether the file's separators don't add up to its lines: Polars fills up short lines without a word."""
        if columns.separator == " ":
            return False
        separator, separators, lines, last = columns.separator.encode(), 0, 0, b"\n"
        with text.open_binary(path) as file:
            while block := file.read(COUNT_BLOCK_BYTES):
                if columns.quoted and b'"' in block:
                    return False
                while len(separator) > 1 and block[-1:] == separator[:1] and (more := file.read(1)):
                    block += more
                separators, lines, last = separators + block.count(separator), lines + block.count(b"\n"), block[-1:]
        return separators != (len(columns.names) - 1) * (lines + (last != b"\n"))

    def diagnose(self, path: Path, columns: Columns) -> None:
        """Every line: UTF-8, number of fields, ids, weight, time. Blank lines are passed over."""
        position = {role: columns.names.index(name) for role, name in columns.used().items()}
        with RowChecks(path) as checks:
            for number, fields in _fields(text.numbered_lines(path), columns.separator, columns.quoted, path):
                if not fields or (number == 1 and columns.header):
                    continue
                if len(fields) != len(columns.names):
                    raise ragged(path, number, len(columns.names), len(fields))
                checks.row(columns.used(), {role: fields[index] for role, index in position.items()}, number)

    def _separator(self, path: Path, lines: list[str]) -> str:
        return "\t" if path.name.removesuffix(".gz").endswith(".tsv") else text.find_separator(lines)

    def _plain_names(self, names: list[str]) -> list[str]:
        return names


class Inter(Csv):
    """RecBole's atomic file: tab-separated, header ``user_id:token item_id:token rating:float timestamp:float``."""

    quoted = False

    def columns(self, path: Path, options: IngestOptions) -> Columns:
        """From the header; a column may be named with or without its type."""
        first = text.head(path)[0]
        if ":" not in first:
            raise DataError(
                "this .inter file has no header with types",
                where=f"{path}, line 1",
                wanted="user_id:token<TAB>item_id:token …",
                got=first[:200],
                do="add the header, or pass --format csv",
            )
        return super().columns(
            path, options.model_copy(update={"header": True, "separator": options.separator or "\t"})
        )

    def _plain_names(self, names: list[str]) -> list[str]:
        return [name.partition(":")[0] for name in names]


def _has_header(first: list[str], options: IngestOptions) -> bool:
    asked = {options.query_col, options.item_col, options.weight_col, options.time_col} - {None, ""}
    if asked & set(first) or any(is_usual_name(name) for name in first):
        return True
    return not (all(text.is_number(field) for field in first) or (asked and all(str(name).isdigit() for name in asked)))


def _cut_lines(path: Path, columns: Columns) -> pl.LazyFrame:
    """The columns as text; a line with another number of fields gets nulls, which the reader takes as a sign."""
    line = pl.col("line")
    fields = line.str.extract_all(r"[^ \t]+") if columns.separator == " " else line.str.split(columns.separator)
    frame = pl.scan_lines(path, glob=False).filter(line.str.strip_chars() != "").select(fields.alias("fields"))
    whole = pl.col("fields").list.len() == len(columns.names)
    return frame.slice(1 if columns.header else 0).select(
        pl.when(whole).then(pl.col("fields").list.get(index, null_on_oob=True)).alias(name)
        for index, name in enumerate(columns.names)
    )


def _fields(
    lines: Iterator[tuple[int, str]], separator: str, quoted: bool, path: Path
) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of every record; a blank line has no fields."""
    if not quoted or len(separator) > 1 or separator == " ":
        yield from ((number, text.split_line(line, separator) if line.strip() else []) for number, line in lines)
        return
    start = 1
    reader = csv.reader((line + "\n" for _, line in lines), delimiter=separator, strict=True)
    try:
        for record in reader:
            yield start, record
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            "a quoted value is not closed, or goes on after its closing quote",
            where=f"{path}, line {start:,}",
            got=str(error),
            do='double the quotes inside a value ("") or quote the whole value',
        ) from None
