"""rofo-run as a user meets it: exit codes, what is printed where, and what lies on the disk afterwards."""

import fcntl
import json
import os
import pty
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from rofo.audio import AudioReader
from rofo.audio.flac import empty_flac
from rofo.cli import main
from rofo.dsp import SCHEMES

RATE = 44100
SCRIPT = Path(sys.executable).with_name("rofo-run")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Every test works in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def engine(make_engine):
    return make_engine("level")


@pytest.fixture
def run(capfd):
    """Call the tool in this process: its lines on stdout and stderr, once the exit code is as expected."""

    def call(*arguments, status=0):
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        assert stop.value.code == status, err
        assert "Traceback" not in err
        return out.splitlines(), err.splitlines()

    return call


@pytest.fixture
def refused(run):
    """The one error line of a call that fails, without its first word; nothing may be left behind."""

    def call(*arguments, status):
        before = files()
        out, err = run(*arguments, status=status)
        assert out == []
        (line,) = [line for line in err if not line.endswith((" fp32", " bf16"))]
        assert files() == before
        return line.removeprefix("error: ")

    return call


@pytest.fixture
def write(song):
    """Write a song; the path of the file."""

    def make(name="mix.wav", samples=10_000, subtype="PCM_16", rate=RATE, channels=2, seed=0):
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        container = path.name.rpartition(".")[2].upper()
        soundfile.write(path, song(samples, channels, rate, seed).T, rate, subtype, format=container)
        return path

    return make


def files():
    """All files and folders in the working folder, but for the records of finished songs."""
    return sorted(str(path) for path in Path().rglob("*") if path.name != ".rofo.json")


