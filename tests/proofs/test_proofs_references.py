"""Every loss and every switch against the slow reference: values, gradients, finite differences.

The reference's gradient is a complex step, so that no autograd is on both sides.
"""

import functools

import pytest
import torch
from reference import losses as reference

from xclass import losses
from xclass.losses.fused.top_k_weights import TopWeights, top_weights
from xclass.runtime.rng import torch_generator
from xclass.types import offsets_of

TOLERANCE = 1e-12
LENGTHS = {"ragged": [2, 0, 5, 1], "one each": [1, 1, 1], "none at all": [0, 0], "many": [9]}


def softmax_cases():
    cases = {}
    for power in (1.0, 1.2, 0.7):
        cases[f"separate, power {power}"] = {"denominator_power": power}, {"power": power}
        cases[f"joint, power {power}"] = (
            {"positives": "joint", "denominator_power": power},
            {"joint": True, "power": power},
        )
        for kind in ("separate", "joint"):
            cases[f"{kind}, positive out, power {power}"] = (
                {"positives": kind, "positive_in_denominator": False, "denominator_power": power},
                {"positive": False, "power": power},
            )
        cases[f"corrected, power {power}"] = (
            {"corrected": True, "denominator_power": power},
            {"corrected": True, "power": power},
        )
    return {
        f"sampled-softmax, {name}": ("sampled-softmax", ours, functools.partial(reference.sampled_softmax, **theirs))
        for name, (ours, theirs) in cases.items()
    }


def logistic_cases():
    switches = {
        "separate": ({}, {}),
        "joint": ({"positives": "joint"}, {"joint": True}),
        "beta .4": ({"positive_power": 0.4}, {"beta": 0.4}),
        "beta .02": ({"positive_power": 0.02}, {"beta": 0.02}),
    }
    return {
        f"{kind}, {name}": (kind, ours, functools.partial(reference.logistic, **theirs))
        for kind in ("nce", "sampled-logistic", "negative-sampling")
        for name, (ours, theirs) in switches.items()
    }


CASES = {
    **softmax_cases(),
    **logistic_cases(),
    "importance": ("importance", {}, reference.importance),
    "full-softmax": ("full-softmax", {}, reference.full_softmax),
    "bpr": ("bpr", {}, reference.bpr),
    "full-sigmoid": ("full-sigmoid", {}, reference.full_sigmoid),
}


def registered(name):
    """The registered loss with its switches, and the slow one."""
    kind, switches, slow = CASES[name]
    loss = losses.LOSSES[kind]
    with_switches = loss._replace(
        function=functools.partial(loss.function, **switches), finish=functools.partial(loss.finish, **switches)
    )
    return with_switches, slow


def problem(lengths, masked=True, scale=2.0):
    """Logits in float64; a few masked cells, a row masked whole, a weight of 0."""
    generator = torch_generator(0, "proofs", *lengths)
    draw = functools.partial(torch.randn, generator=generator, dtype=torch.float64)
    pos, neg = scale * draw(sum(lengths)), scale * draw(len(lengths), 7)
    weights = torch.rand(sum(lengths), generator=generator, dtype=torch.float64) + 0.1
    if masked:
        neg[0, 2:4] = losses.mask_value(torch.float64)
        neg[-1] = losses.mask_value(torch.float64)
        weights[:1] = 0.0
    return pos, neg, offsets_of(torch.tensor(lengths)), weights


def plain(*tensors):
    return [None if tensor is None else tensor.tolist() for tensor in tensors]


def close(got, want):
    want = torch.as_tensor(want, dtype=torch.float64).reshape(got.shape)
    torch.testing.assert_close(got, want, rtol=TOLERANCE, atol=TOLERANCE)


def test_every_registered_loss_is_here():
    assert {kind for kind, _, _ in CASES.values()} == set(losses.LOSSES)


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name, lengths, weighted):
    loss, slow = registered(name)
    pos, neg, offsets, weights = problem(lengths, masked=not loss.full)
    used = weights if weighted else None
    lists = plain(pos, neg, offsets, used)
    value = slow(*lists)
    pos_grad, neg_grad = reference.gradient(slow, *lists)

    leaves = pos.clone().requires_grad_(), neg.clone().requires_grad_()
    got = loss.function(*leaves, offsets, used)
    close(got.detach(), value)
    for gradient, want in zip(torch.autograd.grad(got.sum(), leaves), (pos_grad, neg_grad), strict=True):
        close(gradient, want)

    once = losses.one_pass(loss, pos.clone(), neg.clone(), offsets, used)
    for part, want in zip(once, (value, pos_grad, neg_grad), strict=True):
        close(part, want)


@pytest.mark.parametrize("name", [name for name in CASES if "corrected" not in name])
def test_finite_differences(name):
    """Where nothing is held constant, autograd's gradient is that of the value itself."""
    loss, _ = registered(name)
    pos, neg, offsets, weights = problem(LENGTHS["ragged"], masked=False, scale=1.0)
    assert torch.autograd.gradcheck(
        lambda a, b, w: loss.function(a, b, offsets, w), (pos.requires_grad_(), neg.requires_grad_(), weights)
    )


