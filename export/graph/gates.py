"""The gates of an export: every engine is held against the plain network before anything is written.

On loud music; on the same half of which is silent, where an FFT that leaves 4e-7 instead of 0 has cost other
tools 1.5e-2; and on the same scaled by 1e-6, where norms divide by almost nothing.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rofo.dsp.spectrogram import Spectrogram
from rofo.engines import EngineSettings, backends_for, open_engine
from rofo.engines.contract import Engine, Tensors
from rofo.errors import EngineLoadError
from rofo.export.errors import ParityError
from rofo.export.graph.rounded import Headroom, RoundedGraph
from rofo.manifest import ChunkSize, Manifest, Parity, Stft

Floats = NDArray[np.float32]

# Two float32 implementations of the public networks agree to 95 dB and better; a wrong operator, a wrong
# table or a dropped weight stays below 40.
MIN_FP32_DB = 70.0
# Between two engines 35 dB is far below what a listener or an SDR of 12 dB notices; a network whose
# activations leave the range of fp16 falls far below it, or is not finite.
MIN_TYPED_DB = 35.0
# What true stems may lose of their SDR.
MAX_SDR_LOSS_DB = 0.05
# At a millionth of its level music is 120 dB below full scale, and fp16 has no numbers below 6e-8: a
# TFC-TDF's spectrum keeps 11 dB there. An error no louder than that sound itself is one that nobody hears.
MIN_TYPED_QUIET_DB = 0.0

TYPED_ON = "typed graph on the CPU"

# A perfect copy would be infinite, which JSON cannot hold.
_MAX_DB = 200.0
_LOUD, _HALF_SILENT, _QUIET = "loud music", "half-silent music", "music at 1e-6"
_FP16_MAX = 65504.0
# The least that full-scale noise is scaled to; a pure tone at full scale reaches n_fft / 2 in one bin.
_LOUDEST = 1000.0


class Model(Protocol):
    """What a model on its way to engines, and a manifest, say of what the network is given."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def sample_rate(self) -> int: ...  # noqa: D102
    @property
    def channels(self) -> int: ...  # noqa: D102
    @property
    def stft(self) -> Stft | None: ...  # noqa: D102
    @property
    def chunk(self) -> ChunkSize: ...  # noqa: D102
    @property
    def inputs(self) -> tuple[str, ...]: ...  # noqa: D102


class Typed(Protocol):
    """What messages and the manifest say of a typed graph: `types` in words, what to try instead."""

    @property
    def backend(self) -> str: ...  # noqa: D102
    @property
    def precision(self) -> str: ...  # noqa: D102
    @property
    def types(self) -> str: ...  # noqa: D102
    @property
    def cure(self) -> str: ...  # noqa: D102


@dataclass(frozen=True)
class Case:
    """One test chunk: what it is called, what an engine is given, and what the plain network makes of it."""

    name: str
    inputs: Tensors
    outputs: Tensors

    @property
    def least(self) -> float:
        """dB that engines with rounded operands must reach."""
        return MIN_TYPED_QUIET_DB if self.name == _QUIET else MIN_TYPED_DB

    def decibels(self, found: Tensors) -> float:
        """How far other outputs are from the network's: the worst of them, -inf where one is not finite."""
        if not _finite(found):
            return -math.inf
        return min(snr_db(wanted, found[name]) for name, wanted in self.outputs.items())


@dataclass(frozen=True)
class Reference:
    """What the plain network makes of the test chunks. Kept apart so that the network can be freed first."""

    cases: tuple[Case, ...]
    keeps_silence: bool

    def only(self, place: int) -> "Reference":
        """One of the cases, nothing asked of silence."""
        return Reference(self.cases[place : place + 1], keeps_silence=False)


def reference(model: Model, network: Callable[[Tensors], Tensors], *, keeps_silence: bool) -> Reference:
    """Run the plain network on the test chunks. Raises ParityError when its output is not finite."""
    cases = []
    for name, audio in _test_chunks(model).items():
        inputs = engine_inputs(model, audio)
        outputs = network(inputs)
        if not _finite(outputs):
            raise ParityError(
                f"{model.name}: the network itself gives non-finite samples on {name}; "
                "the checkpoint is damaged or the yaml is not its own"
            )
        cases.append(Case(name, inputs, outputs))
    return Reference(tuple(cases), keeps_silence)


