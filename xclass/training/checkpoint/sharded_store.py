"""The checkpoints of a launch of several processes: every rank writes its rows, all at once, into one directory."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from torch import Tensor

from xclass.distributed import Group, OtherRankError
from xclass.errors import ArtefactError, XclassError
from xclass.io.files import atomic_directory, remove_directory, require_space
from xclass.io.manifest import read_manifest, verify_files, write_manifest
from xclass.io.tensors import as_bytes, rows_per_block, write_tensors
from xclass.runtime.progress import say
from xclass.training.checkpoint.resharding import TENSORS, Place, rows_file
from xclass.training.checkpoint.snapshot import SPARE_BYTES
from xclass.training.checkpoint.store import (
    FORMAT_VERSION,
    KEEP,
    KIND,
    MANIFEST,
    SMALL_FILES_BYTES,
    CheckpointRecord,
    CheckpointStore,
    Content,
    Loaded,
    RowNames,
    link_checkpoint,
    read_checkpoint,
    why,
)

WRITING = "writing a checkpoint"
READING = "reading a checkpoint"
SMALLER = 4


class ShardedStore(CheckpointStore):
    """As :class:`CheckpointStore`, on all ranks together: each reads and writes the rows that lie in it.

    The directory must be the same one for all of them. Training waits while a checkpoint is written. A checkpoint of
    any number of ranks, one included, is read. At the end of a run the last one is put together: it is then as one
    process would have written it.
    """

    def __init__(self, folder: Path, keep: int, group: Group) -> None:
        super().__init__(folder, keep, SPARE_BYTES)
        self.group, self.place = group, Place(group.rank, group.size)

    def begin(self, name: str, content: Content, best: bool = False) -> None:
        """Written at once; when it can't be, a line says so and training goes on."""
        try:
            self.save(name, content.tensors, content.state, best, content.rows)
        except ArtefactError as error:
            say(f"checkpoint {name} could not be written: {error.got}; training goes on")

    def _write(self, names: list[str], content: Content, blocks: object) -> None:
        """By all ranks, or by none: what fails on one is an ArtefactError on all, so that all go on or stop."""
        try:
            self._write_together(names, content)
        except OtherRankError as error:
            raise ArtefactError(f"{error.what}: {str(error.got).splitlines()[0]}") from None

    def _write_together(self, names: list[str], content: Content) -> None:
        group = self.group
        rows = {name for table in content.rows.values() for name in table}
        mine = {name: tensor for name, tensor in content.tensors.items() if name in rows}
        small = {name: tensor for name, tensor in content.tensors.items() if name not in rows}
        with contextlib.ExitStack() as stack:
            temporary = Path(group.on_first(_on_disk(lambda: self._open(names[0], stack)), WRITING))
            files = group.together(lambda: _write_file(temporary / rows_file(self.place), mine), WRITING)
            group.on_first(_on_disk(lambda: self._bind(temporary, small, files, content.state)), WRITING)
            group.on_first(_on_disk(lambda: self._publish(names, stack)), WRITING)

    def _open(self, name: str, stack: contextlib.ExitStack) -> str:
        self.folder.mkdir(parents=True, exist_ok=True)
        super().prune(max(self.keep - 1, 1))
        return str(stack.enter_context(atomic_directory(self.folder / name, replace=True)))

    def _bind(
        self, temporary: Path, small: dict[str, Tensor], files: list[dict[str, Any]], state: dict[str, Any]
    ) -> None:
        known = {rows_file(Place(rank, len(files))): entry for rank, entry in enumerate(files)}
        known[TENSORS] = _write_file(temporary / TENSORS, small)
        fields = {"state": state, "ranks": self.group.size}
        write_manifest(temporary, MANIFEST, KIND, FORMAT_VERSION, fields, known=known)

    def _publish(self, names: list[str], stack: contextlib.ExitStack) -> None:
        stack.close()
        for name in names[1:]:
            link_checkpoint(self.folder / names[0], self.folder / name)
        super().prune(self.keep)

    def load(self, into: Mapping[str, Tensor], others: str, rows: RowNames | None = None) -> Loaded | None:
        """The newest that all ranks can read; see :meth:`CheckpointStore.load`."""
        names = self.group.broadcast_value([path.name for path in self._numbered()], what=READING)
        damage: ArtefactError | None = None
        for number in range(len(names) - 1, -1, -1):
            path = self.folder / names[number]
            try:
                found = self.read(path, into, others, rows)
            except XclassError as error:
                whole = self.group.on_first(functools.partial(_is_whole, path), READING)
                if whole:
                    raise
                say(f"passing over a damaged checkpoint: {error}")
                damage = ArtefactError("all checkpoints are damaged", where=self.folder, got=str(error))
                continue
            self.group.on_first(functools.partial(self._remove, names[number + 1 :]), READING)
            return found
        if damage is not None:
            raise damage
        return None

    def read(self, path: Path, into: Mapping[str, Tensor], others: str, rows: RowNames | None = None) -> Loaded:
        """On all ranks, or on none."""
        found, holders = list[Loaded](), self._holders(into, rows or {})
        self.group.together(
            lambda: found.append(read_checkpoint(path, into, others, rows, self.place, holders)), READING
        )
        return found[0]

    def _holders(self, into: Mapping[str, Tensor], rows: RowNames) -> dict[str, list[int]]:
        """Name of each tensor of rows → the ranks that hold some of it."""
        names = [name for table in rows.values() for name in table]
        counts = self.group.gather(torch.tensor([[len(into[name]) for name in names]]), READING)
        return {name: [rank for rank, count in enumerate(counts) if count[0, n]] for n, name in enumerate(names)}

    def _remove(self, names: list[str]) -> None:
        for name in names:
            remove_directory(self.folder / name)

    def best(self) -> dict[str, Any] | None:
        """As rank 0 reads it."""
        state: dict[str, Any] | None = self.group.on_first(super().best, READING)
        return state

    def prune(self, keep: int) -> None:
        """On rank 0, for all."""
        self.group.on_first(lambda: super(ShardedStore, self).prune(keep), "removing checkpoints")

    def keep_final(self) -> None:
        """Of one process again. Called by rank 0, when the others have gone: it takes as long as a copy does."""
        best_or_last = super().final()
        if best_or_last is not None:
            join(best_or_last)
        CheckpointStore(self.folder, self.keep).keep_final()


