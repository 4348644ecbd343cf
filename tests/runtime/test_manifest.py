"""The manifest: what is written is read back, and nothing else is."""

import dataclasses
import json
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rofo import ManifestError, Separator, load_manifest
from rofo.dsp.hann import Hann
from rofo.dsp.triangular import Triangular
from rofo.errors import EngineLoadError, EngineMismatchError
from rofo.manifest import ChunkSize, Manifest, OverlapAdd, Parity, Source, Stft

CURE = "rofo-export"
DATA = {"data": "half.onnx.data", "data_sha256": "0" * 64}


@pytest.fixture
def engine(make_engine):
    """An engine whose files a test may damage."""
    return make_engine()


@pytest.fixture
def change(engine):
    """Change one entry of the manifest, found by keys, or remove it (None). Gives the engine's path."""

    def write(*keys, value):
        path = engine.with_suffix(".json")
        raw = json.loads(path.read_text())
        place = raw
        for key in keys[:-1]:
            place = place[key]
        if value is None:
            del place[keys[-1]]
        else:
            place[keys[-1]] = value
        path.write_text(json.dumps(raw))
        return engine

    return write


def refusal(path, kind=ManifestError):
    """The one line with which an engine is refused: file first, cure last."""
    with pytest.raises(kind) as caught:
        Separator(path)
    text = str(caught.value)
    assert type(caught.value) is kind
    assert "\n" not in text
    assert text.startswith(f"{path.with_suffix('')}.")
    assert CURE in text.rpartition(";")[2]
    return text


def test_what_is_written_is_read_back(make_engine):
    parity = (Parity("openvino", "fp32", 131.5), Parity("openvino", "bf16", 48.0))
    path = make_engine(stems=("drums", "bass"), residual=None, normalize=True, parity=parity)
    manifest = load_manifest(path)
    assert manifest == load_manifest(path.with_suffix(".json"))
    assert json.loads(manifest.to_json())["format"] == 1
    path.with_suffix(".json").write_text(manifest.to_json())
    assert load_manifest(path) == manifest
    assert manifest.stems == ("drums", "bass")
    assert isinstance(manifest.engines, tuple)
    assert manifest.snr_db("openvino", "bf16") == 48.0
    assert manifest.snr_db("onnxruntime", "fp32") is None


def test_a_manifest_of_before_there_were_schemes_stays_as_it_is(engine):
    path = engine.with_suffix(".json")
    raw = json.loads(path.read_text())
    assert "kind" not in raw
    assert raw["overlap_add"] == {"scheme": "fade", "overlap": 0.5}
    assert load_manifest(path).to_json() == path.read_text()


def test_an_overlap_may_be_left_to_the_scheme(change):
    for overlap_add in ({"scheme": "trim"}, {"scheme": "trim", "overlap": None}):
        assert load_manifest(change("overlap_add", value=overlap_add)).overlap_add == OverlapAdd("trim", None)
    assert load_manifest(change("overlap_add", value={})).overlap_add == OverlapAdd("fade", None)


def test_a_manifest_cannot_be_changed(engine):
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_manifest(engine).name = "other"


def test_stft_numbers():
    assert (Stft(2048, 441).bins, Stft(2048, 441).frames(352_800)) == (1025, 801)


# Other releases


OLD = Path(__file__).parent.parent / "fixtures" / "manifest-0.1.0.json"


def test_a_manifest_of_0_1_0_means_what_it_meant_and_stays_as_it_is():
    manifest = load_manifest(OLD)
    assert (manifest.inputs, manifest.outputs) == (("mix",), ("stems",))
    assert manifest.stft == Stft(256, 64, normalized=True)
    assert manifest.scheme() == Hann(4000, 256, 3000)
    assert [entry.backend for entry in manifest.engines] == ["onnx", "tensorrt-rtx"]
    assert manifest.to_json() == OLD.read_text()  # so that 0.1.0, which refuses unknown fields, reads it too


