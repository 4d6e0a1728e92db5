"""Ids, lists of ids, texts and cut-offs in the containers that Python callers have."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from xclass.data.given import as_cut_offs, as_id_lists, as_id_series, as_texts, is_nested
from xclass.errors import InputError


class PandasLike:
    """What is asked of a series of pandas."""

    def __init__(self, values: list) -> None:
        self._values = np.array(values, dtype=object)

    def __len__(self) -> int:
        return len(self._values)

    def tolist(self) -> list:
        return self._values.tolist()


TEXTS = [
    ["b", "a"],
    ("b", "a"),
    np.array(["b", "a"]),
    np.array(["b", "a"], dtype=object),
    pl.Series(["b", "a"]),
    pl.Series(["b", "a"], dtype=pl.Categorical),
    pl.Series(["b", "a"], dtype=pl.Object),
    PandasLike(["b", "a"]),
    [np.str_("b"), "a"],
]
INTEGERS = [
    [7, 3],
    (np.int64(7), 3),
    np.array([7, 3]),
    np.array([7, 3], dtype=np.uint8),
    np.array([7, 3], dtype=object),
    torch.tensor([7, 3]),
    pl.Series([7, 3], dtype=pl.UInt32),
    PandasLike([7, 3]),
    range(7, 2, -4),
]


@pytest.mark.parametrize("ids", TEXTS, ids=lambda ids: type(ids).__name__)
def test_texts_in_any_container(ids: object) -> None:
    found = as_id_series(ids)
    assert found.dtype == pl.String and found.to_list() == ["b", "a"]
    assert as_id_lists([ids, []], "histories") == [["b", "a"], []]
    assert as_texts(ids).to_list() == ["b", "a"]


@pytest.mark.parametrize("ids", INTEGERS, ids=lambda ids: type(ids).__name__)
def test_integers_in_any_container(ids: object) -> None:
    found = as_id_series(ids)
    assert found.dtype.is_integer() and found.to_list() == [7, 3]
    assert as_id_lists((ids,), "histories") == [["7", "3"]]


def test_pandas_and_arrow_where_they_are_installed() -> None:
    pandas = pytest.importorskip("pandas")
    arrow = pytest.importorskip("pyarrow")
    for ids in (pandas.Series(["b", "a"]), pandas.Index(["b", "a"]), arrow.array(["b", "a"])):
        assert as_id_series(ids).to_list() == ["b", "a"]
    with pytest.raises(InputError, match="position 1"):
        as_id_series(pandas.Series(["b", None]))


def test_empty_ones_and_huge_ones() -> None:
    for empty in ([], (), np.array([]), pl.Series([]), torch.tensor([])):
        assert as_id_series(empty).dtype == pl.String and len(as_id_series(empty)) == 0
        assert as_id_lists(empty, "histories") == []
    assert as_id_series([2**63 - 1]).to_list() == [2**63 - 1]
    assert as_id_series([2**70, 1]).to_list() == [str(2**70), "1"]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ("abc", "a list of ids is wanted"),
        (b"abc", "a list of ids is wanted"),
        ({"a"}, "set"),
        ({"a": 1}, "dict"),
        (iter(["a"]), "list_iterator"),
        (None, "NoneType"),
        (np.array("a"), "ndarray"),
        (["a", None], "None at position 1"),
        (pl.Series(["a", None]), "None at position 1"),
        ([1, float("nan")], "nan at position 1"),
        ([1.0], "1.0 at position 0"),
        (np.array([1.0]), "1.0 at position 0"),
        (pl.Series([1.0]), "Float64"),
        ([True], "True at position 0"),
        (torch.tensor([True]), "True at position 0"),
        ([["a"]], r"\['a'\] at position 0"),
        (np.array([["a"]]), r"\['a'\] at position 0"),
        (["a", 1], "all strings or all integers"),
        (["\ud800"], "no Unicode text"),
    ],
)
def test_what_is_no_list_of_ids(ids: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        as_id_series(ids)


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        (["abc"], r"a list of histories\[0\] is wanted"),
        ([["a"], None], r"histories\[1\]"),
        ([["a"], ["b", None]], r"histories\[1\].* of the wrong type"),
        (["a", "b"], "wanted"),
        ([{"a"}], "set"),
        ([[1.5]], "1.5 at position 0"),
        ({"a": ["b"]}, "dict"),
    ],
)
def test_what_are_no_lists_of_ids(lists: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        as_id_lists(lists, "histories")


def test_nested_ones_are_told_from_flat_ones() -> None:
    for nested in (
        [["a"]],
        ([],),
        np.array([["a"]]),
        torch.tensor([[1]]),
        pl.Series([["a"]]),
        [pl.Series(["a"]), None],
    ):
        assert is_nested(nested)
    for flat in (["a"], [], np.array([1]), torch.tensor([1]), pl.Series(["a"]), [None]):
        assert not is_nested(flat)


def test_cut_offs() -> None:
    for given in (5, np.int64(5), [5], (5,), np.array([5]), torch.tensor([5]), pl.Series([5])):
        assert as_cut_offs(given) == [5] and type(as_cut_offs(given)[0]) is int
    for bad in (0, [5, 0], 2.5, [2.5], "5", True, None):
        with pytest.raises(InputError):
            as_cut_offs(bad)
