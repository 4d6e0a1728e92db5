"""Weights of a document's features: counted on train documents once, applied to any document the same way."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from xclass.types import Ragged


class Terms:
    """Features as a scorer reads them: weighted, then each list to length 1.

        tf-idf       tf · ln(n / df)
        log-tf-idf   (1 + ln tf) · ln(n / df)    (tf below 1 counts as 1)
        unit         as given
        given        as given, and the length stays

    tf: the weight that is given; n: train documents; df: those that have the feature. A feature that no train document
    has weighs 0.

    Args:
        weighting: one of these words.
        idf: float32 (V,), ln(n / df); 0 for a feature that no train document has.
    """

    def __init__(self, weighting: str, idf: Tensor) -> None:
        self.weighting, self.idf = weighting, idf

    @classmethod
    def fit(cls, weighting: str, documents: Ragged, size: int) -> Terms:
        """Count in which of ``documents`` each of ``size`` features is. Lists hold a feature once."""
        df = torch.bincount(documents.values.long(), minlength=size)
        idf = torch.where(df > 0, torch.log(max(len(documents), 1) / df.clamp(min=1).double()), 0.0)
        return cls(weighting, idf.float())

    @property
    def size(self) -> int:
        """Number of features, V."""
        return len(self.idf)

    def __call__(self, documents: Ragged) -> Ragged:
        """int32 feature numbers with float32 weights. Features that train does not number are left out."""
        values = documents.values
        given = torch.ones(len(values)) if documents.weights is None else documents.weights.float()
        if len(values) and int(values.max()) >= self.size:
            known = Ragged(documents.offsets, values, given).filter(values < self.size)
            values, given, documents = known.values, known.weights, known  # type: ignore[assignment]
        weights = self._weighted(values.long(), given)
        if self.weighting != "given":
            weights = _unit(documents.offsets, weights)
        return Ragged(documents.offsets, values.int(), weights)

    def _weighted(self, values: Tensor, given: Tensor) -> Tensor:
        if self.weighting in ("unit", "given"):
            return given
        tf = given if self.weighting == "tf-idf" else 1 + torch.log(given.clamp(min=1))
        return tf * self.idf[values]


def _unit(offsets: Tensor, weights: Tensor) -> Tensor:
    """Each list to Euclidean length 1; a list of zeros stays."""
    squares = np.concatenate([[0.0], np.cumsum(weights.numpy().astype(np.float64) ** 2)])
    totals = torch.from_numpy(np.diff(squares[offsets.numpy()]))
    scale = torch.where(totals > 0, totals, 1.0).rsqrt()
    return (weights.double() * torch.repeat_interleave(scale, offsets.diff(), output_size=len(weights))).float()
