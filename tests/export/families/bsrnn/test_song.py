"""Whole songs as magronp/bsrnn separates them: chunks of one length here, of three there."""

import numpy as np
from golden.checkpoints import write_lightning
from golden.files import read
from golden.seeded import song
from loaded import load
from oracle import snr_db

from rofo.dsp.crossfade import Crossfade
from rofo.dsp.overlap_add import OverlapAdder
from rofo.dsp.spectrogram import Spectrogram
from rofo.export.graph.trace import run_network
from rofo.manifest import Stft


def test_a_song_is_the_tools_where_chunks_have_its_length(tmp_path):
    case = read("bsrnn").cases["a whole song"]
    wanted = case.outputs["17000"][0]
    chunk, fade = int(44100 * 0.1 * 1.2), 441
    loaded = load(write_lightning(case, tmp_path), chunk_seconds=chunk / 44100)
    transform, adder, found = Spectrogram(Stft(2048, 512), chunk), OverlapAdder(), []
    mix = song(17_000)
    for piece in Crossfade.of(chunk, 2048, None).cut([mix]):
        stems = run_network(loaded.network, {"mix": transform.forward(piece.samples)[None]})["stems"]
        found.append(adder.add(piece, transform.inverse(stems[0, 0])))
    got = np.concatenate(found, axis=1)
    assert got.shape == wanted.shape
    step = chunk - fade
    exact = slice(step, 3 * step - fade)  # the tool's first chunk is shorter, so is its last one
    assert snr_db(wanted[:, exact], got[:, exact]) > 110
