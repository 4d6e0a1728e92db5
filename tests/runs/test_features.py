"""Runs over documents, end to end: towers of features learn, resume bit for bit, grow, and serve new documents."""

import json
import shutil

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

import xclass
from xclass.batch.export import export_vectors
from xclass.config import build_config
from xclass.data.vectorizer import TextOptions
from xclass.errors import ArtefactError, ConfigError, InputError
from xclass.estimate import estimate
from xclass.estimate.calibration import _spectral_s
from xclass.ingest.ingest import ingest
from xclass.ingest.options import IngestOptions
from xclass.recommender import Recommender
from xclass.runs.directory import RunDirectory
from xclass.runs.train import resolve_config, train_run
from xclass.training import trainer
from xclass.training.build import build_model
from xclass.training.run_config import RunConfig
from xclass.types import Ragged

TOPICS, WORDS, LABELS, DOCUMENTS = 6, 60, 30, 400
SETTINGS = {
    "optimizer": "adagrad",
    "model": {
        "embedding_dim": 16,
        "normalize": False,
        "temperature": 1.0,
        "query": {"kind": "features", "features": {"weighting": "tf-idf", "dropout": 0.2}},
    },
    "sampler": {"num_sampled": 12},
    "train": {
        "epochs": 4,
        "learning_rate": 0.3,
        "checkpoint_every_s": 0,
        "batch": {"by": "query", "size": 64},
        "validation": {"metric": "precision@1", "every_epochs": 4},
    },
}
TEXT = [
    'model.item.kind="id+features"',
    "model.item.share_feature_table=true",
    'model.query.features.weighting="stored"',
    "model.item.features.dropout=0.1",
]


def config(*changes: str) -> RunConfig:
    return resolve_config(SETTINGS, list(changes))


def documents(seed: int, number: int, words: int = WORDS) -> list[tuple[list[int], list[int]]]:
    """(words, labels) of documents of one topic each: a topic has its own words and labels, and some are shared."""
    generator, found = np.random.Generator(np.random.Philox(seed)), []
    for _ in range(number):
        topic = int(generator.integers(TOPICS))
        own = generator.choice(np.arange(topic, words, TOPICS), 6, replace=False)
        noise = generator.choice(words, 2, replace=False)
        labels = generator.choice(np.arange(topic, LABELS, TOPICS), int(generator.integers(1, 4)), replace=False)
        found.append((sorted({*own.tolist(), *noise.tolist()}), sorted(labels.tolist())))
    return found


