"""Planted text: its law is a law, its draws follow it, and what is stored of it is true."""

import math

import numpy as np
import pytest
import torch

from xclass.errors import ConfigError
from xclass.ingest.ingest import ingest
from xclass.ingest.options import IngestOptions
from xclass.ingest.synthetic.text import TextWorld

SMALL = TextWorld(items=40, words=3000, classes=5, length=6.0, first=0.5, second=0.3)
EVERY = np.arange(-1, 39)


def slow_probability(world, word, last, before):
    """The formula of the module, one word at a time."""
    if word < 0:
        return 0.0 if last < 0 else 1 / world.length
    inside = 1.0 if last < 0 else 1 - 1 / world.length
    own = world.class_of[word]
    if own < 0:
        return inside * world.share[word]
    total = 1.0
    for chance, follow, other in ((world.first, 0, last), (world.second, 1, before)):
        if other >= 0 and world.class_of[other] >= 0:
            total -= chance
            if world.followers[follow][world.class_of[other]] == own:
                total += chance * (1 - world.share[: world.classes].sum()) / world.share[world.class_of == own].sum()
    return inside * world.share[word] * total


@pytest.mark.parametrize(("last", "before"), [(-1, -1), (7, -1), (0, -1), (7, 12), (0, 12), (7, 0), (1, 2)])
def test_probabilities_are_the_formula_and_sum_to_one(last, before):
    found = SMALL.probability(EVERY, np.full(40, last), np.full(40, before))
    assert found == pytest.approx([slow_probability(SMALL, word, last, before) for word in EVERY])
    assert found.sum() == pytest.approx(1)


def test_draws_follow_the_law():
    words, chances = SMALL.block(0, 20_000)
    start = np.concatenate([[True], words[:-1] < 0])
    last = np.where(start, -1, np.concatenate([[-1], words[:-1]]))
    early = start | np.concatenate([[True], start[:-1]])
    before = np.where(early, -1, np.concatenate([[-1, -1], words[:-2]]))
    assert chances == pytest.approx(SMALL.probability(words, last, before))
    for case in ((-1, -1), (7, -1), (7, 12), (6, 5), (2, 9)):
        mine = words[(last == case[0]) & (before == case[1])]
        expected = SMALL.probability(EVERY, np.full(40, case[0]), np.full(40, case[1]))
        share = np.bincount(mine + 1, minlength=40) / len(mine)
        assert len(mine) > 50 and np.abs(share - expected).max() < 5 * math.sqrt(0.25 / len(mine))
    assert np.diff(np.flatnonzero(words < 0)).mean() == pytest.approx(7, rel=0.02)


def test_words_keep_their_frequency():
    world = TextWorld(items=2000, words=0, classes=20)
    words, _ = world.block(1, 20_000)
    share = np.bincount(words[words >= 0], minlength=1999) / (words >= 0).sum()
    assert np.abs(share[:300] / world.share[:300] - 1).mean() < 0.1
    assert np.ptp(world.class_mass) / world.class_mass.mean() < 0.1


def test_what_is_stored_is_what_was_drawn(tmp_path):
    spec = "planted-text:items=40,words=9000,classes=5,length=6,first=.5,second=.3"
    dataset = ingest(spec, tmp_path / "out", IngestOptions(context=2))
    facts, planted = dataset.sequence, dataset.manifest["planted_text"]
    world = TextWorld(**{key: value for key, value in planted.items() if key != "perplexity"})
    ids = dataset.items["item_id"].to_list()
    ranks = np.array([-1 if name == "</s>" else int(name[1:]) for name in ids])
    assert sorted(ranks) == EVERY.tolist() and facts.context == 2 and facts.unknown_item is None
    assert ranks[facts.border_item] == -1 and dataset.splits == ("train", "valid", "test")
    assert dataset.item_counts.tolist() == np.bincount(dataset.split("train").values, minlength=40).tolist()
    assert sum(part["pairs"] for part in dataset.manifest["splits"].values()) == pytest.approx(9000, rel=0.05)
    for part in dataset.splits:
        truth = dataset.split(part)
        queries = truth.lengths().nonzero().squeeze(1)
        histories = dataset.windows.take(queries).to_lists()
        logs = []
        for history, item in zip(histories, truth.values.tolist(), strict=True):
            last, before = ([-1, -1, *ranks[history]][-1], [-1, -1, *ranks[history]][-2])
            logs.append(math.log(slow_probability(world, ranks[item], last, before)))
        assert planted["perplexity"][part] == pytest.approx(math.exp(-np.mean(logs)))
    again = ingest(spec, tmp_path / "again", IngestOptions(context=2))
    other = ingest(spec, tmp_path / "other", IngestOptions(context=2, seed=1))
    assert again.fingerprint == dataset.fingerprint != other.fingerprint
    whole = ingest(spec, tmp_path / "whole", IngestOptions(test_fraction=0.0, valid_fraction=0.0))
    lengths = whole.split("train").lengths()
    assert whole.splits == ("train",) and torch.equal(lengths, torch.ones(len(whole.windows)).long())


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("items=40,words=9,classes=20", {}, "does not fit"),
        ("items=400,words=9,first=.9,second=.2", {}, "does not fit"),
        ("items=400,words=0", {}, "does not fit"),
        ("items=400", {}, "needs words"),
        ("items=400,words=90,topics=3", {}, "has no"),
        ("items=400,words=90", {"vocabulary": 10}, "has no effect"),
        ("items=400,words=90", {"split": "time"}, "at random"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, spec, options, message):
    with pytest.raises(ConfigError, match=message):
        ingest(f"planted-text:{spec}", tmp_path / "out", IngestOptions(**options))
