"""How an input is altered: bytes, lines and fields of text, JSON values, arrays, tables. All by a seeded ``Random``."""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Callable
from random import Random
from typing import Any

# What people's files hold where an id or a number is wanted.
ODD_FIELDS = (
    "", " ", "nan", "NaN", "inf", "-inf", "1e309", "1e39", "1e-50", "-1", "-0", "0", "00", "007", "+7", "1.0", "1.5", "1e5",
    "9223372036854775807", "9223372036854775808", "-9223372036854775808", "18446744073709551616", "1" * 400, "1_000",
    "0x10", "١", "\x00", "a\x00b", "\ufeff", "é", "日本", "\u00a0", "\u2028", "\x85", "\x0b", "\x0c", "\x1c", "'", '"',
    '""', '"a"', '5"', 'a "b" c', "[1]", "{}", "null", "None", "true", "../x", "a b", " a", "a ", "2024-05-01",
    "2024-05-01T10:30:00Z", "user_id", "item_id", "#", "%", "\\", "\\N", "::", ";", "|", "\t", "1:1", "-1:1", "1:nan", ":",
)  # fmt: skip
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 1.5, 2**31, 2**63 - 1, 2**63, -(2**63), 2**64, 10**400, 1e308, -1e308, float("nan"), float("inf"), -0.0,
    "", "0", "a", "\x00", "../../x", "/etc/passwd", "é" * 50, [], [1], ["a"], [None], [[1]], {}, {"a": 1}, {"": None},
)  # fmt: skip
DEPTH = 100_000

Mutation = Callable[[bytes, Random], bytes]


def flip(data: bytes, chance: Random) -> bytes:
    """Another byte at one place."""
    return _at(data, chance, lambda old: bytes([old[0] ^ (1 << chance.randrange(8))]) if old else b"?")


def alter(data: bytes, chance: Random) -> bytes:
    """A few random bytes at one place."""
    place = chance.randrange(len(data) + 1)
    return data[:place] + chance.randbytes(chance.randint(1, 4)) + data[place + chance.randint(0, 4) :]


def cut(data: bytes, chance: Random) -> bytes:
    """The end is missing."""
    return data[: chance.randrange(len(data) + 1)]


def lose(data: bytes, chance: Random) -> bytes:
    """Some bytes are missing."""
    place = chance.randrange(len(data) + 1)
    return data[:place] + data[place + chance.randint(1, 40) :]


def repeat(data: bytes, chance: Random) -> bytes:
    """A stretch comes again."""
    start = chance.randrange(len(data) + 1)
    stop = min(start + chance.randint(1, 100), len(data))
    return data[:stop] + data[start:stop] + data[stop:]


def zero(data: bytes, chance: Random) -> bytes:
    """A block of NUL bytes, as a lost page is."""
    start = chance.randrange(len(data) + 1)
    size = min(chance.randint(1, 64), len(data) - start)
    return data[:start] + bytes(size) + data[start + size :]


def odd_field(data: bytes, chance: Random) -> bytes:
    """Another value in one field of one line."""
    return _fields(data, chance, lambda old: chance.choice(ODD_FIELDS).encode())


def quote(data: bytes, chance: Random) -> bytes:
    """A quotation mark before, in or behind a field, or around it, or around it with a line end inside."""

    def quoted(old: bytes) -> bytes:
        place = chance.randrange(len(old) + 1)
        return chance.choice(
            [b'"' + old, old + b'"', old[:place] + b'"' + old[place:], b'"' + old + b'"', b'"' + old + b'\n"',
             b'"' + old + b'""x"', b'"' + old + b'"x', b" \"" + old + b'"', b'"' + old + b',"']
        )  # fmt: skip

    return _fields(data, chance, quoted)


def lose_field(data: bytes, chance: Random) -> bytes:
    """A separator less, or one more."""
    separator = _separator(data)
    places = [place for place in range(len(data)) if data.startswith(separator, place)]
    if not places:
        return data + separator
    place = chance.choice(places)
    more = chance.random() < 0.5
    return data[:place] + (separator * 2 if more else b"") + data[place + len(separator) :]


def shuffle_lines(data: bytes, chance: Random) -> bytes:
    """Two lines change places, one comes twice, goes away, or is blank."""
    lines = data.split(b"\n")
    first, second = chance.randrange(len(lines)), chance.randrange(len(lines))
    action = chance.randrange(5)
    if action == 0:
        lines[first], lines[second] = lines[second], lines[first]
    elif action == 1:
        lines.insert(second, lines[first])
    elif action == 2:
        del lines[first]
    else:
        lines.insert(first, chance.choice([b"", b" ", b"\t", b"\r", b"# a comment", b"\x00", b'""', b",", b"{}"]))
    return b"\n".join(lines)


def header_again(data: bytes, chance: Random) -> bytes:
    """The first line comes again further down, or is missing."""
    lines = data.split(b"\n")
    if chance.random() < 0.5:
        return b"\n".join(lines[1:])
    lines.insert(chance.randrange(len(lines)) + 1, lines[0])
    return b"\n".join(lines)


