"""What is known of a BSRNN from its weights and its hyper-parameters, and what is refused."""

import sys
from types import ModuleType

import pytest
import torch
from loaded import described

from rofo.errors import UsageError
from rofo.export import CheckpointError
from rofo.export.families.bsrnn import Bsrnn
from rofo.export.families.bsrnn.network import Bsrnn as Network
from rofo.export.families.bsrnn.network import Separator, Sizes
from rofo.export.graph.types import Form

SIZES = Sizes(8, 2, "gru", "conv", n_att_head=2, attn_enc_dim=3)
BANDS = (8, 8, 12, 5)
HYPER_PARAMETERS = {"target": "bass", "n_hop": 16, "sample_rate": 32000, "eval_segment_len": 4.0,
                    "eval_overlap": 0.25, "eps": 1e-5, "attn_enc_dim": 3}  # fmt: skip


def write(folder, network=None, *, drop="", extra=None, name="model.ckpt", **hyper_parameters):
    state = (network or Network(SIZES, BANDS, 1)).state_dict()
    state = {key: value for key, value in state.items() if not drop or drop not in key} | (extra or {})
    torch.save({"state_dict": state, "hyper_parameters": hyper_parameters}, folder / name)
    return folder / name


def test_the_weights_say_all_but_the_hop(tmp_path):
    facts = described(write(tmp_path)).facts
    said = {name: facts[name] for name in facts if facts.origin(name) == "weights"}
    assert said.pop("bands") == (BANDS,)
    assert said == {"architecture": "bsrnn", "n_fft": 64, "num_stems": 1, "feature_dim": 8, "num_repeat": 2,
                    "time_layer": "gru", "band_layer": "conv", "n_att_head": 2, "attn_enc_dim": 3,
                    "fac_sep": 2, "fac_mask": 4}  # fmt: skip
    assert (facts["hop_length"], facts["sample_rate"], facts["chunk"]) == (512, 44100, 529200)


def test_hyper_parameters_say_the_rest(tmp_path):
    facts = described(write(tmp_path, **HYPER_PARAMETERS)).require()
    assert (facts["stems"], facts["hop_length"], facts["eps"]) == (("bass",), 16, 1e-5)
    assert (facts["chunk"], facts["overlap"]) == (6 * 32000, 1 / 6)


def test_hydras_objects_are_left_unread(tmp_path, monkeypatch):
    module = ModuleType("omegaconf.dictconfig")
    module.DictConfig = type("DictConfig", (), {"__module__": module.__name__, "__qualname__": "DictConfig"})
    monkeypatch.setitem(sys.modules, "omegaconf", ModuleType("omegaconf"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    path = write(tmp_path, **HYPER_PARAMETERS, cfg_optim=module.DictConfig())
    assert described(path).config["cfg_optim"] == "not read"


@pytest.mark.parametrize(
    ("hyper_parameters", "said"),
    [
        ({"feature_dim": 16}, "feature_dim is 16 but 8 in the weights"),
        ({"n_heads": 2}, "a BSRNN with n_heads 2 is not supported yet"),
        ({"group_num": 4}, "a BSRNN with group_num 4 is not supported yet"),
        ({"mask_ctxt": 1}, "a BSRNN with mask_ctxt 1 is not supported yet"),
        ({"stereo": "naive"}, "a BSRNN with stereo naive is not supported yet"),
        ({"swing": 2}, "unknown arguments of the network: swing"),
        ({"n_hop": "16"}, "hyper_parameters.n_hop is '16', not a positive whole number"),
        ({"eps": -1}, "eps is -1, not a number above zero"),
        ({"targets": ["a", "b"]}, r"2 stems \(a, b\) but 1 in the weights"),
    ],
)
def test_what_cannot_be_is_told(hyper_parameters, said, tmp_path):
    with pytest.raises(CheckpointError, match=said):
        described(write(tmp_path, **{"target": "bass", **hyper_parameters})).require()


def test_a_stem_without_a_name_is_missing(tmp_path):
    with pytest.raises(CheckpointError, match=r"names of its stem\(s\) in order \(--stems\)"):
        described(write(tmp_path)).require()


def test_layers_in_one_direction_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="recurrent layers in one direction: not supported yet"):
        described(write(tmp_path, drop="_reverse"))


def test_both_channels_in_a_band_are_refused(tmp_path):
    extra = {"stft.transf.window": torch.hann_window(32)}
    network = Network(Sizes(8, 1, "conv", "conv"), (8, 8, 12, 6), 1)
    with pytest.raises(CheckpointError, match=r"both channels in one band \(stereo naive\): not supported"):
        described(write(tmp_path, network, extra=extra))


def test_targets_of_different_make_are_refused(tmp_path):
    network = Separator(SIZES, {"vocals": BANDS, "bass": BANDS})
    other = Separator(Sizes(8, 2, "lstm", "conv", 2, 3), {"bass": BANDS}).state_dict()
    with pytest.raises(CheckpointError, match="bass differs from other targets in time_layer"):
        described(write(tmp_path, network, extra=dict(other)))


def test_attention_has_no_type_of_its_own():
    with pytest.raises(UsageError, match="--attention is for networks that have fused attention"):
        Bsrnn().engine(Network(SIZES, BANDS, 1), None, Form("tensorrt", "fp16", "bf16"))
