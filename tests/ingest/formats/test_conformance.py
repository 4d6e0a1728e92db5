"""The conformance suite over every format of documents; and that the suite can fail."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from xclass.data.features import Sparse
from xclass.ingest.formats import npz
from xclass.ingest.formats.document_blocks import Documents, Layout
from xclass.ingest.formats.documents import DOCUMENT_FORMATS
from xclass.ingest.formats.xmc import Xmc
from xclass.testing import check_document_format
from xclass.testing.document_format import Plain


def lines(documents: Plain) -> str:
    return "".join(
        ",".join(map(str, labels)) + "".join(f" {name}:{value!r}" for name, value in features.items()) + "\n"
        for labels, features in documents
    )


def write_xmc(folder: Path, documents: Plain, features: int, labels: int) -> Path:
    path = folder / "a.txt"
    path.write_text(f"{len(documents)} {features} {labels}\n{lines(documents)}")
    return path


def write_svmlight(folder: Path, documents: Plain, features: int, labels: int) -> Path:
    path = folder / "a.svm"
    path.write_text(lines(documents))
    return path


def write_npz(folder: Path, documents: Plain, features: int, labels: int) -> Path:
    def matrix(rows: list[dict[int, float]], columns: int) -> scipy.sparse.csr_matrix:
        offsets = np.cumsum([0, *map(len, rows)])
        names = np.array([name for row in rows for name in row], dtype=np.int32)
        values = np.array([value for row in rows for value in row.values()], dtype=np.float32)
        made = scipy.sparse.csr_matrix((len(rows), columns), dtype=np.float32)
        made.data, made.indices, made.indptr = values, names, offsets
        return made

    scipy.sparse.save_npz(folder / "X.a.npz", matrix([row for _, row in documents], features), compressed=False)
    scipy.sparse.save_npz(folder / "Y.a.npz", matrix([dict.fromkeys(row, 1.0) for row, _ in documents], labels))
    return folder / "X.a.npz"


WRITERS = {"xmc": write_xmc, "svmlight": write_svmlight, "npz": write_npz}


@pytest.mark.parametrize("name", DOCUMENT_FORMATS)
def test_every_format_keeps_the_contract(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz, "VALUES_PER_BLOCK", 1 << 14)
    check_document_format(DOCUMENT_FORMATS[name], WRITERS[name], tmp_path, empty=name != "svmlight")


class LosesWeights(Xmc):
    def read(self, path: Path, layout: Layout) -> Iterator[Documents]:
        for block in super().read(path, layout):
            found = block.features
            yield Documents(block.label_lengths, block.labels, Sparse(found.lengths, found.values, abs(found.weights)))


class SkipsTheFirst(Xmc):
    def read(self, path: Path, layout: Layout) -> Iterator[Documents]:
        blocks = super().read(path, layout)
        next(blocks)
        yield from blocks


@pytest.mark.parametrize("broken", [LosesWeights, SkipsTheFirst])
def test_the_suite_can_fail(broken: type[Xmc], tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        check_document_format(broken(), write_xmc, tmp_path)
