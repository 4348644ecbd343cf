"""Mixers: several engines in lock-step, their stems and the mix summed by a matrix."""

import dataclasses
import json
import threading
import tracemalloc

import numpy as np
import onnx
import pytest
import soundfile
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor, make_tensor_value_info

from rofo import (
    EngineLoadError,
    EngineOutputError,
    EngineRunError,
    ManifestError,
    MixerManifest,
    Options,
    Separator,
    load_manifest,
)
from rofo.cli import main
from rofo.errors import EngineMismatchError, UsageError
from rofo.manifest import (
    ChunkSize,
    EngineFile,
    Manifest,
    Member,
    OverlapAdd,
    Source,
    Stft,
    file_sha256,
    load_engine_manifest,
)

RATE = 44100
FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
SOURCE = Source("test.ckpt", "0" * 64, {}, "0", "0")
# n_fft, chunk, batch, scheme, overlap
MEMBERS = {
    "bass": (512, 3000, 1, "trim", None),
    "drums": (128, 1024, 3, "hann", 0.25),
    "vocals": (256, 4000, 2, "fade", 0.5),
}
LENGTHS = [0, 1, 2, 128, 1023, 1024, 2487, 2488, 2489, 3000, 4001, 20_011]


def graph(mix, gain):
    """A network whose gain depends on the whole chunk, and that has a second stem of nothing."""
    nodes = [
        make_node("Abs", ["mix"], ["absolute"]),
        make_node("ReduceMax", ["absolute", "axes"], ["loudness"]),
        make_node("Tanh", ["loudness"], ["tanh"]),
        make_node("Mul", ["mix", "tanh"], ["levelled"]),
        make_node("Unsqueeze", ["levelled", "one"], ["each"]),
        make_node("Mul", ["each", "gains"], ["stems"]),
    ]
    constants = [
        make_tensor("axes", INT64, [4], [1, 2, 3, 4]),
        make_tensor("one", INT64, [1], [1]),
        make_tensor("gains", FLOAT, [1, 2, 1, 1, 1, 1], [0.0, gain]),
    ]
    made = make_graph(
        nodes, "member", [make_tensor_value_info("mix", FLOAT, mix)],
        [make_tensor_value_info("stems", FLOAT, (mix[0], 2, *mix[1:]))], initializer=constants,
    )  # fmt: skip
    return make_model(made, opset_imports=[make_opsetid("", 23)], ir_version=10)


