"""What engines of 8 bits are calibrated on: sound that was given, else sound that comes with rofo."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rofo.audio import AudioReader
from rofo.audio.resample import resample_blocks
from rofo.engines.contract import Tensors
from rofo.errors import AudioReadError
from rofo.export.graph.gates import Model, engine_inputs, half_silent, loud_audio

Floats = NDArray[np.float32]

OWN = "the demo mix (checkpoints/demo) and synthetic music"
# Every chunk is a run of the fp32 engine. Ranges are extremes, which hardly grow after a few minutes' music.
_MOST_CHUNKS = 12
_SYNTHETIC = ((1, -5), (2, 3))  # seeds and semitones: not the music of the gates


def calibration_chunks(model: Model, files: Sequence[Path]) -> list[Tensors]:
    """Chunks, each a batch of one, spread over `files`; without any, over what comes with rofo.

    Raises AudioReadError for a file that cannot be read.
    """
    if files:
        each = max(1, _MOST_CHUNKS // len(files))
        audio = [chunk for file in files for chunk in _chunks(model, file, each)]
    else:
        synthetic = [loud_audio(model, seed, semitones) for seed, semitones in _SYNTHETIC]
        with resources.as_file(resources.files("rofo.checkpoints") / "demo" / "mix.flac") as mix:
            audio = [*_chunks(model, mix, 4), *synthetic, half_silent(synthetic[0])]
    return [engine_inputs(model, chunk) for chunk in audio]


@dataclass(frozen=True)
class Truth:
    """Chunks of a mix one behind the other (channels, samples), and its true stems by name, likewise."""

    mix: Floats
    stems: Mapping[str, Floats]


def read_truth(model: Model, mix: Path, stems: Mapping[str, Path]) -> Truth:
    """Raises AudioReadError for a file that cannot be read, a silent stem and one not as long as the mix."""
    song, *true = (_song(model, file) for file in (mix, *stems.values()))
    for file, stem in zip(stems.values(), true, strict=True):
        if stem.shape != song.shape:
            raise AudioReadError(f"{file}: not as long as {mix}; give the true stem of that very mix")
        if not stem.any():
            raise AudioReadError(f"{file}: silent, so it has no SDR; leave it out")
    whole, *parts = (np.concatenate(_spread(model, one, _MOST_CHUNKS), axis=1) for one in (song, *true))
    return Truth(whole, dict(zip(stems, parts, strict=True)))


def _chunks(model: Model, file: Path, most: int) -> list[Floats]:
    return _spread(model, _song(model, file), most)


def _song(model: Model, file: Path) -> Floats:
    """(channels, samples) as the model takes them."""
    with AudioReader(file) as reader:
        source = reader.format
        blocks = (_in_channels(block, model.channels) for block in reader.blocks())
        at_rate = resample_blocks(blocks, model.channels, source.sample_rate, model.sample_rate)
        return np.concatenate([np.zeros((model.channels, 0), np.float32), *at_rate], axis=1)


def _spread(model: Model, song: Floats, most: int) -> list[Floats]:
    """Up to `most` chunks (channels, samples) at even distances; a song that is too short is repeated."""
    length = model.chunk.samples
    if 0 < song.shape[1] < length:
        song = np.tile(song, (1, -(-length // song.shape[1])))
    count = min(most, max(1, song.shape[1] // length))
    starts = np.linspace(0, song.shape[1] - length, count).astype(int)
    return [song[:, start : start + length] for start in islice(starts, count if song.shape[1] else 0)]


def _in_channels(block: Floats, channels: int) -> Floats:
    """(any, samples) -> (channels, samples), all of them the mean unless they fit."""
    if len(block) == channels:
        return block
    mean: Floats = np.repeat(block.mean(axis=0, keepdims=True, dtype=np.float32), channels, axis=0)
    return mean
