"""Predictions and truth of any system, as lazy frames with one row per (query, item).

    predictions   query_id, item_id, and rank (1 = best) or score (higher = better) or both
    truth, train  query_id, item_id

    .parquet .csv .tsv .jsonl    columns by these names, others are not read
    .trec .run                   predictions as TREC runs: query Q0 item rank score tag; the score decides
    .qrels                       truth as TREC relevance judgements: query 0 item relevance; above 0 is a positive

Ids are text or integers, never floats. Inside, an id is a 64-bit key: an integer itself, or the hash of a text (two
different texts among a million are taken for one with a chance of 3 in 10^8).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from xclass.errors import DataError

QUERY, ITEM, RANK, SCORE = "query_id", "item_id", "rank", "score"
TREC_RUN = (QUERY, "q0", ITEM, RANK, SCORE, "tag")
TREC_QRELS = (QUERY, "iteration", ITEM, "relevance")


@dataclass(frozen=True, slots=True)
class PairFile:
    """One file, not read yet.

    frame: with query_id, item_id and what else of rank, score the file has.
    names: those columns.
    """

    path: Path
    frame: pl.LazyFrame
    names: tuple[str, ...]

    def has_text(self, name: str) -> bool:
        """Whether this id column holds text; DataError when it holds neither text nor integers."""
        kind = self.frame.collect_schema()[name]
        if kind != pl.String and not kind.is_integer():
            where = f"{self.path}, column {name}"
            raise DataError("ids are of the wrong type", where=where, wanted="text or integers", got=kind)
        return kind == pl.String

    def keyed(self, text_queries: bool, text_items: bool) -> pl.LazyFrame:
        """Columns query, item (int64 keys, null where the id is), and for predictions order (rising) and tie (float64).

        Lists are sorted by ``order``; equal ``tie`` side by side are a tie.
        """
        columns = self.keyed_columns(text_queries, text_items)
        rank, falling = pl.col(RANK).cast(pl.Float64), -pl.col(SCORE).cast(pl.Float64)
        if SCORE in self.names:
            columns += [(rank if RANK in self.names else falling).alias("order"), falling.alias("tie")]
        elif RANK in self.names:
            columns += [rank.alias("order"), rank.alias("tie")]
        return self.frame.select(columns)

    def keyed_columns(self, text_queries: bool, text_items: bool) -> list[pl.Expr]:
        """The columns query and item."""
        return [_key(QUERY, text_queries).alias("query"), _key(ITEM, text_items).alias("item")]


def scan_predictions(path: Path | str) -> PairFile:
    """Predictions; DataError when the file or a column is missing or its ending is not known."""
    file = _scan(path, (QUERY, ITEM), (RANK, SCORE))
    if not {RANK, SCORE} & set(file.names):
        raise DataError(
            "predictions need an order",
            where=path,
            wanted="a column rank (1 = best) or score (higher = better)",
            got=", ".join(file.frame.collect_schema().names()),
        )
    schema = file.frame.collect_schema()
    for name in file.names[2:]:
        if not schema[name].is_numeric():
            raise DataError(f"{name} is of the wrong type", where=path, wanted="numbers", got=schema[name])
    return file


def scan_pairs(path: Path | str) -> PairFile:
    """Truth or train pairs; DataError as for :func:`scan_predictions`."""
    return _scan(path, (QUERY, ITEM), ())


def _key(name: str, as_text: bool) -> pl.Expr:
    if not as_text:
        return pl.col(name).cast(pl.Int64)
    text = pl.col(name).cast(pl.String)
    return pl.when(text.is_not_null()).then(text.hash(0).reinterpret(signed=True))


def _scan(path: Path | str, needed: tuple[str, ...], wanted: tuple[str, ...]) -> PairFile:
    path = Path(path)
    if not path.is_file():
        raise DataError("there is no such file", where=path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError("this file's ending is not known", where=path, wanted=" ".join(READERS), got=path.suffix)
    try:
        frame = reader(path)
        there = frame.collect_schema().names()
    except (pl.exceptions.PolarsError, UnicodeDecodeError, OSError) as error:
        raise DataError("this file can't be read", where=path, got=str(error).splitlines()[0]) from None
    missing = [name for name in needed if name not in there]
    if missing:
        raise DataError(
            "a column is missing",
            where=path,
            wanted=" and ".join(missing),
            got=", ".join(there),
            do="rename the columns",
        )
    names = (*needed, *(name for name in wanted if name in there))
    return PairFile(path, frame.select(names), names)


def _scan_table(path: Path) -> pl.LazyFrame:
    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    names = pl.scan_csv(path, separator=separator, infer_schema=False).collect_schema().names()
    types = {name: pl.Float64 if name in (RANK, SCORE) else pl.String for name in names}
    return pl.scan_csv(path, separator=separator, schema=types)


def _scan_json_lines(path: Path) -> pl.LazyFrame:
    return pl.scan_ndjson(path, infer_schema_length=1000)


def _scan_trec(names: tuple[str, ...]) -> Callable[[Path], pl.LazyFrame]:
    """Fields separated by any spaces or tabs; a line with fewer has nulls, which are refused later."""

    def scan(path: Path) -> pl.LazyFrame:
        lines = pl.scan_csv(
            path, separator="\x01", quote_char=None, has_header=False, new_columns=["line"], infer_schema=False
        )
        pattern = r"^\s*" + r"\s+".join([r"(\S+)"] * len(names)) + r"\s*$"
        fields = lines.filter(pl.col("line").str.strip_chars() != "").select(
            pl.col("line").str.extract_groups(pattern).struct.rename_fields(list(names)).struct.unnest()
        )
        if "relevance" in names:
            return fields.filter(pl.col("relevance").is_null() | (pl.col("relevance").cast(pl.Float64) > 0))
        return fields.select(QUERY, ITEM, pl.col(SCORE).cast(pl.Float64))

    return scan


READERS: dict[str, Callable[[Path], pl.LazyFrame]] = {
    ".parquet": pl.scan_parquet,
    ".csv": _scan_table,
    ".tsv": _scan_table,
    ".jsonl": _scan_json_lines,
    ".ndjson": _scan_json_lines,
    ".trec": _scan_trec(TREC_RUN),
    ".run": _scan_trec(TREC_RUN),
    ".qrels": _scan_trec(TREC_QRELS),
}
