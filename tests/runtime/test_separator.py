"""The path of a song through the three doors, with engines whose answer is known."""

import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from rofo import (
    AudioReadError,
    CancelledError,
    EngineLoadError,
    EngineOutputError,
    EngineRunError,
    Options,
    Separator,
    UsageError,
)
from rofo.dsp.chunk_loop import ChunkLoop
from rofo.dsp.fade import Fade
from rofo.manifest import ChunkSize, load_manifest

RATE, CHUNK, BORDER, N_FFT, HOP = 44100, 4000, 2000, 256, 64
LENGTHS = [0, 1, HOP - 1, HOP, HOP + 1, N_FFT // 2, CHUNK // 2, CHUNK // 2 + 1, CHUNK - 1, CHUNK, CHUNK + 1]
LENGTHS += [2 * BORDER, 2 * BORDER + 1, 3 * CHUNK, 3 * CHUNK + 17]
BACKENDS = ["openvino", "onnxruntime"]


@pytest.fixture(scope="module")
def opened(opened):
    """Separators as elsewhere, of a graph that passes the mix on unless a test asks for another."""
    return lambda kind="half", **options: opened(kind, **options)


@pytest.fixture(scope="module")
def tiny(exported):
    """Separators of the exported network, by batch, backend and threads."""
    made = {}

    def get(batch=1, backend="openvino", threads=None):
        key = batch, backend, threads
        if key not in made:
            path = exported(batch)
            made[key] = Separator(path, backend=backend, precision="fp32", threads=threads)
        return made[key]

    yield get
    for separator in made.values():
        separator.close()


def joined(blocks):
    blocks = list(blocks)
    return {stem: np.concatenate([block[stem] for block in blocks], axis=1) for stem in blocks[0]}


def divided(mix, sizes):
    """The song in blocks of these sizes, over and over."""
    at = 0
    while at < mix.shape[1]:
        for size in sizes:
            yield mix[:, at : at + size]
            at += size


def same(one, other):
    assert one.keys() == other.keys()
    for stem in one:
        np.testing.assert_array_equal(one[stem], other[stem])


# The mix comes back


@pytest.mark.parametrize("engine_channels", [1, 2])
@pytest.mark.parametrize("song_channels", [1, 2])
@pytest.mark.parametrize("length", LENGTHS)
def test_stems_are_the_mix_at_every_length(opened, song, snr_db, length, song_channels, engine_channels):
    mix = song(length, song_channels)
    separator = opened(channels=engine_channels, stems=("vocals", "drums"), residual="other")
    stems = separator.separate(mix, RATE)
    assert list(stems) == ["vocals", "drums", "other"]
    for stem, gain in (("vocals", 0.5), ("drums", 0.25), ("other", 0.25)):
        assert stems[stem].shape == mix.shape
        assert stems[stem].dtype == np.float32
        assert snr_db(np.float32(gain) * mix, stems[stem]) > 100
    np.testing.assert_allclose(sum(stems.values()), mix, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_gives_the_mix(opened, song, snr_db, backend):
    mix = song(20_000)
    separator = opened(backend=backend)
    assert (separator.backend, separator.precision) == (backend, "fp32")
    assert snr_db(0.5 * mix, separator.separate(mix, RATE)["vocals"]) > 100


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000, 96000, 384000])
@pytest.mark.parametrize("length", [0, 1, 777, 30_001])
def test_a_song_at_another_rate_keeps_its_rate_and_length(opened, song, snr_db, rate, length):
    mix = song(length, rate=rate) if rate > 12_000 else np.zeros((2, length), np.float32)
    # Faded, because a conversion cannot know what was before and after.
    mix = mix * np.hanning(length).astype(np.float32)
    stems = opened().separate(mix, rate)
    assert {stem.shape for stem in stems.values()} == {mix.shape}
    assert all(np.isfinite(stem).all() for stem in stems.values())
    np.testing.assert_allclose(stems["vocals"] + stems["instrumental"], mix, atol=1e-6)
    if rate > 12_000 and length > 1000:
        assert snr_db(0.5 * mix, stems["vocals"]) > 60


