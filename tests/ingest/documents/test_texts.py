"""Raw text: how it is cut, counted and weighted, and the datasets that come of it."""

from __future__ import annotations

import gzip
import json
import math
import re
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from xclass.config import build_config
from xclass.data import vectorizer as vectoriser_module
from xclass.data.dataset import Dataset
from xclass.data.vectorizer import FILE, TextOptions, Vectoriser
from xclass.errors import ArtefactError, ConfigError, DataError
from xclass.ingest.ingest import ingest
from xclass.ingest.options import IngestOptions
from xclass.queries.blocks import read_query_blocks
from xclass.queries.files import read_query_file
from xclass.runs.inspect import describe
from xclass.types import Ragged

TEXTS = ["The cat sat. The CAT!", "a cat, a dog", "", "Ünïcode ünïcode naïve dog's", "dog"]


def plain_grams(text: str, options: TextOptions) -> Counter[str]:
    """The slow reference: one text, in plain Python."""
    words, found = re.findall(r"\w+", text.lower()), Counter[str]()
    for n in range(1, options.word_ngrams + 1):
        found.update(" ".join(words[start : start + n]) for start in range(len(words) - n + 1))
    n = options.char_ngrams
    for word in words if n else []:
        padded = f" {word} "
        found.update([padded] if len(padded) < n else [padded[s : s + n] for s in range(len(padded) - n + 1)])
    return found


def plain_features(texts: list[str], train: list[str], options: TextOptions) -> list[dict[str, float]]:
    df = Counter(gram for text in train for gram in plain_grams(text, options))
    result = []
    for text in texts:
        found = {g: t for g, t in plain_grams(text, options).items() if df[g] >= options.min_documents}
        if options.weighting in ("count", "binary"):
            result.append({g: float(t if options.weighting == "count" else 1) for g, t in found.items()})
            continue
        tf = {g: t if options.weighting == "tf-idf" else 1 + math.log(t) for g, t in found.items()}
        raw = {g: tf[g] * (math.log((1 + len(train)) / (1 + df[g])) + 1) for g in found}
        length = math.sqrt(sum(value**2 for value in raw.values()))
        result.append({g: value / length for g, value in raw.items()})
    return result


@pytest.mark.parametrize("weighting", ["log-tf-idf", "tf-idf", "count", "binary"])
@pytest.mark.parametrize(("words", "characters"), [(1, 0), (3, 0), (0, 3), (2, 4)])
def test_features_equal_a_plain_reading(weighting: Any, words: int, characters: int) -> None:
    options = TextOptions(word_ngrams=words, char_ngrams=characters, weighting=weighting, min_documents=1)
    fitted = Vectoriser.fit([pl.Series(TEXTS[:2]), pl.Series(TEXTS[2:4])], options)
    found = fitted.transform(pl.Series(TEXTS))
    names, place = fitted.vocabulary()["feature"].to_list(), 0
    for length, wanted in zip(found.lengths.tolist(), plain_features(TEXTS, TEXTS[:4], options), strict=True):
        values = found.values[place : place + length].tolist()
        assert values == sorted(values)
        got = dict(zip([names[value] for value in values], found.weights[place : place + length].tolist(), strict=True))
        assert got == pytest.approx(wanted, rel=1e-5)
        place += length


def test_the_vocabulary_is_the_most_frequent_and_numbered_so() -> None:
    texts = pl.Series(["b a", "b a c", "b c", "d"])
    kept = Vectoriser.fit([texts], TextOptions(min_documents=2, max_features=2)).vocabulary()
    assert kept["feature"].to_list() == ["b", "a"] and kept["count"].to_list() == [3, 2]
    with pytest.raises(DataError, match="no word is left"):
        Vectoriser.fit([pl.Series(["a", "b"])], TextOptions())


def test_rare_sequences_are_let_go_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectoriser_module, "GRAMS_IN_MEMORY", 40)
    blocks = [pl.Series([f"common word{n}{m}" for m in range(10)]) for n in range(30)]
    fitted = Vectoriser.fit(blocks, TextOptions(min_documents=1))
    assert fitted.vocabulary().row(0)[:2] == ("common", 300) and fitted.size <= 50


