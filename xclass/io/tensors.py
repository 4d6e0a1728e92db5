"""Files in the safetensors format, written and read in blocks: never a second copy of a tensor in memory.

The format: 8 bytes with the length of a header, the header in JSON (name → dtype, shape, first and last byte), then the
tensors' bytes. The hash is made of the bytes as they pass, so that nothing is read a second time for it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import safetensors
import torch
from torch import Tensor

from xclass.errors import ArtefactError
from xclass.runtime.memory import will_read

BLOCK_BYTES = 1 << 24
SYNC_BYTES = 1 << 28
MAX_HEADER_BYTES = 100_000_000  # what other readers of the format accept
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}
Blocks = Callable[[str], Iterable[np.ndarray]]


class Entry(NamedTuple):
    """Where a tensor lies: bytes ``start … stop`` after the header."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


def as_bytes(tensor: Tensor) -> np.ndarray:
    """uint8 (first size, bytes of a row): the tensor's own memory. It must be contiguous, and on a CPU."""
    if not tensor.is_contiguous():
        raise ValueError("a tensor that is not contiguous has no rows of bytes")
    rows = tensor.shape[0] if tensor.dim() else 1
    flat: np.ndarray = tensor.detach().reshape(-1).view(torch.uint8).numpy()
    return flat.reshape(rows, len(flat) // rows if rows else 0)


def blocks_of(tensor: Tensor) -> Iterator[np.ndarray]:
    """A tensor's bytes in order, block by block; from an accelerator through main memory."""
    for start, stop in _row_blocks(tensor):
        part = tensor[start:stop] if tensor.dim() else tensor
        will_read(part)
        yield as_bytes(part.detach().cpu().contiguous())


def _row_blocks(tensor: Tensor) -> Iterator[tuple[int, int]]:
    rows = tensor.shape[0] if tensor.dim() else 1
    return itertools.pairwise([*range(0, rows, rows_per_block(tensor)), rows])


def rows_per_block(tensor: Tensor) -> int:
    """How many rows make a block."""
    rows = tensor.shape[0] if tensor.dim() else 1
    return max(BLOCK_BYTES // max(tensor.nbytes // max(rows, 1), 1), 1)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], blocks: Blocks | None = None) -> dict[str, Any]:
    """Write a file; returns its manifest entry ``{"bytes": …, "sha256": …}``.

    Args:
        path: written to in place; give a name that is renamed later.
        tensors: their types and shapes make the header; as a rule also where the bytes come from.
        blocks: name → the bytes instead, in order.

    Smaller tensors come first: rows of a snapshot that change before their turn are kept aside for less time.

    What has been written is synced every 256 MiB and leaves the system's cache: a file as large as memory would push
    everything else out of it, and the last sync would take long.
    """
    order, digest = order_of(tensors), hashlib.sha256()
    header = _header(tensors, order)
    with path.open("wb", buffering=0) as file:
        written = synced = _put(file, header, digest)
        for name in order:
            for block in blocks_of(tensors[name]) if blocks is None else blocks(name):
                written += _put(file, block.data, digest)
                if written - synced >= SYNC_BYTES:
                    _flush(file, synced, written)
                    synced = written
    wanted = len(header) + sum(tensor.nbytes for tensor in tensors.values())
    assert written == wanted, f"{written} bytes came, {wanted} were announced"
    return {"bytes": written, "sha256": digest.hexdigest()}


def order_of(tensors: Mapping[str, Tensor]) -> list[str]:
    """Their names in the order in which they are written."""
    return sorted(tensors, key=lambda name: (-tensors[name].element_size(), tensors[name].nbytes, name))


def _header(tensors: Mapping[str, Tensor], order: list[str]) -> bytes:
    """Padded with spaces, so that what follows lies at a multiple of 8; larger elements first."""
    fields, start = dict[str, Any](), 0
    for name in order:
        tensor, stop = tensors[name], start + tensors[name].nbytes
        fields[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _put(file: Any, data: Any, digest: Any) -> int:
    """All of ``data``: a raw file may take a part at a time."""
    rest = memoryview(data)
    rest = rest.cast("B") if rest.nbytes else memoryview(b"")
    digest.update(rest)
    size = len(rest)
    while len(rest):
        rest = rest[file.write(rest) :]
    return size


def _flush(file: Any, start: int, stop: int) -> None:
    os.fsync(file.fileno())
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), start, stop - start, os.POSIX_FADV_DONTNEED)


def read_header(path: Path) -> dict[str, Entry]:
    """Where every tensor of a file lies.

    Raises:
        ArtefactError: no such file, or its header is damaged.
    """
    with _opened(path) as (_, entries, _):
        return entries


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, Entry], int]]:
    """(file, its tensors in the order of their bytes, where the first one's lie)."""
    try:
        with path.open("rb", buffering=0) as file:
            yield file, *_read_header(path, file)
    except (OSError, EOFError) as error:
        raise _unreadable(path, getattr(error, "strerror", None) or str(error)) from None