def test_what_0_1_0_does_not_know_is_written_where_it_matters(tmp_path):
    plain = load_manifest(OLD)
    stft = dataclasses.replace(plain.stft, window="rectangular", border=96, dropped_frames=2, top_bin=False)
    manifest = dataclasses.replace(
        plain,
        stft=stft,
        chunk=ChunkSize(4000, stft.frames(4000)),
        inputs=("mix", "waveform"),
        outputs=("stems", "waveforms"),
    )
    path = tmp_path / "later.json"
    path.write_text(manifest.to_json())
    assert load_manifest(path) == manifest
    raw, before = json.loads(manifest.to_json()), json.loads(OLD.read_text())
    assert raw.keys() - before.keys() == {"inputs", "outputs"}
    assert raw["stft"].keys() - before["stft"].keys() == {"border", "dropped_frames", "top_bin"}
    assert raw["format"] == 1


def test_an_engine_without_a_spectrogram_has_waveforms_alone(tmp_path):
    plain = load_manifest(OLD)
    made = partial(dataclasses.replace, plain, stft=None, chunk=ChunkSize(4000, 0))
    for inputs, outputs in ((plain.inputs, ("waveforms",)), (("waveform",), ("waveforms", "stems"))):
        with pytest.raises(ManifestError, match=r"waveforms? alone"):
            made(inputs=inputs, outputs=outputs)
    manifest = made(
        inputs=("waveform",), outputs=("waveforms",), overlap_add=OverlapAdd("triangular", None, 3000)
    )
    path = tmp_path / "wave.json"
    path.write_text(manifest.to_json())
    assert load_manifest(path) == manifest
    assert json.loads(path.read_text())["stft"] is None
    assert manifest.scheme() == Triangular(3000, 2250, wide=4000)


# Several exports of one model


@pytest.fixture
def both():
    """A manifest with an .onnx file and a plan."""
    return load_manifest(OLD)


def only(manifest, *files, **changes):
    """The manifest of an export that made these files only, with what was measured of their kind."""
    engines = tuple(entry for entry in manifest.engines if entry.file in files)
    onnx = {entry.backend for entry in engines} == {"onnx"}
    parity = tuple(p for p in manifest.parity if (p.backend == "openvino") == onnx)
    return dataclasses.replace(manifest, engines=engines, parity=parity, **changes)


def test_another_target_is_added(both):
    onnx, plan = only(both, "tiny.onnx"), only(both, "tiny.plan")
    assert onnx.joined(plan) == both
    assert onnx.joined(onnx) == onnx
    assert plan.joined(onnx).engines == both.engines[::-1]
    assert set(plan.joined(onnx).parity) == set(both.parity)


def test_an_engine_of_the_same_name_is_replaced_where_it_stands(both):
    entry = dataclasses.replace(both.engines[0], batch=4, sha256="5" * 64)
    measured = (Parity("openvino", "fp32", 90.0),)
    source = dataclasses.replace(both.source, exporter="0.2.0", torch="3.0", checkpoint="renamed.ckpt")
    newer = dataclasses.replace(both, engines=(entry,), parity=measured, source=source)
    joined = both.joined(newer)
    assert joined.engines == (entry, both.engines[1])
    # The bf16 figure was the old file's.
    assert set(joined.parity) == {*measured, both.parity[2]}
    assert joined.source == source


def test_a_plan_for_another_library_takes_the_place_of_the_first(both):
    """Both are called NAME.plan."""
    entry = dataclasses.replace(both.engines[1], backend="tensorrt", backend_version="10.14")
    joined = both.joined(dataclasses.replace(both, engines=(entry,), parity=()))
    assert joined.engines == (both.engines[0], entry)
    assert joined.parity == both.parity[:2]


@pytest.mark.parametrize(
    "change",
    [
        {"source": Source("tiny.ckpt", "6" * 64, {}, "0.1.0", "2.13.0")},
        {"chunk": ChunkSize(8000, 126)},
        {"stems": ("vocals", "bass")},
        {"overlap_add": OverlapAdd("hann", 0.5)},
        {"normalize": False},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_manifest_of_another_model_is_replaced(both, change):
    newer = only(both, "tiny.plan", **change)
    assert only(both, "tiny.onnx").joined(newer) is newer


def test_a_config_is_compared_as_it_is_written(both):
    source = dataclasses.replace(both.source, config={"model": {"freqs": (1, 2)}})
    newer = only(both, "tiny.plan", source=source)
    written = dataclasses.replace(source, config={"model": {"freqs": [1, 2]}})
    assert len(only(both, "tiny.onnx", source=written).joined(newer).engines) == 2


# Damaged files


def test_a_missing_manifest(engine):
    engine.with_suffix(".json").unlink()
    assert "no manifest" in refusal(engine)


def test_a_folder_in_its_place(engine):
    engine.with_suffix(".json").unlink()
    engine.with_suffix(".json").mkdir()
    refusal(engine)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"[]", b'"text"', b"\xff\xfe", b"[" * 100_000, b'{"format": ' + b"1" * 5000 + b"}"],
)
def test_not_a_manifest_at_all(engine, content):
    engine.with_suffix(".json").write_bytes(content)
    refusal(engine)


