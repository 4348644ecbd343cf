"""Writing stems: each into a hidden file beside its place, and all of a song appear there, or none."""

import errno
import io
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import soundfile
from numpy.typing import NDArray

from rofo.audio.flac import BITS, empty_flac
from rofo.audio.parts import ELSEWHERE, Part, in_words, remove_stale_parts
from rofo.audio.samples import SAMPLE_BYTES, AudioFormat, encode, quantise
from rofo.audio.wav import wav_header
from rofo.errors import OutputWriteError, UsageError
from rofo.text import printable

_WAV = set(SAMPLE_BYTES) - {"PCM_S8"}


class _Encoder(Protocol):
    """Turns blocks of (channels, samples) into the bytes of one file."""

    def write(self, block: NDArray[np.float32]) -> None: ...

    def finish(self) -> None: ...

    def abandon(self) -> None: ...


class _Wav:
    """Header first, with the length that was announced; nothing is mended afterwards."""

    def __init__(self, part: Part, format: AudioFormat) -> None:
        self._file, self._format = part.file, format
        self._file.write(wav_header(format.sample_rate, format.channels, format.frames, format.subtype))

    def write(self, block: NDArray[np.float32]) -> None:
        self._file.write(encode(block.T, self._format.subtype))

    def finish(self) -> None:
        self._file.write(bytes(self._format.data_bytes % 2))

    def abandon(self) -> None:
        pass


class _Flac:
    """libsndfile's encoder, which opens the file by itself."""

    def __init__(self, part: Part, format: AudioFormat) -> None:
        self._file, self._format, self._bits = part.file, format, BITS[format.subtype]
        self._name = os.fsencode(part.path) if os.name == "posix" else str(part.path)
        with self._reasons():
            self._sound = soundfile.SoundFile(
                self._name, "w", format.sample_rate, format.channels, format.subtype, format="FLAC"
            )

    def write(self, block: NDArray[np.float32]) -> None:
        integers = quantise(np.ascontiguousarray(block.T), self._bits)
        with self._reasons():
            self._sound.write(integers << (32 - self._bits))

    def finish(self) -> None:
        with self._reasons():
            self._sound.close()
        if self._format.frames == 0:  # libsndfile left 0 bytes, which nothing can read
            self._file.write(empty_flac(self._format.sample_rate, self._format.channels, self._bits))
            return
        # Closing reports no error even if the last frame could not be written: look whether it is there.
        with self._reasons(), soundfile.SoundFile(self._name) as written:
            written.seek(self._format.frames - 1)
            if written.frames != self._format.frames or len(written.read(1)) != 1:
                raise AssertionError("the file is not whole")

    def abandon(self) -> None:
        with suppress(soundfile.LibsndfileError):
            self._sound.close()

    @contextmanager
    def _reasons(self) -> Iterator[None]:
        """libsndfile forgets errno ("System error."): write a little ourselves to hear it again."""
        try:
            yield
        except (soundfile.LibsndfileError, AssertionError) as error:  # soundfile asserts that all was written
            self._file.seek(0, io.SEEK_END)
            self._file.write(bytes(1 << 16))
            self._file.flush()
            raise OSError(f"the FLAC encoder failed ({' '.join(str(error).split())})") from None


class StemWriter:
    """One output file: written into a hidden file in the same folder until `commit` gives it its name.

    `format.frames` announces the length. A WAV that will pass 4 GiB is written as RF64. `clipped` counts
    the samples beyond full scale in integer formats. Raises OutputWriteError, and UsageError for a format
    that cannot be written.
    """

    def __init__(self, path: Path, format: AudioFormat) -> None:
        if format.subtype not in {"WAV": _WAV, "FLAC": set(BITS)}.get(format.container, set()):
            raise UsageError(
                f"{printable(path)}: {format.container} cannot hold {format.subtype}; "
                "use WAV, or FLAC with PCM_16 or PCM_24"
            )
        self.path, self.format, self.clipped, self._written = path, format, 0, 0
        self._counts_clips = format.subtype not in ("FLOAT", "DOUBLE")
        self._undo = ExitStack()
        with in_words(path):
            # What would fail in `commit` fails before the work: directories, names that are too long.
            with suppress(FileNotFoundError):
                if stat.S_ISDIR(path.stat().st_mode):
                    raise IsADirectoryError(errno.EISDIR, "")
            self._part = Part(path.parent)
        self._undo.callback(self._part.discard)
        encoder = _Flac if format.container == "FLAC" else _Wav
        try:
            with in_words(path):
                self._encoder: _Encoder = encoder(self._part, format)
        except BaseException:
            self.discard()
            raise
        self._undo.callback(self._encoder.abandon)

    def write(self, block: NDArray[np.float32]) -> None:
        """Append a block of (channels, samples). Refuses non-finite ones: as integers they are clicks."""
        if block.shape[0] != self.format.channels:
            raise ValueError(f"a block of {block.shape[0]} channels for a file of {self.format.channels}")
        if bad := block.size - np.count_nonzero(np.isfinite(block)):
            raise OutputWriteError(
                f"{printable(self.path)}: {bad:,} non-finite samples came out; nothing was kept"
            )
        if self._counts_clips:
            self.clipped += int(np.count_nonzero(np.abs(block) > 1))
        with in_words(self.path):
            self._encoder.write(block)
        self._written += block.shape[1]

    def finish(self) -> None:
        """Make the hidden file complete and durable. Refuses another length than was announced."""
        if self._written != self.format.frames:
            raise OutputWriteError(
                f"{printable(self.path)}: {self._written:,} of {self.format.frames:,} samples came out; "
                "nothing was kept"
            )
        with in_words(self.path):
            self._encoder.finish()
            self._part.sync()

    def commit(self) -> Path:
        """Give the finished file its name, replacing what had it."""
        with in_words(self.path):
            self._part.commit(self.path)
        return self.path

    def discard(self) -> None:
        """Remove the hidden file. May be called at any time, and more than once."""
        self._undo.close()


