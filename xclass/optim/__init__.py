"""Row-wise optimisers for tables, and learning-rate schedules.

A row optimiser sees the touched rows only. ``state_shapes`` says what it keeps per row; ``step`` changes gathered rows
and their state in place. Tables bring rows and optimiser together.
"""

from xclass.optim.rows import RowAdaGrad, RowAdam, RowRMSProp, RowSGD
from xclass.optim.schedule import SCHEDULES, ScheduleConfig, learning_rate

ROW_OPTIMIZERS: dict[str, type[RowAdaGrad] | type[RowAdam] | type[RowRMSProp] | type[RowSGD]] = {
    "adagrad": RowAdaGrad,
    "adam": RowAdam,
    "rmsprop": RowRMSProp,
    "sgd": RowSGD,
}

__all__ = [
    "ROW_OPTIMIZERS",
    "SCHEDULES",
    "RowAdaGrad",
    "RowAdam",
    "RowRMSProp",
    "RowSGD",
    "ScheduleConfig",
    "learning_rate",
]
