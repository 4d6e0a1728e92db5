"""The processes that train or retrieve together; what knows TorchRec is here, and imported inside functions only."""

from xclass.distributed.distributed import DistributedEngine
from xclass.distributed.interface import Engine
from xclass.distributed.launch import open_engine
from xclass.distributed.local import LocalEngine
from xclass.distributed.process_group import (
    TIMEOUT_S,
    Group,
    OtherRankError,
    RankError,
    is_first,
    launched,
    launched_alone,
    restarts,
    share_of,
)
from xclass.distributed.sharded_table import ShardedTable

__all__ = [
    "TIMEOUT_S",
    "DistributedEngine",
    "Engine",
    "Group",
    "LocalEngine",
    "OtherRankError",
    "RankError",
    "ShardedTable",
    "is_first",
    "launched",
    "launched_alone",
    "open_engine",
    "restarts",
    "share_of",
]
