"""Which engine file of a manifest is opened: the one that was named, or one in 8 bits beside it."""

from pathlib import Path

from rofo.engines import BACKENDS, EngineSettings, choose_backend
from rofo.errors import EngineLoadError
from rofo.manifest import MIN_INT8_PARITY_DB, EngineFile, Manifest, manifest_path

# Lie beside an engine of another precision, in files of their own.
_ON_DEMAND = ("int8", "fp8")
_CPUINFO = Path("/proc/cpuinfo")
# Instructions that multiply four pairs of bytes and add the products to an int32. Without them bytes are
# widened first, and int8 is no faster than fp32.
_VNNI = {"avx512_vnni", "avx_vnni"}


def engine_file(path: Path, manifest: Manifest, settings: EngineSettings) -> Path:
    """`path`, or where it is a manifest, the first engine file there that the backend runs.

    Where int8 or fp8 is asked for, the engine of that precision beside it. Where `auto` may take it, the int8
    engine: on a processor with VNNI, with a parity that passes the gate. Raises EngineLoadError where the
    manifest has only an engine in fp8, for which no card has spoken yet, and nobody asked for it.
    """
    if path == manifest_path(path):
        path = path.with_name(_first(path, manifest, settings).file)
    named = next((entry for entry in manifest.engines if entry.file == path.name), None)
    if named is None or named.precision in _ON_DEMAND:
        return path
    of_its_kind = (entry for entry in manifest.engines if entry.backend == named.backend)
    beside: dict[str, Path] = {entry.precision: path.with_name(entry.file) for entry in of_its_kind}
    if settings.precision in _ON_DEMAND:
        return beside.get(settings.precision, path)
    int8 = beside.get("int8")
    # A copy of the fp32 engine alone keeps working.
    takes = settings.precision == "auto" and int8 is not None and int8.exists() and has_vnni()
    return int8 if int8 and takes and _safe(manifest, choose_backend(path, named, settings.backend)) else path


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


def _safe(manifest: Manifest, backend: str) -> bool:
    snr_db = manifest.snr_db(backend, "int8")
    return snr_db is not None and snr_db >= MIN_INT8_PARITY_DB
