import json
from pathlib import Path

import pytest
import torch
import yaml
from pymss_core.modules.bs_roformer import BSRoformer, MelBandRoformer

from rofo.export.errors import CheckpointError
from rofo.export.families.roformer.bands import bs_bands, mel_bands
from rofo.export.families.roformer.config import Facts, overlap_fraction, residual_name, resolve_config
from rofo.export.source.checkpoint import Checkpoint

TINY = {
    "dim": 16,
    "depth": 2,
    "stereo": True,
    "num_stems": 1,
    "time_transformer_depth": 1,
    "freq_transformer_depth": 1,
    "heads": 2,
    "dim_head": 4,
    "mask_estimator_depth": 2,
    "mlp_expansion_factor": 2,
}
BS = {
    **TINY,
    "freqs_per_bands": [2, 4, 11, 16],
    "stft_n_fft": 64,
    "stft_hop_length": 16,
    "stft_win_length": 64,
}
MEL = {
    **TINY,
    "num_bands": 8,
    "sample_rate": 44100,
    "stft_n_fft": 128,
    "stft_hop_length": 32,
    "stft_win_length": 128,
}
ENOUGH = Facts(hop_length=16, sample_rate=44100, chunk=0.1, stems=("vocals",))


def bs_state(**options):
    return BSRoformer(**{**BS, **options}).state_dict()


def mel_state(**options):
    options = {**MEL, **options}
    # MSST's Mel counts hidden layers of the mask MLP; pymss has an argument of its own for that.
    return MelBandRoformer(**options, mlp_hidden_layers=options["mask_estimator_depth"]).state_dict()


def with_linear_attention(state, dim=16, heads=2, dim_head=4):
    """Put a linear-attention transformer in front of the two of every layer."""
    moved = {}
    for key, value in state.items():
        parts = key.split(".")
        if parts[0] == "layers":
            parts[2] = str(int(parts[2]) + 1)
        moved[".".join(parts)] = value
    for layer in range(2):
        block = f"layers.{layer}.0.layers.0"
        moved[f"{block}.0.norm.gamma"] = torch.ones(dim)
        moved[f"{block}.0.to_qkv.0.weight"] = torch.ones(3 * heads * dim_head, dim)
        moved[f"{block}.0.temperature"] = torch.ones(heads, 1, 1)
        moved[f"{block}.0.to_out.1.weight"] = torch.ones(dim, heads * dim_head)
        moved[f"{block}.1.net.1.weight"] = torch.ones(4 * dim, dim)
    return moved


def checkpoint(state, name="model.ckpt", sha256="0" * 64, tail_md5="0" * 32, hyper_parameters=None):
    return Checkpoint(Path(name), sha256, tail_md5, state, hyper_parameters or {})


def config(model, **sections):
    """A yaml as people publish it: the authoritative hop under model, a stale one under audio."""
    data = {
        "audio": {"chunk_size": 4096, "hop_length": 999, "dim_t": 801, "n_fft": 2048, "sample_rate": 44100},
        "model": {
            **model,
            "linear_transformer_depth": 0,
            "attn_dropout": 0.1,
            "ff_dropout": 0,
            "flash_attn": True,
            "dim_freqs_in": 1025,
            "stft_normalized": False,
            "multi_stft_resolution_loss_weight": 1.0,
            "multi_stft_resolutions_window_sizes": [4096, 2048],
            "multi_stft_hop_size": 147,
            "multi_stft_normalized": False,
        },
        "training": {"instruments": ["vocals", "other"], "target_instrument": "vocals", "use_amp": True},
        "inference": {"batch_size": 4, "dim_t": 801, "num_overlap": 4},
    }
    for name, values in sections.items():
        data[name] = {**data[name], **values}
    return data


def resolve(tmp_path, state, data, facts=None, **options):
    path = tmp_path / "model.yaml"
    path.write_text(yaml.safe_dump(data))
    return resolve_config(checkpoint(state, **options), yaml=path, facts=facts)