@pytest.fixture
def started():
    """Start the installed console script in a process of its own; none outlives the test."""
    processes = []

    def start(*arguments, limit=None, **options):
        def prepare():
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored where tests run in the background
            if limit:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        process = subprocess.Popen(
            [SCRIPT, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="surrogateescape",
            preexec_fn=prepare,  # noqa: PLW1509 no threads of ours
            **options,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


# What works


def test_a_song_becomes_stems_of_its_own_format(engine, write, song, run, snr_db):
    out, err = run("--engine", engine, write(rate=48000, channels=1))
    assert out == ["separated/mix/vocals.wav", "separated/mix/instrumental.wav"]
    assert files() == ["mix.wav", "separated", "separated/mix", *sorted(out)]
    assert err == ["level.onnx: openvino, cpu, fp32"]
    stems = [soundfile.read(path, dtype="float32")[0] for path in out]
    assert soundfile.info(out[0]).samplerate == 48000
    assert soundfile.info(out[0]).subtype == "PCM_16"
    assert stems[0].shape == (10_000,)
    assert snr_db(song(10_000, 1, 48000)[0], sum(stems)) > 60


def test_verbose_tells_of_every_song(engine, write, run):
    write("a.wav", samples=4410)
    _, err = run("--engine", engine, "a.wav", write("b.wav"), "--verbose")
    assert err[0] == "level.onnx: openvino, cpu, fp32"
    assert err[1].startswith("[1/2] a.wav: 0.1 s of audio in ")
    assert err[2].startswith("[2/2] b.wav: 0.2 s of audio in ")
    assert all(line.endswith(" x real time") for line in err[1:])


def test_json_is_one_object_per_song(engine, write, run):
    write("a.wav", samples=4410)
    out, _ = run("--engine", engine, "a.wav", write("b.wav"), "--json", "--backend", "onnxruntime")
    first, second = map(json.loads, out)
    assert first["stems"] == {stem: f"separated/a/{stem}.wav" for stem in ("vocals", "instrumental")}
    assert (first["input"], first["status"], first["seconds"]) == ("a.wav", "done", 0.1)
    assert (first["backend"], first["precision"], first["warnings"]) == ("onnxruntime", "fp32", [])
    assert first["speed"] == pytest.approx(first["seconds"] / first["elapsed"])
    assert second["input"] == "b.wav"


def test_stems_and_residual_are_chosen(engine, write, run):
    write()
    assert run("--engine", engine, "mix.wav", "--stem", "VOCALS")[0] == ["separated/mix/vocals.wav"]
    assert run("--engine", engine, "mix.wav", "--no-residual")[0] == ["separated/mix/vocals.wav"]
    out, _ = run("--engine", engine, "mix.wav", "--stem", "instrumental", "--output", "other")
    assert out == ["other/mix/instrumental.wav"]
    assert files()[1:] == [
        "other",
        "other/mix",
        *out,
        "separated",
        "separated/mix",
        "separated/mix/vocals.wav",
    ]


def test_overlap_changes_the_result_and_the_default_is_the_engines(engine, write, run):
    write()
    stems = {}
    for options in ((), ("--overlap", "0.5"), ("--overlap", "0.75")):
        run("--engine", engine, "mix.wav", *options)
        stems[options] = Path("separated/mix/vocals.wav").read_bytes()
    assert stems[()] == stems["--overlap", "0.5"] != stems["--overlap", "0.75"]


def test_schemes_change_the_result_and_the_default_is_the_engines(engine, write, run):
    write()
    made = {}
    for scheme in (None, "fade", "hann", "trim", "rectangular"):
        run("--engine", engine, "mix.wav", *(["--scheme", scheme] if scheme else []))
        made[scheme] = Path("separated/mix/vocals.wav").read_bytes()
    assert made.pop(None) == made["fade"]
    assert len(set(made.values())) == 4


def test_help_names_the_schemes_and_the_default(run):
    told = " ".join(" ".join(run("--help")[0]).split())
    assert f"--scheme [{'|'.join(SCHEMES)}]" in told
    option = told[told.index("--scheme") : told.index("--shifts")]
    assert "Default: the engine's." in option


@pytest.mark.parametrize(
    ("name", "subtype", "options", "written"),
    [
        ("mix.wav", "FLOAT", (), ("wav", "FLOAT")),
        ("mix.wav", "PCM_24", (), ("wav", "PCM_24")),
        ("mix.flac", "PCM_16", (), ("flac", "PCM_16")),
        ("mix.ogg", "VORBIS", (), ("wav", "FLOAT")),
        ("mix.wav", "FLOAT", ("--format", "flac"), ("flac", "PCM_24")),
        ("mix.flac", "PCM_16", ("--format", "wav"), ("wav", "PCM_16")),
        ("mix.wav", "PCM_16", ("--subtype", "pcm_24"), ("wav", "PCM_24")),
        ("mix.wav", "PCM_16", ("--format", "flac", "--subtype", "PCM_24"), ("flac", "PCM_24")),
    ],
)
def test_format_and_subtype(engine, write, run, name, subtype, options, written):
    out, _ = run("--engine", engine, write(name, 4000, subtype), *options)
    assert out == [f"separated/mix/{stem}.{written[0]}" for stem in ("vocals", "instrumental")]
    info = soundfile.info(out[0])
    assert (info.format.lower(), info.subtype, info.frames) == (*written, 4000)


def test_folders_give_their_audio_files(engine, write, run):
    for name in ("album/b.wav", "album/a.FLAC", "album/deeper/c.wav", "album/.hidden.wav", "single.wav"):
        write(name, 1000)
    Path("album/cover.jpg").write_bytes(b"\xff\xd8")
    out, _ = run("--engine", engine, "single.wav", "album", "single.wav", "--no-residual")
    assert out == [f"separated/{name}" for name in ("single/vocals.wav", "a/vocals.flac", "b/vocals.wav")]


def test_without_resume_stems_are_made_anew(engine, write, run):
    run("--engine", engine, write(), "--no-residual")
    os.utime("separated/mix/vocals.wav", (1, 1))
    run("--engine", engine, "mix.wav", "--no-residual")
    assert Path("separated/mix/vocals.wav").stat().st_mtime > 1


@pytest.mark.parametrize("name", ["empty.wav", "empty.flac"])
def test_an_empty_song_gives_empty_stems_and_a_warning(engine, write, run, name):
    write(name, samples=0)
    if name.endswith("flac"):  # libsndfile writes 0 bytes
        Path(name).write_bytes(empty_flac(RATE, 2, 16))
    out, err = run("--engine", engine, name)
    for path in out:
        with AudioReader(path) as stem:
            assert (stem.format.frames, stem.format.container.lower()) == (0, Path(name).suffix[1:])
    assert f"{name}: holds no samples; its stems are empty" in err


def test_options_reach_the_reader(engine, write, run, refused, song):
    mix = song(4000, 6).T.copy()
    soundfile.write("six.wav", mix, RATE, "FLOAT")
    assert "--channels" in refused("--engine", engine, "six.wav", status=3)
    out, _ = run("--engine", engine, "six.wav", "--channels", "4")
    assert soundfile.info(out[0]).channels == 1

    mix[7, 0] = np.nan
    soundfile.write("nan.wav", mix[:, :2], RATE, "FLOAT")
    assert "--sanitize" in refused("--engine", engine, "nan.wav", status=3)
    assert "nan.wav: 1 non-finite samples set to 0" in run("--engine", engine, "nan.wav", "--sanitize")[1]

    write("cut.wav")
    Path("cut.wav").write_bytes(Path("cut.wav").read_bytes()[:-1000])
    assert "--allow-truncated" in refused("--engine", engine, "cut.wav", status=3)
    assert any("cut.wav: " in line for line in run("--engine", engine, "cut.wav", "--allow-truncated")[1])

    assert "--max-minutes" in refused("--engine", engine, write(), "--max-minutes", "0.001", status=3)


@pytest.mark.parametrize(
    "name", ["a b.wav", "äöü 音.wav", "new\nline.wav", "-dash.wav", os.fsdecode(b"\xff.wav")]
)
def test_names_of_all_kinds(engine, write, run, started, name):
    write()
    Path("mix.wav").rename(name)
    out, err = run("--engine", engine, "--json", "--no-residual", "--", name)
    stem = json.loads(out[0])["stems"]["vocals"]
    assert Path(stem).is_file()
    assert len(err) == 1
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}  # what most desktops have
    process = started("--engine", engine, "--no-residual", "--", name, env=strict)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, os.fsencode(out)) == (0, os.fsencode(stem) + b"\n")


