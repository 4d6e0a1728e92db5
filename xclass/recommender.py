"""A finished run behind one face: model, index and external ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from xclass.data.dataset import TEXT, Dataset
from xclass.data.features import ragged_of
from xclass.data.given import as_id_lists, as_id_series, as_texts, checked_path
from xclass.data.ids import IdMap
from xclass.data.lists import Some
from xclass.data.vectorizer import Vectoriser
from xclass.errors import InputError
from xclass.evaluation.evaluate import evaluate, metrics_at
from xclass.evaluation.likelihood import with_likelihood
from xclass.heads import CnnHead, OwnSearch
from xclass.index import Index, IndexConfig, build_index, load_index
from xclass.index.checks import checked_k
from xclass.metrics import Evaluation, MetricName, Propensities
from xclass.models.two_tower import TwoTower
from xclass.queries.files import QueryFile
from xclass.queries.queries import (
    Queries,
    dataset_queries,
    empty_histories,
    histories_of,
    queries_by_id,
    queries_with_features,
    queries_with_histories,
)
from xclass.retrieval.filters import FilteredSearch, Wanted
from xclass.retrieval.formats import empty_frame, topk_frame
from xclass.retrieval.item_lists import NO_FILTER, ItemFilter, filter_given, filter_of_file, item_numbers
from xclass.retrieval.search import Searched, restricted, retrieve
from xclass.runs.directory import RunDirectory
from xclass.runtime.once import once
from xclass.runtime.progress import say
from xclass.scorers import Fusion
from xclass.scorers.artifact import DocumentSearch, WithoutTowers
from xclass.towers.characters import text_bytes
from xclass.types import Ragged, TopK
from xclass.types.vectors import Vectors

Ids = Sequence[str] | Sequence[int] | pl.Series | np.ndarray | Tensor
INDEX_FOLDER = "index"
PROPENSITY_METRICS = ("psp", "psndcg")


class Recommender:
    """Retrieves and evaluates with a finished run.

    >>> recommender = Recommender.load("runs/gowalla")                 # doctest: +SKIP
    >>> recommender.retrieve(query_ids=["17"], k=20)                   # doctest: +SKIP
    >>> recommender.retrieve(histories=[["41", "7"]], k=20)            # doctest: +SKIP
    """

    def __init__(self, run: RunDirectory, dataset_path: Path | str | None = None) -> None:
        self.run = run
        self._dataset_path = dataset_path
        self.model: TwoTower | WithoutTowers = run.load_model() if run.config.documents.towers else WithoutTowers()

    @classmethod
    def load(cls, path: Path | str, dataset: Path | str | None = None) -> Recommender:
        """Open a run directory.

        Args:
            path: the run.
            dataset: where its dataset is now, if it was moved. It is only opened for queries by id and for evaluation.

        Raises:
            ArtefactError: not a finished run, cut or altered.
        """
        return cls(RunDirectory(checked_path(path, "a run")), dataset)

    def __repr__(self) -> str:
        return f"Recommender({self.run.path}: {self.run.num_queries:,} queries, {self.run.num_items:,} items)"

    @once
    def dataset(self) -> Dataset:
        """The dataset that the run was trained on."""
        return self.run.dataset(self._dataset_path)

    @property
    def may_repeat(self) -> bool:
        """Whether items of a query's history may come again: its queries are positions of a text."""
        return self.run.sequence is not None

    @once
    def item_vectors(self) -> Vectors:
        """(N, D), read block by block, as one matrix with ``.tensor()``; InputError for a head that has none."""
        vectors = self.model.item_vectors()
        if vectors is None:
            raise InputError(
                "this model has no item vectors",
                where=self.run.path,
                do="retrieve and evaluate without an index: it brings a search of its own",
            )
        return vectors

    @once
    def exact_index(self) -> Searched:
        """Search that misses nothing; by all scorers of a run that has more than the two towers."""
        documents = self.run.config.documents
        own = self._own_search(exact=True)
        if own is not None:
            return own
        exact = build_index(self.item_vectors, IndexConfig(kind="exact")) if documents.towers else None
        return self._with_scorers(exact)

    def _own_search(self, exact: bool = False) -> OwnSearch | None:
        return self.model.own_search(exact) if isinstance(self.model, TwoTower) else None

    @once
    def index(self) -> Searched | None:
        """The same through the index of the run, None when ``xclass index`` has made none; a head's beam search."""
        own = self._own_search()
        if own is not None and own.misses_some:
            return own
        folder = self.run.path / INDEX_FOLDER
        if not folder.exists():
            return None
        return self._with_scorers(load_index(folder, self.run.model_hash, self.item_vectors))

    def _with_scorers(self, index: Index | None) -> Searched:
        documents = self.run.config.documents
        if not documents.sparse:
            assert index is not None
            return index
        fusion, weights = self._scorers
        towers = None if index is None else (self.model, index)
        return DocumentSearch(fusion, weights, self._features_read, towers)

    @once
    def _scorers(self) -> tuple[Fusion, dict[str, float]]:
        return self.run.load_scorers()

    @property
    def _features_read(self) -> str:
        name: str = self.run.manifest["scorers"]["name"]
        return name

    def retrieve(
        self,
        query_ids: Ids | None = None,
        histories: Sequence[Ids] | None = None,
        k: int = 20,
        *,
        features: Mapping[str, Ragged] | None = None,
        texts: Sequence[str] | pl.Series | None = None,
        exact: bool = False,
        include_seen: bool = False,
        candidates: Ids | Sequence[Ids] | None = None,
        exclude: Ids | Sequence[Ids] | None = None,
        short: str = "keep",
        probabilities: str | None = None,
        over: int | None = None,
    ) -> pl.DataFrame:
        """The k best items of each query: query_id, rank (from 1), item_id, score (falling; see docs/output-layers.md).

        Args:
            query_ids: queries of the dataset, by external id; unknown ones are left out and named on stderr.
            histories: instead: one list of external item ids per query; the answer calls them 0, 1, …
            features: instead, or beside histories for a model that reads both: sparse features by name, Ragged of
                feature numbers with weights, a list per query; the answer calls them 0, 1, …
            texts: the same as features: raw texts, a string per query, made into features as the dataset's texts were.
            k: at most so many items; a query that has seen nearly everything gets fewer.
            exact: search exactly even if the run has an index.
            include_seen: keep the items of a query's history; of positions of a text they always stay.
            candidates: nothing but these items; or a list of such lists, one for each query: then exact, among them.
            exclude: none of these items; or a list of such lists, one for each query.
            short: keep lists with fewer than k items; or fill them with popular items, which have no score.
            probabilities: a column of them: "exact" over all items, or over those that were "retrieved".
            over: how many items to retrieve at least, and normalise over; k when None.

        Ids, lists and texts come in any container: list, tuple, NumPy array, torch tensor, series of Polars or pandas.
        Without a query the table has its columns and no row.

        Raises:
            InputError: nobody to retrieve for, or more than one way to say whom; k < 1; a string, a set or something
                that is no id where a list of ids is wanted; new queries for a model that knows them by id only; another
                number of lists than queries; features for a model that reads none.
            DataError: not one of the ids is known.
            ArtefactError: texts, and the dataset was not made from texts.
        """
        _check_asked(query_ids=query_ids, histories=histories, features=features, texts=texts)
        if query_ids is not None:
            ids = as_id_series(query_ids, "query ids")
            queries = queries_by_id(self.dataset, ids, known=self.query_map)
            known = self.query_map.numbers(ids) >= 0
        else:
            queries = self._new_queries(histories, features, texts)
            known = torch.ones(len(queries), dtype=torch.bool)
        for missing, what in ((queries.unknown_queries, "query ids"), (queries.unknown_items, "items of histories")):
            if missing.count:
                say(missing.message(what))
        if alike := self.without_history(queries):
            say(empty_histories(alike))
        wanted = Wanted(
            checked_k(k),
            include_seen or self.may_repeat,
            filter_given(candidates, self.item_map, known, "candidates"),
            filter_given(exclude, self.item_map, known, "excluded items"),
            short,
            probabilities,
            over,
        )
        index = self.exact_index if exact or self.index is None else self.index
        search = FilteredSearch(self.model, index, wanted, lambda: self.run.item_counts)
        found = search.lists(queries)
        frames = [topk_frame(at, lists, queries.ids, self.run.item_ids, given) for at, lists, given in found]
        return pl.concat([empty_frame(queries.ids, self.run.item_ids, probabilities is not None), *frames])

    def _new_queries(self, histories: Any, features: Mapping[str, Ragged] | None, texts: Any) -> Queries:
        """Queries by what is known of people never seen: histories, features, or both."""
        if texts is not None:
            features = self.text_features(as_texts(texts))
        given = None if features is None else self._with_features(features)
        if histories is None:
            assert given is not None
            return given
        queries = self.queries_of(histories_of(as_id_lists(histories, "histories")))
        if given is None:
            return queries
        if len(given) != len(queries):
            got = f"{len(queries):,} histories, features of {len(given):,}"
            raise InputError("histories and features must be of the same queries", got=got)
        return replace(queries, features=given.features)

    def _with_features(self, features: Mapping[str, Ragged], ids: pl.Series | None = None) -> Queries:
        """Queries by their features; InputError where this model reads none."""
        if not self._reads_features:
            wanted, got = "a query tower that reads features", f'kind = "{self.run.config.model.query.kind}"'
            do = "give histories or query ids"
            raise InputError("this model reads no features", where=self.run.path, wanted=wanted, got=got, do=do)
        return queries_with_features(features, ids, self.run.feature_sizes("query"))

    @property
    def _reads_features(self) -> bool:
        return "features" in self.run.config.model.query.kind or bool(self.run.config.documents.sparse)

    def without_history(self, queries: Queries) -> int:
        """How many of these queries, if they are given by their histories, have nothing that this model goes by."""
        kind = self.run.config.model.query.kind
        if queries.known_items is None or self._reads_features or "history" not in kind:
            return 0
        empty = queries.histories.take(queries.rows).lengths() == 0
        return int((empty & (queries.numbers < 0) if "id" in kind.split("+") else empty).sum())

    def evaluate(
        self, k: Sequence[int] = (10, 20), split: str = "test", max_queries: int | None = None
    ) -> pl.DataFrame:
        """The metrics of the run on a split as a table: exact, through the index if there is one, and popularity."""
        return self.measure(metrics_at(k), split, max_queries=max_queries).table()

    def measure(
        self,
        metrics: Sequence[MetricName],
        split: str = "test",
        *,
        likelihood: bool | None = None,
        exact: bool = False,
        by_popularity: bool = False,
        max_queries: int | None = None,
        sample_seed: int | None = None,
        propensity: tuple[float, float] | None = None,
    ) -> Evaluation:
        """Metrics on the queries of ``split`` that have a positive there, items seen before it left out.

        Model metrics come from exact search. With an index (and not ``exact``) the same queries also go through it, and
        ``index_recall@k`` says how much of the exact lists it finds.

        Args:
            metrics: none for perplexity and calibration alone.
            likelihood: perplexity, log_loss and calibration, too; None: where queries are positions of a text.
            max_queries: measure on a sample of so many queries with a positive.
            sample_seed: draws that sample; the run's seed when None.
            propensity: A and B of psp and psndcg; those that the dataset was ingested with when None.
        """
        dataset, counts = self.dataset, self.run.item_counts
        seed = self.run.config.train.seed if sample_seed is None else sample_seed
        queries = dataset_queries(dataset, split, True, max_queries, seed)
        truth, k = Some(dataset.split(split), queries.numbers), max((metric.k for metric in metrics), default=0)
        result = Evaluation.nothing_yet()
        if metrics:
            through_index = not exact and self.index is not None
            result = evaluate(
                self.lists(queries, k, exact=True, label="exact search"),
                truth,
                metrics,
                through_index=self.lists(queries, k, label="through the index") if through_index else None,
                item_counts=counts,
                seen=None if self.may_repeat else Some(dataset.seen(split), queries.numbers),
                propensities=self._propensities(metrics, counts, propensity),
                by_popularity=by_popularity,
            )
        if self.may_repeat if likelihood is None else likelihood:
            result = with_likelihood(result, self.model, queries, truth, counts)
        return self._by_query_number(result, queries, split)

    @once
    def query_map(self) -> IdMap:
        """External query ids → numbers."""
        return IdMap(self.run.query_ids)

    @once
    def item_map(self) -> IdMap:
        """External item ids → numbers."""
        return IdMap(self.run.item_ids)

    def queries_of(self, file: QueryFile, none_known: bool = False) -> Queries:
        """The queries that a file names by id, or gives by history or text; with ``none_known`` it may know nobody."""
        if file.texts is not None:
            return self._with_features(self.text_features(file.texts), file.query_ids)
        if file.offsets is None:
            return queries_by_id(self.dataset, file.query_ids, known=self.query_map, none_known=none_known)
        facts = self.run.sequence
        unknown_item = None if facts is None else facts.unknown_item
        queries = queries_with_histories(self.query_map, self.item_map, file, none_known, unknown_item)
        if bool((queries.numbers < 0).any()):
            self.model.tower.check_new_queries()
        return queries

    @once
    def vectoriser(self) -> Vectoriser:
        """What made the features of the dataset's texts; ArtefactError when it was not made from texts."""
        return self.dataset.vectoriser()

    def text_features(self, texts: pl.Series) -> dict[str, Ragged]:
        """Features of new texts, as the dataset's are."""
        return {TEXT: ragged_of(self.vectoriser.blocks(texts))}

    def text_vectors(self, texts: Sequence[str]) -> Tensor:
        """(n, D) vectors of items that are called so, whether the run has them or not: of head.kind = "cnn".

        Their inner product with a query's vector is the score, as with :attr:`item_vectors`. An item of the run may
        have a correction beside its text, which a text alone has not.

        Raises:
            InputError: the item vectors of this run are not made of texts.
        """
        head = self.model.head if isinstance(self.model, TwoTower) else None
        if not isinstance(head, CnnHead):
            raise InputError("this run makes no vectors of texts", where=self.run.path, wanted='head.kind = "cnn"')
        return head.text_vectors(text_bytes(as_texts(texts), self.run.config.head.text_bytes))

    def item_numbers(self, ids: Ids, what: str = "items") -> Tensor:
        """int64 numbers of external item ids; unknown ones are left out and named on stderr."""
        numbers = item_numbers(self.item_map, as_id_series(ids, what), what)
        return numbers[numbers >= 0]

    def read_filter(self, path: Path | str | None, what: str) -> ItemFilter:
        """The items of a file: for everybody, or each query's own; unknown ones are left out and named on stderr."""
        return NO_FILTER if path is None else filter_of_file(Path(path), self.item_map, what)

    def lists(
        self,
        queries: Queries,
        k: int,
        *,
        exact: bool = False,
        include_seen: bool = False,
        candidates: Tensor | None = None,
        exclude: Tensor | None = None,
        label: str = "retrieve",
    ) -> Iterator[tuple[Tensor, TopK]]:
        """(positions in ``queries``, lists), batch by batch, in memory that does not grow with the queries."""
        index = self.exact_index if exact or self.index is None else self.index
        index, exclude = restricted(index, candidates, exclude)
        return retrieve(
            self.model,
            index,
            queries.batches(),
            k,
            include_seen=include_seen or self.may_repeat,
            exclude=exclude,
            deny=None if queries.hidden is None else queries.hidden_from,
            total=len(queries),
            label=label,
        )

    def _by_query_number(self, result: Evaluation, queries: Queries, split: str) -> Evaluation:
        """Values of each query by its number in the dataset, and the queries without a positive counted as skipped: of
        documents those of this part."""
        truth = self.dataset.split(split)

        def spread(values: Tensor) -> Tensor:
            return torch.full((len(truth),), torch.nan).index_copy_(0, queries.numbers, values)

        per_query, best = (
            {name: spread(values) for name, values in part.items()}
            for part in (result.per_query, result.per_query_best)
        )
        without = truth.lengths() == 0
        if self.may_repeat:
            without[:] = False  # the positions of the other parts are not of this split
        elif self.dataset.holds_documents:
            without &= torch.from_numpy((self.dataset.queries["split"] == split).to_numpy(writable=True))
        skipped = int(without.sum())
        return replace(
            result,
            per_query=per_query,
            per_query_best=best,
            num_skipped=result.num_skipped + skipped,
            query_ids=self.run.query_ids,
        )

    def _propensities(
        self, metrics: Sequence[MetricName], item_counts: Tensor, constants: tuple[float, float] | None
    ) -> Propensities | None:
        if not any(metric.name in PROPENSITY_METRICS for metric in metrics):
            return None
        return Propensities.of(item_counts, self.dataset.num_train_queries, *(constants or self.dataset.propensity))


def _check_asked(**given: Any) -> None:
    """InputError unless whom to retrieve for is said in one way."""
    ways = {name for name, value in given.items() if value is not None}
    if len(ways) != 1 and ways not in ({"histories", "features"}, {"histories", "texts"}):
        wanted = "one of query_ids, histories, features and texts; or histories with features or texts"
        raise InputError("say whom to retrieve for", wanted=wanted, got=" and ".join(sorted(ways)) or "none of them")