def refused(call, *patterns):
    with pytest.raises(CheckpointError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    for pattern in patterns:
        assert pattern in text
    return text


def test_bs_roformer(tmp_path):
    model = resolve(tmp_path, bs_state(), config(BS))
    network = model.network
    assert network.family == "bs_roformer"
    assert (network.dim, network.depth, network.heads, network.dim_head) == (16, 2, 2, 4)
    assert (network.channels, network.num_stems) == (2, 1)
    assert (network.time_depth, network.freq_depth, network.linear_depth) == (1, 1, 0)
    assert network.bands == bs_bands([2, 4, 11, 16])
    assert (network.mask_layers, network.mlp_expansion, network.ff_mult) == (2, 2, 4)
    assert (network.skip_connection, network.zero_dc) == (False, True)
    assert (network.positions, network.shared_bias, network.rotary_precision) == ("rotary", "none", "exact")
    assert (network.n_fft, network.hop_length, network.stft_normalized) == (64, 16, False)
    assert network.sample_rate == 44100
    assert (model.stems, model.residual) == (("vocals",), "instrumental")
    assert (model.chunk, model.overlap, model.normalize, model.name) == (4096, 0.75, False, "model")


def test_mel_band_roformer(tmp_path):
    model = resolve(tmp_path, mel_state(), config(MEL))
    network = model.network
    assert network.family == "mel_band_roformer"
    assert network.bands == mel_bands(44100, 128, 8)
    assert (network.mask_layers, network.mlp_expansion) == (3, 2), "Mel counts hidden layers"
    assert (network.n_fft, network.hop_length, network.channels) == (128, 32, 2)


@pytest.mark.parametrize("time, freq", [(1, 2), (3, 1)])
@pytest.mark.parametrize("state, base", [(bs_state, BS), (mel_state, MEL)], ids=["bs", "mel"])
def test_transformer_depths_come_from_the_keys(tmp_path, state, base, time, freq):
    depths = {"time_transformer_depth": time, "freq_transformer_depth": freq}
    network = resolve(tmp_path, state(**depths), config({**base, **depths})).network
    assert (network.time_depth, network.freq_depth) == (time, freq)


def test_linear_attention_comes_from_the_keys():
    network = resolve_config(checkpoint(with_linear_attention(bs_state())), facts=ENOUGH).network
    assert (network.linear_depth, network.time_depth, network.freq_depth) == (1, 1, 1)
    assert (network.heads, network.dim_head, network.depth) == (2, 4, 2)


@pytest.mark.parametrize("depth, expansion", [(1, 1), (2, 4), (3, 2)])
def test_both_meanings_of_mask_depth_end_as_linear_layers(tmp_path, depth, expansion):
    options = {"mask_estimator_depth": depth, "mlp_expansion_factor": expansion}
    assert resolve(tmp_path, bs_state(**options), config({**BS, **options})).network.mask_layers == depth
    assert (
        resolve(tmp_path, mel_state(**options), config({**MEL, **options})).network.mask_layers == depth + 1
    )


def test_mono(tmp_path):
    network = resolve(tmp_path, bs_state(stereo=False), config({**BS, "stereo": False})).network
    assert (network.channels, network.n_fft, network.bands) == (1, 64, bs_bands([2, 4, 11, 16]))


@pytest.mark.parametrize(
    ("keys", "positions", "bias"),
    [
        ({}, "rotary", "none"),
        ({"linear_62_bias_0": (24,), "linear_64_bias_0": (16,)}, "rotary", "linear_62"),
        (
            {"shared_qkv_bias": (24,), "shared_out_bias": (16,), "cos_emb_time": (300, 4)},
            "tables",
            "shared_qkv",
        ),
    ],
)
@pytest.mark.parametrize("said", [True, False])
def test_serialisations_of_roformer_sw_are_told_by_keys_whatever_the_yaml_says(
    tmp_path, keys, positions, bias, said
):
    state = bs_state() | {key: torch.zeros(shape) for key, shape in keys.items()}
    network = resolve(tmp_path, state, config({**BS, "use_shared_bias": said})).network
    assert (network.positions, network.shared_bias) == (positions, bias)


def test_pope(tmp_path):
    state = bs_state(use_pope=True)
    assert resolve(tmp_path, state, config({**BS, "use_pope": True})).network.positions == "pope"
    refused(lambda: resolve(tmp_path, state, config({**BS, "use_pope": False})), "use_pope is False but True")


def test_chunk_must_fit_serialised_position_tables(tmp_path):
    state = bs_state() | {"cos_emb_time": torch.zeros(256, 4)}
    refused(lambda: resolve(tmp_path, state, config(BS)), "257 frames in a chunk but 256", "--chunk")
    assert resolve(tmp_path, state, config(BS, audio={"chunk_size": 4095})).chunk == 4095


def test_a_silent_yaml_means_the_defaults_of_msst(tmp_path):
    data = {
        "audio": {"chunk_size": 352800},
        "model": {"dim": 16, "depth": 2},
        "training": {"instruments": ["a", "b"], "target_instrument": "a"},
    }
    state = bs_state(freqs_per_bands=[25, 1000], stft_n_fft=2048, stft_win_length=2048, stft_hop_length=512)
    model = resolve(tmp_path, state, data)
    network = model.network
    assert (network.hop_length, network.n_fft, network.sample_rate) == (512, 2048, 44100)
    assert (network.zero_dc, network.skip_connection, network.stft_normalized) == (True, False, False)
    assert (model.overlap, model.normalize) == (0.5, False)


def test_what_only_the_yaml_knows_is_taken_from_it(tmp_path):
    options = {"zero_dc": False, "skip_connection": True, "stft_normalized": True}
    data = config(BS, audio={"sample_rate": 48000}, inference={"normalize": True, "chunk_size": 6000})
    data["model"] |= options
    model = resolve(tmp_path, bs_state(), data)
    network = model.network
    assert (network.zero_dc, network.skip_connection, network.stft_normalized) == (False, True, True)
    assert network.sample_rate == 48000
    assert (model.chunk, model.normalize) == (6000, True), "inference.chunk_size goes before audio's"


def test_mel_bands_keep_the_models_own_rate(tmp_path):
    network = resolve(tmp_path, mel_state(), config(MEL, audio={"sample_rate": 48000})).network
    assert network.sample_rate == 48000
    assert network.bands == mel_bands(44100, 128, 8)


def test_options_without_effect_are_accepted(tmp_path):
    extra = {"match_input_audio_length": True, "use_torch_checkpoint": True, "sage_attention": True}
    extra |= {"attention_layout": "x", "use_value_residual_learning": False, "num_residual_streams": 1}
    assert resolve(tmp_path, mel_state(), config({**MEL, **extra})).chunk == 4096


def test_the_command_line_goes_before_the_yaml(tmp_path):
    facts = Facts(
        hop_length=8,
        sample_rate=22050,
        chunk=0.5,
        stems=("speech",),
        zero_dc=False,
        skip_connection=True,
        normalize=True,
        rotary="amp-0.3.5",
    )
    model = resolve(tmp_path, bs_state(), config(BS), facts)
    network = model.network
    assert (network.hop_length, network.sample_rate, model.chunk) == (8, 22050, 11025)
    assert (network.zero_dc, network.skip_connection, model.normalize) == (False, True, True)
    assert (model.stems, network.rotary_precision) == (("speech",), "amp-0.3.5")
    assert model.source["command_line"]["stems"] == ["speech"]


def test_source_is_the_yaml_as_json(tmp_path):
    data = config(BS)
    source = resolve(tmp_path, bs_state(), data).source
    assert source == data
    assert json.loads(json.dumps(source)) == source


def test_all_contradictions_are_listed_at_once(tmp_path):
    wrong = {
        "dim": 32,
        "depth": 3,
        "num_stems": 4,
        "heads": 8,
        "dim_head": 64,
        "stereo": False,
        "mask_estimator_depth": 3,
        "mlp_expansion_factor": 4,
        "time_transformer_depth": 2,
        "linear_transformer_depth": 1,
        "freqs_per_bands": [2, 4, 12, 15],
    }
    data = config(BS, training={"target_instrument": None, "instruments": ["a", "b", "c", "d"]})
    data["model"] |= wrong
    text = refused(
        lambda: resolve(tmp_path, bs_state(), data),
        "dim is 32 but 16 in the weights",
        "mlp_expansion_factor is 4 but 2 in the weights",
        "stereo is False but the weights are for 2 channels",
        "freqs_per_bands is [2, 4, 12, 15] but [2, 4, 11, 16] in the weights",
        "4 stems (a, b, c, d) but 1 in the weights",
        "does not fit model.ckpt",
    )
    assert text.startswith(str(tmp_path / "model.yaml"))
    assert all(f"{name} is" in text for name in wrong)


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        ({"num_bands": 9}, "num_bands is 9 but 8 in the weights"),
        (
            {"sample_rate": 48000},
            "bands are those of 48000 Hz and n_fft 128 but those of 44100 Hz and n_fft 128",
        ),
        (
            {"stft_n_fft": 256, "stft_win_length": 256},
            "44100 Hz and n_fft 256 but those of 44100 Hz and n_fft 128",
        ),
        ({"stft_win_length": 64}, "stft_win_length 64 differs from stft_n_fft 128"),
        (
            {"some_new_option": 1, "hyperace_version": 2},
            "unknown model options hyperace_version, some_new_option",
        ),
        ({"num_residual_streams": 4}, "num_residual_streams is not supported"),
        ({"use_value_residual_learning": True}, "use_value_residual_learning is not supported"),
        ({"stft_hop_length": "fast"}, "model.stft_hop_length is 'fast', not a positive whole number"),
        ({"stft_hop_length": 0}, "model.stft_hop_length is 0"),
        ({"stft_hop_length": 65}, "hop length 65 is not between 1 and 64"),
        ({"zero_dc": "maybe"}, "model.zero_dc is 'maybe', not true or false"),
        ({"dim": [16]}, "dim is [16] but 16 in the weights"),
    ],
)
def test_contradictions_and_unknown_options_of_a_mel_yaml(tmp_path, change, pattern):
    refused(lambda: resolve(tmp_path, mel_state(), config({**MEL, **change})), pattern)


