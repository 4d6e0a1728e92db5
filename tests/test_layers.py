"""The house's rules, read from the source: floors, sizes, and what no file may do."""

from __future__ import annotations

import ast
import functools
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "xclass"

# Room → floor: imports point to a lower floor, or stay in the room.
FLOORS = {
    "types": 0, "errors": 0, "rng": 0, "config": 0, "manifest": 0, "memory": 0, "markdown": 0, "progress": 0, "compiling": 0, "workers": 0, "once": 0, "streams": 0,
    "cells": 0, "files": 0, "records": 0, "frames": 0,
    "data": 1, "tensorfile": 1, "metrics": 1, "vectors": 1, "topk_files": 1,
    "sampling": 2, "losses": 2, "towers": 2, "tables": 2, "optim": 2, "index": 2, "spectral": 2, "own_lists": 2, "catalogue": 2, "run_record": 2, "topk_parts": 2,
    "heads": 3, "scorers": 3,
    "model": 4, "compat": 4,
    "engine": 5, "likelihood": 5,
    "training": 6, "retrieve": 6, "evaluate": 6, "starts": 6, "divided_search": 6,
    "report": 7, "testing": 7, "document_scorers": 7, "run_config": 7, "filtered_search": 7, "predictions": 7,
    "probabilities": 6,
    "build": 8,
    "run_directory": 8, "launching": 9, "run": 9, "estimate": 9, "growth": 9,
    "recommender": 10, "inspection": 10, "doctor": 10,
    "demo": 11, "batch": 11, "indexing": 11, "ray_retrieval": 11, "export": 11, "compare": 11, "contest": 11, "cli": 12, "__init__": 12, "__main__": 13,
}  # fmt: skip

# Rooms that may import a room of their own floor.
SIBLINGS = {
    ("files", "errors"),
    ("frames", "errors"),
    ("records", "errors"),
    ("manifest", "errors"),
    ("manifest", "files"),
    ("manifest", "records"),
    ("types", "errors"),
    ("config", "errors"),
    ("config", "records"),
    ("progress", "streams"),
    ("run_directory", "build"),
    ("run", "estimate"),
    ("run", "launching"),
    ("launching", "estimate"),
    ("growth", "run"),
    ("demo", "indexing"),
    ("growth", "estimate"),
}
# `from xclass import __version__` is all that anyone below may take from the face.
FROM_THE_FACE = {"__version__"}

EXTRAS = {"faiss", "matplotlib", "torchrec", "fbgemm_gpu", "tensorboard", "numba", "ray"}
# What numba compiles is written in files of its own, which are imported inside functions only.
COMPILED = {
    "cells.py", "data/_numba.py", "distributed/_numba.py", "heads/tree/_numba_beam.py", "losses/fused/_numba_rows.py", "heads/tree/_numba_cluster.py", "losses/fused/_numba_pairs.py", "losses/fused/_numba_per_query.py", "heads/tree/_numba_tree.py", "index/lsh/_numba.py", "index/_numba.py",
    "losses/_numba.py", "metrics/_numba.py", "sampling/_numba.py", "scorers/_numba.py", "embeddings/_numba.py", "embeddings/_numba_plan.py",
    "towers/_numba.py", "towers/_numba_characters.py",
}  # fmt: skip
FORBIDDEN_IMPORTS = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle", "random"}
FORBIDDEN_CALLS = {
    "torch.load", "torch.save", "torch.manual_seed", "torch.seed",
    "torch.cuda.manual_seed", "torch.cuda.manual_seed_all",
    "np.random.seed", "np.random.default_rng", "numpy.random.default_rng", "eval", "exec",
}  # fmt: skip
# Calls that draw numbers: each must be given its generator.
DRAWS = {
    "rand", "randn", "randint", "randperm", "multinomial", "bernoulli", "poisson", "normal_", "uniform_",
    "exponential_", "bernoulli_", "random_", "geometric_", "log_normal_", "cauchy_",
}  # fmt: skip
FORBIDDEN_ROOMS = {"utils", "util", "common", "base", "helpers", "misc"}

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60


def files() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path, module: ast.AST | None = None) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything imported, inside functions too; ``from xclass import a`` is ``xclass.a``."""
    for node in ast.walk(module or tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            name = node.module or ""
            if name == "xclass":
                yield from ((node.lineno, f"xclass.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, name


def module_level(path: Path) -> ast.Module:
    """The statements that run on import, without the bodies of functions and of ``if TYPE_CHECKING``."""
    return ast.Module(body=list(_running(tree(path).body)), type_ignores=[])


def _running(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from _running(node.orelse)
        elif isinstance(node, ast.ClassDef | ast.If | ast.Try | ast.With):
            for field in ("body", "orelse", "finalbody"):
                yield from _running(getattr(node, field, []))
            for handler in getattr(node, "handlers", []):
                yield from _running(handler.body)
        else:
            yield node


def upward_imports(path: Path) -> list[str]:
    """Every import of ``path`` that does not point down."""
    room, wrong = room_of(path), []
    for line, name in imports(path):
        parts = name.split(".")
        if parts[0] != "xclass" or (len(parts) == 2 and parts[1] in FROM_THE_FACE):
            continue
        target = parts[1] if len(parts) > 1 else "__init__"
        below = FLOORS.get(target, 99) < FLOORS[room] or target == room or (room, target) in SIBLINGS
        if not below:
            wrong.append(f"{path.relative_to(ROOT)}:{line}: {room} (floor {FLOORS[room]}) imports {name}")
    return wrong


def functions(path: Path) -> Iterator[tuple[str, int, int]]:
    """(name, line, length without the docstring) of every function."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            first = node.body[0]
            if ast.get_docstring(node) is not None:
                length -= (first.end_lineno or first.lineno) - first.lineno + 1
            yield node.name, node.lineno, length


