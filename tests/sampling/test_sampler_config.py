"""[sampler]: every key reaches what is built, and what does not fit is refused before anything is written."""

from pathlib import Path

import pydantic
import pytest
import torch

from xclass.cli import main
from xclass.errors import ConfigError, DataError, InputError
from xclass.sampling.config import Known, SamplerConfig, build_sampler
from xclass.types import Ragged

COUNTS = torch.tensor([9, 5, 3, 1, 1, 0])
LISTS = Ragged.from_lists([[1, 2], [], [5]])
KNOWN = Known(3, 6, COUNTS, lambda path: LISTS)
EVERY = torch.arange(6)


def build(kind, **keys):
    return build_sampler(SamplerConfig(kind=kind, **keys), KNOWN)


def probabilities(sampler):
    return sampler.law.probability(EVERY)


def close(got, wanted):
    torch.testing.assert_close(got, torch.as_tensor(wanted, dtype=torch.float64), rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", ["uniform", "log-uniform", "fixed-unigram", "learned-unigram"])
def test_size_replacement_and_counts(kind):
    assert build(kind, num_sampled=3).num_sampled == 3 and build(kind).replacement
    sampler = build(kind, num_sampled=3, replacement=False, counts="tensorflow")
    assert (sampler.replacement, sampler.counts) == (False, "tensorflow")
    assert build(kind, num_sampled=3, replacement=False).counts == "calibrated"


def test_power_smoothing_and_file(tmp_path):
    close(probabilities(build("fixed-unigram")), (COUNTS + 1) ** 0.75 / ((COUNTS + 1) ** 0.75).double().sum())
    plain = {"power": 1.0, "smoothing": 0.0}
    close(probabilities(build("fixed-unigram", **plain)), COUNTS / COUNTS.double().sum())
    close(probabilities(build("fixed-unigram", power=1.0, smoothing=2.0)), (COUNTS + 2) / (COUNTS + 2).double().sum())
    path = tmp_path / "weights.txt"
    path.write_text("a,4\nb,0\n\nc,1\nd,1\ne,1\nf,1\n")
    close(probabilities(build("fixed-unigram", power=1.0, file=str(path))), torch.tensor([4.0, 0, 1, 1, 1, 1]) / 8)


def test_reserved_ids_and_shards():
    plain = {"power": 1.0, "smoothing": 0.0}
    close(probabilities(build("fixed-unigram", num_reserved_ids=2, **plain)), torch.tensor([0.0, 0, 3, 1, 1, 0]) / 5)
    shard = build("fixed-unigram", num_shards=2, shard=1, **plain)
    close(probabilities(shard), torch.tensor([0, 5.0, 0, 1, 0, 0]) / 6)


def test_window_and_decay():
    labels = torch.tensor([0, 0, 3])
    window, decay, plain = (
        build("learned-unigram", window=2),
        build("learned-unigram", decay=0.5),
        build("learned-unigram"),
    )
    for sampler in (window, decay, plain):
        sampler.update(labels)
        sampler.update(labels[2:])
    close(probabilities(plain), torch.tensor([3.0, 1, 1, 3, 1, 1]) / 10)
    close(probabilities(window), torch.tensor([1.0, 1, 1, 3, 1, 1]) / 8)
    close(probabilities(decay), torch.tensor([2.0, 1, 1, 2.5, 1, 1]) / 8.5)


def test_frequency():
    batch = Ragged.from_lists([[0, 4]])
    close(build("in-batch").log_expected_count(EVERY[:5], batch).exp(), 2 * COUNTS[:5] / 19.0)
    keys = {"frequency_rate": 0.3, "frequency_hashes": 2, "frequency_buckets": 4, "frequency_start": 0.25}
    sampler = build("in-batch", frequency="streaming", **keys)
    state = sampler.state()
    assert state["gap"].shape == (2, 4)
    close(sampler.log_expected_count(EVERY, batch).exp(), torch.full((6,), 0.25))
    single = build("in-batch", frequency="streaming", frequency_rate=0.3, frequency_start=0.25)
    for _ in range(2):
        single.learn(Ragged.from_lists([[5]]))
    close(single.log_expected_count(EVERY[5:], batch).exp(), [1 / (0.7 * 4 + 0.3)])


def test_in_batch_without_repeats():
    batch, generator = Ragged.from_lists([[0, 4], [4]]), torch.Generator().manual_seed(0)
    assert build("in-batch").draw(batch, generator).tolist() == [0, 4, 4]
    assert sorted(build("in-batch", replacement=False).draw(batch, generator).tolist()) == [0, 4]


def test_lists():
    batch, queries = Ragged.from_lists([[0], [0]]), torch.tensor([0, 2])
    generator = torch.Generator().manual_seed(0)
    given = build("given", num_sampled=0, file="lists.csv")
    assert given.draw(batch, generator, queries).tolist() == [[1, 2], [5, -1]]
    some = build("given", num_sampled=1, file="lists.csv")
    assert some.draw(batch, generator, queries).shape == (2, 1)
    assert build("hard", num_sampled=7).num_sampled == 7 and build("target", num_sampled=7).num_sampled == 7


MISPLACED = {
    "replacement": (False, "target"),
    "counts": ("tensorflow", "in-batch"),
    "per_query": (True, "in-batch"),
    "power": (0.5, "uniform"),
    "smoothing": (1.0, "log-uniform"),
    "num_reserved_ids": (1, "uniform"),
    "num_shards": (2, "uniform"),
    "shard": (1, "uniform"),
    "file": ("x.csv", "hard"),
    "window": (5, "fixed-unigram"),
    "decay": (0.5, "uniform"),
    "corrected": (True, "in-batch"),
    "frequency": ("streaming", "learned-unigram"),
    "frequency_rate": (0.1, "uniform"),
    "frequency_hashes": (2, "target"),
    "frequency_buckets": (9, "all"),
    "frequency_start": (0.5, "all"),
    "depth": (5, "given"),
    "refresh_epochs": (2, "uniform"),
    "factory": ("Flat", "uniform"),
    "proposal": ("bigram", "uniform"),
    "proposal_rate": (0.5, "learned-unigram"),
    "parts": (({"kind": "uniform"},), "uniform"),
    "num_sampled": (0, "uniform"),
}


def test_every_key_is_here():
    assert set(MISPLACED) | {"kind"} == set(SamplerConfig.model_fields)


@pytest.mark.parametrize("name", MISPLACED)
def test_a_misplaced_key_is_refused(name):
    value, kind = MISPLACED[name]
    more = {"file": "lists.csv"} if kind == "given" else {}
    with pytest.raises(pydantic.ValidationError, match=name):
        SamplerConfig(**{"kind": kind, name: value, **more})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"kind": "mixture"}, "at least one"),
        ({"kind": "given"}, "needs file"),
        ({"kind": "learned-unigram", "window": 5, "decay": 0.5}, "do not go together"),
        ({"kind": "fixed-unigram", "num_shards": 2, "shard": 2}, "shard is below"),
        ({"kind": "uniform", "counts": "tensorflow"}, "replacement = false"),
        ({"kind": "in-batch", "frequency_rate": 0.2}, "streaming"),
        ({"kind": "learned-unigram", "decay": 1.0}, "decay"),
        ({"kind": "uniform", "sampled": 3}, "sampled"),
        ({"kind": "zipf"}, "kind"),
    ],
)
def test_keys_that_do_not_go_together(keys, message):
    with pytest.raises(pydantic.ValidationError, match=message):
        SamplerConfig(**keys)


