"""Chunks of exact zeros are not run, where the manifest says that the engine makes exact zeros of them."""

import dataclasses
import json

import numpy as np
import pytest
import soundfile

from rofo import Options, Separator
from rofo.cli import main
from rofo.manifest import Parity, load_manifest

RATE, CHUNK = 44100, 4000
BACKENDS = ["openvino", "onnxruntime"]


def measured(*, keeps_silence):
    return tuple(Parity(backend, "fp32", 100.0, keeps_silence=keeps_silence) for backend in BACKENDS)


SAID, UNSAID = measured(keeps_silence=True), measured(keeps_silence=False)


@pytest.fixture
def patchy(song):
    """Make a song that is silent most of the time: silent chunks and loud ones share a batch."""

    def make(channels=2, samples=60_000, seed=0):
        mix = song(samples, channels, seed=seed)
        for begin, end in ((0, 9_000), (13_000, 27_000), (28_000, 45_000)):
            mix[:, begin:end] = 0
        return mix

    return make


@pytest.fixture
def calls(monkeypatch):
    """Count what an engine is asked for: `calls(separator)` is a list that grows with every run."""

    def count(separator):
        engine, made = separator._model.engines[0], []
        run = engine.run
        monkeypatch.setattr(engine, "run", lambda inputs: made.append(inputs["mix"].copy()) or run(inputs))
        return made

    return count


def bits(stems):
    return {stem: samples.tobytes() for stem, samples in stems.items()}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch": 3},
        {"stems": ("vocals", "drums"), "residual": "other"},
        {"channels": 1},
        {"time_branch": True, "batch": 2},
        {"normalize": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("channels", [1, 2])
def test_the_stems_are_the_same_bit_for_bit(opened, patchy, calls, backend, options, channels):
    skips, runs = (opened(backend=backend, parity=parity, **options) for parity in (SAID, UNSAID))
    fewer, all_of_them = calls(skips), calls(runs)
    mix = patchy(channels)
    for rate in (RATE, 48000):
        assert bits(skips.separate(mix, rate)) == bits(runs.separate(mix, rate))
    if options.get("normalize"):  # what the engine is given is not silent: the mean was taken out
        assert len(fewer) == len(all_of_them)
    else:
        assert len(fewer) < len(all_of_them)
        assert all(mix.any() for mix in fewer)


def test_exactly_the_silent_chunks_are_left_out(opened, song, calls):
    """Chunks begin every 2000 samples, the first 2000 before the song, and end with it."""
    mix = np.zeros((2, 40_000), np.float32)
    mix[1, 21_999] = 1e-30  # one sample that is not zero, of the chunks at 18,000 and 20,000
    separator = opened(parity=SAID)
    made = calls(separator)
    separator.separate(mix, RATE)
    assert len(made) == 2


def test_a_channel_of_its_own_may_be_silent(opened, song, calls):
    mix = song(20_000)
    mix[0] = 0
    skips, runs = (opened(channels=1, parity=parity) for parity in (SAID, UNSAID))
    fewer, all_of_them = calls(skips), calls(runs)
    assert bits(skips.separate(mix, RATE)) == bits(runs.separate(mix, RATE))
    assert 2 * len(fewer) == len(all_of_them)


def test_several_songs_share_batches_all_the_same(opened, patchy, song):
    skips, runs = (opened(batch=3, parity=parity) for parity in (SAID, UNSAID))
    mixes = [patchy(), np.zeros((2, 5000), np.float32), song(9000), patchy(channels=1, seed=3)]
    for got, want in zip(skips.separate_songs(mixes, RATE), runs.separate_songs(mixes, RATE), strict=True):
        assert bits(got) == bits(want)


@pytest.mark.parametrize("normalize", [False, True])
def test_a_silent_song_runs_nothing(opened, calls, normalize):
    separator = opened(parity=SAID, normalize=normalize)
    made = calls(separator)
    stems = separator.separate(np.zeros((2, 30_000), np.float32), RATE)
    assert not made
    assert not any(samples.any() for samples in stems.values())


@pytest.mark.parametrize("parity", [(), UNSAID, (Parity("openvino", "fp32", 100.0, keeps_silence=True),)])
def test_what_was_not_measured_is_run(opened, calls, parity):
    """Nothing at all, as in manifests of earlier releases; sound made of silence; another backend."""
    separator = opened(backend="onnxruntime", parity=parity)
    made = calls(separator)
    separator.separate(np.zeros((2, 30_000), np.float32), RATE)
    assert made


def test_a_real_network_is_measured_by_its_export(exported, patchy, calls, tmp_path):
    path = exported(1)
    manifest = load_manifest(path)
    assert manifest.keeps_silence("openvino", "fp32")
    assert not manifest.keeps_silence("onnxruntime", "fp32")
    unsaid = tuple(dataclasses.replace(parity, keeps_silence=False) for parity in manifest.parity)
    other = tmp_path / path.name
    other.write_bytes(path.read_bytes())
    other.with_suffix(".json").write_text(dataclasses.replace(manifest, parity=unsaid).to_json())
    assert "keeps_silence" not in other.with_suffix(".json").read_text()
    mix = patchy(samples=90_000)
    with Separator(path, precision="fp32") as skips, Separator(other, precision="fp32") as runs:
        fewer, all_of_them = calls(skips), calls(runs)
        assert bits(skips.separate(mix, RATE)) == bits(runs.separate(mix, RATE))
    assert 0 < len(fewer) < len(all_of_them)


def test_files_tell_how_many_chunks_were_silent(make_engine, patchy, calls, tmp_path, capsys):
    path, song = make_engine("level", parity=SAID), tmp_path / "mix.wav"
    soundfile.write(song, patchy().T, RATE, "FLOAT")
    with Separator(path) as separator:
        made = calls(separator)
        done = separator.separate_file(song, tmp_path / "one", Options(overlap=0))
    assert 0 < done.silent["level"] == 60_000 // CHUNK - len(made)
    with pytest.raises(SystemExit):
        main(["--engine", str(path), "--output", str(tmp_path), "--overlap", "0", "--json", str(song)])
    assert json.loads(capsys.readouterr().out)["silent"] == done.silent
