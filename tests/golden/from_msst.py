"""MSST: its networks on one chunk, and its `demix` with them and with a stand-in."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ml_collections import ConfigDict

from golden.files import Case
from golden.seeded import integers, noise, seeded_state, song, stand_in

BANDS = (2,) * 8 + (4,) * 6 + (9,) * 5 + (20, 24)
PUBLIC_BANDS = (2,) * 24 + (4,) * 12 + (12,) * 8 + (24,) * 8 + (48,) * 8 + (128, 129)
BS = {"freqs_per_bands": BANDS, "stft_n_fft": 256, "stft_win_length": 256, "stft_hop_length": 64}
BS_PUBLIC = {"freqs_per_bands": PUBLIC_BANDS, "stft_n_fft": 2048, "stft_win_length": 2048}
MEL = {"num_bands": 60, "sample_rate": 44100, "stft_hop_length": 441}
SMALL = {"dim": 16, "depth": 2, "heads": 2, "dim_head": 8, "time_transformer_depth": 1,
         "freq_transformer_depth": 1, "stereo": True, "num_stems": 1, "mlp_expansion_factor": 2}  # fmt: skip
BS_CHUNK, MEL_CHUNK = 2048, 4410
STEMS = ("vocals", "drums", "bass", "other")

ROFORMERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bs": ("bs_roformer", {}),
    "bs mono": ("bs_roformer", {"stereo": False}),
    "bs three stems": ("bs_roformer", {"num_stems": 3}),
    "bs public bands, hop 441": ("bs_roformer", {**BS_PUBLIC, "stft_hop_length": 441}),
    "bs one mask layer": ("bs_roformer", {"mask_estimator_depth": 1}),
    "bs three mask layers": ("bs_roformer", {"mask_estimator_depth": 3}),
    "bs expansion 1": ("bs_roformer", {"mlp_expansion_factor": 1}),
    "bs expansion 4": ("bs_roformer", {"mlp_expansion_factor": 4}),
    "bs skip connection": ("bs_roformer", {"skip_connection": True, "depth": 3}),
    "bs without zero_dc": ("bs_roformer", {"zero_dc": False}),
    "bs PoPE": ("bs_roformer", {"use_pope": True}),
    "bs linear attention": ("bs_roformer", {"linear_transformer_depth": 1}),
    "bs linear attention twice, skip": (
        "bs_roformer",
        {"linear_transformer_depth": 2, "skip_connection": True, "depth": 3},
    ),
    "bs linear attention, not flash": ("bs_roformer", {"linear_transformer_depth": 1, "flash_attn": False}),
    "bs two blocks per axis": ("bs_roformer", {"time_transformer_depth": 2, "freq_transformer_depth": 2}),
    "bs 5 heads of 24": ("bs_roformer", {"heads": 5, "dim_head": 24}),
    "bs normalised STFT": ("bs_roformer", {"stft_normalized": True}),
    "mel": ("mel_band_roformer", {}),
    "mel mono": ("mel_band_roformer", {"stereo": False}),
    "mel two stems": ("mel_band_roformer", {"num_stems": 2}),
    "mel depth 2 masks": ("mel_band_roformer", {"mask_estimator_depth": 2}),
    "mel depth 3 masks": ("mel_band_roformer", {"mask_estimator_depth": 3}),
    "mel hop 882, skip": ("mel_band_roformer", {"stft_hop_length": 882, "skip_connection": True}),
    "mel 64 bands": ("mel_band_roformer", {"num_bands": 64}),
    "mel 128 bands": ("mel_band_roformer", {"num_bands": 128}),
    "mel 48 kHz": ("mel_band_roformer", {"sample_rate": 48000, "stft_hop_length": 512}),
    "mel without zero_dc": ("mel_band_roformer", {"zero_dc": False}),
    "mel matched length": ("mel_band_roformer", {"match_input_audio_length": True}),
    "mel PoPE": ("mel_band_roformer", {"use_pope": True}),
    "mel linear attention": ("mel_band_roformer", {"linear_transformer_depth": 1}),
    "mel two blocks per axis": (
        "mel_band_roformer",
        {"time_transformer_depth": 2, "freq_transformer_depth": 2},
    ),
}
# As yaml sections: the model's, and the shape of its spectrogram.
TFC_MODEL = {"act": "gelu", "norm": "InstanceNorm", "num_channels": 8, "growth": 6, "num_scales": 2,
             "num_blocks_per_scale": 2, "num_subbands": 4, "bottleneck_factor": 4,
             "scale": [2, 2]}  # fmt: skip
TFC_AUDIO = {"dim_f": 256, "dim_t": 16, "n_fft": 640, "hop_length": 64, "num_channels": 2}
TFC_TDFS: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "plain": ({}, {}, 2),
    "BatchNorm": ({"norm": "BatchNorm"}, {}, 2),
    "GroupNorm2": ({"norm": "GroupNorm2"}, {}, 2),
    "relu": ({"act": "relu"}, {}, 2),
    "elu": ({"act": "elu0.3"}, {}, 2),
    "one band": ({"num_subbands": 1}, {"dim_f": 64, "n_fft": 256}, 2),
    "two bands": ({"num_subbands": 2}, {"dim_f": 128}, 2),
    "bins only": ({"scale": [1, 2]}, {}, 2),
    "frames by 2, bins by 4": ({"scale": [2, 4], "num_scales": 1, "bottleneck_factor": 2}, {}, 2),
    "one target": ({}, {}, 1),
    "four targets": ({}, {}, 4),
    "mono": ({}, {"num_channels": 1}, 2),
    "three blocks, three scales": (
        {"num_blocks_per_scale": 3, "num_scales": 3},
        {"dim_f": 512, "n_fft": 1024, "dim_t": 32},
        2,
    ),
}
SCHEME_CHUNK = 96


def golden_files(_: Path) -> Iterator[tuple[str, dict[str, Case]]]:
    yield "msst_roformers", {name: _roformer(*case) for name, case in ROFORMERS.items()}
    yield "msst_tfc_tdf", {name: _tfc_tdf(*case) for name, case in TFC_TDFS.items()}
    yield "msst_demix", dict(_songs())
    yield "msst_scheme", dict(_scheme())
    yield "msst_demucs_scheme", {str(number): _demucs_scheme_case(number) for number in (1, 2, 3, 4, 8)}


def _roformer_config(kind: str, options: dict[str, Any]) -> dict[str, Any]:
    own = BS if kind == "bs_roformer" else MEL
    model = {**SMALL, **own, **options}
    rate, hop = model.get("sample_rate", 44100), model["stft_hop_length"]
    chunk = BS_CHUNK if kind == "bs_roformer" else MEL_CHUNK
    chunk = 4096 if model.get("stft_n_fft") == 2048 else chunk
    if kind == "mel_band_roformer":  # which returns whole hops only, where it is not told to match the length
        chunk += 137 if model.get("match_input_audio_length") else -(chunk % hop)
    return _config(model, model["num_stems"], sample_rate=rate, chunk_size=chunk)


def _tfc_config(model: dict[str, Any], audio: dict[str, Any], stems: int) -> dict[str, Any]:
    audio = {**TFC_AUDIO, **audio}
    audio["chunk_size"] = audio["hop_length"] * (audio["dim_t"] - 1)
    config = _config({**TFC_MODEL, **model}, stems, sample_rate=44100, **audio)
    config["inference"]["dim_t"] = audio["dim_t"]
    return config


def _config(model: dict[str, Any], stems: int, **audio: Any) -> dict[str, Any]:
    """A yaml; a single stem is a target among two instruments. One chunk without any overlap."""
    target = {"target_instrument": "vocals", "instruments": ["vocals", "other"]}
    several = {"target_instrument": None, "instruments": list(STEMS[:stems])}
    inference = {"batch_size": 1, "num_overlap": 1}
    return {
        "audio": audio,
        "model": model,
        "training": several if stems > 1 else target,
        "inference": inference,
    }


def _network(kind: str, config: dict[str, Any]) -> torch.nn.Module:
    from models.bs_roformer import BSRoformer, MelBandRoformer
    from models.mdx23c_tfc_tdf_v3 import TFC_TDF_net

    if kind == "mdx23c":
        network = TFC_TDF_net(ConfigDict(config))
    else:
        build = BSRoformer if kind == "bs_roformer" else MelBandRoformer
        network = build(**config["model"])
    state = seeded_state(shapes(network))
    network.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    return network.eval()


def shapes(network: torch.nn.Module) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in network.state_dict().items()}


def _roformer(kind: str, options: dict[str, Any]) -> Case:
    return _one_chunk(kind, _roformer_config(kind, options))


def _tfc_tdf(model: dict[str, Any], audio: dict[str, Any], stems: int) -> Case:
    return _one_chunk("mdx23c", _tfc_config(model, audio, stems))


def _one_chunk(kind: str, config: dict[str, Any]) -> Case:
    """The network on one chunk of a song, the last third of which is silent."""
    network = _network(kind, config)
    channels = config["audio"].get("num_channels", 2 if config["model"].get("stereo", True) else 1)
    chunk = song(config["audio"]["chunk_size"], channels, silent=(0.7, 1))
    with torch.inference_mode():
        stems = network(torch.from_numpy(chunk)[None])
    # For mono, TFC_TDF_net puts out two channels, which are the two halves of one.
    outputs = {"stems": stems.reshape(-1, *chunk.shape).numpy()}
    return Case({"kind": kind, "config": _plain(config), "shapes": shapes(network)}, outputs)


def _songs() -> Iterator[tuple[str, Case]]:
    """`demix` of whole songs with real networks, around the lengths where it changes its ways."""
    bs3 = _roformer_config("bs_roformer", {"num_stems": 3, "depth": 1})
    mel = _roformer_config("mel_band_roformer", {"depth": 1})
    mono = _roformer_config("bs_roformer", {"stereo": False, "depth": 1})
    tfc = _tfc_config({}, {"dim_t": 32}, 2)
    one = _tfc_config({"num_scales": 1}, {"dim_t": 32}, 1)
    for name, kind, config, overlaps in (
        ("bs three stems", "bs_roformer", bs3, 2),
        ("bs mono", "bs_roformer", mono, 4),
        ("mel", "mel_band_roformer", mel, 2),
        ("mdx23c", "mdx23c", tfc, 4),
        ("mdx23c one target", "mdx23c", one, 2),
    ):
        config["inference"]["num_overlap"] = overlaps
        chunk = config["audio"]["chunk_size"]
        border = chunk - chunk // overlaps
        edges = [1, chunk // 2, chunk // 2 + 1, chunk, 2 * border, 2 * border + 1]
        yield name, _song_case(kind, config, [*edges, 2 * chunk + 777])
    other = {**bs3, "inference": {"batch_size": 1, "num_overlap": 3, "chunk_size": 1600}}
    yield "chunk_size under inference", _song_case("bs_roformer", other, [5000])
    levelled = {**bs3, "inference": {"batch_size": 1, "num_overlap": 4, "normalize": True}}
    yield "normalize", _song_case("bs_roformer", levelled, [6000])


def _song_case(kind: str, config: dict[str, Any], lengths: list[int]) -> Case:
    from utils.audio_utils import denormalize_audio, normalize_audio
    from utils.model_utils import demix

    network = _network(kind, config)
    channels = config["audio"].get("num_channels", 2 if config["model"].get("stereo", True) else 1)
    outputs = {}
    for length in lengths:
        mix, level = song(length, channels), None
        if config["inference"].get("normalize"):
            mix, level = normalize_audio(mix * 2 + np.float32(0.0625))
        found = demix(ConfigDict(config), network, mix, "cpu", kind)
        stems = np.stack(list(found.values()))
        outputs[str(length)] = denormalize_audio(stems, level).astype(np.float32) if level else stems
    return Case({"kind": kind, "config": _plain(config), "shapes": shapes(network)}, outputs)


def _scheme() -> Iterator[tuple[str, Case]]:
    """`demix` alone: chunks and lengths of every kind, with a network that looks at the whole chunk."""
    chunk = SCHEME_CHUNK
    for overlaps in (1, 2, 3, 4, 8):
        border = chunk - chunk // overlaps
        edges = {1, 2, chunk // 2, chunk // 2 + 1, chunk - 1, chunk, chunk + 1, 777}
        lengths = sorted(edges | {border, 2 * border, 2 * border + 1, 2 * border + 2} - {0})
        yield f"{overlaps}", _scheme_case(chunk, overlaps, lengths)
    for chunk, overlaps, length in integers("msst any numbers", 40, (20, 120), (1, 9), (1, 701)):
        yield f"any {chunk} {overlaps} {length}", _scheme_case(chunk, overlaps, [length])


def _scheme_case(chunk: int, overlaps: int, lengths: list[int], kind: str = "bs_roformer") -> Case:
    from utils.model_utils import demix

    config = ConfigDict({
        "audio": {"chunk_size": chunk},
        "inference": {"num_overlap": overlaps, "batch_size": 1},
        "training": {"instruments": ["a", "b"], "target_instrument": None, "samplerate": chunk, "segment": 1},
    })  # fmt: skip

    def network(chunks: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(np.stack([stand_in(item) for item in chunks.numpy()]))

    found = {n: demix(config, network, noise(n), "cpu", kind) for n in lengths}
    outputs = {str(length): np.stack(list(stems.values())) for length, stems in found.items()}
    return Case({"chunk": chunk, "num_overlap": overlaps}, outputs)


def _demucs_scheme_case(overlaps: int) -> Case:
    """`demix` as it cuts songs for a Demucs."""
    chunk = SCHEME_CHUNK
    step = chunk // overlaps
    lengths = sorted({1, step, step + 1, chunk - 1, chunk, chunk + 1, chunk + step, 301})
    return _scheme_case(chunk, overlaps, lengths, "htdemucs")


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    return ConfigDict(config).to_dict()
