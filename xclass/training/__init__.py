"""Training: the loop, its checkpoints, its validation, its log."""

from xclass.training.checkpoint import CheckpointStore
from xclass.training.config import TrainingConfig, ValidationConfig
from xclass.training.loop import Trainer
from xclass.training.position import Position

__all__ = ["CheckpointStore", "Position", "Trainer", "TrainingConfig", "ValidationConfig"]