def calls(path: Path) -> Iterator[tuple[int, str, set[str | None]]]:
    """(line, dotted name, keywords) of every call."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            yield node.lineno, ast.unparse(node.func), {keyword.arg for keyword in node.keywords}


@pytest.mark.parametrize("path", files(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
class TestEveryFile:
    def test_it_has_a_floor(self, path: Path) -> None:
        assert room_of(path) in FLOORS, f"{room_of(path)} is not in the table of floors"

    def test_imports_point_down(self, path: Path) -> None:
        assert upward_imports(path) == []

    def test_two_levels_and_a_telling_name(self, path: Path) -> None:
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        assert len(parts) <= 2, "a room has no rooms inside"
        assert not FORBIDDEN_ROOMS & set(parts)

    def test_size(self, path: Path) -> None:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_FILE_LINES
        long = [(name, line, length) for name, line, length in functions(path) if length > MAX_FUNCTION_LINES]
        assert long == []

    def test_nothing_forbidden_is_imported_or_called(self, path: Path) -> None:
        assert [name for _, name in imports(path) if name.split(".")[0] in FORBIDDEN_IMPORTS] == []
        wrong = []
        for line, name, keywords in calls(path):
            if name in FORBIDDEN_CALLS:
                wrong.append((line, name))
            if name.endswith(".load") and name.split(".")[0] in ("np", "numpy") and "allow_pickle" not in keywords:
                wrong.append((line, f"{name} without allow_pickle=False"))
        assert wrong == []
        assert not re.search(r"allow_pickle\s*=\s*True|weights_only\s*=\s*False", path.read_text(encoding="utf-8"))

    def test_every_draw_has_its_generator(self, path: Path) -> None:
        wrong = []
        for line, name, keywords in calls(path):
            owner, _, last = name.rpartition(".")
            if last in DRAWS and owner and not {"generator", None} & keywords and not _is_generator(owner):
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {name} without generator=")
        assert wrong == []

    def test_extras_are_imported_only_when_needed(self, path: Path) -> None:
        at_import = [name for _, name in imports(path, module_level(path))]
        if str(path.relative_to(PACKAGE)) not in COMPILED:
            assert [name for name in at_import if name.split(".")[0] in EXTRAS] == []
            assert not {f"xclass.{file[:-3].replace('/', '.')}" for file in COMPILED} & set(at_import)


def test_compiled_sums_in_any_order_are_inlined_where_they_are_called() -> None:
    """A copy of its own and a caller's copy differ in their bits; which is reached depends on what was compiled before."""
    functions = [
        node for name in COMPILED for node in ast.walk(tree(PACKAGE / name)) if isinstance(node, ast.FunctionDef)
    ]
    how = {node.name: " ".join(ast.unparse(decorator) for decorator in node.decorator_list) for node in functions}
    plain = re.compile(r"njit(\(\*\*OPTIONS\)|\(inline='always'\)|\(nogil=True, cache=True\))?")
    reordered = {name for name, text in how.items() if "njit" in text and not plain.fullmatch(text)}
    called = {
        call.func.id
        for node in functions
        for call in ast.walk(node)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
    }
    assert len(reordered) > 5 and sorted(reordered & called) == []


def _is_generator(owner: str) -> bool:
    """``generator.multinomial(…)`` of NumPy: the generator is the owner."""
    return owner.split(".")[-1] in ("generator", "rng") or "numpy_generator(" in owner


def test_only_rng_makes_generators() -> None:
    makers = {"torch.Generator", "np.random.Generator", "np.random.Philox", "np.random.PCG64"}
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in files()
        for line, name, _ in calls(path)
        if name in makers and room_of(path) != "rng"
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def f():\n    from xclass.heads import dot\n", 1),
        ("import xclass.index.flat\n", 1),  # a sibling of floor 2
        ("from xclass import losses\n", 1),
        ("from xclass.types import Ragged\nfrom xclass import __version__\nfrom xclass.sampling import uniform\n", 0),
        ("import xclass\n", 1),
    ],
)
def test_the_import_rule_itself(source: str, found: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sampling" / "new.py"
    path.parent.mkdir()
    path.write_text(source)
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert len(upward_imports(path)) == found


def test_every_module_imports() -> None:
    """A module that nobody imports yet is tried too."""
    for path in files():
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if path.stem != "__main__":
            importlib.import_module(name)
