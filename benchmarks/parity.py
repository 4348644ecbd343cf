"""`rofo-bench parity`: how far engines are from PyTorch, on a fixed spectrogram, on a song, and in SDR.

Sample-by-sample agreement of a song ends where masks amplify the rounding of float32 spectrograms. What
matters is the last one: does the engine separate as well as the network it was made of?
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rofo.audio import AudioReader
from rofo.benchmarks import machine
from rofo.benchmarks.contestants import PYMSS, Choice, Contestant, contestants
from rofo.benchmarks.metrics import median_sdr, sdr
from rofo.benchmarks.networks import Checkpoint, open_alone, opened
from rofo.benchmarks.results import Parity, ParityRow, StemScore
from rofo.benchmarks.rounds import Log, Say
from rofo.benchmarks.subject import Subject, Told, is_engine, prepare
from rofo.errors import AudioReadError, UsageError
from rofo.manifest import Manifest

Floats = NDArray[np.float32]
Stems = Mapping[str, Floats]


def measure_parity(
    checkpoint: Path, told: Told, mix: Path, truths: Sequence[str], choice: Choice, *, say: Say
) -> Parity:
    """Compare everything that can run with the first that does, PyTorch where it can.

    `truths` are "FILE" (in the order of the model's stems, the residual last) or "NAME=FILE". What cannot
    run, and true stems that are silent, cannot be read or do not fit the mix, are told in `about.left_out`.
    Raises UsageError for an engine or an unknown stem, AudioReadError for a mix that does not fit the model,
    the export's errors, EngineRunError where nothing could run.
    """
    if is_engine(checkpoint):
        raise UsageError(f"{checkpoint}: an engine has no network to compare with; give its checkpoint")
    log = Log(say)
    with tempfile.TemporaryDirectory() as folder:
        say(f"{checkpoint.name}: preparing")
        subject = prepare(
            checkpoint, told, Path(folder), log, choice.batch, machine.cards(choice.plans)
        )
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
        read = {
            stem: log.attempt(
                f"SDR of {stem}", lambda file=file: _read_truth(file, mix, samples.shape[1], manifest)
            )
            for stem, file in truths.items()
        }
        return cls(samples, {stem: truth for stem, truth in read.items() if truth is not None})


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
    names = [*manifest.stems, *([manifest.residual] if manifest.residual else [])]
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
    fixed = _Fixed.of(subject)
    rows: list[ParityRow] = []
    baseline: Stems = {}

    def separated(one: Contestant) -> Stems:
        with opened(one, subject, choice.threads) as separator:
            return separator.separate(song.mix, subject.manifest.sample_rate)

    for one in contestants(subject, choice):
        estimates = log.attempt(one.name, lambda one=one: separated(one))  # type: ignore[misc]
        if estimates is None:
            continue
        log.say(f"{one.name}: done")
        baseline = baseline or estimates
        scores = tuple(_score(stem, estimates, baseline, song, subject.manifest) for stem in estimates)
        rows.append(ParityRow(one.name, one.precision, fixed.snr(one, subject, choice.threads), scores))
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


@dataclass(frozen=True)
class _Fixed:
    """A spectrum that every export is verified on, and what engines are compared with makes of it."""

    mix: Floats
    stems: Floats

    @classmethod
    def of(cls, subject: Subject) -> "_Fixed":
        from rofo.export.graph.gates import loud_chunk

        file, mix = Checkpoint.of(subject), loud_chunk(subject.manifest)
        return cls(mix, file.family.original(file.source, file.facts, file.network())(mix))

    def snr(self, one: Contestant, subject: Subject, threads: int) -> float | None:
        """dB of a contestant; pymss-core's networks take samples and have no spectrum to compare."""
        from rofo.export.graph.gates import snr_db

        if one.kind == PYMSS:
            return None
        engine = open_alone(one, subject, threads)
        try:
            stems = engine.run(np.repeat(self.mix, engine.batch, axis=0))[:1]
        finally:
            engine.close()
        return _rounded(snr_db(self.stems, stems))


def _rounded(decibels: float | None) -> float | None:
    return None if decibels is None else round(decibels, 3)
