"""Songs in formats that only ffmpeg writes, made with the one that PyAV brings."""

import os
from pathlib import Path

import av
import numpy as np


def encode(
    path: Path,
    codec: str,
    samples: np.ndarray,
    rate: int = 44100,
    container: str | None = None,
    **options: str,
) -> Path:
    """Write samples (channels, n) through PyAV's own encoder."""
    with av.open(os.fsencode(path).decode(errors="surrogateescape"), "w", container, options) as file:
        stream = file.add_stream(codec, rate=rate, layout={1: "mono", 2: "stereo", 6: "5.1"}[len(samples)])
        stream.bit_rate = 128_000
        frame = av.AudioFrame.from_ndarray(samples, "fltp", stream.layout.name)
        frame.sample_rate = rate
        fitting = av.AudioResampler(stream.format.name, stream.layout.name, rate)
        for part in (*fitting.resample(frame), *fitting.resample(None)):
            file.mux(stream.encode(part))
        file.mux(stream.encode(None))
    return path
