"""Exchange between the ranks of one host through memory that they share: a copy out, a copy in, no network in between.

Each pair of ranks has a Unix socket for short messages, and buffers of anonymous shared memory whose descriptors travel
over it. A message says which buffer holds its rows and how many earlier messages have been read, so a sender knows
which buffers are free; when none is, it makes another. Nothing is left behind, however a process ends, and the end of
one closes its sockets: the others notice at once.
"""

from __future__ import annotations

import mmap
import os
import secrets
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

HEADER = struct.Struct("<4q")  # bytes, buffer, size of a new buffer or 0, messages read
SMALLEST = 1 << 16
GREETING = struct.Struct("<q")


def can_share() -> bool:
    """Whether this system has what is needed."""
    return sys.platform == "linux" and hasattr(os, "memfd_create") and hasattr(socket, "SOCK_SEQPACKET")


class Mailboxes:
    """Those of one rank. Messages of all ranks begin in the same order.

    Args:
        rank, size: of this launch, all on this host.
        timeout_s: no message is waited for longer.
        agree: the value of rank 0 on every rank (a collective operation), for the name under which sockets meet.
    """

    def __init__(self, rank: int, size: int, timeout_s: float, agree: Callable[[Any], Any]) -> None:
        self.rank, self.size = rank, size
        name = f"\0xclass-{agree(secrets.token_hex(8))}-"
        with _listen(f"{name}{rank}", timeout_s) as listener:
            agree("all listen")
            self._peers = _connect(name, rank, size, listener, timeout_s)

    def send(self, target: int, values: Tensor) -> int:
        """The bytes of ``values`` (contiguous, on the CPU); the number of this message to that rank, from 0."""
        return self._peers[target].send(values)

    def receive(self, source: int, number: int, values: Tensor) -> None:
        """Message ``number`` of rank ``source`` into ``values``."""
        self._peers[source].receive(number, values)

    def close(self) -> None:
        """The others notice."""
        for peer in self._peers.values():
            peer.socket.close()


class _Peer:
    """Messages to and from one other rank."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket, self.sent = connection, 0
        self._own: list[np.ndarray] = []
        self._used: dict[int, int] = {}  # own buffer: the message in it
        self._theirs: dict[int, np.ndarray] = {}
        self._arrived: dict[int, tuple[int, int]] = {}  # message: its buffer and bytes
        self._received = self._read = self._read_by_them = 0

    def send(self, values: Tensor) -> int:
        size = values.numel() * values.element_size()
        number, made = self._buffer(size)
        self._own[number][:size] = values.flatten().view(torch.uint8).numpy()
        self._used[number] = self.sent
        self.sent += 1
        header = HEADER.pack(size, number, len(self._own[number]) if made else 0, self._read)
        socket.send_fds(self.socket, [header], made)
        for descriptor in made:
            os.close(descriptor)
        return self.sent - 1

    def _buffer(self, size: int) -> tuple[int, list[int]]:
        """A free one that is large enough: its number, and its descriptor if it is new."""
        for number, buffer in enumerate(self._own):
            if len(buffer) >= size and self._used[number] < self._read_by_them:
                return number, []
        length = max(SMALLEST, 1 << size.bit_length())
        descriptor = os.memfd_create("xclass-rows")
        os.truncate(descriptor, length)
        self._own.append(_mapped(descriptor, length))
        return len(self._own) - 1, [descriptor]

    def receive(self, number: int, values: Tensor) -> None:
        while number not in self._arrived:
            self._take()
        buffer, size = self._arrived.pop(number)
        wanted = values.numel() * values.element_size()
        if size != wanted:
            raise RuntimeError(f"another message came than the one expected: {size} bytes, not {wanted}")
        values.view(-1).view(torch.uint8).copy_(torch.from_numpy(self._theirs[buffer][:size]))
        self._read = min(self._arrived, default=self._received)

    def _take(self) -> None:
        header, descriptors, _, _ = socket.recv_fds(self.socket, HEADER.size, 1)
        if len(header) < HEADER.size:
            raise ConnectionResetError("connection closed by the other process")
        size, buffer, made, self._read_by_them = HEADER.unpack(header)
        if made:
            self._theirs[buffer] = _mapped(descriptors[0], made)
            os.close(descriptors[0])
        self._arrived[self._received] = buffer, size
        self._received += 1


def _mapped(descriptor: int, length: int) -> np.ndarray:
    return np.frombuffer(mmap.mmap(descriptor, length), np.uint8)


def _listen(name: str, timeout_s: float) -> socket.socket:
    """Under a name that is no file."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.settimeout(timeout_s)
    listener.bind(name)
    listener.listen()
    return listener


def _connect(name: str, rank: int, size: int, listener: socket.socket, timeout_s: float) -> dict[int, _Peer]:
    """To the ranks before this one, and from those behind."""
    peers = {}
    for other in range(rank):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.settimeout(timeout_s)
        connection.connect(f"{name}{other}")
        connection.send(GREETING.pack(rank))
        peers[other] = _Peer(connection)
    for _ in range(rank + 1, size):
        connection, _ = listener.accept()
        connection.settimeout(timeout_s)
        (other,) = GREETING.unpack(connection.recv(GREETING.size))
        peers[other] = _Peer(connection)
    return peers