def write_member(folder, name, channels, gain, **changes):
    n_fft, chunk, batch, scheme, overlap = MEMBERS[name]
    stft, file = Stft(n_fft, n_fft // 2), folder / f"{name}.onnx"
    frames = stft.frames(chunk)
    onnx.save(graph((batch, channels, frames, stft.bins, 2), gain), file)
    manifest = Manifest(
        name=name, architecture="test", sample_rate=RATE, channels=channels, stems=("nothing", name),
        residual=None, stft=stft, chunk=ChunkSize(chunk, frames), overlap_add=OverlapAdd(scheme, overlap),
        normalize=False, source=SOURCE, parity=(),
        engines=(EngineFile(file.name, "onnx", "opset 23", "fp32", (), batch, file_sha256(file)),),
    )  # fmt: skip
    described = folder / f"{name}.json"
    described.write_text(dataclasses.replace(manifest, **changes).to_json())
    return Member(described.name, file_sha256(described), name)


@pytest.fixture
def make_mixer(tmp_path):
    """Write members and a mixer with a seeded matrix; the path of the mixer. `changes` by member name."""

    def make(channels=2, changes=None, **own):
        members = tuple(
            write_member(tmp_path, name, channels, gain, **(changes or {}).get(name, {}))
            for name, gain in zip(MEMBERS, (0.5, 0.3, 0.7), strict=True)
        )
        shape = (4 * channels, (len(members) + 1) * channels)
        matrix = np.random.default_rng(0).normal(0, 0.5, shape).astype(np.float32).tolist()
        manifest = MixerManifest(
            name="kuielab", sample_rate=RATE, channels=channels,
            stems=("bass", "drums", "other", "vocals"), members=members,
            matrix=tuple(map(tuple, matrix)), source=SOURCE,
        )  # fmt: skip
        path = tmp_path / "kuielab.json"
        path.write_text(dataclasses.replace(manifest, **own).to_json())
        return path

    return make


def opened(path, **options):
    return Separator(path, backend="onnxruntime", **options)


def mixed_by_hand(path, mix, **options):
    """(stems, channels, samples): each member alone on the song as the mixer hears it, then the matrix."""
    manifest = load_manifest(path)
    parts = []
    for member in manifest.members:
        with opened(path.with_name(member.manifest)) as separator:
            parts.append(separator.separate(mix, RATE, Options(**options))[member.stem])
    stacked = np.concatenate([*parts, mix]).astype(np.float64)
    return (np.array(manifest.matrix) @ stacked).reshape(len(manifest.stems), *mix.shape)


@pytest.mark.parametrize("length", LENGTHS)
def test_stems_are_the_matrix_of_members_and_mix(make_mixer, song, snr_db, length):
    path, mix = make_mixer(), song(length)
    with opened(path) as separator:
        assert separator.stems == ("bass", "drums", "other", "vocals")
        stems = separator.separate(mix, RATE)
    for stem, want in zip(stems.values(), mixed_by_hand(path, mix), strict=True):
        assert stem.shape == mix.shape
        assert stem.dtype == np.float32
        assert snr_db(want, stem) > 120


def test_a_mono_song_is_doubled_and_averaged_around_the_whole_mixer(make_mixer, song, snr_db):
    path, mono = make_mixer(), song(9000, 1)
    want = mixed_by_hand(path, np.repeat(mono, 2, axis=0)).mean(axis=1, keepdims=True)
    with opened(path) as separator:
        got = np.stack(list(separator.separate(mono, RATE).values()))
    assert got.shape == (4, 1, 9000)
    assert snr_db(want, got) > 120


def test_a_mono_mixer_takes_a_stereo_song_channel_by_channel(make_mixer, song, snr_db):
    path, mix = make_mixer(channels=1), song(9000)
    want = np.concatenate([mixed_by_hand(path, mix[i : i + 1]) for i in range(2)], axis=1)
    with opened(path) as separator:
        got = np.stack(list(separator.separate(mix, RATE).values()))
    assert snr_db(want, got) > 120


@pytest.mark.parametrize("rate", [44100, 48000])
def test_all_doors_agree(make_mixer, song, tmp_path, rate):
    mix = song(31_000)
    soundfile.write(tmp_path / "mix.wav", mix.T, rate, "FLOAT")
    with opened(make_mixer()) as separator:
        want = separator.separate(mix, rate)
        for size in (1, 700, 50_000):
            song_of = mix if size > 1 else mix[:, :3000]
            blocks = [song_of[:, at : at + size] for at in range(0, song_of.shape[1], size)]
            got = list(separator.stream(blocks, rate))
            for stem, whole in (want if size > 1 else separator.separate(song_of, rate)).items():
                np.testing.assert_array_equal(np.concatenate([b[stem] for b in got], axis=1), whole)
        songs = [song(5000, 1), mix, np.zeros((2, 0), np.float32), song(1)]
        for alone, together in zip(songs, separator.separate_songs(songs, rate), strict=True):
            for stem, whole in separator.separate(alone, rate).items():
                np.testing.assert_array_equal(together[stem], whole)
        paths = separator.separate_file(tmp_path / "mix.wav", tmp_path / "out")
    written = soundfile.read(paths["other"], dtype="float32", always_2d=True)[0].T
    np.testing.assert_array_equal(written, want["other"])


def test_a_scheme_is_given_to_every_member(make_mixer, song, snr_db):
    path, mix = make_mixer(), song(9000)
    with opened(path) as separator:
        got = np.stack(
            list(separator.separate(mix, RATE, Options(scheme="rectangular", overlap=0.5)).values())
        )
        assert snr_db(mixed_by_hand(path, mix, scheme="rectangular", overlap=0.5), got) > 120
        with pytest.raises(UsageError, match=r"^bass: scheme trim has no overlap"):
            separator.stream([mix], RATE, Options(overlap=0.5))


def test_memory_does_not_grow_with_the_stream(make_mixer):
    block = np.random.default_rng(0).uniform(-1, 1, (2, 4410)).astype(np.float32)

    def peak(seconds):
        tracemalloc.start()
        try:
            for _ in separator.stream((block for _ in range(10 * seconds)), RATE):
                pass
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    with opened(make_mixer()) as separator:
        # Members are a chunk or two apart, more or less: the most shows only after a while.
        peak(6)
        assert peak(20) < 1.25 * peak(6)


def test_an_abandoned_stream_ends_its_threads(make_mixer, song):
    before = set(threading.enumerate())
    with opened(make_mixer()) as separator:
        stream = separator.stream([song(1000, seed=i) for i in range(50)], RATE)
        next(stream)
        workers = set(threading.enumerate()) - before
        assert workers
        stream.close()
        for worker in workers:
            worker.join(60)
            assert not worker.is_alive()


def test_a_closed_mixer_has_closed_its_members(make_mixer):
    separator = opened(make_mixer())
    assert separator.healthy
    assert (separator.backend, separator.precision) == ("onnxruntime", "fp32")
    separator.close()
    separator.close()
    for engine in separator._model.engines:
        with pytest.raises(EngineRunError, match="closed"):
            engine.run({"mix": np.zeros((1,), np.float32)})


def test_backends_that_differ_are_joined(make_mixer, monkeypatch):
    with opened(make_mixer()) as separator:
        monkeypatch.setattr(separator._model.engines[1], "precision", "bf16")
        assert separator.precision == "fp32+bf16"


def test_output_that_is_not_finite_is_the_members_error(make_mixer, song):
    path = make_mixer()
    with (
        opened(path) as separator,
        pytest.raises(EngineOutputError, match=r"drums.onnx: .*mixes\[1\], at 0.0 s"),
    ):
        engine = separator._model.engines[1]
        run = engine.run
        engine.run = lambda inputs: {
            "stems": run(inputs)["stems"] * np.float32("nan" if inputs["mix"][0].any() else 1)
        }
        separator.separate_songs([np.zeros((2, 3000), np.float32), song(9000)], RATE)


def test_the_command_line_takes_a_mixer(make_mixer, song, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    soundfile.write("mix.wav", song(5000).T, RATE)
    with pytest.raises(SystemExit) as stop:
        main(["--engine", str(make_mixer()), "mix.wav", "--backend", "onnxruntime", "--no-residual"])
    out, err = capsys.readouterr()
    assert stop.value.code == 0
    assert out.splitlines() == [f"separated/mix/{s}.wav" for s in ("bass", "drums", "other", "vocals")]
    assert err.startswith("kuielab.json: onnxruntime, cpu, fp32\n")


# The manifest


def test_what_is_written_is_read_back(make_mixer):
    path = make_mixer()
    manifest = load_manifest(path)
    raw = json.loads(path.read_text())
    assert (raw["format"], raw["kind"], raw["residual"]) == (1, "mixer", None)
    assert isinstance(manifest, MixerManifest)
    assert manifest.to_json() == path.read_text()
    assert manifest.members[2] == Member("vocals.json", file_sha256(path.with_name("vocals.json")), "vocals")
    assert np.array(manifest.matrix).shape == (8, 8)


def refusal(path, kind):
    with pytest.raises(kind) as caught:
        opened(path)
    text = str(caught.value)
    assert type(caught.value) is kind
    assert "\n" not in text
    assert text.startswith(str(path.parent))
    return text


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"matrix": [[0.0] * 8] * 7}, "matrix is not 8 rows of 8 numbers"),
        ({"matrix": [[0.0] * 7] * 8}, "matrix is not 8 rows of 8 numbers"),
        ({"matrix": [[float("nan")] * 8] * 8}, "matrix is not finite"),
        ({"matrix": [["x"] * 8] * 8}, r"matrix\[0\]\[0\] is 'x'"),
        ({"members": []}, "members is empty"),
        ({"members": [{"manifest": "../x.json", "sha256": "0" * 64, "stem": "x"}]}, "not a plain file name"),
        ({"members": [{"manifest": "x.json", "sha256": "0", "stem": "x"}]}, "is not a sha256"),
        ({"stems": ["a", "A", "b", "c"]}, "stem names repeat"),
        ({"channels": 3}, "channels is 3"),
        ({"sample_rate": 1}, "sample_rate is 1"),
        ({"kind": "choir"}, "kind is 'choir'"),
        ({"kind": ["mixer"]}, "kind is"),
        ({"engines": []}, "unknown fields: engines"),
    ],
)
def test_impossible_mixers_are_refused(make_mixer, own, said):
    path = make_mixer()
    path.write_text(json.dumps(json.loads(path.read_text()) | own))
    with pytest.raises(ManifestError, match=rf"^{path}: .*{said}.*; export again with rofo-export$"):
        load_manifest(path)


