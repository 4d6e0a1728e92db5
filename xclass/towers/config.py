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
    """Names of the feature sets to read. Each set has its own table, and their bags are added. Empty: all sets of the
    dataset."""
    weighting: Literal["stored", "idf", "tf-idf"] = "stored"
    """Weight of a feature in its bag. stored: as in the dataset. idf: stored weight × inverse document frequency.
    tf-idf: log(1 + stored weight) × inverse document frequency."""
    combiner: Literal["sum", "mean", "sqrtn"] = "sqrtn"
    """What the weighted sum of a bag is divided by. sum: nothing. mean: the sum of the absolute weights. sqrtn: the
    root of the sum of squared weights."""
    dropout: float = pydantic.Field(0.0, ge=0, lt=1)
    """In training, the probability that a feature is left out of its bag."""


class ContextConfig(Config):
    """How an ordered history becomes a vector."""

    mode: Literal["weighted", "concat"] = "concat"
    """weighted: a sum with a learned weight for each position and dimension. concat: a linear layer over the
    concatenated vectors."""
    length: Count = 0
    """How many items before a position are read; 0: as many as the dataset stores."""


class QueryTowerConfig(Config):
    """The query tower."""

    kind: QueryKind = "history"
    """What the query vector is made of: id (a vector for each query), history (the items of the query), features
    (sparse features or text), or a sum of these. context: the last items in their order, for positions of a text; it
    cannot be combined with other kinds."""
    history_weights: Literal["mean", "degree"] = "mean"
    """mean: all items of a history weigh the same. degree: an item with train count c has the weight
    c^-degree_power."""
    degree_power: Power = 0.5
    """The power in history_weights = "degree"."""
    share_item_table: bool = False
    """true: the history reads the head's table of items instead of a table of its own."""
    hidden: Dimensions = ()
    """Widths of the layers of a residual MLP at the end of the tower; empty: no MLP."""
    context: ContextConfig = ContextConfig()
    """Settings of kind = "context"."""
    features: FeatureConfig = FeatureConfig()
    """How the features of a query are read."""

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
    """What an item vector is made of. id: a vector for each item. features: the bags of its features (the text of a
    label), which also gives vectors to items without a train pair. id+features: the sum of both."""
    share_feature_table: bool = False
    """true: items read the feature rows of the query tower, for features of the same name. Documents and labels then
    need one vocabulary."""
    hidden: Dimensions = ()
    """Widths of the layers of a residual MLP at the end of the tower; empty: no MLP."""
    features: FeatureConfig = FeatureConfig()
    """How the features of an item are read."""

    @property
    def parts(self) -> tuple[str, ...]:
        """The sources that ``kind`` names."""
        return tuple(self.kind.split("+"))

    @pydantic.model_validator(mode="after")
    def _only_features_share(self) -> ItemTowerConfig:
        if self.share_feature_table and self.kind == "id":
            raise ValueError('share_feature_table is for item.kind = "features" or "id+features"')
        return self
