"""What the rounds of one contestant come to: medians, ratios within a round, shares of the limits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rofo.benchmarks.results import Limits, Part, SpeedRow, Spread
from rofo.benchmarks.stopwatch import ENGINE

Facts = dict[str, Any]


class Named(Protocol):
    """The part of an entrant that a row shows."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def device(self) -> str: ...  # noqa: D102
    @property
    def precision(self) -> str: ...  # noqa: D102


@dataclass(frozen=True)
class BestRates:
    """The processor's limits, and what a song demands of them: TFLOP in all, GB of float32 weights in all."""

    limits: Limits
    tflop: float
    weights_gb: float

    def of_matrix(self, seconds: float, precision: str) -> float | None:
        """Share of the matrix rate, None where that or the graph's arithmetic is not known."""
        rate = self.limits.rate(precision)
        return round(self.tflop * 1e3 / seconds / rate.median, 3) if rate and self.tflop else None

    def of_memory(self, seconds: float, precision: str) -> float | None:
        """Share of the memory's rate that reading all weights once per run takes: a lower bound."""
        gigabytes = self.weights_gb * (1 if precision == "fp32" else 0.5)
        return round(gigabytes / seconds / self.limits.copy_gb.median, 4) if gigabytes else None


def speed_row(
    who: Named, runs: Sequence[Facts], baseline: Sequence[Facts] | None, best: BestRates
) -> SpeedRow:
    """The row of one contestant; `baseline` are the runs of PyTorch, round by round."""
    engine = [run["parts"][ENGINE] for run in runs if "parts" in run]
    on_cpu = bool(engine) and who.device == "cpu"
    seconds = Spread.of(engine).median if engine else 0.0
    return SpeedRow(
        name=who.name,
        device=who.device,
        precision=who.precision,
        real_time=Spread.of([run["song"] / run["elapsed"] for run in runs]),
        times_pytorch=_ratios(runs, baseline),
        process=Spread.of([run["process"] for run in runs]),
        load=_spread(runs, "load"),
        first=_spread(runs, "first"),
        outside=_spread(runs, "outside"),
        parts=_parts(runs),
        peak_mb=Spread.of([run["peak_mb"] for run in runs]),
        of_matrix=best.of_matrix(seconds, who.precision) if on_cpu else None,
        of_memory=best.of_memory(seconds, who.precision) if on_cpu else None,
    )


def _ratios(runs: Sequence[Facts], baseline: Sequence[Facts] | None) -> Spread | None:
    """How many times faster, each round against the same round: the machine's moods cancel out."""
    pairs = list(zip(baseline or (), runs, strict=False))
    return Spread.of([slow["elapsed"] / fast["elapsed"] for slow, fast in pairs]) if pairs else None


def _spread(runs: Sequence[Facts], name: str) -> Spread | None:
    return Spread.of([run[name] for run in runs]) if name in runs[0] else None


def _parts(runs: Sequence[Facts]) -> tuple[Part, ...]:
    names = runs[0].get("parts", ())
    return tuple(Part(name, Spread.of([run["parts"][name] for run in runs])) for name in names)
