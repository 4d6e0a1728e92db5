"""The theory of sampled losses by enumeration: every sample of a tiny catalogue, in float64, to 1e-12."""

import itertools
import math

import pytest
import torch
from proofs import checks
from proofs.enumeration import (
    TOLERANCE,
    Scripted,
    assert_equal,
    expected_counts,
    expected_loss,
    head_losses,
    independent,
    make_head,
    sequences,
    with_replacement,
    without_replacement,
)
from reference import losses as reference

from xclass import sampling
from xclass.losses import full_sigmoid_loss, full_softmax_loss, mask_value
from xclass.types import Ragged

WEIGHTS = torch.tensor([9.0, 4.0, 2.0, 1.0, 1.0, 0.5], dtype=torch.float64)
NOBODY = Ragged.from_lists([[]])


def unigram(n):
    return WEIGHTS[:n] / WEIGHTS[:n].sum()


class TestTheEnumerationItself:
    @pytest.mark.parametrize(("n", "k"), [(2, 1), (4, 4), (6, 4)])
    def test_probabilities_sum_to_one(self, n, k):
        for samples in (with_replacement(unigram(n), k), sequences(unigram(n), k), independent(unigram(n))):
            assert_equal(samples.probability.sum(), 1.0)
        assert len(sequences(unigram(n), k).ids) == n**k
        assert_equal(without_replacement(unigram(n), min(n, k)).probability.sum(), 1.0)

    def test_sequences_and_multisets_agree(self):
        assert_equal(expected_counts(sequences(unigram(5), 3), 5), expected_counts(with_replacement(unigram(5), 3), 5))

    def test_without_replacement_by_hand(self):
        """P(0 then 1) = .5 * .3 / .5; item 0 is in {0, 1, 2} choose 2 unless 1 and 2 come."""
        p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
        samples = without_replacement(p, 2)
        chances = {tuple(ids.tolist()): float(c) for ids, c in zip(*samples, strict=True)}
        assert chances[0, 1] == pytest.approx(0.3, abs=1e-15)
        assert_equal(expected_counts(samples, 3)[0], 1 - 0.3 * 0.2 / 0.7 - 0.2 * 0.3 / 0.8)


class TestExpectedCounts:
    """exp(log_q) of the package's samplers is the mean count over all samples."""

    @pytest.mark.parametrize("k", [1, 2, 4])
    @pytest.mark.parametrize("n", [2, 5, 6])
    @pytest.mark.parametrize("kind", ["uniform", "log-uniform", "fixed-unigram", "power", "smoothing"])
    def test_with_replacement(self, kind, n, k):
        base = {"uniform": torch.ones(n).double(), "power": WEIGHTS[:n] ** 0.75, "smoothing": WEIGHTS[:n] + 1.0}
        base["log-uniform"] = torch.log1p(1 / (torch.arange(n).double() + 1))
        weights = base.get(kind, WEIGHTS[:n])
        made = {
            "uniform": lambda: sampling.Uniform(n, k),
            "log-uniform": lambda: sampling.LogUniform(n, k),
            "power": lambda: sampling.FixedUnigram(WEIGHTS[:n], k, power=0.75),
            "smoothing": lambda: sampling.FixedUnigram(WEIGHTS[:n], k, smoothing=1.0),
            "fixed-unigram": lambda: sampling.FixedUnigram(WEIGHTS[:n], k),
        }[kind]()
        log_q = made.log_expected_count(torch.arange(n), NOBODY)
        checks.check_counts(sequences(weights / weights.sum(), k), log_q)

    def test_all_items(self):
        log_q = sampling.AllItems(6).log_expected_count(torch.arange(6), NOBODY)
        assert_equal(log_q.exp(), torch.ones(6).double())

    @pytest.mark.parametrize("pairs", [1, 3, 4])
    def test_in_batch(self, pairs):
        """All batches of so many pairs drawn evenly from the train split: the batch itself is the sample."""
        counts = torch.tensor([5, 2, 2, 1])
        sampler = sampling.InBatch(counts)
        batches = sequences(counts.double() / 10, pairs)
        mean = expected_counts(batches, 4)
        for ids in batches.ids:
            batch = Ragged.from_lists([[int(i)] for i in ids])
            assert torch.equal(sampler.draw(batch, torch.Generator()), ids)
            assert_equal(sampler.log_expected_count(torch.arange(4), batch).exp(), mean)

    def test_a_mixture_adds_expected_counts(self):
        """All samples of both parts joined, K = 2 + 1."""
        mixture = sampling.Mixture([sampling.FixedUnigram(WEIGHTS[:4], 2), sampling.Uniform(4, 1)])
        first, second = sequences(unigram(4), 2), sequences(torch.full((4,), 0.25).double(), 1)
        mean = torch.zeros(4, dtype=torch.float64)
        for (a, pa), (b, pb) in itertools.product(zip(*first, strict=True), zip(*second, strict=True)):
            mean.index_add_(0, torch.cat([a, b]), (pa * pb).repeat(3))
        assert_equal(mixture.log_expected_count(torch.arange(4), NOBODY).exp(), mean)


