"""What is known of a Roformer: from its keys, a yaml, Lightning's hyper-parameters, the command line."""

import json

import pytest
import torch
import yaml
from pymss_core.modules.bs_roformer import BSRoformer, MelBandRoformer

from rofo.export import catalogue
from rofo.export.errors import CheckpointError
from rofo.export.families import describe, find_family

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
ENOUGH = {"hop_length": 16, "sample_rate": 44100, "chunk_seconds": 0.1, "stems": ("vocals",)}


def bs_state(**options):
    return BSRoformer(**{**BS, **options}).state_dict()


def mel_state(**options):
    options = {**MEL, **options}
    # MSST's Mel counts hidden layers of the mask MLP; pymss has an argument of its own for that.
    return MelBandRoformer(**options, mlp_hidden_layers=options["mask_estimator_depth"]).state_dict()


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


@pytest.fixture
def resolve(source, tmp_path):
    """A state dict, and a yaml's data if any -> its facts."""

    def facts(state, data=None, given=None, **changes):
        path = None
        if data is not None:
            path = tmp_path / "model.yaml"
            path.write_text(yaml.safe_dump(data))
        found = source(state, **changes)
        return describe(find_family(found), found, path, given).require()

    return facts


def refused(call, *patterns):
    with pytest.raises(CheckpointError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    for pattern in patterns:
        assert pattern in text
    return text


# Every fact, by who said it.
EXPECTED = {
    "weights": {
        "architecture": "bs_roformer", "dim": 16, "depth": 2, "heads": 2, "dim_head": 4, "num_stems": 1,
        "time_transformer_depth": 1, "freq_transformer_depth": 1, "linear_transformer_depth": 0,
        "num_bands": 4, "freqs_per_bands": (2, 4, 11, 16), "mask_estimator_depth": 2, "ff_mult": 4,
        "mlp_expansion_factor": 2, "use_pope": False, "shared_bias": "none", "n_fft": 64, "channels": 2,
    },
    "yaml": {
        "sample_rate": 44100, "hop_length": 16, "stft_normalized": False, "chunk": 4096, "overlap": 0.75,
        "stems": ("vocals",), "instruments": ("vocals", "other"), "residual": "instrumental",
    },
    "default": {
        "scheme": "fade", "zero_dc": True, "skip_connection": False, "normalize": False,
        "rotary": "exact",
    },
}  # fmt: skip


def test_bs_roformer(resolve):
    facts = resolve(bs_state(), config(BS))
    for origin, expected in EXPECTED.items():
        assert {name: facts[name] for name in facts if facts.origin(name) == origin} == expected


def test_mel_band_roformer(resolve):
    facts = resolve(mel_state(), config(MEL))
    assert facts["architecture"] == "mel_band_roformer"
    assert (facts["num_bands"], facts["mel_sample_rate"]) == (8, 44100)
    assert (facts["mask_estimator_depth"], facts["mlp_expansion_factor"]) == (2, 2), (
        "Mel counts hidden layers"
    )
    assert (facts["n_fft"], facts["hop_length"], facts["channels"]) == (128, 32, 2)
    assert "freqs_per_bands" not in facts


@pytest.mark.parametrize(("state", "base"), [(bs_state, BS), (mel_state, MEL)], ids=["bs", "mel"])
@pytest.mark.parametrize(
    "options",
    [
        {"time_transformer_depth": 3, "freq_transformer_depth": 2},
        {"mask_estimator_depth": 1, "mlp_expansion_factor": 1},
        {"mask_estimator_depth": 3, "mlp_expansion_factor": 4},
        {"heads": 3, "dim_head": 6},
    ],
    ids=str,
)
def test_what_the_weights_decide_is_read_and_held_against_the_yaml(state, base, options, resolve):
    facts = resolve(state(**options), config({**base, **options}))
    assert {name: facts.get(name, 1) for name in options} == options
    wrong = {name: value + 1 if type(value) is int else not value for name, value in options.items()}
    text = refused(lambda: resolve(state(**options), config({**base, **wrong})))
    said = [name for name in options if not (name == "mlp_expansion_factor" and name not in facts)]
    assert all(f"{name} is {wrong[name]} but {options[name]} in the weights" in text for name in said)


def test_pope(resolve):
    state = bs_state(use_pope=True)
    assert resolve(state, config({**BS, "use_pope": True}))["use_pope"] is True
    refused(lambda: resolve(state, config({**BS, "use_pope": False})), "use_pope is False but True")


def test_mono(resolve):
    facts = resolve(bs_state(stereo=False), config({**BS, "stereo": False}))
    assert (facts["channels"], facts["n_fft"], facts["freqs_per_bands"]) == (1, 64, (2, 4, 11, 16))


@pytest.mark.parametrize(
    ("keys", "frames", "bias"),
    [
        ({"linear_62_bias_0": (24,), "linear_64_bias_0": (16,)}, None, "linear_62"),
        ({"shared_qkv_bias": (24,), "shared_out_bias": (16,), "cos_emb_time": (300, 4)}, 300, "shared_qkv"),
    ],
)
@pytest.mark.parametrize("said", [True, False])
def test_serialisations_of_roformer_sw_are_told_by_keys_whatever_the_yaml_says(
    keys, frames, bias, said, resolve
):
    state = bs_state() | {key: torch.zeros(shape) for key, shape in keys.items()}
    facts = resolve(state, config({**BS, "use_shared_bias": said}))
    assert (facts.get("table_frames"), facts["shared_bias"]) == (frames, bias)


def test_chunk_must_fit_stored_position_tables(resolve):
    state = bs_state() | {"cos_emb_time": torch.zeros(256, 4)}
    refused(lambda: resolve(state, config(BS)), "257 frames in a chunk but 256", "--chunk")
    assert resolve(state, config(BS, audio={"chunk_size": 4095}))["chunk"] == 4095


def test_a_silent_yaml_means_the_defaults_of_msst(resolve):
    data = {
        "audio": {"chunk_size": 352800},
        "model": {"dim": 16, "depth": 2},
        "training": {"instruments": ["a", "b"], "target_instrument": "a"},
    }
    state = bs_state(freqs_per_bands=[25, 1000], stft_n_fft=2048, stft_win_length=2048, stft_hop_length=512)
    facts = resolve(state, data)
    assert (facts["hop_length"], facts["n_fft"], facts["sample_rate"]) == (512, 2048, 44100)
    assert (facts["zero_dc"], facts["skip_connection"], facts["stft_normalized"]) == (True, False, False)
    assert (facts["overlap"], facts["normalize"]) == (0.5, False)


def test_what_only_the_yaml_knows_is_taken_from_it(resolve):
    options = {"zero_dc": False, "skip_connection": True, "stft_normalized": True}
    data = config(BS, audio={"sample_rate": 48000}, inference={"normalize": True, "chunk_size": 6000})
    data["model"] |= options
    facts = resolve(bs_state(), data)
    assert {name: facts[name] for name in options} == options
    assert (facts["sample_rate"], facts["normalize"]) == (48000, True)
    assert facts["chunk"] == 6000, "inference.chunk_size goes before audio's"


def test_mel_bands_keep_the_models_own_rate(resolve):
    facts = resolve(mel_state(), config(MEL, audio={"sample_rate": 48000}))
    assert (facts["sample_rate"], facts["mel_sample_rate"]) == (48000, 44100)


def test_options_without_effect_are_accepted(resolve):
    extra = {"match_input_audio_length": True, "use_torch_checkpoint": True, "sage_attention": True}
    extra |= {"attention_layout": "x", "use_value_residual_learning": False, "num_residual_streams": 1}
    assert resolve(mel_state(), config({**MEL, **extra}))["chunk"] == 4096


def test_the_command_line_goes_before_the_yaml(resolve):
    given = {
        "hop_length": 8, "sample_rate": 22050, "chunk_seconds": 0.5, "stems": ("speech",), "zero_dc": False,
        "skip_connection": True, "normalize": True, "rotary": "amp-0.3.5",
    }  # fmt: skip
    facts = resolve(bs_state(), config(BS), given)
    assert facts["chunk"] == 11025
    assert {name: facts[name] for name in given if name in facts} == {
        name: value for name, value in given.items() if name != "chunk_seconds"
    }


def test_another_scheme_has_an_overlap_of_its_own(resolve):
    facts = resolve(bs_state(), config(BS), {"scheme": "trim"})
    assert (facts["scheme"], facts.get("overlap")) == ("trim", None)


def test_all_contradictions_are_listed_at_once(resolve):
    wrong = {
        "dim": 32, "depth": 3, "num_stems": 4, "heads": 8, "dim_head": 64, "stereo": False,
        "mask_estimator_depth": 3, "mlp_expansion_factor": 4, "time_transformer_depth": 2,
        "linear_transformer_depth": 1, "freqs_per_bands": [2, 4, 12, 15],
    }  # fmt: skip
    data = config(BS, training={"target_instrument": None, "instruments": ["a", "b", "c", "d"]})
    data["model"] |= wrong
    text = refused(
        lambda: resolve(bs_state(), data),
        "dim is 32 but 16 in the weights",
        "mlp_expansion_factor is 4 but 2 in the weights",
        "stereo is False but True in the weights",
        "freqs_per_bands is [2, 4, 12, 15] but [2, 4, 11, 16] in the weights",
        "4 stems (a, b, c, d) but 1 in the weights",
        "model.yaml: does not fit model.ckpt",
    )
    assert all(text.count(f"{name} is") == 1 for name in wrong if name not in ("dim", "depth"))


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        ({"num_bands": 9}, "num_bands is 9 but 8 in the weights"),
        ({"sample_rate": 48000}, "mel_sample_rate is 48000 but 44100 in the weights"),
        ({"stft_n_fft": 256, "stft_win_length": 256}, "n_fft is 256 but 128 in the weights"),
        ({"stft_win_length": 64}, "stft_win_length 64 differs from stft_n_fft 128"),
        (
            {"some_new_option": 1, "conv_kernel_sizes": 2},
            "unknown model options conv_kernel_sizes, some_new_option",
        ),
        ({"num_residual_streams": 4}, "num_residual_streams is not supported"),
        (
            {"use_value_residual_learning": True},
            "use_value_residual_learning is True but False in the weights",
        ),
        ({"hyperace_version": 2}, "hyperace_version is 2 but 0 in the weights"),
        ({"use_mask_estimator_fno": True}, "use_mask_estimator_fno is True but False in the weights"),
        ({"conv_kernel_size": 31}, "unknown model options conv_kernel_size"),
        ({"time_conformer_depth": 1}, "unknown model options time_conformer_depth"),
        ({"stft_hop_length": "fast"}, "model.stft_hop_length is 'fast', not a positive whole number"),
        ({"stft_hop_length": 0}, "model.stft_hop_length is 0"),
        ({"stft_hop_length": 65}, "hop_length 65 (from the yaml) is not between 1 and 64"),
        ({"zero_dc": "maybe"}, "model.zero_dc is 'maybe', not true or false"),
        ({"dim": [16]}, "dim is [16] but 16 in the weights"),
    ],
)
def test_contradictions_and_unknown_options_of_a_mel_yaml(change, pattern, resolve):
    refused(lambda: resolve(mel_state(), config({**MEL, **change})), pattern)


