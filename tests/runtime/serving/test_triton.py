"""What the models of a Triton repository answer, in a stand-in for Triton. Really: benchmarks/triton.py."""

import io
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from triton_standin import Request, Tensor, TritonError, parsed, stand_in

import rofo
from rofo.errors import EngineMismatchError, UsageError
from rofo.export.cli import main
from rofo.export.triton import ServingOptions, write_repository
from rofo.manifest import Member, MixerManifest, file_sha256, load_manifest


@pytest.fixture
def triton(monkeypatch):
    return stand_in(monkeypatch)


@pytest.fixture
def serve(triton, tmp_path):
    """Write a repository for an engine and load all its models."""

    def start(engine, **options):
        for model in write_repository(engine, tmp_path / "models", options=ServingOptions(**options)):
            triton.load(model)
        return triton

    return start


@pytest.fixture
def wav(song):
    """The bytes of a WAV file."""

    def make(samples=9000, gain=1):
        file = io.BytesIO()
        soundfile.write(file, gain * song(samples).T, 44100, "FLOAT", format="WAV", closefd=False)
        return file.getvalue()

    return make


def to_bytes(raw):
    return np.frombuffer(raw, np.uint8)


def outputs_of(response):
    assert not response.has_error(), response.error().message()
    return {tensor.name(): np.from_dlpack(tensor).tobytes() for tensor in response.output_tensors()}


def run_here(engine, raw, folder, **options):
    """What rofo-run makes of the same bytes."""
    (folder / "audio").write_bytes(raw)
    with rofo.Separator(engine) as separator:
        paths = separator.separate_file(folder / "audio", folder / "here", rofo.Options(**options))
    return {stem: path.read_bytes() for stem, path in paths.items()}


@pytest.mark.parametrize("batch", [1, 3])
def test_the_stems_are_those_of_rofo_run(serve, make_engine, wav, tmp_path, batch):
    engine = make_engine("level", batch=batch)
    triton = serve(engine)
    outputs = outputs_of(triton.ask("level", {"audio": to_bytes(wav())}))
    report = json.loads(outputs.pop("report"))
    assert outputs == run_here(engine, wav(), tmp_path)
    assert report["stems"] == {"vocals": "vocals.wav", "instrumental": "instrumental.wav"}
    assert report["seconds"] == pytest.approx(9000 / 44100)
    assert report["warnings"] == []
    assert set(triton.called) == {"level_network"}


def test_only_what_is_asked_for_is_made_as_the_options_say(serve, make_engine, wav, tmp_path):
    engine = make_engine("level")
    triton = serve(engine)
    options = json.dumps({"overlap": 0.25, "container": "flac", "channels": [1]}).encode()
    inputs = {"audio": to_bytes(wav()), "options": to_bytes(options)}
    outputs = outputs_of(triton.ask("level", inputs, ["instrumental", "report"]))
    assert json.loads(outputs.pop("report"))["stems"] == {"instrumental": "instrumental.flac"}
    chosen = {"stems": ["instrumental"], "overlap": 0.25, "container": "flac", "channels": [1]}
    assert outputs == run_here(engine, wav(), tmp_path, **chosen)


def test_chunks_of_different_songs_share_a_run(serve, make_engine, monkeypatch):
    triton = serve(make_engine("level", batch=3))
    model, runs = triton.models["level_network"], []
    real = model._engine.run
    monkeypatch.setattr(model._engine, "run", lambda inputs: runs.append(inputs["mix"]) or real(inputs))
    config = triton.configs["level_network"]
    (mix,) = config["input"]
    rng = np.random.default_rng(0)
    chunks = [rng.normal(size=(1, *mix["dims"])).astype(np.float32) for _ in range(2)]
    together = triton.run("level_network", [Request([Tensor("mix", c)], ["stems"]) for c in chunks])
    assert [batch.shape[0] for batch in runs] == [3]
    assert np.array_equal(runs[0], np.concatenate([*chunks, np.zeros_like(chunks[0])]))
    for chunk, response in zip(chunks, together, strict=True):
        alone = triton.ask("level_network", {"mix": chunk})
        assert outputs_of(response) == outputs_of(alone)


def broken(kind, wav):
    samples = np.zeros((1000, 2), np.float32)
    samples[7, 0] = np.nan
    if kind == "nan":
        file = io.BytesIO()
        soundfile.write(file, samples, 44100, "FLOAT", format="WAV", closefd=False)
        return file.getvalue()
    return {"short": wav()[:20_000], "empty": b"", "text": b"no sound at all " * 99}[kind]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("nan", "audio: 1 non-finite samples, first at 0.000 s"),
        ("short", "audio: file is cut short"),
        ("empty", "audio: "),
        ("text", "audio: "),
    ],
)
def test_bad_audio_is_refused_in_one_line(serve, make_engine, wav, kind, words):
    response = serve(make_engine("level")).ask("level", {"audio": to_bytes(broken(kind, wav))})
    error = response.error()
    assert error.code() is TritonError.INVALID_ARG
    assert error.message().startswith(words)
    assert "\n" not in error.message()
    assert "/" not in error.message().split(";")[0], "a path of the server"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (b"{", "options are not JSON"),
        (b'{"overlaps": 1}', "unknown fields: overlaps"),
        (b'{"overlap": "much"}', "options.overlap is 'much'"),
        (b'{"scheme": "none"}', "none"),
        (b'{"channels": [0, "1"]}', "options.channels[1] is '1'"),
    ],
)
def test_wrong_options_are_refused_in_one_line(serve, make_engine, wav, options, words):
    inputs = {"audio": to_bytes(wav()), "options": to_bytes(options)}
    error = serve(make_engine("level")).ask("level", inputs).error()
    assert error.code() is TritonError.INVALID_ARG
    assert words in error.message()
    assert "\n" not in error.message()


