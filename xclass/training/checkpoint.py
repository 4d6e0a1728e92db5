"""Checkpoints: tensors in safetensors, the rest in a manifest with hashes. One appears whole or not at all.

``step-000000000123`` are numbered, the last ones are kept; ``best`` has the best validated weights: the same files as the
numbered one of its step, linked. A finished run keeps the one that has its weights. All hold everything that training
goes on from: rows, optimiser state, dense layers, what the sampler has learned, the position.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from torch import Tensor

from xclass.errors import ArtefactError, XclassError
from xclass.manifest import (
    atomic_directory,
    read_manifest,
    remove_leftovers,
    require_space,
    verify_files,
    write_manifest,
)
from xclass.progress import say
from xclass.tensorfile import Blocks, load_tensors, write_tensors
from xclass.training.snapshot import SPARE_BYTES, Cancelled, Snapshot

MANIFEST = "checkpoint.json"
KIND = "checkpoint"
FORMAT_VERSION = 1
TENSORS = "tensors.safetensors"
BEST = "best"
KEEP = 2
SMALL_FILES_BYTES = 1 << 20


class Content(NamedTuple):
    """What goes into a checkpoint.

    tensors: everything by name; the tensors themselves.
    rows: table → the names of the tensors that hold its rows, see :class:`xclass.training.snapshot.Snapshot`.
    state: plain values.
    """

    tensors: Mapping[str, Tensor]
    rows: Mapping[str, list[str]]
    state: dict[str, Any]


class Loaded(NamedTuple):
    """What a checkpoint held beside the tensors that were loaded in place."""

    path: Path
    state: dict[str, Any]
    others: dict[str, Tensor]


class CheckpointStore:
    """The checkpoints of one run. As a context it waits at its end for the one that is being written.

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
        if error is None or isinstance(error, Exception):
            self.wait()
        else:
            self.cancel()

    @property
    def busy(self) -> bool:
        """Whether one is being written."""
        return self._writing is not None and self._writing.thread.is_alive()

    def save(self, name: str, tensors: Mapping[str, Tensor], state: dict[str, Any], best: bool = False) -> Path:
        """Write a checkpoint now; when it is whole, numbered ones older than the last ``keep`` go.

        Args:
            name: of a numbered one, see :func:`checkpoint_name`.
            tensors, state: what it holds.
            best: it becomes ``best``, too.

        Raises:
            ArtefactError: it can't be written; what was there before is untouched.
        """
        self.cancel()
        content = Content(tensors, {}, state)
        try:
            self._write(_names(name, best), content, None)
        except OSError as error:
            raise ArtefactError(
                "this checkpoint can't be written",
                where=error.filename or self.folder / name,
                got=error.strerror,
                do="free some space, then run the same command with --resume: it goes on from the last whole one",
            ) from None
        return self.folder / name

    def begin(self, name: str, content: Content, best: bool = False) -> None:
        """Write a checkpoint beside training: its content is that of now. Waits for one that is still being written.

        From here on :meth:`before_push` must be called before rows change. When it can't be written, a line says so
        and what was there before is untouched.
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

    def cancel(self) -> None:
        """What is being written is given up and removed."""
        if self._writing is not None:
            self._writing.snapshot.cancel()
            self.wait()

    def _write(self, names: list[str], content: Content, blocks: Blocks | None) -> None:
        """Under the first name, and linked under the others; then what is older goes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        size = sum(tensor.nbytes for tensor in content.tensors.values())
        require_space(self.folder, size + SMALL_FILES_BYTES)
        with atomic_directory(self.folder / names[0], replace=True) as temporary:
            entry = write_tensors(temporary / TENSORS, content.tensors, blocks)
            fields = {"state": content.state}
            write_manifest(temporary, MANIFEST, KIND, FORMAT_VERSION, fields, known={TENSORS: entry})
        for name in names[1:]:
            with atomic_directory(self.folder / name, replace=True) as temporary:
                for file in (TENSORS, MANIFEST):
                    _link(self.folder / names[0] / file, temporary / file)
        for old in self._numbered()[: -self.keep]:
            self._remove(old)

    def load(self, into: Mapping[str, Tensor], others: str) -> Loaded | None:
        """The newest numbered checkpoint that is whole, into existing tensors; None when there is none.

        Args:
            into: overwritten.
            others: tensors whose names begin so are returned.

        Hashes are made while reading. Damaged ones are named on stderr and passed over.

        Raises:
            ArtefactError: there are checkpoints, and all are damaged; or they are of another model.
        """
        return self._first_whole(lambda path: read_checkpoint(path, into, others))

    def newest(self) -> Path | None:
        """The newest numbered checkpoint that is whole; damaged ones are named on stderr and passed over.

        Raises:
            ArtefactError: there are checkpoints, and all are damaged.
        """
        return self._first_whole(_verified)

    def _first_whole(self, read: Any) -> Any:
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

    def final(self) -> Path | None:
        """Of a finished run, the checkpoint with its weights and the state they were trained with; None without one.

        Raises:
            ArtefactError: it is damaged.
        """
        path = self._final()
        return None if path is None else _verified(path)

    def _final(self) -> Path | None:
        if (self.folder / BEST).exists():
            return self.folder / BEST
        return self._numbered()[-1] if self._numbered() else None

    def drop_best(self) -> None:
        """The last weights were chosen."""
        self._remove(self.folder / BEST)

    def keep_final(self) -> None:
        """Of a run that has been finished only the checkpoint with its weights stays."""
        final = self._final()
        remove_leftovers(self.folder)
        for path in [*self._numbered(), self.folder / BEST]:
            if path != final:
                self._remove(path)

    def clean(self) -> None:
        """Remove what a process that was killed while writing left half done."""
        remove_leftovers(self.folder)

    def _numbered(self) -> list[Path]:
        return sorted(self.folder.glob("step-*")) if self.folder.is_dir() else []

    def _remove(self, path: Path) -> None:
        """First out of sight: what is half removed is no damaged checkpoint."""
        if path.exists():
            hidden = Path(tempfile.mkdtemp(dir=self.folder, prefix=f".{path.name}.", suffix=".old"))
            os.rename(path, hidden / "old")
            shutil.rmtree(hidden, ignore_errors=True)


