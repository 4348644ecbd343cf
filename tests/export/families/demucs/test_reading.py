"""What is known of a Demucs: from facebook's packages, from MSST's yaml, and what is refused."""

import pytest
import torch
from demucs_packages import save_package, write_msst
from golden.files import read

from rofo import UsageError
from rofo.dsp import make_scheme
from rofo.export import CheckpointError
from rofo.export.families import describe, find_family
from rofo.export.source import read_source

CASES = read("demucs").cases
V4, V3 = CASES["htdemucs"], CASES["hdemucs"]
BANDS = read("demucs_multi").cases


def described(path, config=None, **given):
    source = read_source(path)
    return describe(find_family(source), source, config, given)


def test_a_package_says_everything(tmp_path):
    facts = described(save_package(V4, tmp_path)).require()
    wanted = {
        "architecture": "htdemucs", "sample_rate": 44100, "channels": 2, "stems": ("drums", "vocals"),
        "residual": None, "chunk": 16384, "scheme": "triangular", "normalize": True, "n_fft": 4096,
        "hop_length": 1024, "stft_border": 1536, "t_layers": 3, "t_heads": 4, "bottom_channels": 32,
        "width": 8, "dconv_comp": 8,
    }  # fmt: skip
    assert {name: facts.get(name) for name in wanted} == wanted


def test_a_package_of_v3(tmp_path):
    facts = described(save_package(V3, tmp_path)).require()
    assert (facts["architecture"], facts["depth"], facts["dconv_lstm"]) == ("hdemucs", 6, 4)


def test_members_of_the_first_bags(tmp_path):
    """Magnitudes are told by the weights, the border that is late only by the package."""
    old = read("demucs_old").cases
    magnitudes = described(save_package(old["magnitudes"], tmp_path)).require()
    assert (magnitudes["cac"], magnitudes.get("stft_border_kept")) == (False, None)
    late = described(save_package(old["the old border"], tmp_path)).require()
    assert (late["cac"], late["stft_border_kept"]) == (True, True)


@pytest.mark.parametrize("segment", ["39/5", (39, 5)], ids=["Python 3.11", "Python 3.12"])
def test_a_fraction_of_either_python(segment, tmp_path):
    """Fraction is pickled as its text by Python 3.11, as two numbers by 3.12."""
    path = save_package(V4, tmp_path, segment=segment)
    assert described(path).require()["chunk"] == 343980


@pytest.mark.parametrize("segment", ["1e999999999", "5/0", "many"])
def test_a_hostile_fraction_is_text(segment, tmp_path):
    problems = described(save_package(V4, tmp_path, segment=segment)).problems
    assert any("segment" in problem and "not a number of seconds" in problem for problem in problems)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"klass": "demucs.wdemucs.WDemucs"}, "a Demucs package of demucs.wdemucs.WDemucs: not supported"),
        ({"klass": "demucs.tasnet.ConvTasNet"}, "a Demucs package of demucs.tasnet.ConvTasNet: not"),
        ({"state": {"__quantized": True, "quantized": []}}, "quantised by diffq: not supported"),
    ],
)
def test_other_packages_are_refused_by_name(changes, message, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        read_source(save_package(V4, tmp_path, **changes))


def test_nothing_of_a_package_is_run(tmp_path):
    """Not even where a stand-in's name is called with arguments."""
    path = save_package(V4, tmp_path, called=True)
    assert read_source(path).hyper_parameters["kwargs"]["samplerate"] == 44100


def test_the_yaml_of_msst(tmp_path):
    path, config = write_msst(V4, tmp_path, inference={"num_overlap": 4, "batch_size": 1})
    facts = described(path, config).require()
    assert (facts["scheme"], facts["overlap"], facts["normalize"]) == ("average", 0.75, False)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"cac": False}, "cac is False but True in the weights"),
        ({"wiener_iters": 1}, "htdemucs.wiener_iters is 1, only 0 is supported"),
        ({"t_emb": "cape"}, "htdemucs.t_emb is 'cape', only sin is supported"),
        ({"multi_freqs": [0.5]}, "multi_freqs_bands is 2 but 1 in the weights"),
        ({"t_layers": 5}, "t_layers is 5 but 3 in the weights"),
        ({"gru": True}, "htdemucs.gru is not an option of this network"),
        ({"t_heads": "all"}, "htdemucs.t_heads is 'all', not a number"),
    ],
)
def test_what_is_not_supported_is_named(model, message, tmp_path):
    path, config = write_msst(V4, tmp_path, **model)
    assert any(message in problem for problem in described(path, config).problems)


