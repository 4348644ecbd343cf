"""What a model needs before it can be exported: which settings are missing, impossible or contradictory."""

import math
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from rofo.export.errors import CheckpointError
from rofo.export.families.roformer.band_layout import N_FFTS, RATES, Layout, bs_layouts, mel_layouts
from rofo.export.families.roformer.settings import Settings
from rofo.export.families.roformer.shapes import Shapes

FAMILY_NAMES = {"bs_roformer": "BS-Roformer", "mel_band_roformer": "Mel-Band Roformer"}
FILE_NAME = re.compile(r"\w[\w .+&()-]*")  # the manifest's rule for the name of a stem

LONGEST_CHUNK = 600  # seconds; shapes are static, and attention over frames grows with the square
# MSST's, where the class has one; num_overlap has none, 2 is what nearly every public yaml says.
_DEFAULTS = Settings(overlaps=2, zero_dc=True, skip_connection=False, normalize=False, stft_normalized=False)


def read_layouts(path: Path, shapes: Shapes, settings: Settings, problems: list[str]) -> list[Layout]:
    """How the band widths can be read, at least one way; that the settings allow none is a problem."""
    if shapes.family == "bs_roformer":
        found, anyhow = bs_layouts(shapes.band_inputs, settings.n_fft), bs_layouts(shapes.band_inputs)
        wanted = f"n_fft {settings.n_fft}"
    else:
        rate = settings.band_rate or settings.sample_rate
        sizes = N_FFTS if settings.n_fft is None else (settings.n_fft,)
        found = mel_layouts(shapes.band_inputs, RATES if rate is None else (rate,), sizes)
        anyhow = [] if found else mel_layouts(shapes.band_inputs)
        wanted = f"{rate} Hz and n_fft {settings.n_fft or 'unknown'}"
    if not found and not anyhow:
        raise CheckpointError(
            f"{path}: its band widths ({shapes.band_inputs[0]} to {shapes.band_inputs[-1]} features) fit no "
            f"{FAMILY_NAMES[shapes.family]} (looked for {wanted}); check the sample rate and stft_n_fft"
        )
    if not found:
        best = anyhow[0]
        actual = f"n_fft {best.n_fft}" if best.rate is None else f"{best.rate} Hz and n_fft {best.n_fft}"
        problems.append(f"the bands are those of {wanted} but those of {actual} in the weights")
    return found or anyhow


def complete(settings: Settings, layouts: list[Layout]) -> Settings:
    """Add what follows: the sample rate of unmistakable mel bands, the chunk in samples, MSST's defaults."""
    rate, chunk = settings.sample_rate, settings.chunk
    if rate is None and len(layouts) == 1:
        rate = layouts[0].rate
    if settings.chunk_seconds is not None and rate is not None:
        samples = settings.chunk_seconds * rate
        chunk = round(samples) if math.isfinite(samples) else 0
    return replace(settings, sample_rate=rate, chunk=chunk).over(_DEFAULTS)


def missing(settings: Settings, shapes: Shapes) -> list[str]:
    """The facts that nobody supplied, each with the option that supplies it."""
    chunk = settings.chunk if settings.chunk_seconds is None else settings.chunk_seconds
    return [
        text
        for value, text in (
            (settings.hop_length, "hop length in samples (--hop-length)"),
            (settings.sample_rate, "sample rate in Hz (--sample-rate)"),
            (chunk, "chunk length in seconds (--chunk)"),
            (settings.stems, f"names of its {shapes.num_stems} stem(s) in order (--stems)"),
        )
        if value is None
    ]


def impossible(settings: Settings, shapes: Shapes, layouts: list[Layout]) -> list[str]:
    """Settings that no engine could be built with, one clause each."""
    problems = list(bad_stems(settings.stems, shapes.num_stems))
    hop, rate, shortest = settings.hop_length, settings.sample_rate, layouts[0].n_fft // 2
    if hop is not None and not 0 < hop <= shortest:
        problems.append(f"hop length {hop} is not between 1 and {shortest} (--hop-length)")
    if rate is not None and not 1000 <= rate <= 1_000_000:
        problems.append(f"sample rate {rate} is not between 1000 and 1000000 Hz (--sample-rate)")
    if rate is not None and len(layouts) > 1:
        sizes = ", ".join(str(layout.n_fft) for layout in layouts)
        problems.append(f"the bands fit several n_fft ({sizes}); only a yaml can tell (--config)")
    if not problems:
        problems.extend(_bad_chunk(settings, shapes, shortest))
    return problems


def bad_stems(stems: tuple[str, ...] | None, num_stems: int) -> Iterable[str]:
    """What is wrong with the names of a network's outputs, one clause each."""
    if stems is None:
        return
    if len(stems) != num_stems:
        yield f"{len(stems)} stems ({', '.join(stems)}) but {num_stems} in the weights (--stems)"
    if len({stem.lower() for stem in stems}) != len(stems):
        yield f"stem names repeat: {', '.join(stems)} (--stems)"
    for stem in stems:
        if not FILE_NAME.fullmatch(stem):
            yield f"the stem {stem!r} cannot name a file (--stems)"


def _bad_chunk(settings: Settings, shapes: Shapes, shortest: int) -> Iterable[str]:
    chunk, rate, hop = settings.chunk, settings.sample_rate, settings.hop_length
    if chunk is None or rate is None:
        return
    if not shortest < chunk <= LONGEST_CHUNK * rate:
        yield f"chunk of {chunk} samples, not over {shortest} and at most {LONGEST_CHUNK} s (--chunk)"
        return
    if settings.overlaps is not None and settings.overlaps > chunk:
        yield f"num_overlap {settings.overlaps} is more than a chunk has samples"
    frames = 0 if hop is None else 1 + chunk // hop
    if shapes.table_frames is not None and frames > shapes.table_frames:
        yield f"{frames} frames in a chunk but {shapes.table_frames} in the position tables (--chunk)"
