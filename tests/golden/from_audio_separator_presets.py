"""audio-separator's nine ensemble presets with small networks: its separators of songs, its Ensembler.

At its default a Roformer's chunks do not overlap (8 s of step for at most 8 s of chunk): songs are one chunk
and two long. A third, that ends within one, shows how the last chunk is put back to the song's end.
"""

import json
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from golden.files import FOLDER, Case
from golden.from_audio_separator import common
from golden.from_msst import BANDS
from golden.seeded import seeded_state
from golden.stubs import spectra_as_real_numbers, stub
from golden.systems import kept, music

CHUNK = 4096
LENGTHS = (CHUNK, 2 * CHUNK, 2 * CHUNK + 1500)
COMPENSATE = 1.01  # of UVR-MDX-NET-Inst_HQ_5
STFT = {"stft_n_fft": 256, "stft_hop_length": 64, "stft_win_length": 256, "dim_freqs_in": 129}
MEL_STFT = {"stft_n_fft": 512, "stft_hop_length": 64, "stft_win_length": 512, "dim_freqs_in": 257}
SMALL = {"dim": 16, "depth": 1, "heads": 2, "dim_head": 8, "time_transformer_depth": 1,
         "freq_transformer_depth": 1, "stereo": True, "mask_estimator_depth": 2, "mlp_expansion_factor": 4,
         "attn_dropout": 0, "ff_dropout": 0, "flash_attn": False}  # fmt: skip
KINDS = {
    "bs": {**SMALL, **STFT, "freqs_per_bands": list(BANDS)},
    "mel": {**SMALL, **MEL_STFT, "num_bands": 16, "sample_rate": 44100},
}
PAIR = ("vocals", "instrumental")


def golden_files(clone: Path) -> Iterator[tuple[str, dict[str, Case]]]:
    stub("onnx2torch")
    spectra_as_real_numbers()
    told = json.loads((clone / "audio_separator" / "ensemble_presets.json").read_text())["presets"]
    yield "audio_separator_presets", {name: _case(name, preset) for name, preset in told.items()}


def _case(name: str, preset: dict[str, Any]) -> Case:
    from audio_separator.separator.ensembler import Ensembler

    target = "instrumental" if name.startswith("instrumental") else "vocals"
    files, stems = {}, {length: {stem: [] for stem in PAIR} for length in LENGTHS}
    for number, model in enumerate(preset["models"]):
        both = model == "mel_band_roformer_karaoke_becruily.ckpt"
        kind = "onnx" if model.endswith(".onnx") else "bs" if model.startswith("bs_") else "mel"
        facts, separate = _model(kind, f"seed {number}", None if both else target)
        files[model] = {**facts, "yaml": model.replace(".ckpt", ".yaml")}
        for length in LENGTHS:
            for stem, signal in separate(length).items():
                stems[length][stem].append(signal.copy())
    outputs = {}
    for length in LENGTHS:
        for stem, signals in stems[length].items():
            found = Ensembler(_logger(), preset["algorithm"], preset["weights"]).ensemble(signals)
            outputs[f"{length} {stem}"] = kept(np.asarray(found))
    return Case({"files": files, "lengths": LENGTHS, "algorithm": preset["algorithm"]}, outputs)


def _logger() -> Any:
    import logging

    return logging.getLogger()


@cache
def _model(kind: str, seed: str, target: str | None) -> tuple[dict[str, Any], Any]:
    return _mdx() if kind == "onnx" else _roformer(kind, seed, target)


def _mdx() -> tuple[dict[str, Any], Any]:
    """The stem as its `separate` has it for a song whose peak is 1: it multiplies by the peak."""
    from audio_separator.separator.architectures.mdx_separator import MDXSeparator

    data = {"compensate": COMPENSATE, "mdx_dim_f_set": 64, "mdx_dim_t_set": 4, "mdx_n_fft_scale_set": 2048}
    options = {"segment_size": 16, "overlap": 0.25, "batch_size": 1, "hop_length": 1024}
    mdx = MDXSeparator(common(FOLDER / "mdx_net.onnx", data), {**options, "enable_denoise": False})

    @cache
    def separate(length: int) -> dict[str, np.ndarray]:
        stem = mdx.demix(music(length))
        return {"instrumental": stem, "vocals": music(length) - COMPENSATE * stem}

    return {"form": "onnx", "seed": "", "export": ["--n-fft", "2048"]}, separate


def _roformer(kind: str, seed: str, target: str | None) -> tuple[dict[str, Any], Any]:
    from audio_separator.separator.architectures.mdxc_separator import MDXCSeparator
    from audio_separator.separator.uvr_lib_v5.roformer.bs_roformer import BSRoformer
    from audio_separator.separator.uvr_lib_v5.roformer.mel_band_roformer import MelBandRoformer

    options = {**KINDS[kind], "num_stems": 1 if target else 2}
    arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    network = {"bs": BSRoformer, "mel": MelBandRoformer}[kind](**arguments)
    shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    names = sorted(PAIR, key=lambda name: name != target) if target else list(PAIR)
    config = {
        "audio": {"chunk_size": CHUNK, "num_channels": 2, "sample_rate": 44100, "hop_length": 64},
        "model": options,
        "training": {"instruments": names, "target_instrument": target},
        "inference": {"dim_t": CHUNK // 64 + 1, "num_overlap": 2, "batch_size": 1},
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"{kind}_roformer.ckpt")
        torch.save({n: torch.from_numpy(v) for n, v in seeded_state(shapes, seed).items()}, path)
        separator = MDXCSeparator(common(path, yaml.safe_load(yaml.safe_dump(config))), {"overlap": 8})

    @cache
    def separate(length: int) -> dict[str, np.ndarray]:
        return separator.demix(music(length))

    return {"form": "state", "config": config, "shapes": shapes, "seed": seed}, separate
