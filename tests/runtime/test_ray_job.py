"""A list of songs on Ray, and stems that go to a URL."""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest
import soundfile

from rofo import ListedSong, Options, read_rows, separate_song
from rofo.serving.ray import main
from rofo.serving.uploads import separate_to

RATE = 44100
PLAIN = Options()


@pytest.fixture
def mix(song, tmp_path):
    soundfile.write(tmp_path / "mix.wav", song(9000).T, RATE, "PCM_16")
    return ListedSong("id 1", tmp_path / "mix.wav")


@pytest.fixture
def upload(opened, tmp_path, monkeypatch):
    """Separate into a URL; what it tells, and the folder that is behind the URL."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    there = tmp_path / "there"

    def uploaded(song, options=PLAIN):
        row = separate_to(f"file://{there}", opened(), song, options)
        assert not list((tmp_path / "tmp").iterdir())
        return row, there

    return uploaded


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_stems_at_a_url_are_those_of_a_folder(upload, opened, mix, tmp_path):
    row, there = upload(mix)
    wanted = separate_song(opened(), mix, tmp_path / "out")
    assert dataclasses.replace(row, elapsed=0) == dataclasses.replace(wanted, elapsed=0)
    assert sorted(path.name for path in there.rglob("*") if path.is_file()) == [
        ".rofo.json",
        "instrumental.wav",
        "vocals.wav",
    ]
    for stem in row.stems.values():
        assert sha256(there / stem["file"]) == stem["sha256"]


def test_what_is_done_at_a_url_is_not_done_again(upload, mix):
    first, there = upload(mix)
    vocals = there / "id 1" / "vocals.wav"
    os.utime(vocals, (1, 1))
    again, _ = upload(mix)
    assert (again.status, again.stems, vocals.stat().st_mtime) == ("skipped", first.stems, 1)
    assert upload(mix, Options(overlap=0.75))[0].status == "done"
    vocals.unlink()
    assert upload(mix)[0].status == "done"
    os.truncate(vocals, 100)
    assert upload(mix)[0].status == "done"
    assert vocals.stat().st_mtime != 1


def test_a_bad_song_leaves_what_is_at_the_url(upload, mix):
    done, there = upload(mix)
    Path(mix.path).write_text("no audio")
    assert upload(mix)[0].status == "failed"
    for stem in done.stems.values():
        assert sha256(there / stem["file"]) == stem["sha256"]


def test_killed_while_it_uploads_it_is_done_again(upload, mix, monkeypatch):
    local = type(fsspec.url_to_fs("file:///")[0])
    upload(mix, Options(overlap=0.75))
    with monkeypatch.context() as patched:
        patched.setattr(local, "mv", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            upload(mix)
    row, there = upload(mix)
    assert row.status == "done"
    assert not list(there.rglob("*.part"))


def test_without_ray_it_is_said_what_to_install(make_engine, mix, tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "ray", None)
    row = {"id": mix.id, "path": str(mix.path)}
    (tmp_path / "songs.jsonl").write_text(json.dumps(row))
    with pytest.raises(SystemExit) as stop:
        main(["--engine", str(make_engine()), "--list", str(tmp_path / "songs.jsonl"), "--output", "out"])
    assert stop.value.code == 2
    assert "is not installed; pip install 'rofo[ray]'" in capfd.readouterr().err


@pytest.mark.slow
def test_a_list_on_ray_is_the_same_as_without(make_engine, song, tmp_path, monkeypatch):
    """Needs Ray (`make .venv/ray`), which is started on this machine."""
    monkeypatch.chdir(tmp_path)
    for number in range(5):
        soundfile.write(f"{number}.wav", song(9000, seed=number).T, RATE, "PCM_16")
    Path("3.wav").write_text("no audio")
    rows = [{"id": f"s{number}", "path": f"{number}.wav"} for number in range(5)]
    Path("songs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    job = ["--engine", make_engine(), "--list", "songs.jsonl", "--backend", "onnxruntime", "--threads", "1"]
    plain = subprocess.run(
        [Path(sys.executable).with_name("rofo-run"), *job, "--output", "plain"], check=False
    ).returncode
    wanted = {row.id: row for row in read_rows(Path("plain/results.jsonl"))}
    # Once as it is, once more with nothing left to do.
    for output in ("out", "out", f"file://{tmp_path}/there"):
        ray = subprocess.run(
            [sys.executable, "-m", "rofo.serving.ray", *job, "--output", output, "--workers", "2"],
            check=False, capture_output=True, text=True,
        )  # fmt: skip
        assert (ray.returncode, plain) == (7, 7), ray.stderr
        assert "4 of 5 songs are done, 1 failed" in ray.stderr
        folder = Path(output.removeprefix("file://"))
        found = [row for file in folder.glob("rows.jsonl/*.jsonl") for row in read_rows(file)]
        assert sorted(row.id for row in found) == [f"s{number}" for number in range(5)]
        for row in found:
            assert row.tells(wanted[row.id])
            assert (row.status, row.exit_code) == (wanted[row.id].status, wanted[row.id].exit_code)
        assert not list(folder.rglob("*.part"))
