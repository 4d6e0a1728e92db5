"""How sure a number is: bootstrap intervals over queries, a paired randomisation test, Holm's correction.

Blocks of queries get the same random weights for every metric and every system, so pairs stay pairs.
Cost: queries × resamples × metrics multiplications; memory: that of one block.

Efron, Tibshirani: "An Introduction to the Bootstrap", 1993 (percentile intervals); Hanley, MacGibbon: "Creating
non-parametric bootstrap samples using Poisson frequencies", 2006; Smucker, Allan, Carterette: "A comparison of
statistical significance tests for information retrieval evaluation", CIKM 2007 (the randomisation test); Holm: "A
simple sequentially rejective multiple test procedure", 1979.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from xclass.errors import InputError
from xclass.runtime.progress import Progress
from xclass.runtime.rng import numpy_generator

BLOCK_CELLS = 1 << 22
LEVEL = 0.95
INTERVAL = (
    "{level:.0%} percentile interval of {resamples:,} bootstrap samples of the queries: every query counts Poisson(1)"
    " times in a sample, the same number in every metric and system"
)
P_VALUE = (
    "two-sided paired randomisation test: share of {resamples:,} random sign changes of the queries' differences whose"
    " mean is at least as far from 0, the observed one counted in; corrected after Holm over the runs compared with the"
    " first, metric by metric"
)


def intervals(
    gained: Mapping[str, Tensor],
    best: Mapping[str, Tensor],
    resamples: int,
    seed: int = 0,
    level: float = LEVEL,
) -> dict[str, tuple[float, float]]:
    """Bootstrap interval of the mean of each metric; of Σ gained / Σ best for the metrics in ``best``.

    Args:
        gained: metric → (queries,) values, NaN where a query is skipped; differences of two systems will do.
        best: metric → (queries,) values, for those metrics that are ratios of totals.
        resamples: how many samples; 1000 give the ends of a 95% interval to about a twentieth of its width.
        level: share of the samples inside.

    Raises:
        InputError: no resamples; values of different length.
    """
    if resamples < 1:
        raise InputError("the bootstrap needs samples", wanted="1 or more", got=resamples)
    values, denominators = _columns(gained, best)
    if not len(values):
        return {}
    table = _poisson_table()

    def weights(generator: np.random.Generator, queries: int) -> np.ndarray:
        return table[generator.integers(0, 1 << 16, (resamples, queries), dtype=np.uint16)]

    totals = _totals(np.concatenate([values, denominators], axis=1), resamples, weights, seed, "bootstrap")
    above, below = totals[:, : len(gained)], totals[:, len(gained) :]
    ratios = [name for name in gained if name in best]
    with np.errstate(invalid="ignore", divide="ignore"):
        samples = above / below[:, [1 + ratios.index(name) if name in best else 0 for name in gained]]
    tails = [50 * (1 - level), 100 - 50 * (1 - level)]
    ends = np.nanpercentile(samples, tails, axis=0)
    return {name: (float(ends[0, place]), float(ends[1, place])) for place, name in enumerate(gained)}


def randomisation_p(differences: Mapping[str, Tensor], resamples: int, seed: int = 0) -> dict[str, float]:
    """The p-value of the paired randomisation test that the mean difference is 0, for each metric.

    Under the hypothesis either sign of a query's difference is equally likely. p = (1 + number of random sign changes
    with a mean as far from 0 as the observed one) / (1 + resamples): never 0, and exact in the sense that
    P(p ≤ α) ≤ α. Queries without any difference are left out: their sign does not matter.

    Args:
        differences: metric → (queries,), NaN where a query is skipped.
    """
    if resamples < 1:
        raise InputError("the test needs sign changes", wanted="1 or more", got=resamples)
    values, _ = _columns(differences, {})
    values = values[(values != 0).any(axis=1)]

    def signs(generator: np.random.Generator, queries: int) -> np.ndarray:
        drawn = generator.integers(0, 256, (resamples, -(-queries // 8)), dtype=np.uint8)
        return np.unpackbits(drawn, axis=1, count=queries).astype(np.float32) * 2 - 1

    observed = np.abs(values.sum(axis=0))
    drawn = np.abs(_totals(values, resamples, signs, seed, "randomisation test"))
    rounding = 1e-6 * np.sqrt((values**2).sum(axis=0))  # sums in float32: equal ones may differ by this
    as_far = (drawn >= observed - rounding).sum(axis=0)
    return {name: float((1 + as_far[place]) / (1 + resamples)) for place, name in enumerate(differences)}


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction of several p-values: the i-th smallest times (n − i + 1), never falling, at most 1.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = largest
    return corrected


def _columns(gained: Mapping[str, Tensor], best: Mapping[str, Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """float32 (counted queries, metrics): values; (counted queries, 1 + metrics in ``best``): 1, and the bests."""
    if len({len(column) for column in [*gained.values(), *best.values()]}) > 1:
        raise InputError("metrics have values of different numbers of queries")
    if not gained:
        return np.zeros((0, 0), np.float32), np.zeros((0, 1), np.float32)
    counted = ~torch.isnan(next(iter(gained.values())))
    ones = torch.ones(int(counted.sum()))
    values = torch.stack([column[counted].float() for column in gained.values()], 1)
    below = torch.stack([ones, *(best[name][counted].float() for name in gained if name in best)], 1)
    return values.numpy(), below.numpy()


def _totals(
    values_QM: np.ndarray,
    resamples: int,
    draw: Callable[[np.random.Generator, int], np.ndarray],
    seed: int,
    label: str,
) -> np.ndarray:
    """float64 (resamples, M): Σ over queries of drawn weight × value, block by block."""
    totals = np.zeros((resamples, values_QM.shape[1]))
    with Progress(label, len(values_QM), "queries") as progress:
        for number, (start, stop) in enumerate(_blocks(len(values_QM), resamples)):
            weights = draw(numpy_generator(seed, label, number), stop - start)
            totals += weights @ values_QM[start:stop]
            progress.advance(stop - start)
    return totals


def _blocks(queries: int, resamples: int) -> Iterator[tuple[int, int]]:
    size = max(64, BLOCK_CELLS // resamples)
    for start in range(0, queries, size):
        yield start, min(start + size, queries)


def _poisson_table() -> np.ndarray:
    """float32 (65536,): Poisson(1) of a uniform 16-bit number; every probability is within 2^-16 of the law."""
    cumulative, total = [], 0.0
    for count in range(9):
        total += math.exp(-1) / math.factorial(count)
        cumulative.append(total)
    return np.searchsorted(cumulative, (np.arange(1 << 16) + 0.5) / (1 << 16)).astype(np.float32)
