"""Every scheme, streamed, against a plain whole-song re-statement of the tool it comes from."""

import dataclasses
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_schemes import kuielab, mdx_c, mvsep, uvr_mdx

from rofo import ManifestError, Separator, UsageError, load_manifest
from rofo.dsp import SCHEMES, SchemeEntry
from rofo.dsp.fade import Fade
from rofo.dsp.hann import Hann
from rofo.dsp.outer import Outer
from rofo.dsp.overlap_add import OverlapAdder
from rofo.dsp.rectangular import Rectangular
from rofo.dsp.scheme import Chunk
from rofo.dsp.trim import Trim
from rofo.manifest import OverlapAdd

CHUNK, N_FFT = 96, 16
GEN = CHUNK - N_FFT
SLICE, STEP = 250, 100
# Chosen among 18 by breaking the schemes in 27 ways: whatever any of those lengths showed, in whichever case,
# one of 1, GEN - 1, GEN and 777 shows too. A chunk and a slice are here for the faults nobody thought of.
LENGTHS = [1, GEN - 1, GEN, CHUNK, SLICE, 777]


def stand_in(chunk):
    """A network of two stems whose output depends on the place in the chunk and on all of the chunk."""
    place = np.linspace(0.5, 1.5, chunk.shape[-1], dtype=np.float32)
    loud = np.abs(chunk).sum(dtype=np.float64).astype(np.float32)
    return np.stack((chunk * place * loud, chunk[:, ::-1] + loud))


def streamed(scheme, mix, sizes=()):
    """The mix through a scheme and the stand-in, in blocks of `sizes` and the rest as one."""
    edges = np.cumsum([0, *sizes])
    blocks = [mix[:, a:b] for a, b in pairwise(edges)] + [mix[:, edges[-1] :]]
    joined = OverlapAdder()
    return np.concatenate(
        [joined.add(chunk, stand_in(chunk.samples)) for chunk in scheme.cut(iter(blocks))], axis=-1
    )


def noise(length, channels=2):
    return np.random.default_rng(length).standard_normal((channels, length)).astype(np.float32)


def hann(overlap):
    return Hann.of(CHUNK, N_FFT, overlap), lambda mix: uvr_mdx(
        mix, stand_in, chunk=CHUNK, n_fft=N_FFT, overlap=overlap
    )


def rectangular(number):
    overlap = 1 - 1 / number
    return Rectangular.of(CHUNK, N_FFT, overlap), lambda mix: mdx_c(mix, stand_in, chunk=CHUNK, number=number)


def trim():
    return Trim.of(CHUNK, N_FFT, None), lambda mix: kuielab(mix, stand_in, chunk=CHUNK, n_fft=N_FFT)


def outer(length, step):
    return Outer(Trim(CHUNK, N_FFT), length, step), lambda mix: mvsep(
        mix, stand_in, chunk=CHUNK, n_fft=N_FFT, outer=length, step=step
    )


# How close: bit for bit where the reference sums float32 in the same order.
CASES = {
    "hann default": (*hann(None), False),
    "hann 0": (*hann(0.0), True),
    "hann 0.02": (*hann(0.02), False),
    "hann 0.25": (*hann(0.25), False),
    "hann 0.95": (*hann(0.95), False),
    "trim": (*trim(), True),
    "rectangular 1": (*rectangular(1), True),
    "rectangular 2": (*rectangular(2), True),
    "rectangular 8": (*rectangular(8), True),
    "rectangular 96": (*rectangular(96), True),
    "outer": (*outer(SLICE, STEP), False),
    "outer apart": (*outer(SLICE, SLICE), True),
    "outer of less than a chunk": (*outer(GEN - 10, 23), False),
    "outer of whole chunks": (*outer(2 * GEN, GEN), False),
}


def equal(got, want, exact, snr_db):
    assert got.shape == want.shape
    assert got.dtype == np.float32
    if exact:
        np.testing.assert_array_equal(got, want.astype(np.float32))
    else:
        assert snr_db(want, got) > 120


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("case", CASES)
def test_equals_the_tool_it_comes_from(case, length, snr_db):
    scheme, plain, exact = CASES[case]
    mix = noise(length)
    equal(streamed(scheme, mix), plain(mix), exact, snr_db)


@given(case=st.sampled_from(sorted(CASES)), length=st.integers(1, 900), sizes=st.lists(st.integers(0, 200)))
@settings(max_examples=300, deadline=None)
def test_any_length_in_any_blocks(case, length, sizes, snr_db):
    scheme, plain, exact = CASES[case]
    mix = noise(length, 1)
    sizes = [size for i, size in enumerate(sizes) if sum(sizes[: i + 1]) <= length]
    got = streamed(scheme, mix, sizes)
    equal(got, plain(mix), exact, snr_db)
    np.testing.assert_array_equal(got, streamed(scheme, mix))