class StemFiles:
    """The stems of one song as a context manager: on a clean exit all files appear, on any exception none.

    A folder made here goes again if the song fails and left it empty. A file that was replaced before a
    later one could not be stays replaced: it is complete.
    """

    def __init__(self, paths: Mapping[str, Path], format: AudioFormat) -> None:
        if len(set(paths.values())) < len(paths):
            raise UsageError(f"{printable(next(iter(paths.values())))}: two stems have this name; rename one")
        self._paths, self._format = dict(paths), format
        self._writers: dict[str, StemWriter] = {}
        self._pool = ThreadPoolExecutor(len(paths) or 1, thread_name_prefix="rofo-write")
        self._under_way: list[Future[None]] = []
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        with self._undoing():
            for folder in dict.fromkeys(path.parent for path in self._paths.values()):
                self._make(folder)
                remove_stale_parts(folder)
                self._check_space(folder)
            for stem, path in self._paths.items():
                self._writers[stem] = writer = StemWriter(path, self._format)
                self._undo.callback(writer.discard)
        return self

    def write(self, stems: Mapping[str, NDArray[np.float32]]) -> None:
        """Append a block of (channels, samples) to every stem: it is theirs until the next call returns.

        Each is encoded on a thread of its own. What goes wrong is raised by the next call, or on the exit.
        """
        self._settle()
        self._under_way = [
            self._pool.submit(writer.write, stems[stem]) for stem, writer in self._writers.items()
        ]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Which stems lost samples beyond full scale, complete after the exit."""
        counts = {stem: writer.clipped for stem, writer in self._writers.items() if writer.clipped}
        return tuple(
            f"{stem}: {count:,} samples clipped at full scale; --subtype FLOAT keeps them"
            for stem, count in counts.items()
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._undoing():
            self._pool.shutdown()
        if error is not None:
            self._undo.close()
            return
        with self._undoing():
            self._settle()
            for writer in self._writers.values():
                writer.finish()
            for writer in self._writers.values():
                if not writer.path.exists():
                    self._undo.callback(_remove, writer.path)
                writer.commit()

    def _settle(self) -> None:
        """Wait for the last block. Raises what went wrong with it."""
        for written in self._under_way:
            written.result()
        self._under_way = []

    @contextmanager
    def _undoing(self) -> Iterator[None]:
        """Undo everything if the body fails, Ctrl-C included."""
        try:
            yield
        except BaseException:
            self._undo.close()
            raise

    def _make(self, folder: Path) -> None:
        missing = [part for part in (folder, *folder.parents) if not part.exists()]
        with in_words(folder):
            for part in reversed(missing):
                part.mkdir(exist_ok=True)
                self._undo.callback(_remove_folder, part)

    def _check_space(self, folder: Path) -> None:
        """Refuse before the work. Only WAV: how small FLAC gets is known when it is written."""
        here = [path for path in self._paths.values() if path.parent == folder]
        needed = self._format.data_bytes * len(here) if self._format.container == "WAV" else 0
        with in_words(folder):
            free = shutil.disk_usage(folder).free
        if needed > free:
            raise OutputWriteError(
                f"{printable(folder)}: disk full: needs {_megabytes(needed)}, {_megabytes(free)} free; "
                f"free some space or {ELSEWHERE}",
                everywhere=True,
            )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _remove_folder(path: Path) -> None:
    with suppress(OSError):  # not empty: somebody else's files are in it
        path.rmdir()
