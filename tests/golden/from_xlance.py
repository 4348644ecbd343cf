"""X-LANCE's ans.py and inference_full.py from file to file, with `pointwise` for its networks and soxr in
librosa's place; the chunks of the latter with the stand-in."""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import soundfile
import soxr
import torch

from golden.files import Case
from golden.seeded import noise, pointwise, song, stand_in
from golden.stubs import inside, stub

LENGTHS = (48_000, 44_101, 30_001)
SECOND_STAGES = {"syn_mss1", "drums_mss1", "perc_mss1", "orch_mss1"}
# Vocals with a dereverberation that takes 5 dB away, and with one that takes 40 dB.
CASES = [("vox", 0.5), ("vox", 0.01), ("gtr", 1.0), ("syn", 1.0), ("drums", 1.0)]


def golden_files(_: Path) -> Iterator[tuple[str, dict[str, Case]]]:
    stub("librosa", "tqdm", "models", "models.bs_roformer", "inference")
    sys.modules["tqdm"].tqdm = lambda items, **_: items
    yield "xlance", {f"{key} {gain}": _case(key, gain) for key, gain in CASES}
    yield "xlance_full", {f"{key} {gain}": _full_case(key, gain) for key, gain in FULL_CASES}
    yield "xlance_scheme", {str(fade): _scheme(fade) for fade in (0, 10, 48)}


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


# inference_full.py: the songs are long for their rate, as its chunks are 10 s of the file's samples.
FULL_RATE = 8000
FULL_LENGTHS = (200_000, 88_001, 72_100)
FULL_CASES = [("vox", 0.5), ("vox", 0.01), ("syn", 1.0)]
CHAINS = {"vox": (["denoise"], ["vox_mss"], ["dereverb"]), "syn": (["denoise"], ["syn_mss", "syn_mss1"], [])}


def _full_case(key: str, gain: float) -> Case:
    import inference_full

    def load_models(names: list[str], device: str) -> list[Any]:
        rates = [48000 if name in SECOND_STAGES else 44100 for name in names]
        return [({"data": {"sample_rate": rate}}, name) for rate, name in zip(rates, names, strict=True)]

    def demix_single(name: str, mix: torch.Tensor) -> torch.Tensor:
        stems = np.stack([pointwise(name, 1, item)[0] for item in mix.numpy()])
        return torch.from_numpy(np.float32(gain) * stems if name == "dereverb" else stems)

    written: dict[str, np.ndarray] = {}
    options = dict(zip(("checkpoint_pre", "checkpoint", "checkpoint_post"), CHAINS[key], strict=True))
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(inference_full, "load_models", load_models),
        patch.object(inference_full, "demix_single", demix_single),
        patch.object(inference_full, "save_audio", lambda audio, _, path: written.update({path.stem: audio})),
        patch.object(inference_full.librosa, "resample", _resample),
    ):
        for length in FULL_LENGTHS:
            soundfile.write(f"{folder}/{length}.wav", song(length).T, FULL_RATE, "FLOAT")
        inference_full.inference_main(
            SimpleNamespace(**options, input_dir=folder, output_dir="out", device="cpu", batch_size=2)
        )
    outputs = {length: audio[:, ::101].astype(np.float32) for length, audio in written.items()}
    return Case({"instrument": key, "gain": gain, "stride": 101, "sample_rate": FULL_RATE}, outputs)


def _scheme(fade: int) -> Case:
    """`process_long_audio` alone, with a rate of 1 Hz to have chunks of any length."""
    import inference_full

    def demix_single(_: None, mix: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(np.stack([stand_in(item) for item in mix.numpy()]))

    def merge_chunks(chunks: list[np.ndarray], *sizes: int) -> np.ndarray:
        return np.stack([merge([chunk[stem] for chunk in chunks], *sizes) for stem in (0, 1)])

    merge = inference_full.merge_chunks
    with (
        patch.object(inference_full, "demix_single", demix_single),
        patch.object(inference_full, "merge_chunks", merge_chunks),
    ):
        outputs = {
            str(length): inference_full.process_long_audio(None, noise(length), 1, 96, fade, 1).astype(
                np.float32
            )
            for length in (fade + 1, 95, 96, 97, 96 + 96 - fade, 97 + 96 - fade, 777)
        }
    return Case({"chunk": 96, "fade": fade}, outputs)
