"""A short run on a small cut of the data, timed: what a step, the start, a validation and a checkpoint cost here."""

from __future__ import annotations

import contextlib
import io
import json
import statistics
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import torch

from xclass.data.batches import TrainBatches
from xclass.data.dataset import Dataset
from xclass.errors import Interrupted
from xclass.estimate.layout import held, layout_of
from xclass.estimate.machine import anonymous_bytes
from xclass.estimate.memory import Job, rows_of
from xclass.estimate.sample import Shrunk, random_lists, shrink
from xclass.heads.config import SCORED
from xclass.io.files import scratch_directory
from xclass.models.init.spectral import feature_factors, spectral_factors
from xclass.models.two_tower import TwoTower
from xclass.runtime.progress import Progress
from xclass.sampling import Known, SamplerConfig, build_sampler
from xclass.training import Trainer
from xclass.training.build import build_model
from xclass.training.hard_negatives import hard_samplers
from xclass.training.run_config import RunConfig
from xclass.training.validation import make_validator

TABLE_BYTES, WARM_BYTES = 256 << 20, 8 << 20
WARM_STEPS = 4
FEWEST_STEPS, MOST_STEPS = 4, 5000
TIMED_S = 5.0
PIECE_S = 0.25  # of the timed steps; the median of the pieces is taken
SPECTRAL_ITEMS, SPECTRAL_QUERIES = 4096, 4096
NEVER_S = 1e9
TAME = 1e-3  # of the learning rates: what a step costs does not depend on them, and nothing diverges


class Rates(NamedTuple):
    """What was measured; a rate where the cost grows with something.

    steps: how many were timed. step_s, phase_ms, positives_per_s: medians.
    table_bytes_per_s: drawing the initial rows. sampler_s_per_item: building the sampler.
    spectral_s: of the whole catalogue, by the cost of a small one.
    validation_s_per_pair: a validation, by query and item; None without a valid split.
    write_bytes_per_s: a checkpoint, hashed and synced.
    batch_bytes: the most that training added to memory, beside tables and sampler; accelerator_batch_bytes: there.
    saving_bytes: what writing a checkpoint of ``saved_bytes`` added to that.
    items, queries, pairs: of the small cut.
    calibration_s: what all this took.
    """

    steps: int
    step_s: float
    positives_per_s: float
    phase_ms: dict[str, float]
    table_bytes_per_s: float
    sampler_s_per_item: float
    spectral_s: float
    validation_s_per_pair: float | None
    write_bytes_per_s: float
    batch_bytes: int
    accelerator_batch_bytes: int
    saving_bytes: int
    saved_bytes: int
    items: int
    queries: int
    pairs: int
    calibration_s: float


def calibrate(
    dataset: Dataset, config: RunConfig, device: torch.device, place: Path, base_bytes: int | None = None
) -> Rates:
    """Train for some five seconds on folded data, with tables of 256 MiB at most; never the whole catalogue.

    Args:
        dataset: the batches come from its train split.
        config: the run that is estimated. The first steps, which compile and fill caches, are dropped.
        device: where it would be computed.
        place: an existing directory on the disk that the run would be written to; what is written there is removed.
        base_bytes: memory of this process that is accounted for; what it has now unless given.
    """
    started, before = time.perf_counter(), anonymous_bytes() if base_bytes is None else base_bytes
    with (
        Progress("calibration", 5, "parts") as progress,
        scratch_directory(place / "xclass-estimate") as folder,
    ):
        data = _cut(dataset, config, TABLE_BYTES)
        trial = Trial(data, _tame(config), device, folder)
        reserved = _reserved(device)
        trial.build()
        progress.advance(note="training")
        with WatchedMemory() as watched:
            trial.train(WARM_STEPS, 1e-9)
            progress.advance()
            steps = int(min(max(TIMED_S / trial.quickest_step_s(), FEWEST_STEPS), MOST_STEPS))
            trial.train(steps, PIECE_S)
        in_memory, there = trial.model_bytes()
        training = watched.peak(*trial.trained)
        saving = watched.peak(trial.trained[1], trial.saved) - training
        progress.advance(note="validation")
        validation = trial.validation_s_per_pair()
        progress.advance(note="start")
        spectral_s = _spectral_s(dataset, config)
    pieces = trial.pieces()
    return Rates(
        steps,
        statistics.median(piece["step_s"] for piece in pieces),
        statistics.median(piece["positives_per_s"] for piece in pieces),
        {name: statistics.median(piece["phase_ms"][name] for piece in pieces) for name in pieces[0]["phase_ms"]},
        trial.table_bytes / max(trial.tables_s, 1e-6),
        trial.sampler_s / data.num_items,
        spectral_s,
        validation,
        trial.written_bytes / max(trial.written_s, 1e-3),
        max(training - before - in_memory - held(data), 0),
        max(_reserved(device) - reserved - there, 0),
        max(saving, 0),
        trial.written_bytes,
        data.num_items,
        data.num_queries,
        len(data.train.values),
        time.perf_counter() - started,
    )


