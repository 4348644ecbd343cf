"""`rofo-bench parity`: how far engines are from PyTorch, on a fixed spectrogram, on a song, and in SDR.

Sample-by-sample agreement of a song ends where masks amplify the rounding of float32 spectrograms. What
matters is the last one: does the engine separate as well as the network it was made of?
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rofo.audio import AudioReader
from rofo.benchmarks import contestants, machine
from rofo.benchmarks.contestants import Choice, Contestant, opened
from rofo.benchmarks.metrics import median_sdr, sdr
from rofo.benchmarks.prepare import Subject, is_engine, prepare
from rofo.benchmarks.reference import Told, read_source
from rofo.benchmarks.results import LeftOut, Parity, ParityRow, StemScore
from rofo.engines import EngineSettings, open_engine
from rofo.errors import AudioReadError, EngineRunError, RofoError, UsageError
from rofo.manifest import Manifest
from rofo.text import one_line

Floats = NDArray[np.float32]
Stems = Mapping[str, Floats]
Say = Callable[[str], None]


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
    left_out: list[LeftOut] = []
    with tempfile.TemporaryDirectory() as folder:
        say(f"{checkpoint.name}: preparing")
        subject = prepare(checkpoint, told, Path(folder))
        files = true_files(truths, subject.manifest)
        song = _Song.read(mix, files, subject.manifest, left_out)
        for one in left_out:
            say(f"{one.what}: left out: {one.why}")
        rows, model = _rows(subject, song, choice, left_out, say), subject.model()
    return Parity(
        kind="parity",
        about=machine.about(choice.threads, left_out),
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
    def read(
        cls, mix: Path, truths: Mapping[str, Path], manifest: Manifest, left_out: list[LeftOut]
    ) -> "_Song":
        """Raises AudioReadError for the mix; a true stem that is of no use is left out."""
        samples = read_song(mix, manifest)
        known: dict[str, Floats] = {}
        for stem, file in truths.items():
            try:
                known[stem] = _read_truth(file, mix, samples.shape[1], manifest)
            except AudioReadError as error:
                left_out.append(LeftOut(f"SDR of {stem}", one_line(error, 300)))
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


def _rows(
    subject: Subject, song: _Song, choice: Choice, left_out: list[LeftOut], say: Say
) -> tuple[ParityRow, ...]:
    fixed = _Fixed.of(subject)
    rows: list[ParityRow] = []
    baseline: Stems = {}
    for contestant in contestants.for_parity(subject.source, subject.manifest, choice):
        try:
            graph = fixed.snr(contestant, subject, choice.threads)
            with opened(contestant, subject.source, choice.threads) as separator:
                estimates = separator.separate(song.mix, subject.manifest.sample_rate)
        except RofoError as error:
            left_out.append(LeftOut(contestant.name, one_line(error, 300)))
            say(f"{contestant.name}: left out: {left_out[-1].why}")
            continue
        say(f"{contestant.name}: done")
        baseline = baseline or estimates
        scores = tuple(_score(stem, estimates, baseline, song, subject.manifest) for stem in estimates)
        rows.append(ParityRow(contestant.name, contestant.precision, graph, scores))
    if not rows:
        raise EngineRunError(f"nothing could run; {left_out[-1].what}: {left_out[-1].why}")
    return tuple(rows)


def _score(stem: str, estimates: Stems, baseline: Stems, song: _Song, manifest: Manifest) -> StemScore:
    from rofo.export.graph.verify import snr_db

    truth, estimate = song.truths.get(stem), estimates[stem]
    return StemScore(
        stem=stem,
        song_snr=None if estimates is baseline else _rounded(snr_db(baseline[stem], estimate)),
        sdr=None if truth is None else _rounded(sdr(truth, estimate)),
        sdr_median=None if truth is None else _rounded(median_sdr(truth, estimate, manifest.sample_rate)),
    )


@dataclass(frozen=True)
class _Fixed:
    """The spectrogram that every export is verified on, and what our network makes of it."""

    mix: Floats
    stems: Floats

    @classmethod
    def of(cls, subject: Subject) -> "_Fixed":
        from rofo.export.graph.verify import reference
        from rofo.export.model_file import make_graphs

        wanted = reference(make_graphs(*read_source(subject.source), unsafe_pickle=False), subject.manifest)
        return cls(wanted.mix, wanted.stems)

    def snr(self, contestant: Contestant, subject: Subject, threads: int) -> float | None:
        """dB of an engine of ours; networks that take waveforms have no spectrogram to compare."""
        from rofo.export.graph.verify import snr_db

        if contestant.kind != "rofo":
            return None
        engine = open_engine(
            subject.source.engine,
            subject.manifest,
            EngineSettings(contestant.backend, contestant.precision, threads),
        )
        try:
            stems = engine.run({"mix": self.mix})["stems"]
        finally:
            engine.close()
        return _rounded(snr_db(self.stems, stems)) if np.isfinite(stems).all() else None


def _rounded(decibels: float | None) -> float | None:
    return None if decibels is None else round(decibels, 3)
