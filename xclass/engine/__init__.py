"""The processes that train or retrieve together; what knows TorchRec is here, and imported inside functions only."""

from xclass.engine.group import Group, RankError, launched, restarts, share_of

__all__ = ["Group", "RankError", "launched", "restarts", "share_of"]