def test_a_member_that_is_missing_or_altered(make_mixer):
    path = make_mixer()
    described = path.with_name("drums.json")
    described.write_text(described.read_text() + "\n")
    assert f"{described}: not the file its manifest describes" in refusal(path, EngineMismatchError)
    described.unlink()
    assert f"{described}: No such file" in refusal(path, EngineMismatchError)
    path = make_mixer()
    path.with_name("vocals.onnx").unlink()
    assert "vocals.onnx: no such engine; export" in refusal(path, EngineLoadError)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sample_rate": 48000}, "its sample_rate is 48000, the mixer kuielab needs 44100"),
        ({"normalize": True}, "its normalize is True, the mixer kuielab needs False"),
        ({"stems": ("other", "guitar")}, "it has no stem drums, which the mixer kuielab needs"),
    ],
)
def test_a_member_that_does_not_fit(make_mixer, changes, said):
    path = make_mixer(changes={"drums": changes})
    assert f"drums.json: {said}; export again with rofo-export" in refusal(path, EngineMismatchError)


def test_members_are_closed_when_one_cannot_be_opened(make_mixer, monkeypatch):
    path = make_mixer()
    path.with_name("vocals.onnx").unlink()
    closed = []
    monkeypatch.setattr("rofo.model.EngineModel.close", lambda self: closed.append(self.manifest.name))
    refusal(path, EngineLoadError)
    assert sorted(closed) == ["bass", "drums"]


