"""Training: the loop, its checkpoints, its validation, its log."""

from xclass.train.checkpoint import CheckpointStore
from xclass.train.config import TrainingConfig, ValidationConfig
from xclass.train.loop import Position, Trainer

__all__ = ["CheckpointStore", "Position", "Trainer", "TrainingConfig", "ValidationConfig"]
