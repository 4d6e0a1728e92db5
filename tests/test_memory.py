"""Freed memory is kept: the same large request a second time faults in no pages."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, threading
import torch
from xclass.memory import keep_freed_memory
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
