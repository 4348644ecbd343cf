"""Samples as bytes and back: the encodings of uncompressed audio files."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Names as soundfile has them -> bytes per sample.
SAMPLE_BYTES = {"PCM_S8": 1, "PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8}


# Times full scale. Beyond it is no sound but damage: numbers of float32 reach 1e38, and their spectra do not
# fit it. Integers that were taken for floats are below.
LOUDEST = 1e6


@dataclass(frozen=True)
class AudioFormat:
    """Shape of a file's audio, `frames` in samples per channel, and how its stems are written by default.

    `container` is "WAV" or "FLAC", `subtype` one of soundfile's names ("PCM_16", "FLOAT"). WAV and FLAC
    keep their own; every other input (Ogg, MP3, what ffmpeg decodes) becomes WAV FLOAT, AIFF becomes WAV.
    """

    sample_rate: int
    channels: int
    frames: int
    container: str
    subtype: str

    @property
    def data_bytes(self) -> int:
        """Size of the samples without compression, in bytes."""
        return self.frames * self.channels * SAMPLE_BYTES[self.subtype]


@dataclass(frozen=True)
class PcmLayout:
    """Where in a file uncompressed samples lie. `frames` are samples per channel that are really there.

    `shortage` says what is missing of what the header states, `note` what else a user should know.
    """

    sample_rate: int
    channels: int
    subtype: str
    offset: int
    frames: int
    big_endian: bool = False
    shortage: str | None = None
    note: str | None = None

    @property
    def block_align(self) -> int:
        """Bytes of one sample of all channels."""
        return self.channels * SAMPLE_BYTES[self.subtype]


def usable(samples: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which samples can be separated: finite ones, not beyond LOUDEST."""
    return np.abs(samples) <= LOUDEST


def fault(samples: NDArray[np.float32]) -> str:
    """What is wrong with samples that are not all usable."""
    loud = f"samples beyond {LOUDEST:,.0f} times full scale"
    return loud if np.isfinite(samples).all() else "non-finite samples"


def decode(raw: bytes, subtype: str, big_endian: bool = False) -> NDArray[np.float32]:
    """Bytes of whole samples -> float32, full scale at 1.0; equal to what libsndfile returns."""
    order = ">" if big_endian else "<"
    if subtype in ("FLOAT", "DOUBLE"):
        with np.errstate(over="ignore", invalid="ignore"):  # what float32 cannot hold is refused later
            return np.frombuffer(raw, f"{order}f{SAMPLE_BYTES[subtype]}").astype(np.float32)
    if subtype == "PCM_U8":
        return (np.frombuffer(raw, np.uint8).astype(np.float32) - np.float32(128)) / np.float32(128)
    if subtype == "PCM_24":
        return _widen(raw, big_endian).astype(np.float32) / np.float32(2**31)
    width = SAMPLE_BYTES[subtype]
    return np.frombuffer(raw, f"{order}i{width}").astype(np.float32) / np.float32(2 ** (8 * width - 1))


def _widen(raw: bytes, big_endian: bool) -> NDArray[np.int32]:
    """Three-byte integers -> the upper three bytes of four-byte ones."""
    triples = np.frombuffer(raw, np.uint8).reshape(-1, 3)
    wide = np.zeros((len(triples), 4), np.uint8)
    wide[:, 1:] = triples[:, ::-1] if big_endian else triples
    integers: NDArray[np.int32] = wide.view("<i4")[:, 0]
    return integers


def quantise(samples: NDArray[np.float32], bits: int) -> NDArray[np.int32]:
    """Round float32 samples to integers of `bits` bits, clamping what lies beyond full scale.

    libsndfile's own conversion rounds down where it clips (a bias of half a step), hence ours. No dither:
    the same samples give the same bytes, and integers that were read come back unchanged.
    """
    full = 2 ** (bits - 1)
    # 2^31 - 1 does not exist in float32; up to 24 bits float32 is exact.
    scaled = samples * (np.float64 if bits > 24 else np.float32)(full)
    np.clip(np.rint(scaled, out=scaled), -full, full - 1, out=scaled)
    return scaled.astype(np.int32)


def encode(samples: NDArray[np.float32], subtype: str) -> bytes:
    """Samples -> little-endian bytes as WAV holds them, in C order."""
    if subtype in ("FLOAT", "DOUBLE"):
        return samples.astype(f"<f{SAMPLE_BYTES[subtype]}", order="C").tobytes()
    width = SAMPLE_BYTES[subtype]
    integers = quantise(samples, 8 * width)
    if subtype == "PCM_U8":
        return (integers + 128).astype(np.uint8, order="C").tobytes()
    if subtype == "PCM_24":
        return integers.astype("<i4", order="C").view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
    return integers.astype(f"<i{width}", order="C").tobytes()
