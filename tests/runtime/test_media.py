"""Formats that libsndfile does not know: through PyAV, and through the ffmpeg program where there is none."""

import itertools
import os
import shutil
import struct
import sys
import threading
from pathlib import Path

import av
import numpy as np
import pytest
from encoded_media import encode

from rofo.audio import AudioFormat, AudioReader, ffmpeg
from rofo.errors import AudioReadError, CancelledError

RATE = 44100
M4A = b"\x00\x00\x00\x20ftypM4A \x00\x00\x02\x00" + bytes(100)


def noise(samples=5000, channels=2):
    return np.random.default_rng(0).uniform(-0.5, 0.5, (channels, samples)).astype(np.float32)


def whole(path, **options):
    with AudioReader(path, **options) as reader:
        blocks = list(reader.blocks())
        again = list(reader.blocks(1000))
    got = np.concatenate(blocks, axis=1)
    np.testing.assert_array_equal(np.concatenate(again, axis=1), got)
    assert got.shape == (reader.format.channels, reader.format.frames)
    return got


def error(path, kind=AudioReadError, **options):
    with pytest.raises(kind) as caught, AudioReader(path, **options) as reader:
        list(reader.blocks())
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"{path}: ")
    return text.removeprefix(f"{path}: ")


# PyAV


@pytest.mark.parametrize(
    ("name", "codec", "rate", "extra"),
    [
        ("x.m4a", "aac", RATE, 2048),
        ("x.aac", "aac", RATE, 2048),
        ("x.webm", "libopus", 48000, 1000),
        ("x.mka", "aac", RATE, 2048),
        ("x.mp2", "mp2", RATE, 2048),
        ("x.m4a", "alac", RATE, 0),
        ("x.mka", "pcm_s16le", 96000, 0),
        ("x.wma", "wmav2", RATE, 2048),
    ],
)
def test_formats_that_libsndfile_does_not_know(name, codec, rate, extra, tmp_path):
    path = encode(tmp_path / name, codec, noise(rate), rate, "adts" if name.endswith("aac") else None)
    with AudioReader(path) as reader:
        assert reader.format == AudioFormat(rate, 2, reader.format.frames, "WAV", "FLOAT")
        assert abs(reader.format.frames - rate) <= extra
        assert reader.warnings == []
    if not extra:
        np.testing.assert_allclose(whole(path), noise(rate), atol=1.01 / 2**15)
    else:
        assert 0.1 < np.abs(whole(path)).mean() < 0.4


