"""The losses of compat.tf against loops in float64, and their arguments."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from xclass.compat import tf
from xclass.compat.logits import FLOAT64_LOGITS
from xclass.compat.shards import expected_sizes
from xclass.errors import InputError
from xclass.runtime.rng import torch_generator

N, D, B, T, S = 23, 5, 4, 3, 9
LOSSES = {"nce_loss": tf.nce_loss, "sampled_softmax_loss": tf.sampled_softmax_loss}


class Problem:
    """One call's tensors; candidates 4 and 5 are labels of the first rows, 4 twice among the candidates."""

    def __init__(self, dtype: torch.dtype = torch.float64, requires_grad: bool = False) -> None:
        g = torch_generator(0, "compat losses")
        self.weights = torch.randn(N, D, generator=g, dtype=torch.float64).to(dtype).requires_grad_(requires_grad)
        self.biases = torch.randn(N, generator=g, dtype=torch.float64).to(dtype).requires_grad_(requires_grad)
        self.inputs = torch.randn(B, D, generator=g, dtype=torch.float64).to(dtype).requires_grad_(requires_grad)
        self.labels = torch.randint(6, N, (B, T), generator=g)
        self.labels[0, 0], self.labels[1, 1:] = 4, 5
        self.sampled = torch.tensor([0, 4, 1, 5, 2, 3, 4, 6, 7])
        self.true_count = torch.rand(B, T, generator=g) + 0.1
        self.count = torch.rand(S, generator=g) + 0.1

    def call(self, loss, **more) -> Tensor:
        given = {"num_true": T, "sampled_values": (self.sampled, self.true_count, self.count)} | more
        return loss(self.weights, self.biases, self.labels, self.inputs, S, N, **given)


def by_hand(p: Problem, name: str, remove: bool, subtract: bool) -> list[float]:
    """Cell by cell, in Python floats."""
    losses = []
    for b in range(B):
        true, others = [], []
        for t in range(T):
            c = int(p.labels[b, t])
            score = float(p.weights[c] @ p.inputs[b] + p.biases[c])
            true.append(score - (math.log(p.true_count[b, t]) if subtract else 0))
        for s, c in enumerate(p.sampled.tolist()):
            if remove and c in p.labels[b].tolist():
                continue
            score = float(p.weights[c] @ p.inputs[b] + p.biases[c])
            others.append(score - (math.log(p.count[s]) if subtract else 0))
        if name == "nce_loss":
            value = sum(math.log1p(math.exp(x)) - x / T for x in true) + sum(math.log1p(math.exp(x)) for x in others)
        else:
            value = math.log(sum(map(math.exp, true + others))) - sum(true) / T
        losses.append(value)
    return losses


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("remove", [False, True])
@pytest.mark.parametrize("subtract", [False, True])
def test_values(name: str, remove: bool, subtract: bool) -> None:
    p = Problem()
    found = p.call(LOSSES[name], remove_accidental_hits=remove, subtract_log_q=subtract)
    torch.testing.assert_close(found, torch.tensor(by_hand(p, name, remove, subtract), dtype=torch.float64), rtol=1e-12, atol=1e-12)  # fmt: skip


