"""The planted world: its probabilities, draws that follow them, its datasets, and the best possible recall."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from xclass.data.dataset import Dataset
from xclass.errors import ArtefactError, ConfigError, InputError, XclassError
from xclass.ingest.ingest import ingest
from xclass.ingest.options import IngestOptions
from xclass.ingest.synthetic import world as planted_model
from xclass.ingest.synthetic.oracle import external_number, world_item
from xclass.ingest.synthetic.pairs import (
    PlantedModel,
    best_recall,
    model_items,
    parse_planted,
    planted_world,
    true_probabilities,
)
from xclass.ingest.synthetic.world import first_distinct
from xclass.runtime.rng import numpy_generator

SMALL = PlantedModel(num_items=130, num_queries=60, pairs=900, num_topics=7, seed=3)


def slow_probability(model: PlantedModel, query: int, item: int) -> float:
    """The formula of the module's docstring, written out."""
    taste = numpy_generator(model.seed, "planted tastes", 0).normal(size=(model.num_queries, model.latent_dim))[query]
    shares = [(c + 1) ** -0.5 for c in range(model.num_topics)]
    appeal = [s * np.exp(model.sharpness * taste @ t) for s, t in zip(shares, model.directions, strict=True)]
    topic, rank = item % model.num_topics, item // model.num_topics
    ranks = range(len([m for m in range(model.num_items) if m % model.num_topics == topic]))
    zipf = [(r + model.zipf_shift) ** -model.zipf_exponent for r in ranks]
    return appeal[topic] / sum(appeal) * zipf[rank] / sum(zipf)


def test_probabilities_are_the_formula_and_sum_to_one() -> None:
    queries = np.array([0, 17, 59])
    probabilities = SMALL.probabilities(queries)
    assert probabilities.shape == (3, 130)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-12)
    for row, query in enumerate(queries):
        for item in (0, 6, 7, 63, 129):
            np.testing.assert_allclose(probabilities[row, item], slow_probability(SMALL, int(query), item), rtol=1e-12)
    log = SMALL.log_probability(np.array([17, 59]), np.array([129, 0]))
    np.testing.assert_allclose(log, np.log(probabilities[[1, 2], [129, 0]]), rtol=1e-12)


def test_log_probability_is_an_inner_product() -> None:
    log = np.log(SMALL.probabilities(np.arange(60)))
    # taste (latent_dim) and popularity: with the row's own constant that is the rank of the matrix, less the item part
    assert np.linalg.matrix_rank(log, tol=1e-8) <= SMALL.latent_dim + 2


def test_draws_follow_the_probabilities() -> None:
    query, count = 5, 40_000
    items = SMALL.draw(np.full(count, query), numpy_generator(0, "test"))
    expected = count * SMALL.probabilities(np.array([query]))[0]
    common = expected >= 5
    observed = np.bincount(items, minlength=130)
    result = stats.chisquare(
        np.append(observed[common], observed[~common].sum()), np.append(expected[common], expected[~common].sum())
    )
    assert result.pvalue > 1e-3


def test_a_query_s_first_pair_follows_the_probabilities_and_none_comes_twice() -> None:
    totals, observed = np.zeros(130), np.zeros(130)
    for seed in range(150):
        model = PlantedModel(num_items=130, num_queries=60, pairs=900, num_topics=7, seed=seed)
        lengths, items = model.sample_block(0)
        starts = np.cumsum(lengths) - lengths
        observed += np.bincount(items[starts], minlength=130)
        totals += model.probabilities(np.arange(60)).sum(axis=0)
        rows = np.repeat(np.arange(60), lengths)
        assert len(np.unique(rows * 130 + items)) == 900
    assert stats.chisquare(observed, totals).pvalue > 1e-3