@pytest.mark.parametrize(
    ("state", "model", "pattern"),
    [
        (mel_state, BS, "it has freqs_per_bands but the weights are of a Mel-"),
        (bs_state, MEL, "it has num_bands but the weights are of a BS-"),
        (bs_state, {"freq_bins": 8, "embed_dim": 1}, "describes conformer, but model.ckpt holds"),
    ],
)
def test_yaml_of_another_network(state, model, pattern, resolve):
    refused(lambda: resolve(state(), config(model)), pattern)


def test_only_a_yaml_tells_of_msst_experimental_classes_which_know_no_zero_dc(resolve):
    data = config(BS, training={"model_type": "bs_roformer_experimental"})
    facts = resolve(bs_state(), data)
    assert (facts["experimental"], facts["zero_dc"]) == (True, False)
    assert "experimental" not in resolve(bs_state(), config(BS, training={"model_type": "bs_roformer"}))


@pytest.mark.parametrize(
    ("kind", "model", "pattern"),
    [
        ("mel_band_roformer_experimental", BS, "mel_band_roformer_experimental but the weights are of a BS-"),
        ("bs_roformer_experimental", {**BS, "zero_dc": True}, "bs_roformer_experimental knows no zero_dc"),
        ("bs_roformer_experimental", {**BS, "use_pope": False}, "knows no use_pope"),
        ("bs_conformer_experimental", BS, "describes bs_conformer_experimental"),
    ],
)
def test_what_msst_experimental_classes_would_refuse(kind, model, pattern, resolve):
    refused(lambda: resolve(bs_state(), config(model, training={"model_type": kind})), pattern)


