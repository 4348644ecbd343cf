"""Results -> what a report and README show of them."""

from collections.abc import Iterator, Sequence

from rofo.benchmarks.document import Section, Table
from rofo.benchmarks.results import About, Host, Model, Parity, Point, Result, Scale, Speed, SpeedRow, Spread

AXES = {
    "seconds": "length of the song, s",
    "stems": "stems written",
    "batch": "chunks at once",
    "threads": "threads",
}
_SHARES = ("processor time of PyTorch's", "time of its runs'", "processor time of its runs'")
_SDR_NOTE = (
    "SDR is the global one of the music demixing challenges, against the true stems; its median is over "
    "whole seconds. A difference is against the first row."
)


def section(result: Result) -> Section:
    """The section of one run."""
    tables: tuple[Table, ...]
    if isinstance(result, Speed):
        tables, notes = (speed_table(result), _parts_table(result)), speed_notes(result)
    elif isinstance(result, Parity):
        tables, notes = parity_tables(result), parity_notes(result)
    elif isinstance(result, Host):
        tables, notes = _host_tables(result), _host_notes(result)
    else:
        tables, notes = tuple(_scale_tables(result)), _scale_notes(result)
    return Section(
        title=f"{result.kind.capitalize()}: {result.model.name}",
        summary=model_line(result.model),
        tables=tables,
        notes=notes,
        left_out=tuple(f"{one.what}: {one.why}" for one in result.about.left_out),
    )


def model_line(model: Model) -> str:
    """What was measured, in a sentence."""
    overlap = f", overlap {model.overlap:g}" if model.overlap is not None else ""
    weights = f", {model.weights_gb:.2g} GB of weights" if model.weights_gb else ""
    return (
        f"{model.architecture}, chunks of {model.chunk:.1f} s at {model.sample_rate} Hz, scheme "
        f"{model.scheme}{overlap}, batch {model.batch}, stems {', '.join(model.stems)}{weights}."
    )


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


def speed_table(speed: Speed) -> Table:
    """Contestants; also what README shows. Shares that no row has are no columns."""
    columns: dict[str, tuple[str, ...]] = {
        "": tuple(row.name for row in speed.rows),
        "x real time": tuple(_spread(row.real_time) for row in speed.rows),
        "times PyTorch": tuple(_spread(row.times_pytorch) for row in speed.rows),
        "processor time of PyTorch's": tuple(_spread(row.cpu_of_pytorch) for row in speed.rows),
        "time of its runs'": tuple(_spread(row.time_of_runs) for row in speed.rows),
        "processor time of its runs'": tuple(_spread(row.cpu_of_runs) for row in speed.rows),
        "outside the engine": tuple(
            _percent(row.outside.median if row.outside else None) for row in speed.rows
        ),
        "of the matrix rate": tuple(_percent(row.of_matrix) for row in speed.rows),
        "load": tuple(f"{row.load.median:.1f} s" if row.load else "" for row in speed.rows),
        "peak memory": tuple(memory(row.peak_mb.median) for row in speed.rows),
    }
    shown = {head: cells for head, cells in columns.items() if any(cells) or head not in _SHARES}
    return Table(tuple(shown), tuple(zip(*shown.values(), strict=True)))


def speed_notes(speed: Speed) -> tuple[str, ...]:
    """How it was measured, in sentences."""
    matrix = ", ".join(
        f"{found['median']:.0f} GFLOP/s in {name}" for name, found in speed.limits.gflops.items()
    )
    notes = [
        f"A song of {speed.song_seconds:.3g} s ({_counted(speed.chunks, 'chunk')}), "
        f"{_repeats(speed.rounds)}.",
        "Every contestant is a process of its own, loaded and warmed up on a chunk before; all read the same "
        "file and write the same stems, and pymss-core's engine time includes its STFT.",
        "Whole processes of other tools count with start and load.",
    ]
    if matrix:
        notes.append(
            f"The machine's limits, measured in the same run: {matrix} in a matrix product of 4096 x 4096, "
            f"{speed.limits.copy_gb.median:.0f} GB/s in copying memory."
        )
    if any(row.cpu_of_pytorch for row in speed.rows):
        notes.append(
            "Processor time is user and system time of all threads, which other programs change "
            "little; with several threads PyTorch's also counts their waiting for each other."
        )
    if any(row.time_of_runs for row in speed.rows):
        notes.append(
            "The runs of a recipe's engines are also made one by one: each separates the song and writes its "
            "stems by itself."
        )
    if speed.model.tflop:
        notes.append(f"A chunk takes {speed.model.tflop:.3g} TFLOP of matrix products.")
    if speed.exported:
        notes.append(
            f"Export without verification: {speed.exported.seconds:.0f} s, "
            f"{speed.exported.ratio:.1f} times the checkpoint in memory."
        )
    return (*notes, machine_note(speed.about))


