"""Several samplers together, with the log-Q of the whole."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from xclass.errors import InputError
from xclass.sampling.seam import Sampler, negatives_from
from xclass.types import Negatives, Ragged


class Mixture:
    """The candidates of every part, one after the other.

    The expected count of an item in the union is the sum of its expected counts in the parts, whichever part it came
    from: log_q = logsumexp over the parts (mixed negative sampling: Yang et al. 2020).
    """

    def __init__(self, parts: Sequence[Sampler]) -> None:
        sizes = {part.num_items for part in parts}
        if len(sizes) != 1:
            raise InputError("a mixture needs parts over one catalogue", wanted="one num_items", got=sorted(sizes))
        self.parts = list(parts)
        self.num_items = sizes.pop()

    def draw(self, positives: Ragged, generator: torch.Generator) -> Tensor:
        """int64 (ΣK,)."""
        return torch.cat([part.draw(positives, generator) for part in self.parts])

    def log_expected_count(self, ids: Tensor, positives: Ragged) -> Tensor:
        """Log Σ over parts of the expected count."""
        return torch.stack([part.log_expected_count(ids, positives) for part in self.parts]).logsumexp(0)

    def sample(self, positives: Ragged, generator: torch.Generator) -> Negatives:
        """The union of the parts' candidates."""
        return negatives_from(self, positives, generator)
