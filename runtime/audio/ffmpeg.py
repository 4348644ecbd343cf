"""Any format, decoded by the ffmpeg program where PyAV is not installed: through a pipe, block by block."""

import os
import selectors
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rofo.errors import AudioReadError, CancelledError

# Demuxers of ordinary media files. Playlists, concatenations, devices and image sequences stay out: they
# make ffmpeg open other files than the one it was given.
DEMUXERS = (
    "mov,matroska,asf,avi,flv,mpeg,mpegts,aac,ac3,eac3,dts,truehd,ape,wv,tta,tak,mpc,mpc8,dsf,caf,au,amr,"
    "mp3,ogg,flac,wav,w64,aiff,voc,rm,xwma"
)
STALL = 60.0  # seconds without a sample after which ffmpeg is taken to hang
_TICK = 0.1  # seconds until a wait looks whether it is cancelled
_READ = 1 << 18  # bytes taken from the pipe at once
_SAID = 1 << 12  # bytes kept of what ffmpeg says
_AU = struct.Struct(">4s5I")  # magic, offset of the samples, their size, encoding, rate, channels
_AU_FLOAT = 6


def decode(
    path: Path, cancel: threading.Event | None, complaints: list[str]
) -> Generator[tuple[int, NDArray[np.float32]], None, None]:
    """Decode the first audio stream -> its rate with blocks of (samples, channels).

    What ffmpeg complained about although it went on is put into `complaints`. The process waits until what
    it gave is taken, and is killed when this ends in any way. Raises AudioReadError when there is no ffmpeg,
    when it fails and when it hangs, CancelledError.
    """
    program = shutil.which("ffmpeg") if os.name == "posix" else None  # only there can pipes be waited for
    if program is None:
        raise AudioReadError(
            "not WAV, AIFF, FLAC, Ogg or MP3; pip install 'rofo[media]', or install ffmpeg, to read it"
        )
    # "file:" and an absolute path: no name can pass for an option or for another protocol.
    source = f"file:{path.absolute()}"
    options = ["-nostdin", "-hide_banner", "-loglevel", "error", "-protocol_whitelist", "file,pipe"]
    options += ["-format_whitelist", DEMUXERS, "-i", source, "-map", "0:a:0"]
    # AU, because its header is six numbers and may leave the length open.
    options += ["-c:a", "pcm_f32be", "-f", "au", "pipe:1"]
    process = subprocess.Popen(
        [program, *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    said = bytearray()
    try:
        yield from _samples(_output(process, said, cancel))
        failed = process.wait(STALL) != 0
    finally:
        process.kill()
        process.communicate()
    lines = said.decode(errors="replace").replace(source, "").split("\n")
    lines = [" ".join(line.split()).lstrip(": ") for line in lines if line.strip()]
    if failed:
        complaint = lines[-1] if lines else "failed"
        raise AudioReadError(f"not audio that can be read (ffmpeg: {complaint}); convert it to WAV or FLAC")
    complaints += lines[-1:]


def _output(
    process: subprocess.Popen[bytes], said: bytearray, cancel: threading.Event | None
) -> Iterator[bytes]:
    """What comes out of ffmpeg as it comes; the last of what it says goes to `said`."""
    with selectors.DefaultSelector() as pipes:
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipes.register(pipe, selectors.EVENT_READ)
        since = time.monotonic()
        while pipes.get_map():
            ready = pipes.select(_TICK)
            if cancel is not None and cancel.is_set():
                raise CancelledError("cancelled")
            if time.monotonic() - since > STALL:
                raise AudioReadError(f"ffmpeg decoded nothing for {STALL:g} s; convert it to WAV or FLAC")
            for key, _ in ready:
                data = os.read(key.fd, _READ)
                if not data:
                    pipes.unregister(key.fileobj)
                elif key.fileobj is process.stdout:
                    yield data
                    since = time.monotonic()  # what the taker does meanwhile is not waiting
                else:
                    said[:] = (said + data)[-_SAID:]


def _samples(output: Iterator[bytes]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """AU as it comes -> its rate with blocks (samples, channels); nothing where not even a header comes."""
    held, rate, channels = b"", 0, 0
    for data in output:
        held += data
        if not rate and len(held) >= _AU.size:
            magic, offset, _, encoding, stated, channels = _AU.unpack_from(held)
            if magic != b".snd" or encoding != _AU_FLOAT or not channels:
                raise AudioReadError("ffmpeg did not give what it was asked for; install another one")
            if len(held) >= offset:
                held, rate = held[offset:], stated
        if rate:
            whole = len(held) // (4 * channels) * 4 * channels
            yield rate, np.frombuffer(held[:whole], ">f4").astype(np.float32).reshape(-1, channels)
            held = held[whole:]
