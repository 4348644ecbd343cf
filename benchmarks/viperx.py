"""A checkpoint of the best-known public shape (BS-Roformer 512 x 12, 8 s chunks), with seeded weights.

Speed and memory do not depend on what the weights are, and public ones carry no licence.
`python -m rofo.benchmarks.viperx FOLDER` writes viperx.ckpt, and small.ckpt of the same path but few weights.
"""

import sys
from pathlib import Path
from typing import Any

SAMPLE_RATE = 44100
CHUNK = 352800
HOP = 441
BANDS = (2,) * 24 + (4,) * 12 + (12,) * 8 + (24,) * 8 + (48,) * 8 + (128, 129)


SMALL: dict[str, Any] = {"dim": 16, "depth": 1, "heads": 1, "dim_head": 16}


def main() -> None:
    """Write both checkpoints and their yaml."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    write_checkpoint(folder, reference_network())
    write_checkpoint(folder, reference_network(**SMALL), name="small", **SMALL)


def reference_network(**changes: Any) -> Any:
    """pymss-core's BS-Roformer of this shape: the PyTorch side of the comparison, not written by us."""
    import torch
    from pymss_core.modules.bs_roformer import BSRoformer

    torch.manual_seed(0)
    return BSRoformer(**{**_options(), **changes}).eval()


def write_checkpoint(
    folder: Path, network: Any, *, name: str = "viperx", **changes: Any
) -> tuple[Path, Path]:
    """The network's state dict and a yaml in the public layout."""
    import torch
    import yaml

    checkpoint, config = folder / f"{name}.ckpt", folder / f"{name}.yaml"
    torch.save(network.state_dict(), checkpoint)
    model = {**_options(), **changes}
    model["freqs_per_bands"] = list(BANDS)
    description = {
        "audio": {"chunk_size": CHUNK, "sample_rate": SAMPLE_RATE, "num_channels": 2},
        "model": model,
        "training": {"instruments": ["vocals", "other"], "target_instrument": "vocals"},
        "inference": {"num_overlap": 2, "batch_size": 1},
    }
    config.write_text(yaml.safe_dump(description))
    return checkpoint, config


def _options() -> dict[str, Any]:
    return {
        "dim": 512,
        "depth": 12,
        "stereo": True,
        "num_stems": 1,
        "time_transformer_depth": 1,
        "freq_transformer_depth": 1,
        "freqs_per_bands": BANDS,
        "heads": 8,
        "dim_head": 64,
        "stft_hop_length": HOP,
        "mask_estimator_depth": 2,
        "zero_dc": True,
    }


if __name__ == "__main__":
    main()