@pytest.mark.parametrize(("n", "k"), [(4, 1), (5, 3), (6, 4)])
@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_the_right_code_passes_every_check(n, k, temperature):
    """What must hold, at head level: these are the checks that every mutant of test_proofs_mutations fails."""
    for name, check in checks.CHECKS.items():
        check(checks.Code(n, k, temperature)), name


@pytest.mark.parametrize("loss", ["sampled-softmax", "nce", "sampled-logistic", "negative-sampling", "bpr"])
def test_shared_candidates_are_the_same_as_candidates_of_ones_own(loss):
    """The expectation over batches with shared candidates equals that with candidates per query."""
    torch.manual_seed(0)
    scores, samples = torch.randn(4, dtype=torch.float64), sequences(unigram(4), 2)
    log_q, p_target = (2 * unigram(4)).log(), torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    value, gradient = expected_loss(make_head(loss), scores, samples, log_q, p_target)
    mean, slope = 0.0, torch.zeros(4, dtype=torch.float64)
    for ids, chance in zip(*samples, strict=True):
        losses, leaf = head_losses(make_head(loss), scores, torch.arange(4), Scripted(ids, log_q))
        total = (losses * p_target).sum() * chance
        mean, slope = mean + total.detach(), slope + torch.autograd.grad(total, leaf)[0]
    assert_equal(mean, value)
    assert_equal(slope, gradient)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_the_partition_function_over_sets(k):
    """Without repeats log-Q is the log of the probability of being in the set, and E[sum e^(s - log q)] is Z again."""
    torch.manual_seed(0)
    scores, even = torch.randn(5, dtype=torch.float64), torch.full((5,), 0.2, dtype=torch.float64)
    for samples in (without_replacement(even, k), without_replacement(unigram(5), k), independent(unigram(5))):
        log_q = expected_counts(samples, 5).log()
        ids = samples.ids.clamp(min=0)
        estimates = torch.where(samples.ids >= 0, (scores[ids] - log_q[ids]).exp(), 0.0).sum(1)
        assert_equal((estimates * samples.probability).sum(), scores.exp().sum())
    assert_equal(expected_counts(without_replacement(even, k), 5), k * even)