@pytest.mark.parametrize("name", ["-x.m4a", "a b:%d.m4a", "http:x.m4a", "new\nline.m4a", b"\xff.m4a"])
def test_odd_names(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain = encode(Path("plain.m4a"), "alac", noise())
    path = plain.rename(os.fsdecode(name))
    assert whole(path).shape == (2, 5000)


def test_mono_and_many_channels(tmp_path):
    assert whole(encode(tmp_path / "one.m4a", "alac", noise(channels=1))).shape == (1, 5000)
    path = encode(tmp_path / "six.au", "pcm_f32be", noise(channels=6))
    assert error(path).startswith("has 6 channels; choose one or two")
    np.testing.assert_array_equal(whole(path, channels=[5]), noise(channels=6)[5:])


@pytest.mark.parametrize(
    ("name", "codec", "rate", "options"),
    [("x.m4a", "aac", RATE, {"movflags": "+faststart"}), ("x.webm", "libopus", 48000, {})],
)
def test_cut_short(name, codec, rate, options, tmp_path):
    path = encode(tmp_path / name, codec, noise(3 * rate), rate, **options)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    message = error(path)
    assert message.startswith("could not decode all of it: ")
    assert message.endswith("; use --allow-truncated to take what is there")
    assert rate < whole(path, allow_truncated=True).shape[1] < 2 * rate


def test_damaged_in_the_middle(tmp_path):
    path = encode(tmp_path / "x.aac", "aac", noise(3 * RATE), container="adts")
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(data[:middle] + b"\x55" * 2000 + data[middle + 2000 :])
    assert "could not decode all of it: Invalid data" in error(path)


def test_a_film_without_sound(tmp_path):
    with av.open(str(tmp_path / "x.mp4"), "w") as file:
        stream = file.add_stream("mpeg4", rate=24)
        stream.width = stream.height = 64
        file.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        file.mux(stream.encode(None))
    assert error(tmp_path / "x.mp4").startswith("holds no audio stream")


@pytest.mark.parametrize(
    ("name", "playlist"),
    [
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.aac\n#EXT-X-ENDLIST\n"),
        ("list.bin", "ffconcat version 1.0\nfile secret.aac\n#"),
    ],
)
def test_a_disguised_playlist_opens_nothing(tmp_path, name, playlist):
    encode(tmp_path / "secret.aac", "aac", noise(RATE), container="adts")
    (tmp_path / name).write_bytes(playlist.encode() + b"\x00\n")  # which no text has
    assert "not audio that can be read" in error(tmp_path / name)


def test_a_song_that_is_too_long_is_not_decoded_to_its_end(tmp_path, monkeypatch):
    path = encode(tmp_path / "x.m4a", "alac", noise(20 * RATE))
    taken = []
    resampler = av.AudioResampler

    class Counting:
        def __init__(self, **options):
            self.real = resampler(**options)

        def resample(self, frame):
            taken.append(frame.samples)
            return self.real.resample(frame)

    monkeypatch.setattr("av.AudioResampler", Counting)
    assert "min long, the limit is 0.05" in error(path, max_minutes=0.05)
    assert 3 * RATE < sum(taken) < 5 * RATE


@pytest.mark.parametrize("program", [False, True])
def test_decoding_can_be_cancelled(program, tmp_path, request):
    path = encode(tmp_path / "x.m4a", "aac", noise(RATE))
    if program:
        request.getfixturevalue("stub_ffmpeg")
    cancel = threading.Event()
    cancel.set()
    assert error(path, CancelledError, cancel=cancel) == "cancelled"


# The ffmpeg program


def au(samples, rate=RATE):
    """AU as ffmpeg writes it into a pipe, of samples (channels, n)."""
    header = struct.pack(">4s5I8x", b".snd", 32, 0xFFFFFFFF, 6, rate, len(samples))
    return header + samples.T.astype(">f4").tobytes()


@pytest.fixture
def no_pyav(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)


@pytest.fixture
def stub_ffmpeg(no_pyav, tmp_path, monkeypatch):
    """A program called ffmpeg that notes its arguments and "decodes" to a prepared file, then goes on."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = f"""#!/bin/sh
printf '%s\\n' "$@" > '{folder}/arguments'
echo $$ > '{folder}/pid'
cat '{folder}/stderr' >&2
cat '{folder}/decoded'
. '{folder}/then'
"""
    (folder / "ffmpeg").write_text(script)
    (folder / "ffmpeg").chmod(0o755)
    (folder / "stderr").write_text("")
    (folder / "then").write_text("exit 0")
    (folder / "decoded").write_bytes(au(noise()))
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "scratch").mkdir()
    return folder


@pytest.fixture
def m4a(tmp_path):
    (tmp_path / "-x.m4a").write_bytes(M4A)
    return tmp_path / "-x.m4a"


def gone(folder):
    """Whether the stub that was started last has ended, and its end was taken note of."""
    return not Path(f"/proc/{(folder / 'pid').read_text().strip()}").exists()


def test_ffmpeg_decodes_where_there_is_no_pyav(m4a, stub_ffmpeg, tmp_path):
    with AudioReader(m4a) as reader:
        assert reader.format == AudioFormat(RATE, 2, 5000, "WAV", "FLOAT")
        assert reader.warnings == []
    np.testing.assert_array_equal(whole(m4a), noise())
    assert not list((tmp_path / "scratch").iterdir())
    arguments = (stub_ffmpeg / "arguments").read_text().splitlines()
    options = dict(itertools.pairwise(arguments))
    assert options["-i"] == f"file:{m4a}"
    assert options["-protocol_whitelist"] == "file,pipe"
    assert "hls" not in options["-format_whitelist"]
    assert "concat" not in options["-format_whitelist"]
    assert "-nostdin" in arguments


def test_what_ffmpeg_writes_as_au_is_what_is_read(no_pyav, m4a, stub_ffmpeg):
    """The header is that of the AU writer in PyAV's ffmpeg, not only of the one above."""
    written = encode(stub_ffmpeg / "decoded", "pcm_f32be", noise(), container="au")
    assert written.read_bytes()[:8] == au(noise())[:8]
    np.testing.assert_array_equal(whole(m4a), noise())


def test_a_relative_name_cannot_become_an_option(m4a, stub_ffmpeg, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole("-x.m4a")
    assert f"file:{m4a}" in (stub_ffmpeg / "arguments").read_text().splitlines()


def test_ffmpeg_fails(m4a, stub_ffmpeg):
    (stub_ffmpeg / "then").write_text("exit 1")
    (stub_ffmpeg / "stderr").write_text(f"first\nfile:{m4a}: Invalid data found\n")
    assert error(m4a) == "not audio that can be read (ffmpeg: Invalid data found); convert it to WAV or FLAC"


def test_ffmpeg_complains_but_goes_on(m4a, stub_ffmpeg):
    (stub_ffmpeg / "stderr").write_text("x" * 1_000_000 + "\npartial file\n")  # more than a pipe holds
    assert error(m4a).startswith("could not decode all of it: partial file; use --allow-truncated")
    with AudioReader(m4a, allow_truncated=True) as reader:
        assert reader.warnings == ["could not decode all of it: partial file; took what is there"]


@pytest.mark.parametrize("decoded", [b"", b".snd", b"RIFF" + bytes(100), au(noise())[:20]])
def test_ffmpeg_gives_nothing_or_something_else(m4a, stub_ffmpeg, decoded):
    (stub_ffmpeg / "decoded").write_bytes(decoded)
    assert "holds no audio" in (message := error(m4a)) or "did not give what it was asked for" in message


def test_ffmpeg_that_never_ends_is_stopped_at_the_limit(m4a, stub_ffmpeg, tmp_path):
    (stub_ffmpeg / "then").write_text("exec cat /dev/zero")
    assert "min long, the limit is 0.1" in error(m4a, max_minutes=0.1)
    assert gone(stub_ffmpeg)
    assert not list((tmp_path / "scratch").iterdir())


def test_ffmpeg_that_hangs_is_stopped(m4a, stub_ffmpeg, monkeypatch):
    monkeypatch.setattr(ffmpeg, "STALL", 0.3)
    (stub_ffmpeg / "then").write_text("exec sleep 1000")
    assert error(m4a).startswith("ffmpeg decoded nothing for 0.3 s")
    assert gone(stub_ffmpeg)


def test_ffmpeg_that_hangs_can_be_cancelled(m4a, stub_ffmpeg):
    (stub_ffmpeg / "then").write_text("exec sleep 1000")
    cancel = threading.Event()
    timer = threading.Timer(0.3, cancel.set)
    timer.start()
    assert error(m4a, CancelledError, cancel=cancel) == "cancelled"
    assert gone(stub_ffmpeg)


def test_a_reader_that_is_left_early_ends_ffmpeg(m4a, stub_ffmpeg):
    (stub_ffmpeg / "decoded").write_bytes(au(noise(1_000_000)))
    with AudioReader(m4a) as reader:
        blocks = reader.blocks()
        next(blocks)
        assert not gone(stub_ffmpeg)
    assert gone(stub_ffmpeg)


def test_the_file_becomes_another_one_meanwhile(m4a, stub_ffmpeg):
    with AudioReader(m4a) as reader:
        (stub_ffmpeg / "decoded").write_bytes(au(noise(4999)))
        with pytest.raises(AudioReadError, match="changed while it was read"):
            list(reader.blocks())


def test_neither_pyav_nor_ffmpeg(m4a, no_pyav, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    message = error(m4a)
    assert message.startswith("not WAV, AIFF, FLAC, Ogg or MP3; pip install 'rofo[media]', or install ffmpeg")


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no ffmpeg on this machine")
def test_real_ffmpeg_gives_what_pyav_gives(tmp_path, monkeypatch):
    path = encode(tmp_path / "x.m4a", "alac", noise(RATE))
    with_pyav = whole(path)
    monkeypatch.setitem(sys.modules, "av", None)
    np.testing.assert_array_equal(whole(path), with_pyav)
