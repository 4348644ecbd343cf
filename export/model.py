"""One network on its way to engines: its facts, and what follows from them for an engine."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

import rofo
from rofo.errors import ManifestError
from rofo.export.errors import CheckpointError
from rofo.export.facts import Facts
from rofo.export.families import Description
from rofo.export.families.family import Family
from rofo.export.graph.trace import Tensors
from rofo.export.source import Source
from rofo.manifest import Chunk, EngineFile, Manifest, OverlapAdd, Parity, Stft
from rofo.manifest import Source as Origin


@dataclass(frozen=True)
class Model:
    """One network on its way to engines: all that is known of it, and the tensors of its engine."""

    name: str
    family: Family
    facts: Facts
    stft: Stft
    chunk: Chunk
    origin: Origin

    @classmethod
    def of(cls, family: Family, source: Source, description: Description, name: str) -> "Model":
        """Raises CheckpointError where anything is missing or wrong."""
        facts = description.require()
        try:
            stft = Stft(facts["n_fft"], facts["hop_length"], normalized=facts.get("stft_normalized", False))
        except ManifestError as error:
            raise CheckpointError(
                f"{source.path}: {error} (n_fft {facts['n_fft']}, hop length {facts['hop_length']}): an STFT "
                "that cannot be inverted; correct the yaml or the options"
            ) from None
        chunk = Chunk(facts["chunk"], stft.frames(facts["chunk"]))
        config = description.config
        origin = Origin(source.path.name, source.sha256, config, rofo.__version__, torch.__version__)
        return cls(name, family, facts, stft, chunk, origin)

    @property
    def summary(self) -> str:
        """The model in a line."""
        seconds = self.chunk.samples / self.facts["sample_rate"]
        return (
            f"{self.family.summary(self.facts)}, stems {', '.join(self.facts['stems'])}, "
            f"chunks of {seconds:.2f} s ({self.chunk.frames} frames)"
        )

    @property
    def sample_rate(self) -> int:
        """In Hz."""
        return int(self.facts["sample_rate"])

    @property
    def channels(self) -> int:
        """Of audio."""
        return int(self.facts["channels"])

    def tensors(self, batch: int) -> Tensors:
        """Names and shapes of the engine's inputs, and names of its outputs."""
        return Tensors({"mix": (batch, self.channels, self.chunk.frames, self.stft.bins, 2)}, ("stems",))

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
                overlap_add=OverlapAdd(facts["scheme"], facts.get("overlap")),
                normalize=facts.get("normalize", False),
                engines=tuple(engines),
                source=self.origin,
                parity=tuple(parity),
            )
        except ManifestError as error:
            name = self.origin.checkpoint
            raise CheckpointError(f"{name}: {error}; correct the yaml or the options") from None