def test_a_network_that_is_away_makes_the_song_unavailable(serve, make_engine, wav):
    triton = serve(make_engine("level"))
    network = triton.models.pop("level_network")
    error = triton.ask("level", {"audio": to_bytes(wav())}).error()
    assert error.code() is TritonError.UNAVAILABLE
    assert error.message() == "level_network: unknown model level_network"
    triton.models["level_network"] = network
    assert outputs_of(triton.ask("level", {"audio": to_bytes(wav())}))


def test_an_engine_that_returns_nan_is_an_error_of_the_server(serve, make_engine, wav):
    response = serve(make_engine("nan_when_loud")).ask("nan_when_loud", {"audio": to_bytes(wav(gain=20))})
    assert response.error().code() is TritonError.INTERNAL
    assert "not finite" in response.error().message()


def test_a_cancelled_song_ends_between_chunks(serve, make_engine, wav):
    triton = serve(make_engine("level"))
    raw = wav(4000 * 40)
    outputs_of(triton.ask("level", {"audio": to_bytes(raw)}))
    whole = len(triton.called)
    triton.called.clear()
    response = triton.ask("level", {"audio": to_bytes(raw)}, cancelled=lambda: len(triton.called) > 3)
    assert response.error().code() is TritonError.CANCELLED
    assert len(triton.called) < whole / 2


def test_a_bug_of_ours_is_an_answer_too(serve, make_engine, wav, monkeypatch):
    triton = serve(make_engine("level"))
    monkeypatch.setattr(rofo.Separator, "separate_file", lambda *_: 1 / 0)
    error = triton.ask("level", {"audio": to_bytes(wav())}).error()
    assert (error.code(), error.message()) == (TritonError.INTERNAL, "division by zero")


def test_a_recipe_is_served_as_it_is_run(serve, make_engine, wav, tmp_path):
    engine = make_engine("level", chunk=4096)
    recipe = engine.with_name("twice.toml")
    recipe.write_text(
        '[engines]\none = "level.json"\n'
        '[[steps]]\nmake = "a"\nrun = "one"\non = "mix"\nstem = "vocals"\noverlap = 0.25\n'
        '[[steps]]\nmake = "b"\nrun = "one"\non = "mix"\nstem = "vocals"\naugment = ["plain", "invert"]\n'
        '[[steps]]\nmake = "v"\nsum = { a = 1, b = 1 }\ndivide = 2\n'
        '[outputs]\nvocals = "v"\n'
    )
    triton = serve(recipe)
    outputs = outputs_of(triton.ask("twice", {"audio": to_bytes(wav())}, ["vocals"]))
    assert outputs == run_here(recipe, wav(), tmp_path)
    queue = triton.configs["level_network"]["dynamic_batching"]["default_queue_policy"]
    assert queue["max_queue_size"] >= 2 * 2 * 3, "two songs, two calls each, of three runs at a time"


def test_a_mixer_is_served_as_it_is_run(serve, make_engine, wav, tmp_path):
    engine = make_engine("level")
    mixer, source = engine.with_name("mixer.json"), load_manifest(engine).source
    member = Member("level.json", file_sha256(engine.with_suffix(".json")), "vocals")
    rows = ((2.0, 0.0, 0.1, 0.0), (0.0, 0.5, 0.0, 0.0))
    mixer.write_text(MixerManifest("mixer", 44100, 2, ("vocals",), (member,), rows, source).to_json())
    outputs = outputs_of(serve(mixer).ask("mixer", {"audio": to_bytes(wav())}, ["vocals"]))
    assert outputs == run_here(mixer, wav(), tmp_path)


def test_the_configuration_bounds_queues_and_warms_up(make_engine, tmp_path):
    engine = make_engine("level", batch=4, stems=("vocals", "bass & drums"), time_branch=True)
    options = ServingOptions(songs=3, queue=5, patience=7, delay=900)
    network, song = write_repository(engine, tmp_path, options=options)
    told, queues = parsed((song / "config.pbtxt").read_text()), {}
    assert told["name"] == song.name == "level"
    assert [tensor["name"] for tensor in told["output"]] == [
        "vocals",
        "bass & drums",
        "instrumental",
        "report",
    ]
    assert told["instance_group"] == [{"kind": "KIND_CPU", "count": 3}]
    queues["song"] = told["dynamic_batching"]["default_queue_policy"]
    assert queues["song"]["max_queue_size"] == 5
    assert queues["song"]["timeout_action"] == "REJECT"
    assert queues["song"]["default_timeout_microseconds"] == 7_000_000
    told = parsed((network / "config.pbtxt").read_text())
    assert told["name"] == network.name == "level_network"
    assert told["max_batch_size"] == 4
    shapes = {tensor["name"]: tensor["dims"] for tensor in told["input"]}
    assert shapes == {"mix": [2, 63, 129, 2], "waveform": [2, 4000]}
    assert told["dynamic_batching"]["max_queue_delay_microseconds"] == 900
    assert told["dynamic_batching"]["default_queue_policy"]["timeout_action"] == "REJECT"
    (warm,) = told["model_warmup"]
    assert {entry["key"]: entry["value"]["dims"] for entry in warm["inputs"]} == shapes
    assert warm["batch_size"] == 4