@pytest.mark.parametrize("version", [0, 2, "1", True, [1], None])
def test_another_format_number(change, version):
    engine = change("format", value=version)
    assert "this rofo reads 1" in refusal(engine)


FIELDS = [field.name for field in dataclasses.fields(Manifest) if field.default is dataclasses.MISSING]


@pytest.mark.parametrize("field", FIELDS)
def test_a_missing_field_is_named(change, field):
    assert f"lacks {field}" in refusal(change(field, value=None))


@pytest.mark.parametrize("field", [f for f in FIELDS if f != "residual"])
@pytest.mark.parametrize("value", [3.5, {"what": 1}, ["x", 1], "?" * 3])
def test_a_mistyped_field_is_named(change, field, value):
    if field in ("name", "architecture") and isinstance(value, str):
        value = 7
    assert field in refusal(change(field, value=value))


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        (("surprise",), 1, "unknown fields: surprise"),
        (("stft", "sur\nprise"), 1, "manifest.stft has unknown fields: sur prise"),
        (("stft", "n_fft"), 255, "stft.n_fft"),
        (("stft", "n_fft"), True, "stft.n_fft"),
        (("stft", "hop_length"), 0, "stft.hop_length"),
        (("stft", "hop_length"), 129, "stft.hop_length"),
        (("stft", "window"), "hamming", "stft.window"),
        (("stft", "centre"), 1, "stft.centre"),
        (("stft", "border"), -1, "stft.border"),
        (("stft", "border"), 4000, "chunk.samples is 4000, not more than the 4032 put around"),
        (("stft", "dropped_frames"), -1, "stft.dropped_frames"),
        (("stft", "dropped_frames"), 32, "stft.dropped_frames is 32, which leaves none"),
        (("stft",), {"n_fft": 256, "hop_length": 64, "border": 9, "even_frames": True}, "exclude each other"),
        (
            ("stft",),
            {"n_fft": 256, "hop_length": 64, "normalized": True, "window_normalized": True},
            "stft.normalized and stft.window_normalized exclude each other",
        ),
        (("stft", "padding"), "circular", "stft.padding is 'circular'"),
        (("chunk",), {"samples": 4000, "frames": 0}, "chunk.frames is 0, should be 63"),
        (("overlap_add", "segment"), 4001, "segment is 4001, not within the chunk of 4000"),
        (("overlap_add", "segment"), 0, "segment is 0, not within the chunk"),
        (("overlap_add", "segment"), 3000, "gives chunks no context, this engine needs 1000 samples"),
        (("inputs",), ["waveform"], "inputs are waveform, should be mix and others"),
        (("inputs",), ["mix", "mix"], "inputs are mix, mix"),
        (("outputs",), ["stems", "sound"], "manifest.outputs[1] is 'sound'"),
        (("chunk", "samples"), 128, "chunk.samples"),
        (("chunk", "frames"), 64, "chunk.frames is 64, should be 63"),
        (("overlap_add", "overlap"), 1, "overlap"),
        (("overlap_add", "overlap"), float("nan"), "overlap"),
        (("overlap_add", "overlap"), 10**400, "overlap"),
        (("overlap_add", "scheme"), "other", "scheme"),
        (("overlap_add", "scheme"), "trim", "scheme trim has no overlap to choose"),
        (("overlap_add",), {"scheme": "hann", "overlap": 1.5}, "overlap is 1.5"),
        (("kind",), "engine", "kind is 'engine'"),
        (("kind",), "mixer", "manifest has unknown fields: architecture"),
        (("sample_rate",), 0, "sample_rate"),
        (("channels",), 6, "channels"),
        (("stems",), [], "stems is empty"),
        (("stems",), ["vocals", "Vocals"], "repeat"),
        (("residual",), "VOCALS", "repeat"),
        (("engines",), [], "engines is empty"),
        (("engines", 0, "batch"), 0, "batch"),
        (("engines", 0, "backend"), 1, "backend"),
        (("engines", 0, "sha256"), "ABC", "is not a sha256"),
        (("engines", 0, "sha256"), "", "is not a sha256"),
        (("engines", 0, "data"), "x.data", "go together"),
        (("engines", 0, "onnx_sha256"), "", "is not a sha256"),
        (("engines", 0, "device_memory"), -1, "device_memory"),
        (("engines", 0, "device_memory"), 1.5, "device_memory"),
        (("engines", 0, "launches"), 0, "the launches of"),
    ],
)
def test_impossible_values_are_named(change, keys, value, said):
    assert said in refusal(change(*keys, value=value))