def test_options_of_bands_beside_no_bands_say_nothing(tmp_path):
    """As MSST's yaml files of Demucs have them."""
    path, config = write_msst(V4, tmp_path, multi_freqs=[], multi_freqs_depth=3)
    assert "multi_freqs_depth" not in described(path, config).require()


def test_where_bands_are_cut_a_package_says_and_how_many_levels_the_weights(tmp_path):
    facts = described(save_package(BANDS["two bands"], tmp_path)).require()
    wanted = {
        "architecture": "hdemucs",
        "multi_freqs": (0.3,),
        "multi_freqs_depth": 2,
        "depth": 6,
        "cac": True,
    }
    assert {name: facts[name] for name in wanted} == wanted
    facts = described(save_package(BANDS["bands of an htdemucs"], tmp_path)).require()
    assert facts["multi_freqs_depth"] == 3


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"multi_freqs": [0.3, 0.6]}, "multi_freqs_bands is 3 but 2 in the weights"),
        ({"multi_freqs": []}, "multi_freqs_bands is 1 but 2 in the weights"),
        ({"multi_freqs": None}, "multi_freqs_bands is 1 but 2 in the weights"),
        ({"multi_freqs_depth": 3}, "multi_freqs_depth is 3 but 2 in the weights"),
        ({"multi_freqs": [1.5]}, "hdemucs.multi_freqs is [1.5], not a list of numbers between 0 and 1"),
        ({"multi_freqs": "low"}, "hdemucs.multi_freqs is 'low', not a list of numbers between 0 and 1"),
        ({"multi_freqs": [0.0001]}, "multi_freqs is [0.0001], which leaves a band of some level no bins"),
        ({"norm_starts": 1}, "multi_freqs_depth is 2, but norm_starts is 1"),
    ],
)
def test_bands_that_the_weights_cannot_have_are_named(model, message, tmp_path):
    path, config = write_msst(BANDS["two bands"], tmp_path, **model)
    assert any(message in problem for problem in described(path, config).problems)


def test_bands_that_nobody_cuts_are_refused(tmp_path):
    path, _ = write_msst(BANDS["two bands"], tmp_path)
    with pytest.raises(CheckpointError, match="2 bands in the weights, but nothing says multi_freqs"):
        described(path, stems=("a", "b"), chunk_seconds=1.0).require()


def test_a_bare_state_dict_needs_stems_and_chunk(tmp_path):
    path, _ = write_msst(V4, tmp_path)
    with pytest.raises(CheckpointError, match=r"--chunk.*--stems"):
        described(path).require()
    assert described(path, stems=("a", "b"), chunk_seconds=1.0).require()["chunk"] == 44100


def test_only_demucs_own_scheme_has_shifts():
    assert len(make_scheme("triangular", 1000, 16, None, 3).leads) == 3
    with pytest.raises(UsageError, match="fade has no shifts"):
        make_scheme("fade", 1000, 16, None, 1)


def test_weights_that_lack_a_branch_are_not_taken_for_demucs(tmp_path):
    path = tmp_path / "time.th"
    torch.save({"encoder.0.0.weight": torch.zeros(8, 2, 8)}, path)
    with pytest.raises(CheckpointError):
        find_family(read_source(path))
