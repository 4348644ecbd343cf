"""vocals.json <-> frozen dataclasses: the only description of an engine that the runtime reads."""

import dataclasses
import hashlib
import json
import re
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar

from rofo.errors import EngineMismatchError, ManifestError

FORMAT = 1
MIN_BF16_PARITY_DB = 30.0

T = TypeVar("T")


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
        _require(self.n_fft >= 2 and self.n_fft % 2 == 0, f"stft.n_fft is {self.n_fft}")
        _require(0 < self.hop_length <= self.n_fft // 2, f"stft.hop_length is {self.hop_length}")

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
    """How chunks are cut and joined. `overlap` is the fraction of a chunk shared with the next one."""

    scheme: Literal["fade"] = "fade"
    overlap: float = 0.5

    def __post_init__(self) -> None:
        _require(0 <= self.overlap < 1, f"overlap_add.overlap is {self.overlap}")


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
        _require(self.batch >= 1, f"the batch of {self.file} is {self.batch}")
        for name in (self.file, *([] if self.data is None else [self.data])):
            plain = PurePosixPath(name).name == name and "\\" not in name and name not in ("", ".", "..")
            _require(plain and name.isprintable(), f"{name!r} is not a plain file name")
        _require((self.device_memory or 0) >= 0, f"the device_memory of {self.file} is {self.device_memory}")
        for digest in (self.sha256, self.data_sha256, self.onnx_sha256):
            if digest is None:
                continue
            _require(re.fullmatch("[0-9a-f]{64}", digest) is not None, f"{digest!r} is not a sha256")
        _require((self.data is None) == (self.data_sha256 is None), "data and data_sha256 go together")


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
        _require(1000 <= self.sample_rate <= 1_000_000, f"sample_rate is {self.sample_rate}")
        _require(self.channels in (1, 2), f"channels is {self.channels}")
        _require(bool(self.stems), "stems is empty")
        names = [*self.stems, *([self.residual] if self.residual else [])]
        _require(len({n.lower() for n in names}) == len(names), f"stem names repeat: {', '.join(names)}")
        for name in names:
            _require(re.fullmatch(r"[\w][\w .+&()-]*", name) is not None, f"{name!r} cannot name a file")
        _require(self.chunk.samples > self.stft.n_fft // 2, f"chunk.samples is {self.chunk.samples}")
        frames = self.stft.frames(self.chunk.samples)
        _require(self.chunk.frames == frames, f"chunk.frames is {self.chunk.frames}, should be {frames}")
        _require(bool(self.engines), "engines is empty")

    def snr_db(self, backend: str, precision: str) -> float | None:
        """Measured parity of a backend and precision, None where it was not measured."""
        found = [p.snr_db for p in self.parity if (p.backend, p.precision) == (backend, precision)]
        return found[0] if found else None

    def to_json(self) -> str:
        """The manifest as the text of its file."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=2) + "\n"


def manifest_path(engine: Path) -> Path:
    """The manifest that belongs to an engine file: the same name, ending in .json."""
    return engine.with_suffix(".json")


def load_manifest(path: str | Path) -> Manifest:
    """Read a manifest, given its own path or that of an engine file beside it.

    Raises ManifestError when it is missing, is not JSON, has another format number, or lacks a field,
    has one too many, or one of the wrong type.
    """
    path = manifest_path(Path(path))
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
    version = raw.pop("format", None)
    if version != FORMAT or isinstance(version, bool):
        raise ManifestError(
            f"{path}: manifest format {version!r}, this rofo reads {FORMAT}; "
            "export again with this rofo-export, or install the rofo that wrote it"
        )
    try:
        return _decode(Manifest, raw, "manifest")
    except ManifestError as error:
        problem = " ".join(str(error).split())
        raise ManifestError(f"{path}: {problem}; export again with rofo-export") from None


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


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise ManifestError(problem)


def _decode(kind: type[T], raw: Any, where: str) -> T:
    """Build a dataclass from parsed JSON, refusing missing, unknown and mistyped fields by name."""
    _require(isinstance(raw, dict), f"{where} is not an object")
    hints = typing.get_type_hints(kind)
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    unknown = sorted(set(raw) - {f.name for f in fields})
    missing = [f.name for f in fields if f.name not in raw and f.default is dataclasses.MISSING]
    _require(not unknown, f"{where} has unknown fields: {', '.join(unknown)}")
    _require(not missing, f"{where} lacks {', '.join(missing)}")
    values = {name: _value(hints[name], value, f"{where}.{name}") for name, value in raw.items()}
    return kind(**values)


def _value(hint: Any, raw: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _decode(typing.cast(type[Any], hint), raw, where)
    if origin is Literal:
        _require(raw in arguments and type(raw) in map(type, arguments), f"{where} is {raw!r}")
        return raw
    if origin is tuple:
        _require(isinstance(raw, list), f"{where} is not a list")
        return tuple(_value(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(raw))
    if origin is types.UnionType:
        return None if raw is None else _value(arguments[0], raw, where)
    check = _SCALARS.get(origin or hint)
    _require(check is not None and check(raw), f"{where} is {raw!r}")
    return float(raw) if hint is float else raw


_SCALARS: dict[Any, Callable[[Any], bool]] = {
    int: lambda raw: isinstance(raw, int) and not isinstance(raw, bool),
    float: lambda raw: isinstance(raw, float) or (type(raw) is int and abs(raw) < 2**53),
    bool: lambda raw: isinstance(raw, bool),
    str: lambda raw: isinstance(raw, str),
    dict: lambda raw: isinstance(raw, dict),
}
