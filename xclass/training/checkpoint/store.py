"""Checkpoints: tensors in safetensors, the rest in a manifest with hashes. One appears whole or not at all.

``step-000000000123`` are numbered, the last ones are kept; ``best`` has the best validated weights: the same files as
the numbered one of its step, linked. A finished run keeps the one that has its weights. All hold everything that
training goes on from: rows, optimiser state, dense layers, what the sampler has learned, the position.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import pydantic
from torch import Tensor

from xclass.errors import ArtefactError, XclassError
from xclass.io.files import atomic_directory, remove_directory, remove_leftovers, require_space
from xclass.io.manifest import Manifest, read_manifest, verify_files, write_manifest
from xclass.io.tensors import Blocks, load_checked, write_tensors
from xclass.runtime.progress import say
from xclass.training.checkpoint.resharding import TENSORS, WHOLE, Holders, Place, Wanted, read_rows, rows_file
from xclass.training.checkpoint.snapshot import SPARE_BYTES, Cancelled, Snapshot
from xclass.training.state import Position

MANIFEST = "checkpoint.json"
KIND = "checkpoint"
FORMAT_VERSION = 1
BEST = "best"
KEEP = 2
SMALL_FILES_BYTES = 1 << 20
Found = TypeVar("Found")
RowNames = Mapping[str, list[str]]


class CheckpointRecord(Manifest):
    """The manifest of a checkpoint: plain values, and of how many ranks it is."""

    state: dict[str, Any]
    ranks: int = pydantic.Field(1, ge=1, lt=1 << 16)

    @pydantic.model_validator(mode="after")
    def _names_its_files(self) -> CheckpointRecord:
        ranks = range(self.ranks if self.ranks > 1 else 0)
        missing = {TENSORS, *(rows_file(Place(rank, self.ranks)) for rank in ranks)} - self.files.keys()
        if missing:
            raise ValueError(f"files must have {min(missing)}")
        return self


class Content(NamedTuple):
    """What goes into a checkpoint.

    tensors: everything by name; the tensors themselves.
    rows: table → the names of the tensors that hold its rows, see
    :class:`xclass.training.checkpoint.snapshot.Snapshot`. state: plain values.
    """

    tensors: Mapping[str, Tensor]
    rows: RowNames
    state: dict[str, Any]


class Loaded(NamedTuple):
    """What a checkpoint held beside the tensors that were loaded in place."""

    path: Path
    state: dict[str, Any]
    others: dict[str, Tensor]


class CheckpointStore:
    """The checkpoints of one run. As a context it waits at its end for the one that is being written; a
    KeyboardInterrupt gives that one up.

    While one is written there are at most max(keep, 2) numbered ones, that one included, and the best.

    Args:
        folder: their directory.
        keep: how many numbered ones stay.
        spare_bytes: memory for rows that change while one is being written.
    """

    def __init__(self, folder: Path, keep: int = KEEP, spare_bytes: int = SPARE_BYTES) -> None:
        self.folder, self.keep, self.spare_bytes = Path(folder), keep, spare_bytes
        self._writing: _Writing | None = None

    def __enter__(self) -> CheckpointStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writing is not None and error is not None and not isinstance(error, Exception):
            self._writing.snapshot.cancel()
        self.wait()

    @property
    def busy(self) -> bool:
        """Whether one is being written."""
        return self._writing is not None and self._writing.thread.is_alive()

    def save(
        self,
        name: str,
        tensors: Mapping[str, Tensor],
        state: dict[str, Any],
        best: bool = False,
        rows: RowNames | None = None,
    ) -> Path:
        """Write a checkpoint now, after the one that is being written; when it is whole, older ones go.

        Args:
            name: of a numbered one, see :func:`checkpoint_name`.
            tensors, state: what it holds.
            best: it becomes ``best``, too.
            rows: table → the names of the tensors that hold its rows.

        Raises:
            ArtefactError: it can't be written; what was there before is untouched.
        """
        self.wait()
        try:
            self._write(_names(name, best), Content(tensors, rows or {}, state), None)
        except (OSError, ArtefactError) as error:
            raise ArtefactError(
                "this checkpoint can't be written",
                where=self.folder / name,
                got=why(error),
                do="free some space, then run the same command with --resume: it goes on from the last whole one",
            ) from None
        return self.folder / name

    def begin(self, name: str, content: Content, best: bool = False) -> None:
        """Write a checkpoint beside training, after the one that is being written; its content is that of now.

        Rows may then change when :meth:`before_push` was told of them, or after :meth:`wait`. When it can't be written,
        a line says so and what was there before is untouched.
        """
        self.wait()
        self._writing = _Writing(self, _names(name, best), content)
        self._writing.thread.start()

    def before_push(self, ids: Mapping[str, Tensor]) -> None:
        """Rows (table → distinct and rising numbers) are about to change."""
        if self._writing is None:
            return
        if self._writing.thread.is_alive():
            self._writing.snapshot.before_push(ids)
        else:
            self.wait()

    def wait(self) -> None:
        """Until nothing is being written. Raises what nobody foresaw."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.thread.join()
            if writing.error is not None:
                raise writing.error

    def _write(self, names: list[str], content: Content, blocks: Blocks | None) -> None:
        """Under the first name, and linked under the others. Room is made first, but the newest whole one stays."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.prune(max(self.keep - 1, 1))
        size = sum(tensor.nbytes for tensor in content.tensors.values())
        require_space(self.folder, size + SMALL_FILES_BYTES)
        with atomic_directory(self.folder / names[0], replace=True) as temporary:
            entry = write_tensors(temporary / TENSORS, content.tensors, blocks)
            fields = {"state": content.state}
            write_manifest(temporary, MANIFEST, KIND, FORMAT_VERSION, fields, known={TENSORS: entry})
        for name in names[1:]:
            link_checkpoint(self.folder / names[0], self.folder / name)
        self.prune(self.keep)

    def load(self, into: Mapping[str, Tensor], others: str, rows: RowNames | None = None) -> Loaded | None:
        """The newest numbered checkpoint that is whole, into existing tensors; None when there is none.

        Args:
            into: overwritten.
            others: tensors whose names begin so are returned.
            rows: as :meth:`save` takes it; for checkpoints of several ranks.

        Hashes are made while reading. Newer ones that are damaged are named on stderr and removed.

        Raises:
            ArtefactError: there are checkpoints, and all are damaged; or they are of another model.
        """
        found = self._first_whole(lambda path: self.read(path, into, others, rows))
        if found is not None:
            for path in self._numbered():
                if path.name > found.path.name:
                    remove_directory(path)
        return found

    def read(self, path: Path, into: Mapping[str, Tensor], others: str, rows: RowNames | None = None) -> Loaded:
        """One of them into existing tensors, see :func:`read_checkpoint`."""
        return read_checkpoint(path, into, others, rows)

    def newest(self) -> Path | None:
        """The newest numbered checkpoint that is whole; damaged ones are named on stderr and passed over.

        Raises:
            ArtefactError: there are checkpoints, and all are damaged.
        """
        return self._first_whole(_verified)

    def _first_whole(self, read: Callable[[Path], Found]) -> Found | None:
        damage: ArtefactError | None = None
        for path in reversed(self._numbered()):
            try:
                return read(path)
            except ArtefactError as error:
                if _is_whole(path):
                    raise
                say(f"passing over a damaged checkpoint: {error}")
                damage = error
        if damage is not None:
            raise damage
        return None

    def best(self) -> dict[str, Any] | None:
        """The plain values of the checkpoint with the best weights; None when there is none."""
        try:
            return read_state(self.folder / BEST)
        except ArtefactError:
            return None

    def final(self) -> Path | None:
        """Of a finished run, the checkpoint with its weights and the state they were trained with; None without one.

        Raises:
            ArtefactError: it is damaged.
        """
        best = self.folder / BEST
        return _verified(best) if best.exists() else self.newest()

    def prune(self, keep: int) -> None:
        """Of the numbered ones only the last ``keep`` stay."""
        for old in self._numbered()[:-keep]:
            remove_directory(old)

    def keep_final(self) -> None:
        """Of a run that has been finished only the checkpoint with its weights stays, under its number. Can be done
        again at any point."""
        remove_leftovers(self.folder)
        best = self.folder / BEST
        if not best.exists():
            self.prune(1)
            return
        best_step = read_position(best).step
        for path in self._numbered():
            remove_directory(path)
        os.rename(best, self.folder / checkpoint_name(best_step))

    def _numbered(self) -> list[Path]:
        return sorted(self.folder.glob("step-*")) if self.folder.is_dir() else []


class _Writing:
    """A checkpoint that is being written in a thread."""

    error: BaseException | None = None

    def __init__(self, store: CheckpointStore, names: list[str], content: Content) -> None:
        self.store, self.names, self.content = store, names, content
        self.snapshot = Snapshot(content.tensors, content.rows, store.spare_bytes)
        self.thread = threading.Thread(target=self._run, name="xclass-checkpoint")

    def _run(self) -> None:
        try:
            self.store._write(self.names, self.content, self.snapshot.blocks)
        except Cancelled:
            pass
        except (OSError, ArtefactError) as error:
            reason = why(error)
            last = self.store._numbered()[-1:]
            say(
                f"checkpoint {self.names[-1]} could not be written: {reason}; training goes on, and "
                + (f"{last[0].name} stays the last whole one" if last else "there is no whole one yet")
            )
        except BaseException as error:  # noqa: BLE001  wait() raises it
            self.error = error
        finally:
            self.snapshot.close()


def checkpoint_name(step: int) -> str:
    """The directory's name; names sort by step.

    >>> checkpoint_name(12)
    'step-000000000012'
    """
    return f"step-{step:012d}"


def read_state(path: Path) -> dict[str, Any]:
    """The plain values of a checkpoint."""
    state: dict[str, Any] = read_manifest(path, MANIFEST, KIND, FORMAT_VERSION, CheckpointRecord)["state"]
    return state


def read_position(path: Path) -> Position:
    """Where training stood at a checkpoint."""
    return Position.read(read_state(path), path / MANIFEST)


def read_checkpoint(
    path: Path,
    into: Mapping[str, Tensor],
    others: str,
    rows: RowNames | None = None,
    place: Place = WHOLE,
    holders: Holders | None = None,
) -> Loaded:
    """A checkpoint into existing tensors; its hash is made meanwhile.

    Args:
        path: of one process or of any number of ranks.
        into: overwritten; of tables the rows that lie at ``place``.
        others: tensors whose names begin so are returned.
        rows: table → names of the tensors that hold its rows.
        place: which of how many ranks reads.
        holders: name of each tensor of rows → the ranks that hold some of it; all of them unless given.

    Raises:
        ArtefactError: it is damaged (what is in ``into`` by then is worthless), or of another model.
    """
    manifest = _read_manifest(path)
    if manifest.get("ranks", 1) > 1 or place.ranks > 1:
        names = {name for table in (rows or {}).values() for name in table}
        known = holders or {name: list(range(place.ranks)) for name in names}
        return Loaded(path, manifest["state"], read_rows(path, manifest, Wanted(into, others, names, place, known)))
    returned = load_checked(path / TENSORS, into, others, manifest["files"][TENSORS]["sha256"])
    return Loaded(path, manifest["state"], returned)


def _read_manifest(path: Path) -> dict[str, Any]:
    return read_manifest(path, MANIFEST, KIND, FORMAT_VERSION, CheckpointRecord)


def _verified(path: Path) -> Path:
    verify_files(path, _read_manifest(path))
    return path


def _is_whole(path: Path) -> bool:
    try:
        _verified(path)
    except XclassError:
        return False
    return True


def why(error: OSError | ArtefactError) -> str:
    """What the system, or :func:`require_space`, said."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return f"{error.what}: {error.got}, wanted {error.wanted}" if error.wanted else error.what


def _names(name: str, best: bool) -> list[str]:
    """The best one first: a numbered one says which step is the best, and must not come before it."""
    return [BEST, name] if best else [name]


def link_checkpoint(source: Path, target: Path) -> None:
    """The same checkpoint under another name, without a copy of its files where the system can."""
    with atomic_directory(target, replace=True) as temporary:
        for file in (*(path for path in sorted(source.iterdir()) if path.name != MANIFEST), source / MANIFEST):
            _link(file, temporary / file.name)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
