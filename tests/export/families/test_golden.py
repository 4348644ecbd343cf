"""Plain networks and their engine forms against the networks of the tools they come from (tests/golden)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from golden.checkpoints import write_checkpoint, write_lightning
from golden.files import Case, read
from golden.seeded import song
from oracle import snr_db

from rofo.dsp.spectrogram import Spectrogram
from rofo.export.families import describe, find_family, load_network
from rofo.export.graph.trace import run_network
from rofo.export.graph.types import Form
from rofo.export.model import Model
from rofo.export.source import read_source
from rofo.manifest import Stft

# One chunk of a song, the last third of which is silent, through every network that a tool of ours runs.
FILES = ("msst_roformers", "msst_tfc_tdf", "mdx_net", "audio_separator_conv_tdf")
VARIANTS = ("value_residual", "msst_experimental", "siamese", "msst_conformers", "unwa", "fno")
CASES = [(file, name) for file in (*FILES, *VARIANTS) for name in read(file).cases]
# What float32 leaves of networks that amplify their own rounding: 75 to 91 dB from float64, by the chunk.
FLOAT32 = {"hyperace 1": 80, "hyperace 2": 68}
ENGINES = CASES[::4] + [(file, name) for file in VARIANTS for name in read(file).cases]
# What no yaml says of a ConvTDFNet, given so that nothing is added that its class does not have.
AS_TRAINED = {"scheme": "trim", "stems": ("vocals",)}


def spectrum(chunk: np.ndarray, stft: Stft) -> np.ndarray:
    """(channels, frames, bins, 2) of a Hann window, float64."""
    window = torch.hann_window(stft.n_fft, dtype=torch.float64)
    found = torch.stft(
        torch.from_numpy(chunk), stft.n_fft, stft.hop_length, window=window, return_complex=True
    )
    return torch.view_as_real(found.transpose(1, 2)).contiguous().numpy()


def through(case: Case, folder: Path, form: Form | None) -> tuple[np.ndarray, np.ndarray]:
    """What the tool gave for the chunk, and what our network gives: the plain one, or that of a form."""
    if "config" in case.facts:
        path, config, given = *write_checkpoint(case, folder), {}
    else:
        path, config, given = write_lightning(case, folder), None, AS_TRAINED
    source = read_source(path)
    family = find_family(source)
    model = Model.of(family, source, describe(family, source, config, given), "golden")
    network = load_network(family, source, model.facts)
    if form:
        network = family.engine(network, model.facts, form)
    wanted = case.outputs["stems"]
    chunk = song(wanted.shape[-1], wanted.shape[1], silent=(0.7, 1))
    transform = Spectrogram(model.stft, model.chunk.samples)
    mix = transform.forward(chunk)[None]
    if form is None and case.facts.get("float64"):
        network, mix = network.double(), spectrum(chunk.astype(np.float64), model.stft)[None]
    stems = run_network(network, {"mix": mix})["stems"].astype(np.float32)
    return wanted, transform.inverse(stems[0])


@pytest.mark.parametrize(("file", "name"), CASES)
def test_the_plain_network_is_the_tools(file, name, tmp_path):
    assert snr_db(*through(read(file).cases[name], tmp_path, None)) > 110


@pytest.mark.parametrize(("file", "name"), sorted(set(ENGINES)))
def test_so_is_its_engine(file, name, tmp_path):
    case = read(file).cases[name]
    floor = FLOAT32.get(name, 105) if case.facts.get("float64") else 105
    assert snr_db(*through(case, tmp_path, Form())) > floor


HALF = dict.fromkeys(("bs", "bs linear attention", "bs PoPE", "mel"), "msst_roformers")
HALF |= {"bs experimental, value residuals": "msst_experimental", "siamese": "siamese"}
HALF |= {"value residual": "value_residual", "large inst": "unwa", "fno": "fno"}
HALF |= {"bs_conformer": "msst_conformers", "mel_band_conformer": "msst_conformers"}


@pytest.mark.parametrize(("name", "file"), HALF.items())
def test_half_precision_stays_close(name, file, tmp_path):
    form = Form("tensorrt", "fp16")
    assert snr_db(*through(read(file).cases[name], tmp_path, form)) > 55
