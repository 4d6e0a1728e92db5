"""Lists on disk: tables of (query_id, rank, item_id, score) in parts, and the parts as one file or one directory.

Formats, by the ending of the name or by name:

    parquet   one row for each item of a list; a row group for each part
    jsonl     the same rows as JSON, one a line (.jsonl .ndjson)
    trec      a TREC run: `query_id Q0 item_id rank score xclass`, as trec_eval reads it (.trec .run)
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch

from xclass.errors import InputError, lookup
from xclass.io.frames import scan_parquet
from xclass.types import TopK

PART_ROWS = 1 << 20
COPY_BYTES = 1 << 20
TREC_TAG = "xclass"


def topk_frame(
    positions: torch.Tensor,
    found: TopK,
    query_ids: pl.Series,
    item_ids: pl.Series,
    probabilities: torch.Tensor | None = None,
) -> pl.DataFrame:
    """One batch as a table: query_id, rank, item_id, score, and probability where there are any. What is not a number
    becomes null."""
    more = {} if probabilities is None else {"probability": pl.Series(probabilities.numpy()).fill_nan(None)}
    return pl.DataFrame(
        {
            "query_id": query_ids.gather(positions[found.rows()].numpy()),
            "rank": pl.Series(found.ranks().to(torch.int32).numpy()),
            "item_id": item_ids.gather(found.ids.numpy()),
            "score": pl.Series(found.scores.numpy()).fill_nan(None),
            **more,
        }
    )


def empty_frame(query_ids: pl.Series, item_ids: pl.Series, probabilities: bool = False) -> pl.DataFrame:
    """The table without a row."""
    none, given = torch.empty(0, dtype=torch.int64), torch.empty(0) if probabilities else None
    return topk_frame(none, TopK(torch.zeros(1, dtype=torch.int64), none, torch.empty(0)), query_ids, item_ids, given)


@dataclass(frozen=True, slots=True)
class Format:
    """How a part is written, and how parts in order become one file."""

    suffix: str
    write: Callable[[pl.DataFrame, Path], None]
    join: Callable[[Sequence[Path], Path], None]


def format_of(path: Path, name: str | None) -> str:
    """The name of the format: as given, or by the path's ending; Parquet for an ending that says nothing.

    Raises:
        ConfigError: a format that does not exist.
    """
    by_ending = {".jsonl": "jsonl", ".ndjson": "jsonl", ".trec": "trec", ".run": "trec"}
    name = name or by_ending.get(path.suffix.lower(), "parquet")
    lookup("format", name, TOPK_FORMATS)
    return name


def check_ids(format_name: str, ids: pl.Series, what: str) -> None:
    """InputError where the format can't hold these ids: blanks would tear a TREC line apart."""
    if format_name != "trec" or ids.dtype != pl.String:
        return
    torn = ids.filter(ids.str.contains(r"\s") | (ids == ""))
    if len(torn):
        do = "choose another --format, or ids without blanks"
        raise InputError(f"a TREC run can't hold a blank in {what}", got=repr(torn[0]), do=do)


def _write_parquet(frame: pl.DataFrame, path: Path) -> None:
    frame.write_parquet(path)


def _join_parquet(parts: Sequence[Path], path: Path) -> None:
    if len(parts) == 1:
        shutil.copyfile(parts[0], path)
    else:
        scan_parquet(list(parts)).sink_parquet(path, row_group_size=PART_ROWS)


def _write_json_lines(frame: pl.DataFrame, path: Path) -> None:
    with path.open("wb") as file:
        frame.write_ndjson(file)


def _write_trec(frame: pl.DataFrame, path: Path) -> None:
    """trec_eval sorts by score, so that items without one get scores that fall below the list's last."""
    last = pl.col("score").min().over("query_id").fill_null(0.0)
    score = pl.col("score").fill_null(last - pl.col("rank"))
    lines = frame.select(
        "query_id", pl.lit("Q0").alias("Q0"), "item_id", "rank", score.alias("score"), pl.lit(TREC_TAG).alias("tag")
    )
    lines.write_csv(path, include_header=False, separator=" ", quote_style="never")


def _join_bytes(parts: Sequence[Path], path: Path) -> None:
    with path.open("wb") as whole:
        for part in parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, whole, COPY_BYTES)


TOPK_FORMATS: dict[str, Format] = {
    "parquet": Format(".parquet", _write_parquet, _join_parquet),
    "jsonl": Format(".jsonl", _write_json_lines, _join_bytes),
    "trec": Format(".trec", _write_trec, _join_bytes),
}
