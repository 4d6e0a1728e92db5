"""Validation while training: a fixed sample of queries, exact top-k, the metrics of `evaluate`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from xclass.data.batches import inference_batches
from xclass.data.store import Dataset
from xclass.engine import Engine, LocalEngine
from xclass.errors import ConfigError, InputError
from xclass.metrics import MetricName, average, compute, parse_metric
from xclass.model import TwoTower
from xclass.rng import torch_generator
from xclass.training.collapse import CollapseWatch, Validated
from xclass.training.config import TrainingConfig
from xclass.types import concat_ragged

BATCH = 1024
SHOWN = ("recall@20", "ndcg@20")
NEED_PROPENSITIES = ("psp", "psndcg")


def make_validator(
    dataset: Dataset, config: TrainingConfig, engine: Engine | None = None
) -> Callable[[TwoTower], Validated] | None:
    """A function that measures a model on a fixed sample of the valid split; None when there is no such split.

    The sample depends on the seed only. A query's history is its train items, which are left out of its top-k.
    Cost of one validation: 2 · queries · N · D operations in one sweep over the items; of a head with its own
    search, what that costs. Memory: the queries' vectors and
    histories, 36 · k bytes for each of them, and the blocks of the exact search; nothing of the catalogue's size.

    Raises:
        ConfigError: the metric does not exist or can't be measured here.
    """
    wanted = _metric(config.validation.metric)
    if "valid" not in dataset.splits:
        return None
    truth = dataset.split("valid")
    queries = _sample(truth.lengths().nonzero().squeeze(1), config.validation.queries, config.seed)
    metrics = list(dict.fromkeys([wanted, *map(parse_metric, SHOWN)]))
    k = max(metric.k for metric in metrics)
    positives = truth.take(queries).long()
    searching = engine or LocalEngine()
    watch = CollapseWatch(dataset.num_items, config.seed)

    def validate(model: TwoTower) -> Validated:
        vectors, index = model.item_vectors(), searching.search(model)
        seen, hidden = dataset.seen("valid"), dataset.hidden
        batches = inference_batches(seen, queries, BATCH, dataset.query_features)
        query_BD = torch.cat([model.query_vectors(batch) for batch in batches])
        left_out = seen.take(queries).long()
        if hidden is not None:
            left_out = concat_ragged(left_out, hidden.take(queries).long())
        found = index.search(query_BD, k, left_out)
        return watch(average(compute(found, positives, metrics)), query_BD, vectors, found)

    return validate


def _metric(text: str) -> MetricName:
    try:
        metric = parse_metric(text)
    except InputError as error:
        raise ConfigError(
            error.what, where="train.validation.metric", wanted=error.wanted, got=text, do=error.do
        ) from None
    if metric.name in NEED_PROPENSITIES:
        raise ConfigError("this metric is not measured while training", where="train.validation.metric", got=text)
    return metric


def _sample(queries: Tensor, most: int, seed: int) -> Tensor:
    """At most ``most`` of the queries, rising; the same ones for the same seed."""
    if len(queries) <= most:
        return queries
    chosen = torch.randperm(len(queries), generator=torch_generator(seed, "validation"))[:most]
    return queries[chosen].sort().values
