"""Plans, run on a pretended GPU: order of the calls, concurrency, and every call failing in turn."""

import gc
import json
import os
import re
import stat
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from gpu_standin import FOREIGN, Driver, Machine, Runtime, plan_bytes

import rofo
from rofo import EngineLoadError, EngineMismatchError, EngineRunError, ManifestError, Separator, UsageError
from rofo.dsp.chunk_loop import ChunkLoop
from rofo.dsp.fade import Fade
from rofo.engines import EngineSettings, open_engine
from rofo.engines.contract import EngineSource, Shapes
from rofo.engines.tensorrt_library import LibraryError, load_library
from rofo.manifest import file_sha256, load_manifest

RATE = 44100
# Calls whose failure nobody can or need do anything about: freeing, and the cache of kernels.
HARMLESS = {"cudaFree", "cudaFreeHost", "cudaStreamDestroy", "cudaEventDestroy", "cuCtxPopCurrent"}
HARMLESS |= {"cuDevicePrimaryCtxRelease", "cache.deserialize", "cache.serialize"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "rofo"


@pytest.fixture
def machine(monkeypatch):
    return Machine().install(monkeypatch)


@pytest.fixture
def make_plan(make_engine):
    """A plan of the stand-in with its manifest; `entry` changes fields of the manifest's entry."""

    def make(content=None, *, backend="tensorrt-rtx", options=None, **entry):
        onnx = make_engine(**(options or {}))
        path, manifest = onnx.with_suffix(".plan"), onnx.with_suffix(".json")
        raw = json.loads(manifest.read_text())
        shapes = Shapes.of(load_manifest(onnx), raw["engines"][0]["batch"])
        path.write_bytes(plan_bytes(shapes.inputs, shapes.outputs) if content is None else content)
        facts = {
            "file": path.name,
            "backend": backend,
            "backend_version": "1.7.1",
            "precision": "fp16",
            "compute_capabilities": ["8.9"],
            "sha256": file_sha256(path),
            "onnx_sha256": "1" * 64,
            "device_memory": 5_000_000_000,
        }
        raw["engines"].append(raw["engines"][0] | facts | entry)
        manifest.write_text(json.dumps(raw))
        return path

    return make


def opened(path, **options):
    return open_engine(path, load_manifest(path), EngineSettings(**options))


def noise(seed=0):
    return {"mix": np.random.default_rng(seed).standard_normal((1, 2, 63, 129, 2), np.float32)}


def refusal(path, kind, **options):
    """The one line of the error that opening ends with: the file first, exit code 4."""
    with pytest.raises(kind) as caught:
        opened(path, **options)
    text = str(caught.value)
    assert type(caught.value) is kind
    assert caught.value.exit_code == (2 if kind is UsageError else 4)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text


# Songs


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_song_comes_back(machine, make_plan, song, snr_db, batch, channels):
    path = make_plan(options={"batch": batch, "stems": ("vocals", "drums"), "residual": "other"})
    mix = song(30_001, channels)
    with Separator(path) as separator:
        assert (separator.backend, separator.precision, separator.healthy) == ("tensorrt-rtx", "fp16", True)
        stems = separator.separate(mix, RATE)
    for stem, gain in (("vocals", 0.5), ("drums", 0.25), ("other", 0.25)):
        assert snr_db(np.float32(gain) * mix, stems[stem]) > 100
    machine.settled()


def test_the_same_class_runs_tensorrt(monkeypatch, make_plan, song, snr_db):
    machine = Machine().install(monkeypatch, library="tensorrt", version="11.4.0.1")
    path = make_plan(backend="tensorrt", backend_version="11.4.0.1", compute_capabilities=["8.0+"])
    with Separator(path) as separator:
        assert separator.backend == "tensorrt"
        assert snr_db(0.5 * song(9000), separator.separate(song(9000), RATE)["vocals"]) > 100
    assert not [call for call in machine.calls if "cache" in call or "config" in call]
    machine.settled()


def test_many_threads_on_one_separator(machine, make_plan, song, snr_db):
    with Separator(make_plan()) as separator, ThreadPoolExecutor(6) as pool:
        mixes = [song(20_000 + 777 * i, seed=i) for i in range(12)]
        done = pool.map(lambda mix: separator.separate(mix, RATE)["vocals"], mixes)
        for mix, vocals in zip(mixes, done, strict=True):
            assert snr_db(0.5 * mix, vocals) > 100
    machine.settled()


def test_a_song_keeps_two_calls_going(make_engine, song):
    manifest = load_manifest(make_engine(batch=2))
    both = threading.Barrier(2, timeout=60)

    class Engine:
        backend, precision, batch, in_flight, healthy = "fake", "fp32", 2, 2, True

        def run(self, inputs):
            both.wait()
            return {"stems": inputs["mix"][:, None]}

    loop = ChunkLoop(Engine(), manifest, "fake.plan")
    chunks = list(Fade(4000, 2000).cut([song(7 * 2000)]))
    assert len(chunks) % 4 == 0
    for (chunk, estimate), wanted in zip(loop(iter(chunks)), chunks, strict=True):
        assert chunk is wanted
        np.testing.assert_allclose(estimate[0], wanted.samples, atol=1e-5)


def test_a_song_needs_one_context(machine, make_plan, song):
    with Separator(make_plan()) as separator:
        separator.separate(song(100_000), RATE)
    assert machine.made_contexts == 1


# One call


def test_the_order_of_the_calls(machine, make_plan):
    engine = opened(make_plan())
    machine.calls.clear()
    engine.run(noise())
    at = machine.calls.index("copy in")
    assert machine.calls[at - 1 : at + 11] == [
        "cuCtxPushCurrent",
        "copy in",
        "cudaEventRecord",
        "cudaStreamWaitEvent",
        "set_tensor_address",
        "set_tensor_address",
        "execute_async_v3",
        "cudaEventRecord",
        "cudaStreamWaitEvent",
        "copy out",
        "cudaEventRecord",
        "cudaEventSynchronize",
    ]
    engine.close()
    machine.settled()


def test_copies_do_not_wait_for_the_neighbours_computation(machine, make_plan):
    engine = opened(make_plan())
    with engine._lanes.lent() as (lane, one), engine._lanes.lent() as (same, other):
        assert lane is same
        assert one is not other
        with engine._cuda.current():
            for slot, value in ((one, 1.0), (other, 2.0)):
                slot.host["mix"][:] = value
                lane._enqueue(slot)
            machine.finish(lane._incoming)
            assert machine.networks == 0
            size = other.host["mix"].size
            assert (machine.floats(other.gpu["mix"], size, ("device",)) == 2.0).all()
            engine._cuda.wait(one.copied_out)
            assert machine.networks == 1
            assert (one.host["stems"] == 0.5).all()
            assert np.isnan(other.host["stems"]).all()
            engine._cuda.wait(other.copied_out)
            assert (other.host["stems"] == 1.0).all()
    engine.close()
    machine.settled()


def test_a_plan_with_a_time_branch(machine, make_plan, song, snr_db):
    """The stand-in halves the spectrogram and the waveform, which together are the song."""
    with Separator(make_plan(options={"batch": 3, "time_branch": True})) as separator:
        assert snr_db(song(20_000), separator.separate(song(20_000), RATE)["vocals"]) > 100
    machine.settled()


def test_results_belong_to_the_caller(machine, make_plan):
    engine = opened(make_plan())
    first = engine.run(noise(1))["stems"]
    kept = first.copy()
    engine.run(noise(2))
    engine.close()
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda mix: {"mix": mix[:, :1]},
        lambda mix: {"mix": mix.astype(np.float64)},
        lambda mix: {"mix": mix, "waveform": mix[0, ..., 0]},
        lambda mix: {},
    ],
)
def test_a_wrong_input_is_refused(machine, make_plan, wrong):
    engine = opened(make_plan())
    with pytest.raises(EngineRunError, match="the engine takes float32"):
        engine.run(wrong(noise()["mix"]))
    engine.close()