@given(
    chunk=st.integers(40, 120),
    half=st.integers(1, 15),
    overlap=st.just(0.0) | st.floats(0.01, 0.95),
    length=st.integers(1, 700),
)
@settings(max_examples=200, deadline=None)
def test_any_numbers(chunk, half, overlap, length, snr_db):
    mix, n_fft = noise(length, 1), 2 * half
    for got, want in (
        (
            Hann.of(chunk, n_fft, overlap),
            # Where only zeros of windows meet, the reference has no number.
            np.nan_to_num(uvr_mdx(mix, stand_in, chunk=chunk, n_fft=n_fft, overlap=overlap)),
        ),
        (Trim.of(chunk, n_fft, None), kuielab(mix, stand_in, chunk=chunk, n_fft=n_fft)),
        (
            Outer(Trim(chunk, n_fft), 150, max(1, int(150 * (1 - overlap)))),
            mvsep(mix, stand_in, chunk=chunk, n_fft=n_fft, outer=150, step=max(1, int(150 * (1 - overlap)))),
        ),
    ):
        equal(streamed(got, mix), want, False, snr_db)


@pytest.mark.parametrize("number", [3, 7, 95, 200])
@pytest.mark.parametrize("length", LENGTHS)
def test_an_average_of_chunks_keeps_the_level_for_any_number(number, length):
    scheme, joined = Rectangular.of(100, N_FFT, 1 - 1 / number), OverlapAdder()
    mix = noise(length)
    got = [joined.add(chunk, chunk.samples) for chunk in scheme.cut([mix])]
    np.testing.assert_allclose(np.concatenate(got, axis=-1), mix, rtol=1e-4)


NUMBERED = {"fade": Fade.of(CHUNK, N_FFT, None), **{case: scheme for case, (scheme, _, _) in CASES.items()}}


@pytest.mark.parametrize("blocks", [[], [np.zeros((2, 0), np.float32)], [np.zeros((1, 0), np.float32)] * 3])
@pytest.mark.parametrize("case", NUMBERED)
def test_an_empty_song_has_no_chunks(case, blocks):
    assert not list(NUMBERED[case].cut(blocks))


@pytest.mark.parametrize("length", [1, GEN, GEN + 1, 777])
@pytest.mark.parametrize("case", NUMBERED)
def test_chunks_are_what_they_promise(case, length):
    chunks = list(NUMBERED[case].cut([noise(length)]))
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    assert {chunk.samples.shape for chunk in chunks} == {(2, CHUNK)}
    assert {chunk.samples.dtype for chunk in chunks} == {np.dtype(np.float32)}
    assert all(chunk.window.size <= CHUNK for chunk in chunks)
    starts, finished = [chunk.start for chunk in chunks], [chunk.finished for chunk in chunks]
    assert starts == sorted(starts)
    assert finished == sorted(finished)
    assert finished[-1] == length
    assert min(finished) >= 0


@pytest.mark.parametrize("case", NUMBERED)
def test_no_chunk_is_of_no_use(case):
    for length in (GEN, CHUNK, 2 * GEN, SLICE):
        for chunk in NUMBERED[case].cut([noise(length)]):
            # The ends of fades and of Hann windows are exact zeros in the right place.
            weighed = chunk.window > 0 if case.startswith(("trim", "outer")) else chunk.window >= 0
            inside = chunk.start + np.flatnonzero(weighed)
            assert ((inside >= 0) & (inside < length)).any()


@pytest.mark.parametrize("case", NUMBERED)
def test_only_what_is_needed_is_read_and_held(case):
    read, most = 0, 0

    def blocks():
        nonlocal read
        for _ in range(500):
            read += 50
            yield noise(50)

    joined, given = OverlapAdder(), 0
    for chunk in NUMBERED[case].cut(blocks()):
        given += joined.add(chunk, chunk.samples).shape[-1]
        most = max(most, read - given)
    assert given == read == 25_000
    assert most <= 3 * CHUNK + 50


@pytest.mark.parametrize("case", [case for case in NUMBERED if not case.startswith("outer of")])
def test_a_long_block_is_not_copied_for_every_chunk(case):
    chunks = list(NUMBERED[case].cut([noise(5000)]))
    owners = [chunk.samples.base for chunk in chunks]
    assert any(one is other is not None for one, other in pairwise(owners))