def _parts_table(speed: Speed) -> Table:
    """Seconds of the song by step."""
    rows = [(row, steps(row)) for row in speed.rows if row.parts]
    names = tuple(dict.fromkeys(name for _, parts in rows for name in parts))
    head = "seconds of the song in", *names, "processor", "first chunk", "whole process", "of the memory rate"
    return Table(head, tuple(
        (
            row.name,
            *(f"{parts[name]:.3g}" if name in parts else "" for name in names),
            f"{row.cpu.median:.3g}" if row.cpu else "",
            f"{row.first.median:.3g}" if row.first else "",
            f"{row.process.median:.3g}",
            _percent(row.of_memory),
        )
        for row, parts in rows
    ))  # fmt: skip


def parity_tables(parity: Parity) -> tuple[Table, ...]:
    """Agreement with PyTorch, and where there are true stems the SDR; also what README shows."""
    first = parity.rows[0].stems
    agreement = Table(
        ("", "spectrogram, dB", *(f"{score.stem}, dB" for score in first)),
        tuple(
            (row.name, _db(row.graph_snr), *(_db(score.song_snr) for score in row.stems))
            for row in parity.rows
        ),
    )
    known = [i for i, score in enumerate(first) if score.sdr is not None]
    if not known:
        return (agreement,)
    head = [(f"{first[i].stem}, SDR", "difference", "median SDR") for i in known]
    rows = []
    for row in parity.rows:
        scores = [(row.stems[i], first[i]) for i in known]
        cells = [(_db(one.sdr), _difference(one.sdr, base.sdr), _db(one.sdr_median)) for one, base in scores]
        rows.append((row.name, *(cell for group in cells for cell in group)))
    return agreement, Table(("", *(name for group in head for name in group)), tuple(rows))


def parity_notes(parity: Parity) -> tuple[str, ...]:
    """What the figures are, in sentences."""
    agreement = (
        f"Agreement is the signal-to-noise ratio, of stems against {parity.rows[0].name} on {parity.mix} "
        f"({parity.mix_seconds:.1f} s), of the spectrogram of a fixed loud chunk against the network "
        "that was exported."
    )
    truth = [_SDR_NOTE] if len(parity_tables(parity)) > 1 else []
    return (agreement, *truth, machine_note(parity.about))


def _scale_tables(scale: Scale) -> Iterator[Table]:
    for axis, points in by_axis(scale):
        yield Table((AXES[axis], "seconds", "x real time", "peak memory"), tuple(
            (f"{p.value:g}", _spread(p.elapsed), _spread(p.real_time), memory(p.peak_mb.median))
            for p in points
        ))  # fmt: skip


def _scale_notes(scale: Scale) -> tuple[str, ...]:
    how = (
        f"{scale.backend} in {scale.precision}, {_repeats(scale.rounds)}, each song in a process of its "
        f"own; where its length does not vary, a song of {scale.song_seconds:.3g} s."
    )
    return how, machine_note(scale.about)


def _host_tables(host: Host) -> tuple[Table, ...]:
    head = "threads", "x real time", "times one thread", "x real time per core in use", "peak memory"
    alone = host.rows[0].real_time.median
    rows = tuple(
        (
            f"{row.threads}",
            _spread(row.real_time),
            f"{row.real_time.median / alone:.2f}",
            _spread(row.per_processor),
            memory(row.peak_mb.median),
        )
        for row in host.rows
    )
    stages = tuple((part.name, f"{part.seconds.median * 1e3:.3g}") for part in host.stages)
    return Table(head, rows), Table(("stage of a chunk", "processor ms"), stages)


def _host_notes(host: Host) -> tuple[str, ...]:
    how = (
        f"A song of {host.song_seconds:.3g} s of noise in 16 bits, one stem and the residual written, "
        f"{_repeats(host.rounds)}, every number of threads a process of its own, pinned to as many cores. "
        "The stages are timed alone, on one thread."
    )
    return how, machine_note(host.about)


def by_axis(scale: Scale) -> Iterator[tuple[str, Sequence[Point]]]:
    """Every axis that was measured, with its points."""
    for axis in AXES:
        if points := [point for point in scale.points if point.axis == axis]:
            yield axis, points


def steps(row: SpeedRow) -> dict[str, float]:
    """Seconds of the song by step."""
    return {part.name: part.seconds.median for part in row.parts}


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number > 1)}"


def _repeats(rounds: int) -> str:
    return f"median (lowest-highest) of {rounds} interleaved rounds" if rounds > 1 else "measured once"


def memory(megabytes: float) -> str:
    """In GB where there is one, else in MB."""
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
