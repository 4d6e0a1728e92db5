"""Every loss: conformance, the slow reference, values by hand, the theory of log-Q by enumeration."""

import functools
import itertools
import math

import pytest
import torch
from reference import losses as reference

from xclass.errors import InputError
from xclass.losses import LOSSES, full_softmax_loss, mask_value, sampled_softmax_loss
from xclass.testing.loss import check_loss
from xclass.types import offsets_of


def switched(kind, **switches):
    plain = LOSSES[kind]
    return plain._replace(
        function=functools.partial(plain.function, **switches), finish=functools.partial(plain.finish, **switches)
    )


def as_they_are(kind, **switches):
    """With weights that are not divided by their sum."""
    plain, unlike = switched(kind, **switches), {"normalise": False}
    finish = functools.partial(plain.finish, **unlike) if kind in ("nce", "sampled-logistic") else plain.finish
    return plain._replace(function=functools.partial(plain.function, **unlike), finish=finish, normalise=False)


VARIANTS = {
    **LOSSES,
    "power 1.2": switched("sampled-softmax", denominator_power=1.2),
    "positive out": switched("sampled-softmax", positive_in_denominator=False),
    "positive out, power 0.8": switched("sampled-softmax", positive_in_denominator=False, denominator_power=0.8),
    "joint": switched("sampled-softmax", positives="joint"),
    "joint, power 1.3": switched("sampled-softmax", positives="joint", denominator_power=1.3),
    "corrected": switched("sampled-softmax", corrected=True),
    "nce, joint": switched("nce", positives="joint"),
    "negative sampling, beta .4": switched("negative-sampling", positive_power=0.4),
    "softmax, weights as they are": as_they_are("sampled-softmax"),
    "positive out, weights as they are": as_they_are("sampled-softmax", positive_in_denominator=False),
    "full softmax, weights as they are": as_they_are("full-softmax"),
    "bpr, weights as they are": as_they_are("bpr"),
    "logistic, weights as they are": as_they_are("sampled-logistic"),
    "logistic, weights as targets": as_they_are("nce", positives="joint"),
    "self-normalised": switched("full-softmax", normaliser_weight=0.3, log_constant=1.5),
    "infrequent": switched("full-softmax", normaliser_weight=0.3, log_constant=1.5, unnormalised=True),
    "full sigmoid, weights as targets": switched("full-sigmoid", positives="joint"),
}
REFERENCES = {
    "sampled-softmax": reference.sampled_softmax,
    "full-softmax": reference.full_softmax,
    "power 1.2": functools.partial(reference.sampled_softmax, power=1.2),
    "positive out": functools.partial(reference.sampled_softmax, positive=False),
    "positive out, power 0.8": functools.partial(reference.sampled_softmax, positive=False, power=0.8),
    "softmax, weights as they are": functools.partial(reference.sampled_softmax, normalise=False),
    "positive out, weights as they are": functools.partial(reference.sampled_softmax, positive=False, normalise=False),
    "full softmax, weights as they are": functools.partial(reference.full_softmax, normalise=False),
    "self-normalised": functools.partial(reference.full_softmax, penalty=0.3, constant=1.5),
    "infrequent": functools.partial(reference.full_softmax, penalty=0.3, constant=1.5, likelihood=False),
    "bpr, weights as they are": functools.partial(reference.bpr, normalise=False),
    "logistic, weights as they are": functools.partial(reference.logistic, normalise=False),
    "logistic, weights as targets": functools.partial(reference.logistic, joint=True, normalise=False),
    "full sigmoid, weights as targets": functools.partial(reference.full_sigmoid, joint=True),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_conformance(name):
    check_loss(VARIANTS[name], stops_gradient=name == "corrected")


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("weighted", [False, True])
def test_equals_the_slow_reference(name, weighted):
    torch.manual_seed(0)
    offsets = offsets_of(torch.tensor([2, 0, 5, 1]))
    pos, neg = torch.randn(8, dtype=torch.float64), torch.randn(4, 9, dtype=torch.float64)
    weights = torch.rand(8, dtype=torch.float64) if weighted else None
    got = VARIANTS[name].function(pos, neg, offsets, weights)
    expected = REFERENCES[name](
        pos.tolist(), neg.tolist(), offsets.tolist(), None if weights is None else weights.tolist()
    )
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_by_hand():
    loss = sampled_softmax_loss(torch.tensor([1.0]), torch.tensor([[0.0, 2.0]]), torch.tensor([0, 1]))
    assert float(loss) == pytest.approx(math.log(math.e + 1 + math.e**2) - 1)
    loss = sampled_softmax_loss(torch.tensor([0.0, 0.0]), torch.tensor([[0.0]]), torch.tensor([0, 2]))
    assert float(loss) == pytest.approx(math.log(2))
    full = full_softmax_loss(torch.tensor([1.0]), torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([0, 1]))
    assert float(full) == pytest.approx(math.log(math.e + 1 + math.e**2) - 1)


def test_all_other_items_as_negatives_is_the_full_softmax():
    scores = torch.randn(3, 6, dtype=torch.float64)
    targets = torch.tensor([4, 0, 2])
    offsets = torch.arange(4)
    pos = scores[torch.arange(3), targets]
    masked = scores.clone()
    masked[torch.arange(3), targets] = mask_value(torch.float64)
    torch.testing.assert_close(
        sampled_softmax_loss(pos, masked, offsets), full_softmax_loss(pos, scores, offsets), rtol=1e-12, atol=0
    )


def test_full_softmax_probabilities_sum_to_one():
    scores = torch.randn(1, 7, dtype=torch.float64)
    offsets = torch.tensor([0, 1])
    total = sum(math.exp(-float(full_softmax_loss(scores[0, i : i + 1], scores, offsets))) for i in range(7))
    assert total == pytest.approx(1.0, abs=1e-12)


def test_the_sign_of_log_q_by_enumeration():
    """Over all samples of two draws, E[sum exp(score - log_q)] is Z; with the sign turned or the factor K forgotten it is not."""
    scores = torch.tensor([0.3, -1.0, 0.9, 0.1], dtype=torch.float64)
    p = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)

    def expectation(log_q):
        return sum(
            float(p[i] * p[j] * ((scores[i] - log_q[i]).exp() + (scores[j] - log_q[j]).exp()))
            for i, j in itertools.product(range(4), repeat=2)
        )

    z = float(scores.exp().sum())
    assert expectation((2 * p).log()) == pytest.approx(z, rel=1e-12)
    assert abs(expectation(-(2 * p).log()) - z) > 0.1 * z
    assert abs(expectation(p.log()) - z) > 0.5 * z


@pytest.mark.parametrize(
    ("pos", "neg", "offsets", "weights"),
    [
        (torch.zeros(2, 2), torch.zeros(1, 3), torch.tensor([0, 2]), None),
        (torch.zeros(2), torch.zeros(3), torch.tensor([0, 2]), None),
        (torch.zeros(2), torch.zeros(1, 3), torch.tensor([0, 1]), None),
        (torch.zeros(2), torch.zeros(1, 3), torch.tensor([0, 1, 2]), None),
        (torch.zeros(2), torch.zeros(1, 3), torch.tensor([0, 2], dtype=torch.int32), None),
        (torch.zeros(2), torch.zeros(1, 3), torch.tensor([0, 2]), torch.ones(3)),
    ],
)
def test_wrong_shapes_are_refused(pos, neg, offsets, weights):
    with pytest.raises(InputError, match="wanted"):
        sampled_softmax_loss(pos, neg, offsets, weights)
