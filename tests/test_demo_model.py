"""The demo model: what it was trained on, that its files are as public ones, and that it separates."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
import yaml
from oracle import snr_db, song
from pymss_core.modules.bs_roformer import BSRoformer

from rofo.checkpoints.demo import data, finish, make_mix, measure, mixing, network, train
from rofo.export.families import describe, find_family, load_network
from rofo.export.source import read_source
from rofo.manifest import file_sha256, load_engine_manifest

FOLDER = Path(__file__).parents[1] / "checkpoints" / "demo"
LARGEST_FILE = 12e6
RATE = 44100


def tone(seconds, channels, rate=RATE, frequency=330.0):
    samples = 0.3 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)
    return np.stack([samples] * channels, axis=1)


class Packages:
    """A folder of unpacked packages, all empty but for the files that are put in."""

    def __init__(self, folder):
        self.folder = folder
        self.archived = {}
        for source in data.SOURCES:
            (folder / source.package).mkdir(parents=True, exist_ok=True)
        self._write_archive()

    def put(self, path, samples, rate=RATE):
        package, inside = path.split("/", 1)
        where = self.folder / path
        if package == "0ad-data":
            where = self.archived[inside] = io.BytesIO()
        else:
            where.parent.mkdir(parents=True, exist_ok=True)
        sf.write(where, samples, rate, format="WAV")
        self._write_archive()

    def _write_archive(self):
        path = self.folder / "0ad-data" / data.ARCHIVES["0ad-data"]
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in self.archived.items():
                archive.writestr(name, content.getvalue())


LATIN = "0ad-data/audio/voice/latin/civ/one.wav"
GREEK = "0ad-data/audio/voice/greek/civ/one.wav"
HUMAN = "0ad-data/audio/actor/human/death.wav"
SECTOID = "fretsonfire-songs-sectoid/usr/share/games/fretsonfire/data/songs/sectoid/Feelings/song.wav"
WESNOTH = "wesnoth-1.16-music/usr/share/games/wesnoth/1.16/data/core/music/sad.wav"
HEBREW = "klettres-data/usr/share/klettres/he/alpha/a.wav"
OLD = "fillets-ng-data-cs/usr/share/games/fillets-ng/sound/wc/cs/a.wav"


@pytest.fixture
def packages(tmp_path):
    made = Packages(tmp_path / "sources")
    for path in (LATIN, GREEK, HUMAN, HEBREW):
        made.put(path, tone(0.5, 1))
    made.put(OLD, tone(0.5, 1, rate=22050), rate=22050)
    for path in (SECTOID, WESNOTH):
        made.put(path, tone(20.5, 2, frequency=220.0))
    return made


@pytest.fixture
def cache(packages, tmp_path):
    data.make_cache(packages.folder, tmp_path / "cache")
    return tmp_path / "cache"


def test_what_is_held_out_is_not_for_training(packages):
    roles = {file.path: file.role for file in data.listed(packages.folder)}
    assert roles == {
        LATIN: "train",
        OLD: "train",
        WESNOTH: "train",
        GREEK: "test",
        HUMAN: "test",
        HEBREW: "test",
        SECTOID: "test",
    }


def test_the_demo_mix_is_made_of_held_out_files():
    assert data.role_of(f"{make_mix.MUSIC_FOLDER}/{make_mix.MUSIC_FILES[0]}") == "test"
    assert data.role_of(f"0ad-data/{make_mix.VOICE_FOLDER}/civ_female_{make_mix.PHRASES[0]}.ogg") == "test"


def test_training_never_sees_held_out_clips(cache):
    library = mixing.Library(cache, "train")
    clips = [clip for clips in library.speakers.values() for clip in clips] + library.music
    assert {clip.path for clip in clips} == {LATIN, OLD, WESNOTH}


def test_a_cache_from_before_something_was_held_out_is_refused(cache, monkeypatch):
    monkeypatch.setattr(data, "HELD_OUT", (*data.HELD_OUT, ("wesnoth-1.16-music/", "test")))
    with pytest.raises(data.DataError, match=r"sad\.wav is train, should be test; cache again"):
        data.load_index(cache, "music", "train")


def test_the_cache_holds_the_samples(cache):
    (clip,) = data.load_index(cache, "music", "train")
    samples = data.load_samples(cache, "music")[clip.start : clip.start + clip.frames]
    assert samples.shape == (round(20.5 * RATE), 2)
    wanted = tone(20.5, 2, frequency=220.0) * 3 * data.FULL_SCALE
    assert snr_db(wanted, samples) > 60


def test_a_missing_package_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["data.py", "cache", str(tmp_path), str(tmp_path / "cache")])
    assert data.main() == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "not found; run data.py fetch" in error


def test_utterances_lose_their_silence_only():
    silence, word = np.zeros(RATE, np.float32), tone(0.5, 1)[:, 0].astype(np.float32)
    spoken = data.trimmed(np.concatenate([silence, word, silence]))
    assert len(word) - data.FRAME <= len(spoken) <= len(word) + 2 * data.FRAME


def test_held_out_mixes_have_equal_power_and_are_always_the_same(cache, monkeypatch):
    monkeypatch.setattr(mixing, "HELD_OUT_MIXES", {"test": 3})
    first, again = (list(mixing.held_out(cache, "test")) for _ in range(2))
    assert [name for name, *_ in first] == ["00", "01", "02"]
    for (_, voice, music), (_, same, _) in zip(first, again, strict=True):
        assert voice.shape == music.shape == (2, 10 * RATE)
        assert np.sum(voice**2) == pytest.approx(np.sum(music**2), rel=1e-3)
        assert np.array_equal(voice, same)


def test_training_mixes_keep_to_the_levels(cache, monkeypatch):
    monkeypatch.setattr(mixing, "CUT_OFF", 0.0)
    batch = mixing.Mixer(mixing.Library(cache, "train"), RATE, seed=0).batch(40)
    voice, music = (stem.square().mean(dim=(1, 2)) for stem in (batch.voice, batch.music))
    both = (voice > 0) & (music > 0)
    level = 10 * torch.log10(voice[both] / music[both])
    assert 20 < both.sum() < 40
    assert -8.01 < level.min() < -2 and 2 < level.max() < 8.01


def test_training_mixes_may_begin_within_a_pause(cache):
    batch = mixing.Mixer(mixing.Library(cache, "train"), RATE, seed=2).batch(40)
    start, whole = (stem.square().mean(dim=(1, 2)) for stem in (batch.voice[..., : RATE // 50], batch.voice))
    silent = (start < 1e-3 * whole).sum()
    assert 3 < silent < 30


def test_some_training_mixes_begin_or_end_in_silence(cache, monkeypatch):
    monkeypatch.setattr(mixing, "CUT_OFF", 0.5)
    batch = mixing.Mixer(mixing.Library(cache, "train"), RATE, seed=3).batch(40)
    silent = (batch.voice + batch.music).abs().sum(dim=1) == 0
    assert silent[:, 0].sum() > 3 and silent[:, -1].sum() > 3
    assert (~silent[:, 0] & ~silent[:, -1]).sum() > 10
    assert not silent.all(dim=1).any()


def test_the_loss_of_silence_is_a_number():
    silence = torch.zeros(1, 2, 16384)
    assert train.loss_of(network.Roformer(network.SHAPE), mixing.Batch(silence, silence)).isfinite()


def test_music_is_cut_where_an_old_voice_ends(cache, monkeypatch):
    monkeypatch.setattr(mixing, "CUT_OFF", 0.0)
    library = mixing.Library(cache, "train")
    library.speakers = {name: clips for name, clips in library.speakers.items() if name.endswith("narrow")}
    batch = mixing.Mixer(library, RATE, seed=1).batch(8)
    spectrum = torch.fft.rfft(batch.voice + batch.music).abs().square().sum(dim=(0, 1))
    assert spectrum[10400:].sum() < 1e-9 * spectrum.sum()


def test_a_voice_only_network_would_lose_nothing_at_the_joins():
    class AllPass(torch.nn.Module):
        def forward(self, features):
            return torch.tensor([1.0, 0.0]).repeat(features.shape[-1] // 2).expand_as(features)

    mix = song(2, 2 * network.CHUNK)
    mix -= mix.mean(axis=1, keepdims=True)
    assert snr_db(mix, measure.separate(AllPass(), mix)) > 30


def test_a_silent_stem_has_no_sdr():
    with pytest.raises(data.DataError, match="silent"):
        measure.measured(lambda mix: mix, np.zeros((2, 100), np.float32), song(2, 100))


def test_the_rate_warms_up_and_falls():
    rates = [
        train.rate_at(0, 0.0),
        train.rate_at(1000, 0.0),
        train.rate_at(1000, 0.5),
        train.rate_at(1000, 1),
    ]
    assert rates == pytest.approx([2e-3 / 60, 2e-3, 1.02e-3, 4e-5])


def test_the_trained_network_is_the_public_one():
    torch.manual_seed(0)
    ours = network.Roformer(network.SHAPE).eval()
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in network.SHAPE.yaml().items()}
    public = BSRoformer(**options).eval()
    public.load_state_dict(ours.state_dict(), strict=True)
    mix = torch.from_numpy(song(2, 20480))[None]
    with torch.inference_mode():
        voice = network.istft(network.masked(ours, network.stft(mix, network.SHAPE)), network.SHAPE, 20480)
        assert snr_db(public(mix).reshape(2, -1).numpy(), voice[0].numpy()) > 90


def test_a_run_can_stop_go_on_and_finish(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(mixing, "HELD_OUT_MIXES", {"validation": 1, "test": 1})
    tiny = network.Shape(8, 1, 1, 8, 1, (512, 513), 2048, 1024)
    for script in (measure, finish, train):
        monkeypatch.setattr(script, "SHAPE", tiny)
    monkeypatch.setattr(train.Trainer, "_validate", lambda self: 1.5)
    monkeypatch.setattr(train, "CHUNK", 16384)
    options = train.Options(cache, tmp_path / "run", 1e-4, 1, 1, "cpu", False, tmp_path / "out")
    train.train(options)
    first = torch.load(options.run / "last.pt", weights_only=True)["progress"]
    train.train(train.Options(cache, options.run, 1e-2, 1, 1, "cpu", False, options.output))
    second = torch.load(options.run / "last.pt", weights_only=True)["progress"]
    assert second["steps"] > first["steps"] >= 1 and second["seconds"] > first["seconds"]
    finish.finish(options.run, cache, options.output)
    results = json.loads((options.output / "results.json").read_text())
    assert results["steps"] == second["steps"] and results["test_mixes"]["00"]["mix_as_voice"] == 0
    assert (options.output / "loss.svg").read_text().startswith("<svg")


@pytest.fixture(scope="module")
def checkpoint():
    return read_source(FOLDER / "model.ckpt")


def test_the_committed_file_is_small_and_half_precision(checkpoint):
    assert (FOLDER / "model.ckpt").stat().st_size < LARGEST_FILE
    kinds = {value.dtype for key, value in checkpoint.state.items() if not key.endswith("freqs")}
    assert kinds == {torch.float16}


def test_the_committed_yaml_is_that_of_the_script():
    assert yaml.safe_load((FOLDER / "model.yaml").read_text()) == finish.model_yaml()


def test_the_committed_checkpoint_exports(checkpoint):
    family = find_family(checkpoint)
    facts = describe(family, checkpoint, FOLDER / "model.yaml").require()
    assert (facts["stems"], facts["residual"], facts["chunk"]) == (("voice",), "music", network.CHUNK)
    load_network(family, checkpoint, facts)


def test_the_committed_model_separates_the_demo_mix():
    with finish.exported(FOLDER) as separate:
        got = measure.measured(separate, *finish.committed_mix())
    recorded = json.loads((FOLDER / "results.json").read_text())["demo_mix"]
    assert got == pytest.approx(recorded, abs=0.05)
    assert got["voice"] > 7 and got["voice"] - got["mix_as_voice"] > 7


def test_the_engine_beside_the_model_is_made_of_it():
    manifest = load_engine_manifest(FOLDER / "engine.onnx")
    (engine,) = manifest.engines
    assert engine.sha256 == file_sha256(FOLDER / "engine.onnx")
    assert manifest.source.checkpoint_sha256 == file_sha256(FOLDER / "model.ckpt")
    assert (manifest.stems, manifest.residual) == (("voice",), "music")
    assert max(parity.snr_db for parity in manifest.parity) > 100