class TestInBatch:
    """Two queries with conditionals of their own; every batch of three pairs (query, item), 216 of them."""

    P = torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.2, 0.7]], dtype=torch.float64)

    def gradient(self, **settings):
        """The expected gradient in the scores (2, N) where they are log P plus a constant of the query."""
        sampler = sampling.InBatch((self.P.mean(0) * 1000).round().long())
        total = torch.zeros(2, 3, dtype=torch.float64)
        for pairs in itertools.product(itertools.product(range(2), range(3)), repeat=3):
            queries, items = (torch.tensor(part) for part in zip(*pairs, strict=True))
            chance = (self.P[queries, items] / 2).prod()
            positives = Ragged.from_lists([[int(i)] for i in items])
            log_q = sampler.log_expected_count(torch.arange(3), positives)
            drawn = Scripted(sampler.draw(positives, torch.Generator()), log_q)
            scores = self.P.log() + torch.tensor([[0.4], [-1.0]], dtype=torch.float64)
            losses, leaf = head_losses(make_head(**settings), scores[queries], positives.to_lists(), drawn)
            total.index_add_(0, queries, chance * torch.autograd.grad(losses.sum(), leaf)[0])
        return total

    def test_the_own_pair_as_the_positive_has_the_exact_optimum(self):
        """Yi et al. 2019: softmax over the batch, where the own item is a candidate already; hits kept."""
        settings = {"switches": {"positive_in_denominator": False}, "remove_accidental_hits": False}
        assert_equal(self.gradient(**settings), torch.zeros(2, 3))

    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"remove_accidental_hits": False},
            {"switches": {"positive_in_denominator": False}, "remove_accidental_hits": False, "subtract_log_q": False},
        ],
        ids=["hits removed", "own item twice", "no log-Q"],
    )
    def test_others_do_not(self, settings):
        assert float(self.gradient(**settings).abs().max()) > 1e-3


class TestSampledSoftmaxTendsToTheFullOne:
    """It divides one estimate by another, so that it is biased for every K; the bias falls like 1/K.

    With log-Q on negatives only and the factor 1 - P ("corrected") its limit is the full softmax's gradient; so is that
    of log-Q on both with hits kept. With hits removed and log-Q on both, the positive leaves the denominator in the
    limit, which is another gradient.
    """

    N, TARGET = 3, 1

    def bias(self, k, head):
        torch.manual_seed(1)
        scores = torch.randn(self.N, dtype=torch.float64)
        p_target = torch.nn.functional.one_hot(torch.tensor(self.TARGET), self.N).double()
        p = unigram(self.N)
        _, gradient = expected_loss(head, scores, with_replacement(p, k), (k * p).log(), p_target)
        return float((gradient - (scores.softmax(0) - p_target)).abs().max())

    @pytest.mark.parametrize(
        "settings",
        [
            {"switches": {"corrected": True}, "corrected_log_q": True},
            {"corrected_log_q": True},
            {"remove_accidental_hits": False},
        ],
        ids=["corrected", "log-Q on negatives", "hits kept"],
    )
    def test_its_bias_halves_when_k_doubles(self, settings):
        biases = [self.bias(k, make_head(**settings)) for k in (8, 16, 32, 64)]
        assert biases[0] > 1e-3
        for one, two in itertools.pairwise(biases[1:]):
            assert one / two == pytest.approx(2.0, abs=0.25)

    @pytest.mark.parametrize("settings", [{}, {"subtract_log_q": False}], ids=["log-Q on both", "no log-Q"])
    def test_another_limit(self, settings):
        biases = [self.bias(k, make_head(**settings)) for k in (16, 32, 64)]
        assert min(biases) > 0.02
        assert biases[-1] > 0.7 * biases[0]