def test_exact_completion_draws_the_rest_one_after_another() -> None:
    # the second of successive draws without repeats: P(j) = Σ_i p_i · p_j / (1 - p_i)
    model = PlantedModel(num_items=16, num_queries=1, pairs=4, num_topics=2, sharpness=0.5)
    p = model.probabilities(np.array([0]))[0]
    second = np.array([sum(p[i] * p[j] / (1 - p[i]) for i in range(16) if i != j) for j in range(16)])
    draw, observed = numpy_generator(1, "first"), np.zeros(16)
    for first in draw.choice(16, p=p, size=4000):
        rows, items = model._complete(0, np.array([0]), np.array([first]), np.array([3]), draw)
        assert (items[0], len(set(items.tolist())), rows.tolist()) == (first, 4, [0, 0, 0, 0])
        observed[items[1]] += 1
    assert stats.chisquare(observed, 4000 * second).pvalue > 1e-3


def test_a_world_with_nearly_used_up_favourites_is_still_exact_in_size() -> None:
    model = PlantedModel(num_items=24, num_queries=40, pairs=240, num_topics=4, sharpness=8.0, zipf_exponent=3.0)
    lengths, items = model.sample_block(0)
    rows = np.repeat(np.arange(40), lengths)
    assert lengths.sum() == len(items) == 240
    assert len(np.unique(rows * 24 + items)) == 240


def test_with_many_items_short_queries_are_drawn_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """From a catalogue too large to be weighed as a whole for one query, items come by drawing on: the same law."""
    monkeypatch.setattr(planted_model, "EXACT_CELLS", 8)
    monkeypatch.setattr(planted_model, "REJECTION_ROUNDS", 1)
    p = PlantedModel(num_items=16, num_queries=1, pairs=3, num_topics=2, sharpness=0.5, seed=0)
    probability = p.probabilities(np.array([0]))[0]
    wanted, observed = np.zeros(16), np.zeros(16)
    ordered = [(i, j) for i in range(16) for j in range(16) if i != j]
    for i, j in ordered:
        left = 1 - probability[i] - probability[j]
        third = np.where(np.isin(np.arange(16), [i, j]), 0, probability) / left
        wanted += third * probability[i] * probability[j] / (1 - probability[i])
    monkeypatch.setattr(PlantedModel, "_complete", lambda *_: pytest.fail("all items were weighed"))
    theta = p.block_topics(0)
    monkeypatch.setattr(PlantedModel, "block_topics", lambda self, block: theta)
    for seed in range(2000):
        model = PlantedModel(num_items=16, num_queries=1, pairs=3, num_topics=2, sharpness=0.5, seed=seed)
        items = model.sample_block(0)[1]
        assert len(set(items.tolist())) == 3
        observed[items[2]] += 1
    assert stats.chisquare(observed, 2000 * wanted).pvalue > 1e-3


def test_first_distinct_keeps_the_order_of_drawing() -> None:
    rows, items = first_distinct(np.array([0, 0, 0, 0, 1]), np.array([9, 2, 9, 4, 9]), np.array([3, 1]))
    assert (rows.tolist(), items.tolist()) == ([0, 0, 0, 1], [9, 2, 4, 9])


def test_blocks_are_made_alone_and_share_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planted_model, "QUERIES_PER_BLOCK", 16)
    lengths = [SMALL.lengths(block) for block in range(SMALL.num_blocks)]
    assert [len(part) for part in lengths] == [16, 16, 16, 12]
    assert sum(int(part.sum()) for part in lengths) == 900
    assert min(int(part.min()) for part in lengths) >= 4
    alone = SMALL.sample_block(2)[1]
    SMALL.sample_block(0)
    np.testing.assert_array_equal(SMALL.sample_block(2)[1], alone)
    np.testing.assert_array_equal(SMALL.topic_weights(np.array([33, 0]))[0], SMALL.block_topics(2)[1])


def test_popularity_inside_a_topic_is_zipf() -> None:
    model = PlantedModel(num_items=3200, num_queries=2000, pairs=200_000, seed=1)
    counts = np.bincount(model.draw(np.repeat(np.arange(2000), 200), numpy_generator(0, "zipf")), minlength=3200)
    by_rank = counts.reshape(-1, model.num_topics).sum(axis=1)  # rank r of every topic together
    slope = np.polyfit(np.log(np.arange(100) + model.zipf_shift), np.log(by_rank), 1)[0]
    assert slope == pytest.approx(-model.zipf_exponent, abs=0.05)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    source = "planted:items=600,queries=800,pairs=20000,topics=12,seed=2"
    return ingest(source, tmp_path_factory.mktemp("planted") / "d")


