"""Results -> what a report shows of them."""

from collections.abc import Sequence

from rofo.benchmarks.charts import Bar, Line, Stack, bars, lines, stacks
from rofo.benchmarks.document import Plot, Section, Table
from rofo.benchmarks.results import About, Model, Parity, Point, Result, Scale, Speed, SpeedRow, Spread

_AXES = {
    "seconds": "length of the song, s",
    "stems": "stems written",
    "batch": "chunks at once",
    "threads": "threads",
}


_SDR_NOTE = (
    "SDR is the global one of the music demixing challenges, against the true stems; its median is over "
    "whole seconds. A difference is against the first row."
)


def section(result: Result) -> Section:
    """The section of one run."""
    if isinstance(result, Speed):
        return _speed(result)
    return _parity(result) if isinstance(result, Parity) else _scale(result)


def speed_table(speed: Speed) -> Table:
    """Contestants, rofo's in strong; also what README shows."""
    head = (
        "",
        "x real time",
        "times PyTorch",
        "outside the engine",
        "of the matrix rate",
        "load",
        "peak memory",
    )
    rows = tuple(
        (
            row.name,
            _spread(row.real_time),
            _spread(row.times_pytorch),
            _percent(row.outside.median if row.outside else None),
            _percent(row.of_matrix),
            f"{row.load.median:.1f} s" if row.load else "",
            _memory(row.peak_mb.median),
        )
        for row in speed.rows
    )
    return Table(head, rows, frozenset(i for i, row in enumerate(speed.rows) if _is_ours(row.name)))


def speed_notes(speed: Speed) -> tuple[str, ...]:
    """How it was measured, in sentences."""
    matrix = ", ".join(
        f"{found['median']:.0f} GFLOP/s in {name}" for name, found in speed.limits.gflops.items()
    )
    notes = [
        f"A song of {speed.song_seconds:.3g} s ({_counted(speed.chunks, 'chunk')}), "
        f"{_repeats(speed.rounds)}, every contestant a process of its own, loaded and warmed up on a chunk "
        "before; all read the same file and write the same stems, and PyTorch's engine time includes its "
        "STFT.",
        "Whole processes of other tools count with start and load.",
        f"The machine's limits, measured in the same run: {matrix} in a matrix product of 4096 x 4096, "
        f"{speed.limits.copy_gb.median:.0f} GB/s in copying memory.",
    ]
    if speed.model.tflop:
        notes.append(f"A chunk takes {speed.model.tflop:.3g} TFLOP of matrix products.")
    if speed.exported:
        notes.append(
            f"Export without verification: {speed.exported.seconds:.0f} s, "
            f"{speed.exported.ratio:.1f} times the checkpoint in memory."
        )
    return (*notes, machine_note(speed.about))


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number > 1)}"


def machine_note(about: About) -> str:
    """Where and with what it was measured."""
    machine = about.machine
    versions = ", ".join(f"{name} {number}" for name, number in about.versions.items())
    flags = f" ({', '.join(machine.flags)})" if machine.flags else ""
    gpu = f", {machine.gpu}" if machine.gpu else ""
    return (
        f"{_counted(machine.threads, 'thread')} on {machine.cores} cores of {machine.processor}{flags}{gpu}, "
        f"{machine.memory_gb:.0f} GB, {machine.system}; {versions}."
    )


def _speed(speed: Speed) -> Section:
    return Section(
        title=f"Speed: {speed.model.name}",
        summary=model_line(speed.model),
        tables=(speed_table(speed), _parts_table(speed)),
        plots=_speed_plots(speed),
        notes=speed_notes(speed),
        left_out=_left_out(speed.about),
    )


def _speed_plots(speed: Speed) -> tuple[Plot, ...]:
    fast = [_bar(row.name, row.real_time, "{:.2f} x") for row in speed.rows]
    memory = [_bar(row.name, _in_gb(row.peak_mb), "{:.2f} GB") for row in speed.rows]
    plots = [
        Plot("Seconds of song per second", bars(fast, "Seconds of song per second")),
        Plot("Peak memory", bars(memory, "Peak memory")),
    ]
    ours = [row for row in speed.rows if _is_ours(row.name) and row.parts]
    if ours:
        title = "Time of each step, as a share of all steps; those beside the engine run while it works"
        plots.insert(1, Plot(title, stacks([_stack(row) for row in ours], _names(ours), title)))
    return tuple(plots)


