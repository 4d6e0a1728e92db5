"""Checkpoints: tensors in safetensors, the rest in a manifest with hashes. One appears whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import save_file
from torch import Tensor

from xclass.errors import ArtefactError
from xclass.manifest import atomic_directory, read_manifest, require_space, verify_files, write_manifest
from xclass.progress import say

MANIFEST = "checkpoint.json"
KIND = "checkpoint"
FORMAT_VERSION = 1
TENSORS = "tensors.safetensors"
KEEP = 2
COPY_ROWS = 1 << 16


class CheckpointStore:
    """The checkpoints of one run: ``step-000000123`` directories, the last two kept, and ``best``."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def save(self, name: str, tensors: dict[str, Tensor], state: dict[str, Any]) -> Path:
        """Write a checkpoint; when it is whole, numbered ones older than the last two go.

        Raises:
            ArtefactError: the disk has no room; what was there before is untouched.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        require_space(self.folder, sum(tensor.nbytes for tensor in tensors.values()) + (1 << 20))
        with atomic_directory(self.folder / name, replace=True) as temporary:
            save_file(tensors, temporary / TENSORS)
            write_manifest(temporary, MANIFEST, KIND, FORMAT_VERSION, {"state": state})
        for old in self._numbered()[:-KEEP]:
            shutil.rmtree(old, ignore_errors=True)
        return self.folder / name

    def final(self) -> Path | None:
        """Of a finished run, the checkpoint with the weights that it chose: the best one, where it is kept, else the
        newest. None when there is none."""
        best = self.folder / "best"
        if not best.exists():
            return self.newest()
        verify_files(best, read_manifest(best, MANIFEST, KIND, FORMAT_VERSION))
        return best

    def newest(self) -> Path | None:
        """The newest numbered checkpoint that is whole; damaged ones are named on stderr and passed over.

        Raises:
            ArtefactError: there are checkpoints, and all are damaged.
        """
        damage: ArtefactError | None = None
        for path in reversed(self._numbered()):
            try:
                verify_files(path, read_manifest(path, MANIFEST, KIND, FORMAT_VERSION))
            except ArtefactError as error:
                say(f"passing over a damaged checkpoint: {error}")
                damage = error
            else:
                return path
        if damage is not None:
            raise damage
        return None

    def _numbered(self) -> list[Path]:
        return sorted(self.folder.glob("step-*")) if self.folder.is_dir() else []


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


def read_tensors(path: Path, prefix: str) -> dict[str, Tensor]:
    """The stored tensors whose names begin so.

    Raises:
        ArtefactError: cut file.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys() if name.startswith(prefix)}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise ArtefactError("this file can't be read: cut or altered", where=path, got=str(error)) from None


def load_tensors(path: Path, into: dict[str, Tensor], but: str | None = None) -> None:
    """Copy the stored tensors into existing ones, block by block: never a second copy of a table in memory.

    Names that begin with ``but`` are passed over.

    Raises:
        ArtefactError: cut file, missing or surplus names, other shapes or dtypes. Checked before anything is copied.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            stored_names = {name for name in file.keys() if but is None or not name.startswith(but)}  # noqa: SIM118
            _check_names(path, stored_names, set(into))
            for name, target in into.items():
                stored = file.get_slice(name)
                if list(stored.get_shape()) != list(target.shape):
                    raise ArtefactError(
                        f'tensor "{name}" has another shape',
                        where=path,
                        wanted=list(target.shape),
                        got=stored.get_shape(),
                        do="use the dataset and the configuration that this run was trained with",
                    )
            for name, target in into.items():
                for rows, block in _blocks(file, name, target):
                    rows.copy_(block)
    except (safetensors.SafetensorError, OSError) as error:
        raise ArtefactError("this file can't be read: cut or altered", where=path, got=str(error)) from None


def _blocks(file: Any, name: str, target: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    if target.dim() == 0:
        yield target, file.get_tensor(name)
        return
    stored = file.get_slice(name)
    for start in range(0, len(target), COPY_ROWS):
        stop = min(start + COPY_ROWS, len(target))
        yield target[start:stop], stored[start:stop]


def _check_names(path: Path, stored: set[str], wanted: set[str]) -> None:
    if stored != wanted:
        raise ArtefactError(
            "this file holds another model",
            where=path,
            wanted=", ".join(sorted(wanted - stored)) or "no more tensors",
            got=", ".join(sorted(stored - wanted)) or "fewer tensors",
            do="use the configuration that this run was trained with",
        )
