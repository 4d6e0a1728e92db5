"""What a run needs, part by part: bytes in a place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Place = Literal["memory", "accelerator", "disk"]
PLACES: tuple[Place, ...] = ("memory", "accelerator", "disk")


@dataclass(frozen=True)
class Part:
    """One thing that takes space.

    component: what it is, as people read it.
    place: memory (of the machine), accelerator, or disk.
    bytes: how much.
    when: "always"; "start" (while the model is built) or "training" (after that): only the larger of the two counts.
    certain: it is there whatever happens; a run is refused by the certain parts alone.
    cache: pages of files, which the system takes back when somebody needs them: they need not fit.
    """

    component: str
    place: Place
    bytes: int
    when: Literal["always", "start", "training"] = "always"
    certain: bool = True
    cache: bool = False


def total(parts: Iterable[Part], place: Place, certain: bool = False) -> int:
    """Bytes that must fit in a place at once; of the certain parts alone when asked for.

    >>> total([Part("a", "memory", 5), Part("b", "memory", 2, "start"), Part("c", "memory", 3, "training")], "memory")
    8
    """
    sums = {"always": 0, "start": 0, "training": 0}
    for part in parts:
        if part.place == place and not part.cache and (part.certain or not certain):
            sums[part.when] += part.bytes
    return sums["always"] + max(sums["start"], sums["training"])


def cached(parts: Iterable[Part], place: Place = "memory") -> int:
    """Bytes of pages of files: they stay in memory while nobody else needs it."""
    return sum(part.bytes for part in parts if part.place == place and part.cache)


def by_component(parts: Iterable[Part], place: Place) -> dict[str, int]:
    """Component → bytes, in the order of the parts."""
    found: dict[str, int] = {}
    for part in parts:
        if part.place == place:
            found[part.component] = found.get(part.component, 0) + part.bytes
    return found


def readable(count: float) -> str:
    """Bytes as a person reads them.

    >>> readable(512), readable(3 << 19), readable(25 << 30)
    ('512 B', '1.5 MiB', '25.0 GiB')
    """
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if abs(count) >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"