def _parts_table(speed: Speed) -> Table:
    """Seconds of the song by step."""
    rows = [row for row in speed.rows if row.parts]
    names = _names(rows)
    parts = [{part.name: part.seconds.median for part in row.parts} for row in rows]
    return Table(
        ("seconds of the song in", *names, "first chunk", "whole process", "of the memory rate"),
        tuple(
            (
                row.name,
                *(f"{found[name]:.3g}" if name in found else "" for name in names),
                f"{row.first.median:.3g}" if row.first else "",
                f"{row.process.median:.3g}",
                _percent(row.of_memory),
            )
            for row, found in zip(rows, parts, strict=True)
        ),
        frozenset(i for i, row in enumerate(rows) if _is_ours(row.name)),
    )


def parity_tables(parity: Parity) -> tuple[Table, ...]:
    """Agreement with PyTorch, and where there are true stems the SDR; also what README shows."""
    agreement = Table(
        ("", "spectrogram, dB", *(f"{score.stem}, dB" for score in parity.rows[0].stems)),
        tuple(
            (row.name, _db(row.graph_snr), *(_db(score.song_snr) for score in row.stems))
            for row in parity.rows
        ),
        _ours(parity),
    )
    return (agreement, _sdr_table(parity)) if _has_truth(parity) else (agreement,)


def parity_notes(parity: Parity) -> tuple[str, ...]:
    """What the figures are, in sentences."""
    agreement = (
        f"Agreement is the signal-to-noise ratio, of stems against {parity.rows[0].name} on {parity.mix} "
        f"({parity.mix_seconds:.1f} s), of the spectrogram of a fixed loud chunk against the network "
        "that was exported."
    )
    return (agreement, *([_SDR_NOTE] if _has_truth(parity) else []), machine_note(parity.about))


def _has_truth(parity: Parity) -> bool:
    return any(score.sdr is not None for row in parity.rows for score in row.stems)


def _parity(parity: Parity) -> Section:
    return Section(
        title=f"Parity: {parity.model.name}",
        summary=model_line(parity.model),
        tables=parity_tables(parity),
        plots=_parity_plots(parity),
        notes=parity_notes(parity),
        left_out=_left_out(parity.about),
    )


def _parity_plots(parity: Parity) -> tuple[Plot, ...]:
    """How far each is from the baseline, in one plot for every stem."""
    baseline, *others = parity.rows
    plots = []
    for i, score in enumerate(baseline.stems):
        title = f"{score.stem}: dB of agreement with {baseline.name}"
        known = [(row.name, row.stems[i].song_snr) for row in others]
        drawn = [
            _bar(name, Spread.of([snr]), "{:.1f} dB") for name, snr in known if snr is not None and snr > 0
        ]
        plots += [Plot(title, bars(drawn, title))] if drawn else []
    return tuple(plots)


def _sdr_table(parity: Parity) -> Table:
    """SDR of every stem with a true one, and how far it is from the baseline's."""
    first = {score.stem: score for score in parity.rows[0].stems}
    known = [stem for stem, score in first.items() if score.sdr is not None]
    rows = []
    for row in parity.rows:
        scores = [score for score in row.stems if score.stem in known]
        cells = [
            (_db(score.sdr), _difference(score.sdr, first[score.stem].sdr), _db(score.sdr_median))
            for score in scores
        ]
        rows.append((row.name, *(cell for group in cells for cell in group)))
    head = [(f"{stem}, SDR", "difference", "median SDR") for stem in known]
    return Table(("", *(name for group in head for name in group)), tuple(rows), _ours(parity))