HOSTILE = [
    "../secret",
    "/etc/passwd",
    "a/b",
    "..",
    ".",
    "",
    "a\\b",
    "nul\0",
    "line\nbreak",
    "\ud800",
    "a" * 256,
]


@pytest.mark.parametrize("name", HOSTILE)
def test_files_are_only_beside_the_manifest(engine, change, name):
    assert "not a plain file name" in refusal(change("engines", 0, "file", value=name))
    change("engines", 0, "file", value=engine.name)
    change("engines", 0, "data_sha256", value="0" * 64)
    assert "not a plain file name" in refusal(change("engines", 0, "data", value=name))


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a\0b", "nl\n", "a:b", "-rf", "ü" * 126])
def test_stems_can_name_files(change, name):
    assert "cannot name a file" in refusal(change("stems", value=[name]))


# Engine files that are not those of the manifest


def test_an_altered_engine(engine):
    content = bytearray(engine.read_bytes())
    content[-1] ^= 1
    engine.write_bytes(content)
    assert "sha256 differs" in refusal(engine, EngineMismatchError)


def test_a_truncated_engine(engine):
    engine.write_bytes(engine.read_bytes()[:-10])
    assert "cut short" in refusal(engine, EngineMismatchError)


def test_a_missing_data_file(engine, change):
    for key, value in DATA.items():
        change("engines", 0, key, value=value)
    text = refusal(engine.with_name("half.onnx"), EngineMismatchError)
    assert text.startswith(f"{engine}.data: No such file")


def test_an_altered_data_file(engine, change):
    for key, value in DATA.items():
        change("engines", 0, key, value=value)
    engine.with_name(DATA["data"]).write_bytes(b"other weights")
    assert "sha256 differs" in refusal(engine, EngineMismatchError)


def test_the_manifest_of_another_engine(engine, make_engine):
    other = make_engine("level")
    engine.with_suffix(".json").write_text(other.with_suffix(".json").read_text())
    assert "describes only level.onnx" in refusal(engine, EngineMismatchError)


def test_a_manifest_beside_no_engine(engine):
    engine.unlink()
    refusal(engine, EngineLoadError)


# Anything at all

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(data=st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_mutated_manifest_is_a_manifest_or_a_manifest_error(engine, tmp_path, data):
    raw = json.loads(engine.with_suffix(".json").read_text())
    for _ in range(data.draw(st.integers(1, 3))):
        mutate(raw, data)
    path = tmp_path / "mutated.json"
    path.write_text(json.dumps(raw))
    try:
        manifest = load_manifest(path)
    except ManifestError as error:
        assert str(error).startswith(f"{path}: ")
        assert "\n" not in str(error)
    else:
        path.write_text(manifest.to_json())
        assert load_manifest(path).to_json() == manifest.to_json()


def mutate(raw, data):
    """Replace, remove or add one entry somewhere."""
    place = raw
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], dict | list) or data.draw(st.booleans()):
            break
        place = place[key]
    action = data.draw(st.sampled_from(["replace", "remove", "add"]))
    if action == "remove":
        del place[key]
    elif action == "add" and isinstance(place, dict):
        place[data.draw(st.text(max_size=5))] = data.draw(JSON)
    else:
        place[key] = data.draw(JSON)


@given(st.binary(max_size=200))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_a_manifest_error(tmp_path, content):
    path = tmp_path / "any.json"
    path.write_bytes(content)
    with pytest.raises(ManifestError):
        load_manifest(path)
