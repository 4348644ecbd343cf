"""The section "Embedding" of runtime/README.md, run as it stands, and what it promises."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
import types
from math import prod
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from gpu_standin import Machine, plan_bytes

import rofo
from rofo.benchmarks.processes import measured
from rofo.cli import main
from rofo.engines.contract import Shapes
from rofo.manifest import Parity, file_sha256, load_manifest

RATE = 44100
README = Path(rofo.__file__).parent / "README.md"
SECTION = README.read_text(encoding="utf-8").split("\n## Embedding\n")[1].split("\n## ")[0]
BLOCKS = re.findall(r"^```python\n(.*?)^```", SECTION, re.DOTALL | re.MULTILINE)
ON_GPU = [block for block in BLOCKS if "cuda_stream" in block]
BACKENDS = ["openvino", "onnxruntime"]


def named(block):
    """The library of a block, or the first line that is its own."""
    return next((line for line in block.splitlines() if line and not line.startswith(("import rofo",))), "")


@pytest.fixture
def folder(make_engine, song, tmp_path):
    """Where the blocks are run: an engine `vocals` and two songs."""
    engine = make_engine("half", chunk=4000)
    (tmp_path / "vocals.onnx").write_bytes(engine.read_bytes())
    text = engine.with_suffix(".json").read_text().replace(engine.name, "vocals.onnx")
    (tmp_path / "vocals.json").write_text(text)
    for seed, name in enumerate(("one.wav", "two.wav")):
        soundfile.write(tmp_path / name, song(90_000, seed=seed).T, RATE)
    return tmp_path


@pytest.mark.parametrize("block", [b for b in BLOCKS if b not in ON_GPU], ids=named)
def test_a_block_does_what_it_says(block, folder):
    (folder / "service.py").write_text(block)
    command = [sys.executable, "service.py"]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stderr
    stems = sorted(path.name for path in folder.glob("separated/*/*.wav"))
    if "CancelledError" in block:
        assert ended.stdout == "half: cancelled\n"
        assert stems == []
    elif "self_test" in block:
        assert ended.stdout.startswith("ready after 0.")
    else:
        songs = 1 if "logging" in block else 2
        assert stems == ["instrumental.wav"] * songs + ["vocals.wav"] * songs
    if "logging" in block:
        lines = [json.loads(line) for line in ended.stderr.splitlines()]
        (opened,) = (line for line in lines if "device" in line)
        assert opened.items() >= {"engine": "vocals.onnx", "device": "cpu", "precision": "fp32"}.items()
        chunks = [line for line in lines if "chunk" in line]
        assert [line["chunk"] for line in chunks] == list(range(len(chunks)))
        assert len(chunks) > 9
        assert {(line["engine"], line["song"]) for line in chunks} == {("half", "one.wav")}
        assert lines[-1]["level"] == "INFO"


@pytest.mark.parametrize("block", ON_GPU, ids=named)
def test_a_block_with_a_callers_stream(block, folder, monkeypatch, capsys):
    machine = Machine().install(monkeypatch)
    machine.callers_streams.add(4711)
    manifest = json.loads((folder / "vocals.json").read_text())
    shapes = Shapes.of(load_manifest(folder / "vocals.json"), 1)
    plan = folder / "vocals.plan"
    plan.write_bytes(plan_bytes(shapes.inputs, shapes.outputs))
    manifest["engines"][0] |= {
        "file": plan.name,
        "backend": "tensorrt-rtx",
        "backend_version": sys.modules["tensorrt_rtx"].__version__,
        "precision": "fp16",
        "compute_capabilities": ["8.9"],
        "device_memory": 5_000_000_000,
        "sha256": file_sha256(plan),
    }
    (folder / "vocals.json").write_text(json.dumps(manifest))
    stream = types.SimpleNamespace(cuda_stream=4711, handle=4711)
    torch, pycuda = types.ModuleType("torch"), types.ModuleType("pycuda")
    torch.cuda = pycuda.driver = types.SimpleNamespace(Stream=lambda: stream)
    pycuda.autoprimaryctx = types.ModuleType("pycuda.autoprimaryctx")
    for name, module in {
        "torch": torch,
        "pycuda": pycuda,
        "pycuda.driver": pycuda.driver,
        "pycuda.autoprimaryctx": pycuda.autoprimaryctx,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.chdir(folder)
    exec(compile(block, str(README), "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.startswith("Pretended RTX 4090 0.")
    assert machine.pending[4711] == []
    machine.settled()
    with rofo.Separator("vocals.plan") as separator:
        tensors = {**shapes.inputs, **shapes.outputs}.values()
        buffers = 2 * 4 * sum(prod(shape) for shape in tensors)
        assert separator.footprint.gpu == plan.stat().st_size + 5_000_000_000 + buffers


# Forked processes

CHILD = """
import os, sys, numpy as np, rofo
path, backend, what = sys.argv[1:]
mix = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 90_000))
separator = rofo.Separator(path, backend=backend, threads=2)
separator.separate(mix, 44100)
under_way = separator.stream([mix], 44100)
next(under_way)
if os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
try:
    if what == "run":
        separator.separate(mix, 44100)
    elif what == "go on":
        list(under_way)
    elif what == "open":
        rofo.Separator(path, backend=backend)
    else:
        separator.close()
        del under_way, separator
