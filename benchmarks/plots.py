"""Results -> the plots that a report shows of them."""

from collections.abc import Iterator

from rofo.benchmarks.charts import Bar, bars, line, shares
from rofo.benchmarks.document import Plot, is_ours
from rofo.benchmarks.results import Host, Parity, Result, Scale, Speed, Spread
from rofo.benchmarks.tables import AXES, by_axis, steps


def plots(result: Result) -> tuple[Plot, ...]:
    """The plots of one run."""
    if isinstance(result, Host):
        return ()
    if isinstance(result, Speed):
        return tuple(_speed_plots(result))
    return tuple(_parity_plots(result) if isinstance(result, Parity) else _scale_plots(result))


def _speed_plots(speed: Speed) -> Iterator[Plot]:
    fast = [
        Bar(row.name, row.real_time, f"{row.real_time.median:.2f} x", is_ours(row.name)) for row in speed.rows
    ]
    yield Plot("Seconds of song per second", bars(fast))
    if ours := {row.name: steps(row) for row in speed.rows if is_ours(row.name) and row.parts}:
        title = "Time of each step, as a share of all steps; those beside the engine run while it works"
        yield Plot(title, shares(ours))
    memory = [
        Bar(row.name, _in_gb(row.peak_mb), f"{row.peak_mb.median / 1024:.2f} GB", is_ours(row.name))
        for row in speed.rows
    ]
    yield Plot("Peak memory", bars(memory))


def _parity_plots(parity: Parity) -> Iterator[Plot]:
    """How far each is from the baseline, in one plot for every stem."""
    baseline, *others = parity.rows
    for i, score in enumerate(baseline.stems):
        known = [(row.name, row.stems[i].song_snr) for row in others]
        drawn = [
            Bar(name, Spread.of([snr]), f"{snr:.1f} dB", is_ours(name))
            for name, snr in known
            if snr is not None and snr > 0
        ]
        if drawn:
            yield Plot(f"{score.stem}: dB of agreement with {baseline.name}", bars(drawn))


def _scale_plots(scale: Scale) -> Iterator[Plot]:
    for axis, points in by_axis(scale):
        if len(points) < 2:
            continue
        name, is_length = AXES[axis], axis == "seconds"
        speed = [(p.value, p.elapsed if is_length else p.real_time) for p in points]
        unit = "seconds" if is_length else "x real time"
        yield Plot(f"{'Time' if is_length else 'Speed'} by {name}", line(speed, name, unit))
        memory = [(p.value, _in_gb(p.peak_mb)) for p in points]
        yield Plot(f"Peak memory by {name}", line(memory, name, "GB"))


def _in_gb(peak_mb: Spread) -> Spread:
    return Spread(peak_mb.median / 1024, peak_mb.lowest / 1024, peak_mb.highest / 1024)
