"""Songs from files and stems into files."""

from rofo.audio.reader import AudioReader
from rofo.audio.samples import AudioFormat

__all__ = ["AudioFormat", "AudioReader"]