def test_yaml_of_the_other_family(tmp_path):
    refused(
        lambda: resolve(tmp_path, mel_state(), config(BS)),
        "it has freqs_per_bands but the weights are of a Mel-",
    )
    refused(
        lambda: resolve(tmp_path, bs_state(), config(MEL)), "it has num_bands but the weights are of a BS-"
    )


def test_yaml_of_another_architecture(tmp_path):
    data = config({"num_subbands": 4, "num_scales": 5, "growth": 128})
    refused(
        lambda: resolve(tmp_path, bs_state(), data),
        "describes TFC-TDF v3 (MDX23C), but model.ckpt holds a BS-Roformer",
    )


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (lambda d: d.pop("model"), "it has no model section"),
        (lambda d: d.pop("audio"), "lacks the chunk length in seconds (--chunk)"),
        (lambda d: d.pop("training"), "lacks the names of its 1 stem(s) in order (--stems)"),
        (lambda d: d.update(audio=3), "audio is 3, not a section"),
        (
            lambda d: d.update(model=3),
            "does not fit model.ckpt: model is 3, not a section; it has no model section;",
        ),
        (
            lambda d: d["training"].update(instruments="vocals"),
            "training.instruments is 'vocals', not a list of names",
        ),
        (
            lambda d: d["training"].update(target_instrument=None),
            "2 stems (vocals, other) but 1 in the weights",
        ),
        (lambda d: d["training"].update(target_instrument="a/b"), "'a/b' cannot name a file"),
        (lambda d: d["inference"].update(num_overlap=-1), "inference.num_overlap is -1"),
        (
            lambda d: d["inference"].update(num_overlap=5000),
            "num_overlap 5000 is more than a chunk has samples",
        ),
        (lambda d: d["audio"].update(chunk_size=32), "chunk of 32 samples"),
        (lambda d: d["audio"].update(chunk_size=10**12), "chunk of 1000000000000 samples"),
        (lambda d: d["audio"].update(sample_rate=8), "sample rate 8 is not between"),
    ],
)
def test_incomplete_or_absurd_yaml(tmp_path, change, pattern):
    data = config(BS)
    change(data)
    refused(lambda: resolve(tmp_path, bs_state(), data), pattern, "model.yaml")


