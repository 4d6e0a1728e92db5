"""The formulas: ranking metrics with their definitions, propensities, use of the catalogue, popularity."""

from xclass.metrics.catalogue import CATALOGUE_DEFINITIONS, CatalogueUse, gini
from xclass.metrics.evaluation import Evaluation
from xclass.metrics.matching import Matches, match
from xclass.metrics.names import (
    METRICS,
    Mean,
    Metric,
    MetricName,
    Values,
    average,
    compute,
    parse_metric,
    parse_metrics,
    values_of,
)
from xclass.metrics.popularity import Band, check_falling, popular_topk, popularity_bands
from xclass.metrics.propensity import inverse_propensities

__all__ = [
    "CATALOGUE_DEFINITIONS",
    "METRICS",
    "Band",
    "CatalogueUse",
    "Evaluation",
    "Matches",
    "Mean",
    "Metric",
    "MetricName",
    "Values",
    "average",
    "check_falling",
    "compute",
    "gini",
    "inverse_propensities",
    "match",
    "parse_metric",
    "parse_metrics",
    "popular_topk",
    "popularity_bands",
    "values_of",
]
