"""Which engine file of a manifest is opened: the one that was named, or the int8 engine beside it."""

from pathlib import Path

from rofo.engines import BACKENDS, EngineSettings, choose_backend
from rofo.log import LOG
from rofo.manifest import MIN_INT8_PARITY_DB, EngineFile, Manifest, below_gate, manifest_path

_CPUINFO = Path("/proc/cpuinfo")
# Instructions that multiply four pairs of bytes and add the products to an int32. Without them bytes are
# widened first, and int8 is no faster than fp32.
_VNNI = {"avx512_vnni", "avx_vnni"}


def engine_file(path: Path, manifest: Manifest, settings: EngineSettings) -> Path:
    """`path`, or where it is a manifest, the first engine file there that the backend runs.

    Where int8 is asked for, or `auto` may take it, the int8 engine beside an fp32 one: on a processor with
    VNNI, with a parity that passes the gate.
    """
    if path == manifest_path(path):
        kind = BACKENDS[settings.backend].file if settings.backend in BACKENDS else None
        fitting = [entry for entry in manifest.engines if entry.backend == kind]
        path = path.with_name((fitting or manifest.engines)[0].file)
    named = next((entry for entry in manifest.engines if entry.file == path.name), None)
    int8 = _int8_beside(named, manifest)
    if named is None or int8 is None:
        return path
    beside = path.with_name(int8.file)
    if settings.precision == "int8":
        return beside
    if settings.precision != "auto":
        return path
    reason = _against(beside, manifest, choose_backend(path, named, settings.backend))
    if reason is None:
        return beside
    told = f"{int8.file} is not taken: {reason}"
    LOG.info("%s: %s", path, told, extra={"engine": path.name, "precision": named.precision})
    return path


def has_vnni() -> bool:
    """Whether this processor multiplies bytes; False where that is not known."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    return any(_VNNI & set(line.split()) for line in lines if line.startswith("flags"))


def _int8_beside(named: EngineFile | None, manifest: Manifest) -> EngineFile | None:
    if named is None or named.precision == "int8":
        return None
    of_its_kind = (entry for entry in manifest.engines if entry.backend == named.backend)
    return next((entry for entry in of_its_kind if entry.precision == "int8"), None)


def _against(int8: Path, manifest: Manifest, backend: str) -> str | None:
    """What speaks against an int8 engine where it is not asked for, None where nothing does."""
    if not int8.exists():  # a copy of the fp32 engine alone keeps working
        return "there is no such file"
    if not has_vnni():
        return "this processor has no VNNI"
    return below_gate(manifest.snr_db(backend, "int8"), MIN_INT8_PARITY_DB)
