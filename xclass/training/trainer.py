"""The training loop: load, sample, pull, loss, push; validation, checkpoints, early stopping, resume."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import torch

from xclass.data.batches import TrainBatches
from xclass.distributed import Engine, LocalEngine
from xclass.errors import RESUME, ArtefactError, InputError, Interrupted, XclassError
from xclass.models.two_tower import Prepared, TwoTower
from xclass.optim.schedule import learning_rate
from xclass.runtime.memory import keep_freed_memory
from xclass.runtime.progress import Progress, say
from xclass.runtime.rng import torch_generator
from xclass.runtime.threads import short_operations
from xclass.training.checkpoint.model_state import SAMPLER, ModelState
from xclass.training.checkpoint.sharded_store import make_store
from xclass.training.checkpoint.store import BEST, Content, checkpoint_name
from xclass.training.collapse import Validated
from xclass.training.config import TrainingConfig
from xclass.training.metrics_log import (
    MetricsLog,
    NoLog,
    Report,
    describe_phases,
    open_log,
    peak_rss_bytes,
    phase_fields,
)
from xclass.training.prefetch import Ahead, Ready
from xclass.training.signals import StopSignal
from xclass.training.state import Position
from xclass.training.validation import lower_is_better
from xclass.types import Batch

Mine = Callable[[TwoTower, int], None]
Validate = Callable[[TwoTower], Validated]
OnValidation = Callable[[int, dict[str, float]], bool | None]


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
        engine: this process alone, or the processes of a launch; the model's tables are its.
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
        engine: Engine | None = None,
    ) -> None:
        self.model, self.batches, self.config, self.validate, self.mine = model, batches, config, validate, mine
        self.on_validation, self.engine = on_validation, engine or LocalEngine()
        self.log_path = folder / "metrics.jsonl"
        self.store = make_store(folder / "checkpoints", config.keep_checkpoints, self.engine.group)
        self.state = ModelState(model, config.dense_learning_rate)
        self.position = Position()
        epochs_steps = config.epochs * len(batches)
        self.total_steps = epochs_steps if config.steps is None else min(epochs_steps, config.steps)
        self._report = Report(self.position.phase_s)
        self._saved_s = 0.0

    def resume(self) -> bool:
        """Load the newest whole checkpoint; False when there is none."""
        loaded = self.store.load(self.state.tensors(), SAMPLER, self.state.row_names())
        if loaded is None:
            return False
        try:
            self.model.head.check_loaded()
            self.state.load_sampler(loaded.others)
        except InputError as error:
            raise ArtefactError(error.what, where=loaded.path, wanted=error.wanted, got=error.got) from None
        self.position = Position.read(loaded.state, loaded.path)
        self._report = Report(self.position.phase_s)
        say(f"resuming from step {self.position.step:,} of {self.total_steps:,}")
        return True

    def run(self) -> Position:
        """Train to the end; the model then holds the weights that were chosen.

        Raises:
            Interrupted: a signal came; a checkpoint was written first.
            ArtefactError: the last checkpoint can't be written; the run can be resumed.
            XclassError: the loss is no longer finite.
        """
        keep_freed_memory()
        self._saved_s = time.monotonic()
        with open_log(self.log_path, self.position.step, self.config.tensorboard, self.engine.group.is_first) as log:
            training = Progress("train", self._total_positives(), "positives")
            with self.store, StopSignal() as stop, training as progress:
                progress.resume_at(self.position.positives)
                while self.position.step < self.total_steps and not self.position.stopped:
                    self._epoch(log, progress, stop)
            if self.validate is not None and not self.position.validations:
                self._write_report(log, self._validate()[0])
            self._choose_weights()
            self._settle()
            log.write(last := self._last_record())
            say(describe_phases(last))
        return self.position

    def _epoch(self, log: MetricsLog | NoLog, progress: Progress, stop: StopSignal) -> None:
        here = self.position
        if self.mine is not None and here.batch == 0:
            self.mine(self.model, here.epoch)
        with Ahead(self.batches.epoch(here.epoch, here.batch), self._prepare, here.step) as ahead, self._threads():
            self._steps(ahead, log, progress, stop)
        self._end_epoch(log, stop)

    def _steps(self, ahead: Ahead, log: MetricsLog | NoLog, progress: Progress, stop: StopSignal) -> None:
        """The steps of an epoch. The next batch is prepared beside, but for one that comes after a checkpoint."""
        here, reported_s = self.position, time.monotonic()
        self._report.clock.start()
        while (ready := ahead.take()) is not None:
            last, due = here.step + 1 >= self.total_steps, self.engine.agree("checkpoint", self._is_checkpoint_due())
            stopping = self.engine.agree("stop", bool(stop.received))
            pause = last or due or stopping
            if not pause:
                ahead.ask()
            progress.advance(self._step(ready), self._note())
            if time.monotonic() - reported_s >= self.config.report_every_s:
                self._write_report(log)
                reported_s = time.monotonic()
            if pause:
                self._pause(stopping, due)
                self._report.clock.start()
            if last:
                break

    def _is_checkpoint_due(self) -> bool:
        return 0 < self.config.checkpoint_every_s <= time.monotonic() - self._saved_s and not self.store.busy

    def _pause(self, stopping: bool, due: bool) -> None:
        """A checkpoint, when it is time for one or a signal came."""
        if stopping:
            self._stop()
        if due:
            self._checkpoint(beside=True)
            self.engine.forget("checkpoint")

    def _stop(self, best: bool = False) -> NoReturn:
        here, found = self.position, "a checkpoint was written"
        try:
            self._checkpoint(beside=False, best=best)
        except ArtefactError as error:
            found = f"no checkpoint could be written ({error.what}), a resume goes on from the one before"
        raise Interrupted(f"stopped by a signal at step {here.step:,}; {found}", RESUME)

    def _prepare(self, batch: Batch, step: int) -> Prepared:
        part = self.engine.part(len(batch))
        prepared = self.model.prepare(batch, torch_generator(self.config.seed, "sample", step), part)
        self.engine.prepare_ahead(self.model, prepared)
        return prepared

    def _threads(self) -> AbstractContextManager[None]:
        """Short operations run on one thread; the products of dense layers are long ones."""
        return nullcontext() if any(True for _ in self.model.parameters()) else short_operations()

    def _step(self, ready: Ready) -> int:
        """One step; returns its number of positives."""
        here, clock, model, prepared = self.position, self._report.clock, self.model, ready.prepared
        rate = learning_rate(self.config.schedule, 1.0, here.step, self.total_steps)
        clock.mark(None)
        clock.add("load", ready.load_s)
        clock.add("sample", ready.sample_s)
        self.engine.begin(model, prepared, here.step, self.config.learning_rate * rate)
        rows = model.pull(prepared.row_plans, requires_grad=True)
        clock.mark("pull")
        loss = model.loss(prepared, rows) if len(prepared.batch) else torch.zeros(0)
        self.engine.backward(loss, prepared.queries)
        loss_sum = self.engine.add_up(model, prepared, rows, float(loss.detach().sum()))
        clock.mark("loss")
        self.store.before_push({table: plan.unique for table, plan in prepared.row_plans.items()})
        model.push(prepared.row_plans, rows, self.config.learning_rate * rate)
        self.state.dense_step(self.config.dense_learning_rate * rate)
        clock.mark("push")
        positives = prepared.positives
        self._check_loss(loss_sum)
        here.train_s += self._report.add(loss_sum, prepared.queries, positives)
        here.step, here.batch, here.positives = here.step + 1, here.batch + 1, here.positives + positives
        return positives

    def _note(self) -> str:
        """What stands behind rate and time left in the line of progress."""
        loss, last = f"loss {self._report.mean_loss():.4f}", self.position.validations[-1:]
        return f"{loss}, {(name := _judged(last[0]))} {last[0][name]:.4f}" if last else loss

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

    def _end_epoch(self, log: MetricsLog | NoLog, stop: StopSignal) -> None:
        here = self.position
        if here.batch >= len(self.batches):
            here.epoch, here.batch = here.epoch + 1, 0
        done = here.step >= self.total_steps
        due = here.batch == 0 and here.epoch % self.config.validation.every_epochs == 0
        measured, best = self._validate() if self.validate is not None and (done or due) else ({}, False)
        self._write_report(log, measured)
        best = best and self.config.validation.keep_best
        if self.engine.agree("stop", bool(stop.received)):
            self._stop(best)
        if done or here.stopped:
            self._checkpoint(beside=False, best=best)
        elif best or self.config.checkpoint_every_s == 0:
            self._checkpoint(beside=True, best=best)

    def _validate(self) -> tuple[dict[str, dict[str, float]], bool]:
        """Measure, and see whether to stop; what the record of it holds, and whether these weights are the best."""
        assert self.validate is not None
        here, settings = self.position, self.config.validation
        self._settle()
        try:
            metrics, collapse, warnings = self.validate(self.model)
        except InputError as error:
            raise self._diverged("a vector is no longer of finite numbers", error.what) from None
        here.validations.append({"step": here.step, **metrics})
        say(f"epoch {here.epoch}, valid: " + ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
        for figure in [name for name in warnings if name not in here.warned]:
            say(warnings[figure])
            here.warned.append(figure)
        self._wait()
        name = _judged(metrics)
        best = here.judge(metrics[name], settings.patience, lower_is_better(name))
        told = self.on_validation is not None and self.on_validation(here.step, dict(metrics))
        here.stopped |= bool(self.engine.group.broadcast_value(bool(told), what="a validation"))
        return {"valid": metrics, "collapse": collapse}, best

    def _settle(self) -> None:
        """Weight decay that is due goes into every row: nothing may be reading them meanwhile."""
        if any("decayed" in table.tensors() for table in self.model.tables.values()):
            self.store.wait()
        self.model.settle()

    def _wait(self) -> None:
        """Until no checkpoint is being written. Best weights that could not be kept are not the best ones any more."""
        self.store.wait()
        if self.config.validation.keep_best and self.position.best is not None:
            kept = self._best()
            if kept is None or kept.step < self.position.best_step:
                self.position.take_best(kept)

    def _best(self) -> Position | None:
        """The position of the checkpoint with the best weights."""
        state = self.store.best()
        return None if state is None else Position.read(state, self.store.folder / BEST)

    def _choose_weights(self) -> None:
        """Load the best validated weights back, unless the last ones are the best."""
        here, settings = self.position, self.config.validation
        kept = self._best() if settings.keep_best else None
        if kept is None or kept.step == here.step:
            return
        here.take_best(kept)
        best = self.store.folder / BEST
        try:
            self.store.read(best, self.state.tensors(), SAMPLER, self.state.row_names())
        except ArtefactError as error:
            raise ArtefactError(
                "the checkpoint of the best weights is damaged",
                where=best,
                got=error.what,
                do="restore it, or remove it and run the same command with --resume: the last weights are taken then",
            ) from None
        say(f"keeping the weights of step {here.best_step:,}: {_judged(here.validations[-1])} {here.best:.4f}")

    def _write_report(self, log: MetricsLog | NoLog, measured: dict[str, dict[str, float]] | None = None) -> None:
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

    def _checkpoint(self, beside: bool, best: bool = False) -> None:
        """Written beside training, or now; ``best``: these weights were just found to be the best."""
        if not best:
            self._wait()
        name, state = checkpoint_name(self.position.step), {"position": asdict(self.position)}
        tensors = self.state.tensors() | self.state.sampler_tensors()
        if beside:
            self.store.begin(name, Content(tensors, self.state.row_names(), state), best)
        else:
            self.store.save(name, tensors, state, best, self.state.row_names())
        self._saved_s = time.monotonic()

    def _total_positives(self) -> int:
        return round(self.total_steps / max(len(self.batches), 1) * self.batches.positives_per_epoch())


def _judged(metrics: dict[str, float]) -> str:
    """The metric that a validation is judged by: the first one."""
    return next(name for name in metrics if name != "step")
