"""What the proof `fuzz` damages: small files of every kind, whole and right."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

RATE = 44100
_SAMPLES = 3000
_SOUNDS = {
    "wav": [("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAVEX", "FLOAT"), ("RF64", "PCM_16"), ("W64", "PCM_16")],
    "aiff": [("AIFF", "PCM_16"), ("AIFF", "PCM_24"), ("AIFF", "FLOAT"), ("AIFF", "PCM_S8")],
    "flac": [("FLAC", "PCM_16"), ("FLAC", "PCM_24"), ("FLAC", "PCM_S8")],
    "mp3": [("MP3", "MPEG_LAYER_III")],
    "ogg": [("OGG", "VORBIS"), ("OGG", "OPUS")],
}
_RECIPES = (
    """
residual = "rest"
[engines]
tiny = "tiny.json"
[[steps]]
make = "v1"
run = "tiny"
on = "mix"
stem = "vocals"
overlap = 0.5
[[steps]]
make = "v2"
run = "tiny"
on = "mix"
stem = "vocals"
augment = ["plain", "invert", "swap"]
[[steps]]
make = "voice"
sum = { v1 = 12, v2 = 8 }
divide = 20
[[steps]]
make = "quiet"
guard = ["v1", "voice"]
drop_db = 20
[outputs]
vocals = "quiet"
instrumental = { mix = 1, voice = -1 }
""",
    """
sample_rate = 22050
channels = 2
[engines.tiny]
file = "tiny.json"
checkpoint = "tiny.ckpt"
export = "--chunk 8"
[[steps]]
make = ["a", "b"]
run = "tiny"
on = "mix"
stem = ["vocals", "instrumental"]
[[steps]]
make = "c"
combine = "median"
on = ["a", "b", "mix"]
domain = "fft"
[[steps]]
make = "d"
clip = "c"
limit = 0.5
[outputs]
vocals = "d"
""",
)


def prepare(folder: Path) -> None:
    """Seeds in FOLDER/KIND, and what cases need beside them in FOLDER/beside.

    The network is exported by another process: PyTorch would be in the memory of all that follow.
    """
    code = "import sys; from rofo.benchmarks import fuzz_seeds as s; s.export(s.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, stdout=subprocess.DEVNULL)
    lay_out(folder)


def lay_out(folder: Path) -> None:
    """The seeds that need no network, beside the engine."""
    for kind, contents in {**dict(_sounds()), "recipe": [text.encode() for text in _RECIPES]}.items():
        _write(folder / kind, contents)
    _write(folder / "manifest", [(folder / "beside" / "tiny.json").read_bytes()])


def export(folder: Path) -> None:
    """The tiny engine and checkpoints."""
    import torch
    from safetensors.torch import save_file

    from rofo.benchmarks.demo import DEMO
    from rofo.benchmarks.tiny import tiny_checkpoint, tiny_engine

    engine = tiny_engine(folder / "made")
    (folder / "beside").mkdir()
    for path in engine.parent.iterdir():
        shutil.copy(path, folder / "beside")
    shutil.copy(DEMO / "model.ckpt", folder / "beside" / "net.ckpt")
    _write(folder / "yaml", [(DEMO / "model.yaml").read_bytes()])
    tiny = tiny_checkpoint(folder / "made" / "checkpoint")
    state = torch.load(tiny, weights_only=True)["state_dict"]
    others = [folder / "made" / name for name in ("old.ckpt", "new.safetensors")]
    torch.save({"state_dict": state}, others[0], _use_new_zipfile_serialization=False)
    save_file(state, others[1])
    _write(folder / "checkpoint", [path.read_bytes() for path in (tiny, *others)])
    shutil.rmtree(folder / "made")


def _sounds() -> Iterator[tuple[str, list[bytes]]]:
    import io

    for kind, formats in _SOUNDS.items():
        contents = []
        for number, (container, subtype) in enumerate(formats):
            for channels in (1, 2):
                rate = 48000 if subtype == "OPUS" else RATE
                noise = np.random.default_rng(number).uniform(-0.5, 0.5, (_SAMPLES, channels))
                file = io.BytesIO()
                soundfile.write(file, noise.astype(np.float32), rate, format=container, subtype=subtype)
                contents.append(file.getvalue())
        yield kind, contents


def _write(folder: Path, contents: list[bytes]) -> None:
    folder.mkdir()
    for number, content in enumerate(contents):
        (folder / f"{number:02d}").write_bytes(content)