@pytest.mark.parametrize("name", LOSSES)
def test_defaults_of_the_switches(name: str) -> None:
    p = Problem()
    expected = by_hand(p, name, remove=name == "sampled_softmax_loss", subtract=True)
    torch.testing.assert_close(p.call(LOSSES[name]), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    p = Problem(requires_grad=True)

    def loss(weights: Tensor, biases: Tensor, inputs: Tensor) -> Tensor:
        p.weights, p.biases, p.inputs = weights, biases, inputs
        return p.call(LOSSES[name], remove_accidental_hits=True)

    assert torch.autograd.gradcheck(loss, (p.weights, p.biases, p.inputs))


@pytest.mark.parametrize("subtract", [False, True])
def test_sampled_logits_and_their_gradient(subtract: bool) -> None:
    p = Problem(requires_grad=True)
    logits, targets = p.call(tf.compute_sampled_logits, subtract_log_q=subtract)
    rows = torch.cat([p.labels, p.sampled.expand(B, S)], 1)
    expected = torch.einsum("bd,bcd->bc", p.inputs, p.weights[rows]) + p.biases[rows]
    if subtract:
        expected = expected - torch.cat([p.true_count, p.count.expand(B, S)], 1).double().log()
    torch.testing.assert_close(logits, expected)
    assert targets.tolist() == [[1 / T] * T + [0.0] * S] * B and not targets.requires_grad

    def function(weights: Tensor, biases: Tensor, inputs: Tensor) -> Tensor:
        p.weights, p.biases, p.inputs = weights, biases, inputs
        return p.call(tf.compute_sampled_logits, remove_accidental_hits=True)[0].clamp(min=-100)

    assert torch.autograd.gradcheck(function, (p.weights, p.biases, p.inputs))


def test_every_copy_of_a_hit_is_masked_and_gets_no_gradient() -> None:
    p = Problem(torch.float32, requires_grad=True)
    logits, _ = p.call(tf.compute_sampled_logits, remove_accidental_hits=True)
    masked = (logits[:, T:] == torch.finfo(torch.float32).min).nonzero().tolist()
    assert masked == [[b, s] for b in range(B) for s in range(S) if p.sampled[s] in p.labels[b]]
    assert [0, 1] in masked and [0, 6] in masked  # class 4, twice a candidate
    p.call(tf.sampled_softmax_loss, subtract_log_q=False)[0].backward()
    twin = Problem(torch.float32, requires_grad=True)
    keep = torch.tensor([s for s in range(S) if twin.sampled[s] not in twin.labels[0]])
    loss = tf.sampled_softmax_loss(
        twin.weights, twin.biases, twin.labels[:1], twin.inputs[:1], len(keep), N, T,
        (twin.sampled[keep], twin.true_count[:1], twin.count[keep]), subtract_log_q=False,
    )  # fmt: skip
    loss.sum().backward()
    torch.testing.assert_close(p.weights.grad, twin.weights.grad)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("strategy", ["mod", "div"])
@pytest.mark.parametrize("sparse_grad", [False, True])
def test_shards(name: str, strategy: str, sparse_grad: bool) -> None:
    """Weights in 4 shards, biases in 3: the loss and the gradients of the uncut tables."""
    whole, cut = Problem(requires_grad=True), Problem()
    places = {p: [torch.arange(N)[s::p] for s in range(p)] for p in (3, 4)}
    if strategy == "div":
        places = {p: list(torch.arange(N).split(expected_sizes(N, p, "div"))) for p in (3, 4)}
    cut.weights = [whole.weights.detach()[place].requires_grad_() for place in places[4]]
    cut.biases = [whole.biases.detach()[place].requires_grad_() for place in places[3]]
    expected = whole.call(LOSSES[name])
    found = cut.call(LOSSES[name], partition_strategy=strategy, sparse_grad=sparse_grad)
    torch.testing.assert_close(found, expected)
    expected.sum().backward()
    found.sum().backward()
    for shards, table, number in ((cut.weights, whole.weights, 4), (cut.biases, whole.biases, 3)):
        for shard, place in zip(shards, places[number], strict=True):
            assert shard.grad.is_sparse == sparse_grad
            torch.testing.assert_close(shard.grad.to_dense() if sparse_grad else shard.grad, table.grad[place])


def test_the_default_rule_of_shards_is_tensorflows() -> None:
    """Div in ``tf.nn``'s losses, mod in the helper."""
    p = Problem()
    whole = p.weights
    p.weights = list(whole.split(expected_sizes(N, 2, "div")))
    torch.testing.assert_close(p.call(tf.nce_loss), Problem().call(tf.nce_loss))
    p.weights = [whole[0::2], whole[1::2]]
    torch.testing.assert_close(p.call(tf.compute_sampled_logits)[0], Problem().call(tf.compute_sampled_logits)[0])


def test_a_sparse_gradient_has_the_rows_read_once_each_and_no_more() -> None:
    p = Problem(torch.float32, requires_grad=True)
    p.call(tf.nce_loss, sparse_grad=True).sum().backward()
    read = torch.cat([p.labels.flatten(), p.sampled]).unique()
    for table in (p.weights, p.biases):
        assert table.grad.is_sparse
        assert torch.equal(table.grad._indices()[0], read)
        assert table.grad._values().shape == (len(read), *table.shape[1:])
    dense = Problem(torch.float32, requires_grad=True)
    dense.call(tf.nce_loss).sum().backward()
    torch.testing.assert_close(p.weights.grad.to_dense(), dense.weights.grad)
    torch.testing.assert_close(p.biases.grad.to_dense(), dense.biases.grad)


def test_the_optimisers_that_take_sparse_gradients_take_these() -> None:
    p = Problem(torch.float32, requires_grad=True)
    before = p.weights.detach().clone()
    optimizer = torch.optim.SparseAdam([p.weights, p.biases], lr=0.1)
    p.call(tf.sampled_softmax_loss, sparse_grad=True).sum().backward()
    optimizer.step()
    changed = (p.weights != before).any(1).nonzero().squeeze(1)
    assert torch.equal(changed, torch.cat([p.labels.flatten(), p.sampled]).unique())


@pytest.mark.parametrize("shape", [(B, 1), (1, T), (T,), (1, 1), ()])
def test_true_counts_broadcast(shape: tuple[int, ...]) -> None:
    p, wide = Problem(), Problem()
    p.true_count = torch.rand(shape, generator=torch_generator(0, "counts")) + 0.5
    wide.true_count = p.true_count.expand(B, T).clone()
    torch.testing.assert_close(p.call(tf.nce_loss), wide.call(tf.nce_loss))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_finite_and_near(name: str, dtype: torch.dtype) -> None:
    """With hits, which become −∞ and then NaN in TensorFlow."""
    p, exact = Problem(dtype, requires_grad=True), Problem()
    found = p.call(LOSSES[name], remove_accidental_hits=True)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), exact.call(LOSSES[name], remove_accidental_hits=True), rtol=0.03, atol=0.03)  # fmt: skip
    found.sum().backward()
    for tensor in (p.weights, p.biases, p.inputs):
        assert tensor.grad.dtype == dtype and bool(torch.isfinite(tensor.grad).all())
    logits, _ = p.call(tf.compute_sampled_logits, remove_accidental_hits=True)
    assert logits.dtype == dtype and bool(torch.isfinite(logits).all())


