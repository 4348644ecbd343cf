"""One HTML page about the songs of a call: spectra, levels, players, what ran where. It fetches nothing but
the sound files, which it names by their way from the page.
"""

import base64
import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from importlib.metadata import PackageNotFoundError, version
from math import log10
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from rofo.audio.reader import AudioReader
from rofo.engines import BACKENDS
from rofo.errors import OutputWriteError, UsageError
from rofo.manifest import Manifest
from rofo.report.sound import RANGE_DB, Sound, measure
from rofo.report.style import STYLE
from rofo.results import SeparatedFile
from rofo.terminal import clock
from rofo.text import printable
from rofo.threads import cores

if TYPE_CHECKING:
    from rofo.options import Options
    from rofo.separator import Separator

_OWN_STYLE = """
.songs { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); gap: 24px; }
figure { min-width: 0; } figcaption { font-weight: 600; overflow-wrap: anywhere; }
figure img { display: block; width: 100%; height: 150px; margin: 6px 0; border-radius: 6px; }
audio { width: 100%; height: 40px; }
.facts td { white-space: normal; overflow-wrap: anywhere; text-align: left; }
"""
_EXPECTED = ".html", ".htm"


def check_place(path: Path) -> None:
    """Raise UsageError for what is no name of a page: a song would be written over."""
    if path.suffix.lower() not in _EXPECTED or path.is_dir():
        raise UsageError(f"{path}: not a name for a page; give --report one that ends in .html")


@dataclass(frozen=True)
class _Part:
    """A sound file of a song."""

    title: str
    file: Path
    sound: Sound


class Report:
    """A page in the making. What it keeps of a song are its pictures."""

    def __init__(self, path: Path, separator: "Separator", options: "Options") -> None:
        check_place(path)
        self.path, self._separator, self._options = path, separator, options
        self._songs: list[str] = []

    def add(self, source: Path, made: SeparatedFile) -> None:
        """Look at a song and at its stems. Raises AudioReadError."""
        options = self._options
        with AudioReader(
            source, allow_truncated=options.allow_truncated, sanitize=options.sanitize,
            channels=options.channels, max_minutes=options.max_minutes, cancel=options.cancel,
        ) as reader:  # fmt: skip
            parts = [_Part("the mix", source, _measured(reader))]
            rate, channels = reader.format.sample_rate, reader.format.channels
        for stem, file in made.items():
            with AudioReader(file, max_minutes=float("inf")) as reader:
                parts.append(_Part(stem, file, _measured(reader)))
        top, mono = parts[0].sound.top / 1000, channels == 1
        facts = [clock(made.seconds), f"{rate / 1000:g} kHz", "mono" if mono else "stereo"]
        if made.skipped:
            facts.append("skipped, its stems were there")
        elif made.elapsed:
            facts.append(f"separated in {clock(made.elapsed)}, {made.seconds / made.elapsed:.2f} x real time")
        facts.append(f"spectra up to {top:g} kHz")
        figures = "".join(self._figure(part, parts[0].sound.loudest) for part in parts)
        ran = _table(("engine", "seconds", "silent chunks left out"), (
            (name, f"{seconds:.1f}", str(made.silent.get(name, 0))) for name, seconds in made.engines.items()
        ))  # fmt: skip
        warnings = "".join(f'<p class="soft">{_shown(line)}</p>' for line in made.warnings)
        self._songs.append(
            f"<section><h2>{_shown(source.name)}</h2><p class=soft>{_shown(', '.join(facts))}</p>{warnings}"
            f'<div class="songs">{figures}</div>{ran if made.engines else ""}</section>'
        )

    def write(self) -> None:
        """Write the page, and the folder it lies in. Raises OutputWriteError."""
        text = (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{_shown(self._title)}</title><style>{STYLE}{_OWN_STYLE}</style></head><body>"
            f"<h1>{_shown(self._title)}</h1><div class=facts>{_table((), self._facts())}</div>"
            "<p class=soft>A spectrum has low tones below and the beginning on the left; black is "
            f"{RANGE_DB:.0f} dB below the loudest point of the mix. Levels are in dB of full scale.</p>"
            f"{''.join(self._songs)}</body></html>\n"
        )
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(text, encoding="utf-8")
        except OSError as error:
            reason = error.strerror or error
            raise OutputWriteError(f"{self.path}: {reason}; choose another --report") from None

    @property
    def _title(self) -> str:
        return f"Stems by {self._separator.manifest.name}"

    def _facts(self) -> Iterator[tuple[str, str]]:
        """What ran where."""
        separator, manifest = self._separator, self._separator.manifest
        yield "engine", f"{separator.backend}, {separator.device}, {separator.precision}"
        if isinstance(manifest, Manifest):
            snr_db = manifest.snr_db(separator.backend, separator.precision)
            if snr_db is not None:
                yield "measured at its export", f"{snr_db:.1f} dB from the network in PyTorch"
            source, seconds = manifest.source, manifest.chunk.samples / manifest.sample_rate
            yield "made from", f"{source.checkpoint}, sha256 {source.checkpoint_sha256[:12]}"
            yield "chunks", f"{seconds:.2f} s at {manifest.sample_rate} Hz"
        chosen = {name: getattr(self._options, name) for name in ("scheme", "overlap", "shifts")}
        asked = ", ".join(f"{name} {value}" for name, value in chosen.items() if value)
        yield "cut and joined", asked or "as the engine says"
        yield "machine", f"{cores()} cores, {platform.machine()}, {platform.system()}"
        modules = [BACKENDS[name].module for name in separator.backend.split("+")]
        yield "versions", ", ".join(filter(None, map(_version, ("rofo", *modules))))

    def _figure(self, part: _Part, loudest: float) -> str:
        picture = base64.b64encode(part.sound.png(loudest)).decode()
        sound = part.sound
        over = f", {sound.over} samples beyond full scale" if sound.over else ""
        return (
            f"<figure><figcaption>{_shown(part.title)}</figcaption>"
            f'<img alt="spectrum of {_shown(part.title)}" src="data:image/png;base64,{picture}">'
            f'<audio controls preload="none" src="{escape(address(part.file, self.path.parent))}"></audio>'
            f'<p class="soft">peak {_decibels(sound.peak)}, level {_decibels(sound.level)}{over}</p></figure>'
        )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells of text; a head without words is left out."""
    lines = [("th", head)] * any(head) + [("td", row) for row in rows]
    cells = ("".join(f"<{kind}>{_shown(cell)}</{kind}>" for cell in row) for kind, row in lines)
    return f'<div class="scroll"><table>{"".join(f"<tr>{row}</tr>" for row in cells)}</table></div>'


def address(file: Path, folder: Path) -> str:
    """A file's address for a page in `folder`: the way from there, whatever bytes are in its name."""
    try:
        way = os.path.relpath(file, folder or ".")
    except ValueError:  # another drive
        return file.resolve().as_uri()
    return quote(os.fsencode(way.replace(os.sep, "/")))


def _measured(reader: AudioReader) -> Sound:
    return measure(reader.blocks(), reader.format.frames, reader.format.sample_rate)


def _version(module: str) -> str:
    """A package and its version, nothing where its name is not the module's."""
    try:
        return f"{module} {version(module.replace('_', '-'))}"
    except PackageNotFoundError:  # onnxruntime-gpu
        return ""


def _decibels(amplitude: float) -> str:
    return f"{20 * log10(amplitude):.1f} dB" if amplitude else "silent"


def _shown(text: object) -> str:
    return escape(printable(text))
