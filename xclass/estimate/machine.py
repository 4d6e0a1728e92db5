"""What the machine has to give: memory, swap, an accelerator's memory, disk."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import torch

MEMINFO = Path("/proc/meminfo")
STATUS = Path("/proc/self/status")
CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
UNLIMITED = 1 << 60  # a limit above this is none


class Available(NamedTuple):
    """What a new run could have here, this process's own memory included.

    memory: what the system says can be had without swapping, or what is left of a control group's limit.
    memory_at_most: if every cache and all swap were given up, too. Nothing beyond this can fit.
    accelerator: free memory of the CUDA device, 0 without one.
    disk: free where the run would be written, with what the run has there already.
    """

    memory: int
    memory_at_most: int
    accelerator: int
    disk: int

    def of(self, place: str, at_most: bool = False) -> int:
        """Bytes in a place; ``at_most``: what not even giving up every cache could exceed."""
        if place == "memory":
            return self.memory_at_most if at_most else self.memory
        return self.accelerator if place == "accelerator" else self.disk


def available(device: torch.device, out: Path) -> Available:
    """Of this machine now, for a run directory ``out`` that may be there already."""
    memory, most = _memory()
    own = anonymous_bytes()
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
    there = Path(out).absolute()
    while not there.exists():
        there = there.parent
    disk = shutil.disk_usage(there).free + _size(Path(out))
    return Available(memory + own, most + own, free, disk)


def anonymous_bytes() -> int:
    """Resident memory of this process that no file stands behind."""
    fields = _fields(STATUS)
    return fields.get("RssAnon", fields.get("VmRSS", 0))


def resident_bytes() -> int:
    """Resident memory of this process now, pages of files included."""
    return _fields(STATUS).get("VmRSS", 0)


def _memory() -> tuple[int, int]:
    """(without swapping, at the very most), outside of this process."""
    fields = _fields(MEMINFO)
    if not fields:
        return UNLIMITED, UNLIMITED
    caches = sum(fields.get(name, 0) for name in ("MemFree", "Buffers", "Cached", "SReclaimable", "SwapFree"))
    most = max(fields.get("MemAvailable", 0) + fields.get("SwapFree", 0), caches - fields.get("Shmem", 0))
    left = _left_in_groups()
    return min(fields.get("MemAvailable", most), left), min(most, left)


def _left_in_groups() -> int:
    """Bytes that the control groups of this process leave it, their caches given up; version 1 and 2."""
    left = UNLIMITED
    try:
        lines = OWN_CGROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return left
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            left = min(
                left, _left_below(CGROUPS, name, "memory.max", "memory.current", ("active_file", "inactive_file"))
            )
        elif "memory" in controllers.split(","):
            files = ("total_active_file", "total_inactive_file")
            left = min(
                left, _left_below(CGROUPS / "memory", name, "memory.limit_in_bytes", "memory.usage_in_bytes", files)
            )
    return left


def _left_below(root: Path, name: str, limit: str, usage: str, caches: tuple[str, ...]) -> int:
    left, folder = UNLIMITED, root / name.strip("/")
    for group in [folder, *folder.parents]:
        if group != root and root not in group.parents:
            break
        try:
            most, used = int((group / limit).read_text()), int((group / usage).read_text())
            given_up = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):  # no such group in this container, or its limit is the word "max"
            continue
        if most < UNLIMITED:
            left = min(left, max(most - used + sum(int(given_up.get(cache, 0)) for cache in caches), 0))
    return left


def _fields(path: Path) -> dict[str, int]:
    """``Name: 12 kB`` lines as bytes."""
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return {}
    split = [line.replace(":", " ").split() for line in lines]
    return {words[0]: int(words[1]) * 1024 for words in split if len(words) == 3 and words[2] == "kB"}


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else 0
