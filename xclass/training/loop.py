"""The training loop: load, sample, pull, loss, push; validation, checkpoints, early stopping, resume."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from xclass.data.batches import TrainBatches
from xclass.errors import InputError, Interrupted, XclassError
from xclass.memory import keep_freed_memory
from xclass.model import Prepared, TwoTower
from xclass.optim.schedule import learning_rate
from xclass.progress import Progress, say
from xclass.rng import torch_generator
from xclass.training.ahead import Ahead, Ready
from xclass.training.checkpoint import (
    TENSORS,
    CheckpointStore,
    checkpoint_name,
    load_tensors,
    read_state,
    read_tensors,
)
from xclass.training.collapse import Validated
from xclass.training.config import TrainingConfig
from xclass.training.log import PHASES, MetricsLog, Report, describe_phases, peak_rss_bytes, phase_fields
from xclass.training.signals import StopSignal
from xclass.training.state import SAMPLER, ModelState
from xclass.types import Batch
from xclass.workers import short_operations

Mine = Callable[[TwoTower, int], None]
Validate = Callable[[TwoTower], Validated]
OnValidation = Callable[[int, dict[str, float]], bool | None]


@dataclass
class Position:
    """Where training stands. With the tensors it is all that a resume needs: draws depend on (seed, step) only."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    positives: int = 0
    train_s: float = 0.0
    phase_s: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    best: float | None = None
    best_step: int = 0
    bad_validations: int = 0
    stopped: bool = False
    validations: list[dict[str, float]] = field(default_factory=list)
    warned: list[str] = field(default_factory=list)


