"""Files given to commands, mutated: whom to retrieve for, what to leave out or keep to, predictions and truth.

What the lists must hold follows from one complete ranking of every query, filtered in plain Python; recall is computed
from the rows that a plain reader finds.
"""

from __future__ import annotations

import functools
import gzip
import io
import json
import math
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import polars as pl

from tests.reference import slow_files
from tests.robustness import plain_readers
from tests.robustness.bases import ITEMS, QUERIES
from tests.robustness.cases import Case, Tools
from tests.robustness.commands import CAUTIOUS, REFUSED, RIGHT, WRONG, Said, Verdict, fault, last_lines
from tests.robustness.datasets import stored
from tests.robustness.mutations import BYTES, TEXT, json_text, mutated
from tests.robustness.plain_readers import Refusal, json_object, lines_of, records, text_of, unpacked

K = 5
HEADERS = {"queryid", "itemid", "userid", "query", "item", "user", "id", "ids"}
Lists = dict[str, list[str]]


class Given(NamedTuple):
    """ids: for everybody, or whom. own: query → items, of a file of lists; common: those in every list of the query, of
    which there are several where it comes again."""

    ids: list[str] | None = None
    own: Lists | None = None
    common: Lists | None = None


def case(chance: Random, folder: Path) -> Case:
    """A file for ``retrieve``, or a pair of files for ``evaluate``."""
    return chance.choice([_filter, _filter, _queries, _queries, _evaluation, _evaluation])(chance, folder)


def _filter(chance: Random, folder: Path) -> Case:
    """``--exclude`` and ``--candidates``."""
    option = chance.choice(["--exclude", "--candidates"])
    own = chance.random() < 0.4
    items = chance.sample(range(ITEMS + 3), chance.randint(1, 9))
    ending, data, how = _ids(chance, [f"i{n:02d}" for n in items], "item_id") if not own else _own(chance)
    name = _pack(chance, folder, f"given{ending}", data)

    def check(tools: Tools) -> Verdict:
        _bring(tools, folder, "run", "ds")
        world = _world(str(tools.bases))
        said = tools.run("retrieve", "run", "--out", "o.jsonl", "-k", str(K), "--exact", option, name)

        def wanted() -> Lists:
            found = _read(unpacked((folder / name).read_bytes(), name), ending, "item_id", world.items)
            return world.lists(None, found, denied=option == "--exclude")

        return _judged(said, folder, wanted, bool(how))

    return Case(f"{option} {name}, {how}", check)


def _queries(chance: Random, folder: Path) -> Case:
    """``--queries``, ids or histories."""
    own = chance.random() < 0.4
    ids = [f"u{n:02d}" for n in chance.sample(range(QUERIES + 3), chance.randint(1, 9))]
    ending, data, how = _ids(chance, ids, "query_id") if not own else _own(chance, "history")
    name = _pack(chance, folder, f"given{ending}", data)

    def check(tools: Tools) -> Verdict:
        _bring(tools, folder, "run", "ds")
        world = _world(str(tools.bases))
        said = tools.run("retrieve", "run", "--out", "o.jsonl", "-k", str(K), "--exact", "--queries", name)

        def found() -> Given:
            raw = unpacked((folder / name).read_bytes(), name)
            return _read(raw, ending, "query_id", world.queries, anonymous=True)

        if own:
            return _judged_histories(said, folder, found, world)
        return _judged(said, folder, lambda: world.lists(found().ids, None), bool(how))

    return Case(f"--queries {name}, {how}", check)


