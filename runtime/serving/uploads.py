"""Stems that go to object stores, or whatever else fsspec reaches by a URL."""

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

from rofo.audio.record import NAME as RECORD
from rofo.options import Options
from rofo.separator import Separator
from rofo.song_list import ListedSong, separate_song
from rofo.song_rows import SongRow


def separate_to(output: str, separator: Separator, song: ListedSong, options: Options) -> SongRow:
    """As rofo.separate_song, where `output` may be a URL: each stem appears there whole, the record last.

    Raises what separate_song raises, and what fsspec does.
    """
    if "://" not in output:
        return separate_song(separator, song, output, options)
    import fsspec

    files, folder = fsspec.url_to_fs(output)
    there = f"{folder}/{song.id}"
    # The same for the same song: what a kill leaves here goes with the next try.
    here = Path(tempfile.gettempdir()) / f"rofo-{hashlib.sha256(there.encode()).hexdigest()[:16]}"
    try:
        _fetch_record(files, there, here / song.id)
        row = separate_song(separator, song, here, options)
        if row.status == "done":
            _upload(files, here / song.id, there)
        return row
    finally:
        shutil.rmtree(here, ignore_errors=True)


def _fetch_record(files: Any, there: str, here: Path) -> None:
    """The record of a song, and for its stems empty files of their sizes, which it is compared with."""
    shutil.rmtree(here, ignore_errors=True)
    if not files.exists(f"{there}/{RECORD}"):
        return
    here.mkdir(parents=True)
    for stem in files.ls(there, detail=True):
        name = Path(stem["name"]).name
        if name == RECORD:
            files.get_file(stem["name"], str(here / name))
        elif stem["type"] == "file":
            with (here / name).open("wb") as file:
                file.truncate(stem["size"])


def _upload(files: Any, here: Path, there: str) -> None:
    """Stems in the place of older ones; while they are replaced there is no record, as in a folder."""
    files.makedirs(there, exist_ok=True)
    if files.exists(f"{there}/{RECORD}"):
        files.rm_file(f"{there}/{RECORD}")
    for path in sorted(here.iterdir(), key=lambda path: path.name == RECORD):
        part = f"{there}/.rofo-{path.name}.part"
        files.put_file(str(path), part)
        files.mv(part, f"{there}/{path.name}")
