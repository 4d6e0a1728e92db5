"""Cells of matrices in compiled loops: asking for a row before its turn, and reading bfloat16 as its bits.

Imported only where numba is installed, by files of compiled functions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload

F, U = np.float32, np.uint32
OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}
# Sums may be taken in another order. How they are is decided when a function is compiled: one that others call is
# `inline="always"` instead, for its own copy and the callers' differ in their bits, and which of them a call reaches
# depends on what the process compiled itself and what it found compiled.
FAST: dict[str, Any] = {"fastmath": {"nsz", "arcp", "contract", "reassoc"}, **OPTIONS}
LINE_BYTES = 64


@intrinsic
def _fetch(context, array, row, column):  # type: ignore[no-untyped-def]
    """Ask the processor for the cache line of ``array[row, column]``; nothing is read."""

    def generate(target, builder, signature, arguments):  # type: ignore[no-untyped-def]
        there = target.make_array(array)(target, builder, arguments[0])
        place = cgutils.get_item_pointer(target, builder, array, there, list(arguments[1 : 1 + array.ndim]))
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        call = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        to_write, keep, data = number(1), number(3), number(1)
        builder.call(call, [builder.bitcast(place, byte), to_write, keep, data])
        return target.get_dummy_value()

    return types.none(array, types.intp, types.intp), generate


fetch: Any = _fetch


def read(cell):  # type: ignore[no-untyped-def]  # numba compares signatures with those of the overloads
    """A cell as float32."""
    raise NotImplementedError


@overload(read)
def _read(cell):  # type: ignore[no-untyped-def]
    if cell == types.uint16:
        return lambda cell: U(U(cell) << U(16)).view(np.float32)
    return lambda cell: F(cell)  # noqa: PLW0108


@njit(**OPTIONS)
def fetch_row(array: Any, row: Any, step: Any) -> None:
    """Ask for all cache lines of a row; ``step``: cells in a line."""
    for column in range(0, array.shape[1], step):
        fetch(array, row, column)
