"""Mining: exact lists whatever the depth, through nested mixtures, each part at its own epochs; a run that uses it."""

import pytest
import torch

from xclass.ingest.synthetic.pairs import PlantedModel
from xclass.runs.directory import RunDirectory
from xclass.runs.train import resolve_config, train_run
from xclass.training.build import build_model
from xclass.training.hard_negatives import hard_parts, hard_samplers, make_miner, search_all

TINY = {"model": {"embedding_dim": 8, "query": {"kind": "id"}}, "train": {"epochs": 2, "learning_rate": 0.3}}
UNIFORM = {"kind": "uniform", "num_sampled": 20}


def hard(depth, every=1, factory=None):
    return {"kind": "hard", "num_sampled": 0, "depth": depth, "refresh_epochs": every, "factory": factory}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("planted") / "dataset"
    return PlantedModel(num_items=80, num_queries=90, pairs=1500, num_topics=4, seed=2).write_dataset(path)


def made(dataset, sampler):
    settings = resolve_config({**TINY, "sampler": sampler})
    train = dataset.split("train").long()
    return settings, train, build_model(settings, dataset, train)


@pytest.mark.parametrize("depth", [1, 7, 1000])
@pytest.mark.parametrize("factory", [None, "IVF4,Flat"])
def test_lists_in_order_of_score_without_known_positives(dataset, depth, factory):
    """A depth beyond the catalogue gives all that is no positive; an index that misses some never gives others."""
    if factory is not None:
        pytest.importorskip("faiss")
    _, train, model = made(dataset, {"kind": "mixture", "parts": [UNIFORM, hard(depth)]})
    found = search_all(model, train, depth, factory).to_lists()
    query, item = model.tables["query"].weight, model.item_vectors().tensor()
    known = train.to_lists()
    for number in range(len(train)):
        if not known[number]:
            assert found[number] == []
            continue
        scores = query[number] @ item.T
        scores[known[number]] = -torch.inf
        order = scores.argsort(descending=True).tolist()[: min(depth, len(item) - len(known[number]))]
        if factory is None:
            assert set(found[number]) == set(order)
        assert not set(found[number]) & set(known[number])
        assert len(found[number]) == len(set(found[number])) <= len(order)
        assert bool((scores[found[number]].diff() <= 1e-6).all())


def test_each_part_of_nested_mixtures_at_its_own_epochs(dataset):
    inner = {"kind": "mixture", "parts": [hard(3, every=3), UNIFORM]}
    settings, train, model = made(dataset, {"kind": "mixture", "parts": [hard(5, every=2), inner]})
    assert [part.depth for part in hard_parts(settings.sampler)] == [5, 3]
    mine = make_miner(settings.sampler, train)
    samplers = list(hard_samplers(model.head.sampler))
    mined = []
    for epoch in range(7):
        before = [sampler.candidates for sampler in samplers]
        mine(model, epoch)
        mined.append([sampler.candidates is not old for sampler, old in zip(samplers, before, strict=True)])
    assert mined == [[epoch % 2 == 0, epoch % 3 == 0] for epoch in range(7)]
    assert [int(sampler.candidates.lengths().max()) for sampler in samplers] == [5, 3]


def test_no_miner_where_nothing_is_mined(dataset):
    settings, train, _ = made(dataset, {"kind": "mixture", "parts": [UNIFORM]})
    assert make_miner(settings.sampler, train) is None


@pytest.mark.parametrize("factory", [None, "HNSW8"])
def test_a_run_with_hard_negatives_trains(dataset, tmp_path, factory):
    if factory is not None:
        pytest.importorskip("faiss")
    settings, _, untrained = made(dataset, {"kind": "mixture", "parts": [UNIFORM, hard(10, factory=factory)]})
    run = RunDirectory(train_run(dataset, settings, tmp_path / "run"))
    train = dataset.split("train").long()
    gaps = []
    for model in (untrained, run.load_model()):
        scores = model.tables["query"].weight @ model.item_vectors().tensor().T
        gaps.append(float(scores[train.rows(), train.values].mean() - scores.mean()))
    assert gaps[1] > gaps[0] + 0.1