SIAMESE = {"layers.0.0.y_attn.0": torch.ones(16)}
MIXED = {"layers.1.0.layers.0.0.to_value_residual_mix.weight": torch.ones(2, 16)}


@pytest.mark.parametrize(
    ("state", "pattern"),
    [
        ({**SIAMESE, **MIXED}, "two streams with value residuals are not supported"),
        ({**SIAMESE, "x.pope_embed.bias": torch.ones(1)}, "two streams with PoPE are not supported"),
        ({**mel_state(), **SIAMESE}, "two streams with mel bands are not supported"),
        ({**mel_state(), **MIXED}, "value residuals with mel bands are not supported"),
    ],
)
def test_what_no_published_class_has_together(state, pattern, resolve):
    state = state if any(key.startswith("layers.0.0.norm") for key in state) else {**bs_state(), **state}
    refused(lambda: resolve(state, given=ENOUGH), pattern)


def test_skip_connections_of_two_streams_are_refused(resolve):
    given = {**ENOUGH, "skip_connection": True}
    refused(lambda: resolve({**bs_state(), **SIAMESE}, given=given), "two streams with skip connections are")


def test_n_fft_that_cannot_be_is_blamed_on_who_said_it(resolve):
    text = refused(
        lambda: resolve(bs_state(), given={**ENOUGH, "n_fft": 100}), "--n-fft is 100 but 64 in the weights"
    )
    assert "yaml published" in text and "from the yaml" not in text


