"""The documentation as a whole: links lead somewhere, every page is reachable, tables and notes are complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pages import ROOT, page

FOLDERS = ("docs", "benchmarks", "configs", "datasets", "tests", "xclass")
PAGES = sorted([*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))])
NAMES = [str(path.relative_to(ROOT)) for path in PAGES]
NOTE = re.compile(r"\A\*\*Decision\*\* \(\d{4}-\d\d-\d\d\): \S.*?^\*\*Why:\*\* \S", re.MULTILINE | re.DOTALL)


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)


def links(name: str) -> list[tuple[Path, str]]:
    """(file, anchor) of every relative link of a page."""
    found = []
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page(name))):
        if "://" not in target and not target.startswith("mailto:"):
            path, _, anchor = target.partition("#")
            found.append(((ROOT / name).parent / path if path else ROOT / name, anchor))
    return found


def anchors(text: str) -> set[str]:
    """What GitHub makes of the headings."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def broken(name: str) -> list[str]:
    return [
        f"{path}#{anchor}"
        for path, anchor in links(name)
        if not path.exists() or (anchor and anchor not in anchors(path.read_text(encoding="utf-8")))
    ]


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    assert broken(name) == []


def test_a_broken_link_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(
        "# A\n[1](page.md#a) [2](page.md#b) [3](none.md) `[4](code.md)` [5](https://x.y)\n"
    )
    assert [found.rpartition("/")[2] for found in broken(str(tmp_path / "page.md"))] == ["page.md#b", "none.md#"]


def linked(name: str) -> set[str]:
    return {str(path.resolve().relative_to(ROOT)) for path, _ in links(name)}


def test_the_index_names_every_page_of_docs() -> None:
    pages = {name for name in NAMES if re.fullmatch(r"docs/[^/]+\.md", name)} - {"docs/README.md"}
    assert pages - linked("docs/README.md") == set()
    designs = {name for name in NAMES if name.startswith("docs/design/")} - {"docs/design/README.md"}
    assert designs - linked("docs/design/README.md") == set()


def test_every_page_is_reached_from_the_readme() -> None:
    reached, ahead = set(), ["README.md"]
    while ahead:
        name = ahead.pop()
        if name not in reached and name.endswith(".md"):
            reached.add(name)
            ahead.extend(linked(name))
    assert set(NAMES) - reached == set()


def test_every_result_has_a_row() -> None:
    rows = re.findall(r"^\| \[[^\]]*\]\((results/[^)]+)\) \|", page("benchmarks/README.md"), flags=re.MULTILINE)
    results = (path for path in (ROOT / "benchmarks" / "results").iterdir() if path.suffix == ".md")
    assert sorted(rows) == sorted(f"results/{path.name}" for path in results)


@pytest.mark.parametrize("name", [name for name in NAMES if re.fullmatch(r"docs/design/[a-z-]+\.md", name)])
def test_every_note_has_its_parts(name: str) -> None:
    notes = re.split(r"^### (.*)\n\n", page(name), flags=re.MULTILINE)[1:]
    assert notes and [title for title, text in zip(notes[::2], notes[1::2], strict=True) if not NOTE.match(text)] == []


@pytest.mark.parametrize("name", ["README.md", "ARCHITECTURE.md"])
def test_the_first_pages_are_short(name: str) -> None:
    assert len(page(name)) <= 6000
