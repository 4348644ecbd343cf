"""What the commands measure: frozen dataclasses <-> JSON files, of which report and README are made."""

import dataclasses
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

from rofo.errors import ManifestError, OutputWriteError, UsageError
from rofo.json_fields import decode

FORMAT = 1


@dataclass(frozen=True)
class Spread:
    """Median and extremes of repeated measurements."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of at least one value, to five significant digits: the rest is noise."""
        return cls(*(float(f"{v:.5g}") for v in (median(values), min(values), max(values))))


@dataclass(frozen=True)
class LeftOut:
    """Something that was to be measured and was not, and why: one line."""

    what: str
    why: str


@dataclass(frozen=True)
class Machine:
    """`threads` is how many the measured programs were given, each pinned to a core of its own."""

    processor: str
    cores: int
    threads: int
    flags: tuple[str, ...]
    memory_gb: float
    system: str
    gpu: str | None


@dataclass(frozen=True)
class About:
    """Circumstances of a run. `created` is UTC, `versions` {package: version} of what is installed."""

    created: str
    machine: Machine
    versions: dict[str, Any]
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True)
class Model:
    """What was measured. `chunk` in seconds, `overlap` None for the
    scheme's own; `tflop` and `weights_gb` are those of one chunk's graph."""

    name: str
    architecture: str
    checkpoint_sha256: str
    sample_rate: int
    stems: tuple[str, ...]
    chunk: float
    scheme: str
    overlap: float | None
    batch: int
    tflop: float | None
    weights_gb: float | None


@dataclass(frozen=True)
class Limits:
    """What this machine can do at best: GFLOP/s of a large matrix product by precision, GB/s of a copy."""

    gflops: dict[str, Any]
    copy_gb: Spread

    def rate(self, precision: str) -> Spread | None:
        """GFLOP/s in a precision, None where it could not be measured."""
        found = self.gflops.get(precision)
        return Spread(**found) if found else None


@dataclass(frozen=True)
class Part:
    """Seconds that one step of a song's path took, in all."""

    name: str
    seconds: Spread


@dataclass(frozen=True)
class SpeedRow:
    """One contestant. Seconds are those of the whole song; `load` and `first` (chunk) come before.

    `real_time` is seconds of song per second. `process` is the whole process, from start to written files.
    `outside` is the share of the song's time in which the engine stood still. `of_matrix` and `of_memory`
    are shares of the machine's limits: arithmetic of the graph over time, and weights read once per run.
    `cpu` is processor time of the song, user and system, of all threads; `cpu_of_pytorch` its share of
    PyTorch's, and `cpu_of_runs` and `time_of_runs` of a recipe's what its runs take one by one, in the same
    round.
    """

    name: str
    device: str
    precision: str
    real_time: Spread
    times_pytorch: Spread | None
    process: Spread
    load: Spread | None
    first: Spread | None
    outside: Spread | None
    parts: tuple[Part, ...]
    peak_mb: Spread
    of_matrix: float | None
    of_memory: float | None
    cpu: Spread | None = None
    cpu_of_pytorch: Spread | None = None
    time_of_runs: Spread | None = None
    cpu_of_runs: Spread | None = None


@dataclass(frozen=True)
class Exported:
    """What making the engine took; `ratio` is peak memory over the checkpoint's size."""

    seconds: float
    peak_mb: float
    ratio: float


@dataclass(frozen=True)
class Speed:
    """`rofo-bench speed`."""

    kind: Literal["speed"]
    about: About
    model: Model
    song_seconds: float
    chunks: int
    rounds: int
    limits: Limits
    exported: Exported | None
    rows: tuple[SpeedRow, ...]


@dataclass(frozen=True)
class StemScore:
    """dB of one stem: against the baseline's estimate, and against the true stem where there is one.

    `sdr` is global, `sdr_median` the median over chunks of a second; None where the truth is silent.
    """

    stem: str
    song_snr: float | None
    sdr: float | None
    sdr_median: float | None


@dataclass(frozen=True)
class ParityRow:
    """One implementation; `graph_snr` (dB) is its output on a fixed spectrogram against our network's."""

    name: str
    precision: str
    graph_snr: float | None
    stems: tuple[StemScore, ...]


@dataclass(frozen=True)
class Parity:
    """`rofo-bench parity`. The first row is the baseline that `song_snr` refers to."""

    kind: Literal["parity"]
    about: About
    model: Model
    mix: str
    mix_seconds: float
    rows: tuple[ParityRow, ...]


@dataclass(frozen=True)
class Point:
    """Separation of a song at one value of one variable; the other variables keep the values of `Scale`."""

    axis: Literal["seconds", "stems", "batch", "threads"]
    value: float
    elapsed: Spread
    real_time: Spread
    peak_mb: Spread


@dataclass(frozen=True)
class Scale:
    """`rofo-bench scale`."""

    kind: Literal["scale"]
    about: About
    model: Model
    backend: str
    precision: str
    song_seconds: float
    rounds: int
    points: tuple[Point, ...]


@dataclass(frozen=True)
class HostRow:
    """A number of threads: seconds of song per second, and per second of processor."""

    threads: int
    real_time: Spread
    per_processor: Spread
    peak_mb: Spread


@dataclass(frozen=True)
class Host:
    """`rofo-bench host`. `stages` are processor seconds for a chunk, each stage alone on one thread."""

    kind: Literal["host"]
    about: About
    model: Model
    song_seconds: float
    rounds: int
    stages: tuple[Part, ...]
    rows: tuple[HostRow, ...]


Result = Speed | Parity | Scale | Host
_KINDS: dict[Any, type[Result]] = {"speed": Speed, "parity": Parity, "scale": Scale, "host": Host}


def to_json(result: Result) -> dict[str, Any]:
    """The result as JSON data, with the number of this format."""
    return {"format": FORMAT, **dataclasses.asdict(result)}


def save(result: Result, folder: Path, *, on: str | None = None) -> Path:
    """Write FOLDER/KIND-MODEL.json, replacing the last run of that kind and model; `on` is a GPU, if any."""
    gpu = re.sub("[^a-z0-9]+", "-", on.partition(",")[0].lower()).strip("-") if on else ""
    file = folder / f"{'-'.join(filter(None, (result.kind, result.model.name, gpu)))}.json"
    text = json.dumps(to_json(result), indent=2, allow_nan=False) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputWriteError(
            f"{file}: {error.strerror or error}; choose another --results folder"
        ) from None
    return file


def load(file: Path) -> Result:
    """Read a result. Raises UsageError for what is none, or is of another format."""
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: not readable ({error}); run rofo-bench again") from None
    kind = _KINDS.get(raw.get("kind")) if isinstance(raw, dict) else None
    if kind is None or raw.pop("format", None) != FORMAT:
        raise UsageError(f"{file}: not a result of this rofo-bench; run it again, or remove the file")
    try:
        return decode(kind, raw, "result")
    except ManifestError as error:
        raise UsageError(f"{file}: {error}; run rofo-bench again, or remove the file") from None


def load_all(folder: Path) -> tuple[Result, ...]:
    """All results of a folder, by kind and name. Raises UsageError as `load`, and where there is none."""
    files = [file for kind in _KINDS for file in sorted(folder.glob(f"{kind}-*.json"))]
    if not files:
        raise UsageError(f"{folder}: no results; run rofo-bench speed, parity, scale or host first")
    return tuple(load(file) for file in files)
