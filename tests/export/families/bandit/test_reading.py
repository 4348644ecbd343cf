"""What is known of a Bandit from its weights and its yaml, and what is refused."""

import pytest
import torch
from bandits import CASES, weights, write
from loaded import described, load

from rofo.errors import UsageError
from rofo.export import CheckpointError, ExportOptions, export_checkpoint
from rofo.export.families.bandit import Bandit
from rofo.export.families.bandit.network import Bandit as Network
from rofo.export.families.bandit.network import Sizes
from rofo.export.graph.types import Form

FIRST, SECOND = CASES["bandit, GRU"], CASES["bandit_v2, GRU"]
GIVEN = {"chunk_seconds": 0.1}


def saved(folder, state, **around):
    torch.save({"state_dict": state, **around} if around else state, folder / "model.ckpt")
    return folder / "model.ckpt"


def test_the_yaml_is_not_needed_but_for_the_chunk(tmp_path):
    facts = described(saved(tmp_path, weights(FIRST)), **GIVEN).require()
    assert (facts["sample_rate"], facts["stft_padding"]) == (44100, "constant")
    assert facts["overlap"] == pytest.approx(0.75, abs=1e-3)
    assert facts["stems"] == facts["instruments"] == ("speech", "music")
    assert (facts["rnn_type"], facts["n_sqm_modules"], len(facts["bands"])) == ("GRU", 2, 16)
    assert "residual" not in facts


def test_the_second_version_is_told_by_its_keys(tmp_path):
    facts = described(saved(tmp_path, weights(SECOND)), **GIVEN).require()
    assert (facts["architecture"], facts["sample_rate"], facts["stft_padding"]) == (
        "bandit_v2",
        48000,
        "reflect",
    )


def test_both_versions_have_the_same_bands(tmp_path):
    bands = []
    for case in (FIRST, SECOND):
        bands.append(described(saved(tmp_path, weights(case)), **GIVEN).facts["bands"])
    assert bands[0] == bands[1]
    # As the original's table has them: from the second on a band begins before the one below ends.
    assert bands[0][:4] == ((0, 3), (1, 3), (1, 4), (2, 6)) and sum(bands[0][-1]) == 1025


def test_bands_of_the_mel_scale_leave_the_last_bin_out(tmp_path):
    bands = described(saved(tmp_path, weights(CASES["bandit, mel bands"])), **GIVEN).facts["bands"]
    assert bands[0][0] == 0 and sum(bands[-1]) == 1024


@pytest.mark.parametrize("case", [FIRST, SECOND])
def test_a_file_of_lightning_is_the_same_network(case, tmp_path):
    state = weights(case)
    wanted = load(saved(tmp_path, state), **GIVEN)
    wrapped = {f"model.{key}".replace("tf_model.", "tf_model._orig_mod."): state[key] for key in state}
    path = saved(tmp_path, {**wrapped, "loss_handler.scale": torch.ones(3)}, hyper_parameters={"seed": 1})
    found = load(path, **GIVEN)
    assert found.facts.keys() == wanted.facts.keys()
    assert all(
        torch.equal(a, b)
        for a, b in zip(*(n.network.state_dict().values() for n in (found, wanted)), strict=True)
    )


def test_sorted_keys_only_order_the_stems(tmp_path):
    state = weights(FIRST)
    ordered = dict(sorted(state.items()))
    checkpoint, config = write("bandit, GRU", tmp_path)
    torch.save(ordered, checkpoint)
    assert described(checkpoint, config).require()["stems"] == ("music", "speech")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"emb_dim": 32}, "emb_dim is 32 but 16 in the weights"),
        ({"rnn_type": "LSTM"}, "rnn_type is 'LSTM' but 'GRU' in the weights"),
        ({"n_fft": 1024}, "n_fft is 1024 but 2048 in the weights"),
        ({"win_length": 1024}, "win_length is 1024 but n_fft 2048"),
        ({"pad_mode": "circular"}, "pad_mode is circular, neither constant nor reflect"),
        ({"hidden_activation": "ReLU"}, "a Bandit with hidden_activation ReLU is not supported yet"),
        ({"in_channel": 2}, "a Bandit with in_channel 2 is not supported yet"),
        ({"window_fn": "hamming_window"}, "a Bandit with window_fn hamming_window is not supported yet"),
        ({"use_freq_weights": False}, "use_freq_weights is False but True in the weights"),
        ({"rotary": True}, "unknown options of the model: rotary"),
    ],
)
def test_a_yaml_that_cannot_be_is_refused(options, said, tmp_path):
    with pytest.raises(CheckpointError, match=said):
        described(*write("bandit, GRU", tmp_path, **options)).require()


