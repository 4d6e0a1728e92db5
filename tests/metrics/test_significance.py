"""Bootstrap intervals, the randomisation test and Holm's correction: against formulas, enumeration and simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from xclass.errors import InputError
from xclass.metrics import holm, intervals, randomisation_p, significance
from xclass.runtime.rng import numpy_generator


def column(values: object) -> torch.Tensor:
    return torch.tensor(np.asarray(values), dtype=torch.float32)


def test_the_weights_are_poisson() -> None:
    table = significance._poisson_table()
    shares = np.bincount(table.astype(int)) / len(table)
    law = np.exp(-1) / np.cumprod([1, *range(1, len(shares))])
    assert np.abs(shares - law).max() < 2 / (1 << 16)
    assert table.mean() == pytest.approx(1, abs=1e-4)


def test_interval_of_a_mean_is_that_of_the_normal_law() -> None:
    values = numpy_generator(0, "values").random(4000)
    low, high = intervals({"m": column(values)}, {}, 4000)["m"]
    half = 1.96 * values.std() / len(values) ** 0.5
    assert (low, high) == (
        pytest.approx(values.mean() - half, abs=half / 10),
        pytest.approx(values.mean() + half, abs=half / 10),
    )


def test_interval_of_a_ratio() -> None:
    """Σ gained / Σ best by the delta method."""
    rng = numpy_generator(1, "values")
    best = rng.random(4000) + 0.5
    gained = best * rng.random(4000)
    low, high = intervals({"psp@1": column(gained)}, {"psp@1": column(best)}, 4000)["psp@1"]
    ratio = gained.sum() / best.sum()
    half = 1.96 * (gained - ratio * best).std() / best.mean() / len(best) ** 0.5
    assert (low, high) == (pytest.approx(ratio - half, abs=half / 10), pytest.approx(ratio + half, abs=half / 10))


def test_coverage_of_the_interval() -> None:
    """95 of 100 intervals hold the true mean, up to chance."""
    rng = numpy_generator(2, "values")
    held = 0
    for number in range(200):
        low, high = intervals({"m": column(rng.random(100) < 0.3)}, {}, 400, seed=number)["m"]
        held += low <= 0.3 <= high
    assert 176 <= held <= 199


def test_skipped_queries_do_not_count_and_seeds_repeat() -> None:
    values = numpy_generator(3, "values").random(50)
    spread = np.full(120, np.nan)
    spread[10:60] = values
    one = intervals({"m": column(values)}, {}, 300, seed=4)
    assert intervals({"m": column(spread)}, {}, 300, seed=4) == one
    assert intervals({"m": column(values)}, {}, 300, seed=5) != one
    assert intervals({"m": column(np.full(9, 0.25))}, {}, 300) == {"m": (0.25, 0.25)}


def test_blocks_do_not_change_what_is_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"m": column(numpy_generator(3, "values").random(1000))}
    whole = intervals(values, {}, 2000)["m"]
    monkeypatch.setattr(significance, "BLOCK_CELLS", 1)
    parts = intervals(values, {}, 2000)["m"]
    assert parts == pytest.approx(whole, abs=0.004)


def test_p_equals_the_enumeration_of_all_signs() -> None:
    gaps = [0.5, -0.1, 0.3, 0.2, 0.0, 0.4, -0.2, 0.25]
    seen = abs(sum(gaps))
    wanted = np.mean(
        [abs(np.dot(signs, gaps)) >= seen - 1e-12 for signs in itertools.product((1, -1), repeat=len(gaps))]
    )
    assert randomisation_p({"m": column(gaps)}, 20_000)["m"] == pytest.approx(wanted, abs=0.01)


def test_p_of_no_difference_is_one_and_never_zero() -> None:
    assert randomisation_p({"m": column([0.0] * 20)}, 200) == {"m": 1.0}
    assert randomisation_p({"m": column([1.0] * 40 + [np.nan])}, 999)["m"] == 1 / 1000


def test_p_is_uniform_where_nothing_differs() -> None:
    rng = numpy_generator(5, "values")
    found = np.array([randomisation_p({"m": column(rng.normal(size=40))}, 199, seed=n)["m"] for n in range(300)])
    for level in (0.05, 0.2, 0.5):
        assert abs((found <= level).mean() - level) < 4 * (level * (1 - level) / 300) ** 0.5


def test_the_test_sees_a_difference() -> None:
    gaps = numpy_generator(6, "values").normal(0.3, 1, 400)
    assert randomisation_p({"m": column(gaps), "other": column(-gaps)}, 999) == {"m": 1 / 1000, "other": 1 / 1000}


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_refusals() -> None:
    with pytest.raises(InputError, match="needs samples"):
        intervals({"m": column([1.0])}, {}, 0)
    with pytest.raises(InputError, match="sign changes"):
        randomisation_p({"m": column([1.0])}, 0)
    with pytest.raises(InputError, match="different numbers"):
        intervals({"m": column([1.0]), "n": column([1.0, 2.0])}, {}, 10)
    assert intervals({"m": column([np.nan])}, {}, 10) == {}