# Contexts


def test_an_engine_has_one_context_however_many_call_it(machine, make_plan):
    engine = opened(make_plan())
    machine.calls.clear()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda seed: engine.run(noise(seed)), range(16)))
    assert machine.made_contexts == 1
    assert not {"create_execution_context", "cudaMalloc", "cudaMallocHost"} & set(machine.calls)
    engine.close()
    machine.settled()


def test_the_third_call_at_once_waits_for_a_buffer(machine, make_plan):
    engine, mix, results = opened(make_plan()), noise(), []
    with engine._lanes.lent() as (one, slot), engine._lanes.lent() as (two, other):
        assert one is two
        assert slot is not other
        late = threading.Thread(target=lambda: results.append(engine.run(mix)["stems"]))
        late.start()
        late.join(0.05)
        assert not results
    late.join(60)
    np.testing.assert_array_equal(results[0][:, 0], 0.5 * mix["mix"])
    engine.close()
    machine.settled()


def test_more_contexts_are_made_at_once_where_they_are_asked_for(machine, make_plan):
    engine = opened(make_plan(), contexts=2)
    assert machine.made_contexts == 2
    with engine._lanes.lent() as (one, _), engine._lanes.lent() as (other, _):
        assert one is not other
        engine.run(noise())
    assert machine.made_contexts == 2
    engine.close()
    machine.settled()


