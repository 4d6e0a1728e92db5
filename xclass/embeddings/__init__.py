"""Tables of vectors, and the working set: the rows that one step needs, pulled once and pushed once."""

from xclass.tables.config import TableConfig
from xclass.tables.host import HostTable, MappedTable
from xclass.tables.memory import MemoryTable, Place, TableOptions
from xclass.tables.working_set import RowOptimizer, RowPlan, Table, plan_rows

# By where rows lie: tables.storage of a configuration.
TABLES: dict[str, type[MemoryTable]] = {"device": MemoryTable, "host": HostTable, "mapped": MappedTable}

__all__ = [
    "TABLES",
    "HostTable",
    "MappedTable",
    "MemoryTable",
    "Place",
    "RowOptimizer",
    "RowPlan",
    "Table",
    "TableConfig",
    "TableOptions",
    "plan_rows",
]
