"""The first block of a FLAC file (STREAMINFO, RFC 9639, section 8.2), read before libsndfile does and written
where libsndfile writes nothing at all: for a song of no samples."""

import hashlib
import struct
from dataclasses import dataclass
from typing import BinaryIO

from rofo.audio.wav import read_at
from rofo.errors import AudioReadError

BITS = {"PCM_S8": 8, "PCM_16": 16, "PCM_24": 24}
_FIXED = (
    ">4sB3sHH6sQ"  # up to the checksum: magic, block type, length, block sizes, frame sizes, packed numbers
)


@dataclass(frozen=True)
class StreamInfo:
    """What the header states; `samples` per channel."""

    sample_rate: int
    channels: int
    bits: int
    samples: int

    @property
    def subtype(self) -> str:
        """soundfile's name for these samples."""
        return {8: "PCM_S8", 16: "PCM_16"}.get(self.bits, "PCM_24")


def parse_flac(file: BinaryIO, start: int, end: int) -> StreamInfo:
    """Read the header. Raises AudioReadError for lengths that it cannot mean, or does not state."""
    head = read_at(file, start, struct.calcsize(_FIXED))
    if len(head) < struct.calcsize(_FIXED) or head[4] & 0x7F != 0:
        raise AudioReadError("its header is damaged or cut short; get the file again")
    _, _, _, _, largest_block, _, packed = struct.unpack(_FIXED, head)
    info = StreamInfo(packed >> 44, (packed >> 41 & 7) + 1, (packed >> 36 & 31) + 1, packed & ((1 << 36) - 1))
    if info.samples == 0 and _after_metadata(file, start) < end:
        raise AudioReadError(
            "its header states no length; encode it again: flac IN, or ffmpeg -i IN OUT.flac"
        )
    # A frame has at least 10 bytes (6 of header, 2 of subframe, 2 of checksum). A ratio to the file size
    # would not do: three minutes of digital silence were 1094 times smaller than their samples.
    size = end - start
    if info.samples > size // 10 * largest_block:
        raise AudioReadError(
            f"its header states {info.samples:,} samples, more than {size:,} bytes can hold; "
            "get the file again"
        )
    return info


def _after_metadata(file: BinaryIO, start: int) -> int:
    offset, last = start + 4, False
    while not last and len(head := read_at(file, offset, 4)) == 4:
        last = bool(head[0] & 0x80)
        offset += 4 + int.from_bytes(head[1:], "big")
    return offset


def empty_flac(sample_rate: int, channels: int, bits: int) -> bytes:
    """A whole FLAC file without samples, as the reference encoder writes it."""
    packed = sample_rate << 44 | (channels - 1) << 41 | (bits - 1) << 36
    length = (34).to_bytes(3, "big")
    fixed = struct.pack(_FIXED, b"fLaC", 0x80, length, 4096, 4096, bytes(6), packed)
    return fixed + hashlib.md5(b"", usedforsecurity=False).digest()
