"""What files of documents hold, read once more in plain Python: labels and sparse features of each document."""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.robustness.plain_readers import LARGEST, NUMBER, Refusal, json_object, lines_of, text_of

WHOLE = re.compile("[0-9]+")
MOST = 2**31


@dataclass
class Documents:
    """labels: of each document, as written. features: of each document, number → sum; None where they are not read."""

    labels: list[set[str]] = field(default_factory=list)
    features: list[dict[int, float]] | None = field(default_factory=list)


def line_of(line: str, bounds: tuple[int, int] | None) -> tuple[set[str], dict[int, float]]:
    """``label,label feature:value …``; bounds: numbers of features and of labels, None where labels are ids."""
    fields = line.rstrip(" \t").replace("\t", " ").split(" ")
    labels = [] if ":" in fields[0] else fields.pop(0).split(",")
    labels = [] if labels == [""] else labels
    for label in labels:
        if label == "" or (bounds is not None and not (WHOLE.fullmatch(label) and int(label) < bounds[1])):
            raise Refusal(f"not a label: {label!r}")
    sums: dict[int, float] = {}
    for each in filter(None, fields):
        name, colon, value = each.partition(":")
        if not colon or not WHOLE.fullmatch(name) or not NUMBER.fullmatch(value):
            raise Refusal(f"not a feature: {each!r}")
        if int(name) >= (MOST if bounds is None else bounds[0]) or not abs(float(value)) <= LARGEST:
            raise Refusal(f"beyond its bounds: {each!r}")
        sums[int(name)] = sums.get(int(name), 0.0) + float(np.float32(float(value)))
    named = labels if bounds is None else [str(int(label)) for label in labels]
    return set(named), {name: max(-LARGEST, min(LARGEST, value)) for name, value in sums.items()}


def svmlight(data: bytes) -> Documents:
    """Comments, ``qid:`` and blank lines are passed over."""
    found = Documents()
    assert found.features is not None
    for line in lines_of(text_of(data)):
        plain = line.replace("\t", " ").partition("#")[0]
        plain = re.sub(r"(^| )qid:[^ ]*", "", plain)
        if plain.strip(" "):
            labels, features = line_of(plain, None)
            found.labels.append(labels)
            found.features.append(features)
    return found


def xmc(data: bytes) -> Documents:
    """A header ``documents features labels``, then a document a line."""
    lines = lines_of(text_of(data))
    while not lines[0].strip():  # blank lines before the header
        raise Refusal("no header")
    header = lines[0].split()
    if len(header) != 3 or not all(WHOLE.fullmatch(number) for number in header):
        raise Refusal("no header")
    count, features, labels = map(int, header)
    body = lines[1:]
    while len(body) > count and not body[-1].strip():
        body.pop()
    if len(body) != count or count < 1 or max(features, labels) > MOST:
        raise Refusal("not as many documents as the header says")
    found = Documents()
    assert found.features is not None
    for line in body:
        chosen, sums = line_of(line, (features, labels))
        found.labels.append(chosen)
        found.features.append(sums)
    return found


def texts(data: bytes) -> Documents:
    """``{"text": …, "labels": […]}`` a line."""
    entries = [json_object(line) for line in text_of(data).split("\n") if line.strip()]
    kinds = set()
    found = Documents(features=None)
    for entry in entries:
        labels = entry.get("labels")
        given = labels if isinstance(labels, list) else [] if labels is None else [labels]
        if not isinstance(entry.get("text"), str):
            raise Refusal("no text")
        for label in given:
            if isinstance(label, bool) or not isinstance(label, str | int) or label == "":
                raise Refusal(f"not a label: {label!r}")
            kinds.add(type(label))
        found.labels.append({str(label) for label in given})
    if len(kinds) > 1:
        raise Refusal("strings and integers")
    json.dumps(list(entries), ensure_ascii=False).encode("utf-8", "surrogatepass")
    return found


def npz(documents: bytes, labels: bytes) -> Documents:
    """Two matrices in compressed sparse rows."""
    shape, rows = matrix(documents)
    other, chosen = matrix(labels)
    if shape[0] != other[0]:
        raise Refusal("matrices of different documents")
    found = Documents()
    found.labels = [{str(column) for column, value in row if value != 0} for row in chosen]
    found.features = []
    for row in rows:
        sums: dict[int, float] = {}
        for column, value in row:
            sums[column] = sums.get(column, 0.0) + value
        found.features.append(sums)
    return found


def matrix(data: bytes) -> tuple[tuple[int, int], list[list[tuple[int, float]]]]:
    """Shape and rows of a matrix that scipy saved."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if archive.testzip() is not None:
                raise Refusal("a part that is not whole")
            parts = {
                name: _array(archive.read(f"{name}.npy")) for name in ("indices", "indptr", "format", "shape", "data")
            }
    except (
        zipfile.BadZipFile,
        OSError,
        EOFError,
        ValueError,
        KeyError,
        NotImplementedError,
        RuntimeError,
        zlib.error,
    ) as error:
        raise Refusal(f"not an archive: {error}") from None
    if bytes(np.atleast_1d(parts["format"])[0:1].tobytes()).replace(b"\0", b"") != b"csr":
        raise Refusal("not in rows")
    if (
        parts["indices"].dtype.kind not in "iu"
        or parts["data"].dtype.kind not in "iufb"
        or parts["indptr"].dtype.kind not in "iu"
    ):
        raise Refusal("not numbers")
    shape, offsets = np.atleast_1d(parts["shape"]).tolist(), np.atleast_1d(parts["indptr"]).tolist()
    columns, values = np.atleast_1d(parts["indices"]).tolist(), np.atleast_1d(parts["data"]).astype(np.float32).tolist()
    good = (
        len(shape) == 2
        and len(offsets) == shape[0] + 1
        and offsets[0] == 0
        and offsets[-1] == len(columns) == len(values)
    )
    if not good or shape[0] < 1 or any(a > b for a, b in zip(offsets, offsets[1:], strict=False)):
        raise Refusal("rows that do not fit")
    if any(not 0 <= column < shape[1] for column in columns) or not all(map(math.isfinite, values)):
        raise Refusal("a column or a value that cannot be")
    pairs = list(zip(columns, values, strict=True))
    return (shape[0], shape[1]), [pairs[a:b] for a, b in zip(offsets, offsets[1:], strict=False)]


def _array(raw: bytes) -> Any:
    return np.lib.format.read_array(io.BytesIO(raw), allow_pickle=False)
