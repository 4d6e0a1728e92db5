"""The adaptive proposal: bigram counts against a dictionary, its law against a slow one, what it learns, its state."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from xclass.errors import InputError
from xclass.runtime.rng import torch_generator
from xclass.sampling import AdaptiveProposal, Known, Mixture, SamplerConfig, Uniform, build_sampler
from xclass.sampling.adaptive import BUCKETS, FLOOR
from xclass.sampling.distributions import bigram
from xclass.sampling.distributions.bigram import BigramCounts
from xclass.testing.sampler import check_sampler
from xclass.types import Ragged

N = 7
BATCH = Ragged.from_lists([[0, 3], [], [5, 1, 1], [2]])
LAST = torch.tensor([2, 0, -1, 6])


def taught(proposal: str = "mixture", num_sampled: int = 4, pairs: int = 60) -> AdaptiveProposal:
    """With counts after three batches, of which most contexts have some."""
    sampler = AdaptiveProposal(N, num_sampled, proposal, pairs)  # type: ignore[arg-type]
    generator = torch_generator(0, "t")
    for number in range(3):
        contexts = torch.randint(-1, 5, (30,), generator=generator)
        items = torch.randint(0, N, (30,), generator=generator) % (contexts.clamp(min=0) + 2)
        sampler.sample(Ragged(torch.arange(31), items), torch_generator(number, "t"), contexts)
    if sampler.bigram is not None:
        sampler.bigram.fold()
    sampler.weights = torch.rand(sampler.weights.shape, generator=generator, dtype=torch.float64)
    sampler.weights /= sampler.weights.sum(1, keepdim=True)
    return sampler


@pytest.mark.parametrize("proposal", ["unigram", "mixture"])
def test_conformance(proposal: str) -> None:
    check_sampler(lambda: taught(proposal), BATCH, LAST)


@pytest.mark.parametrize("compiled", [True, False])
def test_bigram_counts_are_those_of_a_dictionary(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr(bigram, "compiles", lambda: False)
    monkeypatch.setattr(bigram, "FIRST_FOLD", 10)
    counts, seen, generator = BigramCounts(9), list[tuple[int, int]](), torch_generator(0, "t")
    contexts, items = (grid.flatten() for grid in torch.meshgrid(torch.arange(9), torch.arange(9), indexing="ij"))
    assert not float(counts.probability(contexts, items).sum())
    for _ in range(12):
        pairs = torch.randint(0, 9, (2, 7), generator=generator) // torch.tensor([[2], [1]])
        counts.learn(*pairs)
        seen += list(zip(*pairs.tolist(), strict=True))
        known = Counter(seen[: counts.num_counted])
        totals = Counter(c for c, _ in seen[: counts.num_counted])
        wanted = [known[pair] / max(totals[pair[0]], 1) for pair in zip(contexts.tolist(), items.tolist(), strict=True)]
        assert counts.probability(contexts, items).tolist() == pytest.approx(wanted)
        assert counts.counts_of(torch.arange(-1, 9)).tolist() == [totals[c] for c in range(-1, 9)]
    counts.fold()
    assert counts.num_counted == len(seen) == 84
    each = counts.probability(torch.arange(9), torch.arange(9).expand(9, 9))
    assert each.flatten().tolist() == pytest.approx(counts.probability(contexts, items).tolist())


def test_bigram_draws_follow_the_counts() -> None:
    counts = BigramCounts(5)
    counts.learn(torch.tensor([1, 1, 1, 1, 3, 4]), torch.tensor([0, 0, 2, 4, 1, 4]))
    counts.fold()
    u = torch.arange(400, dtype=torch.float64) / 400
    drawn = counts.draw(torch.ones(400, dtype=torch.int64), u)
    assert torch.bincount(drawn, minlength=5).tolist() == [200, 0, 100, 0, 100]
    assert counts.draw(torch.tensor([3, 4, 0, 2]), torch.full((4,), 0.999)).tolist() == [1, 4, 0, 0]


@pytest.mark.parametrize("proposal", ["unigram", "bigram", "mixture"])
def test_the_law_is_the_mixture_of_its_parts(proposal: str) -> None:
    sampler = taught(proposal)
    every = torch.arange(N)
    for context in range(-1, N):
        batch = Ragged(torch.tensor([0, N]), every)
        got = sampler.log_expected_count(every, batch, torch.tensor([context])).exp() / 4
        number = 0 if sampler.bigram is None else int(sampler.bigram.counts_of(torch.tensor([context])))
        bucket = 1 if sampler.bigram is None else sum(number >= 4**k for k in range(BUCKETS - 1))
        weights = ((1 - FLOOR * len(sampler.parts)) * sampler.weights[bucket] + FLOOR).tolist()
        wanted, total = torch.zeros(N, dtype=torch.float64), 0.0
        for name, weight in zip(sampler.parts, weights, strict=True):
            if name == "bigram" and not number:
                continue
            if name == "bigram":
                assert sampler.bigram is not None
                law = sampler.bigram.probability(torch.tensor([context]).expand(N), every)
            else:
                law = sampler.unigram.probability(every) if name == "unigram" else torch.full((N,), 1 / N)
            wanted, total = wanted + weight * law, total + weight
        torch.testing.assert_close(got, wanted / total)
        assert float(got.sum()) == pytest.approx(1.0) and float(got.min()) > 0


def world(context: int) -> torch.Tensor:
    """A model's probabilities: mostly the item after the context."""
    p = torch.full((N,), 0.3 / N, dtype=torch.float64)
    p[(context + 1) % N] += 0.7
    return p