def test_hashed_numbers_are_the_same_everywhere() -> None:
    options = TextOptions(hash_bits=10, weighting="count")
    fitted = Vectoriser.fit([pl.Series(TEXTS)], options)
    assert fitted.size == 1024 and fitted.documents == 5
    found = fitted.transform(pl.Series(["cat dog cat"]))

    def number(word: str) -> int:
        return (zlib.crc32(word.encode()) * 0x9E3779B97F4A7C15) % 2**64 >> 54

    wanted = {number("cat"): 2.0, number("dog"): 1.0}
    assert dict(zip(found.values.tolist(), found.weights.tolist(), strict=True)) == wanted
    assert fitted.counts[number("dog")] == 3


def test_a_stored_vectoriser_gives_the_same_bits(tmp_path: Path) -> None:
    for options in (TextOptions(min_documents=1, char_ngrams=3), TextOptions(hash_bits=8)):
        fitted = Vectoriser.fit([pl.Series(TEXTS)], options)
        fitted.save(tmp_path)
        fitted.vocabulary().write_parquet(tmp_path / "vocabulary.parquet")
        before, after = (
            fitted.transform(pl.Series(TEXTS)),
            Vectoriser.load(tmp_path / FILE, fitted.vocabulary()).transform(pl.Series(TEXTS)),
        )
        assert before.values.tolist() == after.values.tolist() and before.weights.tolist() == after.weights.tolist()


def test_no_words_and_no_characters_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing is left"):
        build_config(TextOptions, {"word_ngrams": 0})


ROWS = [
    {"id": "c", "text": "red apple pie", "labels": ["fruit", "food"]},
    {"id": "a", "text": "green apple", "labels": ["fruit"]},
    {"id": "b", "text": "fast red car", "labels": None},
]
TEST = [{"id": "d", "text": "red fruit pear", "labels": ["fruit", "vehicle"]}]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".parquet":
        pl.DataFrame(rows, strict=False).write_parquet(path)
    else:
        raw = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


def features_of(dataset: Dataset, side: str) -> list[dict[str, float]]:
    ragged: Ragged = getattr(dataset, f"{side}_features")["text"]
    names, bounds = dataset.vocabulary(side, "text")["feature"].to_list(), ragged.offsets.tolist()
    assert ragged.weights is not None
    return [
        {
            names[value]: weight
            for value, weight in zip(ragged.values[a:b].tolist(), ragged.weights[a:b].tolist(), strict=True)
        }
        for a, b in zip(bounds[:-1], bounds[1:], strict=True)
    ]


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "parquet"])
def test_a_given_split_of_texts(tmp_path: Path, suffix: str) -> None:
    write_rows(tmp_path / "raw" / f"train.{suffix}", ROWS)
    write_rows(tmp_path / "raw" / f"test.{suffix}", TEST)
    options = TextOptions(min_documents=1)
    dataset = ingest(tmp_path / "raw", tmp_path / "out", IngestOptions(format="text", text=options))
    dataset.verify()
    assert dataset.queries["query_id"].to_list() == ["a", "b", "c", "d"]
    assert dataset.queries["split"].to_list() == ["train"] * 3 + ["test"]
    assert dataset.items["item_id"].to_list() == ["fruit", "food", "vehicle"]
    assert dataset.split("train").to_lists() == [[0], [], [0, 1], []]
    assert dataset.split("test").to_lists() == [[], [], [], [0, 2]]
    train = [row["text"] for row in ROWS]
    texts = ["green apple", "fast red car", "red apple pie", "red fruit pear"]
    for got, wanted in zip(features_of(dataset, "query"), plain_features(texts, train, options), strict=True):
        assert got == pytest.approx(wanted, rel=1e-5)
    assert features_of(dataset, "item") == [{}, {}, {}]  # no label's name is a word of the train documents
    assert dataset.feature_sizes("query") == dataset.feature_sizes("item") == {"text": 6}
    assert dataset.vectoriser().transform(pl.Series(["red"])).lengths.tolist() == [1]