class _Writing:
    """A checkpoint that is being written in a thread."""

    def __init__(self, store: CheckpointStore, names: list[str], content: Content) -> None:
        self.store, self.names, self.error = store, names, None
        self.snapshot = Snapshot(content.tensors, content.rows, store.spare_bytes)
        self.content = content
        self.thread = threading.Thread(target=self._run, name="xclass-checkpoint")

    error: BaseException | None

    def _run(self) -> None:
        try:
            self.store._write(self.names, self.content, self.snapshot.blocks)
        except Cancelled:
            pass
        except (OSError, ArtefactError) as error:
            reason = error.strerror if isinstance(error, OSError) else error.what
            last = self.store._numbered()[-1:]
            say(
                f"checkpoint {self.names[-1]} could not be written: {reason}; training goes on, and "
                + (f"{last[0].name} stays the last whole one" if last else "there is no whole one yet")
            )
        except BaseException as error:
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
    state: dict[str, Any] = read_manifest(path, MANIFEST, KIND, FORMAT_VERSION)["state"]
    return state


def read_checkpoint(path: Path, into: Mapping[str, Tensor], others: str) -> Loaded:
    """A checkpoint into existing tensors; its hash is made meanwhile.

    Raises:
        ArtefactError: it is damaged (what is in ``into`` by then is worthless), or of another model.
    """
    manifest = read_manifest(path, MANIFEST, KIND, FORMAT_VERSION)
    returned = load_tensors(path / TENSORS, into, others, manifest["files"][TENSORS]["sha256"])
    return Loaded(path, manifest["state"], returned)


def _verified(path: Path) -> Path:
    verify_files(path, read_manifest(path, MANIFEST, KIND, FORMAT_VERSION))
    return path


def _is_whole(path: Path) -> bool:
    try:
        _verified(path)
    except XclassError:
        return False
    return True


def _names(name: str, best: bool) -> list[str]:
    """The best one first: a numbered one says where it is, and so must not come before it."""
    return [BEST, name] if best else [name]


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
