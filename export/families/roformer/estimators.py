"""Which mask estimator a variant of BS-Roformer has in place of the perceptrons."""

from collections.abc import Callable

from torch import nn

from rofo.export.facts import Facts
from rofo.export.families.band_groups import Bands
from rofo.export.families.roformer.fno import FnoMaskEstimator
from rofo.export.families.roformer.hyperace import HyperAceMaskEstimator
from rofo.export.families.roformer.large_inst import RefinedMaskEstimator
from rofo.export.families.roformer.network import Attention, Rotary, Transformer


def variant_estimator(facts: Facts, bands: Bands) -> Callable[[], nn.Module] | None:
    """Makes one stem's mask estimator; None for the perceptrons that all others have."""
    dim, channels = facts["dim"], facts["channels"]
    if facts.get("use_mask_estimator_fno"):
        modes, depth = facts["fno_modes"], facts["fno_depth"]
        return lambda: FnoMaskEstimator(bands, channels, dim, modes, depth)
    widths = [dim] + [dim * facts.get("mlp_expansion_factor", 1)] * (facts["mask_estimator_depth"] - 1)
    if facts.get("use_mask_estimator_hyper_ace"):
        return lambda: HyperAceMaskEstimator(bands, channels, widths, facts["hyperace_version"])
    if not facts.get("refiner_depth"):
        return None

    def transformer() -> nn.Module:
        dim_head = facts["dim_head"]

        def attention() -> nn.Module:
            positions = Rotary(dim_head, facts["rotary"])
            return Attention(dim, facts["heads"], positions, dim_head=dim_head, bias=False)

        return Transformer(dim, 1, facts["ff_mult"], attention, norm_output=False)

    return lambda: RefinedMaskEstimator(bands, channels, widths, facts["refiner_depth"], transformer)
