"""Validation while training: a fixed sample of queries, exact top-k, the metrics of `evaluate`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from xclass.data.batches import inference_batches
from xclass.data.dataset import Dataset
from xclass.distributed import Engine, LocalEngine
from xclass.errors import ConfigError, InputError
from xclass.evaluation.likelihood import likelihood_of
from xclass.metrics import PERPLEXITY, MetricName, average, compute, parse_metric
from xclass.metrics.likelihood import joined
from xclass.models.two_tower import TwoTower
from xclass.runtime.rng import torch_generator
from xclass.training.collapse import CollapseWatch, Validated
from xclass.training.config import TrainingConfig
from xclass.types import Ragged, concat_ragged

BATCH = 1024
AUTO = "auto"
SHOWN = ("recall@20", "ndcg@20")
NEED_PROPENSITIES = ("psp", "psndcg")


def make_validator(
    dataset: Dataset, config: TrainingConfig, engine: Engine | None = None
) -> Callable[[TwoTower], Validated] | None:
    """A function that measures a model on a fixed sample of the valid split; None when there is no such split.

    The sample depends on the seed only. A query's history is its train items, which are left out of its top-k; of
    positions of a text it is what stands before them, and nothing is left out.
    The metric that early stopping goes by comes first. Of positions of a text perplexity is measured, too.
    Cost of one validation: 2 · queries · N · D operations in one sweep over the items; of a head with its own
    search, what that costs. Memory: the queries' vectors and
    histories, 36 · k bytes for each of them, and the blocks of the exact search; nothing of the catalogue's size.

    Raises:
        ConfigError: the metric does not exist or can't be measured here.
    """
    wanted = _metric(config.validation.metric)
    if "valid" not in dataset.splits:
        return None
    first = chosen_metric(config.validation.metric, dataset.sequence is not None)
    likely = first == PERPLEXITY or dataset.sequence is not None
    truth = dataset.split("valid")
    queries = _sample(truth.lengths().nonzero().squeeze(1), config.validation.queries, config.seed)
    metrics = list(dict.fromkeys([*wanted, *map(parse_metric, SHOWN)]))
    k = max(metric.k for metric in metrics)
    positives = truth.take(queries).long()
    searching = engine or LocalEngine()
    watch = CollapseWatch(dataset.num_items, config.seed)

    def validate(model: TwoTower) -> Validated:
        vectors, index = model.item_vectors(), searching.search(model)
        seen, hidden = dataset.seen("valid"), dataset.hidden
        batches = inference_batches(dataset.history("valid"), queries, BATCH, dataset.query_features)
        query_BD = torch.cat([model.query_vectors(batch) for batch in batches])
        left_out = seen.take(queries).long()
        if hidden is not None:
            left_out = concat_ragged(left_out, hidden.take(queries).long())
        found = index.search(query_BD, k, left_out)
        measured = average(compute(found, positives, metrics))
        if likely:
            measured[PERPLEXITY] = _perplexity(model, query_BD, positives)
        return watch({first: measured.pop(first), **measured}, query_BD, vectors, found)

    return validate


def chosen_metric(name: str, positions: bool) -> str:
    """What early stopping goes by: ``name``, or for "auto" perplexity of positions of a text, recall@20 elsewhere."""
    return name if name != AUTO else PERPLEXITY if positions else SHOWN[0]


def lower_is_better(name: str) -> bool:
    """Of a metric that early stopping can go by."""
    return name == PERPLEXITY


def _perplexity(model: TwoTower, query_BD: Tensor, positives: Ragged) -> float:
    """Exact, ``BATCH`` queries at a time."""
    parts = []
    for start in range(0, len(query_BD), BATCH):
        stop = min(start + BATCH, len(query_BD))
        parts.append(likelihood_of(model, query_BD[start:stop], positives.slice(start, stop)))
    return joined(parts).metrics()[PERPLEXITY]


def _metric(text: str) -> list[MetricName]:
    """The ranking metric that is asked for, where it is one."""
    if text in (AUTO, PERPLEXITY):
        return []
    try:
        metric = parse_metric(text)
    except InputError as error:
        raise ConfigError(
            error.what, where="train.validation.metric", wanted=error.wanted, got=text, do=error.do
        ) from None
    if metric.name in NEED_PROPENSITIES:
        raise ConfigError("this metric is not measured while training", where="train.validation.metric", got=text)
    return [metric]


def _sample(queries: Tensor, most: int, seed: int) -> Tensor:
    """At most ``most`` of the queries, rising; the same ones for the same seed."""
    if len(queries) <= most:
        return queries
    chosen = torch.randperm(len(queries), generator=torch_generator(seed, "validation"))[:most]
    return queries[chosen].sort().values
