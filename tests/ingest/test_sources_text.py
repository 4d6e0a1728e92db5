"""Plain text as positions, against a reader that keeps everything in lists."""

import gzip
from collections import Counter

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies

from xclass.data.batches import BatchConfig, TrainBatches
from xclass.data.windows import Windows, follow_counts
from xclass.errors import ArtefactError, ConfigError, DataError
from xclass.ingest.append import append
from xclass.ingest.ingest import ingest
from xclass.ingest.options import IngestOptions
from xclass.ingest.report import render_report
from xclass.ingest.text import lines as text
from xclass.queries.queries import dataset_queries

TRAIN = "the cat sat\n\n  on the mat \nthe dog\tsat on\r\nthe <unk> cat\n"
VALID = "a cat sat on a dog\n"
TEST = "the dog sat </s>\nmat"


def corpus(folder, **parts):
    folder.mkdir(exist_ok=True)
    for name, lines in parts.items():
        (folder / f"{name}.txt").write_text(lines, encoding="utf-8")
    return folder


def slow(parts, vocabulary, context, borders, least):
    """(item ids with counts in the order of their numbers, part → list of (history, next item))."""
    sentences = {}
    for name, lines in parts.items():
        split = [line.split() for line in lines.split("\n")]
        split = [words[:-1] if words[-1:] == ["</s>"] else words for words in split]
        sentences[name] = [words for words in split if words]
    ends = [] if borders == "ignore" else ["</s>"]
    counts = Counter(word for words in sentences["train"] for word in words)
    counts.pop("<unk>", None)
    order = sorted(counts, key=lambda word: (-counts[word], word.encode()))
    order = [word for word in order if counts[word] >= least]
    kept = set(order if vocabulary is None else order[: vocabulary - 1 - len(ends)])
    found = {}
    for name, split in sentences.items():
        flat = []
        for words in split:
            flat += [word if word in kept else "<unk>" for word in words] + ends
        pairs = []
        for place, word in enumerate(flat):
            before = flat[max(place - context, 0) : place]
            if borders == "stop" and "</s>" in before:
                before = before[len(before) - before[::-1].index("</s>") :]
            pairs.append((before, word))
        found[name] = pairs
    totals = Counter(word for _, word in found["train"])
    items = sorted(kept | {"<unk>", *ends}, key=lambda word: (-totals[word], word.encode()))
    return [(word, totals[word]) for word in items], found


def read(dataset):
    ids = dataset.items["item_id"].to_list()
    found = {}
    for name in dataset.splits:
        truth = dataset.split(name)
        queries = truth.lengths().nonzero().squeeze(1)
        histories = dataset.history(name).take(queries).to_lists()
        targets = truth.take(queries).to_lists()
        assert all(len(target) == 1 for target in targets)
        found[name] = [
            ([ids[i] for i in history], ids[target[0]]) for history, target in zip(histories, targets, strict=True)
        ]
    return list(zip(ids, dataset.items["train_count"].to_list(), strict=True)), found


@pytest.mark.parametrize("borders", ["stop", "cross", "ignore"])
@pytest.mark.parametrize(("vocabulary", "context"), [(None, 4), (5, 1), (4, 3), (100, 2)])
def test_positions_are_those_of_the_text(tmp_path, borders, vocabulary, context):
    parts = {"train": TRAIN, "valid": VALID, "test": TEST}
    options = IngestOptions(format="text", vocabulary=vocabulary, context=context, borders=borders)
    dataset = ingest(corpus(tmp_path / "in", **parts), tmp_path / "out", options)
    dataset.verify()
    expected = slow(parts, vocabulary, context, borders, 2 if vocabulary is None else 1)
    assert read(dataset) == expected
    facts, ids = dataset.sequence, dataset.items["item_id"].to_list()
    assert ids[facts.unknown_item] == "<unk>" and (borders == "ignore" or ids[facts.border_item] == "</s>")
    assert dataset.num_items == len(ids) <= (vocabulary or len(ids))
    sizes = [len(expected[1][name]) for name in ("train", "valid", "test")]
    assert dataset.queries["query_id"].to_list() == list(range(1, sum(sizes) + 1))
    unknown = dataset.manifest["report"]["text"]["unknown"]
    assert unknown == {name: sum(word == "<unk>" for _, word in pairs) for name, pairs in expected[1].items()}
    assert f"up to {context} before it" in render_report(dataset.manifest["report"])


WORDS = strategies.sampled_from(["a", "b", "c", "dé", "<unk>"])
LINES = strategies.lists(strategies.lists(WORDS, max_size=4), min_size=1, max_size=8)


@hypothesis.settings(max_examples=25)
@hypothesis.given(LINES, LINES, strategies.sampled_from(["stop", "cross", "ignore"]), strategies.integers(3, 6))
def test_any_text(tmp_path_factory, train, test, borders, vocabulary):
    folder = tmp_path_factory.mktemp("text")
    parts = {"train": "a\n" + "\n".join(map(" ".join, train)), "test": "b\n" + "\n".join(map(" ".join, test))}
    options = IngestOptions(format="text", vocabulary=vocabulary, context=2, borders=borders)
    dataset = ingest(corpus(folder / "in", **parts), folder / "out", options)
    assert read(dataset) == slow(parts, vocabulary, 2, borders, 1)


def test_blocks_and_compression_change_nothing(tmp_path, monkeypatch):
    lines = "".join(f"w{n % 7} w{n % 3} w{n % 11}\n" for n in range(200))
    options = IngestOptions(format="text", context=2)
    whole = ingest(corpus(tmp_path / "in", train=lines, test=lines), tmp_path / "whole", options)
    monkeypatch.setattr(text.whole_lines, "__defaults__", (17,))
    pieces = ingest(tmp_path / "in", tmp_path / "pieces", options)
    assert pieces.fingerprint == whole.fingerprint
    folder = tmp_path / "packed"
    folder.mkdir()
    for name in ("train", "test"):
        with gzip.open(folder / f"{name}.txt.gz", "wb") as file:
            file.write(lines.encode())
    assert ingest(folder, tmp_path / "unpacked", options).fingerprint == whole.fingerprint


