"""`python -m rofo.serving.ray --engine E --list songs.jsonl --output DIR|URL`: a list of songs on Ray.

On a laptop it starts Ray itself; on a cluster (`ray job submit`, or RAY_ADDRESS) engine, list and songs lie
where every machine sees them. Paths travel, never audio. A worker opens the engine once; what it does with a
song is rofo.separate_song, so rofo-run --list and this go on with each other's work. Ray's checkpoint lets a
job that was killed go on with the songs that have no row; one that ended looks at every song when it is run
again.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from rofo.cli import SOME_FAILED
from rofo.cli import main as rofo_run
from rofo.console import command_line, note
from rofo.errors import RofoError, UsageError
from rofo.options import Options
from rofo.serving.uploads import separate_to
from rofo.song_list import ListedSong, read_list
from rofo.song_rows import SongRow, rows_of

# Songs that are written, and after a kill looked at again, together.
BLOCK = 16
RETRIES = 5
_SEPARATOR = ("backend", "precision", "threads", "low_memory")
_OPTIONS = (
    "stems", "overlap", "scheme", "shifts", "container", "subtype", "allow_truncated", "sanitize",
    "max_minutes",
)  # fmt: skip


class Worker:
    """An engine that stays open."""

    def __init__(self, engine: str, output: str, options: Options, settings: Any) -> None:
        from rofo.separator import Separator

        self._output, self._options = output, options
        self._separator = Separator(engine, **settings)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row of a song in the list -> its id and, as JSON, what became of it."""
        song = ListedSong(row["id"], Path(row["path"]), row["sha256"])
        try:
            told = separate_to(self._output, self._separator, song, self._options)
        except RofoError:
            if not self._separator.healthy:  # Ray starts another worker
                os._exit(1)
            raise
        # A worker that was killed may have done it.
        told = replace(told, status="done") if told.status == "skipped" else told
        return {"id": row["id"], "row": told.to_json()}


def separate_on_ray(
    songs: list[ListedSong],
    engine: Path,
    output: str,
    options: Options = Options(),
    *,
    workers: int | None = None,
    **settings: Any,
) -> Iterator[SongRow]:
    """Separate songs into OUTPUT/<id>/, a row for each into OUTPUT/rows.jsonl/* -> the rows of all.

    `workers` are one per GPU unless said, or one where there is none; `settings` are those of a Separator.
    Raises UsageError where Ray is not installed, what ends a list in `rofo.separate_list`, and Ray's errors.
    """
    try:
        import fsspec
        import pyarrow
        import ray
    except ImportError as error:
        raise UsageError(f"{error.name} is not installed; pip install 'rofo[ray]'") from None
    from pyarrow.fs import FSSpecHandler, PyFileSystem
    from ray.data.block import BlockMetadata
    from ray.data.checkpoint import CheckpointConfig
    from ray.data.datasource import BlockBasedFileDatasink, Datasource, ReadTask

    schema = pyarrow.schema([(name, pyarrow.string()) for name in ("id", "path", "sha256")])

    class Songs(Datasource):  # type: ignore[misc]  # what Ray has of its own takes no checkpoint, or no list
        def estimate_inmemory_data_size(self) -> None:
            return None

        def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[Any]:
            rows = [{"id": song.id, "path": str(song.path), "sha256": song.sha256} for song in songs]
            parts = [rows[begin : begin + block] for begin in range(0, len(rows), block)]
            return [
                ReadTask(
                    lambda part=part: [pyarrow.Table.from_pylist(part, schema)],
                    BlockMetadata(num_rows=len(part), size_bytes=None, exec_stats=None),
                )
                for part in parts
            ]

    class Rows(BlockBasedFileDatasink):  # type: ignore[misc]
        def write_block_to_file(self, block: Any, file: Any) -> None:
            file.write("".join(f"{row['row']}\n" for row in block.iter_rows(False)).encode())

    ray.init(ignore_reinit_error=True, include_dashboard=False)
    files, folder = fsspec.url_to_fs(output)
    filesystem = PyFileSystem(FSSpecHandler(files))
    # No id ends so.
    results, checkpoints = f"{folder}/rows.jsonl", f"{folder}/.rofo-ray"
    job = hashlib.sha256(repr((songs, engine.read_bytes(), options, settings)).encode()).hexdigest()
    if not files.exists(f"{checkpoints}/{job}"):  # nothing to go on with: every song is looked at
        for old in (results, checkpoints):
            if files.exists(old):
                files.rm(old, recursive=True)
    context = ray.data.DataContext.get_current()
    context.raise_original_map_exception = True
    context.checkpoint_config = CheckpointConfig("id", f"{checkpoints}/{job}", override_filesystem=filesystem)
    gpus = int(ray.cluster_resources().get("GPU", 0))
    workers = workers or gpus or 1
    block = max(1, min(BLOCK, len(songs) // (4 * workers)))
    ray.data.read_datasource(Songs(), override_num_blocks=-(-len(songs) // block) or 1).map(
        Worker,
        fn_constructor_args=(str(engine), output, options, settings),
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=0 if not gpus else None,
        num_gpus=min(1, gpus / workers) or None,
        # A song that kills whoever takes it must not go round for ever.
        max_task_retries=RETRIES,
    ).write_datasink(Rows(results, filesystem=filesystem, file_format="jsonl"))
    for file in files.glob(f"{results}/*.jsonl"):
        yield from rows_of(files.cat_file(file), file)


def _origin(error: BaseException) -> BaseException:
    """Our own error where Ray's is of one, which is that in words of twenty lines."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, RofoError) and not hasattr(found, "cause"):
            return found
        found = getattr(found, "cause", None) or found.__cause__
    return error


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--engine", required=True, type=click.Path(path_type=Path), help="As for rofo-run.")
@click.option("--list", "song_list", required=True, type=click.Path(path_type=Path), metavar="SONGS.jsonl")
@click.option(
    "--output", required=True, metavar="DIR|URL", help="Stems go there to <id>/, rows to rows.jsonl/."
)
@click.option("--workers", type=click.IntRange(1), help="Default: one per GPU, or one where there is none.")
def run(
    song_list: Path, output: str, workers: int | None, engine: Path, stems: tuple[str, ...], **chosen: Any
) -> int:
    """Separate a list of songs on Ray. Options are those of rofo-run."""
    songs = [replace(song, path=song.path.absolute()) for song in read_list(song_list)]
    options = Options(stems=stems or None, **{name: chosen.pop(name) for name in _OPTIONS[1:]})
    place = output if "://" in output else str(Path(output).absolute())
    try:
        rows = list(separate_on_ray(songs, engine.absolute(), place, options, workers=workers, **chosen))
    except Exception as error:
        raise _origin(error) from error
    last = {row.id: row for row in rows}
    failed = [row for row in last.values() if row.status == "failed"]
    for row in failed:
        note(f"error: {row.error}")
    note(f"{len(last) - len(failed):,} of {len(songs):,} songs are done, {len(failed):,} failed")
    return SOME_FAILED if failed else 0


run.params += [p for p in rofo_run.command.params if p.name in {*_SEPARATOR, *_OPTIONS}]
main = command_line(run)

if __name__ == "__main__":
    main()
