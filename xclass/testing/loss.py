"""Conformance suite of the loss seam."""

from __future__ import annotations

import torch
from torch import Tensor

from xclass.losses import Loss, mask_value
from xclass.rng import torch_generator
from xclass.types import offsets_of


def check_loss(loss: Loss, positives_among_all: bool = False) -> None:
    """Run every check on one registered loss; an AssertionError says which property fails.

    Args:
        loss: the function and its block.
        positives_among_all: the second argument holds the positives too, as for the full softmax.
    """
    check_block_equals_function(loss)
    check_gradient_numerically(loss)
    check_no_positives_is_zero(loss)
    check_finite_at_the_extremes(loss, positives_among_all)
    check_cut_of_the_batch_does_not_matter(loss)
    check_weights_scale(loss)


def _problem(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch_generator(0, "loss conformance")
    lengths = torch.tensor([1, 0, 3, 2])
    pos = torch.randn(6, generator=generator, dtype=dtype)
    neg = torch.randn(4, 7, generator=generator, dtype=dtype)
    weights = torch.rand(6, generator=generator, dtype=dtype) + 0.1
    return pos, neg, offsets_of(lengths), weights


def check_block_equals_function(loss: Loss) -> None:
    """The one-pass block gives the plain function's value and its autograd gradient, with and without weights."""
    pos, neg, offsets, weights = _problem()
    neg[2, :3] = mask_value(neg.dtype)
    for used in (None, weights):
        pos_leaf, neg_leaf = pos.clone().requires_grad_(), neg.clone().requires_grad_()
        value = loss.function(pos_leaf, neg_leaf, offsets, used)
        expected = torch.autograd.grad(value.sum(), (pos_leaf, neg_leaf))
        left = neg.clone()
        block_value, pos_grad = loss.block(pos.clone(), left, offsets, used)
        torch.testing.assert_close(block_value, value.detach(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(pos_grad, expected[0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(left, expected[1], rtol=1e-12, atol=1e-12)


def check_gradient_numerically(loss: Loss) -> None:
    """Finite differences agree with autograd."""
    pos, neg, offsets, weights = _problem()
    torch.autograd.gradcheck(
        lambda a, b: loss.function(a, b, offsets, weights), (pos.requires_grad_(), neg.requires_grad_())
    )


def check_no_positives_is_zero(loss: Loss) -> None:
    """A query without positives has loss 0 and gives no gradient."""
    pos, neg, offsets, _ = _problem()
    value, _ = loss.block(pos, neg, offsets, None)
    assert float(value[1]) == 0.0 and float(neg[1].abs().sum()) == 0.0


def check_finite_at_the_extremes(loss: Loss, positives_among_all: bool) -> None:
    """Everything masked, scores of ±1e9 (±1e4 in half precision), zero negatives: finite loss and gradient."""
    for dtype, big in ((torch.float32, 1e9), (torch.bfloat16, 1e9), (torch.float16, 1e4)):
        pos, neg, offsets, _ = _problem(torch.float32)
        for scale in (-big, big):
            for fill in (mask_value(dtype), scale, -scale):
                logits, targets = torch.full_like(neg, fill).to(dtype), (pos * scale / 4).to(dtype)
                if positives_among_all:
                    logits[:, :6] = targets
                value, pos_grad = loss.block(targets, logits, offsets, None)
                assert bool(torch.isfinite(value).all() & torch.isfinite(pos_grad).all() & torch.isfinite(logits).all())


def check_cut_of_the_batch_does_not_matter(loss: Loss) -> None:
    """The loss of a query is the same alone and in company."""
    pos, neg, offsets, weights = _problem()
    whole = loss.function(pos, neg, offsets, weights)
    for query in range(len(neg)):
        low, high = int(offsets[query]), int(offsets[query + 1])
        alone = loss.function(pos[low:high], neg[query : query + 1], torch.tensor([0, high - low]), weights[low:high])
        torch.testing.assert_close(alone[0], whole[query], rtol=1e-12, atol=1e-12)


def check_weights_scale(loss: Loss) -> None:
    """Weights are relative within a query; a positive of weight 0 is as if it were not there."""
    pos, neg, offsets, weights = _problem()
    torch.testing.assert_close(loss.function(pos, neg, offsets, 3 * weights), loss.function(pos, neg, offsets, weights))
    weights[int(offsets[3])] = 0.0
    kept = torch.arange(6) != int(offsets[3])
    shorter = offsets_of(torch.tensor([1, 0, 3, 1]))
    torch.testing.assert_close(
        loss.function(pos, neg, offsets, weights), loss.function(pos[kept], neg, shorter, weights[kept])
    )
