"""Datasets, runs, indexes and checkpoints that come damaged, or from a stranger who made the hashes fit: one clear
error or the right result, whatever was changed."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import safetensors.torch
import torch

import xclass
from xclass.cli.commands.inspect import inspect
from xclass.errors import ArtefactError, XclassError
from xclass.index import IndexConfig, build_index, load_index, save_index
from xclass.ingest.append import append
from xclass.ingest.ingest import ingest
from xclass.ingest.options import IngestOptions
from xclass.io.manifest import file_entry
from xclass.queries.queries import queries_with_features
from xclass.recommender import Recommender
from xclass.runs.inspect import describe
from xclass.runs.train import train_run
from xclass.training.checkpoint.store import CheckpointStore, read_position
from xclass.types import Ragged

CONFIG = {
    "model": {"embedding_dim": 4},
    "sampler": {"num_sampled": 8},
    "train": {"epochs": 1, "batch": {"size": 64}, "validation": {"queries": 20}},
}
HUGE = 10**30
# What takes the place of a value in JSON. Keys are deleted and made null, too.
DEEP: list[Any] = json.loads("[" * 500 + "]" * 500)
OTHERS: list[Any] = ["x", "\x00", -1, 1.5, HUGE, True, [], {}, [None], float("nan"), {"a": {"b": []}}, DEEP]


def paths_of(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of everything in a JSON value."""
    if at:
        yield at
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from paths_of(inner, (*at, key))


def altered(value: Any) -> Iterator[tuple[str, Any]]:
    """(what was done, the value with one thing in it changed): each is deleted, null, and another in turn."""
    for number, at in enumerate(paths_of(value)):
        for other in ("deleted", None, OTHERS[number % len(OTHERS)]):
            made = copy.deepcopy(value)
            parent = made
            for key in at[:-1]:
                parent = parent[key]
            if other == "deleted":
                del parent[at[-1]]
            else:
                parent[at[-1]] = other
            yield f"{'.'.join(map(str, at))}: {other!r:.20}", made


