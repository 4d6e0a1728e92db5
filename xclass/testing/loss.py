"""Conformance suite of the loss seam."""

from __future__ import annotations

import torch
from torch import Tensor

from xclass.losses import Loss, mask_value, one_pass
from xclass.runtime.rng import torch_generator
from xclass.types import offsets_of


def check_loss(loss: Loss, stops_gradient: bool = False) -> None:
    """Run every check on one registered loss; an AssertionError says which property fails.

    Args:
        loss: the loss, maybe with switches.
        stops_gradient: part of the loss is held fixed in its gradient, so that finite differences do not apply.
    """
    check_one_pass_equals_function(loss)
    if not stops_gradient:
        check_gradient_numerically(loss)
    check_no_positives_is_zero(loss)
    check_no_negatives(loss)
    check_finite_at_the_extremes(loss)
    check_cut_of_the_batch_does_not_matter(loss)
    check_weights_scale(loss)


def _problem(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch_generator(0, "loss conformance")
    lengths = torch.tensor([1, 0, 3, 2])
    pos = torch.randn(6, generator=generator, dtype=dtype)
    neg = torch.randn(4, 7, generator=generator, dtype=dtype)
    weights = torch.rand(6, generator=generator, dtype=dtype) + 0.1
    return pos, neg, offsets_of(lengths), weights


def check_one_pass_equals_function(loss: Loss) -> None:
    """The one-pass form gives the plain function's value and its autograd gradient, with and without weights.

    In float64 to 1e-12; in float32, where a compiled pass may serve, to 2e-6.
    """
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-6)):
        pos, neg, offsets, weights = _problem(dtype)
        neg[2, :3] = mask_value(dtype)
        for used in (None, weights):
            pos_leaf, neg_leaf = pos.clone().requires_grad_(), neg.clone().requires_grad_()
            value = loss.function(pos_leaf, neg_leaf, offsets, used)
            expected = (value.detach(), *torch.autograd.grad(value.sum(), (pos_leaf, neg_leaf)))
            for got, want in zip(one_pass(loss, pos, neg, offsets, used), expected, strict=True):
                torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


def check_gradient_numerically(loss: Loss) -> None:
    """Finite differences agree with autograd."""
    pos, neg, offsets, weights = _problem()
    torch.autograd.gradcheck(
        lambda a, b: loss.function(a, b, offsets, weights), (pos.requires_grad_(), neg.requires_grad_())
    )


def check_no_positives_is_zero(loss: Loss) -> None:
    """A query without positives has loss 0 and gives no gradient; so has one whose weights are all 0."""
    pos, neg, offsets, weights = _problem()
    weights[:1] = 0.0
    for used, empty in ((None, [1]), (weights, [0, 1])):
        value, _, neg_grad = one_pass(loss, pos, neg, offsets, used)
        plain = loss.function(pos, neg, offsets, used)
        assert not float(value[empty].abs().sum()) and not float(plain[empty].abs().sum())
        assert not float(neg_grad[empty].abs().sum())


def check_no_negatives(loss: Loss) -> None:
    """No columns, and nothing but masks, are the same and finite."""
    pos, neg, offsets, _ = _problem()
    nothing, masked = neg[:, :0], torch.full_like(neg, mask_value(neg.dtype))
    if loss.full:
        return
    values = [one_pass(loss, pos, n, offsets)[0] for n in (nothing, masked)]
    values += [loss.function(pos, n, offsets) for n in (nothing, masked)]
    for value in values:
        assert bool(torch.isfinite(value).all())
        torch.testing.assert_close(value, values[0], rtol=1e-12, atol=1e-12)
    assert not float(one_pass(loss, pos, masked, offsets)[2].abs().sum())


def check_finite_at_the_extremes(loss: Loss) -> None:
    """Everything masked, scores of ±1e9 (±1e4 in half precision): finite loss and gradient, in both forms."""
    for dtype, big in ((torch.float32, 1e9), (torch.bfloat16, 1e9), (torch.float16, 1e4)):
        pos, neg, offsets, _ = _problem(torch.float32)
        for scale in (-big, big):
            for fill in (mask_value(dtype), scale, -scale):
                logits, targets = torch.full_like(neg, fill).to(dtype), (pos * scale / 4).to(dtype)
                if loss.full:
                    logits[:, :6] = targets
                parts = list(one_pass(loss, targets, logits, offsets))
                leaves = targets.requires_grad_(), logits.requires_grad_()
                value = loss.function(*leaves, offsets)
                parts += [value, *torch.autograd.grad(value.sum(), leaves)]
                assert all(bool(torch.isfinite(part).all()) for part in parts)


def check_cut_of_the_batch_does_not_matter(loss: Loss) -> None:
    """The loss of a query is the same alone and in company."""
    pos, neg, offsets, weights = _problem()
    whole = loss.function(pos, neg, offsets, weights)
    for query in range(len(neg)):
        low, high = int(offsets[query]), int(offsets[query + 1])
        alone = loss.function(pos[low:high], neg[query : query + 1], torch.tensor([0, high - low]), weights[low:high])
        torch.testing.assert_close(alone[0], whole[query], rtol=1e-12, atol=1e-12)


def check_weights_scale(loss: Loss) -> None:
    """Weights are relative within a query, where the loss says so; weight 0 is as if the positive were not there."""
    pos, neg, offsets, weights = _problem()
    if loss.normalise:
        torch.testing.assert_close(
            loss.function(pos, neg, offsets, 3 * weights), loss.function(pos, neg, offsets, weights)
        )
    weights[int(offsets[3])] = 0.0
    kept = torch.arange(6) != int(offsets[3])
    shorter = offsets_of(torch.tensor([1, 0, 3, 1]))
    torch.testing.assert_close(
        loss.function(pos, neg, offsets, weights), loss.function(pos[kept], neg, shorter, weights[kept])
    )
