"""From a checkpoint to engines: `export_checkpoint` does what rofo-export does. Needs PyTorch."""

from typing import TYPE_CHECKING, Any

from rofo.export.errors import CheckpointError, ParityError

if TYPE_CHECKING:
    from rofo.export.export import ExportOptions, ExportReport, export_checkpoint
    from rofo.export.plan.plan import PlanOptions

# Loaded on first use: PyTorch takes seconds, which `rofo-export --help` need not wait for.
_LAZY = {
    "ExportOptions": "rofo.export.export",
    "ExportReport": "rofo.export.export",
    "PlanOptions": "rofo.export.plan.plan",
    "export_checkpoint": "rofo.export.export",
}

__all__ = [
    "CheckpointError",
    "ExportOptions",
    "ExportReport",
    "ParityError",
    "PlanOptions",
    "export_checkpoint",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)
