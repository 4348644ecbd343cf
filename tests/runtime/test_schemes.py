"""Every scheme, streamed, against what the tool it comes from gave for whole songs (tests/golden)."""

from itertools import pairwise

import numpy as np
import pytest
from golden.files import read
from golden.seeded import noise, stand_in
from hypothesis import given, settings
from hypothesis import strategies as st

from rofo import UsageError, load_manifest
from rofo.manifest import SCHEMES
from rofo.overlap_add import OverlapAdd
from rofo.schemes import choose_cutter
from rofo.schemes.fade import Fade
from rofo.schemes.hann import Hann
from rofo.schemes.outer import Outer
from rofo.schemes.rectangular import Rectangular
from rofo.schemes.trim import Trim

CHUNK, N_FFT = 96, 16
GEN = CHUNK - N_FFT
SLICE, STEP = 250, 100
LENGTHS = [1, GEN, GEN + 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * GEN, 777]


def streamed(cutter, mix, sizes=()):
    """The mix through a scheme and the stand-in, in blocks of `sizes` and the rest as one."""
    edges = np.cumsum([0, *sizes])
    blocks = [mix[:, a:b] for a, b in pairwise(edges)] + [mix[:, edges[-1] :]]
    joined = OverlapAdd()
    return np.concatenate(
        [joined.add(piece, stand_in(piece.samples)) for piece in cutter.cut(iter(blocks))], axis=-1
    )


def hann(facts):
    overlap = None if facts["overlap"] == "Default" else facts["overlap"]
    return Hann.of(facts["chunk"], facts["n_fft"], overlap)


def rectangular(facts):
    return Rectangular.of(facts["chunk"], 0, 1 - 1 / facts["number"])


def outer(facts):
    step = max(1, int(facts["slice"] * (1 - facts["overlap"])))
    return Outer(Trim(facts["chunk"], facts["n_fft"]), facts["slice"], step)


