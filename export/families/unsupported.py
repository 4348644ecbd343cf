"""Networks that are not supported, told by their state-dict keys or by the sections of their yaml."""

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rofo.export.source.msst import model_types

if TYPE_CHECKING:
    from rofo.export.families.family import Family

# Roformers with something added that changes what they compute: (pattern in a key, name).
_VARIANTS = (
    (r"\.branch\.", "Roformer with hyper-connections"),
    (r"\.conv_module\.", "conformer"),
    (r"refine", "Roformer with a refiner"),
    (r"^sink_tokens$", "Roformer with windowed sink attention"),
    (r"^\d+\.band_split\.", "chain of two Roformers"),
    (r"mamba|\.A_log$", "Mamba network"),
)
_OTHERS = (
    (r"^decoder\.basis_signals\.|^mask_generator\.conv_layers\.|^masker\.TCN\.", "Conv-TasNet"),
    (r"^encoder\.\d+\.(layers\.\d+\.)?(conv|rewrite|\d+)\.weight", "Demucs of another kind"),
    (r"^separation_net\.|\.SDlayer\.", "SCNet"),
    (r"^separator_(mask|map)\.|^BN_(mask|map)\.", "BS-Mamba2"),
    (r"^separator\.\d+\.(time|band)_net\.", "BSRNN"),
    (r"^BN\.\d+\.", "Apollo"),
    (r"^unet_model\.|^(encoder|decoder)\..*\.blocks\.|^swin_upernet_model\.", "segmentation network"),
    (r"^(stg\d|aux\d*)_", "VR network"),
)

# The option names by which the yaml of another architecture gives itself away.
_YAML_OPTIONS = (
    ({"freq_bins", "embed_dim"}, "conformer"),
    ({"band_SR"}, "SCNet"),
    ({"num_dplayer"}, "SCNet"),
    ({"bandsplit_ratios"}, "SCNet"),
    ({"num_repeat_mask"}, "BS-Mamba2"),
    ({"module_type"}, "Mamba network"),
    ({"sr", "win", "feature_dim"}, "Apollo"),
    ({"encoder_name"}, "segmentation network"),
    ({"num_subbands", "num_channels"}, "segmentation network"),
    ({"n_split_enc"}, "Moises-Light"),
)


def unsupported_network(keys: Iterable[str]) -> str | None:
    """The name of the unsupported network that keys belong to, None for a plain Roformer or unknown keys."""
    keys = list(keys)
    roformer = any(".to_features." in key or key.startswith("band_split.") for key in keys)
    patterns = _VARIANTS + _OTHERS if roformer else _OTHERS + _VARIANTS
    return next((name for pattern, name in patterns if any(re.search(pattern, key) for key in keys)), None)


def described_by(config: Mapping[str, Any], family: "Family", families: Iterable["Family"]) -> str | None:
    """What a yaml describes when it is not of this family; None where it is, or gives no hint."""
    for name in model_types(config):
        if name not in family.yaml_types:
            return name
    model = config.get("model", config.get("kwargs"))  # the latter is Bandit v2's
    if isinstance(model, str):
        return None if model in family.yaml_types else model
    options = set(model) if isinstance(model, dict) else set()
    if any(hints <= options for hints in family.yaml_hints):
        return None
    others = [(hints, other.name) for other in families if other is not family for hints in other.yaml_hints]
    return next((name for hints, name in (*others, *_YAML_OPTIONS) if hints <= options), None)
