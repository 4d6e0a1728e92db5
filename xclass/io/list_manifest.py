"""Directories of lists: the manifests that they are known by."""

from __future__ import annotations

from pathlib import Path

from xclass.io.manifest import read_manifest

MANIFEST = "_topk.json"  # pandas, Arrow and Spark pass over names that begin with "_"
MANIFESTS = (MANIFEST, "topk.json")  # as it was called before
KIND = "lists"
FORMAT_VERSION = 1


def check_lists(directory: Path) -> None:
    """ArtefactError when files of a directory of lists with a manifest of ours are missing or cut."""
    name = next((name for name in MANIFESTS if (directory / name).exists()), None)
    if name is not None:
        read_manifest(directory, name, KIND, FORMAT_VERSION)
