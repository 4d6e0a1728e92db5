"""Documents out of a dataset and back again, in every format that writes them."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch

from xclass.cli import main
from xclass.data.dataset import Dataset
from xclass.data.vectorizer import TextOptions
from xclass.errors import ArtefactError, DataError
from xclass.ingest.documents.export import WRITERS, export_documents
from xclass.ingest.formats.documents import DOCUMENT_FORMATS
from xclass.ingest.ingest import ingest
from xclass.ingest.options import IngestOptions
from xclass.queries.queries import dataset_queries, queries_by_id

TRAIN = "5 6 4\n2,0 0:1 4:0.1\n 1:-2.5\n1\n2 3:1e-7 1:3\n0,2 5:16777216\n"
TEST = "2 6 4\n1 2:1\n\n"


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "train.txt").write_text(TRAIN)
    (tmp_path / "raw" / "test.txt").write_text(TEST)
    return ingest(tmp_path / "raw", tmp_path / "dataset")


def content(dataset: Dataset) -> dict[str, Any]:
    """Everything a dataset holds, in external ids."""
    ids = dataset.items["item_id"].cast(str).to_list()
    features = dataset.query_features["features"]
    assert features.weights is not None
    return {
        "parts": dataset.queries["split"].to_list(),
        "features": (features.offsets.tolist(), features.values.tolist(), features.weights.tolist()),
        **{
            name: [sorted(ids[item] for item in row) for row in dataset.split(name).to_lists()]
            for name in dataset.splits
        },
    }


def test_what_can_be_written_can_be_read() -> None:
    assert set(WRITERS) == set(DOCUMENT_FORMATS)


@pytest.mark.parametrize("form", ["xmc", "npz"])
def test_round_trip(dataset: Dataset, tmp_path: Path, form: str) -> None:
    said = export_documents(dataset, tmp_path / "out", form)
    assert said["documents"] == {"train": 5, "test": 2} and said["labels"] == 4
    back = ingest(tmp_path / "out", tmp_path / "back")
    assert content(back) == content(dataset)
    if form == "xmc":  # a matrix has no order of labels
        assert back.fingerprint == dataset.fingerprint


def test_round_trip_through_svmlight(dataset: Dataset, tmp_path: Path) -> None:
    """What svmlight can't say is lost: a document with nothing, a label or a last feature that no document has."""
    (tmp_path / "raw" / "train.txt").write_text(TRAIN)
    (tmp_path / "raw" / "test.txt").write_text("1 6 4\n3 2:1\n")
    whole = ingest(tmp_path / "raw", tmp_path / "whole")
    export_documents(whole, tmp_path / "out", "svmlight")
    assert (tmp_path / "out" / "test.svm").read_text() == "3 2:1.0\n"
    assert content(ingest(tmp_path / "out", tmp_path / "back")) == content(whole)


def test_matrices_are_scipy_s(dataset: Dataset, tmp_path: Path) -> None:
    export_documents(dataset, tmp_path / "out", "npz")
    train = scipy.sparse.load_npz(tmp_path / "out" / "X.trn.npz")
    labels = scipy.sparse.load_npz(tmp_path / "out" / "Y.trn.npz")
    assert train.dtype == np.float32 and train.shape == (5, 6) and labels.shape == (5, 4)
    assert train[0, 4] == np.float32(0.1) and train[1, 1] == -2.5 and train[4, 5] == 16777216
    assert labels.toarray().tolist() == [[1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 1, 0]]
    assert train.has_sorted_indices and labels.has_sorted_indices


def test_named_labels_and_a_random_split(tmp_path: Path) -> None:
    rows = "".join(f'{{"text": "word{n % 5} and word{n % 3}", "labels": ["l {n % 4}", "x"]}}\n' for n in range(40))
    (tmp_path / "a.jsonl").write_text(rows)
    options = IngestOptions(format="text", text=TextOptions(min_documents=1), valid_fraction=0.2)
    dataset = ingest(tmp_path / "a.jsonl", tmp_path / "dataset", options)
    export_documents(dataset, tmp_path / "out", "xmc")
    back = ingest(tmp_path / "out", tmp_path / "back")
    assert sorted(back.items["title"]) == ["l 0", "l 1", "l 2", "l 3", "x"]
    assert (
        back.vocabulary("query", "features")["feature"].to_list()
        == dataset.vocabulary("query", "text")["feature"].to_list()
    )
    for part in ("train", "valid", "test"):
        ours = [row for row in dataset.split(part).to_lists() if row]
        assert [row for row in back.split(part).to_lists() if row] == ours
    with pytest.raises(DataError, match="svmlight can't write"):
        export_documents(dataset, tmp_path / "svm", "svmlight")
    assert not (tmp_path / "svm").exists()


