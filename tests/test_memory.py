"""Freed memory is kept: the same large request a second time faults in no pages."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
from xclass.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def work():
    return [torch.ones(5_000_000) for _ in range(3)]
for _ in range(3):
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode):
    return int(subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the GNU C library's allocator")
def test_freed_memory_is_kept():
    kept, returned = faults("keep"), faults("plain")
    assert kept < 0.5 * returned
