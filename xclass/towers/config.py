"""What a configuration can say about the two towers."""

from __future__ import annotations

from typing import Literal

import pydantic

from xclass.config import Config, Count, Dimensions, Power

QueryKind = Literal[
    "id", "history", "context", "id+history", "features", "id+features", "history+features", "id+history+features"
]  # fmt: skip


class FeatureConfig(Config):
    """How bags of sparse features are made."""

    names: tuple[str, ...] = ()
    """Sets of features that are read, each with a table of its own; their bags are added. Empty: all of the dataset."""
    weighting: Literal["stored", "idf", "tf-idf"] = "stored"
    """stored: weights as the dataset has them; idf: times the feature's inverse document frequency; tf-idf: their
    log(1 + weight) times that."""
    combiner: Literal["sum", "mean", "sqrtn"] = "sqrtn"
    """What a bag is divided by: nothing, the sum of its weights, or their length (TF-IDF rows of unit length)."""
    dropout: float = pydantic.Field(0.0, ge=0, lt=1)
    """In training each feature is left out of its bag with this chance."""


class ContextConfig(Config):
    """How an ordered history becomes a vector."""

    mode: Literal["weighted", "concat"] = "concat"
    """weighted: a bag with a weight for each place and dimension; concat: a linear layer over the vectors side by
    side."""
    length: Count = 0
    """So many items before a position are read; 0 takes as many as the dataset gives."""


class QueryTowerConfig(Config):
    """The query tower."""

    kind: QueryKind = "history"
    """What is known of a query: id (a vector of its own), history (the items it has), features (sparse features or
    text); what is named is added. context: the last items before it in their order, for positions of a text."""
    history_weights: Literal["mean", "degree"] = "mean"
    """degree: an item of train count c has weight c^-degree_power in the history."""
    degree_power: Power = 0.5
    """The power in history_weights = "degree"."""
    share_item_table: bool = False
    """The history reads the head's item table instead of one of its own."""
    hidden: Dimensions = ()
    """Widths of a residual MLP at the end of the tower; empty for none."""
    context: ContextConfig = ContextConfig()
    """Of kind = "context"."""
    features: FeatureConfig = FeatureConfig()
    """Of the query's features."""

    @property
    def parts(self) -> tuple[str, ...]:
        """The sources that ``kind`` names."""
        return tuple(self.kind.split("+"))

    @property
    def reads_history(self) -> bool:
        """Whether items that a query has had change its vector."""
        return bool({"history", "context"} & set(self.parts))

    @pydantic.model_validator(mode="after")
    def _only_a_context_is_ordered(self) -> QueryTowerConfig:
        if self.kind != "context" and self.context != ContextConfig():
            raise ValueError('query.context is for query.kind = "context"')
        return self


class ItemTowerConfig(Config):
    """The item tower."""

    kind: Literal["id", "features", "id+features"] = "id"
    """id: a vector of its own for each item; features: the bags of its features (a label's text), which also serves
    items without a train pair; both, added."""
    share_feature_table: bool = False
    """Items read the rows of the query's features of the same name: one vocabulary for documents and labels."""
    hidden: Dimensions = ()
    """Widths of a residual MLP at the end of the tower; empty for none."""
    features: FeatureConfig = FeatureConfig()
    """Of the item's features."""

    @property
    def parts(self) -> tuple[str, ...]:
        """The sources that ``kind`` names."""
        return tuple(self.kind.split("+"))

    @pydantic.model_validator(mode="after")
    def _only_features_share(self) -> ItemTowerConfig:
        if self.share_feature_table and self.kind == "id":
            raise ValueError('share_feature_table is for item.kind = "features" or "id+features"')
        return self
