"""Our networks against pymss-core's, option by option, from public state dicts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from golden.checkpoints import state_dict, write_checkpoint
from golden.files import read
from golden.seeded import song as golden_song
from oracle import Oracle, snr_db, song

from rofo.errors import CheckpointError
from rofo.export.checkpoint import Checkpoint
from rofo.export.config import ModelConfig, resolve_config
from rofo.export.networks.form import PLAIN, Form, tensorrt_form
from rofo.export.networks.positions import rotary_table
from rofo.export.networks.roformer import Roformer
from rofo.manifest import Stft
from rofo.spectrogram import Spectrogram

BS, MEL = "bs_roformer", "mel_band_roformer"

NETWORKS = read("msst_roformers").cases


def resolved(oracle: Oracle, state: dict[str, torch.Tensor], folder: Path) -> ModelConfig:
    _, config = oracle.write(folder)
    return resolve_config(Checkpoint(folder / "model.ckpt", "0" * 64, "", dict(state), {}), yaml=config)


def through_network(network: torch.nn.Module, model: ModelConfig, chunk: np.ndarray) -> np.ndarray:
    """STFT, our network, inverse STFT: (channels, samples) -> (stems, channels, samples)."""
    stft = Stft(model.network.n_fft, model.network.hop_length)
    transform = Spectrogram(stft, chunk.shape[1])
    with torch.inference_mode():
        return transform.inverse(network(torch.from_numpy(transform.forward(chunk))[None]).numpy()[0])


def from_msst(name: str, folder: Path, form: Form = PLAIN) -> tuple[np.ndarray, np.ndarray]:
    """What MSST's network gave for a chunk, and what ours of the same weights gives."""
    case = NETWORKS[name]
    _, config = write_checkpoint(case, folder)
    state, wanted = state_dict(case), case.outputs["stems"]
    model = resolve_config(Checkpoint(folder / "model.ckpt", "0" * 64, "", dict(state), {}), yaml=config)
    chunk = golden_song(wanted.shape[-1], wanted.shape[1], silent=(0.7, 1))
    network = Roformer(model.network, state, 1 + model.chunk // model.network.hop_length, form)
    assert not state
    return wanted, through_network(network, model, chunk)


@pytest.mark.parametrize("name", NETWORKS)
def test_equals_msst(name: str, tmp_path: Path) -> None:
    assert snr_db(*from_msst(name, tmp_path)) > 110


@pytest.mark.parametrize("name", ["bs", "bs linear attention", "bs PoPE", "mel"])
def test_half_precision_stays_close_to_msst(name: str, tmp_path: Path) -> None:
    assert snr_db(*from_msst(name, tmp_path, tensorrt_form("fp16"))) > 57


def test_shared_bias_of_roformer_sw(tmp_path: Path) -> None:
    """MSST has no shared bias: pymss-core's."""
    oracle = Oracle(BS, {"use_shared_bias": True})
    reference = oracle.network()
    state = dict(reference.state_dict())
    model = resolved(oracle, state, tmp_path)
    assert (model.network.positions, model.network.shared_bias) == ("rotary", "linear_62")
    chunk = song(2, oracle.chunk)
    network = Roformer(model.network, state, 1 + oracle.chunk // model.network.hop_length)
    assert snr_db(oracle.audio(reference, chunk), through_network(network, model, chunk)) > 100


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