def divergence(sampler: AdaptiveProposal) -> float:
    """Mean KL(model ‖ proposal) over contexts."""
    every, total = torch.arange(N), 0.0
    for context in range(N):
        batch = Ragged(torch.tensor([0, N]), every)
        q = sampler.log_expected_count(every, batch, torch.tensor([context])).exp() / sampler.num_sampled
        p = world(context)
        total += float((p * (p / q).log()).sum()) / N
    return total


def run(sampler: AdaptiveProposal, batches: int, tells: bool, first: int = 0) -> list[torch.Tensor]:
    drawn = []
    for number in range(first, first + batches):
        generator = torch_generator(number, "t")
        contexts = torch.randint(0, N, (64,), generator=generator)
        items = torch.stack([torch.multinomial(world(int(c)), 1, generator=generator)[0] for c in contexts])
        sample = sampler.sample(Ragged(torch.arange(65), items), generator, contexts)
        drawn.append(sample.ids)
        if tells:
            model = torch.stack([world(int(c)) for c in contexts]).log()
            ids = sample.ids.expand(64, -1) if sample.ids.dim() == 1 else sample.ids
            sampler.tell(sample.ids, (model.gather(1, ids) - sample.log_q)[:64])
    return drawn


def test_the_weights_lower_the_divergence_from_the_model() -> None:
    """A model that follows its bigrams gives the bigram the weight, one that is flat the uniform draws."""
    sampler = AdaptiveProposal(N, 20, "mixture", fit_pairs=20_000)
    run(sampler, 70, tells=False)
    before = divergence(sampler)
    assert torch.equal(sampler.weights, torch.full((BUCKETS, 3), 1 / 3, dtype=torch.float64))
    run(sampler, 200, tells=True, first=70)
    assert divergence(sampler) < 0.4 * before
    reached = sampler.weights[int(sampler._buckets_of(torch.tensor([3]))[0])]
    assert float(reached[2]) > 0.6


def test_the_parts_stand_still_after_the_pairs_they_fit() -> None:
    sampler = AdaptiveProposal(N, 20, "mixture", fit_pairs=150)
    run(sampler, 3, tells=False)
    assert sampler.bigram is not None and sampler.bigram.num_counted == sampler.unigram.num_seen == 150
    before = divergence(sampler)
    run(sampler, 2, tells=False, first=3)
    assert divergence(sampler) == before


@pytest.mark.parametrize("proposal", ["unigram", "mixture"])
def test_what_is_told_late_counts_from_the_second_draw_on(proposal: str) -> None:
    """Told before or after the next batch was drawn: the same draws, and the same from a state written in between."""

    def play(late: bool, resumed: bool) -> list[Any]:
        waiting: list[tuple[torch.Tensor, torch.Tensor]]
        sampler, found, waiting = AdaptiveProposal(N, 6, proposal, 300, rate=0.5), [], []  # type: ignore[arg-type]
        for number in range(12):
            generator = torch_generator(number, "t")
            contexts, items = torch.randint(0, N, (2, 20), generator=generator)
            sample = sampler.sample(Ragged(torch.arange(21), items), generator, contexts)
            found.append((sample.ids.tolist(), sample.log_q.tolist()))
            ids = sample.ids.expand(20, -1) if sample.ids.dim() == 1 else sample.ids
            waiting.append((sample.ids, -ids.double()))
            while len(waiting) > (1 if late and number < 11 else 0):
                sampler.tell(*waiting.pop(0))
            if resumed and number == 6:
                state = {key: value.clone() for key, value in sampler.state().items()}
                sampler = AdaptiveProposal(N, 6, proposal, 300, rate=0.5)  # type: ignore[arg-type]
                sampler.load_state(state)
        return [*found, sampler.weights.tolist()]

    plain = play(late=False, resumed=False)
    assert play(late=False, resumed=True) == plain and play(late=True, resumed=False)[:-1] == plain[:-1]
    assert len({str(draw) for draw in plain}) == len(plain)


def test_a_configuration_builds_it_with_the_train_pairs_as_its_fit() -> None:
    config = SamplerConfig(kind="adaptive", num_sampled=5, proposal="bigram", proposal_rate=0.2)
    sampler = build_sampler(config, Known(3, N, torch.arange(N)))
    assert isinstance(sampler, AdaptiveProposal) and sampler.fit_pairs == 21
    assert (sampler.num_sampled, sampler.parts, sampler.rate) == (5, ("uniform", "bigram"), 0.2)


def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError, match="proposal is unknown"):
        AdaptiveProposal(N, 3, "trigram")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="rate"):
        AdaptiveProposal(N, 3, rate=1.0)
    with pytest.raises(InputError, match="last items"):
        AdaptiveProposal(N, 3).sample(BATCH, torch_generator(0, "t"))
    with pytest.raises(InputError, match="mixture itself"):
        Mixture([AdaptiveProposal(N, 3), Uniform(N, 2)])
    with pytest.raises(InputError, match="another catalogue"):
        BigramCounts(2).load_state(
            {"pairs": torch.tensor([9]), "counts": torch.tensor([1]), "waiting": torch.zeros(0, dtype=torch.int64)}
        )
