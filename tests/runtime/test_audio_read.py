"""Reading songs: every format, every way in which a file can be wrong, and what the user is told."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from rofo.audio import AudioFormat, AudioReader
from rofo.audio.flac import empty_flac
from rofo.errors import AudioReadError, RofoError, UsageError

RATE = 44100
KINDS = [("WAV", "PCM_16"), ("FLAC", "PCM_S8"), ("FLAC", "PCM_16"), ("FLAC", "PCM_24")]
LOSSY = [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")]


def noise(samples=5000, channels=2, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (samples, channels)).astype(np.float32)


def encoded(samples, container, subtype, rate=RATE, **options):
    buffer = io.BytesIO()
    soundfile.write(
        buffer, samples, 48000 if subtype == "OPUS" else rate, subtype, format=container, **options
    )
    return buffer.getvalue()


def whole(reader, samples=1 << 16):
    blocks = list(reader.blocks(samples))
    assert all(0 < block.shape[1] <= samples and block.dtype == np.float32 for block in blocks)
    return np.concatenate([np.zeros((reader.format.channels, 0), np.float32), *blocks], axis=1)


def error(path, kind=AudioReadError, **options):
    """The one line that opening and reading `path` ends with."""
    with pytest.raises(kind) as caught, AudioReader(path, **options) as reader:
        whole(reader)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"{path}: ")
    return text.removeprefix(f"{path}: ")


@pytest.fixture
def file(tmp_path):
    """Write bytes to a file and give its path."""

    def write(data, name="mix.wav"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


@pytest.fixture
def no_ffmpeg(monkeypatch):
    """Whatever is given to PyAV, or to another program, fails the test."""

    def asked(*_, **__):
        raise AssertionError("ffmpeg was asked")

    monkeypatch.setattr("av.open", asked)
    monkeypatch.setattr("subprocess.Popen", asked)


@pytest.mark.parametrize(("container", "subtype"), KINDS)
def test_lossless_formats_are_kept(container, subtype, file):
    data = encoded(noise(), container, subtype)
    with AudioReader(file(data, "misnamed.mp3")) as reader:
        assert reader.format == AudioFormat(RATE, 2, 5000, container, subtype)
        expected = soundfile.read(io.BytesIO(data), dtype="float32")[0].T
        np.testing.assert_array_equal(whole(reader), expected)
        assert reader.warnings == []


@pytest.mark.parametrize(("container", "subtype"), LOSSY)
def test_lossy_formats_become_wav_float(container, subtype, file):
    data = encoded(noise(100_001), container, subtype)
    with AudioReader(file(data)) as reader:
        assert reader.format == AudioFormat(48000 if subtype == "OPUS" else RATE, 2, 100_001, "WAV", "FLOAT")
        expected = soundfile.read(io.BytesIO(data), dtype="float32")[0].T
        np.testing.assert_allclose(whole(reader), expected, atol=1e-6)


@pytest.mark.parametrize(("container", "subtype"), KINDS + LOSSY)
def test_blocks_can_be_read_again_and_in_any_size(container, subtype, file):
    with AudioReader(file(encoded(noise(70_001), container, subtype))) as reader:
        first = whole(reader)
        for samples in (1 << 16, 1000, 65_537):
            np.testing.assert_array_equal(whole(reader, samples), first)


@pytest.mark.parametrize(("container", "subtype"), KINDS)
def test_two_readings_at_once_do_not_disturb_each_other(container, subtype, file):
    with AudioReader(file(encoded(noise(200_000), container, subtype))) as reader:
        for one, other in zip(reader.blocks(), reader.blocks(), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "name",
    [
        "naïve Ω 雪.wav",
        "-x.wav",
        "a:b.wav",
        "http:x.wav",
        "100%d.wav",
        os.fsdecode(b"\xff\xfe.wav"),
        "a\nb.wav",
    ],
)
@pytest.mark.parametrize(
    ("container", "subtype"), [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("MP3", "MPEG_LAYER_III")]
)
def test_odd_names_and_links(container, subtype, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(encoded(noise(), container, subtype))
    Path("link").symlink_to(name)
    for path in (name, Path(name), tmp_path / name, "link"):
        with AudioReader(path) as reader:
            assert whole(reader).shape == (2, 5000)


def test_odd_names_are_shown_on_one_printable_line(tmp_path):
    with pytest.raises(AudioReadError) as caught:
        AudioReader(tmp_path / os.fsdecode(b"a\nb\xff.wav"))
    assert str(caught.value).endswith("/a\\nb\\udcff.wav: no such file")
    with pytest.raises(AudioReadError, match=r"b\.wav: a name cannot hold a NUL character"):
        AudioReader(tmp_path / "a\0b.wav")


def test_missing_directory_pipe_and_empty(tmp_path, file):
    assert error(tmp_path / "nothing.wav") == "no such file"
    assert error(tmp_path / "nothing" / "mix.wav") == "no such file"
    assert error(tmp_path).startswith("is a directory")
    assert error(file(b"")).startswith("holds no audio (0 bytes)")
    assert error(file(b"ID3\x04\x00\x00\x00\x00\x00\x00")).startswith("holds no audio (10 bytes)")
    os.mkfifo(tmp_path / "pipe.wav")
    assert error(tmp_path / "pipe.wav").startswith("is not a regular file")
    assert "Not a directory" in error(file(b"x") / "mix.wav")


def test_no_permission(file, monkeypatch):
    path = file(encoded(noise(), "WAV", "PCM_16"))

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # root may read anything, so no mode would do
    assert error(path) == "no permission to read it"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "web page"),
        ("\ufeff  <html>é".encode()[:-1], "web page"),
        (b"#EXTM3U\nhttp://example.org/a.ts\n", "is not audio but text"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "is not audio but text"),
    ],
)
def test_text_is_named_and_never_given_to_ffmpeg(data, words, file, no_ffmpeg):
    assert words in error(file(data))


@pytest.mark.parametrize("kept", [4, 12, 20, 40])
@pytest.mark.parametrize(("container", "subtype"), [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS")])
def test_headers_cut_short(container, subtype, kept, file):
    error(file(encoded(noise(), container, subtype)[:kept]))


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_wav_cut_short(subtype, file):
    data = encoded(noise(44100), "WAV", subtype)
    path = file(data[: len(data) // 2])
    total = 44100 * (4 if subtype == "PCM_16" else 8)
    header = len(data) - total
    present = len(data) // 2 - header
    message = f"file is cut short: {present:,} of {total:,} bytes of audio"
    assert error(path) == f"{message}; use --allow-truncated to take what is there"
    with AudioReader(path, allow_truncated=True) as reader:
        assert reader.format.frames == present * 44100 // total
        assert reader.warnings == [f"{message}; took what is there"]
        np.testing.assert_array_equal(
            whole(reader), soundfile.read(io.BytesIO(data), dtype="float32")[0].T[:, : reader.format.frames]
        )


def test_wav_that_becomes_shorter_while_it_is_read(file):
    path = file(encoded(noise(200_000), "WAV", "PCM_16"))
    with AudioReader(path) as reader:
        blocks = reader.blocks()
        next(blocks)
        os.truncate(path, 300_000)
        with pytest.raises(AudioReadError, match="became shorter"):
            list(blocks)


@pytest.mark.parametrize("part", [0.3, 0.5, 0.95])
@pytest.mark.parametrize("allow_truncated", [False, True])
def test_flac_cut_short_is_an_error(part, allow_truncated, file):
    data = encoded(noise(100_000), "FLAC", "PCM_16")
    path = file(data[: int(len(data) * part)])
    assert error(path, allow_truncated=allow_truncated).startswith("damaged or cut short after ")


def test_flac_damaged_in_the_middle(file):
    data = bytearray(encoded(noise(100_000), "FLAC", "PCM_16"))
    middle = len(data) // 2
    data[middle : middle + 200] = bytes(200)
    assert "damaged" in error(file(data))


def flac_stating(samples, true=20_000):
    data = bytearray(encoded(noise(true), "FLAC", "PCM_16"))
    packed = int.from_bytes(data[18:26], "big") >> 36 << 36 | samples
    data[18:26] = packed.to_bytes(8, "big")
    return bytes(data)


def test_flac_of_unknown_length(file):
    assert "states no length; encode it again" in error(file(flac_stating(0)))


@pytest.mark.parametrize("samples", [(1 << 36) - 1, 50_000_000])
def test_flac_with_an_impossible_length_is_refused_by_its_header(samples, file):
    assert f"states {samples:,} samples" in error(file(flac_stating(samples)), max_minutes=1e9)


def test_flac_with_a_possible_but_wrong_length(file):
    assert "damaged or cut short" in error(file(flac_stating(20_100)))


def test_a_decoder_that_stops_early(file, monkeypatch):
    path = file(encoded(noise(200_000), "OGG", "VORBIS"))
    read = soundfile.SoundFile.read
    monkeypatch.setattr(
        soundfile.SoundFile, "read", lambda self, count, **how: read(self, 0 if self.tell() else count, **how)
    )
    assert error(path).startswith("damaged or cut short after 1.5 s (134,464 samples are missing)")


def test_flac_of_digital_silence_is_not_taken_for_a_lie(file):
    """Three minutes shrink to 1/1000: a bound on the ratio would refuse them."""
    with AudioReader(file(encoded(np.zeros((RATE * 180, 1)), "FLAC", "PCM_16"))) as reader:
        assert sum(block.shape[1] for block in reader.blocks()) == RATE * 180


@pytest.mark.parametrize("container", ["WAV", "FLAC", "MP3"])
def test_too_long_is_refused_before_reading(container, file):
    subtype = "MPEG_LAYER_III" if container == "MP3" else "PCM_16"
    path = file(encoded(noise(RATE * 3), container, subtype))
    assert error(path, max_minutes=0.04) == "0.1 min long, the limit is 0.04; raise it with --max-minutes"
    with AudioReader(path, max_minutes=0.06) as reader:
        assert reader.format.frames == RATE * 3


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_non_finite_samples(subtype, file):
    samples = noise(200_000).astype(np.float64)
    samples[70_000, 0], samples[70_001, 1], samples[199_999] = np.nan, np.inf, -np.inf
    path = file(encoded(samples, "WAV", subtype))
    assert error(path) == "4 non-finite samples, first at 1.587 s; --sanitize sets them to 0"
    with AudioReader(path, sanitize=True) as reader:
        got = whole(reader)
        whole(reader)
        assert reader.warnings == ["4 non-finite samples set to 0"]
    samples[~np.isfinite(samples)] = 0
    np.testing.assert_array_equal(got, samples.T.astype(np.float32))


def test_a_double_beyond_float32_is_non_finite(file):
    samples = noise().astype(np.float64)
    samples[3, 1] = 1e300
    path = file(encoded(samples, "WAV", "DOUBLE"))
    assert error(path).startswith("1 non-finite samples, first at 0.000 s")


@pytest.mark.parametrize(("level", "loud"), [(0.9e6, False), (1.1e6, True), (-3e38, True)])
def test_damage_that_reads_as_an_immense_sample(level, loud, file):
    """The fuzzer's: such files reached the engine, which was said to be at fault."""
    samples = np.zeros((100, 2))
    samples[7, 1] = level
    path = file(encoded(samples, "WAV", "FLOAT"))
    if not loud:
        with AudioReader(path) as reader:
            assert whole(reader)[1, 7] == np.float32(level)
        return
    wrong = "1 samples beyond 1,000,000 times full scale"
    assert error(path) == f"{wrong}, first at 0.000 s; --sanitize sets them to 0"
    with AudioReader(path, sanitize=True) as reader:
        assert not whole(reader).any()
        assert reader.warnings == [f"{wrong} set to 0"]


