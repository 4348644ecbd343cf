"""Small convolutional networks with seeded weights as float32 graphs, to be typed."""

from dataclasses import dataclass
from pathlib import Path

from mdx_oracle import ConvOracle, TfcOracle
from torch import nn

from rofo.export.families.mdx_net.config import ConvTdfConfig, TfcTdfConfig
from rofo.export.families.mdx_net.network import ConvTdf
from rofo.export.families.tfc_tdf.network import TfcTdf
from rofo.export.graph.trace import write_onnx

KEPT = {"hop_length", "dim_f", "n_fft"}


@dataclass(frozen=True)
class Case:
    """A network, and the shape of one chunk of its input."""

    network: nn.Module
    shape: tuple[int, ...]

    def write(self, folder: Path, batch: int = 1) -> Path:
        """The float32 graph, in a folder of its own."""
        inside = folder / f"plain-{batch}"
        inside.mkdir()
        write_onnx(self.network, (batch, *self.shape), inside / "plain.onnx")
        return inside / "plain.onnx"


def mdx_net(**options) -> Case:
    """An MDX-Net; `options` replace those of ConvOracle."""
    oracle = ConvOracle(options)
    hyper = oracle.hyper
    config = ConvTdfConfig(
        channels=2, num_stems=1, sample_rate=44100, zero_bins=0, compensate=1.0, growth=hyper["g"],
        kernel=hyper["k"], layers=hyper["l"], num_scales=hyper["num_blocks"] // 2, bottleneck=hyper["bn"],
        tdf_bias=hyper["bias"], norm="BatchNorm" if hyper["optimizer"] == "rmsprop" else "GroupNorm2",
        key_layout="new", **{key: hyper[key] for key in KEPT},
    )  # fmt: skip
    network = ConvTdf(config, oracle.state(), hyper["dim_t"])
    return Case(network, (2, hyper["dim_t"], hyper["n_fft"] // 2 + 1, 2))


def tfc_tdf(*, dim_f: int = 256, dim_t: int = 16, n_fft: int = 640, **options) -> Case:
    """A TFC-TDF v3 with two stems; `options` replace those of TfcOracle."""
    oracle = TfcOracle(options, dim_f=dim_f, dim_t=dim_t, n_fft=n_fft)
    model = {**oracle.model, "scale": tuple(oracle.model["scale"])}
    config = TfcTdfConfig(
        channels=2, num_stems=2, sample_rate=44100, n_fft=n_fft, hop_length=64, dim_f=dim_f, **model
    )
    network = TfcTdf(config, dict(oracle.network().state_dict()), dim_t)
    return Case(network, (2, dim_t, n_fft // 2 + 1, 2))
