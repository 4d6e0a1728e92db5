"""The house's rules, read from the source: rooms without circles, sizes, and what no file may do."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from import_graph import (
    PACKAGE,
    ROOT,
    cycles,
    files,
    floors,
    import_graph,
    imports,
    module_name,
    room_of,
    rooms,
    sizes,
    sub_rooms,
    tree,
)

MAX_FILES = 16  # of a room or a room inside it
MAX_DEPTH = 3  # xclass/room/room/file.py
MAX_FLOORS = 14
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
AT_THE_TOP = {"__init__.py", "__main__.py", "api.py", "config.py", "errors.py", "recommender.py"}

EXTRAS = {"faiss", "matplotlib", "torchrec", "fbgemm_gpu", "tensorboard", "numba", "ray"}
# What numba compiles is written in files of its own, which others import inside functions only.
COMPILED = [path for path in files() if path.name.startswith("_numba")] + [PACKAGE / "runtime" / "jit_bfloat16.py"]
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


class TestTheHouse:
    def test_rooms_form_no_circle_and_stand_on_few_floors(self) -> None:
        between = rooms(import_graph())
        assert cycles(between) == []
        assert len(floors(between)) <= MAX_FLOORS

    def test_files_form_no_circle(self) -> None:
        """Imports inside functions and for type checkers count: who reads a file must not be sent back to where he was."""
        assert cycles(import_graph()) == []

    def test_folders_inside_a_room_form_no_circle(self) -> None:
        graph = import_graph()
        assert {room: found for room in rooms(graph) if (found := cycles(sub_rooms(graph, room)))} == {}

    def test_rooms_are_small(self) -> None:
        assert {folder: size for folder, size in sizes().items() if size > MAX_FILES} == {}

    def test_little_stands_at_the_top(self) -> None:
        assert {path.name for path in PACKAGE.glob("*.py")} == AT_THE_TOP

    def test_what_is_private_stays_in_its_room(self) -> None:
        """A file whose name begins with ``_`` is imported in its own room; what numba compiles also by its like."""
        compiled = {module_name(path) for path in COMPILED}
        wrong = [
            f"{module} imports {target}"
            for module, targets in import_graph().items()
            for target in targets
            if re.search(r"\._[a-z]", target) and room_of(target) != room_of(module) and module not in compiled
        ]
        assert sorted(wrong) == []

    def test_architecture_has_every_room_in_the_order_of_imports(self) -> None:
        """Its tree names each folder and each module at the top once; rooms import what stands above them, or beside."""
        lines = (
            (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").split("## The tree")[1].split("```")[1].splitlines()
        )
        place: dict[str, int] = {}
        folders: list[str] = []
        for number, line in enumerate(line for line in lines if line):
            room = list(place)[-1] if line.startswith(" ") else ""
            words = re.match(r"(?: *\w+/)+", line)[0] if room else line.split("  ")[0]
            names = [name.rstrip("/") for name in words.split()]
            folders += [f"{room}/{name}" for name in names] if room else names
            place |= {} if room else dict.fromkeys(names, number)
        there = {folder.removeprefix("xclass/") for folder in sizes() if folder != "xclass"}
        assert sorted(folders) == sorted(there | {name.removesuffix(".py") for name in AT_THE_TOP if name[0] != "_"})
        between = {room: targets for room, targets in rooms(import_graph()).items() if room[0] != "_"}
        assert [(room, to) for room, targets in between.items() for to in targets if place[to] > place[room]] == []


@pytest.mark.parametrize("path", files(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
class TestEveryFile:
    def test_depth_and_a_telling_name(self, path: Path) -> None:
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        assert len(parts) <= MAX_DEPTH
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
        if path not in COMPILED:
            assert [name for name in at_import if name.split(".")[0] in EXTRAS] == []
            names = {module_name(file) for file in COMPILED}
            assert [name for name in at_import if name in names or name.rpartition(".")[0] in names] == []


def test_compiled_sums_in_any_order_are_inlined_where_they_are_called() -> None:
    """A copy of its own and a caller's copy differ in their bits; which is reached depends on what was compiled before."""
    functions = [node for path in COMPILED for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef)]
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
        if name in makers and path != PACKAGE / "runtime" / "rng.py"
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("sources", "among_rooms", "among_files"),
    [
        ({"a/x.py": "from xclass.b import y", "b/y.py": "def f():\n    from xclass.a.z import g", "a/z.py": ""}, 1, 0),
        ({"a/x.py": "from xclass.a import y", "a/y.py": "if TYPE_CHECKING:\n    import xclass.a.x"}, 0, 1),
        ({"a/x.py": "from xclass.b import y", "b/y.py": "from xclass import __version__"}, 0, 0),
        ({"a/x.py": "import xclass", "__init__.py": "from xclass.a.x import f"}, 1, 1),
    ],
)
def test_the_rule_of_circles_itself(
    sources: dict[str, str], among_rooms: int, among_files: int, tmp_path: Path
) -> None:
    package = tmp_path / "xclass"
    for name, source in {"__init__.py": "", "a/__init__.py": "", "b/__init__.py": "", **sources}.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(source)
    graph = import_graph(package)
    assert (len(cycles(rooms(graph))), len(cycles(graph))) == (among_rooms, among_files)


def test_floors_follow_from_imports() -> None:
    assert floors({"c": {"a", "b"}, "b": {"a"}, "a": set(), "d": set()}) == [["a", "d"], ["b"], ["c"]]


def test_every_module_imports() -> None:
    """A module that nobody imports yet is tried too."""
    for path in files():
        if path.stem != "__main__":
            importlib.import_module(module_name(path))