def test_samples_beyond_full_scale_pass(file):
    with AudioReader(file(encoded(noise() * 8, "WAV", "FLOAT"))) as reader:
        assert np.abs(whole(reader)).max() > 3


def test_more_channels_must_be_chosen_from(file):
    samples = noise(channels=6)
    samples[5, 4] = np.nan
    path = file(encoded(samples, "WAV", "FLOAT"))
    assert error(path) == "has 6 channels; choose one or two of them, such as --channels 0,1"
    assert "non-finite" in error(path, channels=[0, 4])
    for chosen in ([0, 1], [5, 2], (3,)):  # the NaN is not in these
        with AudioReader(path, channels=chosen) as reader:
            assert reader.format.channels == len(chosen)
            np.testing.assert_array_equal(whole(reader), samples.T[list(chosen)])


@pytest.mark.parametrize("chosen", [[], [0, 1, 2], [0, 0], [6], [-1], [0, 6]])
def test_wrong_choices_of_channels(chosen, file):
    assert "--channels" in error(
        file(encoded(noise(channels=6), "WAV", "PCM_16")), UsageError, channels=chosen
    )


@pytest.mark.parametrize("rate", [1, 7999, 384_001, 768_000])
def test_absurd_rates(rate, file):
    path = file(encoded(noise(), "WAV", "PCM_16", rate))
    assert error(path) == f"its sample rate, {rate:,} Hz, is not within 8,000 to 384,000; convert it"


