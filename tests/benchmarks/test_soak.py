"""The proofs `soak` and `reopen`: what they call a leak. The proofs themselves are commands."""

import threading

import pytest

from rofo import Separator
from rofo.benchmarks.held import Held, growth, leaks
from rofo.benchmarks.soak import DOORS, _song
from rofo.options import Options


def held(*mb, threads=3, handles=5):
    return [Held(size, threads, handles) for size in mb]


def test_memory_that_is_flat_after_a_warm_up_is_no_leak():
    seen = held(10, 90, 200, 203, 201, 202, 201, 202, 203)
    assert abs(growth(seen)) < 0.01
    assert leaks(seen, 0.02) == []


def test_memory_that_grows_threads_and_handles_are():
    seen = [*held(100, 100, 100, 100, 100, 100), *held(103, 103, 103, threads=4, handles=7)]
    assert leaks(seen, 0.02) == ["memory grew by 3.0%", "1 threads were left", "2 handles were left"]


def test_what_this_process_holds_is_seen():
    before, go_on = Held.now(), threading.Event()
    thread = threading.Thread(target=go_on.wait)
    thread.start()
    ballast = bytearray(b"x" * 50_000_000)
    after = Held.now()
    go_on.set()
    thread.join()
    assert after.threads == before.threads + 1
    assert 45 < after.mb - before.mb < 60
    del ballast
    assert Held.now(before.threads).threads == before.threads


@pytest.mark.parametrize("name", DOORS)
def test_every_door_gives_the_same_twice_and_another_song_something_else(make_engine, tmp_path, name):
    with Separator(make_engine("level"), backend="onnxruntime") as separator:
        songs = [_song(tmp_path, number, 22050, 2, 0.3) for number in (1, 2)]
        one, again, other = (DOORS[name](separator, songs[i], Options()) for i in (0, 0, 1))
        assert one == again
        assert not set(one.values()) & set(other.values())
        assert sorted(path.suffix for path in tmp_path.iterdir()) == [".wav", ".wav"]
