"""What MDX-Net and TFC-TDF v3 have in common: both halve frames and bins scale by scale."""

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from rofo.export.facts import Facts

NO_STATISTICS = "its BatchNorms have no running_mean and running_var, only what was trained"


def whole_hops(facts: Facts) -> Facts:
    """The chunk that was asked for in seconds as so many frames, the first and last centred on its ends."""
    rate, hop = facts.get("sample_rate"), facts.get("hop_length")
    if "chunk_seconds" not in facts or not rate or not hop:
        return facts
    hops = facts["chunk_seconds"] * rate / hop
    frames = 1 + round(hops) if math.isfinite(hops) else 1
    return facts.derived("chunk_seconds", dim_t=frames).without("chunk_seconds", "chunk")


def frames_of(facts: Facts) -> int:
    """The frames of a chunk."""
    return int(facts["chunk"] // facts["hop_length"] + 1)


def size_problems(facts: Facts, *, rows: int, scale: tuple[int, int], num_scales: int) -> list[str]:
    """What keeps the frames, or the `rows` of a sub-band, from being divided at every scale.

    `scale` is the step from one to the next in (frames, bins).
    """
    bins, frames = facts["n_fft"] // 2 + 1, frames_of(facts)
    frame_step, row_step = (step**num_scales for step in scale)
    problems = []
    if facts["dim_f"] > bins:
        sees = f"the network sees {facts['dim_f']} bins"
        problems.append(f"{sees}, n_fft {facts['n_fft']} has {bins}; give its own n_fft (--n-fft)")
    if rows % row_step:
        problems.append(f"{rows} bins do not divide by {row_step} for {num_scales} scales")
    if frames % frame_step:
        nearest = max(1, round(frames / frame_step)) * frame_step
        seconds = facts["hop_length"] * (nearest - 1) / facts["sample_rate"]
        problems.append(
            f"a chunk of {frames} frames does not divide by {frame_step}; "
            f"choose --chunk {seconds:.6f}, which has {nearest} frames"
        )
    return problems


def group_problems(norm: str, widths: list[int]) -> list[str]:
    """Whether GroupNorm can divide so many channels."""
    groups = norm_groups(norm)
    odd = [width for width in widths if groups and width % groups]
    return [f"{norm} cannot divide the {odd[0]} channels of a scale"] if odd else []


def norm_groups(norm: str) -> int | None:
    """N of "GroupNormN", None for every other norm."""
    found = re.fullmatch(r"GroupNorm([1-9]\d{0,5})", norm)
    return int(found[1]) if found else None


def stored_norm(state: Mapping[str, Tensor]) -> str | None:
    """BatchNorm where a state dict holds its statistics."""
    return "BatchNorm" if any(key.endswith(".running_mean") for key in state) else None


def with_counters(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """With the counters of BatchNorm, which averages of weights leave out and nothing uses."""
    means = [key for key in state if key.endswith(".running_mean")]
    counters = {key.replace("running_mean", "num_batches_tracked"): torch.tensor(0) for key in means}
    return {**counters, **state}
