"""--resume: a song is skipped where its stems are those of this engine, these options and this input only."""

import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
from encoded_media import encode

from rofo import CancelledError, Options, Separator
from rofo.audio import AudioReader
from rofo.cli import main

RATE = 44100
AGAIN = Options(resume=True)
RECORD = Path("out/mix/.rofo.json")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Every test works in a folder of its own, with a song in it."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def mix(song):
    soundfile.write("mix.wav", song(10_000).T, RATE, "PCM_16")
    return Path("mix.wav")


@pytest.fixture
def separator(opened):
    return opened()


@pytest.fixture
def finished(separator, mix):
    """The stems of a song that was separated, with times by which it is seen that they are replaced."""
    paths = separator.separate_file(mix, "out")
    for path in paths.values():
        os.utime(path, (1, 1))
    return paths


def untouched(paths):
    return all(path.stat().st_mtime == 1 for path in paths.values())


def test_a_finished_song_is_skipped_and_told_as_such(separator, mix, finished):
    done = separator.separate_file(mix, "out", AGAIN)
    assert (dict(done), done.skipped, done.seconds) == (dict(finished), True, 10_000 / RATE)
    assert untouched(finished)


def test_without_resume_it_is_separated_again(separator, mix, finished):
    assert not separator.separate_file(mix, "out").skipped
    assert not untouched(finished)


def test_a_part_of_the_stems_is_there_already(separator, mix, finished):
    done = separator.separate_file(mix, "out", Options(resume=True, stems=["vocals"]))
    assert (list(done), done.skipped) == (["vocals"], True)
    only = separator.separate_file(mix, "other", Options(stems=["vocals"]))
    assert list(only) == ["vocals"]
    done = separator.separate_file(mix, "other", AGAIN)
    assert (list(done), done.skipped) == (["vocals", "instrumental"], False)


def test_a_song_is_known_by_its_content(separator, mix, finished):
    Path("deeper").mkdir()
    shutil.copy(mix, "deeper/mix.wav")
    os.utime("deeper/mix.wav", (5, 5))
    assert separator.separate_file("deeper/mix.wav", "out", AGAIN).skipped


def test_another_input_of_the_same_name_size_and_time(separator, mix, finished):
    before = mix.stat()
    data = bytearray(mix.read_bytes())
    data[5000] ^= 1
    mix.write_bytes(data)
    os.utime(mix, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not separator.separate_file(mix, "out", AGAIN).skipped


@pytest.mark.parametrize(
    "other",
    [
        {"overlap": 0.75},
        {"overlap": np.float32(0.75)},
        {"scheme": "hann"},
        {"container": "flac"},
        {"subtype": "PCM_24"},
        {"channels": (0,)},
        {"channels": (np.int64(1),)},
        {"sanitize": True},
        {"allow_truncated": True},
    ],
)
def test_other_options(separator, mix, finished, other):
    options = Options(resume=True, **other)
    assert not separator.separate_file(mix, "out", options).skipped
    assert separator.separate_file(mix, "out", options).skipped
    assert not separator.separate_file(mix, "out", AGAIN).skipped


@pytest.mark.parametrize(
    "other", [{"kind": "half"}, {"overlap": 0.75}, {"batch": 2}, {"backend": "openvino"}, {"normalize": True}]
)
def test_another_engine(opened, mix, finished, other):
    assert not opened(**other).separate_file(mix, "out", AGAIN).skipped
    assert not untouched(finished)


def test_another_engine_file_in_the_manifest_changes_nothing(make_engine, mix):
    engine = make_engine()
    with Separator(engine, backend="onnxruntime") as separator:
        separator.separate_file(mix, "out")
    raw = json.loads(engine.with_suffix(".json").read_text())
    raw["engines"].append(raw["engines"][0] | {"file": "half.plan", "backend": "tensorrt"})
    engine.with_suffix(".json").write_text(json.dumps(raw))
    with Separator(engine, backend="onnxruntime") as separator:
        assert separator.separate_file(mix, "out", AGAIN).skipped


@pytest.mark.parametrize(
    "record", [b"", b"[]", b"{}", b"\xff", b'{"made_from": null}', b"null", "stems", "name", None]
)
def test_a_record_that_is_missing_or_foreign(separator, mix, finished, record):
    raw = json.loads(RECORD.read_text())
    if record is None:
        RECORD.unlink()
    elif record == "stems":
        RECORD.write_text(json.dumps(raw | {"stems": 3}))
    elif record == "name":
        raw["stems"]["vocals"]["file"] = "../mix/vocals.wav"
        RECORD.write_text(json.dumps(raw))
    else:
        RECORD.write_bytes(record)
    assert not separator.separate_file(mix, "out", AGAIN).skipped
    assert separator.separate_file(mix, "out", AGAIN).skipped


@pytest.mark.parametrize(
    "harm", [Path.unlink, lambda path: os.truncate(path, 100), lambda p: p.write_bytes(b"")]
)
def test_a_stem_that_is_missing_or_another(separator, mix, finished, harm):
    harm(finished["instrumental"])
    assert not separator.separate_file(mix, "out", AGAIN).skipped


def test_a_run_that_replaces_only_some_stems_leaves_no_record(separator, mix, finished, monkeypatch):
    """Killed between the first stem and the second: the record of the old ones must be gone by then."""

    def killed(self, target):
        assert not RECORD.exists()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "replace", killed)
        separator.separate_file(mix, "out", Options(overlap=0.75))
    assert not separator.separate_file(mix, "out", AGAIN).skipped


def test_a_run_that_fails_leaves_the_old_stems_finished(separator, mix, finished):
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(CancelledError):
        separator.separate_file(mix, "out", Options(overlap=0.75, cancel=cancel))
    assert separator.separate_file(mix, "out", AGAIN).skipped


def test_nothing_is_decoded_only_to_be_skipped(separator, song, monkeypatch):
    encode(Path("mix.m4a"), "aac", song(RATE))
    separator.separate_file("mix.m4a", "out")

    def asked(*_, **__):
        raise AssertionError("the song was opened")

    monkeypatch.setattr("av.open", asked)
    monkeypatch.setattr(AudioReader, "__init__", asked)
    assert separator.separate_file("mix.m4a", "out", AGAIN).skipped


def test_the_command_line_tells_what_it_skipped(make_engine, mix, song, capfd):
    soundfile.write("b.wav", song(4000).T, RATE)
    engine = str(make_engine())
    for arguments, expected in (
        (["mix.wav"], ["done"]),
        (["mix.wav", "b.wav", "--resume"], ["skipped", "done"]),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["--engine", engine, "--json", "--verbose", *arguments])
        assert stop.value.code == 0
        out, err = capfd.readouterr()
        assert [json.loads(line)["status"] for line in out.splitlines()] == expected
    assert json.loads(out.splitlines()[0])["stems"]["vocals"] == "separated/mix/vocals.wav"
    assert "[1/2] mix.wav: skipped, its stems are there" in err.splitlines()
    np.testing.assert_equal(len(out.splitlines()), 2)
