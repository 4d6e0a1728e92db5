"""How many files does one pair pass on its way, and how often does the way change file?

    python benchmarks/trace_route.py [--json]

A tiny job (synthetic pairs; configs/tiny/mf.toml for four steps; the default index) goes through ingest, train, index,
retrieve and evaluate on one thread, once to import and compile everything and once with a profiler. Counted are calls
of functions of xclass/ and their returns, in every thread, without what runs on import:

    files       files that have a function that was called
    changes     how often an event happens in another file than the event before it on the same thread

"pull, loss, push" is the part of a training step from the call of TwoTower.pull to the return of TwoTower.push, on the
thread that trains. Beside it, read from the source: functions of more than eight arguments outside cli/ and compat/,
comparisons of a `kind` with a text outside the files that hold the registries and configurations, and lines.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import inspect
import io
import json
import os
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "xclass"
sys.path.insert(0, str(ROOT))

SOURCE = "planted:items=500,queries=800,pairs=20000"
CONFIG = ROOT / "configs" / "tiny" / "mf.toml"
STEP = ("TwoTower.pull", "TwoTower.push")
MOST_ARGUMENTS = 8
FACES = ("cli", "compat")  # their signatures are the command line's and TensorFlow's
REGISTRIES = ("__init__.py", "config.py", "run_config.py")  # where a kind is told from others by its name


class Event(NamedTuple):
    """A call or a return of a function of xclass."""

    thread: int
    file: str
    name: str
    call: bool


class Route:
    """Events by phase, while the profiler is on."""

    def __init__(self) -> None:
        self.events: dict[str, list[Event]] = defaultdict(list)
        self.phase = ""

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        runs = code.co_flags & inspect.CO_OPTIMIZED  # not the body of a module or a class
        if event in ("call", "return") and runs and code.co_filename.startswith(f"{PACKAGE}{os.sep}"):
            happened = Event(threading.get_ident(), code.co_filename, code.co_qualname, event == "call")
            self.events[self.phase].append(happened)

    def step(self) -> list[Event]:
        """Pull, loss and push of the first traced step."""
        events, (first, last) = self.events["train"], STEP
        start = next(n for n, event in enumerate(events) if event.name == first and event.call)
        stop = next(n for n in range(start, len(events)) if events[n].name == last and not events[n].call)
        return [event for event in events[start : stop + 1] if event.thread == events[start].thread]


def figures(events: list[Event]) -> dict[str, int]:
    """Files, and changes of file."""
    before: dict[int, str] = {}
    changes = 0
    for event in events:
        changes += before.get(event.thread, event.file) != event.file
        before[event.thread] = event.file
    return {"files": len({event.file for event in events}), "changes": changes}


def xclass(*arguments: object) -> None:
    from xclass.cli import main

    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        code = main([*map(str, arguments), "--json"])
    assert code == 0, said.getvalue()


def job(folder: Path, route: Route) -> None:
    """From raw pairs to numbers."""
    data, run = folder / "dataset", folder / "run"
    for arguments in (
        ("ingest", SOURCE, "--out", data),
        ("train", data, "--config", CONFIG, "--set", "train.steps=4", "--out", run, "--no-memory-check"),
        ("index", run, "-k", 10),
        ("retrieve", run, "--out", folder / "lists.parquet", "-k", 10),
        ("evaluate", run, "-k", 10),
    ):
        route.phase = str(arguments[0])
        xclass(*arguments)


def traced() -> Route:
    import torch

    torch.set_num_threads(1)
    route = Route()
    with tempfile.TemporaryDirectory() as folder:
        job(Path(folder) / "first", route)
        threading.setprofile(route)
        sys.setprofile(route)
        try:
            job(Path(folder) / "traced", route)
        finally:
            sys.setprofile(None)
            threading.setprofile(None)  # type: ignore[arg-type]
    return route


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def long_signatures() -> list[str]:
    """Functions of more than eight arguments, self not counted; compiled loops are among them."""
    found = []
    for path, tree in sources():
        inside = path.relative_to(PACKAGE).parts
        if inside[0] in FACES:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                given = node.args
                names = [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
                number = len([name for name in names if name not in ("self", "cls")])
                if number > MOST_ARGUMENTS:
                    found.append(f"{'/'.join(inside)}:{node.lineno} {node.name} ({number})")
    return found


def comparisons_of_kinds() -> list[str]:
    """``x.kind == "text"``, ``!=``, ``in (…)``: what asks a thing for its name instead of for what it can."""
    found = []
    for path, tree in sources():
        if path.name in REGISTRIES:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Compare):
                sides = [node.left, *node.comparators]
                if any(_is_kind(side) for side in sides) and not any(_is_none(side) for side in sides):
                    found.append(f"{path.relative_to(PACKAGE).as_posix()}:{node.lineno} {ast.unparse(node)}")
    return found


def _is_kind(node: ast.expr) -> bool:
    """``thing.kind``; an array's ``dtype.kind`` is NumPy's."""
    return isinstance(node, ast.Attribute) and node.attr == "kind" and not ast.unparse(node.value).endswith("dtype")


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def lines() -> int:
    """Of xclass/, comments and blank ones included."""
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.py"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--list", action="store_true", help="also name the functions and the comparisons")
    options = parser.parse_args()
    route = traced()
    everything = [event for events in route.events.values() for event in events]
    parts = {"pull, loss, push": route.step(), **route.events}
    table = {"ingest to evaluate": figures(everything), **{name: figures(events) for name, events in parts.items()}}
    long, kinds = long_signatures(), comparisons_of_kinds()
    counts = {"functions of more than 8 arguments": len(long), "comparisons of a kind": len(kinds), "lines": lines()}
    if options.json:
        print(json.dumps({"route": table, **counts}))
        return
    print("| part | files | changes of file |\n|---|--:|--:|")
    for name, found in table.items():
        print(f"| {name} | {found['files']} | {found['changes']:,} |")
    print("".join(f"\n{name}: {count:,}" for name, count in counts.items()))
    if options.list:
        print("", *long, "", *kinds, sep="\n")


if __name__ == "__main__":
    main()