def test_one_file_is_divided_by_lines(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("".join(f"start{n} middle end\n" for n in range(2000)))
    options = IngestOptions(format="text", vocabulary=5000, context=2, test_fraction=0.3, valid_fraction=0.1)
    dataset = ingest(path, tmp_path / "out", options)
    shares = [dataset.manifest["splits"][name]["pairs"] / (4 * 2000) for name in ("train", "valid", "test")]
    assert shares == pytest.approx([0.6, 0.1, 0.3], abs=0.04)
    assert all(dataset.manifest["splits"][name]["pairs"] % 4 == 0 for name in dataset.splits)
    again = ingest(path, tmp_path / "again", options)
    other = ingest(path, tmp_path / "other", options.model_copy(update={"seed": 1}))
    assert again.fingerprint == dataset.fingerprint != other.fingerprint


def test_what_came_before_may_come_again(tmp_path):
    dataset = ingest(corpus(tmp_path / "in", train=TRAIN, test=TEST), tmp_path / "out", IngestOptions(format="text"))
    assert dataset.seen("test").take(torch.arange(dataset.num_queries)).to_lists() == [[]] * dataset.num_queries
    queries = dataset_queries(dataset, "test", True)
    assert len(queries) == dataset.manifest["splits"]["test"]["pairs"]
    batch = next(iter(queries.batches()))[1]
    assert batch.history.to_lists() == dataset.windows.take(queries.numbers).to_lists()


@pytest.mark.parametrize("by", ["pair", "query"])
def test_training_sees_every_position_with_its_history(tmp_path, by):
    dataset = ingest(
        corpus(tmp_path / "in", train=TRAIN * 9, test=TEST), tmp_path / "out", IngestOptions(format="text")
    )
    for hold_out in (True, False):
        batches = TrainBatches(dataset.split("train"), BatchConfig(by=by, size=7), 0, hold_out, windows=dataset.windows)
        seen = []
        for batch in batches.epoch(0):
            seen += batch.query_ids.tolist()
            expected = dataset.windows.take(batch.query_ids).to_lists() if hold_out else [[]] * len(batch)
            assert batch.history.to_lists() == expected
            assert batch.positives.to_lists() == dataset.split("train").take(batch.query_ids).to_lists()
        assert sorted(seen) == list(range(dataset.manifest["splits"]["train"]["pairs"]))


def test_windows_do_not_reach_into_another_part():
    windows = Windows([torch.tensor([5, 6, 7]), torch.tensor([], dtype=torch.int64), torch.tensor([8, 0, 9])], 2, 0)
    rows = torch.tensor([5, 0, 3, 2, 4])
    assert windows.take(rows).to_lists() == [[], [], [], [5, 6], [8]]
    assert len(windows) == 6 and windows.take(rows[:0]).to_lists() == []


def test_follow_counts_are_pairs_of_neighbours():
    items = [3, 1, 0, 1, 1, 3, 1, 0, 2]
    for stop in (None, 0):
        expected = Counter((a, b) for a, b in zip(items, items[1:], strict=False) if a != stop)
        found = follow_counts(torch.tensor(items), 4, stop)
        pairs = zip(found.rows().tolist(), found.values.tolist(), strict=True)
        assert dict(zip(pairs, found.weights.tolist(), strict=True)) == expected and len(found) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "text", "query_col": "user"}, "no effect on this source"),
        ({"format": "text", "split": "random"}, "divided already"),
        ({"format": "text", "split": "time"}, "divided already"),
        ({"format": "sequences", "vocabulary": 10}, "one of: plain text"),
        ({"format": "adjacency", "context": 3}, "one of: plain text"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        ingest(corpus(tmp_path / "in", train=TRAIN, test=TEST), tmp_path / "out", IngestOptions(**options))
    assert not (tmp_path / "out").exists()


def test_nothing_is_appended_to_a_text(tmp_path):
    folder = corpus(tmp_path / "in", train=TRAIN, test=TEST)
    ingest(folder, tmp_path / "out", IngestOptions(format="text"))
    with pytest.raises(ArtefactError, match="appended to a text"):
        append(folder, tmp_path / "out")


def test_text_that_can_not_be_read_is_named(tmp_path):
    folder = corpus(tmp_path / "in", train=TRAIN, test=TEST)
    (folder / "train.txt").write_bytes(b"fine\nfine too\nbad \xff here\n")
    with pytest.raises(DataError, match="not UTF-8") as caught:
        ingest(folder, tmp_path / "out", IngestOptions(format="text"))
    assert "line 3" in str(caught.value) and not (tmp_path / "out").exists()
    (folder / "train.txt").write_bytes(b"\n \n")
    with pytest.raises(DataError, match="no word"):
        ingest(folder, tmp_path / "out", IngestOptions(format="text"))


def test_a_byte_order_mark_is_no_word(tmp_path):
    folder = corpus(tmp_path / "in", train=TRAIN, test=TEST)
    plain = ingest(folder, tmp_path / "plain", IngestOptions(format="text"))
    (folder / "train.txt").write_bytes(b"\xef\xbb\xbf" + TRAIN.encode())
    assert ingest(folder, tmp_path / "marked", IngestOptions(format="text")).fingerprint == plain.fingerprint
    assert np.load(tmp_path / "plain" / "train" / "values.npy").dtype == np.int32
