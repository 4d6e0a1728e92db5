"""Query towers: what is known of a query → one vector. And the projection that ends both towers."""

from xclass.towers.projection import Projection
from xclass.towers.query import QUERY_TOWERS, HistorySource, IdSource, QueryTower, Source

__all__ = ["QUERY_TOWERS", "HistorySource", "IdSource", "Projection", "QueryTower", "Source"]
