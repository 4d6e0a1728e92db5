"""Texts with many items per line: adjacency (``query item item …``) and sequences (``item item …``)."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import polars as pl

from xclass.ingest.columns import Columns
from xclass.ingest.options import IngestOptions
from xclass.ingest.text import lines as text

FIELDS = pl.col("line").str.extract_all(r"[^ \t]+")


class Adjacency:
    """``query item item …`` with blanks between: LightGCN's files. A query may stand alone: it is kept, without items.

    Lines of the same query are joined. Blank lines are passed over.
    """

    def columns(self, path: Path, options: IngestOptions) -> Columns:
        """There is nothing to find out; a file that is empty or not text is an error."""
        return _plain_columns(path)

    def read(self, path: Path, columns: Columns) -> Generator[pl.DataFrame]:
        """One row per item; one with a null item for a query that stands alone."""
        fields = pl.col("fields")
        for lines in text.line_blocks(path):
            rows = lines.to_frame().lazy().select(FIELDS.alias("fields")).filter(fields.list.len() > 0)
            pairs = rows.select(fields.list.first().alias("query"), fields.list.slice(1).alias("item"))
            yield pairs.explode("item", empty_as_null=True).collect(engine="streaming")

    def diagnose(self, path: Path, columns: Columns) -> None:
        """Only the encoding can be wrong."""
        for _ in text.numbered_lines(path):
            pass


class Sequences(Adjacency):
    """``item item …``: one query per line, in the order of events. The query's id is its line number, from 1.

    Blank lines are passed over but counted, so that ids stay line numbers; in a given split line n of train and of test
    are the same query.
    """

    def columns(self, path: Path, options: IngestOptions) -> Columns:
        """There is nothing to find out; a file that is empty or not text is an error."""
        return _plain_columns(path)

    def read(self, path: Path, columns: Columns) -> Generator[pl.DataFrame]:
        """One row per item."""
        number = 1
        for lines in text.line_blocks(path):
            rows = lines.to_frame().with_row_index("query", offset=number).lazy()
            number += len(lines)
            pairs = rows.select(pl.col("query").cast(pl.String), FIELDS.alias("item"))
            yield pairs.explode("item", empty_as_null=False).collect(engine="streaming")


def _plain_columns(path: Path) -> Columns:
    text.head(path)
    return Columns(query="query", item="item", names=("query", "item"))
