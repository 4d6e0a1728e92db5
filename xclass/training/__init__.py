"""Training: the loop, its checkpoints, its validation, its log."""

from xclass.training.checkpoint.store import CheckpointStore
from xclass.training.config import TrainingConfig, ValidationConfig
from xclass.training.state import Position
from xclass.training.trainer import Trainer

__all__ = ["CheckpointStore", "Position", "Trainer", "TrainingConfig", "ValidationConfig"]
