"""Lists written part by part. Finished parts outlive a kill; the result appears when all of it is there.

.NAME.parts/job.json              what the job is: a resumed one must be the same
.NAME.parts/part-000000.parquet   lists of some queries
.NAME.parts/part-000000.json      their counts, size and SHA-256, written last: with it the part is finished
.NAME.parts/.lock                 locked by the process that owns the job, as long as it lives

Any process of a launch may write any part; when all are there, one process makes them the result. Who goes on with a
job reads its finished parts once (at about 2 GB/s): a part that is not what was written is made again.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import polars as pl
from torch import Tensor

from xclass.errors import RESUME, ArtefactError, DataError, InputError, Interrupted
from xclass.io.files import atomic_directory, atomic_file, locked, remove_any, remove_leftovers
from xclass.io.list_manifest import FORMAT_VERSION, KIND, MANIFEST
from xclass.io.manifest import FileEntry, file_entry, write_json, write_manifest
from xclass.io.records import Record, read_json, read_record
from xclass.retrieval.formats import PART_ROWS, TOPK_FORMATS, empty_frame, format_of, topk_frame
from xclass.runtime.progress import say
from xclass.types import TopK

JOB = "job.json"
NAMED = 5

Results = Iterable[tuple[Tensor, TopK]]


@dataclass(slots=True)
class Counts:
    """What has been written. A short list has fewer than k items, an empty one (also short) none.

    filled_lists: short ones that were filled up with popular items.
    known_items: of all histories that were given.
    empty_histories: queries with nothing that the model goes by, among those given by histories.
    """

    queries: int = 0
    rows: int = 0
    short_lists: int = 0
    empty_lists: int = 0
    filled_lists: int = 0
    unknown_queries: int = 0
    unknown_items: int = 0
    known_items: int = 0
    empty_histories: int = 0
    unknown_names: list[str] = field(default_factory=list)

    def add(self, other: Counts) -> None:
        """Both together."""
        for entry in fields(self):
            setattr(self, entry.name, getattr(self, entry.name) + getattr(other, entry.name))
        del self.unknown_names[NAMED:]

    def count(self, found: TopK, k: int) -> None:
        """Some more lists, as the search gave them."""
        lengths = found.lengths()
        self.queries += len(found)
        self.short_lists += int((lengths < k).sum())
        self.empty_lists += int((lengths == 0).sum())


@dataclass(frozen=True, slots=True)
class Written:
    """What a finished job wrote in all, and how fast this process was. queries_here: those that it searched for.
    probabilities: what was measured of them, where there are any."""

    counts: Counts
    queries_here: int
    seconds: float
    resumed_parts: int = 0
    probabilities: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        rate = self.queries_here / max(self.seconds, 1e-9)
        counts = {
            name: value for name, value in asdict(self.counts).items() if name not in ("unknown_names", "known_items")
        }
        likely = {} if self.probabilities is None else {"probabilities": self.probabilities}
        return {"queries": counts.pop("queries"), "queries_per_s": rate, **counts, **likely}


class PartRecord(Record, strict=False):
    """What ``part-….json`` holds."""

    counts: Counts
    file: FileEntry


class Parts:
    """The parts of a job in their folder, and what has been counted in them. To be closed.

    Args:
        owner: this process begins the job or goes on with it; of the processes of a launch, one.

    Raises:
        ArtefactError: another process is at this job; parts of a stopped one are there and ``resume`` is false; the job
            to resume is another one.
    """

    def __init__(
        self, out: Path, format_name: str, job: dict[str, Any], resume: bool = False, owner: bool = True
    ) -> None:
        self.out, self.format = Path(out), TOPK_FORMATS[format_name]
        self.folder = self.out.absolute().parent / f".{self.out.name}.parts"
        self.counts, self._files = Counts(), dict[int, Path]()
        self._lock = contextlib.ExitStack()
        if not owner:
            self.read()
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock.enter_context(locked(self.folder, "another process is writing these lists"))
        try:
            self._begin(job, resume)
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        """How many are finished."""
        return len(self._files)

    def numbers(self) -> list[int]:
        """Those that are finished."""
        return sorted(self._files)

    def add(self, frames: Iterable[pl.DataFrame], counts: Counts, number: int | None = None) -> None:
        """Write a part, the next one unless its number is given; ``counts`` may still grow while the frames come."""
        number = len(self) if number is None else number
        name = f"part-{number:06d}"
        with atomic_file(self.folder / (name + self.format.suffix)) as temporary:
            self.format.write(pl.concat(frames), temporary)
        file = self.folder / (name + self.format.suffix)
        write_json(self.folder / f"{name}.json", {"counts": asdict(counts), "file": file_entry(file)})
        self._finished(number, file, counts)

    def finish(self, directory: bool = False, fields: dict[str, Any] | None = None) -> None:
        """Make the parts one file, or the directory that holds them with a manifest; then they are gone."""
        files = [self._files[number] for number in range(len(self))]
        if directory:
            with atomic_directory(self.out) as folder:
                for part in files:
                    os.link(part, folder / part.name)
                write_manifest(folder, MANIFEST, KIND, FORMAT_VERSION, fields or {})
        else:
            with atomic_file(self.out) as temporary:
                self.format.join(files, temporary)
        self.remove()

    def remove(self) -> None:
        """The folder of parts."""
        remove_any(self.folder)

    def close(self) -> None:
        """Give the job up: another process may go on with it."""
        self._lock.close()

    def read(self) -> None:
        """What is finished by now, by whatever process."""
        self.counts, self._files = Counts(), {}
        for place in sorted(self.folder.glob("part-*.json")):
            record = read_record(place, PartRecord)
            self._finished(int(place.stem.removeprefix("part-")), place.with_suffix(self.format.suffix), record.counts)

    def _finished(self, number: int, file: Path, counts: Counts) -> None:
        self._files[number] = file
        self.counts.add(counts)

    def _begin(self, job: dict[str, Any], resume: bool) -> None:
        if not (self.folder / JOB).exists():
            write_json(self.folder / JOB, job)
            return
        if not resume:
            do = f"pass --resume (in Python resume=True) to go on with it, or remove {self.folder}"
            raise ArtefactError("a job that was stopped has left its parts here", where=self.folder, do=do)
        before = read_json(self.folder / JOB)
        if not isinstance(before, dict):
            raise ArtefactError("this is not a job", where=self.folder / JOB, do=f"remove {self.folder}")
        for name in sorted(before.keys() | job.keys()):
            if before.get(name) != job.get(name):
                do = f"resume with what it was started with, or remove {self.folder}"
                what = f"the job to resume was started with another {name}"
                raise ArtefactError(what, where=self.folder, wanted=before.get(name), got=job.get(name), do=do)
        self._verify()
        self.read()

    def _verify(self) -> None:
        """Forget the finished parts that are not what was written; they are made again."""
        remove_leftovers(self.folder)
        for place in sorted(self.folder.glob("part-*.json")):
            file = place.with_suffix(self.format.suffix)
            try:
                whole = file_entry(file) == read_record(place, PartRecord).file.model_dump()
            except (ArtefactError, OSError):
                whole = False
            if not whole:
                say(f"{file}: not what was written there; it is made again")
                place.unlink()


@contextlib.contextmanager
def kept_for_resume(parts: Parts) -> Iterator[None]:
    """What input caused goes with its parts: it would happen again. Finished parts outlive anything else."""
    try:
        yield
    except BaseException as error:
        if not len(parts) or isinstance(error, InputError | DataError):
            parts.remove()
        elif isinstance(error, KeyboardInterrupt):
            what = f"interrupted; {len(parts):,} finished parts are kept"
            raise Interrupted(what, RESUME) from None
        raise


def write_topk(
    path: Path | str, results: Results, query_ids: pl.Series, item_ids: pl.Series, k: int, format: str | None = None
) -> Written:
    """Write lists as rows (query_id, rank, item_id, score), rank 1 first, queries in the order they come.

    The file appears when it is complete; a failure leaves nothing. Memory: about a million rows, however many there
    are in all. To go on after a kill see :func:`xclass.batch.retrieve_to_file`.

    Args:
        results: (positions, lists); positions are rows of ``query_ids``, ids rows of ``item_ids``.
        k: lists with fewer items are counted as short.
        format: parquet, jsonl or trec; by the path's ending when None.

    Raises:
        ConfigError: another format. ArtefactError: the disk is full or may not be written to.
    """
    path, started = Path(path), time.perf_counter()
    parts = Parts(path, format_of(path, format), {"process": os.getpid(), "started": time.time_ns()})
    try:
        with disk_errors(path):
            for frames, counts in _cut(results, query_ids, item_ids, k):
                parts.add(frames, counts)
            if not len(parts):
                parts.add([empty_frame(query_ids, item_ids)], Counts())
            parts.finish()
    finally:
        parts.remove()
        parts.close()
    return Written(parts.counts, parts.counts.queries, time.perf_counter() - started)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """What the disk or Polars says about writing becomes one message."""
    try:
        yield
    except (OSError, pl.exceptions.ComputeError) as error:
        raise ArtefactError("the lists can't be written", where=path, got=str(error).splitlines()[0]) from None


def _cut(
    results: Results, query_ids: pl.Series, item_ids: pl.Series, k: int
) -> Iterator[tuple[list[pl.DataFrame], Counts]]:
    """Frames of about a million rows together, and their counts."""
    frames: list[pl.DataFrame] = []
    counts = Counts()
    for positions, found in results:
        frames.append(topk_frame(positions, found, query_ids, item_ids))
        counts.count(found, k)
        counts.rows += len(found.ids)
        if counts.rows >= PART_ROWS:
            yield frames, counts
            frames, counts = [], Counts()
    if frames:
        yield frames, counts
