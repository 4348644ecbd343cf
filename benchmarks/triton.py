"""`python -m rofo.benchmarks.reliability triton`: a real Triton server, and what clients do to it.

The server of nvidia-pytriton (see triton_server.py) runs the demo model on the CPU, two songs at a time. Of
`count` requests one after the other at the end the last are to find as much memory as the first.
"""

import io
import itertools
import os
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from rofo import Options, Separator
from rofo.benchmarks.demo import CHECKPOINT, CONFIG, MIX
from rofo.benchmarks.reliability import Proof
from rofo.benchmarks.rounds import Say
from rofo.benchmarks.triton_server import Server, python, served
from rofo.errors import AudioReadError, EngineRunError
from rofo.export import ExportOptions, export_checkpoint
from rofo.export.triton import ServingOptions, write_repository
from rofo.serving.client import Client

CLIENTS, QUEUE, SONGS, BATCH = 24, 2, 2, 4
MODEL, NETWORK = "demo", "demo_network"
# What the messages of errors have in them.
_OUTCOMES = {"maximum queue size": "refused", "see that the server is there": "closed"}
FLAT = 0.03  # of the memory after a fifth of the requests
# Sends a song and cancels it when told to, in the environment of the server, which has tritonclient.
_CANCELLING = """
import sys, threading, numpy, tritonclient.grpc as grpc
raw = numpy.fromfile(sys.argv[3], numpy.uint8)
audio = grpc.InferInput("audio", [len(raw)], "UINT8")
audio.set_data_from_numpy(raw)
told = threading.Event()
def answered(result, error):
    print(error, flush=True)
    told.set()
call = grpc.InferenceServerClient(sys.argv[1]).async_infer(sys.argv[2], [audio], answered)
sys.stdin.readline()
call.cancel()
told.wait(60)
"""


@dataclass(frozen=True)
class _Song:
    """A file, and what rofo-run makes of it: the content of each stem's file by its name."""

    path: Path
    stems: dict[str, bytes]


