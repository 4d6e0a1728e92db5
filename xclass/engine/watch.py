"""Signs of life between the ranks of a launch, so that a failed exchange can be told with names.

Every rank writes into the launch's key-value store, twice a second, a number that rises and where it is. When an
exchange fails, the store is read twice: a rank whose number stands still was killed or cut off, one that has left a
last word says why it ended, and one that lives but is at another place than the rest is slow.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from datetime import timedelta
from typing import Any

BEAT_S = 0.5
LISTEN_S = 4 * BEAT_S
STORE_TIMEOUT_S = 5.0
LAST_WORD_CHARACTERS = 500
LOST = "it could not reach the others"


class Watch:
    """Signs of life of this rank, written by a thread, and the reading of the others'."""

    def __init__(self, rank: int, size: int) -> None:
        from torch.distributed.distributed_c10d import _get_default_store

        self.rank, self.size, self.place = rank, size, "the start"
        self.exchanges = 0
        self._store = _get_default_store()
        self._prefix = f"xclass/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        self._ended, self._number = threading.Event(), 0
        self._store.set(self._key("who", rank), f"{socket.gethostname()}, process {os.getpid()}")
        self._beat()
        self._thread = threading.Thread(target=self._run, name="xclass-watch", daemon=True)
        self._thread.start()

    def _key(self, kind: str, rank: int) -> str:
        return f"{self._prefix}/{kind}/{rank}"

    def _beat(self) -> None:
        self._number += 1
        said = {"number": self._number, "place": self.place, "exchanges": self.exchanges}
        self._store.set(self._key("beat", self.rank), json.dumps(said))

    def _run(self) -> None:
        with contextlib.suppress(RuntimeError):  # the store is gone: so is its host, and an exchange will say so
            while not self._ended.wait(BEAT_S):
                self._beat()

    def close(self, error: BaseException | None, lost: bool = False) -> None:
        """Leave, with the reason as last word if there is one; ``lost``: it is only that others are missing."""
        self._ended.set()
        self._thread.join(STORE_TIMEOUT_S)
        word = "it finished" if error is None else LOST if lost else _first_line(error)
        with contextlib.suppress(RuntimeError):
            self._beat()
            self._store.set(self._key("word", self.rank), word)

    def findings(self, said: str) -> str:
        """Which ranks are gone, slow, or ended with a reason; ``said``: the library's words, when nobody is missing."""
        try:
            self._store.set_timeout(timedelta(seconds=STORE_TIMEOUT_S))
            before = self._beats()
            time.sleep(LISTEN_S)
            after = self._beats()
            told = [text for rank in range(self.size) if (text := self._told(rank, before, after))]
            found = [text for text in told if not text.endswith(LOST)] or told
        except RuntimeError:
            return f"the host of the launch's store is gone or cut off ({_short(said)})"
        return "; ".join(found) or f"all ranks are alive ({_short(said)})"

    def _beats(self) -> list[dict[str, Any]]:
        return [json.loads(self._store.get(self._key("beat", rank))) for rank in range(self.size)]

    def _told(self, rank: int, before: list[dict[str, Any]], after: list[dict[str, Any]]) -> str | None:
        if rank == self.rank:
            return None
        name, place = f"rank {rank} ({self._store.get(self._key('who', rank)).decode()})", after[rank]["place"]
        if self._store.check([self._key("word", rank)]):
            return f"{name} ended at {place}: {self._store.get(self._key('word', rank)).decode()}"
        if before[rank]["number"] == after[rank]["number"]:
            return f"{name} was killed or is cut off; it was last seen at {place}"
        behind = after[rank]["exchanges"] < self.exchanges
        return f"{name} is slow: it is at {place}, this rank at {self.place}" if behind or place != self.place else None


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".replace("\n", "; ")[:LAST_WORD_CHARACTERS]


def _short(text: str) -> str:
    return text.strip().splitlines()[0][:200] if text.strip() else "no reason given"