def try_all(cases: Iterator[tuple[str, Any]], change: Callable[[Any], None], use: Callable[[], Any]) -> int:
    """Each case gives an XclassError, or what ``use`` gave before; how many gave an error."""
    right, errors, wrong = use(), 0, []
    for name, case in cases:
        change(case)
        try:
            if use() != right:
                wrong.append(f"{name}: another result")
        except XclassError:
            errors += 1
        except Exception as error:  # noqa: BLE001  that is what is looked for
            wrong.append(f"{name}: {type(error).__name__}: {error}")
    assert not wrong, "\n".join(wrong)
    return errors


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of each: a dataset with times and weights, documents, runs of both, indexes."""
    folder = tmp_path_factory.mktemp("made")
    rows = [f"u{n % 20},i{(n * n + n // 20) % 30},{1 + n % 3},{n}" for n in range(300)]
    (folder / "log.csv").write_text("user_id,item_id,weight,timestamp\n" + "\n".join(rows) + "\n")
    dataset = ingest(folder / "log.csv", folder / "dataset")
    assert dataset.times("train") is not None and dataset.split("train").weights is not None
    ingest("planted-documents:documents=60,features=30,labels=20", folder / "documents")
    (folder / "words.txt").write_text("the cat sat on the mat\nthe dog sat too\n" * 5)
    ingest(folder / "words.txt", folder / "text", IngestOptions(format="text"))
    train_run(dataset, xclass.runs.train.resolve_config(CONFIG), folder / "run")
    scorers = {
        **CONFIG,
        "documents": {"scorers": ["linear", "neighbours"], "fusion": {"weights": {"linear": 1.0, "neighbours": 1.0}}},
    }
    train_run(xclass.open_dataset(folder / "documents"), xclass.runs.train.resolve_config(scorers), folder / "scorers")
    vectors = torch.randn(200, 8, generator=torch.Generator().manual_seed(1))
    for kind in ("exact", "hnsw", "ivf", "lsh"):
        save_index(build_index(vectors, IndexConfig(kind=kind)), folder / kind)
    return folder


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: Path(shutil.copytree(made / name, tmp_path / name))


def use_dataset(path: Path) -> Any:
    """Everything that a dataset holds, read."""
    dataset = xclass.open_dataset(path)
    lists = {name: dataset.split(name) for name in dataset.splits}
    lists |= {"hidden": dataset.hidden} if dataset.hidden is not None else {}
    for side, features in (("query", dataset.query_features), ("item", dataset.item_features)):
        for name, found in features.items():
            lists[f"{side}.{name}"] = found
            dataset.feature_counts(side, name)
    times = [None if found is None else found.tolist() for found in map(dataset.times, dataset.splits)]
    read = {
        f"{name} weights": weights.tolist() for name, found in lists.items() if (weights := found.weights) is not None
    }
    read |= {name: found.take(torch.arange(len(found))).to_lists() for name, found in lists.items()}
    assert dataset.num_train_queries >= 0 and len(dataset.propensity) == 2 and repr(dataset)
    inspect(path)
    return (
        read,
        times,
        dataset.items["item_id"].to_list(),
        dataset.queries["query_id"].to_list(),
        dataset.item_counts.tolist(),
    )


def append_to(path: Path) -> Any:
    """More pairs for a dataset that is left as it is."""
    source, out = path.parent / "more.csv", path.parent / "more"
    source.write_text("user_id,item_id,weight,timestamp\nu1,i1,1,900\nu77,i2,2,901\n")
    shutil.rmtree(out, ignore_errors=True)
    return append(source, path, out=out).num_queries


def use_run(path: Path) -> Any:
    recommender = Recommender.load(path)
    inspect(path)
    asked = recommender.run.query_ids.head(3).to_list()
    return recommender.retrieve(query_ids=asked, k=3).rows(), recommender.run.item_counts.tolist()


def use_index(path: Path) -> Any:
    inspect(path)
    found = load_index(path).search(torch.eye(8), 3)
    return found.ids.tolist(), found.scores.tolist()


def use_checkpoint(path: Path) -> Any:
    inspect(path)
    store = CheckpointStore(path.parent)
    newest = store.newest()
    assert newest is not None
    return read_position(newest)


def write_json(path: Path) -> Callable[[Any], None]:
    return lambda value: (path.write_text(json.dumps(value)), None)[1]


@pytest.mark.parametrize(
    ("artefact", "manifest", "use", "least"),
    [
        ("dataset", "dataset.json", use_dataset, 60),
        ("dataset", "dataset.json", append_to, 60),
        ("documents", "dataset.json", use_dataset, 60),
        ("text", "dataset.json", use_dataset, 60),
        ("run", "run.json", use_run, 50),
        ("scorers", "run.json", use_run, 50),
        ("exact", "index.json", use_index, 20),
        ("hnsw", "index.json", use_index, 30),
        ("lsh", "index.json", use_index, 30),
    ],
)
def test_a_manifest_with_one_thing_changed(
    artefact: str, manifest: str, use: Callable[[Path], Any], least: int, copied: Callable[[str], Path]
) -> None:
    place = copied(artefact)
    path = place / manifest
    cases = altered(json.loads(path.read_text()))
    assert try_all(cases, write_json(path), lambda: use(place)) > least


def test_the_manifest_of_a_checkpoint_with_one_thing_changed(copied: Callable[[str], Path]) -> None:
    (place,) = (copied("run") / "checkpoints").iterdir()
    path = place / "checkpoint.json"
    cases = [case for case in altered(json.loads(path.read_text())) if ".epoch" not in case[0]]
    use_checkpoint(place)
    for name, case in cases:
        path.write_text(json.dumps(case))
        try:
            use_checkpoint(place)
        except XclassError:
            continue
        except Exception as error:  # noqa: BLE001  that is what is looked for
            pytest.fail(f"{name}: {error!r}")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"nul",
        b"{}",
        b"[]",
        b"1",
        b'"\\ud800"',
        b'{"kind": "\\ud800"}',
        b"9" * 10_000,
    ],
)
@pytest.mark.parametrize(
    "name", ["dataset/dataset.json", "run/run.json", "run/started.json", "hnsw/index.json", "scorers/fusion.json"]
)
def test_json_that_is_none_of_ours(name: str, content: bytes, copied: Callable[[str], Path]) -> None:
    place = copied(name.split("/")[0])
    (place / name.split("/")[1]).write_bytes(content)
    if name != "run/started.json":
        bind(place, name.split("/")[1])
    use = {"dataset": use_dataset, "run": use_run, "scorers": use_run, "hnsw": use_index}[place.name]
    with pytest.raises(XclassError):
        use(place)


def bind(place: Path, *names: str) -> None:
    """Make the hashes of a directory's manifest those of these files, as a stranger would."""
    for manifest in ("dataset.json", "run.json", "index.json", "checkpoint.json"):
        if (place / manifest).exists() and manifest not in names:
            value = json.loads((place / manifest).read_text())
            value["files"] |= {name: file_entry(place / name) for name in names}
            (place / manifest).write_text(json.dumps(value))


