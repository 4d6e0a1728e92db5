"""A loss over very many candidates, by blocks of rows and by blocks of columns: milliseconds forward and back.

    python benchmarks/bench_columns.py [--runs 5] [--threads 2] [--loss full-softmax]

One target a query, every candidate once. Loss and gradients of both ways are checked to agree before anything is timed;
they take turns, medians. GFLOP/s counts three products, 6 · B · K · D: what the loss needs, not what a way does.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import torch
from torch import Tensor

from xclass.losses import LOSSES, LossConfig, build_loss
from xclass.losses.fused import column_blocks
from xclass.losses.fused.accidental_hits import Hits
from xclass.losses.fused.sampled_loss import Scoring, blocked_loss
from xclass.runtime.memory import keep_freed_memory
from xclass.runtime.rng import torch_generator
from xclass.types import Negatives, Ragged

SIZES = [(512, 16_384, 64), (512, 65_536, 64), (512, 200_000, 64), (256, 800_000, 64), (512, 4_096, 512)]
SIZES += [(512, 16_384, 512), (512, 52_946, 512)]
WAYS = {"rows": 1 << 62, "columns": 0}  # from how many bytes of gradients on columns are cut


class Job:
    """Queries, candidates and targets of one size."""

    def __init__(self, queries: int, candidates: int, dim: int, loss: str, dtype: torch.dtype) -> None:
        generator = torch_generator(0, "bench")
        self.query = 0.3 * torch.randn(queries, dim, generator=generator)
        self.items = 0.3 * torch.randn(candidates, dim, generator=generator)
        self.targets = torch.randint(candidates, (queries,), generator=generator)
        self.every = torch.arange(candidates)
        full = LOSSES[loss].full
        rows = torch.arange(0 if full else queries)
        self.scoring = Scoring(
            Ragged(torch.arange(queries + 1), self.targets),
            Negatives(self.every, torch.zeros(candidates), torch.zeros(queries)),
            Hits(rows, self.targets[: len(rows)]),
            build_loss(LossConfig.model_validate({"kind": loss}), 1, candidates),
            log_q_of="both" if LOSSES[loss].subtract_log_q else "none",
            product_dtype=dtype,
        )

    def run(self, way: str) -> tuple[Tensor, Tensor, Tensor]:
        """Loss and both gradients."""
        column_blocks.MANY_BYTES = WAYS[way]
        query, items = self.query.clone().requires_grad_(True), self.items.detach().requires_grad_(True)
        loss = blocked_loss(query, items, self.targets, self.every, self.scoring).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        assert query.grad is not None and items.grad is not None
        return loss.detach(), query.grad, items.grad


def check(job: Job) -> None:
    """Both ways agree."""
    gaps = [float((a - b).norm() / a.norm()) for a, b in zip(job.run("rows"), job.run("columns"), strict=True)]
    allowed = 1e-5 if job.scoring.product_dtype == torch.float32 else 2e-3
    if max(gaps) > allowed:
        sys.exit(f"the ways differ by {gaps}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--loss", choices=list(LOSSES), default="full-softmax")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    keep_freed_memory()
    print("| queries | candidates | dims | products | by rows, ms | by columns, ms | ratio | GFLOP/s |")
    print("|--:|--:|--:|---|--:|--:|--:|--:|")
    for queries, candidates, dim in SIZES:
        for dtype in (torch.float32, torch.bfloat16):
            job = Job(queries, candidates, dim, chosen.loss, dtype)
            check(job)
            times: dict[str, list[float]] = {way: [] for way in WAYS}
            for _ in range(chosen.runs):
                for way, seconds in times.items():
                    started = time.perf_counter()
                    job.run(way)
                    seconds.append(time.perf_counter() - started)
            rows, by_columns = (statistics.median(seconds) for seconds in times.values())
            speed = 6e-9 * queries * candidates * dim / by_columns
            print(
                f"| {queries} | {candidates:,} | {dim} | {str(dtype).removeprefix('torch.')} | {1e3 * rows:.0f} |"
                f" {1e3 * by_columns:.0f} | {rows / by_columns:.2f}× | {speed:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
