"""--list: of many songs what is missing or changed is done, whatever ended the run before."""

import fcntl
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from rofo import (
    CancelledError,
    ListedSong,
    Options,
    OutputWriteError,
    UsageError,
    read_list,
    read_rows,
    separate_list,
    separate_song,
)
from rofo.audio.record import Record
from rofo.cli import main

RATE = 44100
RESULTS = Path("out/results.jsonl")
PLAIN = Options()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Every test works in a folder of its own."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def separator(opened):
    return opened()


@pytest.fixture
def listed(song):
    """Write songs and their list; a name that begins with "bad" is no audio."""

    def make(*names):
        for number, name in enumerate(names):
            file = Path(f"{name}.wav")
            if name.startswith("bad"):
                file.write_text("no audio")
            elif not file.exists():
                soundfile.write(file, song(9000 + number, seed=number).T, RATE, "PCM_16")
        rows = [{"id": f"id {name}", "path": f"{name}.wav"} for name in names]
        Path("songs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return "songs.jsonl"

    return make


@pytest.fixture
def run(separator):
    """Separate the list; {id: status}."""

    def separated(songs="songs.jsonl", output="out", options=PLAIN, shard=(1, 1)):
        return {row.id: row.status for row in separate_list(separator, songs, output, options, shard)}

    return separated


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def statuses(file=RESULTS):
    return [(row.id, row.status) for row in read_rows(file)]


def test_a_song_s_row_tells_all_that_a_catalogue_needs(separator, listed):
    (row,) = separate_list(separator, listed("a"), "out")
    raw = json.loads(RESULTS.read_text())
    assert raw == json.loads(row.to_json())
    assert (row.status, row.error, row.exit_code, row.seconds) == ("done", None, 0, 9000 / RATE)
    assert row.elapsed > 0
    assert row.song == sha256("a.wav")
    assert list(row.stems) == ["vocals", "instrumental"]
    for stem in row.stems.values():
        assert sha256(Path("out") / stem["file"]) == stem["sha256"]
    paths = separator.separate_file("a.wav", "plain")
    assert row.stems["vocals"] == {"file": "id a/vocals.wav", "sha256": sha256(paths["vocals"])}


def test_a_second_run_does_what_is_missing_or_changed_and_nothing_else(run, listed, song):
    listed("a", "b", "c", "d")
    assert set(run().values()) == {"done"}
    before = RESULTS.read_bytes()
    assert set(run().values()) == {"skipped"}
    assert RESULTS.read_bytes() == before
    soundfile.write("b.wav", song(9000, seed=7).T, RATE, "PCM_16")
    Path("out/id c/vocals.wav").unlink()
    listed("a", "b", "c", "e")
    assert run() == {"id a": "skipped", "id b": "done", "id c": "done", "id e": "done"}
    added = RESULTS.read_bytes().removeprefix(before)
    assert [json.loads(line)["id"] for line in added.splitlines()] == ["id b", "id c", "id e"]


def test_other_options_and_another_engine_are_told_apart(opened, run, listed):
    listed("a")
    run()
    assert run(options=Options(overlap=0.75)) == {"id a": "done"}
    assert [row.status for row in separate_list(opened("half"), "songs.jsonl", "out")] == ["done"]
    engines, options = ({getattr(row, name) for row in read_rows(RESULTS)} for name in ("engine", "options"))
    assert (len(engines), len(options)) == (2, 2)


def test_a_song_is_done_whichever_door_it_went_through(separator, run, listed):
    separator.separate_file("a.wav" if listed("a") else "", "out", track="id a")
    assert run() == {"id a": "skipped"}
    assert statuses() == [("id a", "done")]  # its row was missing
    assert run() == {"id a": "skipped"}
    assert len(statuses()) == 1


def test_a_record_of_an_earlier_release_has_no_hashes_of_stems(separator, run, listed):
    listed("a")
    run()
    (row,) = read_rows(RESULTS)
    record = Path("out/id a/.rofo.json")
    raw = json.loads(record.read_text())
    for stem in raw["stems"].values():
        del stem["sha256"]
    record.write_text(json.dumps(raw))
    RESULTS.unlink()
    assert run() == {"id a": "skipped"}
    assert read_rows(RESULTS)[0].stems == row.stems


def test_a_bad_song_is_a_row_and_no_stop_and_tried_again(run, listed):
    listed("a", "bad", "b")
    for expected in ("done", "skipped"):
        assert run() == {"id a": expected, "id bad": "failed", "id b": expected}
    assert statuses() == [("id a", "done"), ("id bad", "failed"), ("id b", "done"), ("id bad", "failed")]
    row = read_rows(RESULTS)[1]
    assert (row.exit_code, row.stems) == (3, {})
    assert row.error.startswith("bad.wav: ")
    assert not Path("out/id bad").exists()


def test_an_engine_that_fails_at_one_song_is_that_song_s_row(opened, listed, song):
    listed("a", "b")
    soundfile.write("a.wav", np.sin(np.arange(9000) / 10), RATE, "FLOAT")
    soundfile.write("b.wav", 0.001 * song(9000).T, RATE, "FLOAT")
    rows = list(separate_list(opened("nan_when_loud"), "songs.jsonl", "out"))
    assert [(row.status, row.exit_code) for row in rows] == [("failed", 5), ("done", 0)]


def test_an_unexpected_error_is_a_row_too(separator, listed, monkeypatch):
    monkeypatch.setattr("rofo.separator.AudioReader", lambda *_, **__: 1 / 0)
    (row,) = separate_list(separator, listed("a"), "out")
    assert (row.status, row.exit_code) == ("failed", 5)
    assert row.error == "internal error: ZeroDivisionError: division by zero"


def test_with_its_sha256_a_finished_song_is_not_read(separator, run, listed):
    listed("a")
    songs = [ListedSong("id a", Path("a.wav"), sha256("a.wav"))]
    assert run(songs) == {"id a": "done"}
    Path("a.wav").unlink()
    assert run(songs) == {"id a": "skipped"}


def test_a_file_that_is_not_the_one_the_list_means(separator, listed):
    listed("a", "b")
    row = separate_song(separator, ListedSong("x", Path("a.wav"), sha256("b.wav")), "out")
    assert (row.status, row.exit_code) == ("failed", 3)
    assert row.error == f"a.wav: its sha256 is {sha256('a.wav')}, not {sha256('b.wav')}; name the right file"


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shards_are_the_list_once(run, listed, count):
    names = ["a", "b", "c", "d", "e"]
    listed(*names)
    parts = [run(shard=(number, count)) for number in range(1, count + 1)]
    assert sorted(name for part in parts for name in part) == [f"id {name}" for name in names]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    files = sorted(path.name for path in Path("out").glob("*.jsonl"))
    assert files == (
        ["results.jsonl"] if count == 1 else [f"results-{n}-of-{count}.jsonl" for n in range(1, count + 1)]
    )
    # Divided otherwise, nothing is done again nor told again.
    assert set(run().values()) == {"skipped"}
    assert sum(len(read_rows(path)) for path in Path("out").glob("*.jsonl")) == len(names)


@pytest.mark.parametrize("torn", [b'{"id": "id b", "st', b"\0" * 40, b"x"])
def test_a_line_that_a_kill_cut_short_is_mended(run, listed, torn):
    listed("a", "b")
    run()
    whole = RESULTS.read_bytes()
    lines = whole.splitlines(keepends=True)
    RESULTS.write_bytes(lines[0] + torn)
    assert set(run().values()) == {"skipped"}
    assert RESULTS.read_bytes().startswith(lines[0] + b'{"id": "id b"')
    assert [name for name, _ in statuses()] == ["id a", "id b"]


def test_rows_that_are_none_are_not_written_over(run, listed):
    listed("a")
    Path("out").mkdir()
    RESULTS.write_text('{"id": "a"}\n')
    with pytest.raises(UsageError, match=r"results.jsonl: holds what is no row of results .*; move the file"):
        run()
    assert RESULTS.read_text() == '{"id": "a"}\n'


def test_what_others_add_meanwhile_is_not_told_again(separator, run, listed):
    """Two workers with one list: the second finds every song done, and told."""
    listed("a", "b", "c")
    first = separate_list(separator, "songs.jsonl", "out")
    next(first)
    run()
    assert [row.status for row in first] == ["skipped", "skipped"]
    assert sorted(statuses()) == [("id a", "done"), ("id b", "done"), ("id c", "done")]


LIST = """
import sys, rofo
with rofo.Separator(sys.argv[1], backend="onnxruntime", threads=1) as separator:
    options = rofo.Options(overlap=float(sys.argv[2]))
    print([row.status for row in rofo.separate_list(separator, "songs.jsonl", "out", options)])
"""


def test_two_workers_with_other_options_in_one_folder(make_engine, opened, listed):
    """Stems and record are those of one of them, for every song."""
    names = [f"s{n}" for n in range(8)]
    listed(*names)
    engine = make_engine("level")
    workers = [
        subprocess.Popen([sys.executable, "-c", LIST, engine, overlap], stdout=subprocess.PIPE, text=True)
        for overlap in ("0.5", "0.75")
    ]
    for worker in workers:
        out, _ = worker.communicate()
        assert "failed" not in out
        assert worker.returncode == 0
    wanted = {
        overlap: {row.id: row.stems for row in separate_list(opened(), "songs.jsonl", f"o{overlap}", options)}
        for overlap in (0.5, 0.75)
        for options in [Options(overlap=overlap)]
    }
    for name in (f"id {name}" for name in names):
        record = json.loads(Path(f"out/{name}/.rofo.json").read_text())
        stems = wanted[record["made_from"]["options"]["overlap"]][name]
        for stem in stems.values():
            assert sha256(f"out/{stem['file']}") == stem["sha256"]
    assert not list(Path("out").rglob("*.part"))


def test_no_other_writer_comes_between_the_first_stem_and_the_record(separator, run, listed, monkeypatch):
    write, tried = Record.write, []

    def alone(record, paths, seconds):
        handle = os.open("out/id a", os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        tried.append(handle)
        return write(record, paths, seconds)

    monkeypatch.setattr(Record, "write", alone)
    listed("a")
    run()
    for handle in tried:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(handle)
    assert tried


def test_a_cancelled_list_goes_on(separator, run, listed):
    listed("a", "b")
    cancel = threading.Event()
    rows = separate_list(separator, "songs.jsonl", "out", Options(cancel=cancel))
    assert next(rows).status == "done"
    cancel.set()
    with pytest.raises(CancelledError):
        next(rows)
    assert statuses() == [("id a", "done")]
    assert run() == {"id a": "skipped", "id b": "done"}


def test_an_engine_that_is_lost_ends_the_list(separator, run, listed, monkeypatch):
    listed("bad", "b")
    with monkeypatch.context() as patched:
        patched.setattr(type(separator), "healthy", False)
        with pytest.raises(ValueError, match=r"bad\.wav"):
            run()
    assert statuses() == []


def test_a_full_disk_ends_the_list(separator, run, listed, monkeypatch):
    listed("a", "b")
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 0))
        with pytest.raises(OutputWriteError, match="disk full"):
            run()
    assert statuses() == []
    # A place that only one song cannot be written to does not.
    Path("out/id a").write_text("in the way")
    assert run() == {"id a": "failed", "id b": "done"}


