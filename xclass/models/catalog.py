"""What a model must know of the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import polars as pl
from torch import Tensor

from xclass.data.windows import SequenceFacts
from xclass.types import Ragged


class Catalogue(Protocol):
    """What a model must know of the data: sizes and train counts. A dataset has it, and so has a finished run."""

    @property
    def num_queries(self) -> int:
        """Queries with a number."""
        ...

    @property
    def num_items(self) -> int:
        """N."""
        ...

    @property
    def item_counts(self) -> Tensor:
        """(N,) integers, train pairs of each item; read when it is asked for."""
        ...

    @property
    def num_train_queries(self) -> int:
        """Queries with a train pair; asked for where weights of items need it."""
        ...

    @property
    def propensity(self) -> tuple[float, float]:
        """A and B of the propensities; asked for where weights of items need them."""
        ...

    @property
    def sequence(self) -> SequenceFacts | None:
        """How positions of a text are read; None where queries are none."""
        ...

    @property
    def query_features(self) -> Mapping[str, Ragged]:
        """Name → sparse features of every query; asked for where they are read in training."""
        ...

    @property
    def item_features(self) -> Mapping[str, Ragged]:
        """The same of items."""
        ...

    @property
    def item_texts(self) -> pl.Series:
        """(N,) the text of each item; asked for by an output layer that reads characters, where it is trained."""
        ...

    def feature_sizes(self, side: str) -> dict[str, int]:
        """Name → number of different features, of side "query" or "item"."""
        ...

    def feature_counts(self, side: str, name: str) -> tuple[Tensor, int]:
        """(F,) integers, how many train queries (or items) have each feature; and how many there are."""
        ...
