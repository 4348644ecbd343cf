"""How well a network separates: whole songs in, signal-to-distortion ratios out."""

from pathlib import Path

import numpy as np
import torch

from rofo.checkpoints.demo.data import Role, Samples
from rofo.checkpoints.demo.mixing import held_out
from rofo.checkpoints.demo.network import CHUNK, SHAPE, istft, masked, stft


def separate(network: torch.nn.Module, mix: Samples) -> Samples:
    """Return the voice of a mix, [2, frames]: chunks that overlap by half, joined with triangular weights."""
    frames, step = mix.shape[1], CHUNK // 2
    padded = np.pad(mix, ((0, 0), (step, CHUNK + step)))
    ramp = 1 - (torch.arange(CHUNK) - (CHUNK - 1) / 2).abs() / step
    out = torch.zeros(2, padded.shape[1])
    with torch.inference_mode():
        for start in range(0, frames + step, step):
            chunk = torch.from_numpy(padded[None, :, start : start + CHUNK].copy())
            voice = istft(masked(network, stft(chunk, SHAPE)), SHAPE, CHUNK)[0]
            out[:, start : start + CHUNK] += voice * ramp
    # The two triangles over any sample sum to 1.
    result: Samples = out[:, step : step + frames].numpy()
    return result


def sdr(wanted: Samples, got: Samples) -> float:
    """Signal-to-distortion ratio in dB of the demixing challenges: over all samples and channels at once."""
    wanted64 = wanted.astype(np.float64)
    return float(10 * np.log10(np.square(wanted64).sum() / np.square(wanted64 - got).sum()))


def measured(network: torch.nn.Module, voice: Samples, music: Samples) -> dict[str, float]:
    """SDRs in dB of the estimates, and of the mix as it is."""
    mix = voice + music
    estimate = separate(network, mix)
    return {
        "voice": sdr(voice, estimate),
        "music": sdr(music, mix - estimate),
        "mix_as_voice": sdr(voice, mix),
        "mix_as_music": sdr(music, mix),
    }


def measured_mixes(network: torch.nn.Module, cache: Path, role: Role) -> dict[str, dict[str, float]]:
    """The same for every held-out mix of a role."""
    mixes = held_out(cache, role)
    return {name: measured(network, voice, music) for name, voice, music in mixes}


def mean_of(results: dict[str, dict[str, float]]) -> dict[str, float]:
    """Means over mixes, key by key."""
    rows = list(results.values())
    return {key: round(float(np.mean([row[key] for row in rows])), 2) for key in rows[0]}
