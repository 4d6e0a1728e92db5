"""Tables of vectors, and the working set: the rows that one step needs, pulled once and pushed once."""

from xclass.embeddings.config import TableConfig
from xclass.embeddings.host_table import HostTable, MappedTable
from xclass.embeddings.interface import RowOptimizer, RowPlan, Table, plan_rows
from xclass.embeddings.table import MemoryTable, Place, TableOptions

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
