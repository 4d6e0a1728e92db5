"""Files → pairs of integer codes, streamed: at no time are the strings of a whole file in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from xclass.data.columns import Columns, IdKind
from xclass.data.formats import FORMATS, Format, find_format
from xclass.data.ids import IdEncoder, recode
from xclass.data.options import IngestOptions
from xclass.data.pairs import PART_CODES, Pairs
from xclass.data.sources import WHOLE
from xclass.data.text import READ_ERRORS
from xclass.errors import DataError
from xclass.progress import Progress, say

ROWS_PER_BATCH = 500_000


@dataclass(slots=True)
class Table:
    """What was read: pairs of codes, the ids behind them in rising order, and what there is to tell.

    counts: pairs read by part ("all" where the source is one table). lonely: queries that stand without an item.
    columns: of the first file. integers: "query", "item", where a file's own types say that the ids are integers.
    """

    pairs: Pairs
    query_ids: pl.Series
    item_ids: pl.Series
    counts: dict[str, int]
    lonely: np.ndarray
    formats: list[str]
    columns: Columns
    integers: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Reader:
    """The dictionaries and arrays that grow while file after file is read."""

    query: IdEncoder = field(default_factory=IdEncoder)
    item: IdEncoder = field(default_factory=IdEncoder)
    batches: dict[str, list[np.ndarray]] = field(
        default_factory=lambda: {"query": [], "item": [], "weight": [], "time": []}
    )
    lonely: list[np.ndarray] = field(default_factory=list)

    def read(self, path: Path, form: Format, columns: Columns, progress: Progress) -> None:
        """Append the pairs of one file."""
        try:
            checked = form.looks_wrong(path, columns)
            if checked:
                _diagnose(path, form, columns)
            for batch in self._stream(form.read(path, columns), columns):
                checked = self._append(batch, path, form, columns, checked) or checked
                progress.advance(len(batch))
        except (pl.exceptions.PolarsError, *READ_ERRORS) as error:
            raise _unreadable(path, form, columns, error) from None
        if "" in self.query or "" in self.item:
            _diagnose(path, form, columns)
            raise DataError("there are empty ids", where=path, wanted="an id in every row", do="give these rows an id")

    def _stream(self, frame: pl.LazyFrame, columns: Columns) -> Iterator[pl.DataFrame]:
        expressions = [self.query.expression("query"), self.item.expression("item")]
        if columns.weight is not None:
            expressions.append(pl.col("weight").cast(pl.Float64, strict=False))
        if columns.time is not None:
            expressions.append(pl.col("time"))
        return iter(frame.select(expressions).collect_batches(chunk_size=ROWS_PER_BATCH, maintain_order=True))

    def _append(self, batch: pl.DataFrame, path: Path, form: Format, columns: Columns, checked: bool) -> bool:
        """Take one batch apart into arrays. True when a query was null and ``diagnose`` found that harmless."""
        blank = batch["query"].null_count() > 0
        if blank and not checked:
            _diagnose(path, form, columns)
        if blank or batch["item"].null_count():
            alone = pl.col("item").is_null() & pl.col("query").is_not_null()
            self.lonely.append(batch.filter(alone)["query"].to_numpy())
            batch = batch.drop_nulls(["query", "item"])
        for role in batch.columns:
            array = batch[role].to_numpy() if role in ("query", "item") else _numbers(batch[role], role)
            if array is None:
                _diagnose(path, form, columns)
                raise DataError(f"not every {role} is a finite number", where=path, do="mend the file")
            self.batches[role].append(array)
        return blank

    def pairs_read(self) -> int:
        """Pairs so far, over all files."""
        return sum(map(len, self.batches["query"]))

    def take(self, role: str) -> np.ndarray | None:
        """The whole column; its batches are let go."""
        batches, self.batches[role] = self.batches[role], []
        return np.concatenate(batches) if batches else None


def read_table(parts: dict[str, list[Path]], options: IngestOptions) -> Table:
    """Read every file of every part.

    Raises:
        DataError: the first thing that is wrong with a file, and where.
    """
    reader = _Reader()
    counts: dict[str, int] = {}
    described: list[tuple[Path, str, Columns]] = []
    for part, files in parts.items():
        before = reader.pairs_read()
        with Progress(f"read {files[0].name if len(files) == 1 else part}", None, "rows") as progress:
            for path in files:
                name = find_format(options.format, path)
                described.append((path, name, FORMATS[name].columns(path, options)))
                _same_values(described)
                reader.read(path, FORMATS[name], described[-1][2], progress)
        counts[part] = reader.pairs_read() - before
        if counts[part] == 0:
            raise DataError("there are no pairs", where=files[0], wanted="at least one query with an item")
    return _finish(reader, counts, described)


def _finish(reader: _Reader, counts: dict[str, int], described: list[tuple[Path, str, Columns]]) -> Table:
    query_kinds: set[IdKind] = {columns.query_kind for _, _, columns in described}
    item_kinds: set[IdKind] = {columns.item_kind for _, _, columns in described}
    where = described[0][0]
    query, item = reader.take("query"), reader.take("item")
    assert query is not None and item is not None
    lonely = np.concatenate([*reader.lonely, np.zeros(0, dtype=np.uint32)])
    num_queries = max(int(codes.max(initial=0)) for codes in (query, lonely)) + 1
    query_ids, query_places = reader.query.finish(num_queries, query_kinds, where, "query")
    item_ids, item_places = reader.item.finish(int(item.max()) + 1, item_kinds, where, "item")
    pairs = Pairs(
        recode(query, query_places), recode(item, item_places), reader.take("weight"), _plain(reader.take("time"))
    )
    if WHOLE not in counts:
        pairs.part = np.repeat(np.array([PART_CODES[part] for part in counts], dtype=np.int8), list(counts.values()))
    formats = sorted({name for _, name, _ in described})
    typed = {"query": query_kinds, "item": item_kinds}
    integers = frozenset(role for role, kinds in typed.items() if "int64" in kinds)
    lonely = np.unique(query_places[lonely])
    return Table(pairs, query_ids, item_ids, counts, lonely, formats, described[0][2], integers)


def _same_values(described: list[tuple[Path, str, Columns]]) -> None:
    """Weights and times must be in all files or in none."""
    (first, _, wanted), (path, _, columns) = described[0], described[-1]
    for role in ("weight", "time"):
        if (getattr(columns, role) is None) != (getattr(wanted, role) is None):
            having, lacking = (path, first) if getattr(wanted, role) is None else (first, path)
            raise DataError(
                f"one file has a {role} column and another has none",
                where=lacking,
                wanted=f'"{getattr(wanted, role) or getattr(columns, role)}", as in {having}',
                do=f'add it, or leave it out everywhere: --{role}-col ""',
            )


def _diagnose(path: Path, form: Format, columns: Columns) -> None:
    say(f"{path}: something looks wrong, checking every row")
    form.diagnose(path, columns)


def _unreadable(path: Path, form: Format, columns: Columns, error: Exception) -> DataError:
    """The error to show when Polars gave up: what ``diagnose`` finds, else the first line of Polars' own text."""
    try:
        _diagnose(path, form, columns)
    except DataError as found:
        return found
    return DataError(
        "this file can't be read", where=path, got=str(error).strip().split("\n")[0][:200], do="check that it is whole"
    )


def _numbers(values: pl.Series, role: str) -> np.ndarray | None:
    """Weights as float32 from 0, times as int64 where all are whole, else float64; None if one is neither."""
    if role == "weight":
        weights = values.to_numpy().astype(np.float32)
        return weights if (np.isfinite(weights) & (weights >= 0)).all() else None
    whole = values.cast(pl.Int64, strict=False) if not values.dtype.is_float() else None
    if whole is not None and whole.null_count() == 0:
        return whole.to_numpy()
    times = values.cast(pl.Float64, strict=False).to_numpy()
    return times if np.isfinite(times).all() else None


def _plain(times: np.ndarray | None) -> np.ndarray | None:
    """Floating-point times as int64 when all are whole numbers that float64 holds exactly."""
    if times is None or times.dtype == np.int64:
        return times
    return times.astype(np.int64) if ((times == np.floor(times)) & (np.abs(times) < 2**53)).all() else times
