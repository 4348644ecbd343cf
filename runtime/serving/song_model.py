"""The Triton model that separates whole songs: `model.py` of a repository takes TritonPythonModel from here.

audio (the bytes of a file) and options (JSON, fields of rofo.Options) -> the bytes of the stems' files that
were asked for, and report (JSON). STFT, overlap-add and recipes happen here; networks are other models.
"""

import json
import threading
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rofo.engines import EngineSettings
from rofo.errors import EngineMismatchError, ManifestError, RofoError, UsageError
from rofo.json_fields import decode
from rofo.manifest import Manifest, manifest_path
from rofo.options import Options
from rofo.results import SeparatedFile
from rofo.separator import Separator
from rofo.serving.repository import AUDIO, FILE, OPTIONS, REPORT, load_setup
from rofo.serving.triton import TritonEngine, answer, inputs_of, log, refusal


class TritonPythonModel:
    """One instance: a process that separates one song after the other."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the recipe or manifest of the version folder; its networks need not be there yet."""
        folder = Path(args["model_repository"], args["model_version"])
        setup = load_setup(folder)
        networks = {folder / network.manifest: network for network in setup.networks}

        def opened(path: Path, manifest: Manifest, _: EngineSettings) -> TritonEngine:
            network = networks.get(manifest_path(path))
            if network is None:
                raise EngineMismatchError(
                    f"{path}: no network for it in {folder / FILE}; write the repository again"
                )
            return TritonEngine(network, manifest)

        self._separator = Separator(folder / setup.engine, opener=opened)
        names = ", ".join(network.model for network in setup.networks)
        log(f"{setup.engine}: {', '.join(self._separator.stems)} by {names}")

    def execute(self, requests: list[Any]) -> list[Any]:
        """A response for each request; nothing is raised."""
        return [self._answered(request) for request in requests]

    def finalize(self) -> None:
        """Triton unloads the model."""
        self._separator.close()

    def _answered(self, request: Any) -> Any:
        with TemporaryDirectory(prefix="rofo-") as folder:
            try:
                return answer(self._separated(request, Path(folder)))
            except RofoError as error:
                return refusal(type(error)(str(error).replace(f"{folder}/", "")))
            except Exception as error:  # noqa: BLE001 - one song must not stop the others
                return refusal(error)

    def _separated(self, request: Any, folder: Path) -> dict[str, NDArray[np.uint8]]:
        inputs = inputs_of(request)
        inputs[AUDIO].tofile(song := folder / AUDIO)
        wanted = request.requested_output_names()
        stems = [stem for stem in self._separator.stems if stem in wanted]
        cancel = threading.Event()

        def look(_: object) -> None:
            if request.is_cancelled():
                cancel.set()

        options = replace(
            _options(inputs.get(OPTIONS)), stems=stems or None, cancel=cancel, progress=look, resume=False
        )
        done = self._separator.separate_file(song, folder / "stems", options)
        outputs = {stem: np.fromfile(done[stem], np.uint8) for stem in stems}
        if REPORT in wanted:
            outputs[REPORT] = np.frombuffer(bytearray(_report(done)), np.uint8)
        return outputs


def _options(raw: NDArray[np.uint8] | None) -> Options:
    """Raises UsageError for what is not JSON, an unknown option or a value of another type."""
    if raw is None:
        return Options()
    try:
        return decode(Options, json.loads(raw.tobytes()), OPTIONS)
    except ManifestError as error:
        raise UsageError(f"{error}; see rofo.Options") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{OPTIONS} are not JSON ({error}); see rofo.Options") from None


def _report(done: SeparatedFile) -> bytes:
    return json.dumps(
        {
            "stems": {stem: path.name for stem, path in done.items()},
            "seconds": done.seconds,
            "elapsed": done.elapsed,
            "engines": done.engines,
            "warnings": list(done.warnings),
        }
    ).encode()
