"""Seeded Roformers, taken as far as the loaded plain network."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from oracle import SMALL, Oracle
from torch import Tensor, nn

from rofo.export.facts import Facts
from rofo.export.families import describe, find_family, load_network
from rofo.export.families.family import Family
from rofo.export.graph.trace import Tensors
from rofo.export.graph.types import Form
from rofo.export.source import Source


@dataclass(frozen=True)
class Loaded:
    """A plain network with its weights, and its facts."""

    family: Family
    facts: Facts
    network: nn.Module

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one chunk, (1, channels, frames, bins, 2)."""
        facts = self.facts
        frames = 1 + facts["chunk"] // facts["hop_length"]
        return (1, facts["channels"], frames, facts["n_fft"] // 2 + 1, 2)

    def tensors(self) -> Tensors:
        """Of an engine for one chunk."""
        return Tensors({"mix": self.shape}, ("stems",))

    def engine(self, form: Form) -> nn.Module:
        """The arrangement for an engine."""
        return self.family.engine(self.network, self.facts, form)


def source(state: dict[str, Tensor], path: Path = Path("model.ckpt"), **changes: Any) -> Source:
    return Source(**{"path": path, "sha256": "0" * 64, "tail_md5": "0" * 32, "state": dict(state), **changes})


@pytest.fixture(name="source")
def _source() -> Callable[..., Source]:
    """A checkpoint that has been read."""
    return source


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Loaded]:
    """Load an oracle's weights, or another state dict, by its yaml with changes to the model section."""

    def loaded(oracle: Oracle, state: dict[str, Tensor] | None = None, **model: Any) -> Loaded:
        config = oracle.yaml()
        config["model"] |= model
        path = tmp_path / "model.yaml"
        path.write_text(yaml.safe_dump(config))
        found = source(state or oracle.network().state_dict())
        family = find_family(found)
        facts = describe(family, found, path).require()
        network = load_network(family, found, facts)
        assert not found.state
        return Loaded(family, facts, network)

    return loaded


@pytest.fixture
def run() -> Callable[[nn.Module, Tensor], Tensor]:
    """A network on mix, without gradients."""

    def outputs(network: nn.Module, mix: Tensor) -> Tensor:
        with torch.inference_mode():
            return network(mix)

    return outputs


@pytest.fixture
def with_linear_attention() -> Callable[[Oracle, float], dict[str, Tensor]]:
    """Weights with a linear-attention transformer before the two of every layer, its output times `gain`."""

    def state(oracle: Oracle, gain: float) -> dict[str, Tensor]:
        dim, inner, random = (
            SMALL["dim"],
            SMALL["heads"] * SMALL["dim_head"],
            torch.Generator().manual_seed(3),
        )
        shapes = {
            "0.to_qkv.0.weight": (3 * inner, dim), "0.temperature": (SMALL["heads"], 1, 1),
            "0.to_out.1.weight": (dim, inner), "1.net.1.weight": (4 * dim, dim), "1.net.1.bias": (4 * dim,),
            "1.net.4.weight": (dim, 4 * dim), "1.net.4.bias": (dim,),
        }  # fmt: skip
        found = {}
        for key, value in oracle.network().state_dict().items():
            parts = key.split(".")
            if parts[0] == "layers":
                parts[2] = str(int(parts[2]) + 1)
            found[".".join(parts)] = value
        for layer in range(SMALL["depth"]):
            block = f"layers.{layer}.0.layers.0"
            found |= {f"{block}.{norm}.gamma": torch.ones(dim) for norm in ("0.norm", "1.net.0")}
            for key, shape in shapes.items():
                last = key.startswith(("0.to_out", "1.net.4"))
                found[f"{block}.{key}"] = 0.3 * torch.randn(shape, generator=random) * (gain if last else 1)
        return found

    return state
