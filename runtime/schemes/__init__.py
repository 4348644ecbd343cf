"""Ways of cutting a song into chunks, each exactly that of a public tool, by name."""

import dataclasses
from collections.abc import Callable

from rofo.errors import ManifestError, UsageError
from rofo.manifest import SCHEMES, Manifest, OverlapAdd, Scheme
from rofo.schemes.fade import Fade
from rofo.schemes.hann import Hann
from rofo.schemes.outer import Outer
from rofo.schemes.piece import Cutter
from rofo.schemes.rectangular import Rectangular
from rofo.schemes.trim import Trim

_CUTTERS: dict[Scheme, Callable[[int, int, float | None], Cutter]] = {
    "fade": Fade.of,
    "hann": Hann.of,
    "trim": Trim.of,
    "rectangular": Rectangular.of,
    "outer": Outer.of,
}


def choose_cutter(manifest: Manifest, scheme: str | None = None, overlap: float | None = None) -> Cutter:
    """The scheme for an engine: what is chosen, else what its manifest says.

    A scheme that is not the manifest's has its own default overlap. Raises UsageError for an unknown scheme
    and for an overlap or chunk that the scheme cannot work with.
    """
    chosen = _overlap_add(manifest, scheme, overlap)
    return _CUTTERS[chosen.scheme](manifest.chunk.samples, manifest.stft.n_fft, chosen.overlap)


def _overlap_add(manifest: Manifest, scheme: str | None, overlap: float | None) -> OverlapAdd:
    own = manifest.overlap_add
    name = own.scheme if scheme is None else next((known for known in SCHEMES if known == scheme), None)
    if name is None:
        raise UsageError(f"{manifest.name}: scheme is {scheme!r}; choose among {', '.join(SCHEMES)}")
    if overlap is None and name == own.scheme:
        return own
    try:
        return dataclasses.replace(manifest, overlap_add=OverlapAdd(name, overlap)).overlap_add
    except ManifestError as error:
        raise UsageError(
            f"{manifest.name}: {error}; choose another scheme or overlap, or leave both out"
        ) from None
