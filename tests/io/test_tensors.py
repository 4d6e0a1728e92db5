"""Tensor files: the safetensors format both ways, hashes as they pass, every damage named."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from xclass.errors import ArtefactError
from xclass.io import tensors as tensorfile
from xclass.io.tensors import load_checked, load_tensors, read_header, read_tensors, write_tensors
from xclass.runtime.rng import torch_generator


def some() -> dict[str, Tensor]:
    """Every type, 0 to 3 dimensions, empty ones, larger than a block."""
    generator = torch_generator(0, "test")
    rows = torch.randn(301, 7, generator=generator)
    return {
        "rows": rows,
        "half": rows.to(torch.bfloat16),
        "bits": (rows > 0)[:, 0].contiguous(),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "step": torch.tensor(3.5, dtype=torch.float64),
        "none": torch.empty(0, 4),
        "numbers": torch.arange(24).view(2, 3, 4),
        "sampler.seen": torch.arange(9, dtype=torch.int32),
    }


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype and torch.equal(first[name], second[name]) for name in first
    )


def empty(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorfile, "BLOCK_BYTES", 100)
    monkeypatch.setattr(tensorfile, "SYNC_BYTES", 1000)


def test_the_library_reads_what_is_written_and_the_entry_is_that_of_the_file(tmp_path: Path) -> None:
    entry = write_tensors(tmp_path / "t", some())
    assert same(load_file(tmp_path / "t"), some())
    data = (tmp_path / "t").read_bytes()
    assert entry == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    start = 8 + int.from_bytes(data[:8], "little")
    for name, found in read_header(tmp_path / "t").items():
        assert (start + found.start) % some()[name].element_size() == 0, "every element is aligned"


def test_what_the_library_writes_is_read(tmp_path: Path) -> None:
    save_file(some(), tmp_path / "t", metadata={"format": "pt"})
    into = empty(some())
    load_tensors(tmp_path / "t", into)
    assert same(into, some())
    assert same(read_tensors(tmp_path / "t", "sampler."), {"sampler.seen": some()["sampler.seen"]})


def test_rows_that_are_not_contiguous(tmp_path: Path) -> None:
    wide = some()["rows"]
    write_tensors(tmp_path / "t", {"part": wide[:, 1:3]})
    assert torch.equal(load_file(tmp_path / "t")["part"], wide[:, 1:3])
    into = torch.zeros_like(wide)
    load_tensors(tmp_path / "t", {"part": into[:, 4:6]})
    assert torch.equal(into[:, 4:6], wide[:, 1:3]) and not into[:, :4].any() and not into[:, 6:].any()


def test_blocks_from_elsewhere_take_the_place_of_the_tensors(tmp_path: Path) -> None:
    tensors = {"rows": some()["rows"]}
    write_tensors(tmp_path / "t", tensors, lambda name: tensorfile.blocks_of(tensors[name] + 1))
    assert torch.equal(load_file(tmp_path / "t")["rows"], tensors["rows"] + 1)


def test_names_may_be_passed_over_or_returned(tmp_path: Path) -> None:
    entry, tensors = write_tensors(tmp_path / "t", some()), some()
    into = empty({name: tensor for name, tensor in tensors.items() if not name.startswith("sampler.")})
    load_tensors(tmp_path / "t", into, but="sampler.")
    again = empty(into)
    returned = load_checked(tmp_path / "t", again, "sampler.", entry["sha256"])
    assert same(into | returned, tensors) and same(again | returned, tensors)


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    entry = write_tensors(tmp_path / "t", some())
    data = (tmp_path / "t").read_bytes()
    for place in [*range(0, len(data), 211), len(data) - 1]:
        (tmp_path / "t").write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        with pytest.raises(ArtefactError):
            load_checked(tmp_path / "t", empty(some()), "none of them", entry["sha256"])


@pytest.mark.parametrize("length", [0, 7, 8, 40, 600, -1])
def test_a_cut_file_is_named(tmp_path: Path, length: int) -> None:
    write_tensors(tmp_path / "t", some())
    (tmp_path / "t").write_bytes((tmp_path / "t").read_bytes()[:length])
    with pytest.raises(ArtefactError, match="cut or altered"):
        load_tensors(tmp_path / "t", empty(some()))
    with pytest.raises(ArtefactError, match="cut or altered"):
        read_header(tmp_path / "t")
    with pytest.raises(ArtefactError, match="No such file"):
        read_header(tmp_path / "other")


@pytest.mark.parametrize(
    "fields",
    [
        [],
        {"a": 3},
        {"a": {"dtype": "F32", "shape": [2]}},
        {"a": {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
        {"a": {"dtype": "F32", "shape": ["x"], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [10**30], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [2**31, 2**31, 4, 2], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, "x"]}},
    ],
)
def test_headers_that_make_no_sense(tmp_path: Path, fields: object) -> None:
    text = json.dumps(fields).encode()
    (tmp_path / "t").write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(ArtefactError, match="cut or altered"):
        read_tensors(tmp_path / "t")


def test_another_model_is_refused_before_anything_is_copied(tmp_path: Path) -> None:
    write_tensors(tmp_path / "t", some())
    more = empty(some()) | {"more": torch.zeros(2)}
    less = {name: tensor for name, tensor in empty(some()).items() if name != "rows"}
    others = [(more, "more"), (less, "rows")]
    others += [(empty(some()) | {"step": torch.zeros(1, dtype=torch.float64)}, "step")]
    others += [(empty(some()) | {"half": torch.zeros(301, 7)}, "F32")]
    for into, named in others:
        with pytest.raises(ArtefactError, match=named):
            load_tensors(tmp_path / "t", into)
        assert not any(tensor.any() for tensor in into.values())


def test_memory_is_that_of_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """8 MB are written and read; what is allocated meanwhile stays below a tenth of it."""
    monkeypatch.setattr(tensorfile, "BLOCK_BYTES", 1 << 16)
    large = {"rows": torch.ones(1 << 15, 64)}
    tracemalloc.start()
    entry = write_tensors(tmp_path / "t", large)
    load_checked(tmp_path / "t", large, "x", entry["sha256"])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < large["rows"].nbytes // 10