except rofo.RofoError as error:
    print(type(error).__name__, error)
else:
    print("no error")
sys.stdout.flush()
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("what", "error"),
    [("run", "EngineRunError"), ("go on", "EngineRunError"), ("open", "EngineLoadError"), ("let go", None)],
)
def test_a_forked_process_is_told_and_never_hangs(make_engine, backend, what, error):
    command = [sys.executable, "-W", "ignore", "-c", CHILD, str(make_engine()), backend, what]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        told, _ = process.communicate(timeout=300)  # what hangs is a failure, whenever that is seen
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == 0
    if error is None:
        assert told == "no error\n"
    else:
        assert re.fullmatch(rf"{error} \S+half.onnx: .*was forked.*spawn.*\n", told)


def test_a_process_forked_before_any_engine_opens_its_own(make_engine):
    code = (
        "import os, sys, rofo, numpy as np\n"
        "if os.fork(): sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))\n"
        "separator = rofo.Separator(sys.argv[1])\n"
        "separator.self_test()\n"
        "os._exit(0 if separator.healthy else 9)\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, make_engine()], check=True, timeout=300)


# Self-test


def test_the_self_test_runs_every_engine(opened):
    separator = opened("half", chunk=4000)
    assert separator.healthy
    assert separator.self_test() > 0


def test_the_self_test_raises_what_separating_would(make_engine):
    with (
        rofo.Separator(make_engine("failing"), backend="onnxruntime") as separator,
        pytest.raises(rofo.EngineRunError),
    ):
        separator.self_test()


# Cancel


def test_threads_are_gone_after_a_cancelled_song(make_engine, song):
    cancel = threading.Event()
    with rofo.Separator(make_engine("level"), backend="onnxruntime") as separator:
        options = rofo.Options(cancel=cancel, progress=lambda _: cancel.set())
        with pytest.raises(rofo.CancelledError):
            separator.separate(song(400_000), RATE, options)
    end = time.monotonic() + 60
    while any(thread.name.startswith("rofo-") for thread in threading.enumerate()):
        assert time.monotonic() < end
        time.sleep(0.01)


# Log


CLOSED_ELSEWHERE = """
import os, signal, sys, tempfile, threading, time
from rofo import Separator

signal.signal(signal.SIGALRM, lambda *_: print("handled"))
separator = Separator(sys.argv[1], backend=sys.argv[2])
thread = threading.Thread(target=separator.close)
thread.start(), thread.join()
signal.setitimer(signal.ITIMER_REAL, 0.01)
time.sleep(0.2)
print("openvino_telemetry" in sys.modules, os.listdir(tempfile.gettempdir()))
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_signals_are_handled_after_it_was_closed_in_another_thread(make_engine, backend, tmp_path):
    """OpenVINO freed the stack of signal handlers there; both told their makers that they were imported."""
    command = [sys.executable, "-c", CLOSED_ELSEWHERE, str(make_engine()), backend]
    ended = subprocess.run(
        command, env={**os.environ, "TMPDIR": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout.split("\n")) == (0, ["handled", "False []", ""])


def test_the_log_tells_what_an_engine_got(make_engine, caplog):
    caplog.set_level(logging.INFO, "rofo")
    parity = (Parity("openvino", "bf16", 12.5),)
    with rofo.Separator(make_engine(parity=parity, batch=2), backend="openvino") as separator:
        opened = caplog.records[-1]
        assert (opened.engine, opened.backend, opened.batch) == ("half.onnx", "openvino", 2)
        assert (opened.device, opened.precision) == (separator.device, separator.precision) == ("cpu", "fp32")


def test_the_log_tells_why_a_lower_precision_is_not_taken(make_engine, caplog, monkeypatch):
    import openvino

    class Core(openvino.Core):
        def get_property(self, device, name):
            own = super().get_property(device, name)
            return ["FP32", "BF16"] if name == "OPTIMIZATION_CAPABILITIES" else own

    monkeypatch.setattr("rofo.engines.openvino.openvino_core", Core)
    caplog.set_level(logging.INFO, "rofo")
    rofo.Separator(make_engine(parity=(Parity("openvino", "bf16", 12.5),))).close()
    assert "bf16 is not taken: its parity of 12.5 dB is below 30 dB" in caplog.text
    caplog.clear()
    rofo.Separator(make_engine()).close()
    assert "bf16 is not taken: its parity was not measured" in caplog.text


def test_the_log_warns_of_another_backend_than_the_first(make_engine, caplog, monkeypatch):
    from rofo import engines

    monkeypatch.setattr(engines, "find_spec", lambda name: None if name == "openvino" else object())
    rofo.Separator(make_engine()).close()
    (warning,) = (record for record in caplog.records if record.levelno == logging.WARNING)
    assert warning.getMessage().endswith("half.onnx: openvino not installed, onnxruntime runs it")
    assert (warning.engine, warning.backend) == ("half.onnx", "onnxruntime")


def test_the_log_tells_songs_and_chunks(opened, song, caplog):
    caplog.set_level(logging.DEBUG, "rofo")
    opened("half", chunk=4000).separate_songs([song(9000), song(5000, seed=1)], RATE)
    chunks = [(record.song, record.chunk) for record in caplog.records if hasattr(record, "chunk")]
    assert chunks[0] == ("mixes[0]", 0)
    assert chunks[-1][0] == "mixes[1]"
    assert len(set(chunks)) == len(chunks)
    assert caplog.records[-1].elapsed > 0


def test_the_log_has_the_warnings_of_a_file(opened, song, caplog, tmp_path):
    path = tmp_path / "odd\nname.wav"
    soundfile.write(path, song(0).T, RATE)
    opened("half", chunk=4000).separate_file(path, tmp_path)
    (warning,) = (record for record in caplog.records if record.levelno == logging.WARNING)
    assert warning.song == str(path).replace("\n", "\\n")
    assert warning.getMessage() == f"{warning.song}: holds no samples; its stems are empty"


# Memory


@pytest.mark.parametrize("backend", BACKENDS)
def test_memory_is_what_was_planned(make_engine, backend, tmp_path):
    engine = make_engine("level", chunk=200_000, stems=("vocals", "drums"))
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (3_000_000, 2)).astype(np.float32)
    soundfile.write(tmp_path / "song.wav", noise, RATE, subtype="PCM_16")
    rofo_run = [sys.executable, "-c", "from rofo.cli import main; main()"]
    rofo_run += ["--engine", str(engine), "--backend", backend]
    told = subprocess.run([*rofo_run, "--plan-memory", "--json"], check=True, capture_output=True)
    plan = json.loads(told.stdout)
    peak = measured([*rofo_run, "--output", str(tmp_path / "out"), str(tmp_path / "song.wav")]).peak_mb * 1e6
    assert plan["peak"] / 1.4 < peak < plan["peak"] * 1.4
    assert plan["buffers"] > 2 * 2 * 200_000 * 4
    parts = [plan[name] for name in ("process", "weights", "activations", "buffers")]
    assert min(parts) >= 0
    assert plan["process"] < sum(parts) <= plan["peak"]


def test_a_plan_of_memory_needs_no_songs(make_engine):
    told = CliRunner().invoke(main.command, ["--engine", str(make_engine()), "--plan-memory"])
    assert told.exit_code == 0, told.output
    names = [line.split()[0] for line in told.stdout.splitlines()]
    assert names == ["process", "weights", "activations", "buffers", "peak", "files", "gpu"]
    assert np.all([int(line.split()[1].replace(",", "")) >= 0 for line in told.stdout.splitlines()])


def test_no_songs_are_a_mistake_otherwise(make_engine):
    told = CliRunner().invoke(main.command, ["--engine", str(make_engine())])
    assert told.exit_code == 2
    assert "INPUTS" in told.output
