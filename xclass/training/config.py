"""What a training run can be told."""

from __future__ import annotations

import pydantic

from xclass.config import Config, Count, Positive, PositiveNumber, Seconds, Seed
from xclass.data.batches import BatchConfig
from xclass.optim.schedule import ScheduleConfig
from xclass.training.checkpoint.store import KEEP


class ValidationConfig(Config):
    """Validation on a fixed sample of queries of the valid split, by exact top-k."""

    every_epochs: Positive = 1
    """Validate after every this many epochs, and after the last one."""
    queries: Positive = 5000
    """Largest number of queries to measure; the same queries are measured each time."""
    metric: str = "auto"
    """The metric for early stopping and for the choice of the best checkpoint: a metric of `evaluate` (higher is
    better) or perplexity (lower is better). auto: recall@20, or perplexity for positions of a text."""
    patience: Count = 0
    """Stop after this many validations without improvement; 0: never stop early."""
    keep_best: bool = True
    """true: the finished run has the weights of the best validation. false: the last weights."""


class TrainingConfig(Config):
    """The loop."""

    epochs: Count = 10
    """Passes over the train split. 0 keeps the initial weights; a spectral initialisation is a usable model."""
    steps: Count | None = None
    """Stop after this many steps, even if epochs would allow more."""
    learning_rate: PositiveNumber = 0.1
    """Base learning rate of the tables (row-wise optimiser)."""
    dense_learning_rate: PositiveNumber = 0.001
    """Base learning rate of the dense layers of the towers (Adam)."""
    schedule: ScheduleConfig = ScheduleConfig()
    """How both learning rates change."""
    batch: BatchConfig = BatchConfig()
    """How pairs are divided into batches."""
    seed: Seed = 0
    """Seed of the initial weights, the order of the data and the samples. The same seed gives the same bits on the same
    CPU with the same number of threads, versions and extras."""
    report_every_s: float = pydantic.Field(10.0, gt=0, le=1e9)
    """Longest time between two records in metrics.jsonl, in seconds."""
    checkpoint_every_s: Seconds = 300.0
    """Seconds between checkpoints. 0: only after every epoch and at the end."""
    keep_checkpoints: Positive = KEEP
    """Number of checkpoints to keep, besides the one with the best weights. The newest complete checkpoint is kept
    until the next one is complete."""
    tensorboard: bool = False
    """true: also write the contents of metrics.jsonl to RUN/tensorboard. Needs the extra "tensorboard"."""
    validation: ValidationConfig = ValidationConfig()
    """Validation, if the dataset has a valid split."""
