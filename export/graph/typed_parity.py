"""Whether a typed graph is safe: measured on the CPU, against the fp32 network, before a plan is built."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from rofo.export.errors import ParityError
from rofo.export.graph.layer_outputs import LayerOutput, stride
from rofo.export.graph.rounded import Floats, Headroom, RoundedGraph
from rofo.export.graph.verify import Reference, snr_db
from rofo.export.plan.plan import PlanOptions
from rofo.manifest import Parity

# Between two engines 35 dB is far below what a listener or an SDR of 12 dB notices; a network whose
# activations leave the range of fp16 falls far below it, or is not finite.
MIN_TYPED_DB = 35.0

MEASURED_ON = "typed graph on the CPU"

_FP16_MAX = 65504.0

# The least that full-scale noise is scaled to; a pure tone at full scale reaches n_fft / 2 in one bin.
_LOUDEST = 1000.0


@dataclass(frozen=True)
class LayerParity:
    """Signal-to-noise ratio of what one module of the network puts out, in dB, and the largest magnitude."""

    module: str
    snr_db: float
    largest: float

    def __str__(self) -> str:
        return f"{self.snr_db:8.1f} dB, magnitudes up to {self.largest:<10.4g} {self.module}"


def check_typed(path: Path, name: str, options: PlanOptions, wanted: Reference) -> Parity:
    """Hold the typed graph in `path`, made with `options`, to the gate.

    On loud music it must be MIN_TYPED_DB from the network; it must be finite on full-scale noise with a
    spectrogram that peaks at 1000, silent on silence where the network is, and fp16 attention must have
    room for its sums.
    Raises ParityError, which says what to try.
    """
    graph = RoundedGraph(path)
    stems, _, at_music = graph.run(wanted.mix)
    measured = snr_db(wanted.stems, stems) if np.isfinite(stems).all() else -math.inf
    if measured < MIN_TYPED_DB:
        found = "not finite" if math.isinf(measured) else f"{measured:.1f} dB from the network"
        raise _refusal(name, options, f"{found} on loud music, the gate is {MIN_TYPED_DB:.0f} dB", at_music)
    noise = _noise(wanted.mix.shape)
    stems, _, at_noise = graph.run(noise)
    if not np.isfinite(stems).all():
        raise _refusal(name, options, "not finite on full-scale noise", at_noise)
    for room in (at_music, at_noise):
        _check_headroom(name, room)
    if wanted.keeps_silence and (graph.run(np.zeros_like(noise))[0] != 0).any():
        raise _refusal(name, options, "not silent on silence", at_noise)
    return Parity(options.backend, options.precision, measured, MEASURED_ON)


def layer_parity(path: Path, mix: Floats, outputs: Mapping[str, LayerOutput]) -> tuple[LayerParity, ...]:
    """Module by module, how far the typed graph in `path` has come from the network, given its outputs."""
    ends = _ends(path, list(outputs))
    probes = {value: stride(outputs[module].size) for module, value in ends.items()}
    _, typed, _ = RoundedGraph(path, probes).run(mix)
    return tuple(_compared(module, outputs[module].values, typed[value]) for module, value in ends.items())


def _compared(module: str, wanted: Floats, got: Floats) -> LayerParity:
    finite = bool(np.isfinite(got).all())
    return LayerParity(module, snr_db(wanted, got) if finite else -math.inf, float(np.abs(wanted).max()))


def _ends(path: Path, modules: list[str]) -> dict[str, str]:
    """Per module the value that the last of its nodes puts out; nodes are named MODULE/OPERATOR_n."""
    ends = {}
    for node in onnx.load(path, load_external_data=False).graph.node:
        for module in modules:
            if node.name.startswith((f"{module}/", f"{module}.")):
                ends[module] = node.output[0]
    return {module: ends[module] for module in modules if module in ends}


def _noise(shape: tuple[int, ...]) -> Floats:
    noise = np.random.default_rng(2025).standard_normal(shape, np.float32)
    tone = shape[3] - 1  # bins - 1 = n_fft / 2
    return noise * np.float32(max(_LOUDEST, tone) / np.abs(noise).max())


def _check_headroom(name: str, room: Headroom | None) -> None:
    if room is not None and not room.worst <= _FP16_MAX:
        raise ParityError(
            f"{name}: fp16 attention could overflow in {room.where.partition('/')[0]} (sums of values up to "
            f"{room.worst:.3g}, fp16 ends at {_FP16_MAX:.0f}); nothing was written, try --attention bf16"
        )


def _refusal(name: str, options: PlanOptions, what: str, room: Headroom | None) -> ParityError:
    """`room` is what fp16 attention left, None where there is no such attention to be made bf16."""
    cures = {"fp32": "--target onnx", "bf16": "--precision fp32"}
    cure = cures.get(options.precision, "--precision bf16 or fp32")
    if room is not None:
        cure = f"--attention bf16, then {cure}; --diagnose shows the layer"
    return ParityError(
        f"{name}: in {options.types} it is {what} (measured on the CPU); nothing was written, try {cure}"
    )