def test_without_memory_for_the_contexts_asked_for_nothing_is_opened(machine, make_plan):
    machine.contexts_fit = 1
    assert "out of GPU memory" in refusal(make_plan(), EngineLoadError, contexts=2)
    machine.settled()


def test_closing_waits_for_calls_and_refuses_later_ones(machine, make_plan):
    engine = opened(make_plan())
    with engine._lanes.lent():
        closing = threading.Thread(target=engine.close)
        closing.start()
        with engine._lanes._changed:
            assert engine._lanes._changed.wait_for(lambda: engine._lanes._closed, timeout=60)
        assert machine.alive
    closing.join(60)
    engine.close()
    with pytest.raises(EngineRunError, match="closed; open it again"):
        engine.run(noise())
    machine.settled()


def test_an_engine_nobody_closes_is_freed_with_the_last_reference(machine, make_plan):
    opened(make_plan())
    gc.collect()
    machine.settled()


# Somebody else's CUDA


def test_a_callers_stream_is_computed_on_and_left_alone(machine, make_plan, song, snr_db):
    machine.callers_streams.add(4711)
    with Separator(make_plan(), cuda_stream=4711) as separator:
        assert snr_db(0.5 * song(9000), separator.separate(song(9000), RATE)["vocals"]) > 100
        assert machine.pending[4711] == []
        assert machine.calls.count("cudaStreamCreateWithFlags") == 2
    machine.settled()


def test_the_stream_of_whichever_thread_is_refused(machine, make_plan):
    assert "is another one in every thread" in refusal(make_plan(), UsageError, cuda_stream=2)
    opened(make_plan(), cuda_stream=1).close()
    machine.settled()


def test_one_stream_has_no_use_for_two_contexts(make_plan):
    with pytest.raises(UsageError, match="leave contexts or cuda_stream out"):
        EngineSettings(cuda_stream=1, contexts=2)


def test_a_stream_of_another_context_is_refused(machine, make_plan):
    assert refusal(make_plan(), EngineLoadError, cuda_stream=4711).endswith(
        "with pycuda by pycuda.autoprimaryctx"
    )
    machine.settled()


def test_a_processor_takes_no_stream(make_engine):
    assert "takes no CUDA stream" in refusal(make_engine(), UsageError, cuda_stream=4711)


def test_the_callers_context_stays_current(machine, make_plan):
    machine.current.stack = [FOREIGN]
    engine = opened(make_plan())
    engine.run(noise())
    engine.close()
    assert machine.current.stack == [FOREIGN]
    machine.current.stack = []
    machine.settled()


def test_a_forked_process_touches_no_gpu(machine, make_plan, monkeypatch, song):
    separator = Separator(make_plan())
    own, before = os.getpid(), list(machine.calls)
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: own + 1)
        assert not separator.healthy
        with pytest.raises(EngineRunError, match=r"forked.*spawn"):
            separator.separate(song(5000), RATE)
        separator.close()
        assert machine.calls == before
    separator.close()
    machine.settled()