def warm_up(dataset: Dataset, config: RunConfig, device: torch.device, place: Path) -> None:
    """Train some steps on a tiny cut and forget them: what training compiles is compiled then.

    Args:
        place: an existing directory; what is written there is removed.
    """
    with scratch_directory(place / "xclass-warm") as folder:
        trial = Trial(_cut(dataset, config, WARM_BYTES), _tame(config), device, folder)
        trial.build()
        trial.train(WARM_STEPS, NEVER_S)


class Trial:
    """The run in small.

    Args:
        data: what to train on.
        config: as :func:`_tame` made it.
        device: where.
        folder: for what it writes.
    """

    def __init__(self, data: Shrunk, config: RunConfig, device: torch.device, folder: Path) -> None:
        self.data, self.config, self.device, self.folder = data, config, device, folder
        self.model: TwoTower
        self.written_s, self.written_bytes = float("inf"), 0
        self.trained, self.saved = (0.0, 0.0), 0.0  # readings of the clock: first and last step, checkpoint
        self._records: list[dict[str, Any]] = []

    def build(self) -> None:
        """The tables, then the sampler, each timed."""
        started = time.perf_counter()
        plain = self.config.sampler.model_copy(update={"kind": "all"})
        config, folder = self.config.model_copy(update={"sampler": plain}), self.folder / "tables"
        self.model = build_model(config, self.data, None, self.device, folder=folder)
        self.tables_s = time.perf_counter() - started
        self.table_bytes = sum(
            tensor.nbytes for table in self.model.tables.values() for tensor in table.tensors().values()
        )
        lists = random_lists(self.data.num_queries, self.data.num_items, 100)
        known = Known(self.data.num_queries, self.data.num_items, self.data.item_counts, lambda file: lists)
        build_sampler(self.config.sampler, known)  # compiles what it needs
        started = time.perf_counter()
        sampler = build_sampler(self.config.sampler, known)
        self.sampler_s = time.perf_counter() - started
        for hard in hard_samplers(sampler):
            hard.replace(lists)
        if self.config.head.kind in SCORED:
            self.model.head.sampler = sampler

    def train(self, steps: int, report_every_s: float) -> None:
        """So many steps through the real loop, then a checkpoint; the records are kept."""
        out = self.folder / f"run-{steps}-{report_every_s}"
        out.mkdir()
        changes = {"steps": steps, "report_every_s": report_every_s}
        hold_out, features = self.model.tower.uses_history, self.data.query_features
        batches = TrainBatches(self.data.train, self.config.train.batch, 0, hold_out, features, self.data.windows)
        trainer = Trainer(self.model, batches, self.config.train.model_copy(update=changes), out, None)
        started = time.perf_counter()
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                position = trainer.run()
        except Interrupted:
            raise KeyboardInterrupt from None  # there is nothing to resume
        self.trained, self.saved = (started, started + position.train_s), time.perf_counter()
        self.written_s = min(self.written_s, self.saved - self.trained[1])
        checkpoints = [file.stat().st_size for file in (out / "checkpoints").rglob("*") if file.is_file()]
        self.written_bytes = sum(checkpoints)
        self._records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]

    def quickest_step_s(self) -> float:
        """Of the last training."""
        return min(piece["step_s"] for piece in self.pieces())

    def pieces(self) -> list[dict[str, Any]]:
        """The records of the last training, each with ``step_s`` of its own steps."""
        found, step, train_s = [], 0, 0.0
        for record in self._records:
            if "event" not in record and record["step"] > step:
                found.append({**record, "step_s": max((record["train_s"] - train_s) / (record["step"] - step), 1e-6)})
                step, train_s = record["step"], record["train_s"]
        return found

    def model_bytes(self) -> tuple[int, int]:
        """(in memory, on an accelerator): tables and sampler."""
        tensors = [tensor for table in self.model.tables.values() for tensor in table.tensors().values()]
        there = held([tensor for tensor in tensors if tensor.device.type != "cpu"])
        return held([self.model.head.sampler, *(tensor for tensor in tensors if tensor.device.type == "cpu")]), there

    def validation_s_per_pair(self) -> float | None:
        """Seconds a query and an item; None when there is nothing to validate on."""
        validate = make_validator(self.data, self.config.train)  # type: ignore[arg-type]
        if validate is None or self.data.valid is None:
            return None
        queries = int((self.data.valid.lengths() > 0).sum())
        started = time.perf_counter()
        validate(self.model)
        return (time.perf_counter() - started) / (queries * self.data.num_items)