def make_store(folder: Path, keep: int, group: Group) -> CheckpointStore:
    """The checkpoints of one process, or of a launch."""
    return CheckpointStore(folder, keep) if group.size == 1 else ShardedStore(folder, keep or KEEP, group)


def join(path: Path) -> None:
    """Write a checkpoint of several ranks as one process would have; nothing when it is so already. Atomic.

    Reads and writes all of it once, block by block.
    """
    manifest = read_manifest(path, MANIFEST, KIND, FORMAT_VERSION, CheckpointRecord)
    ranks = manifest.get("ranks", 1)
    if ranks == 1:
        return
    verify_files(path, manifest)
    with contextlib.ExitStack() as stack, atomic_directory(path, replace=True) as temporary:
        opened = [
            stack.enter_context(safetensors.safe_open(path / name, framework="pt"))
            for name in [TENSORS, *(rows_file(Place(rank, ranks)) for rank in range(ranks))]
        ]
        small = {name: opened[0].get_tensor(name) for name in opened[0].keys()}  # noqa: SIM118
        parts = {name: [file.get_slice(name) for file in opened[1:]] for name in opened[1].keys()}  # noqa: SIM118
        whole = {name: _whole(slices, slices[0]) for name, slices in parts.items()}
        parts = {name: [each for each in slices if each.get_shape()[0]] for name, slices in parts.items()}

        def blocks(name: str) -> Iterator[np.ndarray]:
            if name in small:
                return iter([as_bytes(small[name].contiguous())])
            return _interleaved(parts[name], whole[name])

        entry = write_tensors(temporary / TENSORS, small | whole, blocks)
        fields = {"state": manifest["state"]}
        write_manifest(temporary, MANIFEST, KIND, FORMAT_VERSION, fields, known={TENSORS: entry})


def _whole(slices: list[Any], like: Any) -> Tensor:
    rows = sum(each.get_shape()[0] for each in slices)
    return torch.empty(rows, *like.get_shape()[1:], dtype=like[:0].dtype, device="meta")


def _interleaved(slices: list[Any], whole: Tensor) -> Iterator[np.ndarray]:
    """Bytes of all rows in order: one of each rank in turn. Blocks are small: the allocator keeps several of them."""
    step = max(rows_per_block(whole) // (SMALLER * len(slices)), 1)
    for start in range(0, -(-len(whole) // len(slices)), step):
        parts = [each[start : start + step] for each in slices]
        block = parts[0].new_empty(sum(len(part) for part in parts), *whole.shape[1:])
        for rank, part in enumerate(parts):
            block[rank :: len(parts)] = part
        yield as_bytes(block)


def _on_disk(work: Callable[[], Any]) -> Callable[[], Any]:
    """The same work, of which the system's errors are told as ours: then the other ranks hear of them."""

    def run() -> Any:
        try:
            return work()
        except OSError as error:
            raise ArtefactError(f"a file can't be written: {why(error)}", where=error.filename) from None

    return run


def _write_file(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    try:
        require_space(path.parent, sum(tensor.nbytes for tensor in tensors.values()) + SMALL_FILES_BYTES)
        entry = write_tensors(path, tensors)
        with path.open("rb") as file:
            os.fsync(file.fileno())
    except (OSError, ArtefactError) as error:
        raise ArtefactError(f"a file can't be written: {why(error)}", where=path) from None
    return entry


def _is_whole(path: Path) -> bool:
    try:
        verify_files(path, read_manifest(path, MANIFEST, KIND, FORMAT_VERSION, CheckpointRecord))
    except XclassError:
        return False
    return True
