"""What a person may choose when raw files become a dataset."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from xclass.config import MOST, Config, Count, Positive, Seed
from xclass.data.vectorizer import TextOptions

Split = Literal["auto", "given", "random", "leave-last", "time"]
Borders = Literal["stop", "cross", "ignore"]
DEFAULT_VALID_FRACTION = 0.1


class IngestOptions(Config):
    """Options of :func:`xclass.ingest.ingest.ingest`; the resolved copy is saved in ``dataset.json``."""

    format: str = "auto"
    """A name of ``FORMATS`` or ``DOCUMENT_FORMATS``; "auto" goes by the files' endings and first lines."""
    query_col: str | None = None
    """Column of the query ids. None: the first of the usual names (query_id, user_id, user, session_id, …)."""
    item_col: str | None = None
    """Column of the item ids. None: the first of the usual names (item_id, item, movie_id, …)."""
    weight_col: str | None = None
    """Column of the weights, numbers from 0. None: weight or rating if there is one. "" (empty): no weights."""
    time_col: str | None = None
    """Column of the times, numbers or ISO dates. None: timestamp, time, event_time, date, … if there is one. ""
    (empty): no times."""
    text_col: tuple[str, ...] = ()
    """Columns of the documents' texts, joined by a line break. None named: text, else title, abstract, content, …"""
    item_text: str | None = None
    """A file with the labels' texts. None: lbl.json or items.jsonl in the source's directory, if there is one."""
    text: TextOptions = TextOptions()
    """How text becomes features."""
    propensity_a: float = Field(default=0.55, ge=0, le=10)
    """A of the propensities that psp and psndcg of this dataset use, as its card says: 0.55 as a rule, Wikipedia 0.5,
    Amazon 0.6."""
    propensity_b: float = Field(default=1.5, ge=0, le=1_000_000)
    """B of the propensities: 1.5 as a rule, Wikipedia 0.4, Amazon 2.6."""
    min_weight: float | None = Field(default=None, ge=0, le=3.4e38)
    """Rows with a lower weight are dropped first: with 4, ratings of 4 and 5 are positives, and lower ones are not."""
    split: Split = "auto"
    """auto: given for a directory with train and test files, time where there is a time column, else random."""
    test_fraction: float = Field(default=0.2, ge=0, lt=1)
    """Share of the pairs that goes to test (random, time)."""
    valid_fraction: float | None = Field(default=None, ge=0, lt=1)
    """Share of the pairs that goes to valid; leave-last: one pair of each query when above 0.
    None: 0.1, but 0 for a given split. A given split that has its own valid part can't be cut again."""
    min_query_count: Count = 0
    """Queries with fewer distinct items are dropped, in turn with the items until nothing changes."""
    min_item_count: Count = 0
    """Items with fewer distinct queries are dropped, in turn with the queries until nothing changes."""
    vocabulary: int | None = Field(default=None, ge=3, le=MOST)
    """Plain text: so many items at most, the unknown word and the end of a sentence among them. None: every word that
    train has twice."""
    context: Positive | None = None
    """Plain text: how many items before a position are its history. None: 4."""
    borders: Borders | None = None
    """Plain text, what the end of a line is. stop: an item like a word, and no history reaches back over it; cross: an
    item like a word, in histories too; ignore: nothing, a part is one sequence. None: stop."""
    split_number: Positive = 1
    """Which column of the files of splits (``*_trSplit.txt``, ``*_tstSplit.txt``) that lie beside documents counts."""
    memory: float | None = Field(default=None, ge=0, le=1e9, exclude=True)
    """GiB that pairs and ids may take; a source that may need more is sorted on disk. None: half of what can be had.
    It is not recorded: the dataset is the same."""
    seed: Seed = 0
    """Seed of the random split, of a valid part cut from a given train part, and of planted data."""
    header: bool | None = None
    """Whether a csv file's first line names its columns. None: decided from that line. Without a header the columns
    are called "1", "2", …"""
    separator: str | None = Field(default=None, min_length=1)
    """What stands between a csv file's fields; " " is any run of blanks. None: found from the first lines."""

    @model_validator(mode="after")
    def _something_is_left(self) -> IngestOptions:
        if self.test_fraction + (self.valid_fraction or 0) >= 1:
            raise ValueError("test_fraction and valid_fraction leave nothing for train: their sum must stay below 1")
        return self

    def valid_share(self, split: str) -> float:
        """``valid_fraction``, or its default for this split."""
        if self.valid_fraction is not None:
            return self.valid_fraction
        return 0.0 if split == "given" else DEFAULT_VALID_FRACTION
