"""Which engine file of a manifest is opened: the one that was named, or a shorter one beside it."""

from pathlib import Path

from rofo.engines import BACKENDS, EngineSettings, choose_backend
from rofo.errors import EngineLoadError
from rofo.log import LOG
from rofo.manifest import MIN_INT8_PARITY_DB, EngineFile, Manifest, below_gate, manifest_path

_CPUINFO = Path("/proc/cpuinfo")
# Instructions that multiply four pairs of bytes and add the products to an int32. Without them bytes are
# widened first, and int8 is no faster than fp32.
_VNNI = {"avx512_vnni", "avx_vnni"}


def engine_file(path: Path, manifest: Manifest, settings: EngineSettings) -> Path:
    """`path`, or where it is a manifest, the first engine file there that the backend runs.

    Where a precision is asked for, the engine of that precision beside it, if there is one. `auto` takes with
    a parity that passes the gate int8 on a processor with VNNI, and on CUDA fp16. Raises EngineLoadError
    where the manifest has only an engine in fp8, for which no card has spoken yet, and nobody asked for it.
    """
    if path == manifest_path(path):
        path = path.with_name(_first(path, manifest, settings).file)
    named = next((entry for entry in manifest.engines if entry.file == path.name), None)
    if named is None or _lies_beside(named):
        return path
    backend = BACKENDS.get(settings.backend)
    kinds = (named.backend, backend.typed if backend else None)
    beside: dict[str, Path] = {
        e.precision: path.with_name(e.file) for e in manifest.engines if e.backend in kinds
    }
    if settings.precision != "auto":
        return beside.get(settings.precision, path)
    precision = "fp16" if backend and backend.typed else "int8"
    if precision == named.precision or precision not in beside:
        return path
    reason = _against(beside[precision], manifest, precision, choose_backend(path, named, settings.backend))
    if reason is None:
        return beside[precision]
    told = f"{beside[precision].name} is not taken: {reason}"
    LOG.info("%s: %s", path, told, extra={"engine": path.name, "precision": named.precision})
    return path


def _lies_beside(entry: EngineFile) -> bool:
    """Whether it is in a file of its own beside an engine of another precision, and taken where named."""
    return entry.precision in ("int8", "fp8") or any(one.typed == entry.backend for one in BACKENDS.values())


def _first(path: Path, manifest: Manifest, settings: EngineSettings) -> EngineFile:
    kind = BACKENDS[settings.backend].file if settings.backend in BACKENDS else None
    fitting = [entry for entry in manifest.engines if entry.backend == kind] or manifest.engines
    asked = settings.precision == "fp8"
    found = [entry for entry in fitting if (entry.precision == "fp8") == asked]
    if found or asked:
        return (found or fitting)[0]
    raise EngineLoadError(
        f"{path}: its only engine is in fp8, which is not taken by itself; use --precision fp8, or export "
        "another with rofo-export"
    )


def has_vnni() -> bool:
    """Whether this processor multiplies bytes; False where that is not known."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    return any(_VNNI & set(line.split()) for line in lines if line.startswith("flags"))


def _against(file: Path, manifest: Manifest, precision: str, backend: str) -> str | None:
    """What speaks against an engine where its precision is not asked for, None where nothing does."""
    if not file.exists():  # a copy of the fp32 engine alone keeps working
        return "there is no such file"
    if precision == "int8" and not has_vnni():
        return "this processor has no VNNI"
    return below_gate(manifest.snr_db(backend, precision), MIN_INT8_PARITY_DB)
