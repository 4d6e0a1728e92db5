"""Amounts as people write them: ``80GiB``, ``25GB/s``, ``200Gbit/s``, ``20us``."""

from __future__ import annotations

import re

import typer

BYTES = {"": 1.0, "B": 1.0} | {
    f"{prefix}{unit}": base**power
    for power, prefix in enumerate("KMGT", start=1)
    for unit, base in (("B", 1000.0), ("iB", 1024.0), ("", 1000.0))
}
BITS = {f"{prefix}bit": 1000.0**power / 8 for power, prefix in enumerate(("", "K", "M", "G", "T"))}
SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "": 1.0}
LARGEST = 1e30
COUNTS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}


def bytes_of(option: str, text: str) -> float:
    """Bytes, or bytes a second, of ``80GiB``, ``25 GB/s``, ``200Gbit/s`` or a plain number.

    >>> bytes_of("--bandwidth", "200Gbit/s"), bytes_of("--device-memory", "80GiB") == 80 * 2**30
    (25000000000.0, True)
    """
    return _amount(option, text.strip().removesuffix("/s"), BYTES | BITS, "80GiB, 25GB/s or 200Gbit/s")


def seconds_of(option: str, text: str) -> float:
    """Seconds of ``20us``.

    >>> seconds_of("--latency", "20us")
    2e-05
    """
    return _amount(option, text, SECONDS, "20us")


def count_of(option: str, text: str) -> float:
    """A number of ``400T``.

    >>> count_of("--flops", "400T")
    400000000000000.0
    """
    return _amount(option, text.strip().removesuffix("FLOPS").removesuffix("FLOP/s"), COUNTS, "400T")


def _amount(option: str, text: str, units: dict[str, float], example: str) -> float:
    found = re.fullmatch(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-zµ]*)\s*", text)
    named = {unit.lower(): factor for unit, factor in units.items()}
    try:
        if found is None or found[2].lower() not in named:
            raise ValueError
        amount = float(found[1]) * named[found[2].lower()]
        if amount > LARGEST:
            raise ValueError
        return round(amount, 12)
    except ValueError:
        raise typer.BadParameter(f'"{text}": wanted for example {example}', param_hint=f"'{option}'") from None