# Plans that do not fit


def test_another_version_of_the_library(machine, make_plan):
    text = refusal(make_plan(backend_version="1.6.0"), EngineMismatchError)
    assert (
        "built by TensorRT-RTX 1.6.0, here is 1.7.1; pip install tensorrt-rtx==1.6.0, or build it again: "
        in text
    )
    assert text.endswith("rofo-export test.ckpt --target tensorrt-rtx")
    assert machine.calls == []


@pytest.mark.parametrize(
    ("built_for", "found", "cure"),
    [
        (["8.9"], (8, 6), "--target tensorrt-rtx --gpu rtx3090"),
        (["8.6"], (8, 9), "--target tensorrt-rtx --gpu rtx4090"),
        (["8.9"], (12, 0), "--target tensorrt-rtx --gpu rtx5090"),
        (["12.0+"], (8, 9), "--target tensorrt-rtx --gpu rtx4090"),
        (["8.6", "8.9"], (8, 0), "--target tensorrt-rtx --gpu portable"),
        (["8.0+"], (7, 5), "is not for this GPU, use TensorRT: rofo-export test.ckpt --target tensorrt"),
        (["8.9"], (9, 0), "is not for this GPU, use TensorRT: rofo-export test.ckpt --target tensorrt"),
    ],
)
def test_another_gpu(machine, make_plan, built_for, found, cure):
    machine.capability = found
    text = refusal(make_plan(compute_capabilities=built_for), EngineMismatchError)
    assert f"built for compute capability {', '.join(built_for)}, Pretended RTX 4090 has" in text
    assert text.endswith(cure)
    assert "deserialize_cuda_engine" not in machine.calls
    machine.settled()


@pytest.mark.parametrize(
    ("built_for", "found"),
    [(["8.9"], (8, 9)), (["8.6", "8.9"], (8, 9)), (["8.0+"], (12, 0)), (["8.0+"], (8, 0)), ([], (8, 9))],
)
def test_gpus_a_plan_runs_on(machine, make_plan, built_for, found):
    machine.capability = found
    opened(make_plan(compute_capabilities=built_for)).close()
    machine.settled()


def test_an_altered_plan_is_not_deserialised(machine, make_plan):
    path = make_plan()
    path.write_bytes(path.read_bytes()[:-10])
    assert "sha256 differs" in refusal(path, EngineMismatchError)
    assert machine.calls == []


def test_what_is_deserialised_is_what_was_compared(machine, make_plan, monkeypatch):
    """A file that is exchanged after its hash was taken changes nothing: it is read once."""
    path, library = make_plan(), sys.modules["tensorrt_rtx"]

    class Exchanging(library.Runtime):
        def __init__(self, logger):
            path.write_bytes(b"something else")
            super().__init__(logger)

    monkeypatch.setattr(library, "Runtime", Exchanging)
    opened(path).close()
    machine.settled()


@pytest.mark.parametrize("content", [b"", b"garbage", plan_bytes({}, {})[:-2]])
def test_what_the_library_cannot_load_is_told_in_its_words(machine, make_plan, content):
    machine.says = "Serialization assertion\n  magic tag failed"
    text = refusal(make_plan(content), EngineMismatchError)
    assert "TensorRT-RTX cannot load it (Serialization assertion magic tag failed); build it again: " in text
    assert "of no account" not in text
    machine.settled()


def test_a_plan_without_its_manifest(machine, make_plan):
    path = make_plan()
    path.with_suffix(".json").unlink()
    with pytest.raises(ManifestError, match=r"no manifest; export the checkpoint again"):
        Separator(path)
    assert machine.calls == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"outputs": {"sources": (1, 1, 2, 63, 129, 2)}}, "sources"),
        ({"outputs": {}}, "its output is {}"),
        ({"inputs": {"mix": (2, 2, 63, 129, 2)}}, "its input is"),
        ({"outputs": {"stems": (1, 3, 2, 63, 129, 2)}}, "its output is"),
        ({"dtype": "float16"}, "its mix is float16, not float32"),
    ],
)
def test_tensors_that_are_not_the_contracts(machine, make_plan, change, said):
    good = {"inputs": {"mix": (1, 2, 63, 129, 2)}, "outputs": {"stems": (1, 1, 2, 63, 129, 2)}}
    assert said in refusal(make_plan(plan_bytes(**(good | change))), EngineMismatchError)
    machine.settled()


