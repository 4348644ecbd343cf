"""Published recipes against the original scripts, one stand-in for the networks of both (tests/golden)."""

import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from golden.files import read
from golden.seeded import coefficients, loud_song
from golden.seeded import song as golden_song
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor, make_tensor_value_info

from rofo import Options
from rofo.engines.contract import Shapes
from rofo.manifest import ChunkSize, EngineFile, Manifest, OverlapAdd, Source, Stft, file_sha256
from rofo.recipes.combine import HOP, Combine
from rofo.recipes.quietest import Quietest
from rofo.recipes.spool import Spool
from rofo.recipes.step import Settings
from rofo.watch import Watch

FOLDER = Path(__file__).parents[3] / "checkpoints" / "recipes"
FLOAT = onnx.TensorProto.FLOAT
DEMUCS = ("drums", "bass", "other", "vocals", "guitar", "piano")


def write_pointwise(path, name, stems, rate=44100, gain=1.0, scheme="fade", chunk=2000):
    """The engine of `golden.seeded.pointwise`: waveforms a x + b x^2, and nothing in the spectra."""
    stft = Stft(256, 64)
    entry = EngineFile(f"{path.stem}.onnx", "onnx", "opset 23", "fp32", (), 1, "0" * 64)
    manifest = Manifest(
        name=name, architecture="test", sample_rate=rate, channels=2, stems=stems, residual=None, stft=stft,
        chunk=ChunkSize(chunk, stft.frames(chunk)), overlap_add=OverlapAdd(scheme, 0.5), normalize=False,
        source=Source("test.ckpt", "0" * 64, {}, "0", "0"), parity=(), inputs=("mix", "waveform"),
        outputs=("stems", "waveforms"), engines=(entry,),
    )  # fmt: skip
    shapes = Shapes.of(manifest, 1)
    pairs = np.float32(gain) * np.array(coefficients(name, len(stems)), np.float32)
    constants = [
        make_tensor(key, FLOAT, (1, len(stems), 1, 1), pairs[:, i]) for i, key in enumerate(("a", "b"))
    ]
    constants += [
        make_tensor("nothing", FLOAT, (1, len(stems), 1, 1, 1, 1), np.zeros(len(stems))),
        make_tensor("one", onnx.TensorProto.INT64, [1], [1]),
    ]
    nodes = [
        make_node("Unsqueeze", ["waveform", "one"], ["x"]),
        make_node("Mul", ["x", "x"], ["square"]),
        make_node("Mul", ["x", "a"], ["linear"]),
        make_node("Mul", ["square", "b"], ["bent"]),
        make_node("Add", ["linear", "bent"], ["waveforms"]),
        make_node("Unsqueeze", ["mix", "one"], ["each"]),
        make_node("Mul", ["each", "nothing"], ["stems"]),
    ]
    inputs, outputs = (
        [make_tensor_value_info(tensor, FLOAT, shape) for tensor, shape in tensors.items()]
        for tensors in (shapes.inputs, shapes.outputs)
    )
    graph = make_graph(nodes, name, inputs, outputs, initializer=constants)
    file = path.with_name(entry.file)
    onnx.save(make_model(graph, opset_imports=[make_opsetid("", 23)], ir_version=10), file)
    path.write_text(replace(manifest, engines=(replace(entry, sha256=file_sha256(file)),)).to_json())


def lay_out(recipe, folder, stems, **options):
    """A published recipe beside pointwise engines called as they are in it; `stems` by that name."""
    text = (FOLDER / f"{recipe}.toml").read_text()
    for name, entry in tomllib.loads(text)["engines"].items():
        write_pointwise(folder / entry["file"], name, stems(name), **{k: v(name) for k, v in options.items()})
    (folder / f"{recipe}.toml").write_text(text)
    return folder / f"{recipe}.toml"


@pytest.mark.parametrize(
    ("recipe", "case"), [("mvsep_mdx23", "two MDX-Nets"), ("mvsep_mdx23_single_onnx", "single_onnx")]
)
def test_mvsep_mdx23(recipe, case, opened, tmp_path, snr_db):
    def stems(name):
        known = {"kim_vocal": ("vocals",), "kim_inst": ("instrumental",)}
        return known.get(name, DEMUCS[: 6 if name == "six" else 4])

    golden = read("mvsep_system").cases[case]
    path = lay_out(recipe, tmp_path, stems, scheme=lambda name: "fade" if "kim" in name else "triangular")
    mix = loud_song()
    with opened(path) as separator:
        got = separator.separate(mix, 44100)
    for stem, want in golden.outputs.items():
        assert snr_db(want, got[stem]) > 110
    np.testing.assert_allclose(got["instrumental"], mix - got["vocals"], atol=1e-6)
    # What each network is asked for, and with which overlap; the song is loud enough for clip to matter.
    runs = [step for step in tomllib.loads(path.read_text())["steps"] if "run" in step]
    said = {step["run"]: step["overlap"] for step in runs}
    calls = dict(golden.facts["calls"])
    assert {name: overlap for name, overlap in said.items() if name in calls} == {
        name: overlap for name, overlap in calls.items() if name != "ft"
    }
    assert {said[name] for name in ("ft_drums", "ft_bass", "ft_other")} == {calls["ft"]} == {0.5}
    plain = path.read_text().replace('clip = "left_', 'limit = 99\nclip = "left_')
    path.write_text(plain)
    with opened(path) as separator:
        unclipped = separator.separate(mix, 44100)
    assert snr_db(golden.outputs["drums"], unclipped["drums"]) < 60