def test_bands_of_an_unusual_n_fft_need_it_told(resolve):
    state = bs_state(freqs_per_bands=[10, 22], stft_n_fft=62, stft_win_length=62)
    refused(lambda: resolve(state, given=ENOUGH), "fit no BS-Roformer of a usual n_fft", "(--n-fft")
    facts = resolve(state, given={**ENOUGH, "n_fft": 62})
    assert (facts["n_fft"], facts["channels"], facts["freqs_per_bands"]) == (62, 2, (10, 22))


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (lambda d: d.pop("model"), "it has no model section"),
        (lambda d: d.pop("audio"), "lacks the chunk length in seconds (--chunk)"),
        (lambda d: d.pop("training"), "lacks the names of its stem(s) in order (--stems)"),
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
        (lambda d: d["inference"].update(num_overlap=5000), "num_overlap is more than a chunk has samples"),
        (lambda d: d["audio"].update(chunk_size=32), "chunk of 32 samples"),
        (lambda d: d["audio"].update(chunk_size=10**12), "chunk of 1000000000000 samples"),
        (lambda d: d["audio"].update(sample_rate=8), "sample_rate 8 (from the yaml) is not between"),
    ],
)
def test_incomplete_or_absurd_yaml(change, pattern, resolve):
    data = config(BS)
    change(data)
    refused(lambda: resolve(bs_state(), data), pattern, "model.yaml")


