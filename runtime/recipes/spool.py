"""Signals that wait on disk for a later pass."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import numpy as np

from rofo.errors import OutputWriteError
from rofo.song import Block, Floats

READ = 65_536  # samples at a time


@dataclass
class _Song:
    """Where a song lies: the first byte, the shape (..., 1) of a sample, and how many of them."""

    begin: int
    shape: tuple[int, ...]
    samples: int = 0


class Spool:
    """One signal of one call, of songs one after the other, in a temporary file without a name.

    It is in the folder for temporary files (TMPDIR), which should not be in memory, and gone with the
    process, however that ends. What is read does not depend on the blocks that were written.
    """

    def __init__(self) -> None:
        with _in_words():
            self._file = tempfile.TemporaryFile(prefix="rofo-", buffering=0)  # noqa: SIM115 - until `close`
        self._songs: dict[int | None, _Song] = {}
        self._end = 0

    @property
    def songs(self) -> tuple[int | None, ...]:
        """The numbers of the songs, in order."""
        return tuple(self._songs)

    def write(self, number: int | None, block: Floats) -> None:
        """Append a block (..., n). Raises OutputWriteError."""
        song = self._songs.setdefault(number, _Song(self._end, block.shape[:-1]))
        raw = np.ascontiguousarray(np.moveaxis(block, -1, 0)).data.cast("B")
        with _in_words():
            self._file.seek(self._end)
            while raw:  # a file without a buffer may take a part
                raw = raw[self._file.write(raw) :]
        song.samples += block.shape[-1]
        self._end += block.nbytes

    def read(self, number: int | None) -> Iterator[Floats]:
        """The samples of a song from its start, in blocks (..., n)."""
        song = self._songs[number]
        width = 4 * int(np.prod(song.shape))
        for start in range(0, song.samples, READ):
            rows = np.empty((min(READ, song.samples - start), *song.shape), np.float32)
            with _in_words():
                self._file.seek(song.begin + start * width)
                raw = rows.data.cast("B")
                while raw:
                    raw = raw[self._file.readinto(raw) :]
            yield np.ascontiguousarray(np.moveaxis(rows, 0, -1))

    def blocks(self) -> Iterator[Block]:
        """All songs from the start."""
        for number in self._songs:
            for block in self.read(number):
                yield number, block

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the disk back. May be called twice."""
        self._file.close()


@contextmanager
def _in_words() -> Iterator[None]:
    """The system's errors into the tree."""
    try:
        yield
    except OSError as error:
        folder = tempfile.tempdir or "the folder for temporary files"
        raise OutputWriteError(
            f"{folder}: {error.strerror or error}; make room there, or name another folder in TMPDIR"
        ) from None
