"""X-LANCE's ans.py from file to file, with `pointwise` for its networks and soxr in librosa's place."""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import soundfile
import soxr

from golden.files import Case
from golden.seeded import pointwise, song
from golden.stubs import inside, stub

LENGTHS = (48_000, 44_101, 30_001)
SECOND_STAGES = {"syn_mss1", "drums_mss1", "perc_mss1", "orch_mss1"}
# Vocals with a dereverberation that takes 5 dB away, and with one that takes 40 dB.
CASES = [("vox", 0.5), ("vox", 0.01), ("gtr", 1.0), ("syn", 1.0), ("drums", 1.0)]


def golden_files(_: Path) -> Iterator[tuple[str, dict[str, Case]]]:
    stub("librosa", "tqdm", "models", "models.bs_roformer", "inference")
    sys.modules["tqdm"].tqdm = lambda items, **_: items
    yield "xlance", {f"{key} {gain}": _case(key, gain) for key, gain in CASES}


def _resample(audio: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    return soxr.resample(audio.T, rate, new_rate, quality="VHQ").T


def _case(key: str, gain: float) -> Case:
    import ans

    def load_models(paths: dict[str, list[str]], models: dict[str, list[Any]], device: str) -> None:
        for instrument, files in paths.items():
            names = [Path(file).stem for file in files]
            rates = [48000 if name in SECOND_STAGES else 44100 for name in names]
            models[instrument] = [
                ({"data": {"sample_rate": rate}}, n) for rate, n in zip(rates, names, strict=True)
            ]

    def process_audio(config: Any, audio: np.ndarray, name: str, device: str) -> np.ndarray:
        stem = pointwise(name, 1, audio)[0]
        return np.float32(gain) * stem if name == "dereverb" else stem

    written: dict[str, np.ndarray] = {}

    def save_audio(audio: np.ndarray, rate: int, path: Path) -> None:
        written[str(path)] = np.asarray(audio, np.float32)

    outputs = {}
    with tempfile.TemporaryDirectory() as folder, inside(Path(folder)):
        for length in LENGTHS:
            soundfile.write(f"{length}.wav", song(length).T, 48000, "FLOAT")
        arguments = ["ans.py", "-i", ".", "-o", "out", "--instrument", key, "--device", "cpu"]
        with (
            patch.object(ans, "load_models", load_models),
            patch.object(ans, "process_audio", process_audio),
            patch.object(ans, "save_audio", save_audio),
            patch.object(ans.librosa, "resample", _resample),
            patch.object(sys, "argv", arguments),
        ):
            ans.main()
        for path, audio in written.items():
            if path.startswith("xlancelab/"):
                outputs[Path(path).stem] = audio[:, ::7]
    return Case({"instrument": key, "gain": gain, "stride": 7, "sample_rate": 48000}, outputs)