@pytest.mark.parametrize("rate", [8000, 11025, 384_000])
def test_rates_at_the_edges(rate, file):
    with AudioReader(file(encoded(noise(), "WAV", "PCM_16", rate))) as reader:
        assert reader.format.sample_rate == rate


@pytest.mark.parametrize("samples", [0, 1, 2, 511])
@pytest.mark.parametrize("channels", [1, 2])
def test_tiny_files(samples, channels, file):
    for container, subtype in (
        ("WAV", "PCM_16"),
        ("WAV", "FLOAT"),
        ("W64", "PCM_24"),
        ("AIFF", "PCM_16"),
        ("OGG", "VORBIS"),
    ):
        with AudioReader(file(encoded(noise(samples, channels), container, subtype))) as reader:
            assert whole(reader).shape == (channels, reader.format.frames) == (channels, samples)
            assert reader.warnings == []


def test_flac_without_samples(file):
    with AudioReader(file(empty_flac(48000, 2, 24))) as reader:
        assert reader.format == AudioFormat(48000, 2, 0, "FLAC", "PCM_24")
        assert list(reader.blocks()) == []


def test_wav_behind_an_id3_tag(file):
    data = encoded(noise(), "WAV", "PCM_16")
    size = b"\x80\x00\x81\x80"  # seven bits a byte; the eighth is ignored, as libsndfile does
    with AudioReader(file(b"ID3\x04\x00\x00" + size + bytes(128) + data)) as reader:
        np.testing.assert_array_equal(whole(reader), soundfile.read(io.BytesIO(data), dtype="float32")[0].T)


