"""All files of an export in place, or none: they are made in a hidden folder and moved at the end."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rofo.errors import OutputWriteError


@contextmanager
def staging(stem: Path) -> Iterator[Path]:
    """A hidden folder beside the output, removed with all that is left in it; write errors in words."""
    folder = None
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{stem.name}.", dir=stem.parent))
        yield folder
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputWriteError(
            f"{stem}: could not write ({reason}); give --output a folder with room and write permission"
        ) from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


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
                target.replace(older)
            file.replace(target)
        undo.pop_all()
    _drop_stale_weights(files, folder)
    return tuple(folder / file.name for file in files)


def _drop_stale_weights(files: list[Path], folder: Path) -> None:
    """Weights of an older, larger engine of this name belong to nothing now."""
    names = {file.name for file in files}
    for name in names:
        if name.endswith(".onnx") and f"{name}.data" not in names:
            (folder / f"{name}.data").unlink(missing_ok=True)


def _put_back(file: Path, target: Path, older: Path) -> None:
    """Undo as much of a move as was done: `file` gone means that it is at its target."""
    if older.exists():
        older.replace(target)
    elif not file.exists():
        target.unlink(missing_ok=True)
