"""The convolutional families, seeded: a restatement of MDX-Net, TFC-TDF v3 from pymss-core."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import yaml
from conv_tdf_net import ConvTdfNet
from pymss_core.modules.mdx23c_tfc_tdf_v3 import TFC_TDF_net
from torch import Tensor, nn

from rofo.dsp.spectrogram import Spectrogram
from rofo.manifest import Stft

HOP = 64


@dataclass(frozen=True)
class ConvOracle:
    """A seeded MDX-Net. `options` replace hyper-parameters; `ema` leaves out all that is not trained."""

    options: dict[str, Any] = field(default_factory=dict)
    layout: str = "new"
    num_stems: int = 1
    ema: bool = False
    seed: int = 7

    @property
    def hyper(self) -> dict[str, Any]:
        small = {"num_blocks": 5, "l": 2, "g": 6, "k": 3, "bn": 4, "bias": False}
        transform = {"n_fft": 160, "dim_f": 64, "dim_t": 16, "dim_c": 4, "hop_length": HOP, "overlap": 80}
        training = {"target_name": "vocals", "lr": 2e-4, "optimizer": "rmsprop"}
        return {**training, **transform, **small, **self.options}

    @property
    def chunk(self) -> int:
        """Samples."""
        return self.hyper["hop_length"] * (self.hyper["dim_t"] - 1)

    def network(self) -> ConvTdfNet:
        """Statistics as if trained, so that a BatchNorm left out or folded wrongly shows."""
        torch.manual_seed(self.seed)
        network = ConvTdfNet(self.hyper, layout=self.layout, num_stems=self.num_stems).eval()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
                module.weight.data.uniform_(0.7, 1.3)
                module.bias.data.normal_(0.1, 0.2)
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.3, 1.5)
        return network

    def state(self) -> dict[str, Tensor]:
        """The state dict of the public class, with the constants of its STFT, or of an EMA without them."""
        state = dict(self.network().state_dict())
        if self.ema:
            return {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
        hyper = self.hyper
        above = hyper["n_fft"] // 2 + 1 - hyper["dim_f"]
        padding = torch.zeros(1, self.num_stems * hyper["dim_c"], above, hyper["dim_t"])
        return {"window": torch.hann_window(hyper["n_fft"]), "freq_pad": padding, **state}

    def write(self, folder: Path, name: str = "model") -> Path:
        """A Lightning checkpoint, as kuielab's training leaves it."""
        path = folder / f"{name}.ckpt"
        torch.save({"state_dict": self.state(), "hyper_parameters": self.hyper}, path)
        return path

    def audio(self, chunk: np.ndarray, *, zero_bins: int = 0, compensate: float = 1.0) -> np.ndarray:
        """The network on one chunk as UVR runs it: (channels, samples) -> (stems, channels, samples)."""
        network, hyper = self.network(), self.hyper

        def stems(packed: Tensor) -> Tensor:
            packed[:, :, :zero_bins] = 0
            return network(packed) * compensate

        return _through_torch(stems, chunk, hyper["n_fft"], hyper["hop_length"], hyper["dim_f"])


def write_onnx(network: nn.Module, path: Path, dim_f: int, dim_t: int, **options: object) -> None:
    """`network` as MDX-Net's .onnx files are published, but for `options`: opset 13, dynamic batch only."""
    names = {"input_names": ["input"], "output_names": ["output"]}
    axes = {name: {0: "batch"} for name in ("input", "output")}
    usual = {"opset_version": 13, "dynamic_axes": axes, "dynamo": False, **names}
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # that exporter is deprecated
        example = (torch.zeros(1, 4, dim_f, dim_t),)
        torch.onnx.export(network.eval(), example, path, **{**usual, **options})