def _scale(scale: Scale) -> Section:
    axes = {axis: [point for point in scale.points if point.axis == axis] for axis in _AXES}
    return Section(
        title=f"Scale: {scale.model.name}",
        summary=model_line(scale.model),
        tables=tuple(_scale_table(_AXES[axis], points) for axis, points in axes.items() if points),
        plots=tuple(
            plot for axis, points in axes.items() if len(points) > 1 for plot in _curves(axis, points)
        ),
        notes=(
            f"{scale.backend} in {scale.precision}, {_repeats(scale.rounds)}, each song in a process of its "
            f"own; where its length does not vary, a song of {scale.song_seconds:.3g} s.",
            machine_note(scale.about),
        ),
        left_out=_left_out(scale.about),
    )


def _scale_table(name: str, points: Sequence[Point]) -> Table:
    head = (name, "seconds", "x real time", "peak memory")
    return Table(head, tuple(
        (f"{p.value:g}", _spread(p.elapsed), _spread(p.real_time), _memory(p.peak_mb.median)) for p in points
    ))  # fmt: skip


def _curves(axis: str, points: Sequence[Point]) -> tuple[Plot, Plot]:
    name = _AXES[axis]
    what, speed = (
        ("Time", [(p.value, p.elapsed) for p in points]) if axis == "seconds"
        else ("Speed", [(p.value, p.real_time) for p in points])
    )  # fmt: skip
    unit = "seconds" if axis == "seconds" else "x real time"
    memory = [(p.value, _in_gb(p.peak_mb)) for p in points]
    titles = f"{what} by {name}", f"Peak memory by {name}"
    return (
        Plot(titles[0], lines([Line(what, tuple(speed))], titles[0], name, unit)),
        Plot(titles[1], lines([Line("memory", tuple(memory))], titles[1], name, "GB")),
    )


def model_line(model: Model) -> str:
    """What was measured, in a sentence."""
    overlap = f", overlap {model.overlap:g}" if model.overlap is not None else ""
    weights = f", {model.weights_gb:.2g} GB of weights" if model.weights_gb else ""
    return (
        f"{model.architecture}, chunks of {model.chunk:.1f} s at {model.sample_rate} Hz, scheme "
        f"{model.scheme}{overlap}, batch {model.batch}, stems {', '.join(model.stems)}{weights}."
    )


def _repeats(rounds: int) -> str:
    return f"median (lowest-highest) of {rounds} interleaved rounds" if rounds > 1 else "measured once"


def _left_out(about: About) -> tuple[str, ...]:
    return tuple(f"{one.what}: {one.why}" for one in about.left_out)


def _is_ours(name: str) -> bool:
    return name.startswith("rofo ")


def _ours(parity: Parity) -> frozenset[int]:
    return frozenset(i for i, row in enumerate(parity.rows) if _is_ours(row.name))


def _names(rows: Sequence[SpeedRow]) -> tuple[str, ...]:
    longest = max((row.parts for row in rows), key=len, default=())
    return tuple(part.name for part in longest)


def _bar(name: str, value: Spread, form: str) -> Bar:
    return Bar(name, value, form.format(value.median), _is_ours(name))


def _stack(row: SpeedRow) -> Stack:
    seconds = tuple(part.seconds.median for part in row.parts)
    return Stack(row.name, seconds, f"{sum(seconds):.3g} s")


def _in_gb(peak_mb: Spread) -> Spread:
    return Spread(peak_mb.median / 1024, peak_mb.lowest / 1024, peak_mb.highest / 1024)


def _memory(megabytes: float) -> str:
    return f"{megabytes / 1024:.1f} GB" if megabytes >= 1024 else f"{megabytes:.0f} MB"


def _spread(spread: Spread | None) -> str:
    """Median, and where it was repeated the extremes, to three digits."""
    if spread is None:
        return ""
    median, low, high = (f"{v:.3g}" for v in (spread.median, spread.lowest, spread.highest))
    return median if low == high else f"{median} ({low}-{high})"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _db(decibels: float | None) -> str:
    return "" if decibels is None else f"{decibels:.2f}"


def _difference(value: float | None, baseline: float | None) -> str:
    return "" if value is None or baseline is None else f"{value - baseline:+.3f}"
