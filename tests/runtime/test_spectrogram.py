"""The numpy STFT and its inverse against torch's."""

import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from rofo.dsp.spectrogram import Job, Spectrogram
from rofo.errors import ManifestError
from rofo.manifest import Stft

Transform = Callable[[torch.Tensor], torch.Tensor]


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


def framed(chunk: torch.Tensor, hop: int) -> torch.Tensor:
    """The spectrogram that Demucs gives its network, (channels, bins, frames)."""
    length = chunk.shape[-1]
    frames, pad = math.ceil(length / hop), hop // 2 * 3
    padded = torch.nn.functional.pad(chunk[None], (pad, pad + frames * hop - length), mode="reflect")[0]
    spectrum = torch.stft(
        padded, 4 * hop, hop, window=torch.hann_window(4 * hop), normalized=True, center=True,
        pad_mode="reflect", return_complex=True,
    )  # fmt: skip
    return spectrum[:, :-1, 2 : 2 + frames]


def unframed(spectrum: torch.Tensor, hop: int, length: int) -> torch.Tensor:
    """The waveform that Demucs makes of such a spectrogram."""
    pad = hop // 2 * 3
    padded = torch.nn.functional.pad(spectrum, (2, 2, 0, 1))
    wave = torch.istft(
        padded, 4 * hop, hop, window=torch.hann_window(4 * hop), normalized=True,
        length=hop * math.ceil(length / hop) + 2 * pad,
    )  # fmt: skip
    return wave[:, pad : pad + length]


def even(chunk: torch.Tensor, n_fft: int, hop: int) -> torch.Tensor:
    """The spectrogram that SCNet gives its network."""
    padding = hop - chunk.shape[-1] % hop
    if (chunk.shape[-1] + padding) // hop % 2 == 0:
        padding += hop
    padded = torch.nn.functional.pad(chunk, (0, padding))
    return torch.stft(
        padded, n_fft, hop, window=torch.ones(n_fft), center=True, normalized=True, return_complex=True
    )


def unevened(spectrum: torch.Tensor, n_fft: int, hop: int, length: int) -> torch.Tensor:
    """The waveform that SCNet makes of such a spectrogram."""
    wave = torch.istft(spectrum, n_fft, hop, window=torch.ones(n_fft), center=True, normalized=True)
    return wave[:, :length]


# Lengths around whole hops, odd and even numbers of them; 343980 and 485100 are the published ones.
@pytest.mark.parametrize(
    ("hop", "length"),
    [(1024, 343980), (1024, 10240), (1024, 11264), (1024, 10239), (1024, 10241), (64, 1000), (16, 200)],
)
def test_equals_demucs_framing(hop: int, length: int) -> None:
    stft = Stft(4 * hop, hop, normalized=True, border=hop // 2 * 3, dropped_frames=2, top_bin=False)
    same_as(stft, length, lambda x: framed(x, hop), lambda s: unframed(s, hop, length))


@pytest.mark.parametrize(("hop", "length"), [(1024, 10240), (1024, 10241), (64, 1000), (16, 200)])
def test_equals_the_old_border_of_demucs(hop: int, length: int) -> None:
    """Zeros around the chunk, and what comes back begins with them."""
    pad, hops = hop // 2 * 3, -(-length // hop)
    options: dict[str, Any] = {"window": torch.hann_window(4 * hop), "normalized": True}

    def forward(chunk: torch.Tensor) -> torch.Tensor:
        wide = torch.nn.functional.pad(chunk, (pad, pad + hops * hop - length))
        return torch.stft(wide, 4 * hop, hop, **options, return_complex=True)[:, :-1, 2 : 2 + hops]

    def inverse(spectrum: torch.Tensor) -> torch.Tensor:
        whole = torch.nn.functional.pad(spectrum, (2, 2, 0, 1))
        return torch.istft(whole, 4 * hop, hop, **options, length=hops * hop)[:, :length]

    stft = Stft(4 * hop, hop, normalized=True, border=pad, dropped_frames=2, top_bin=False, border_kept=True)
    same_as(stft, length, forward, inverse)


@pytest.mark.parametrize(
    ("n_fft", "hop", "length"),
    [(4096, 1024, 485100), (4096, 1024, 10240), (4096, 1024, 11264), (4096, 1024, 10239), (4096, 1024, 11265),
     (256, 64, 1000), (64, 16, 200)],
)  # fmt: skip
def test_equals_scnets_framing(n_fft: int, hop: int, length: int) -> None:
    stft = Stft(n_fft, hop, window="rectangular", normalized=True, even_frames=True)
    assert stft.frames(length) % 2 == 0
    same_as(stft, length, lambda x: even(x, n_fft, hop), lambda s: unevened(s, n_fft, hop, length))


# Chunks of Bandit v1 and v2, and around a frame's half, which reflected ends must reach.
@pytest.mark.parametrize("padding", ["constant", "reflect"])
@pytest.mark.parametrize(("n_fft", "hop", "length"), [(2048, 512, 264600), (2048, 512, 1025), (64, 16, 333)])
def test_equals_torchaudios_framing(n_fft: int, hop: int, length: int, padding: Any) -> None:
    """Its Spectrogram(normalized=True): the window's energy is 1, the ends are zeros or reflected."""
    window = torch.hann_window(n_fft)
    energy = window.double().square().sum().sqrt().float()

    def forward(chunk: torch.Tensor) -> torch.Tensor:
        return torch.stft(chunk, n_fft, hop, window=window, pad_mode=padding, return_complex=True) / energy

    def inverse(spectrum: torch.Tensor) -> torch.Tensor:
        return torch.istft(spectrum * energy, n_fft, hop, window=window, length=length)

    same_as(Stft(n_fft, hop, padding=padding, window_normalized=True), length, forward, inverse)


def same_as(stft: Stft, length: int, forward: Transform, inverse: Transform) -> None:
    """Our transform and its inverse are those of torch."""
    transform, rng = Spectrogram(stft, length), np.random.default_rng(0)
    chunk = rng.standard_normal((2, length)).astype(np.float32)
    want = torch.view_as_real(forward(torch.from_numpy(chunk))).transpose(1, 2).numpy()
    got = transform.forward(chunk)
    assert got.shape == (2, stft.frames(length), stft.bins, 2)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, atol=2e-6 * np.abs(want).max())

    changed = (want * rng.uniform(0, 1, want.shape)).astype(np.float32)
    complex_ = torch.view_as_complex(torch.from_numpy(changed).transpose(1, 2).contiguous())
    back = inverse(complex_).numpy()
    np.testing.assert_allclose(transform.inverse(changed), back, atol=5e-6 * np.abs(back).max())


