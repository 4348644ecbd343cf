"""Demucs of one branch, v1 to v3: networks, engines and whole songs against facebook's (tests/golden)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from demucs_packages import save_old_package, save_package, write_msst
from golden.checkpoints import state_dict
from golden.files import Case, read
from golden.seeded import song
from oracle import snr_db

from rofo import Options, Separator, UsageError
from rofo.export import CheckpointError, ExportOptions, export_checkpoint
from rofo.export.families import Description, describe, find_family, load_network
from rofo.export.graph.trace import run_network
from rofo.export.graph.types import Form
from rofo.export.model import Model
from rofo.export.source import read_source
from rofo.manifest import load_engine_manifest

V3, V2, V1 = (read(f"demucs_{name}").cases for name in ("wave", "v2", "v1"))
SEGMENTS = {name: case for name, case in {**V3, **V2, **V1}.items() if not name.startswith("song")}


def write(case: Case, folder: Path) -> Path:
    """A package of the release that the case is of, with float32 weights, which those of v3 have not."""
    if case in V1.values():
        return save_old_package(case, folder, sources=len(case.facts["sources"]))
    if case in V2.values():
        return save_old_package(case, folder)
    return save_package(case, folder, state=state_dict(case))


def through(case: Case, folder: Path, form: Form | None = None) -> tuple[np.ndarray, np.ndarray]:
    """What the original gave of one segment with zeros around it, and what the plain network gives, or that
    of a form."""
    source = read_source(write(case, folder))
    family = find_family(source)
    model = Model.of(family, source, describe(family, source), "golden")
    assert model.stft is None
    network = load_network(family, source, model.facts)
    if form:
        network = family.engine(network, model.facts, form)
    segment = case.facts["segment"]
    before = (model.chunk.samples - segment) // 2
    chunk = np.zeros((2, model.chunk.samples), np.float32)
    mix = song(segment)
    mono = mix.mean(axis=0)
    # apply_model of v1's case levels the song first.
    level, deviation = (mono.mean(), mono.std(ddof=1)) if case in V1.values() else (0, 1)
    chunk[:, before : before + segment] = (mix - level) / deviation
    found = run_network(network, {"waveform": chunk[None]})["waveforms"][0] * deviation + level
    return case.outputs["stems"], found[..., before : before + segment][..., :: case.facts["stride"]]


# A v3 levels what it is given: zeros that stand around in the place of context would be heard.
LEVELLED = ("demucs", "demucs of long levels")


@pytest.mark.parametrize("name", [name for name in SEGMENTS if name not in LEVELLED])
def test_the_plain_network_is_the_originals(name, tmp_path):
    # What a v2 divides by, 1.00001, is heard below 125 dB. A v3's sums are 134 dB on one thread, 119 on two.
    assert snr_db(*through(SEGMENTS[name], tmp_path)) > (115 if name in V3 else 125)


def in_graph(case: Case, folder: Path, form: Form | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The same for a network that puts the zeros around its input itself, after it has levelled that."""
    path, config = write_msst(case, folder, inference={"num_overlap": 4})
    source = read_source(path)
    family = find_family(source)
    model = Model.of(family, source, describe(family, source, config), "golden")
    assert model.chunk.samples == case.facts["segment"]
    network = load_network(family, source, model.facts)
    if form:
        network = family.engine(network, model.facts, form)
    found = run_network(network, {"waveform": song(case.facts["segment"])[None]})
    return case.outputs["stems"], found["waveforms"][0][..., :: case.facts["stride"]]


@pytest.mark.parametrize("name", [name for name in V3 if name in SEGMENTS])
def test_so_is_that_of_a_yaml_of_msst(name, tmp_path):
    assert snr_db(*in_graph(V3[name], tmp_path)) > 110


@pytest.mark.parametrize(("form", "least"), [(Form(), 105), (Form("tensorrt", "fp16"), 40)], ids=str)
def test_so_are_their_engines(form, least, tmp_path):
    assert snr_db(*in_graph(V3["demucs of long levels"], tmp_path, form)) > least
    assert snr_db(*through(V2["demucs_v2"], tmp_path, form)) > least


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
@pytest.mark.parametrize(("cases", "least"), [(V3, 120), (V2, 95), (V1, 105)], ids=["v3", "v2", "v1"])
def test_songs_are_those_of_apply_model(cases, least, backend, tmp_path):
    """Until the chunk begins that the original gives the network in its own length.

    A v3 levels its chunks again; a v2 hears that its original divides a song's squares by n - 1, not by n.
    """
    songs = {name: case for name, case in cases.items() if name.startswith("song")}
    first = next(iter(songs.values()))
    engine = export_checkpoint(write(first, tmp_path), ExportOptions(verify=False)).files[0]
    with Separator(engine, backend=backend, precision="fp32") as separator:
        for name, case in songs.items():
            facts = case.facts
            chosen = Options(overlap=facts.get("overlap"), shifts=len(facts.get("offsets", ())))
            stems = separator.separate(song(facts["length"]), facts["rate"], chosen)
            got = np.stack(list(stems.values()))[..., :: facts["stride"]]
            lead = 22050 - facts["offsets"][0] if facts.get("offsets") else 0
            step = int((1 - facts.get("overlap", 0)) * facts["segment"])
            starts = np.arange(-lead, facts["length"], step)
            short = starts[starts + facts["segment"] > facts["length"]][0]
            same = slice(short // facts["stride"])
            wanted = case.outputs["stems"]
            assert got.shape == wanted.shape
            print(name, backend, snr_db(wanted[..., same], got[..., same]), snr_db(wanted, got))
            assert snr_db(wanted[..., same], got[..., same]) > least, name


def described(path: Path, config: Path | None = None, **given: object) -> Description:
    source = read_source(path)
    return describe(find_family(source), source, config, given)


def test_a_package_of_v3_says_everything(tmp_path):
    facts = described(write(V3["demucs"], tmp_path)).require()
    wanted = {
        "architecture": "demucs", "spectrogram": False, "stems": ("drums", "vocals"), "residual": None,
        "segment": 16384, "chunk": 17066, "scheme": "triangular", "normalize": True, "levelled": True,
        "resample": True, "gelu": True, "lstm_layers": 0, "dconv_lstm": 4, "context": 1, "n_fft": None,
    }  # fmt: skip
    assert {name: facts.get(name) for name in wanted} == wanted


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "the format before 2020"])
def test_v1_and_v2_are_told_by_their_packages(zipped, tmp_path):
    first = described(save_old_package(V1["demucs_v1"], tmp_path, zipped=zipped, sources=4)).require()
    wanted = ("demucs_v1", ("drums", "bass", "other", "vocals"), 10 * 8000, "average", 0.0, False, True)
    names = ("architecture", "stems", "chunk", "scheme", "overlap", "resample", "normalize")
    assert tuple(first.get(name) for name in names) == wanted
    second = described(save_old_package(V2["demucs_v2"], tmp_path, zipped=zipped)).require()
    assert (second["architecture"], second["segment"], second["resample"]) == ("demucs_v2", 16384, True)


