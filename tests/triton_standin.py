"""What Triton's Python backend gives a model, and a server that calls models by it, in this process.

`PbUtils` stands for the module triton_python_backend_utils, `Triton` for the server: it reads config.pbtxt,
refuses tensors that differ from it, and runs requests one by one. Batching, queues and health are the real
server's, see rofo.benchmarks.triton.
"""

import enum
import json
import re
import sys
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

MODULES = ("rofo.serving.triton", "rofo.serving.song_model", "rofo.serving.network_model")
_TYPES = {"TYPE_FP32": np.float32, "TYPE_UINT8": np.uint8}


class Tensor:
    def __init__(self, name, array):
        self._name, self._array = name, array

    @classmethod
    def from_dlpack(cls, name, lent):
        return cls(name, np.from_dlpack(lent).copy())

    def name(self):
        return self._name

    def __dlpack__(self, **options):
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


class TritonError:
    class Code(enum.Enum):
        INTERNAL = 500
        INVALID_ARG = 400
        UNAVAILABLE = 503
        CANCELLED = 499

    INTERNAL, INVALID_ARG, UNAVAILABLE, CANCELLED = Code

    def __init__(self, message, code=Code.INTERNAL):
        self._message, self._code = message, code

    def message(self):
        return self._message

    def code(self):
        return self._code


class InferenceResponse:
    def __init__(self, output_tensors=(), error=None):
        self._tensors, self._error = list(output_tensors), error

    def output_tensors(self):
        return self._tensors

    def has_error(self):
        return self._error is not None

    def error(self):
        return self._error


@dataclass
class Request:
    """What a model's execute is given. `cancelled` is asked, with no arguments, whether it is."""

    tensors: list[Tensor]
    outputs: list[str]
    cancelled: Any = bool

    def inputs(self):
        return self.tensors

    def requested_output_names(self):
        return self.outputs

    def is_cancelled(self):
        return self.cancelled()


@dataclass
class Triton:
    """The models of a repository, by name; `called` are the calls between them."""

    called: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    models: dict[str, Any] = field(default_factory=dict)

    def load(self, folder):
        """As Triton does: the version folder's model.py, with its configuration as JSON."""
        config = parsed((folder / "config.pbtxt").read_text())
        source, scope = (folder / "1" / "model.py").read_text(), {}
        exec(compile(source, str(folder / "1" / "model.py"), "exec"), scope)
        model = scope["TritonPythonModel"]()
        parameters = {entry["key"]: entry["value"] for entry in config.get("parameters", [])}
        told = json.dumps({**config, "parameters": parameters})
        model.initialize({"model_repository": str(folder), "model_version": "1", "model_config": told})
        self.configs[config["name"]], self.models[config["name"]] = config, model

    def ask(self, model, inputs, outputs=None, cancelled=bool):
        """The response to one request of arrays by name."""
        tensors = [Tensor(name, np.asarray(array)) for name, array in inputs.items()]
        named = outputs or [tensor["name"] for tensor in self.configs[model]["output"]]
        return self.run(model, [Request(tensors, named, cancelled)])[0]

    def run(self, model, requests):
        """The responses to requests that were gathered into one batch."""
        if model not in self.models:
            return [InferenceResponse(error=TritonError(f"unknown model {model}")) for _ in requests]
        config = self.configs[model]
        for request in requests:
            self._check(config, "input", request.tensors)
        responses = self.models[model].execute(requests)
        assert len(responses) == len(requests)
        for request, response in zip(requests, responses, strict=True):
            if not response.has_error():
                self._check(config, "output", response.output_tensors())
                assert {t.name() for t in response.output_tensors()} == set(request.outputs)
        return responses

    def _check(self, config, kind, tensors):
        known = {tensor["name"]: tensor for tensor in config[kind]}
        for tensor in tensors:
            wanted, found = known[tensor.name()], np.from_dlpack(tensor)
            shape = found.shape[1:] if config["max_batch_size"] else found.shape
            assert found.dtype == _TYPES[wanted["data_type"]]
            assert len(shape) == len(wanted["dims"])
            assert all(size in (-1, there) for size, there in zip(wanted["dims"], shape, strict=True))
            assert not config["max_batch_size"] or 1 <= len(found) <= config["max_batch_size"]


class StandIn(ModuleType):
    """The module triton_python_backend_utils of a server."""

    Tensor, InferenceResponse, TritonError = Tensor, InferenceResponse, TritonError
    TRITONSERVER_MEMORY_CPU = 0

    def __init__(self, triton):
        super().__init__("triton_python_backend_utils")

        class InferenceRequest:
            def __init__(self, *, model_name, requested_output_names, inputs, preferred_memory):
                assert preferred_memory == (self_.TRITONSERVER_MEMORY_CPU, 0)
                self._model, self._request = model_name, Request(inputs, requested_output_names)

            def exec(self):
                triton.called.append(self._model)
                return triton.run(self._model, [self._request])[0]

        class Logger:
            log_info = staticmethod(triton.log.append)

        self_, self.InferenceRequest, self.Logger = self, InferenceRequest, Logger
        self.PreferredMemory = lambda kind, number: (kind, number)


def stand_in(monkeypatch):
    """A Triton whose Python backend the modules of rofo.serving find; they are imported anew."""
    triton = Triton()
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", StandIn(triton))
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name in MODULES:
        import_module(name)
    return triton


_TOKEN = re.compile(r'\s*(?:#[^\n]*\n\s*)*("(?:[^"\\]|\\.)*"|[\w.+-]+|[\[\]{}:,])')
REPEATED = {"input", "output", "parameters", "instance_group", "model_warmup", "dims", "inputs"}


def parsed(text):
    """A message in protobuf's text format as dicts and lists. Raises AssertionError where it is none."""
    tokens = [match.group(1) for match in _TOKEN.finditer(text)]
    assert "".join(tokens) == re.sub(r'#[^\n]*\n|\s+(?=(?:[^"]*"[^"]*")*[^"]*$)', "", text + "\n"), "junk"
    tokens.append("}")
    found = _message(tokens)
    assert not tokens, f"left over: {tokens}"
    return found


def _message(tokens):
    found = {}
    while (name := tokens.pop(0)) != "}":
        if name == ",":
            continue
        assert name.isidentifier(), name
        if tokens[0] == ":":
            tokens.pop(0)
        value = _value(tokens)
        if name in REPEATED:
            found.setdefault(name, []).extend(value if isinstance(value, list) else [value])
        else:
            assert name not in found, f"{name} twice"
            found[name] = value
    return found


def _value(tokens):
    token = tokens.pop(0)
    if token == "{":
        return _message(tokens)
    if token == "[":
        values = []
        while tokens[0] != "]":
            values.append(_value(tokens))
            if tokens[0] == ",":
                tokens.pop(0)
        tokens.pop(0)
        return values
    if token[0] == '"':
        return json.loads(token)
    return {"true": True, "false": False}.get(token, int(token) if token.lstrip("-").isdigit() else token)
