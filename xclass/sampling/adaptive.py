"""A proposal fitted while the model trains: uniform, unigram and bigram, mixed by weights that follow the model."""

from __future__ import annotations

from collections import deque
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from xclass.errors import InputError
from xclass.sampling.distributions.bigram import BigramCounts
from xclass.sampling.distributions.learned import LearnedLaw
from xclass.sampling.interface import BaseSampler, check_ids, check_size, check_state, with_positives
from xclass.types import Negatives, Ragged

Proposal = Literal["unigram", "bigram", "mixture"]
PARTS: dict[str, tuple[str, ...]] = {
    "unigram": ("uniform", "unigram"),
    "bigram": ("uniform", "bigram"),
    "mixture": ("uniform", "unigram", "bigram"),
}
BUCKETS = 8  # of contexts, by the power of 4 that their count reaches: none, 1 to 3, 4 to 15, …
FLOOR = 0.01  # of every part's weight: each item can be drawn, however sure the model is
TAUGHT_QUERIES = 64  # of a batch, from which the weights learn
OUTSTANDING = 4  # drawn batches of which the model may still tell something


class Drawing(NamedTuple):
    """Of the first queries of a batch: their buckets (b,), and each part's share of every candidate (b, K, parts).

    batch: its number. ids: what was drawn, by which the batch is known again.
    """

    batch: int
    ids: Tensor
    buckets: Tensor
    shares: Tensor