def test_a_bare_state_dict_is_a_v2_of_the_release(tmp_path):
    """Its files are state dicts of one class, 40 s long, whose stems only the code beside them says."""
    torch.save(state_dict(V1["demucs_v1"]), tmp_path / "demucs-e07c671f.th")
    facts = described(tmp_path / "demucs-e07c671f.th").require()
    wanted = ("demucs_v2", 40 * 44100, True, ("drums", "bass", "other", "vocals"), None, False)
    names = ("architecture", "segment", "resample", "stems", "residual", "levelled")
    assert tuple(facts.get(name) for name in names) == wanted


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"glu": False}, "demucs.glu is False, only True is supported"),
        ({"gelu": 1}, "demucs.gelu is 1, not true or false"),
        ({"stride": 3}, "stride is 3, which is not supported"),
        ({"channels": 16}, "width is 16 but 8 in the weights"),
        ({"time_stride": 2}, "demucs.time_stride is not an option of this network"),
    ],
)
def test_what_is_not_supported_is_named(model, message, tmp_path):
    path, config = write_msst(V3["demucs"], tmp_path, **model)
    assert any(message in problem for problem in described(path, config).problems)


@pytest.mark.parametrize("name", ["hdemucs", "htdemucs"])
def test_the_yaml_of_a_sibling_is_refused(name, tmp_path):
    path, config = write_msst(V3["demucs"], tmp_path)
    config.write_text(
        config.read_text().replace("demucs:", f"{name}:").replace("model: demucs", f"model: {name}")
    )
    with pytest.raises(CheckpointError, match=f"describes {name}|architecture is '{name}' but 'demucs'"):
        described(path, config).require()


def test_an_engine_without_a_spectrogram(tmp_path):
    """Its manifest says so, it passes the gate, keeps silence, and has only the scheme that has context."""
    report = export_checkpoint(write(V3["demucs"], tmp_path))
    manifest = load_engine_manifest(report.files[0])
    assert (manifest.stft, manifest.inputs, manifest.outputs) == (None, ("waveform",), ("waveforms",))
    assert (manifest.chunk.frames, manifest.overlap_add.segment) == (0, 16384)
    fp32 = manifest.parity[0]
    assert fp32.snr_db > 100
    assert fp32.keeps_silence
    with Separator(report.files[0]) as separator:
        with pytest.raises(
            UsageError, match="scheme fade gives chunks no context, this engine needs 682 samples"
        ):
            separator.separate(song(20_000), 44100, Options(scheme="fade"))
        mono = separator.separate(song(20_000, 1), 44100)
        silent = separator.separate(np.zeros((2, 50_000), np.float32), 44100)
    assert all(stem.shape == (1, 20_000) for stem in mono.values())
    assert not any(stem.any() for stem in silent.values())


def test_another_scheme_is_for_the_exporter_to_choose(tmp_path):
    """The zeros around a chunk are then in the graph."""
    options = ExportOptions(given={"scheme": "fade"}, verify=False)
    (file, *_) = export_checkpoint(write(V2["demucs_v2"], tmp_path), options).files
    manifest = load_engine_manifest(file)
    assert (manifest.chunk.samples, manifest.overlap_add.segment) == (16384, None)
    with Separator(file) as separator:
        stems = separator.separate(song(20_000), 44100)
        assert set(stems) == {"drums", "vocals"}
        other = separator.separate(song(20_000), 44100, Options(scheme="hann", overlap=0.5))
    assert snr_db(stems["drums"], other["drums"]) > 0


def test_a_v2_makes_sound_of_silence_as_its_original_does(tmp_path):
    """Its biases are not multiplied by the deviation of anything, and the gate does not ask for silence."""
    (fp32, *_) = export_checkpoint(write(V2["demucs_v2"], tmp_path)).parity
    assert fp32.snr_db > 100
    assert not fp32.keeps_silence
