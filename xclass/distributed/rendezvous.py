"""How the processes of a launch come together, so that nothing an earlier attempt left is taken for their own.

torchrun starts processes again beside the same key-value store. There the addresses of those that ended still stand,
and how often a host has restarted differs between hosts. So every process shows a word that nobody else has; rank 0
calls with the words it sees; who finds its own word in the call answers with the call's name; and when all have
answered, they go. The name is the attempt's: everything it stores stands under it.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from typing import Any, NamedTuple

LOOK_S = 0.02
KEYS = "xclass/meeting"


class Attempt(NamedTuple):
    """What all ranks agree on. name: of this attempt, and of none before. ranks: the host and process of each."""

    name: str
    ranks: list[str]


class Meeting:
    """One process's part in it.

    Args:
        store: a key-value store of ``torch.distributed`` that all ranks reach.
        rank, size: of this process, and how many there are.
        timeout_s: how long to wait for the others.
    """

    def __init__(self, store: Any, rank: int, size: int, timeout_s: float) -> None:
        self._store, self.rank, self.size, self.timeout_s = store, rank, size, timeout_s
        self._word = f"{socket.gethostname()}/{os.getpid()}/{time.time_ns()}"
        self._answered = ""

    def attend(self) -> Attempt:
        """Wait for the others.

        Raises:
            TimeoutError: with who did not come.
        """
        deadline = time.monotonic() + self.timeout_s
        self._answer("")
        self._set(f"here/{self.rank}", self._word)
        while time.monotonic() < deadline:
            found = self._call() if self.rank == 0 else self._follow()
            if found:
                return Attempt(found["name"], [", process ".join(word.split("/")[:2]) for word in found["here"]])
            time.sleep(LOOK_S)
        raise TimeoutError(self._missing())

    def _call(self) -> dict[str, Any]:
        here = [self._get(f"here/{rank}") for rank in range(self.size)]
        if not all(here):
            return {}
        name = hashlib.sha256(json.dumps(here).encode()).hexdigest()[:16]
        if name != self._answered:
            self._set("call", json.dumps({"name": name, "here": here}))
            self._answer(name)
        if any(self._get(f"answer/{rank}") != name for rank in range(self.size)):
            return {}
        self._set("go", name)
        return {"name": name, "here": here}

    def _follow(self) -> dict[str, Any]:
        call = self._called()
        if call and call["name"] != self._answered:
            self._answer(call["name"])
        return call if call and self._get("go") == call["name"] else {}

    def _called(self) -> dict[str, Any]:
        """The call, when this process is in it."""
        call: dict[str, Any] = json.loads(self._get("call") or "{}")
        return call if call and len(call["here"]) == self.size and call["here"][self.rank] == self._word else {}

    def _answer(self, name: str) -> None:
        self._answered = name
        self._set(f"answer/{self.rank}", name)

    def _missing(self) -> str:
        if self.rank and not self._called():
            return "rank 0 did not call: it is not there, or it waits for others"
        here = [rank for rank in range(self.size) if self._get(f"answer/{rank}") == self._answered != ""]
        here = here or [rank for rank in range(self.size) if self._get(f"here/{rank}")]
        return "missing: " + ", ".join(f"rank {rank}" for rank in range(self.size) if rank not in here)

    def _set(self, key: str, value: str) -> None:
        self._store.set(f"{KEYS}/{key}", value)

    def _get(self, key: str) -> str:
        name = f"{KEYS}/{key}"
        return self._store.get(name).decode() if self._store.check([name]) else ""
