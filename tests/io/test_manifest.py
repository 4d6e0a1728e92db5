"""Files appear whole or not at all; a manifest notices whatever was cut, altered, or is of another kind."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from xclass.errors import ArtefactError
from xclass.io.files import atomic_directory, atomic_file, require_space
from xclass.io.manifest import read_manifest, sha256_file, verify_files, write_json, write_manifest
from xclass.io.records import read_json


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
def artefact(tmp_path: Path) -> Path:
    directory = tmp_path / "thing"
    (directory / "inner").mkdir(parents=True)
    (directory / "a.bin").write_bytes(b"12345")
    (directory / "inner" / "b.txt").write_text("hello")
    (directory / ".hidden").write_text("not ours")
    write_manifest(directory, "thing.json", "thing", 2, {"colour": "red"})
    return directory


def test_a_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with atomic_file(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
    assert path.read_text() == "half"
    assert names(path.parent) == ["a.txt"]
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_failed_file_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(path) as temporary:
        temporary.write_text("new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_directory_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with atomic_directory(path) as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "a").write_text("x")
        assert not path.exists()
    assert (path / "inner" / "a").read_text() == "x"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failed_directory_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), atomic_directory(tmp_path / "out") as temporary:
        (temporary / "a").write_text("x")
        raise error
    assert names(tmp_path) == []


def test_a_directory_that_is_there_is_not_touched_before_it_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.mkdir()
    (path / "old").write_text("old")
    with pytest.raises(ArtefactError, match="exists already"), atomic_directory(path):
        pytest.fail("the body must not run")
    with pytest.raises(RuntimeError), atomic_directory(path, replace=True):
        raise RuntimeError
    assert names(path) == ["old"]
    with atomic_directory(path, replace=True) as temporary:
        (temporary / "new").write_text("new")
    assert names(path) == ["new"]
    assert names(tmp_path) == ["out"]


def test_json_keeps_order_and_letters(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": "é"})
    assert list(read_json(tmp_path / "a.json").items()) == [("b", 1), ("a", "é")]
    assert "é" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_json_missing_or_cut(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="missing"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('{"a": ')
    with pytest.raises(ArtefactError, match="not valid JSON"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_bytes(b'"\xff"')
    with pytest.raises(ArtefactError, match="not valid JSON"):
        read_json(tmp_path / "a.json")


def test_sha256_over_several_blocks(tmp_path: Path) -> None:
    content = bytes(range(256)) * 10_000
    (tmp_path / "a").write_bytes(content)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_the_manifest(artefact: Path) -> None:
    manifest = read_manifest(artefact, "thing.json", "thing", 2)
    assert manifest == json.loads((artefact / "thing.json").read_text())
    assert list(manifest) == ["kind", "format_version", "colour", "files"]
    assert manifest["files"] == {
        "a.bin": {"bytes": 5, "sha256": hashlib.sha256(b"12345").hexdigest()},
        "inner/b.txt": {"bytes": 5, "sha256": hashlib.sha256(b"hello").hexdigest()},
    }
    verify_files(artefact, manifest)


def test_a_cut_file_is_noticed_on_opening(artefact: Path) -> None:
    (artefact / "a.bin").write_bytes(b"123")
    with pytest.raises(ArtefactError, match="cut or altered") as caught:
        read_manifest(artefact, "thing.json", "thing", 2)
    assert caught.value.where == artefact / "a.bin"
    assert (caught.value.wanted, caught.value.got) == ("5 bytes", "3 bytes")


def test_a_missing_file_is_noticed_on_opening(artefact: Path) -> None:
    (artefact / "inner" / "b.txt").unlink()
    with pytest.raises(ArtefactError, match="b.txt: this file is missing"):
        read_manifest(artefact, "thing.json", "thing", 2)


def test_an_altered_file_is_noticed_by_its_hash(artefact: Path) -> None:
    (artefact / "a.bin").write_bytes(b"12346")
    manifest = read_manifest(artefact, "thing.json", "thing", 2)
    verify_files(artefact, manifest, only=["inner/b.txt"])
    with pytest.raises(ArtefactError, match=r"a\.bin: this file was altered"):
        verify_files(artefact, manifest)
    with pytest.raises(ArtefactError, match="not in the manifest"):
        verify_files(artefact, manifest, only=["other"])


def test_another_kind_version_or_place(artefact: Path) -> None:
    with pytest.raises(ArtefactError, match="another format version") as caught:
        read_manifest(artefact, "thing.json", "thing", 3)
    assert (caught.value.wanted, caught.value.got) == (3, 2)
    with pytest.raises(ArtefactError, match="not a run"):
        read_manifest(artefact, "thing.json", "run", 2)
    with pytest.raises(ArtefactError, match="thing.json is missing"):
        read_manifest(artefact.parent, "thing.json", "thing", 2)
    (artefact / "thing.json").write_text("[]")
    with pytest.raises(ArtefactError, match="not a thing"):
        read_manifest(artefact, "thing.json", "thing", 2)


def test_require_space(tmp_path: Path) -> None:
    require_space(tmp_path / "not" / "yet", 1)
    with pytest.raises(ArtefactError, match="disk is too full") as caught:
        require_space(tmp_path / "not" / "yet", 1 << 62)
    assert caught.value.wanted == f"{1 << 62:,} bytes free"
