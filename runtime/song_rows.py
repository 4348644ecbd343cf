"""What became of the songs of a list: rows in OUTPUT/results.jsonl, appended so that a kill harms none."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from rofo.audio.parts import in_words, locked
from rofo.errors import UsageError

SUFFIX = ".jsonl"


@dataclass(frozen=True)
class SongRow:
    """What became of a song, by `id`.

    Of a "failed" one `error` says why, and `exit_code` what that is to the command line: 3 the song, 5 the
    engine, 6 the place of its stems. `stems` are {name: {"file": relative to the output, "sha256": ...}},
    `seconds` the song's length, `elapsed` the time taken. `engine` and `options` are hashes of what they were
    made with, `song` is the sha256 of the input, None where it is not known.
    """

    id: str
    status: Literal["done", "failed", "skipped"]
    engine: str
    options: str
    song: str | None = None
    error: str | None = None
    exit_code: int = 0
    stems: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    seconds: float = 0.0
    elapsed: float = 0.0
    warnings: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """The row as one line."""
        return json.dumps(dataclasses.asdict(self))

    def tells(self, other: "SongRow | None") -> bool:
        """Whether another row says the same of the stems that are there."""
        return other is not None and (self.engine, self.options, self.song, self.stems) == (
            other.engine, other.options, other.song, other.stems
        )  # fmt: skip


def options_sha256(options: Any) -> str:
    """The hash of options that decide over stems."""
    return hashlib.sha256(json.dumps(options, sort_keys=True, default=float).encode()).hexdigest()


class RowFile:
    """The rows of a shard of a list, in the folder of its stems; several processes may add to one file.

    A row is one write of a whole line, then on the disk. What a kill left of a line is cut off before the
    next one. Raises UsageError for rows that are none, and OutputWriteError.
    """

    def __init__(self, output: Path, shard: tuple[int, int]) -> None:
        number, of = shard
        self._path = output / (f"results-{number}-of-{of}{SUFFIX}" if of > 1 else f"results{SUFFIX}")
        with in_words(output):
            output.mkdir(parents=True, exist_ok=True)
        # What became of a song when it was in another shard counts as well, but not against this one.
        others = sorted(set(output.glob(f"results*{SUFFIX}")) - {self._path})
        self._last = {row.id: row for file in others for row in read_rows(file)}
        self._end = 0  # of the last row that was read or written
        with in_words(self._path):
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            with in_words(self._path), locked(self._file):
                self._catch_up()
        except BaseException:
            os.close(self._file)
            raise

    def add(self, row: SongRow) -> None:
        """Append a row, unless it is of a song that was skipped and the last row of it tells the same."""
        with in_words(self._path), locked(self._file):
            self._catch_up()
            if row.status == "skipped":
                if row.tells(self._last.get(row.id)):
                    return
                row = dataclasses.replace(row, status="done")  # killed after its stems, before its row
            line = memoryview(row.to_json().encode() + b"\n")
            try:
                while line:  # a full disk may take a part, and then refuses in words
                    line = line[os.write(self._file, line) :]
            except BaseException:
                os.ftruncate(self._file, self._end)
                raise
            os.fsync(self._file)
            self._catch_up()

    def _catch_up(self) -> None:
        """Read the rows that were added, by whomever, and cut off a line that has no end."""
        size = os.fstat(self._file).st_size
        self._end = min(self._end, size)
        added = os.pread(self._file, size - self._end, self._end)
        self._end += added.rfind(b"\n") + 1
        if self._end < size:
            os.ftruncate(self._file, self._end)
        self._last |= {row.id: row for row in rows_of(added, self._path)}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)


def read_rows(file: Path) -> list[SongRow]:
    """All rows of a file, but what a kill or a write that is under way left of the last line.

    Raises UsageError.
    """
    try:
        return rows_of(file.read_bytes(), file)
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror or error}; name another --output") from None


def rows_of(content: bytes, file: Path | str) -> list[SongRow]:
    """The rows in what a file holds. Raises UsageError as `read_rows`."""
    try:
        return [SongRow(**json.loads(line)) for line in content.split(b"\n")[:-1]]
    except (ValueError, TypeError) as error:
        raise UsageError(f"{file}: holds what is no row of results ({error}); move the file away") from None