def _evaluation(chance: Random, folder: Path) -> Case:
    """``--predictions`` and ``--truth``."""
    chosen = [f"u{n}" for n in range(chance.randint(1, 5))]
    rows = [(q, f"i{n}", float(r)) for q in chosen for r, n in enumerate(chance.sample(range(9), 3), 1)]
    truth = [(q, f"i{n}", 1.0) for q in chosen for n in chance.sample(range(9), 2)]
    form = chance.choice([".csv", ".tsv", ".jsonl", ".run"])
    data = {
        "predictions": _rows(rows, form, chance),
        "truth": _rows(truth, chance.choice([".csv", ".jsonl", ".qrels"]), chance),
    }
    damaged = chance.choice([None, "predictions", "truth", "predictions"])
    how: list[str] = []
    names: dict[str, str] = {}
    for part, (ending, number, raw) in data.items():
        if part == damaged:
            raw, how = mutated(raw, chance, TEXT, most=2)
            if ending == ".jsonl" and chance.random() < 0.5:
                lines = data[part][2].split(b"\n")
                place = chance.randrange(len(lines) - 1)
                lines[place] = json_text(lines[place], chance).replace(b"\n", b" ")
                raw, how = b"\n".join(lines), ["values"]
        names[part] = _pack(chance, folder, f"{part}{ending}", raw)
        data[part] = (ending, number, (folder / names[part]).read_bytes())

    def check(tools: Tools) -> Verdict:
        said = tools.run(
            "evaluate",
            "--predictions",
            names["predictions"],
            "--truth",
            names["truth"],
            "-k",
            "2",
            "--metric",
            "recall",
            "--json",
        )

        def wanted() -> dict[str, float]:
            read = {
                part: _numbered(unpacked(raw, names[part]), ending, number, part == "predictions")
                for part, (ending, number, raw) in data.items()
            }
            pairs = [(query, item) for query, item, _ in read["truth"]]
            if not {q for q, _ in pairs} & {q for q, _, _ in read["predictions"]}:
                raise Refusal("not one query id is the same")
            if not {i for _, i in pairs} & {i for _, i, _ in read["predictions"]}:
                raise Refusal("not one item id is the same")
            return slow_files.means(read["predictions"], pairs, ["recall"], [2])

        return _judged_metrics(said, folder, wanted, bool(how))

    return Case(f"evaluate {names}, {how}", check)


class World:
    """ranking: query → all items, best first. seen: query → what is left out of its lists."""

    def __init__(self, bases: Path) -> None:
        self.ranking: Lists = {}
        for line in (bases / "all.jsonl").read_text().splitlines():
            entry = json.loads(line)
            self.ranking.setdefault(entry["query_id"], []).append(entry["item_id"])
        self.seen: dict[str, set[str]] = {query: set() for query in self.ranking}
        for split in ("train", "valid"):
            for query, item in stored(bases / "ds", split).pairs:
                self.seen[query].add(item)
        self.queries = set(self.ranking)
        self.items = {item for ranked in self.ranking.values() for item in ranked}

    def lists(self, queries: list[str] | None, found: Given | None, denied: bool = False) -> Lists:
        """The lists that these queries get; a query with an empty one is left out.

        Raises:
            Refusal: nothing of the file is known.
        """
        if queries is not None and not set(queries) & self.queries:
            raise Refusal("no query is known")
        named = (
            None
            if found is None
            else set(found.ids or []) | {item for items in (found.own or {}).values() for item in items}
        )
        if named and not named & self.items:
            raise Refusal("no item is known")
        if found is not None and found.own is not None and not set(found.own) & self.queries:
            raise Refusal("no query has a list of its own")
        asked = Counter(self.queries if queries is None else queries)  # one that is named twice gets its list twice
        lists = {query: self._list(query, found, denied) * asked[query] for query in self.queries & set(asked)}
        return {query: items for query, items in lists.items() if items}

    def _list(self, query: str, found: Given | None, denied: bool) -> list[str]:
        left = [item for item in self.ranking[query] if item not in self.seen[query]]
        if found is not None:
            named = set(found.ids) if found.ids is not None else set((found.own or {}).get(query, []))
            left = [item for item in left if (item in named) != denied]
        return left[:K]


@functools.cache
def _world(bases: str) -> World:
    return World(Path(bases))


def _bring(tools: Tools, folder: Path, *names: str) -> None:
    for name in names:
        shutil.copytree(tools.bases / name, folder / name)


