"""Query towers: what is known of a query → one vector. Bags of features, and the projection that ends both towers."""

from xclass.towers.context import ContextSource, check_positions, context_source, last_items
from xclass.towers.features import (
    Combiner,
    FeatureField,
    FeatureSource,
    ItemFeatures,
    Weighting,
    bag_shares,
    inverse_frequencies,
)
from xclass.towers.projection import Projection
from xclass.towers.query import QUERY_TOWERS, HistorySource, IdSource, QueryTower, Source

__all__ = [
    "QUERY_TOWERS",
    "Combiner",
    "ContextSource",
    "FeatureField",
    "FeatureSource",
    "HistorySource",
    "IdSource",
    "ItemFeatures",
    "Projection",
    "QueryTower",
    "Source",
    "Weighting",
    "bag_shares",
    "check_positions",
    "context_source",
    "inverse_frequencies",
    "last_items",
]
