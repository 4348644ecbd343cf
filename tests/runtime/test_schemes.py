"""Every scheme, streamed, against what the tool it comes from gave for whole songs (tests/golden)."""

import dataclasses
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from golden.files import read
from golden.seeded import noise, stand_in
from hypothesis import given, settings
from hypothesis import strategies as st

from rofo import ManifestError, Options, Separator, UsageError, load_manifest
from rofo.dsp import SCHEMES, SchemeEntry
from rofo.dsp.average import Average
from rofo.dsp.crossfade import Crossfade
from rofo.dsp.fade import Fade
from rofo.dsp.hamming import Hamming
from rofo.dsp.hann import Hann
from rofo.dsp.outer import Outer
from rofo.dsp.overlap_add import OverlapAdder
from rofo.dsp.ramp import Ramp
from rofo.dsp.rectangular import Rectangular
from rofo.dsp.scheme import Chunk
from rofo.dsp.triangular import Triangular
from rofo.dsp.trim import Trim
from rofo.manifest import OverlapAdd

CHUNK, N_FFT = 96, 16
GEN = CHUNK - N_FFT
SLICE, STEP = 250, 100
LENGTHS = [1, GEN, GEN + 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * GEN, 777]


def streamed(scheme, mix, sizes=()):
    """The mix through a scheme and the stand-in, in blocks of `sizes` and the rest as one."""
    edges = np.cumsum([0, *sizes])
    blocks = [mix[:, a:b] for a, b in pairwise(edges)] + [mix[:, edges[-1] :]]
    joined = OverlapAdder()
    return np.concatenate(
        [joined.add(chunk, stand_in(chunk.samples)) for chunk in scheme.cut(iter(blocks))], axis=-1
    )


def hann(facts):
    overlap = None if facts["overlap"] == "Default" else facts["overlap"]
    return Hann.of(facts["chunk"], facts["n_fft"], overlap)


def rectangular(facts):
    return Rectangular.of(facts["chunk"], 0, 1 - 1 / facts["number"])


def outer(facts):
    step = max(1, int(facts["slice"] * (1 - facts["overlap"])))
    return Outer(Trim(facts["chunk"], facts["n_fft"]), facts["slice"], step)


def triangular(facts):
    scheme = Triangular.of(facts["chunk"], 0, facts["overlap"])
    return scheme.shifted(facts["shifts"]) if facts["shifts"] else scheme