class AdaptiveProposal(BaseSampler):
    """K draws for each query from Q(i | c) = Σ_k a_k(c) q_k(i | c), c the last item of the query's history.

    The parts q_k are uniform, unigram (targets seen so far, each item once more) and bigram (targets that followed c).
    They count the first ``fit_pairs`` targets, then stand still. The weights a(c) depend on how often c was seen, in
    powers of 4, and follow the *model*: the importance weights of the candidates, normalised within a query, are an
    estimate p of the model's distribution, and a ← (1 − η) a + η Σ_j p_j a_k q_k(j | c) / Q(j | c) is a step of
    expectation-maximisation that lowers KL(p ‖ Q). With a context that was never seen the bigram has no part in it.

    Args:
        num_items: N.
        num_sampled: K.
        proposal: "unigram" (uniform and unigram, candidates shared by the batch), "bigram" (uniform and bigram) or
            "mixture" of all three; the latter two draw for each query.
        fit_pairs: targets that the parts count, at least one; one pass over the train pairs is enough.
        rate: η where all :data:`TAUGHT_QUERIES` queries that the weights learn from are of one kind of context.

    What the model tells after step t takes part in the draws from step t + 2 on, whatever was prepared ahead: the same
    seed gives the same draws. Cost of a batch: O(B·K·log(different items after a context)), O(K) for unigram.

    Source: Bengio & Senécal 2008, "Adaptive importance sampling to accelerate training of a neural probabilistic
    language model", §V: an n-gram model that tracks the network. There the n-grams themselves track it, too; here
    they are the counts of the data, and their mixture tracks it.
    """

    by_context = True
    adapts = True

    def __init__(
        self, num_items: int, num_sampled: int, proposal: Proposal = "mixture", fit_pairs: int = 1, rate: float = 0.05
    ) -> None:
        self.num_items, self.num_sampled = check_size("num_items", num_items), check_size("num_sampled", num_sampled)
        self.fit_pairs = check_size("fit_pairs", fit_pairs)
        if proposal not in PARTS:
            raise InputError("proposal is unknown", wanted=", ".join(PARTS), got=repr(proposal))
        if not 0 < rate < 1:
            raise InputError("rate is out of range", wanted="a number between 0 and 1", got=rate)
        self.parts, self.rate, self.shared = PARTS[proposal], rate, proposal == "unigram"
        self.unigram = LearnedLaw(num_items, tallied=False)
        self.bigram = None if self.shared else BigramCounts(num_items)
        self.weights = torch.full((BUCKETS, len(self.parts)), 1.0 / len(self.parts), dtype=torch.float64)
        self._batch = 0
        self._drawn: deque[Drawing] = deque(maxlen=OUTSTANDING)
        self._told: deque[tuple[int, Tensor, Tensor]] = deque()

    def sample(self, positives: Ragged, generator: torch.Generator, query_ids: Tensor | None = None) -> Negatives:
        """What the model told of batches before the last is taken in; then draws; then the batch is learned.

        query_ids: int64 (B,), the last item of each query's history, −1 for none; not needed for unigram.
        """
        check_ids(positives.values, self.num_items)
        contexts = self._contexts(positives, query_ids)
        self._take_in()
        drawn = self.negatives(positives, generator, contexts)
        if len(positives):
            self._drawn.append(self._drawing(drawn.ids, contexts))
        self._batch += 1
        self._count(positives, contexts)
        return drawn

    def negatives(self, positives: Ragged, generator: torch.Generator, query_ids: Tensor | None = None) -> Negatives:
        """Candidates and log-Q; nothing is learned."""
        contexts = self._contexts(positives, query_ids)
        ids = self.draw(positives, generator, contexts)
        return with_positives(self, ids, self.log_expected_count(ids, positives, contexts), positives, contexts)

    def draw(self, positives: Ragged, generator: torch.Generator, query_ids: Tensor | None = None) -> Tensor:
        """int64 (K,) for unigram, else (B, K)."""
        contexts = self._contexts(positives, query_ids)
        shape = (self.num_sampled,) if self.shared else (len(contexts), self.num_sampled)
        weights = self._weights_of(contexts)
        which = torch.rand(shape, generator=generator, dtype=torch.float64)
        edges = weights.cumsum(1)
        part = sum(
            (which >= (edges[0, k] if self.shared else edges[:, k : k + 1])).long() for k in range(len(self.parts) - 1)
        )
        assert isinstance(part, Tensor)
        ids = torch.randint(self.num_items, shape, generator=generator)
        for k, name in enumerate(self.parts):
            cells = part == k
            if name == "unigram":
                ids[cells] = self.unigram.draw(int(cells.sum()), generator)
            elif name == "bigram":
                assert self.bigram is not None
                u = torch.rand(int(cells.sum()), generator=generator, dtype=torch.float64)
                ids[cells] = self.bigram.draw(contexts.unsqueeze(1).expand(shape)[cells], u)
        return ids

    def log_expected_count(self, ids: Tensor, positives: Ragged, query_ids: Tensor | None = None) -> Tensor:
        """Log of K · Q(i | c)."""
        contexts = self._contexts(positives, query_ids)
        if ids.dim() == 1 and not self.shared:
            contexts = contexts[positives.rows()]
        return (self._parts_of(ids, contexts).sum(-1) * self.num_sampled).log_()

    def tell(self, ids: Tensor, log_ratios: Tensor) -> None:
        """The model's view of a batch that was drawn: (b, K) score − log_q of its first queries' candidates.

        Args:
            ids: as :meth:`sample` gave them. Of batches that are not among the last few drawn nothing is learned.
            log_ratios: for one query or more, up to :data:`TAUGHT_QUERIES`.
        """
        while self._drawn and not torch.equal(self._drawn[0].ids, ids):
            self._drawn.popleft()
        if not self._drawn:
            return
        number, _, buckets, shares = self._drawn.popleft()
        p = log_ratios.double().softmax(1)
        each = torch.einsum("bk,bkp->bp", p, shares[: len(p)])
        found = torch.zeros_like(self.weights).index_add_(0, buckets[: len(p)], each)
        self._told.append((number, found, torch.bincount(buckets[: len(p)], minlength=BUCKETS).double()))

    def _take_in(self) -> None:
        """A step of the weights for every batch told of, but not for the last: it may be told of now or later."""
        while self._told and self._told[0][0] < self._batch - 1:
            _, found, queries = self._told.popleft()
            step = 1 - (1 - self.rate) ** (queries / TAUGHT_QUERIES)
            mean = found / queries.clamp(min=1).unsqueeze(1)
            self.weights = torch.lerp(self.weights, mean, step.unsqueeze(1))

    def _contexts(self, positives: Ragged, query_ids: Tensor | None) -> Tensor:
        if self.shared:
            return torch.full((len(positives),), -1)
        if query_ids is None or len(query_ids) != len(positives):
            raise InputError(
                "a bigram proposal needs the last items of the histories",
                wanted=f"{len(positives)} item numbers, −1 for none",
                got="none" if query_ids is None else len(query_ids),
            )
        return query_ids

    def _buckets_of(self, contexts: Tensor) -> Tensor:
        """int64: 0 for a context without counts, 1 for 1 to 3, 2 for 4 to 15, …; all 1 without a bigram."""
        if self.bigram is None:
            return torch.ones_like(contexts)
        counts = self.bigram.counts_of(contexts).double()
        return ((counts.clamp(min=1).log2() / 2).floor().long() + 1).clamp_(max=BUCKETS - 1) * (counts > 0)

    def _weights_of(self, contexts: Tensor) -> Tensor:
        """float64 (B, parts), or (1, parts) where they are shared; each at least the floor, adding up to 1."""
        buckets = self._buckets_of(contexts[:1] if self.shared and len(contexts) else contexts)
        if self.shared:
            buckets = torch.ones(1, dtype=torch.int64)
        weights = (1 - FLOOR * len(self.parts)) * self.weights[buckets] + FLOOR
        if self.bigram is not None:
            weights[:, -1].masked_fill_(buckets == 0, 0.0)
        return weights / weights.sum(1, keepdim=True)

    def _parts_of(self, ids: Tensor, contexts: Tensor) -> Tensor:
        """float64 (*ids.shape, parts): a_k q_k of each id."""
        each = []
        for name in self.parts:
            if name == "uniform":
                each.append(torch.full(ids.shape, 1.0 / self.num_items, dtype=torch.float64))
            elif name == "unigram":
                each.append(self.unigram.probability(ids))
            else:
                assert self.bigram is not None
                each.append(self.bigram.probability(contexts, ids))
        weights = self._weights_of(contexts)
        return torch.stack(each, -1) * (
            weights[0] if self.shared else weights.view(len(ids), *([1] * (ids.dim() - 1)), -1)
        )

    def _drawing(self, ids: Tensor, contexts: Tensor) -> Drawing:
        some = contexts[:TAUGHT_QUERIES]
        own = ids if self.shared else ids[:TAUGHT_QUERIES]
        parts = self._parts_of(own, some)
        shares = parts / parts.sum(-1, keepdim=True)
        return Drawing(self._batch, ids, self._buckets_of(some), shares.expand(len(some), *shares.shape[-2:]))

    def _count(self, positives: Ragged, contexts: Tensor) -> None:
        left = self.fit_pairs - self.unigram.num_seen
        if left <= 0:
            return
        items, rows = positives.values[:left], positives.rows()[:left]
        self.unigram.update(items)
        if self.bigram is not None:
            after = contexts[rows]
            self.bigram.learn(after[after >= 0], items[after >= 0])
            if len(items) == left:
                self.bigram.fold()

    def state(self) -> dict[str, Tensor]:
        """Counts, weights, and what the last batch told."""
        found = {f"unigram.{key}": value for key, value in self.unigram.state().items()}
        if self.bigram is not None:
            found |= {f"bigram.{key}": value for key, value in self.bigram.state().items()}
        found |= {"weights": self.weights, "batch": torch.tensor(self._batch)}
        if self._told:
            numbers, sums, queries = zip(*self._told, strict=True)
            found |= {
                "told": torch.stack(sums),
                "told_queries": torch.stack(queries),
                "told_batch": torch.tensor(numbers),
            }
        return found

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from :meth:`state`."""
        self.unigram.load_state({key[8:]: value for key, value in state.items() if key.startswith("unigram.")})
        if self.bigram is not None:
            self.bigram.load_state({key[7:]: value for key, value in state.items() if key.startswith("bigram.")})
        if state["weights"].shape != self.weights.shape:
            got = tuple(state["weights"].shape)
            raise InputError('"weights" of this state is of another shape', wanted=tuple(self.weights.shape), got=got)
        check_state("weights", state["weights"], 0, 1)
        self.weights, self._batch = state["weights"].clone(), int(state["batch"])
        self._drawn.clear()
        self._told.clear()
        if "told" in state:
            self._told.extend(zip(state["told_batch"].tolist(), state["told"], state["told_queries"], strict=True))
