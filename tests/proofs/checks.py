"""What a right sampled loss must do, as checks that raise: the code and every mutant of it go through the same ones.

A check takes :class:`Code`, builds samplers and heads from it, and compares expectations over all samples with sums over
the whole catalogue.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from proofs.enumeration import (
    Scripted,
    assert_equal,
    expected_counts,
    expected_loss,
    head_losses,
    independent,
    make_head,
    sequences,
    without_replacement,
)
from reference import losses as reference
from torch import Tensor

from xclass.runtime.rng import torch_generator
from xclass.sampling import FixedUnigram
from xclass.types import Ragged

NOBODY = Ragged.from_lists([[]])


def weights_of(n: int) -> Tensor:
    """Falling weights, the first of them large."""
    return torch.tensor([9.0, 4.0, 2.0, 1.0, 1.0, 0.5], dtype=torch.float64)[:n]


@dataclass(frozen=True)
class Code:
    """The code under a check: a tiny problem, and where a mutant differs from the package.

    n, k: items and draws. log_q: changes the log of expected counts (N,) that a sampler reports.
    pos_log_q: the same for those of the positives. head: settings that replace those of a check.
    """

    n: int = 5
    k: int = 3
    temperature: float = 0.4
    log_q: Callable[["Code", Tensor], Tensor] = lambda code, log_q: log_q
    pos_log_q: Callable[["Code", Tensor], Tensor] = lambda code, log_q: log_q
    head: dict[str, Any] = field(default_factory=dict)

    def draw_probabilities(self) -> Tensor:
        return weights_of(self.n) / weights_of(self.n).sum()

    def conditional(self) -> Tensor:
        """P(item), what the data are drawn from: not the order of popularity."""
        drawn = torch.rand(self.n, generator=torch_generator(5, "proofs"), dtype=torch.float64) + 0.1
        return drawn / drawn.sum()

    def scores(self) -> Tensor:
        return torch.randn(self.n, generator=torch_generator(7, "proofs"), dtype=torch.float64) * self.temperature

    def reported(self) -> Tensor:
        """log-Q as the package's sampler reports it, and as the mutant changes it."""
        sampler = FixedUnigram(weights_of(self.n), self.k)
        return self.log_q(self, sampler.log_expected_count(torch.arange(self.n), NOBODY))

    def make(self, loss: str, **settings: Any) -> Any:
        return make_head(loss, **{"temperature": self.temperature, **settings, **self.head})

    def expected(self, head: Any, scores: Tensor, samples: Any, log_q: Tensor, p_target: Tensor) -> tuple[Any, Any]:
        """As :func:`expected_loss`, with the mutant's log-Q for positives."""
        return expected_loss(head, scores, samples, log_q, p_target, self.pos_log_q(self, log_q))


def check_counts(samples: Any, log_q: Tensor) -> None:
    """The mean count of every item is exp(log_q)."""
    assert_equal(log_q.exp(), expected_counts(samples, len(log_q)))


def check_expected_counts(code: Code) -> None:
    """... for the package's sampler."""
    check_counts(sequences(code.draw_probabilities(), code.k), code.reported())


def check_partition_function(code: Code) -> None:
    """E[sum over the sample of exp(score/T - log_q)] = Z: read off the loss log S - pos through the head."""
    samples, scores = sequences(code.draw_probabilities(), code.k), code.scores()
    head = code.make("sampled-softmax", switches={"positive_in_denominator": False}, corrected_log_q=True, remove_accidental_hits=False)  # fmt: skip
    targets = torch.zeros(len(samples.ids), dtype=torch.int64)
    losses, _ = head_losses(head, scores, targets, Scripted(samples.ids, code.reported()))
    estimates = (losses.detach() + scores[0] / code.temperature).exp()
    assert_equal((estimates * samples.probability).sum(), (scores / code.temperature).exp().sum())


def check_sums_are_unbiased(code: Code) -> None:
    """A loss that is a sum over the sample has an expected gradient: the sum over all items, weighted by their counts.

    E[sum_j softplus(x_j)] = sum_i q_i softplus(x_i), here for sampled logistic: the target's copies left out.
    """
    q, scores, p_target = code.k * code.draw_probabilities(), code.scores(), code.conditional()
    samples = sequences(code.draw_probabilities(), code.k)
    value, gradient = code.expected(code.make("sampled-logistic"), scores, samples, code.reported(), p_target)
    logits = (scores / code.temperature - q.log()).requires_grad_()
    softplus = torch.nn.functional.softplus
    others = (q * softplus(logits)).sum() - q * softplus(logits)
    want = (p_target * (softplus(-logits) + others)).sum()
    assert_equal(value, want.detach())
    assert_equal(gradient * code.temperature, torch.autograd.grad(want, logits)[0])


