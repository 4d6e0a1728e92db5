"""The estimate as one object: what a run takes here, and whether it fits."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from xclass.data.batches import TrainBatches
from xclass.data.dataset import Dataset, open_dataset
from xclass.estimate.calibration import Rates, calibrate
from xclass.estimate.cores import at_most
from xclass.estimate.drawn import drawn_rows
from xclass.estimate.machine import Available, anonymous_bytes, available, resident_bytes
from xclass.estimate.memory import BATCH, CANDIDATES, LOADER, Job, parts_of
from xclass.estimate.own_sizes import check_own_sizes
from xclass.estimate.parts import PLACES, Part, by_component, cached, total
from xclass.estimate.ranks import Cluster, Plan, plan
from xclass.estimate.routing import routing_s
from xclass.estimate.verdict import Verdict, refuse_what_cannot_fit, verdict
from xclass.ingest.synthetic.spec import PREFIX
from xclass.runtime.progress import say
from xclass.training.build import choose_device
from xclass.training.run_config import RunConfig

COPY = 0.5  # of what is saved: writing that takes as much memory or more makes a copy


class Estimate(NamedTuple):
    """What training would take.

    parts: memory, accelerator and disk by component. rates, time_s: None without a calibration.
    """

    config: RunConfig
    job: Job
    device: torch.device
    steps: int
    positives: int
    parts: list[Part]
    available: Available
    verdict: Verdict
    rates: Rates | None
    time_s: dict[str, float] | None

    def to_json(self) -> dict[str, Any]:
        """Plain values; every key is explained in docs/training.md."""
        found: dict[str, Any] = {
            "device": str(self.device),
            "job": {
                "queries": self.job.queries,
                "items": self.job.items,
                "pairs": self.job.pairs,
                "steps": self.steps,
                "positives": self.positives,
            },
        }
        for place in PLACES:
            components = by_component([part for part in self.parts if not part.cache], place)
            found[place] = {
                "components": {name: count for name, count in components.items() if count},
                "needed_bytes": total(self.parts, place),
                "certain_bytes": total(self.parts, place, certain=True),
                "available_bytes": self.available.of(place),
            }
        found["memory"]["cache_bytes"] = cached(self.parts)
        found["memory"]["available_at_most_bytes"] = self.available.memory_at_most
        found["verdict"] = {
            "answer": self.verdict.answer,
            "places": self.verdict.places,
            "changes": [change._asdict() for change in self.verdict.changes],
        }
        found["time"] = self.time_s
        found["calibration"] = None if self.rates is None else self.rates._asdict()
        return found


def estimate(
    dataset: Dataset, config: RunConfig, device: torch.device, out: Path, calibration: bool = True
) -> Estimate:
    """What training ``config`` on ``dataset`` would take on this machine.

    Args:
        dataset: opened; its offsets are read once, to count the batches.
        config: checked.
        device: where it would be computed.
        out: where the run would be written; it need not exist.
        calibration: train for some seconds on a small cut. Without, there are no times and batches are guessed.
    """
    check_own_sizes(config)
    job, base, there = Job.of(dataset), anonymous_bytes(), available(device, out)
    started = time.perf_counter()
    uses_history = config.model.query.reads_history
    batches = TrainBatches(
        dataset.split("train"), config.train.batch, config.train.seed, uses_history, windows=dataset.windows
    )
    opening_s = time.perf_counter() - started
    whole = config.train.epochs * len(batches)
    steps = whole if config.train.steps is None else min(whole, config.train.steps)
    steps = steps if config.documents.towers else 0
    positives = _positives(config, batches, steps)
    parts = parts_of(config, job, device, base)
    parts.append(Part("libraries, mapped files", "memory", resident_bytes() - base, certain=False, cache=True))
    rates = None
    if calibration and steps:
        say("calibrating on a small cut of the data; --no-calibrate leaves it out")
        rates = calibrate(dataset, config, device, _existing(out), base)
        parts = _measured(parts, rates, device)
    times = None if rates is None else _times(config, job, rates, parts, steps, len(batches), opening_s)
    answer = verdict(config, job, device, parts, there)
    return Estimate(config, job, device, steps, positives, parts, there, answer, rates, times)


def plan_for(
    source: str, config: RunConfig, device: str, cluster: Cluster, out: Path, calibration: bool = True
) -> Plan:
    """What training on several ranks would take of each: :func:`xclass.estimate.ranks.plan`, from what is known here.

    Args:
        source: a dataset directory, or ``planted:items=…,queries=…,pairs=…`` for sizes alone, without a calibration.
        config: checked.
        device: cpu or cuda, of each rank, which need not be here; auto: what this machine has.
        cluster: the ranks.
        out: an existing directory, or one below it: where a calibration writes.
        calibration: measure a step here, if the cluster's rates are not stated.
    """
    check_own_sizes(config)
    where = choose_device("auto") if device == "auto" else torch.device(device)
    if source.startswith(PREFIX):
        return plan(config, Job.planned(source), where, cluster, base_bytes=anonymous_bytes())
    dataset, base = open_dataset(source), anonymous_bytes()
    drawn = drawn_rows(dataset, config, (1, cluster.ranks)) if config.head.kind == "dot" else {}
    rates, routed_s = None, 0.0
    if calibration and cluster.operations_per_s is None:
        say("calibrating on a small cut of the data; --no-calibrate leaves it out")
        with at_most(cluster.whole_cores):
            rates = calibrate(dataset, config, choose_device(device), _existing(out), base)
            if cluster.ranks > 1:
                routed_s = routing_s(drawn.get(cluster.ranks, {}), config.model.embedding_dim, config.optimizer)
    found = Job.of(dataset)
    return plan(config, found, where, cluster, base_bytes=base, drawn=drawn, rates=rates, routed_s=routed_s)


def _positives(config: RunConfig, batches: TrainBatches, steps: int) -> int:
    """Targets of so many steps; of a part of an epoch by query, about."""
    epochs, rest = divmod(steps, max(len(batches), 1))
    by_pair = config.train.batch.by == "pair"
    part = rest * config.train.batch.size if by_pair else rest / max(len(batches), 1) * batches.positives_per_epoch()
    return epochs * batches.positives_per_epoch() + round(part)


def check_fit(dataset: Dataset, config: RunConfig, device: torch.device, out: Path) -> None:
    """XclassError, with the numbers and what to change, when a run can't fit here. Instant; nothing is written."""
    refuse_what_cannot_fit(dataset, config, device, available(device, out), anonymous_bytes())


