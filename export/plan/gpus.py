"""The cards that plans are built for, and how many chunks at once fill one."""

import math
from dataclasses import dataclass

from rofo.export.graph.cost import Cost

GIB = 1 << 30

# Dense fp16 products with fp32 sums per second, by compute capability, from NVIDIA's architecture papers:
# A100, RTX 3090, RTX 4090, H100/H200, B200, RTX 5090.
_RATES = {
    "8.0": 312e12,
    "8.6": 71e12,
    "8.9": 165e12,
    "9.0": 989e12,
    "10.0": 2250e12,
    "12.0": 209e12,
}
_USUAL_RATE = 165e12
_FIRST_FP8 = 8.9

# A few hundred kernels take below a millisecond to launch: some 5 % of this, which is at peak rates.
_ENOUGH_SECONDS = 0.010

# From the start of a kernel that has little to do to that of the next. A prediction: no GPU has run this yet.
_LAUNCH_SECONDS = 3e-6

# Of a step of rofo.export.graph.recurrent.Loop: its product and its gates, both directions in one.
_LAUNCHES_PER_STEP = 2

# Attention is launched with one block row per sequence and head, and CUDA ends at 65,535.
_MOST_SEQUENCES = 65_535

# A song of four minutes is 60 chunks of eight seconds; the last batch of a song is filled up with nothing.
_MOST_CHUNKS = 8

# The rest is for the caller's own work, a second context and the copies.
_MEMORY_SHARE = 0.5


# Compute capability 8.0 and all later ones: what TensorRT-RTX builds for unless told otherwise.
PORTABLE = ("8.0+",)


@dataclass(frozen=True)
class Gpu:
    """A card, or a family of them.

    `capabilities` are compute capabilities, `memory` is in bytes, `rate` the peak of fp16 products with
    fp32 sums in operations per second.
    """

    name: str
    capabilities: tuple[str, ...]
    memory: int
    rate: float

    @property
    def has_fp8(self) -> bool:
        """Whether it multiplies numbers of E4M3."""
        return all(float(capability.rstrip("+")) >= _FIRST_FP8 for capability in self.capabilities)


def peak_rate(capability: str) -> float:
    """Peak of fp16 products with fp32 sums of the largest card of a compute capability."""
    return _RATES.get(capability, _USUAL_RATE)


GPUS = {
    "rtx4090": Gpu("RTX 4090", ("8.9",), 24 * GIB, peak_rate("8.9")),
    "rtx3090": Gpu("RTX 3090", ("8.6",), 24 * GIB, peak_rate("8.6")),
    "rtx5090": Gpu("RTX 5090", ("12.0",), 32 * GIB, peak_rate("12.0")),
    "portable": Gpu("RTX card of 2020 or later", PORTABLE, 8 * GIB, peak_rate("8.6")),
}


def most_chunks(cost: Cost) -> int:
    """How many chunks one launch of attention can hold."""
    return _MOST_SEQUENCES // max(cost.sequences, 1)


def least_launches(cost: Cost) -> int:
    """How many kernels one run launches in its loops alone, however many chunks it takes."""
    return _LAUNCHES_PER_STEP * cost.steps


def launch_seconds(launches: int) -> float:
    """How long launching so many kernels takes, while the card has little to do: a prediction."""
    return launches * _LAUNCH_SECONDS


def launches_in_words(launches: int, batch: int) -> str:
    """What a recurrent plan is bound by."""
    milliseconds = 1000 * launch_seconds(launches) / batch
    return (
        f"recurrent layers are loops: {launches} kernels a run, {launches / batch:.0f} a chunk; "
        f"launching them is predicted to take {milliseconds:.3g} ms a chunk"
    )


def size_batch(cost: Cost, gpu: Gpu) -> tuple[int, str]:
    """How many chunks a plan should take at once, and why, in words.

    As many as give the card 10 ms of products, so that launches do not count, and where there are loops as
    much as launching their kernels takes; no more, for a batch delays its first result and the last one of a
    song is part empty; and no more than half the card's memory and one launch of attention can hold.
    """
    seconds = cost.flop / gpu.rate
    enough = max(_ENOUGH_SECONDS, launch_seconds(least_launches(cost)))
    wanted = math.ceil(enough / seconds) if seconds else 1
    room = int((_MEMORY_SHARE * gpu.memory - cost.weights) // max(cost.live, 1))
    limits = {
        f"{wanted} give it {1000 * wanted * seconds:.0f} ms of work at once": wanted,
        f"more would need over half of {gpu.memory / GIB:.0f} GiB": room,
        "more would delay the first result and be empty at the end of a song": _MOST_CHUNKS,
        "more sequences do not fit one launch of attention": most_chunks(cost),
    }
    why = min(limits, key=lambda reason: limits[reason])
    batch = max(1, limits[why])
    if wanted == 1:
        why = "which fills it"
    work = f"{cost.flop / 1e12:.3g} TFLOP, {1000 * seconds:.3g} ms of an {gpu.name} at its peak"
    loops = f", loops launch {least_launches(cost)} kernels for any number of them" if cost.steps else ""
    return batch, f"batch {batch}: a chunk is {work}{loops}; {why}"
