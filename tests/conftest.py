"""What every test gets: reproducible examples, and tests that need a device skip with a reason."""

from __future__ import annotations

import importlib.util
import signal

import hypothesis
import pytest

import xclass  # noqa: F401  before torch: it says how OpenMP waits

# A command in the background of a shell ignores it, and so would the processes that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Deterministic: a failure on one machine is a failure on all. Shared machines are too slow for deadlines.
hypothesis.settings.register_profile("xclass", derandomize=True, deadline=None, max_examples=50)
hypothesis.settings.load_profile("xclass")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reasons = {"gpu": _why_no_gpu(items), "distributed": _why_not_distributed()}
    for item in items:
        for marker, reason in reasons.items():
            if reason is not None and item.get_closest_marker(marker) is not None:
                item.add_marker(pytest.mark.skip(reason=reason))


def _why_no_gpu(items: list[pytest.Item]) -> str | None:
    if not any(item.get_closest_marker("gpu") for item in items):
        return None
    import torch

    return None if torch.cuda.is_available() else "needs a CUDA device, torch sees none"


def _why_not_distributed() -> str | None:
    return None if importlib.util.find_spec("torchrec") else "needs torchrec: make distributed, see docs/distributed.md"