def check_negative_sampling_is_unbiased(code: Code) -> None:
    """The same without log-Q: E = softplus(-s_p) + sum over the others of q_i softplus(s_i)."""
    q, scores, p_target = code.k * code.draw_probabilities(), code.scores(), code.conditional()
    samples = sequences(code.draw_probabilities(), code.k)
    value, gradient = code.expected(code.make("negative-sampling"), scores, samples, code.reported(), p_target)
    logits = (scores / code.temperature).requires_grad_()
    softplus = torch.nn.functional.softplus
    others = (q * softplus(logits)).sum() - q * softplus(logits)
    want = (p_target * (softplus(-logits) + others)).sum()
    assert_equal(value, want.detach())
    assert_equal(gradient * code.temperature, torch.autograd.grad(want, logits)[0])


def check_nce_optimum(code: Code) -> None:
    """At score/T = log P(item) the expected gradient of NCE is 0: its optimum is the conditional, already normalised."""
    p_target = code.conditional()
    samples = sequences(code.draw_probabilities(), code.k)
    scores = p_target.log() * code.temperature
    _, gradient = code.expected(code.make("nce"), scores, samples, code.reported(), p_target)
    assert_equal(gradient, torch.zeros(code.n))


def check_softmax_optimum_of_draws(code: Code) -> None:
    """At score/T = log P + any constant the expected gradient of sampled softmax is 0, for every K.

    With replacement, log-Q on both and hits kept: each of the K + 1 columns could have been the true one (Ma & Collins
    2018, theorem 4.1).
    """
    p_target = code.conditional()
    samples = sequences(code.draw_probabilities(), code.k)
    scores = (p_target.log() + 1.7) * code.temperature
    head = code.make("sampled-softmax", remove_accidental_hits=False)
    _, gradient = code.expected(head, scores, samples, code.reported(), p_target)
    assert_equal(gradient, torch.zeros(code.n))


def check_softmax_optimum_of_sets(code: Code) -> None:
    """The same for samples without repeats, hits removed: uniform sets, and items that come independently.

    The candidates and the target together are a set, and any of its members could have been the target.
    """
    p_target = code.conditional()
    scores = (p_target.log() - 0.3) * code.temperature
    head = code.make("sampled-softmax", remove_accidental_hits=True)
    even = torch.full((code.n,), 1 / code.n, dtype=torch.float64)
    inclusion = 0.2 + 0.6 * code.draw_probabilities()
    for samples, q in ((without_replacement(even, code.k), code.k * even), (independent(inclusion), inclusion)):
        log_q = code.log_q(code, q.log())
        _, gradient = code.expected(head, scores, samples, log_q, p_target)
        assert_equal(gradient, torch.zeros(code.n))


def check_all_items(code: Code) -> None:
    """Every item a candidate, several positives, joint: the full softmax with target 1/T for each positive."""
    scores, lists = code.scores(), [[0, 2], [1], list(range(code.n))]
    head = code.make("sampled-softmax", switches={"positives": "joint"})
    losses, leaf = head_losses(head, scores, lists, Scripted(torch.arange(code.n), torch.zeros(code.n).double()))
    batch = Ragged.from_lists(lists)
    logits = (scores / code.temperature).tolist()
    pos = [logits[i] for i in batch.values.tolist()]
    assert_equal(losses.detach(), reference.full_softmax(pos, [logits] * 3, batch.offsets.tolist()))
    slope = torch.autograd.grad(losses.sum(), leaf)[0] * code.temperature
    shares = torch.zeros(code.n, dtype=torch.float64)
    shares.index_add_(0, batch.values, 1 / batch.lengths()[batch.rows()].double())
    assert_equal(slope, 3 * (scores / code.temperature).softmax(0) - shares)


def check_joint_targets(code: Code) -> None:
    """NCE over joint positives at its optimum: sigma(logit) of each of T positives is 1/T, and no noise pulls."""
    lists, none = [[0, 2], [1], [0, 1, 2, 3]], torch.empty(0, dtype=torch.int64)
    head = code.make("nce", switches={"positives": "joint"}, subtract_log_q=False)
    for row in lists:
        target = torch.tensor(1 / len(row) if len(row) > 1 else 1 - 1e-13, dtype=torch.float64)
        scores = target.logit().expand(code.n) * code.temperature
        losses, leaf = head_losses(head, scores, [row], Scripted(none, torch.zeros(code.n).double()))
        assert_equal(torch.autograd.grad(losses.sum(), leaf)[0], torch.zeros(code.n))


CHECKS: dict[str, Callable[[Code], None]] = {
    "expected counts": check_expected_counts,
    "partition function": check_partition_function,
    "sums are unbiased": check_sums_are_unbiased,
    "negative sampling is unbiased": check_negative_sampling_is_unbiased,
    "NCE's optimum": check_nce_optimum,
    "softmax's optimum, draws": check_softmax_optimum_of_draws,
    "softmax's optimum, sets": check_softmax_optimum_of_sets,
    "all items": check_all_items,
    "joint targets": check_joint_targets,
}
