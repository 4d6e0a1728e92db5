"""Tables as text: CSV, TSV, MovieLens' ``::``, blanks between fields, header or none; RecBole's ``.inter``."""

from __future__ import annotations

import itertools
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import polars as pl

from xclass.errors import DataError
from xclass.ingest.columns import Columns, is_usual_name, resolve_columns
from xclass.ingest.formats.detection import find_separator
from xclass.ingest.options import IngestOptions
from xclass.ingest.text import delimited
from xclass.ingest.text import lines as text
from xclass.ingest.text.dates import are_dates, from_iso, text_numbers
from xclass.ingest.text.first_bad_line import RowChecks, ragged


class Csv:
    """One pair per line. Ids are kept as they are written, blanks included; quotes as in RFC 4180."""

    quoted = True

    def columns(self, path: Path, options: IngestOptions) -> Columns:
        """From the first lines: separator, header or not, what the columns are called, whether times are dates."""
        lines = text.head(path)
        separator = options.separator or self._separator(path, lines)
        rows = delimited.sample(path, separator, self.quoted, delimited.SAMPLED_RECORDS)
        first = rows[0]
        header = _has_header(first, options) if options.header is None else options.header
        names = delimited.check_names(first, path) if header else [str(place + 1) for place in range(len(first))]
        if header and len(rows) == 1:
            raise DataError(
                "this file has a header and no rows", where=path, wanted="at least one row", got=lines[0][:200]
            )
        plain = self._plain_names(names)
        found = resolve_columns(plain, options, path, header)
        places = {role: None if name is None else plain.index(name) for role, name in found.items()}
        real = {role: None if place is None else names[place] for role, place in places.items()}
        time = places["time"]
        times = [row[time] for row in rows[int(header) :] if time is not None and len(row) > time]
        return Columns(
            **real,  # type: ignore[arg-type]
            names=tuple(names),
            header=header,
            separator=separator,
            quoted=self.quoted,
            dates=are_dates(times),
            samples={
                name: [row[place] for row in rows[int(header) :] if len(row) > place]
                for place, name in enumerate(names)
                if name not in real.values()
            },
        )

    def read(self, path: Path, columns: Columns) -> Generator[pl.DataFrame]:
        """The used columns, every line's number of fields checked."""
        used = columns.used()
        wanted = list(dict.fromkeys(used.values()))
        roles = [pl.col(column).alias(role) for role, column in used.items()]
        for block in delimited.blocks(path, columns.separator, columns.header, columns=wanted, quoted=columns.quoted):
            yield block.select(roles).with_columns(text_numbers(columns))

    def diagnose(self, path: Path, columns: Columns) -> None:
        """Every line: UTF-8, number of fields, ids, weight, time. Blank lines are passed over."""
        position = {role: columns.names.index(name) for role, name in columns.used().items()}
        found = closing(delimited.numbered_records(path, columns.separator, columns.quoted))
        with RowChecks(path, dates=columns.dates) as checks, found as rows:
            for number, fields in itertools.islice(rows, int(columns.header), None):
                if len(fields) != len(columns.names):
                    raise ragged(path, number, len(columns.names), len(fields))
                checks.row(columns.used(), {role: fields[index] for role, index in position.items()}, number)

    def _separator(self, path: Path, lines: list[str]) -> str:
        return "\t" if text.plain_name(path).lower().endswith(".tsv") else find_separator(lines, path)

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
    values = all(text.is_number(field) or from_iso(field) is not None for field in first)
    if any(is_usual_name(name) for name in first) or (asked & set(first) and not values):
        return True
    return not values and not (asked and all(str(name).isdigit() for name in asked))
