"""What can be made of one model: its fp32 graph, typed graphs, and its own output to hold them against."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rofo.export.graph.layer_outputs import LayerOutput
from rofo.export.plan.plan import PlanOptions, Trace

Floats = NDArray[np.float32]


class Graphs(Protocol):
    """One model on its way to engines. `keeps_silence` tells whether silence must stay silence in it."""

    keeps_silence: bool

    def write(self, file: Path, batch: int) -> Path | None:
        """Write the fp32 graph; return the file of large weights, if any. `file` lies in an empty folder."""

    def stems(self, mix: Floats) -> Floats:
        """What the model itself, not the graph, makes of mix (1, channels, frames, bins, 2).

        Frees the model's memory where it can: write the fp32 graph first.
        """

    def typed(self, options: PlanOptions) -> Trace:
        """The same model with the number types that a plan is built from."""

    def layer_outputs(self, options: PlanOptions, mix: Floats) -> Mapping[str, LayerOutput]:
        """What every layer of the model puts out for mix. Raises UsageError where that is not measured."""
