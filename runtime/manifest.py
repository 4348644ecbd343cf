"""vocals.json <-> frozen dataclasses: the only description of an engine that the runtime reads."""

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, get_args

from rofo.dsp import DEFAULT_SCHEME, make_scheme
from rofo.errors import EngineMismatchError, ManifestError, UsageError
from rofo.json_fields import LATER, decode, encode, require
from rofo.text import short

if TYPE_CHECKING:
    from rofo.dsp.scheme import Scheme

# Stays 1 as long as what earlier releases read means the same, see rofo.json_fields.LATER.
FORMAT = 1
# What an engine can compute in: the one list of their names.
Precision = Literal["fp32", "fp16", "bf16", "fp8", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
MIN_BF16_PARITY_DB = 30.0
MIN_INT8_PARITY_DB = 35.0
LONGEST_NAME = 255  # bytes of a file's name, for every common file system


@dataclass(frozen=True)
class Stft:
    """Short-time Fourier transform: periodic window, frames centred over ends that are padded.

    `n_fft` and `hop_length` are in samples. `normalized` multiplies the spectrum by n_fft ** -0.5. The rest
    are framings that some networks were trained with. `window_normalized` divides the spectrum by the root of
    the window's summed squares, as torchaudio does. `border`: so many reflected samples before the chunk,
    and after it as many more than make whole hops of it. `even_frames`: zeros after the chunk, one sample at
    least, up to an even number of frames. `dropped_frames` are left out at either end and `top_bin` False
    leaves out the bin of half the sample rate; they are zeros on the way back. `border_kept`: the border is
    of zeros, and what comes back begins with it, so that it is late by so much: a bug that some networks of
    Demucs v3 were trained with.
    """

    n_fft: int
    hop_length: int
    window: Literal["hann", "rectangular"] = "hann"
    centre: Literal[True] = True
    padding: Literal["reflect", "constant"] = "reflect"
    normalized: bool = False
    window_normalized: bool = field(default=False, metadata=LATER)
    border: int = field(default=0, metadata=LATER)
    even_frames: bool = field(default=False, metadata=LATER)
    dropped_frames: int = field(default=0, metadata=LATER)
    top_bin: bool = field(default=True, metadata=LATER)
    border_kept: bool = field(default=False, metadata=LATER)

    def __post_init__(self) -> None:
        require(self.border >= 0, f"stft.border is {self.border}")
        require(
            not (self.normalized and self.window_normalized),
            "stft.normalized and stft.window_normalized exclude each other",
        )
        require(not (self.border and self.even_frames), "stft.border and stft.even_frames exclude each other")
        require(self.dropped_frames >= 0, f"stft.dropped_frames is {self.dropped_frames}")
        require(self.n_fft >= 2 and self.n_fft % 2 == 0, f"stft.n_fft is {self.n_fft}")
        require(0 < self.hop_length <= self.n_fft // 2, f"stft.hop_length is {self.hop_length}")

    @property
    def bins(self) -> int:
        """Number of frequency bins of a real transform."""
        return self.n_fft // 2 + self.top_bin

    def extension(self, samples: int) -> tuple[int, int]:
        """Samples put before and after `samples` samples, those for centring the frames not counted."""
        if self.even_frames:
            hops = samples // self.hop_length + 1
            return 0, (hops + 1 - hops % 2) * self.hop_length - samples
        return self.border, self.border + (-samples % self.hop_length if self.border else 0)

    def frames(self, samples: int) -> int:
        """Number of frames of a signal of `samples` samples."""
        return 1 + (samples + sum(self.extension(samples))) // self.hop_length - 2 * self.dropped_frames


@dataclass(frozen=True)
class ChunkSize:
    """What the engine sees at once: `samples` at the engine's rate, `frames` of the STFT, 0 without one."""

    samples: int
    frames: int


@dataclass(frozen=True)
class OverlapAdd:
    """How chunks are cut and joined: a scheme of rofo.dsp.SCHEMES.

    `overlap` is the fraction of a chunk shared with the next one, None the scheme's own default. `segment`:
    so many samples in the middle of a chunk are what is cut and joined, and the song around them is only
    their context; None where that is the whole chunk.
    """

    scheme: str = DEFAULT_SCHEME
    overlap: float | None = None
    segment: int | None = field(default=None, metadata=LATER)


@dataclass(frozen=True)
class EngineFile:
    """One engine file beside the manifest. `data` is the file that holds an .onnx file's large weights.

    `backend` is the kind of file: onnx, the library that built a plan, or the only backend that runs a typed
    graph, see rofo.engines.Backend.
    `compute_capabilities` are those a .plan runs on, "8.9" or, with all later ones, "8.0+". `onnx_sha256` is
    the graph it was built from, `device_memory` the GPU memory in bytes that it needs. `launches` is told of
    plans with recurrent layers, which are loops: how many kernels one run launches, whatever its batch. Of an
    engine in int8 or fp8 `rest` is what all else is computed in, and `kept` names the matrix products and
    convolutions that could be of 8 bits and are not, after their weights: the gate did not allow it.
    """

    file: str
    backend: str
    backend_version: str
    precision: Precision
    compute_capabilities: tuple[str, ...]
    batch: int
    sha256: str
    data: str | None = None
    data_sha256: str | None = None
    onnx_sha256: str | None = None
    device_memory: int | None = None
    launches: int | None = field(default=None, metadata=LATER)
    rest: Literal["fp32", "fp16", "bf16"] = field(default="fp32", metadata=LATER)
    kept: tuple[str, ...] = field(default=(), metadata=LATER)

    def __post_init__(self) -> None:
        require(self.batch >= 1, f"the batch of {self.file} is {self.batch}")
        _check_file_names(self.file, self.data)
        require((self.device_memory or 0) >= 0, f"the device_memory of {self.file} is {self.device_memory}")
        require(
            self.launches is None or self.launches > 0, f"the launches of {self.file} are {self.launches}"
        )
        _check_digests(self.sha256, self.data_sha256, self.onnx_sha256)
        require((self.data is None) == (self.data_sha256 is None), "data and data_sha256 go together")


@dataclass(frozen=True)
class Parity:
    """Signal-to-noise ratio of one backend's output spectrogram against the fp32 network, in dB.

    `measured_on` says on what: the engine itself, or a stand-in for it. `keeps_silence`: of a silent chunk it
    made exact zeros.
    """

    backend: str
    precision: str
    snr_db: float
    measured_on: str = "engine"
    keeps_silence: bool = field(default=False, metadata=LATER)


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
    where the stems already cover the song. `stft` is None for networks of waveforms alone. `normalize` asks
    for the song's mono mean and deviation to be taken out before and put back after. `inputs` and `outputs`
    are the engine's tensors by name, see rofo.engines.contract.Shapes. Raises ManifestError where the parts
    contradict each other.
    """

    name: str
    architecture: str
    sample_rate: int
    channels: int
    stems: tuple[str, ...]
    residual: str | None
    stft: Stft | None
    chunk: ChunkSize
    overlap_add: OverlapAdd
    normalize: bool
    engines: tuple[EngineFile, ...]
    source: Source
    parity: tuple[Parity, ...]
    inputs: tuple[Literal["mix", "waveform"], ...] = field(default=("mix",), metadata=LATER)
    outputs: tuple[Literal["stems", "waveforms"], ...] = field(default=("stems",), metadata=LATER)

    def __post_init__(self) -> None:
        _check_sound(self.sample_rate, self.channels, self.stems, self.residual)
        self._check_chunk()
        spectral = self.stft is not None
        for name, found, always in (
            ("inputs", self.inputs, "mix" if spectral else "waveform"),
            ("outputs", self.outputs, "stems" if spectral else "waveforms"),
        ):
            sound = always in found and len(set(found)) == len(found) and (spectral or len(found) == 1)
            others = " and others, once each" if spectral else " alone"
            require(sound, f"{name} are {', '.join(found)}, should be {always}{others}")
        require(bool(self.engines), "engines is empty")
        try:
            self._scheme(self.overlap_add)
        except UsageError as error:
            raise ManifestError(str(error)) from None

    def _check_chunk(self) -> None:
        samples, segment = self.chunk.samples, self.overlap_add.segment
        require(samples > 0, f"chunk.samples is {samples}")
        within = segment is None or 0 < segment <= samples
        require(within, f"overlap_add.segment is {segment}, not within the chunk of {samples}")
        frames = 0
        if self.stft is not None:
            reflected = max(self.stft.n_fft // 2, *self.stft.extension(samples))
            require(
                samples > reflected, f"chunk.samples is {samples}, not more than the {reflected} put around"
            )
            frames = self.stft.frames(samples)
            require(frames > 0, f"stft.dropped_frames is {self.stft.dropped_frames}, which leaves none")
        require(self.chunk.frames == frames, f"chunk.frames is {self.chunk.frames}, should be {frames}")

    def scheme(
        self, name: str | None = None, overlap: float | None = None, shifts: int = 0, seed: int = 0
    ) -> "Scheme":
        """How songs are cut: as chosen, else as the manifest says. Another scheme has an overlap of its own.

        Raises UsageError for an unknown scheme, and for an overlap, chunk or shifts that it cannot work with.
        """
        own = self.overlap_add
        if name is None or name == own.scheme:
            chosen = replace(own, overlap=own.overlap if overlap is None else overlap)
        else:
            chosen = OverlapAdd(name, overlap, own.segment)
        try:
            return self._scheme(chosen, shifts, seed)
        except UsageError as error:
            raise UsageError(
                f"{self.name}: {error}; choose another scheme or overlap, or leave both out"
            ) from None

    def _scheme(self, chosen: OverlapAdd, shifts: int = 0, seed: int = 0) -> "Scheme":
        n_fft = self.stft.n_fft if self.stft else 0
        chunk, segment = self.chunk.samples, chosen.segment
        return make_scheme(chosen.scheme, chunk, n_fft, chosen.overlap, shifts, seed, segment)

    def joined(self, newer: "Manifest") -> "Manifest":
        """This manifest with the engines and parity of a newer export of the same model added to its own.

        An engine file of the same name is replaced, and what was measured of it is dropped. Where the
        rest differs, apart from the versions of exporter and torch and the checkpoint's file name, the two
        are not of one model, and `newer` itself is the result.
        """
        if _model(self) != _model(newer):
            return newer
        ours = {entry.file: entry for entry in self.engines}
        theirs = {entry.file: entry for entry in newer.engines}
        replaced = {(e.backend, e.precision) for file, e in ours.items() if file in theirs}
        kept = [p for p in self.parity if self._measured_file(p) not in replaced]
        parity = {(p.backend, p.precision): p for p in (*kept, *newer.parity)}
        return replace(newer, engines=tuple((ours | theirs).values()), parity=tuple(parity.values()))

    def snr_db(self, backend: str, precision: str) -> float | None:
        """Measured parity of a backend and precision, None where it was not measured."""
        measured = self._measured(backend, precision)
        return measured.snr_db if measured else None

    def keeps_silence(self, backend: str, precision: str) -> bool:
        """Whether a backend in a precision was seen to make exact zeros of a silent chunk."""
        measured = self._measured(backend, precision)
        return measured is not None and measured.keeps_silence

    def _measured_file(self, parity: Parity) -> tuple[str, str]:
        """Kind and precision of the file that was measured: an fp32 one is also run in other precisions."""
        files = {(entry.backend, entry.precision) for entry in self.engines}
        kind = parity.backend if parity.backend in {backend for backend, _ in files} else "onnx"
        return (kind, parity.precision) if (kind, parity.precision) in files else (kind, "fp32")

    def _measured(self, backend: str, precision: str) -> Parity | None:
        return next((p for p in self.parity if (p.backend, p.precision) == (backend, precision)), None)

    def to_json(self) -> str:
        """The manifest as the text of its file."""
        return _json({"format": FORMAT, **encode(self)})


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
        return _json({"format": FORMAT, "kind": "mixer", **encode(self)})


def below_gate(snr_db: float | None, gate_db: float) -> str | None:
    """Why a precision of this parity is not taken unasked, None where it may be."""
    if snr_db is None:
        return "its parity was not measured"
    return f"its parity of {snr_db:.1f} dB is below {gate_db:.0f} dB" if snr_db < gate_db else None


def is_there(path: Path) -> bool:
    """Whether there is such a file; what cannot be the name of one, as it is too long, is none."""
    try:
        return path.exists()
    except OSError:
        return False


def manifest_path(engine: Path) -> Path:
    """The manifest that belongs to an engine file: NAME.json to NAME.onnx, and to NAME.int8.onnx."""
    own = engine.with_suffix(".json")
    name, _, precision = engine.stem.rpartition(".")
    return own.with_name(f"{name}.json") if precision in PRECISIONS and name and not is_there(own) else own


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


def verify_file(path: Path, sha256: str, *, keep: bool = False) -> bytes:
    """Compare a file with its recorded sha256; what was compared where it is to be kept, else nothing.

    Raises EngineMismatchError when the file is missing or differs.
    """
    try:
        content = path.read_bytes() if keep else b""
        found = hashlib.sha256(content).hexdigest() if keep else file_sha256(path)
    except OSError as error:
        raise EngineMismatchError(
            f"{path}: {error.strerror or error}; export again with rofo-export"
        ) from None
    if found != sha256:
        raise EngineMismatchError(
            f"{path}: not the file its manifest describes (sha256 differs: cut short, altered, or from "
            "another export); copy it again together with its .json, or export again with rofo-export"
        )
    return content


def _json(raw: dict[str, Any]) -> str:
    return json.dumps(raw, indent=2) + "\n"


def _model(manifest: Manifest) -> dict[str, Any]:
    """What two exports of one model have in common, as read back from a file."""
    source = replace(manifest.source, checkpoint="", exporter="", torch="")
    raw: dict[str, Any] = json.loads(_json(encode(replace(manifest, source=source))))
    return {key: value for key, value in raw.items() if key not in ("engines", "parity")}


def _check_sound(sample_rate: int, channels: int, stems: Sequence[str], residual: str | None) -> None:
    require(1000 <= sample_rate <= 1_000_000, f"sample_rate is {sample_rate}")
    require(channels in (1, 2), f"channels is {channels}")
    check_stems(stems, residual)


def check_stems(stems: Sequence[str], residual: str | None) -> None:
    """Raise ManifestError unless stems and residual can name files, and there are any."""
    require(bool(stems), "stems is empty")
    names = [*stems, *([residual] if residual else [])]
    require(len({n.lower() for n in names}) == len(names), f"stem names repeat: {', '.join(names)}")
    for name in names:
        plain = re.fullmatch(r"[\w][\w .+&()-]*", name) is not None
        require(plain and len(name.encode()) <= LONGEST_NAME - 5, f"{short(name)} cannot name a file")


def _check_file_names(*names: str | None) -> None:
    for name in names:
        if name is not None:
            plain = PurePosixPath(name).name == name and "\\" not in name and name not in ("", ".", "..")
            fits = len(name.encode(errors="replace")) <= LONGEST_NAME
            require(plain and fits and name.isprintable(), f"{short(name)} is not a plain file name")


def _check_digests(*digests: str | None) -> None:
    for digest in digests:
        known = digest is None or re.fullmatch("[0-9a-f]{64}", digest) is not None
        require(known, f"{digest!r} is not a sha256")
