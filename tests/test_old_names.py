"""Modules that had another name before: the old name still gives the same module."""

import importlib

import pytest

import xclass


@pytest.mark.parametrize(("old", "new"), xclass._MOVED.items())
def test_an_old_name_is_the_same_module(old: str, new: str) -> None:
    assert importlib.import_module(old) is importlib.import_module(new)


def test_names_are_imported_from_old_names() -> None:
    from xclass.data.planted import best_recall
    from xclass.tables import MemoryTable

    assert MemoryTable.__module__ == "xclass.embeddings.table" and best_recall.__module__.startswith("xclass.ingest.")


def test_a_name_that_never_was_is_not_found() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"xclass\.desks"):
        importlib.import_module("xclass.desks")
