"""Several samplers together, with the log-Q of the whole."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from xclass.errors import InputError
from xclass.sampling.seam import BaseSampler, Sampler
from xclass.types import Ragged


class Mixture(BaseSampler):
    """The candidates of every part, one after the other.

    The expected count of an item in the union is the sum of its expected counts in the parts, whichever part it came
    from: log_q = logsumexp over the parts (mixed negative sampling: Yang et al. 2020). Where one part has candidates of
    each query's own, those of the shared parts are repeated for every query.
    """

    def __init__(self, parts: Sequence[Sampler]) -> None:
        sizes = {part.num_items for part in parts}
        if len(sizes) != 1:
            raise InputError("a mixture needs parts over one catalogue", wanted="one num_items", got=sorted(sizes))
        self.parts = list(parts)
        self.num_items = sizes.pop()

    def draw(self, positives: Ragged, generator: torch.Generator, query_ids: Tensor | None = None) -> Tensor:
        """int64 (ΣK,), or (B, ΣK)."""
        drawn = [part.draw(positives, generator, query_ids) for part in self.parts]
        if all(ids.dim() == 1 for ids in drawn):
            return torch.cat(drawn)
        return torch.cat([ids.expand(len(positives), -1) if ids.dim() == 1 else ids for ids in drawn], dim=1)

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