def test_overlap_is_honoured_and_checked_at_once(opened, song):
    separator, mix = opened("level"), song(20_000) * np.linspace(0, 1, 20_000, dtype=np.float32)
    half, most = (
        separator.separate(mix, RATE, Options(overlap=overlap))["vocals"] for overlap in (0.5, 0.75)
    )
    assert np.abs(half - most).max() > 1e-4
    np.testing.assert_array_equal(half, separator.separate(mix, RATE)["vocals"])
    for overlap in (-0.1, 1, np.nan):
        with pytest.raises(UsageError, match="overlap"):
            separator.stream(iter([mix]), RATE, Options(overlap=overlap))


# Nothing depends on how the work is divided


@pytest.mark.parametrize("rate", [44100, 48000])
@pytest.mark.parametrize("sizes", [[1000], [1, 0, 63, 3999], [50_000]])
def test_streaming_equals_separating_bit_for_bit(opened, song, sizes, rate):
    mix = song(20_001)
    separator = opened("level")
    whole = separator.separate(mix, rate)
    same(joined(separator.stream(divided(mix, sizes), rate)), whole)


def test_a_stream_may_reuse_the_memory_of_its_blocks(opened, song):
    mix, buffer = song(20_000), np.empty((2, 500), np.float32)

    def overwriting():
        for start in range(0, 20_000, 500):
            buffer[:] = mix[:, start : start + 500]
            yield buffer

    separator = opened("level")
    same(joined(separator.stream(overwriting(), RATE)), separator.separate(mix, RATE))


def test_a_stream_gives_what_is_ready_before_it_asks_for_more(opened, song):
    taken = []

    def blocks():
        for block in divided(song(100_000), [1000]):
            taken.append(block.shape[1])
            yield block

    next(opened().stream(blocks(), RATE))
    assert sum(taken) < 5 * CHUNK


def test_an_empty_stream_gives_nothing(opened):
    assert list(opened().stream(iter(()), RATE)) == []
    assert list(opened().stream([np.zeros((2, 0), np.float32)], RATE)) == []


@pytest.mark.parametrize("channels", [1, 2])
def test_the_batch_of_the_engine_changes_nothing(opened, song, channels):
    mix = song(31_000, channels)
    for engine_channels in (1, 2):
        one, three = (opened("level", channels=engine_channels, batch=batch) for batch in (1, 3))
        same(one.separate(mix, RATE), three.separate(mix, RATE))


@pytest.mark.parametrize("time_branch", [False, True])
def test_threads_and_batch_of_the_transforms_change_no_bit(opened, song, time_branch):
    mix, kinds = song(70_000), {"stems": ("vocals", "drums"), "residual": "other", "time_branch": time_branch}
    want = opened("level", threads=1, **kinds).separate(mix, RATE)
    for threads, batch in ((2, 1), (7, 1), (3, 4), (None, 2)):
        same(opened("level", threads=threads, batch=batch, **kinds).separate(mix, RATE), want)


@pytest.mark.parametrize("backend", BACKENDS)
def test_batch_and_threads_of_a_real_network_change_nothing(tiny, song, snr_db, backend):
    mix = song(40_000)
    want = tiny(1, backend).separate(mix, RATE)["vocals"]
    for batch, threads in ((1, 1), (1, 2), (3, None)):
        assert snr_db(want, tiny(batch, backend, threads).separate(mix, RATE)["vocals"]) > 120


def test_both_backends_agree_on_a_real_network(tiny, song, snr_db):
    mix = song(30_000)
    one, other = (tiny(1, backend).separate(mix, RATE)["vocals"] for backend in BACKENDS)
    assert np.abs(one).max() > 1e-3
    assert snr_db(one, other) > 100


@pytest.mark.parametrize("backend", BACKENDS)
def test_threads_share_one_separator(opened, song, backend):
    separator = opened("level", backend=backend)
    songs = [song(3000 + 2500 * i, channels=1 + i % 2, seed=i) for i in range(16)]
    serial = [separator.separate(mix, RATE) for mix in songs]
    with ThreadPoolExecutor(8) as pool:
        for got, want in zip(pool.map(lambda mix: separator.separate(mix, RATE), songs), serial, strict=True):
            same(got, want)


