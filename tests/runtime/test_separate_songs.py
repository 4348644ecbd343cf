"""Several arrays through one engine in one call."""

import threading
from contextlib import ExitStack

import numpy as np
import pytest

from rofo import AudioReadError, CancelledError, EngineOutputError, Options, Separator, UsageError
from rofo.dsp import SCHEMES

RATE, CHUNK = 44100, 4000


@pytest.fixture
def songs(song):
    """Songs that differ in channels and length, some with nothing in them or almost."""
    lengths = [9000, 1, 0, 30_001, CHUNK, 2001, 0]
    return [song(length, 1 + i % 2, seed=i) for i, length in enumerate(lengths)]


@pytest.fixture
def counted(make_engine):
    """Open a separator that no other test has used; with it, the list of the batches its engine was given."""
    with ExitStack() as closed:

        def get(**options):
            separator = closed.enter_context(Separator(make_engine(**options), backend="onnxruntime"))
            engine, calls = separator._model.engines[0], []
            run = engine.run
            engine.run = lambda mix: calls.append(mix) or run(mix)
            return separator, calls

        yield get


@pytest.mark.parametrize(
    ("scheme", "rate", "channels"),
    [*((scheme, 44100, 2) for scheme in SCHEMES), ("fade", 44100, 1), ("fade", 48000, 2), ("trim", 48000, 1)],
)
def test_every_song_is_what_it_is_alone(opened, songs, scheme, rate, channels):
    separator = opened(channels=channels, batch=3, stems=("vocals", "drums"), residual="other")
    together = separator.separate_songs(songs, rate, Options(scheme=scheme))
    assert len(together) == len(songs)
    for mix, got in zip(songs, together, strict=True):
        want = separator.separate(mix, rate, Options(scheme=scheme))
        assert list(got) == list(want) == ["vocals", "drums", "other"]
        for stem in want:
            assert got[stem].shape == mix.shape
            np.testing.assert_array_equal(got[stem], want[stem])


def test_normalising_takes_each_songs_own_level(opened, songs):
    separator = opened(normalize=True, batch=2)
    together = separator.separate_songs([(i + 1) * mix for i, mix in enumerate(songs)], RATE)
    for i, (mix, got) in enumerate(zip(songs, together, strict=True)):
        np.testing.assert_array_equal(got["vocals"], separator.separate((i + 1) * mix, RATE)["vocals"])


def test_batches_are_filled_across_songs(counted, song):
    separator, calls = counted(batch=4)
    four = [song(2000, seed=i) for i in range(4)]
    separator.separate_songs(four, RATE)
    assert len(calls) == 1
    assert len({place.tobytes() for place in calls[0]["mix"]}) == 4
    separator.separate_songs([*four, song(2000)], RATE)
    assert len(calls) == 3


def test_no_songs_and_only_empty_ones(opened):
    assert opened().separate_songs([], RATE) == []
    results = opened().separate_songs([np.zeros((2, 0), np.float32), np.zeros((1, 0), np.float32)], RATE)
    assert [result["vocals"].shape for result in results] == [(2, 0), (1, 0)]


def test_stems_are_chosen(opened, songs):
    results = opened().separate_songs(songs, RATE, Options(stems=["Instrumental"]))
    assert {tuple(result) for result in results} == {("instrumental",)}
    with pytest.raises(UsageError, match="choose among"):
        opened().separate_songs(songs, RATE, Options(stems=["bass"]))


def test_progress_counts_all_songs_together(opened, songs):
    seen = []
    opened().separate_songs(songs, RATE, Options(progress=seen.append))
    done = [progress.done for progress in seen]
    assert done == sorted(set(done))
    assert done[-1] == seen[-1].total == sum(mix.shape[1] for mix in songs) / RATE


def test_cancelling_stops_between_songs_too(opened, songs):
    cancel, seen = threading.Event(), []

    def stop(progress):
        seen.append(progress)
        cancel.set()

    with pytest.raises(CancelledError):
        opened().separate_songs(songs, RATE, Options(progress=stop, cancel=cancel))
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (np.zeros((6, 10), np.float32), r"^mixes\[1\] has shape \(6, 10\)"),
        (np.zeros((2, 10), np.int16), r"^mixes\[1\] is of type int16"),
        (np.full((2, 10), np.nan), r"^mixes\[1\] has 20 non-finite samples"),
    ],
)
def test_a_song_that_is_none_is_named_before_any_work(counted, song, bad, said):
    separator, calls = counted()
    with pytest.raises(AudioReadError, match=said):
        separator.separate_songs([song(1000), bad, song(1000)], RATE)
    assert calls == []


def test_the_rate_is_checked(opened, song):
    with pytest.raises(AudioReadError, match="sample rate is 1 Hz"):
        opened().separate_songs([song(10)], 1)


@pytest.mark.parametrize("channels", [1, 2])
def test_output_that_is_not_finite_names_song_chunk_and_time(opened, song, channels):
    quiet = 0.1 * song(9000)
    loud = 0.1 * song(100_000)
    loud[:, 88_200:90_000] *= 100
    with pytest.raises(EngineOutputError, match=r"for chunk 44 of mixes\[2\], at 2\.0 s; try"):
        opened("nan_when_loud", channels=channels, batch=3).separate_songs([quiet, quiet, loud, quiet], RATE)