def test_a_row_that_does_not_fit_leaves_whole_rows(run, listed):
    """A limit on the size of files, in the middle of the second row: what was written of it is taken back."""
    listed("a", "b")
    run()
    lines = RESULTS.read_bytes().splitlines(keepends=True)
    RESULTS.write_bytes(lines[0])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(lines[0]) + 20, before[1]))
        with pytest.raises(OutputWriteError, match=r"results.jsonl: larger than this system lets a file be"):
            run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert RESULTS.read_bytes() == lines[0]
    run()
    assert [name for name, _ in statuses()] == ["id a", "id b"]


GOOD = '{"id": "a", "path": "a.wav"}'


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "line 2: is no JSON; write one object per line"),
        ("\x00\xff", "line 2: is no JSON"),
        ("[1]", "line 2: is [1]; write an object of id, path, sha256"),
        ('{"id": "b"}', "line 2: path is None; name a file"),
        ('{"path": "b"}', "line 2: id None is no name; give a string"),
        ('{"id": 3, "path": "b"}', "line 2: id 3 is no name"),
        ('{"id": "b", "path": "b", "sha265": ""}', "line 2: has 'sha265'; a row has id, path, sha256"),
        ('{"id": "b", "path": "b", "sha256": "12"}', "line 2: sha256 is '12'; give 64 hexadecimal digits"),
        (GOOD, "line 2: id 'a' is that of line 1, too; give it another"),
        (GOOD.replace('"a"', '"A"'), "line 2: id 'A' is that of line 1, too"),
        *(
            (json.dumps({"id": name, "path": "b"}), f"line 2: id {name!r} {why}")
            for name, why in {
                "../b": "cannot name a folder; leave out / \\ and what cannot be printed",
                "/b": "cannot name a folder",
                "b\\c": "cannot name a folder",
                "b\n": "cannot name a folder",
                "\udcff": "cannot name a folder",
                "..": "begins or ends with a dot or a space",
                ".b": "begins or ends",
                "b ": "begins or ends",
                "results.jsonl": "ends in .jsonl, as the reports do; give another",
            }.items()
        ),
        (json.dumps({"id": "é" * 130, "path": "b"}), "is longer than 255 bytes"),
    ],
)
def test_a_list_that_is_wrong_is_refused_with_its_line(line, told):
    Path("songs.jsonl").write_bytes(f"{GOOD}\n{line}\n\n{{\n".encode("utf-8", "surrogatepass"))
    with pytest.raises(UsageError) as caught:
        read_list("songs.jsonl")
    assert str(caught.value).startswith("songs.jsonl: line 2: ")
    assert told in str(caught.value)
    assert str(caught.value).endswith("(2 lines are wrong)")


