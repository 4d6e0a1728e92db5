"""The processes that train or retrieve together; what knows TorchRec is here, and imported inside functions only."""

from xclass.engine.distributed import DistributedEngine
from xclass.engine.group import (
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
from xclass.engine.local import LocalEngine
from xclass.engine.opening import open_engine
from xclass.engine.seam import Engine
from xclass.engine.sharded import ShardedTable

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
