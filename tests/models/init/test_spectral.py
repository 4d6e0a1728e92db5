"""The truncated SVD against NumPy's, and what a spectral start must be."""

import numpy as np
import pytest
import torch

from xclass.errors import InputError
from xclass.models.init.spectral import feature_factors, spectral_factors
from xclass.types import Ragged


def random_pairs(num_queries=60, num_items=40, seed=0, weights=False):
    generator = np.random.default_rng(seed)
    lists = [generator.permutation(num_items - 2)[: generator.integers(1, 12)].tolist() for _ in range(num_queries)]
    flat = [generator.random(len(row)).astype("float32").tolist() for row in lists] if weights else None
    return Ragged.from_lists(lists, flat)


def dense_normalised(pairs, num_items):
    x = np.zeros((len(pairs), num_items))
    data = np.ones(len(pairs.values)) if pairs.weights is None else pairs.weights.numpy()
    for row, item, value in zip(pairs.rows().tolist(), pairs.values.tolist(), data, strict=True):
        x[row, item] += value
    rows, columns = x.sum(1, keepdims=True), x.sum(0, keepdims=True)
    return x / np.sqrt(np.maximum(rows, 1e-30)) / np.sqrt(np.maximum(columns, 1e-30))


@pytest.mark.parametrize("weights", [False, True])
def test_equals_the_dense_svd(weights):
    pairs = random_pairs(weights=weights)
    factors = spectral_factors(pairs, 40, 6, seed=1, iterations=12)
    _, s, vt = np.linalg.svd(dense_normalised(pairs, 40))
    np.testing.assert_allclose(factors.values.numpy(), s[:6], rtol=1e-4)
    overlap = np.abs((factors.vectors.numpy() * vt[:6].T).sum(0))
    np.testing.assert_allclose(overlap, 1.0, atol=1e-3)


def test_first_singular_value_is_one_and_vectors_are_orthonormal():
    """The degree-normalised matrix has norm 1; items that never occur have zero vectors."""
    factors = spectral_factors(random_pairs(), 40, 10, seed=0, iterations=8)
    assert float(factors.values[0]) == pytest.approx(1.0, abs=1e-4)
    assert bool((factors.values.diff() <= 0).all())
    torch.testing.assert_close(factors.vectors.T @ factors.vectors, torch.eye(10), rtol=0, atol=1e-3)
    assert float(factors.vectors[38:].abs().max()) < 1e-6


def test_same_seed_same_bits():
    first, second = (spectral_factors(random_pairs(), 40, 5, seed=3) for _ in range(2))
    assert torch.equal(first.vectors, second.vectors) and torch.equal(first.values, second.values)


def test_fewer_distinct_directions_than_dimensions_stay_finite():
    pairs = Ragged.from_lists([[0, 1], [0, 1], [2]])
    factors = spectral_factors(pairs, 3, 3, seed=0)
    assert bool(torch.isfinite(factors.vectors).all()) and float(factors.values[2]) == pytest.approx(0.0, abs=1e-3)


def test_too_many_dimensions_are_refused():
    with pytest.raises(InputError, match="embedding_dim"):
        spectral_factors(random_pairs(), 40, 41, seed=0)


def random_bags(num_queries=60, num_features=30, seed=1):
    generator = np.random.default_rng(seed)
    lists = [generator.permutation(num_features)[: generator.integers(0, 8)].tolist() for _ in range(num_queries)]
    return Ragged.from_lists(lists, [generator.random(len(row)).astype("float32").tolist() for row in lists])


def dense(lists, columns):
    x = np.zeros((len(lists), columns))
    data = np.ones(len(lists.values)) if lists.weights is None else lists.weights.numpy()
    np.add.at(x, (lists.rows().numpy(), lists.values.numpy()), data)
    return x


@pytest.mark.parametrize("count_power", [0.0, 0.25, 0.5])
def test_features_equal_the_dense_svd_of_the_co_occurrence(count_power):
    bags, pairs = random_bags(), random_pairs(weights=True)
    factors = feature_factors(bags, pairs, (30, 40), 5, seed=1, iterations=30, count_power=count_power)
    y = dense(pairs, 40)
    y = y / np.sqrt(np.maximum(y.sum(1, keepdims=True), 1)) / np.maximum(y.sum(0), 1) ** count_power
    matrix = dense(bags, 30).T @ y
    u, s, vt = np.linalg.svd(matrix)
    np.testing.assert_allclose(factors.values.numpy(), s[:5], rtol=1e-4)
    product = (factors.features * factors.values) @ factors.items.T
    np.testing.assert_allclose(product.numpy(), u[:, :5] * s[:5] @ vt[:5], atol=1e-2 * s[0])
    torch.testing.assert_close(factors.features.T @ factors.features, torch.eye(5), rtol=0, atol=1e-3)


def test_more_dimensions_than_features_are_refused():
    with pytest.raises(InputError, match="too many dimensions"):
        feature_factors(random_bags(), random_pairs(), (30, 40), 31, seed=0)
