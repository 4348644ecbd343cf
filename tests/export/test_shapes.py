from pathlib import Path

import pytest
import torch
from pymss_core.modules.bs_roformer import BSRoformer

from rofo.export.errors import CheckpointError
from rofo.export.families.roformer.shapes import infer_shapes

PATH = Path("model.ckpt")


def bs_state():
    return BSRoformer(
        dim=16,
        depth=2,
        stereo=True,
        num_stems=1,
        time_transformer_depth=1,
        freq_transformer_depth=1,
        heads=2,
        dim_head=4,
        freqs_per_bands=(2, 4, 11, 16),
        stft_n_fft=64,
        stft_hop_length=16,
        stft_win_length=64,
    ).state_dict()


def test_whole_state():
    shapes = infer_shapes(PATH, bs_state())
    assert (shapes.family, shapes.dim, shapes.depth, shapes.band_inputs) == (
        "bs_roformer",
        16,
        2,
        (8, 16, 44, 64),
    )


def broken(change):
    state = dict(bs_state())
    change(state)
    return state


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (lambda s: s.pop("final_norm.gamma"), "neither final_norm.gamma"),
        (
            lambda s: s.pop("layers.0.0.layers.0.0.to_gates.weight"),
            "has no layers.0.0.layers.0.0.to_gates.weight",
        ),
        (lambda s: s.update({"layers.7.0.layers.0.0.norm.gamma": torch.ones(16)}), "layers.N.* are 0, 1, 7"),
        (
            lambda s: s.update({"layers.99999999999.0.x": torch.ones(1), "layers.888888.0.x": torch.ones(1)}),
            "888888",
        ),
        (lambda s: s.update({"layers.0.3.layers.0.x": torch.ones(1)}), "are 0, 1, 3"),
        (lambda s: s.update({"band_split.to_features.0.1.weight": torch.ones(16)}), "has the shape (16,)"),
        (lambda s: s.update({"band_split.to_features.0.1.weight": torch.tensor(1.0)}), "has the shape ()"),
        (
            lambda s: s.update({"layers.0.0.layers.0.0.to_gates.weight": torch.ones(0, 16)}),
            "has the shape (0, 16)",
        ),
        (
            lambda s: s.update({"layers.0.0.layers.0.0.to_qkv.weight": torch.ones(25, 16)}),
            "not a multiple of 6",
        ),
        (
            lambda s: s.update({"layers.0.0.layers.0.1.net.1.weight": torch.ones(65, 16)}),
            "not a multiple of 16",
        ),
        (
            lambda s: s.update({"mask_estimators.0.to_freqs.0.0.3.weight": torch.ones(1)}),
            "have the numbers [0, 2, 3]",
        ),
        (
            lambda s: [s.pop(k) for k in list(s) if k.startswith("mask_estimators.")],
            "the linear layers of mask_estimators.0.to_freqs.0.0",
        ),
        (
            lambda s: [s.pop(k) for k in list(s) if k.startswith("layers.")],
            "numbers of layers.0.N.layers.* are none",
        ),
        (
            lambda s: [s.pop(k) for k in list(s) if k.startswith("band_split.")],
            "neither a Roformer",
        ),
    ],
)
def test_broken_states_are_refused_without_a_traceback(change, pattern):
    with pytest.raises(CheckpointError) as caught:
        infer_shapes(PATH, broken(change))
    text = str(caught.value)
    assert text.startswith("model.ckpt: ") and "\n" not in text
    assert pattern in text


def test_random_subsets_of_keys_never_crash():
    whole = bs_state()
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        kept = torch.rand(len(whole), generator=generator) < 0.9
        state = {key: value for (key, value), keep in zip(whole.items(), kept.tolist(), strict=True) if keep}
        try:
            infer_shapes(PATH, state)
        except CheckpointError as error:
            assert "\n" not in str(error)


def test_numbers_too_long_to_be_indices_are_left_to_the_strict_reader():
    state = bs_state() | {f"layers.{'9' * 5000}.0.x": torch.ones(1)}
    assert infer_shapes(PATH, state).depth == 2
