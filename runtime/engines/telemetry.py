"""Backends imported without telling their makers of it."""

import os
import sys
import threading
from importlib import import_module
from typing import Any

_VARIABLE, _PACKAGE = "ORT_DISABLE_TELEMETRY", "openvino_telemetry"
_one_at_a_time = threading.Lock()


def import_quietly(name: str) -> Any:
    """A backend's package; it sends nothing where nobody has said that it shall, or imported it before.

    OpenVINO (2026.4) reports every import through a process that a thread forks, in the middle of whoever
    embeds us; where the package that sends it is missing, it goes on by itself. ONNX Runtime (1.31) reports
    what it is asked to do, and writes a file into the folder for temporary ones. Raises ImportError.
    """
    if name in sys.modules:  # the environment of a busy process is left alone: C reads it without a lock
        return import_module(name)
    with _one_at_a_time:
        package, variable = sys.modules.get(_PACKAGE), os.environ.get(_VARIABLE)
        sys.modules[_PACKAGE] = package  # type: ignore[assignment]  # with None its import fails
        os.environ[_VARIABLE] = variable or "1"
        try:
            return import_module(name)
        finally:
            if package is None:
                del sys.modules[_PACKAGE]
            if variable is None:
                del os.environ[_VARIABLE]
