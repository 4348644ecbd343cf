"""Files that appear as a whole: written under a hidden name beside their place, which they get at the end."""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from rofo.errors import OutputWriteError
from rofo.text import printable

ELSEWHERE = "choose another --output"
_WORDS = {
    errno.ENOSPC: "disk full; free some space or " + ELSEWHERE,
    errno.EDQUOT: "disk quota used up; free some space or " + ELSEWHERE,
    errno.EFBIG: "larger than this system lets a file be (see ulimit -f); " + ELSEWHERE,
    errno.EACCES: "no permission to write here; " + ELSEWHERE,
    errno.EPERM: "no permission to write here; " + ELSEWHERE,
    errno.EROFS: "read-only file system; " + ELSEWHERE,
    errno.EISDIR: "is a directory; remove it or " + ELSEWHERE,
    errno.ENOTDIR: "a file is where a folder should be; " + ELSEWHERE,
    errno.EEXIST: "a file is where a folder should be; " + ELSEWHERE,
    errno.ENAMETOOLONG: "the name is too long; " + ELSEWHERE,
}


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


class Part:
    """A new hidden file in a folder; `file` is open for writing, and locked as long as it is open.

    By the lock others see that its writer lives. Raises OSError, as do all methods but `discard`.
    """

    def __init__(self, folder: Path) -> None:
        while True:
            # Not named after the stem: that name may be as long as names can be already.
            self.path = _part_path(folder)
            try:
                self.file = self.path.open("xb")
                _lock(self.file, wait=True)
                if self.path.exists():  # nobody took it for a dead one's before it was locked
                    return
            except BaseException:  # Ctrl-C too: nobody else knows of it yet
                self.path.unlink(missing_ok=True)
                raise
            self.file.close()

    def commit(self, path: Path) -> None:
        """Give it its name, replacing what had that."""
        if os.name == "nt":  # where open files cannot be renamed; elsewhere the lock is kept until then
            self.file.close()
        self.path.replace(path)
        self.file.close()
        sync_folder(path.parent)

    def sync(self) -> None:
        """See to it that what was written is on the disk."""
        self.file.flush()
        os.fsync(self.file.fileno())

    def discard(self) -> None:
        """Remove it, unless it has its name. May be called at any time, and more than once."""
        with suppress(OSError):  # what was not written yet cannot be: the disk may be full
            self.file.close()
        with suppress(OSError):
            self.path.unlink()


def write_whole(path: Path, content: bytes) -> None:
    """Write a small file. Raises OutputWriteError."""
    with in_words(path):
        part = Part(path.parent)
        try:
            part.file.write(content)
            part.sync()
            part.commit(path)
        finally:
            part.discard()


@contextmanager
def part_folder(parent: Path) -> Iterator[Path]:
    """A new hidden folder in a folder, locked as a Part is, and removed at the end with all that is in it.

    Raises OSError.
    """
    while True:
        folder = _part_path(parent)
        folder.mkdir()
        try:
            with alone_in(folder):
                if folder.exists():  # as in Part
                    yield folder
                    return
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _part_path(folder: Path) -> Path:
    return folder / f".rofo-{secrets.token_hex(8)}.part"


def remove_stale_parts(folder: Path) -> None:
    """Remove what writers that died left in a folder: a part that can be locked is nobody's.

    The system gives up a lock with its process, whatever kills that. A process's number in the name would
    not do: containers that share a folder do not share their processes.
    """
    for path in folder.glob(".rofo-*.part"):
        with suppress(OSError):
            handle = os.open(path, os.O_RDONLY)  # a file or a folder
            try:
                if _lock(handle, wait=False):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            finally:
                os.close(handle)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Let no other writer into a folder, where the system can lock folders: not on Windows and on NFS."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        yield
        return
    try:
        with locked(handle):
            yield
    finally:
        os.close(handle)


@contextmanager
def locked(handle: int) -> Iterator[None]:
    """Let no other writer at an open file, where the system can."""
    can = _lock(handle, wait=True)
    try:
        yield
    finally:
        if can:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_UN)


def _lock(file: BinaryIO | int, *, wait: bool) -> bool:
    """Whether it could be locked; False where another process has it, or the system has no such locks."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True


@contextmanager
def in_words(path: Path) -> Iterator[None]:
    """Turn the system's errors into OutputWriteError: the file, what is wrong, the cure."""
    try:
        yield
    except OutputWriteError:
        raise
    except OSError as error:
        reason = _WORDS.get(error.errno or 0, error.strerror or str(error))
        raise OutputWriteError(f"{printable(path)}: {reason}", everywhere=error.errno in _FULL) from None


def sync_folder(folder: Path) -> None:
    """See to it that the names in a folder are on the disk, where the system can."""
    with suppress(OSError):  # not every system opens folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