def test_tables_of_another_dtype_than_the_inputs() -> None:
    p = Problem(torch.float32, requires_grad=True)
    p.inputs = p.inputs.detach().double().requires_grad_()
    loss = p.call(tf.nce_loss)
    loss.sum().backward()
    assert loss.dtype == torch.float64 and p.weights.grad.dtype == torch.float32


@pytest.mark.parametrize("name", LOSSES)
def test_large_calls_equal_small_ones(name: str) -> None:
    """Beyond the size that is computed in float64: the same numbers row by row, and with bfloat16 products nearly."""
    g = torch_generator(0, "large")
    batch, num_sampled = 32, FLOAT64_LOGITS // 32
    weights, biases = torch.randn(num_sampled * 2, 8, generator=g) / 3, torch.randn(num_sampled * 2, generator=g)
    inputs, labels = torch.randn(batch, 8, generator=g), torch.randint(0, num_sampled * 2, (batch, 2), generator=g)
    values = tf.log_uniform_candidate_sampler(labels, 2, num_sampled, True, len(weights), seed=1)

    def call(rows: slice, dtype: torch.dtype | None = None) -> Tensor:
        picked = (values.sampled_candidates, values.true_expected_count[rows], values.sampled_expected_count)
        return LOSSES[name](
            weights, biases, labels[rows], inputs[rows], num_sampled, len(weights), 2, picked, product_dtype=dtype
        )

    whole = call(slice(None))
    parts = torch.cat([call(slice(row, row + 4)) for row in range(0, batch, 4)])
    torch.testing.assert_close(whole, parts, rtol=1e-6, atol=0)
    torch.testing.assert_close(call(slice(None), torch.bfloat16), parts, rtol=0.02, atol=0)


def test_without_biases_they_are_zero() -> None:
    p, zero = Problem(), Problem()
    p.biases, zero.biases = None, torch.zeros(N, dtype=torch.float64)
    torch.testing.assert_close(p.call(tf.nce_loss), zero.call(tf.nce_loss))


@pytest.mark.parametrize("name", LOSSES)
def test_the_default_sampler_is_log_uniform_without_repeats(name: str) -> None:
    p = Problem()
    found = p.call(LOSSES[name], sampled_values=None, seed=11)
    drawn = tf.log_uniform_candidate_sampler(p.labels, T, S, True, N, seed=11)
    torch.testing.assert_close(found, p.call(LOSSES[name], sampled_values=drawn))
    torch.testing.assert_close(found, p.call(LOSSES[name], sampled_values=None, seed=11))
    generator = torch_generator(0, "moves on")
    first, second = (p.call(LOSSES[name], sampled_values=None, seed=generator) for _ in range(2))
    assert not torch.equal(first, second)


def test_all_candidates_make_the_full_softmax() -> None:
    p = Problem()
    labels = p.labels[:, :1]
    values = tf.all_candidate_sampler(labels, 1, N, True)
    found = tf.sampled_softmax_loss(p.weights, p.biases, labels, p.inputs, N, N, sampled_values=values)
    expected = torch.nn.functional.cross_entropy(p.inputs @ p.weights.T + p.biases, labels[:, 0], reduction="none")
    torch.testing.assert_close(found, expected)


