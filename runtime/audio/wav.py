"""WAV headers: RIFF, RIFX, RF64, BW64 and Sony Wave64, read and (RIFF, RF64) written.

Read by rofo itself, because libsndfile takes a file that was cut short without a word, and because its
ADPCM decoders overflow on crafted files while they are being opened (CVE-2026-37555): only plain integer
and float samples pass. Chunks: Microsoft "Multiple channel audio data and WAVE files"; ds64: EBU Tech 3306.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

from rofo.audio.samples import SAMPLE_BYTES, PcmLayout
from rofo.errors import AudioReadError

MAX_CHUNKS = 1000
MAX_CHANNELS = 256  # bounds the memory of a block, whatever a header says
_ALL_ONES_32, _ALL_ONES_64 = 2**32 - 1, 2**64 - 1
_W64_RIFF = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"
_W64_TAIL = b"\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"
_SUBFORMAT_TAIL = bytes.fromhex("000000001000800000aa00389b71")
_SUBTYPES = {(1, 8): "PCM_U8", (1, 16): "PCM_16", (1, 24): "PCM_24", (1, 32): "PCM_32"}
_SUBTYPES |= {(3, 32): "FLOAT", (3, 64): "DOUBLE"}
_ENCODINGS = {2: "MS ADPCM", 6: "A-law", 7: "mu-law", 0x11: "IMA ADPCM", 0x31: "GSM 6.10", 0x55: "MP3"}
# What programs leave in a size field when they write to a pipe or die: ffmpeg 0xFFFFFFFF, sox 0x7FFFF000,
# arecord 0x80000000, others 0x7FFFFFFF; whole blocks only, and sometimes less the header.
_PLACEHOLDERS = (0x7FFFF000, 0x7FFFFFFF, 0x80000000, _ALL_ONES_32)


@dataclass(frozen=True)
class Chunk:
    """One chunk of a file: its four-letter name, where its bytes begin and how many it claims."""

    name: bytes
    offset: int
    size: int


def is_wav(head: bytes) -> bool:
    """Whether a file that begins with `head` (at least 40 bytes where there are as many) claims to be WAV."""
    riff = head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE"
    return riff or (head[:16] == _W64_RIFF and head[24:40] == b"wave" + _W64_TAIL)


def parse_wav(file: BinaryIO, start: int, end: int) -> PcmLayout:
    """Find the samples of a WAV whose first byte is at `start` and whose last is before `end`.

    A data size that is a writer's placeholder means "to the end of the file" and leaves a note; any other
    that exceeds what is there leaves a shortage. Raises AudioReadError for headers that are damaged, or
    that describe anything but plain integer or float samples.
    """
    head = read_at(file, start, 40)
    big_endian, wave64 = head[:4] == b"RIFX", head[:4] == b"riff"
    order = ">" if big_endian else "<"
    riff_size = struct.unpack(f"{order}I", head[4:8])[0]
    found = _w64_chunks(file, start + 40, end) if wave64 else chunks(file, start + 12, end, order)
    layout, ds64_size = None, None
    for chunk in found:
        if chunk.name == b"ds64" and head[:4] in (b"RF64", b"BW64"):
            riff_size, ds64_size = struct.unpack("<QQ", _whole(read_at(file, chunk.offset, 16), 16))
        elif chunk.name == b"fmt " and layout is None:
            layout = _format(read_at(file, chunk.offset, min(chunk.size, 40)), order)
        elif chunk.name == b"data":
            if layout is None:
                break
            size = ds64_size if ds64_size is not None and chunk.size == _ALL_ONES_32 else chunk.size
            layout = replace(layout, big_endian=big_endian, offset=chunk.offset)
            if head[:4] in (b"RIFF", b"RIFX"):
                size += _overflow(size, end - chunk.offset)
            if size == 0 and (wave64 or start + 8 + riff_size > chunk.offset):
                return layout  # the file goes on after the samples: there really are none
            return _measure(layout, size, max(0, end - chunk.offset))
    raise damaged("no samples after its format" if layout else "no format before its samples")


def damaged(what: str) -> AudioReadError:
    """The error for a header that cannot be believed."""
    return AudioReadError(f"its header is damaged or cut short ({what}); get the file again")


def read_at(file: BinaryIO, offset: int, size: int) -> bytes:
    """Up to `size` bytes at `offset`."""
    file.seek(offset)
    return file.read(size)


def chunks(file: BinaryIO, offset: int, end: int, order: str) -> Iterator[Chunk]:
    """Walk the chunks of RIFF (order "<") or AIFF (">"): name, 32-bit size, bytes padded to even."""
    for _ in range(MAX_CHUNKS):
        if offset >= end or len(header := read_at(file, offset, 8)) < 8:
            return
        size = struct.unpack(f"{order}I", header[4:])[0]
        yield Chunk(header[:4], offset + 8, size)
        offset += 8 + size + size % 2
    raise damaged(f"more than {MAX_CHUNKS} chunks")


def _w64_chunks(file: BinaryIO, offset: int, end: int) -> Iterator[Chunk]:
    """Walk the chunks of Wave64: 16-byte name, 64-bit size that counts its header, padded to 8 bytes."""
    for _ in range(MAX_CHUNKS):
        if offset >= end or len(header := read_at(file, offset, 24)) < 24:
            return
        size = struct.unpack("<Q", header[16:])[0]
        if size < 24:
            raise damaged("a chunk smaller than its own header")
        yield Chunk(header[:4] if header[4:16] == _W64_TAIL else b"", offset + 24, size - 24)
        offset += size + -size % 8
    raise damaged(f"more than {MAX_CHUNKS} chunks")


def _format(fmt: bytes, order: str) -> PcmLayout:
    """The fmt chunk -> a layout that does not know yet where the samples are."""
    tag, channels, rate, _, align, bits = struct.unpack(f"{order}HHIIHH", _whole(fmt, 16)[:16])
    if tag == 0xFFFE:
        tag = struct.unpack(f"{order}H", _whole(fmt, 40)[24:26])[0]
        tag = tag if fmt[26:40] == _SUBFORMAT_TAIL else 0xFFFE
    if tag not in (1, 3):
        name = _ENCODINGS.get(tag, f"encoding 0x{tag:04x}")
        raise AudioReadError(
            f"holds {name}, not plain samples; convert it: ffmpeg -i IN -c:a pcm_s16le OUT.wav"
        )
    subtype = _SUBTYPES.get((tag, -(-bits // 8) * 8))
    if subtype is None or not 1 <= channels <= MAX_CHANNELS or align != channels * SAMPLE_BYTES[subtype]:
        raise damaged(f"{channels} channels of {bits} bits in blocks of {align} bytes")
    return PcmLayout(rate, channels, subtype, offset=0, frames=0)


def _whole(part: bytes, size: int) -> bytes:
    if len(part) < size:
        raise damaged("it ends within a chunk")
    return part


def _overflow(declared: int, present: int) -> int:
    """What a 32-bit size lost: a RIFF cannot hold 4 GiB, so that much beyond the samples is samples."""
    return max(0, present - declared) >> 32 << 32


def _measure(layout: PcmLayout, declared: int, present: int) -> PcmLayout:
    if not _is_placeholder(declared, present, layout.block_align):
        return measured(layout, declared, present)
    frames = present // layout.block_align
    note = (
        f"its header states no length (written to a pipe, or never closed): took the {frames:,} samples there"
    )
    return replace(layout, frames=frames, note=note)


def measured(layout: PcmLayout, declared: int, present: int) -> PcmLayout:
    """Fill in `frames`, and `shortage` where fewer than the `declared` bytes are `present`."""
    frames, there = declared // layout.block_align, present // layout.block_align
    short = f"file is cut short: {present:,} of {declared:,} bytes of audio"
    return replace(layout, frames=min(frames, there), shortage=short if frames > there else None)


def _is_placeholder(declared: int, present: int, align: int) -> bool:
    if declared == 0:
        return present >= align
    near = any(0 <= value - declared <= max(align, 64) for value in _PLACEHOLDERS)
    return declared > present and (near or declared >= 2**62)


def wav_header(sample_rate: int, channels: int, frames: int, subtype: str) -> bytes:
    """Everything before the samples of a WAV; RF64 where sizes pass 32 bits. Samples need an even length.

    Not libsndfile's: it stamps float files with the time of writing (its PEAK chunk), so that the same
    song would give other bytes each time.
    """
    width = SAMPLE_BYTES[subtype]
    align, is_float = channels * width, subtype in ("FLOAT", "DOUBLE")
    size = frames * align
    fmt = struct.pack(
        "<HHIIHH", 3 if is_float else 1, channels, sample_rate, sample_rate * align, align, 8 * width
    )
    # Anything but integers carries an empty extension and its length in a fact chunk.
    fmt += b"\0\0" if is_float else b""
    body = b"fmt " + struct.pack("<I", len(fmt)) + fmt
    body += b"fact" + struct.pack("<II", 4, min(frames, _ALL_ONES_32)) if is_float else b""
    total = 4 + len(body) + 8 + size + size % 2
    if total <= _ALL_ONES_32:
        return b"RIFF" + struct.pack("<I", total) + b"WAVE" + body + b"data" + struct.pack("<I", size)
    ds64 = struct.pack("<4sIQQQI", b"ds64", 28, total + 36, size, frames, 0)
    unknown = struct.pack("<I", _ALL_ONES_32)
    return b"RF64" + unknown + b"WAVE" + ds64 + body + b"data" + unknown
