"""Features of queries and items: on disk, opened, in batches; and the text format that brings them."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from xclass.data.batches import BatchConfig, TrainBatches, inference_batches
from xclass.data.dataset import Dataset, open_dataset
from xclass.errors import ArtefactError, ConfigError, DataError, InputError
from xclass.ingest.ingest import ingest
from xclass.ingest.options import IngestOptions
from xclass.queries.queries import dataset_queries, queries_with_features
from xclass.types import Ragged

TRAIN = "4 5 3\n0,2 0:1 4:0.5\n 1:2\n1\n2 3:-1 1:1e-1\n"
TEST = "2 5 3\n1 2:1\n\n"


def made(tmp_path: Path, train: str = TRAIN, test: str | None = TEST, **options: object) -> Dataset:
    source = tmp_path / "raw"
    source.mkdir()
    (source / ("train.txt" if test is not None else "all.txt")).write_bytes(train.encode())
    if test is not None:
        (source / "test.txt").write_bytes(test.encode())
    return ingest(
        source if test is not None else source / "all.txt",
        tmp_path / "dataset",
        IngestOptions(**options),  # type: ignore[arg-type]
    )


def lists_of(ragged: Ragged) -> list[dict[int, float]]:
    assert ragged.weights is not None
    bounds = ragged.offsets.tolist()
    return [
        dict(zip(ragged.values[a:b].tolist(), ragged.weights[a:b].tolist(), strict=True))
        for a, b in zip(bounds[:-1], bounds[1:], strict=True)
    ]


def labels_of(dataset: Dataset, split: str) -> list[list[int]]:
    ids = dataset.items["item_id"].to_list()
    return [sorted(ids[item] for item in row) for row in dataset.split(split).to_lists()]


WANTED = [{0: 1.0, 4: 0.5}, {1: 2.0}, {}, {1: pytest.approx(0.1), 3: -1.0}, {2: 1.0}, {}]


@pytest.mark.parametrize("change", ["plain", "crlf", "blank lines after the end", "tabs", "duplicates"])
def test_every_document_keeps_its_features_and_its_part(tmp_path: Path, change: str) -> None:
    train = {
        "plain": TRAIN,
        "crlf": TRAIN.replace("\n", "\r\n"),
        "blank lines after the end": TRAIN + "\n  \n",
        "tabs": TRAIN.replace(" 4:0.5", "\t4:0.5  "),
        "duplicates": TRAIN.replace("0,2 0:1", "0,2,0 0:0.75 0:0.25"),
    }[change]
    dataset = made(tmp_path, train)
    assert lists_of(dataset.query_features["features"]) == WANTED
    assert labels_of(dataset, "train") == [[0, 2], [], [1], [2], [], []]
    assert labels_of(dataset, "test") == [[], [], [], [], [1], []]
    assert dataset.queries["split"].to_list() == ["train"] * 4 + ["test"] * 2
    assert dataset.queries["query_id"].to_list() == [1, 2, 3, 4, 5, 6]
    assert dataset.feature_sizes("query") == {"features": 5} and dataset.feature_sizes("item") == {}
    assert dataset.item_features == {}
    vocabulary = dataset.vocabulary("query", "features")
    assert vocabulary["feature"].to_list() == [0, 1, 2, 3, 4] and vocabulary["count"].to_list() == [1, 2, 0, 1, 1]
    dataset.verify()


def test_names_beside_the_file_name_labels_and_features(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "train.txt").write_text(TRAIN)
    (tmp_path / "raw" / "test.txt").write_text(TEST)
    (tmp_path / "raw" / "label_names.txt").write_text("zero\none\ntwo\n")
    (tmp_path / "raw" / "feature_names.txt").write_text("a\nb\nc\nd\ne\n")
    dataset = ingest(tmp_path / "raw", tmp_path / "dataset")
    assert dict(zip(dataset.items["item_id"], dataset.items["title"], strict=True)) == {0: "zero", 1: "one", 2: "two"}
    assert dataset.vocabulary("query", "features")["feature"].to_list() == list("abcde")
    (tmp_path / "raw" / "label_names.txt").write_text("zero\none\n")
    with pytest.raises(DataError, match="does not name every label"):
        ingest(tmp_path / "raw", tmp_path / "other")


def test_gzip_and_labels_that_no_document_has(tmp_path: Path) -> None:
    path = tmp_path / "docs.txt.gz"
    path.write_bytes(gzip.compress(b"3 2 9\n8 0:1\n8,1 1:1\n1 1:3\n"))
    dataset = ingest(path, tmp_path / "dataset", IngestOptions(test_fraction=0.34, valid_fraction=0.0))
    assert dataset.num_items == 9 and sorted(dataset.items["item_id"]) == list(range(9))
    assert dataset.queries["split"].to_list().count("test") == 1


def test_a_random_split_is_by_document(tmp_path: Path) -> None:
    lines = "".join(f"{n % 3},{3 + n % 4} {n}:1\n" for n in range(100))
    dataset = made(tmp_path, f"100 100 7\n{lines}", None, test_fraction=0.2, valid_fraction=0.1, seed=5)
    parts = dataset.queries["split"].to_list()
    assert {name: parts.count(name) for name in set(parts)} == {"train": 70, "valid": 10, "test": 20}
    for name in ("train", "valid", "test"):
        assert [len(row) for row in dataset.split(name).to_lists()] == [2 * (part == name) for part in parts]
    again = ingest(tmp_path / "raw" / "all.txt", tmp_path / "again", IngestOptions(valid_fraction=0.1, seed=5))
    other = ingest(tmp_path / "raw" / "all.txt", tmp_path / "other", IngestOptions(valid_fraction=0.1, seed=6))
    assert again.queries["split"].to_list() == parts != other.queries["split"].to_list()


def test_a_valid_part_cut_from_a_given_split_is_of_documents(tmp_path: Path) -> None:
    dataset = made(tmp_path, valid_fraction=0.5)
    parts = dataset.queries["split"].to_list()
    assert parts[4:] == ["test", "test"] and sorted(parts[:4]) == ["train", "train", "valid", "valid"]
    lengths = {name: dataset.split(name).lengths().tolist() for name in dataset.splits}
    for document, (part, wanted) in enumerate(zip(parts, (2, 0, 1, 1, 1, 0), strict=True)):
        assert {name: found[document] for name, found in lengths.items() if found[document]} in ({part: wanted}, {})


BAD = {
    "negative feature": ("0 -1:1", "line 2", "not the number of a feature"),
    "feature beyond": ("0 5:1", "line 2", "beyond the header's number"),
    "label beyond": ("3 1:1", "line 2", "beyond the header's number"),
    "negative label": ("-1 1:1", "line 2", "not the number of a label"),
    "nan": ("0 1:nan", "line 2", "not a finite number"),
    "infinity": ("0 1:inf", "line 2", "not a finite number"),
    "beyond float32": ("0 1:1e39", "line 2", "not a finite number"),
    "no value": ("0 1:", "line 2", "not a finite number"),
    "no number": ("0 :1", "line 2", "not the number of a feature"),
    "no colon": ("0 17", "line 2", "not a feature with its value"),
    "two colons": ("0 1:2:3", "line 2", "not a finite number"),
    "a hole in the labels": ("0,,1 1:1", "line 2", "not the number of a label"),
    "a comma at the end": ("0, 1:1", "line 2", "not the number of a label"),
    "blanks after the comma": ("0, 1 1:1", "line 2", "not the number of a label"),
    "minus zero": ("-0 1:1", "line 2", "not the number of a label"),
    "plus": ("0 +1:1", "line 2", "not the number of a feature"),
    "words": ("zero 1:1", "line 2", "not the number of a label"),
    "huge": ("99999999999999999999 1:1", "line 2", "beyond the header's number"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_line_is_named(tmp_path: Path, name: str) -> None:
    line, place, message = BAD[name]
    with pytest.raises(DataError, match=message) as caught:
        made(tmp_path, f"2 5 3\n{line}\n1 1:1\n", None)
    assert str(caught.value.where).endswith(place), caught.value.where
    assert not (tmp_path / "dataset").exists() and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("text", "place"),
    [("3 5 3\n0 1:1\n1 1:1\n", "end of file"), ("1 5 3\n0 1:1\n1 1:1\n", "line 3"), ("1 5 3\n", "end of file")],
)
def test_counts_that_are_not_the_headers(tmp_path: Path, text: str, place: str) -> None:
    with pytest.raises(DataError, match="header's number of documents") as caught:
        made(tmp_path, text, None, format="xmc")
    assert str(caught.value.where).endswith(place)


@pytest.mark.parametrize("header", ["4 5", "4 5 x", "-4 5 3", "0 5 3", "4 5 99999999999", "4 5 3 2"])
def test_a_bad_header(tmp_path: Path, header: str) -> None:
    with pytest.raises(DataError, match="header") as caught:
        made(tmp_path, TRAIN.replace("4 5 3", header, 1), None, format="xmc")
    assert str(caught.value.where).endswith("line 1")


def test_parts_of_different_datasets(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="another number of features"):
        made(tmp_path, TRAIN, TEST.replace("2 5 3", "2 6 3"))


@pytest.mark.parametrize("options", [{"query_col": "a"}, {"split": "time"}, {"min_item_count": 2}, {"split": "random"}])
def test_options_that_are_not_for_documents(tmp_path: Path, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        made(tmp_path, **options)


def test_an_unknown_field_is_named(tmp_path: Path) -> None:
    dataset = made(tmp_path)
    with pytest.raises(ArtefactError, match="no query features"):
        dataset.vocabulary("query", "feature")
    with pytest.raises(ConfigError, match="no side"):
        dataset.feature_sizes("queries")


@pytest.mark.parametrize("by", ["pair", "query"])
def test_batches_hold_the_features_of_their_rows(tmp_path: Path, by: str) -> None:
    dataset = made(tmp_path)
    batches = TrainBatches(dataset.split("train"), BatchConfig(by=by, size=2), 0, False, dataset.query_features)  # type: ignore[arg-type]
    seen = 0
    for batch in batches.epoch(0):
        assert batch.features["features"].values.dtype == torch.int64
        assert lists_of(batch.to("cpu").features["features"]) == [WANTED[query] for query in batch.query_ids.tolist()]
        seen += len(batch)
    assert seen == {"pair": 4, "query": 3}[by]
    plain = TrainBatches(dataset.split("train"), BatchConfig(by=by, size=2), 0, False)  # type: ignore[arg-type]
    assert all(batch.features == {} for batch in plain.epoch(0))


def test_inference_batches_hold_features(tmp_path: Path) -> None:
    dataset = made(tmp_path)
    order = torch.tensor([4, 0, 2])
    for batch in inference_batches(dataset.seen("test"), order, 2, dataset.query_features):
        assert lists_of(batch.features["features"]) == [WANTED[query] for query in batch.query_ids.tolist()]
    (positions, batch), *_ = dataset_queries(dataset, "test", only_with_positives=True).batches()
    assert lists_of(batch.features["features"]) == [WANTED[4]] and positions.tolist() == [0]
    for most in (0, -3):
        with pytest.raises(InputError, match="number of queries"):
            dataset_queries(dataset, "test", most=most)


def test_new_queries_by_their_features() -> None:
    given = {"text": Ragged.from_lists([[3, 1], []], [[0.5, 2.0], []])}
    queries = queries_with_features(given)
    (_, batch), *_ = queries.batches()
    assert queries.ids.to_list() == [0, 1] and batch.query_ids.tolist() == [-1, -1]
    assert lists_of(batch.features["text"]) == [{3: 0.5, 1: 2.0}, {}] and batch.history.to_lists() == [[], []]
    with pytest.raises(InputError):
        queries_with_features({})
    with pytest.raises(InputError):
        queries_with_features({**given, "title": Ragged.from_lists([[1]])})
    with pytest.raises(InputError, match="no numbers of features"):
        queries_with_features({"text": Ragged(torch.tensor([0, 1]), torch.tensor([1.5]))})


def test_a_large_file_equals_a_plain_reading(tmp_path: Path) -> None:
    generator = np.random.Generator(np.random.Philox(3))
    rows = []
    for _ in range(9_000):
        labels = sorted(set(generator.integers(0, 50, generator.integers(0, 4)).tolist()))
        features = sorted(set(generator.integers(0, 300, generator.integers(0, 6)).tolist()))
        rows.append((labels, {feature: float(np.float32(generator.normal())) for feature in features}))
    text = "".join(
        ",".join(map(str, labels)) + "".join(f" {key}:{value!r}" for key, value in features.items()) + "\n"
        for labels, features in rows
    ).replace("\n\n", "\n \n")
    dataset = made(tmp_path, f"9000 300 50\n{text}", None, test_fraction=0.0, valid_fraction=0.0)
    assert labels_of(dataset, "train") == [labels for labels, _ in rows]
    assert lists_of(dataset.query_features["features"]) == [features for _, features in rows]
    assert open_dataset(dataset.path).query_features["features"].values.dtype == torch.int32
