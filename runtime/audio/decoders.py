"""Which kind of file it is, and the samples in it: one class per way of decoding."""

import codecs
import os
import stat
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import soundfile
from numpy.typing import NDArray

from rofo.audio import ffmpeg, pyav
from rofo.audio.aiff import is_aiff, parse_aiff
from rofo.audio.flac import BITS, parse_flac
from rofo.audio.mp3 import Section, after_id3, find_mp3
from rofo.audio.samples import AudioFormat, PcmLayout, decode
from rofo.audio.wav import is_wav, parse_wav, read_at
from rofo.errors import AudioReadError, CancelledError

BLOCK = 1 << 16  # samples per channel decoded at once
_HEAD = 512
_SUBTYPES = {"FLAC": set(BITS), "OGG": {"VORBIS", "OPUS"}, "MP3": {"MPEG_LAYER_III"}}
Decoded = Generator[tuple[int, NDArray[np.float32]], None, None]  # the rate, and blocks (samples, channels)
_CUT_OGG = "file is cut short: its last page is not marked as the end"


class Source(Protocol):
    """One opened file. `shortage` says in what way a file is not whole, None where it is."""

    format: AudioFormat
    shortage: str | None
    note: str | None

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Decode from the beginning: arrays of (samples, channels), at most BLOCK samples each."""


class PcmSource:
    """Plain samples, read where `layout` says they are."""

    def __init__(self, file: BinaryIO, layout: PcmLayout, format: AudioFormat) -> None:
        self._file, self._layout = file, layout
        self.format, self.shortage, self.note = format, layout.shortage, layout.note

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Decode from the beginning. Raises AudioReadError if the file became shorter meanwhile."""
        layout = self._layout
        for done in range(0, layout.frames, BLOCK):
            size = min(BLOCK, layout.frames - done) * layout.block_align
            raw = read_at(self._file, layout.offset + done * layout.block_align, size)
            if len(raw) < size:
                raise AudioReadError("became shorter while it was read; start again")
            yield decode(raw, layout.subtype, layout.big_endian).reshape(-1, layout.channels)


class SndfileSource:
    """FLAC, Ogg Vorbis, Opus and MP3 through libsndfile."""

    note: str | None = None

    def __init__(
        self, path: Path, section: tuple[int, int, int] | None, samples: int | None, shortage: str | None
    ) -> None:
        self._path, self._section, self.shortage = path, section, shortage
        with self._open() as sound:
            container, subtype, frames = (
                sound.format,
                sound.subtype,
                sound.frames if samples is None else samples,
            )
            rate, channels = sound.samplerate, sound.channels
        if subtype not in _SUBTYPES.get(container, ()):
            raise AudioReadError(f"holds {container} {subtype}, which is not read; convert it to WAV or FLAC")
        kept = ("FLAC", subtype) if container == "FLAC" else ("WAV", "FLOAT")
        self.format = AudioFormat(rate, channels, frames, *kept)

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Decode from the beginning. Raises AudioReadError at damage, and if samples are missing."""
        done, frames = 0, self.format.frames
        with self._open() as sound:
            while done < frames:
                try:
                    block = sound.read(min(BLOCK, frames - done), dtype="float32", always_2d=True)
                except soundfile.LibsndfileError as error:
                    raise self._damaged(done, _plain(error)) from None
                if not len(block):
                    raise self._damaged(done, f"{frames - done:,} samples are missing")
                done += len(block)
                yield block

    def _damaged(self, done: int, why: str) -> AudioReadError:
        seconds = done / self.format.sample_rate
        return AudioReadError(f"damaged or cut short after {seconds:.1f} s ({why}); get the file again")

    @contextmanager
    def _open(self) -> Iterator[soundfile.SoundFile]:
        with ExitStack() as opened:
            # Bytes, because soundfile cannot encode names that are not UTF-8; Windows wants text.
            file: Any = os.fsencode(self._path) if os.name == "posix" else str(self._path)
            if self._section:
                file = opened.enter_context(Section(self._path, *self._section))
            try:
                sound = soundfile.SoundFile(file)
            except soundfile.LibsndfileError as error:
                raise AudioReadError(f"damaged ({_plain(error)}); get the file again") from None
            yield opened.enter_context(sound)


class StreamedSource:
    """What `decode` gives, each time from the beginning: decoded once already to be counted.

    No other length is true: a stated one may be missing or wrong, and a file for the stems needs it at once.
    Decoding AAC takes a thousandth of the time of separating it. After `seconds` it is not decoded on.
    `decode` appends its complaints to a list.
    """

    note: str | None = None

    def __init__(
        self,
        decode: Callable[[list[str]], Decoded],
        seconds: float,
        cancel: threading.Event | None,
        opened: ExitStack,
    ) -> None:
        self._decode, self._seconds, self._cancel, self._opened = decode, seconds, cancel, opened
        complaints: list[str] = []
        rate, channels, frames = 0, 0, 0
        for rate, block in self._decoded(complaints):  # noqa: B007 - the last one counts
            channels, frames = block.shape[1], frames + len(block)
        if not rate:
            raise AudioReadError("holds no audio that can be decoded; get the file again")
        self.shortage = f"could not decode all of it: {complaints[0]}" if complaints else None
        self.format = AudioFormat(rate, channels, frames, "WAV", "FLOAT")

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Decode from the beginning. Raises AudioReadError if the file is another one by now."""
        decoded, done = self._decoded([]), 0
        self._opened.callback(decoded.close)  # a process may be behind it
        for _, block in decoded:
            done += len(block)
            yield block
        if done != self.format.frames:
            raise AudioReadError("changed while it was read; start again")

    def _decoded(self, complaints: list[str]) -> Decoded:
        done = 0
        with closing(self._decode(complaints)) as decoded:
            for rate, block in decoded:
                if self._cancel is not None and self._cancel.is_set():
                    raise CancelledError("cancelled")
                yield rate, block
                done += len(block)
                if done > self._seconds * rate:
                    return