def _measured(parts: list[Part], rates: Rates, device: torch.device) -> list[Part]:
    """What was guessed about batches is replaced by what they took."""
    kept = [part for part in parts if part.component not in (BATCH, CANDIDATES, LOADER)]
    kept.append(Part(BATCH, "memory", rates.batch_bytes, "training", certain=False))
    whole = next(part.bytes for part in parts if part.component == "checkpoint")
    copies = rates.saving_bytes > COPY * rates.saved_bytes  # else it goes through blocks
    saving = whole * rates.saving_bytes // max(rates.saved_bytes, 1) if copies else rates.saving_bytes
    kept.append(Part("writing a checkpoint", "memory", saving, "training", certain=False))
    if device.type == "cuda":
        kept.append(Part(BATCH, "accelerator", rates.accelerator_batch_bytes, "training", certain=False))
    return kept


def _times(
    config: RunConfig, job: Job, rates: Rates, parts: list[Part], steps: int, batches: int, opening_s: float
) -> dict[str, float]:
    """Seconds of everything that takes long; the total counts all epochs, so early stopping makes it less."""
    disk = by_component(parts, "disk")
    tables = sum(part.bytes for part in parts if part.component.startswith("table ") and part.place != "disk")
    start_s = opening_s + tables / rates.table_bytes_per_s + job.items * rates.sampler_s_per_item + rates.spectral_s
    queries = min(config.train.validation.queries, job.valid_pairs, job.queries)
    validation_s = (rates.validation_s_per_pair or 0.0) * queries * job.items
    epochs = math.ceil(steps / max(batches, 1))
    validations = math.ceil(epochs / config.train.validation.every_epochs) if job.valid_pairs else 0
    checkpoint_s = disk.get("checkpoint", 0) / rates.write_bytes_per_s
    train_s = steps * rates.step_s
    every_s = config.train.checkpoint_every_s
    checkpoints = 1 + (int(train_s / every_s) if every_s else epochs - 1)
    best = validations if config.train.validation.keep_best and every_s else 0  # without, each is that of an epoch
    finish_s = disk["model"] / rates.write_bytes_per_s
    return {
        "start_s": start_s,
        "step_s": rates.step_s,
        "epoch_s": batches * rates.step_s,
        "train_s": train_s,
        "validation_s": validation_s,
        "checkpoint_s": checkpoint_s,
        "finish_s": finish_s,
        "total_s": start_s + train_s + validations * validation_s + (checkpoints + best) * checkpoint_s + finish_s,
        "positives_per_s": rates.positives_per_s,
    }


def _existing(path: Path) -> Path:
    there = Path(path).absolute()
    while not there.is_dir():
        there = there.parent
    return there
