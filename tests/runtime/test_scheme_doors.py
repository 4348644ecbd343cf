"""Schemes through the doors of a Separator, with engines that look at the whole chunk."""

import dataclasses
import json
import tracemalloc

import numpy as np
import pytest
import soundfile

from rofo import ManifestError, Options, Separator, UsageError, load_manifest
from rofo.dsp import SCHEMES
from rofo.dsp.outer import SLICE
from rofo.manifest import OverlapAdd

RATE, CHUNK, N_FFT = 44100, 4000, 256
GEN = CHUNK - N_FFT
LENGTHS = [0, 1, N_FFT // 2, GEN - 1, GEN, GEN + 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * GEN, 30_001]


@pytest.fixture
def rewritten(make_engine):
    """An engine whose manifest names another scheme; the path of the engine."""

    def make(scheme, overlap, **options):
        path = make_engine("level", **options)
        manifest = dataclasses.replace(load_manifest(path), overlap_add=OverlapAdd(scheme, overlap))
        path.with_suffix(".json").write_text(manifest.to_json())
        return path

    return make


def faded(mix):
    """What ramp leaves of a song: its chunks of 4000 samples fade over 400, the first and the last too."""
    length, ramp = mix.shape[1], np.linspace(0, 1, 400)
    last = 3600 * -(-max(length - 4000, 0) // 3600)
    gain = np.ones(last + 4000)
    gain[:400] *= ramp
    gain[-400:] *= ramp[::-1]
    return mix * gain[:length]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_mix_comes_back_at_every_length(opened, song, snr_db, scheme, length):
    for channels in (1, 2):
        mix = song(length, channels)
        stems = opened("half").separate(mix, RATE, Options(scheme=scheme))
        assert {stem.shape for stem in stems.values()} == {mix.shape}
        want = 0.5 * (faded(mix) if scheme == "ramp" else mix)
        assert not want.any() or snr_db(want, stems["vocals"]) > 100
    at_another_rate = opened("half").separate(song(length), 48000, Options(scheme=scheme))
    assert {stem.shape for stem in at_another_rate.values()} == {(2, length)}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_batches_blocks_and_doors_change_nothing(opened, song, scheme, tmp_path):
    mix = song(31_000)
    want = opened().separate(mix, RATE, Options(scheme=scheme))["vocals"]
    np.testing.assert_array_equal(opened(batch=3).separate(mix, RATE, Options(scheme=scheme))["vocals"], want)
    for size in (1000, 4001, 50_000):
        blocks = [mix[:, at : at + size] for at in range(0, mix.shape[1], size)]
        got = [block["vocals"] for block in opened(batch=3).stream(blocks, RATE, Options(scheme=scheme))]
        np.testing.assert_array_equal(np.concatenate(got, axis=1), want)
    soundfile.write(tmp_path / "mix.wav", mix.T, RATE, "FLOAT")
    paths = opened().separate_file(tmp_path / "mix.wav", tmp_path / "out", Options(scheme=scheme))
    written = soundfile.read(paths["vocals"], dtype="float32", always_2d=True)[0].T
    np.testing.assert_array_equal(written, want)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_real_network_gives_the_same_in_batches(exported, song, snr_db, scheme):
    mix = song(40_000)
    with Separator(exported(1), precision="fp32") as one, Separator(exported(3), precision="fp32") as three:
        want = one.separate(mix, RATE, Options(scheme=scheme))["vocals"]
        assert snr_db(want, three.separate(mix, RATE, Options(scheme=scheme))["vocals"]) > 120


@pytest.mark.parametrize("scheme", SCHEMES)
def test_memory_does_not_grow_with_the_stream(opened, scheme):
    separator = opened(chunk=22_050)
    block = np.random.default_rng(0).uniform(-1, 1, (2, RATE // 2)).astype(np.float32)

    def peak(seconds):
        tracemalloc.start()
        try:
            for _ in separator.stream((block for _ in range(2 * seconds)), RATE, Options(scheme=scheme)):
                pass
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(21)  # three slices of `outer` lie over each other from 19 s on
    # 29 s more would be 10 MB on top of some 15; what lies in flight between threads varies by a tenth.
    assert peak(50) < 1.3 * peak(21)


# Which scheme it is


@pytest.mark.parametrize(("scheme", "overlap"), [("hann", None), ("trim", None), ("rectangular", 0.5)])
def test_the_manifest_names_the_default(rewritten, opened, song, scheme, overlap):
    mix = song(20_000)
    with Separator(rewritten(scheme, overlap), backend="onnxruntime") as separator:
        got = separator.separate(mix, RATE)
        want = opened().separate(mix, RATE, Options(scheme=scheme, overlap=overlap))
        np.testing.assert_array_equal(got["vocals"], want["vocals"])
        same = separator.separate(mix, RATE, Options(scheme=scheme))  # with the manifest's overlap
        np.testing.assert_array_equal(same["vocals"], want["vocals"])
        fade = separator.separate(mix, RATE, Options(scheme="fade"))
        assert np.abs(fade["vocals"] - want["vocals"]).max() > 1e-4
        np.testing.assert_array_equal(fade["vocals"], opened().separate(mix, RATE)["vocals"])


def test_every_scheme_differs_from_the_others(opened, song):
    # Within its first slice `outer` is `trim`: it gets slices that begin after 1 s.
    mix = song(2 * RATE) * np.linspace(0.01, 1, 2 * RATE, dtype=np.float32)
    overlap = 1 - RATE / SLICE
    results = [
        opened(chunk=22_050).separate(
            mix, RATE, Options(scheme=s, overlap=overlap if s == "outer" else None)
        )["vocals"]
        for s in SCHEMES
    ]
    for i, one in enumerate(results):
        assert all(np.abs(one - other).max() > 1e-5 for other in results[:i])


def test_what_cannot_be_is_refused_at_once_at_every_door(opened, song, tmp_path):
    doors = [
        lambda **chosen: opened().separate(song(10), RATE, Options(**chosen)),
        lambda **chosen: opened().separate_songs([song(10)], RATE, Options(**chosen)),
        lambda **chosen: opened().stream([song(10)], RATE, Options(**chosen)),
        lambda **chosen: opened().separate_file(tmp_path / "none.wav", tmp_path, Options(**chosen)),
    ]
    for door in doors:
        with pytest.raises(UsageError, match="scheme trim has no overlap to choose, and 0"):
            door(scheme="trim", overlap=0.5)
        with pytest.raises(UsageError, match="scheme is 'other', not one of fade, hann"):
            door(scheme="other")
        with pytest.raises(UsageError, match="overlap is 1, not 0 or more"):
            door(scheme="hann", overlap=1)


@pytest.mark.parametrize(
    ("overlap_add", "said"),
    [
        ({"scheme": "trim", "overlap": 0.5}, "scheme trim has no overlap to choose"),
        ({"scheme": "hann", "overlap": 1.0}, "overlap is 1.0, not 0 or more and below 1"),
        ({"scheme": "Hann"}, "scheme is 'Hann'"),
    ],
)
def test_a_manifest_with_an_impossible_scheme_is_refused(make_engine, overlap_add, said):
    path = make_engine("level").with_suffix(".json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "overlap_add": overlap_add}))
    with pytest.raises(ManifestError, match=rf"^{path}: .*{said}.*; export again with rofo-export$"):
        load_manifest(path)


def test_a_manifest_whose_chunk_is_all_trimmed_is_refused(make_engine):
    path = make_engine("level", chunk=256).with_suffix(".json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "overlap_add": {"scheme": "trim"}}))
    with pytest.raises(ManifestError, match="a chunk of 256 samples is too short for scheme trim"):
        load_manifest(path)
