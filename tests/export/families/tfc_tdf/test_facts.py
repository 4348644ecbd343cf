"""What is known of a TFC-TDF v3: from its weights, its yaml, the catalogue and options."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from loaded import described
from mdx_oracle import TfcOracle

from rofo.export import families
from rofo.export.catalogue import Entry
from rofo.export.errors import CheckpointError
from rofo.export.families import find_family
from rofo.export.source import Source

PLAIN = {
    "architecture": "tfc_tdf_v3", "packed": 16, "sub_bins": 64, "num_stems": 2, "num_channels": 8,
    "growth": 6, "num_scales": 2, "num_blocks_per_scale": 2, "bottleneck_factor": 4, "scale": (2, 2),
    "norm": None,
}  # fmt: skip
OTHERS: dict[str, Any] = {
    "scale": (1, 2), "num_scales": 3, "num_blocks_per_scale": 1, "bottleneck_factor": 2, "num_channels": 5,
    "growth": 3,
}  # fmt: skip
WEIGHTS: dict[str, tuple[TfcOracle, dict[str, Any]]] = {
    "plain": (TfcOracle(), {}),
    "BatchNorm": (TfcOracle({"norm": "BatchNorm"}), {"norm": "BatchNorm"}),
    "mono": (TfcOracle(channels=1), {"packed": 8}),
    "two bands": (TfcOracle({"num_subbands": 2}), {"packed": 8, "sub_bins": 128}),
    "one stem": (TfcOracle(stems=("vocals",)), {"num_stems": 1}),
    "others": (TfcOracle({**OTHERS, "scale": [1, 2]}), OTHERS),
}


def changed(
    folder: Path, section: str, change: dict[str, Any], oracle: TfcOracle | None = None
) -> tuple[Path, Path]:
    """A checkpoint and a yaml that differs."""
    oracle = oracle or TfcOracle()
    checkpoint, config = oracle.write(folder)
    told = oracle.yaml()
    told[section] |= change
    config.write_text(yaml.safe_dump(told))
    return checkpoint, config


def refused(path: Path, *patterns: str, config: Path | None = None, **options: Any) -> None:
    with pytest.raises(CheckpointError) as caught:
        described(path, config, **options).require()
    text = str(caught.value)
    assert text.startswith(str(config or path)) and "\n" not in text
    assert all(pattern in text for pattern in patterns), text


@pytest.mark.parametrize("name", WEIGHTS)
def test_everything_that_weights_decide(name: str) -> None:
    oracle, other = WEIGHTS[name]
    source = Source(Path("model.ckpt"), "", "", dict(oracle.network().state_dict()))
    family = find_family(source)
    assert (family.name, family.weights(source)) == ("tfc_tdf", {**PLAIN, **other})


def test_an_msst_yaml_means_msst(tmp_path: Path) -> None:
    oracle = TfcOracle()
    facts = described(*oracle.write(tmp_path)).require()
    assert (facts["scheme"], facts["overlap"], facts["chunk"]) == ("fade", 0.75, oracle.chunk)
    assert (facts["stems"], facts.get("residual"), facts["normalize"]) == (("vocals", "other"), None, False)
    assert (facts["num_subbands"], facts["dim_f"]) == (4, 256)
    assert find_family(Source(Path(), "", "", oracle.network().state_dict())).msst_type(facts) == "mdx23c"


def test_another_scheme_reckons_its_chunk_from_dim_t(tmp_path: Path) -> None:
    files = changed(tmp_path, "audio", {"chunk_size": 7777})
    assert described(*files).facts["chunk"] == 7777
    facts = described(*files, scheme="rectangular").require()
    assert (facts["scheme"], facts["overlap"], facts["chunk"]) == ("rectangular", 0.75, TfcOracle().chunk)
    assert described(*files, chunk_seconds=31 * 64 / 44100).facts["chunk"] == 31 * 64
    assert described(*files, scheme="rectangular", chunk_seconds=31 * 64 / 44100).facts["chunk"] == 31 * 64


def test_a_target_instrument_is_the_only_stem(tmp_path: Path) -> None:
    facts = described(*TfcOracle(stems=("vocals",)).write(tmp_path)).require()
    assert (facts["stems"], facts["residual"]) == (("vocals",), "instrumental")


def test_a_known_file_is_used_as_uvr_uses_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, config = TfcOracle().write(tmp_path)
    known = {
        "architecture": "tfc_tdf_v3",
        "scheme": "rectangular",
        "n_fft": 640,
        "hop_length": 64,
        "dim_t": 16,
    }
    entry = Entry("some.yaml", {**known, "stems": ("music", "speech")})
    monkeypatch.setattr(families, "find_entry", lambda *_: entry)
    facts = described(checkpoint).require()
    assert (facts["scheme"], facts.get("overlap"), facts["chunk"]) == ("rectangular", None, 15 * 64)
    assert described(checkpoint, config).require()["scheme"] == "fade"


def test_an_unknown_one_without_a_yaml_says_what_it_lacks(tmp_path: Path) -> None:
    checkpoint, _ = TfcOracle().write(tmp_path)
    refused(checkpoint, "--n-fft", "--hop-length", "--chunk", "--stems", "--config")
    given = {"n_fft": 640, "hop_length": 64, "chunk_seconds": 960 / 44100, "stems": ("a", "b")}
    facts = described(checkpoint, **given).require()
    assert (facts["chunk"], facts["scheme"]) == (960, "fade")
    refused(
        checkpoint, "choose --chunk 0.021769, which has 16 frames", **{**given, "chunk_seconds": 896 / 44100}
    )


@pytest.mark.parametrize(
    ("section", "change", "pattern"),
    [
        ("model", {"growth": 7}, "growth is 7 but 6 in the weights"),
        ("model", {"scale": [2, 4]}, "scale is [2, 4] but [2, 2] in the weights"),
        ("model", {"num_subbands": 2}, "num_subbands is 2 but 4 in the weights"),
        ("model", {"dim": 7, "name": "epoch_10.ckpt", "num_scales": None}, "unknown model options dim;"),
        ("model", {"act": "swish"}, "act is 'swish', known are gelu, relu and eluA with a number A"),
        ("model", {"act": "elu"}, "act is 'elu', known are"),
        ("model", {"norm": "LayerNorm"}, "norm is 'LayerNorm', known are InstanceNorm, BatchNorm"),
        ("model", {"norm": "GroupNorm0"}, "norm is 'GroupNorm0', known are"),
        ("model", {"norm": "GroupNorm3"}, "GroupNorm3 cannot divide the 8 channels"),
        ("model", {"norm": "BatchNorm"}, "its BatchNorms have no running_mean"),
        ("training", {"instruments": ["a"]}, "1 stems (a) but 2 in the weights"),
        ("audio", {"hop_length": "x"}, "audio.hop_length is 'x'"),
        ("audio", {"dim_f": 128}, "dim_f is 128 but 256 in the weights"),
        ("audio", {"num_channels": 3}, "num_channels is 3 but the weights have 16 inputs"),
    ],
)
def test_a_yaml_that_does_not_fit_is_refused(
    tmp_path: Path, section: str, change: dict[str, Any], pattern: str
) -> None:
    checkpoint, config = changed(tmp_path, section, change)
    refused(checkpoint, pattern, config=config)


def test_norms_with_statistics_are_batch_norms(tmp_path: Path) -> None:
    oracle = TfcOracle({"norm": "BatchNorm"})
    checkpoint, config = changed(tmp_path, "model", {"norm": "InstanceNorm"}, oracle)
    refused(checkpoint, "norm is 'InstanceNorm' but 'BatchNorm' in the weights", config=config)


def test_sizes_that_cannot_be_divided(tmp_path: Path) -> None:
    refused(*TfcOracle(dim_f=248).write(tmp_path)[:1], "lacks the")
    checkpoint, config = TfcOracle(dim_f=248).write(tmp_path)
    refused(checkpoint, "62 bins do not divide by 4 for 2 scales", config=config)


def test_damage_is_refused_by_key() -> None:
    state = dict(TfcOracle().network().state_dict())
    state["final_conv.2.weight"] = torch.zeros(24, 8, 1, 1)
    source = Source(Path("model.ckpt"), "", "", state)
    with pytest.raises(CheckpointError, match=r"final_conv.2.weight has 24 rows, not a multiple of 16"):
        find_family(source).weights(source)
