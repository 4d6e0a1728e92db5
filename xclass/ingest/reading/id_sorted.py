"""Distinct ids in rising order and the place of each among them, in memory a part at a time."""

from __future__ import annotations

import bisect
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from xclass.data.id_hash import KeyNumbers
from xclass.ingest.reading.id_encoder import IdEncoder, index_dtype
from xclass.io.frames import read_ipc, scan_ipc

IDS_AT_ONCE = 1 << 24
WAITING_BYTES = 256 << 20
PART = "part of rows"


def encode(ids: pl.Series) -> tuple[pl.Series, np.ndarray]:
    """The distinct ids, rising, and int32 (n,): the place of each of ``ids`` (Int64 or String, none null) among them.

    >>> distinct, places = encode(pl.Series(["b", "a", "b"]))
    >>> distinct.to_list(), places.tolist()
    (['a', 'b'], [1, 0, 1])
    """
    if ids.dtype == pl.Int64:
        keys = ids.to_numpy()
        numbers = KeyNumbers(np.empty(0, dtype=np.int64)).of(keys, grow=True)
        met = np.empty(int(numbers.max(initial=-1)) + 1, dtype=np.int64)
        met[numbers] = keys
        order = np.argsort(met)
        distinct = pl.Series(met[order])
    else:
        encoder = IdEncoder()
        numbers = ids.to_frame("id").select(encoder.expression("id")).to_series().to_numpy()
        met_ids = encoder.decode(int(numbers.max(initial=0)) + 1 if len(ids) else 0)
        order = met_ids.arg_sort().to_numpy()
        distinct = met_ids.gather(order)
    places = np.empty(len(order), dtype=np.int32)
    places[order] = np.arange(len(order), dtype=np.int32)
    return distinct, places[numbers]