def _plain(error: soundfile.LibsndfileError) -> str:
    return " ".join(error.error_string.removeprefix("Error : ").rstrip(".").split())


def open_source(path: Path, max_minutes: float, cancel: threading.Event | None, opened: ExitStack) -> Source:
    """Open a file by what it holds, whatever its name. Leaving `opened` closes it.

    Only contents that are checked here reach libsndfile, and only contents it has no word for reach ffmpeg.
    Raises AudioReadError, the OSError of a file that cannot be opened, and CancelledError where the whole
    file must be decoded to know its length.
    """
    file = _open(path, opened)
    end = os.fstat(file.fileno()).st_size
    start = after_id3(file)
    head = read_at(file, start, _HEAD)
    if not head:
        raise AudioReadError(f"holds no audio ({end:,} bytes); get the file again")
    if is_wav(head):
        return _pcm(file, parse_wav(file, start, end))
    if is_aiff(head):
        return _pcm(file, parse_aiff(file, start, end))
    if head[:4] == b"fLaC":
        return _flac(path, file, start, end)
    if head[:4] == b"OggS" and (b"\x01vorbis" in head or b"OpusHead" in head):
        return SndfileSource(path, None, None, _ogg_shortage(file, head, end))
    if (text := _text(head)) is not None:
        raise AudioReadError(f"is not audio but {text}; give a file with sound in it")
    if (mp3 := find_mp3(file, start, end)) is not None:
        plain = mp3.samples is None and mp3.start == start
        return SndfileSource(
            path, None if plain else (mp3.start, mp3.end, mp3.claim), mp3.samples, mp3.shortage
        )
    decode = ffmpeg.decode if find_spec("av") is None else pyav.decode
    # One second more than allowed, so that what is too long is seen to be.
    return StreamedSource(lambda said: decode(path, cancel, said), max_minutes * 60 + 1, cancel, opened)


def _open(path: Path, opened: ExitStack) -> BinaryIO:
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise AudioReadError("is a directory; name the audio files in it")
    if not stat.S_ISREG(mode):  # opening a pipe would wait for ever
        raise AudioReadError("is not a regular file; save the audio to one first")
    return opened.enter_context(path.open("rb"))


def _pcm(file: BinaryIO, layout: PcmLayout) -> PcmSource:
    subtype = "PCM_16" if layout.subtype == "PCM_S8" else layout.subtype  # WAV has no signed bytes
    return PcmSource(
        file, layout, AudioFormat(layout.sample_rate, layout.channels, layout.frames, "WAV", subtype)
    )


def _flac(path: Path, file: BinaryIO, start: int, end: int) -> Source:
    info = parse_flac(file, start, end)
    if info.samples:
        return SndfileSource(path, None, None, None)
    # libsndfile takes an empty one for one of unknown length.
    empty = PcmLayout(info.sample_rate, info.channels, "PCM_16", offset=end, frames=0)
    return PcmSource(file, empty, AudioFormat(info.sample_rate, info.channels, 0, "FLAC", info.subtype))


def _ogg_shortage(file: BinaryIO, head: bytes, end: int) -> str | None:
    """Whether the last page (RFC 3533, 6) lacks the end mark: libsndfile plays such a file as far as it goes.

    Raises AudioReadError for several streams in one file, of which it would play the first only.
    """
    tail = read_at(file, max(0, end - (1 << 16) - 282), (1 << 16) + 282)  # a page has at most 65,307 bytes
    last = tail.rfind(b"OggS\0")
    if last < 0 or len(tail) < last + 27:
        return _CUT_OGG
    if tail[last + 14 : last + 18] != head[14:18]:
        raise AudioReadError("holds several streams; take one: ffmpeg -i IN -map 0:a:0 OUT.wav")
    segments = tail[last + 26]
    whole = len(tail) >= last + 27 + segments + sum(tail[last + 27 : last + 27 + segments])
    return None if whole and tail[last + 5] & 4 else _CUT_OGG


def _text(head: bytes) -> str | None:
    """What kind of text a file begins with, None where it is none."""
    printable = all(byte >= 32 or byte in b"\t\n\f\r\x1b" for byte in head)
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # a character may be cut at the end
    except UnicodeDecodeError:
        return None
    if not printable:
        return None
    if head.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer; fetch the file itself: git lfs pull"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<":
        return "a web page; download the file itself"
    return "text; get the audio file itself"
