"""BSRNN against what magronp's classes gave with the same weights."""

import numpy as np
import pytest
import torch
from golden.checkpoints import write_lightning
from golden.files import read
from golden.seeded import song
from loaded import load
from oracle import snr_db

from rofo.dsp.spectrogram import Spectrogram
from rofo.export import ExportOptions, export_checkpoint
from rofo.export.families.bsrnn.network import Bsrnn, Sizes
from rofo.export.graph.trace import run_network
from rofo.export.graph.types import Form
from rofo.manifest import Stft

CASES = [
    (file, name)
    for file in ("bsrnn", "bsrnn_newer")
    for name, case in read(file).cases.items()
    if "stems" in case.outputs
]


def through(file, name, folder, form=None):
    """What the tool gave for a chunk, and what our network gives: the plain one, or the engine of a form."""
    case = read(file).cases[name]
    wanted = case.outputs["stems"]
    samples = wanted.shape[-1]
    loaded = load(write_lightning(case, folder), chunk_seconds=samples / 44100)
    network = loaded.family.engine(loaded.network, loaded.facts, form) if form else loaded.network
    transform = Spectrogram(Stft(2048, 512), samples)
    mix = transform.forward(song(samples, silent=(0.7, 1)))[None]
    return wanted, transform.inverse(run_network(network, {"mix": mix})["stems"][0])


@pytest.mark.parametrize(("file", "name"), CASES)
def test_the_plain_network_is_the_tools(file, name, tmp_path):
    assert snr_db(*through(file, name, tmp_path)) > 115


@pytest.mark.parametrize(("file", "name"), CASES)
def test_so_is_its_engine(file, name, tmp_path):
    assert snr_db(*through(file, name, tmp_path, Form())) > 115


@pytest.mark.parametrize("name", ["drums, LSTM, two heads", "bass, GRU", "drums, convolutions"])
def test_half_precision_stays_close(name, tmp_path):
    assert snr_db(*through("bsrnn", name, tmp_path, Form("tensorrt", "fp16"))) > 50


def test_targets_are_stems_by_name(tmp_path):
    loaded = load(write_lightning(read("bsrnn").cases["two targets"], tmp_path))
    assert loaded.facts["stems"] == ("vocals", "drums")
    assert list(map(len, loaded.facts["bands"])) == [41, 55]


def test_channels_do_not_hear_each_other_but_for_tac(tmp_path):
    case, tac = read("bsrnn").cases["bass, GRU"], read("bsrnn_newer").cases["drums, TAC"]
    alone, together = (load(write_lightning(c, tmp_path)).network for c in (case, tac))
    mix = np.random.default_rng(1).standard_normal((1, 2, 6, 1025, 2)).astype(np.float32)
    changed = np.concatenate((mix[:, :1], -2 * mix[:, 1:]), axis=1)
    left = [[run_network(n, {"mix": m})["stems"][0, 0, 0] for m in (mix, changed)] for n in (alone, together)]
    np.testing.assert_array_equal(*left[0])
    assert snr_db(*left[1]) < 60


def test_an_exported_engine_passes_the_gate_far_above_it(tmp_path):
    # Four bands and a layer along each axis: tracing takes its time with every operator.
    torch.manual_seed(0)
    network = Bsrnn(Sizes(8, 1, "lstm", "gru", n_att_head=2, attn_enc_dim=3), (8, 8, 12, 5), 1)
    state = {**network.state_dict(), "stft.transf.window": torch.hann_window(64)}
    torch.save(state, tmp_path / "voice.ckpt")
    given = {"chunk_seconds": 0.01, "hop_length": 16, "stems": ("voice",)}
    report = export_checkpoint(tmp_path / "voice.ckpt", ExportOptions(given=given))
    assert report.manifest.overlap_add.scheme == "crossfade"
    assert report.parity[0].snr_db > 110
