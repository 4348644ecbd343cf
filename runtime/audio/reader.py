"""Reading a song: any audio file -> blocks of float32."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rofo.audio.decoders import BLOCK, Source, open_source
from rofo.audio.samples import AudioFormat, fault, usable
from rofo.errors import AudioReadError, CancelledError, UsageError
from rofo.text import printable

MIN_RATE, MAX_RATE = 8_000, 384_000


class AudioReader:
    """One opened audio file, read in blocks and constant memory; a context manager.

    `allow_truncated` takes what is there of a file that was cut short; `sanitize` sets to 0 what is not
    finite, or beyond a million times full scale; both are refused otherwise. `channels` picks one or two by
    number, from 0. Setting `cancel` ends decoding that takes long with CancelledError.
    Raises AudioReadError, and UsageError for channels the file does not have.
    """

    format: AudioFormat

    def __init__(
        self,
        path: str | Path,
        *,
        allow_truncated: bool = False,
        sanitize: bool = False,
        channels: Sequence[int] | None = None,
        max_minutes: float = 180,
        cancel: threading.Event | None = None,
    ) -> None:
        self._path, self._sanitize, self._replaced, self._fault = path, sanitize, 0, ""
        self._closing = ExitStack()
        try:
            with naming(path):
                if "\0" in str(path):
                    raise AudioReadError("a name cannot hold a NUL character; correct it")
                self._source = open_source(Path(path), max_minutes, cancel, self._closing)
                self._warnings = _accept(self._source, allow_truncated, max_minutes)
                self._channels = _choose(channels, self._source.format.channels)
        except BaseException:
            self.close()
            raise
        whole = self._source.format
        self.format = AudioFormat(
            whole.sample_rate, len(self._channels), whole.frames, whole.container, whole.subtype
        )

    @property
    def warnings(self) -> list[str]:
        """What a user should know, complete once all blocks were read."""
        replaced = [f"{self._replaced:,} {self._fault} set to 0"] if self._replaced else []
        return self._warnings + replaced

    def blocks(self, samples: int = BLOCK) -> Iterator[NDArray[np.float32]]:
        """The song from its beginning: arrays of (channels, at most `samples`), in all `format.frames` long.

        Each call begins anew. What comes does not depend on `samples`. Raises AudioReadError at damage and
        at samples that are not usable.
        """
        done = replaced = 0
        with naming(self._path):
            decoded = self._source.blocks()
            for raw in decoded:
                block = np.ascontiguousarray(raw.T[self._channels])
                if bad := _unusable(block):
                    if not self._sanitize:
                        raise self._refuse(block, done, bad, decoded)
                    self._fault = fault(block)
                    block[~usable(block)] = 0
                    replaced += bad
                    self._replaced = max(self._replaced, replaced)
                done += block.shape[1]
                for start in range(0, block.shape[1], samples):
                    yield block[:, start : start + samples]

    def _refuse(
        self, block: NDArray[np.float32], done: int, bad: int, rest: Iterator[NDArray[np.float32]]
    ) -> AudioReadError:
        first = done + int(np.argmax(~usable(block).all(axis=0)))
        bad += sum(_unusable(raw[:, self._channels]) for raw in rest)
        seconds = first / self.format.sample_rate
        return AudioReadError(f"{bad:,} {fault(block)}, first at {seconds:.3f} s; --sanitize sets them to 0")

    def close(self) -> None:
        """Close the file and end what decodes it. May be called twice."""
        self._closing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Put the file before every message, and the system's errors into the tree."""
    name = printable(path)
    try:
        yield
    except FileNotFoundError:
        raise AudioReadError(f"{name}: no such file") from None
    except PermissionError:
        raise AudioReadError(f"{name}: no permission to read it") from None
    except (AudioReadError, CancelledError, UsageError) as error:
        raise type(error)(f"{name}: {error}") from None
    except OSError as error:
        raise AudioReadError(f"{name}: {error.strerror or error}") from None


def _accept(source: Source, allow_truncated: bool, max_minutes: float) -> list[str]:
    """Refuse what cannot be separated; return the warnings of what can."""
    found, warnings = source.format, [source.note] if source.note else []
    if not MIN_RATE <= found.sample_rate <= MAX_RATE:
        raise AudioReadError(
            f"its sample rate, {found.sample_rate:,} Hz, is not within {MIN_RATE:,} to {MAX_RATE:,}; "
            "convert it"
        )
    minutes = found.frames / found.sample_rate / 60
    if minutes > max_minutes:
        raise AudioReadError(
            f"{minutes:,.1f} min long, the limit is {max_minutes:g}; raise it with --max-minutes"
        )
    if source.shortage and not allow_truncated:
        raise AudioReadError(f"{source.shortage}; use --allow-truncated to take what is there")
    if source.shortage:
        warnings.append(f"{source.shortage}; took what is there")
    return warnings


def _choose(channels: Sequence[int] | None, available: int) -> list[int]:
    if channels is None and available > 2:
        raise AudioReadError(f"has {available} channels; choose one or two of them, such as --channels 0,1")
    chosen = list(range(available) if channels is None else channels)
    if len(chosen) not in (1, 2) or len(set(chosen)) < len(chosen):
        raise UsageError(f"--channels takes one or two different numbers, not {chosen}; such as 0,1")
    if not all(0 <= channel < available for channel in chosen):
        raise UsageError(f"has channels 0 to {available - 1}; --channels asks for {chosen}")
    return chosen


def _unusable(block: NDArray[np.float32]) -> int:
    return int(block.size - np.count_nonzero(usable(block)))