def test_the_repository_s_raw_text(tmp_path: Path) -> None:
    """trn.json.gz, tst.json.gz and lbl.json.gz with title and content; labels are rows of lbl.json."""
    documents = [
        {"uid": "B2", "title": "red apple", "content": "sweet", "target_ind": [1, 0], "target_rel": [1.0, 1.0]},
        {"uid": "B1", "title": "red car", "content": "", "target_ind": [0], "target_rel": [1.0]},
    ]
    labels = [{"uid": "L0", "title": "red things"}, {"uid": "L1", "title": "apple"}, {"uid": "L2", "title": "unused"}]
    write_rows(tmp_path / "raw" / "trn.json.gz", documents)
    write_rows(tmp_path / "raw" / "tst.json.gz", [{**documents[0], "uid": "B3", "target_ind": []}])
    write_rows(tmp_path / "raw" / "lbl.json.gz", labels)
    options = IngestOptions(format="text", text=TextOptions(min_documents=1))
    dataset = ingest(tmp_path / "raw", tmp_path / "out", options)
    assert dataset.queries["query_id"].to_list() == ["B1", "B2", "B3"]
    assert dataset.items.select("item_id", "train_count", "title").rows() == [
        (0, 2, "red things"),
        (1, 1, "apple"),
        (2, 0, "unused"),
    ]
    assert [set(row) for row in features_of(dataset, "query")] == [{"red", "car"}] + [{"red", "apple", "sweet"}] * 2
    assert [set(row) for row in features_of(dataset, "item")] == [{"red"}, {"apple"}, set()]


