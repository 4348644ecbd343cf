"""MVSEP-MDX23 as a whole: what its code makes of its networks' stems; `pointwise` stands in for them."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from golden.files import Case
from golden.seeded import loud_song, pointwise
from golden.stubs import stub

# Networks of the bag htdemucs_ft in the order of its stems, and stems of each network.
BAG = ("ft_drums", "ft_bass", "ft_other", "ft_vocals")
STEMS = {"kim_vocal": 1, "kim_inst": 1, "six": 6}


def golden_files(_: Path) -> Iterator[tuple[str, dict[str, Case]]]:
    stub("demucs", "demucs.states", "demucs.apply", "demucs.pretrained", "librosa")
    yield "mvsep_system", {"two MDX-Nets": _case(single=False), "single_onnx": _case(single=True)}


def _case(*, single: bool) -> Case:
    import inference

    calls: list[tuple[str, float]] = []

    def apply_model(model: Any, audio: torch.Tensor, shifts: int, overlap: float) -> torch.Tensor:
        assert shifts == 1
        mix = audio[0].numpy()
        calls.append((model.name, overlap))
        if model.name == "ft":
            stems = np.stack([pointwise(name, 4, mix)[i] for i, name in enumerate(BAG)])
        else:
            stems = pointwise(model.name, STEMS.get(model.name, 4), mix)
        return torch.from_numpy(stems)[None]

    def demix_full(
        mix: np.ndarray, device: str, chunk: int, models: Any, session: str, overlap: float
    ) -> np.ndarray:
        calls.append((session, overlap))
        return pointwise(session, 1, mix)

    inference.apply_model, inference.demix_full = apply_model, demix_full
    model = inference.EnsembleDemucsMDXMusicSeparationModel.__new__(
        inference.EnsembleDemucsMDXMusicSeparationModel
    )
    model.device, model.chunk_size, model.single_onnx = "cpu", 1_000_000, single
    model.overlap_large, model.overlap_small = 0.6, 0.5
    model.infer_session1, model.infer_session2 = "kim_vocal", "kim_inst"
    model.mdx_models1 = model.mdx_models2 = None
    model.model_vocals_only = SimpleNamespace(name="ft_vocals")
    model.models = [SimpleNamespace(name=name) for name in ("ft", "ht", "six", "mmi")]
    model.weights_vocals, model.weights_bass = np.array([10, 1, 8, 9]), np.array([19, 4, 5, 8])
    model.weights_drums, model.weights_other = np.array([18, 2, 4, 9]), np.array([14, 2, 5, 10])
    stems, _ = model.separate_music_file(loud_song().T, 44100)
    outputs = {name: np.ascontiguousarray(stem.T, np.float32) for name, stem in stems.items()}
    return Case({"calls": calls}, outputs)
