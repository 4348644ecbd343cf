"""The plain network against pymss-core's, option by option, from public state dicts."""

import pytest
import torch
import torch.nn.functional as F
from oracle import Oracle, snr_db, song

from rofo.benchmarks.shapes import BANDS
from rofo.dsp.spectrogram import Spectrogram
from rofo.export.errors import CheckpointError
from rofo.export.families.roformer.network import LinearAttention, Rotary
from rofo.manifest import Stft

BS, MEL = "bs_roformer", "mel_band_roformer"

VARIANTS = {
    "bs": Oracle(BS),
    "bs mono": Oracle(BS, {"stereo": False}),
    "bs three stems": Oracle(BS, stems=("drums", "bass", "other")),
    "bs hop 441": Oracle(BS, {"stft_n_fft": 2048, "stft_win_length": 2048, "stft_hop_length": 441,
                              "freqs_per_bands": BANDS}),
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


def stems(loaded, chunk):
    """STFT, the plain network, inverse STFT: (channels, samples) -> (stems, channels, samples)."""
    stft = Stft(loaded.facts["n_fft"], loaded.facts["hop_length"])
    transform = Spectrogram(stft, chunk.shape[1])
    with torch.inference_mode():
        return transform.inverse(loaded.network(torch.from_numpy(transform.forward(chunk))[None]).numpy()[0])


@pytest.mark.parametrize("name", VARIANTS)
def test_equals_the_oracle(name, load):
    oracle = VARIANTS[name]
    loaded, samples = load(oracle), oracle.chunk
    if oracle.family == MEL and not oracle.kwargs.get("match_input_audio_length"):
        samples -= samples % loaded.facts["hop_length"]  # the reference returns whole hops only
    chunk = song(loaded.facts["channels"], samples)
    assert snr_db(oracle.audio(oracle.network(), chunk), stems(loaded, chunk)) > 110


def test_stored_tables_of_roformer_sw(load):
    """The first serialisation: cos and sin as tensors, biases under other names, fp16 weights."""
    oracle = Oracle(BS, {"use_shared_bias": True})
    reference = oracle.network()
    half = {k: v.half() for k, v in reference.state_dict().items() if "rotary_embed" not in k}
    reference.load_state_dict({**reference.state_dict(), **half})
    state = {k: v for k, v in half.items() if not k.endswith(("to_qkv.bias", "to_out.0.bias"))}
    state["shared_qkv_bias"] = state.pop("linear_62_bias_0")
    state["shared_out_bias"] = state.pop("linear_64_bias_0")
    frequencies = reference.state_dict()["layers.0.0.layers.0.0.rotary_embed.freqs"]
    for axis, rows in (("time", 200), ("freq", 32)):
        angles = (torch.arange(rows)[:, None] * frequencies[None]).repeat_interleave(2, dim=-1)
        state[f"cos_emb_{axis}"], state[f"sin_emb_{axis}"] = angles.cos(), angles.sin()
    loaded = load(oracle, state)
    assert (loaded.facts["table_frames"], loaded.facts["shared_bias"]) == (200, "shared_qkv")
    chunk = song(2, oracle.chunk)
    assert snr_db(oracle.audio(reference, chunk), stems(loaded, chunk)) > 110


def test_linear_attention_without_output_changes_nothing(load, with_linear_attention):
    oracle, chunk = Oracle(BS), song(2, Oracle(BS).chunk)
    wanted = oracle.audio(oracle.network(), chunk)
    loaded = load(oracle, with_linear_attention(oracle, 0.0), linear_transformer_depth=1)
    assert loaded.facts["linear_transformer_depth"] == 1
    assert snr_db(wanted, stems(loaded, chunk)) > 110
    assert snr_db(wanted, stems(load(oracle, with_linear_attention(oracle, 1.0)), chunk)) < 40


@pytest.mark.parametrize("length", [1, 50])
def test_linear_attention_equals_its_equations(length):
    """pymss-core has no linear attention: its definition, written out."""
    torch.manual_seed(0)
    dim, heads, width = 24, 3, 8
    state = {
        "norm.gamma": torch.rand(dim) + 0.5,
        "to_qkv.0.weight": torch.randn(3 * heads * width, dim),
        "temperature": 0.3 * torch.randn(heads, 1, 1),
        "to_out.1.weight": torch.randn(dim, heads * width),
    }
    x = torch.randn(2, length, dim)
    normed = F.normalize(x, dim=-1) * dim**0.5 * state["norm.gamma"]
    qkv = (normed @ state["to_qkv.0.weight"].T).view(2, length, 3, heads, width)
    q, k, v = (qkv[:, :, i].permute(0, 2, 3, 1) for i in range(3))
    q, k = F.normalize(q, dim=-1) * state["temperature"].exp(), F.normalize(k, dim=-1)
    attended = torch.softmax(8 * torch.einsum("bhin,bhjn->bhij", q, k), dim=-1) @ v
    wanted = attended.permute(0, 3, 1, 2).reshape(2, length, -1) @ state["to_out.1.weight"].T
    layer = LinearAttention(dim, heads, width)
    layer.load_state_dict(state)
    assert snr_db(wanted.numpy(), layer(x).detach().numpy()) > 110


@pytest.mark.parametrize(
    ("frames", "angle_error", "cos_error"), [(62, 0.010, 0.009), (801, 0.334, 0.330), (1151, 0.432, 0.421)]
)
def test_angles_of_rotary_0_3_5_under_autocast(frames, angle_error, cos_error):
    """Maximum errors against exact angles, computed for the public networks by other means."""
    tables = []
    for precision in ("exact", "amp-0.3.5"):
        rotary = Rotary(64, precision)
        rotary.freqs = 10000.0 ** (-torch.arange(0, 64, 2) / 64)
        tables.append(rotary.table(frames))
    (exact_cos, exact_sin), (cos, sin) = tables
    assert (exact_cos - cos).abs().max() == pytest.approx(cos_error, abs=2e-3)
    wrapped = torch.atan2(sin, cos) - torch.atan2(exact_sin, exact_cos)
    error = torch.remainder(wrapped + torch.pi, 2 * torch.pi) - torch.pi
    assert error.abs().max() == pytest.approx(angle_error, abs=2e-3)


def test_every_bad_key_is_named_at_once(load):
    oracle = Oracle(BS)
    state = dict(oracle.network().state_dict())
    del state["layers.1.0.layers.0.0.norm.gamma"]
    state["final_norm.gamma"] = torch.zeros(5)
    state["layers.0.0.surprise"] = torch.zeros(1)
    with pytest.raises(CheckpointError) as error:
        load(oracle, state)
    assert "missing: layers.1.0.layers.0.0.norm.gamma" in str(error.value)
    assert "final_norm.gamma is 5, should be 32" in str(error.value)
    assert "unexpected: layers.0.0.surprise" in str(error.value)


@pytest.mark.parametrize("key", ["linear_64_bias_0", "linear_62_bias_0"])
def test_a_shared_bias_that_does_not_fit_is_named(key, load):
    oracle = Oracle(BS, {"use_shared_bias": True})
    state = dict(oracle.network().state_dict()) | {key: torch.zeros(7)}
    with pytest.raises(CheckpointError, match="bias is 7, should be"):
        load(oracle, state)


def test_bands_of_a_broken_table_are_named(load):
    oracle = Oracle(BS)
    state = dict(oracle.network().state_dict())
    state = {key: value for key, value in state.items() if "rotary" not in key}
    state |= {"cos_emb_time": torch.zeros(200, 16), "cos_emb_freq": torch.zeros(3, 16)}
    with pytest.raises(CheckpointError) as error:
        load(oracle, state)
    assert "rotary_embed.sin" in str(error.value)
    assert "layers.0.1.layers.0.0.rotary_embed.cos is 3x16, should be 21x16" in str(error.value)


def test_silence_stays_silent(load, run):
    loaded = load(Oracle(MEL))
    assert not run(loaded.network, torch.zeros(loaded.shape)).any()
