"""Freed memory is kept: the same large request a second time faults in no pages. Advice to the system reaches it."""

import mmap
import subprocess
import sys

import numpy as np
import pytest
import torch

from xclass.runtime.memory import advise, will_read

PROGRAM = """
import resource, sys, threading
import torch
from xclass.runtime.memory import keep_freed_memory
torch.set_num_threads(1)
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def work():
    for _ in range(20):
        small = [torch.ones(20_000) for _ in range(50)]
        large = [torch.ones(1_500_000) for _ in range(4)]
        del large
        small.clear()
def part():
    work()
    before = faults()
    work()
    print(faults() - before)
thread = threading.Thread(target=part)
thread.start()
thread.join()
"""


def faults(mode):
    return int(subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the GNU C library's allocator")
def test_freed_memory_is_kept():
    kept, returned = faults("keep"), faults("plain")
    assert kept < 0.5 * returned


@pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="a system without pages of 2 MiB on request")
def test_advice_is_taken_for_whole_pages_and_changes_nothing(tmp_path):
    array = np.memmap(tmp_path / "rows", np.float32, "w+", shape=(3000, 64))
    array[:] = np.arange(64)
    rows = torch.from_numpy(array)
    assert advise(rows, mmap.MADV_RANDOM) and advise(rows[17:2000], mmap.MADV_WILLNEED)
    will_read(rows[1:2999])
    will_read(rows[:, 3])
    assert not advise(rows[:1, :3], mmap.MADV_RANDOM), "less than a page"
    assert not advise(rows[:, 3], mmap.MADV_RANDOM), "not one piece"
    assert not advise(rows, 12345), "no such advice"
    assert torch.equal(rows, torch.arange(64.0).expand(3000, 64))