class WatchedMemory:
    """Anonymous memory of this process while the context is open, looked at a hundred times a second."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, int]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> WatchedMemory:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def peak(self, start: float, stop: float) -> int:
        """The most bytes at any moment between two readings of ``time.perf_counter``."""
        return max([count for moment, count in self._seen if start <= moment <= stop], default=self._seen[-1][1])

    def _watch(self) -> None:
        while True:
            self._seen.append((time.perf_counter(), anonymous_bytes()))
            if self._ended.wait(0.01):
                return


def _cut(dataset: Dataset, config: RunConfig, table_bytes: int) -> Shrunk:
    """Rows of all tables in proportion, so that they take so much at most, and enough items to draw from."""
    job = Job.of(dataset)
    tables = layout_of(config, job.features, job.sequence).tables
    size = sum(rows_of(name, job, config.head) * sum(tensors.values()) for name, tensors in tables.items())
    share = min(1.0, table_bytes / size)
    queries = round(share * job.queries) if "query" in tables else job.queries
    items = max(round(share * job.items), 4 * _most_sampled(config.sampler), 1)
    return shrink(dataset, max(queries, 1), items, share)


def _most_sampled(sampler: SamplerConfig) -> int:
    return max([sampler.num_sampled, *map(_most_sampled, sampler.parts)])


def _tame(config: RunConfig) -> RunConfig:
    """The same work, over other rows: small rates, no files, a random start, no checkpoint but the last."""
    train = {
        "learning_rate": TAME * config.train.learning_rate,
        "dense_learning_rate": TAME * config.train.dense_learning_rate,
        "epochs": 1_000_000,
        "checkpoint_every_s": NEVER_S,
        "tensorboard": False,
    }
    changes = {
        "model": config.model.model_copy(update={"init": "random"}),
        "sampler": _without_files(config.sampler),
        "train": config.train.model_copy(update=train),
    }
    return config.model_copy(update=changes)


def _without_files(sampler: SamplerConfig) -> SamplerConfig:
    changes: dict[str, Any] = {"num_reserved_ids": 0, "parts": tuple(map(_without_files, sampler.parts))}
    if sampler.kind == "fixed-unigram":
        changes |= {"file": None, "smoothing": sampler.smoothing or 1.0}
    return sampler.model_copy(update=changes)


def _spectral_s(dataset: Dataset, config: RunConfig) -> float:
    """Of the whole catalogue: a small one, times what its cost grows by; 0 without a spectral start."""
    if config.model.init != "spectral":
        return 0.0
    dim, settings, job = config.model.embedding_dim, config.model.spectral, Job.of(dataset)
    width = dim + settings.oversampling
    few = shrink(dataset, max(SPECTRAL_QUERIES, 2 * width), max(SPECTRAL_ITEMS, 2 * width))
    started = time.perf_counter()
    if config.model.query.kind == "history":
        values, features = 0, 0
        few_values, few_features = 0, 0
        spectral_factors(few.train, few.num_items, dim, 0, settings.iterations, settings.oversampling)
    else:
        name = max(
            job.features["query"], key=lambda name: job.features["query"][name]
        )  # the largest set stands for all
        (few_features, lists), features = few.features["query"][name], sum(job.features["query"].values())
        values, few_values = sum(job.feature_values["query"].values()), len(lists.values)
        sizes = few_features, few.num_items
        feature_factors(lists, few.train, sizes, dim, 0, settings.iterations, settings.oversampling)
    took_s = time.perf_counter() - started

    def cost(values: int, rows: int) -> float:
        return values * width + rows * width**2

    whole = cost(job.pairs + values, job.queries + job.items + features)
    small = cost(len(few.train.values) + few_values, few.num_queries + few.num_items + few_features)
    return took_s * whole / small


def _reserved(device: torch.device) -> int:
    """The most that torch ever had of the accelerator."""
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else 0
