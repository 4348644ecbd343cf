"""X-LANCE's ans.py in float32, from file to file, with small seeded Roformers; soxr in librosa's place, and
librosa's own kaiser_best.

ans.py gives a clip to a network as a whole, so clips are of one length, half a second for its 10 s.
"""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import resampy
import soundfile
import soxr
import torch
import yaml

from golden.files import Case
from golden.seeded import seeded_state
from golden.stubs import inside
from golden.systems import kept, music, with_masks_at

RATE, CLIP = 48000, 24_000
SMALL = {
    "dim": 16,
    "depth": 1,
    "dim_head": 8,
    "heads": 2,
    "attn_dropout": 0.0,
    "ff_dropout": 0.0,
    "flash_attn": False,
}
# The seeded dereverberation takes 16 dB away, which the guard refuses; with masks of four times that, 4 dB.
CASES = {"vox, taken": ("vox", 4.0), "vox, refused": ("vox", 1.0), "syn": ("syn", 1.0)}
CHAINS = {"vox": ["denoise", "vox_mss", "dereverb"], "syn": ["denoise", "syn_mss", "syn_mss1"]}


def golden_files(clone: Path) -> Iterator[tuple[str, dict[str, Case]]]:
    yield "xlance_networks", {name: _case(clone, *told) for name, told in CASES.items()}


def _soxr(audio: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    return soxr.resample(audio.T, rate, new_rate, quality="VHQ").T


def _kaiser_best(audio: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """As librosa 0.9.2 has it, to a whole number of samples rounded up."""
    made = resampy.resample(audio, rate, new_rate, filter="kaiser_best", axis=-1)
    length = int(np.ceil(audio.shape[-1] * new_rate / rate))
    return np.pad(made, ((0, 0), (0, max(0, length - made.shape[-1]))))[:, :length]


def _files(clone: Path, key: str, gain: float) -> dict[str, dict[str, Any]]:
    """Checkpoints of a chain: the tool's own yaml with small numbers in it."""
    from inference import init_generator

    files = {}
    for name in CHAINS[key]:
        config = yaml.load((clone / "configs" / f"{name}.yaml").read_text(), Loader=yaml.FullLoader)
        said = {part: config[part] for part in ("project_name", "exp_name", "model")}
        said["model"]["params"] |= SMALL
        said["data"] = {"sample_rate": config["data"]["sample_rate"]}
        shapes = {n: list(t.shape) for n, t in init_generator(said["model"]).state_dict().items()}
        files[f"{name}.pth"] = {
            "form": "state", "config": said, "yaml": f"{name}.yaml", "shapes": shapes, "seed": name,
            "gain": gain if name == "dereverb" else 1.0, "export": ["--chunk", str(CLIP / RATE)],
        }  # fmt: skip
    return files


def _case(clone: Path, key: str, gain: float) -> Case:
    import ans

    files = _files(clone, key, gain)
    outputs = {}
    with tempfile.TemporaryDirectory() as folder, inside(Path(folder)), ExitStack() as stack:
        Path("checkpoints").mkdir()
        Path("configs").mkdir()
        for name, facts in files.items():
            state = with_masks_at(seeded_state(facts["shapes"], facts["seed"]), facts["gain"])
            torch.save({k: torch.from_numpy(v) for k, v in state.items()}, Path("checkpoints", name))
            Path("configs", facts["yaml"]).write_text(yaml.dump(facts["config"]))
        soundfile.write("clip.wav", music(CLIP).T, RATE, "FLOAT")
        only = {key: [f"checkpoints/{CHAINS[key][1]}.pth"]}
        if key != "vox":
            only[key].append(f"checkpoints/{CHAINS[key][2]}.pth")
        after = {key: ["checkpoints/dereverb.pth"] if key == "vox" else []}
        written: dict[str, np.ndarray] = {}
        for name, value in {
            "MSS_MODEL_PATHS": only, "POST_MODEL_PATHS": after, "OUTPUT_PATHS": {key: Path("out")},
            "save_audio": lambda audio, _, path: written.update({str(path): np.float32(audio)}),
        }.items():  # fmt: skip
            stack.enter_context(patch.object(ans, name, value))
        arguments = ["ans.py", "-i", ".", "-o", "steps", "--instrument", key, "--device", "cpu"]
        stack.enter_context(patch.object(sys, "argv", arguments))
        for label, resample in (("soxr", _soxr), ("kaiser_best", _kaiser_best)):
            for models in (ans.PRE_MODELS, ans.MSS_MODELS, ans.POST_MODELS):
                for loaded in models.values():
                    loaded.clear()
            with patch.object(ans.librosa, "resample", resample):
                ans.main()
            outputs[f"{CLIP} {label}"] = kept(written["out/clip.wav"])
    return Case({"files": files, "lengths": [CLIP], "sample_rate": RATE}, outputs)
