"""Parity of a tiny network with code we did not write, against true stems; and songs that do not fit."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from rofo.benchmarks import networks, parity
from rofo.benchmarks.contestants import Choice
from rofo.benchmarks.metrics import sdr
from rofo.benchmarks.parity import measure_parity
from rofo.benchmarks.subject import Subject, Told
from rofo.errors import AudioReadError, UsageError
from rofo.manifest import load_engine_manifest

CHOICE = Choice(1, ("onnxruntime",), ("fp32",), compiled=False)


@pytest.fixture
def measure(checkpoint, exported, tmp_path, monkeypatch):
    """measure_parity of the tiny checkpoint, whose engine is there already."""
    # Silent where pymss-core's defaults are not those that the engine was exported with.
    config = yaml.safe_load(checkpoint[1].read_text())
    del config["model"]["zero_dc"]
    (tmp_path / "silent.yaml").write_text(yaml.safe_dump(config))
    told = Told(tmp_path / "silent.yaml")
    subject = Subject({"onnx": exported()}, load_engine_manifest(exported()), checkpoint[0], told)
    monkeypatch.setattr(parity, "prepare_any", lambda *_: subject)

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
        "onnxruntime fp32, driven plainly",
    ]  # fmt: skip
    baseline, network, engine, plain = result.rows
    assert (baseline.graph_snr, network.graph_snr) == (None, None)  # it takes samples; it is the truth
    assert plain.graph_snr == engine.graph_snr
    assert [score.stem for score in engine.stems] == ["vocals", "instrumental"]
    assert baseline.stems[0].song_snr is None
    assert min(score.song_snr for row in (network, engine) for score in row.stems) > 65
    assert 80 < engine.graph_snr < 200
    assert engine.stems[0].sdr == pytest.approx(baseline.stems[0].sdr, abs=0.01)
    # The tiny network hardly changes the mix.
    assert baseline.stems[0].sdr != pytest.approx(sdr(songs["mix"], songs["voice"]), abs=1)
    assert (engine.stems[1].sdr, engine.stems[1].sdr_median) == (None, None)
    assert "SDR of instrumental" in [one.what for one in result.about.left_out]


@pytest.fixture
def measure_toy(toy, tmp_path, monkeypatch):
    """measure_parity of a family that only tests know."""
    monkeypatch.setattr(parity, "prepare_any", lambda *_: toy)

    def run(*truths: str, mix: str = "mix"):
        files = [str(tmp_path / truth) if "=" not in truth else truth for truth in truths]
        told, say = toy.told, lambda _: None
        return measure_parity(toy.checkpoint, told, tmp_path / f"{mix}.wav", files, CHOICE, say=say)

    return run


def test_a_family_that_the_benchmarks_do_not_know_is_compared(measure_toy, songs):
    result = measure_toy("voice.wav")
    assert [row.name for row in result.rows] == [
        "PyTorch fp32 (rofo's network)", "rofo onnxruntime fp32", "onnxruntime fp32, driven plainly",
    ]  # fmt: skip
    assert result.rows[1].graph_snr > 100
    assert all(score.song_snr > 100 for score in result.rows[1].stems)
    (pymss,) = result.about.left_out
    assert pymss.what == "PyTorch fp32 (pymss-core)"
    assert "no network of Music-Source-Separation-Training" in pymss.why


def test_an_engine_that_is_not_finite_is_in_the_table(measure_toy, songs, monkeypatch):
    good = networks.open_engine

    def bad(*arguments):
        engine = good(*arguments)
        run = engine.run
        engine.run = lambda inputs: {
            name: values * np.float32(np.nan) for name, values in run(inputs).items()
        }
        return engine

    monkeypatch.setattr(networks, "open_engine", bad)
    network, engine, _ = measure_toy().rows
    assert network.graph_snr is None
    assert (engine.graph_snr, engine.stems[0].song_snr) == (parity.NOT_FINITE, None)


@pytest.mark.parametrize(
    ("truth", "why"),
    [
        ("short.wav", "11,995 samples, mix.wav has 12,000"),
        ("slow.wav", "22050 Hz and 2 channels, toy has 44100 Hz and 2"),
        ("none.wav", "none.wav"),
        ("silent.wav", "silent"),
    ],
)
def test_a_true_stem_that_does_not_fit_is_left_out_and_the_rest_goes_on(measure_toy, songs, truth, why):
    result = measure_toy(truth, "music.wav")
    left_out = result.about.left_out[0]
    assert left_out.what == "SDR of voice" and why in left_out.why
    for row in result.rows:
        voice, residual = row.stems
        assert voice.sdr is None and residual.sdr is not None


@pytest.mark.parametrize(
    ("truths", "message"),
    [
        (("drums=voice.wav",), "no stem drums; choose among voice, residual"),
        (("voice.wav",) * 3, "3 files"),
    ],
)
def test_stems_that_the_model_has_not_are_refused_before_the_work(measure_toy, songs, truths, message):
    with pytest.raises(UsageError, match=message):
        measure_toy(*truths)


def test_a_mix_that_does_not_fit_is_refused(measure_toy, songs):
    with pytest.raises(AudioReadError, match="22050 Hz and 2 channels, toy has 44100 Hz and 2"):
        measure_toy("voice.wav", mix="slow")


def test_an_engine_is_refused(make_engine, tmp_path):
    with pytest.raises(UsageError, match="an engine has no network"):
        measure_parity(make_engine(), Told(), tmp_path / "mix.wav", [], CHOICE, say=lambda _: None)


def test_an_engine_is_compared_with_the_checkpoint_beside_it(toy, songs, tmp_path):
    result = measure_parity(toy.engine, Told(), tmp_path / "mix.wav", [], CHOICE, say=lambda _: None)
    assert [row.name for row in result.rows][:2] == ["PyTorch fp32 (rofo's network)", "rofo onnxruntime fp32"]
    for file in (toy.engine, toy.engine.with_suffix(".json")):
        shutil.copy(file, tmp_path)
    alone = tmp_path / toy.engine.name
    with pytest.raises(UsageError, match="no network to compare with"):
        measure_parity(alone, Told(), tmp_path / "mix.wav", [], CHOICE, say=lambda _: None)