class Trainer:
    """Runs a model over batches.

    Args:
        model: changed in place.
        batches: of the train split.
        config: the loop's settings.
        folder: the run directory; metrics.jsonl and checkpoints/ are written there.
        validate: metrics of the model as it is, or None.
        mine: called with the model and the epoch before each epoch, or None.
        on_validation: called with the step and the metrics after each validation; true stops training there.
    """

    def __init__(
        self,
        model: TwoTower,
        batches: TrainBatches,
        config: TrainingConfig,
        folder: Path,
        validate: Validate | None,
        mine: Mine | None = None,
        on_validation: OnValidation | None = None,
    ) -> None:
        self.model, self.batches, self.config, self.validate, self.mine = model, batches, config, validate, mine
        self.on_validation = on_validation
        self.log_path = folder / "metrics.jsonl"
        self.store = CheckpointStore(folder / "checkpoints")
        self.state = ModelState(model, config.dense_learning_rate)
        self.position = Position()
        epochs_steps = config.epochs * len(batches)
        self.total_steps = epochs_steps if config.steps is None else min(epochs_steps, config.steps)
        self._report = Report(self.position.phase_s)
        self._saved_s = 0.0

    def resume(self) -> bool:
        """Load the newest whole checkpoint; False when there is none."""
        path = self.store.newest()
        if path is None:
            return False
        load_tensors(path / TENSORS, self.state.tensors(), SAMPLER)
        self.state.load_sampler(read_tensors(path / TENSORS, SAMPLER))
        self.position = Position(**read_state(path)["position"])
        self._report = Report(self.position.phase_s)
        say(f"resuming from step {self.position.step:,} of {self.total_steps:,}")
        return True

    def run(self) -> Position:
        """Train to the end; the model then holds the weights that were chosen.

        Raises:
            Interrupted: a signal came; a checkpoint was written first.
            XclassError: the loss is no longer finite.
        """
        keep_freed_memory()
        self._saved_s = time.monotonic()
        with MetricsLog(self.log_path, self.position.step, self.config.tensorboard) as log:
            with StopSignal() as stop, Progress("train", self._total_positives(), "positives") as progress:
                progress.resume_at(self.position.positives)
                while self.position.step < self.total_steps and not self.position.stopped:
                    self._epoch(log, progress, stop)
            if self.validate is not None and not self.position.validations:
                self._write_report(log, self._validate())
            self._choose_weights()
            self.model.settle()
            log.write(last := self._last_record())
            say(describe_phases(last))
        return self.position

    def _epoch(self, log: MetricsLog, progress: Progress, stop: StopSignal) -> None:
        here = self.position
        if self.mine is not None and here.batch == 0:
            self.mine(self.model, here.epoch)
        with Ahead(self.batches.epoch(here.epoch, here.batch), self._prepare, here.step) as ahead, self._threads():
            self._steps(ahead, log, progress, stop)
        self._end_epoch(log)

    def _steps(self, ahead: Ahead, log: MetricsLog, progress: Progress, stop: StopSignal) -> None:
        """The steps of an epoch. The next batch is prepared beside, but for one that comes after a checkpoint."""
        here, reported_s = self.position, time.monotonic()
        self._report.clock.start()
        while (ready := ahead.take()) is not None:
            last, due = here.step + 1 >= self.total_steps, self._is_checkpoint_due()
            pause = last or due or bool(stop.received)
            if not pause:
                ahead.ask()
            progress.advance(self._step(ready), self._note())
            if time.monotonic() - reported_s >= self.config.report_every_s:
                self._write_report(log)
                reported_s = time.monotonic()
            if pause:
                self._pause(stop, due)
                self._report.clock.start()
            if last:
                break

    def _is_checkpoint_due(self) -> bool:
        return 0 < self.config.checkpoint_every_s <= time.monotonic() - self._saved_s

    def _pause(self, stop: StopSignal, due: bool) -> None:
        """A checkpoint, when it is time for one or a signal came."""
        if due or stop.received:
            self._checkpoint()
        if stop.received:
            raise Interrupted(
                f"stopped by a signal at step {self.position.step:,}; a checkpoint was written",
                "run the same command with --resume",
            )

    def _prepare(self, batch: Batch, step: int) -> Prepared:
        return self.model.prepare(batch, torch_generator(self.config.seed, "sample", step))

    def _threads(self) -> AbstractContextManager[None]:
        """Short operations run on one thread; the products of dense layers are long ones."""
        return nullcontext() if any(True for _ in self.model.parameters()) else short_operations()

    def _step(self, ready: Ready) -> int:
        """One step; returns its number of positives."""
        here, clock, model, prepared = self.position, self._report.clock, self.model, ready.prepared
        batch = prepared.batch
        assert batch.positives is not None
        clock.mark(None)
        clock.add("load", ready.load_s)
        clock.add("sample", ready.sample_s)
        rows = model.pull(prepared.row_plans, requires_grad=True)
        clock.mark("pull")
        loss = model.loss(prepared, rows)
        loss.mean().backward()
        clock.mark("loss")
        rate = learning_rate(self.config.schedule, 1.0, here.step, self.total_steps)
        model.push(prepared.row_plans, rows, self.config.learning_rate * rate)
        self.state.dense_step(self.config.dense_learning_rate * rate)
        clock.mark("push")
        positives, loss_sum = len(batch.positives.values), float(loss.detach().sum())
        self._check_loss(loss_sum)
        here.train_s += self._report.add(loss_sum, len(batch), positives)
        here.step, here.batch, here.positives = here.step + 1, here.batch + 1, here.positives + positives
        return positives

    def _note(self) -> str:
        """What stands behind rate and time left in the line of progress."""
        loss, name = f"loss {self._report.mean_loss():.4f}", self.config.validation.metric
        return f"{loss}, {name} {self.position.validations[-1][name]:.4f}" if self.position.validations else loss

    def _check_loss(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise self._diverged("the loss is no longer a finite number", loss)

    def _diverged(self, what: str, got: object) -> XclassError:
        return XclassError(
            what,
            where=f"step {self.position.step:,}",
            got=got,
            do="lower train.learning_rate or raise model.temperature; the last checkpoint is whole",
        )

    def _end_epoch(self, log: MetricsLog) -> None:
        here = self.position
        if here.batch >= len(self.batches):
            here.epoch, here.batch = here.epoch + 1, 0
        done = here.step >= self.total_steps
        due = here.batch == 0 and here.epoch % self.config.validation.every_epochs == 0
        measured = self._validate() if self.validate is not None and (done or due) else {}
        self._write_report(log, measured)
        if done or here.stopped or self.config.checkpoint_every_s == 0:
            self._checkpoint()

    def _validate(self) -> dict[str, dict[str, float]]:
        """Measure, keep the best weights, and see whether to stop; what the record of it holds."""
        assert self.validate is not None
        here, settings = self.position, self.config.validation
        self.model.settle()
        try:
            metrics, collapse, warnings = self.validate(self.model)
        except InputError as error:
            raise self._diverged("a vector is no longer of finite numbers", error.what) from None
        here.validations.append({"step": here.step, **metrics})
        say(f"epoch {here.epoch}, valid: " + ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
        for figure in [name for name in warnings if name not in here.warned]:
            say(warnings[figure])
            here.warned.append(figure)
        if here.best is None or metrics[settings.metric] > here.best:
            here.best, here.best_step, here.bad_validations = metrics[settings.metric], here.step, 0
            if settings.keep_best:
                self.store.save("best", self.state.tensors(), {"step": here.step, "metrics": metrics})
        else:
            here.bad_validations += 1
            here.stopped = 0 < settings.patience <= here.bad_validations
        if self.on_validation is not None and self.on_validation(here.step, dict(metrics)):
            here.stopped = True
        return {"valid": metrics, "collapse": collapse}

    def _choose_weights(self) -> None:
        """Load the best validated weights back, unless the last ones are the best."""
        here, settings = self.position, self.config.validation
        if settings.keep_best and here.best is not None and here.best_step != here.step:
            load_tensors(self.store.folder / "best" / TENSORS, self.state.tensors())
            say(f"keeping the weights of step {here.best_step:,}: {settings.metric} {here.best:.4f}")

    def _write_report(self, log: MetricsLog, measured: dict[str, dict[str, float]] | None = None) -> None:
        here = self.position
        rate = learning_rate(self.config.schedule, self.config.learning_rate, max(here.step - 1, 0), self.total_steps)
        log.write(self._report.record(here.step, here.epoch, here.train_s, rate) | (measured or {}))
        self._report = Report(here.phase_s)

    def _last_record(self) -> dict[str, Any]:
        here = self.position
        return {
            "event": "end",
            "step": here.step,
            "train_s": round(here.train_s, 3),
            "positives": here.positives,
            "positives_per_s": round(here.positives / max(here.train_s, 1e-9), 1),
            **phase_fields(here.phase_s, here.step),
            "peak_rss_bytes": peak_rss_bytes(),
        }

    def _checkpoint(self) -> None:
        tensors = self.state.tensors() | self.state.sampler_tensors()
        self.store.save(checkpoint_name(self.position.step), tensors, {"position": asdict(self.position)})
        self._saved_s = time.monotonic()

    def _total_positives(self) -> int:
        return round(self.total_steps / max(len(self.batches), 1) * self.batches.positives_per_epoch())