FLAVOURS = {
    "plain": Stft(2048, 441),
    "kim": Stft(7680, 1024),
    "demucs": Stft(4096, 1024, normalized=True, border=1536, dropped_frames=2, top_bin=False),
    "scnet": Stft(4096, 1024, window="rectangular", normalized=True, even_frames=True),
}


@pytest.mark.parametrize("stft", FLAVOURS.values(), ids=FLAVOURS)
def test_whoever_does_the_jobs_the_bits_are_the_same(stft: Stft) -> None:
    transform = Spectrogram(stft, 300_000)
    chunk = np.random.default_rng(2).standard_normal((2, 300_000)).astype(np.float32)
    counts = []

    def backwards(jobs: Iterable[Job]) -> None:
        listed = list(jobs)
        counts.append(len(listed))
        for job in reversed(listed):
            job()

    with ThreadPoolExecutor(4) as pool:
        shares = [backwards, lambda jobs: list(pool.map(lambda job: job(), jobs))]
        spectrum = transform.forward(chunk)
        wave = transform.inverse(spectrum)
        for share in shares:
            into = np.full_like(spectrum, np.nan)
            assert transform.forward(chunk, into, share) is into
            assert into.tobytes() == spectrum.tobytes()
            assert transform.inverse(spectrum, share).tobytes() == wave.tobytes()
    assert min(counts) >= 4  # enough for as many cores


def test_a_chunk_is_transformed_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """numpy's rfft of float32 without a factor takes float64 and four times as long."""
    asked = []
    real = np.fft.rfft
    monkeypatch.setattr(np.fft, "rfft", lambda *args, **named: asked.append(named) or real(*args, **named))
    Spectrogram(Stft(256, 64), 4000).forward(np.ones((2, 4000), np.float32))
    assert {named["norm"] for named in asked} == {"forward"}


def test_inverse_of_forward_is_the_chunk() -> None:
    transform = Spectrogram(Stft(2048, 441), 44100)
    chunk = np.random.default_rng(1).standard_normal((3, 2, 44100)).astype(np.float32)
    np.testing.assert_allclose(transform.inverse(transform.forward(chunk)), chunk, atol=1e-5)


def test_a_hop_longer_than_half_a_window_is_refused() -> None:
    with pytest.raises(ManifestError, match="hop_length"):
        Stft(2048, 1025)
