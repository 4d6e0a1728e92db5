"""The manifest that binds the files of a directory by their hashes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Protocol

import pydantic

from xclass.errors import ArtefactError
from xclass.io.files import (
    A_FILE,
    atomic_file,
    check_target,
    inside,
)
from xclass.io.records import Count, Record, check_record, read_json

HASH_BLOCK_BYTES = 1 << 20
RESTORE = "restore it, or make the directory again"

# Files of this process whose content was that of their manifest: (place, identity, SHA-256).
_verified = set[tuple[object, ...]]()


class Look(Protocol):
    """Looks at a file's content while its hash is made."""

    def see(self, block: memoryview) -> None:
        """The next block; it is good until the next one comes."""

    def finish(self) -> None:
        """All of it was the manifest's. Raises ArtefactError when something is wrong with it."""


class FileEntry(Record):
    """What a manifest says of a file."""

    bytes: Count
    sha256: Annotated[str, pydantic.Field(pattern="^[0-9a-f]{64}$")]


class Manifest(Record):
    """What every manifest holds beside its kind and version; those of a kind hold more."""

    files: dict[str, FileEntry]


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, keys in the order given."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8", "backslashreplace")


def sha256_file(path: Path, look: Look | None = None) -> str:
    """SHA-256 of a file, in hexadecimal. ``look`` sees every block as it passes.

    Raises:
        ArtefactError: a pipe or a device, which may never end.
    """
    check_target(path, A_FILE, follow=True)
    digest, block = hashlib.sha256(), memoryview(bytearray(HASH_BLOCK_BYTES))
    with Path(path).open("rb", buffering=0) as file:
        while count := file.readinto(block):
            digest.update(block[:count])
            if look is not None:
                look.see(block[:count])
    return digest.hexdigest()


def write_manifest(
    directory: Path,
    name: str,
    kind: str,
    version: int,
    fields: dict[str, Any],
    only: list[str] | None = None,
    known: dict[str, dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Write ``directory/name``: kind, format version, ``fields``, and size and SHA-256 of its files.

    Call it last: it describes what lies in the directory now. ``only`` names the files that belong to it; without it
    all files below do, but hidden ones and ``name`` itself. ``known`` holds the entries of files that were hashed while
    they were written; they are not read again.
    """
    names = _visible_files(directory, name) if only is None else only
    given = known or {}
    files = {relative: given.get(relative) or file_entry(directory / relative) for relative in names}
    manifest = {"kind": kind, "format_version": version, **fields, "files": files}
    write_json(directory / name, manifest)
    return manifest


def file_entry(path: Path) -> dict[str, Any]:
    """What a manifest says of a file: ``{"bytes": …, "sha256": …}``."""
    return {"bytes": path.stat().st_size, "sha256": sha256_file(path)}


def _visible_files(directory: Path, name: str) -> list[str]:
    relatives = [file.relative_to(directory) for file in sorted(directory.rglob("*")) if file.is_file()]
    visible = [path for path in relatives if not any(part.startswith(".") for part in path.parts)]
    return [path.as_posix() for path in visible if path.as_posix() != name]


def read_manifest(
    directory: Path, name: str, kind: str, version: int, model: type[Manifest] = Manifest
) -> dict[str, Any]:
    """Read and check the manifest: it is there, of this kind and version, holds what ``model`` says, and every file
    lies below the directory and has its size.

    Raises:
        ArtefactError: with what is missing, cut, altered or of another version. Hashes are left to
            :func:`verify_files` and :func:`verified_file`.
    """
    directory = Path(directory)
    if not (directory / name).is_file():
        raise ArtefactError(
            f"this is not a {kind}: {name} is missing", where=directory, do=f"check the path of the {kind}"
        )
    manifest: Any = read_json(directory / name)
    if not isinstance(manifest, dict) or manifest.get("kind") != kind:
        raise ArtefactError(f"this is not a {kind}", where=directory / name, wanted=f'"kind": "{kind}"')
    if manifest.get("format_version") != version:
        raise ArtefactError(
            f"this {kind} has another format version",
            where=directory,
            wanted=version,
            got=manifest.get("format_version"),
            do=f"make the {kind} again with this version of xclass",
        )
    check_record(model, manifest, directory / name)
    for relative in manifest["files"]:
        _sized(directory, manifest, relative)
    return manifest


def _sized(directory: Path, manifest: dict[str, Any], relative: str) -> Path:
    """The path of a manifest's file, which has the manifest's size."""
    file, entry = inside(directory, relative), manifest["files"].get(relative)
    if entry is None:
        raise ArtefactError("this file is not in the manifest", where=file, do=RESTORE)
    size = file.stat().st_size if file.is_file() else None
    if size != entry["bytes"]:
        raise ArtefactError(
            "this file is missing" if size is None else "this file was cut or altered",
            where=file,
            wanted=f"{entry['bytes']} bytes",
            got=None if size is None else f"{size} bytes",
            do=RESTORE,
        )
    return file


def verify_files(directory: Path, manifest: dict[str, Any], only: list[str] | None = None) -> None:
    """Read the manifest's files (or ``only`` these) and check their SHA-256; ArtefactError names the first that
    differs."""
    for relative in manifest["files"] if only is None else only:
        _verify(_sized(Path(directory), manifest, relative), manifest["files"][relative]["sha256"], None)


def verified_file(
    directory: Path, manifest: dict[str, Any], relative: str, look: Look | None = None, looked_for: object = None
) -> Path:
    """The path of a manifest's file whose content is the manifest's: its SHA-256 is checked when it is first asked for.

    A process reads a file for it once, until the file changes (inode, size or times). Cost: at about 2 GB/s.

    Args:
        look: sees the file's content meanwhile.
        looked_for: names what ``look`` checks; a file is read again for another.

    Raises:
        ArtefactError: the file is not in the manifest, missing, cut or altered.
    """
    path = _sized(Path(directory), manifest, relative)
    sha256 = manifest["files"][relative]["sha256"]
    key = (_identity(path), sha256, looked_for)
    if key not in _verified:
        _verify(path, sha256, look)
        _verified.add(key)
    return path


def _verify(path: Path, sha256: str, look: Look | None) -> None:
    if sha256_file(path, look) != sha256:
        raise ArtefactError("this file was altered: its hash is not the manifest's", where=path, do=RESTORE)
    if look is not None:
        look.finish()


def _identity(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
