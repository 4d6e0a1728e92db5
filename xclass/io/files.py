"""Files and directories of ours: they appear whole or not at all, stay inside their directory, and have one owner.

While something is written it lies beside its place under a hidden name, ``.NAME.XXXXXXXX.tmp``, locked by its process
(``flock``). The system gives the lock up when the process ends, however it ends. So what has such a name and can be
locked is a leftover of a killed process, and the next process that writes NAME removes it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from xclass.errors import ArtefactError

LEFTOVER = re.compile(r"\.(.+)\.\w{8}\.(tmp|old)")
OLD = "old"  # below its hidden name, what is being replaced where two paths can't change places
KINDS = {
    stat.S_ISLNK: "a symbolic link", stat.S_ISDIR: "a directory", stat.S_ISREG: "a file", stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device", stat.S_ISFIFO: "a named pipe", stat.S_ISSOCK: "a socket",
}  # fmt: skip
A_FILE, A_DIRECTORY, A_LINK = KINDS[stat.S_ISREG], KINDS[stat.S_ISDIR], KINDS[stat.S_ISLNK]


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; on success it is synced and renamed to it, else removed.

    Raises:
        ArtefactError: ``path`` is a directory, a symbolic link, a device: only a file is replaced.
    """
    path = Path(path)
    check_target(path, A_FILE)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(path, "tmp", A_FILE) as temporary:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)