def test_a_mixer_is_no_member_and_no_engine(make_mixer):
    path = make_mixer()
    with pytest.raises(
        ManifestError, match=r"kuielab.json: describes a mixer of several engines, not an eng"
    ):
        load_engine_manifest(path)
    raw = json.loads(path.read_text())
    raw["members"][0] |= {"manifest": "inner.json", "sha256": file_sha256(path)}
    path.with_name("inner.json").write_bytes(path.read_bytes())
    path.write_text(json.dumps(raw))
    assert "inner.json: describes a mixer" in refusal(path, ManifestError)
    beside = path.with_name("kuielab.onnx")
    beside.write_bytes(b"")
    assert "kuielab.json describes a mixer, not this file" in refusal(beside, EngineMismatchError)


# The manifest of one engine in the place of its file


def test_the_manifest_opens_its_first_engine(make_engine, song):
    path, mix = make_engine("level"), song(9000)
    with opened(path) as separator, opened(path.with_suffix(".json")) as described:
        np.testing.assert_array_equal(
            described.separate(mix, RATE)["vocals"], separator.separate(mix, RATE)["vocals"]
        )


def test_the_manifest_opens_the_engine_of_the_backend(make_engine):
    path = make_engine("level")
    manifest = load_manifest(path)
    plan = dataclasses.replace(manifest.engines[0], file="level.plan", backend="tensorrt")
    manifest = dataclasses.replace(manifest, engines=(plan, *manifest.engines))
    path.with_suffix(".json").write_text(manifest.to_json())
    with opened(path.with_suffix(".json")) as separator:
        assert separator.backend == "onnxruntime"
    with pytest.raises(EngineLoadError, match=r"level.plan: (no such engine|tensorrt is not installed)"):
        Separator(path.with_suffix(".json"))
