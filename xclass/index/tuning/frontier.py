"""What tuning measured, as a table and a plot beside the index."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

TABLE = "frontier.parquet"
PLOT = "frontier.png"
SCHEMA = {
    "kind": pl.String,
    "factory": pl.String,
    "parameters": pl.String,
    "index_recall": pl.Float64,
    "queries_per_s": pl.Float64,
    "memory_bytes": pl.Int64,
    "build_s": pl.Float64,
    "optimal": pl.Boolean,
}


def frontier_table(points: Sequence[dict[str, Any]]) -> pl.DataFrame:
    """One row a setting: kind, factory, parameters ("nprobe=16 refine=20"), index_recall, queries_per_s, memory_bytes,
    build_s, and whether no other beats it in both recall and speed."""
    rows = [{**point, "parameters": written(point["parameters"])} for point in points]
    return pl.DataFrame([{name: row[name] for name in SCHEMA} for row in rows], schema=SCHEMA)


def write_frontier(folder: Path, report: dict[str, Any]) -> bool:
    """Write frontier.parquet, and frontier.png where matplotlib is installed (the return value says so).

    Args:
        report: of :meth:`IndexReport.to_dict`.
    """
    table = frontier_table(report["frontier"])
    table.write_parquet(folder / TABLE)
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    _draw(Figure(figsize=(8, 5), dpi=120), table, report).savefig(folder / PLOT)
    return True


def written(parameters: dict[str, int]) -> str:
    """As a person writes them.

    >>> written({"nprobe": 16, "refine": 20})
    'nprobe=16 refine=20'
    """
    return " ".join(f"{name}={value}" for name, value in parameters.items())


def _draw(figure: Any, table: pl.DataFrame, report: dict[str, Any]) -> Any:
    """Recall across, queries/s upwards, a colour for each build; the chosen setting is circled."""
    axes = figure.subplots()
    for (factory,), rows in table.with_columns(pl.col("factory").fill_null("exact")).group_by(
        ["factory"], maintain_order=True
    ):
        megabytes = rows["memory_bytes"][0] / 1e6
        axes.plot(rows["index_recall"], rows["queries_per_s"], ".", label=f"{factory}, {megabytes:,.0f} MB")
    best = table.filter("optimal").sort("index_recall")
    axes.plot(best["index_recall"], best["queries_per_s"], "-", color="grey", linewidth=0.8, zorder=0)
    recall = report[f"index_recall@{report['k']}"]
    axes.plot([recall], [report["queries_per_s"]], "o", markersize=12, fillstyle="none", color="black", label="chosen")
    axes.axvline(report["target_recall"], color="grey", linestyle=":", linewidth=0.8)
    axes.set(xlabel=f"index recall@{report['k']}", ylabel="queries/s", yscale="log")
    axes.legend(fontsize="small")
    figure.tight_layout()
    return figure
