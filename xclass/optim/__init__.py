"""Row-wise optimisers for tables, and learning-rate schedules.

A row optimiser sees the touched rows only. ``state_shapes`` says what it keeps per row; ``update`` changes rows and
state in place. Rows that are not named stay as they are, bit for bit.
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
