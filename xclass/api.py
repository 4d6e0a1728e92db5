"""Functions over whole runs: train one, index one."""

from __future__ import annotations
