"""What is known of an MDX-Net: from its weights, Lightning's hyper-parameters, the catalogue and options."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from loaded import described, load
from mdx_oracle import ConvOracle, write_onnx

from rofo.export import families
from rofo.export.catalogue import Entry
from rofo.export.errors import CheckpointError
from rofo.export.families import find_family
from rofo.export.source import Source

PLAIN = {
    "architecture": "mdx_net", "channels": 2, "num_stems": 1, "n_fft": 160, "dim_c": 4, "dim_f": 64,
    "dim_t": 16, "g": 6, "k": 3, "l": 2, "num_blocks": 5, "bn": 4, "bias": False, "norm": "BatchNorm",
}  # fmt: skip
NO_STFT: dict[str, Any] = {"n_fft": None, "dim_t": None}
WEIGHTS: dict[str, tuple[ConvOracle, dict[str, Any]]] = {
    "plain": (ConvOracle(), {}),
    "old": (ConvOracle(layout="old"), {}),
    "EMA": (ConvOracle(ema=True), NO_STFT),
    "GroupNorm": (ConvOracle({"optimizer": "adamw"}), {"norm": None}),
    "bias": (ConvOracle({"bias": True}), {"bias": True}),
    "one linear layer": (ConvOracle({"bn": 0}), {"bn": 0}),
    "no linear layers": (ConvOracle({"bn": None}), {"bn": "none", "bias": None}),
    "neither they nor the STFT": (
        ConvOracle({"bn": None}, ema=True), {"bn": "none", "bias": None, "dim_f": None, **NO_STFT},
    ),
    "mono": (ConvOracle({"dim_c": 2}), {"channels": 1, "dim_c": 2}),
    "four stems": (ConvOracle(num_stems=4), {"num_stems": 4}),
    "any number of frames": (ConvOracle({"dim_t": 1}), {"dim_t": None}),
    "others": (
        ConvOracle({"num_blocks": 8, "l": 3, "k": 5, "g": 4, "bn": 2, "dim_f": 80}),
        {"num_blocks": 9, "l": 3, "k": 5, "g": 4, "bn": 2, "dim_f": 80},
    ),
}  # fmt: skip
ENTRY = {"architecture": "mdx_net", "n_fft": 2048, "dim_f": 64, "dim_t": 16, "compensate": 1.02}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("given") / "Some_Inst.onnx"
    write_onnx(ConvOracle().network(), path, 64, 16)
    return path


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Entry:
    entry = Entry("a known one", {**ENTRY, "stems": ("instrumental",)})
    monkeypatch.setattr(families, "find_entry", lambda *_: entry)
    return entry


def refused(path: Path, *patterns: str, config: Path | None = None, **options: Any) -> None:
    with pytest.raises(CheckpointError) as caught:
        described(path, config, **options).require()
    text = str(caught.value)
    assert text.startswith(str(config or path)) and "\n" not in text
    assert all(pattern in text for pattern in patterns), text


@pytest.mark.parametrize("name", WEIGHTS)
def test_everything_that_weights_decide(name: str) -> None:
    oracle, other = WEIGHTS[name]
    source = Source(Path("model.ckpt"), "", "", oracle.state(), oracle.hyper)
    family = find_family(source)
    assert (family.name, family.weights(source)) == ("mdx_net", {**PLAIN, **other})
    problems = families.describe(family, source).problems
    assert not problems or name in ("four stems", "any number of frames")


def test_an_onnx_file_says_the_same(given: Path) -> None:
    found = described(given)
    wanted = {**PLAIN, "fixed_frames": 16}
    assert {name: found.facts.get(name) for name in wanted} == {**wanted, "n_fft": None, "dim_t": None}
    refused(given, "--n-fft", "--stem")
    refused(given, "lacks the names of its stem(s) in order (--stems)", n_fft=2048)


def test_what_is_given_by_hand_is_enough(given: Path) -> None:
    found = described(given, n_fft=2048, stems=("drums",), compensate=1.5)
    facts = found.require()
    assert (facts["zero_bins"], facts["compensate"], facts["scheme"]) == (3, 1.5, "hann")
    assert (facts["chunk"], facts.get("overlap"), facts["residual"]) == (15 * 1024, None, "residual")
    assert found.config["command_line"] == {"n_fft": 2048, "stems": ["drums"], "compensate": 1.5}
    json.dumps(found.config)


def test_a_known_file_needs_nothing(given: Path, known: Entry) -> None:
    facts = described(given).require()
    assert (facts["stems"], facts["residual"]) == (("instrumental",), "vocals")
    assert (facts["n_fft"], facts["compensate"], facts["zero_bins"]) == (2048, 1.02, 3)
    assert facts.origin("compensate") == "catalogue"
    assert described(given).config["catalogue"]["name"] == known.name
    assert described(given, compensate=1.0).facts["compensate"] == 1.0


@pytest.mark.parametrize("scheme", ["trim", "outer"])
def test_as_it_was_trained_there_is_no_gain_and_no_silent_bin(given: Path, known: Entry, scheme: str) -> None:
    facts = described(given, scheme=scheme).require()
    assert (facts["zero_bins"], facts["compensate"]) == (0, 1.0)
    refused(
        given,
        f"--compensate is UVR's gain, which --scheme {scheme} leaves out",
        scheme=scheme,
        compensate=1.1,
    )


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({"zero_dc": True}, "--zero-dc means nothing for mdx_net"),
        ({"hop_length": 512}, "--hop-length means nothing"),
        ({"stems": ("vocals", "other")}, "2 stems (vocals, other) but 1 in the weights"),
        ({"chunk_seconds": 0.0}, "chunk of 0 samples"),
        ({"chunk_seconds": float("nan")}, "chunk of 0 samples"),
        ({"chunk_seconds": 1.0}, "made for 16 frames, not 44"),
        ({"compensate": 0.0}, "a gain of 0.0"),
        ({"compensate": float("inf")}, "a gain of inf"),
    ],
)
def test_options_that_cannot_be_are_refused(given: Path, options: dict[str, Any], pattern: str) -> None:
    refused(given, pattern, **{"n_fft": 2048, "stems": ("vocals",), **options})


@pytest.mark.parametrize("text", ["{}", "audio: {n_fft: 2048}"])
def test_there_is_no_yaml(given: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "model.yaml").write_text(text)
    refused(given, "has no yaml", config=tmp_path / "model.yaml", n_fft=2048)


def test_hyper_parameters_say_what_a_checkpoint_is_for(tmp_path: Path) -> None:
    oracle = ConvOracle({"target_name": "bass"})
    found = described(oracle.write(tmp_path))
    facts = found.require()
    assert (facts["stems"], facts["residual"], facts["chunk"]) == (("bass",), "residual", oracle.chunk)
    assert (facts["n_fft"], facts["hop_length"]) == (160, 64)
    assert found.config["hyper_parameters"]["target_name"] == "bass"
    assert described(tmp_path / "model.ckpt", stems=("Drums",)).facts["stems"] == ("Drums",)
    assert described(tmp_path / "model.ckpt", chunk_seconds=31 * 64 / 44100).facts["chunk"] == 31 * 64


def test_a_bare_checkpoint_asks_for_what_it_does_not_hold(tmp_path: Path) -> None:
    torch.save(ConvOracle(ema=True).state(), tmp_path / "bare.ckpt")
    refused(tmp_path / "bare.ckpt", "--n-fft", "--stems", "--chunk")


def test_every_contradiction_is_listed(tmp_path: Path) -> None:
    oracle = ConvOracle()
    told = {**oracle.hyper, "dim_c": 2, "dim_f": 32, "n_fft": 128, "num_blocks": 7, "l": 3, "bias": True}
    told |= {"bn": None, "optimizer": "adamw", "g": "x"}
    torch.save({"state_dict": oracle.state(), "hyper_parameters": told}, tmp_path / "m.ckpt")
    problems = "; ".join(described(tmp_path / "m.ckpt").problems)
    for problem in (
        "dim_c is 2 but 4 in the weights", "l is 3 but 2", "bn is 'none' but 4", "dim_f is 32 but 64",
        "n_fft is 128 but 160", "bias is True but False", "num_blocks is 7 but 5",
        "norm is 'GroupNorm2' but 'BatchNorm'", "hyper_parameters.g is 'x', not a positive whole number",
    ):  # fmt: skip
        assert problem in problems, problems


def test_norms_without_statistics(tmp_path: Path) -> None:
    """A dictionary of trained parameters alone is no network; GroupNorm needs a word that it is one."""
    oracle = ConvOracle()
    state = {key: value for key, value in oracle.state().items() if ".running_" not in key}
    torch.save({"state_dict": state, "hyper_parameters": oracle.hyper}, tmp_path / "m.ckpt")
    refused(tmp_path / "m.ckpt", "its BatchNorms have no running_mean")
    assert load(ConvOracle({"optimizer": "adamw"}).write(tmp_path)).facts["norm"] == "GroupNorm2"


def test_sizes_that_cannot_be_halved(tmp_path: Path) -> None:
    path = ConvOracle().write(tmp_path)
    wanted = "18 frames does not divide by 4; choose --chunk 0.021769, which has 16 frames"
    refused(path, wanted, chunk_seconds=17 * 64 / 44100)
    refused(ConvOracle({"dim_f": 62, "bn": 2}).write(tmp_path, "odd"), "62 bins do not divide by 4")
    narrow = ConvOracle({"n_fft": 100, "hop_length": 16}, ema=True).write(tmp_path, "narrow")
    refused(narrow, "the network sees 64 bins, n_fft 100 has 51")


@pytest.mark.parametrize(
    ("key", "tensor", "problem"),
    [
        ("first_conv.0.weight", None, "has no first_conv.0.weight"),
        ("first_conv.0.weight", torch.zeros(6, 3, 1, 1), "first_conv.0.weight is for 3 channels"),
        (
            "final_conv.0.weight",
            torch.zeros(6, 6, 1, 1),
            "final_conv.0.weight has 6 rows, not a multiple of 4",
        ),
        (
            "encoding_blocks.0.tfc.H.0.0.weight",
            torch.zeros(6, 6, 2, 2),
            "a convolution over 2, an even number",
        ),
        ("encoding_blocks.0.tdf.0.weight", torch.zeros(65, 64), "has 64 inputs for 65 outputs"),
        ("window", torch.hamming_window(160), "window is not a Hann window"),
        ("window", torch.tensor(1.0), "window is not a Hann window"),
        ("freq_pad", torch.ones(1, 4, 17, 16), "freq_pad is not a spectrogram of zeros"),
        ("freq_pad", torch.zeros(4), "freq_pad is not a spectrogram of zeros"),
    ],
)
def test_damage_is_refused_by_key(key: str, tensor: torch.Tensor | None, problem: str) -> None:
    state = ConvOracle().state()
    if tensor is None:
        del state[key]
    else:
        state[key] = tensor
    source = Source(Path("model.ckpt"), "", "", state)
    with pytest.raises(CheckpointError, match=problem) as error:
        find_family(source).weights(source)
    assert str(error.value).startswith("model.ckpt: not a whole MDX-Net: ")