def test_hidden_pairs_go_out_and_come_back(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "train.txt").write_text(TRAIN)
    (tmp_path / "raw" / "test.txt").write_text(TEST)
    (tmp_path / "raw" / "filter_labels_train.txt").write_text("0 3\n4 1\n4 0\n")
    (tmp_path / "raw" / "filter_labels_test.txt").write_text("1 2\n")
    dataset = ingest(tmp_path / "raw", tmp_path / "dataset")
    ids = dataset.items["item_id"].to_list()
    assert dataset.hidden is not None
    hidden = [sorted(ids[item] for item in row) for row in dataset.hidden.to_lists()]
    assert hidden == [[3], [], [], [], [0, 1], [], [2]]
    queries = queries_by_id(dataset, dataset.queries["query_id"].gather([4, 0]))
    assert [len(row) for row in queries.hidden_from(torch.tensor([1, 0])).to_lists()] == [1, 2]
    assert dataset_queries(dataset).hidden is dataset.hidden
    export_documents(dataset, tmp_path / "out", "xmc")
    assert ingest(tmp_path / "out", tmp_path / "back").fingerprint == dataset.fingerprint
    (tmp_path / "raw" / "filter_labels_test.txt").write_text("1 2\n2 0\n")
    with pytest.raises(DataError, match="not a pair") as caught:
        ingest(tmp_path / "raw", tmp_path / "bad")
    assert str(caught.value.where).endswith("line 2")


def test_the_command(dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["export", str(dataset.path), "--format", "xmc", "--out", str(out)]) == 0
    assert (out / "train.txt").read_text().splitlines()[:2] == ["5 6 4", "2,0 0:1.0 4:0.1"]
    with pytest.raises(ArtefactError):
        export_documents(dataset, out, "xmc")
    assert main(["export", str(dataset.path), "--format", "xmc", "--out", str(out)]) == 1
    assert main(["export", str(dataset.path), "--format", "xmc"]) == 2
    assert main(["export", str(dataset.path), "--out", str(out)]) == 2
    assert main(["inspect", str(dataset.path)]) == 0
    assert "features" in capsys.readouterr().out