def test_the_song_is_left_as_it_was(opened, song):
    mix = song(10_000)
    kept = mix.copy()
    for separator in (opened(), opened(normalize=True), opened(residual=None)):
        for stem in separator.separate(mix, RATE).values():
            stem.fill(1)
        np.testing.assert_array_equal(mix, kept)


# Engines that normalise


@pytest.mark.parametrize("channels", [1, 2])
def test_normalising_takes_the_level_out_and_puts_it_back(opened, song, snr_db, channels):
    mix = song(25_000, channels) * 3 + np.float32(0.125)
    mono = mix.mean(axis=0, dtype=np.float64)
    levelled = np.broadcast_to((mix - mono.mean()) / mono.std(), (2, mix.shape[1]))
    want = opened("level").separate(levelled.astype(np.float32), RATE)["vocals"] * mono.std() + mono.mean()
    got = opened("level", normalize=True).separate(mix, RATE)["vocals"]
    assert snr_db(want[:channels], got) > 100


@pytest.mark.parametrize("value", [0.0, 0.1, 1e-30])
def test_normalising_silence_and_dc_stays_finite(opened, value):
    mix = np.full((2, 9000), value, np.float32)
    stems = opened(normalize=True).separate(mix, RATE)
    assert all(np.isfinite(stem).all() for stem in stems.values())
    np.testing.assert_allclose(stems["vocals"] + stems["instrumental"], mix, atol=1e-6)


def test_normalising_needs_the_whole_song(opened, song, tmp_path):
    separator = opened(normalize=True)
    with pytest.raises(UsageError, match="whole song"):
        separator.stream([song(1000)], RATE)
    soundfile.write(tmp_path / "mix.wav", song(90_000).T, RATE, "FLOAT")
    paths = separator.separate_file(tmp_path / "mix.wav", tmp_path / "out")
    written = soundfile.read(paths["vocals"], dtype="float32", always_2d=True)[0].T
    np.testing.assert_array_equal(written, separator.separate(song(90_000), RATE)["vocals"])


# What a caller chooses, and what is refused


def test_stems_are_chosen_by_name_in_any_case(opened, song):
    separator, mix = opened(stems=("vocals", "drums"), residual="other"), song(5000)
    everything = separator.separate(mix, RATE)
    assert separator.stems == ("vocals", "drums", "other")
    assert list(separator.separate(mix, RATE, Options(stems=["Other", "DRUMS", "other"]))) == [
        "other",
        "drums",
    ]
    same(separator.separate(mix, RATE, Options(stems=["other"])), {"other": everything["other"]})


@pytest.mark.parametrize("stems", [["bass"], [], ["vocals", "bass"], ["residual"]])
def test_unknown_stems_are_refused_with_those_there_are(opened, song, stems):
    with pytest.raises(UsageError, match=r"choose among vocals, instrumental$"):
        opened().separate(song(10), RATE, Options(stems=stems))


def test_a_model_without_residual_has_only_its_stems(opened, song):
    assert list(opened(stems=("a", "b"), residual=None).separate(song(10), RATE)) == ["a", "b"]


@pytest.mark.parametrize(
    ("mix", "pattern"),
    [
        (np.zeros(100, np.float32), r"shape \(100,\)"),
        (np.zeros((6, 100), np.float32), r"shape \(6, 100\)"),
        (np.zeros((0, 100), np.float32), r"shape \(0, 100\)"),
        (np.zeros((2, 100), np.int16), "int16"),
        (np.full((2, 100), np.nan), "200 non-finite samples"),
        (np.full((2, 100), np.inf), "200 non-finite samples"),
        (np.full((2, 100), -1e30), "200 samples beyond 1,000,000 times full scale"),
    ],
)
def test_arrays_that_are_no_song_are_refused(opened, mix, pattern):
    with pytest.raises(AudioReadError, match=pattern):
        opened().separate(mix, RATE)
    with pytest.raises(AudioReadError, match=pattern):
        list(opened().stream([mix], RATE))


