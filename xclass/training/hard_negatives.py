"""Hard negatives: what the model of the moment ranks highest for each query and is no positive of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from xclass.data.batches import inference_batches
from xclass.data.lists import Lists
from xclass.distributed import Engine, LocalEngine
from xclass.index import FaissIndex
from xclass.models.two_tower import TwoTower
from xclass.runtime.progress import Progress
from xclass.sampling import HardNegatives, Mixture, Sampler, SamplerConfig
from xclass.types import Ragged, offsets_of

BATCH = 1024


def make_miner(
    config: SamplerConfig,
    train: Ragged,
    features: Mapping[str, Lists] | None = None,
    windows: Lists | None = None,
    engine: Engine | None = None,
) -> Callable[[TwoTower, int], None] | None:
    """A function of (model, epoch) that mines when an epoch asks for it; None when the sampler has no hard negatives.

    Args:
        config: of the sampler; its parts are looked through.
        train: the train split: every known positive is left out of a query's list.
        features: the queries' features by name, where the model reads them.
        windows: the queries' histories, where they are not their train pairs.
        engine: searches the items, where no Faiss index does.

    One mining costs a search for every query with a train pair: exact, 2 · queries · N · D operations and a sweep over
    the items for every 4096 queries, or through a Faiss index that is built from the item vectors first.
    """
    hard = list(hard_parts(config))
    if not hard:
        return None

    def mine(model: TwoTower, epoch: int) -> None:
        assert model.head.sampler is not None
        for part, sampler in zip(hard, hard_samplers(model.head.sampler), strict=True):
            if epoch % part.refresh_epochs == 0:
                sampler.mined(
                    search_all(model, train, part.depth, part.factory, features, windows, engine), train.long()
                )

    return mine


def hard_parts(config: SamplerConfig) -> Iterator[SamplerConfig]:
    """The configurations of hard negatives in a configuration, in order."""
    if config.kind == "hard":
        yield config
    for part in config.parts:
        yield from hard_parts(part)


def hard_samplers(sampler: Sampler | None) -> Iterator[HardNegatives]:
    """The samplers of hard negatives that a sampler is made of, in the order of its configuration."""
    if isinstance(sampler, HardNegatives):
        yield sampler
    elif isinstance(sampler, Mixture):
        for part in sampler.parts:
            yield from hard_samplers(part)


def search_all(
    model: TwoTower,
    train: Ragged,
    depth: int,
    factory: str | None,
    features: Mapping[str, Lists] | None = None,
    windows: Lists | None = None,
    engine: Engine | None = None,
) -> Ragged:
    """Ragged by query number: the ``depth`` best items of each query with a train pair, those pairs left out."""
    index: Any = (engine or LocalEngine()).search(model)
    if factory is not None:
        vectors, index = model.item_vectors(), FaissIndex("factory", factory)
        assert vectors is not None
        index.build(vectors)
    queries = train.lengths().nonzero().squeeze(1)
    lengths, values = torch.zeros(len(train), dtype=torch.int64), list[Tensor]()
    with Progress("hard negatives", len(queries), "queries") as progress:
        for part in queries.split(index.queries_at_once):
            batches = inference_batches(windows or train, part, BATCH, features)
            query_BD = torch.cat([model.query_vectors(batch) for batch in batches])
            found = index.search(query_BD, depth, exclude=train.with_values(train.values).take(part))
            lengths[part] = found.lengths()
            values.append(found.ids)
            progress.advance(len(part))
    return Ragged(offsets_of(lengths), torch.cat(values) if values else torch.empty(0, dtype=torch.int64))
