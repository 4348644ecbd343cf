"""One network on its way to engines: its facts, and what follows from them for an engine."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

import rofo
from rofo.errors import ManifestError
from rofo.export.errors import CheckpointError
from rofo.export.facts import Facts
from rofo.export.families import Description
from rofo.export.families.family import Family
from rofo.export.graph.trace import Tensors
from rofo.export.source import Source
from rofo.manifest import ChunkSize, EngineFile, Manifest, OverlapAdd, Parity, Stft
from rofo.manifest import Source as Origin


@dataclass(frozen=True)
class Model:
    """One network on its way to engines: all that is known of it, and the tensors of its engine."""

    name: str
    family: Family
    facts: Facts
    stft: Stft | None
    chunk: ChunkSize
    origin: Origin

    @classmethod
    def of(cls, family: Family, source: Source, description: Description, name: str) -> "Model":
        """Raises CheckpointError where anything is missing or wrong."""
        facts = description.require()
        try:
            stft = _stft(facts)
        except ManifestError as error:
            raise CheckpointError(
                f"{source.path}: {error} (n_fft {facts['n_fft']}, hop length {facts['hop_length']}): an STFT "
                "that cannot be inverted; correct the yaml or the options"
            ) from None
        chunk = ChunkSize(facts["chunk"], stft.frames(facts["chunk"]) if stft else 0)
        config = description.config
        origin = Origin(source.path.name, source.sha256, config, rofo.__version__, torch.__version__)
        return cls(name, family, facts, stft, chunk, origin)

    @property
    def summary(self) -> str:
        """The model in a line."""
        seconds = self.chunk.samples / self.facts["sample_rate"]
        return (
            f"{self.family.summary(self.facts)}, stems {', '.join(self.facts['stems'])}, "
            f"chunks of {seconds:.2f} s" + (f" ({self.chunk.frames} frames)" if self.stft else "")
        )

    @property
    def sample_rate(self) -> int:
        """In Hz."""
        return int(self.facts["sample_rate"])

    @property
    def channels(self) -> int:
        """Of audio."""
        return int(self.facts["channels"])

    @property
    def inputs(self) -> tuple[Literal["mix", "waveform"], ...]:
        """Names of the tensors that the network is given."""
        spectral: tuple[Literal["mix"], ...] = ("mix",) if self.stft else ()
        return (*spectral, "waveform") if self.facts.get("waveform") else spectral

    @property
    def outputs(self) -> tuple[Literal["stems", "waveforms"], ...]:
        """Names of the tensors that it gives."""
        spectral: tuple[Literal["stems"], ...] = ("stems",) if self.stft else ()
        return (*spectral, "waveforms") if self.facts.get("waveform") else spectral

    def tensors(self, batch: int) -> Tensors:
        """Names and shapes of the engine's inputs, and names of its outputs."""
        bins = self.stft.bins if self.stft else 0
        shapes = {
            "mix": (batch, self.channels, self.chunk.frames, bins, 2),
            "waveform": (batch, self.channels, self.chunk.samples),
        }
        return Tensors({name: shapes[name] for name in self.inputs}, self.outputs)

    def manifest(self, engines: Sequence[EngineFile], parity: Sequence[Parity]) -> Manifest:
        """What the runtime needs to know. Raises CheckpointError where the facts contradict each other."""
        facts = self.facts
        try:
            return Manifest(
                name=self.name,
                architecture=facts["architecture"],
                sample_rate=self.sample_rate,
                channels=self.channels,
                stems=facts["stems"],
                residual=facts.get("residual"),
                stft=self.stft,
                chunk=self.chunk,
                overlap_add=OverlapAdd(facts["scheme"], facts.get("overlap"), facts.get("segment")),
                normalize=facts.get("normalize", False),
                engines=tuple(engines),
                source=self.origin,
                parity=tuple(parity),
                inputs=self.inputs,
                outputs=self.outputs,
            )
        except ManifestError as error:
            name = self.origin.checkpoint
            raise CheckpointError(f"{name}: {error}; correct the yaml or the options") from None


def _stft(facts: Facts) -> Stft | None:
    """What the facts say of the STFT; None where the network sees no spectrogram. Raises ManifestError."""
    if not facts.get("spectrogram", True):
        return None
    said = {name.removeprefix("stft_"): facts[name] for name in facts if name.startswith("stft_")}
    framing = {name: value for name, value in said.items() if value is not None}
    return Stft(facts["n_fft"], facts["hop_length"], **framing)