def test_blocks_must_agree_in_channels(opened, song):
    with pytest.raises(AudioReadError, match="1 channels, the first had 2"):
        list(opened().stream([song(10), song(10, 1)], RATE))


@pytest.mark.parametrize("rate", [0, 1, 7999, 384_001, 44100.5, float("nan")])
def test_odd_rates_are_refused(opened, song, rate):
    with pytest.raises(AudioReadError, match="sample rate"):
        opened().separate(song(10), rate)


def test_full_scale_and_beyond_is_not_clipped(opened, song):
    mix = song(5000) * 10
    assert np.abs(opened().separate(mix, RATE)["vocals"]).max() > 1


# Progress, cancelling, closing


def test_progress_rises_to_the_length_of_the_song(opened, song):
    seen = []
    opened().separate(song(30_000), 48000, Options(progress=seen.append))
    done = [progress.done for progress in seen]
    assert len(done) > 5
    assert done == sorted(set(done))
    assert done[-1] == seen[-1].total == 30_000 / 48000
    assert seen[-1].remaining == 0
    assert all(progress.speed > 0 and progress.elapsed > 0 for progress in seen)


def test_progress_of_a_stream_has_no_total(opened, song):
    seen = []
    list(opened().stream([song(30_000)], RATE, Options(progress=seen.append)))
    assert {(progress.total, progress.remaining) for progress in seen} == {(None, None)}
    assert seen[-1].done == 30_000 / RATE


def test_cancelling_stops_soon_and_leaves_nothing(opened, song, tmp_path):
    separator, cancel, seen = opened(), threading.Event(), []

    def stop(progress):
        seen.append(progress)
        cancel.set()

    with pytest.raises(CancelledError):
        separator.separate(song(100_000), RATE, Options(progress=stop, cancel=cancel))
    assert len(seen) == 1
    soundfile.write(tmp_path / "mix.wav", song(100_000).T, RATE)
    with pytest.raises(CancelledError):
        separator.separate_file(tmp_path / "mix.wav", tmp_path / "out", Options(cancel=cancel))
    assert [path.name for path in tmp_path.rglob("*")] == ["mix.wav"]
    separator.separate(song(1000), RATE, Options(cancel=threading.Event()))


def test_no_chunk_begins_after_a_song_broke_off(make_engine, song):
    """The first of two chunks is with the engine, whichever that is, and the other waits for its turn."""
    with Separator(make_engine(), backend="onnxruntime") as separator:
        engine, calls, first, go_on = separator._model.engines[0], [], threading.Event(), threading.Event()
        run = engine.run

        def held(mix):
            calls.append(mix)
            first.set()
            assert go_on.wait(300)
            return run(mix)

        def blocks():
            yield song(CHUNK + BORDER)
            assert first.wait(300)
            raise AudioReadError("broke off")

        engine.run = held
        before = set(threading.enumerate())
        with pytest.raises(AudioReadError, match="broke off"):
            list(separator.stream(blocks(), RATE))
        workers = set(threading.enumerate()) - before
        go_on.set()
        for worker in workers:
            worker.join(300)
        assert len(calls) == 1


def test_an_abandoned_stream_ends_its_threads(opened, song):
    before = set(threading.enumerate())
    stream = opened().stream(divided(song(100_000), [1000]), RATE)
    next(stream)
    workers = set(threading.enumerate()) - before
    assert workers
    stream.close()
    for worker in workers:
        worker.join(60)
        assert not worker.is_alive()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_closed_separator_says_so(make_engine, song, backend):
    with Separator(make_engine(), backend=backend) as separator:
        separator.separate(song(100), RATE)
    separator.close()
    with pytest.raises(EngineRunError, match="closed"):
        separator.separate(song(100), RATE)


def test_opening_refuses_what_cannot_be(make_engine, tmp_path):
    with pytest.raises(UsageError, match="threads is 0"):
        Separator(make_engine(), threads=0)
    with pytest.raises(EngineLoadError, match=r"no such engine; export"):
        Separator(tmp_path / "none.onnx")


