"""Our networks against pymss-core's, option by option, from public state dicts."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from oracle import SMALL, Oracle, snr_db, song

from rofo.export.errors import CheckpointError
from rofo.export.families.roformer.config import ModelConfig, resolve_config
from rofo.export.families.roformer.layers import LinearAttention
from rofo.export.families.roformer.network import Roformer
from rofo.export.families.roformer.positions import rotary_table
from rofo.export.graph.form import PLAIN, Form, tensorrt_form
from rofo.export.graph.weights import Weights
from rofo.export.source.checkpoint import Checkpoint
from rofo.manifest import Stft
from rofo.dsp.spectrogram import Spectrogram

BS, MEL = "bs_roformer", "mel_band_roformer"

STANDARD_BANDS = (2,) * 24 + (4,) * 12 + (12,) * 8 + (24,) * 8 + (48,) * 8 + (128, 129)

VARIANTS = {
    "bs": Oracle(BS),
    "bs mono": Oracle(BS, {"stereo": False}),
    "bs three stems": Oracle(BS, stems=("drums", "bass", "other")),
    "bs hop 441": Oracle(BS, {"stft_n_fft": 2048, "stft_win_length": 2048, "stft_hop_length": 441,
                              "freqs_per_bands": STANDARD_BANDS}),
    "bs one mask layer": Oracle(BS, {"mask_estimator_depth": 1}),
    "bs three mask layers": Oracle(BS, {"mask_estimator_depth": 3}),
    "bs expansion 1": Oracle(BS, {"mlp_expansion_factor": 1}),
    "bs expansion 4": Oracle(BS, {"mlp_expansion_factor": 4}),
    "bs skip connection": Oracle(BS, {"skip_connection": True, "depth": 3}),
    "bs without zero_dc": Oracle(BS, {"zero_dc": False}),
    "bs PoPE": Oracle(BS, {"use_pope": True}),
    "bs shared bias": Oracle(BS, {"use_shared_bias": True}),
    "bs two blocks per axis": Oracle(BS, {"time_transformer_depth": 2, "freq_transformer_depth": 2}),
    "bs 5 heads of 24": Oracle(BS, {"heads": 5, "dim_head": 24}),
    "mel": Oracle(MEL),
    "mel depth 1 masks": Oracle(MEL, {"mask_estimator_depth": 1}),
    "mel mono": Oracle(MEL, {"stereo": False}),
    "mel two stems": Oracle(MEL, stems=("Vocals", "Instrumental")),
    "mel depth 3 masks": Oracle(MEL, {"mask_estimator_depth": 3}),
    "mel hop 882 skip": Oracle(MEL, {"stft_hop_length": 882, "skip_connection": True}, chunk=8820),
    "mel 64 bands": Oracle(MEL, {"num_bands": 64}),
    "mel 128 bands": Oracle(MEL, {"num_bands": 128}),
    "mel 48 kHz": Oracle(MEL, {"stft_hop_length": 512}, sample_rate=48000, chunk=8192),
    "mel without zero_dc": Oracle(MEL, {"zero_dc": False}),
    "mel matched length": Oracle(MEL, {"match_input_audio_length": True}, chunk=8000),
}  # fmt: skip


def resolved(oracle: Oracle, state: dict[str, torch.Tensor], folder: Path) -> ModelConfig:
    _, config = oracle.write(folder)
    return resolve_config(Checkpoint(folder / "model.ckpt", "0" * 64, "", dict(state), {}), yaml=config)


def through_network(network: torch.nn.Module, model: ModelConfig, chunk: np.ndarray) -> np.ndarray:
    """STFT, our network, inverse STFT: (channels, samples) -> (stems, channels, samples)."""
    stft = Stft(model.network.n_fft, model.network.hop_length)
    transform = Spectrogram(stft, chunk.shape[1])
    with torch.inference_mode():
        return transform.inverse(network(torch.from_numpy(transform.forward(chunk))[None]).numpy()[0])


@pytest.mark.parametrize("name", VARIANTS)
def test_equals_the_oracle(name: str, tmp_path: Path) -> None:
    oracle = VARIANTS[name]
    reference = oracle.network()
    state = dict(reference.state_dict())
    model = resolved(oracle, state, tmp_path)
    # Without match_input_audio_length the reference returns whole hops only.
    samples = oracle.chunk if oracle.kwargs.get("match_input_audio_length") or oracle.family == BS else (
        oracle.chunk // model.network.hop_length * model.network.hop_length
    )  # fmt: skip
    chunk = song(2 if oracle.kwargs["stereo"] else 1, samples)
    wanted = oracle.audio(reference, chunk)
    network = Roformer(model.network, state, 1 + samples // model.network.hop_length)
    assert not state
    assert snr_db(wanted, through_network(network, model, chunk)) > 100


def test_stored_tables_of_roformer_sw(tmp_path: Path) -> None:
    """The first serialisation: cos and sin as tensors, biases under other names, fp16 weights."""
    oracle = Oracle(BS, {"use_shared_bias": True})
    reference = oracle.network()
    whole = reference.state_dict()
    half = {k: v.half() for k, v in whole.items() if "rotary_embed" not in k}
    reference.load_state_dict({**whole, **half})
    state = {k: v for k, v in half.items() if not k.endswith(("to_qkv.bias", "to_out.0.bias"))}
    state["shared_qkv_bias"] = state.pop("linear_62_bias_0")
    state["shared_out_bias"] = state.pop("linear_64_bias_0")
    frequencies = reference.state_dict()["layers.0.0.layers.0.0.rotary_embed.freqs"]
    for axis, rows in (("time", 200), ("freq", 32)):
        angles = (torch.arange(rows)[:, None] * frequencies[None]).repeat_interleave(2, dim=-1)
        state[f"cos_emb_{axis}"], state[f"sin_emb_{axis}"] = angles.cos(), angles.sin()
    _, config = Oracle(BS, {"use_shared_bias": True}).write(tmp_path)
    model = resolve_config(Checkpoint(tmp_path / "sw.ckpt", "0" * 64, "", dict(state), {}), yaml=config)
    assert (model.network.positions, model.network.shared_bias) == ("tables", "shared_qkv")
    chunk = song(2, oracle.chunk)
    network = Roformer(model.network, state, 1 + oracle.chunk // 64)
    assert snr_db(oracle.audio(reference, chunk), through_network(network, model, chunk)) > 100
    with pytest.raises(CheckpointError, match="200 time steps, the chunk needs 201"):
        Roformer(model.network, dict(_with_tables(frequencies)), 201)


def _with_tables(frequencies: torch.Tensor) -> dict[str, torch.Tensor]:
    rows = torch.zeros(200, 2 * len(frequencies))
    return {"cos_emb_time": rows, "sin_emb_time": rows, "cos_emb_freq": rows[:32], "sin_emb_freq": rows[:32]}


@pytest.mark.parametrize(
    ("form", "least_db"), [(PLAIN, 100), (tensorrt_form("fp16"), 50)], ids=["fp32", "fp16"]
)
@pytest.mark.parametrize("length", [1, 50])
def test_linear_attention_equals_its_equations(length: int, form: Form, least_db: float) -> None:
    """pymss-core has no linear attention: its definition, written out."""
    torch.manual_seed(0)
    dim, heads, width = 24, 3, 8
    state = {
        "a.norm.gamma": torch.rand(dim) + 0.5,
        "a.to_qkv.0.weight": torch.randn(3 * heads * width, dim),
        "a.temperature": 0.3 * torch.randn(heads, 1, 1),
        "a.to_out.1.weight": torch.randn(dim, heads * width),
    }
    x = torch.randn(2, length, dim)
    normed = F.normalize(x, dim=-1) * dim**0.5 * state["a.norm.gamma"]
    qkv = (normed @ state["a.to_qkv.0.weight"].T).view(2, length, 3, heads, width)
    q, k, v = (qkv[:, :, i].permute(0, 2, 3, 1) for i in range(3))
    q, k = F.normalize(q, dim=-1) * state["a.temperature"].exp(), F.normalize(k, dim=-1)
    attended = torch.softmax(8 * torch.einsum("bhin,bhjn->bhij", q, k), dim=-1) @ v
    wanted = attended.permute(0, 3, 1, 2).reshape(2, length, -1) @ state["a.to_out.1.weight"].T
    layer = LinearAttention(Weights(dict(state)), "a", dim=dim, heads=heads, dim_head=width, form=form)
    assert snr_db(wanted.numpy(), layer(x).float().numpy()) > least_db


def test_linear_attention_runs_before_time_and_skips(tmp_path: Path) -> None:
    """With zero weights in the output of linear attention and its feed-forward, it changes nothing."""
    oracle = Oracle(BS)
    reference = oracle.network()
    dim, inner = SMALL["dim"], SMALL["heads"] * SMALL["dim_head"]
    shifted = {}
    for key, value in reference.state_dict().items():
        parts = key.split(".")
        if parts[0] == "layers":
            parts[2] = str(int(parts[2]) + 1)
        shifted[".".join(parts)] = value
    for i in range(SMALL["depth"]):
        block = f"layers.{i}.0.layers.0"
        shifted |= {
            f"{block}.0.norm.gamma": torch.ones(dim), f"{block}.0.temperature": torch.ones(2, 1, 1),
            f"{block}.0.to_qkv.0.weight": torch.randn(3 * inner, dim),
            f"{block}.0.to_out.1.weight": torch.zeros(dim, inner),
            f"{block}.1.net.0.gamma": torch.ones(dim), f"{block}.1.net.1.weight": torch.randn(4 * dim, dim),
            f"{block}.1.net.1.bias": torch.randn(4 * dim),
            f"{block}.1.net.4.weight": torch.zeros(dim, 4 * dim),
            f"{block}.1.net.4.bias": torch.zeros(dim),
        }  # fmt: skip
    oracle = Oracle(BS, {"linear_transformer_depth": 1})
    config = Oracle(BS).yaml()
    config["model"]["linear_transformer_depth"] = 1
    path = tmp_path / "linear.yaml"
    path.write_text(yaml.safe_dump(config))
    model = resolve_config(Checkpoint(tmp_path / "l.ckpt", "0" * 64, "", dict(shifted), {}), yaml=path)
    assert model.network.linear_depth == 1
    chunk = song(2, oracle.chunk)
    network = Roformer(model.network, shifted, 1 + oracle.chunk // 64)
    assert snr_db(oracle.audio(reference, chunk), through_network(network, model, chunk)) > 100


@pytest.mark.parametrize(
    ("frames", "angle_error", "cos_error"), [(62, 0.010, 0.009), (801, 0.334, 0.330), (1151, 0.432, 0.421)]
)
def test_angles_of_rotary_0_3_5_under_autocast(frames: int, angle_error: float, cos_error: float) -> None:
    """Maximum errors against exact angles, computed for the public networks by other means."""
    frequencies = 10000.0 ** (-torch.arange(0, 64, 2) / 64)
    exact, rounded = rotary_table(frequencies, frames), rotary_table(frequencies, frames, "amp-0.3.5")
    assert (exact.cos - rounded.cos).abs().max() == pytest.approx(cos_error, abs=2e-3)
    wrapped = torch.atan2(rounded.sin, rounded.cos) - torch.atan2(exact.sin, exact.cos)
    error = torch.remainder(wrapped + torch.pi, 2 * torch.pi) - torch.pi
    assert error.abs().max() == pytest.approx(angle_error, abs=2e-3)


def test_every_bad_key_is_named_at_once(tmp_path: Path) -> None:
    oracle = Oracle(BS)
    state = dict(oracle.network().state_dict())
    model = resolved(oracle, state, tmp_path)
    del state["final_norm.gamma"]
    state["band_split.to_features.3.1.weight"] = torch.zeros(1, 2)
    state["layers.0.0.surprise"] = torch.zeros(1)
    with pytest.raises(CheckpointError) as error:
        Roformer(model.network, state, 126)
    assert "missing: final_norm.gamma" in str(error.value)
    assert "band_split.to_features.3.1.weight is 1x2, should be 32x8" in str(error.value)
    assert "unexpected: layers.0.0.surprise" in str(error.value)


def test_silence_stays_silent(tmp_path: Path) -> None:
    oracle = Oracle(MEL)
    state = dict(oracle.network().state_dict())
    model = resolved(oracle, state, tmp_path)
    network = Roformer(model.network, state, 10)
    with torch.inference_mode():
        assert (network(torch.zeros(1, 2, 10, 1025, 2)) == 0).all()
