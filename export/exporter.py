"""Checkpoint to engine files, in order: read, build, trace, verify, and only then put the files in place."""

import dataclasses
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

import rofo
from rofo.errors import CheckpointError, ManifestError, OutputWriteError, UsageError
from rofo.export import verify
from rofo.export.checkpoint import Checkpoint, load_checkpoint
from rofo.export.config import Facts, ModelConfig, resolve_config
from rofo.export.networks.roformer import Roformer
from rofo.export.onnx_graph import OPSET, write_onnx
from rofo.manifest import Chunk, EngineFile, Manifest, OverlapAdd, Source, Stft, file_sha256


@dataclass(frozen=True)
class ExportReport:
    """The files written and what they hold."""

    files: tuple[Path, ...]
    manifest: Manifest


def export(
    checkpoint: str | Path,
    *,
    config: str | Path | None = None,
    output: str | Path | None = None,
    facts: Facts | None = None,
    batch: int = 1,
    check: bool = True,
    sha256: str | None = None,
    unsafe_pickle: bool = False,
    stage: Callable[[str], None] = lambda _: None,
) -> ExportReport:
    """Write OUTPUT.onnx (and OUTPUT.onnx.data for large weights) and OUTPUT.json.

    `output` is a path without suffix, by default the checkpoint's. `batch` is the number of chunks the
    engine takes at once. `sha256` is what the checkpoint must have. `stage` is told what is going on.
    Nothing is written unless every step succeeds.
    Raises CheckpointError, ParityError, OutputWriteError, EngineLoadError.
    """
    source = Path(checkpoint)
    stem = Path(output) if output is not None else source.with_suffix("")
    if batch < 1:
        raise UsageError(f"batch is {batch}; give 1 or more")
    if stem.name in ("", ".."):
        raise UsageError(f"{stem}: not a name for the engine; give the path of the results without suffix")
    stage(f"reading {source}")
    loaded = load_checkpoint(source, unsafe_pickle=unsafe_pickle)
    if sha256 and sha256.lower() != loaded.sha256:
        raise CheckpointError(f"{source}: its sha256 is {loaded.sha256}, not {sha256}; download it again")
    model = resolve_config(loaded, yaml=Path(config) if config else None, facts=facts)
    stft, chunk = _geometry(model)
    stage(f"building {_summary(model, chunk)}")
    network = _network(model, loaded, chunk)
    with _staging(stem) as folder:
        stage("tracing the graph")
        file = folder / f"{stem.name}.onnx"
        data = write_onnx(network, (batch, model.network.channels, chunk.frames, stft.bins, 2), file)
        engine = _engine_file(file, data, batch)
        manifest = _manifest(stem.name, model, stft, chunk, engine, _source(model, loaded))
        description = folder / f"{stem.name}.json"
        description.write_text(manifest.to_json(), encoding="utf-8")
        if check:
            stage("running the network for comparison")
            wanted = verify.reference(network, manifest)
            del network
            stage("running the engine against it")
            manifest = dataclasses.replace(manifest, parity=verify.verify(file, manifest, wanted))
            description.write_text(manifest.to_json(), encoding="utf-8")
        files = _placed([f for f in (data, file, description) if f is not None], stem.parent)
    return ExportReport(files, manifest)


def _geometry(model: ModelConfig) -> tuple[Stft, Chunk]:
    network = model.network
    try:
        stft = Stft(network.n_fft, network.hop_length, normalized=network.stft_normalized)
    except ManifestError as error:
        raise CheckpointError(f"{model.name}: {error}; the yaml's STFT cannot be inverted") from None
    return stft, Chunk(model.chunk, stft.frames(model.chunk))


def _summary(model: ModelConfig, chunk: Chunk) -> str:
    network = model.network
    seconds = chunk.samples / network.sample_rate
    return (
        f"{network.family} {network.dim}x{network.depth}, {len(network.bands)} bands, "
        f"stems {', '.join(model.stems)}, chunks of {seconds:.2f} s ({chunk.frames} frames)"
    )


def _network(model: ModelConfig, loaded: Checkpoint, chunk: Chunk) -> Roformer:
    try:
        return Roformer(model.network, loaded.state, chunk.frames)
    except CheckpointError as error:
        raise CheckpointError(f"{loaded.path}: {error}") from None


def _manifest(
    name: str, model: ModelConfig, stft: Stft, chunk: Chunk, engine: EngineFile, source: Source
) -> Manifest:
    try:
        return Manifest(
            name=name,
            architecture=model.network.family,
            sample_rate=model.network.sample_rate,
            channels=model.network.channels,
            stems=model.stems,
            residual=model.residual,
            stft=stft,
            chunk=chunk,
            overlap_add=OverlapAdd("fade", model.overlap),
            normalize=model.normalize,
            engines=(engine,),
            source=source,
            parity=(),
        )
    except ManifestError as error:
        raise CheckpointError(f"{source.checkpoint}: {error}; correct the yaml or the options") from None


def _engine_file(file: Path, data: Path | None, batch: int) -> EngineFile:
    return EngineFile(
        file=file.name,
        backend="onnx",
        backend_version=f"opset {OPSET}",
        precision="fp32",
        compute_capabilities=(),
        batch=batch,
        sha256=file_sha256(file),
        data=data.name if data else None,
        data_sha256=file_sha256(data) if data else None,
    )


def _source(model: ModelConfig, loaded: Checkpoint) -> Source:
    return Source(
        checkpoint=loaded.path.name,
        checkpoint_sha256=loaded.sha256,
        config=model.source,
        exporter=rofo.__version__,
        torch=torch.__version__,
    )


@contextmanager
def _staging(stem: Path) -> Iterator[Path]:
    """A hidden folder beside the output, removed with all that is left in it; write errors in words."""
    folder = None
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{stem.name}.", dir=stem.parent))
        yield folder
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputWriteError(
            f"{stem}: could not write ({reason}); give --output a folder with room and write permission"
        ) from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _placed(files: list[Path], folder: Path) -> tuple[Path, ...]:
    """Move finished files to their names, the manifest last; if one cannot be, put back what was there."""
    for file in files:
        with file.open("rb+") as handle:
            os.fsync(handle.fileno())
        if (folder / file.name).is_dir():
            raise IsADirectoryError(errno.EISDIR, f"{file.name} is a directory")
    with ExitStack() as undo:
        for file in files:
            target, older = folder / file.name, file.with_name(f"{file.name}.old")
            undo.callback(_put_back, file, target, older)
            if target.exists():
                target.replace(older)
            file.replace(target)
        undo.pop_all()
    _drop_stale_weights(files, folder)
    return tuple(folder / file.name for file in files)


def _drop_stale_weights(files: list[Path], folder: Path) -> None:
    """Weights of an older, larger engine of this name belong to nothing now."""
    names = {file.name for file in files}
    for name in names:
        if name.endswith(".onnx") and f"{name}.data" not in names:
            (folder / f"{name}.data").unlink(missing_ok=True)


def _put_back(file: Path, target: Path, older: Path) -> None:
    """Undo as much of a move as was done: `file` gone means that it is at its target."""
    if older.exists():
        older.replace(target)
    elif not file.exists():
        target.unlink(missing_ok=True)