def _judged(said: Said, folder: Path, wanted: Callable[[], Lists], doubtful: bool) -> Verdict:
    bad = fault(said, folder)
    if bad is not None:
        return bad
    try:
        lists = wanted()
    except Refusal as error:
        return Verdict(REFUSED) if said.code else Verdict(WRONG, f"must be refused ({error}): {last_lines(said)}")
    if said.code:
        return Verdict(CAUTIOUS if doubtful else WRONG, "refused: " + last_lines(said))
    got = _lists_of(folder)
    wrong = [query for query in sorted({*got, *lists}) if got.get(query) != lists.get(query)]
    if not wrong:
        return Verdict(RIGHT)
    query = wrong[0]
    return Verdict(WRONG, f"{query}: {got.get(query)}, wanted {lists.get(query)}; {last_lines(said)}")


def _judged_histories(said: Said, folder: Path, read: Callable[[], Given], world: World) -> Verdict:
    """Lists of people with a history of their own: who has one, and that nothing of the history is in it."""
    bad = fault(said, folder)
    if bad is not None:
        return bad
    try:
        given = read()
        if given.own is None:
            return _judged(said, folder, lambda: world.lists(given.ids, None), True)
        own, common = given.own, given.common or {}
        named = {item for items in own.values() for item in items}
        if named and not named & world.items:
            raise Refusal("no item is known")
    except Refusal as error:
        return Verdict(REFUSED) if said.code else Verdict(WRONG, f"must be refused ({error}): {last_lines(said)}")
    if said.code:
        return Verdict(CAUTIOUS, "refused: " + last_lines(said))
    got = _lists_of(folder)
    wrong = [query for query, items in got.items() if query not in own or set(items) & set(common[query])]
    if wrong or any(query not in got for query in own):
        return Verdict(WRONG, f"lists of {sorted(got)} for {sorted(own)}, wrong {wrong}; {last_lines(said)}")
    return Verdict(RIGHT)


def _judged_metrics(said: Said, folder: Path, wanted: Callable[[], dict[str, float]], doubtful: bool) -> Verdict:
    bad = fault(said, folder)
    if bad is not None:
        return bad
    try:
        values = wanted()
    except Refusal as error:
        return Verdict(REFUSED) if said.code else Verdict(WRONG, f"must be refused ({error}): {last_lines(said)}")
    if said.code:
        return Verdict(CAUTIOUS if doubtful else WRONG, "refused: " + last_lines(said))
    got = json.loads(said.out)["metrics"]
    good = all(math.isclose(got[name], value, abs_tol=1e-9) for name, value in values.items())
    return Verdict(RIGHT) if good else Verdict(WRONG, f"{got}, wanted {values}; {last_lines(said)}")


def _lists_of(folder: Path) -> Lists:
    found: Lists = {}
    for line in (folder / "o.jsonl").read_text().split("\n")[:-1]:
        entry = json.loads(line)
        found.setdefault(str(entry["query_id"]), []).append(str(entry["item_id"]))
    return found


def _ids(chance: Random, ids: list[str], column: str) -> tuple[str, bytes, list[str]]:
    """(ending, bytes, how they were altered) of a file of ids."""
    ending = chance.choice([".txt", ".csv", ".tsv", ".csv", ".parquet"])
    if ending == ".parquet":
        stream = io.BytesIO()
        pl.DataFrame({column: ids}).write_parquet(stream)
        return (ending, *mutated(stream.getvalue(), chance, BYTES))
    mark = {".csv": ",", ".tsv": "\t"}.get(ending)
    lines = list(ids)
    if mark and chance.random() < 0.3:
        lines = [mark.join(row) for row in [["note", column], *(["x", each] for each in ids)]]
    elif mark and chance.random() < 0.6:
        lines = [column, *ids]
    data = "".join(line + "\n" for line in lines).encode()
    return (ending, *(mutated(data, chance, TEXT, most=2) if chance.random() < 0.85 else (data, [])))


