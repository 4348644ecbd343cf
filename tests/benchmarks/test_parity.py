"""Parity of a tiny network with code we did not write, against true stems; and songs that do not fit."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from rofo.benchmarks import parity
from rofo.benchmarks.contestants import Choice
from rofo.benchmarks.metrics import sdr
from rofo.benchmarks.parity import measure_parity
from rofo.benchmarks.prepare import prepare
from rofo.benchmarks.reference import Source, Told
from rofo.errors import AudioReadError, UsageError

CHOICE = Choice(("onnxruntime",), ("fp32",), 1, compiled=False)


@pytest.fixture
def measure(checkpoint, exported, tmp_path, monkeypatch):
    """measure_parity of the tiny checkpoint, whose engine is there already."""
    subject = prepare(exported(), Told(), tmp_path)
    # Silent where pymss-core's defaults are not those that the engine was exported with.
    config = yaml.safe_load(checkpoint[1].read_text())
    del config["model"]["zero_dc"]
    (tmp_path / "silent.yaml").write_text(yaml.safe_dump(config))
    told = Told(tmp_path / "silent.yaml")
    subject = replace(subject, source=Source(exported(), checkpoint[0], told))
    monkeypatch.setattr(parity, "prepare", lambda *_: subject)

    def run(*truths: str, mix: str = "mix"):
        files = [str(tmp_path / truth) if "=" not in truth else truth for truth in truths]
        return measure_parity(
            checkpoint[0], Told(), tmp_path / f"{mix}.wav", files, CHOICE, say=lambda _: None
        )

    return run


@pytest.fixture
def songs(song: Callable[..., np.ndarray], tmp_path: Path) -> dict[str, np.ndarray]:
    voice, music = song(12_000, seed=1), song(12_000, seed=2)
    made = {"voice": voice, "music": music, "mix": voice + music, "silent": 0 * voice, "short": voice[:, :-5]}
    for name, samples in made.items():
        soundfile.write(tmp_path / f"{name}.wav", samples.T, 44100, "FLOAT")
    soundfile.write(tmp_path / "slow.wav", voice.T, 22050, "FLOAT")
    return made


def test_engine_and_networks_agree(measure, songs):
    result = measure("voice.wav", "silent.wav")
    assert [row.name for row in result.rows] == [
        "PyTorch fp32 (pymss-core)", "PyTorch fp32 (rofo's network)", "rofo onnxruntime fp32",
    ]  # fmt: skip
    baseline, network, engine = result.rows
    assert [score.stem for score in engine.stems] == ["vocals", "instrumental"]
    assert baseline.graph_snr is None
    assert baseline.stems[0].song_snr is None
    assert min(score.song_snr for row in (network, engine) for score in row.stems) > 65
    assert 80 < engine.graph_snr < 200
    assert engine.stems[0].sdr == pytest.approx(baseline.stems[0].sdr, abs=0.01)
    # The tiny network hardly changes the mix.
    assert baseline.stems[0].sdr != pytest.approx(sdr(songs["mix"], songs["voice"]), abs=1)
    assert (engine.stems[1].sdr, engine.stems[1].sdr_median) == (None, None)
    assert "SDR of instrumental" in [one.what for one in result.about.left_out]


@pytest.mark.parametrize(
    ("truth", "why"),
    [
        ("short.wav", "11,995 samples, mix.wav has 12,000"),
        ("slow.wav", "22050 Hz and 2 channels, tiny has 44100 Hz and 2"),
        ("none.wav", "none.wav"),
        ("silent.wav", "silent"),
    ],
)
def test_a_true_stem_that_does_not_fit_is_left_out_and_the_rest_goes_on(measure, songs, truth, why):
    result = measure(truth, "music.wav")
    (left_out,) = result.about.left_out
    assert left_out.what == "SDR of vocals" and why in left_out.why
    for row in result.rows:
        vocals, instrumental = row.stems
        assert vocals.sdr is None and instrumental.sdr is not None


@pytest.mark.parametrize(
    ("truths", "message"),
    [
        (("drums=voice.wav",), "no stem drums; choose among vocals, instrumental"),
        (("voice.wav",) * 3, "3 files"),
    ],
)
def test_stems_that_the_model_has_not_are_refused_before_the_work(measure, songs, truths, message):
    with pytest.raises(UsageError, match=message):
        measure(*truths)


def test_a_mix_that_does_not_fit_is_refused(measure, songs):
    with pytest.raises(AudioReadError, match="22050 Hz and 2 channels, tiny has 44100 Hz and 2"):
        measure("voice.wav", mix="slow")


def test_an_engine_is_refused(make_engine, tmp_path):
    with pytest.raises(UsageError, match="an engine has no network"):
        measure_parity(make_engine(), Told(), tmp_path / "mix.wav", [], CHOICE, say=lambda _: None)
