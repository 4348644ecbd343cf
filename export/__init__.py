"""From a checkpoint to engines: `export_checkpoint` does what rofo-export does, `fetch_checkpoint` takes a
checkpoint's name. Needs PyTorch."""

from typing import TYPE_CHECKING, Any

from rofo.export.errors import CheckpointError, DownloadError, ParityError

if TYPE_CHECKING:
    from rofo.export.export import ExportOptions, ExportReport, export_checkpoint
    from rofo.export.hub import Fetched, fetch_checkpoint
    from rofo.export.plan.plan import PlanOptions

# Loaded on first use: PyTorch takes seconds, which `rofo-export --help` need not wait for.
_LAZY = {
    "ExportOptions": "rofo.export.export",
    "ExportReport": "rofo.export.export",
    "PlanOptions": "rofo.export.plan.plan",
    "Fetched": "rofo.export.hub",
    "export_checkpoint": "rofo.export.export",
    "fetch_checkpoint": "rofo.export.hub",
}

__all__ = [
    "CheckpointError",
    "DownloadError",
    "ExportOptions",
    "ExportReport",
    "Fetched",
    "ParityError",
    "PlanOptions",
    "export_checkpoint",
    "fetch_checkpoint",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)