# The cutter for a case of a golden file, and whether every bit is the same: some tools sum in another order
# or precision, or compute their ramps otherwise.
TOOLS = {
    "msst_scheme": (lambda facts: Fade(facts["chunk"], facts["chunk"] // facts["num_overlap"]), False),
    "uvr_mdx_scheme": (hann, False),
    "mdx_net_submission_scheme": (lambda facts: Trim.of(facts["chunk"], facts["n_fft"], None), True),
    "uvr_mdx_c_scheme": (rectangular, True),
    "sdx23_scheme": (rectangular, True),
    "mvsep_mdx23_scheme": (outer, False),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_equals_the_tool_it_comes_from(tool, snr_db):
    """Bit for bit, or 140 dB where rounding differs."""
    cutter_of, exact = TOOLS[tool]
    for name, case in read(tool).cases.items():
        for length, want in case.outputs.items():
            got = streamed(cutter_of(case.facts), noise(int(length)))
            assert got.shape == want.shape and got.dtype == np.float32
            assert not exact or np.array_equal(got, want), (name, length)
            assert snr_db(want, got) > 140, (name, length)


CUTTERS = {
    "fade": Fade.of(CHUNK, N_FFT, None),
    "hann default": Hann.of(CHUNK, N_FFT, None),
    "hann 0": Hann.of(CHUNK, N_FFT, 0.0),
    "hann 0.95": Hann.of(CHUNK, N_FFT, 0.95),
    "trim": Trim.of(CHUNK, N_FFT, None),
    "rectangular 1": Rectangular.of(CHUNK, N_FFT, 0.0),
    "rectangular 8": Rectangular.of(CHUNK, N_FFT, 1 - 1 / 8),
    "outer": Outer(Trim(CHUNK, N_FFT), SLICE, STEP),
    "outer apart": Outer(Trim(CHUNK, N_FFT), SLICE, SLICE),
    "outer of less than a chunk": Outer(Trim(CHUNK, N_FFT), GEN - 10, 23),
    "outer of whole chunks": Outer(Trim(CHUNK, N_FFT), 2 * GEN, GEN),
}


@given(case=st.sampled_from(sorted(CUTTERS)), length=st.integers(1, 900), sizes=st.lists(st.integers(0, 200)))
@settings(max_examples=200, deadline=None)
def test_any_length_in_any_blocks(case, length, sizes):
    mix = noise(length, 1)
    sizes = [size for i, size in enumerate(sizes) if sum(sizes[: i + 1]) <= length]
    np.testing.assert_array_equal(streamed(CUTTERS[case], mix, sizes), streamed(CUTTERS[case], mix))


@pytest.mark.parametrize("number", [3, 7, 95, 200])
@pytest.mark.parametrize("length", LENGTHS)
def test_an_average_of_chunks_keeps_the_level_for_any_number(number, length):
    cutter, joined = Rectangular.of(100, N_FFT, 1 - 1 / number), OverlapAdd()
    mix = noise(length)
    got = [joined.add(piece, piece.samples) for piece in cutter.cut([mix])]
    np.testing.assert_allclose(np.concatenate(got, axis=-1), mix, rtol=1e-4)


@pytest.mark.parametrize("blocks", [[], [np.zeros((2, 0), np.float32)], [np.zeros((1, 0), np.float32)] * 3])
@pytest.mark.parametrize("case", CUTTERS)
def test_an_empty_song_has_no_pieces(case, blocks):
    assert not list(CUTTERS[case].cut(blocks))


@pytest.mark.parametrize("length", [1, GEN, GEN + 1, 777])
@pytest.mark.parametrize("case", CUTTERS)
def test_pieces_are_what_they_promise(case, length):
    pieces = list(CUTTERS[case].cut([noise(length)]))
    assert [piece.index for piece in pieces] == list(range(len(pieces)))
    assert {piece.samples.shape for piece in pieces} == {(2, CHUNK)}
    assert {piece.samples.dtype for piece in pieces} == {np.dtype(np.float32)}
    assert all(piece.window.size <= CHUNK for piece in pieces)
    starts, finished = [piece.start for piece in pieces], [piece.finished for piece in pieces]
    assert starts == sorted(starts)
    assert finished == sorted(finished)
    assert finished[-1] == length
    assert min(finished) >= 0


@pytest.mark.parametrize("case", CUTTERS)
def test_no_piece_is_of_no_use(case):
    for length in (GEN, CHUNK, 2 * GEN, SLICE):
        for piece in CUTTERS[case].cut([noise(length)]):
            # The ends of fades and of Hann windows are exact zeros in the right place.
            weighed = piece.window > 0 if case.startswith(("trim", "outer")) else piece.window >= 0
            inside = piece.start + np.flatnonzero(weighed)
            assert ((inside >= 0) & (inside < length)).any()


@pytest.mark.parametrize("case", CUTTERS)
def test_only_what_is_needed_is_read_and_held(case):
    read, most = 0, 0

    def blocks():
        nonlocal read
        for _ in range(500):
            read += 50
            yield noise(50)

    joined, given = OverlapAdd(), 0
    for piece in CUTTERS[case].cut(blocks()):
        given += joined.add(piece, piece.samples).shape[-1]
        most = max(most, read - given)
    assert given == read == 25_000
    assert most <= 3 * CHUNK + 50


@pytest.mark.parametrize("case", [case for case in CUTTERS if not case.startswith("outer of")])
def test_a_long_block_is_not_copied_for_every_chunk(case):
    pieces = list(CUTTERS[case].cut([noise(5000)]))
    owners = [piece.samples.base for piece in pieces]
    assert any(one is other is not None for one, other in pairwise(owners))


# Chosen by name


@pytest.fixture(scope="module")
def manifest(make_engine):
    return load_manifest(make_engine(chunk=4000, overlap=0.25))


@pytest.mark.parametrize(
    ("scheme", "overlap", "cutter"),
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
def test_what_is_chosen_goes_before_the_manifest(manifest, scheme, overlap, cutter):
    assert choose_cutter(manifest, scheme, overlap) == cutter


@pytest.mark.parametrize("overlap", [-0.1, 1.0, 1.5, float("nan"), float("inf")])
@pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES if scheme != "trim"])
def test_an_overlap_is_a_fraction(manifest, scheme, overlap):
    with pytest.raises(UsageError, match=r"^half: overlap is .*, not 0 or more and below 1; choose"):
        choose_cutter(manifest, scheme, overlap)


@pytest.mark.parametrize("overlap", [0.0, 0.5, 2.0])
def test_trimming_has_no_overlap(manifest, overlap):
    with pytest.raises(UsageError, match=r"^half: scheme trim has no overlap to choose, and .* is given; "):
        choose_cutter(manifest, "trim", overlap)


def test_an_unknown_scheme_is_refused_with_those_there_are(manifest):
    with pytest.raises(UsageError, match=r"^half: scheme is 'Hann'; choose among fade, hann, trim, rect"):
        choose_cutter(manifest, "Hann")


@pytest.mark.parametrize("scheme", ["hann", "trim", "outer"])
def test_a_chunk_must_be_longer_than_what_is_trimmed(make_engine, scheme):
    short = load_manifest(make_engine(chunk=256))
    with pytest.raises(
        UsageError, match=rf"^half: a chunk of 256 samples is too short for scheme {scheme}, "
    ):
        choose_cutter(short, scheme)
    choose_cutter(short, "rectangular")
