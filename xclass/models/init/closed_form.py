"""Closed-form starts of a model's tables: from train histories, from train features, from each item's documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from xclass.embeddings import Table
from xclass.embeddings.interface import plan_rows
from xclass.heads.item_features import FeatureRows
from xclass.models.init.spectral import SpectralConfig, feature_factors, spectral_factors
from xclass.runtime.progress import Progress
from xclass.towers import FeatureField, bag_shares
from xclass.towers.features import bags
from xclass.types import Ragged, offsets_of

BLOCK_ROWS = 1 << 16
QUERIES_PER_BLOCK = 1 << 13


def history_start(
    settings: SpectralConfig,
    train: Ragged,
    item_counts: Tensor,
    tables: Mapping[str, Table],
    history_weights: Literal["mean", "degree"],
    seed: int,
) -> None:
    """Item rows V·deg^p, history rows V·S^g·deg^-p (without deg^-p where the tower weights by degree itself)."""
    items = tables["item"]
    factors = spectral_factors(train, items.num_rows, items.dim, seed, settings.iterations, settings.oversampling)
    degree = item_counts.clamp(min=1).float().pow(settings.degree_power).unsqueeze(1)
    scale = factors.values.pow(settings.value_power)
    for start in range(0, items.num_rows, BLOCK_ROWS):
        vectors, degrees = (tensor[start : start + BLOCK_ROWS] for tensor in (factors.vectors, degree))
        tables["history"].write(start, vectors * scale / degrees if history_weights == "mean" else vectors * scale)
        items.write(start, vectors * degrees)


def feature_start(
    settings: SpectralConfig,
    train: Ragged,
    fields: Sequence[FeatureField],
    features: Mapping[str, Ragged],
    item_counts: Tensor,
    tables: Mapping[str, Table],
    seed: int,
    text: FeatureRows | None,
) -> None:
    """Feature rows U·S^g and item vectors V·deg^p of :func:`xclass.models.init.spectral.feature_factors`, scaled.

    Both sides are scaled so that a train query's vector and an item's have length 1 in the root mean square: a model of
    inner products then starts at scores of the size of cosines, and row-wise steps have a size to go by.

    Args:
        settings, seed: of the factors.
        train: pairs by query.
        fields: the query's; their tables are written one after the other.
        features: name → lists of all queries.
        item_counts: (N,).
        tables: with the rows of the fields and of items.
        text: what items have beside their rows: see :func:`write_items`.
    """
    together, starts = joined_bags(fields, [features[field.name] for field in fields], tables)
    num_items = len(item_counts)
    sizes = starts[-1], num_items
    how = settings.iterations, settings.oversampling, settings.count_power
    dim = tables[fields[0].table].dim
    factors = feature_factors(together, train, sizes, dim, seed, *how)
    rows = factors.features * factors.values.pow(settings.value_power)
    vectors = factors.items * item_counts.clamp(min=1).float().pow(settings.degree_power).unsqueeze(1)
    rows *= 1.0 / _typical_length(_products(together, rows, train))
    vectors *= 1.0 / _typical_length(vectors[item_counts > 0])
    for field, start in zip(fields, starts[:-1], strict=True):
        table = tables[field.table]
        for low in range(0, table.num_rows, BLOCK_ROWS):
            table.write(low, rows[start + low : start + min(low + BLOCK_ROWS, table.num_rows)])
    write_items(tables["item"], vectors, item_counts, text)


def document_start(
    train: Ragged,
    fields: Sequence[FeatureField],
    features: Mapping[str, Ragged],
    item_counts: Tensor,
    tables: Mapping[str, Table],
    text: FeatureRows | None,
) -> None:
    """An item's vector is the mean over its train queries of their bags, brought to unit length (0 without one).

    The item is then nearest to the documents it is known from. Rows of features stay as they are: bags of random rows
    keep inner products of the bags themselves but for noise of 1/√D. Cost O(values · D + pairs · D).
    Source: PIFA, Yu et al. 2022 ("PECOS"), section 4.1; Johnson & Lindenstrauss 1984.
    """
    items = tables["item"]
    sums = torch.zeros(items.num_rows, items.dim)
    with Progress("items from their documents", len(train), "queries") as progress:
        for start in range(0, len(train), QUERIES_PER_BLOCK):
            part = train.slice(start, min(start + QUERIES_PER_BLOCK, len(train))).long()
            query_BD = torch.zeros(len(part), items.dim)
            for field in fields:
                lists = field.weighed(features[field.name].slice(start, start + len(part)).long())
                plan = plan_rows({"bags": lists.values})
                query_BD += bags(
                    lists, field.combiner, tables[field.table].pull(plan.unique).cpu(), plan.positions["bags"]
                )
            query_BD = torch.nn.functional.normalize(query_BD, dim=1)
            weights = 1.0 if part.weights is None else part.weights.unsqueeze(1)
            sums.index_add_(0, part.values, query_BD[part.rows()] * weights)
            progress.advance(len(part))
    write_items(items, torch.nn.functional.normalize(sums, dim=1), item_counts, text)


def write_items(table: Table, vectors: Tensor, item_counts: Tensor, text: FeatureRows | None) -> None:
    """Rows such that items have these vectors. An item without a train pair has row 0: its features speak alone.

    Args:
        text: the bags of the items' features, which are added to their rows and therefore taken off here; or None.
    """
    for start in range(0, table.num_rows, BLOCK_ROWS):
        part = vectors[start : start + BLOCK_ROWS].clone()
        if text is not None:
            part -= text.read(start, start + len(part)).cpu()
        part[item_counts[start : start + BLOCK_ROWS] == 0] = 0.0
        table.write(start, part)


def joined_bags(
    fields: Sequence[FeatureField], lists: Sequence[Ragged], tables: Mapping[str, Table]
) -> tuple[Ragged, list[int]]:
    """All fields as one: list b holds the features of all of b's bags, with their final weights, and numbers of their
    own for each field; and where the numbers of each field begin."""
    starts = [0]
    rows, values, weights = list[Tensor](), list[Tensor](), list[Tensor]()
    for field, part in zip(fields, lists, strict=True):
        weighed = field.weighed(part.long())
        rows.append(weighed.rows())
        values.append(weighed.values + starts[-1])
        weights.append(bag_shares(weighed, field.combiner))
        starts.append(starts[-1] + tables[field.table].num_rows)
    owners = torch.cat(rows)
    order = torch.argsort(owners, stable=True)
    lengths = torch.bincount(owners, minlength=len(lists[0]))
    return Ragged(offsets_of(lengths), torch.cat(values)[order], torch.cat(weights)[order]), starts


def _products(together: Ragged, rows: Tensor, train: Ragged) -> Tensor:
    """(B, D) vectors of some of the queries with a train pair."""
    known = train.lengths().nonzero().squeeze(1)
    some = together.take(known[:: max(len(known) // QUERIES_PER_BLOCK, 1)])
    plan = plan_rows({"bags": some.values})
    return bags(some, "sum", rows[plan.unique], plan.positions["bags"])


def _typical_length(vectors: Tensor) -> Tensor:
    return vectors.square().sum(1).mean().sqrt().clamp(min=1e-12)
