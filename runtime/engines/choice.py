"""Which engine file of a manifest is opened: the one that was named, or one in 8 bits beside it."""

from pathlib import Path

from rofo.engines import BACKENDS, EngineSettings, choose_backend
from rofo.errors import EngineLoadError
from rofo.log import LOG
from rofo.manifest import MIN_INT8_PARITY_DB, EngineFile, Manifest, below_gate, manifest_path

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
    if settings.precision != "auto" or int8 is None:
        return path
    reason = _against(int8, manifest, choose_backend(path, named, settings.backend))
    if reason is None:
        return int8
    told = f"{int8.name} is not taken: {reason}"
    LOG.info("%s: %s", path, told, extra={"engine": path.name, "precision": named.precision})
    return path


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


def _against(int8: Path, manifest: Manifest, backend: str) -> str | None:
    """What speaks against an int8 engine where it is not asked for, None where nothing does."""
    if not int8.exists():  # a copy of the fp32 engine alone keeps working
        return "there is no such file"
    if not has_vnni():
        return "this processor has no VNNI"
    return below_gate(manifest.snr_db(backend, "int8"), MIN_INT8_PARITY_DB)