def check_engine(path: Path, manifest: Manifest, wanted: Reference) -> tuple[Parity, ...]:
    """Compare the engine at `path` with the network on this machine's first backend, in every precision.

    fp32 must reach MIN_FP32_DB on every chunk, stay finite, and keep silence silent where the network does;
    bf16 is measured where the processor computes in it, for the runtime to decide: its figure is that of the
    worst chunk. Raises ParityError, or EngineLoadError without a backend.
    """
    backend = _installed_backend(manifest)
    fp32, silent = measured(path, manifest, backend, "fp32", wanted)
    for case, decibels in zip(wanted.cases, fp32, strict=True):
        if decibels < MIN_FP32_DB:
            raise ParityError(
                f"{manifest.name}: {backend} in fp32 is {decibels:.1f} dB from the network on {case.name}, "
                f"the gate is {MIN_FP32_DB:.0f} dB; nothing was written, please report the checkpoint"
            )
    if wanted.keeps_silence and not silent:  # 0/0 in a norm would show here
        raise ParityError(f"{manifest.name}: {backend} turns silence into sound; nothing was written")
    parity = Parity(backend, "fp32", min(fp32), keeps_silence=silent)
    try:
        bf16, silent = measured(path, manifest, backend, "bf16", wanted)
    except EngineLoadError:
        return (parity,)
    return parity, Parity(backend, "bf16", min(bf16), keeps_silence=silent)


def check_typed(path: Path, name: str, kind: Typed, wanted: Reference) -> Parity:
    """Hold the typed graph in `path` to the gate, on the CPU, every value rounded.

    It must be MIN_TYPED_DB from the network, MIN_TYPED_QUIET_DB on the quiet chunk; finite on full-scale
    noise with a spectrogram that peaks at 1000, silent on silence where the network is, and fp16 attention
    must have room for its sums. The figure is that of the worse of the two loud chunks. Raises ParityError,
    which says what to try.
    """
    graph = RoundedGraph(path)
    rooms, loud = [], []
    for case in wanted.cases:
        outputs, _, room = graph.run(case.inputs)
        decibels = case.decibels(outputs)
        if decibels < case.least:
            found = "not finite" if math.isinf(decibels) else f"{decibels:.1f} dB from the network"
            why = f"{found} on {case.name}, the gate is {case.least:.0f} dB"
            raise _refusal(name, kind, why, room)
        rooms.append(room)
        loud += [decibels] if case.least == MIN_TYPED_DB else []
    noise = {name: _noise(values.shape) for name, values in wanted.cases[0].inputs.items()}
    outputs, _, at_noise = graph.run(noise)
    if not _finite(outputs):
        raise _refusal(name, kind, "not finite on full-scale noise", at_noise)
    for room in (*rooms, at_noise):
        _check_headroom(name, room)
    if wanted.keeps_silence and not _silent(graph.run(_silence(noise))[0]):
        raise _refusal(name, kind, "not silent on silence", at_noise)
    return Parity(kind.backend, kind.precision, min(loud), TYPED_ON, wanted.keeps_silence)


def typed_decibels(path: Path, wanted: Reference) -> NDArray[np.float64]:
    """How far the typed graph in `path` is from the network, case by case, every value rounded."""
    graph = RoundedGraph(path)
    return np.array([case.decibels(graph.run(case.inputs)[0]) for case in wanted.cases])


def loud_chunk(model: Model) -> Tensors:
    """What an engine is given of a fixed loud, song-like chunk: `mix` (1, channels, frames, bins, 2), ..."""
    return engine_inputs(model, loud_audio(model))


def snr_db(wanted: Floats, got: Floats) -> float:
    """10 log10(sum wanted^2 / sum (wanted - got)^2), at most 200; summed in float64."""
    signal = np.sum(np.square(wanted, dtype=np.float64))
    noise = np.sum(np.square(wanted.astype(np.float64) - got))
    if noise == 0:
        return _MAX_DB
    return min(_MAX_DB, float(10 * np.log10(signal / noise))) if signal else -_MAX_DB


def _test_chunks(model: Model) -> Mapping[str, Floats]:
    loud = loud_audio(model)
    return {_LOUD: loud, _HALF_SILENT: half_silent(loud), _QUIET: loud * np.float32(1e-6)}


