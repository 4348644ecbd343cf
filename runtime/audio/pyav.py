"""Any format, decoded in this process by PyAV, which brings its own ffmpeg."""

import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rofo.audio.ffmpeg import DEMUXERS
from rofo.errors import AudioReadError

# Formats that state their length; for others ffmpeg guesses it from the bit rate (2 % too much for an AAC).
_STATING = {"mov", "matroska", "asf", "ape", "wv", "tta", "tak", "caf", "au", "dsf"}
_MISSING = 1.0  # seconds; encoders' delays make stated and decoded lengths differ by up to 0.1


def decode(
    path: Path, cancel: threading.Event | None, complaints: list[str]
) -> Generator[tuple[int, NDArray[np.float32]], None, None]:
    """As rofo.audio.ffmpeg.decode; `cancel` is left to the taker, who has a block every few milliseconds."""
    import av

    # ffmpeg matches these lists itself: no playlist, no other file and no network is opened for a song.
    allowed = {"format_whitelist": DEMUXERS, "protocol_whitelist": "file"}
    try:
        with av.open(f"file:{path.absolute()}", options=allowed, metadata_errors="replace") as container:
            if not container.streams.audio:
                raise AudioReadError("holds no audio stream; get another file")
            yield from _samples(av, container, container.streams.audio[0], complaints)
    except av.FFmpegError as error:
        raise AudioReadError(
            f"not audio that can be read (ffmpeg: {error.strerror}); convert it to WAV or FLAC"
        ) from None


def _samples(
    av: Any, container: Any, stream: Any, complaints: list[str]
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    to_float, samples, rate = av.AudioResampler(format="flt"), 0, 0
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.FFmpegError as error:  # what follows may be whole again, as the ffmpeg program sees it
            complaints.append(f"{error.strerror} at {samples / max(rate, 1):.1f} s")
            continue
        for frame in frames:
            rate = frame.sample_rate
            try:
                floats = to_float.resample(frame)
            except ValueError:
                raise AudioReadError("changes its rate or channels on the way; convert it to WAV") from None
            for block in floats:
                samples += block.samples
                yield rate, block.to_ndarray().reshape(block.samples, -1)
    stated = _stated_seconds(container, stream)
    if rate and stated - samples / rate > _MISSING:
        complaints.append(f"cut short, {samples / rate:.1f} of {stated:.1f} s")


def _stated_seconds(container: Any, stream: Any) -> float:
    """The length that the file's header gives to the audio; 0 where it gives none."""
    if not _STATING & set(container.format.name.split(",")):
        return 0.0
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    # The container's is that of its longest stream, which beside a film need not be the sound.
    return (container.duration or 0) / 1e6 if len(container.streams) == 1 else 0.0
