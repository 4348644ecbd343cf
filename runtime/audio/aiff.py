"""AIFF headers: plain big-endian integers, and the uncompressed kinds of AIFF-C.

Read by rofo itself for the reasons given in riff.py. Chunks: Apple, "Audio Interchange File Format" 1.3.
"""

import struct
from typing import BinaryIO

from rofo.audio.samples import SAMPLE_BYTES, PcmLayout
from rofo.audio.wav import MAX_CHANNELS, Chunk, chunks, damaged, measured, read_at
from rofo.errors import AudioReadError

_INTEGERS = {8: "PCM_S8", 16: "PCM_16", 24: "PCM_24", 32: "PCM_32"}
_LITTLE = (b"sowt", b"42ni", b"42n1", b"23ni")
_WHOLE = (b"NONE", b"twos", b"in24", b"in32", *_LITTLE)
_FLOATS = {b"fl32": "FLOAT", b"FL32": "FLOAT", b"fl64": "DOUBLE", b"FL64": "DOUBLE"}


def is_aiff(head: bytes) -> bool:
    """Whether a file that begins with `head` claims to be AIFF or AIFF-C."""
    return head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC")


def parse_aiff(file: BinaryIO, start: int, end: int) -> PcmLayout:
    """Find the samples of an AIFF that lies from `start` to `end`. Raises AudioReadError like parse_wav."""
    compressed = read_at(file, start + 8, 4) == b"AIFC"
    found: dict[bytes, Chunk] = {}
    for chunk in chunks(file, start + 12, end, ">"):
        found.setdefault(chunk.name, chunk)
    if b"COMM" not in found or b"SSND" not in found:
        raise damaged("no COMM or no SSND chunk")
    comm = read_at(file, found[b"COMM"].offset, 22)
    skip = read_at(file, found[b"SSND"].offset, 4)
    if len(comm) < (22 if compressed else 18) or len(skip) < 4:
        raise damaged("it ends within a chunk")
    channels, frames, bits = struct.unpack(">HIH", comm[:8])
    kind = comm[18:22] if compressed else b"NONE"
    subtype = _subtype(kind, bits)
    if not 1 <= channels <= MAX_CHANNELS:
        raise damaged(f"{channels} channels")
    offset = found[b"SSND"].offset + 8 + struct.unpack(">I", skip)[0]
    layout = PcmLayout(_extended(comm[8:18]), channels, subtype, offset, 0, big_endian=kind not in _LITTLE)
    return measured(layout, frames * channels * SAMPLE_BYTES[subtype], max(0, end - offset))


def _subtype(kind: bytes, bits: int) -> str:
    if kind in _WHOLE:
        found = _INTEGERS.get(-(-bits // 8) * 8)
        if found is None:
            raise damaged(f"{bits} bits")
        return found
    if kind in _FLOATS:
        return _FLOATS[kind]
    name = kind.decode("ascii", "replace")
    raise AudioReadError(
        f"holds {name!r}, not plain samples; convert it: ffmpeg -i IN -c:a pcm_s16le OUT.wav"
    )


def _extended(raw: bytes) -> int:
    """The sample rate, an 80-bit float, as a whole number (0 where it is none that audio has)."""
    exponent, mantissa = struct.unpack(">HQ", raw)
    shift = 16383 + 63 - exponent
    return mantissa >> shift if 32 <= shift < 64 else 0
