"""Files → pairs of integer codes, streamed: at no time are the strings of a whole file in memory."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from xclass.errors import DataError
from xclass.ingest.columns import Columns, IdKind, is_sure_time
from xclass.ingest.formats.pairs import FORMATS, Format, find_formats
from xclass.ingest.formats.parquet import Parquet, count_rows
from xclass.ingest.options import IngestOptions
from xclass.ingest.pairs import PART_CODES, Pairs
from xclass.ingest.reading.hive import FolderKeys
from xclass.ingest.reading.id_encoder import IdEncoder, note_odd_ids, recode
from xclass.ingest.reading.id_sorted import Ids
from xclass.ingest.sources import WHOLE
from xclass.ingest.text.lines import POLARS_ERRORS, READ_ERRORS
from xclass.ingest.text.times import may_be_times
from xclass.runtime.progress import Progress, say

ROWS_PER_BATCH = 500_000
EXACT_FLOAT = 2**53
NO_TIME = -(2**63)  # what NumPy and pandas write for a time that is missing


@dataclass(slots=True)
class Table:
    """What was read: pairs of codes, the ids behind them in rising order, and what there is to tell.

    counts: pairs read by part ("all" where the source is one table). lonely: queries that stand without an item.
    columns: of the first file. integers: "query", "item", where a file's own types say that the ids are integers.
    """

    pairs: Pairs
    query_ids: Ids
    item_ids: Ids
    counts: dict[str, int]
    lonely: np.ndarray
    formats: list[str]
    columns: Columns
    integers: frozenset[str] = frozenset()


class File(NamedTuple):
    """One file of a source. format: its name in ``FORMATS``; form: what reads it."""

    path: Path
    part: str
    format: str
    form: Format
    columns: Columns


class Reader(ABC):
    """Reads file after file, checks every row, and hands the pairs on in batches."""

    def __init__(self) -> None:
        self.pairs_read = 0
        self._farthest, self._fractions = 0, False

    @abstractmethod
    def ids(self, role: str) -> pl.Expr:
        """What becomes of the ids ("query", "item"), strings, while a file streams by; null stays null."""

    @abstractmethod
    def take(self, batch: dict[str, pl.Series]) -> None:
        """The next pairs: query and item as :meth:`ids` made them, weight Float32, time Int64 or Float64."""

    @abstractmethod
    def take_lonely(self, queries: pl.Series) -> None:
        """Queries that stand without an item."""

    @abstractmethod
    def met_empty_ids(self) -> bool:
        """Whether one of the ids so far was empty."""

    def begin_part(self, part: str) -> None:
        """The pairs to come are of this part of a split."""
        return

    def read(self, path: Path, form: Format, columns: Columns, progress: Progress) -> None:
        """Take the pairs of one file."""
        try:
            with closing(form.read(path, columns)) as blocks:
                for block in blocks:
                    batch = block.with_columns(self.ids("query").alias("query"), self.ids("item").alias("item"))
                    self._append(batch, path, form, columns)
                    progress.advance(len(batch))
        except (*POLARS_ERRORS, *READ_ERRORS) as error:
            raise _unreadable(path, form, columns, error) from None
        if self.met_empty_ids():
            raise _without_id(path, form, columns)

    def _append(self, batch: pl.DataFrame, path: Path, form: Format, columns: Columns) -> None:
        """Hand one batch on."""
        if batch["query"].null_count():
            raise _without_id(path, form, columns)
        if batch["item"].null_count():
            self.take_lonely(batch.filter(pl.col("item").is_null())["query"])
            batch = batch.drop_nulls("item")
        pairs = {role: batch[role] for role in ("query", "item")}
        for role in batch.columns[2:]:
            values = _weights(batch[role]) if role == "weight" else self._times(batch[role], path)
            if values is None:
                _diagnose(path, form, columns)
                raise DataError(f"not every {role} is a finite number", where=path, do="mend the file")
            pairs[role] = values
        self.pairs_read += len(batch)
        self.take(pairs)

    def _times(self, values: pl.Series, path: Path) -> pl.Series | None:
        """Int64 where all are whole, else Float64; None if one is no number of 64 bits."""
        times = None if values.dtype.is_float() else values.cast(pl.Int64, strict=False)
        if times is not None and times.min() == NO_TIME:
            return None
        if times is not None:
            self._farthest = max(self._farthest, _as_int(times.max()), -_as_int(times.min()))
        if times is None or times.null_count():
            times = values.cast(pl.Float64, strict=False).fill_null(float("nan"))
            self._fractions = self._fractions or len(times) > 0
            if not (times.abs() < 2.0**63).all():
                return None
        if self._fractions and self._farthest > EXACT_FLOAT:
            raise DataError(
                "times with fractions and whole numbers beyond 2^53 do not go together",
                where=path,
                wanted="times that one type of 64 bits holds exactly",
                do='write all times in the same unit, or leave them out: --time-col ""',
            )
        return times


class MemoryReader(Reader):
    """The dictionaries and arrays that grow while file after file is read."""

    def __init__(self) -> None:
        super().__init__()
        self.encoders = {"query": IdEncoder(), "item": IdEncoder()}
        self.lonely: list[np.ndarray] = []
        self._batches: dict[str, list[np.ndarray]] = {"query": [], "item": [], "weight": [], "time": []}

    def ids(self, role: str) -> pl.Expr:
        """Codes of the dictionary."""
        return self.encoders[role].expression(role)

    def take(self, batch: dict[str, pl.Series]) -> None:
        """Keep the arrays."""
        for role, values in batch.items():
            self._batches[role].append(values.to_numpy())

    def take_lonely(self, queries: pl.Series) -> None:
        """Keep their codes."""
        self.lonely.append(queries.to_numpy())

    def met_empty_ids(self) -> bool:
        """Whether one is in a dictionary."""
        return any("" in encoder for encoder in self.encoders.values())

    def whole(self, role: str) -> np.ndarray | None:
        """The whole column; its batches are let go."""
        batches, self._batches[role] = self._batches[role], []
        return np.concatenate(batches) if batches else None


def read_table(files: list[File]) -> Table:
    """Read every file into memory.

    Raises:
        DataError: the first thing that is wrong with a file, and where.
    """
    reader = MemoryReader()
    counts = read_parts(files, reader)
    return _finish(reader, counts, files)


def describe_files(parts: dict[str, list[Path]], options: IngestOptions, root: Path) -> list[File]:
    """Format and columns of every file. Parquet files without a row, as Spark leaves them, are passed over.

    Args:
        parts: the files (:func:`find_parts`).
        options: which columns mean what.
        root: the source; folders ``key=value`` below it are columns of Parquet files.

    Raises:
        DataError: a file can't be read or lacks a column, and which.
    """
    keys = FolderKeys.of(root, [path for paths in parts.values() for path in paths])
    files: list[File] = []
    names = iter(find_formats([path for paths in parts.values() for path in paths], options))
    for part, paths in parts.items():
        for path in paths:
            name = next(names)
            form = Parquet(keys.values(path)) if name == "parquet" and keys.integers else FORMATS[name]
            if name == "parquet" and len(paths) > 1 and count_rows(path) == 0:
                continue
            if not files:
                options = _without_odd_times(form, path, options)
            files.append(File(path, part, name, form, form.columns(path, options)))
            _same_values(files[0], files[-1])
        if not any(file.part == part for file in files):
            raise DataError("there are no pairs", where=paths[0], wanted="at least one query with an item")
    return files


def _without_odd_times(form: Format, path: Path, options: IngestOptions) -> IngestOptions:
    """The options, without times where a column was taken for them by a name like "date" and its values are none."""
    time = form.columns(path, options).time
    if time is None or options.time_col is not None or is_sure_time(time):
        return options
    without = options.model_copy(update={"time_col": ""})
    values = form.columns(path, without).samples.get(time, ())
    return options if may_be_times(values) else without


def read_parts(files: list[File], reader: Reader, verb: str = "read") -> dict[str, int]:
    """Every file in its order; returns the pairs of each part."""
    counts: dict[str, int] = {}
    for part, group in itertools.groupby(files, key=lambda file: file.part):
        members, before = list(group), reader.pairs_read
        reader.begin_part(part)
        with Progress(f"{verb} {members[0].path.name if len(members) == 1 else part}", None, "rows") as progress:
            for file in members:
                reader.read(file.path, file.form, file.columns, progress)
        counts[part] = reader.pairs_read - before
        if counts[part] == 0:
            raise DataError("there are no pairs", where=members[0].path, wanted="at least one query with an item")
    return counts


def part_labels(counts: dict[str, int]) -> np.ndarray | None:
    """int8, the part of each pair in the order they were read; None where the source is one table."""
    if WHOLE in counts:
        return None
    return np.repeat(np.array([PART_CODES[part] for part in counts], dtype=np.int8), list(counts.values()))


def kinds_of(files: list[File], role: str) -> set[IdKind]:
    """How the files hold the ids of "query" or "item"."""
    return {getattr(file.columns, f"{role}_kind") for file in files}


def table_of(
    pairs: Pairs, ids: Mapping[str, Ids], counts: dict[str, int], lonely: np.ndarray, files: list[File]
) -> Table:
    """What was read, with what the files say of themselves."""
    integers = frozenset(role for role in ("query", "item") if "int64" in kinds_of(files, role))
    formats = sorted({file.format for file in files})
    return Table(pairs, ids["query"], ids["item"], counts, lonely, formats, files[0].columns, integers)


def _finish(reader: MemoryReader, counts: dict[str, int], files: list[File]) -> Table:
    where = files[0].path
    query, item = reader.whole("query"), reader.whole("item")
    assert query is not None and item is not None
    lonely = np.concatenate([*reader.lonely, np.zeros(0, dtype=np.uint32)])
    sizes = {"query": max(int(codes.max(initial=0)) for codes in (query, lonely)) + 1, "item": int(item.max()) + 1}
    ids, places = {}, {}
    for role, encoder in reader.encoders.items():
        ids[role], places[role] = encoder.finish(sizes[role], kinds_of(files, role), where, role)
        if ids[role].dtype == pl.String:
            note_odd_ids(ids[role], role)
    pairs = Pairs(
        recode(query, places["query"]),
        recode(item, places["item"]),
        reader.whole("weight"),
        plain_times(reader.whole("time")),
        part_labels(counts),
    )
    return table_of(pairs, ids, counts, np.unique(places["query"][lonely]), files)


def _same_values(one: File, other: File) -> None:
    """Headers, weights and times must be in all files or in none, and times be dates in all or in none."""
    (first, wanted), (path, columns) = (one.path, one.columns), (other.path, other.columns)
    if one.format == other.format and columns.header != wanted.header:
        raise DataError(
            "one file names its columns and another has no header",
            where=path if wanted.header else first,
            wanted=f"a header, as in {first if wanted.header else path}",
            do="write the same header into every file, or into none and pass --no-header",
        )
    for role in ("weight", "time"):
        if (getattr(columns, role) is None) != (getattr(wanted, role) is None):
            having, lacking = (path, first) if getattr(wanted, role) is None else (first, path)
            raise DataError(
                f"one file has a {role} column and another has none",
                where=lacking,
                wanted=f'"{getattr(wanted, role) or getattr(columns, role)}", as in {having}',
                do=f'add it, or leave it out everywhere: --{role}-col ""',
            )
    if columns.dates != wanted.dates:
        raise DataError(
            "one file has dates as times and another has numbers",
            where=path,
            wanted=f"{'dates' if wanted.dates else 'numbers'}, as in {first}",
            do="write the times of every file in the same way",
        )


def _as_int(value: object) -> int:
    return value if isinstance(value, int) else 0


def _diagnose(path: Path, form: Format, columns: Columns) -> None:
    say(f"{path}: something looks wrong, checking every row")
    form.diagnose(path, columns)


def _without_id(path: Path, form: Format, columns: Columns) -> DataError:
    """The error of a row without an id: what ``diagnose`` finds, which names it."""
    _diagnose(path, form, columns)
    return DataError("there are empty ids", where=path, wanted="an id in every row", do="give these rows an id")


def _unreadable(path: Path, form: Format, columns: Columns, error: Exception) -> DataError:
    """The error to show when Polars gave up: what ``diagnose`` finds, else the first line of Polars' own text."""
    try:
        _diagnose(path, form, columns)
    except DataError as found:
        return found
    return DataError(
        "this file can't be read", where=path, got=str(error).strip().split("\n")[0][:200], do="check that it is whole"
    )


def _weights(values: pl.Series) -> pl.Series | None:
    """Float32 from 0; None if one is not."""
    weights = values.cast(pl.Float32).fill_null(float("nan"))
    return weights if bool((weights.is_finite() & (weights >= 0)).all()) else None


def plain_times(times: np.ndarray | None) -> np.ndarray | None:
    """Floating-point times as int64, in their place, when all are whole numbers that float64 holds exactly."""
    if times is None or times.dtype == np.int64:
        return times
    blocks = (times[low : low + ROWS_PER_BATCH] for low in range(0, len(times), ROWS_PER_BATCH))
    if not all(((block == np.floor(block)) & (np.abs(block) < EXACT_FLOAT)).all() for block in blocks):
        return times
    whole = times.view(np.int64)
    for low in range(0, len(times), ROWS_PER_BATCH):
        whole[low : low + ROWS_PER_BATCH] = times[low : low + ROWS_PER_BATCH].astype(np.int64)
    return whole
