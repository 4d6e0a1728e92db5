"""Signs of life between the ranks of a launch, so that a failed exchange, or a long wait, can be told with names.

Every rank writes into the launch's key-value store, twice a second, a number that rises and where it is. When an
exchange fails, or takes a tenth of the time limit, the store is read twice: a rank whose number stands still was
killed, stopped or cut off, one that has left a last word says why it ended, and one that lives but is at another place
than the rest is slow. The store may lie on a host that is cut off: no reading of it is waited for without a limit.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from xclass.runtime.streams import to_stderr

BEAT_S = 0.5
LISTEN_S = 4 * BEAT_S
STORE_TIMEOUT_S = 5.0
PATIENCE = 0.1  # of the time limit: then the others say for whom they wait
LAST_WORD_CHARACTERS = 500
LOST = "it could not reach the others"
Beats = list[dict[str, Any]]


class Watch:
    """Signs of life of this rank, written by a thread, and the reading of the others'.

    Args:
        rank: this one.
        ranks: the host and process of each.
        timeout_s: no exchange takes longer; after a tenth of it a line on stderr says who is missing.
    """

    def __init__(self, rank: int, ranks: list[str], timeout_s: float) -> None:
        from torch.distributed.distributed_c10d import _get_default_store

        self.rank, self.size, self.timeout_s, self.place = rank, len(ranks), timeout_s, "the start"
        self._names = [f"rank {number} ({name})" for number, name in enumerate(ranks)]
        self.exchanges = 0
        self._patience_s = max(PATIENCE * timeout_s, LISTEN_S)
        self._waits = dict[int, tuple[float, str]]()
        self._before: Beats = []
        self._warn_at_s = self._patience_s
        self._store = _get_default_store()
        self._ended, self._number = threading.Event(), 0
        self._beat()
        self._thread = threading.Thread(target=self._run, name="xclass-watch", daemon=True)
        self._thread.start()

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """An exchange is under way inside."""
        self.exchanges += 1
        thread = threading.get_ident()
        self._waits[thread] = time.monotonic(), what
        try:
            yield
        finally:
            self._waits.pop(thread, None)

    def _beat(self) -> None:
        self._number += 1
        said = {"number": self._number, "place": self.place, "exchanges": self.exchanges}
        self._store.set(_key("beat", self.rank), json.dumps(said))

    def _run(self) -> None:
        with contextlib.suppress(RuntimeError):  # the store is gone: so is its host, and an exchange will say so
            while not self._ended.wait(BEAT_S):
                self._beat()
                self._look(time.monotonic())

    def _look(self, now: float) -> None:
        """Say for whom this rank waits, when that is long, and again each time it has waited as long once more."""
        began, what = min(self._waits.copy().values(), default=(now, ""))
        waited_s = now - began
        if waited_s < self._patience_s - LISTEN_S:
            self._before, self._warn_at_s = [], self._patience_s
        elif not self._before:
            self._before = self._beats()
        elif waited_s >= self._warn_at_s:
            self._warn_at_s += self._patience_s
            after = self._beats()
            told = [self._told(rank, self._before, after) for rank in range(self.size)]
            self._before = after
            if all(told[: self.rank]):  # the first that is not late itself speaks
                late = "; ".join(filter(None, told)) or "all ranks are there, and slow to exchange"
                _warn(f"{what}: rank {self.rank} has waited {waited_s:.0f} s of {self.timeout_s:g}: {late}")

    def close(self, error: BaseException | None, lost: bool = False) -> None:
        """Leave, with the reason as last word if there is one; ``lost``: it is only that others are missing."""
        self._ended.set()
        word = "it finished" if error is None else LOST if lost else _first_line(error)

        def leave() -> None:
            self._thread.join()
            self._beat()
            self._store.set(_key("word", self.rank), word)

        _within(STORE_TIMEOUT_S, leave)

    def findings(self, said: str) -> str:
        """Which ranks are gone, slow, or ended with a reason; ``said``: the library's words, when nobody is missing."""
        told = _within(LISTEN_S + STORE_TIMEOUT_S, self._listen)
        if told is None:
            return self._alone()
        found = [text for text in told if not text.endswith(LOST)] or told
        return "; ".join(found) or f"all ranks are alive ({_short(said)})"

    def _alone(self) -> str:
        host = self._names[self.rank].split("(")[1].split(",")[0]
        gone = [name for name in self._names if f"({host}," not in name]
        store = f"the key-value store of the launch, on {os.environ['MASTER_ADDR']}, is gone or cut off"
        if not gone:
            return store
        return f"{store}, and with it {', '.join(gone)}; this rank was at {self.place}; if torchrun goes on, kill -9 it"

    def _listen(self) -> list[str]:
        before = self._beats()
        time.sleep(LISTEN_S)
        after = self._beats()
        return [text for rank in range(self.size) if (text := self._told(rank, before, after))]

    def _beats(self) -> Beats:
        return [json.loads(each) for each in self._store.multi_get([_key("beat", r) for r in range(self.size)])]

    def _told(self, rank: int, before: Beats, after: Beats) -> str | None:
        if rank == self.rank:
            return None
        name, place = self._names[rank], after[rank]["place"]
        if self._store.check([_key("word", rank)]):
            return f"{name} ended at {place}: {self._store.get(_key('word', rank)).decode()}"
        if before[rank]["number"] == after[rank]["number"]:
            return f"{name} gives no sign of life (killed, stopped or cut off); it was last seen at {place}"
        behind = after[rank]["exchanges"] < self.exchanges
        if place != self.place:
            return f"{name} is slow: it is at {place}, this rank at {self.place}"
        return f"{name} is slow: it is alive at {place}, and has not come so far" if behind else None


def _key(kind: str, rank: int) -> str:
    return f"xclass/{kind}/{rank}"


def _within(limit_s: float, work: Callable[[], Any]) -> Any:
    """What ``work`` gives; None when it fails or takes longer: a store that is cut off may never answer."""
    found: list[Any] = []

    def run() -> None:
        with contextlib.suppress(RuntimeError):
            found.append(work())

    thread = threading.Thread(target=run, name="xclass-store", daemon=True)
    thread.start()
    thread.join(limit_s)
    return found[0] if found else None


def _warn(text: str) -> None:
    to_stderr(f"{text}\n")


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".replace("\n", "; ")[:LAST_WORD_CHARACTERS]


def _short(text: str) -> str:
    return text.strip().splitlines()[0][:200] if text.strip() else "no reason given"
