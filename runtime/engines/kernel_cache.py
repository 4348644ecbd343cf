"""TensorRT-RTX compiles kernels for the GPU at hand; what it compiled is kept for the next start.

In the user's own cache folder, not beside the engine: the file holds code that no manifest vouches for, and
must come from nobody else.
"""

import hashlib
import os
import sys
import tempfile
from pathlib import Path

from rofo.log import LOG


class KernelCache:
    """One file per engine, GPU and library. Only a cache: whatever goes wrong with the file is ignored."""

    def __init__(self, *key: str) -> None:
        name = hashlib.sha256("\n".join(key).encode()).hexdigest()[:32]
        try:
            self.path = cache_folder() / f"{name}.kernels"
        except RuntimeError:  # a user without a home
            self.path = Path(os.devnull)

    def load(self) -> bytes:
        """What was kept, empty where there is nothing or others could have written it."""
        try:
            if hasattr(os, "getuid"):
                status = self.path.stat()
                if status.st_uid != os.getuid() or status.st_mode & 0o022:
                    return b""
            return self.path.read_bytes()
        except OSError:
            return b""

    def save(self, content: bytes) -> None:
        """Put the file in place whole, or not at all."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            number, name = tempfile.mkstemp(dir=self.path.parent, prefix=".new-")
            try:
                with os.fdopen(number, "wb") as file:
                    file.write(content)
                Path(name).replace(self.path)
            except BaseException:
                Path(name).unlink()
                raise
        except OSError as error:
            LOG.warning("%s: compiled kernels cannot be kept for the next start (%s)", self.path, error)


def cache_folder() -> Path:
    """XDG_CACHE_HOME/rofo, or the platform's own place for caches."""
    if chosen := os.environ.get("XDG_CACHE_HOME"):
        return Path(chosen) / "rofo"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "rofo" / "cache"
    return Path.home() / ".cache" / "rofo"