# Engines that misbehave


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("channels", [1, 2])
def test_non_finite_output_names_chunk_and_time(opened, song, backend, channels):
    mix = 0.1 * song(200_000)
    mix[:, 88_200:90_000] *= 100
    separator = opened("nan_when_loud", backend=backend, channels=channels)
    with pytest.raises(EngineOutputError, match=r"nan_when_loud.onnx: .*not finite for chunk 44, at 2\.0 s"):
        separator.separate(mix, RATE)


def test_a_failing_engine_is_an_engine_error(opened, song, capfd):
    with pytest.raises(EngineRunError, match=r"failing.onnx: ONNX Runtime failed: .*out of data bounds"):
        opened("failing").separate(song(5000), RATE)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "wrong",
    [
        lambda stems: stems[:2],
        lambda stems: stems[..., :-1, :],
        lambda stems: stems.astype(np.float64),
        lambda stems: np.concatenate((stems, stems)),
    ],
)
def test_output_of_the_wrong_shape_or_type_is_refused(make_engine, song, wrong):
    manifest = load_manifest(make_engine(batch=3))

    class Engine:
        backend, precision, batch, in_flight = "fake", "fp32", 3, 1

        def run(self, inputs):
            return {"stems": wrong(inputs["mix"][:, None])}

    loop = ChunkLoop(Engine(), manifest, "fake.onnx")
    with pytest.raises(EngineOutputError, match=r"fake.onnx: the engine returned stems float.*export again"):
        list(loop(Fade(CHUNK, 2000).cut([song(30_000)])))


def test_waveforms_alone_go_through_as_they_are(make_engine, song):
    """No transform is made; what an engine returns may be a view of its inputs, which are used again."""
    plain = load_manifest(make_engine(batch=3))
    tensors = {"inputs": ("waveform",), "outputs": ("waveforms",)}
    manifest = replace(plain, stft=None, chunk=ChunkSize(plain.chunk.samples, 0), **tensors)

    class Engine:
        backend, precision, batch, in_flight = "fake", "fp32", 3, 1

        def run(self, inputs):
            return {"waveforms": inputs["waveform"][:, None]}

    chunks = list(ChunkLoop(Engine(), manifest, "fake.onnx")(Fade(CHUNK, 2000).cut([song(60_000)])))
    assert len(chunks) > 9
    for chunk, estimate in chunks:
        np.testing.assert_array_equal(estimate[0], chunk.samples)


# Memory


def peak_of(separator, seconds, rate, door):
    """The most memory, in bytes, that Python and numpy held while `seconds` of noise went through."""
    block = np.random.default_rng(0).uniform(-1, 1, (2, rate // 2)).astype(np.float32)
    tracemalloc.start()
    try:
        door(separator, (block for _ in range(2 * seconds)), rate)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def by_stream(separator, blocks, rate):
    for _ in separator.stream(blocks, rate):
        pass


@pytest.mark.parametrize("rate", [44100, 48000])
def test_memory_does_not_grow_with_the_stream(opened, rate):
    separator = opened(chunk=22_050)
    peak_of(separator, 6, rate, by_stream)
    short, long = (peak_of(separator, seconds, rate, by_stream) for seconds in (6, 30))
    assert long < 1.15 * short


def test_memory_does_not_grow_with_the_file(opened, tmp_path):
    separator = opened(chunk=22_050)

    def by_file(separator, blocks, rate):
        path = tmp_path / "mix.wav"
        with soundfile.SoundFile(path, "w", rate, 2, "PCM_16") as file:
            for block in blocks:
                file.write(block.T)
        separator.separate_file(path, tmp_path / "out")

    peak_of(separator, 6, RATE, by_file)
    short, long = (peak_of(separator, seconds, RATE, by_file) for seconds in (6, 30))
    assert long < 1.15 * short


def test_a_long_block_is_not_copied_for_every_chunk():
    chunks = list(Fade(CHUNK, 2000).cut([np.zeros((2, 100_000), np.float32)]))
    assert np.shares_memory(chunks[10].samples, chunks[11].samples)


def test_an_array_is_not_copied_as_a_whole(opened, song):
    mix = np.tile(song(20_000), 100)
    results = 2 * mix.nbytes
    tracemalloc.start()
    try:
        opened(chunk=22_050).separate(mix, RATE)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < results + mix.nbytes
