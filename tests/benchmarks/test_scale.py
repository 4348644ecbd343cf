"""Which points are measured, in what order, and what is left out for its time."""

import pytest

from rofo.benchmarks import scale
from rofo.benchmarks.contestants import Choice
from rofo.benchmarks.probe import Run
from rofo.benchmarks.scale import Values, measure_scale
from rofo.benchmarks.subject import Told
from rofo.errors import EngineRunError

CHOICE = Choice(2, ("onnxruntime",), ("fp32",))


@pytest.fixture
def jobs(monkeypatch):
    """All jobs that were run; each song takes a tenth of its length, and 3 threads always fail."""
    seen = []

    def answer(job):
        if job.threads == 3:
            raise EngineRunError("no third core")
        seconds = float(job.song.stem)
        seen.append((seconds, job.stems, job.threads, job.subject.engine.parent.name))
        return Run(seconds, seconds / 10, 1.0, 100.0 + len(seen), backend="onnxruntime", precision="fp32")

    monkeypatch.setattr(scale, "measure", answer)
    return seen


def test_every_axis_varies_alone(make_engine, jobs):
    values = Values(seconds=(1.0, 2.0, 900.0), batches=(1, 2), threads=(1, 3), most=60)
    result = measure_scale(make_engine(), Told(), CHOICE, values, rounds=2, say=lambda _: None)
    points = [(point.axis, point.value) for point in result.points]
    assert points == [("seconds", 1), ("seconds", 2), ("stems", 1), ("stems", 2), ("threads", 1)]
    songs = result.song_seconds
    engine = jobs[0][3]
    assert jobs[:5] == [
        (1.0, None, 2, engine),
        (2.0, None, 2, engine),
        (songs, 1, 2, engine),
        (songs, 2, 2, engine),
        (songs, None, 1, engine),
    ]
    assert jobs[5:] == jobs[:5]  # the second round
    assert {one.what: one.why for one in result.about.left_out} == {
        "seconds 900": "it would take 90 s, more than 60",
        "threads 3": "no third core",
        "batch": "an engine has one batch; give its checkpoint instead",
    }
    assert result.points[0].real_time.median == 10
    assert (result.points[0].peak_mb.lowest, result.points[0].peak_mb.highest) == (101, 106)


def test_other_batches_are_exported_and_separate_the_same_song(make_engine, jobs, monkeypatch, tmp_path):
    made = {batch: make_engine(batch=batch) for batch in (1, 4)}

    def prepared(target, told, folder, log, batch=1):
        return real(made[batch], Told(), folder, log)

    real = scale.prepare
    monkeypatch.setattr(scale, "prepare", prepared)
    values = Values(seconds=(1.0,), batches=(1, 4), threads=(), most=60)
    result = measure_scale(tmp_path / "a.ckpt", Told(), CHOICE, values, rounds=1, say=lambda _: None)
    by_batch = [job for job in jobs if job[3] in {str(path.parent.name) for path in made.values()}][-2:]
    assert [point.value for point in result.points if point.axis == "batch"] == [1, 4]
    assert by_batch[0][0] == by_batch[1][0] == pytest.approx(4 * result.song_seconds)
    assert by_batch[0][3] != by_batch[1][3]
