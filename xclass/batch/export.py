"""Vectors out of a run, as Parquet that any vector database reads.

A row is an external id and its vector: item_id or query_id, and vector, D float32 numbers. A list's score is the inner
product of the two, so the database must rank by inner product ("dot"), largest first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor

from xclass.errors import DataError, InputError
from xclass.index.checks import checked_queries
from xclass.io.files import atomic_file, scratch_directory
from xclass.io.frames import scan_parquet
from xclass.queries.blocks import count_queries, read_query_blocks
from xclass.queries.files import ITEM_COLUMN, read_query_file
from xclass.queries.queries import BATCH_QUERIES, Queries, dataset_slice
from xclass.recommender import Recommender
from xclass.runtime.progress import Progress

ROWS_AT_ONCE = 1 << 16
TEXTS_AT_ONCE = 1 << 12


def export_vectors(
    recommender: Recommender,
    items: Path | str | None = None,
    queries: Path | str | None = None,
    of: Path | str | None = None,
    texts: Path | str | None = None,
) -> dict[str, Any]:
    """Write item vectors, query vectors or both; a file appears when it is complete.

    Args:
        items: the file for item_id, vector: all items, in the order of their numbers.
        texts: a file of new items: item_id and text (.csv .tsv .parquet), or texts that are their own ids (.txt). Their
            vectors are written then, of a model that makes them of texts, and not those of the run's items.
        queries: the file for query_id, vector.
        of: a file of ids or histories, as for retrieval; every query of the dataset when None.

    Returns:
        Rows and dimensions of what was written, and how many ids nobody knew.

    Raises:
        InputError: neither of the two files is asked for. DataError: not one id is known.
    """
    if items is None and queries is None:
        raise InputError("say what to export", wanted="a file for item vectors, for query vectors, or for both")
    if texts is not None and items is None:
        raise InputError("vectors of texts are item vectors", wanted="a file for item vectors")
    dim = recommender.run.config.model.embedding_dim
    said: dict[str, Any] = {"dim": dim, "items": 0, "queries": 0, "unknown_queries": 0}
    if items is not None:
        blocks = _item_blocks(recommender) if texts is None else _text_blocks(recommender, texts)
        said["items"] = write_vectors(Path(items), "item_id", blocks)
    if queries is not None:
        unknown = _Unknown()
        said["queries"] = write_vectors(Path(queries), "query_id", _query_blocks(recommender, of, unknown))
        said["unknown_queries"] = unknown.count
    return said


def write_vectors(path: Path, id_column: str, blocks: Iterable[tuple[pl.Series, Tensor]]) -> int:
    """Parquet with an id and a vector a row, from blocks that are written one by one; how many rows there are.

    Raises:
        DataError: there is no row.
    """
    rows = 0
    with atomic_file(path) as temporary, scratch_directory(path) as parts:
        for ids, vectors in blocks:
            if len(ids):
                _frame(id_column, ids, vectors).write_parquet(parts / f"{rows:012d}.parquet")
                rows += len(ids)
        if not rows:
            raise DataError("there is no vector to write", where=path)
        scan_parquet(sorted(parts.iterdir())).sink_parquet(temporary, row_group_size=ROWS_AT_ONCE)
    return rows


def _frame(id_column: str, ids: pl.Series, vectors: Tensor) -> pl.DataFrame:
    shape = pl.Array(pl.Float32, vectors.shape[1])
    return pl.DataFrame({id_column: ids, "vector": pl.Series(vectors.cpu().contiguous().numpy(), dtype=shape)})


def _item_blocks(recommender: Recommender) -> Iterator[tuple[pl.Series, Tensor]]:
    ids = recommender.run.item_ids
    with Progress("export items", len(ids), "vectors") as progress:
        for start, block in recommender.item_vectors.blocks(ROWS_AT_ONCE):
            yield ids.slice(start, len(block)), block
            progress.advance(len(block))


def _text_blocks(recommender: Recommender, texts: Path | str) -> Iterator[tuple[pl.Series, Tensor]]:
    new = read_query_file(texts, ITEM_COLUMN, "")
    called = new.query_ids.cast(pl.String) if new.texts is None else new.texts
    with Progress("vectors of texts", len(called), "vectors") as progress:
        for start in range(0, len(called), TEXTS_AT_ONCE):
            some = called.slice(start, TEXTS_AT_ONCE)
            yield new.query_ids.slice(start, len(some)), recommender.text_vectors(some.to_list())
            progress.advance(len(some))


class _Unknown:
    count = 0


def _query_blocks(
    recommender: Recommender, of: Path | str | None, unknown: _Unknown
) -> Iterator[tuple[pl.Series, Tensor]]:
    total = recommender.run.num_queries if of is None else count_queries(of)
    with Progress("export queries", total, "vectors") as progress:
        for queries in _queries(recommender, of):
            unknown.count += queries.unknown_queries.count
            vectors = [_vectors(recommender, batch) for _, batch in queries.batches(BATCH_QUERIES)]
            if vectors:
                yield queries.ids, torch.cat(vectors)
            progress.advance(len(queries))


def _queries(recommender: Recommender, of: Path | str | None) -> Iterator[Queries]:
    if of is None:
        total = recommender.dataset.num_queries
        for start in range(0, total, ROWS_AT_ONCE):
            yield dataset_slice(recommender.dataset, start, min(start + ROWS_AT_ONCE, total))
    else:
        for file in read_query_blocks(of, ROWS_AT_ONCE, recommender.query_map):
            yield recommender.queries_of(file, none_known=True)


def _vectors(recommender: Recommender, batch: Any) -> Tensor:
    with torch.inference_mode():
        return checked_queries(recommender.model.query_vectors(batch), recommender.run.config.model.embedding_dim)
