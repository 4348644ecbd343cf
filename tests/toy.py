"""A family of networks that only tests know: a gain per bin."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rofo.export import families
from rofo.export.facts import Facts
from rofo.export.families.family import Family
from rofo.export.graph.types import Form
from rofo.export.source import Source

# All that the weights cannot say.
GIVEN = {"sample_rate": 44100, "chunk_seconds": 0.1, "stems": ("voice",)}


class Equaliser(nn.Module):
    """A gain per bin: `gains` (bins,)."""

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.gains = nn.Parameter(torch.zeros(bins))

    def forward(self, mix: torch.Tensor) -> torch.Tensor:
        return (mix * self.gains[:, None]).unsqueeze(1)


class Toy(Family):
    name = "toy"
    options = frozenset({"sample_rate", "chunk_seconds", "stems"})
    slip = 1.0  # what the engine's form gets wrong

    def reads(self, source: Source) -> bool:
        return "gains" in source.state

    def weights(self, source: Source) -> dict[str, Any]:
        return {"architecture": "toy", "n_fft": 2 * (len(source.state["gains"]) - 1), "num_stems": 1}

    def yaml(self, config: Mapping[str, Any], weights: Facts, problems: list[str]) -> dict[str, Any]:
        return {"stems": tuple(config["stems"]), "n_fft": config.get("n_fft")}

    def complete(self, facts: Facts, problems: list[str]) -> Facts:
        usual = Facts.said("default", {"channels": 2, "hop_length": facts["n_fft"] // 4, "scheme": "fade"})
        return families.merge(facts, usual)

    def network(self, facts: Facts) -> nn.Module:
        return Equaliser(facts["n_fft"] // 2 + 1)

    def engine(self, network: nn.Module, facts: Facts, form: Form) -> nn.Module:
        arranged = Equaliser(facts["n_fft"] // 2 + 1)
        arranged.gains.data = network.get_parameter("gains").data * self.slip
        return arranged


def write(path: Path, gain: float = 0.5) -> Path:
    """A checkpoint of the toy: n_fft 128, every gain the same."""
    torch.save({"gains": torch.full((65,), gain, dtype=torch.float16)}, path)
    return path