class TestAllItems:
    """With every item as a candidate nothing is estimated."""

    @pytest.fixture
    def scores(self):
        torch.manual_seed(3)
        return torch.randn(6, dtype=torch.float64)

    POSITIVES = ([[2]], [[0, 4, 5]], [[1], [3, 2], []])

    def ours(self, head, scores, lists):
        losses, leaf = head_losses(head, scores, lists, Scripted(torch.arange(6), torch.zeros(6).double()))
        return losses.detach(), torch.autograd.grad(losses.sum(), leaf)[0]

    def full(self, scores, lists, loss=full_softmax_loss):
        """By autograd and the plain function, every query's row of logits made by hand."""
        leaf = scores.clone().requires_grad_()
        batch = Ragged.from_lists(lists)
        rows = leaf.expand(len(lists), -1)
        if loss is full_sigmoid_loss:
            hits = torch.zeros(len(lists), 6, dtype=torch.bool)
            hits[batch.rows(), batch.values] = True
            rows = rows.masked_fill(hits, mask_value(torch.float64))
        losses = loss(leaf[batch.values], rows, batch.offsets)
        return losses.detach(), torch.autograd.grad(losses.sum(), leaf)[0]

    @pytest.mark.parametrize("lists", POSITIVES)
    @pytest.mark.parametrize("temperature", [1.0, 0.2])
    def test_full_softmax(self, scores, lists, temperature):
        head = make_head("full-softmax", remove_accidental_hits=False, temperature=temperature)
        value, gradient = self.ours(head, scores, lists)
        expected, slope = self.full(scores / temperature, lists)
        assert_equal(value, expected)
        assert_equal(gradient * temperature, slope)
        plain = reference.full_softmax(
            (scores[Ragged.from_lists(lists).values] / temperature).tolist(),
            [(scores / temperature).tolist()] * len(lists),
            Ragged.from_lists(lists).offsets.tolist(),
        )
        assert_equal(value, plain)

    def test_probabilities_sum_to_one(self, scores):
        value, _ = self.ours(make_head("full-softmax", remove_accidental_hits=False), scores, [[i] for i in range(6)])
        assert_equal((-value).exp().sum(), 1.0)
        value, _ = self.ours(make_head(), scores, [[i] for i in range(6)])
        assert_equal((-value).exp().sum(), 1.0)

    @pytest.mark.parametrize("lists", [[[2]], [[1], [3], []]])
    def test_sampled_softmax_of_one_positive(self, scores, lists):
        for head in (make_head(), make_head(switches={"positives": "joint"}), make_head(per_pair=True)):
            for got, want in zip(self.ours(head, scores, lists), self.full(scores, lists), strict=True):
                assert_equal(got, want)

    @pytest.mark.parametrize("lists", POSITIVES)
    def test_joint_positives_are_the_full_softmax_with_shared_targets(self, scores, lists):
        head = make_head(switches={"positives": "joint"})
        for got, want in zip(self.ours(head, scores, lists), self.full(scores, lists), strict=True):
            assert_equal(got, want)

    @pytest.mark.parametrize("lists", POSITIVES)
    def test_per_pair_positives_are_the_full_softmax(self, scores, lists):
        """Only its own hit is masked for a pair: the others are negatives, as they are in the full softmax."""
        head = make_head(per_pair=True)
        for got, want in zip(self.ours(head, scores, lists), self.full(scores, lists), strict=True):
            assert_equal(got, want)

    def test_decoupled_positives_are_the_full_softmax_without_the_others(self, scores):
        value, _ = self.ours(make_head(), scores, [[0, 4, 5]])
        alone = [scores[p].exp() / (scores[p].exp() + scores[[1, 2, 3]].exp().sum()) for p in (0, 4, 5)]
        assert_equal(value, [-torch.stack(alone).log().mean()])

    def test_corrected_has_the_gradient_of_the_full_softmax(self, scores):
        head = make_head(switches={"corrected": True}, corrected_log_q=True)
        value, gradient = self.ours(head, scores, [[2]])
        _, slope = self.full(scores, [[2]])
        assert_equal(gradient, slope)
        probability = float(scores.softmax(0)[2])
        assert_equal(value, [(1 - probability) * math.log((1 - probability) / probability)])

    @pytest.mark.parametrize("loss", ["sampled-logistic", "negative-sampling", "full-sigmoid"])
    @pytest.mark.parametrize("lists", [[[2]], [[1], [3], []]])
    def test_logistic_losses_are_the_full_sigmoid(self, scores, loss, lists):
        for got, want in zip(
            self.ours(make_head(loss), scores, lists), self.full(scores, lists, full_sigmoid_loss), strict=True
        ):
            assert_equal(got, want)

    def test_tolerance_is_what_the_claim_says(self):
        assert TOLERANCE == 1e-12