def plan_of(engine, backend, batch):
    """A manifest with a plan, which nothing here can run, beside the engine."""
    manifest = load_manifest(engine)
    plan = engine.with_suffix(".plan")
    plan.write_bytes(b"plan")
    entry = replace(
        manifest.engines[0], file=plan.name, backend=backend, precision="fp16", batch=batch,
        sha256=file_sha256(plan),
    )  # fmt: skip
    engine.with_suffix(".json").write_text(replace(manifest, engines=(*manifest.engines, entry)).to_json())
    return plan


@pytest.mark.parametrize(
    ("kind", "batch", "backend"),
    [("tensorrt", 1, "tensorrt"), ("tensorrt", 4, "python"), ("tensorrt-rtx", 1, "python")],
)
def test_triton_itself_runs_only_plans_that_it_can(make_engine, tmp_path, kind, batch, backend):
    engine = make_engine("level")
    plan = plan_of(engine, kind, batch)
    for asked, kinds in ((plan, ()), (engine.with_suffix(".json"), (kind,))):
        network, song = write_repository(asked, tmp_path / "models", kinds)
        told = parsed((network / "config.pbtxt").read_text())
        files = {path.name for path in (network / "1").iterdir()}
        assert told["backend"] == backend
        if backend == "tensorrt":
            assert (files, told["default_model_filename"]) == ({"level.plan"}, "level.plan")
            assert told["max_batch_size"] == 0
            assert told["input"][0]["dims"][0] == 1
        else:
            assert files == {"level.plan", "level.json", "model.py"}
            assert told["max_batch_size"] == batch
        setup = json.loads((song / "1" / "serving.json").read_text())
        assert setup["networks"][0]["calls"] == max(2, batch)


def test_a_repository_is_replaced_whole_and_what_else_is_there_stays(make_engine, tmp_path):
    models = tmp_path / "models"
    (models / "other").mkdir(parents=True)
    (models / "level" / "1").mkdir(parents=True)
    (models / "level" / "1" / "old").touch()
    write_repository(make_engine("level"), models)
    assert sorted(path.name for path in models.iterdir()) == ["level", "level_network", "other"]
    assert not (models / "level" / "1" / "old").exists()


def test_an_engine_that_was_altered_is_not_served(make_engine, tmp_path):
    engine = make_engine("level")
    engine.write_bytes(engine.read_bytes() + b"x")
    with pytest.raises(EngineMismatchError, match="sha256 differs"):
        write_repository(engine, tmp_path / "models")
    assert not list((tmp_path / "models").iterdir())


def test_two_models_of_one_name_are_refused(make_engine, tmp_path):
    recipe = make_engine("level").with_name("level_network.toml")
    recipe.write_text(
        '[engines]\none = "level.json"\n[[steps]]\nmake = "v"\nrun = "one"\non = "mix"\nstem = "vocals"\n'
        '[outputs]\nvocals = "v"\n'
    )
    with pytest.raises(UsageError, match="two models would have one name"):
        write_repository(recipe, tmp_path)


def test_a_plan_that_no_manifest_knows_is_refused(make_engine, tmp_path):
    engine = make_engine("level")
    with pytest.raises(EngineMismatchError, match=r"describes only level\.onnx"):
        write_repository(engine.with_suffix(".plan"), tmp_path)


def test_rofo_export_writes_a_repository_of_what_is_there(make_engine, tmp_path):
    """In a process without torch: the machine that serves need not have it."""
    engine = make_engine("level").with_suffix(".json")
    code = "import sys; sys.modules['torch'] = None; from rofo.export.cli import main; main()"
    command = [sys.executable, "-c", code, engine, "--triton", tmp_path / "models"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str(tmp_path / "models" / n) for n in ("level_network", "level")]


def test_rofo_export_writes_a_repository_of_what_it_makes(checkpoint, tmp_path, capsys):
    weights, config = checkpoint
    arguments = [
        weights,
        "--config",
        config,
        "--output",
        tmp_path / "tiny",
        "--target",
        "onnx",
        "--no-verify",
    ]
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in (*arguments, "--triton", tmp_path / "models")])
    assert ended.value.code == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "models" / "tiny")
    (network,) = (tmp_path / "models").glob("*_network")
    assert (network / "1" / "tiny.onnx").read_bytes() == (tmp_path / "tiny.onnx").read_bytes()
