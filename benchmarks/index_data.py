"""Item and query vectors to measure indexes with, by name.

clusters  unit vectors around 2000 centres, with normal noise: easy, as inverted lists are made for clusters
planted   the true vectors of a planted world: log P(item | query) is their inner product up to a term of the query.
          2000 topics in dim − 1 dimensions; an item is its topic's direction and its popularity: norms of 8 to 18
learned   what a run of three epochs learned from 16 million pairs of such a world (16 latent dimensions, 1M items,
          1M queries): unit vectors of 64 dimensions. `bench_index.py learn` makes them, in about seven minutes
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from xclass.ingest.synthetic.pairs import PlantedModel
from xclass.ingest.synthetic.world import PlantedWorld
from xclass.runtime.rng import numpy_generator, torch_generator

CONFIG = {
    "model": {"embedding_dim": 64, "normalize": True, "temperature": 0.1},
    "sampler": {"num_sampled": 1024},
    "train": {"epochs": 3, "learning_rate": 0.05, "batch": {"by": "query", "size": 4096}},
}
LEARNED_QUERIES = 1 << 16
BLOCK = 1 << 18


def clustered_vectors(
    num_items: int, num_queries: int, dim: int, noise: float = 0.7
) -> tuple[torch.Tensor, torch.Tensor]:
    """Clustered unit vectors: 2000 centres, normal noise of ``noise`` times their spread in each coordinate."""
    generator = torch_generator(0, "bench index")
    centres = torch.randn(2000, dim, generator=generator)

    def draw(count: int) -> torch.Tensor:
        which = torch.randint(2000, (count,), generator=generator)
        rows = centres[which].add_(torch.randn(count, dim, generator=generator), alpha=noise)
        return torch.nn.functional.normalize(rows, dim=1, out=rows)

    return draw(num_items), draw(num_queries)


def planted_vectors(num_items: int, num_queries: int, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Items (β t_c, log π_c w_r / W_c) and queries (z, 1) of a planted world with 2000 topics."""
    world = PlantedWorld(num_items, 1, 2, num_topics=2000, latent_dim=dim - 1)
    items = np.empty((num_items, dim), np.float32)
    directions = (world.sharpness * world.directions).astype(np.float32)
    for low in range(0, num_items, BLOCK):
        numbers = np.arange(low, min(low + BLOCK, num_items))
        topics = numbers % world.num_topics
        items[numbers, :-1] = directions[topics]
        items[numbers, -1] = np.log(world.topic_shares[topics] * world.within_topic(numbers))
    queries = np.ones((num_queries, dim), np.float32)
    queries[:, :-1] = numpy_generator(0, "bench index queries").normal(size=(num_queries, dim - 1))
    return torch.from_numpy(items), torch.from_numpy(queries)


def learn(folder: Path) -> None:
    """A dataset, a run over it, and its item and query vectors: FOLDER/{items,queries}.npy."""
    from xclass.api import train
    from xclass.queries.queries import dataset_slice
    from xclass.recommender import Recommender

    if not (folder / "dataset").exists():
        world = PlantedModel(1_000_000, 1_000_000, 16_000_000, num_topics=2000, latent_dim=16)
        world.write_dataset(folder / "dataset")
    if not (folder / "run").exists():
        train(folder / "dataset", CONFIG, folder / "run", device="cpu")
    recommender = Recommender.load(folder / "run")
    np.save(folder / "items.npy", recommender.item_vectors.tensor().numpy())
    with torch.no_grad():
        asked = dataset_slice(recommender.dataset, 0, LEARNED_QUERIES).batches()
        queries = torch.cat([recommender.model.query_vectors(batch) for _, batch in asked])
    np.save(folder / "queries.npy", queries.numpy())


def learned_vectors(folder: Path, num_items: int, num_queries: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What :func:`learn` wrote."""
    items, queries = (torch.from_numpy(np.load(folder / f"{name}.npy")) for name in ("items", "queries"))
    assert len(items) >= num_items and len(queries) >= num_queries, "fewer vectors were learned"
    return items[:num_items], queries[:num_queries]
