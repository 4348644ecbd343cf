"""What a caller can ask for, the same at every door."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rofo.results import Progress


@dataclass(frozen=True)
class Options:
    """How songs are separated. What is left out is the engine's own, or the input's.

    stems: names among `Separator.stems`, in any case; None for all, the residual last.
    scheme: how chunks are joined (see rofo.dsp.SCHEMES).
    overlap: the fraction of a chunk shared with the next one; that of another scheme is its own.
    shifts: passes, each shifted by up to half a second, whose mean is taken; 0 for one that is not.
    progress: called after every chunk.
    cancel: once it is set, the next chunk is not begun, and CancelledError is raised.

    Files only:
    container: wav or flac, and subtype: PCM_16, PCM_24 or FLOAT; lossy inputs give WAV in FLOAT.
    channels: one or two of a file that has many, from 0.
    allow_truncated: take what is there of a file that was cut short, which is refused otherwise.
    sanitize: set samples that are not finite to 0, which are refused otherwise.
    max_minutes: refuse longer files.
    resume: skip a song whose stems are there and were made of this file by this engine with these options.
    """

    stems: Sequence[str] | None = None
    scheme: str | None = None
    overlap: float | None = None
    shifts: int = 0
    progress: Callable[[Progress], None] | None = None
    cancel: threading.Event | None = None
    container: str | None = None
    subtype: str | None = None
    channels: Sequence[int] | None = None
    allow_truncated: bool = False
    sanitize: bool = False
    max_minutes: float = 180
    resume: bool = False
