"""The proof `ray`: a Ray job whose workers are killed three times, and which is itself killed once."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile

from rofo import SongRow, read_rows
from rofo.benchmarks.reliability import Proof
from rofo.benchmarks.rounds import Say
from rofo.benchmarks.subject import write_noise
from rofo.benchmarks.tiny import RATE, tiny_engine, write_list
from rofo.manifest import file_sha256

FAILED = 7
GIVE_UP = 3600.0  # seconds without an end
# Songs that are done when a worker, or the job, is killed, as shares of all.
KILLS = {"worker": (0.2, 0.4, 0.8), "job": (0.6,)}


def prove(count: int, folder: Path, say: Say) -> Proof:
    """`count` songs, of which those of BROKEN are not any."""
    engine = tiny_engine(folder)
    songs = _write_songs(folder / "songs", count - len(BROKEN))
    plain, out = folder / "plain", folder / "out"
    one = ["--engine", str(engine), "--backend", "onnxruntime", "--threads", "1"]
    say("rofo-run, one song after the other")
    tool = str(Path(sys.executable).with_name("rofo-run"))
    run = [tool, *one, *map(str, songs), "--output", str(plain)]
    subprocess.run(run, check=True, capture_output=True)
    listed = _write_list(folder, songs)
    job = [sys.executable, "-m", "rofo.serving.ray", *one, "--list", str(listed), "--output", str(out)]
    killed, code = _survive([*job, "--workers", "2"], out, count, folder, say)
    rows = [row for file in sorted((out / "rows.jsonl").glob("*.jsonl")) for row in read_rows(file)]
    failures = [
        f"{what}s were killed {killed[what]} times" for what in KILLS if killed[what] < len(KILLS[what])
    ]
    failures += [*_wrong(rows, songs, plain, out), *([] if code == FAILED else [f"exit code {code}"])]
    again = subprocess.run(
        [*job, "--workers", "2"], check=False, capture_output=True, text=True, env=_env(folder)
    )
    if again.returncode != FAILED or f"{len(songs)} of {count} songs are done" not in again.stderr:
        failures.append(f"run again: {again.returncode}, {again.stderr.splitlines()[-1:]}")
    return Proof(
        "Workers killed with SIGKILL three times, the job killed once and started again: every good song "
        "has one row and stems equal to rofo-run's, every bad one a row that says why.",
        {"songs": count, "broken": len(BROKEN), **{f"{what}s killed": n for what, n in killed.items()}},
        tuple(failures),
    )


def _survive(job: list[str], out: Path, count: int, folder: Path, say: Say) -> tuple[Counter[str], int]:
    """Run the job to its end, through all that kills it; how often that was, and the exit code."""
    moments = sorted((share * count, what) for what, shares in KILLS.items() for share in shares)
    killed = Counter[str]()
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(job, stdout=log, stderr=log, env=_env(folder))
        began = time.monotonic()
        while process.poll() is None and time.monotonic() - began < GIVE_UP:
            time.sleep(0.2)
            done = len(list(out.glob("*/.rofo.json")))
            if not moments or done < moments[0][0]:
                continue
            what = moments[0][1]
            if what == "job":
                process.kill()
                process.wait()
                _gone(folder)
                process = subprocess.Popen(job, stdout=log, stderr=log, env=_env(folder))
            elif workers := list(_ray_processes(folder, lambda name: "(Map(Worker))" in name)):
                os.kill(workers[0], signal.SIGKILL)
            else:
                continue
            say(f"{what} killed after {done} songs")
            killed[what] += 1
            moments.pop(0)
        process.kill()
        return killed, process.wait()


def _env(folder: Path) -> dict[str, str]:
    """By its folder for temporary files our Ray is known."""
    return {**os.environ, "RAY_TMPDIR": str(folder / "r"), "OMP_NUM_THREADS": "1"}


def _ray_processes(folder: Path, wanted: Callable[[str], bool]) -> Iterator[int]:
    """Numbers of processes of our Ray, by their name or command."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            name = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            ours = f"RAY_TMPDIR={folder / 'r'}\0".encode() in (path / "environ").read_bytes()
        except OSError:
            continue
        if ours and wanted(name):
            yield int(path.name)


def _gone(folder: Path) -> None:
    """Wait until what a killed job started has ended by itself, as it does."""
    until = time.monotonic() + 60
    while time.monotonic() < until and any(_ray_processes(folder, lambda name: "raylet" in name)):
        time.sleep(0.5)


def _wrong(rows: list[SongRow], songs: list[Path], plain: Path, out: Path) -> list[str]:
    """What is not as it should be, of rows and of stems."""
    count = Counter(row.id for row in rows)
    wanted = {path.stem for path in songs} | set(BROKEN)
    failures = [
        f"{name}: {count[name]} rows" for name in wanted | set(count) if count[name] != (name in wanted)
    ]
    for row in rows:
        if row.id in BROKEN:
            if (row.status, row.exit_code) != ("failed", 3) or not row.error:
                failures.append(f"{row.id}: {row.status}, {row.error}")
            continue
        if row.status != "done":
            failures.append(f"{row.id}: {row.status}, {row.error}")
        for name, stem in row.stems.items():
            hashes = [
                file_sha256(out / stem["file"]),
                file_sha256(plain / row.id / f"{name}.wav"),
                stem["sha256"],
            ]
            if len(set(hashes)) > 1:
                failures.append(f"{row.id}: {name} is not that of rofo-run")
    left = [path for path in out.rglob("*") if path.name.endswith(".part") or path.name in BROKEN]
    return failures + [f"{path.relative_to(out)}: was left" for path in left]


def _write_songs(folder: Path, count: int) -> list[Path]:
    folder.mkdir()
    return [
        write_noise(folder / f"song-{n:04}.wav", 1 + n % 5 / 4, RATE, 1 + n % 2, seed=n) for n in range(count)
    ]


def _write_list(folder: Path, songs: list[Path]) -> Path:
    """Good songs, and between them the broken ones."""
    rows = [{"id": song.stem, "path": str(song)} for song in songs]
    for number, (name, write) in enumerate(BROKEN.items(), 1):
        path = folder / "songs" / f"{name}.wav"
        write(path)
        row = {"id": name, "path": str(path)}
        if name == "another":
            row["sha256"] = "0" * 64
        rows.insert(number * len(songs) // (len(BROKEN) + 1), row)
    return write_list(folder / "songs.jsonl", rows)


def _half(path: Path) -> None:
    write_noise(path, 1, RATE, 2)
    os.truncate(path, path.stat().st_size // 2)


def _half_flac(path: Path) -> None:
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, (RATE, 2)), RATE, format="FLAC")
    os.truncate(path, path.stat().st_size // 2)


def _not_a_number(path: Path) -> None:
    soundfile.write(path, np.full((RATE, 2), np.nan), RATE, "FLOAT")


BROKEN: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "folder": Path.mkdir,
    "empty": Path.touch,
    "text": lambda path: path.write_text("no audio"),
    "noise": lambda path: path.write_bytes(np.random.default_rng(0).bytes(50_000)),
    "header": lambda path: path.write_bytes(b"RIFF\0\0\0\0WAVE"),
    "half": _half,
    "half-flac": _half_flac,
    "not-a-number": _not_a_number,
    "six-channels": lambda path: write_noise(path, 1, RATE, 6),
    "rate": lambda path: write_noise(path, 1, 500, 2),
    "another": lambda path: write_noise(path, 1, RATE, 2),
}
