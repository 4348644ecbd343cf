"""What is measured with an engine that costs nothing."""

import numpy as np
import pytest
import soundfile

from rofo import Separator
from rofo.benchmarks import host
from rofo.benchmarks.host import Geometry, measure_host
from rofo.benchmarks.results import load_all, save
from rofo.benchmarks.tables import section
from rofo.engines import BACKENDS
from rofo.manifest import OverlapAdd, Stft

SMALL = Geometry(Stft(256, 64), 4000, OverlapAdd("fade", 0.5))


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(host.GEOMETRIES, "viperx", SMALL)


def test_every_number_of_threads_and_every_stage_is_measured(small, tmp_path):
    found = measure_host("viperx", (1, 2), 1.5, rounds=2, say=lambda _: None)
    assert [row.threads for row in found.rows] == [1, 2]
    assert found.song_seconds == 1.5
    assert [part.name for part in found.stages] == [
        "read", "cut", "STFT", "inverse STFT", "overlap-add", "write",
    ]  # fmt: skip
    assert all(part.seconds.lowest > 0 for part in found.stages)
    for row in found.rows:
        assert 0 < row.real_time.lowest <= row.real_time.highest
        assert row.per_processor.median > 0
        assert row.peak_mb.median > 10
    save(found, tmp_path)
    assert load_all(tmp_path) == (found,)
    threads, stages = section(found).tables
    assert [cells[0] for cells in threads.rows] == ["1", "2"]
    assert threads.rows[0][2] == "1.00"
    assert len(stages.rows) == 6


def test_the_engine_that_costs_nothing_gives_the_mix(monkeypatch, tmp_path, song, snr_db):
    """What is measured is a song that was really separated."""
    entry = host.backend()
    monkeypatch.setitem(BACKENDS, *entry)
    file = host.write_engine(SMALL, tmp_path)
    mix = song(20_000)
    soundfile.write(tmp_path / "mix.wav", mix.T, 44100, "FLOAT")
    with Separator(file) as separator:
        paths = separator.separate_file(tmp_path / "mix.wav", tmp_path / "out")
    vocals, rest = (soundfile.read(paths[stem], dtype="float32")[0].T for stem in ("vocals", "instrumental"))
    assert snr_db(mix, vocals) > 100
    np.testing.assert_allclose(rest, 0, atol=1e-5)