def test_help_is_in_sections_and_begins_with_five_options(run):
    shown = run("--help")[0]
    titles = [line for line in shown if line.endswith(":") and not line.startswith(" ")]
    assert titles == ["What is needed first:", "Sound:", "Machine:", "Songs:", "Many songs:", "Other:"]
    options = [line.split()[0] for line in shown if line.startswith("  -")]
    assert options[:5] == ["--engine", "--output", "--stem", "--format", "--backend"]
    named = {param.opts[0] for param in main.command.params if param.name != "inputs"}
    assert {option.rstrip(",") for option in options} == named | {"-h"}


def test_without_an_engine_those_of_the_folder_are_named_and_none_is_taken(make_engine, write, run, refused):
    write()
    made = make_engine("level")
    for file in (made, made.with_suffix(".json")):
        shutil.copy(file, ".")
    Path("other.json").write_text("{}")
    Path("missing.toml").write_text('[engines]\na = "none.json"\n')
    Path("twice.toml").write_text(
        '[engines]\na = "level.json"\n[[steps]]\nmake = "v"\nrun = "a"\non = "mix"\nstem = "vocals"\n'
        '[outputs]\nsung = "v"\n'
    )
    out, err = run("mix.wav", status=2)
    assert out == []
    assert err[-3:] == [
        "Error: no --engine is given; in this folder lie",
        "  --engine level.onnx  (vocals, instrumental)",
        "  --engine twice.toml  (sung)",
    ]
    for file in ("level.onnx", "twice.toml"):
        Path(file).unlink()
    assert run("mix.wav", status=2)[1][-1].endswith("make one with rofo-export CHECKPOINT")


