"""A list of songs, and separating it: what is missing or changed is done, and nothing else.

Whether a song is done is told by the record beside its stems (audio/record.py), as for --resume. Rows of what
became of each song are a report for others (song_rows.py).
"""

import json
import os
import string
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rofo.errors import CancelledError, OutputWriteError, RofoError, UsageError
from rofo.options import Options
from rofo.song_rows import SUFFIX, RowFile, SongRow, options_sha256
from rofo.text import one_line, printable, short

if TYPE_CHECKING:
    from rofo.separator import Separator

_LONGEST = 255  # bytes of a name on most file systems
_FORBIDDEN = '/\\<>:"|?*' if os.name == "nt" else "/\\"
_INTERNAL = 5


@dataclass(frozen=True)
class ListedSong:
    """A row of a list. `id` names the folder of its stems; `sha256` is what the file at `path` must have."""

    id: str
    path: Path
    sha256: str | None = None


def read_list(file: str | Path) -> list[ListedSong]:
    """Read a list: a line {"id": ..., "path": ..., "sha256": ...} for every song, the last one optional.

    Paths are relative to the list's folder. Raises UsageError with the first line that is wrong, and how many
    are: ids that cannot be a folder's name, or are there twice, and anything else in a row.
    """
    file = Path(file)
    try:
        lines = file.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise UsageError(
            f"{file}: {error.strerror or error}; give a file with a JSON object per line"
        ) from None
    songs: dict[str, ListedSong] = {}
    seen: dict[str, int] = {}
    mistakes: list[str] = []
    for number, line in enumerate(lines, 1):
        try:
            if line.strip():
                song = _song(line, file.parent)
                # On many file systems Song and song are one folder, and so are an accent's two spellings.
                first = seen.setdefault(unicodedata.normalize("NFC", song.id).casefold(), number)
                if first != number:
                    raise ValueError(f"id {short(song.id)} is that of line {first}, too; give it another")
                songs[song.id] = song
        except ValueError as error:
            mistakes.append(f"line {number}: {error}")
    if mistakes:
        more = f" ({len(mistakes):,} lines are wrong)" if len(mistakes) > 1 else ""
        raise UsageError(f"{file}: {mistakes[0]}{more}")
    return list(songs.values())


def read_shard(text: str | None) -> tuple[int, int]:
    """I/N as numbers, the whole where it is left out. Raises UsageError."""
    number, _, of = (text or "1/1").partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise UsageError(f"the shard is {text!r}; give 1/8 to 8/8 for eight parts")
    return int(number), int(of)


def _song(line: bytes, folder: Path) -> ListedSong:
    """The song of a line. Raises ValueError: what is wrong and what to do."""
    try:
        row = json.loads(line)
    except ValueError:
        raise ValueError("is no JSON; write one object per line") from None
    known = [field.name for field in fields(ListedSong)]
    if not isinstance(row, dict):
        raise ValueError(f"is {short(row)}; write an object of {', '.join(known)}")
    if unknown := sorted(set(row) - set(known)):
        raise ValueError(f"has {', '.join(map(short, unknown))}; a row has {', '.join(known)}")
    name, path, sha256 = row.get("id"), row.get("path"), row.get("sha256")
    if problem := _id_problem(name):
        raise ValueError(f"id {short(name)} {problem}")
    if not isinstance(path, str) or not path or "\0" in path:
        raise ValueError(f"path is {short(path)}; name a file")
    if sha256 is not None and not _is_sha256(sha256):
        raise ValueError(f"sha256 is {short(sha256)}; give 64 hexadecimal digits, or leave it out")
    return ListedSong(str(name), folder / path, sha256 and sha256.lower())


def _id_problem(name: Any) -> str | None:
    """Why an id cannot be the name of a folder that holds stems, on any file system of this machine."""
    if not isinstance(name, str) or not name:
        return "is no name; give a string"
    if not name.isprintable() or any(letter in name for letter in _FORBIDDEN):
        return f"cannot name a folder; leave out {' '.join(_FORBIDDEN)} and what cannot be printed"
    if name.startswith((".", " ")) or name.endswith((".", " ")):
        return "begins or ends with a dot or a space; leave it out"
    if len(name.encode()) > _LONGEST:
        return f"is longer than {_LONGEST} bytes; give a shorter one"
    return f"ends in {SUFFIX}, as the reports do; give another" if name.lower().endswith(SUFFIX) else None


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set(string.hexdigits)


def separate_list(
    separator: "Separator",
    songs: str | Path | Sequence[ListedSong],
    output: str | Path,
    options: Options = Options(),
    shard: tuple[int, int] = (1, 1),
) -> Iterator[SongRow]:
    """Separate the songs of a list into OUTPUT/<id>/<stem>.<ext>, and yield what became of each, as it ends.

    `songs` is a list, or its file. `shard` (2, 8) takes the second of eight parts that need not know of each
    other. Rows go to OUTPUT/results.jsonl, or results-2-of-8.jsonl: one per song, and another whenever
    something about it changed; the last one counts. A song that was done is yielded as "skipped".

    Raises UsageError before any work, OutputWriteError where nothing can be written any more, CancelledError,
    and what the engine raises once it is not healthy. After any of them, and after a kill, call it again.
    """
    listed = read_list(songs) if isinstance(songs, str | Path) else songs
    number, of = read_shard("/".join(map(str, shard)))
    separator.check(options)
    return _separated(separator, listed[number - 1 :: of], Path(output), options, shard)


def _separated(
    separator: "Separator",
    songs: Sequence[ListedSong],
    output: Path,
    options: Options,
    shard: tuple[int, int],
) -> Iterator[SongRow]:
    with RowFile(output, shard) as rows:
        for song in songs:
            row = separate_song(separator, song, output, options)
            rows.add(row)
            yield row


def separate_song(
    separator: "Separator", song: ListedSong, output: str | Path, options: Options = Options()
) -> SongRow:
    """Separate a song of a list, unless it was, and tell what became of it; a bad song is a row.

    Raises what ends a whole list, as `separate_list`.
    """
    made_with = separator.made_with(options)
    facts: Mapping[str, Any] = {
        "id": song.id,
        "engine": made_with["engine"],
        "options": options_sha256(made_with["options"]),
    }
    try:
        done = separator.separate_file(
            song.path, output, replace(options, resume=True), track=song.id, sha256=song.sha256
        )
    except CancelledError:
        raise
    except Exception as error:
        if not separator.healthy or (isinstance(error, OutputWriteError) and error.everywhere):
            raise
        known = isinstance(error, RofoError)
        words = printable(one_line(error)) if known else f"internal error: {type(error).__name__}: {error}"
        code = error.exit_code if isinstance(error, RofoError) else _INTERNAL
        return SongRow(**facts, status="failed", error=words, exit_code=code, song=song.sha256)
    stems = {
        stem: {"file": f"{song.id}/{path.name}", "sha256": done.sha256[stem]} for stem, path in done.items()
    }
    return SongRow(
        **facts,
        status="skipped" if done.skipped else "done",
        stems=stems,
        seconds=done.seconds,
        elapsed=done.elapsed,
        warnings=list(done.warnings),
        song=done.song_sha256,
    )
