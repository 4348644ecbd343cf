"""Formats that libsndfile does not know (M4A, AAC, WMA, WebM, ...), decoded by the ffmpeg program."""

import shutil
import subprocess
from pathlib import Path

from rofo.errors import AudioReadError

# Demuxers of ordinary media files. Playlists, concatenations, devices and image sequences stay out: they
# make ffmpeg open other files than the one it was given.
_DEMUXERS = (
    "mov,matroska,asf,avi,flv,mpeg,mpegts,aac,ac3,eac3,dts,truehd,ape,wv,tta,tak,mpc,mpc8,dsf,caf,au,amr,"
    "mp3,ogg,flac,wav,w64,aiff,voc,rm,xwma"
)


def decode_to_wav(path: Path, wav: Path, seconds: float) -> str | None:
    """Decode the first audio stream of `path`, at most `seconds`, into a float32 WAV.

    Returns what ffmpeg complained about although it went on, None if nothing. Raises AudioReadError when
    there is no ffmpeg, or when it fails.
    """
    program = shutil.which("ffmpeg")
    if program is None:
        raise AudioReadError("not WAV, AIFF, FLAC, Ogg or MP3; install ffmpeg to read other formats")
    # "file:" and an absolute path: no name can pass for an option or for another protocol.
    source = f"file:{path.absolute()}"
    options = ["-nostdin", "-hide_banner", "-loglevel", "error", "-protocol_whitelist", "file,pipe"]
    options += ["-format_whitelist", _DEMUXERS, "-t", f"{seconds:.3f}", "-i", source, "-map", "0:a:0"]
    options += ["-c:a", "pcm_f32le", "-rf64", "auto", "-f", "wav", "-y", f"file:{wav.absolute()}"]
    done = subprocess.run(
        [program, *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        text=True,
        errors="replace",
    )
    lines = [line for line in done.stderr.replace(source, "").splitlines() if line.strip()]
    complaint = " ".join(lines[-1].split()).lstrip(": ") if lines else None
    if done.returncode != 0:
        raise AudioReadError(
            f"not audio that can be read (ffmpeg: {complaint or 'failed'}); convert it to WAV or FLAC"
        )
    return complaint
