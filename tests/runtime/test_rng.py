"""Streams: the same for the same arguments, unrelated for others, blind to the global state."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import torch

from xclass.runtime.rng import derive_seed, numpy_generator, torch_generator


def test_the_seed_is_pinned() -> None:
    """Old runs must repeat with new versions: the rule is SHA-256 of "seed:purpose:numbers", upper 63 of 64 bits."""
    digest = hashlib.sha256(b"7:shuffle:2:3").digest()
    assert derive_seed(7, "shuffle", 2, 3) == int.from_bytes(digest[:8], "little") // 2


def test_no_two_alike() -> None:
    arguments = itertools.product([0, 1, 12], ["split", "shuffle"], [(), (0,), (1,), (1, 2), (12,)])
    seeds = [derive_seed(seed, purpose, *numbers) for seed, purpose, numbers in arguments]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_streams_repeat_whatever_the_global_state() -> None:
    first = torch.rand(4, generator=torch_generator(3, "a", 1)), numpy_generator(3, "a", 1).random(4)
    state = torch.get_rng_state()
    torch.rand(5)
    again = torch.rand(4, generator=torch_generator(3, "a", 1)), numpy_generator(3, "a", 1).random(4)
    torch.set_rng_state(state)
    assert torch.equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not torch.equal(first[0], torch.rand(4, generator=torch_generator(3, "b", 1)))


def test_making_a_generator_leaves_the_global_state() -> None:
    before, legacy = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    torch_generator(0, "x")
    numpy_generator(0, "x")
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(legacy, np.random.get_state()[1])  # noqa: NPY002
