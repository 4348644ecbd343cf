"""Who takes part in a comparison: PyTorch, rofo's backends, ONNX Runtime driven plainly."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from rofo.benchmarks.subject import ONNX, Subject
from rofo.engines import BACKENDS

# Implementations: rofo's own engines; pymss-core's network, PyTorch code that we did not write; the family's
# plain network, in PyTorch too; a file that can be run as it is; the engine's graph as anyone would drive it.
ROFO, PYMSS, NETWORK, GIVEN, PLAIN = "rofo", "pymss-core", "network", "given", "plain"
_NAMES = {
    PYMSS: "PyTorch {} (pymss-core)",
    NETWORK: "PyTorch {} (rofo's network)",
    GIVEN: "the given .onnx file",
    PLAIN: "onnxruntime {}, driven plainly",
}

# What a user of PyTorch can choose from; fp16 is emulated on processors: a product took over 9 minutes.
# Compiled it is run in the first two.
_WAYS = {"cpu": ("fp32", "bf16"), "cuda": ("fp32", "fp16", "bf16")}


@dataclass(frozen=True)
class Contestant:
    """One implementation in one precision, on a device. `engine` is the file that it is or stands in for.

    `apart` is for recipes: what its engines take if each does its runs by itself, one after the other.
    """

    kind: str
    engine: Path
    precision: str = "fp32"
    device: str = "cpu"
    backend: str = "auto"
    compiled: bool = False
    apart: bool = False

    @property
    def name(self) -> str:
        """As results have it."""
        if self.kind == ROFO:
            return f"rofo {self.backend} {self.precision}" + ", its runs one by one" * self.apart
        on_gpu = [self.device] if self.device != "cpu" else []
        return _NAMES[self.kind].format(" ".join([self.precision, *["compiled"] * self.compiled, *on_gpu]))

    @property
    def is_baseline(self) -> bool:
        """PyTorch as it is used without thinking of speed: what others are compared with."""
        return self.kind in (PYMSS, NETWORK) and self.precision == "fp32" and not self.compiled


@dataclass(frozen=True)
class Choice:
    """What the user wants measured. `threads` and `batch` are the same for all.

    No `backends` are all those of the `device`, no `precisions` all of each that engines have: of a
    checkpoint engines in int8 and fp8 are made only where they are named, for finding ones that pass takes
    long.
    """

    threads: int
    backends: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    device: str = "cpu"
    batch: int = 1
    compiled: bool = True

    @property
    def all_backends(self) -> tuple[str, ...]:
        """Those chosen, or those of the device."""
        return self.backends or tuple(name for name in BACKENDS if _device(name) == self.device)

    @property
    def devices(self) -> tuple[str, ...]:
        """Where the backends compute: PyTorch is to compute there as well."""
        return tuple(dict.fromkeys(map(_device, self.all_backends)))

    def wants(self, one: Contestant) -> bool:
        """Whether it was asked for; the baselines always are."""
        precise = not self.precisions or one.precision in self.precisions
        return one.is_baseline or (precise and (self.compiled or not one.compiled))


def contestants(subject: Subject, choice: Choice) -> list[Contestant]:
    """Everyone who may run, PyTorch first: a given file that can be run, then code that we did not write."""
    others = [one for device in choice.devices for one in _others(subject, device)]
    plain = [one for device in choice.devices for one in _plain(subject, device)]
    return [one for one in (*others, *_engines(subject, choice), *plain) if choice.wants(one)]


def _others(subject: Subject, device: str) -> Iterator[Contestant]:
    if subject.checkpoint is None:
        return
    if subject.checkpoint.suffix == ".onnx" and device == "cpu":
        yield Contestant(GIVEN, subject.engine)
    for kind in (PYMSS, NETWORK):
        for precision in _WAYS[device]:
            yield Contestant(kind, subject.engine, precision, device)
    for precision in _WAYS[device][:2]:
        yield Contestant(NETWORK, subject.engine, precision, device, compiled=True)


def _engines(subject: Subject, choice: Choice) -> Iterator[Contestant]:
    """rofo on every backend there is an engine file for, in every precision of each."""
    for backend in choice.all_backends:
        kind = BACKENDS[backend].file
        if kind not in subject.engines and choice.backends and subject.checkpoint is None:
            kind = next(iter(subject.engines))  # which says itself that it cannot be run so
        if kind in subject.engines:
            for precision in subject.precisions(backend):
                one = Contestant(ROFO, subject.engines[kind], precision, _device(backend), backend)
                yield from (one, replace(one, apart=True)) if subject.is_recipe else (one,)


def _plain(subject: Subject, device: str) -> Iterator[Contestant]:
    """On a GPU also the typed graph that plans are built from."""
    if ONNX in subject.engines:
        yield Contestant(PLAIN, subject.engines[ONNX], "fp32", device)
        if device == "cuda" and subject.checkpoint is not None:
            yield Contestant(PLAIN, subject.engines[ONNX], "fp16", device)


def _device(backend: str) -> str:
    return "cuda" if BACKENDS[backend].on_gpu else "cpu"
