"""MP3 streams: how many samples there are, and what libsndfile must be told to deliver all of them.

libsndfile 1.2.2 takes the length from the Info frame that encoders write first. Without one it guesses from
the first frame's bit rate and stops there: of a 20 s file with variable bit rate it gave 12.6 s without a
word. A file cut in half keeps its stated length. So the frames are counted here (0.6 s for three hours).
Frame header: ISO/IEC 11172-3, 2.4.2.3, and 13818-3 for the lower rates.
"""

import io
import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from rofo.audio.wav import read_at
from rofo.errors import AudioReadError

_KILOBITS = {
    True: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_SEARCH = (
    1 << 16
)  # bytes of junk tolerated before the first frame, and searched for more frames after the last
_RUN = 3  # frames in a row that are no accident
_TAG = 128  # libsndfile looks for an ID3v1 tag in that many last bytes


@dataclass(frozen=True)
class Frame:
    """One frame's header: bytes, samples per channel, and what must not change from frame to frame."""

    size: int
    samples: int
    rate: int
    mono: bool

    @property
    def info_offset(self) -> int:
        """Where an Info frame has its name: after the header and the side information of an empty frame."""
        wide = self.samples == 1152
        return 4 + ((17 if wide else 9) if self.mono else (32 if wide else 17))


@dataclass(frozen=True)
class Mp3:
    """Where the frames lie. `samples` per channel is None where the Info frame is right about it.

    `claim` is the size in bytes to give libsndfile for the file.
    """

    start: int
    end: int
    samples: int | None = None
    claim: int = 0
    shortage: str | None = None


def after_id3(file: BinaryIO) -> int:
    """Offset behind all leading ID3v2 tags, as libsndfile finds it: both must see the same bytes."""
    offset = 0
    while (tag := read_at(file, offset, 10))[:3] == b"ID3" and len(tag) == 10:
        sizes = [byte & 0x7F for byte in tag[6:]]
        offset += 10 + (sizes[0] << 21 | sizes[1] << 14 | sizes[2] << 7 | sizes[3])
    return offset


def find_mp3(file: BinaryIO, start: int, end: int) -> Mp3 | None:
    """Look for MP3 frames from `start`; None where there are none.

    Raises AudioReadError where frames go on behind a damaged place: decoders stop there.
    """
    # Without a tag before it only zeros are skipped: films hold MP3 frames too.
    zeros = read_at(file, start, _SEARCH)
    first = _find_run(file, start, end, _SEARCH if start else len(zeros) - len(zeros.lstrip(b"\0")) + 1)
    if first is None:
        return None
    frame = _frame(read_at(file, first, 4))
    assert frame is not None
    count, stop = _walk(file, first, end)
    if (resumed := _find_run(file, stop, end, _SEARCH)) is not None:
        seconds = count * frame.samples / frame.rate
        raise AudioReadError(
            f"damaged at {seconds:.1f} s ({resumed - stop:,} bytes are not MP3); "
            "convert it: ffmpeg -i IN OUT.wav"
        )
    info = read_at(file, first + frame.info_offset, 12)
    if info[:4] not in (b"Xing", b"Info"):
        return _counted(file, first, stop, count, None)
    flags, stated = struct.unpack(">II", info[4:])
    if flags & 1 and stated == count - 1:
        return Mp3(first, stop)
    # The Info frame is wrong (cut short, joined from several files): drop it, take all the frames there are.
    cut = flags & 1 and stated > count  # equal: some writers count the Info frame as well
    shortage = f"file is cut short: {count - 1:,} of {stated:,} MP3 frames" if cut else None
    return _counted(file, first + frame.size, stop, count - 1, shortage)


def _counted(file: BinaryIO, start: int, end: int, count: int, shortage: str | None) -> Mp3:
    # libsndfile's guess is file size / size of the first frame: claim a size for which it is high enough.
    first = _frame(read_at(file, start, 4))
    if first is None:
        raise AudioReadError("holds no whole MP3 frame; get the file again")
    return Mp3(start, end, count * first.samples, first.size * (count + 2) + 2 * _TAG, shortage)


def _find_run(file: BinaryIO, start: int, end: int, window_bytes: int) -> int | None:
    """Offset of the first frame that begins a run, or that leads to the very end in fewer."""
    window = read_at(file, start, window_bytes)
    position = window.find(b"\xff")
    while position >= 0:
        count, stop = _walk(file, start + position, end, _RUN)
        if count == _RUN or (count == _RUN - 1 and stop == end):
            return start + position
        position = window.find(b"\xff", position + 1)
    return None


def _walk(file: BinaryIO, offset: int, end: int, limit: int | None = None) -> tuple[int, int]:
    """Count whole frames of one kind in a row from `offset`, at most `limit`; also where they stop."""
    file.seek(offset)
    count, first = 0, None
    while count != limit:
        frame = _frame(file.read(4))
        if frame is None or offset + frame.size > end:
            break
        first = first or frame
        if (frame.rate, frame.samples, frame.mono) != (first.rate, first.samples, first.mono):
            break
        offset += frame.size
        count += 1
        file.seek(frame.size - 4, io.SEEK_CUR)
    return count, offset


@lru_cache(maxsize=256)  # a stream has a few dozen different headers
def _frame(header: bytes) -> Frame | None:
    """Read the four bytes of a layer III frame header; None where they are none, or of free format."""
    if len(header) < 4:
        return None
    (word,) = struct.unpack(">I", header)
    version, layer, bit_rate, rate = word >> 19 & 3, word >> 17 & 3, word >> 12 & 15, word >> 10 & 3
    if word >> 21 != 0x7FF or version == 1 or layer != 1 or bit_rate in (0, 15) or rate == 3:
        return None
    samples, hertz = 1152 if version == 3 else 576, _RATES[version][rate]
    size = samples // 8 * 1000 * _KILOBITS[version == 3][bit_rate - 1] // hertz + (word >> 9 & 1)
    return Frame(size, samples, hertz, mono=word >> 6 & 3 == 3)


class Section(io.RawIOBase):
    """The bytes of a file from `start` to `end`, as a file that claims to be `size` bytes long.

    libsndfile looks for a tag in the last 128 bytes and gives up when it gets none, so there are zeros;
    between `end` and those the file simply ends. Signals: an interrupt that arrives while Python code is
    called back is lost, so this is only for the streams that need it.
    """

    def __init__(self, path: Path, start: int, end: int, size: int) -> None:
        self._file = path.open("rb")
        self._start, self._end, self._size, self._at = start, end, max(size, end - start + _TAG), 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Position from `start`."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move as every file does."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill `buffer` from the current position."""
        if self._at >= self._size - _TAG:
            raw = bytes(min(len(buffer), self._size - self._at))
        else:
            count = min(len(buffer), self._end - self._start - self._at)
            raw = read_at(self._file, self._start + self._at, max(0, count))
        buffer[: len(raw)] = raw
        self._at += len(raw)
        return len(raw)

    def close(self) -> None:
        """Close the file beneath."""
        self._file.close()
        super().close()