def _own(chance: Random, called: str = "history") -> tuple[str, bytes, list[str]]:
    """(ending, bytes, how they were altered) of a file of lists."""
    lists = {
        f"u{q:02d}": [f"i{n:02d}" for n in chance.sample(range(ITEMS), chance.randint(1, 5))]
        for q in chance.sample(range(QUERIES), 3)
    }
    ending = chance.choice([".csv", ".jsonl", ".adj", ".tsv"])
    mark = "\t" if ending == ".tsv" else ","
    lines = [
        mark.join(["query_id", "item_id"]),
        *(mark.join([query, item]) for query, items in lists.items() for item in items),
    ]
    if ending == ".jsonl":
        lines = [json.dumps({"query_id": query, called: items}) for query, items in lists.items()]
        if chance.random() < 0.5:
            place = chance.randrange(len(lines))
            lines[place] = json_text(lines[place].encode(), chance).replace(b"\n", b" ").decode()
            return ending, "\n".join(lines).encode(), ["values"]
    if ending == ".adj":
        lines = [" ".join([query, *items]) for query, items in lists.items()]
    data = "".join(line + "\n" for line in lines).encode()
    return (ending, *(mutated(data, chance, TEXT, most=2) if chance.random() < 0.85 else (data, [])))


def _pack(chance: Random, folder: Path, name: str, data: bytes) -> str:
    """Write the file, compressed at times; its name."""
    if chance.random() < 0.15 and not name.endswith(".parquet"):
        name, data = f"{name}.gz", gzip.compress(data, mtime=0)
    (folder / name).write_bytes(data)
    return name


def _read(data: bytes, ending: str, column: str, known: set[str], anonymous: bool = False) -> Given:
    """What a file of ids or lists holds, by the documented rules. anonymous: a line's number may be its id."""
    if ending == ".parquet":
        return Given(_column(data, column))
    text = text_of(data)
    if ending == ".txt":
        return Given([line for line in lines_of(text) if line != ""])
    if ending == ".adj":
        rows = [plain_readers.blank_fields(line) for line in lines_of(text)]
        return _lists_of_lines((row[0], row[1:]) for row in rows if row)
    if ending == ".jsonl":
        numbered = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        return _lists_of_lines(_json_list(line, number if anonymous else None) for number, line in numbered)
    rows = records(text, "\t" if ending == ".tsv" else ",", quoted=True)
    if not rows or any(len(row) != len(rows[0]) for row in rows):
        raise Refusal("rows of different lengths")
    if len(rows[0]) == 1:
        header = re.sub(r"[\s_-]", "", rows[0][0]).lower() in HEADERS and rows[0][0] not in known
        return Given(_named([row[0] for row in rows[int(header) :]]))
    names = rows[0]
    if len(set(names)) < len(names) or column not in names:
        raise Refusal("no such column")
    if {"query_id", "item_id"} <= set(names):
        places = names.index("query_id"), names.index("item_id")
        own = _joined((_named([row[places[0]]])[0], _named([row[places[1]]])) for row in rows[1:])
        return Given(own=own, common=own)
    return Given(_named([row[names.index(column)] for row in rows[1:]]))


def _named(ids: list[str]) -> list[str]:
    if "" in ids or not ids:
        raise Refusal("an id is missing")
    return ids


def _json_list(line: str, number: int | None) -> tuple[str, list[str]]:
    entry = json_object(line)
    query = entry.get("query_id", number)
    if query is None or not isinstance(entry.get("history"), list):
        raise Refusal("no list, or nobody's")
    for value in [query, *entry["history"]]:
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise Refusal(f"not an id: {value!r}")
    return str(query), [str(item) for item in entry["history"]]


def _column(data: bytes, column: str) -> list[str]:
    """The ids of a Parquet file, read eagerly."""
    try:
        found = pl.read_parquet(io.BytesIO(data), glob=False)
    except BaseException as error:  # noqa: BLE001  Polars panics at some
        raise Refusal(str(error)) from None
    if column not in found.columns and found.width == 1:
        found.columns = [column]
    if column not in found.columns or not (found[column].dtype == pl.String or found[column].dtype.is_integer()):
        raise Refusal("no such column, or no ids")
    return _named(["" if value is None else str(value) for value in found[column].to_list()])


