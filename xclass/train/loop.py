"""The training loop: load, sample, pull, loss, push; validation, checkpoints, early stopping, resume."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from xclass.data.batches import TrainBatches
from xclass.errors import Interrupted, XclassError
from xclass.model import TwoTower
from xclass.optim.schedule import learning_rate
from xclass.progress import Progress, say
from xclass.rng import torch_generator
from xclass.train.checkpoint import CheckpointStore, checkpoint_name, load_tensors, read_state
from xclass.train.config import TrainingConfig
from xclass.train.log import MetricsLog, PhaseClock, peak_rss_bytes, rss_bytes
from xclass.train.state import ModelState

Validate = Callable[[TwoTower], dict[str, float]]


@dataclass
class Position:
    """Where training stands; together with the tensors it is all that a resume needs."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    best: float | None = None
    best_step: int = 0
    bad_validations: int = 0
    stopped: bool = False
    positives: int = 0
    train_s: float = 0.0
    validations: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class TrainResult:
    """What came of a training: where it stopped and what validation said."""

    step: int
    epoch: int
    best: float | None
    best_step: int
    train_s: float
    positives: int
    validations: list[dict[str, float]]


class Trainer:
    """Runs a model over batches.

    Args:
        model: changed in place.
        batches: of the train split.
        config: the loop's settings.
        folder: the run directory; metrics.jsonl and checkpoints/ are written there.
        validate: metrics of the model as it is, or None.
    """

    def __init__(
        self, model: TwoTower, batches: TrainBatches, config: TrainingConfig, folder: Path, validate: Validate | None
    ) -> None:
        self.model, self.batches, self.config, self.validate = model, batches, config, validate
        self.store = CheckpointStore(folder / "checkpoints")
        self.folder = folder
        self.state = ModelState(model, config.dense_learning_rate)
        self.position = Position()
        self.total_steps = config.epochs * len(batches)
        if config.steps is not None:
            self.total_steps = min(self.total_steps, config.steps)
        self._clock = PhaseClock()
        self._loss_sum, self._loss_rows, self._report_positives = 0.0, 0, 0
        self._stop_signal = 0

    def resume(self) -> bool:
        """Load the newest whole checkpoint; False when there is none."""
        path = self.store.newest()
        if path is None:
            return False
        load_tensors(path / "tensors.safetensors", self.state.tensors())
        self.position = Position(**read_state(path)["position"])
        say(f"resuming from step {self.position.step:,} of {self.total_steps:,}")
        return True

    def run(self) -> TrainResult:
        """Train to the end.

        Raises:
            Interrupted: a signal came; a checkpoint was written first.
            XclassError: the loss is no longer finite.
        """
        log = MetricsLog(self.folder / "metrics.jsonl", self.position.step)
        try:
            with self._signals(), Progress("train", self._total_positives(), "positives") as progress:
                progress.done = self.position.positives
                self._epochs(log, progress)
            self._finish(log)
        finally:
            log.close()
        here = self.position
        return TrainResult(
            here.step, here.epoch, here.best, here.best_step, here.train_s, here.positives, here.validations
        )

    def _epochs(self, log: MetricsLog, progress: Progress) -> None:
        here = self.position
        saved_s = reported_s = time.monotonic()
        while here.step < self.total_steps and not here.stopped:
            self._clock.start()
            for batch in self.batches.epoch(here.epoch, here.batch):
                self._step(batch)
                progress.advance(len(batch.positives.values), f"loss {self._mean_loss():.4f}")  # type: ignore[union-attr]
                now = time.monotonic()
                if now - reported_s >= self.config.report_every_s:
                    self._report(log, now - reported_s)
                    reported_s = now
                if self._stop_signal:
                    self._checkpoint()
                    raise Interrupted(f"stopped by signal {self._stop_signal} at step {here.step:,}", "run it again with --resume")
                if self.config.checkpoint_every_s and now - saved_s >= self.config.checkpoint_every_s:
                    self._checkpoint()
                    saved_s = time.monotonic()
                if here.step >= self.total_steps:
                    break
                self._clock.start()
            self._end_epoch(log)
            reported_s = time.monotonic()

    def _step(self, batch: Any) -> None:
        here, clock, model = self.position, self._clock, self.model
        started = time.perf_counter()
        clock.mark("load")
        prepared = model.prepare(batch, torch_generator(self.config.seed, "sample", here.step))
        clock.mark("sample")
        rows = model.pull(prepared.row_plans, requires_grad=True)
        clock.mark("pull")
        loss = model.loss(prepared, rows)
        loss.mean().backward()
        clock.mark("loss")
        rate = learning_rate(self.config.schedule, 1.0, here.step, self.total_steps)
        model.push(prepared.row_plans, rows, self.config.learning_rate * rate)
        self.state.dense_step(self.config.dense_learning_rate * rate)
        clock.mark("push")
        clock.steps += 1
        self._count(float(loss.detach().sum()), len(batch), len(batch.positives.values), time.perf_counter() - started)

    def _count(self, loss_sum: float, rows: int, positives: int, seconds: float) -> None:
        here = self.position
        if loss_sum != loss_sum or abs(loss_sum) == float("inf"):
            raise XclassError(
                "the loss is no longer a finite number",
                where=f"step {here.step:,}",
                got=loss_sum,
                do="lower train.learning_rate or raise model.temperature; the last checkpoint is whole",
            )
        self._loss_sum += loss_sum
        self._loss_rows += rows
        self._report_positives += positives
        here.step += 1
        here.batch += 1
        here.positives += positives
        here.train_s += seconds

    def _end_epoch(self, log: MetricsLog) -> None:
        here = self.position
        if here.batch >= len(self.batches):
            here.epoch, here.batch = here.epoch + 1, 0
        valid = None
        done = here.step >= self.total_steps
        if self.validate is not None and (done or here.epoch % self.config.validation.every_epochs == 0):
            valid = self._validate()
        self._report(log, None, valid)
        if here.batch == 0 and (self.config.checkpoint_every_s == 0 or done or here.stopped):
            self._checkpoint()

    def _validate(self) -> dict[str, float]:
        assert self.validate is not None
        here, settings = self.position, self.config.validation
        metrics = self.validate(self.model)
        value = metrics[settings.metric]
        here.validations.append({"step": here.step, **metrics})
        say(f"epoch {here.epoch}: " + ", ".join(f"{name} {number:.4f}" for name, number in metrics.items()))
        if here.best is None or value > here.best:
            here.best, here.best_step, here.bad_validations = value, here.step, 0
            if settings.keep_best:
                self.store.save("best", self.state.tensors(), {"step": here.step, "metrics": metrics})
        else:
            here.bad_validations += 1
            here.stopped = 0 < settings.patience <= here.bad_validations
        return metrics

    def _report(self, log: MetricsLog, seconds: float | None, valid: dict[str, float] | None = None) -> None:
        if not self._clock.steps and valid is None:
            return
        spent_s = sum(self._clock.seconds.values()) or 1e-9
        record: dict[str, Any] = {
            "step": self.position.step,
            "epoch": self.position.epoch,
            "loss": self._mean_loss(),
            "positives_per_s": round(self._report_positives / (seconds or spent_s), 1),
            "phase_ms": self._clock.phase_ms(),
            "rss_bytes": rss_bytes(),
        }
        log.write(record | ({"valid": valid} if valid else {}))
        self._clock = PhaseClock()
        self._loss_sum, self._loss_rows, self._report_positives = 0.0, 0, 0

    def _finish(self, log: MetricsLog) -> None:
        here = self.position
        best = self.store.folder / "best" / "tensors.safetensors"
        if self.config.validation.keep_best and here.best is not None and here.best_step != here.step:
            load_tensors(best, self.state.tensors())
            say(f"keeping the weights of step {here.best_step:,}: {self.config.validation.metric} {here.best:.4f}")
        log.write(
            {
                "event": "end",
                "step": here.step,
                "train_s": round(here.train_s, 3),
                "positives": here.positives,
                "positives_per_s": round(here.positives / max(here.train_s, 1e-9), 1),
                "peak_rss_bytes": peak_rss_bytes(),
            }
        )

    def _checkpoint(self) -> None:
        self.store.save(
            checkpoint_name(self.position.step), self.state.tensors(), {"position": dict(vars(self.position))}
        )

    def _mean_loss(self) -> float:
        return self._loss_sum / max(self._loss_rows, 1)

    def _total_positives(self) -> int | None:
        if self.batches.config.by == "query":
            return None
        return min(self.total_steps * self.batches.config.size, self.config.epochs * self.batches.num_rows)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM let the step end and a checkpoint be written; a second one stops at once."""

        def note(number: int, frame: FrameType | None) -> None:
            self._stop_signal = number
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

        try:
            before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:
            yield
            return
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