class Parted:
    """Rows on disk by the number of their part, in the order they came: ``folder/PART/BLOCK.arrow``.

    Memory: what waits to be written, and while it is written twice that.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._blocks, self._bytes = folder, 0, 0
        self._waiting: list[pl.DataFrame] = []

    def add(self, rows: pl.DataFrame, part: pl.Series) -> None:
        """Rows and, from 0, the part of each."""
        self._waiting.append(rows.with_columns(part.alias(PART)))
        self._bytes += int(self._waiting[-1].estimated_size())
        if self._bytes > WAITING_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if self._waiting:
            rows = pl.concat(self._waiting, how="vertical_relaxed")
            self._waiting = []
            for (part,), own in rows.partition_by(PART, as_dict=True, include_key=False).items():
                place = self._folder / f"{part:06d}"
                place.mkdir(parents=True, exist_ok=True)
                own.write_ipc(place / f"{self._blocks:06d}.arrow", compression="lz4")
        self._bytes, self._blocks = 0, self._blocks + 1

    def take(self, part: int) -> pl.DataFrame | None:
        """All rows of one part; None when there are none. Its files are removed. After :meth:`flush`."""
        place = self._folder / f"{part:06d}"
        files = sorted(place.iterdir()) if place.exists() else []
        frames = []
        for file in files:
            frames.append(read_ipc(file))
            file.unlink()
        return pl.concat(frames, how="vertical_relaxed", rechunk=True) if frames else None


class SavedIds:
    """Distinct ids on disk, in the order of their codes; what is asked of it is what is asked of a Series of ids."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._ends = [0]
        self.dtype: pl.DataType = pl.String()

    def __len__(self) -> int:
        return self._ends[-1]

    def append(self, ids: pl.Series) -> None:
        """More ids behind those that are there."""
        self.dtype = ids.dtype
        ids.to_frame("id").write_ipc(self._file(len(self._ends) - 1))
        self._ends.append(self._ends[-1] + len(ids))

    def gather(self, codes: np.ndarray) -> pl.Series:
        """The ids of a few codes."""
        return pl.Series("id", [self[int(code)] for code in codes], dtype=self.dtype)

    def __getitem__(self, code: int) -> str | int:
        file = bisect.bisect_right(self._ends, code) - 1
        row = scan_ipc(self._file(file)).slice(code - self._ends[file], 1).collect()
        found: str | int = row.item()
        return found

    def estimated_size(self) -> int:
        """Bytes on disk."""
        return sum(self._file(number).stat().st_size for number in range(len(self._ends) - 1))

    def blocks(self, order: np.ndarray, size: int) -> Iterator[pl.Series]:
        """The ids of the codes ``order``, all different, ``size`` after ``size``; in two passes over the disk."""
        number = np.full(len(self), -1, dtype=np.int64)
        number[order] = np.arange(len(order))
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            parted, size_of_part = Parted(Path(folder)), size * max(IDS_AT_ONCE // (4 * size), 1)
            for file, (low, high) in enumerate(itertools.pairwise(self._ends)):
                rows = read_ipc(self._file(file)).with_columns(number=number[low:high]).filter(pl.col("number") >= 0)
                parted.add(rows, rows["number"] // size_of_part)
            parted.flush()
            for part in range(-(-len(order) // size_of_part)):
                found = parted.take(part)
                assert found is not None
                ids = found["id"].gather(found["number"].arg_sort())
                yield from (ids.slice(low, size) for low in range(0, len(ids), size))

    def _file(self, number: int) -> Path:
        return self._folder / f"{number:06d}.arrow"


Ids = pl.Series | SavedIds


class SortedRuns:
    """Lists of distinct rising ids on disk, and then one list of all of them, with the place of each id in it.

    Memory: a range of ids at a time, about ``IDS_AT_ONCE`` entries of all lists together.
    """

    def __init__(self, folder: Path) -> None:
        (folder / "runs").mkdir(parents=True)
        self._folder = folder
        self._lengths: list[int] = []
        self._sample: list[pl.Series] = []

    def add(self, ids: pl.Series) -> None:
        """One more list."""
        ids.to_frame("id").write_ipc(self._run(len(self._lengths)))
        self._lengths.append(len(ids))
        self._sample.append(ids.gather_every(1 + IDS_AT_ONCE // 16_384))

    def merge(self) -> tuple[SavedIds, list[np.ndarray]]:
        """All distinct ids, rising; and of each list the places of its ids, int32 or int64, mapped from disk."""
        total, merged = sum(self._lengths), SavedIds(self._folder / "ids")
        shape, dtype = (max(total, 1),), index_dtype(total)
        places = np.lib.format.open_memmap(self._folder / "places.npy", mode="w+", dtype=dtype, shape=shape)
        starts = [0, *itertools.accumulate(self._lengths)]
        cuts = self._cuts(total)
        bounds = [self._bounds(run, cuts) for run in range(len(self._lengths))]
        for part in range(len(cuts) + 1):
            held = [self._slice(run, at[part], at[part + 1]) for run, at in enumerate(bounds)]
            distinct, found = encode(pl.concat(held))
            low = 0
            for run, piece in enumerate(held):
                first = starts[run] + bounds[run][part]
                places[first : first + len(piece)] = found[low : low + len(piece)].astype(dtype) + len(merged)
                low += len(piece)
            merged.append(distinct)
        return merged, [places[low:high] for low, high in itertools.pairwise(starts)]

    def _cuts(self, total: int) -> pl.Series:
        """Ids that divide all lists into ranges of at most about ``IDS_AT_ONCE`` entries."""
        sample = pl.concat(self._sample).sort()
        ranges = min(-(-total // IDS_AT_ONCE), len(sample))
        return sample.gather([len(sample) * part // ranges for part in range(1, ranges)]).unique().sort()

    def _bounds(self, run: int, cuts: pl.Series) -> list[int]:
        if not len(cuts):
            return [0, self._lengths[run]]
        inner = read_ipc(self._run(run)).to_series().search_sorted(cuts, side="left")
        return [0, *inner, self._lengths[run]]

    def _slice(self, run: int, low: int, high: int) -> pl.Series:
        return scan_ipc(self._run(run)).slice(low, high - low).collect().to_series()

    def _run(self, number: int) -> Path:
        return self._folder / "runs" / f"{number:06d}.arrow"