def test_finite_differences_of_the_corrected_loss():
    """Its factor 1 - P is a constant: finite differences of the same with the factor given."""
    pos, neg, offsets, weights = problem(LENGTHS["ragged"], masked=False, scale=1.0)
    rows = torch.repeat_interleave(torch.arange(len(neg)), offsets.diff())
    miss = torch.sigmoid(neg.logsumexp(1)[rows] - pos)

    def with_given_factor(a, b):
        share = weights / torch.zeros(len(b), dtype=b.dtype).index_add(0, rows, weights).clamp(min=1e-300)[rows]
        return torch.zeros(len(b), dtype=b.dtype).index_add(0, rows, share * miss * (b.logsumexp(1)[rows] - a))

    leaves = pos.requires_grad_(), neg.requires_grad_()
    assert torch.autograd.gradcheck(with_given_factor, leaves)
    want = torch.autograd.grad(with_given_factor(*leaves).sum(), leaves)
    ours = losses.sampled_softmax_loss(*leaves, offsets, weights, corrected=True)
    for got, expected in zip(torch.autograd.grad(ours.sum(), leaves), want, strict=True):
        close(got, expected)


@pytest.mark.parametrize("calibration", [0.0, 0.25, 0.75, 1.0])
@pytest.mark.parametrize(("num_sampled", "num_items"), [(1, 2), (1, 10), (256, 100_001), (99, 100)])
def test_gbce_power(num_sampled, num_items, calibration):
    ours = losses.gbce_power(num_sampled, num_items, calibration)
    assert ours == pytest.approx(reference.gbce_beta(num_sampled, num_items, calibration), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("calibration", [0.0, 0.5, 1.0])
def test_gbce_takes_overconfidence_back(calibration):
    """A pair of probability P is a positive with P and else a negative seen at rate alpha = K / (N - 1).

    The optimum is sigma(s) = beta P / (beta P + alpha (1 - P)): too sure at t = 0 (beta = 1), P itself at t = 1.
    """
    probability, num_sampled, num_items = 0.3, 1, 9
    rate, beta = num_sampled / (num_items - 1), losses.gbce_power(num_sampled, num_items, calibration)
    best = beta * probability / (beta * probability + rate * (1 - probability))
    assert (best == pytest.approx(probability, rel=1e-12)) == (calibration == 1.0)
    score = torch.tensor([best], dtype=torch.float64).logit().requires_grad_()
    one, certain = torch.tensor([0, 1]), torch.tensor([60.0], dtype=torch.float64)
    yes = losses.negative_sampling_loss(score, score.new_zeros(1, 0), one, positive_power=beta)
    no = losses.negative_sampling_loss(certain, score.view(1, 1), one)
    (slope,) = torch.autograd.grad((probability * yes + (1 - probability) * rate * no).sum(), score)
    assert abs(float(slope)) <= TOLERANCE


class TestTopWeights:
    """SL@K's weights against the slow ones, and against the score of the k-th best item where everything is seen."""

    def scores(self, columns=9, scale=1.0):
        pos, neg, offsets, _ = problem([2, 0, 5, 1], masked=False, scale=scale)
        neg = torch.cat([neg, neg.flip(0) * 0.7], 1)[:, :columns]
        neg[0, 2:4] = losses.mask_value(torch.float64)
        return pos, neg, offsets

    @pytest.mark.parametrize("k", [1, 3, 8, 40])
    @pytest.mark.parametrize("own_columns", [False, True])
    @pytest.mark.parametrize("temperature", [1.0, 0.1])
    def test_against_the_slow_reference(self, k, own_columns, temperature):
        pos, neg, offsets = self.scores()
        shape = neg.shape if own_columns else neg.shape[1:]
        log_q = torch.randn(shape, generator=torch_generator(2, "proofs"), dtype=torch.float64)
        got = top_weights(TopWeights(k, 0.3), neg / temperature, log_q, pos / temperature, offsets, 1 / temperature)
        want = reference.top_weights(*plain(pos, neg, log_q.expand(neg.shape), offsets), k=k, edge=0.3)
        close(got, want)

    def test_all_items_give_the_true_quantile(self):
        """log-Q 0: the threshold is the k-th best score of positives and negatives together."""
        pos, neg, offsets = self.scores()
        got = top_weights(TopWeights(3, 0.5), neg, torch.zeros(neg.shape[1]).double(), pos, offsets, 1.0)
        for query in (0, 2, 3):
            own = pos[offsets[query] : offsets[query + 1]]
            third = torch.cat([own, neg[query]]).sort(descending=True).values[2]
            close(got[offsets[query] : offsets[query + 1]], torch.sigmoid((own - third) / 0.5))