def test_pairs_have_no_documents_to_export(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("user,item\n1,2\n2,3\n")
    with pytest.raises(DataError, match="no documents"):
        export_documents(ingest(tmp_path / "a.csv", tmp_path / "dataset"), tmp_path / "out", "xmc")


def save(path: Path, matrix: Any, **changes: Any) -> None:
    arrays = {"indices": matrix.indices, "indptr": matrix.indptr, "format": np.array(b"csr"), "shape": matrix.shape}
    np.savez(path, **(arrays | {"data": matrix.data} | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"indices": np.array([0, 9], dtype=np.int32)}, "a column or a value"),
        ({"indices": np.array([0, -1], dtype=np.int32)}, "a column or a value"),
        ({"data": np.array([1.0, np.nan])}, "a column or a value"),
        ({"indptr": np.array([0, 2, 1])}, "rows of this matrix do not fit"),
        ({"indptr": np.array([0, 1, 3])}, "rows of this matrix do not fit"),
        ({"indptr": np.array([0, 2])}, "rows of this matrix do not fit"),
        ({"shape": np.array([2, 2**40])}, "shape of this matrix"),
        ({"format": np.array(b"csc")}, "not in compressed sparse rows"),
        ({"data": np.array([[1.0, 2.0]])}, "not a whole sparse matrix"),
        ({"data": np.array([{}, None], dtype=object)}, "not a whole sparse matrix"),
    ],
)
def test_a_matrix_that_can_not_be(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    good = scipy.sparse.csr_matrix(np.array([[1.0, 0, 0], [0, 2.0, 0]], dtype=np.float32))
    scipy.sparse.save_npz(tmp_path / "Y.trn.npz", good)
    save(tmp_path / "X.trn.npz", good, **changes)
    with pytest.raises(DataError, match=message):
        ingest(tmp_path, tmp_path / "out")


def test_matrices_of_scipy_are_read_compressed_or_not(tmp_path: Path) -> None:
    documents = scipy.sparse.random(30, 20, 0.2, format="csr", dtype=np.float32, random_state=3)
    labels = (scipy.sparse.random(30, 8, 0.3, format="csr", random_state=4) > 0).astype(np.float32).tocsr()
    for compressed in (True, False):
        folder = tmp_path / str(compressed)
        folder.mkdir()
        for name, matrix in (("X", documents), ("Y", labels)):
            for part in ("trn", "tst"):
                scipy.sparse.save_npz(folder / f"{name}.{part}.npz", matrix, compressed=compressed)
        found = ingest(folder, tmp_path / f"out-{compressed}")
        ids, train = found.items["item_id"].to_list(), found.split("train").to_lists()
        for row in range(30):
            assert sorted(ids[item] for item in train[row]) == labels[row].indices.tolist()
        features = found.query_features["features"].slice(30, 60)
        dense = np.zeros((30, 20), dtype=np.float32)
        dense[features.rows().numpy(), features.values.numpy()] = features.weights
        assert (dense == documents.toarray()).all()
    with zipfile.ZipFile(tmp_path / "True" / "X.tst.npz") as file:
        short = file.read("data.npy")
    (tmp_path / "True" / "X.tst.npz").write_bytes(short[:50])
    with pytest.raises(DataError, match="not a whole sparse matrix"):
        ingest(tmp_path / "True", tmp_path / "bad")
    (tmp_path / "True" / "Y.trn.npz").unlink()
    with pytest.raises(DataError, match="labels' matrix is missing"):
        ingest(tmp_path / "True", tmp_path / "bad")


SVM = "# comment\n\n+1,b qid:3 1:0.5 7:2  # tail\n 3:1\nb 1:1\n"


def test_svmlight(tmp_path: Path) -> None:
    (tmp_path / "train.svm").write_text(SVM)
    (tmp_path / "test.svm").write_text("c 2:1\r\n")
    dataset = ingest(tmp_path, tmp_path / "out")
    assert content(dataset) == {
        "parts": ["train"] * 3 + ["test"],
        "features": ([0, 2, 3, 4, 5], [1, 7, 3, 1, 2], [0.5, 2.0, 1.0, 1.0, 1.0]),
        "train": [["+1", "b"], [], ["b"], []],
        "test": [[], [], [], ["c"]],
    }
    assert dataset.feature_sizes("query") == {"features": 8}
    for line, place in (("a 1:x", "line 2"), ("a,,b 1:1", "line 2"), ("a -1:1", "line 2"), ("a 999999999:1", "line 2")):
        (tmp_path / "train.svm").write_text(f"a 1:1\n{line}\n")
        with pytest.raises(DataError) as caught:
            ingest(tmp_path, tmp_path / "bad")
        assert str(caught.value.where).endswith(place)


def test_published_split_files(tmp_path: Path) -> None:
    (tmp_path / "Tiny_data.txt").write_text("4 3 2\n0 0:1\n1 1:1\n0 2:1\n1 0:2\n")
    (tmp_path / "tiny_trSplit.txt").write_text("1 4\n2 3\n3 1\n")
    (tmp_path / "tiny_tstSplit.txt").write_text("4 2\n")
    first = ingest(tmp_path, tmp_path / "first")
    second = ingest(tmp_path, tmp_path / "second", IngestOptions(split_number=2))
    assert first.queries["split"].to_list() == ["train", "train", "train", "test"]
    assert second.queries["split"].to_list() == ["train", "test", "train", "train"]
    for changed, message in (("5 1\n", "not the number"), ("1 1\n", "in train and in test"), ("4\n", "fewer splits")):
        (tmp_path / "tiny_tstSplit.txt").write_text(changed)
        with pytest.raises(DataError, match=message):
            ingest(tmp_path, tmp_path / "bad", IngestOptions(split_number=2 if "fewer" in message else 1))
    (tmp_path / "tiny_tstSplit.txt").write_text("\n")
    with pytest.raises(DataError, match="neither part"):
        ingest(tmp_path, tmp_path / "bad")


def test_the_repository_s_file_names(tmp_path: Path) -> None:
    (tmp_path / "eurlex_train.txt").write_text(TRAIN)
    (tmp_path / "eurlex_test.txt").write_text(TEST)
    dataset = ingest(tmp_path, tmp_path / "out")
    assert dataset.manifest["split"] == "given" and dataset.queries["split"].to_list().count("test") == 2
