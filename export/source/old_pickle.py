"""Files of torch.save before 1.6 that hold a network's class: PyTorch stored its source code beside it.

To unpickle that is to ask for a module where torch's safe loader only knows storages, and it refuses. Only
the name is wanted: what asks is left out, and what was stored, name and source among them, stays a tuple.
"""

import io
import pickletools
from typing import IO, Any

_PICKLES = 4  # magic number, protocol, machine, object; then come the keys of the storages, and these


def without_sources(file: IO[bytes]) -> IO[bytes]:
    """The file itself, at its start, or what is read in its place. Raises ValueError for a broken pickle."""
    head = bytearray()
    asks = []
    for _ in range(_PICKLES):
        begin = file.tell()
        asked = False
        for operation, argument, place in pickletools.genops(file):
            if argument == "module" and "UNICODE" in operation.name:
                asked = True
            elif operation.name == "BINPERSID" and asked and place is not None:
                asks.append(place)
                asked = False
        end = file.tell()
        file.seek(begin)
        head += file.read(end - begin)
    file.seek(0)
    if not asks:
        return file
    skipped = len(head)
    for place in reversed(asks):
        del head[place]
    return io.BufferedReader(_Edited(bytes(head), file, skipped))


class _Edited(io.RawIOBase):
    """A file whose first `skipped` bytes are replaced by `head`."""

    def __init__(self, head: bytes, file: IO[bytes], skipped: int) -> None:
        self._head, self._file, self._place = head, file, 0
        self._shift = skipped - len(head)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            offset += self._file.seek(0, io.SEEK_END) - self._shift
        self._place = offset + (self._place if whence == io.SEEK_CUR else 0)
        return self._place

    def readinto(self, buffer: Any) -> int:
        wanted = len(buffer)
        found = self._head[self._place : self._place + wanted]
        if not found:
            self._file.seek(self._place + self._shift)
            found = self._file.read(wanted)
        buffer[: len(found)] = found
        self._place += len(found)
        return len(found)
