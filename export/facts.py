"""Everything known of a model in one table: each value with who said it.

The weights go before the command line, this before the yaml, this before the catalogue, and last come the
defaults of the family. All families share the four functions: `merge`, `complete`, `contradict`, `report`.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from rofo.text import short

Origin = Literal["weights", "command line", "yaml", "catalogue", "default"]
ORIGINS: tuple[Origin, ...] = get_args(Origin)

FILE_NAME = re.compile(r"\w[\w .+&()-]*")  # the manifest's rule for the name of a stem
LONGEST_CHUNK = 600  # seconds; shapes are static, and attention over frames grows with the square


@dataclass(frozen=True)
class Row:
    """What a fact means, and the option of rofo-export that supplies it."""

    meaning: str
    option: str | None = None
    needed: bool = False


# The facts that every family has. What else a network is made of (dim, depth, ...) its family adds, under the
# names of the public yaml files; those are the arguments of its network.
TABLE: dict[str, Row] = {
    "architecture": Row("network", needed=True),
    "sample_rate": Row("sample rate in Hz", "--sample-rate", needed=True),
    "channels": Row("channels of audio", needed=True),
    "n_fft": Row("n_fft in samples", "--n-fft", needed=True),
    "hop_length": Row("hop length in samples", "--hop-length", needed=True),
    "stft_normalized": Row("whether spectra are scaled by n_fft ** -0.5"),
    "stft_window_normalized": Row("whether spectra are scaled by the window's energy ** -0.5"),
    "stft_padding": Row("what a chunk is padded with to centre its frames"),
    "stft_window": Row("window of the STFT"),
    "stft_border": Row("reflected samples around a chunk"),
    "stft_border_kept": Row("whether that is zeros, which come back with it"),
    "stft_even_frames": Row("whether a chunk is padded to an even number of frames"),
    "stft_dropped_frames": Row("frames left out at either end"),
    "stft_top_bin": Row("whether the bin of half the sample rate is there"),
    "spectrogram": Row("whether the network sees a spectrogram"),
    "waveform": Row("whether the network has a time branch"),
    "chunk": Row("chunk length in seconds", "--chunk", needed=True),
    "stems": Row("names of its stem(s) in order", "--stems", needed=True),
    "num_stems": Row("number of stems"),
    "instruments": Row("all instruments of the data it was trained on"),
    "residual": Row("what the mix less all stems is called"),
    "scheme": Row("how chunks are cut and joined", "--scheme", needed=True),
    "overlap": Row("part of a chunk shared with the next one"),
    "segment": Row("samples of a chunk that are joined"),
    "normalize": Row("whether songs are levelled before", "--normalize"),
    "zero_dc": Row("whether the network drops bin 0", "--zero-dc"),
    "skip_connection": Row("whether layers see all earlier ones", "--skip-connection"),
    "rotary": Row("precision of rotary angles", "--rotary"),
    "compensate": Row("gain of the stems, as UVR applies it", "--compensate"),
    "zero_bins": Row("lowest bins that are silenced, as UVR does"),
}

_OF_SPECTROGRAMS = ("n_fft", "hop_length")
# Given in one unit and kept in another, or needed for another fact only: gone once complete.
_CONSUMED = ("chunk_seconds", "num_overlap", "dim_t")


@dataclass(frozen=True)
class Fact:
    """One value and who said it."""

    value: Any
    origin: Origin


class Facts(Mapping[str, Any]):
    """Name of a fact -> its value. Immutable.

    `chunk`, `n_fft` and `hop_length` are in samples, `sample_rate` in Hz; `stems` and `instruments` are
    tuples of names. Until `complete` a chunk may be `chunk_seconds` or `dim_t` frames, and the overlap
    `num_overlap`, MSST's: a chunk begins every chunk // num_overlap samples.
    """

    def __init__(self, known: Mapping[str, Fact] | None = None) -> None:
        self._known = dict(known or {})

    @classmethod
    def said(cls, origin: Origin, values: Mapping[str, Any]) -> "Facts":
        """The facts of one source; a value of None is silence."""
        return cls({name: Fact(value, origin) for name, value in values.items() if value is not None})

    def __getitem__(self, name: str) -> Any:
        return self._known[name].value

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def origin(self, name: str) -> Origin:
        """Who said it."""
        return self._known[name].origin

    def derived(self, of: str, **values: Any) -> "Facts":
        """These facts and what follows from the fact `of`, whose origin they share."""
        origin: Origin = self._known[of].origin if of in self else "default"
        return Facts({**self._known, **{name: Fact(value, origin) for name, value in values.items()}})

    def without(self, *names: str) -> "Facts":
        """These facts less some."""
        return Facts({name: fact for name, fact in self._known.items() if name not in names})

    def known(self) -> Iterator[tuple[str, Fact]]:
        """Every fact with its name."""
        yield from self._known.items()


def merge(*sources: Facts) -> Facts:
    """What is known from all sources: of two that speak, the one whose origin goes before."""
    merged: dict[str, Fact] = {}
    for name, fact in sorted(
        ((name, fact) for source in sources for name, fact in source.known()),
        key=lambda pair: -ORIGINS.index(pair[1].origin),
    ):
        merged[name] = fact
    return Facts(merged)


def complete(facts: Facts) -> Facts:
    """Add what follows for every family: the chunk in samples, the overlap, the name of the residual."""
    facts = _with_chunk(facts)
    chunk, stems, scheme = facts.get("chunk"), facts.get("stems"), facts.get("scheme")
    if "overlap" not in facts and "num_overlap" in facts and chunk and scheme in ("fade", "average"):
        overlap = overlap_fraction(chunk, facts["num_overlap"])
        facts = facts.derived("num_overlap", overlap=overlap)
    if stems and "residual" not in facts:
        of = "instruments" if "instruments" in facts else "stems"
        name = residual_name(stems, facts.get("instruments"))
        facts = facts.derived(of, residual=name) if name else facts
    return facts.without(*_CONSUMED)


def contradict(weights: Facts, *others: Facts) -> list[str]:
    """Where another source says something else than the weights, one clause each."""
    return [
        f"{_called(name, fact)} is {_shown(fact.value)} but {_shown(weights[name])} in the weights"
        for other in others
        for name, fact in other.known()
        if name in weights and weights[name] != fact.value
    ]


def impossible(facts: Facts) -> list[str]:
    """Values that no engine could be built with, one clause each, with who said them."""
    problems = list(_bad_stems(facts))
    hop, rate, n_fft = (facts.get(name) for name in ("hop_length", "sample_rate", "n_fft"))
    if n_fft is not None and (n_fft < 2 or n_fft % 2):
        problems.append(f"{_told(facts, 'n_fft')} is no even number of samples")
    elif n_fft is not None and hop is not None and not 0 < hop <= n_fft // 2:
        problems.append(f"{_told(facts, 'hop_length')} is not between 1 and {n_fft // 2} (--hop-length)")
    if rate is not None and not 1000 <= rate <= 1_000_000:
        problems.append(f"{_told(facts, 'sample_rate')} is not between 1000 and 1000000 Hz (--sample-rate)")
    if not problems and "chunk" in facts and rate is not None and (n_fft is not None or not _spectral(facts)):
        chunk, least = facts["chunk"], (n_fft or 0) // 2
        if not least < chunk <= LONGEST_CHUNK * rate:
            problems.append(
                f"chunk of {chunk} samples, not over {least} and at most {LONGEST_CHUNK} s (--chunk)"
            )
        elif not 0 <= facts.get("overlap", 0) < 1:
            problems.append(f"{_told(facts, 'overlap')}: num_overlap is more than a chunk has samples")
    return problems


def missing(facts: Facts) -> list[str]:
    """The facts that nobody supplied, each with the option that supplies it."""
    return [
        f"{row.meaning} ({row.option})" if row.option else row.meaning
        for name, row in TABLE.items()
        if row.needed and name not in facts and (_spectral(facts) or name not in _OF_SPECTROGRAMS)
    ]


def report(facts: Facts) -> str:
    """Every fact in a line: name, value, who said it; then what is missing, with the option for it."""
    names = [*(name for name in TABLE if name in facts), *sorted(set(facts) - set(TABLE))]
    rows = [(name, _shown(facts[name]), facts.origin(name)) for name in names]
    wide = [max((len(row[i]) for row in rows), default=0) for i in (0, 1)]
    lines = [f"{name:<{wide[0]}}  {value:<{wide[1]}}  {origin}" for name, value, origin in rows]
    return "\n".join([*lines, *(f"missing: {text}" for text in missing(facts))])


def overlap_fraction(chunk: int, num_overlap: int) -> float:
    """The overlap whose hop, round(chunk x (1 - overlap)), is exactly MSST's chunk // num_overlap samples."""
    return 1 - (chunk // num_overlap) / chunk


def residual_name(stems: tuple[str, ...], instruments: tuple[str, ...] | None) -> str | None:
    """What to call the mix less all stems; None where the stems are all instruments and more than one."""
    taken = {stem.lower() for stem in stems}
    if taken == {"vocals"}:
        return "instrumental"
    left = [name for name in instruments or () if name.lower() not in taken]
    if len(left) == 1 and FILE_NAME.fullmatch(left[0]):
        return left[0]
    if instruments and not left and len(stems) > 1:
        return None
    return "residual" if "residual" not in taken else "remainder"


def _spectral(facts: Facts) -> bool:
    return bool(facts.get("spectrogram", True))


def _with_chunk(facts: Facts) -> Facts:
    """The chunk in samples, from whoever goes first: in samples, in seconds, or in `dim_t` frames.

    Of one source the samples go before the seconds, these before the frames. `dim_t` frames are those of
    hop x (dim_t - 1) samples, the first and the last centred on the chunk's ends.
    """
    rate, hop = facts.get("sample_rate"), facts.get("hop_length")
    lengths: dict[str, int] = {}
    if "chunk" in facts:
        lengths["chunk"] = facts["chunk"]
    if "chunk_seconds" in facts and rate is not None:
        samples = facts["chunk_seconds"] * rate
        lengths["chunk_seconds"] = round(samples) if math.isfinite(samples) else 0
    if "dim_t" in facts and hop is not None:
        lengths["dim_t"] = hop * (facts["dim_t"] - 1)
    if not lengths:
        return facts.without("chunk")
    first = min(lengths, key=lambda name: ORIGINS.index(facts.origin(name)))
    return facts.derived(first, chunk=lengths[first])


def _bad_stems(facts: Facts) -> Iterable[str]:
    """What is wrong with the names of a network's outputs."""
    stems: tuple[str, ...] | None = facts.get("stems")
    if stems is None:
        return
    count = facts.get("num_stems", len(stems))
    if len(stems) != count:
        yield f"{len(stems)} stems ({', '.join(stems)}) but {count} in the weights (--stems)"
    if len({stem.lower() for stem in stems}) != len(stems):
        yield f"stem names repeat: {', '.join(stems)} (--stems)"
    for stem in stems:
        if not FILE_NAME.fullmatch(stem):
            yield f"the stem {stem!r} cannot name a file (--stems)"


def _told(facts: Facts, name: str) -> str:
    return f"{name} {facts[name]} (from the {facts.origin(name)})"


def _called(name: str, fact: Fact) -> str:
    row = TABLE.get(name)
    return row.option if row and row.option and fact.origin == "command line" else name


def _shown(value: Any) -> str:
    """Tuples as the lists that a yaml has."""
    return short(list(value) if isinstance(value, tuple) else value)
