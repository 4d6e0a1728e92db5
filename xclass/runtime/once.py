"""Attributes that are made when they are first asked for, also by many threads at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

Value = TypeVar("Value")


class once(Generic[Value]):
    """A property that is computed at the first access and kept by the object.

    One thread computes while the others that ask for it wait: nobody sees a half-made value and nothing is made twice.
    Later accesses take no lock. The lock belongs to the object, and its holder may ask for other such properties.
    ``functools.cached_property`` has no lock from Python 3.12 on.
    """

    def __init__(self, compute: Callable[[Any], Value]) -> None:
        self._compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> once[Value]: ...

    @overload
    def __get__(self, instance: object, owner: type | None = None) -> Value: ...

    def __get__(self, instance: object | None, owner: type | None = None) -> Value | once[Value]:
        if instance is None:
            return self
        kept = vars(instance)  # found there, the value hides this descriptor
        with kept.setdefault("_once_lock", threading.RLock()):
            if self._name not in kept:
                kept[self._name] = self._compute(instance)
            value: Value = kept[self._name]
            return value
