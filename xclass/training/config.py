"""What a training run can be told."""

from __future__ import annotations

import pydantic

from xclass.config import Config, Count, Positive, PositiveNumber, Seconds, Seed
from xclass.data.batches import BatchConfig
from xclass.optim.schedule import ScheduleConfig
from xclass.training.checkpoint import KEEP


class ValidationConfig(Config):
    """Validation on a fixed sample of queries of the valid split, by exact top-k."""

    every_epochs: Positive = 1
    """Validate after so many epochs, and after the last."""
    queries: Positive = 5000
    """At most so many queries, the same ones each time."""
    metric: str = "auto"
    """What early stopping and the choice of the best checkpoint go by: a metric of `evaluate`, higher is better, or
    perplexity, lower is better. auto: recall@20, of positions of a text perplexity."""
    patience: Count = 0
    """Stop after so many validations without a better metric; 0 never stops early."""
    keep_best: bool = True
    """The finished run holds the weights of the best validation, not the last ones."""


class TrainingConfig(Config):
    """The loop."""

    epochs: Count = 10
    """Passes over the train split; 0 keeps the initial weights (a spectral start is usable as it is)."""
    steps: Count | None = None
    """Stop after so many steps, whatever the epochs say."""
    learning_rate: PositiveNumber = 0.1
    """Base rate of the tables' row-wise optimiser."""
    dense_learning_rate: PositiveNumber = 0.001
    """Base rate of the towers' dense layers (Adam)."""
    schedule: ScheduleConfig = ScheduleConfig()
    """How both rates move."""
    batch: BatchConfig = BatchConfig()
    """How the pairs are cut into batches."""
    seed: Seed = 0
    """Of the initial weights, the order and the samples. The same seed gives the same bits on one CPU with
    the same number of threads, versions and extras."""
    report_every_s: float = pydantic.Field(10.0, gt=0, le=1e9)
    """A record in metrics.jsonl at least this often."""
    checkpoint_every_s: Seconds = 300.0
    """A checkpoint this often; 0 writes one after every epoch and at the end only."""
    keep_checkpoints: Positive = KEEP
    """How many checkpoints stay, beside that of the best weights. The last whole one stays until the next is whole."""
    tensorboard: bool = False
    """Write what metrics.jsonl holds into RUN/tensorboard, too. Needs the extra "tensorboard"."""
    validation: ValidationConfig = ValidationConfig()
    """Used when the dataset has a valid split."""