def arrays_instead_of(array: np.ndarray, high: int | None) -> Iterator[tuple[str, np.ndarray | bytes]]:
    """What may lie where a one-dimensional array of ours was."""
    yield "no bytes", b""
    yield "no header", b"\x93NUMPY"
    yield "a header that is cut", b"\x93NUMPY\x01\x00v\x00{'descr': '<i8', 'fort"
    yield "no dictionary", b"\x93NUMPY\x01\x00\x06\x00[1,2]\n"
    yield "nothing in it", array[:0]
    yield "cut", array[:-1]
    yield "longer", np.concatenate([array, array[-1:]])
    yield "a matrix", array[:, None]
    yield "a number", np.array(array[0])
    yield "another order of bytes", array.astype(array.dtype.newbyteorder(">"))
    yield "text", array.astype(str)
    yield "complex", array.astype(complex)
    yield "objects", np.array([{}] * len(array), dtype=object)
    if array.dtype.kind == "f":
        yield "not a number", np.full_like(array, np.nan)
        yield "infinite", np.full_like(array, np.inf)
    elif high is not None:
        yield "floats", array.astype(np.float64)
    if high is not None:
        for place in (0, len(array) // 2, len(array) - 1):
            for value in (-1, high, np.iinfo(array.dtype).max):
                other = array.copy()
                other[place] = value
                yield f"{value} at {place}", other


ARRAYS = {
    "dataset": ["train/offsets", "train/values", "train/weights", "train/times", "test/offsets", "test/values"],
    "documents": [f"query_features/features/{name}" for name in ("offsets", "values", "weights")],
}


@pytest.mark.parametrize(("artefact", "name"), [(place, name) for place, names in ARRAYS.items() for name in names])
def test_an_array_of_a_dataset_in_the_place_of_another(artefact: str, name: str, copied: Callable[[str], Path]) -> None:
    """Each is an error that names the file, where the hashes fit as where they don't."""
    place = copied(artefact)
    path, dataset = place / f"{name}.npy", xclass.open_dataset(place)
    array = np.load(path)
    most = {"values": dataset.num_items if artefact == "dataset" else 30, "offsets": len(dataset.split("train").values)}
    high = most.get(name.split("/")[-1])
    for what, other in arrays_instead_of(array, high):
        if name.endswith("offsets") and what.startswith(str(high)):
            continue  # an end is where it belongs
        if isinstance(other, bytes):
            path.write_bytes(other)
        else:
            np.save(path, other, allow_pickle=True)
        for bound in (False, True):
            if bound:
                bind(place, f"{name}.npy")
            with pytest.raises(ArtefactError) as caught:
                use_dataset(place)
            assert path.name in str(caught.value.where), what


TABLES: dict[str, Callable[[pl.DataFrame], pl.DataFrame | bytes]] = {
    "no bytes": lambda frame: b"",
    "garbage": lambda frame: b"PAR1" + b"\x00" * 100 + b"PAR1",
    "no rows": lambda frame: frame.clear(),
    "a row less": lambda frame: frame.head(-1),
    "no column": lambda frame: pl.DataFrame({"x": range(len(frame))}),
    "nulls": lambda frame: frame.with_columns(pl.when(pl.int_range(pl.len()) > 0).then(pl.all())),
    "floats": lambda frame: frame.with_columns(pl.col(frame.columns[0]).hash().cast(pl.Float64)),
    "lists": lambda frame: frame.with_columns(pl.col(frame.columns[0]).reshape((-1, 1)).cast(pl.List(frame.dtypes[0]))),
    "negative counts": lambda frame: frame.with_columns(pl.col("^.*count$") - 1000),
    "huge counts": lambda frame: frame.with_columns(pl.lit((1 << 64) - 1, pl.UInt64).alias(frame.columns[-1])),
    "structs": lambda frame: frame.with_columns(pl.struct(frame.columns[0]).alias(frame.columns[0])),
}


@pytest.mark.parametrize("what", TABLES)
@pytest.mark.parametrize(
    "name",
    [
        "dataset/items.parquet",
        "dataset/queries.parquet",
        "run/items.parquet",
        "run/queries.parquet",
        "documents/query_features/features/vocabulary.parquet",
    ],
)
def test_a_table_in_the_place_of_another(name: str, what: str, copied: Callable[[str], Path]) -> None:
    artefact, _, relative = name.partition("/")
    if relative == "queries.parquet" and what.endswith("counts"):
        pytest.skip("this table has no counts")
    place = copied(artefact)
    other = TABLES[what](pl.read_parquet(place / relative))
    if isinstance(other, bytes):
        (place / relative).write_bytes(other)
    else:
        other.write_parquet(place / relative)
    bind(place, relative)
    with pytest.raises(ArtefactError) as caught:
        use_run(place) if artefact == "run" else use_dataset(place)
    assert (place / relative).name in str(caught.value.where)


def tensors_instead_of(tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    yield "nothing in it", tensor[:0]
    yield "cut", tensor[:-1]
    yield "longer", torch.cat([tensor, tensor[-1:]])
    yield "of another type", tensor.double() if tensor.dtype != torch.float64 else tensor.float()
    yield "a matrix", tensor.reshape(-1, 1)
    if tensor.dtype in (torch.int32, torch.int64) and len(tensor):
        for value in (-1, torch.iinfo(tensor.dtype).max):
            other = tensor.clone()
            other[len(other) // 2] = value
            yield f"with {value}", other


# Weights that there need not be, a feature that no document has, a document without items.
HARMLESS = {("items.weights", "missing"), ("idf", "longer"), ("items.offsets", "longer")}


@pytest.mark.parametrize("scorer", ["linear", "neighbours"])
def test_a_tensor_of_a_scorer_in_the_place_of_another(scorer: str, copied: Callable[[str], Path]) -> None:
    place = copied("scorers")
    path = place / f"{scorer}.safetensors"
    whole = safetensors.torch.load_file(path)
    for name, tensor in whole.items():
        for what, other in (*tensors_instead_of(tensor), ("missing", None)):
            if (name, what) in HARMLESS:
                continue
            kept = {key: value for key, value in whole.items() if key != name}
            safetensors.torch.save_file(kept if other is None else {**kept, name: other.contiguous()}, path)
            bind(place, path.name)
            with pytest.raises(ArtefactError):
                use_run(place)
                pytest.fail(f"{name} {what}")


def test_a_tensor_of_a_model_in_the_place_of_another(copied: Callable[[str], Path]) -> None:
    place = copied("run")
    path = place / "model.safetensors"
    whole = safetensors.torch.load_file(path)
    for name, tensor in whole.items():
        for what, other in (*tensors_instead_of(tensor), ("missing", None)):
            kept = {key: value for key, value in whole.items() if key != name}
            safetensors.torch.save_file(kept if other is None else {**kept, name: other.contiguous()}, path)
            bind(place, path.name)
            with pytest.raises(XclassError):
                use_run(place)
                pytest.fail(f"{name} {what}")


@pytest.mark.parametrize("name", ["exact/vectors.npy", "lsh/order.npy", "lsh/starts.npy"])
def test_an_array_of_an_index_in_the_place_of_another(name: str, copied: Callable[[str], Path]) -> None:
    kind, _, file = name.partition("/")
    place = copied(kind)
    array = np.load(place / file)
    others: list[tuple[str, Any]] = [
        ("cut", array[:-1]),
        ("by columns", np.asfortranarray(array)),
        ("flat", array.ravel()),
    ]
    others += [("of another type", array.astype(np.int8)), ("empty", array[:0]), ("objects", array.astype(object))]
    if kind == "lsh":
        others += [("negative", -1 - array), ("large", array + len(array[0]))]
    for what, other in others:
        np.save(place / file, other, allow_pickle=True)
        bind(place, file)
        with pytest.raises(XclassError):
            use_index(place)
            pytest.fail(what)


def test_lists_of_an_index_that_name_items_that_are_not_there(copied: Callable[[str], Path]) -> None:
    faiss = pytest.importorskip("faiss")
    place = copied("ivf")
    index = faiss.read_index(str(place / "index.faiss"))
    lists = faiss.extract_index_ivf(index).invlists
    part = next(part for part in range(lists.nlist) if lists.list_size(part))
    faiss.rev_swig_ptr(lists.get_ids(part), lists.list_size(part))[0] = 1 << 40
    faiss.write_index(index, str(place / "index.faiss"))
    bind(place, "index.faiss")
    with pytest.raises(ArtefactError, match="do not hold every item once"):
        use_index(place)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../outside", "", ".", "a//b", "link", "a\x00b"])
@pytest.mark.parametrize("artefact", ["dataset", "run", "hnsw"])
def test_a_manifest_names_no_file_outside(
    artefact: str, name: str, copied: Callable[[str], Path], tmp_path: Path
) -> None:
    place = copied(artefact)
    (tmp_path / "outside").write_text("secret")
    (place / "link").symlink_to(tmp_path / "outside")
    manifest = next(place / file for file in ("dataset.json", "run.json", "index.json") if (place / file).exists())
    value = json.loads(manifest.read_text())
    value["files"][name] = file_entry(tmp_path / "outside")
    manifest.write_text(json.dumps(value))
    with pytest.raises(ArtefactError, match="a file outside of its directory is named"):
        describe(place)


def test_a_dataset_is_bound_when_it_is_used(copied: Callable[[str], Path]) -> None:
    """An item number that is another, and in range: nothing but the hash tells."""
    place = copied("dataset")
    values = np.load(place / "train" / "values.npy")
    values[0] = (values[0] + 1) % 30
    np.save(place / "train" / "values.npy", values)
    dataset = xclass.open_dataset(place)
    for _ in range(2):  # what was wrong once is not taken for checked
        with pytest.raises(ArtefactError, match="its hash is not the manifest's"):
            dataset.split("train")
    assert len(dataset.lengths("train")) == dataset.num_queries


@pytest.mark.parametrize(
    ("offsets", "values"),
    [
        (torch.tensor([0, 5000, 1]), torch.tensor([1])),
        (torch.tensor([0, -1, 1]), torch.tensor([1])),
        (torch.tensor([0, 2]), torch.tensor([1])),
        (torch.tensor([1, 1]), torch.tensor([1])),
        (torch.tensor([], dtype=torch.int64), torch.tensor([1])),
        (torch.tensor([0, 1], dtype=torch.int32), torch.tensor([1])),
        (torch.tensor([[0, 1]]), torch.tensor([1])),
        (torch.tensor([0, 1]), torch.tensor([[1]])),
    ],
)
def test_no_lists_that_reach_outside_of_their_values(offsets: torch.Tensor, values: torch.Tensor) -> None:
    with pytest.raises(xclass.errors.InputError):
        Ragged(offsets, values)
    with pytest.raises(xclass.errors.InputError):
        xclass.types.TopK(offsets, values, values.float())
    lists = Ragged(torch.tensor([0, 3, 4]), torch.arange(4))
    with pytest.raises(xclass.errors.InputError, match="no list of this number"):
        lists.take(torch.tensor([0, -1]))


def test_offsets_that_are_altered_after_they_were_checked() -> None:
    """Nothing is written outside of a result; what a model is asked with is checked once more."""
    lists = Ragged(torch.tensor([0, 1, 2]), torch.arange(2), torch.ones(2))
    lists.offsets[1] = 5000
    for use in (lists.rows, lambda: lists.take(torch.tensor([0, 1]))):
        with pytest.raises((RuntimeError, IndexError)):
            use()
    with pytest.raises(xclass.errors.InputError, match="offsets fall"):
        queries_with_features({"words": lists})


SAMPLERS: dict[str, dict[str, Any]] = {
    "counted": {"kind": "learned-unigram"},
    "window": {"kind": "learned-unigram", "window": 50},
    "decay": {"kind": "learned-unigram", "decay": 0.9},
    "streaming": {"kind": "in-batch", "frequency": "streaming"},
    "hard": {"kind": "hard", "depth": 10},
    "adaptive": {"kind": "adaptive"},
    "mixture": {"kind": "mixture", "parts": [{"kind": "learned-unigram"}, {"kind": "uniform"}]},
}


@pytest.fixture(scope="module", params=SAMPLERS)
def stopped(
    request: pytest.FixtureRequest, made: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """A run that is whole but for its end, of a sampler that learns."""
    config = {**CONFIG, "sampler": {**SAMPLERS[request.param], "num_sampled": 8}}
    run = tmp_path_factory.mktemp("stopped") / "run"
    train_run(xclass.open_dataset(made / "dataset"), xclass.runs.train.resolve_config(config), run)
    (run / "run.json").unlink()
    (run / "model.safetensors").unlink()
    return run, config


def test_a_checkpoint_with_another_tensor_is_resumed_or_refused(
    stopped: tuple[Path, dict[str, Any]], made: Path, tmp_path: Path
) -> None:
    run, config = stopped
    (source,) = (run / "checkpoints").iterdir()
    whole = safetensors.torch.load_file(source / "tensors.safetensors")
    assert any(name.startswith("sampler.") for name in whole)
    dataset, refused = xclass.open_dataset(made / "dataset"), 0
    for name, tensor in whole.items():
        for number, (what, other) in enumerate((*tensors_instead_of(torch.atleast_1d(tensor)), ("missing", None))):
            place = Path(shutil.copytree(run, tmp_path / f"{name} {number}"))
            (checkpoint,) = (place / "checkpoints").iterdir()
            kept = {key: value for key, value in whole.items() if key != name}
            tensors = kept if other is None else {**kept, name: other.contiguous()}
            safetensors.torch.save_file(tensors, checkpoint / "tensors.safetensors")
            bind(checkpoint, "tensors.safetensors")
            try:
                train_run(dataset, xclass.runs.train.resolve_config(config), place, resume=True)
            except XclassError:
                refused += 1
            except Exception as error:  # noqa: BLE001  that is what is looked for
                pytest.fail(f"{name} {what}: {error!r}")
    assert refused >= 3 * len(whole)


def test_what_a_run_was_started_with_is_changed(made: Path, tmp_path: Path) -> None:
    source, dataset = made / "run", xclass.open_dataset(made / "dataset")
    started = json.loads((source / "started.json").read_text())
    for number, (name, value) in enumerate(altered(started)):
        place = Path(shutil.copytree(source, tmp_path / str(number)))
        (place / "run.json").unlink()
        (place / "started.json").write_text(json.dumps(value))
        try:
            train_run(dataset, xclass.runs.train.resolve_config(CONFIG), place, resume=True)
            assert name.startswith("dataset: '"), name
        except XclassError:
            continue
        except Exception as error:  # noqa: BLE001  that is what is looked for
            pytest.fail(f"{name}: {error!r}")
