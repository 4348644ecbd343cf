"""Who takes part in a comparison: rofo's backends, PyTorch, ONNX Runtime driven plainly."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from rofo import Separator
from rofo.benchmarks.reference import (
    NETWORK,
    PLAIN,
    PYTORCH,
    Setting,
    Source,
    in_place_of_engines,
)
from rofo.engines import BACKENDS, backends_for
from rofo.manifest import Manifest

# Eager, under autocast, and compiled: what a user of PyTorch can choose from.
_PYTORCH = (("fp32", False), ("bf16", False), ("fp16", False), ("fp32", True), ("bf16", True))


@dataclass(frozen=True)
class Contestant:
    """One implementation in one precision. `kind` is "rofo" or one of rofo.benchmarks.reference."""

    name: str
    kind: str
    precision: str
    backend: str = "auto"
    device: str = "cpu"
    compiled: bool = False

    @property
    def setting(self) -> Setting:
        """How PyTorch runs it."""
        return Setting(self.precision, self.device, self.compiled)


@dataclass(frozen=True)
class Choice:
    """What the user wants measured; empty for everything. `threads` is the same for all."""

    backends: tuple[str, ...]
    precisions: tuple[str, ...]
    threads: int
    compiled: bool = True

    def wants(self, setting: Setting) -> bool:
        """Whether a precision, and compiling, were asked for."""
        return (not self.precisions or setting.precision in self.precisions) and (
            self.compiled or not setting.compiled
        )


def engines(source: Source, manifest: Manifest, choice: Choice) -> list[Contestant]:
    """rofo on every backend that is meant for the engine file, in every precision of each."""
    entry = next(entry for entry in manifest.engines if entry.file == source.engine.name)
    found = []
    for backend in choice.backends or tuple(backends_for(entry.backend)):
        for precision in BACKENDS[backend].precisions or (entry.precision,):
            device = "cuda" if BACKENDS[backend].on_gpu else "cpu"
            found.append(Contestant(f"rofo {backend} {precision}", "rofo", precision, backend, device))
    return [one for one in found if choice.wants(one.setting)]


def pytorch(source: Source, manifest: Manifest, choice: Choice) -> list[Contestant]:
    """PyTorch in every way on the devices that the chosen backends use; eager fp32, the baseline, always.

    None where the model is an .onnx file: there is no PyTorch in it.
    """
    if source.checkpoint is None or source.checkpoint.suffix == ".onnx":
        return []
    if manifest.architecture not in PYTORCH:
        return [original(source)]
    devices = dict.fromkeys("cuda" if BACKENDS[name].on_gpu else "cpu" for name in choice.backends) or (
        "cpu",
    )
    ways = [
        Setting(precision, device, compiled)
        for device in devices
        for precision, compiled in _PYTORCH
        if precision != "fp16" or device == "cuda"  # emulated on processors: a product took over 9 minutes
    ]
    kind = PYTORCH[manifest.architecture]
    return [_pytorch(setting, kind) for setting in ways if setting.eager or choice.wants(setting)]


def original(source: Source) -> Contestant:
    """The model as rofo-export sees it, before it becomes a graph."""
    is_onnx = source.checkpoint is not None and source.checkpoint.suffix == ".onnx"
    return Contestant("the given .onnx file" if is_onnx else "PyTorch fp32 (rofo's network)", NETWORK, "fp32")


def plain() -> Contestant:
    """ONNX Runtime as anyone would drive it."""
    return Contestant("onnxruntime fp32, driven plainly", PLAIN, "fp32")


def for_parity(source: Source, manifest: Manifest, choice: Choice) -> list[Contestant]:
    """The truth first: pymss-core where it has the family; then our own network, autocast, engines."""
    others = pytorch(source, manifest, choice) if manifest.architecture in PYTORCH else []
    eager = [one for one in others if one.setting.eager]
    autocast = [one for one in others if not one.setting.eager and not one.compiled]
    return [*eager, original(source), *autocast, *engines(source, manifest, choice)]


def _pytorch(setting: Setting, kind: str) -> Contestant:
    ways = [setting.precision, *["compiled"] * setting.compiled, *[setting.device] * setting.on_gpu]
    name = f"PyTorch {' '.join(ways)} ({kind})"
    return Contestant(name, kind, setting.precision, "", setting.device, setting.compiled)


@contextmanager
def opened(contestant: Contestant, source: Source, threads: int, around: Any = None) -> Iterator[Separator]:
    """A separator in which this contestant computes. `around` is a context to open and use it in."""
    is_rofo = contestant.kind == "rofo"
    stage = nullcontext() if is_rofo else in_place_of_engines(contestant.kind, source, contestant.setting)
    with stage, around or nullcontext():
        backend, precision = (contestant.backend, contestant.precision) if is_rofo else ("auto", "auto")
        with Separator(source.engine, backend=backend, precision=precision, threads=threads) as separator:
            yield separator