def test_the_yaml_of_the_other_version_is_refused(tmp_path):
    checkpoint, _ = write("bandit, GRU", tmp_path)
    (tmp_path / "other").mkdir()
    _, config = write("bandit_v2, GRU", tmp_path / "other")
    with pytest.raises(CheckpointError, match="architecture is 'bandit_v2' but 'bandit' in the weights"):
        described(checkpoint, config).require()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"tf_model.seqband.0.tf.linear1.weight": torch.ones(2, 2)}, "with transformers: not supported"),
        ({"tf_model.seqband.0.conv.0.weight": torch.ones(2, 2)}, "with convolutions: not supported"),
        ({"tf_model.seqband.0.0.rnn.weight_hh_l0": torch.ones(2, 2)}, r"parallel layers \(parallel_mode\)"),
        ({"mask_estim.speech.norm_mlp.0.output2.0.weight": torch.ones(2)}, "mult_add_mask"),
        ({"mask_estim.speech.freq_weights/3": torch.full((6,), 0.4)}, "do not add up to 1 in every bin"),
        ({"mask_estim.speech.freq_weights/3": torch.ones(9)}, "not as wide as the bands"),
        ({"mask_estim.speech.norm_mlp.0.output.0.weight": torch.ones(6, 32)}, "real masks"),
        ({"stft.window": torch.ones(2048)}, "stft.window is no Hann window"),
        ({"tf_model.seqband.0.rnn.weight_hh_l0_reverse": None}, "layers in one direction: not supported"),
        ({"tf_model.seqband.0.rnn.weight_hh_l0": torch.ones(16, 16)}, "has 1 gates, neither"),
        ({"tf_model.seqband.1.fc.weight": None}, "missing: tf_model.seqband.1.fc.weight"),
    ],
)  # fmt: skip
def test_weights_of_another_network_are_refused_by_what_it_is(changed, said, tmp_path):
    state = weights(FIRST)
    for name, tensor in changed.items():
        key = name if name.startswith("stft.") else f"bsrnn.{name}"
        if tensor is None:
            del state[key]
        else:
            state[key] = tensor
    with pytest.raises(CheckpointError, match=said):
        load(saved(tmp_path, state), **GIVEN)


def test_an_exported_engine_passes_the_gate_far_above_it(tmp_path):
    # Four bands, a layer along each axis, two stems: tracing takes its time with every operator.
    torch.manual_seed(0)
    sizes = Sizes(64, ((0, 8), (8, 8), (16, 12), (28, 5)), ("speech", "music"), 8, 8, 8, 1, "GRU",
                  parts_first=True, use_freq_weights=False)  # fmt: skip
    torch.save(Network(sizes).state_dict(), tmp_path / "film.ckpt")
    given = {"chunk_seconds": 0.01, "hop_length": 16, "n_fft": 64}
    report = export_checkpoint(tmp_path / "film.ckpt", ExportOptions(given=given))
    stft = report.manifest.stft
    assert (stft.padding, stft.window_normalized, stft.normalized) == ("constant", True, False)
    assert (report.manifest.stems, report.manifest.residual) == (("speech", "music"), None)
    assert report.parity[0].snr_db > 110


def test_attention_is_not_to_be_had():
    network = Network(
        Sizes(64, ((0, 33),), ("voice",), 4, 4, 4, 1, "LSTM", parts_first=False, use_freq_weights=False)
    )
    with pytest.raises(UsageError, match="--attention"):
        Bandit().engine(network, None, Form("tensorrt", "fp16", "bf16"))