def test_label_texts_by_id(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(tmp_path / "raw" / "train.jsonl", ROWS)
    write_rows(tmp_path / "names.jsonl", [{"id": "food", "text": "apple pie"}, {"id": "new", "text": "red car"}])
    options = IngestOptions(
        format="text",
        item_text=str(tmp_path / "names.jsonl"),
        text=TextOptions(min_documents=1),
        test_fraction=0.0,
        valid_fraction=0.0,
    )
    dataset = ingest(tmp_path / "raw" / "train.jsonl", tmp_path / "out", options)
    assert dataset.items.select("item_id", "title").rows() == [
        ("fruit", None),
        ("food", "apple pie"),
        ("new", "red car"),
    ]
    assert [set(row) for row in features_of(dataset, "item")] == [set(), {"apple", "pie"}, {"red", "car"}]
    assert "names.jsonl: 1 of 2 labels have no text, such as fruit" in capsys.readouterr().err
    write_rows(tmp_path / "names.jsonl", [{"id": "Food", "text": "a"}])
    with pytest.raises(DataError, match=r"(?s)not one label id is in the documents.*food.*got: Food"):
        ingest(tmp_path / "raw" / "train.jsonl", tmp_path / "other", options)
    write_rows(tmp_path / "names.jsonl", [{"id": "food", "text": "a"}, {"id": "food", "text": "b"}])
    with pytest.raises(DataError, match="the same id"):
        ingest(tmp_path / "raw" / "train.jsonl", tmp_path / "other", options)


BAD = {
    "not json": ('{"text": "a", "labels": ["x"]}\n{"text"', "line 2", "not JSON"),
    "no object": ('{"text": "a", "labels": ["x"]}\n\n[1]', "line 3", "not a JSON object"),
    "no text": ('{"text": "a", "labels": ["x"]}\n{"labels": ["x"]}', "line 2", "no text"),
    "an empty label": ('{"text": "a", "labels": ["x"]}\n{"text": "b", "labels": [""]}', "line 2", "not a label"),
    "a null label": ('{"text": "a", "labels": ["x"]}\n{"text": "b", "labels": ["y", null]}', "line 2", "not a label"),
    "an id is missing": ('{"text": "a", "labels": ["x"], "id": "1"}\n{"text": "b", "labels": []}', "line 2", "no id"),
    "no label column": ('{"text": "a"}', "a.jsonl", "looks like the labels"),
    "no text column": ('{"labels": ["a"]}', "a.jsonl", "looks like the text"),
    "labels of floats": ('{"text": "a", "labels": [1.5]}', "a.jsonl", "wrong type"),
    "text of numbers": ('{"text": 7, "labels": ["a"]}', "a.jsonl", "looks like the text"),
    "the same id twice": (
        '{"text": "a", "labels": ["x"], "id": "1"}\n{"text": "b", "labels": [], "id": "1"}',
        "",
        "the same id",
    ),
    "no labels at all": ('{"text": "a", "labels": []}', "", "no document has a label"),
    "not utf-8": (
        b'{"text": "a", "labels": ["x"]}\n{"text": "\xff", "labels": []}',
        "line 2, byte 11 of the line",
        "UTF-8",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_named(tmp_path: Path, case: str) -> None:
    content, place, message = BAD[case]
    raw = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "a.jsonl").write_bytes(raw + b"\n")
    options = IngestOptions(format="text", text=TextOptions(min_documents=1), test_fraction=0.0, valid_fraction=0.0)
    with pytest.raises(DataError, match=message) as caught:
        ingest(tmp_path / "a.jsonl", tmp_path / "out", options)
    assert str(caught.value.where).endswith(place)
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_a_bad_row_of_parquet_is_named(tmp_path: Path) -> None:
    pl.DataFrame({"text": ["a", None], "labels": [["x"], ["y"]]}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match="no text") as caught:
        ingest(tmp_path / "a.parquet", tmp_path / "out", IngestOptions(format="text"))
    assert str(caught.value.where).endswith("row 2")


def test_naming_the_text_column_is_enough(tmp_path: Path) -> None:
    rows = [{"words": f"word{n % 3} common", "tag": f"t{n % 2}"} for n in range(20)]
    write_rows(tmp_path / "a.jsonl", rows)
    dataset = ingest(tmp_path / "a.jsonl", tmp_path / "out", IngestOptions(text_col=("words",), item_col="tag"))
    assert dataset.num_items == 2 and dataset.manifest["report"]["documents"] == {"train": 14, "valid": 2, "test": 4}
    assert dataset.queries["query_id"].to_list() == list(range(1, 21))


def test_the_vocabulary_sees_train_only(tmp_path: Path) -> None:
    write_rows(tmp_path / "raw" / "train.jsonl", ROWS)
    write_rows(tmp_path / "raw" / "test.jsonl", [{"id": "z", "text": "unheard unheard red", "labels": ["fruit"]}])
    options = IngestOptions(format="text", text=TextOptions(min_documents=1))
    vocabulary = ingest(tmp_path / "raw", tmp_path / "out", options).vocabulary("query", "text")
    assert "unheard" not in vocabulary["feature"].to_list()
    assert dict(vocabulary.select("feature", "count").iter_rows())["red"] == 2


def test_a_dataset_without_texts_has_no_vectoriser(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("2 2 2\n0 0:1\n1 1:1\n")
    dataset = ingest(tmp_path / "a.txt", tmp_path / "out", IngestOptions(test_fraction=0.0, valid_fraction=0.0))
    with pytest.raises(ArtefactError, match="not made from raw text"):
        dataset.vectoriser()


def test_files_of_texts_name_queries(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one", "query_id": "x"}\n\n{"text": "two"}\n{"text": "", "query_id": 7}\n')
    found = read_query_file(path)
    assert found.texts is not None and found.texts.to_list() == ["one", "two", ""]
    assert found.query_ids.to_list() == ["x", "3", "7"]
    assert [block.query_ids.to_list() for block in read_query_blocks(path, 2)] == [["x", "3"], ["7"]]
    path.write_text('{"text": "one"}\n{"history": ["a"]}\n')
    with pytest.raises(DataError, match="no text") as caught:
        read_query_file(path)
    assert str(caught.value.where).endswith(":2")
    pl.DataFrame({"query_id": ["a", "b"], "text": ["one", "two"]}).write_parquet(tmp_path / "a.parquet")
    found = read_query_file(tmp_path / "a.parquet")
    assert found.texts is not None and found.texts.to_list() == ["one", "two"] and found.items is None
    (tmp_path / "b.csv").write_text("text\none\n")
    with pytest.raises(DataError, match="column is missing"):
        read_query_file(tmp_path / "b.csv")


def test_inspect_tells_of_features(tmp_path: Path) -> None:
    write_rows(tmp_path / "raw" / "trn.jsonl", ROWS)
    write_rows(tmp_path / "raw" / "tst.jsonl", TEST)
    dataset = ingest(tmp_path / "raw", tmp_path / "out", IngestOptions(text=TextOptions(min_documents=1)))
    found = describe(dataset.path)["features"]
    assert found["query"]["text"] == {"size": 6, "values": 9, "values_per_row": 2.25, "empty_rows": 0, "longest_row": 3}
    assert found["item"]["text"]["empty_rows"] == 3


def test_how_texts_are_cut_makes_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    options = TextOptions(min_documents=1, char_ngrams=3)
    whole = Vectoriser.fit([pl.Series(TEXTS)], options)
    wanted = whole.transform(pl.Series(TEXTS))
    monkeypatch.setattr(vectoriser_module, "BYTES_PER_SLICE", 12)
    parts = Vectoriser.fit([pl.Series(TEXTS)], options)
    assert parts.vocabulary().equals(whole.vocabulary())
    got = parts.transform(pl.Series(TEXTS))
    for name in ("lengths", "values", "weights"):
        assert getattr(got, name).tolist() == getattr(wanted, name).tolist()
