"""Batch retrieval as a Ray Data job: Parquet in, Parquet out, on however many machines a Ray cluster has.

retrieve_with_ray("/shared/runs/mf", "/shared/queries", "/shared/lists", k=100, workers=8)

Needs the extra: ``pip install 'xclass[ray]'`` on every machine. Nothing else here imports Ray.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from xclass.errors import ArtefactError, ConfigError, DataError, XclassError
from xclass.index.checks import checked_k
from xclass.queries.files import ITEM_COLUMN, QUERY_COLUMN, QueryFile, table_of
from xclass.recommender import Recommender
from xclass.retrieval.filters import FilteredSearch, Wanted
from xclass.retrieval.formats import empty_frame, topk_frame
from xclass.types import offsets_of

HISTORY_COLUMN = "history"


def retrieve_with_ray(
    run: Path | str,
    queries: Path | str,
    out: Path | str,
    *,
    k: int = 100,
    exact: bool = False,
    include_seen: bool = False,
    workers: int = 1,
    cpus_per_worker: float = 1,
    queries_at_once: int = 4096,
    dataset: Path | str | None = None,
) -> None:
    """Write the best k items of every query: Parquet files of query_id, rank, item_id, score below ``out``.

    Each worker loads the artefact once and then takes batch after batch. A query's rows stand together and in the order
    of their ranks; queries come in no order. Ids that nobody knows have no rows.

    Args:
        run: a finished run, where every worker can read it.
        queries: Parquet, a file or a directory, one row a query: ``query_id``; with a list ``history`` of item ids, a
            query that the run need not know; or with ``text`` for a run over texts.
        out: a directory that does not exist; files appear in it as they are finished.
        k: at most so many items for each query.
        exact: search exactly even if the run has an index.
        include_seen: keep items that a query has in its history.
        workers: how many load the artefact; cpus_per_worker: cores that each computes on.
        queries_at_once: of a batch.
        dataset: the run's dataset, if it is no longer where it was.

    Raises:
        XclassError: Ray is not installed, or what a worker says. ArtefactError: ``out`` exists. ConfigError: the
            cluster has not one core more than the workers take.
    """
    try:
        import ray
        import ray.data
    except ImportError:
        raise XclassError("Ray is not installed", do="pip install 'xclass[ray]'") from None
    checked_k(k)
    if Path(out).exists():
        raise ArtefactError("the output is there already", where=out, do="choose another, or remove it first")
    _check_room(ray, workers * cpus_per_worker)
    settings = {"k": k, "exact": exact, "include_seen": include_seen}
    lists = ray.data.read_parquet(str(Path(queries).absolute())).map_batches(
        Worker,
        fn_constructor_args=(str(Path(run).absolute()), None if dataset is None else str(dataset), settings),
        batch_size=queries_at_once,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=cpus_per_worker,
    )
    try:
        lists.write_parquet(str(Path(out).absolute()))
    except ray.exceptions.RayTaskError as error:
        said = [line for line in str(error).splitlines() if line.startswith("xclass.errors.")]
        if not said:
            raise
        raise XclassError("a worker failed", where=queries, got=said[0].partition(": ")[2]) from None


def _check_room(ray: Any, wanted: float) -> None:
    """Workers that took every core would wait for ever: the queries are read by tasks of their own."""
    if not ray.is_initialized():
        ray.init()
    there = ray.cluster_resources().get("CPU", 0.0)
    if wanted + 1 > there:
        raise ConfigError(
            "the cluster has too few cores for these workers",
            where="workers, cpus_per_worker",
            wanted=f"{wanted + 1:g} cores: one is for reading and writing",
            got=f"{there:g}",
            do="ask for fewer workers or fewer cores for each",
        )


class Worker:
    """One artefact, loaded once, and the lists of batches of queries.

    Args:
        run, dataset: paths.
        settings: k, exact, include_seen.
    """

    def __init__(self, run: str, dataset: str | None, settings: dict[str, Any]) -> None:
        self.recommender = Recommender.load(run, dataset)
        index = None if settings["exact"] else self.recommender.index
        wanted = Wanted(settings["k"], settings["include_seen"])
        chosen = self.recommender.exact_index if index is None else index
        self._search = FilteredSearch(self.recommender.model, chosen, wanted, lambda: self.recommender.run.item_counts)

    def __call__(self, table: Any) -> Any:
        """An Arrow table of queries → one of (query_id, rank, item_id, score)."""
        found = self.lists(pl.DataFrame(pl.from_arrow(table)))
        return found.to_arrow(compat_level=pl.CompatLevel.oldest())

    def lists(self, table: pl.DataFrame) -> pl.DataFrame:
        """The lists of a table of queries."""
        queries = self.recommender.queries_of(query_file(table), none_known=True)
        items = self.recommender.run.item_ids
        frames = [empty_frame(queries.ids, items)]
        for positions, found, _ in self._search.lists(queries):
            frames.append(topk_frame(positions, found, queries.ids, items))
        return pl.concat(frames)


def query_file(table: pl.DataFrame) -> QueryFile:
    """What a table of one row a query asks for.

    Raises:
        DataError: a column is missing, or the history is no list.
    """
    where = Path("the queries")
    if HISTORY_COLUMN not in table.columns:
        return table_of(where, table, QUERY_COLUMN, ITEM_COLUMN)
    history = table[HISTORY_COLUMN]
    if not isinstance(history.dtype, pl.List) or QUERY_COLUMN not in table.columns:
        wanted = f'"{QUERY_COLUMN}", and a list of item ids in "{HISTORY_COLUMN}"'
        raise DataError("these are no queries", where=where, wanted=wanted, got=str(dict(table.schema)))
    lengths = torch.from_numpy(history.list.len().fill_null(0).to_numpy().astype(np.int64))
    values = history.drop_nulls().explode(empty_as_null=False)
    return QueryFile(table[QUERY_COLUMN], offsets_of(lengths), values)
