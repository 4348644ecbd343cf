"""What the weights of a checkpoint cannot say, from whichever source says it."""

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Facts from one source (command line, yaml, catalogue); None where the source does not say.

    `sample_rate` and `band_rate` are in Hz; `band_rate` is the one the mel filters were made for where it
    differs from the audio's. `hop_length`, `n_fft`, `chunk` are in samples; `chunk_seconds` goes before
    `chunk`. `overlaps` is MSST's num_overlap: a chunk begins every chunk // overlaps samples.
    `instruments` are all the names of the dataset, `stems` those the network outputs, in order.
    """

    sample_rate: int | None = None
    band_rate: int | None = None
    n_fft: int | None = None
    hop_length: int | None = None
    stft_normalized: bool | None = None
    chunk: int | None = None
    chunk_seconds: float | None = None
    overlaps: int | None = None
    stems: tuple[str, ...] | None = None
    instruments: tuple[str, ...] | None = None
    zero_dc: bool | None = None
    skip_connection: bool | None = None
    normalize: bool | None = None

    def over(self, other: "Settings") -> "Settings":
        """These settings, with those of `other` where these are silent."""
        said = {name: value for name, value in vars(self).items() if value is not None}
        return dataclasses.replace(other, **said)