def test_names_with_line_breaks_stay_on_one_line(tmp_path):
    data = config({**BS, "odd\noption": 1}, training={"target_instrument": "a\nb"})
    refused(lambda: resolve(tmp_path, bs_state(), data), "odd option", "cannot name a file")


def test_repeated_stem_names(tmp_path):
    data = config({**BS, "num_stems": 2}, training={"instruments": ["a", "A"], "target_instrument": None})
    refused(lambda: resolve(tmp_path, bs_state(num_stems=2), data), "stem names repeat: a, A")


def test_without_yaml_one_error_names_every_missing_fact_and_its_option():
    text = refused(
        lambda: resolve_config(checkpoint(bs_state(num_stems=3))),
        "hop length in samples (--hop-length)",
        "sample rate in Hz (--sample-rate)",
        "chunk length in seconds (--chunk)",
        "names of its 3 stem(s) in order (--stems)",
        "--config",
    )
    assert text.startswith("model.ckpt: not in the catalogue; ")


def test_mel_bands_give_the_sample_rate_away():
    text = refused(lambda: resolve_config(checkpoint(mel_state(sample_rate=48000))), "--hop-length")
    assert "--sample-rate" not in text
    facts = Facts(hop_length=32, chunk=0.1, stems=("vocals",))
    assert resolve_config(checkpoint(mel_state(sample_rate=48000)), facts=facts).network.sample_rate == 48000


