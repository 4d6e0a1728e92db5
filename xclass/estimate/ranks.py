"""What training on several ranks takes: memory of each, bytes exchanged in a step, seconds of a step.

A step of one of R ranks, with tables of D numbers a row divided among them, batches of B queries and K candidates:

asked       U(t)   distinct rows that the rank asks of table t: those of its share of the queries and of their targets,
                   and of all shared candidates
numbers     Σ 8 · (U(t) + R) · (R − 1) / R      sent to the ranks that hold the rows
rows        Σ 4 · D · U(t) · (R − 1) / R        sent to the ranks that asked for them; as many come
gradients   Σ 4 · D · U(t) · (R − 1) / R        sent to the ranks that hold the rows
sums        2 · (R − 1) / R · 4 · (3 + T + P)   of the loss, two flags, T tables and P numbers of the dense layers
exchanges   3 · T + 2                           how many rows a rank asks of each other, numbers, rows, gradients, sums
exchange_s  5 · latency + bytes sent / bandwidth    those of all tables are under way together

Table-wise the rank that holds a table sends 4 · D · U(t) · (R − 1) of rows and no gradients, the others no rows and
4 · D · U(t) of gradients: what is said is of the rank that sends the most.

What a rank sends it receives, at the same time: bandwidth is that of one direction. How long computing takes is
measured here or stated.

Measured, phase by phase: load and sample as in one process, for every rank draws the whole batch; pull and push by the
rows asked for; loss by the queries; and what sorting rows by owner and copying them on both ends takes, measured on as
many rows. On less than a core each of these takes as much longer. A step takes computing and exchanges, one after the
other: what ranks wait for each other is not in it.

Stated, from operations and memory traffic:

operations  6 · D · (B / R) · (K + targets of a query)     logits and two gradients
traffic     Σ U(t) · (16 · D + 3 · stored bytes of a row)  four passes over a float32 copy, three over what is stored
prepared    B · (targets + known + history) + Σ U(t)       numbers of the whole batch, and rows of a rank, on a core
                                                           of the host, 20 million a second, one batch ahead; a
                                                           history only where the query tower reads it

A step takes the longer of preparing, and computing with its exchanges.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from xclass.distributed.placement import Turns
from xclass.errors import ConfigError
from xclass.estimate.calibration import Rates
from xclass.estimate.layout import Layout, layout_of
from xclass.estimate.memory import (
    BATCH,
    CANDIDATES,
    LOADER,
    Job,
    asked_rows,
    candidates_of,
    history_of,
    holders_of,
    parts_of,
    positives_of,
    queries_of,
    rows_of,
)
from xclass.estimate.parts import Part, Place, by_component, total
from xclass.estimate.verdict import FITS, TIGHT, TOO_LARGE
from xclass.towers import QUERY_TOWERS
from xclass.training.run_config import RunConfig

NUMBER, FLOAT = 8, 4
ROUNDS = 5  # that follow each other: how many rows, which ones, the rows, gradients, sums
PREPARED_PER_S = 20e6
DIVIDED = ("loss",)  # phases by the queries of a rank
BY_ROWS = ("pull", "push")
MOST_RANKS = 1 << 14  # what is exchanged is counted rank by rank
LARGEST = 1e30


@dataclass(frozen=True)
class Cluster:
    """What the ranks have.

    ranks: R. device_bytes: memory of the device of each; None: nothing is said of it. bytes_per_s: that one rank can
    send to the others. latency_s: of one exchange. operations_per_s, memory_bytes_per_s: of one device; both or none.
    cores: of a rank, where a step is measured; None: as many as this process may use.
    """

    ranks: int
    device_bytes: int | None
    bytes_per_s: float
    latency_s: float
    operations_per_s: float | None = None
    memory_bytes_per_s: float | None = None
    cores: float | None = None

    def __post_init__(self) -> None:
        cores = 1 if self.cores is None else self.cores
        rates = [self.bytes_per_s, cores, self.operations_per_s, self.memory_bytes_per_s, self.device_bytes]
        if (
            not 1 <= self.ranks <= MOST_RANKS
            or not 0 <= self.latency_s <= LARGEST
            or not all(0 < rate <= LARGEST for rate in rates if rate is not None)
        ):
            raise ConfigError(
                "such ranks can't be",
                where="ranks, cores, bandwidth, latency, flops, memory_bandwidth, device_memory",
                wanted=f"finite numbers above 0, a latency that is not below, and at most {MOST_RANKS:,} ranks",
                got=asdict(self),
            )
        if (self.operations_per_s is None) != (self.memory_bytes_per_s is None):
            raise ConfigError(
                "what a device computes and what it reads go together",
                where="--flops, --memory-bandwidth",
                do="give both, or neither to measure a step here",
            )

    @property
    def whole_cores(self) -> int | None:
        """How many cores a step is measured on; on less than one its computing takes as much longer."""
        return None if self.cores is None else max(int(self.cores), 1)


class Exchange(NamedTuple):
    """Of one rank in one step. rows: table → U. The bytes are those that it sends."""

    rows: dict[str, int]
    numbers_bytes: int
    rows_bytes: int
    gradients_bytes: int
    sums_bytes: int
    exchanges: int

    @property
    def bytes(self) -> int:
        """All that it sends."""
        return self.numbers_bytes + self.rows_bytes + self.gradients_bytes + self.sums_bytes

    def seconds(self, cluster: Cluster) -> float:
        """Of all exchanges; 0 for one rank."""
        return ROUNDS * cluster.latency_s + self.bytes / cluster.bytes_per_s if self.exchanges else 0.0


class Plan(NamedTuple):
    """Training on a cluster. compute_s, step_s: None where computing is neither measured nor stated; prepare_s: None
    where it is not stated."""

    cluster: Cluster
    job: Job
    device: torch.device
    parts: list[Part]
    exchange: Exchange
    prepare_s: float | None
    compute_s: float | None
    step_s: float | None
    steps: int
    positives_per_step: int
    answer: str | None

    def to_json(self) -> dict[str, Any]:
        """Plain values; every key is explained in docs/planning.md."""
        sent = self.exchange._asdict() | {"bytes": self.exchange.bytes, "seconds": self.exchange.seconds(self.cluster)}
        return {
            "cluster": asdict(self.cluster),
            "device": str(self.device),
            "job": {"queries": self.job.queries, "items": self.job.items, "pairs": self.job.pairs, "steps": self.steps},
            "rank": {
                place: {"components": _said(self.parts, place), "needed_bytes": total(self.parts, place)}
                for place in ("memory", "accelerator")
            },
            "disk": {"components": _said(self.parts, "disk"), "needed_bytes": total(self.parts, "disk")},
            "exchange": sent,
            "step": None
            if self.step_s is None
            else {
                "prepare_s": self.prepare_s,
                "compute_s": self.compute_s,
                "exchange_s": sent["seconds"],
                "step_s": self.step_s,
                "positives": self.positives_per_step,
                "positives_per_s": self.positives_per_step / self.step_s,
                "train_s": self.steps * self.step_s,
            },
            "verdict": self.answer,
        }


def plan(
    config: RunConfig,
    job: Job,
    device: torch.device,
    cluster: Cluster,
    *,
    base_bytes: int = 0,
    drawn: Mapping[int, dict[str, int]] = MappingProxyType({}),
    rates: Rates | None = None,
    routed_s: float = 0.0,
) -> Plan:
    """What training ``config`` on a dataset of these sizes takes of each of several ranks.

    Args:
        config: checked; heads of item vectors only, as training on several ranks has them.
        job: the sizes.
        device: what each rank computes on.
        cluster: the ranks.
        base_bytes: what the interpreter and the libraries take.
        drawn: number of ranks → rows that each asks for, see :func:`xclass.estimate.drawn.drawn_rows`. Without, as
            many as if no two lists of a batch had an item in common.
        rates: of a calibration of one process.
        routed_s: what rows cost a rank on their way, see :func:`xclass.estimate.routing.routing_s`.
    """
    if config.head.kind != "dot":
        raise ConfigError("several ranks train models of item vectors only", where="head.kind", got=config.head.kind)
    layout = layout_of(config, job.features)
    parts = parts_of(config, job, device, base_bytes, cluster.ranks)
    if rates is not None:
        parts = _measured(parts, parts_of(config, job, device, base_bytes), rates, device)
    asked = {ranks: drawn.get(ranks) or distinct_rows(config, job, layout, ranks) for ranks in (1, cluster.ranks)}
    holders = holders_of(config, job, layout, cluster.ranks)
    exchange = exchanged(asked[cluster.ranks], holders, config, layout, cluster.ranks)
    compute_s = _compute_s(config, job, layout, cluster, exchange, asked[1], rates, routed_s)
    prepare_s = None if cluster.operations_per_s is None else prepared(config, job, exchange) / PREPARED_PER_S
    step_s = None if compute_s is None else max(compute_s + exchange.seconds(cluster), prepare_s or 0.0)
    by_pair = config.train.batch.by == "pair"
    batches = math.ceil((job.pairs if by_pair else min(job.queries, job.pairs)) / max(queries_of(config, job), 1))
    whole = config.train.epochs * batches
    steps = whole if config.train.steps is None else min(whole, config.train.steps)
    answer = None if cluster.device_bytes is None else _answer(parts, device, cluster.device_bytes)
    positives = positives_of(config, job)
    return Plan(cluster, job, device, parts, exchange, prepare_s, compute_s, step_s, steps, positives, answer)


def exchanged(
    rows: dict[str, int], holders: Mapping[str, Turns], config: RunConfig, layout: Layout, ranks: int
) -> Exchange:
    """Bytes that a rank sends in a step when each asks for these rows; see the top of this file. The rank that sends
    the most."""
    if ranks == 1:
        return Exchange(rows, 0, 0, 0, 0, 0)
    sums = round(2 * (ranks - 1) / ranks * FLOAT * (3 + len(rows) + layout.dense // FLOAT))

    def sent(rank: int) -> Exchange:
        share = {name: (rank in holders[name].holders) / len(holders[name].holders) for name in rows}
        away = sum(count * (1 - share[name]) for name, count in rows.items())
        asked = sum(count * share[name] for name, count in rows.items()) * (ranks - 1)
        row_bytes = FLOAT * config.model.embedding_dim
        numbers = NUMBER * (away + len(rows) * (ranks - 1))
        sizes = round(numbers), round(row_bytes * asked), round(row_bytes * away)
        return Exchange(rows, *sizes, sums, 3 * len(rows) + 2)

    return max(map(sent, range(ranks)), key=lambda each: each.bytes)


def distinct_rows(config: RunConfig, job: Job, layout: Layout, ranks: int) -> dict[str, int]:
    """Table → distinct rows that a rank asks for in a step, when no two lists of a batch have an item in common."""
    asked = asked_rows(config, job, layout, ranks)
    return {name: min(asked[name], rows_of(name, job, config.head)) for name in layout.tables}


def prepared(config: RunConfig, job: Job, exchange: Exchange) -> int:
    """Numbers that a rank loads, draws and sorts on the host for a step."""
    known = history_of(job, queries_of(config, job))
    history = known if "history" in QUERY_TOWERS[config.model.query.kind] else 0
    return positives_of(config, job) + known + history + sum(exchange.rows.values())


def _compute_s(
    config: RunConfig,
    job: Job,
    layout: Layout,
    cluster: Cluster,
    exchange: Exchange,
    alone: dict[str, int],
    rates: Rates | None,
    routed_s: float,
) -> float | None:
    """Seconds of a step on one rank without its exchanges."""
    if cluster.operations_per_s is not None and cluster.memory_bytes_per_s is not None:
        dim, queries = config.model.embedding_dim, queries_of(config, job)
        each = positives_of(config, job) / max(queries, 1)
        operations = 6 * dim * queries / cluster.ranks * (candidates_of(config, job, cluster.ranks) + each)
        moved = sum(
            count * (4 * FLOAT * dim + 3 * sum(layout.tables[name].values())) for name, count in exchange.rows.items()
        )
        return operations / cluster.operations_per_s + moved / cluster.memory_bytes_per_s
    if rates is None:
        return None
    by_rows = sum(exchange.rows.values()) / max(sum(alone.values()), 1)
    shares = {**dict.fromkeys(DIVIDED, 1 / cluster.ranks), **dict.fromkeys(BY_ROWS, by_rows)}
    phases = rates.phase_ms
    divided = sum(spent * shares.get(phase, 1.0) for phase, spent in phases.items())
    slower = 1.0 if cluster.cores is None else max(1 / cluster.cores, 1.0)
    return slower * (rates.step_s * divided / max(sum(phases.values()), 1e-12) + routed_s)


def _measured(parts: list[Part], alone: list[Part], rates: Rates, device: torch.device) -> list[Part]:
    """What was guessed about a rank's batches and loader, with what those of one process took instead of its guess."""
    place: Place = "accelerator" if device.type == "cuda" else "memory"
    there = {"memory": rates.batch_bytes, "accelerator": rates.accelerator_batch_bytes}
    guessed = by_component(parts, place).get(BATCH, 0) - by_component(alone, place).get(BATCH, 0)
    kept = [part for part in parts if part.component not in (BATCH, CANDIDATES, LOADER)]
    there[place] = max(there[place] + guessed, 0)
    return [
        *kept,
        *(Part(BATCH, one, there[one], "training", certain=False) for one in dict.fromkeys(("memory", place))),
    ]


def _answer(parts: list[Part], device: torch.device, there: int) -> str:
    place = "accelerator" if device.type == "cuda" else "memory"
    if total(parts, place, certain=True) > there:  # type: ignore[arg-type]
        return TOO_LARGE
    return FITS if total(parts, place) <= there else TIGHT  # type: ignore[arg-type]


def _said(parts: list[Part], place: Any) -> dict[str, int]:
    needed = [part for part in parts if not part.cache]
    return {name: count for name, count in by_component(needed, place).items() if count}
