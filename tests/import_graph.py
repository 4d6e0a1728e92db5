"""Who imports whom in xclass/, read from the source. ``python tests/import_graph.py`` prints rooms, floors and figures.

A room is a folder or a module right under xclass/, with everything below it. A room stands one floor above the highest
room that it imports, so no floor is written down anywhere. Imports inside functions and for type checkers count.
"""

from __future__ import annotations

import ast
import functools
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "xclass"
FROM_THE_FACE = {"xclass.__version__"}  # all that anyone may take from the package itself

Graph = Mapping[str, set[str]]


def files(package: Path = PACKAGE) -> list[Path]:
    """Every file of the package, sorted."""
    return sorted(path for path in package.rglob("*.py") if "__pycache__" not in path.parts)


@functools.cache
def tree(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def module_name(path: Path, package: Path = PACKAGE) -> str:
    """``xclass.heads.dot``; of an ``__init__.py`` its folder's."""
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def room_of(module: str) -> str:
    """``heads`` of ``xclass.heads.tree.head``; ``__init__`` of the package itself."""
    return [*module.split("."), "__init__"][1]


def imports(path: Path, module: ast.AST | None = None) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything imported; ``from xclass import a`` is ``xclass.a``."""
    for node in ast.walk(module or tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def import_graph(package: Path = PACKAGE) -> dict[str, set[str]]:
    """Module → the modules of the package that it imports."""
    known = {module_name(path, package): path for path in files(package)}
    graph: dict[str, set[str]] = {}
    for module, path in known.items():
        names = {name for _, name in imports(path) if name.split(".")[0] == "xclass" and name not in FROM_THE_FACE}
        graph[module] = {_module(name, known) for name in names} - {module}
    return graph


def _module(name: str, known: Mapping[str, Path]) -> str:
    """The module that an imported name is, or is in."""
    return name if name in known else name.rpartition(".")[0]


def rooms(graph: Graph) -> dict[str, set[str]]:
    """Room → the rooms that it imports."""
    found: dict[str, set[str]] = {room_of(module): set() for module in graph}
    for module, targets in graph.items():
        found[room_of(module)] |= {room_of(target) for target in targets} - {room_of(module)}
    return found


def sub_rooms(graph: Graph, room: str) -> dict[str, set[str]]:
    """Folder inside a room → the folders beside it that it imports. The room's own files are above and below them."""

    def folder(module: str) -> str | None:
        parts = module.split(".")
        inside = parts[1:2] == [room] and len(parts) > 2 and (PACKAGE / room / parts[2]).is_dir()
        return parts[2] if inside else None

    found: dict[str, set[str]] = defaultdict(set)
    for module, targets in graph.items():
        if (start := folder(module)) is not None:
            found[start] |= {end for target in targets if (end := folder(target)) is not None and end != start}
    return dict(found)


def cycles(graph: Graph) -> list[list[str]]:
    """Every largest set of nodes that reach one another, sorted; by Tarjan's algorithm."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in sorted(graph.get(node, ())):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            ring = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(ring) > 1:
                found.append(sorted(ring))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def floors(graph: Graph) -> list[list[str]]:
    """The nodes by floor, ground first. The graph has no cycles."""
    height: dict[str, int] = {}

    def of(node: str) -> int:
        if node not in height:
            height[node] = 1 + max((of(target) for target in graph[node]), default=-1)
        return height[node]

    result: list[list[str]] = [[] for _ in range(max(map(of, graph)) + 1)]
    for node in sorted(graph):
        result[height[node]].append(node)
    return result


def sizes() -> dict[str, int]:
    """Folder → the files that lie in it."""
    found: dict[str, int] = defaultdict(int)
    for path in files():
        found[path.parent.relative_to(ROOT).as_posix()] += 1
    return dict(found)


def main() -> None:
    """Print the house: its floors, then its figures."""
    graph = import_graph()
    between = rooms(graph)
    rings = cycles(between)
    print("| floor | rooms |\n|--:|---|")
    for number, names in enumerate(floors(between) if not rings else [], 1):
        print(f"| {number} | {' '.join(f'`{name}`' for name in names)} |")
    folder, most = max(sizes().items(), key=lambda pair: pair[1])
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files())
    top = sorted(path.stem for path in PACKAGE.glob("*.py"))
    print(f"\nfiles {len(graph)}, lines {lines}; at the top: {len(top)} modules ({', '.join(top)})")
    print(f"rooms {len(between)}, floors {'none: rooms in a circle' if rings else len(floors(between))}")
    print(f"imports between rooms {sum(map(len, between.values()))}, between files {sum(map(len, graph.values()))}")
    print(
        f"cycles among rooms {len(rings)}, among files {len(cycles(graph))}; largest folder {folder} with {most} files"
    )
    for ring in [*rings, *cycles(graph)]:
        print("cycle:", " ".join(ring))


if __name__ == "__main__":
    main()