def test_facts_replace_the_yaml():
    model = resolve_config(checkpoint(bs_state()), facts=ENOUGH)
    assert (model.chunk, model.network.hop_length, model.overlap) == (4410, 16, 0.5)
    assert model.source == {
        "command_line": {"hop_length": 16, "sample_rate": 44100, "chunk": 0.1, "stems": ["vocals"]}
    }


@pytest.mark.parametrize(
    ("facts", "pattern"),
    [
        ({"stems": ("a", "b")}, "2 stems (a, b) but 1 in the weights (--stems)"),
        ({"stems": ()}, "0 stems () but 1 in the weights"),
        ({"hop_length": 0}, "hop length 0 is not between 1 and 32 (--hop-length)"),
        ({"chunk": float("nan")}, "chunk of 0 samples"),
        ({"chunk": 1e308}, "chunk of 0 samples"),
        ({"chunk": -1.0}, "chunk of -44100 samples"),
    ],
)
def test_impossible_facts(facts, pattern):
    given = Facts(**{**vars(ENOUGH), **facts})
    text = refused(lambda: resolve_config(checkpoint(bs_state()), facts=given), pattern)
    assert "catalogue" not in text


def test_catalogue_entry_is_found_by_name_and_shapes(monkeypatch):
    from rofo.export import catalogue

    entry = catalogue.Entry(
        name="tiny",
        family="bs_roformer",
        files=("Tiny-Model.ckpt",),
        dim=16,
        depth=2,
        mask_layers=2,
        sample_rate=48000,
        hop_length=16,
        chunk=4800,
        stems=("other",),
        instruments=("vocals", "other"),
        num_overlap=4,
        sha256="abcd",
        tail_md5="1234",
        skip_connection=True,
    )
    monkeypatch.setattr(catalogue, "load_catalogue", lambda: (entry,))
    for found in (
        checkpoint(bs_state(), name="tiny-model.safetensors"),
        checkpoint(bs_state(), sha256="abcd" + "0" * 60),
        checkpoint(bs_state(), tail_md5="1234" + "0" * 28),
    ):
        model = resolve_config(found)
        assert (model.network.hop_length, model.network.sample_rate, model.chunk) == (16, 48000, 4800)
        assert (model.stems, model.residual, model.overlap) == (("other",), "vocals", 0.75)
        assert model.network.skip_connection
        assert model.source["catalogue"]["name"] == "tiny"
        assert json.loads(json.dumps(model.source)) == model.source
    other_shapes = checkpoint(bs_state(depth=1), name="Tiny-Model.ckpt", sha256="abcd" + "0" * 60)
    refused(lambda: resolve_config(other_shapes), "not in the catalogue")
    half = resolve_config(checkpoint(bs_state(), name="Tiny-Model.ckpt"), facts=Facts(hop_length=8))
    assert (half.network.hop_length, half.chunk) == (8, 4800)


