"""BSRNN's four targets as magronp's Separator runs them over a song, in segments of 0.3 s where it has 10."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from golden import from_bsrnn
from golden.files import Case
from golden.seeded import seeded_state
from golden.systems import kept, music

SEGMENT, CHUNK = 0.3, 15_876  # the tool's chunks: one of 14553 samples, then 15876, the last as it comes
TARGETS = ("vocals", "bass", "drums", "other")
LENGTHS = (3000, 14_553, 14_554, 46_000)


def golden_files(clone: Path) -> Iterator[tuple[str, dict[str, Case]]]:
    from_bsrnn.stub_training()
    yield "bsrnn_targets", {"four targets": _case()}


def _case() -> Case:
    from models.separator import Separator
    from omegaconf import OmegaConf

    layers = {"time_layer": "lstm", "band_layer": "lstm"}
    training = from_bsrnn.training_options()
    numbers = {"sample_rate": 44100, "n_fft": 2048, "n_hop": 512, "eps": 1e-7}
    small = {**from_bsrnn.SMALL, **layers}
    told: dict[str, Any] = {
        "optim": training["cfg_optim"], "scheduler": training["cfg_scheduler"], "targets": list(TARGETS),
        "src_mod": {"name": "bsrnn", "out_dir": "none", "target": "vocals", **small}, **numbers,
    }  # fmt: skip
    separator = Separator(OmegaConf.create(told))
    files = {}
    for target in TARGETS:
        network, facts = from_bsrnn.make_network({**layers, "target": target})
        state = seeded_state(facts["shapes"], target)
        network.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
        separator.source_models[target] = network
        chunk = ["--chunk", str(CHUNK / 44100)]
        files[f"{target}.ckpt"] = {"form": "lightning", "seed": target, "export": chunk, **facts}
    separator.eval_segment_len, separator.eval_device = SEGMENT, "cpu"
    outputs = {}
    for length in LENGTHS:
        song = torch.from_numpy(music(length))[None]
        stems, _ = separator.eval()._apply_model_to_track(song, song[:, None], comp_loss=False)
        outputs |= {f"{length} {target}": kept(stems[0, i].numpy()) for i, target in enumerate(TARGETS)}
    return Case({"files": files, "lengths": LENGTHS}, outputs)