def test_a_list_may_have_blank_lines_a_mark_and_paths_of_its_own():
    Path("lists").mkdir()
    digest = "AB" * 32
    rows = [{"id": "a", "path": "a.wav"}, {"id": "é", "path": "/b.wav", "sha256": digest}]
    text = "\ufeff" + "\r\n\r\n".join(map(json.dumps, rows))
    Path("lists/songs.jsonl").write_text(text, newline="")
    assert read_list("lists/songs.jsonl") == [
        ListedSong("a", Path("lists/a.wav")),
        ListedSong("é", Path("/b.wav"), digest.lower()),
    ]


def call(*arguments):
    with pytest.raises(SystemExit) as stop:
        main(list(map(str, arguments)))
    return stop.value.code


def test_the_command_line(make_engine, listed, capfd):
    engine = make_engine()
    listed("a", "bad", "b")
    assert call("--engine", engine, "--list", "songs.jsonl", "--output", "out", "--json") == 7
    out, err = capfd.readouterr()
    assert [json.loads(line)["status"] for line in out.splitlines()] == ["done", "failed", "done"]
    assert "error: bad.wav: " in err
    assert "2 done, 1 failed, 0 were done before" in err.splitlines()
    listed("a", "b")
    assert call("--engine", engine, "--list", "songs.jsonl", "--output", "out", "--shard", "2/2") == 0
    out, err = capfd.readouterr()
    assert out == ""
    assert "0 done, 0 failed, 1 were done before" in err.splitlines()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "No songs, or twice; give files and folders, or --list"),
        (["--list", "songs.jsonl", "a.wav"], "No songs, or twice; give files and folders, or --list"),
        (["--shard", "1/2", "a.wav"], "No songs, or twice; give files and folders, or --list"),
        (["--list", "none.jsonl"], "none.jsonl: No such file or directory; give a file with a JSON object"),
        (["--list", "songs.jsonl", "--shard", "3/2"], "the shard is '3/2'; give 1/8 to 8/8"),
        (["--list", "songs.jsonl", "--shard", "x"], "the shard is 'x'"),
    ],
)
def test_calls_that_cannot_work(make_engine, listed, capfd, arguments, told):
    listed("a")
    assert call("--engine", make_engine(), *arguments) == 2
    assert told in capfd.readouterr().err
