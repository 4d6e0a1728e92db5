"""``xclass ingest SOURCE [--append] --out DATASET``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from xclass.cli.options import LARGEST_SEED, MOST, AsJson, constants_of, one_of
from xclass.cli.output import print_json, print_line

FORMAT_NAMES = ("auto", "csv", "parquet", "jsonl", "adjacency", "sequences", "inter", "xmc", "svmlight", "npz", "text")
WEIGHTINGS = ("log-tf-idf", "tf-idf", "count", "binary")
BORDER_NAMES = ("stop", "cross", "ignore")
SPLIT_NAMES = ("auto", "given", "random", "leave-last", "time")

Source = Annotated[
    str,
    typer.Argument(
        help="A file; a directory with train.*, test.* (and valid.*), or of part files; "
        "or planted:items=…,queries=…,pairs=…[,topics=…][,sharpness=…][,zipf=…][,seed=…]; "
        "or planted-text:items=…,words=…"
    ),
]
Append = Annotated[
    bool,
    typer.Option(
        "--append",
        help="Add SOURCE to the dataset at --out, which keeps all of its pairs. Its options apply unless given again. "
        "Split random or given: old pairs keep their part, and new pairs are divided by the same shares. Split time or "
        "leave-last: all pairs are divided again, and old test pairs may become train pairs.",
    ),
]
Base = Annotated[
    Path | None, typer.Option(help="With --append: leave this dataset as it is and write the larger one to --out.")
]
FileFormat = Annotated[
    str | None, typer.Option("--format", metavar="NAME", help=f"{', '.join(FORMAT_NAMES)}. [default: auto]")
]
QueryCol = Annotated[
    str | None,
    typer.Option("--query-col", "--user-col", help="Column of the query ids; found by its name if left out."),
]
ItemCol = Annotated[str | None, typer.Option(help="Column of the item ids; found by its name if left out.")]
WeightCol = Annotated[
    str | None, typer.Option("--weight-col", "--rating-col", help='Column of the weights; "" for none.')
]
TimeCol = Annotated[str | None, typer.Option("--time-col", "--timestamp-col", help='Column of the times; "" for none.')]
TestFraction = Annotated[float | None, typer.Option(help="Share of the pairs that goes to test.")]
ValidFraction = Annotated[float | None, typer.Option(help="Share that goes to valid.")]
SplitName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"{', '.join(SPLIT_NAMES)}. auto: a given split, else by time, else random. [default: auto]",
    ),
]
Memory = Annotated[
    float | None,
    typer.Option(
        metavar="GIB",
        help="Memory for pairs and ids. A source that may need more is sorted on disk, beside --out, into the same "
        "dataset. [default: half of the available memory]",
    ),
]
Separator = Annotated[str | None, typer.Option(help='The field separator of a CSV file. " ": any number of blanks.')]
SplitNumber = Annotated[
    int | None,
    typer.Option(min=1, max=MOST, help="Which column of *_trSplit.txt and *_tstSplit.txt to use. [default: 1]"),
]
TextCol = Annotated[
    list[str] | None,
    typer.Option(help="Column with the documents' text (JSON lines, Parquet); repeatable: the columns are joined."),
]
ItemText = Annotated[
    str | None, typer.Option(metavar="FILE", help="Texts of the labels: JSON lines or Parquet with id and text.")
]
WordNgrams = Annotated[int | None, typer.Option(min=0, max=5, help="Text: sequences of 1 to N words. [default: 1]")]
CharNgrams = Annotated[
    int | None, typer.Option(min=0, max=8, help="Text: sequences of N characters within a word. [default: 0, none]")
]
HashBits = Annotated[
    int | None, typer.Option(min=0, max=26, help="Text: hash into 2^N features instead of keeping a vocabulary.")
]
MaxFeatures = Annotated[
    int | None, typer.Option(min=1, max=MOST, help="Text: the largest size of the vocabulary. [default: 262144]")
]
MinDocuments = Annotated[
    int | None, typer.Option(min=1, max=MOST, help="Text: words in fewer train documents are left out. [default: 2]")
]
Weighting = Annotated[
    str | None, typer.Option(metavar="NAME", help=f"Text: {', '.join(WEIGHTINGS)}. [default: log-tf-idf]")
]
Vocabulary = Annotated[
    int | None,
    typer.Option(
        min=3,
        max=MOST,
        help="Plain text: keep the most frequent words of train: N items, including the unknown word and the end of "
        "a sentence. [default: words that occur twice]",
    ),
]
Context = Annotated[
    int | None,
    typer.Option(min=1, max=MOST, help="Plain text: how many words before a position are its history. [default: 4]"),
]
BordersOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Plain text: what the end of a line is. stop: an item at which histories end; cross: an item that "
        "also appears in histories; ignore: nothing. [default: stop]",
    ),
]
Propensity = Annotated[
    str | None,
    typer.Option(metavar="A,B", help="Constants of psp and psndcg, as published for the dataset. [default: 0.55,1.5]"),
]


def ingest(
    source: Source,
    out: Annotated[
        Path, typer.Option(help="The dataset directory to write; it must not exist. With --append: the one to add to.")
    ],
    append: Append = False,
    base: Base = None,
    file_format: FileFormat = None,
    query_col: QueryCol = None,
    item_col: ItemCol = None,
    weight_col: WeightCol = None,
    time_col: TimeCol = None,
    min_weight: Annotated[
        float | None,
        typer.Option(help="Drop rows with a lower weight or rating: they are no positives."),
    ] = None,
    split: SplitName = None,
    test_fraction: TestFraction = None,
    valid_fraction: ValidFraction = None,
    min_query_count: Annotated[int | None, typer.Option(min=0, max=MOST, help="Drop queries with fewer items.")] = None,
    min_item_count: Annotated[int | None, typer.Option(min=0, max=MOST, help="Drop items with fewer queries.")] = None,
    header: Annotated[
        bool | None, typer.Option(help="Whether the first line of a CSV file has the column names.")
    ] = None,
    separator: Separator = None,
    split_number: SplitNumber = None,
    text_col: TextCol = None,
    item_text: ItemText = None,
    word_ngrams: WordNgrams = None,
    char_ngrams: CharNgrams = None,
    hash_bits: HashBits = None,
    max_features: MaxFeatures = None,
    min_documents: MinDocuments = None,
    weighting: Weighting = None,
    vocabulary: Vocabulary = None,
    context: Context = None,
    borders: BordersOption = None,
    propensity: Propensity = None,
    memory: Memory = None,
    seed: Annotated[int | None, typer.Option(min=0, max=LARGEST_SEED, help="Seed of all random choices.")] = None,
    as_json: AsJson = False,
) -> None:
    """Read raw files, split them into train, valid and test, and write a dataset directory."""
    weighting, split = _checked("--weighting", weighting, WEIGHTINGS), _checked("--split", split, SPLIT_NAMES)
    text = {"word_ngrams": word_ngrams, "char_ngrams": char_ngrams, "hash_bits": hash_bits, "weighting": weighting}
    text = _given(text | {"max_features": max_features, "min_documents": min_documents})
    plain = {"vocabulary": vocabulary, "context": context, "borders": _checked("--borders", borders, BORDER_NAMES)}
    columns = {"query_col": query_col, "item_col": item_col, "weight_col": weight_col, "time_col": time_col}
    shares = {"test_fraction": test_fraction, "valid_fraction": valid_fraction, "split_number": split_number}
    form = {"header": header, "separator": separator, "memory": memory, "item_text": item_text}
    least = {"min_query_count": min_query_count, "min_item_count": min_item_count, "min_weight": min_weight}
    choices = {
        "format": _checked("--format", file_format, FORMAT_NAMES),
        "split": split,
        "seed": seed,
        "text_col": tuple(text_col) if text_col else None,
        "text": text or None,
        **_propensity(propensity),
    }
    _run(source, out, _added_to(append, base, out), columns | shares | form | least | plain | choices, as_json)


def _added_to(append: bool, base: Path | None, out: Path) -> Path | None:
    """The dataset that the source is added to; None without --append."""
    if base is not None and not append:
        raise typer.BadParameter("it goes with --append", param_hint="'--base'")
    return (base or out) if append else None


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _propensity(text: str | None) -> dict[str, float]:
    return {} if text is None else dict(zip(("propensity_a", "propensity_b"), constants_of(text), strict=True))


def _checked(option: str, value: str | None, allowed: tuple[str, ...]) -> str | None:
    return None if value is None else one_of(option, value, allowed)


def _run(source: str, out: Path, base: Path | None, choices: dict[str, Any], as_json: bool) -> None:
    from xclass.config import build_config
    from xclass.ingest.append import append
    from xclass.ingest.ingest import ingest as make_dataset
    from xclass.ingest.options import IngestOptions
    from xclass.ingest.report import render_report

    options = build_config(IngestOptions, _given(choices), where="ingest")
    if base is None:
        manifest = make_dataset(source, out, options).manifest
    else:
        manifest = append(source, base, options, None if base == out else out).manifest
    if as_json:
        print_json({"dataset": str(out), **{key: manifest[key] for key in manifest if key != "files"}})
    else:
        print_line(render_report(manifest["report"]))
        print_line(f"written    {out}")
