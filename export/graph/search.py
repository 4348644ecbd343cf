"""Which products of an engine are computed in 8 bits: as many as the gate allows.

All of them, where that passes. Else every product's error is measured with it alone in 8 bits, or with its
neighbours where there are many, on the worst of the test chunks; errors add, and so the costliest are left
out until the sum of the others is small enough, and what that makes is measured once more.
"""

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from rofo.export.graph.gates import Reference

Floats = NDArray[np.float64]
Made = TypeVar("Made")
Key = TypeVar("Key", bound=Hashable)

# Viperx has 96 products, and a run of its network takes half a minute on two cores.
_MOST_MEASURED = 32
# How much of the gate's room the sum of single errors may fill, one after the other.
_SHARES = (0.9, 0.6, 0.4, 0.2, 0.1)


@dataclass(frozen=True)
class Attempt(Generic[Made]):
    """dB case by case with some products in 8 bits, and what was `made` where that passes the gate."""

    decibels: Floats
    made: Made | None


def most_in_8_bits(
    names: Sequence[str],
    wanted: Reference,
    *,
    tried: Callable[[Collection[str]], Attempt[Made]],
    noise_of: Callable[[Collection[str], int], float],
    rest: Floats,
    stage: Callable[[str], None],
) -> Made | None:
    """What `tried` makes of as many of the products as pass, None where no choice does.

    `noise_of` is the `noise` with some products in 8 bits in the case at an index; `rest` that of the number
    type of everything else, case by case.
    """
    found = tried(names)
    if found.made is not None:
        return found.made
    least = np.array([case.least for case in wanted.cases])
    worst = int(np.argmax(least - found.decibels))
    size = -(-len(names) // _MOST_MEASURED)
    groups = [tuple(names[i : i + size]) for i in range(0, len(names), size)]
    stage(
        f"{_told(wanted, found.decibels)} with all {len(names)} products in 8 bits; "
        f"measuring {len(groups)} times {size} of them alone"
    )
    costs = {group: max(0.0, noise_of(group, worst) - float(rest[worst])) for group in groups}
    chosen: Collection[str] = names
    for share in _SHARES:
        few = cheapest(costs, share * float((noise(least) - rest)[worst]))
        fewer = [name for name in names if any(name in group for group in few)]
        if fewer and len(fewer) < len(chosen):
            chosen = fewer
            found = tried(chosen)
            stage(f"{_told(wanted, found.decibels)} with {len(chosen)} of {len(names)}")
            if found.made is not None:
                return found.made
    return None


def cheapest(costs: Mapping[Key, float], room: float) -> tuple[Key, ...]:
    """The keys that are left when the costliest go until the sum of the others fits."""
    by_cost, left = sorted(costs, key=costs.__getitem__), 0.0
    for place, key in enumerate(by_cost):
        left += costs[key]
        if left > room:
            return tuple(by_cost[:place])
    return tuple(by_cost)


def noise(decibels: Floats) -> Floats:
    """Energy of the error over that of the signal."""
    energy: Floats = 10 ** (-decibels / 10)
    return energy


def _told(wanted: Reference, decibels: Floats) -> str:
    return ", ".join(
        f"{found:.1f} dB on {case.name}" for case, found in zip(wanted.cases, decibels, strict=True)
    )
