"""`rofo-bench parity`: how far engines are from PyTorch, on a fixed spectrogram, on a song, and in SDR.

Sample-by-sample agreement of a song ends where masks amplify the rounding of float32 spectrograms. What
matters is the last one: does the engine separate as well as the network it was made of?
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rofo.audio import AudioReader
from rofo.benchmarks import machine
from rofo.benchmarks.contestants import GIVEN, PYMSS, Choice, Contestant, contestants
from rofo.benchmarks.metrics import median_sdr, sdr
from rofo.benchmarks.networks import Checkpoint, open_alone, opened
from rofo.benchmarks.results import Parity, ParityRow, StemScore
from rofo.benchmarks.rounds import Log, Say
from rofo.benchmarks.subject import Subject, Told, is_engine
from rofo.benchmarks.system import prepare_any
from rofo.errors import AudioReadError, UsageError
from rofo.manifest import Manifest

if TYPE_CHECKING:
    from rofo.export.graph.gates import Case

NOT_FINITE = -200.0  # dB, of what is not even a number

Floats = NDArray[np.float32]
Stems = Mapping[str, Floats]


def measure_parity(
    checkpoint: Path, told: Told, mix: Path, truths: Sequence[str], choice: Choice, *, say: Say
) -> Parity:
    """Compare everything that can run with the first that does, PyTorch where it can.

    `truths` are "FILE" (in the order of the model's stems, the residual last) or "NAME=FILE". What cannot
    run, and true stems that are silent, cannot be read or do not fit the mix, are told in `about.left_out`.
    Raises UsageError for an engine without its checkpoint and an unknown stem, AudioReadError for a mix that
    does not fit the model, the export's errors, EngineRunError where nothing could run.
    """
    log = Log(say)
    with tempfile.TemporaryDirectory() as folder:
        say(f"{checkpoint.name}: preparing")
        subject = prepare_any(checkpoint, told, Path(folder), log, choice)
        if is_engine(checkpoint) and subject.checkpoint is None:
            raise UsageError(f"{checkpoint}: an engine has no network to compare with; give its checkpoint")
        song = _Song.read(mix, true_files(truths, subject.manifest), subject.manifest, log)
        rows, model = _rows(subject, song, choice, log), subject.model()
    return Parity(
        kind="parity",
        about=machine.about(choice.threads, log.left_out),
        model=model,
        mix=mix.name,
        mix_seconds=round(song.mix.shape[1] / subject.manifest.sample_rate, 3),
        rows=rows,
    )


@dataclass(frozen=True)
class _Song:
    """The mix (channels, samples), and the true stems by name, of the same shape and not silent."""

    mix: Floats
    truths: Stems

    @classmethod
    def read(cls, mix: Path, truths: Mapping[str, Path], manifest: Manifest, log: Log) -> "_Song":
        """Raises AudioReadError for the mix; a true stem that is of no use is left out."""
        samples = read_song(mix, manifest)
        known: dict[str, Floats] = {}
        for stem, file in truths.items():
            read = partial(_read_truth, file, mix, samples.shape[1], manifest)
            truth = log.attempt(f"SDR of {stem}", read)
            if truth is not None:
                known[stem] = truth
        return cls(samples, known)


def read_song(path: Path, manifest: Manifest) -> Floats:
    """A whole file, (channels, samples). Raises AudioReadError unless it has the model's rate, channels."""
    with AudioReader(path) as reader:
        rate, channels = reader.format.sample_rate, reader.format.channels
        if (rate, channels) != (manifest.sample_rate, manifest.channels):
            raise AudioReadError(
                f"{path}: {rate} Hz and {channels} channels, {manifest.name} has {manifest.sample_rate} Hz "
                f"and {manifest.channels}; convert it first, so that only the networks are compared"
            )
        return np.concatenate([np.zeros((channels, 0), np.float32), *reader.blocks()], axis=1)


def true_files(given: Sequence[str], manifest: Manifest) -> dict[str, Path]:
    """Files of true stems by stem. Raises UsageError for too many, and for stems that the model has not."""
    names = all_stems(manifest)
    if len(given) > len(names):
        raise UsageError(f"--stems: {len(given)} files, {manifest.name} has {', '.join(names)}; give fewer")
    files = {}
    for place, text in enumerate(given):
        name, _, file = text.rpartition("=")
        stem = name or names[place]
        if stem not in names:
            raise UsageError(f"{text}: {manifest.name} has no stem {stem}; choose among {', '.join(names)}")
        files[stem] = Path(file)
    return files


def all_stems(manifest: Manifest) -> tuple[str, ...]:
    """The stems of the model, the residual last."""
    return (*manifest.stems, *([manifest.residual] if manifest.residual else []))


def _read_truth(file: Path, mix: Path, samples: int, manifest: Manifest) -> Floats:
    truth = read_song(file, manifest)
    if truth.shape[1] != samples:
        raise AudioReadError(
            f"{file}: {truth.shape[1]:,} samples, {mix.name} has {samples:,}; give the stems of this mix"
        )
    if not truth.any():
        raise AudioReadError(f"{file}: silent, so that there is no SDR; give a mix in which it is heard")
    return truth


def _rows(subject: Subject, song: _Song, choice: Choice, log: Log) -> tuple[ParityRow, ...]:
    loud = None if subject.is_recipe else _loud_case(subject)
    rows: list[ParityRow] = []
    stems = all_stems(subject.manifest)
    baseline: Stems = {}

    def compared(one: Contestant) -> ParityRow:
        nonlocal baseline
        graph = _graph_snr(loud, one, subject, choice.threads)
        if graph == NOT_FINITE:  # which no song survives
            unknown = tuple(StemScore(stem, None, None, None) for stem in stems)
            return ParityRow(one.name, one.precision, graph, unknown)
        with opened(one, subject, choice.threads) as separator:
            estimates = separator.separate(song.mix, subject.manifest.sample_rate)
        baseline = baseline or estimates
        scores = tuple(_score(stem, estimates, baseline, song, subject.manifest) for stem in stems)
        return ParityRow(one.name, one.precision, graph, scores)

    for one in (one for one in contestants(subject, choice) if not one.apart):
        row = log.attempt(one.name, partial(compared, one))
        if row:
            log.say(f"{one.name}: done")
            rows.append(row)
    if not rows:
        raise log.nothing_ran()
    return tuple(rows)


def _score(stem: str, estimates: Stems, baseline: Stems, song: _Song, manifest: Manifest) -> StemScore:
    from rofo.export.graph.gates import snr_db

    truth, estimate = song.truths.get(stem), estimates[stem]
    return StemScore(
        stem=stem,
        song_snr=None if estimates is baseline else _rounded(snr_db(baseline[stem], estimate)),
        sdr=None if truth is None else _rounded(sdr(truth, estimate)),
        sdr_median=None if truth is None else _rounded(median_sdr(truth, estimate, manifest.sample_rate)),
    )


def _loud_case(subject: Subject) -> "Case":
    """The loud chunk that every export is verified on, and what an engine is compared with makes of it."""
    from rofo.export.graph.gates import Case, loud_chunk

    file, inputs = Checkpoint.of(subject), loud_chunk(subject.manifest)
    outputs = file.family.original(file.source, file.facts, file.network())(inputs)
    return Case("loud music", inputs, outputs)


def _graph_snr(loud: "Case | None", one: Contestant, subject: Subject, threads: int) -> float | None:
    """dB of a contestant, NOT_FINITE at worst; None for what was exported, what takes no spectra, recipes."""
    if loud is None or one.kind in (PYMSS, GIVEN) or (one.is_baseline and one.device == "cpu"):
        return None
    engine = open_alone(one, subject, threads)
    try:
        inputs = {name: np.repeat(tensor, engine.batch, axis=0) for name, tensor in loud.inputs.items()}
        outputs = {name: tensor[:1] for name, tensor in engine.run(inputs).items()}
    finally:
        engine.close()
    return _rounded(max(loud.decibels(outputs), NOT_FINITE))


def _rounded(decibels: float | None) -> float | None:
    return None if decibels is None else round(decibels, 3)
