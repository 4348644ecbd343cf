"""vocals.json <-> frozen dataclasses: the only description of an engine that the runtime reads."""

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from rofo.errors import EngineMismatchError, ManifestError
from rofo.json_fields import decode, require

FORMAT = 1
MIN_BF16_PARITY_DB = 30.0

Scheme = Literal["fade", "hann", "trim", "rectangular", "outer"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
# Those that cut n_fft / 2 samples off both ends of a chunk, or put as many before the song.
_TRIMMING = ("hann", "trim", "outer")


@dataclass(frozen=True)
class Stft:
    """Short-time Fourier transform, periodic Hann window, centred frames with reflected borders.

    `n_fft` and `hop_length` are in samples. `normalized` multiplies the spectrum by n_fft ** -0.5.
    """

    n_fft: int
    hop_length: int
    window: Literal["hann"] = "hann"
    centre: Literal[True] = True
    padding: Literal["reflect"] = "reflect"
    normalized: bool = False

    def __post_init__(self) -> None:
        require(self.n_fft >= 2 and self.n_fft % 2 == 0, f"stft.n_fft is {self.n_fft}")
        require(0 < self.hop_length <= self.n_fft // 2, f"stft.hop_length is {self.hop_length}")

    @property
    def bins(self) -> int:
        """Number of frequency bins of a real transform."""
        return self.n_fft // 2 + 1

    def frames(self, samples: int) -> int:
        """Number of centred frames of a signal of `samples` samples."""
        return 1 + samples // self.hop_length


@dataclass(frozen=True)
class Chunk:
    """What the engine sees at once: `samples` at the engine's rate, `frames` of the STFT."""

    samples: int
    frames: int


@dataclass(frozen=True)
class OverlapAdd:
    """How chunks are cut and joined.

    `overlap` is the fraction of a chunk (of a slice, for `outer`) shared with the next one; None is the
    scheme's own default, and all that `trim` has.
    """

    scheme: Scheme = "fade"
    overlap: float | None = None

    def __post_init__(self) -> None:
        if self.overlap is None:
            return
        require(self.scheme != "trim", f"scheme trim has no overlap to choose, and {self.overlap} is given")
        require(0 <= self.overlap < 1, f"overlap is {self.overlap}, not 0 or more and below 1")


@dataclass(frozen=True)
class EngineFile:
    """One engine file beside the manifest. `data` is the file that holds an .onnx file's large weights.

    `compute_capabilities` are those a .plan runs on, "8.9" or, with all later ones, "8.0+". `onnx_sha256` is
    the graph it was built from, `device_memory` the GPU memory in bytes that it needs.
    """

    file: str
    backend: Literal["onnx", "tensorrt-rtx", "tensorrt"]
    backend_version: str
    precision: Literal["fp32", "fp16", "bf16"]
    compute_capabilities: tuple[str, ...]
    batch: int
    sha256: str
    data: str | None = None
    data_sha256: str | None = None
    onnx_sha256: str | None = None
    device_memory: int | None = None

    def __post_init__(self) -> None:
        require(self.batch >= 1, f"the batch of {self.file} is {self.batch}")
        _check_file_names(self.file, self.data)
        require((self.device_memory or 0) >= 0, f"the device_memory of {self.file} is {self.device_memory}")
        _check_digests(self.sha256, self.data_sha256, self.onnx_sha256)
        require((self.data is None) == (self.data_sha256 is None), "data and data_sha256 go together")


@dataclass(frozen=True)
class Parity:
    """Signal-to-noise ratio of one backend's output spectrogram against the fp32 network, in dB.

    `measured_on` says on what: the engine itself, or a stand-in for it.
    """

    backend: str
    precision: str
    snr_db: float
    measured_on: str = "engine"


@dataclass(frozen=True)
class Source:
    """Where the engine came from."""

    checkpoint: str
    checkpoint_sha256: str
    config: dict[str, Any]
    exporter: str
    torch: str


@dataclass(frozen=True)
class Manifest:
    """Everything the runtime knows about an engine.

    `stems` are in the order of the engine's output. `residual` names the mix less all stems, or is None
    where the stems already cover the song. `normalize` asks for the song's mono mean and deviation to be
    taken out before and put back after. Raises ManifestError where the parts contradict each other.
    """

    name: str
    architecture: str
    sample_rate: int
    channels: int
    stems: tuple[str, ...]
    residual: str | None
    stft: Stft
    chunk: Chunk
    overlap_add: OverlapAdd
    normalize: bool
    engines: tuple[EngineFile, ...]
    source: Source
    parity: tuple[Parity, ...]

    def __post_init__(self) -> None:
        _check_sound(self.sample_rate, self.channels, self.stems, self.residual)
        require(self.chunk.samples > self.stft.n_fft // 2, f"chunk.samples is {self.chunk.samples}")
        frames = self.stft.frames(self.chunk.samples)
        require(self.chunk.frames == frames, f"chunk.frames is {self.chunk.frames}, should be {frames}")
        trimmed = self.overlap_add.scheme in _TRIMMING
        require(
            self.chunk.samples > self.stft.n_fft or not trimmed,
            f"a chunk of {self.chunk.samples} samples is too short for scheme {self.overlap_add.scheme}, "
            f"which needs more than n_fft {self.stft.n_fft}",
        )
        require(bool(self.engines), "engines is empty")

    def snr_db(self, backend: str, precision: str) -> float | None:
        """Measured parity of a backend and precision, None where it was not measured."""
        found = [p.snr_db for p in self.parity if (p.backend, p.precision) == (backend, precision)]
        return found[0] if found else None

    def to_json(self) -> str:
        """The manifest as the text of its file."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=2) + "\n"


@dataclass(frozen=True)
class Member:
    """One engine of a mixer: its manifest's file name and sha256, and which of its stems is taken."""

    manifest: str
    sha256: str
    stem: str

    def __post_init__(self) -> None:
        _check_file_names(self.manifest)
        _check_digests(self.sha256)


@dataclass(frozen=True)
class MixerManifest:
    """A model of several engines, whose stems are weighted sums of one stem of each and of the mix.

    `members` lie beside this manifest, each with a manifest of its own. `matrix` has a row for every channel
    of every stem, stem by stem, and a column for every channel of every member, member by member, and of the
    mix at last: stems = matrix @ [members..., mix] at every sample. Raises ManifestError where the parts
    contradict each other.
    """

    name: str
    sample_rate: int
    channels: int
    stems: tuple[str, ...]
    members: tuple[Member, ...]
    matrix: tuple[tuple[float, ...], ...]
    source: Source
    residual: str | None = None

    def __post_init__(self) -> None:
        _check_sound(self.sample_rate, self.channels, self.stems, self.residual)
        require(bool(self.members), "members is empty")
        rows, columns = len(self.stems) * self.channels, (len(self.members) + 1) * self.channels
        fits = len(self.matrix) == rows and all(len(row) == columns for row in self.matrix)
        require(fits, f"matrix is not {rows} rows of {columns} numbers")
        require(all(math.isfinite(w) for row in self.matrix for w in row), "matrix is not finite")

    def to_json(self) -> str:
        """The manifest as the text of its file."""
        return json.dumps({"format": FORMAT, "kind": "mixer", **dataclasses.asdict(self)}, indent=2) + "\n"


def manifest_path(engine: Path) -> Path:
    """The manifest that belongs to an engine file: the same name, ending in .json."""
    return engine.with_suffix(".json")


def load_manifest(path: str | Path) -> Manifest | MixerManifest:
    """Read a manifest, given its own path or that of an engine file beside it.

    Raises ManifestError when it is missing, is not JSON, has another format number or kind, or lacks a
    field, has one too many, or one of the wrong type.
    """
    path = manifest_path(Path(path))
    raw = _read(path)
    version = raw.pop("format", None)
    if version != FORMAT or isinstance(version, bool):
        raise ManifestError(
            f"{path}: manifest format {version!r}, this rofo reads {FORMAT}; "
            "export again with this rofo-export, or install the rofo that wrote it"
        )
    try:
        kind = raw.pop("kind", None)  # manifests of engines have none
        require(kind in (None, "mixer"), f"kind is {kind!r}")
        return decode(Manifest, raw, "manifest") if kind is None else decode(MixerManifest, raw, "manifest")
    except ManifestError as error:
        problem = " ".join(str(error).split())
        raise ManifestError(f"{path}: {problem}; export again with rofo-export") from None


def load_engine_manifest(path: str | Path) -> Manifest:
    """As `load_manifest`, of an engine only. Raises ManifestError for that of a mixer too."""
    manifest = load_manifest(path)
    if isinstance(manifest, Manifest):
        return manifest
    raise ManifestError(
        f"{manifest_path(Path(path))}: describes a mixer of several engines, not an engine; "
        "give this file itself as the engine, or export again with rofo-export"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ManifestError(f"{path}: no manifest; export the checkpoint again with rofo-export") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ManifestError(
            f"{path}: not a readable manifest ({error}); export again with rofo-export"
        ) from None
    if not isinstance(raw, dict):
        raise ManifestError(f"{path}: not a manifest; export again with rofo-export")
    return raw


def file_sha256(path: Path) -> str:
    """The sha256 of a file's content, in hexadecimal."""
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify_file(path: Path, sha256: str) -> None:
    """Compare a file with its recorded sha256. Raises EngineMismatchError when it is missing or differs."""
    try:
        found = file_sha256(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise EngineMismatchError(f"{path}: {reason}; export again with rofo-export") from None
    if found != sha256:
        raise EngineMismatchError(
            f"{path}: not the file its manifest describes (sha256 differs: cut short, altered, or from "
            "another export); copy it again together with its .json, or export again with rofo-export"
        )


def _check_sound(sample_rate: int, channels: int, stems: Sequence[str], residual: str | None) -> None:
    require(1000 <= sample_rate <= 1_000_000, f"sample_rate is {sample_rate}")
    require(channels in (1, 2), f"channels is {channels}")
    require(bool(stems), "stems is empty")
    names = [*stems, *([residual] if residual else [])]
    require(len({n.lower() for n in names}) == len(names), f"stem names repeat: {', '.join(names)}")
    for name in names:
        require(re.fullmatch(r"[\w][\w .+&()-]*", name) is not None, f"{name!r} cannot name a file")


def _check_file_names(*names: str | None) -> None:
    for name in names:
        if name is not None:
            plain = PurePosixPath(name).name == name and "\\" not in name and name not in ("", ".", "..")
            require(plain and name.isprintable(), f"{name!r} is not a plain file name")


def _check_digests(*digests: str | None) -> None:
    for digest in digests:
        known = digest is None or re.fullmatch("[0-9a-f]{64}", digest) is not None
        require(known, f"{digest!r} is not a sha256")