@dataclass
class _Trial:
    """A server on trial: what its clients find, and what was wrong."""

    server: Server
    folder: Path
    figures: dict[str, float | int | str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def expect(self, holds: bool, failure: str) -> None:
        """Note a failure unless a condition holds."""
        if not holds:
            self.failures.append(failure)

    def sent(self, path: Path, options: dict[str, Any] | None = None) -> dict[str, bytes]:
        """A song's stems as a client gets them. Raises as Client.separate."""
        output = self.folder / f"client-{next(self.numbers)}"
        try:
            Client(self.server.url, MODEL).separate(path, output, options=options)
            return {file.name: file.read_bytes() for file in output.glob("*/*")}
        finally:
            shutil.rmtree(output, ignore_errors=True)

    def outcome(self, song: _Song) -> str:
        """What becomes of a request: right, wrong, refused, closed (no server any more), or what else."""
        try:
            return "right" if self.sent(song.path) == song.stems else "wrong"
        except (AudioReadError, EngineRunError) as error:
            known = (outcome for words, outcome in _OUTCOMES.items() if words in str(error))
            return next(known, str(error).removeprefix(f"{self.server.url} "))

    def at_once(self, clients: int, songs: Sequence[_Song]) -> Counter[str]:
        """The outcomes of so many clients that begin together."""
        barrier = threading.Barrier(clients)

        def one(number: int) -> str:
            barrier.wait()
            return self.outcome(songs[number % len(songs)])

        with ThreadPoolExecutor(clients) as pool:
            return Counter(pool.map(one, range(clients)))


def prove(count: int, folder: Path, say: Say) -> Proof:
    """Raises UsageError where there is no server to try."""
    say("exporting the demo model")
    export_checkpoint(
        CHECKPOINT,
        ExportOptions(output=folder / "demo", config=CONFIG, batch=BATCH, given={"chunk_seconds": 1.0}),
    )
    options = ServingOptions(songs=SONGS, queue=QUEUE)
    write_repository(folder / "demo.json", folder / "models", options=options)
    songs, short = _songs(folder, (1.0, 2.0, 3.0), "song"), _songs(folder, (0.3,), "short")
    say("starting the server")
    with served(folder / "models", folder) as server:
        trial = _Trial(server, folder)
        for part in (_stems, _back_pressure, _bad_audio, _reload, _given_up):
            say(part.__name__.strip("_").replace("_", " "))
            part(trial, songs)
        say("shared batches")
        _shared_batches(trial, short[0])
        say(f"{count} requests")
        _flat_memory(trial, short[0], count)
        say("SIGTERM under load")
        _drain(trial, songs)
    claim = (
        f"A Triton server gives rofo-run's stems, refuses what is too much or no music in a line, and loses "
        f"nothing: {CLIENTS} clients on a queue of {QUEUE}, unload and load, a song cancelled, SIGTERM, "
        f"{count} requests in constant memory"
    )
    return Proof(claim, trial.figures, tuple(trial.failures))


def _songs(folder: Path, seconds: Sequence[float], name: str) -> list[_Song]:
    """Parts of the demo mix as FLAC, one of them mono and at another rate, with their stems."""
    mix, rate = soundfile.read(MIX, dtype="float32", always_2d=True)
    songs = []
    with Separator(folder / "demo.json") as separator:
        for i, length in enumerate(seconds):
            path, part = folder / f"{name}{i}.flac", mix[i * rate :][: int(length * rate)]
            soundfile.write(path, part[:, 0] if i == 1 else part, 48_000 if i == 1 else rate, "PCM_24")
            stems = separator.separate_file(path, folder / "here", Options())
            songs.append(_Song(path, {file.name: file.read_bytes() for file in stems.values()}))
    return songs


def _stems(trial: _Trial, songs: Sequence[_Song]) -> None:
    outcomes = Counter(map(trial.outcome, songs))
    trial.figures["songs equal to rofo-run, byte for byte"] = f"{outcomes['right']} of {len(songs)}"
    trial.expect(outcomes == {"right": len(songs)}, f"alone: {dict(outcomes)}")


def _shared_batches(trial: _Trial, song: _Song) -> None:
    """A song of one chunk fills one place of a batch; two that come at once share a run, sooner or later."""
    outcomes: Counter[str] = Counter()
    before = Counter(trial.server.batches(NETWORK))
    outcomes += trial.at_once(1, [song])
    alone = Counter(trial.server.batches(NETWORK)) - before
    trial.expect(alone == {1: 1}, f"a song of one chunk took {dict(alone)}")
    for _ in range(20):
        outcomes += trial.at_once(SONGS, [song])
    ran = Counter(trial.server.batches(NETWORK)) - before
    trial.figures["runs of the network by chunks in them, songs of one chunk"] = str(
        dict(sorted(ran.items()))
    )
    trial.expect(set(outcomes) == {"right"}, f"together: {dict(outcomes)}")
    trial.expect(ran[SONGS] > 0, f"no run was shared: {dict(ran)}")


def _back_pressure(trial: _Trial, songs: Sequence[_Song]) -> None:
    outcomes = trial.at_once(CLIENTS, songs)
    trial.figures[f"{CLIENTS} clients at once, queue of {QUEUE}"] = _told(outcomes)
    trial.expect(outcomes["right"] >= SONGS, f"under pressure: {dict(outcomes)}")
    trial.expect(outcomes["refused"] > 0, f"nobody was refused: {dict(outcomes)}")
    others = outcomes.keys() - {"right", "refused"}
    trial.expect(not others, f"under pressure: {dict(outcomes)}")
    trial.expect(trial.outcome(songs[0]) == "right", "wrong after the pressure")


def _bad_audio(trial: _Trial, songs: Sequence[_Song]) -> None:
    whole = io.BytesIO()
    mix, rate = soundfile.read(songs[0].path, dtype="float32")
    soundfile.write(whole, mix, rate, "FLOAT", format="WAV")
    nan = np.copy(mix)
    nan[1000, 0] = np.nan
    bad = io.BytesIO()
    soundfile.write(bad, nan, rate, "FLOAT", format="WAV")
    cases = {
        "nan.wav": (bad.getvalue(), "audio: 1 non-finite samples"),
        "short.wav": (whole.getvalue()[: len(whole.getvalue()) // 2], "audio: file is cut short"),
        "empty.wav": (b"", "audio: "),
        "text.wav": (b"<html>" * 100, "audio: "),
    }
    told = 0
    for name, (content, words) in cases.items():
        (trial.folder / name).write_bytes(content)
        try:
            trial.sent(trial.folder / name)
            trial.failures.append(f"{name} was separated")
        except AudioReadError as error:
            told += words in str(error) and "\n" not in str(error)
        except EngineRunError as error:
            trial.failures.append(f"{name}: {error}")
    trial.figures["uploads refused in our own line"] = f"{told} of {len(cases)}"
    trial.expect(told == len(cases), f"uploads refused in our own line: {told} of {len(cases)}")
    trial.expect(trial.outcome(songs[0]) == "right", "wrong after bad audio")


def _reload(trial: _Trial, songs: Sequence[_Song]) -> None:
    """Without its network a song fails at once; with it again all is as before. Then the model itself."""
    for model in (NETWORK, MODEL):
        status, _ = trial.server.asked(f"repository/models/{model}/unload", post=True)
        end = time.monotonic() + 30
        while trial.server.ready(model) and time.monotonic() < end:
            time.sleep(0.1)
        trial.expect(status == 200 and not trial.server.ready(model), f"{model} was not unloaded")
        away = trial.outcome(songs[0])
        trial.expect(away not in ("right", "wrong"), f"without {model}: {away}")
        trial.figures[f"without {model}"] = away
        status, _ = trial.server.asked(f"repository/models/{model}/load", post=True)
        trial.expect(status == 200 and trial.server.ready(model), f"{model} was not loaded again")
        trial.expect(trial.outcome(songs[0]) == "right", f"wrong after {model} was loaded again")


def _given_up(trial: _Trial, songs: Sequence[_Song]) -> None:
    """A long song cancelled in the middle, over gRPC: the server stops between two chunks. (That a client of
    HTTP went away this server does not notice.)"""
    mix, rate = soundfile.read(MIX, dtype="float32", always_2d=True)
    soundfile.write(long := trial.folder / "long.wav", np.tile(mix, (8, 1)), rate, "PCM_16")
    before = trial.server.chunks(NETWORK)
    command = [str(python()), "-c", _CANCELLING, trial.server.grpc, MODEL, str(long)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        while trial.server.chunks(NETWORK) < before + 4 and client.poll() is None:
            time.sleep(0.1)
        at = trial.server.chunks(NETWORK)
        told, _ = client.communicate("cancel\n")
    last = -1
    while (now := trial.server.chunks(NETWORK)) != last:
        last = now
        time.sleep(3)
    whole = 2 * 8 * len(mix) // rate
    trial.figures["chunks after a song was cancelled"] = f"{now - at}, of about {whole}"
    trial.expect("CANCELLED" in told, f"the client that cancelled was told: {told}")
    trial.expect(
        now - before < whole / 2, f"{now - before} of about {whole} chunks, cancelled at {at - before}"
    )
    trial.expect(trial.outcome(songs[0]) == "right", "wrong after a song was cancelled")


def _flat_memory(trial: _Trial, song: _Song, count: int) -> None:
    """Two clients, one request after the other."""
    memory: list[float] = []
    outcomes: Counter[str] = Counter()
    with ThreadPoolExecutor(SONGS) as pool:
        for _ in range(10):
            outcomes += Counter(pool.map(lambda _: trial.outcome(song), range(count // 10)))
            memory.append(trial.server.memory_mb())
    growth = memory[-1] / memory[1] - 1
    trial.figures[f"{count} requests"] = _told(outcomes)
    trial.figures["memory in MB after each tenth"] = ", ".join(f"{mb:.0f}" for mb in memory)
    trial.figures["growth of memory in %, from the second tenth"] = round(100 * growth, 1)
    trial.expect(outcomes["right"] == count // 10 * 10, f"one after the other: {dict(outcomes)}")
    trial.expect(growth < FLAT, f"memory grew by {100 * growth:.1f} %")


def _drain(trial: _Trial, songs: Sequence[_Song]) -> None:
    """Songs that are under way when the server is told to end come back whole."""
    server = trial.server
    with ThreadPoolExecutor(1) as pool:
        clients = pool.submit(trial.at_once, SONGS + QUEUE, songs[-1:])
        time.sleep(1)
        os.kill(server.process.pid, signal.SIGTERM)
        outcomes = clients.result()
        code = server.stop()
    trial.figures[f"{SONGS + QUEUE} clients at SIGTERM"] = f"{_told(outcomes)}; exit code {code}"
    trial.expect(code == 0, f"exit code {code} after SIGTERM")
    trial.expect(outcomes["right"] >= SONGS, f"at SIGTERM: {dict(outcomes)}")
    others = outcomes.keys() - {"right", "closed", "refused"}
    trial.expect(not others, f"at SIGTERM: {dict(outcomes)}")


def _told(outcomes: Counter[str]) -> str:
    return ", ".join(f"{number} {what}" for what, number in sorted(outcomes.items(), reverse=True))
