"""A finished run, opened for reading."""

from __future__ import annotations

import hashlib
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from xclass.config import load_config
from xclass.data.dataset import Dataset, checked_table, open_dataset, read_item_counts, read_ours, sequence_facts
from xclass.data.windows import SequenceFacts
from xclass.errors import ArtefactError, InputError
from xclass.io.manifest import read_manifest, verify_files
from xclass.io.tensors import load_tensors, mapped_tensors
from xclass.metrics.propensity import DEFAULT_A, DEFAULT_B
from xclass.models.two_tower import TwoTower
from xclass.runs.record import RunRecord
from xclass.runtime.once import once
from xclass.scorers import Fusion
from xclass.scorers.artifact import files_of, load_scorers
from xclass.training.build import build_model
from xclass.training.checkpoint.model_state import ModelState
from xclass.training.run_config import RunConfig
from xclass.types import Ragged

MANIFEST = "run.json"
KIND = "run"
FORMAT_VERSION = 1
TABLE = "table."
GROWING = "growing"  # below a run: the run that it becomes over a larger dataset, see xclass.runs.grow
MODEL = "model.safetensors"
TOWER_FILES = ("metrics.jsonl", MODEL)  # of a run with two towers
FILES = ["config.toml", "items.parquet", "metrics.jsonl", MODEL, "queries.parquet", "started.json"]


def bound_files(config: RunConfig) -> list[str]:
    """The files of a finished run that its manifest binds."""
    of_towers = FILES if config.documents.towers else [name for name in FILES if name not in TOWER_FILES]
    return [*of_towers, *files_of(config.documents)]