def xmc(path, rows, words=WORDS):
    lines = [f"{len(rows)} {words} {LABELS}"]
    lines += [",".join(map(str, labels)) + " " + " ".join(f"{w}:1" for w in own) for own, labels in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("documents")
    (folder / "raw").mkdir()
    for name, seed, number in (("train", 0, DOCUMENTS), ("valid", 1, 80), ("test", 2, 80)):
        xmc(folder / "raw" / f"{name}.txt", documents(seed, number))
    return ingest(folder / "raw", folder / "dataset")


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """The same as raw text, and labels with texts of their own: a word of their topic."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "raw").mkdir()
    for name, seed, number in (("train", 0, DOCUMENTS), ("valid", 1, 80), ("test", 2, 80)):
        rows = [
            {"query_id": f"{name}{i}", "text": " ".join(f"w{w}" for w in own), "labels": [f"l{x}" for x in labels]}
            for i, (own, labels) in enumerate(documents(seed, number))
        ]
        (folder / "raw" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = [{"id": f"l{x}", "text": f"w{x} w{x + LABELS}"} for x in range(LABELS)]
    (folder / "names.jsonl").write_text("".join(json.dumps(row) + "\n" for row in names))
    options = IngestOptions(format="text", item_text=str(folder / "names.jsonl"), text=TextOptions(min_documents=1))
    return ingest(folder / "raw", folder / "dataset", options)


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    return train_run(dataset, config(), tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def text_run(texts, tmp_path_factory):
    return train_run(texts, config(*TEXT), tmp_path_factory.mktemp("text-run") / "run")


def precision(run, dataset, k=1):
    return (
        Recommender.load(run)
        .measure(xclass.metrics.parse_metrics([f"precision@{k}"]), exact=True)
        .metrics[f"precision@{k}"]
    )


def weights(run):
    return load_file(run / "model.safetensors")


@pytest.mark.parametrize(
    "changes",
    [
        [],
        ['model.init="spectral"', "train.epochs=0", "model.embedding_dim=8"],
        ['model.init="documents"', "train.epochs=0", "model.embedding_dim=64", "model.init_std=0.125"],
        ["model.query.hidden=[16]", "model.item.hidden=[16]"],
        [
            'loss.kind="sampled-logistic"',
            'sampler={kind="mixture",parts=[{kind="hard",depth=10,num_sampled=5},{num_sampled=6}]}',
        ],
        ['loss.kind="full-sigmoid"', 'loss.item_weights="propensity"', 'sampler={kind="all"}'],
        ['loss.item_weights="count-power"'],
    ],
    ids=["plain", "spectral", "documents", "mlp", "hard", "one-vs-all", "reweighted"],
)
def test_documents_find_labels_of_their_topic(dataset, tmp_path, changes):
    """A topic has 5 of the 30 labels and a document 2 of those: chance is .067, the best possible about .4."""
    out = train_run(dataset, config(*changes), tmp_path / "run")
    recommender = Recommender.load(out)
    queries = dataset.queries.filter(pl.col("split") == "test")["query_id"].to_list()
    found = recommender.retrieve(query_ids=queries, k=3)
    topic_of = {q: row[1][0] % TOPICS for q, row in zip(queries, documents(2, 80), strict=True)}
    right = [item % TOPICS == topic_of[query] for query, item in found.select("query_id", "item_id").iter_rows()]
    assert sum(right) / len(right) > 0.8


def test_a_finished_run_needs_no_dataset_and_keeps_its_idf(run, dataset, tmp_path):
    model = RunDirectory(run).load_model()
    stored = weights(run)
    assert set(model.tables) == {"item", "feature.features"}
    counts = dataset.vocabulary("query", "features")["count"].to_numpy()
    idf = 1 + np.log((1 + DOCUMENTS) / (1 + counts))
    np.testing.assert_allclose(stored["dense.tower.fields.0.field.idf"].numpy(), idf, rtol=1e-6)
    torch.testing.assert_close(model.tower.fields[0].field.idf, stored["dense.tower.fields.0.field.idf"])


def test_a_resumed_run_has_the_same_bits(dataset, run, tmp_path, monkeypatch):
    other = tmp_path / "other"
    calls, plain = [], trainer.Trainer._step

    def stops(self, ready):
        calls.append(1)
        if len(calls) == 10:
            raise KeyboardInterrupt
        return plain(self, ready)

    monkeypatch.setattr(trainer.Trainer, "_step", stops)
    with pytest.raises(KeyboardInterrupt):
        train_run(dataset, config(), other)
    monkeypatch.undo()
    train_run(dataset, config(), other, resume=True)
    first, second = weights(run), weights(other)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_new_documents_get_what_known_ones_get(run, dataset):
    recommender = Recommender.load(run)
    lists = dataset.query_features["features"].slice(DOCUMENTS + 80, DOCUMENTS + 90)
    new = recommender.retrieve(features={"features": lists}, k=5)
    known = recommender.retrieve(query_ids=dataset.queries["query_id"][DOCUMENTS + 80 : DOCUMENTS + 90].to_list(), k=5)
    assert new["item_id"].to_list() == known["item_id"].to_list()
    np.testing.assert_allclose(new["score"].to_numpy(), known["score"].to_numpy(), rtol=1e-5)
    with pytest.raises(InputError, match='no features "features"'):
        recommender.retrieve(features={"text": lists}, k=5)
    with pytest.raises(InputError, match='no features "features"'):
        recommender.retrieve(histories=[[3]], k=5)
    for number in (WORDS, -1):
        with pytest.raises(InputError, match='there is no feature "features" of this number'):
            recommender.retrieve(features={"features": Ragged.from_lists([[0, number]], [[1.0, 1.0]])}, k=5)


def test_texts_of_documents_and_labels_share_their_rows(text_run, texts):
    """In training: a table for words and one for labels; in the finished run labels' vectors are whole."""
    stored, checkpoint = (
        weights(text_run),
        load_file(next((text_run / "checkpoints").glob("step-*")) / "tensors.safetensors"),
    )
    assert {name for name in stored if name.startswith("table.")} == {"table.item.weight", "table.feature.text.weight"}
    own, words = checkpoint["table.item.weight"], checkpoint["table.feature.text.weight"]
    lists = texts.item_features["text"]
    expected = own.clone()
    for item in range(LABELS):
        part = lists.slice(item, item + 1)
        shares = part.weights / part.weights.norm().clamp(min=1e-12)
        expected[item] += (words[part.values.long()] * shares[:, None]).sum(0)
    torch.testing.assert_close(stored["table.item.weight"], expected)
    assert float((expected - own).abs().max()) > 0.01


def test_new_people_by_history_and_features(dataset, tmp_path):
    """With both, with the history alone and with the features alone the vector is the sum of what is known."""
    changes = ('model.query.kind="history+features"', "train.epochs=1", "model.query.hidden=[]")
    recommender = Recommender.load(train_run(dataset, config(*changes), tmp_path / "run"))
    items, features = recommender.run.item_ids, Ragged.from_lists([[1, 7], [2]])
    histories = [[items[3], items[5]], [items[8]]]
    kwargs = {"k": LABELS, "include_seen": True}
    both = recommender.retrieve(histories=histories, features={"features": features}, **kwargs)
    nothing = Ragged.from_lists([[], []])
    by_history = recommender.retrieve(histories=histories, features={"features": nothing}, **kwargs)
    by_features = recommender.retrieve(histories=[[], []], features={"features": features}, **kwargs)
    key = ["query_id", "item_id"]
    joined = both.join(by_history, on=key, suffix="_h").join(by_features, on=key, suffix="_f")
    assert len(joined) == 2 * LABELS and joined["score"].abs().max() > 0.01
    assert joined["score"].to_list() == pytest.approx((joined["score_h"] + joined["score_f"]).to_list(), abs=1e-5)
    with pytest.raises(InputError, match="of the same queries"):
        recommender.retrieve(histories=histories[:1], features={"features": features})


def test_raw_text_in_labels_out(text_run, tmp_path):
    recommender = Recommender.load(text_run)
    found = recommender.retrieve(texts=["w3 w9 w15 w21", "w4 w10 w16 w22 w28"], k=2)
    topics = [int(item[1:]) % TOPICS for item in found["item_id"]]
    assert topics == [3, 3, 4, 4]
    said = export_vectors(recommender, items=tmp_path / "items.parquet", queries=tmp_path / "queries.parquet")
    assert said["items"] == LABELS and said["dim"] == 16
    vectors = pl.read_parquet(tmp_path / "items.parquet")
    stored = dict(zip(recommender.run.item_ids, weights(text_run)["table.item.weight"].tolist(), strict=True))
    assert vectors["vector"][4].to_list() == pytest.approx(stored[vectors["item_id"][4]])


def test_a_label_without_documents_is_found_by_its_text(texts, tmp_path):
    """Labels of a topic that no document has: only label text, no rows of their own."""
    out = train_run(texts, config(*TEXT[1:], 'model.item.kind="features"'), tmp_path / "run")
    stored = weights(out)
    assert {name for name in stored if name.startswith("table.")} == {"table.item.weight", "table.feature.text.weight"}
    found = Recommender.load(out).retrieve(texts=["w3 w9 w15 w21"], k=3)
    assert {int(item[1:]) % TOPICS for item in found["item_id"]} == {3}


@pytest.mark.parametrize("storage", ["device", "mapped"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_items_with_features_are_stored_as_the_tables_are(texts, tmp_path, storage, dtype):
    changes = [*TEXT, f'tables.storage="{storage}"', f'tables.dtype="{dtype}"', "train.epochs=1"]
    out = train_run(texts, config(*changes), tmp_path / "run")
    assert weights(out)["table.item.weight"].dtype == getattr(torch, dtype)
    assert len(Recommender.load(out).retrieve(texts=["w1 w2"], k=3)) == 3


def test_a_run_grows_over_more_documents_words_and_keeps_old_rows(tmp_path):
    rows = documents(5, 200)
    old = ingest(xmc(tmp_path / "a.txt", rows[:150]), tmp_path / "old", IngestOptions(valid_fraction=0.1))
    new = ingest(xmc(tmp_path / "b.txt", rows, WORDS + 7), tmp_path / "new", IngestOptions(valid_fraction=0.1))
    out = train_run(old, config("train.epochs=1", "train.batch.size=32"), tmp_path / "run")
    before = weights(out)["table.feature.features.weight"]
    none = [*("train.epochs=0", "train.batch.size=32")]
    xclass.train(new, config(*none), out, resume=True, grow_vocab=True)
    after = weights(out)["table.feature.features.weight"]
    assert len(after) == WORDS + 7 and torch.equal(after[:WORDS], before) and float(after[WORDS:].abs().max()) > 0


def test_a_run_does_not_grow_over_other_words(texts, text_run, tmp_path):
    """The same number of features under other numbers is not the same."""
    grown, source = shutil.copytree(text_run, tmp_path / "run"), tmp_path / "raw"
    shutil.copytree(texts.path.parent / "raw", source)
    lines = (source / "train.jsonl").read_text().replace('"text": "w', '"text": "aaa w')
    (source / "train.jsonl").write_text(lines)
    options = IngestOptions(
        format="text", item_text=str(texts.path.parent / "names.jsonl"), text=TextOptions(min_documents=1)
    )
    other = ingest(source, tmp_path / "other", options)
    with pytest.raises(ArtefactError, match='"text" are not those'):
        xclass.train(other, config(*TEXT), grown, resume=True, grow_vocab=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (['model.query.features.names=["feature"]'], 'no query features "feature"'),
        (['model.item.kind="features"'], "no item features"),
        (['model.query.kind="history"', "model.item.share_feature_table=true"], "share_feature_table"),
        (['model.init="documents"', 'model.query.kind="id+features"'], 'init = "documents" needs'),
        (['model.init="spectral"', 'model.query.kind="history+features"'], 'init = "spectral" needs'),
        (
            ['model.query.kind="history"', "model.query.share_item_table=true", 'model.item.kind="id+features"'],
            "needs item",
        ),
    ],
)
def test_what_does_not_fit_is_refused(dataset, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        train_run(dataset, config(*changes), tmp_path / "run")


def test_a_shared_table_needs_a_shared_vocabulary(dataset):
    class Two:
        num_items, num_queries, num_train_queries, sequence = 5, 9, 9, None
        item_counts = torch.ones(5, dtype=torch.int64)
        query_features = item_features = {"text": Ragged.from_lists([[]] * 5)}  # noqa: RUF012

        def feature_sizes(self, side):
            return {"text": 7 if side == "query" else 8}

    with pytest.raises(ConfigError, match="in common"):
        build_model(config(*TEXT), Two(), None)


def test_the_estimate_knows_the_tables(texts, tmp_path):
    settings = config(*TEXT, "train.epochs=1")
    found = estimate(texts, settings, torch.device("cpu"), tmp_path / "out")
    model = build_model(settings, texts, None)
    for name, table in model.tables.items():
        size = sum(
            part.bytes for part in found.parts if part.component == f"table {name}: weight" and part.place == "memory"
        )
        assert size == table.weight.nbytes
    out = train_run(texts, settings, tmp_path / "run")
    model_bytes = sum(part.bytes for part in found.parts if part.component == "model")
    assert model_bytes == pytest.approx((out / "model.safetensors").stat().st_size, rel=0.2)
    assert found.time_s is not None and found.time_s["train_s"] > 0


@pytest.mark.parametrize("init", ["spectral", "documents"])
def test_every_start_can_be_estimated(dataset, tmp_path, init):
    settings = config(f'model.init="{init}"', "model.embedding_dim=8")
    found = estimate(dataset, settings, torch.device("cpu"), tmp_path / "out", calibration=False)
    assert any("start" in part.component and part.bytes > 0 for part in found.parts)
    assert (_spectral_s(dataset, settings) > 0) == (init == "spectral")


def test_the_configuration_of_a_run_is_read_back(run):
    assert build_config(RunConfig, config().model_dump(mode="json")) == RunDirectory(run).config
