"""The Triton model that runs an engine by rofo: `model.py` of a repository takes TritonPythonModel from here.

Triton gathers chunks of any songs into at most a batch. Its own backends gather only where a graph leaves the
batch open; here the places that stay empty are filled with silence. Any backend of rofo's runs: OpenVINO in
bf16 or int8, ONNX Runtime, and TensorRT-RTX, whose plans Triton's TensorRT backend does not read.
"""

import json
from pathlib import Path
from typing import Any

from rofo.engines import EngineSettings, open_engine
from rofo.engines.choice import engine_file
from rofo.engines.contract import Shapes
from rofo.errors import EngineMismatchError
from rofo.manifest import load_engine_manifest
from rofo.serving.triton import answer, gathered, inputs_of, log, refusal


class TritonPythonModel:
    """One instance: a process with one engine."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the engine file that config.pbtxt names, with its backend and precision."""
        config = json.loads(args["model_config"])
        told = {name: value["string_value"] for name, value in config["parameters"].items()}
        path = Path(args["model_repository"], args["model_version"], told["engine"])
        manifest = load_engine_manifest(path)
        settings = EngineSettings(told["backend"], told["precision"])
        self._engine = open_engine(engine_file(path, manifest, settings), manifest, settings)
        if config["max_batch_size"] > self._engine.batch:
            raise EngineMismatchError(
                f"{path}: its batch is {self._engine.batch}, config.pbtxt gathers "
                f"{config['max_batch_size']}; write the repository again with rofo-export --triton"
            )
        self._inputs = tuple(Shapes.of(manifest, self._engine.batch).inputs)
        log(f"{path.name}: {self._engine.backend}, {self._engine.precision}, batch {self._engine.batch}")

    def execute(self, requests: list[Any]) -> list[Any]:
        """A response for each of the requests, which together fill a batch at most; nothing is raised."""
        try:
            brought = [inputs_of(request) for request in requests]
            outputs = self._engine.run(
                {name: gathered([one[name] for one in brought], self._engine.batch) for name in self._inputs}
            )
        except Exception as error:  # noqa: BLE001 - a bug of ours is an answer too
            return [refusal(error) for _ in requests]
        responses, place = [], 0
        for one in brought:
            end = place + len(one[self._inputs[0]])
            responses.append(answer({name: tensor[place:end] for name, tensor in outputs.items()}))
            place = end
        return responses

    def is_ready(self) -> bool:
        """Asked by newer servers: False once the GPU is lost to this process."""
        return self._engine.healthy

    def finalize(self) -> None:
        """Triton unloads the model."""
        self._engine.close()
