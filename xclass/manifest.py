"""Files that appear whole or not at all, and the manifest that binds the files of a directory by their hashes."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xclass.errors import ArtefactError

HASH_BLOCK_BYTES = 1 << 20
LEFTOVER = re.compile(r"\.(.+)\.\w{8}\.(tmp|old)")
OLD = "old"  # below its hidden name, what is being replaced where two paths can't change places


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; on success it is synced and renamed to it, else removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(path: Path, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary directory beside ``path``; on success it becomes ``path``, else it is removed.

    With ``replace`` both change places in one step where the system can (Linux): there is no moment without ``path``.

    Raises:
        ArtefactError: ``path`` is there already and ``replace`` is false.
    """
    path = Path(path)
    if path.exists() and not replace:
        raise ArtefactError("this directory exists already", where=path, do="choose another --out, or remove it first")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        for file in temporary.rglob("*"):
            _sync(file)
        _swap_in(temporary, path)
        _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _swap_in(temporary: Path, path: Path) -> None:
    if not path.exists():
        os.rename(temporary, path)
        return
    if _exchange(temporary, path):
        return  # the old one now has the temporary name, and goes with it
    old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".old"))
    os.rename(path, old / OLD)
    os.rename(temporary, path)
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """One process at a time in a run directory; the lock goes with the process, however it ends."""
    with (out / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ArtefactError(
                "another process is training in this directory", where=out, do="wait for it, or choose another --out"
            ) from None
        yield


def remove_leftovers(directory: Path) -> None:
    """Remove what a process that was killed inside :func:`atomic_file` or :func:`atomic_directory` left in a directory.

    Nobody else may be writing there.
    """
    for path in Path(directory).glob(".*"):
        found = LEFTOVER.fullmatch(path.name)
        if found is None:
            continue
        original = path.parent / found[1]
        if (path / OLD).exists() and not original.exists():  # it was being replaced in two steps
            os.rename(path / OLD, original)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def remove_directory(path: Path) -> None:
    """Remove a directory. It is out of sight at once: killed meanwhile, nothing that is half removed is left there."""
    if path.exists():
        hidden = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
        os.rename(path, hidden / "removed")
        shutil.rmtree(hidden, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Two paths change places in one step: Linux's ``renameat2``. False where that is not to be had."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename is not None and rename(here, os.fsencode(first), here, os.fsencode(second), exchange) == 0


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, keys in the order given."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8", "backslashreplace")


def read_json(path: Path) -> Any:
    """Read JSON; a missing or cut file is an ArtefactError that names it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtefactError("this file is missing", where=path) from None
    except (ValueError, UnicodeDecodeError) as error:
        raise ArtefactError("this file is not valid JSON: cut or altered", where=path, got=str(error)) from None


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(HASH_BLOCK_BYTES):
            digest.update(block)
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


def read_manifest(directory: Path, name: str, kind: str, version: int) -> dict[str, Any]:
    """Read and check the manifest: it is there, of this kind and version, and every file has its size.

    Raises:
        ArtefactError: with what is missing, cut or of another version. Hashes are left to :func:`verify_files`.
    """
    directory = Path(directory)
    if not (directory / name).is_file():
        raise ArtefactError(
            f"this is not a {kind}: {name} is missing", where=directory, do=f"check the path of the {kind}"
        )
    manifest = read_json(directory / name)
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
    _check_sizes(directory, manifest.get("files", {}))
    return manifest


def _check_sizes(directory: Path, files: dict[str, dict[str, Any]]) -> None:
    for relative, entry in files.items():
        file = directory / relative
        size = file.stat().st_size if file.is_file() else None
        if size != entry["bytes"]:
            raise ArtefactError(
                "this file is missing" if size is None else "this file was cut or altered",
                where=file,
                wanted=f"{entry['bytes']} bytes",
                got=None if size is None else f"{size} bytes",
                do="restore it, or make the directory again",
            )


def verify_files(directory: Path, manifest: dict[str, Any], only: list[str] | None = None) -> None:
    """Check the SHA-256 of the manifest's files (or of ``only`` these); ArtefactError names the first that differs."""
    files = manifest["files"]
    for relative in files if only is None else only:
        if relative not in files:
            raise ArtefactError("this file is not in the manifest", where=Path(directory) / relative)
        _check_sizes(directory, {relative: files[relative]})
        if sha256_file(Path(directory) / relative) != files[relative]["sha256"]:
            raise ArtefactError(
                "this file was altered: its hash is not the manifest's",
                where=Path(directory) / relative,
                do="restore it, or make the directory again",
            )


def require_space(path: Path, needed_bytes: int) -> None:
    """ArtefactError when the disk of ``path`` has less than ``needed_bytes`` free."""
    there = Path(path).absolute()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if free < needed_bytes:
        raise ArtefactError(
            "the disk is too full",
            where=path,
            wanted=f"{needed_bytes:,} bytes free",
            got=f"{free:,} bytes free",
            do="free some space or choose another --out",
        )


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