# The cutter for a case of a golden file, and whether every bit is the same: some tools sum in another order
# or precision, or compute their ramps otherwise.
TOOLS = {
    "msst_scheme": (lambda facts: Fade(facts["chunk"], facts["chunk"] // facts["num_overlap"]), False),
    "uvr_mdx_scheme": (hann, False),
    "mdx_net_submission_scheme": (lambda facts: Trim.of(facts["chunk"], facts["n_fft"], None), True),
    "uvr_mdx_c_scheme": (rectangular, True),
    "sdx23_scheme": (rectangular, True),
    "mvsep_mdx23_scheme": (outer, False),
    "demucs_scheme": (triangular, False),
    "audio_separator_scheme": (lambda facts: Hamming(facts["chunk"], facts["step"]), False),
    "xlance_scheme": (lambda facts: Ramp(facts["chunk"], facts["fade"]), False),
    "msst_demucs_scheme": (
        lambda facts: Average(facts["chunk"], facts["chunk"] // facts["num_overlap"]),
        True,
    ),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_equals_the_tool_it_comes_from(tool, snr_db):
    """Bit for bit, or 135 dB where rounding differs."""
    scheme_of, exact = TOOLS[tool]
    for name, case in read(tool).cases.items():
        for length, want in case.outputs.items():
            got = streamed(scheme_of(case.facts), noise(int(length)))
            assert got.shape == want.shape and got.dtype == np.float32
            assert not exact or np.array_equal(got, want), (name, length)
            assert snr_db(want, got) > 135, (name, length)


WITH_NUMBERS = {
    "fade": Fade.of(CHUNK, N_FFT, None),
    "hann default": Hann.of(CHUNK, N_FFT, None),
    "hann 0": Hann.of(CHUNK, N_FFT, 0.0),
    "hann 0.95": Hann.of(CHUNK, N_FFT, 0.95),
    "hamming": Hamming.of(CHUNK, N_FFT, None),
    "hamming 0.7": Hamming.of(CHUNK, N_FFT, 0.7),
    "trim": Trim.of(CHUNK, N_FFT, None),
    "rectangular 1": Rectangular.of(CHUNK, N_FFT, 0.0),
    "rectangular 8": Rectangular.of(CHUNK, N_FFT, 1 - 1 / 8),
    "triangular": Triangular.of(CHUNK, N_FFT, None),
    "triangular apart": Triangular.of(CHUNK, N_FFT, 0.0),
    "triangular 0.9": Triangular.of(CHUNK, N_FFT, 0.9),
    "triangular, two passes": Triangular(CHUNK, 72, leads=(0, 200)),
    "average": Average.of(CHUNK, N_FFT, None),
    "average apart": Average.of(CHUNK, N_FFT, 0.0),
    "crossfade": Crossfade.of(CHUNK, N_FFT, None),
    "ramp": Ramp.of(CHUNK, N_FFT, None),
    "ramp of halves": Ramp.of(CHUNK, N_FFT, 0.5),
    "ramp apart": Ramp.of(CHUNK, N_FFT, 0.0),
    "outer": Outer(Trim(CHUNK, N_FFT), SLICE, STEP),
    "outer apart": Outer(Trim(CHUNK, N_FFT), SLICE, SLICE),
    "outer of less than a chunk": Outer(Trim(CHUNK, N_FFT), GEN - 10, 23),
    "outer of whole chunks": Outer(Trim(CHUNK, N_FFT), 2 * GEN, GEN),
}


@given(
    case=st.sampled_from(sorted(WITH_NUMBERS)),
    length=st.integers(1, 900),
    sizes=st.lists(st.integers(0, 200)),
)
@settings(max_examples=200, deadline=None)
def test_any_length_in_any_blocks(case, length, sizes):
    mix = noise(length, 1)
    sizes = [size for i, size in enumerate(sizes) if sum(sizes[: i + 1]) <= length]
    np.testing.assert_array_equal(streamed(WITH_NUMBERS[case], mix, sizes), streamed(WITH_NUMBERS[case], mix))


@pytest.mark.parametrize("number", [3, 7, 95, 200])
@pytest.mark.parametrize("length", LENGTHS)
def test_an_average_of_chunks_keeps_the_level_for_any_number(number, length):
    scheme, joined = Rectangular.of(100, N_FFT, 1 - 1 / number), OverlapAdder()
    mix = noise(length)
    got = [joined.add(chunk, chunk.samples) for chunk in scheme.cut([mix])]
    np.testing.assert_allclose(np.concatenate(got, axis=-1), mix, rtol=1e-4)


@pytest.mark.parametrize("blocks", [[], [np.zeros((2, 0), np.float32)], [np.zeros((1, 0), np.float32)] * 3])
@pytest.mark.parametrize("case", WITH_NUMBERS)
def test_an_empty_song_has_no_chunks(case, blocks):
    assert not list(WITH_NUMBERS[case].cut(blocks))


@pytest.mark.parametrize("length", [1, GEN, GEN + 1, 777])
@pytest.mark.parametrize("case", WITH_NUMBERS)
def test_chunks_are_what_they_promise(case, length):
    chunks = list(WITH_NUMBERS[case].cut([noise(length)]))
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    assert {chunk.samples.shape for chunk in chunks} == {(2, CHUNK)}
    assert {chunk.samples.dtype for chunk in chunks} == {np.dtype(np.float32)}
    assert all(chunk.window.size <= CHUNK for chunk in chunks)
    starts, finished = [chunk.start for chunk in chunks], [chunk.finished for chunk in chunks]
    assert starts == sorted(starts)
    assert finished == sorted(finished)
    assert finished[-1] == length
    assert min(finished) >= 0


@pytest.mark.parametrize("case", WITH_NUMBERS)
def test_no_chunk_is_of_no_use(case):
    for length in (GEN, CHUNK, 2 * GEN, SLICE):
        for chunk in WITH_NUMBERS[case].cut([noise(length)]):
            # The ends of fades and of Hann windows are exact zeros in the right place.
            weighed = chunk.window > 0 if case.startswith(("trim", "outer")) else chunk.window >= 0
            inside = chunk.start + np.flatnonzero(weighed)
            assert ((inside >= 0) & (inside < length)).any()


@pytest.mark.parametrize("case", WITH_NUMBERS)
def test_only_what_is_needed_is_read_and_held(case):
    read, most = 0, 0

    def blocks():
        nonlocal read
        for _ in range(500):
            read += 50
            yield noise(50)

    joined, given = OverlapAdder(), 0
    for chunk in WITH_NUMBERS[case].cut(blocks()):
        given += joined.add(chunk, chunk.samples).shape[-1]
        most = max(most, read - given)
    assert given == read == 25_000
    assert most <= 3 * CHUNK + 50


@pytest.mark.parametrize("case", [case for case in WITH_NUMBERS if not case.startswith("outer of")])
def test_a_long_block_is_not_copied_for_every_chunk(case):
    chunks = list(WITH_NUMBERS[case].cut([noise(5000)]))
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
    with pytest.raises(UsageError, match=r"^half: scheme is 'Hann', not one of fade, hann, hamming, trim"):
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
        assert snr_db(0.5 * mix, separator.separate(mix, 44100, Options(scheme="toy"))["vocals"]) > 100
        with pytest.raises(UsageError, match=r"^half: no overlap for toys; choose another scheme or overlap"):
            separator.separate(mix, 44100, Options(scheme="toy", overlap=0.5))
    manifest = dataclasses.replace(load_manifest(path), overlap_add=OverlapAdd("toy"))
    path.with_suffix(".json").write_text(manifest.to_json())
    with Separator(path) as separator:
        assert snr_db(0.5 * mix, separator.separate(mix, 44100)["vocals"]) > 100
    with pytest.raises(ManifestError, match="no overlap for toys"):
        dataclasses.replace(manifest, overlap_add=OverlapAdd("toy", 0.5))


@pytest.mark.parametrize("length", [1, 47, 95, 96, 97, 301])
@pytest.mark.parametrize("wide", [96, 97, 130])
def test_a_segment_is_given_with_the_song_around_it(length, wide):
    """A network that adds up three neighbours: of every segment it sees those beyond its ends."""
    song = noise(length)
    beside = np.pad(song, ((0, 0), (1, 1)))
    joined = OverlapAdder()
    chunks = list(Triangular.of(96, 0, 0.25).within(wide).cut(iter([song])))
    assert all(chunk.samples.shape == (2, wide) for chunk in chunks)
    padded = [np.pad(chunk.samples, ((0, 0), (1, 1))) for chunk in chunks]
    found = [p[:, :-2] + p[:, 1:-1] + p[:, 2:] for p in padded]
    got = np.concatenate([joined.add(c, f[None]) for c, f in zip(chunks, found, strict=True)], axis=-1)[0]
    wanted = beside[:, :-2] + beside[:, 1:-1] + beside[:, 2:]
    same = np.abs(got - wanted).max(axis=0) < 1e-5
    # One sample at either end of a segment that fills its chunk hears nothing from beyond it.
    assert same.all() if wide > 97 else same.sum() >= length - 2 * len(chunks)