# Chosen by name


@pytest.fixture(scope="module")
def manifest(make_engine):
    return load_manifest(make_engine(chunk=4000, overlap=0.25))


@pytest.mark.parametrize(
    ("scheme", "overlap", "wanted"),
    [
        (None, None, Fade(4000, 3000)),
        ("fade", None, Fade(4000, 3000)),
        (None, 0.75, Fade(4000, 1000)),
        ("hann", None, Hann(4000, 256, 4000 - 256)),
        ("hann", 0.25, Hann(4000, 256, 3000)),
        ("hann", 0.0, Hann(4000, 256, 4000)),
        ("hann", 0.33, Hann(4000, 256, 2679)),  # int(2679.99...), as UVR computes it
        ("trim", None, Trim(4000, 256)),
        ("rectangular", None, Rectangular(4000, 500)),
        ("rectangular", 0.0, Rectangular(4000, 4000)),
        ("rectangular", 0.75, Rectangular(4000, 1000)),
        ("outer", None, Outer(Trim(4000, 256), 1_000_000, 400_000)),
        ("outer", 0.5, Outer(Trim(4000, 256), 1_000_000, 500_000)),
    ],
)
def test_what_is_chosen_goes_before_the_manifest(manifest, scheme, overlap, wanted):
    assert manifest.scheme(scheme, overlap) == wanted


@pytest.mark.parametrize("overlap", [-0.1, 1.0, 1.5, float("nan"), float("inf")])
@pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES if scheme != "trim"])
def test_an_overlap_is_a_fraction(manifest, scheme, overlap):
    with pytest.raises(UsageError, match=r"^half: overlap is .*, not 0 or more and below 1; choose"):
        manifest.scheme(scheme, overlap)


@pytest.mark.parametrize("overlap", [0.0, 0.5, 2.0])
def test_trimming_has_no_overlap(manifest, overlap):
    with pytest.raises(UsageError, match=r"^half: scheme trim has no overlap to choose, and .* is given; "):
        manifest.scheme("trim", overlap)


def test_an_unknown_scheme_is_refused_with_those_there_are(manifest):
    with pytest.raises(UsageError, match=r"^half: scheme is 'Hann', not one of fade, hann, trim, rect"):
        manifest.scheme("Hann")


@pytest.mark.parametrize("scheme", ["hann", "trim", "outer"])
def test_a_chunk_must_be_longer_than_what_is_trimmed(make_engine, scheme):
    short = load_manifest(make_engine(chunk=256))
    with pytest.raises(
        UsageError, match=rf"^half: a chunk of 256 samples is too short for scheme {scheme}, "
    ):
        short.scheme(scheme)
    short.scheme("rectangular")


# The registry


@dataclass(frozen=True)
class EndToEnd:
    """A scheme of the tests' own: chunks without overlap, the last one filled up with zeros."""

    chunk: int

    @classmethod
    def of(cls, chunk, n_fft, overlap):
        if overlap is not None:
            raise UsageError("no overlap for toys")
        return cls(chunk)

    def cut(self, blocks):
        song = np.concatenate(list(blocks), axis=1)
        for index, start in enumerate(range(0, song.shape[1], self.chunk)):
            samples = song[:, start : start + self.chunk]
            length = samples.shape[1]
            padded = np.pad(samples, ((0, 0), (0, self.chunk - length)))
            yield Chunk(index, start, padded, np.ones(length, np.float32), start + length)


def test_a_scheme_is_a_file_and_a_line(make_engine, song, snr_db, monkeypatch):
    monkeypatch.setitem(SCHEMES, "toy", SchemeEntry(f"{__name__}:EndToEnd", "as in the tests"))
    path, mix = make_engine(), song(9001)
    with Separator(path) as separator:
        assert snr_db(0.5 * mix, separator.separate(mix, 44100, scheme="toy")["vocals"]) > 100
        with pytest.raises(UsageError, match=r"^half: no overlap for toys; choose another scheme or overlap"):
            separator.separate(mix, 44100, scheme="toy", overlap=0.5)
    manifest = dataclasses.replace(load_manifest(path), overlap_add=OverlapAdd("toy"))
    path.with_suffix(".json").write_text(manifest.to_json())
    with Separator(path) as separator:
        assert snr_db(0.5 * mix, separator.separate(mix, 44100)["vocals"]) > 100
    with pytest.raises(ManifestError, match="no overlap for toys"):
        dataclasses.replace(manifest, overlap_add=OverlapAdd("toy", 0.5))