def test_lightning_hyper_parameters_serve_as_yaml():
    model = resolve_config(checkpoint(bs_state(), hyper_parameters=config(BS)))
    assert (model.network.hop_length, model.chunk, model.network.zero_dc) == (16, 4096, True)


def test_hyper_parameters_with_the_arguments_under_params():
    hyper_parameters = {
        "project_name": "x",
        "model": {"name": "BSRoFormer", "params": {**BS, "freqs_per_bands": [2, 4, 11, 16]}},
        "data": {"sample_rate": 48000},
    }
    found = checkpoint(bs_state(), hyper_parameters=hyper_parameters)
    text = refused(lambda: resolve_config(found), "--chunk", "--stems")
    assert "--hop-length" not in text and "--sample-rate" not in text
    model = resolve_config(found, facts=Facts(chunk=0.1, stems=("vocals",)))
    assert (model.network.hop_length, model.network.sample_rate, model.chunk) == (16, 48000, 4800)
    assert model.network.zero_dc is False, "that code has none"


def test_other_hyper_parameters_are_no_yaml():
    found = checkpoint(bs_state(), hyper_parameters={"lr": 1e-4, "model": "x", "dim": 3})
    assert resolve_config(found, facts=ENOUGH).chunk == 4410


def test_yaml_goes_before_hyper_parameters(tmp_path):
    wrong = config({**BS, "stft_hop_length": 4})
    model = resolve(tmp_path, bs_state(), config(BS), hyper_parameters=wrong)
    assert model.network.hop_length == 16


@pytest.mark.parametrize("overlaps", [1, 2, 3, 4, 7, 8, 50])
@pytest.mark.parametrize(
    "chunk", [131584, 352800, 352768, 485100, 588800, 661500, 749259, 785920, 882000, 101]
)
def test_overlap_gives_exactly_the_hop_of_msst(chunk, overlaps):
    overlap = overlap_fraction(chunk, overlaps)
    assert 0 <= overlap < 1
    assert round(chunk * (1 - overlap)) == chunk // overlaps


@pytest.mark.parametrize(
    ("stems", "instruments", "residual"),
    [
        (("vocals",), ("vocals", "other"), "instrumental"),
        (("Vocals",), ("Vocals", "Instrumental"), "instrumental"),
        (("vocals",), None, "instrumental"),
        (("vocals",), ("vocals", "drums", "bass", "other"), "instrumental"),
        (("other",), ("vocals", "other"), "vocals"),
        (("Instrumental",), ("instrumental", "Bleed"), "Bleed"),
        (("drums",), ("vocals", "drums", "bass"), "residual"),
        (("dry",), ("dry",), "residual"),
        (("dry",), None, "residual"),
        (("dry",), ("dry", "a/b"), "residual"),
        (("male", "female"), ("male", "female"), None),
        (("Vocals", "Instrumental"), ("vocals", "instrumental"), None),
        (("drums", "bass"), ("drums", "bass", "other"), "other"),
        (("drums", "bass"), None, "residual"),
        (("residual",), None, "remainder"),
    ],
)
def test_residual(stems, instruments, residual):
    assert residual_name(stems, instruments) == residual


def test_bands_of_no_known_size():
    state = bs_state() | {"band_split.to_features.1.1.weight": torch.ones(16, 5)}
    refused(lambda: resolve_config(checkpoint(state), facts=ENOUGH), "fit no BS-Roformer")


def test_unsupported_network_is_refused_by_name():
    state = bs_state() | {"mask_estimators.0.segm.stem.weight": torch.ones(1)}
    refused(
        lambda: resolve_config(checkpoint(state), facts=ENOUGH),
        "recognised as HyperACE Roformer: not supported",
    )


def test_the_state_is_left_as_it_was():
    state = bs_state()
    before = dict(state)
    resolve_config(checkpoint(state), facts=ENOUGH)
    assert state.keys() == before.keys()
    assert all(state[key] is value for key, value in before.items())