def _read_header(path: Path, file: Any) -> tuple[dict[str, Entry], int]:
    """Every byte behind the header belongs to a tensor."""
    length, size = int.from_bytes(file.read(8), "little"), os.fstat(file.fileno()).st_size
    if not 0 < length <= min(MAX_HEADER_BYTES, size - 8):
        raise _unreadable(path, f"a header of {length} bytes in a file of {size}")
    text = bytearray(length)
    _read_exactly(file, memoryview(text))
    try:
        entries = {name: _entry(field) for name, field in json.loads(text).items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(path, f"its header: {error}") from None
    ordered = dict(sorted(entries.items(), key=lambda named: (named[1].start, named[1].stop)))
    ends = [0, *(entry.stop for entry in ordered.values())]
    if [entry.start for entry in ordered.values()] != ends[:-1] or ends[-1] != size - 8 - length:
        raise _unreadable(path, f"{size - 8 - length} bytes of tensors where its header has {ends[-1]}")
    return ordered, 8 + length


def _entry(field: dict[str, Any]) -> Entry:
    dtype, shape = DTYPES[field["dtype"]], tuple(int(size) for size in field["shape"])
    start, stop = map(int, field["data_offsets"])
    if stop - start != math.prod(shape) * dtype.itemsize:
        raise ValueError("a tensor of another size than its shape")
    return Entry(dtype, shape, start, stop)


def load_tensors(path: Path, into: Mapping[str, Tensor], but: str | None = None) -> None:
    """Copy the stored tensors into existing ones of the same names, shapes and types, straight from the file.

    Args:
        path: of the file.
        into: overwritten: in memory, mapped, or on an accelerator.
        but: tensors whose names begin so are passed over; they are not read.

    Raises:
        ArtefactError: cut file; missing or surplus names, other shapes or types, before anything is copied.
    """
    with _opened(path) as (file, entries, first):
        wanted = {name: entry for name, entry in entries.items() if but is None or not name.startswith(but)}
        _check_same(path, wanted, into)
        for name, entry in wanted.items():
            file.seek(first + entry.start)
            _read_tensor(file, into[name], None)


def load_checked(path: Path, into: Mapping[str, Tensor], others: str, sha256: str) -> dict[str, Tensor]:
    """All of a file: into existing tensors, as :func:`load_tensors` does, and those whose names begin with ``others``
    returned. Its hash is made of the bytes as they come.

    Raises:
        ArtefactError: as there; or the hash is another: what is in ``into`` by then is worthless.
    """
    with _opened(path) as (file, entries, first), _Digest() as digest:
        _check_same(path, {name: entry for name, entry in entries.items() if not name.startswith(others)}, into)
        made = {
            name: torch.empty(entry.shape, dtype=entry.dtype)
            for name, entry in entries.items()
            if name.startswith(others)
        }
        file.seek(0)
        digest.update(file.read(first))
        for name in entries:
            _read_tensor(file, made[name] if name in made else into[name], digest)
        if digest.hexdigest() != sha256:
            raise _altered(path)
    return made


def checked_blocks(path: Path, sha256: str) -> Iterator[tuple[str, Entry, int, Tensor]]:
    """All of a file as (name, where it lies, first row, rows), block by block; a block is good until the next one.

    Raises:
        ArtefactError: cut file; or, after the last block, its hash is another and what was read is worthless.
    """
    with _opened(path) as (file, entries, first), _Digest() as digest:
        file.seek(0)
        digest.update(file.read(first))
        for name, entry in entries.items():
            like = torch.empty(entry.shape, dtype=entry.dtype, device="meta")
            for start, stop in _row_blocks(like):
                block = torch.empty((stop - start, *entry.shape[1:]) if entry.shape else (), dtype=entry.dtype)
                _read_tensor(file, block, digest)
                yield name, entry, start, block
        if digest.hexdigest() != sha256:
            raise _altered(path)


def read_tensors(path: Path, prefix: str = "") -> dict[str, Tensor]:
    """The stored tensors whose names begin so, in memory.

    Raises:
        ArtefactError: cut file.
    """
    made = dict[str, Tensor]()
    with _opened(path) as (file, entries, first):
        for name, entry in entries.items():
            if name.startswith(prefix):
                made[name] = torch.empty(entry.shape, dtype=entry.dtype)
                file.seek(first + entry.start)
                _read_tensor(file, made[name], None)
    return made


def mapped_tensors(path: Path, prefix: str = "") -> dict[str, Tensor]:
    """The stored tensors whose names begin so, memory-mapped: a page is read when it is touched, and can be given up.

    Raises:
        ArtefactError: no such file, or a damaged one.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys() if name.startswith(prefix)}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise _unreadable(path, error) from None


def _check_same(path: Path, stored: Mapping[str, Entry], wanted: Mapping[str, Tensor]) -> None:
    if stored.keys() != wanted.keys():
        raise ArtefactError(
            "this file holds another model",
            where=path,
            wanted=", ".join(sorted(wanted.keys() - stored.keys())) or "no more tensors",
            got=", ".join(sorted(stored.keys() - wanted.keys())) or "fewer tensors",
            do="use the configuration that this run was trained with",
        )
    for name, entry in stored.items():
        target = wanted[name]
        if (entry.shape, entry.dtype) != (tuple(target.shape), target.dtype):
            raise ArtefactError(
                f'tensor "{name}" has another shape or type',
                where=path,
                wanted=f"{NAMES[target.dtype]} {list(target.shape)}",
                got=f"{NAMES[entry.dtype]} {list(entry.shape)}",
                do="use the dataset and the configuration that this run was trained with",
            )


def _read_tensor(file: Any, target: Tensor, digest: _Digest | None) -> None:
    direct = target.device.type == "cpu" and target.is_contiguous()
    for start, stop in _row_blocks(target):
        part = target[start:stop] if target.dim() else target
        block = part if direct else torch.empty(part.shape, dtype=part.dtype)
        data = as_bytes(block).reshape(-1).data
        _read_exactly(file, data)
        if digest is not None:
            digest.update(data)
        if not direct:
            part.copy_(block)


def _read_exactly(file: Any, data: memoryview) -> None:
    while len(data):
        count = file.readinto(data)
        if not count:
            raise EOFError("it ends too soon")
        data = data[count:]


class _Digest:
    """SHA-256 of what is read, made in a thread while the next block comes from the disk."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._thread = ThreadPoolExecutor(1, "xclass-hash")
        self._last: Future[None] | None = None

    def __enter__(self) -> _Digest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()

    def update(self, data: bytes | memoryview) -> None:
        """After the block before; ``data`` must stay as it is until the next call."""
        self._wait()
        self._last = self._thread.submit(self._digest.update, data)

    def hexdigest(self) -> str:
        """Of everything so far."""
        self._wait()
        return self._digest.hexdigest()

    def _wait(self) -> None:
        if self._last is not None:
            self._last.result()


def _altered(path: Path) -> ArtefactError:
    return ArtefactError(
        "this file was altered: its hash is not the manifest's",
        where=path,
        do="restore it, or make the directory again",
    )


def _unreadable(path: Path, reason: object) -> ArtefactError:
    return ArtefactError("this file can't be read: cut or altered", where=path, got=reason)
