"""Tables of vectors, and the working set: the rows that one step needs, pulled once and pushed once."""

from xclass.tables.memory import MemoryTable
from xclass.tables.working_set import RowOptimizer, RowPlan, Table, plan_rows

TABLES = {"memory": MemoryTable}

__all__ = ["TABLES", "MemoryTable", "RowOptimizer", "RowPlan", "Table", "plan_rows"]
