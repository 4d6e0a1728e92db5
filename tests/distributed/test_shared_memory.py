"""Messages through shared memory: what is sent arrives, in any order of reading, and buffers are used again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from xclass.distributed.shared_memory import SMALLEST, Mailboxes, can_share
from xclass.runtime.rng import numpy_generator

pytestmark = pytest.mark.skipif(not can_share(), reason="this system has no anonymous shared memory")


def open_all(size: int, timeout_s: float = 10) -> list[Mailboxes]:
    """The mailboxes of ranks that are threads."""
    together, said = threading.Barrier(size), {}

    def join(rank: int) -> Mailboxes:
        def agree(value: Any) -> Any:
            if rank == 0:
                said[0] = value
            together.wait()
            found = said[0]
            together.wait()
            return found

        return Mailboxes(rank, size, timeout_s, agree)

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(join, range(size)))


def on_all(boxes: list[Mailboxes], work: Callable[[Mailboxes], Any]) -> list[Any]:
    with ThreadPoolExecutor(len(boxes)) as pool:
        return list(pool.map(work, boxes))


def values(source: int, target: int, number: int) -> torch.Tensor:
    """Empty ones, small ones, and some that need larger buffers."""
    draw = numpy_generator(number, "mail", 10 * source + target)
    rows = int(draw.integers(0, SMALLEST // 64)) if number % 3 else 0
    return torch.from_numpy(draw.standard_normal((rows, 17), dtype="float32"))


def test_messages_arrive_whatever_the_order_they_are_read_in() -> None:
    def talk(box: Mailboxes) -> bool:
        others = [rank for rank in range(3) if rank != box.rank]
        for first in range(0, 24, 4):
            for number in range(first, first + 4):
                for other in others:
                    assert box.send(other, values(box.rank, other, number)) == number
            for number in (first + 2, first, first + 1, first + 3):
                for other in others:
                    wanted = values(other, box.rank, number)
                    found = torch.empty_like(wanted)
                    box.receive(other, number, found)
                    assert torch.equal(found, wanted)
        return True

    boxes = open_all(3)
    assert on_all(boxes, talk) == [True] * 3
    for box in boxes:
        box.close()


def test_buffers_are_used_again_once_they_have_been_read() -> None:
    one, two = open_all(2)
    row = torch.arange(1000)
    for number in range(50):
        one.send(1, row + number)
        two.send(0, row)
        for box, source in ((two, 0), (one, 1)):
            found = torch.empty_like(row)
            box.receive(source, number, found)
            assert torch.equal(found, row + (number if source == 0 else 0))
    assert len(one._peers[1]._own) <= 3
    for number in range(50, 60):  # none of these is read: none may be overwritten
        one.send(1, row + number)
    for number in range(50, 60):
        two.receive(0, number, found)
        assert torch.equal(found, row + number)
    one.close()
    two.close()


def test_an_end_a_silence_and_another_size_are_errors() -> None:
    one, two = open_all(2, 0.2)
    with pytest.raises(OSError):
        one.receive(1, 0, torch.empty(3))
    two.send(0, torch.empty(4))
    with pytest.raises(RuntimeError, match="16 bytes, not 12"):
        one.receive(1, 0, torch.empty(3))
    two.close()
    with pytest.raises(OSError, match="closed"):
        one.receive(1, 1, torch.empty(3))
    with pytest.raises(OSError):
        one.send(1, torch.empty(3))
    one.close()
