"""The parity gate of an export: the engine, run as the runtime will run it, against the network."""

from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rofo.dsp.spectrogram import Spectrogram
from rofo.engines import EngineSettings, backends_for, open_engine
from rofo.engines.contract import Engine
from rofo.errors import EngineLoadError, ParityError
from rofo.export.graphs import Graphs
from rofo.manifest import ChunkSize, Manifest, Parity, Stft

Floats = NDArray[np.float32]

# Two float32 implementations of the public networks agree to 95 dB and better; a wrong operator, a wrong
# table or a dropped weight stays below 40.
MIN_FP32_DB = 70.0

# A perfect copy would be infinite, which JSON cannot hold.
_MAX_DB = 200.0


@dataclass(frozen=True)
class Reference:
    """What the model makes of one test chunk. Kept apart so that the model can be freed first.

    `keeps_silence` tells whether its silence is silent.
    """

    mix: Floats
    stems: Floats
    keeps_silence: bool

    def repeated(self, batch: int) -> "Reference":
        """The same chunk `batch` times."""
        mix, stems = (np.repeat(x, batch, axis=0) for x in (self.mix, self.stems))
        return replace(self, mix=mix, stems=stems)


class Described(Protocol):
    """The part of a manifest that says what the network is given."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def sample_rate(self) -> int: ...  # noqa: D102
    @property
    def channels(self) -> int: ...  # noqa: D102
    @property
    def stft(self) -> Stft: ...  # noqa: D102
    @property
    def chunk(self) -> ChunkSize: ...  # noqa: D102


def reference(graphs: Graphs, model: Described) -> Reference:
    """Run the model on a fixed, loud, song-like chunk. Raises ParityError when the output is not finite."""
    mix = loud_chunk(model)
    stems = graphs.stems(mix)
    if not np.isfinite(stems).all():
        raise ParityError(
            f"{model.name}: the network itself gives non-finite samples on loud music; "
            "the checkpoint is damaged or the yaml is not its own"
        )
    return Reference(mix, stems, graphs.keeps_silence)


def verify(path: Path, manifest: Manifest, wanted: Reference) -> tuple[Parity, ...]:
    """Compare the engine at `path` with the reference on this machine's first backend, in every precision.

    fp32 must reach MIN_FP32_DB, stay finite, and keep silence silent; bf16 is measured where the processor
    computes in it, for the runtime to decide. Raises ParityError, or EngineLoadError without a backend.
    """
    backend = _installed_backend(manifest)
    fp32 = _measured(path, manifest, backend, "fp32", wanted)
    if fp32.snr_db < MIN_FP32_DB:
        raise ParityError(
            f"{manifest.name}: {backend} in fp32 is {fp32.snr_db:.1f} dB from the network, the gate is "
            f"{MIN_FP32_DB:.0f} dB; nothing was written, please report the checkpoint"
        )
    try:
        return fp32, _measured(path, manifest, backend, "bf16", wanted)
    except EngineLoadError:
        return (fp32,)


def loud_chunk(model: Described) -> Floats:
    """A fixed chunk (1, channels, frames, bins, 2): chords, drums and noise up to full scale."""
    rng = np.random.default_rng(2024)
    samples, rate = model.chunk.samples, model.sample_rate
    time = np.arange(samples) / rate
    audio = 0.05 * rng.standard_normal((model.channels, samples))
    for pitch in (110.0, 164.8, 220.0, 329.6, 523.3, 880.0):
        pan = rng.uniform(0.2, 1.0, (model.channels, 1))
        swell = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(0.3, 3) * time)
        audio += pan * swell * sum(np.sin(2 * np.pi * pitch * k * time) / k for k in (1, 2, 3, 5, 8))
    beat = np.exp(-20 * (time % 0.5))
    audio += beat * rng.standard_normal((model.channels, samples))
    audio /= np.abs(audio).max()
    return Spectrogram(model.stft, samples).forward(audio.astype(np.float32))[None]


def snr_db(wanted: Floats, got: Floats) -> float:
    """10 log10(sum wanted^2 / sum (wanted - got)^2), at most 200; summed in float64."""
    signal = np.sum(np.square(wanted, dtype=np.float64))
    noise = np.sum(np.square(wanted.astype(np.float64) - got))
    if noise == 0:
        return _MAX_DB
    return min(_MAX_DB, float(10 * np.log10(signal / noise))) if signal else -_MAX_DB


def _measured(path: Path, manifest: Manifest, backend: str, precision: str, wanted: Reference) -> Parity:
    engine = open_engine(path, manifest, EngineSettings(backend, precision))
    wanted = wanted.repeated(engine.batch)
    try:
        stems = engine.run({"mix": wanted.mix})["stems"]
        finite = bool(np.isfinite(stems).all())
        if precision == "fp32" and wanted.keeps_silence:
            _check_silence(engine, manifest, wanted.mix.shape)
    finally:
        engine.close()
    if not finite and precision == "fp32":
        raise ParityError(
            f"{manifest.name}: {backend} in fp32 gives non-finite samples on loud music; nothing was written"
        )
    return Parity(backend, precision, snr_db(wanted.stems, stems) if finite else -_MAX_DB)


def _check_silence(engine: Engine, manifest: Manifest, shape: tuple[int, ...]) -> None:
    """0/0 in a norm would show here."""
    stems = engine.run({"mix": np.zeros(shape, np.float32)})["stems"]
    if not (stems == 0).all():
        raise ParityError(f"{manifest.name}: {engine.backend} turns silence into sound; nothing was written")


def _installed_backend(manifest: Manifest) -> str:
    entry = manifest.engines[0]
    fitting = backends_for(entry.backend)
    for name, backend in fitting.items():
        if find_spec(backend.module) is not None:
            return name
    extras = " or ".join(f"pip install '{backend.extra}'" for backend in fitting.values())
    raise EngineLoadError(f"{manifest.name}: no backend to verify the export with; {extras}, or --no-verify")
