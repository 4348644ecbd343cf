"""The scheme of magronp/bsrnn against the tool's own, and what its chunks hold beyond it."""

import numpy as np
import pytest
from golden.files import read

from rofo.dsp.crossfade import Crossfade
from rofo.dsp.overlap_add import OverlapAdder
from rofo.errors import UsageError

CASE = read("bsrnn").cases["calls"]
SCHEME = Crossfade.of(CASE.facts["chunk"], 2, None)


def cut(song, block):
    return SCHEME.cut(song[:, start : start + block] for start in range(0, song.shape[1], block))


@pytest.mark.parametrize("block", [7, 64, 1000])
@pytest.mark.parametrize("length", CASE.outputs)
def test_every_sample_comes_from_the_chunks_it_comes_from_there(length, block):
    song, adder = np.ones((1, int(length)), np.float32), OverlapAdder()
    found = [adder.add(chunk, chunk.samples * (chunk.index + 1)) for chunk in cut(song, block)]
    np.testing.assert_allclose(np.concatenate(found, axis=1), CASE.outputs[length], rtol=1e-6)


def test_a_chunk_short_of_its_length_is_continued_by_its_reflection():
    first, *_, last = cut(np.arange(300, dtype=np.float32)[None], 50)
    assert first.samples[0, 107:113].tolist() == [107, 108, 109, 108, 107, 106]
    ends_at = 299 - last.start
    assert last.samples[0, ends_at - 1 : ends_at + 3].tolist() == [298, 299, 298, 297]
    (alone,) = cut(np.arange(2, dtype=np.float32)[None], 50)
    assert alone.samples[0, :6].tolist() == [0, 1, 0, 1, 0, 1]


def test_an_empty_song_has_no_chunks():
    assert not list(cut(np.zeros((2, 0), np.float32), 10))


def test_an_overlap_that_leaves_no_middle_is_refused():
    with pytest.raises(UsageError, match=r"overlap is 0\.5, more than the third"):
        Crossfade.of(120, 2, 0.5)