class RunDirectory:
    """A finished run, opened for reading.

    Raises:
        ArtefactError: not finished, of another version, a file is missing, cut, altered or from another run.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if (self.path / "started.json").exists() and not (self.path / MANIFEST).exists():
            grow = " --grow-vocab" if (self.path / GROWING / MANIFEST).exists() else ""
            raise ArtefactError(
                "this run is not finished", where=self.path, do=f"finish it with: xclass train … --resume{grow}"
            )
        self.manifest = read_manifest(self.path, MANIFEST, KIND, FORMAT_VERSION, RunRecord)
        verify_files(self.path, self.manifest)
        self.config = load_config(RunConfig, self.path / "config.toml")
        missing = [name for name in bound_files(self.config) if name not in self.manifest["files"]]
        missing += ["scorers"] if self.config.documents.sparse and "scorers" not in self.manifest else []
        if missing:
            what = "the manifest of this run does not name all of its parts"
            raise ArtefactError(what, where=self.path / MANIFEST, wanted=", ".join(missing))

    def __repr__(self) -> str:
        return f"RunDirectory({self.path}: {self.num_queries:,} queries, {self.num_items:,} items)"

    @property
    def model_hash(self) -> str:
        """SHA-256 of the weights: what an index of this run names."""
        if self.config.documents.sparse:
            names = files_of(self.config.documents) + ([MODEL] if self.config.documents.towers else [])
            hashes = [self.manifest["files"][name]["sha256"] for name in names]
            return hashlib.sha256(" ".join(hashes).encode()).hexdigest()
        digest: str = self.manifest["files"][MODEL]["sha256"]
        return digest

    @once
    def item_ids(self) -> pl.Series:
        """External id of every item number."""
        return read_ours(self._table("items.parquet"), ["item_id"])["item_id"]

    @once
    def query_ids(self) -> pl.Series:
        """External id of every query number."""
        return read_ours(self._table("queries.parquet"), ["query_id"])["query_id"]

    def _table(self, name: str) -> Path:
        """The path of a table that has its columns and rows."""
        rows = self.num_items if name == "items.parquet" else self.num_queries
        return checked_table(self.path / name, rows)

    @property
    def item_counts(self) -> Tensor:
        """int32 (N,), train pairs of each item. Read anew at every access."""
        return read_item_counts(self._table("items.parquet"))

    @property
    def num_train_queries(self) -> int:
        """Of the dataset that the run was trained on; 0 in runs that did not note it."""
        number: int = self.manifest.get("num_train_queries", 0)
        return number

    @property
    def sequence(self) -> SequenceFacts | None:
        """How positions of a text are read, where the run's queries are such."""
        return sequence_facts(self.manifest)

    @property
    def propensity(self) -> tuple[float, float]:
        """As a rule: a finished run weighs nothing."""
        return DEFAULT_A, DEFAULT_B

    @property
    def query_features(self) -> dict[str, Ragged]:
        """None: they are the dataset's."""
        return {}

    @property
    def item_features(self) -> dict[str, Ragged]:
        """None: the vectors of items are stored whole."""
        return {}

    @property
    def item_texts(self) -> pl.Series:
        """The ids: the vectors that were made of texts are stored whole."""
        return self.item_ids.cast(pl.String)

    def feature_sizes(self, side: str) -> dict[str, int]:
        """Name → number of different features of the dataset that the run was trained on, of side "query"."""
        sizes: dict[str, int] = self.manifest.get("features", {}).get(side, {})
        return sizes

    def feature_counts(self, side: str, name: str) -> tuple[Tensor, int]:
        """Zeros: what a model made of them is stored with it."""
        return torch.zeros(self.feature_sizes(side)[name], dtype=torch.int64), 0

    @property
    def num_items(self) -> int:
        """N."""
        number: int = self.manifest["num_items"]
        return number

    @property
    def num_queries(self) -> int:
        """Queries with a number."""
        number: int = self.manifest["num_queries"]
        return number

    def dataset(self, path: Path | str | None = None) -> Dataset:
        """The dataset of the run: where it was, or at ``path`` if it was moved.

        Raises:
            ArtefactError: it is not there, or is not the dataset that the run was trained on.
        """
        recorded = Path(self.manifest["dataset"]["dataset"])
        place = recorded if path is None else Path(path)
        if path is None and not place.exists():
            raise ArtefactError(
                "the dataset of this run is not where it was",
                where=recorded,
                do="say where it is: --dataset PATH, in Python dataset=PATH",
            )
        dataset = open_dataset(place)
        if dataset.fingerprint != self.manifest["dataset"]["fingerprint"]:
            raise ArtefactError(
                "this is not the dataset that the run was trained on",
                where=place,
                wanted=f"the dataset of {self.path}",
                do="give that dataset (--dataset PATH, in Python dataset=PATH), or train again",
            )
        return dataset

    def load_scorers(self) -> tuple[Fusion, dict[str, float]]:
        """The scorers of sparse features and the weight of each scorer; InputError for a run of two towers alone."""
        if not self.config.documents.sparse:
            raise InputError("this run has no scorers of sparse features", got=self.path)
        return load_scorers(self.path, self.config.documents, self.num_items)

    def load_model(self) -> TwoTower:
        """The trained model; it needs no dataset. Its rows stay in the file: they are read when they are touched."""
        path = self.path / MODEL
        mapped = mapped_tensors(path, TABLE)
        rows = {name.removeprefix(TABLE).removesuffix(".weight"): tensor for name, tensor in mapped.items()}
        try:
            model = build_model(self.config, self, None, untrained=False, stored=rows)
        except InputError as error:
            raise ArtefactError(error.what, where=path, wanted=error.wanted, got=error.got) from None
        if set(rows) != set(model.tables):
            wanted, got = ", ".join(sorted(model.tables)), ", ".join(sorted(rows))
            raise ArtefactError("this file holds another model's tables", where=path, wanted=wanted, got=got)
        state = ModelState(model, self.config.train.dense_learning_rate)
        dense = {name: tensor for name, tensor in state.model_tensors().items() if not name.startswith(TABLE)}
        load_tensors(path, dense, but=TABLE)
        _check_head(model, path)
        return model.eval()


def _check_head(model: TwoTower, path: Path) -> None:
    try:
        model.head.check_loaded()
    except InputError as error:
        raise ArtefactError(error.what, where=path, wanted=error.wanted) from None