def test_log_uniform_wants_items_by_falling_frequency():
    with pytest.raises(ConfigError, match=r"item 3 with 4 train pairs after 3(.|\n)*fixed-unigram"):
        build_sampler(SamplerConfig(kind="log-uniform"), Known(3, 6, torch.tensor([9, 5, 3, 4, 1, 0])))


@pytest.mark.parametrize("lines", [5, 7])
def test_a_file_of_another_length_is_refused(tmp_path, lines):
    path = tmp_path / "weights.txt"
    path.write_text("1\n" * lines)
    with pytest.raises(ConfigError, match=f"6 weights(.|\n)*{lines}"):
        build("fixed-unigram", file=str(path))


@pytest.mark.parametrize(("text", "message"), [("1\nx\n", ":2"), ("1\n-1\n", "item 1"), ("1\nnan\n", "item 1")])
def test_a_file_with_bad_weights_is_refused(tmp_path, text, message):
    path = tmp_path / "weights.txt"
    path.write_text(text)
    with pytest.raises((DataError, InputError), match=message):
        build("fixed-unigram", file=str(path))


@pytest.mark.parametrize("kind", ["uniform", "log-uniform", "fixed-unigram", "learned-unigram"])
def test_more_distinct_items_than_there_are(kind):
    with pytest.raises(InputError, match="num_sampled ≤ 6"):
        build(kind, num_sampled=7, replacement=False)


@pytest.mark.parametrize(
    ("sampler", "said"),
    [
        ('kind = "uniform"\nnum_sampled = 71\nreplacement = false', "num_sampled ≤ 70"),
        ('kind = "uniform"\nwindow = 5', "window is not a key"),
        ('kind = "fixed-unigram"\nfile = "none.txt"', "can't be read"),
        ('kind = "given"\nfile = "none.csv"', "no such file"),
    ],
)
def test_the_command_line_says_it_in_one_error(tmp_path: Path, capsys, sampler: str, said: str):
    (tmp_path / "config.toml").write_text(f"[sampler]\n{sampler}\n")
    data, run = str(tmp_path / "dataset"), tmp_path / "run"
    assert main(["ingest", "planted:items=70,queries=80,pairs=1200", "--out", data]) == 0
    capsys.readouterr()
    before = {path.name for path in tmp_path.iterdir()}
    code = main(["train", data, "--config", str(tmp_path / "config.toml"), "--out", str(run), "--device", "cpu"])
    err = capsys.readouterr().err
    assert code == 1 and said in err and err.count("error:") == 1 and "Traceback" not in err
    assert {path.name for path in tmp_path.iterdir()} == before
