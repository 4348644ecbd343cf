"""The numpy STFT and its inverse against torch's."""

import numpy as np
import pytest
import torch

from rofo.dsp.spectrogram import Spectrogram
from rofo.errors import ManifestError
from rofo.manifest import Stft


def torch_stft(chunk: np.ndarray, stft: Stft) -> torch.Tensor:
    return torch.stft(
        torch.from_numpy(chunk), stft.n_fft, stft.hop_length, window=torch.hann_window(stft.n_fft),
        normalized=stft.normalized, return_complex=True,
    )  # fmt: skip


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize(
    ("n_fft", "hop", "samples"),
    [
        (2048, 441, 44100),
        (2048, 512, 20000),
        (2048, 882, 10007),
        (2048, 512, 1025),
        (64, 16, 333),
        (62, 7, 100),
        (4096, 1024, 1024 * 15),
        (6144, 1024, 1024 * 15),
        (7680, 1024, 1024 * 15),
        (12288, 2048, 2048 * 9),
        (16384, 1024, 1024 * 15),
    ],
)
def test_equals_torch(n_fft: int, hop: int, samples: int, normalized: bool) -> None:
    stft = Stft(n_fft, hop, normalized=normalized)
    transform = Spectrogram(stft, samples)
    rng = np.random.default_rng(0)
    chunk = rng.standard_normal((2, samples)).astype(np.float32)
    want = torch_stft(chunk, stft)
    got = transform.forward(chunk)
    assert got.shape == (2, transform.frames, stft.bins, 2)
    assert got.dtype == np.float32
    spectrum = torch.view_as_real(want).transpose(1, 2).numpy()
    np.testing.assert_allclose(got, spectrum, atol=2e-6 * np.abs(spectrum).max())

    changed = (spectrum * rng.uniform(0, 1, spectrum.shape)).astype(np.float32)
    back = torch.istft(
        torch.view_as_complex(torch.from_numpy(changed).transpose(1, 2).contiguous()), n_fft, hop,
        window=torch.hann_window(n_fft), normalized=normalized, length=samples,
    ).numpy()  # fmt: skip
    np.testing.assert_allclose(transform.inverse(changed), back, atol=5e-6 * np.abs(back).max())


def test_inverse_of_forward_is_the_chunk() -> None:
    transform = Spectrogram(Stft(2048, 441), 44100)
    chunk = np.random.default_rng(1).standard_normal((3, 2, 44100)).astype(np.float32)
    np.testing.assert_allclose(transform.inverse(transform.forward(chunk)), chunk, atol=1e-5)


def test_a_hop_longer_than_half_a_window_is_refused() -> None:
    with pytest.raises(ManifestError, match="hop_length"):
        Stft(2048, 1025)
