"""What the keys and shapes of a Roformer's state dict say about the network."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from rofo.export.errors import CheckpointError
from rofo.export.source.keys import Keys
from rofo.export.families.unsupported import unsupported_network

Family = Literal["bs_roformer", "mel_band_roformer"]
Positions = Literal["rotary", "pope", "tables"]
SharedBias = Literal["none", "linear_62", "shared_qkv"]


@dataclass(frozen=True)
class Shapes:
    """Everything about a Roformer that its weights decide. Depths count transformers or their layers.

    `band_inputs` are the input features per band: 2 x channels x bins. `mask_layers` is the number of linear
    layers of a mask MLP, `mlp_expansion` its hidden width / dim (1 where there is no hidden layer).
    `table_frames` is how many frames serialised position tables cover, None without such tables.
    """

    family: Family
    dim: int
    depth: int
    heads: int
    dim_head: int
    num_stems: int
    time_depth: int
    freq_depth: int
    linear_depth: int
    band_inputs: tuple[int, ...]
    mask_layers: int
    mlp_expansion: int
    ff_mult: int
    positions: Positions
    shared_bias: SharedBias
    table_frames: int | None


def infer_shapes(path: Path, state: Mapping[str, torch.Tensor]) -> Shapes:
    """Read the hyper-parameters off a state dict, which is left as it is.

    Raises CheckpointError for unsupported variants and other networks, by name, and where a key that the
    network cannot be without is missing or has an impossible shape.
    """
    keys = Keys(path, state, "Roformer")
    _refuse_unsupported(path, state)
    dim = keys.size("band_split.to_features.0.1.weight", 0)
    bands = keys.count(r"band_split\.to_features\.(\d+)\.")
    linear = _linear_transformers(keys)
    attention = f"layers.0.{linear}.layers.0.0"
    heads = keys.size(f"{attention}.to_gates.weight", 0)
    mask_layers, mlp_expansion = _mask_mlp(keys, dim)
    return Shapes(
        family=_family(path, state),
        dim=dim,
        depth=keys.count(r"layers\.(\d+)\."),
        heads=heads,
        dim_head=keys.ratio(f"{attention}.to_qkv.weight", 3 * heads),
        num_stems=keys.count(r"mask_estimators\.(\d+)\."),
        time_depth=keys.count(rf"layers\.0\.{linear}\.layers\.(\d+)\."),
        freq_depth=keys.count(rf"layers\.0\.{linear + 1}\.layers\.(\d+)\."),
        linear_depth=keys.count(r"layers\.0\.0\.layers\.(\d+)\.") if linear else 0,
        band_inputs=tuple(keys.size(f"band_split.to_features.{k}.1.weight", 1) for k in range(bands)),
        mask_layers=mask_layers,
        mlp_expansion=mlp_expansion,
        ff_mult=keys.ratio(f"layers.0.{linear}.layers.0.1.net.1.weight", dim),
        positions=_positions(state),
        shared_bias=_shared_bias(state),
        table_frames=keys.size("cos_emb_time", 0) if "cos_emb_time" in state else None,
    )


def _refuse_unsupported(path: Path, state: Iterable[str]) -> None:
    keys = list(state)
    name = unsupported_network(keys)
    if name is not None:
        raise CheckpointError(
            f"{path}: recognised as {name}: not supported yet; give a Roformer, an MDX-Net or an MDX23C"
        )
    if not any(key.startswith("band_split.to_features.") for key in keys):
        raise CheckpointError(
            f"{path}: neither a Roformer (no band_split.to_features) nor an MDX-Net or MDX23C; it begins "
            f"with {keys[0]!r}; other networks are not supported yet"
        )


def _family(path: Path, state: Mapping[str, torch.Tensor]) -> Family:
    """BS has one norm after all layers, Mel one after each transformer (section 2 of both papers' code)."""
    if "final_norm.gamma" in state:
        return "bs_roformer"
    if "layers.0.0.norm.gamma" in state:
        return "mel_band_roformer"
    raise CheckpointError(
        f"{path}: neither final_norm.gamma (BS-Roformer) nor layers.0.0.norm.gamma (Mel-Band Roformer) is "
        "there; give the complete checkpoint"
    )


def _linear_transformers(keys: Keys) -> int:
    """1 where a layer begins with a linear-attention transformer, else 0."""
    blocks = keys.count(r"layers\.0\.(\d+)\.layers\.")
    if blocks not in (2, 3):
        raise keys.error(f"layers.0 has {blocks} transformers instead of 2 or 3")
    return blocks - 2


def _mask_mlp(keys: Keys, dim: int) -> tuple[int, int]:
    """Linear layers of a mask MLP and its hidden width / dim; an activation stands between two layers."""
    first = "mask_estimators.0.to_freqs.0.0"
    found = keys.numbers(rf"{re.escape(first)}\.(\d+)\.weight")
    if not found or found != list(range(0, 2 * len(found), 2)):
        raise keys.error(f"the linear layers of {first} have the numbers {found}")
    return len(found), keys.ratio(f"{first}.0.weight", dim) if len(found) > 1 else 1


def _positions(state: Mapping[str, torch.Tensor]) -> Positions:
    if "cos_emb_time" in state:
        return "tables"
    return "pope" if any(".pope_embed." in key for key in state) else "rotary"


def _shared_bias(state: Mapping[str, torch.Tensor]) -> SharedBias:
    if "linear_62_bias_0" in state:
        return "linear_62"
    return "shared_qkv" if "shared_qkv_bias" in state else "none"
