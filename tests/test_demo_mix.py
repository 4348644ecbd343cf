"""The committed demo mix: real stems whose sum it is, at equal loudness, with a licence for every file."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

FOLDER = Path(__file__).parents[1] / "checkpoints" / "demo"
NAMES = ("mix", "voice", "music")
AUDIO_SUFFIXES = {".flac", ".wav", ".ogg", ".opus", ".mp3"}
FRAME = 882  # 20 ms at 44.1 kHz


@pytest.fixture(scope="module")
def stems():
    return {name: sf.read(FOLDER / f"{name}.flac", dtype="int16", always_2d=True)[0] for name in NAMES}


def power_db(samples):
    return 10 * np.log10(np.mean(samples.astype(np.float64) ** 2))


def frame_power(samples):
    count = len(samples) // FRAME
    return np.mean(samples[: count * FRAME].astype(np.float64).reshape(count, -1) ** 2, axis=1)


def speech_frames(voice):
    power = frame_power(voice)
    return power > power.max() * 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_format_is_16_bit_stereo_at_44100_hz(name):
    info = sf.info(FOLDER / f"{name}.flac")
    assert (info.format, info.subtype) == ("FLAC", "PCM_16")
    assert (info.samplerate, info.channels) == (44100, 2)
    assert 10 <= info.duration <= 20


def test_mix_is_the_sum_of_its_stems_sample_for_sample(stems):
    assert len({stem.shape for stem in stems.values()}) == 1
    assert np.array_equal(stems["mix"].astype(np.int32), stems["voice"].astype(np.int32) + stems["music"])


@pytest.mark.parametrize("name", NAMES)
def test_stem_is_loud_and_not_clipped(stems, name):
    assert power_db(stems[name] / 2**15) > -30
    assert np.abs(stems[name].astype(np.int32)).max() < 2**15 - 1


def test_music_plays_throughout_and_voice_speaks_most_of_the_time(stems):
    assert frame_power(stems["music"])[2:-2].min() > (2**15 * 10 ** (-50 / 20)) ** 2
    assert 0.6 < speech_frames(stems["voice"]).mean() < 0.95


def test_voice_and_music_have_equal_power(stems):
    voice, music = stems["voice"], stems["music"]
    speech = np.repeat(speech_frames(voice), FRAME)
    assert abs(power_db(voice) - power_db(music)) < 1
    assert abs(power_db(voice[: len(speech)][speech]) - power_db(music[: len(speech)][speech])) < 1


@pytest.mark.parametrize("name", ["voice", "music"])
def test_stem_is_not_band_limited(stems, name):
    power = np.abs(np.fft.rfft(stems[name].mean(axis=1))) ** 2
    frequency = np.fft.rfftfreq(len(stems[name]), 1 / 44100)
    assert power[frequency > 10_000].sum() > 1e-4 * power.sum()


def test_stems_are_unrelated(stems):
    voice, music = (stems[name].mean(axis=1) for name in ("voice", "music"))
    assert abs(np.corrcoef(voice, music)[0, 1]) < 0.05


def test_every_audio_file_has_its_licence_named():
    named = (FOLDER / "LICENSES.md").read_text(encoding="utf-8")
    audio = [path.name for path in FOLDER.iterdir() if path.suffix.lower() in AUDIO_SUFFIXES]
    assert set(audio) >= {f"{name}.flac" for name in NAMES}
    assert [name for name in audio if f"| {name} |" not in named] == []


def test_make_mix_without_sources_says_in_one_line_what_to_unpack(tmp_path):
    command = [sys.executable, str(FOLDER / "make_mix.py"), str(tmp_path), "--output", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "dpkg -x" in result.stderr
    assert list(tmp_path.iterdir()) == []