# Ogg


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_cut_short(subtype, file):
    data = encoded(noise(200_000), "OGG", subtype)
    for path in (file(data[: len(data) // 2]), file(data[:-1])):
        assert error(path).startswith(
            "file is cut short: its last page is not marked as the end; use --allow-t"
        )
    path = file(data[: len(data) // 2])
    with AudioReader(path, allow_truncated=True) as reader:
        assert 0 < whole(reader).shape[1] == reader.format.frames < 200_000


def test_ogg_of_several_streams(file):
    first, second = (bytearray(encoded(noise(), "OGG", "VORBIS")) for _ in range(2))
    assert first[14:18] != second[14:18]
    assert "holds several streams" in error(file(first + second))


# MP3


def mp3(variable=True, info=True):
    """Loud noise, then silence: with variable bit rate, the first frame says nothing about the others."""
    samples = np.concatenate([noise(RATE), np.zeros((4 * RATE, 2), np.float32)])
    mode = "VARIABLE" if variable else "CONSTANT"
    data = encoded(samples, "MP3", "MPEG_LAYER_III", bitrate_mode=mode, compression_level=0.5)
    assert any(name in data[:200] for name in (b"Xing", b"Info"))
    return data if info else data[data.index(data[:2], 100) :]


@pytest.mark.parametrize("variable", [True, False])
def test_mp3_without_length_is_read_to_its_end(variable, file):
    """libsndfile stops where it believes the end to be: after 2 of 5 s where the bit rate falls."""
    data = mp3(variable, info=False)
    with AudioReader(file(data)) as reader:
        assert reader.format.frames % 1152 == 0
        assert 0 <= reader.format.frames - 5 * RATE < 4 * 1152
        got = whole(reader)
    assert got.shape[1] == reader.format.frames
    with AudioReader(file(mp3(variable))) as reader:
        with_info = whole(reader)
    delay = 1105  # of the encoder, which only an Info frame tells (576 + 529)
    np.testing.assert_allclose(got[:, delay + 5000 : delay + 5 * RATE], with_info[:, 5000:], atol=1e-5)


def test_mp3_cut_short(file):
    data = mp3()
    path = file(data[: len(data) // 2])
    assert error(path).startswith("file is cut short: ")
    with AudioReader(path, allow_truncated=True) as reader:
        got = whole(reader)
    assert 0 < got.shape[1] < 5 * RATE
    assert "took what is there" in reader.warnings[0]


@pytest.mark.parametrize("junk", [b"APETAGEX" + b"cover" * 2000, bytes(100_000), b"TAG" + bytes(125)])
def test_mp3_with_tags_behind(junk, file, capfd):
    for data in (mp3(), mp3(info=False)):
        with AudioReader(file(data)) as clean, AudioReader(file(data + junk, "tagged.mp3")) as tagged:
            np.testing.assert_array_equal(whole(tagged), whole(clean))
    assert "resync" not in capfd.readouterr().err


@pytest.mark.parametrize("junk", [bytes(3000), b"ID3\x04\x00\x00\x00\x00\x01\x00" + b"x" * 400])
def test_mp3_with_junk_before(junk, file):
    for data in (mp3(), mp3(info=False)):
        with AudioReader(file(data)) as clean, AudioReader(file(junk + data, "tagged.mp3")) as tagged:
            np.testing.assert_array_equal(whole(tagged), whole(clean))


def test_mp3_joined_from_two(file):
    data = mp3()
    with AudioReader(file(data + data)) as reader:
        assert reader.format.frames > 10 * RATE
        assert whole(reader).shape[1] == reader.format.frames


def test_mp3_damaged_in_the_middle(file):
    data = bytearray(mp3())
    middle = len(data) // 3
    data[middle : middle + 3000] = b"\x55" * 3000
    assert "bytes are not MP3" in error(file(data))


@pytest.mark.parametrize(("container", "subtype"), [*KINDS, ("OGG", "VORBIS"), ("AIFF", "PCM_16")])
def test_corrupt_files_of_known_formats_are_not_given_to_ffmpeg(container, subtype, file, no_ffmpeg):
    data = encoded(noise(), container, subtype)
    magic = 40 if container == "OGG" else 12
    error(file(data[:magic] + b"\x00" * 3000))


def test_ima_adpcm_reaches_neither_libsndfile_nor_ffmpeg(file, no_ffmpeg, monkeypatch):
    data = encoded(noise(), "WAV", "IMA_ADPCM")

    def opened(*_, **__):
        raise AssertionError("libsndfile was asked")

    monkeypatch.setattr("soundfile.SoundFile", opened)
    for before in (b"", b"ID3\x04\x00\x00\x00\x00\x00\x05tag!!"):
        assert error(file(before + data)).startswith("holds IMA ADPCM, not plain samples")


def test_random_bytes(file):
    for seed in range(50):
        data = np.random.default_rng(seed).bytes(3000)
        with pytest.raises(RofoError), AudioReader(file(data)):
            pass


def test_closing_twice_and_after_an_error(file):
    reader = AudioReader(file(encoded(noise(), "WAV", "PCM_16")))
    reader.close()
    reader.close()
