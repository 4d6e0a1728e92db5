"""Several samplers together, with the log-Q of the whole."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from xclass.errors import InputError
from xclass.sampling.interface import BaseSampler, Sampler, with_positives
from xclass.sampling.per_query import GivenCandidates
from xclass.types import Negatives, Ragged


class Mixture(BaseSampler):
    """The candidates of every part, one after the other; those of each query's own after the shared ones.

    The expected count of an item in the union is the sum of its expected counts in the parts, whichever part it came
    from: log_q = logsumexp over the parts (mixed negative sampling: Yang et al. 2020). Where one part has candidates of
    each query's own, those of the shared parts are repeated for every query. A mixture within a mixture is the mixture
    of all parts.
    """

    def __init__(self, parts: Sequence[Sampler]) -> None:
        sizes = {part.num_items for part in parts}
        if len(sizes) != 1:
            raise InputError("a mixture needs parts over one catalogue", wanted="one num_items", got=sorted(sizes))
        if any(part.by_context for part in parts):
            raise InputError("an adaptive proposal is a mixture itself", wanted="parts that need no history")
        self.parts: list[Sampler] = []
        for part in parts:
            self.parts += part.parts if isinstance(part, Mixture) else [part]
        self.num_items = sizes.pop()

    def draw(self, positives: Ragged, generator: torch.Generator, query_ids: Tensor | None = None) -> Tensor:
        """int64 (ΣK,), or (B, ΣK)."""
        return _joined(*self._drawn(positives, generator, query_ids), len(positives))

    def negatives(self, positives: Ragged, generator: torch.Generator, query_ids: Tensor | None = None) -> Negatives:
        """The log-Q of shared candidates is computed once, and changed where they are in a query's own lists."""
        shared, own = self._drawn(positives, generator, query_ids)
        if own is None:
            return with_positives(
                self, shared, self.log_expected_count(shared, positives, query_ids), positives, query_ids
            )
        by_query = [part for part in self.parts if isinstance(part, GivenCandidates)]
        common = [part for part in self.parts if not isinstance(part, GivenCandidates)]
        counts = torch.zeros(len(shared), dtype=torch.float64)
        for part in common:
            counts += part.log_expected_count(shared, positives, query_ids).exp_()
        cells = counts.repeat(len(positives), 1)
        for lists in by_query:
            rows, columns, added = lists.cells(shared, len(positives), query_ids)
            cells.index_put_((rows, columns), added, accumulate=True)
        log_q = torch.cat([cells.log_(), self.log_expected_count(own.clamp(min=0), positives, query_ids)], 1)
        return with_positives(self, _joined(shared, own, len(positives)), log_q, positives, query_ids)

    def _drawn(
        self, positives: Ragged, generator: torch.Generator, query_ids: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Shared candidates (K1,), and (B, K2) of each query's own or None."""
        drawn = [part.draw(positives, generator, query_ids) for part in self.parts]
        shared = [ids for ids in drawn if ids.dim() == 1]
        own = [ids for ids in drawn if ids.dim() == 2]
        together = torch.cat(shared) if shared else torch.empty(0, dtype=torch.int64)
        return together, torch.cat(own, 1) if own else None

    def log_expected_count(self, ids: Tensor, positives: Ragged, query_ids: Tensor | None = None) -> Tensor:
        """Log Σ over parts of the expected count."""
        each = [part.log_expected_count(ids, positives, query_ids) for part in self.parts]
        return torch.stack(each).logsumexp(0)

    def learn(self, positives: Ragged) -> None:
        """Parts that learn, learn."""
        for part in self.parts:
            part.learn(positives)

    def state(self) -> dict[str, Tensor]:
        """Each part's, under its number."""
        return {f"{i}.{key}": value for i, part in enumerate(self.parts) for key, value in part.state().items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from :meth:`state`."""
        for i, part in enumerate(self.parts):
            own = {key.removeprefix(f"{i}."): value for key, value in state.items() if key.startswith(f"{i}.")}
            part.load_state(own)


def _joined(shared: Tensor, own: Tensor | None, num_queries: int) -> Tensor:
    return shared if own is None else torch.cat([shared.expand(num_queries, -1), own], 1)
