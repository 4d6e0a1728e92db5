"""Random problems for the two losses, as NumPy arrays, and our answer to them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from xclass.compat import tf as ours
from xclass.runtime.rng import numpy_generator

LOSSES = ("sampled_softmax_loss", "nce_loss")


@dataclass(frozen=True)
class Case:
    """One call of a loss. ``upstream`` (B,) is the gradient that flows into the loss."""

    loss: str
    weights: np.ndarray
    biases: np.ndarray
    labels: np.ndarray
    inputs: np.ndarray
    sampled: np.ndarray
    true_count: np.ndarray
    sampled_count: np.ndarray
    upstream: np.ndarray
    remove_accidental_hits: bool = False
    subtract_log_q: bool = True
    strategy: str = "div"
    weight_shards: int = 1
    bias_shards: int = 1

    def astype(self, dtype: type) -> Case:
        """The same numbers in another precision."""
        floating = ("weights", "biases", "inputs", "true_count", "sampled_count", "upstream")
        return replace(self, **{name: getattr(self, name).astype(dtype) for name in floating})


def random_case(seed: int, number: int, most: tuple[int, int, int, int] = (600, 64, 32, 128)) -> Case:
    """Number ``number`` of the random cases: sizes, hits, shards, counts and switches all vary.

    ``most`` are the largest numbers of classes, dimensions, rows and candidates; num_true goes up to 64.
    """
    rng = numpy_generator(seed, "comparison", number)
    num_classes, dim, batch = (int(rng.integers(low, high + 1)) for low, high in zip((2, 1, 1), most, strict=False))
    num_true = int(rng.integers(1, 65)) if number % 2 else int(rng.choice([1, 1, 1, 2, 3, 4, 5]))
    num_sampled = min(num_classes, int(rng.integers(1, most[3] + 1)))
    scale = 10 ** rng.uniform(-2, 0.3)
    sampled = rng.permutation(num_classes)[:num_sampled]
    labels = rng.integers(0, num_classes, (batch, num_true))
    if number % 3 == 0:  # many hits
        labels = np.where(rng.random(labels.shape) < 0.5, rng.choice(sampled, labels.shape), labels)
    remove = bool(rng.integers(2))
    if not remove and number % 5 == 0:
        sampled = rng.integers(0, num_classes, num_sampled)  # repeats
    count_shape = [(batch, num_true), (batch, 1), (1, num_true), (1, 1)][int(rng.integers(8)) % 5 % 4]
    return Case(
        loss=LOSSES[number // 2 % 2],
        weights=(rng.standard_normal((num_classes, dim)) * scale / np.sqrt(dim)).astype(np.float32),
        biases=(rng.standard_normal(num_classes) * min(scale, 1)).astype(np.float32),
        labels=labels.astype(np.int64),
        inputs=rng.standard_normal((batch, dim)).astype(np.float32),
        sampled=sampled.astype(np.int64),
        true_count=np.exp(rng.uniform(-6, 1, count_shape)).astype(np.float32),
        sampled_count=np.exp(rng.uniform(-6, 1, num_sampled)).astype(np.float32),
        upstream=(np.ones(batch) / batch if number % 4 else rng.uniform(0.2, 1, batch)).astype(np.float32),
        remove_accidental_hits=remove,
        subtract_log_q=bool(rng.integers(4)),
        strategy=("mod", "div")[int(rng.integers(2))],
        weight_shards=int(rng.integers(1, min(5, num_classes))) if number % 7 == 0 else 1,
        bias_shards=int(rng.integers(1, min(4, num_classes))) if number % 7 == 0 else 1,
    )


def cut(table: np.ndarray, shards: int, strategy: str) -> list[np.ndarray]:
    """A table's shards, by TensorFlow's description of the two rules."""
    if strategy == "mod":
        return [np.ascontiguousarray(table[start::shards]) for start in range(shards)]
    return np.array_split(table, shards)


def joined(parts: list[np.ndarray], strategy: str) -> np.ndarray:
    """The table that :func:`cut` was given."""
    if strategy == "div":
        return np.concatenate(parts)
    whole = np.empty((sum(map(len, parts)), *parts[0].shape[1:]), parts[0].dtype)
    for start, part in enumerate(parts):
        whole[start :: len(parts)] = part
    return whole


def answer(case: Case, sparse_grad: bool = False) -> dict[str, np.ndarray]:
    """Our loss and gradients: value (B,), weights, biases, inputs."""
    weights = [torch.tensor(part).requires_grad_() for part in cut(case.weights, case.weight_shards, case.strategy)]
    biases = [torch.tensor(part).requires_grad_() for part in cut(case.biases, case.bias_shards, case.strategy)]
    inputs = torch.tensor(case.inputs).requires_grad_()
    value = getattr(ours, case.loss)(
        weights if case.weight_shards > 1 else weights[0],
        biases if case.bias_shards > 1 else biases[0],
        torch.tensor(case.labels),
        inputs,
        len(case.sampled),
        len(case.weights),
        case.labels.shape[1],
        (torch.tensor(case.sampled), torch.tensor(case.true_count), torch.tensor(case.sampled_count)),
        case.remove_accidental_hits,
        partition_strategy=case.strategy,
        subtract_log_q=case.subtract_log_q,
        sparse_grad=sparse_grad,
    )
    (value * torch.tensor(case.upstream)).sum().backward()

    def gradient(parts: list[torch.Tensor]) -> np.ndarray:
        dense = [part.grad.to_dense() if part.grad.is_sparse else part.grad for part in parts]
        return joined([part.numpy() for part in dense], case.strategy)

    return {
        "value": value.detach().numpy(),
        "weights": gradient(weights),
        "biases": gradient(biases),
        "inputs": inputs.grad.numpy(),
    }


def distance(first: np.ndarray, second: np.ndarray, floor: float = 0.0) -> float:
    """Largest difference, relative to the largest magnitude in ``second``, or to ``floor`` where that is larger."""
    assert first.shape == second.shape
    largest = max(float(np.abs(second).max(initial=0.0)), floor) or 1.0
    return float(np.abs(first.astype(np.float64) - second).max(initial=0.0)) / largest
