"""Directories of lists: the manifests that they are known by."""

from __future__ import annotations
