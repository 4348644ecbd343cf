"""The sound between file and engine: chunks of a song, their spectrograms, and how they are joined again.

A scheme, a way of cutting a song into chunks, is a file here and a line in SCHEMES. Importing the registry
imports none of them, nor numpy: `rofo-run --help` lists them.
"""

from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from rofo.errors import UsageError

if TYPE_CHECKING:
    from rofo.dsp.scheme import Scheme


@dataclass(frozen=True)
class SchemeEntry:
    """A line of the registry: "module:class" of the scheme, and what --help says about it."""

    scheme: str
    summary: str


SCHEMES: dict[str, SchemeEntry] = {
    "fade": SchemeEntry("rofo.dsp.fade:Fade", "as MSST"),
    "hann": SchemeEntry("rofo.dsp.hann:Hann", "as UVR for MDX-Net"),
    "hamming": SchemeEntry("rofo.dsp.hamming:Hamming", "as audio-separator for Roformers"),
    "trim": SchemeEntry("rofo.dsp.trim:Trim", "as kuielab, without overlap"),
    "rectangular": SchemeEntry("rofo.dsp.rectangular:Rectangular", "as UVR for MDX23C"),
    "triangular": SchemeEntry("rofo.dsp.triangular:Triangular", "as Demucs"),
    "average": SchemeEntry("rofo.dsp.average:Average", "as MSST for Demucs"),
    "outer": SchemeEntry("rofo.dsp.outer:Outer", "as MVSEP, in slices of 1,000,000 samples"),
    "crossfade": SchemeEntry("rofo.dsp.crossfade:Crossfade", "as magronp/bsrnn"),
    "ramp": SchemeEntry("rofo.dsp.ramp:Ramp", "as X-LANCE for long files, whose first second fades in"),
}
DEFAULT_SCHEME = "fade"  # of a manifest that names none


def make_scheme(
    name: str,
    chunk: int,
    n_fft: int,
    overlap: float | None,
    shifts: int = 0,
    seed: int = 0,
    segment: int | None = None,
) -> "Scheme":
    """The scheme called `name` for chunks and transforms of so many samples; `overlap` None is its default.

    `shifts` is the number of shifted passes whose mean is taken, 0 for one that is not shifted; their random
    numbers have the seed `seed`. `segment` samples in the middle of a chunk are what is joined, None all.
    Raises UsageError for an unknown name, and for a chunk, overlap, shifts or a segment that the scheme
    cannot have.
    """
    if name not in SCHEMES:
        raise UsageError(f"scheme is {name!r}, not one of {', '.join(SCHEMES)}")
    scheme = resolve_name(SCHEMES[name].scheme).of(chunk if segment is None else segment, n_fft, overlap)
    if segment is not None and segment < chunk:
        if not hasattr(scheme, "within"):
            context = chunk - segment
            raise UsageError(f"scheme {name} gives chunks no context, this engine needs {context} samples")
        scheme = scheme.within(chunk)
    if shifts and not hasattr(scheme, "shifted"):
        raise UsageError(f"scheme {name} has no shifts, and {shifts} are asked for")
    made: Scheme = scheme.shifted(shifts, seed) if shifts else scheme
    return made