@contextlib.contextmanager
def atomic_directory(path: Path, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary directory beside ``path``; on success it becomes ``path``, else it is removed.

    With ``replace`` both change places in one step where the system can (Linux): there is no moment without ``path``.

    Raises:
        ArtefactError: ``path`` is there already and ``replace`` is false, or it is no directory.
    """
    path = Path(path)
    remove_leftovers(path.parent, path.name)
    if replace:
        check_target(path, A_DIRECTORY)
    else:
        require_absent(path)
    with scratch_directory(path) as temporary:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        for file in temporary.rglob("*"):
            _sync(file)
        _swap_in(temporary, path)
        _sync(path.parent)


@contextlib.contextmanager
def scratch_directory(path: Path) -> Iterator[Path]:
    """Yield a hidden directory beside ``path``, on its disk; it is removed at the end."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(path, "tmp", A_DIRECTORY) as temporary:
        yield temporary


def require_absent(path: Path) -> None:
    """ArtefactError when there is something at ``path``."""
    if os.path.lexists(path):
        raise ArtefactError("this directory exists already", where=path, do="choose another --out, or remove it first")


def real_path(path: Path | str) -> Path:
    """Where a path leads; unlike ``Path.resolve`` without an error for links that lead in a circle."""
    return Path(os.path.realpath(path))


def kind_of(mode: int) -> str:
    """What a mode says that is there: "a file", "a named pipe", …"""
    return next((name for test, name in KINDS.items() if test(mode)), "something else")


def check_target(path: Path, wanted: str, follow: bool = False) -> None:
    """ArtefactError when something is at ``path`` that is not ``wanted``: ``A_FILE`` or ``A_DIRECTORY``.

    Args:
        follow: what a symbolic link leads to counts; else it is no file.
    """
    try:
        mode = os.stat(path, follow_symlinks=follow).st_mode
    except FileNotFoundError:
        return
    got = kind_of(mode)
    if got != wanted:
        raise ArtefactError(
            f"{got} is here, and only {wanted} is read, written to or replaced",
            where=path,
            got=f"a link to {real_path(path)}" if stat.S_ISLNK(mode) else None,
            do="give another path, or remove it first",
        )


def check_files(*paths: Path | str | None) -> None:
    """ArtefactError when at one of these, where files are to be written, there is something else."""
    for path in paths:
        if path is not None:
            check_target(Path(path), A_FILE)


def inside(directory: Path, name: str) -> Path:
    """The path of ``name``, relative with "/" between its parts, below ``directory``: for names that a file says.

    Raises:
        ArtefactError: it would lead out of ``directory``, by itself or by a symbolic link.
    """
    path = Path(directory) / name
    plain = "\0" not in name and all(part not in ("", ".", "..") for part in name.split("/"))
    if not plain or not real_path(path).is_relative_to(real_path(directory)):
        raise ArtefactError(
            "a file outside of its directory is named",
            where=directory,
            wanted="names below the directory",
            got=repr(name),
            do="restore the directory, or make it again",
        )
    return path


def check_contained(directory: Path) -> None:
    """ArtefactError when below a directory that is written to there is a symbolic link that leads out of it, or
    something that is neither a file nor a directory: whoever opened a named pipe would wait without end."""
    root = real_path(directory)
    for place, folders, files in os.walk(directory):
        for path in (Path(place) / name for name in [*folders, *files]):
            kind = kind_of(os.lstat(path).st_mode)
            if kind == A_LINK and not real_path(path).is_relative_to(root):
                raise ArtefactError(
                    "a symbolic link leads out of the directory", where=path, got=real_path(path), do="remove the link"
                )
            if kind not in (A_FILE, A_DIRECTORY, A_LINK):
                raise ArtefactError(
                    f"{kind} is here, where only files and directories belong", where=path, do="remove it"
                )


@contextlib.contextmanager
def locked(out: Path, what: str = "another process is training in this directory") -> Iterator[None]:
    """One process at a time writes in a directory; the lock goes with the process, however it ends.

    Raises:
        ArtefactError: another process has it, or a symbolic link in the directory leads out of it.
    """
    check_target(out, A_DIRECTORY)
    check_contained(out)
    place = out / ".lock"
    check_target(place, A_FILE)
    handle = os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        if not _lock(handle):
            raise ArtefactError(what, where=out, do="wait for it, or choose another --out")
        yield
    finally:
        os.close(handle)


def remove_leftovers(directory: Path, name: str | None = None) -> None:
    """Remove what killed processes left of files and directories that they were writing in ``directory``.

    What a living process is writing stays. ``name``: only of the file or directory of this name.
    """
    if not Path(directory).is_dir():
        return
    with os.scandir(directory) as entries:
        found = [(Path(entry.path), LEFTOVER.fullmatch(entry.name)) for entry in entries if entry.name.startswith(".")]
    for path, match in found:
        if match is not None and name in (None, match[1]):
            with contextlib.suppress(OSError), _claimed(path):
                _remove_leftover(path, path.parent / match[1])


def _remove_leftover(path: Path, original: Path) -> None:
    if path.suffix == ".old" and (path / OLD).exists() and not original.exists():  # it was replaced in two steps
        os.rename(path / OLD, original)
    remove_any(path)


def remove_any(path: Path) -> None:
    """Remove a directory and all that is in it, or what else is there: a file, a link itself, a pipe. Nothing there is
    no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)  # of a named pipe it would wait for a writer
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _claimed(path: Path) -> Iterator[None]:
    """Hold the lock of a leftover; BlockingIOError while its owner lives. Symbolic links are none of ours: OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def _temporary(path: Path, ending: str, kind: str) -> Iterator[Path]:
    """A new hidden file or directory beside ``path`` that is locked until it has been removed or renamed."""
    remove_leftovers(path.parent, path.name)
    temporary, handle = _made(path, ending, kind)
    try:
        yield temporary
    finally:
        _remove_leftover(temporary, path)
        os.close(handle)


def _made(path: Path, ending: str, kind: str) -> tuple[Path, int]:
    """Make and lock it; once more when another process took it for a leftover before it was locked."""
    while True:
        how = f".{ending}", f".{path.name}.", path.parent
        if kind == A_DIRECTORY:
            name = tempfile.mkdtemp(*how)
            handle = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        else:
            handle, name = tempfile.mkstemp(*how)
        _lock(handle, wait=True)
        if os.path.lexists(name) and os.path.samestat(os.fstat(handle), os.lstat(name)):
            return Path(name), handle
        os.close(handle)


def _lock(handle: int, wait: bool = False) -> bool:
    """Whether the lock is ours. True, too, on a file system that can't lock: there, nothing is known of owners."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        return error.errno in (errno.ENOLCK, errno.EBADF, errno.ENOTSUP, errno.EINVAL)
    return True


def _swap_in(temporary: Path, path: Path) -> None:
    if not path.exists():
        os.rename(temporary, path)
        return
    if _exchange(temporary, path):
        return  # the old one now has the temporary name, and goes with it
    with _temporary(path, "old", A_DIRECTORY) as old:
        os.rename(path, old / OLD)
        os.rename(temporary, path)


def _exchange(first: Path, second: Path) -> bool:
    """Two paths change places in one step: Linux's ``renameat2``. False where that is not to be had."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename is not None and rename(here, os.fsencode(first), here, os.fsencode(second), exchange) == 0


def remove_directory(path: Path) -> None:
    """Remove a directory. It is out of sight at once: killed meanwhile, nothing that is half removed is left there."""
    if path.exists():
        with scratch_directory(path) as hidden:
            os.rename(path, hidden / "removed")


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
