"""Networks we did not write: pymss-core's, seeded, with their state dicts in the public layout and a yaml.

pymss-core 0.1.14 computes rotary angles in float32 (no autocast), defaults zero_dc to False for BS and True
for Mel, and has no linear attention. Everything is passed explicitly here.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from pymss_core.modules.bs_roformer import BSRoformer, MelBandRoformer

SMALL = {
    "dim": 32,
    "depth": 2,
    "heads": 2,
    "dim_head": 16,
    "time_transformer_depth": 1,
    "freq_transformer_depth": 1,
}
SMALL_BANDS = (2,) * 8 + (4,) * 6 + (9,) * 5 + (20, 24)


@dataclass(frozen=True)
class Oracle:
    """One seeded network of a public family, small in width but with real options."""

    family: str
    options: dict[str, Any] = field(default_factory=dict)
    stems: tuple[str, ...] = ("vocals",)
    sample_rate: int = 44100
    chunk: int = 8000

    @property
    def kwargs(self) -> dict[str, Any]:
        """The constructor's arguments, which are also the yaml's `model` section."""
        common = {
            **SMALL,
            "stereo": True,
            "num_stems": len(self.stems),
            "zero_dc": True,
            "mlp_expansion_factor": 2,
        }
        if self.family == "bs_roformer":
            own = {
                "freqs_per_bands": SMALL_BANDS,
                "stft_n_fft": 256,
                "stft_win_length": 256,
                "stft_hop_length": 64,
            }
        else:
            own = {
                "num_bands": 60,
                "sample_rate": self.sample_rate,
                "stft_hop_length": 441,
                "mask_estimator_depth": 2,
            }
        return {**common, **own, **self.options}

    def network(self) -> torch.nn.Module:
        """The seeded network, weights larger than at initialisation so that every part matters."""
        torch.manual_seed(7)
        build = BSRoformer if self.family == "bs_roformer" else MelBandRoformer
        # In MSST's Mel class the depth of the mask MLP counts hidden layers; pymss-core has a name for that.
        mel = {} if build is BSRoformer else {"mlp_hidden_layers": self.kwargs["mask_estimator_depth"]}
        network = build(**self.kwargs, **mel).eval()
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if name.endswith("gamma") or "bias" in name:
                    parameter.add_(0.3 * torch.randn_like(parameter))
        return network

    def yaml(self) -> dict[str, Any]:
        """The yaml a trainer would have left beside the checkpoint."""
        model = {k: list(v) if isinstance(v, tuple) else v for k, v in self.kwargs.items()}
        one = len(self.stems) == 1
        return {
            "audio": {
                "chunk_size": self.chunk,
                "sample_rate": self.sample_rate,
                "hop_length": 123,
                "num_channels": 2,
            },
            "model": model,
            "training": {
                "instruments": [*self.stems, "other"] if one else list(self.stems),
                "target_instrument": self.stems[0] if one else None,
            },
            "inference": {"num_overlap": 2, "batch_size": 4},
        }

    def write(self, folder: Path, name: str = "model") -> tuple[Path, Path]:
        """Checkpoint and yaml as files."""
        checkpoint, config = folder / f"{name}.ckpt", folder / f"{name}.yaml"
        torch.save(self.network().state_dict(), checkpoint)
        config.write_text(yaml.safe_dump(self.yaml()))
        return checkpoint, config

    def audio(self, network: torch.nn.Module, chunk: np.ndarray) -> np.ndarray:
        """The oracle on one chunk: (channels, samples) -> (stems, channels, samples)."""
        with torch.inference_mode():
            out = network(torch.from_numpy(chunk.astype(np.float32))[None])[0]
        return out.reshape(len(self.stems), *chunk.shape).numpy()


def snr_db(wanted: np.ndarray, got: np.ndarray) -> float:
    """10 log10 of signal over noise, summed in float64; infinite for equal arrays."""
    assert wanted.shape == got.shape
    wanted = wanted.astype(np.float64)
    noise = np.square(wanted - got).sum()
    return float(10 * np.log10(np.square(wanted).sum() / noise)) if noise else np.inf


def song(channels: int, samples: int, seed: int = 0) -> np.ndarray:
    """Loud noise with a tone, (channels, samples) float32."""
    rng = np.random.default_rng(seed)
    tone = 0.4 * np.sin(np.arange(samples) * 0.05)
    return (tone + 0.2 * rng.standard_normal((channels, samples))).astype(np.float32)
