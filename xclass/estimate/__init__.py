"""What a run would take, before it is started: memory and disk by component, time from a short calibration."""

from xclass.estimate.calibration import warm_up
from xclass.estimate.report import Estimate, check_fit, estimate

__all__ = ["Estimate", "check_fit", "estimate", "warm_up"]
