"""The formulas: ranking metrics with their definitions, propensities, use of the catalogue, popularity."""

from xclass.metrics.columns import BandColumns, Column, HistoryColumns, PerQuery, numbers
from xclass.metrics.coverage import CATALOGUE_DEFINITIONS, CatalogueUse, gini
from xclass.metrics.evaluation import Evaluation
from xclass.metrics.likelihood import LIKELIHOODS, LOG_LOSS, PERPLEXITY, Likelihood, unigram_likelihood
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
from xclass.metrics.propensity import Propensities, inverse_propensities
from xclass.metrics.significance import holm, intervals, randomisation_p

__all__ = [
    "CATALOGUE_DEFINITIONS",
    "LIKELIHOODS",
    "LOG_LOSS",
    "METRICS",
    "PERPLEXITY",
    "Band",
    "BandColumns",
    "CatalogueUse",
    "Column",
    "Evaluation",
    "HistoryColumns",
    "Likelihood",
    "Matches",
    "Mean",
    "Metric",
    "MetricName",
    "PerQuery",
    "Propensities",
    "Values",
    "average",
    "check_falling",
    "compute",
    "gini",
    "holm",
    "intervals",
    "inverse_propensities",
    "match",
    "numbers",
    "parse_metric",
    "parse_metrics",
    "popular_topk",
    "popularity_bands",
    "randomisation_p",
    "unigram_likelihood",
    "values_of",
]
