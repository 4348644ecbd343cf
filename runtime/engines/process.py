"""Engines belong to the process that opened them, and to no process that is forked from it.

A forked process has none of the threads of its parent, and every lock as it was at that moment. Of children
of a busy process 7 of 8 hung in OpenVINO's run and 2 of 8 where they opened an engine of their own; CUDA
refuses both. So they are told, and nothing that belongs to a backend is touched there.
"""

import ctypes
import os
from typing import Any
from weakref import WeakSet

from rofo.errors import EngineLoadError, EngineRunError

_open = WeakSet[Any]()
_opener: list[int] = []  # the process that opened the first engine; this one, or one it was forked from
_WHAT = "this process was forked from one that had opened an engine, and an engine does not follow"
_CURE = (
    "start processes with spawn (multiprocessing.get_context('spawn')), or open the first engine in the child"
)


def is_forked() -> bool:
    """Whether engines were opened before this process was forked."""
    return bool(_opener) and _opener[0] != os.getpid()


def check_opening(name: str) -> None:
    """Raise EngineLoadError in a process where no engine can be opened."""
    if is_forked():
        raise EngineLoadError(f"{name}: {_WHAT}; {_CURE}")


def check_running(name: str) -> None:
    """Raise EngineRunError in a process where no engine can be run."""
    if is_forked():
        raise EngineRunError(f"{name}: {_WHAT}; {_CURE}")


def belongs_here(engine: Any) -> None:
    """An engine was opened by this process."""
    if not _opener:
        _opener.append(os.getpid())
    _open.add(engine)


def _keep() -> None:
    """Let no engine be freed in a forked process: OpenVINO's waits there for threads that are gone."""
    for engine in _open:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(engine))


if hasattr(os, "register_at_fork"):  # Windows cannot fork
    os.register_at_fork(after_in_child=_keep)
