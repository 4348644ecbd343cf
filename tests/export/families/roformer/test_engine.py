"""The engine's form against the plain network: the same stems in every form, in few nodes."""

from collections import Counter

import onnx
import pytest
import torch
from oracle import Oracle, snr_db

from rofo.export.graph.diagnosis import layer_outputs
from rofo.export.graph.trace import write_onnx
from rofo.export.graph.types import Form

BS, MEL = "bs_roformer", "mel_band_roformer"
CASES = {
    "bs of three stems": Oracle(BS, {"skip_connection": True}, stems=("drums", "bass", "other")),
    "bs mono, one mask layer": Oracle(BS, {"stereo": False, "mask_estimator_depth": 1, "zero_dc": False}),
    "bs PoPE": Oracle(BS, {"use_pope": True}),
    "bs shared bias": Oracle(BS, {"use_shared_bias": True}),
    "mel": Oracle(MEL, chunk=4410),
    "mel of two blocks": Oracle(MEL, {"time_transformer_depth": 2, "zero_dc": False}, ("a", "b"), chunk=4410),
    "5 heads of 24": Oracle(BS, {"heads": 5, "dim_head": 24}),
}
FORMS = [
    (Form(), 110), (Form("tensorrt"), 110), (Form("tensorrt", "fp16"), 50),
    (Form("tensorrt", "bf16"), 30), (Form("tensorrt", "fp16", "bf16"), 40),
]  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_every_form_is_the_plain_network(name, load, run):
    loaded = load(CASES[name])
    mix = 10 * torch.randn(loaded.shape, generator=torch.Generator().manual_seed(0))
    wanted = run(loaded.network, mix).numpy()
    for form, least in FORMS:
        engine = loaded.engine(form)
        assert snr_db(wanted, run(engine, mix).numpy()) > least, form
        assert not run(engine, torch.zeros(loaded.shape)).any(), form


def test_weights_of_the_plain_network_stay_as_they_are(load):
    loaded = load(Oracle(BS))
    before = {key: tensor.clone() for key, tensor in loaded.network.state_dict().items()}
    for form, _ in FORMS:
        loaded.engine(form)
    assert all(torch.equal(before[key], tensor) for key, tensor in loaded.network.state_dict().items())


@pytest.mark.parametrize(("form", "least"), [(Form(), 110), (Form("tensorrt", "fp16"), 40)], ids=str)
def test_linear_attention(form, least, load, run, with_linear_attention):
    loaded = load(Oracle(BS), with_linear_attention(Oracle(BS), 1.0))
    mix = 10 * torch.randn(loaded.shape, generator=torch.Generator().manual_seed(0))
    assert snr_db(run(loaded.network, mix).numpy(), run(loaded.engine(form), mix).numpy()) > least


def test_the_graph_for_cpus_has_no_node_too_many(load, tmp_path):
    """One product for q, k, v and gates, one attention, few groups of bands: as many nodes as 0.1.0."""
    loaded = load(Oracle(MEL, {"depth": 1}, chunk=4410))
    write_onnx(loaded.engine(Form()), loaded.tensors(), tmp_path / "m.onnx")
    found = Counter(node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node)
    operators = ("Attention", "MatMul", "RMSNormalization", "Softmax", "Transpose")
    assert [found[name] for name in operators] == [2, 36, 19, 0, 30]


def test_stages_are_the_parts_that_a_diagnosis_compares(load):
    loaded = load(Oracle(BS, {"depth": 1}))
    found = layer_outputs(
        loaded.engine(Form("tensorrt")), {"mix": torch.zeros(loaded.shape).numpy()}, loaded.family.stages
    )
    assert list(found) == [
        "band_split",
        *(f"layers.0.over_{axis}.blocks.{i}" for axis in ("frames", "bands") for i in (0, 1)),
        "mask_estimators.0",
    ]


def test_attentions_with_equal_angles_share_one_table(load):
    engine = load(Oracle(BS, {"depth": 2})).engine(Form())
    assert len(list(engine.buffers())) == len({id(buffer) for buffer in engine.buffers()})
    tables = [name for name, _ in engine.named_buffers() if name.endswith(("cos", "sin"))]
    assert len(tables) == 4, "of frames and of bands"