def test_precisions_other_than_the_plans(machine, make_plan):
    path = make_plan()
    assert opened(path, precision="fp16").precision == "fp16"
    text = refusal(path, EngineLoadError, precision="fp32")
    assert "computes in fp16, not fp32; use --precision fp16, or build it again: rofo-export" in text


@pytest.mark.parametrize(
    ("backend", "extra"), [("tensorrt-rtx", "rofo[rtx]"), ("tensorrt", "rofo[tensorrt]")]
)
def test_a_library_that_is_not_installed_or_broken(monkeypatch, make_plan, backend, extra):
    path, module = make_plan(backend=backend), backend.replace("-", "_")
    real = rofo.engines.find_spec
    monkeypatch.setattr("rofo.engines.find_spec", lambda name: None if name == module else real(name))
    text = refusal(path, EngineLoadError)
    assert text == f"{path}: {backend} is not installed; pip install '{extra}'"
    monkeypatch.setattr("rofo.engines.find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, module, None)
    assert refusal(path, EngineLoadError).endswith(f"pip install '{extra}'")


# Failures


MIXES = [np.full((1, 2, 63, 129, 2), value, np.float32) for value in (1.0, 2.0, 3.0)]
NEED_MEMORY = {"deserialize_cuda_engine", "create_execution_context", "execute_async_v3"}
FATAL, PASSING, MEMORY = "cudaErrorIllegalAddress", "cudaErrorInvalidValue", "cudaErrorMemoryAllocation"


def attempt(path, machine):
    """Open, run three times, close: the error of opening or those of the runs, whether the engine stayed
    healthy, and the number of calls made when closing began."""
    try:
        engine = opened(path)
    except EngineLoadError as error:
        return [error], None, len(machine.calls)
    errors = []
    for mix in MIXES:
        try:
            np.testing.assert_array_equal(engine.run({"mix": mix})["stems"][:, 0], 0.5 * mix)
            errors.append(None)
        except EngineRunError as error:
            errors.append(error)
    closing, healthy = len(machine.calls), engine.healthy
    engine.close()
    return errors, healthy, closing


@pytest.fixture
def few_objects():
    """Collecting garbage a few hundred times took two minutes beside all that other tests have loaded."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize("error", [FATAL, PASSING, MEMORY])
def test_every_call_fails_in_turn_and_everything_is_freed_once(machine, make_plan, error, few_objects):
    path, machine.compiled = make_plan(), b"kernels"
    attempt(path, machine)  # leaves compiled kernels, which the next ones read
    machine.calls.clear()
    errors, healthy, closing = attempt(path, machine)
    assert (errors, healthy) == ([None] * 3, True)
    machine.settled()
    names = list(machine.calls)
    assert {"cudaMalloc", "cudaMallocHost", "execute_async_v3", "cache.deserialize"} < set(names)
    for number, name in enumerate(names):
        machine.calls.clear()
        machine.lost, machine.error, machine.fail = None, error, number
        errors, healthy, _ = attempt(path, machine)
        said = f"call {number}, {name}: {errors}"
        raised = [e for e in errors if e is not None]
        if name in HARMLESS or number >= closing or names[number + 1] == "cache.serialize":
            # A lost GPU is noticed by whatever comes next.
            assert not raised or error == FATAL, said
        else:
            assert raised, said
        if healthy is not None and raised:
            assert healthy is (error != FATAL), said
            first = errors.index(raised[0])
            assert [e is None for e in errors[first + 1 :]] == [error != FATAL] * (2 - first), said
        for e in raised:
            assert re.fullmatch(rf"{re.escape(str(path))}: [^\n]+; [^\n]+", str(e)), said
        if error == MEMORY and name in NEED_MEMORY:
            assert "out of GPU memory: needs 5.00 GB, 20.00 of 24.00 GB are free" in str(raised[0]), said
        errors = raised = e = None
        gc.collect()
        machine.settled()


def test_a_lost_gpu_makes_the_engine_unhealthy_and_says_what_to_do(machine, make_plan, song):
    separator = Separator(make_plan())
    machine.lost = "cudaErrorIllegalAddress"
    with pytest.raises(EngineRunError, match=r"cudaErrorIllegalAddress.*; start the process again"):
        separator.separate(song(100), RATE)
    assert not separator.healthy
    machine.lost = None
    with pytest.raises(EngineRunError, match=r"the GPU was lost earlier; start the process again"):
        separator.separate(song(100), RATE)
    separator.close()
    machine.settled()


@pytest.mark.parametrize("name", ["CUDA_ERROR_ILLEGAL_ADDRESS", "CUDA_ERROR_LAUNCH_FAILED"])
def test_what_the_driver_calls_a_lost_gpu_is_one(machine, make_plan, name):
    engine = opened(make_plan())
    machine.lost = name
    with pytest.raises(EngineRunError, match=rf"{name}.*; start the process again"):
        engine.run(noise())
    assert not engine.healthy
    machine.lost = None
    engine.close()
    machine.settled()


def test_threads_do_not_erase_each_others_cause(machine, make_plan):
    path = make_plan()
    library = load_library(EngineSource(path, load_manifest(path), load_manifest(path).engines[1]))

    def failing():
        library.log.log("error", "the cause")
        other = threading.Thread(target=library.call, args=(lambda: True,))
        other.start()
        other.join()

    with pytest.raises(LibraryError, match=r"^the cause$"):
        library.call(failing)
    with pytest.raises(LibraryError, match=r"^refused without a word$"):
        library.call(lambda: None)


def test_what_threads_of_the_library_say_is_heard(machine, make_plan):
    path = make_plan()
    library = load_library(EngineSource(path, load_manifest(path), load_manifest(path).engines[1]))

    def failing():
        worker = threading.Thread(target=library.log.log, args=("error", "out of memory"))
        worker.start()
        worker.join()

    with pytest.raises(LibraryError, match=r"^out of memory$") as caught:
        library.call(failing)
    assert caught.value.out_of_memory


def test_out_of_memory_at_opening_and_while_running(machine, make_plan):
    machine.contexts_fit, machine.free = 0, 1_230_000_000
    text = refusal(make_plan(), EngineLoadError)
    assert text.endswith(
        "out of GPU memory: needs 5.00 GB, 1.23 of 24.00 GB are free on Pretended RTX 4090; "
        "end other programs there, or export with a smaller --batch"
    )
    assert "needs 3.00 GB" in refusal(make_plan(device_memory=None), EngineLoadError)
    machine.contexts_fit = 1
    engine = opened(make_plan())
    machine.fail, machine.error = len(machine.calls) + 6, "cudaErrorMemoryAllocation"
    with pytest.raises(EngineRunError, match=r"out of GPU memory: needs 5\.00 GB"):
        engine.run(noise())
    assert machine.calls[machine.fail] == "execute_async_v3"
    assert engine.healthy
    engine.run(noise())
    engine.close()
    machine.settled()


# Kernels that were compiled for this GPU


def test_compiled_kernels_are_kept_for_the_next_start(machine, make_plan, cache):
    machine.compiled, path = b"kernels", make_plan()
    engine = opened(path)
    assert machine.given_cache is None
    engine.run(noise())
    (file,) = cache.iterdir()
    assert file.read_bytes() == b"kernels"
    machine.compiled = b"more kernels"
    engine.close()
    assert file.read_bytes() == b"more kernels"
    assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0
    opened(path).close()
    assert machine.given_cache == b"more kernels"


def test_kernels_are_not_written_down_while_others_are_compiled(machine, make_plan):
    machine.compiled, compiling = b"kernels", threading.Event()
    engine = opened(make_plan())
    other = threading.Thread(target=engine.run, args=(noise(2),))
    step = machine.library_step

    def interrupted(name):
        """A second call begins while the kernels of the first are being written down."""
        if name == "cache.serialize" and other.ident is None:
            other.start()
            if compiling.wait(0.2):
                machine.faults.append("kernels are compiled and written down at once")
        if other.ident == threading.get_ident() and name == "execute_async_v3":
            compiling.set()
        return step(name)

    machine.library_step = interrupted
    engine.run(noise(1))
    other.join(60)
    assert compiling.is_set()
    engine.close()
    machine.settled()


def test_another_gpu_has_kernels_of_its_own(machine, make_plan, cache):
    machine.compiled, path = b"kernels", make_plan(compute_capabilities=[])
    for name, capability in (("A", (8, 9)), ("B", (8, 9)), ("A", (8, 6))):
        machine.name, machine.capability, machine.given_cache = name, capability, None
        engine = opened(path)
        engine.run(noise())
        engine.close()
        assert machine.given_cache is None
    assert len(list(cache.iterdir())) == 3


def test_a_cache_that_others_can_write_is_not_read(machine, make_plan, cache):
    machine.compiled, path = b"kernels", make_plan()
    opened(path).close()
    (file,) = cache.iterdir()
    file.chmod(0o666)
    opened(path).close()
    assert machine.given_cache is None


def test_a_cache_folder_that_cannot_be_written_is_no_error(machine, make_plan, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    machine.compiled = b"kernels"
    engine = opened(make_plan())
    engine.run(noise())
    engine.close()
    machine.settled()


# This machine


def test_the_real_libraries_on_a_machine_without_a_driver(make_plan):
    """Whatever is installed here, a plan ends in its stems or in one line with its cure."""
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has an NVIDIA driver")
    tensorrt_rtx = pytest.importorskip("tensorrt_rtx")
    pytest.importorskip("cuda.bindings.runtime")
    path = make_plan(backend_version=tensorrt_rtx.__version__)
    text = refusal(path, EngineLoadError)
    assert text == (
        f"{path}: no NVIDIA driver on this machine; install one and see that nvidia-smi lists the GPU, "
        "or run the .onnx engine of the same export"
    )
    for names in ("cuda.bindings.runtime", "tensorrt_rtx"):
        assert names in sys.modules


def test_what_is_called_exists_in_the_real_libraries():
    """What keeps the stand-in honest where there is no GPU."""
    real = pytest.importorskip("tensorrt_rtx")
    bindings = pytest.importorskip("cuda.bindings")
    runtime, driver = (
        pytest.importorskip("cuda.bindings.runtime"),
        pytest.importorskip("cuda.bindings.driver"),
    )
    for ours, theirs in ((Runtime, runtime), (Driver, driver)):
        assert {name for name in vars(ours) if not name.startswith("_")} <= set(dir(theirs)), bindings
    for name, used in {
        "Runtime": "deserialize_cuda_engine engine_host_code_allowed",
        "ICudaEngine": "num_io_tensors get_tensor_name get_tensor_mode get_tensor_shape get_tensor_dtype "
        "create_execution_context create_runtime_config device_memory_size_v2",
        "IExecutionContext": "set_tensor_address execute_async_v3",
        "IRuntimeConfig": "create_runtime_cache set_runtime_cache",
        "IRuntimeCache": "serialize deserialize",
        "TensorIOMode": "INPUT",
        "DataType": "FLOAT",
        "ILogger": "ERROR INTERNAL_ERROR",
    }.items():
        assert set(used.split()) <= set(dir(getattr(real, name))), name


@pytest.mark.parametrize("content", [b"", b"garbage" * 100])
def test_the_real_library_refuses_what_is_no_plan_in_its_own_words(monkeypatch, make_plan, content):
    tensorrt_rtx = pytest.importorskip("tensorrt_rtx")
    machine = Machine().install(monkeypatch, library=None)
    path = make_plan(content, backend_version=tensorrt_rtx.__version__)
    text = refusal(path, EngineMismatchError)
    assert "TensorRT-RTX cannot load it (" in text
    assert "/_src/" not in text
    assert text.endswith("; build it again: rofo-export test.ckpt --target tensorrt-rtx")
    machine.settled()