@pytest.mark.parametrize("board", ["A", "B"])
def test_kuielab_sdx23(board, opened, tmp_path, snr_db):
    path = lay_out(f"kuielab_sdx23_{board.lower()}", tmp_path, lambda _: ("bass", "drums", "other", "vocals"))
    with opened(path) as separator:
        got = separator.separate(loud_song(), 44100)
    golden = read("sdx23_system").cases[board].outputs
    assert set(golden) == set(got)
    for stem, want in golden.items():
        assert want.shape == (2, 6000)
        assert snr_db(want, got[stem]) > 110


XLANCE = {"vox": "vocals", "gtr": "guitars", "syn": "synthesizers", "drums": "drums"}


@pytest.mark.parametrize("case", ["vox 0.5", "vox 0.01", "gtr 1.0", "syn 1.0", "drums 1.0"])
def test_xlance(case, opened, tmp_path, snr_db):
    golden = read("xlance").cases[case]
    key, gain = golden.facts["instrument"], golden.facts["gain"]

    def stems(name):
        return ({"denoise": "dry", "dereverb": "noreverb"}.get(name, XLANCE[key]),)

    path = lay_out(
        f"xlance_{key}", tmp_path, stems,
        rate=lambda name: 48000 if name.endswith("1") else 44100,
        gain=lambda name: gain if name == "dereverb" else 1.0,
    )  # fmt: skip
    with opened(path) as separator:
        for length, want in golden.outputs.items():
            got = separator.separate(golden_song(int(length)), 48000)[XLANCE[key]]
            assert snr_db(want, got[:, :: golden.facts["stride"]]) > 100


@pytest.mark.parametrize("case", ["vox 0.5", "vox 0.01", "syn 1.0"])
def test_xlance_for_long_files(case, opened, tmp_path, snr_db):
    """inference_full.py: the same recipe with `ramp` and chunks of 10 s of the file's samples."""
    golden = read("xlance_full").cases[case]
    key, gain, rate = (golden.facts[fact] for fact in ("instrument", "gain", "sample_rate"))

    def stems(name):
        return ({"denoise": "dry", "dereverb": "noreverb"}.get(name, XLANCE[key]),)

    path = lay_out(
        f"xlance_{key}", tmp_path, stems,
        rate=lambda name: 48000 if name.endswith("1") else 44100,
        gain=lambda name: gain if name == "dereverb" else 1.0,
        chunk=lambda _: 10 * rate,
    )  # fmt: skip
    path.write_text(path.read_text().replace("sample_rate = 48000", f"sample_rate = {rate}"))
    with opened(path) as separator:
        for length, want in golden.outputs.items():
            mix = golden_song(int(length))
            got = separator.separate(mix, rate, Options(scheme="ramp"))[XLANCE[key]]
            assert snr_db(want, got[:, :: golden.facts["stride"]]) > 100
            assert np.abs(got[:, 0]).max() < 1e-6
            faded = separator.separate(mix, rate)[XLANCE[key]]
            assert snr_db(want, faded[:, :: golden.facts["stride"]]) < 40


ENSEMBLES = {
    "avg_wave": ("average", "wave"), "median_wave": ("median", "wave"), "min_wave": ("min", "wave"),
    "max_wave": ("max", "wave"), "avg_fft": ("average", "fft"), "median_fft": ("median", "fft"),
    "min_fft": ("min", "fft"), "max_fft": ("max", "fft"), "uvr_max_spec": ("max", "fft"),
    "uvr_min_spec": ("min", "fft"), "ensemble_wav": ("quietest", None),
}  # fmt: skip


def made(step, signals):
    """What a step makes of signals {name: (channels, n)}, given in blocks of odd lengths."""
    watch, spools = Watch("test"), {}
    settings = Settings(44100, 2, {})
    (node,) = step.nodes(settings)
    for name, signal in signals.items():
        spools[name] = Spool()
        for begin in range(0, signal.shape[1], 1111):
            spools[name].write(0, signal[:, begin : begin + 1111])
    inputs = [spools[name] if node.whole else blocks_of(signals[name]) for name in node.inputs]
    return np.concatenate([block for _, block in node.stream(inputs, watch)], axis=-1)


def blocks_of(signal):
    return ((0, signal[:, begin : begin + 777]) for begin in range(0, signal.shape[1], 777))


@pytest.mark.parametrize("algorithm", ENSEMBLES)
def test_audio_separators_ensembles(algorithm, snr_db):
    kind, domain = ENSEMBLES[algorithm]
    loud, pause = golden_song(6000), golden_song(6000, silent=(0.3, 0.6))
    signals = {"a": loud, "b": pause[::-1] * np.float32(0.5), "c": loud[:, ::-1] * np.float32(0.75)}
    case = read("audio_separator_ensembles").cases[algorithm]
    weights = tuple(case.facts["weights"]) if kind == "average" else ()
    if domain is None:
        step = Quietest(("x",), tuple(signals))
    else:
        step = Combine(("x",), kind, tuple(signals), domain, weights)
    got, want = made(step, signals), case.outputs["stem"]
    assert got.shape == loud.shape
    # The tool's uvr_ algorithms leave out what is beyond a multiple of the hop.
    assert want.shape == (2, 6000 // HOP * HOP if algorithm.startswith("uvr") else 6000)
    assert snr_db(want, got[:, : want.shape[1]]) > 90


@pytest.mark.parametrize("samples", [1, 1023, 1024, 1025, 66_000, 150_001])
def test_spectra_of_one_signal_twice_are_that_signal(samples, song, snr_db):
    mix = song(samples)
    for kind in ("average", "median", "min", "max"):
        got = made(Combine(("x",), kind, ("a", "b"), "fft"), {"a": mix, "b": mix})
        assert got.shape == mix.shape
        # 1023 samples lie in one frame, whose window is nearly 0 at its end, as librosa has it.
        assert snr_db(mix, got) > (70 if samples == 1023 else 100)