def test_names_with_line_breaks_stay_on_one_line(resolve):
    data = config({**BS, "odd\noption": 1}, training={"target_instrument": "a\nb"})
    refused(lambda: resolve(bs_state(), data), "odd option", "cannot name a file")


def test_without_yaml_one_error_names_every_missing_fact_and_its_option(resolve):
    text = refused(
        lambda: resolve(bs_state(num_stems=3)),
        "hop length in samples (--hop-length)",
        "sample rate in Hz (--sample-rate)",
        "chunk length in seconds (--chunk)",
        "names of its stem(s) in order (--stems)",
        "--config",
    )
    assert text.startswith("model.ckpt: not in the catalogue; ")


def test_mel_bands_give_the_sample_rate_away(resolve):
    state = mel_state(sample_rate=48000)
    assert "--sample-rate" not in refused(lambda: resolve(state), "--hop-length")
    given = {"hop_length": 32, "chunk_seconds": 0.1, "stems": ("vocals",)}
    facts = resolve(state, given=given)
    assert (facts["sample_rate"], facts["chunk"]) == (48000, 4800)
    refused(
        lambda: resolve(state, given={**given, "sample_rate": 44100}),
        "mel_sample_rate is 44100 but 48000 in the weights",
    )


@pytest.mark.parametrize(
    ("given", "pattern"),
    [
        ({"stems": ("a", "b")}, "2 stems (a, b) but 1 in the weights (--stems)"),
        ({"hop_length": 0}, "hop_length 0 (from the command line) is not between 1 and"),
        ({"chunk_seconds": float("nan")}, "chunk of 0 samples"),
        ({"chunk_seconds": 1e308}, "chunk of 0 samples"),
        ({"chunk_seconds": -1.0}, "chunk of -44100 samples"),
        ({"sample_rate": 0}, "sample_rate 0 (from the command line) is not between"),
        ({"compensate": 1.02}, "--compensate means nothing for roformer"),
    ],
)
@pytest.mark.parametrize("state", [bs_state, mel_state])
def test_impossible_options(state, given, pattern, resolve):
    text = refused(lambda: resolve(state(), given={**ENOUGH, **given}), pattern)
    assert "catalogue" not in text


def test_an_entry_of_the_catalogue_stands_in_for_the_yaml(monkeypatch, resolve):
    said = {
        "architecture": "bs_roformer", "dim": 16, "depth": 2, "mask_estimator_depth": 2, "sample_rate": 48000,
        "hop_length": 16, "chunk": 4800, "num_overlap": 4, "stems": ("other",),
        "instruments": ("vocals", "other"), "skip_connection": True,
    }  # fmt: skip
    entry = catalogue.Entry("tiny", said, ("Model.ckpt",))
    monkeypatch.setattr(catalogue, "load_catalogue", lambda: (entry,))
    facts = resolve(bs_state())
    assert (facts["chunk"], facts["residual"], facts["overlap"]) == (4800, "vocals", 0.75)
    assert facts["skip_connection"] and facts.origin("skip_connection") == "catalogue"
    refused(lambda: resolve(bs_state(depth=1)), "not in the catalogue")


def test_lightning_hyper_parameters_serve_as_yaml(source, resolve):
    assert resolve(bs_state(), hyper_parameters=config(BS))["hop_length"] == 16
    wrong = config({**BS, "stft_hop_length": 4})
    assert resolve(bs_state(), config(BS), hyper_parameters=wrong)["hop_length"] == 16, "the yaml goes before"


def test_hyper_parameters_with_the_arguments_under_params(resolve):
    hyper_parameters = {
        "project_name": "x",
        "model": {"name": "BSRoFormer", "params": BS},
        "data": {"sample_rate": 48000},
    }
    text = refused(lambda: resolve(bs_state(), hyper_parameters=hyper_parameters), "--chunk", "--stems")
    assert "--hop-length" not in text and "--sample-rate" not in text
    given = {"chunk_seconds": 0.1, "stems": ("vocals",)}
    facts = resolve(bs_state(), given=given, hyper_parameters=hyper_parameters)
    assert (facts["hop_length"], facts["sample_rate"], facts["chunk"]) == (16, 48000, 4800)
    assert facts["zero_dc"] is False, "that code has none"
    as_yaml = resolve(bs_state(), hyper_parameters, given)
    assert [as_yaml[name] for name in ("hop_length", "sample_rate", "zero_dc")] == [16, 48000, False]


