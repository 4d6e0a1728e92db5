"""Snapshots: what is read is the state at the beginning, bit for bit, whatever is pushed meanwhile and whenever."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies
from torch import Tensor

from xclass.io import tensors as tensorfile
from xclass.runtime.rng import torch_generator
from xclass.training.checkpoint.snapshot import Cancelled, SavedRows, Snapshot

ROWS = {"item": ["item.weight", "item.sums"], "query": ["query.weight"], "none": []}


def state() -> dict[str, Tensor]:
    generator = torch_generator(0, "test")
    return {
        "item.weight": torch.randn(97, 5, generator=generator).to(torch.bfloat16),
        "item.sums": torch.rand(97, generator=generator),
        "query.weight": torch.randn(40, 5, generator=generator),
        "decay": torch.tensor(0.25, dtype=torch.float64),
        "dense": torch.randn(3, 4, generator=generator),
    }


def raw(tensor: Tensor) -> bytes:
    return tensor.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorfile, "BLOCK_BYTES", 64)


def push(snapshot: Snapshot, tensors: dict[str, Tensor], table: str, rows: set[int]) -> None:
    """As a step does: tell, then change."""
    ids = torch.tensor(sorted(rows), dtype=torch.int64)
    snapshot.before_push({table: ids, "none": ids})
    for name in ROWS[table]:
        tensors[name][ids] += 1
    for name in ("decay", "dense"):
        tensors[name] += 1


@hypothesis.given(
    strategies.lists(
        strategies.tuples(
            strategies.integers(0, 3),
            strategies.sampled_from(["item", "query"]),
            strategies.sets(strategies.integers(0, 39)),
        ),
        max_size=25,
    )
)
@hypothesis.settings(deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
def test_pushes_between_any_two_blocks(schedule: list[tuple[int, str, set[int]]]) -> None:
    """One thread, so that every order of reads and pushes that is tried is tried exactly."""
    tensors = state()
    before = {name: raw(tensor) for name, tensor in tensors.items()}
    snapshot, found = Snapshot(tensors, ROWS), dict.fromkeys(tensors, b"")
    reads: Iterator[tuple[str, bytes]] = (
        (name, block.tobytes()) for name in tensors for block in snapshot.blocks(name)
    )
    for count, table, rows in schedule:
        for name, data in (pair for _, pair in zip(range(count), reads, strict=False)):
            found[name] += data
        push(snapshot, tensors, table, rows)
    for name, data in reads:
        found[name] += data
    assert found == before


@pytest.mark.parametrize("spare_bytes", [1 << 20, 300, 1])
def test_a_thread_reads_while_another_pushes(spare_bytes: int) -> None:
    """With so little memory that training has to wait, too."""
    tensors = {"item.weight": torch.randn(4000, 4, generator=torch_generator(1, "test"))}
    before, found = raw(tensors["item.weight"]), bytearray()
    snapshot = Snapshot(tensors, {"item": ["item.weight"]}, spare_bytes)

    def read() -> None:
        for block in snapshot.blocks("item.weight"):
            found.extend(block.tobytes())
            time.sleep(1e-5)
        snapshot.close()

    reader = threading.Thread(target=read)
    reader.start()
    generator, pushes = torch_generator(2, "test"), 0
    while reader.is_alive():
        ids = torch.randint(0, 4000, (50,), generator=generator).unique()
        snapshot.before_push({"item": ids})
        tensors["item.weight"][ids] = pushes = pushes + 1
    reader.join()
    assert bytes(found) == before and pushes > 1
    assert raw(tensors["item.weight"]) != before


def test_training_waits_for_room_and_goes_on_when_nobody_reads_any_more() -> None:
    tensors = {"item.weight": torch.zeros(100, 4)}
    snapshot = Snapshot(tensors, {"item": ["item.weight"]}, spare_bytes=10 * 16)
    snapshot.before_push({"item": torch.arange(90, 100)})
    waiting = threading.Thread(target=snapshot.before_push, args=({"item": torch.arange(80, 95)},))
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive(), "there is no room for ten more rows"
    snapshot.close()
    waiting.join(5)
    assert not waiting.is_alive()


def test_a_row_is_saved_once_and_not_after_it_was_read() -> None:
    tensors = {"item.weight": torch.zeros(100, 4)}
    snapshot = Snapshot(tensors, {"item": ["item.weight"]}, spare_bytes=10 * 16)
    for _ in range(20):
        snapshot.before_push({"item": torch.arange(90, 100)})
    blocks = snapshot.blocks("item.weight")
    next(blocks)
    for start in (0, 1, 2):
        snapshot.before_push({"item": torch.tensor([start])})  # there is no room, and none is needed


def test_cancelled_while_reading() -> None:
    snapshot = Snapshot(state(), ROWS)
    blocks = snapshot.blocks("item.weight")
    next(blocks)
    snapshot.cancel()
    with pytest.raises(Cancelled):
        next(blocks)
    snapshot.before_push({"item": torch.arange(97)})


def test_places_of_saved_rows_are_used_again() -> None:
    saved = SavedRows(4, 2, 10)
    for first in (0, 10, 20, 30):
        numbers = np.array([first, first + 3, first + 9])
        saved.put(numbers, np.full((3, 2), first, np.uint8))
        assert saved.room == 1
        found, rows = saved.take(first // 10)
        assert sorted(found) == list(numbers) and (rows == first).all() and saved.room == 4
        assert len(saved.take(first // 10)[0]) == 0


@pytest.mark.gpu
def test_rows_on_an_accelerator() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, torch sees none")
    tensors = {name: tensor.cuda() for name, tensor in state().items()}
    before = {name: raw(tensor.cpu()) for name, tensor in tensors.items()}
    snapshot, found = Snapshot(tensors, ROWS), dict.fromkeys(tensors, b"")
    for name in tensors:
        for block in snapshot.blocks(name):
            found[name] += block.tobytes()
            push(snapshot, tensors, "item", {1, 50, 96})
    assert found == before
