"""All files of an export in place, or none: they are made in a hidden folder and moved at the end."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rofo.audio.parts import part_folder, remove_stale_parts, sync_folder
from rofo.errors import OutputWriteError


@contextmanager
def staging(stem: Path) -> Iterator[Path]:
    """A hidden folder beside the output, removed with all that is left in it; write errors in words."""
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        remove_stale_parts(stem.parent)  # of exports that were killed
        with part_folder(stem.parent) as folder:
            yield folder
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputWriteError(
            f"{stem}: could not write ({reason}); give --output a folder with room and write permission"
        ) from error


def placed(files: list[Path], folder: Path) -> tuple[Path, ...]:
    """Move finished files to their names, the manifest last; if one cannot be, put back what was there."""
    for file in files:
        with file.open("rb+") as handle:
            os.fsync(handle.fileno())
        if (folder / file.name).is_dir():
            raise IsADirectoryError(errno.EISDIR, f"{file.name} is a directory")
    with ExitStack() as undo:
        for file in files:
            target, older = folder / file.name, file.with_name(f"{file.name}.old")
            undo.callback(_put_back, file, target, older)
            if target.exists():
                _keep(target, older)
            file.replace(target)
        undo.pop_all()
    sync_folder(folder)
    _drop_stale_weights(files, folder)
    return tuple(folder / file.name for file in files)


def _drop_stale_weights(files: list[Path], folder: Path) -> None:
    """Weights of an older, larger engine of this name belong to nothing now."""
    names = {file.name for file in files}
    for name in names:
        if name.endswith(".onnx") and f"{name}.data" not in names:
            (folder / f"{name}.data").unlink(missing_ok=True)


def _keep(target: Path, older: Path) -> None:
    """Give what has the name a second one; not moved, for a kill would then leave nothing there."""
    try:
        older.hardlink_to(target)
    except OSError:  # not every file system has links
        shutil.copyfile(target, older)


def _put_back(file: Path, target: Path, older: Path) -> None:
    """Undo as much of a move as was done: `file` gone means that it is at its target."""
    if older.exists():
        older.replace(target)
    elif not file.exists():
        target.unlink(missing_ok=True)
