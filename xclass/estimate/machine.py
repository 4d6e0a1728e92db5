"""What the machine has to give: memory, swap, an accelerator's memory, disk."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import torch

from xclass.runtime.memory import left_memory, system_fields

STATUS = Path("/proc/self/status")


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
    memory, most = left_memory()
    own = anonymous_bytes()
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
    there = Path(out).absolute()
    while not there.exists():
        there = there.parent
    disk = shutil.disk_usage(there).free + _size(Path(out))
    return Available(memory + own, most + own, free, disk)


def anonymous_bytes() -> int:
    """Resident memory of this process that no file stands behind."""
    fields = system_fields(STATUS)
    return fields.get("RssAnon", fields.get("VmRSS", 0))


def resident_bytes() -> int:
    """Resident memory of this process now, pages of files included."""
    return system_fields(STATUS).get("VmRSS", 0)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else 0
