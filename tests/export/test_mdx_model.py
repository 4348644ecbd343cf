"""What an MDX-Net or MDX23C is taken for, and what is said where that cannot be known."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
import yaml
from mdx_oracle import ConvOracle, TfcOracle, write_onnx

from rofo.errors import RofoError, UsageError
from rofo.export.errors import CheckpointError
from rofo.export.export import export
from rofo.export.families.mdx_net import model as mdx_model
from rofo.export.families.mdx_net.catalogue import Mdx23cEntry, MdxNetEntry
from rofo.export.families.roformer.config import Facts
from rofo.export.families.tfc_tdf import model as mdx23c_model
from rofo.export.model_file import make_graphs, read_model, resolve
from rofo.manifest import load_manifest

ENTRY = MdxNetEntry("", n_fft=2048, dim_f=64, dim_t=16, compensate=1.02, stem="instrumental")


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("given") / "Some_Inst.onnx"
    write_onnx(ConvOracle({"dim_f": 64, "dim_t": 16}).network(), path, 64, 16)
    return path


def resolved(path: Path, config: Path | None = None, **facts):
    return resolve(read_model(path, unsafe_pickle=False), yaml=config, facts=Facts(**facts))


def refused(path: Path, *patterns: str, config: Path | None = None, **facts) -> None:
    with pytest.raises(CheckpointError) as caught:
        resolved(path, config, **facts)
    text = str(caught.value)
    assert text.startswith(str(config or path)) and "\n" not in text
    assert all(pattern in text for pattern in patterns), text


def test_an_unknown_onnx_file_says_what_it_is_and_lacks(given):
    refused(given, "an MDX-Net of 64 bins and 16 frames", "tail MD5", "--n-fft", "--stem", "--compensate")
    refused(given, "lacks the name of its stem (--stem)", n_fft=2048)


def test_what_is_given_by_hand_is_enough(given):
    model = resolved(given, n_fft=2048, stems=("drums",), compensate=1.5)
    assert (model.network.zero_bins, model.network.compensate, model.network.dim_f) == (3, 1.5, 64)
    assert (model.chunk, model.scheme, model.overlap) == (15 * 1024, "hann", None)
    assert (model.stems, model.residual) == (("drums",), "residual")
    assert model.source["command_line"] == {"n_fft": 2048, "stems": ["drums"], "compensate": 1.5}
    json.dumps(model.source)


def test_a_known_file_needs_nothing(given, monkeypatch):
    known = dataclasses.replace(ENTRY, tail_md5=read_model(given, unsafe_pickle=False).tail_md5)
    monkeypatch.setattr(mdx_model, "find_mdx_net", lambda md5: known if md5 == known.tail_md5 else None)
    model = resolved(given)
    assert (model.stems, model.residual) == (("instrumental",), "vocals")
    assert (model.network.n_fft, model.network.compensate, model.network.zero_bins) == (2048, 1.02, 3)
    assert model.source["catalogue"]["tail_md5"] == known.tail_md5
    assert resolved(given, compensate=1.0).network.compensate == 1.0


@pytest.mark.parametrize("scheme", ["trim", "outer"])
def test_as_it_was_trained_there_is_no_gain_and_no_silent_bin(given, monkeypatch, scheme):
    monkeypatch.setattr(mdx_model, "find_mdx_net", lambda _: ENTRY)
    network = resolved(given, scheme=scheme).network
    assert (network.zero_bins, network.compensate) == (0, 1.0)
    assert resolved(given, scheme=scheme, compensate=1.1).network.compensate == 1.1


@pytest.mark.parametrize(
    ("facts", "pattern"),
    [
        ({"zero_dc": True}, "--zero-dc means nothing for an MDX-Net"),
        ({"hop_length": 512}, "--hop-length means nothing"),
        ({"stems": ("vocals", "other")}, "has one stem, not vocals, other"),
        ({"chunk": 0.0}, "a chunk of 0.0 s"),
        ({"chunk": float("nan")}, "a chunk of nan s"),
        ({"compensate": 0.0}, "a gain of 0.0"),
        ({"compensate": float("inf")}, "a gain of inf"),
    ],
)
def test_options_that_cannot_be_are_refused(given, facts, pattern):
    refused(given, pattern, **{"n_fft": 2048, "stems": ("vocals",), **facts})


def test_an_onnx_file_has_no_yaml(given, tmp_path):
    (tmp_path / "model.yaml").write_text("{}")
    with pytest.raises(CheckpointError, match="has no yaml"):
        resolved(given, tmp_path / "model.yaml", n_fft=2048)


def test_sizes_that_do_not_suit_the_file_are_refused(given, tmp_path):
    for facts, pattern in (
        ({"chunk": 1.0}, "made for frames 16, not 44"),
        ({"n_fft": 100}, "n_fft 100: an STFT"),
    ):
        with pytest.raises(RofoError, match=pattern):
            export(
                given,
                facts=Facts(**{"n_fft": 2048, "stems": ("v",), **facts}),
                output=tmp_path / "x",
                check=False,
            )
    assert list(tmp_path.iterdir()) == []


def test_lightnings_hyper_parameters_say_what_a_checkpoint_is_for(tmp_path):
    oracle = ConvOracle({"target_name": "bass"})
    model = resolved(oracle.write(tmp_path))
    assert (model.stems, model.residual, model.chunk) == (("bass",), "residual", oracle.chunk)
    assert (model.network.n_fft, model.network.hop_length) == (160, 64)
    assert model.source["hyper_parameters"]["target_name"] == "bass"
    assert resolved(tmp_path / "model.ckpt", stems=("Drums",)).stems == ("Drums",)


def test_a_bare_checkpoint_asks_for_what_it_does_not_hold(tmp_path):
    torch.save(ConvOracle(ema=True).state(), tmp_path / "bare.ckpt")
    refused(tmp_path / "bare.ckpt", "an MDX-Net of 64 bins", "--n-fft", "--stem", "--chunk")


def test_contradictions_of_a_checkpoint_are_listed(tmp_path):
    oracle = ConvOracle()
    torch.save({"state_dict": oracle.state(), "hyper_parameters": {"g": 48, "l": 9}}, tmp_path / "m.ckpt")
    refused(tmp_path / "m.ckpt", "g is 48 but 6 in the weights", "l is 9 but 2")


def test_a_chunk_that_the_scales_do_not_divide_is_refused_with_one_that_they_do(tmp_path):
    path = ConvOracle().write(tmp_path)
    file = read_model(path, unsafe_pickle=False)
    model = resolve(file, yaml=None, facts=Facts(chunk=17 * 64 / 44100))
    with pytest.raises(CheckpointError, match="18"):
        make_graphs(file, model, unsafe_pickle=False)


# MDX23C


def test_an_msst_yaml_means_msst(tmp_path):
    oracle = TfcOracle()
    model = resolved(*oracle.write(tmp_path))
    assert (model.scheme, model.overlap, model.chunk) == ("fade", 0.75, oracle.chunk)
    assert (model.stems, model.residual, model.normalize) == (("vocals", "other"), None, False)


def test_another_scheme_reckons_its_chunk_from_dim_t(tmp_path):
    oracle = TfcOracle()
    checkpoint, config = oracle.write(tmp_path)
    told = oracle.yaml()
    told["audio"]["chunk_size"] = 7777
    config.write_text(yaml.safe_dump(told))
    assert resolved(checkpoint, config).chunk == 7777
    model = resolved(checkpoint, config, scheme="rectangular")
    assert (model.scheme, model.overlap, model.chunk) == ("rectangular", 0.75, oracle.chunk)
    assert resolved(checkpoint, config, chunk=31 * 64 / 44100).chunk == 31 * 64


def test_a_target_instrument_is_the_only_stem(tmp_path):
    model = resolved(*TfcOracle(stems=("vocals",)).write(tmp_path))
    assert (model.stems, model.residual) == (("vocals",), "instrumental")


def test_a_known_mdx23c_is_used_as_uvr_uses_it(tmp_path, monkeypatch):
    checkpoint, _ = TfcOracle().write(tmp_path)
    entry = Mdx23cEntry("some.yaml", (), n_fft=640, hop_length=64, dim_t=16, stems=("music", "speech"))
    monkeypatch.setattr(mdx23c_model, "find_mdx23c", lambda _: entry)
    model = resolved(checkpoint)
    assert (model.scheme, model.overlap, model.chunk) == ("rectangular", None, 15 * 64)
    assert (model.stems, model.residual) == (("music", "speech"), None)


def test_an_unknown_mdx23c_without_a_yaml_says_what_it_lacks(tmp_path):
    checkpoint, _ = TfcOracle().write(tmp_path)
    refused(checkpoint, "--n-fft", "--hop-length", "--chunk", "names of its 2 stem(s)", "--config")
    model = resolved(checkpoint, n_fft=640, hop_length=64, chunk=960 / 44100, stems=("a", "b"))
    assert (model.chunk, model.scheme) == (960, "fade")


@pytest.mark.parametrize(
    ("section", "change", "pattern"),
    [
        ("model", {"growth": 7}, "growth is 7 but 6 in the weights"),
        ("model", {"dim": 7}, "unknown model options dim"),
        ("model", {"act": "swish"}, "act is 'swish'"),
        ("training", {"instruments": ["a"]}, "1 stems (a) but 2 in the weights"),
        ("audio", {"hop_length": "x"}, "audio.hop_length is 'x'"),
    ],
)
def test_a_yaml_that_does_not_fit_is_refused(tmp_path, section, change, pattern):
    oracle = TfcOracle()
    checkpoint, config = oracle.write(tmp_path)
    told = oracle.yaml()
    told[section] |= change
    config.write_text(yaml.safe_dump(told))
    refused(checkpoint, pattern, config=config)


# The mixer


@pytest.fixture(scope="module")
def members(tmp_path_factory) -> list[Path]:
    folder, files = tmp_path_factory.mktemp("members"), []
    for stem in ("bass", "drums", "other", "vocals"):
        path = ConvOracle({"target_name": stem}).write(folder, stem)
        report = export(path, facts=Facts(scheme="trim"), check=False)
        files.append(next(file for file in report.files if file.suffix == ".onnx"))
    torch.save({"mixing_layer.weight": torch.zeros(8, 10)}, folder / "mixer.ckpt")
    torch.save({"linear.weight": torch.zeros(8, 8)}, folder / "small.ckpt")
    return files


def mixed(members: list[Path], name: str = "mixer.ckpt", output: Path | None = None):
    return export(members[0].parent / name, members=members, output=output)


def test_a_mixer_is_a_manifest_beside_its_members(members):
    (path,) = mixed(members).files
    manifest = load_manifest(path)
    assert manifest.stems == ("bass", "drums", "other", "vocals")
    assert [member.manifest for member in manifest.members] == [f"{stem}.json" for stem in manifest.stems]


def test_mixers_that_do_not_fit_are_refused(members, tmp_path):
    with pytest.raises(CheckpointError, match=r"not exactly one for: vocals"):
        mixed(members[:3])
    with pytest.raises(CheckpointError, match=r"not exactly one for: bass"):
        mixed([*members, members[0]])
    with pytest.raises(CheckpointError, match=r"a mixer of \(8, 8\)"):
        mixed(members, "small.ckpt")
    with pytest.raises(UsageError, match="not beside"):
        mixed(members, output=tmp_path / "mixer")
    with pytest.raises(UsageError, match="not a mixer"):
        export(members[0].with_suffix(".ckpt"), members=members)