@dataclass(frozen=True)
class TfcOracle:
    """A seeded TFC-TDF v3 of pymss-core. `options` replace those of the yaml's model section.

    Every norm must see enough positions: random weights leave a channel of 2 of them with a mean 75 times its
    deviation, and float32 itself is then 93 dB from float64. Here the smallest plane, of the narrow linear
    layer at the lowest scale, has 16, no mean is above 1.5 deviations and float32 reaches 109 dB or more.
    """

    options: dict[str, Any] = field(default_factory=dict)
    stems: tuple[str, ...] = ("vocals", "other")
    channels: int = 2
    dim_f: int = 256
    dim_t: int = 16
    n_fft: int = 640
    seed: int = 7

    @property
    def model(self) -> dict[str, Any]:
        """The yaml's model section."""
        widths = {"num_channels": 8, "growth": 6, "num_scales": 2, "num_blocks_per_scale": 2}
        small = {**widths, "num_subbands": 4, "bottleneck_factor": 4, "scale": [2, 2]}
        return {"act": "gelu", "norm": "InstanceNorm", **small, **self.options}

    @property
    def chunk(self) -> int:
        """Samples."""
        return HOP * (self.dim_t - 1)

    def yaml(self) -> dict[str, Any]:
        """The yaml that lies beside the checkpoint; a single stem is a target among two instruments."""
        one = len(self.stems) == 1
        audio = {
            "chunk_size": self.chunk, "n_fft": self.n_fft, "hop_length": HOP, "dim_f": self.dim_f,
            "dim_t": self.dim_t, "num_channels": self.channels, "sample_rate": 44100, "min_mean_abs": 0.001,
        }  # fmt: skip
        instruments = [*self.stems, "other"] if one else list(self.stems)
        training = {"instruments": instruments, "target_instrument": self.stems[0] if one else None}
        inference = {"batch_size": 1, "dim_t": self.dim_t, "num_overlap": 4}
        return {"audio": audio, "model": self.model, "training": training, "inference": inference}

    def network(self) -> nn.Module:
        """Norms as if trained, so that each of their numbers shows."""
        torch.manual_seed(self.seed)
        network = TFC_TDF_net(_attributes(self.yaml())).eval()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d | nn.GroupNorm | nn.InstanceNorm2d):
                module.weight.data.uniform_(0.7, 1.3)
                module.bias.data.normal_(0, 0.3)
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.3, 1.5)
        return network

    def write(self, folder: Path, name: str = "model") -> tuple[Path, Path]:
        """Checkpoint and yaml as files."""
        checkpoint, config = folder / f"{name}.ckpt", folder / f"{name}.yaml"
        torch.save(self.network().state_dict(), checkpoint)
        config.write_text(yaml.safe_dump(self.yaml()))
        return checkpoint, config


def through_network(network: nn.Module, facts: Mapping[str, Any], chunk: np.ndarray) -> np.ndarray:
    """STFT, our network, inverse STFT: (channels, samples) -> (stems, channels, samples)."""
    transform = Spectrogram(Stft(facts["n_fft"], facts["hop_length"]), chunk.shape[1])
    with torch.inference_mode():
        return transform.inverse(network(torch.from_numpy(transform.forward(chunk))[None]).numpy()[0])


def _through_torch(
    network: Callable[[Tensor], Tensor], chunk: np.ndarray, n_fft: int, hop: int, dim_f: int
) -> np.ndarray:
    """torch's STFT, channels L.re, L.im, R.re, R.im by bins by frames, `network`, and back.

    chunk (channels, samples) -> (stems, channels, samples), in the device's float32.
    """
    channels, samples = chunk.shape
    window, bins = torch.hann_window(n_fft), n_fft // 2 + 1
    with torch.inference_mode():
        spectra = torch.stft(torch.from_numpy(chunk), n_fft, hop, window=window, return_complex=True)
        packed = torch.view_as_real(spectra).permute(0, 3, 1, 2).reshape(1, 2 * channels, bins, -1)
        out = network(packed[:, :, :dim_f].clone())
        full = torch.cat((out, torch.zeros(*out.shape[:2], bins - dim_f, out.shape[3])), dim=2)
        pairs = full.reshape(-1, 2, bins, out.shape[3])
        stems = torch.istft(torch.complex(pairs[:, 0], pairs[:, 1]), n_fft, hop, window=window)
    return stems.reshape(-1, channels, samples).numpy()


def _attributes(sections: dict[str, Any]) -> SimpleNamespace:
    return SimpleNamespace(**{name: SimpleNamespace(**section) for name, section in sections.items()})
