"""Bandit against what MSST's classes and its demix gave with the same weights."""

import numpy as np
import pytest
from bandits import CASES, write
from golden.checkpoints import engine_of
from golden.seeded import song
from oracle import snr_db

from rofo import Separator
from rofo.dsp.spectrogram import Spectrogram
from rofo.export.families import describe, find_family, load_network
from rofo.export.graph.trace import run_network
from rofo.export.graph.types import Form
from rofo.export.model import Model
from rofo.export.source import read_source


def through(name, folder, form=None):
    """What the tool gave for a chunk, and what our network gives: the plain one, or the engine of a form."""
    checkpoint, config = write(name, folder)
    source = read_source(checkpoint)
    family = find_family(source)
    model = Model.of(family, source, describe(family, source, config), "golden")
    network = load_network(family, source, model.facts)
    if form:
        network = family.engine(network, model.facts, form)
    transform = Spectrogram(model.stft, model.chunk.samples)
    mix = transform.forward(song(model.chunk.samples, silent=(0.7, 1)))[None]
    stems = transform.inverse(run_network(network, {"mix": mix})["stems"][0])
    return CASES[name].outputs["stems"], stems[..., ::5]


@pytest.mark.parametrize("name", CASES)
def test_the_plain_network_is_the_tools(name, tmp_path):
    assert snr_db(*through(name, tmp_path)) > 115


@pytest.mark.parametrize("name", CASES)
def test_so_is_its_engine(name, tmp_path):
    assert snr_db(*through(name, tmp_path, Form())) > 115


@pytest.mark.parametrize("name", ["bandit, GRU", "bandit_v2, LSTM", "bandit, mel bands"])
def test_half_precision_stays_close(name, tmp_path):
    assert snr_db(*through(name, tmp_path, Form("tensorrt", "fp16"))) > 50


@pytest.mark.parametrize("name", ["bandit, GRU", "bandit_v2, 64 bands", "bandit, bands without overlap"])
def test_whole_songs(name, tmp_path):
    file, want = engine_of(*write(name, tmp_path)), CASES[name].outputs["song"]
    for backend in ("openvino", "onnxruntime"):
        with Separator(file, backend=backend, precision="fp32") as separator:
            assert separator.manifest.residual is None
            found = separator.separate(song(13_000), separator.manifest.sample_rate)
        got = np.stack([found[stem] for stem in separator.manifest.stems])
        assert snr_db(want, got[..., ::25]) > 105, backend
