"""What a file is, from its first bytes: a model we can open, or a plain word on what it is instead."""

import hashlib
import os
import string
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from rofo.export.errors import CheckpointError

Kind = Literal["zip", "pickle", "safetensors", "onnx"]

_SNIFFED_BYTES = 512
_TAIL_BYTES = 10_240_000  # UVR's model tables are keyed by the MD5 of a file's last 10000 KiB
_MAX_SAFETENSORS_HEADER = 100_000_000  # the format's own limit
_TEXT = frozenset(string.printable.encode()) | frozenset(range(0x80, 0x100))

_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    ValueError,
    EOFError,
    RuntimeError,
    OverflowError,
)


def file_kind(path: Path) -> Kind:
    """How to open a checkpoint or an ONNX model, judged by content and never by its name.

    Raises CheckpointError, saying what the file is, for everything else: missing, empty, a git-lfs pointer,
    a web page, text, an archive.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_SNIFFED_BYTES)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}; give a readable checkpoint file") from None
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "pickle"
    if _is_safetensors(head):
        return "safetensors"
    if _is_onnx(head):
        return "onnx"
    raise CheckpointError(f"{path}: {_what_else(head)}")


def digests(path: Path) -> tuple[str, str]:
    """The sha256 of the file and the MD5 of its tail, in constant memory."""
    with path.open("rb", buffering=0) as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        tail = hashlib.md5(file.readall() or b"", usedforsecurity=False).hexdigest()
    return sha256, tail


def check_zip(path: Path) -> None:
    """Make sure that a zip file is a whole and undamaged archive of torch.save.

    Every record is read once against its CRC: torch itself loads flipped bytes without a word. Raises
    CheckpointError.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            problem = _not_of_torch(records)
            bad = [] if problem else [record.filename for record in records if not _crc_fits(archive, record)]
    except _ZIP_ERRORS:
        raise CheckpointError(
            f"{path}: cut short or damaged (no whole zip archive); download it again"
        ) from None
    if problem:
        raise CheckpointError(f"{path}: {problem}")
    # torch.save can be told to leave the CRCs out; then none of them fits.
    if bad and len(bad) < len(records):
        raise CheckpointError(f"{path}: damaged, checksum wrong in {', '.join(bad[:5])}; download it again")


def _not_of_torch(records: list[zipfile.ZipInfo]) -> str | None:
    names = [record.filename for record in records]
    if any(name.endswith("/constants.pkl") for name in names):
        return "a TorchScript program; give the checkpoint of weights it came from"
    if not any(name.endswith("/data.pkl") for name in names):
        return "a zip archive, but not of torch.save; unpack it and give the checkpoint"
    # torch.save stores without compression: anything else could unpack to far more than the file's size.
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        return "a compressed zip archive, not of torch.save; unpack it first"
    return None


def _crc_fits(archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> bool:
    try:
        with archive.open(record) as file:
            while file.read(1 << 20):
                pass
    except zipfile.BadZipFile:
        return False
    return True


def _is_safetensors(head: bytes) -> bool:
    length = int.from_bytes(head[:8], "little")
    return 2 <= length <= _MAX_SAFETENSORS_HEADER and head[8:9] == b"{"


def _what_else(head: bytes) -> str:
    for fits, what in _OTHER_FILES:
        if fits(head):
            return what
    if _TEXT.issuperset(head):
        start = " ".join(head[:60].decode("utf-8", "replace").split())
        return f"a text file ({start!r}), not a checkpoint; download the weights again"
    return "not a PyTorch checkpoint (neither torch.save nor safetensors); download it again"


def _begins(*signatures: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.lstrip().lower().startswith(signatures)


def _is_onnx(head: bytes) -> bool:
    """Field 1 of a ModelProto, the IR version, is one byte; then comes one of fields 2 to 8."""
    return head[:1] == b"\x08" and len(head) > 2 and head[2] in range(0x12, 0x43, 8)


_OTHER_FILES: tuple[tuple[Callable[[bytes], bool], str], ...] = (
    (lambda head: not head, "an empty file; download it again"),
    (
        _begins(b"version https://git-lfs"),
        "a git-lfs pointer, not the weights; fetch them with `git lfs pull`, or download the file itself",
    ),
    (
        _begins(b"<!doctype html", b"<html", b"<head", b"<?xml"),
        "a web page (HTML), not a checkpoint; download the file itself, not the page that shows it",
    ),
    (_begins(b"\x1f\x8b"), "a gzip archive; unpack it first"),
    (_begins(b"7z\xbc\xaf\x27\x1c"), "a 7z archive; unpack it first"),
    (_begins(b"rar!"), "a rar archive; unpack it first"),
    (lambda head: head[257:262] == b"ustar", "a tar archive; unpack it first"),
    (_begins(b"\x89hdf"), "an HDF5 file, not a PyTorch checkpoint; give the PyTorch one"),
    (_begins(b"ftrt"), "a TensorRT engine, already built; give the checkpoint it came from"),
    (_begins(b"gguf"), "a GGUF file, not a PyTorch checkpoint; give the PyTorch one"),
)
