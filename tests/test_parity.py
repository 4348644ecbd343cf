"""From checkpoint to stems against MSST itself: what its networks and its `demix` gave (tests/golden)."""

import numpy as np
import pytest
from golden.checkpoints import engine_of, write_checkpoint
from golden.files import Case, read
from golden.seeded import song
from oracle import snr_db

from rofo import Separator

SONGS = read("msst_demix").cases
BACKENDS = ("openvino", "onnxruntime")
# What no whole song has; test_networks.py and test_tfc_tdf.py hold every option against MSST.
CHUNKS = ["bs PoPE", "bs linear attention twice, skip"]


def separated(separator: Separator, mix: np.ndarray) -> np.ndarray:
    """(stems, channels, samples), in the manifest's order; what is left of the mix is checked on the way."""
    found = separator.separate(mix, separator.manifest.sample_rate)
    stems = np.stack([found[stem] for stem in separator.manifest.stems])
    if separator.manifest.residual:
        np.testing.assert_allclose(found[separator.manifest.residual], mix - stems.sum(axis=0), atol=1e-6)
    return stems


def as_given(case: Case, length: int, channels: int) -> np.ndarray:
    mix = song(length, channels)
    return mix * 2 + np.float32(0.0625) if case.facts["config"]["inference"].get("normalize") else mix


@pytest.mark.parametrize("name", SONGS)
def test_whole_songs(name: str, tmp_path) -> None:
    case = SONGS[name]
    file = engine_of(*write_checkpoint(case, tmp_path))
    for backend in BACKENDS:
        with Separator(file, backend=backend, precision="fp32") as separator:
            for length, want in case.outputs.items():
                mix = as_given(case, int(length), separator.manifest.channels)
                assert snr_db(want, separated(separator, mix)) > 105, (backend, length)


@pytest.mark.parametrize("name", CHUNKS)
def test_one_chunk(name: str, tmp_path) -> None:
    """A song as long as a chunk, without overlap, is the network alone, but for MSST's silent last sample."""
    case = read("msst_roformers").cases[name]
    want = case.outputs["stems"]
    with Separator(engine_of(*write_checkpoint(case, tmp_path)), precision="fp32") as separator:
        got = separated(separator, song(want.shape[-1], want.shape[1], silent=(0.7, 1)))
    assert not got[..., -1].any()
    assert snr_db(want[..., :-1], got[..., :-1]) > 110