def completed(*words, **environment):
    """What the shell is offered for the last word of a command line."""
    told = {"_ROFO_RUN_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(("rofo-run", *map(str, words)))}
    done = subprocess.run(
        [SCRIPT], env={**os.environ, **told, "COMP_CWORD": str(len(words))},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [line.removeprefix("plain,") for line in done.stdout.split()]


def test_the_shell_completes_stems_schemes_and_backends(engine):
    assert completed("--engine", engine, "--stem", "v") == ["vocals"]
    assert completed("--engine", engine.with_suffix(".json"), "--stem", "INS") == ["instrumental"]
    assert completed("--engine", "none.onnx", "--stem", "v") == []
    assert completed("--stem", "v") == []
    assert completed("--scheme", "tria") == ["triangular"]
    assert completed("--backend", "tensorrt") == ["tensorrt-rtx", "tensorrt"]


@pytest.fixture
def terminal(engine):
    """Call the installed script on a terminal of 80 columns; its exit code and all that was shown there."""

    def call(*arguments):
        parent, child = pty.openpty()
        fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
        process = subprocess.Popen(
            [SCRIPT, *map(str, arguments)], stdout=child, stderr=child, env=environment
        )
        os.close(child)
        shown = b""
        while True:
            try:
                shown += os.read(parent, 4096)
            except OSError:  # Linux says so that the other end is closed
                break
        os.close(parent)
        return process.wait(timeout=100), shown.decode().replace("\r\n", "\n")

    return call


def on_screen(shown):
    """The lines that are left when everything is written over what was there."""
    lines = []
    for line in shown.split("\n"):
        cells = []
        for part in line.split("\r"):
            cells[: len(part)] = part
        lines.append("".join(cells).rstrip())
    return lines


def test_progress_on_a_terminal_is_one_line_that_goes_away(terminal, engine, write):
    write(samples=400_000), write("\u97f3" * 50 + ".wav", samples=40_000), Path("bad.wav").write_text("x")
    code, shown = terminal("--engine", engine, "--no-residual", "mix.wav", *Path().glob("\u97f3*"), "bad.wav")
    assert code == 7
    frames = shown.replace("\n", "\r").split("\r")
    bars = [frame.rstrip() for frame in frames if frame.startswith("[1/3] mix.wav [")]
    assert bars[0] == f"[1/3] mix.wav [{'-' * 24}]   0%"
    assert bars[-1].startswith(f"[1/3] mix.wav [{'#' * 24}] 100%  ")
    assert all(re.search(r"% +[\d.]+ x real time, \d+:\d\d left$", bar) for bar in bars[1:]), bars
    wide = [frame for frame in frames if frame.startswith("[2/3] \u97f3")]
    assert len(wide) > 2
    assert all(len(frame) + frame.count("\u97f3") < 80 for frame in wide if "[" in frame[3:])
    _, first, _, second, _, failed, *_ = on_screen(shown)
    assert first.startswith("[1/3] mix.wav: 9.1 s of audio in ")
    assert second.startswith("[2/3] \u97f3")
    assert failed.startswith("error: bad.wav: ")


@pytest.mark.parametrize(
    ("name", "track"),
    [
        ("...wav", "__"),
        ("..wav", "_"),
        (".wav", "_wav"),
        ("....wav", "___"),
        ("a. .wav", "a__"),
        ("a.b.wav", "a.b"),
        # Devices on Windows, whatever follows the dot.
        ("con.wav", "_con"),
        ("Nul.live.wav", "_Nul.live"),
        ("lpt1 .wav", "_lpt1_"),
        ("con moto.wav", "con moto"),
    ],
)
def test_no_name_leads_out_of_the_output_folder(engine, write, run, name, track):
    write(name)
    out, _ = run("--engine", engine, name, "--no-residual")
    assert out == [f"separated/{track}/vocals.wav"]
    assert files() == sorted([name, "separated", f"separated/{track}", *out])


# What the user got wrong


def test_no_arguments_and_unknown_options_are_usage_errors(engine, write, run):
    write()
    for arguments in (
        [],
        ["mix.wav"],
        ["--engine", engine],
        ["--engine", engine, "mix.wav", "--nonsense"],
        ["--engine", engine, "mix.wav", "--overlap", "1"],
        ["--engine", engine, "mix.wav", "--overlap", "-0.1"],
        ["--engine", engine, "mix.wav", "--scheme", "triangle"],
        ["--engine", engine, "mix.wav", "--threads", "0"],
        ["--engine", engine, "mix.wav", "--format", "mp3"],
        ["--engine", engine, "mix.wav", "--precision", "fp4"],
    ):
        out, err = run(*arguments, status=2)
        assert out == []
        assert err[-1].startswith("Error: ")
    assert files() == ["mix.wav"]


def test_requests_that_cannot_be_met_stop_before_any_work(engine, write, refused):
    write("a.wav"), write("b.wav")
    Path("bare").mkdir()
    songs = ("--engine", engine, "a.wav", "b.wav")
    unknown = refused(*songs, "--stem", "bass", status=2)
    assert unknown == "level has no stem bass; choose among vocals, instrumental"
    assert "drop one" in refused(*songs, "--stem", "instrumental", "--no-residual", status=2)
    assert "FLAC has no FLOAT" in refused(*songs, "--format", "flac", "--subtype", "FLOAT", status=2)
    assert "--channels is 'x'" in refused(*songs, "--channels", "x", status=2)
    trimmed = refused(*songs, "--scheme", "trim", "--overlap", "0.5", status=2)
    assert trimmed.startswith("level: scheme trim has no overlap to choose, and 0.5 is given; choose another")
    assert "bare: no audio files" in refused("--engine", engine, "bare", status=2)


@pytest.mark.parametrize(
    "names",
    [
        ("one/mix.wav", "two/mix.wav"),
        ("mix.wav", "mix.flac"),
        ("Mix.wav", "mix.flac"),
        ("caf\u00e9.wav", "cafe\u0301.wav"),
        ("...wav", "__.wav"),
        ("a..wav", "a_.wav"),
    ],
)
def test_two_songs_with_one_name_stop_before_any_work(engine, write, refused, names):
    for name in names:
        write(name, 1000)
    line = refused("--engine", engine, *names, status=2)
    assert line.startswith(f"{names[1]}: its stems would be written over those of {names[0]}; rename")


def test_an_input_is_never_replaced_by_its_stem(engine, write, refused):
    path = write("album/vocals/vocals.wav")
    assert "replaced by its own stem" in refused("--engine", engine, path, "--output", "album", status=2)
    assert soundfile.info(path).frames == 10_000


def test_a_subtype_the_container_lacks_is_told_with_the_file(engine, write, refused):
    write("mix.flac")
    line = refused("--engine", engine, "mix.flac", "--subtype", "FLOAT", status=2)
    assert line.startswith("mix.flac: FLAC has no FLOAT; choose")


# What else can fail, with its own exit code


def test_a_missing_or_broken_input_is_3(engine, write, refused):
    assert refused("--engine", engine, "none.wav", status=3) == "none.wav: no such file"
    Path("text.wav").write_text("hello")
    assert refused("--engine", engine, "text.wav", status=3).startswith("text.wav: ")


def test_a_missing_or_damaged_engine_is_4(make_engine, write, refused):
    write()
    assert refused("--engine", "none.onnx", "mix.wav", status=4).startswith("none.onnx: no such engine; ")
    engine = make_engine()
    engine.write_bytes(engine.read_bytes()[:-1])
    assert "sha256 differs" in refused("--engine", engine, "mix.wav", status=4)
    engine.with_suffix(".json").write_text("{}")
    assert "manifest format None" in refused("--engine", engine, "mix.wav", status=4)
    engine.with_suffix(".json").unlink()
    assert "no manifest" in refused("--engine", engine, "mix.wav", status=4)
    other = ("mix.wav", "--backend", "tensorrt")
    assert "cannot run this file" in refused("--engine", make_engine(), *other, status=4)


def test_a_failing_engine_is_5(make_engine, write, refused):
    write()
    options = ("mix.wav", "--backend", "onnxruntime")
    assert "ONNX Runtime failed" in refused("--engine", make_engine("failing"), *options, status=5)
    soundfile.write("mix.wav", np.random.default_rng(0).uniform(-1, 1, (100_000, 2)), RATE)
    line = refused("--engine", make_engine("nan_when_loud"), "mix.wav", status=5)
    assert "not finite for chunk" in line


def test_what_cannot_be_written_is_6(engine, write, refused):
    write()
    Path("separated").write_text("in the way")
    line = refused("--engine", engine, "mix.wav", status=6)
    assert line.startswith("separated/mix: a file is where a folder should be; choose another --output")
    Path("out/mix/vocals.wav").mkdir(parents=True)
    line = refused("--engine", engine, "mix.wav", "--output", "out", status=6)
    assert line.startswith("out/mix/vocals.wav: is a directory")


def test_a_bad_song_in_a_batch_is_7_and_the_others_are_done(engine, write, run):
    write("a.wav"), write("c.wav")
    Path("b.wav").write_text("hello")
    out, err = run("--engine", engine, "a.wav", "b.wav", "c.wav", "none.wav", "--json", status=7)
    rows = [json.loads(line) for line in out]
    assert [row["status"] for row in rows] == ["done", "failed", "done", "failed"]
    assert [row.get("exit_code") for row in rows] == [None, 3, None, 3]
    assert rows[1]["error"].startswith("b.wav: ")
    assert rows[1]["stems"] == {}
    assert sum(line.startswith("error: ") for line in err) == 2
    assert {"separated/a/vocals.wav", "separated/c/vocals.wav"} < set(files())
    assert "separated/b" not in files()


def test_what_nobody_foresaw_is_one_line_and_5(engine, write, run, monkeypatch):
    write("a.wav"), write("b.wav")

    def broken(self):
        raise KeyError("a bug\nof two lines")

    monkeypatch.setattr("rofo.model.OverlapAdder.__init__", broken)
    _, err = run("--engine", engine, "a.wav", "b.wav", status=7)
    said = r"internal error: KeyError: 'a bug\nof two lines'; run again with --debug and report the traceback"
    assert err[1:] == [said, said]
    run("--engine", engine, "a.wav", status=5)
    assert files() == ["a.wav", "b.wav"]


@pytest.mark.parametrize(("engine_name", "status"), [(None, 3), ("none.onnx", 4)])
def test_debug_adds_the_traceback(engine, capfd, engine_name, status):
    with pytest.raises(SystemExit) as stop:
        main(["--engine", engine_name or str(engine), "none.wav", "--debug"])
    err = capfd.readouterr().err
    assert stop.value.code == status
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("error: none.")


# In a process of its own


def test_the_installed_script(engine, write, started):
    process = started("--engine", engine, write(), "--no-residual")
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (0, "separated/mix/vocals.wav\n")
    assert len(err.splitlines()) == 1


def test_an_error_leaves_the_installed_script_with_its_code(engine, started):
    process = started("--engine", engine, "none.wav")
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (3, "")
    assert err.splitlines()[1:] == ["error: none.wav: no such file"]


@pytest.mark.parametrize("container", ["wav", "flac"])
def test_a_full_disk_is_6_and_leaves_nothing(engine, write, started, container):
    write(samples=100_000)
    process = started("--engine", engine, "mix.wav", "--format", container, limit=50_000)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (6, "")
    (line,) = err.splitlines()[1:]
    assert line.startswith("error: separated/mix/")
    assert "larger than this system lets a file be" in line
    assert files() == ["mix.wav"]


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_a_service_stop_are_130_and_leave_nothing(make_engine, write, started, stop):
    write(samples=100_000)
    process = started("--engine", make_engine("slow"), "mix.wav", "--backend", "onnxruntime")
    deadline = time.monotonic() + 100
    while not list(Path().rglob("*.part")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()
    process.send_signal(stop)
    out, err = process.communicate(timeout=100)
    assert (process.returncode, out) == (130, "")
    lines = [line for line in err.splitlines() if line]
    assert lines[1:] == ["interrupted; nothing unfinished was left behind"]
    assert files() == ["mix.wav"]


SWALLOWING = """
import time
from pathlib import Path
Path("ready").touch()
while not Path("sent").exists():
    try: time.sleep(0.01)
    except BaseException: pass
"""


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_while_a_backend_is_loaded_is_130(engine, write, started, stop):
    write()
    Path("stubs").mkdir()
    Path("stubs/onnxruntime.py").write_text(SWALLOWING)
    before = files()
    environment = {**os.environ, "PYTHONPATH": "stubs"}
    process = started("--engine", engine, "mix.wav", "--backend", "onnxruntime", env=environment)
    deadline = time.monotonic() + 100
    while not Path("ready").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(stop)
    Path("sent").touch()
    out, err = process.communicate(timeout=100)
    assert (process.returncode, out) == (130, "")
    lines = [line for line in err.splitlines() if line]  # click ends the line that ^C is shown on
    assert lines == ["interrupted; nothing unfinished was left behind"]
    assert [name for name in files() if name not in ("ready", "sent") and "__pycache__" not in name] == before


HEAVY = ["numpy", "soundfile", "soxr", "openvino", "onnxruntime", "torch", "onnx", "rofo.separator"]


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["--nonsense"]])
def test_help_loads_nothing_heavy(arguments):
    code = f"""
import sys
from rofo.cli import main
try:
    main({arguments!r})
finally:
    print([name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == (2 if arguments == ["--nonsense"] else 0)
    assert done.stdout.splitlines()[-1] == "[]"