def half_silent(audio: Floats) -> Floats:
    """(channels, samples) without the second half of the sound."""
    half = audio.copy()
    half[:, half.shape[1] // 2 :] = 0
    return half


def loud_audio(model: Model, seed: int = 2024, semitones: int = 0) -> Floats:
    """(channels, samples): chords, drums and noise up to full scale; others for another seed and pitch."""
    rng = np.random.default_rng(seed)
    samples, rate = model.chunk.samples, model.sample_rate
    time = np.arange(samples) / rate
    audio = 0.05 * rng.standard_normal((model.channels, samples))
    for pitch in 2 ** (semitones / 12) * np.array((110.0, 164.8, 220.0, 329.6, 523.3, 880.0)):
        pan = rng.uniform(0.2, 1.0, (model.channels, 1))
        swell = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(0.3, 3) * time)
        audio += pan * swell * sum(np.sin(2 * np.pi * pitch * k * time) / k for k in (1, 2, 3, 5, 8))
    beat = np.exp(-20 * (time % 0.5))
    audio += beat * rng.standard_normal((model.channels, samples))
    scaled: Floats = (audio / np.abs(audio).max()).astype(np.float32)
    return scaled


def engine_inputs(model: Model, audio: Floats) -> Tensors:
    """What an engine is given of one chunk, audio (channels, samples): a batch of one."""
    tensors = {"waveform": audio[None]}
    if model.stft:
        tensors["mix"] = Spectrogram(model.stft, model.chunk.samples).forward(audio)[None]
    return {name: tensors[name] for name in model.inputs}


def _finite(tensors: Tensors) -> bool:
    return all(bool(np.isfinite(values).all()) for values in tensors.values())


def _silent(tensors: Tensors) -> bool:
    return all(not values.any() for values in tensors.values())


def _silence(tensors: Tensors) -> Tensors:
    return {name: np.zeros_like(values) for name, values in tensors.items()}


def repeated(tensors: Tensors, batch: int) -> Tensors:
    """Tensors of a batch of one -> the same in every place of a batch."""
    return {name: np.repeat(values, batch, axis=0) for name, values in tensors.items()}


def measured(
    path: Path, manifest: Manifest, backend: str, precision: str, wanted: Reference
) -> tuple[Sequence[float], bool]:
    """How far an engine is from the network in dB, case by case, and whether silence gives exact zeros.

    Raises ParityError where fp32 is not finite.
    """
    with closing(open_engine(path, manifest, EngineSettings(backend, precision))) as engine:
        found = [_run(engine, manifest, case) for case in wanted.cases]
        return found, _silent(engine.run(_silence(repeated(wanted.cases[0].inputs, engine.batch))))


def decibels_of(
    path: Path, manifest: Manifest, backend: str, precision: str, wanted: Reference
) -> Sequence[float]:
    """As `measured`, without asking for silence."""
    with closing(open_engine(path, manifest, EngineSettings(backend, precision))) as engine:
        return [_run(engine, manifest, case) for case in wanted.cases]


def _run(engine: Engine, manifest: Manifest, case: Case) -> float:
    decibels = Case(case.name, case.inputs, repeated(case.outputs, engine.batch)).decibels(
        engine.run(repeated(case.inputs, engine.batch))
    )
    if math.isfinite(decibels):
        return decibels
    if engine.precision == "fp32":
        raise ParityError(
            f"{manifest.name}: {engine.backend} in fp32 gives non-finite samples on {case.name}; "
            "nothing was written"
        )
    return -_MAX_DB


def _installed_backend(manifest: Manifest) -> str:
    entry = manifest.engines[0]
    fitting = backends_for(entry.backend)
    for name, backend in fitting.items():
        if find_spec(backend.module) is not None:
            return name
    extras = " or ".join(f"pip install '{backend.extra}'" for backend in fitting.values())
    raise EngineLoadError(f"{manifest.name}: no backend to verify the export with; {extras}, or --no-verify")


def _noise(shape: tuple[int, ...]) -> Floats:
    noise = np.random.default_rng(2025).standard_normal(shape, np.float32)
    peak = max(_LOUDEST, shape[3] - 1) if len(shape) == 5 else 1.0  # bins - 1 = n_fft / 2
    return noise * np.float32(peak / np.abs(noise).max())


def _check_headroom(name: str, room: Headroom | None) -> None:
    if room is not None and not room.worst <= _FP16_MAX:
        raise ParityError(
            f"{name}: fp16 attention could overflow in {room.where.partition('/')[0]} (sums of values up to "
            f"{room.worst:.3g}, fp16 ends at {_FP16_MAX:.0f}); nothing was written, try --attention bf16"
        )


def _refusal(name: str, kind: Typed, what: str, room: Headroom | None) -> ParityError:
    """`room` is what fp16 attention left, None where there is no such attention to be made bf16."""
    cure = kind.cure
    if room is not None:
        cure = f"--attention bf16, then {cure}; --diagnose shows the layer"
    return ParityError(
        f"{name}: in {kind.types} it is {what} (measured on the CPU); nothing was written, try {cure}"
    )
