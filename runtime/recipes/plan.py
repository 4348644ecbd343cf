"""Which signals are made in which pass over the song.

A signal's pass is the largest of its inputs', and the next one where it needs the whole of them. Within a
pass all go in lock-step; signals that a later pass needs are spooled. With low memory every run of an engine
is a pass of its own.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rofo.recipes.step import MIX, Node

# The work of a pass in runs of an engine; one without any still reads and writes signals.
READING = 0.02


@dataclass(frozen=True)
class Pass:
    """The nodes of a pass in an order in which they can be made.

    `gives` are the signals that later passes need, the outputs in the last one. `frees` are those that no
    later pass needs. `share` is its part of all the work.
    """

    nodes: tuple[Node, ...]
    gives: tuple[str, ...]
    frees: tuple[str, ...]
    share: float


def make_passes(nodes: Iterable[Node], outputs: Sequence[str], *, low_memory: bool) -> tuple[Pass, ...]:
    """The passes that make the outputs of nodes, each of which comes after its inputs.

    Nodes of one name are the same node. What no output needs is left out.
    """
    by_name: dict[str, Node] = {}
    for node in nodes:
        by_name.setdefault(node.make, node)
    needed = _needed(by_name, outputs)
    place, last_run = {MIX: 0}, -1
    for node in needed:
        place[node.make] = max(place[name] for name in node.inputs) + node.whole
        if node.run and low_memory:
            last_run = place[node.make] = max(place[node.make], last_run + 1)
    last = max(place.values())
    last_use = dict.fromkeys(outputs, last)
    for node in needed:
        for name in node.inputs:
            last_use[name] = max(last_use.get(name, 0), place[node.make])
    work = [sum(n.run for n in needed if place[n.make] == i) + READING for i in range(last + 1)]
    return tuple(
        Pass(
            tuple(node for node in needed if place[node.make] == i),
            tuple(n for n in place if place[n] == i < last_use.get(n, 0)) if i < last else tuple(outputs),
            tuple(name for name, use in last_use.items() if use == i),
            work[i] / sum(work),
        )
        for i in range(last + 1)
    )


def _needed(by_name: dict[str, Node], outputs: Sequence[str]) -> list[Node]:
    """What the outputs are made of, in the order of `by_name`."""
    wanted, left = set[str](), list(outputs)
    while left:
        name = left.pop()
        if name not in wanted and name in by_name:
            wanted.add(name)
            left += by_name[name].inputs
    return [node for name, node in by_name.items() if name in wanted]