def _lists_of_lines(rows: Iterable[tuple[str, list[str]]]) -> Given:
    lines = list(rows)
    common: Lists = {}
    for query, items in lines:
        common[query] = [item for item in items if item in common.get(query, items)]
    return Given(own=_joined(lines), common=common)


def _joined(rows: Iterable[tuple[str, list[str]]]) -> Lists:
    found: Lists = {}
    for query, items in rows:
        found.setdefault(query, []).extend(items)
    if not found:
        raise Refusal("nothing")
    return found


def _rows(rows: list[tuple[str, str, float]], ending: str, chance: Random) -> tuple[str, str, bytes]:
    """(ending, what the number is, bytes) of predictions or truth."""
    number = chance.choice(["rank", "score"]) if ending not in (".run", ".qrels") else "score"
    lines = [
        (query, item, value if number == "rank" or ending == ".qrels" else 10 - value) for query, item, value in rows
    ]
    if ending in (".run", ".qrels"):
        texts = [
            f"{q} Q0 {i} {n} {v} tag" if ending == ".run" else f"{q} 0 {i} {v:.0f}" for n, (q, i, v) in enumerate(lines)
        ]
    elif ending == ".jsonl":
        texts = [json.dumps({"query_id": q, "item_id": i, number: v}) for q, i, v in lines]
    else:
        mark = "\t" if ending == ".tsv" else ","
        texts = [mark.join(row) for row in [("query_id", "item_id", number), *((q, i, str(v)) for q, i, v in lines)]]
    return ending, number, "".join(text + "\n" for text in texts).encode()


def _numbered(data: bytes, ending: str, number: str, ordered: bool) -> list[tuple[str, str, float]]:
    """(query, item, higher is better) of every row."""
    text = text_of(data)
    if ending in (".run", ".qrels"):
        return _trec([line.split() for line in text.split("\n")], 6 if ending == ".run" else 4)
    if ending == ".jsonl":
        rows = [json_object(line, constants=True) for line in text.split("\n") if line.strip()]
        for name in ("query_id", "item_id"):
            for row in rows:
                if isinstance(row.get(name), bool) or not isinstance(row.get(name), str | int) or row[name] == "":
                    raise Refusal(f"not an id: {row.get(name)!r}")
        plain_readers.check_ids([str(row["query_id"]) for row in rows])
    else:
        table = records(text, "\t" if ending == ".tsv" else ",", quoted=True)
        if not table or any(len(row) != len(table[0]) for row in table) or len(set(table[0])) < len(table[0]):
            raise Refusal("rows of different lengths")
        rows = [dict(zip(table[0], row, strict=True)) for row in table[1:]]
        if any(not row.get(name) for row in rows for name in ("query_id", "item_id")):
            raise Refusal("an id is missing")
    if not rows:
        raise Refusal("nothing")
    sign = -1 if number == "rank" else 1
    return [
        (str(row["query_id"]), str(row["item_id"]), sign * _order(row.get(number)) if ordered else 1.0) for row in rows
    ]


def _trec(rows: list[list[str]], width: int) -> list[tuple[str, str, float]]:
    rows = [row for row in rows if row]
    if not rows or any(len(row) != width for row in rows):
        raise Refusal("another number of fields")
    found = [(row[0], row[2], _order(row[4 if width == 6 else 3])) for row in rows]
    return found if width == 6 else [row for row in found if row[2] > 0]


def _order(value: Any) -> float:
    """A rank or a score; infinite ones are in order, too."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise Refusal(f"not a number: {value!r}")
    try:
        number = float(value)
    except ValueError:
        raise Refusal(f"not a number: {value!r}") from None
    except OverflowError:
        number = math.inf
    if math.isnan(number) or (isinstance(value, str) and "_" in value):
        raise Refusal(f"not a number: {value!r}")
    return number