def line_ends(data: bytes, chance: Random) -> bytes:
    """CR LF, CR alone, a CR in one place, no end or many at the last line."""
    action = chance.randrange(6)
    if action == 0:
        return data.replace(b"\n", b"\r\n")
    if action == 1:
        return data.replace(b"\n", b"\r")
    if action == 2:
        return _at(data, chance, lambda old: b"\r" + old)
    if action == 3:
        return data.removesuffix(b"\n")
    if action == 4:
        return data.replace(b"\n", b"\r\n", chance.randint(1, 3))
    return data + b"\n" * chance.randint(1, 3)


def encoding(data: bytes, chance: Random) -> bytes:
    """A byte order mark, UTF-16, Latin-1, a byte that is no UTF-8."""
    action = chance.randrange(6)
    text = data.decode("utf-8", "replace")
    if action == 0:
        return b"\xef\xbb\xbf" + data
    if action == 1:
        return text.encode(chance.choice(["utf-16", "utf-16-le", "utf-32"]))
    if action == 2:
        return _fields(data, chance, lambda old: "naïve".encode("latin-1"))
    if action == 3:
        return _fields(data, chance, lambda old: b"\xef\xbb\xbf" + old)
    return _at(
        data, chance, lambda old: chance.choice([b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\x00"])
    )


def packing(data: bytes, chance: Random) -> bytes:
    """Compressed although the name does not say so; nothing but line ends; nothing; very long."""
    action = chance.randrange(7)
    if action == 0:
        return gzip.compress(data, mtime=0)
    if action == 1:
        return b""
    if action == 2:
        return chance.choice([b"\n", b"\r\n", b" \n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n", b"\x00", b"\n\n\n"])
    if action == 3:
        return data + b"x" * 200_000 + b"\n"
    if action == 4:
        return _fields(data, chance, lambda old: b"y" * 150_000)
    return data * chance.randint(2, 4)


TEXT: tuple[Mutation, ...] = (
    odd_field, odd_field, odd_field, quote, quote, lose_field, shuffle_lines, shuffle_lines, header_again, line_ends, encoding,
    flip, alter, cut, lose, repeat, zero, packing,
)  # fmt: skip
BYTES: tuple[Mutation, ...] = (flip, flip, alter, cut, lose, repeat, zero)


def mutated(data: bytes, chance: Random, mutations: tuple[Mutation, ...], most: int = 3) -> tuple[bytes, list[str]]:
    """The bytes altered one to ``most`` times, and by what."""
    names = []
    for _ in range(chance.choice([1, 1, *range(1, most + 1)])):
        chosen = chance.choice(mutations)
        data = chosen(data, chance)
        names.append(chosen.__name__)
    return data, names


def json_value(value: Any, chance: Random) -> Any:
    """The same JSON with one value altered, removed, renamed or repeated, anywhere in it."""
    places = list(_places(value))
    if not places:
        return copy.deepcopy(chance.choice(ODD_VALUES))
    holder, key = chance.choice(places)
    action = chance.randrange(6)
    if action == 0:
        del holder[key]
    elif action == 1 and isinstance(holder, dict):
        holder[chance.choice(["", "x", "../x", key + " ", key.upper()])] = holder.pop(key)
    elif action == 2 and isinstance(holder[key], (int, float)) and not isinstance(holder[key], bool):
        holder[key] += chance.choice([1, -1, 0.5, 2**31, -(2**40)])
    elif action == 3 and isinstance(holder[key], str):
        holder[key] = chance.choice([holder[key] + "x", holder[key][:-1], "../" + holder[key], holder[key].upper()])
    else:
        holder[key] = copy.deepcopy(chance.choice(ODD_VALUES))  # it may be altered next
    return value


def json_text(data: bytes, chance: Random) -> bytes:
    """A JSON file altered by its values, or nested deeper than any reader follows."""
    if chance.random() < 0.04:
        return b"[" * DEPTH + b"]" * DEPTH
    value = json_value(json.loads(data), chance)
    while chance.random() < 0.3 and isinstance(value, (dict, list)):
        value = json_value(value, chance)
    return json.dumps(value, indent=2).encode()


def _places(value: Any) -> Any:
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    for key in keys:
        yield value, key
        yield from _places(value[key])


def _at(data: bytes, chance: Random, change: Callable[[bytes], bytes]) -> bytes:
    place = chance.randrange(max(len(data), 1))
    return data[:place] + change(data[place : place + 1]) + data[place + 1 :]


def _separator(data: bytes) -> bytes:
    first = data.split(b"\n", 1)[0]
    return next((mark for mark in (b"::", b"\t", b",", b";", b"|", b" ") if mark in first), b",")


def _fields(data: bytes, chance: Random, change: Callable[[bytes], bytes]) -> bytes:
    separator, lines = _separator(data), data.split(b"\n")
    row = chance.randrange(len(lines))
    fields = lines[row].split(separator)
    column = chance.randrange(len(fields))
    fields[column] = change(fields[column])
    lines[row] = separator.join(fields)
    return b"\n".join(lines)
