"""How likely a model finds what was there: exact log-probabilities of all positives, batch by batch."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from xclass.data.lists import Lists
from xclass.errors import InputError
from xclass.metrics import Evaluation, Likelihood, unigram_likelihood
from xclass.metrics.likelihood import joined, pair_weights
from xclass.models.two_tower import TwoTower
from xclass.queries.queries import Queries
from xclass.runtime.progress import Progress
from xclass.types import Batch, Ragged


def measure_likelihood(
    model: TwoTower,
    batches: Iterable[tuple[Tensor, Batch]],
    truth: Lists,
    total: int | None = None,
    label: str = "likelihood",
) -> Likelihood:
    """Of the positives of all queries, in the order of the batches.

    Args:
        batches: (positions, batch), as ``Queries.batches()`` gives them.
        truth: list q holds the positives of the query at position q.
        total, label: number of queries and a word, for the progress on stderr.

    Raises:
        InputError: a probability is not a number: the weights are not finite.

    Cost: what the head's ``log_probability`` costs; of scores of all items 2·N·D operations and N exponentials a query.
    Memory: a batch, and blocks of the catalogue; never queries × items.
    """
    parts = []
    with Progress(label, total, "queries") as progress:
        for positions, batch in batches:
            with torch.inference_mode():
                query_BD = model.query_vectors(batch)
            parts.append(likelihood_of(model, query_BD, truth.take(positions).long()))
            progress.advance(len(batch))
    return joined(parts)


def with_likelihood(
    result: Evaluation, model: object, queries: Queries, truth: Lists, item_counts: Tensor
) -> Evaluation:
    """``result`` with perplexity and calibration of the same queries, and what train counts alone would give.

    Raises:
        InputError: the run has scorers only, or scores from which no probability follows.
    """
    if not isinstance(model, TwoTower):
        raise InputError("this run has no towers, and so no probabilities", do="leave perplexity out")
    found = measure_likelihood(model, queries.batches(), truth, len(queries))
    popular = [unigram_likelihood(item_counts, truth.take(part)) for part in torch.arange(len(truth)).split(1 << 16)]
    return result.with_likelihood(found, joined(popular))


def likelihood_of(model: TwoTower, query_BD: Tensor, truth: Ragged) -> Likelihood:
    """Of each query's positives, given the queries' vectors."""
    found = model.log_parts(query_BD, truth)
    weights, rows = pair_weights(truth), truth.rows()
    empty = torch.zeros(len(truth), dtype=torch.float64)
    loss = empty.index_add(0, rows, weights * -found.log_probability.double())
    weight = empty.index_add(0, rows, weights)
    if bool(loss.isnan().any()):
        raise InputError("a probability is not a number", wanted="finite weights of the model")
    log_z = None if found.log_z is None else found.log_z.double().masked_fill(weight == 0, torch.nan)
    return Likelihood(loss, weight, log_z, found.log_constant)