def test_other_hyper_parameters_are_no_yaml(resolve):
    facts = resolve(bs_state(), given=ENOUGH, hyper_parameters={"lr": 1e-4, "model": "x", "dim": 3})
    assert facts["chunk"] == 4410


def test_the_manifest_keeps_what_was_said_as_json_data(source, tmp_path):
    path, data = tmp_path / "model.yaml", config(BS)
    path.write_text(yaml.safe_dump(data))
    found = source(bs_state())
    said = describe(find_family(found), found, path, {"stems": ("a",)}).config
    assert said == {**data, "command_line": {"stems": ["a"]}}
    assert json.loads(json.dumps(said)) == said


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        ({"final_norm.gamma": None}, "neither final_norm.gamma"),
        ({"layers.0.0.layers.0.0.to_gates.weight": None}, "has no layers.0.0.layers.0.0.to_gates.weight"),
        ({"layers.7.0.layers.0.0.norm.gamma": (16,)}, "layers.N.* are 0, 1, 7"),
        ({"layers.99999999999.0.x": (1,), "layers.888888.0.x": (1,)}, "888888"),
        ({"layers.0.3.layers.0.x": (1,)}, "are 0, 1, 3"),
        ({"band_split.to_features.0.1.weight": (16,)}, "has the shape (16,)"),
        ({"band_split.to_features.0.1.weight": ()}, "has the shape ()"),
        ({"band_split.to_features.1.1.weight": (16, 5)}, "fit no BS-Roformer"),
        ({"layers.0.0.layers.0.0.to_gates.weight": (0, 16)}, "has the shape (0, 16)"),
        ({"layers.0.0.layers.0.0.to_qkv.weight": (25, 16)}, "not a multiple of 6"),
        ({"layers.0.0.layers.0.1.net.1.weight": (65, 16)}, "not a multiple of 16"),
        ({"mask_estimators.0.to_freqs.0.0.3.weight": (1,)}, "have the numbers [0, 2, 3]"),
        ({"mask_estimators.": None}, "the linear layers of mask_estimators.0.to_freqs.0.0"),
        ({"layers.": None}, "numbers of layers.0.N.layers.* are none"),
        ({"band_split.": None}, "none of the networks known (roformer"),
    ],
)
def test_broken_states_are_refused_in_one_line(change, pattern, resolve):
    state = dict(bs_state())
    for key, shape in change.items():
        state = {k: v for k, v in state.items() if not k.startswith(key)}
        if shape is not None:
            state[key] = torch.ones(shape)
    assert refused(lambda: resolve(state, given=ENOUGH), pattern).startswith("model.ckpt: ")


def test_random_subsets_of_keys_never_crash(resolve):
    whole = bs_state()
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        kept = torch.rand(len(whole), generator=generator) < 0.9
        state = {key: value for (key, value), keep in zip(whole.items(), kept.tolist(), strict=True) if keep}
        try:
            resolve(state, given=ENOUGH)
        except CheckpointError as error:
            assert "\n" not in str(error)


def test_numbers_too_long_to_be_indices_are_left_to_the_strict_reader(resolve):
    assert resolve(bs_state() | {f"layers.{'9' * 5000}.0.x": torch.ones(1)}, given=ENOUGH)["depth"] == 2


def test_the_state_is_left_as_it_was(source):
    state = dict(bs_state())
    found = source(state)
    describe(find_family(found), found, None, ENOUGH)
    assert found.state.keys() == state.keys()
    assert all(found.state[key] is value for key, value in state.items())
