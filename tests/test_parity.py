"""From checkpoint to stems against code we did not write: pymss-core's networks under a plain demix."""

import json
from pathlib import Path

import numpy as np
import pytest
from oracle import Oracle, snr_db, song
from plain_demix import demix

from rofo import Separator
from rofo.export.export import export
from rofo.dsp.spectrogram import Spectrogram

ORACLES = {
    "bs": Oracle("bs_roformer"),
    "bs mono, 3 stems": Oracle("bs_roformer", {"stereo": False}, stems=("drums", "bass", "other")),
    "bs PoPE, skip": Oracle("bs_roformer", {"use_pope": True, "skip_connection": True}),
    "mel": Oracle("mel_band_roformer", chunk=8820),
}
BACKENDS = {"openvino": 110, "onnxruntime": 110}


@pytest.fixture(scope="module", params=ORACLES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """(oracle, its network, the engine exported from its checkpoint)."""
    oracle = ORACLES[request.param]
    folder = tmp_path_factory.mktemp("parity")
    checkpoint, config = oracle.write(folder)
    report = export(checkpoint, config=config)
    return oracle, oracle.network(), next(f for f in report.files if f.suffix == ".onnx")


def lengths(oracle: Oracle) -> list[int]:
    hop, chunk = oracle.kwargs["stft_hop_length"], oracle.chunk
    return [1, hop - 1, hop + 1, chunk // 2, chunk // 2 + 1, chunk - 1, chunk, chunk + 1, 2 * chunk + 777]


@pytest.mark.parametrize("backend", BACKENDS)
def test_whole_songs(case, backend: str) -> None:
    oracle, network, engine = case
    channels = 2 if oracle.kwargs["stereo"] else 1
    with Separator(engine, backend=backend, precision="fp32") as separator:
        for samples in lengths(oracle):
            mix = song(channels, samples, seed=samples)
            wanted = demix(
                mix, lambda chunk: oracle.audio(network, chunk), chunk=oracle.chunk, step=oracle.chunk // 2
            )
            stems = separator.separate(mix, oracle.sample_rate)
            got = np.stack([stems[stem] for stem in oracle.stems])
            assert snr_db(wanted, got) > 80, samples
            if separator.manifest.residual:
                residual = stems[separator.manifest.residual]
                np.testing.assert_allclose(residual, mix - got.sum(axis=0), atol=1e-6)


@pytest.mark.parametrize(("backend", "gate"), BACKENDS.items())
def test_one_chunk_through_the_graph(case, backend: str, gate: float) -> None:
    oracle, network, engine = case
    chunk = song(2 if oracle.kwargs["stereo"] else 1, oracle.chunk)
    with Separator(engine, backend=backend, precision="fp32") as separator:
        transform = Spectrogram(separator.manifest.stft, oracle.chunk)
        spectrum = transform.forward(chunk)[None]
        got = transform.inverse(separator._model.engines[0].run({"mix": spectrum})["stems"][0])
    assert snr_db(oracle.audio(network, chunk), got) > gate


def test_normalised_songs(tmp_path: Path) -> None:
    """`inference.normalize`: mean and deviation of the channel mean out before, back in after."""
    oracle = Oracle("bs_roformer")
    checkpoint, config = oracle.write(tmp_path)
    text = config.read_text()
    config.write_text(text.replace("num_overlap: 2", "num_overlap: 4\n  normalize: true"))
    files = export(checkpoint, config=config, check=False).files
    manifest = json.loads(next(f for f in files if f.suffix == ".json").read_text())
    assert manifest["normalize"] is True
    network, mix = oracle.network(), song(2, 20000) + np.float32(0.05)
    mono = mix.mean(axis=0)
    levelled = (mix - mono.mean()) / mono.std()
    wanted = demix(levelled, lambda c: oracle.audio(network, c), chunk=oracle.chunk, step=oracle.chunk // 4)
    with Separator(files[0], precision="fp32") as separator:
        got = separator.separate(mix, 44100)["vocals"]
    assert snr_db(wanted[0] * mono.std() + mono.mean(), got) > 80