def test_planted_dataset_is_a_dataset(dataset: Dataset) -> None:
    dataset.verify()
    assert (dataset.num_items, dataset.num_queries) == (600, 800)
    assert sum(part["pairs"] for part in dataset.manifest["splits"].values()) == 20_000
    counts = np.bincount(dataset.split("train").values.numpy(), minlength=600)
    assert dataset.item_counts.tolist() == counts.tolist() == sorted(counts.tolist(), reverse=True)
    assert dataset.items["item_id"].n_unique() == 600
    assert dataset.queries["query_id"].to_list() == [f"query-{n:03d}" for n in range(800)]
    assert int(dataset.split("train").lengths().min()) >= 1
    together = np.concatenate(
        [dataset.split(s).rows().numpy() * 600 + dataset.split(s).values.numpy() for s in dataset.splits]
    )
    assert len(np.unique(together)) == 20_000, "no pair twice, in no two parts"
    ties = dataset.items.filter(dataset.items["train_count"] == dataset.items["train_count"][300])["item_id"].to_list()
    assert ties == sorted(ties)


def test_planted_report_counts(dataset: Dataset) -> None:
    report = dataset.manifest["report"]
    for split in dataset.splits:
        values = dataset.split(split).values.numpy()
        assert report["splits"][split]["items"] == len(np.unique(values))
        if split != "train":
            cold = dataset.item_counts.numpy()[values] == 0
            assert report["cold_items"][split]["pairs"] == int(cold.sum())
            assert report["cold_items"][split]["items"] == len(np.unique(values[cold]))


def test_topics_and_model_items_can_be_recovered(dataset: Dataset) -> None:
    world, items = planted_world(dataset), model_items(dataset)
    assert sorted(items.tolist()) == list(range(600))
    assert dataset.items["topic"].to_list() == (items % world.num_topics).tolist()
    np.testing.assert_array_equal(world_item(external_number(items, 600), 600), items)
    # observed counts agree with the true probabilities, item by item
    expected = true_probabilities(dataset, np.arange(800)).sum(axis=0)
    assert np.corrcoef(expected, dataset.item_counts.numpy())[0, 1] > 0.9


def test_ids_tell_nothing_about_popularity(dataset: Dataset) -> None:
    digits = dataset.items["item_id"].str.slice(5).cast(int).to_numpy()
    assert abs(stats.spearmanr(digits, dataset.item_counts.numpy()).statistic) < 0.15


def slow_recall(dataset: Dataset, scores: np.ndarray, k: int, split: str = "test") -> float:
    """recall@k of a score matrix, seen items left out, one query after another."""
    recalls = []
    for query, (positives, seen) in enumerate(
        zip(dataset.split(split).to_lists(), dataset.seen(split).to_lists(), strict=True)
    ):
        if positives:
            ranking = [item for item in np.argsort(-scores[query], kind="stable") if item not in set(seen)][:k]
            recalls.append(len(set(ranking) & set(positives)) / len(positives))
    return float(np.mean(recalls))


@pytest.mark.parametrize("k", [1, 20, 700])
@pytest.mark.parametrize("split", ["valid", "test"])
def test_best_recall_against_the_whole_matrix(dataset: Dataset, k: int, split: str) -> None:
    scores = true_probabilities(dataset, np.arange(800))
    assert best_recall(dataset, k, split) == pytest.approx(slow_recall(dataset, scores, k, split), abs=1e-12)


def test_nothing_beats_the_truth(dataset: Dataset) -> None:
    best, truth = best_recall(dataset, 20), true_probabilities(dataset, np.arange(800))
    popularity = np.tile(dataset.item_counts.numpy().astype(float), (800, 1))
    others = [popularity, truth * np.exp(0.3 * numpy_generator(0, "noise").normal(size=truth.shape)), truth[::-1]]
    recalls = [slow_recall(dataset, scores, 20) for scores in others]
    assert max(recalls) < best
    assert recalls[0] < 0.6 * best