@pytest.mark.gpu
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("sparse_grad", [False, True])
def test_on_an_accelerator_it_is_the_same(name: str, sparse_grad: bool) -> None:
    there, here = Problem(torch.float32), Problem(torch.float32, requires_grad=True)
    for field in ("weights", "biases", "inputs"):
        setattr(there, field, getattr(there, field).cuda().requires_grad_())
    for sampled_values in ((here.sampled, here.true_count, here.count), None):
        found, expected = (
            p.call(
                LOSSES[name],
                sampled_values=sampled_values,
                seed=3,
                remove_accidental_hits=True,
                sparse_grad=sparse_grad,
            )
            for p in (there, here)
        )
        assert found.is_cuda
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-5, atol=1e-6)
    found.sum().backward()
    expected.sum().backward()
    gradients = [p.weights.grad.to_dense() if sparse_grad else p.weights.grad for p in (there, here)]
    torch.testing.assert_close(gradients[0].cpu(), gradients[1], rtol=1e-5, atol=1e-6)


def test_an_empty_batch() -> None:
    p = Problem()
    empty = tf.nce_loss(p.weights, p.biases, p.labels[:0], p.inputs[:0], S, N, T, seed=0)
    assert empty.shape == (0,)


def test_the_name_stands_in_errors_and_in_the_profile() -> None:
    p = Problem()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        p.call(tf.nce_loss, name="my_loss")
    assert "my_loss" in {event.key for event in profile.key_averages()}
    with pytest.raises(InputError, match="^my_loss: "):
        p.call(tf.nce_loss, name="my_loss", num_true=2)


WRONG = {
    "labels without columns": ({"labels": torch.zeros(B, dtype=torch.int64)}, "matrix of num_true columns"),
    "labels of another width": ({"num_true": T + 1}, "matrix of num_true columns"),
    "labels of floats": ({"labels": torch.zeros(B, T)}, "integer tensor"),
    "a label too large": ({"labels": torch.full((B, T), N)}, "does not exist"),
    "a negative label": ({"labels": torch.full((B, T), -1)}, "does not exist"),
    "labels of another batch": ({"labels": torch.zeros(B + 1, T, dtype=torch.int64)}, "differ in length"),
    "inputs of integers": ({"inputs": torch.zeros(B, D, dtype=torch.int64)}, "inputs is of the wrong kind"),
    "inputs of another dimension": ({"inputs": torch.zeros(B, D + 1)}, "differ in their dimension"),
    "too few rows": ({"weights": torch.zeros(N - 1, D)}, "can't hold the classes"),
    "too few biases": ({"biases": torch.zeros(N - 1)}, "can't hold the classes"),
    "biases of two dimensions": ({"biases": torch.zeros(N, 1)}, "biases has the wrong shape"),
    "weights of integers": ({"weights": torch.zeros(N, D, dtype=torch.int64)}, "floating tensor"),
    "shards of other sizes": ({"weights": [torch.zeros(20, D), torch.zeros(3, D)]}, "can't hold the classes"),
    "shards of two dtypes": ({"weights": [torch.zeros(12, D), torch.zeros(11, D).double()]}, "shards alike"),
    "an unknown rule": ({"partition_strategy": "hash"}, "no such partition_strategy"),
    "another num_sampled": ({"num_sampled": S + 1}, "num_sampled differ"),
    "num_sampled of 0": ({"num_sampled": 0}, "num_sampled is out of range"),
    "two sampled values": ({"sampled_values": (torch.zeros(S).long(), torch.ones(B, T))}, "three tensors"),
    "a candidate too large": ({"sampled": torch.full((S,), N)}, "does not exist"),
    "a count of 0": ({"count": torch.zeros(S)}, "sampled_expected_count has a count"),
    "a count of NaN": ({"true_count": torch.full((B, T), math.nan)}, "true_expected_count has a count"),
    "counts that do not fit": ({"true_count": torch.ones(B, T + 1)}, "true_expected_count does not fit"),
    "the rule as name": ({"name": "mod"}, "partition_strategy there"),
    "a seed of text": ({"seed": "mod"}, "seed is of the wrong kind"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_refused(what: str) -> None:
    changes, message = WRONG[what]
    p, given = Problem(torch.float32), {"num_true": T, "num_sampled": S}
    for name, value in changes.items():
        if hasattr(p, name):
            setattr(p, name, value)
        else:
            given[name] = value
    given.setdefault("sampled_values", (p.sampled, p.true_count, p.count))
    with pytest.raises(InputError, match=message):
        tf.nce_loss(p.weights, p.biases, p.labels, p.inputs, num_classes=N, **given)


def test_a_count_of_0_does_not_matter_where_it_is_not_read() -> None:
    p = Problem()
    p.count = torch.zeros(S)
    assert bool(torch.isfinite(p.call(tf.nce_loss, subtract_log_q=False)).all())
