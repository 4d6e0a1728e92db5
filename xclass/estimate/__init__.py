"""What a run would take, before it is started: memory and disk by component, time from a short calibration."""

from xclass.estimate.calibration import warm_up
from xclass.estimate.ranks import Cluster, Plan
from xclass.estimate.report import Estimate, check_fit, estimate, plan_for

__all__ = ["Cluster", "Estimate", "Plan", "check_fit", "estimate", "plan_for", "warm_up"]