def test_best_recall_of_a_sample_is_close(dataset: Dataset) -> None:
    assert best_recall(dataset, 20, max_queries=400) == pytest.approx(best_recall(dataset, 20), abs=0.03)


def test_best_recall_needs_a_planted_dataset(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("user,item\n1,2\n1,3\n")
    with pytest.raises(ArtefactError, match="was not planted"):
        best_recall(ingest(tmp_path / "a.csv", tmp_path / "d"), 20)


def test_seed_decides_everything(tmp_path: Path) -> None:
    spec = "planted:items=80,queries=50,pairs=500"
    first, again = (ingest(spec, tmp_path / name, IngestOptions(seed=7)) for name in "ab")
    other = ingest(spec, tmp_path / "c", IngestOptions(seed=8))
    named = ingest(f"{spec},seed=7", tmp_path / "d", IngestOptions(seed=8))
    assert first.fingerprint == again.fingerprint == named.fingerprint != other.fingerprint


def test_fractions_of_planted_data(tmp_path: Path) -> None:
    options = IngestOptions(test_fraction=0.5, valid_fraction=0)
    dataset = ingest("planted:items=80,queries=50,pairs=500", tmp_path / "d", options)
    assert dataset.splits == ("train", "test")
    assert dataset.manifest["splits"]["test"]["pairs"] == pytest.approx(250, abs=25)


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        ("planted:items=5,queries=5", {}, ["needs pairs"]),
        ("planted:item=5,queries=5,pairs=9", {}, ['did you mean "items"']),
        ("planted:items=many,queries=5,pairs=9", {}, ["whole number", "got: many"]),
        ("planted:items=-5,queries=5,pairs=9", {}, ["whole number"]),
        ("planted:items=5.5,queries=5,pairs=9", {}, ["items is not a whole number"]),
        ("planted:items=500,queries=5,pairs=19,sharpness=-1", {}, ["sharpness is not a number from 0"]),
        ("planted:items=500,queries=5,pairs=19,zipf=inf", {}, ["zipf is not a number from 0"]),
        ("planted:items=500,queries=5,pairs=19,zipf", {}, ["zipf is not a number from 0", "got: nothing"]),
        ("planted:items=5,queries=5,pairs=20", {}, ["num_items", "at least 64"]),
        ("planted:items=100,queries=5,pairs=9", {}, ["pairs", "at least 10"]),
        ("planted:items=100,queries=5,pairs=900", {}, ["pairs", "at most 125"]),
        (
            "planted:items=100,queries=5,pairs=50",
            {"min_item_count": 2},
            ["--min-item-count: this option has no effect"],
        ),
        ("planted:items=100,queries=5,pairs=50", {"split": "time"}, ["split at random"]),
    ],
)
def test_what_can_not_be_planted(tmp_path: Path, source: str, options: dict[str, object], words: list[str]) -> None:
    with pytest.raises(XclassError) as caught:
        ingest(source, tmp_path / "d", IngestOptions(**options))
    assert isinstance(caught.value, ConfigError)
    assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_model_refuses_as_an_argument() -> None:
    with pytest.raises(InputError, match="num_topics"):
        PlantedModel(num_items=10, num_queries=5, pairs=10, num_topics=0)


def test_sharpness_and_zipf_change_the_world(tmp_path: Path) -> None:
    sharp = ingest("planted:items=600,queries=300,pairs=6000,sharpness=8.5,zipf=2,seed=2", tmp_path / "sharp")
    plain = ingest("planted:items=600,queries=300,pairs=6000,seed=2", tmp_path / "plain")
    world = planted_world(sharp)
    assert (world.sharpness, world.zipf_exponent) == (8.5, 2.0)
    assert sharp.manifest["report"]["source"].endswith(",seed=2,sharpness=8.5,zipf=2.0")
    assert plain.manifest["report"]["source"].endswith("topics=32,seed=2")
    assert best_recall(sharp, 20) > 1.2 * best_recall(plain, 20)


def test_parse_planted_takes_exponents() -> None:
    wanted = {"num_items": 10**8, "num_queries": 10, "pairs": 20, "num_topics": 4, "seed": 1}
    assert parse_planted("planted:items=1e8,queries=10,pairs=20,topics=4,seed=1") == wanted
