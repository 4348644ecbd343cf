"""Any public checkpoint file -> a flat state dict, without running the code that a pickle may carry."""

import json
import pickle
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from rofo.export.errors import CheckpointError
from rofo.export.source import Source
from rofo.export.source.file_kind import Kind, check_zip, digests, file_kind
from rofo.export.source.old_pickle import without_sources

# weights_only could be bypassed before 2.6 (CVE-2025-32434) and corrupt memory before 2.10 (CVE-2026-24747).
_OLDEST_TORCH = (2, 10)
# The one kind of weights that is complex: filters of Fourier neural operators.
_FILTER = re.compile(r"\.fno_blocks\.convs\.\d+\.weight\.tensor$")
_LARGEST_FLOAT32 = torch.finfo(torch.float32).max
_WRAPPERS = ("state", "state_dict", "model_state_dict", "model", "best_state")
_PREFIXES = ("module.", "_orig_mod.", "generator.", "model.")
_DEEPEST_WRAPPING = 4
_DEMUCS = (
    "demucs.hdemucs.HDemucs",
    "demucs.htdemucs.HTDemucs",
    "demucs.demucs.Demucs",
    "demucs.model.Demucs",  # v1 and v2
)
_FIRST_DEMUCS = ("klass", "args", "kwargs", "state")  # of the tuple that is a package of v1
_QUANTISED = "a Demucs package quantised by diffq: not supported; give the one that is not (mdx for mdx_q)"


def load_checkpoint(path: str | Path, *, unsafe_pickle: bool = False) -> Source:
    """Read a checkpoint of any container: torch.save (zip or old pickle), Lightning, safetensors.

    Wrappers and the prefixes of DataParallel, torch.compile and GAN training are taken off. Pickled code
    runs only with `unsafe_pickle`. Raises CheckpointError for everything that is not a state dict of
    finite real tensors.
    """
    path = Path(path)
    _require_torch(path)
    kind = file_kind(path)
    if kind == "onnx":
        raise CheckpointError(f"{path}: an ONNX model, not a checkpoint; give the PyTorch checkpoint")
    if kind == "zip":
        check_zip(path)
    sha256, tail_md5 = digests(path)
    container = _read_safetensors(path) if kind == "safetensors" else _unpickle(path, kind, unsafe_pickle)
    if isinstance(container, tuple) and len(container) == len(_FIRST_DEMUCS):
        container = dict(zip(_FIRST_DEMUCS, container, strict=True))
    hyper_parameters = _hyper_parameters(container)
    state = _strip_prefixes(_unwrap(path, container))
    _check_state(path, state)
    plain = {key: value.detach() for key, value in state.items()}
    return Source(path, sha256, tail_md5, plain, hyper_parameters)


def _require_torch(path: Path) -> None:
    version = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if version < _OLDEST_TORCH:
        raise CheckpointError(
            f"{path}: not opened, torch {torch.__version__} has known holes in its safe loader; "
            "install torch 2.10 or newer"
        )


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path}: damaged safetensors file ({_one_line(error)}); download it again"
        ) from None


class _Inert:
    """Stands in for what lies beside the weights and is no plain data: keeps and runs nothing.

    These are numpy values, which MSST saves as metrics, and hydra's configurations in Lightning files.
    """

    def __new__(cls, *_: Any) -> "_Inert":
        return super().__new__(cls)

    def __setstate__(self, _: Any) -> None:
        pass

    def __repr__(self) -> str:
        return "not read"


_INERT_NAMES = (
    "typing.Any",
    "collections.defaultdict",
    "__builtin__.dict",
    "builtins.dict",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    *(f"omegaconf.nodes.{kind}Node" for kind in ("Any", "Boolean", "Float", "Integer", "String")),
    "numpy.dtype",
    "numpy.ndarray",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
)


class _Ratio(_Inert):
    """Stands in for the Fraction of a Demucs package: what it is made of as text, never computed with here.

    Python pickles the text "39/5" before 3.12, the numbers 39 and 5 since.
    """

    def __init__(self, *parts: Any) -> None:
        self._text = "/".join(str(part)[:_LONGEST_RATIO] for part in parts[:2])

    def __str__(self) -> str:
        return self._text


_LONGEST_RATIO = 40  # characters; public packages say 39/5


def _stand_in(name: str) -> type[_Inert]:
    """An inert class in the place of a Demucs network's, known by its name."""
    module, _, own = name.rpartition(".")
    return type(own, (_Inert,), {"__module__": module})


def _unpickle(path: Path, kind: Kind, unsafe: bool) -> Any:
    inert: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = []
    if not unsafe:
        inert.extend((_Inert, name) for name in _INERT_NAMES)
        inert.append((_Ratio, "fractions.Fraction"))
        inert.extend((_stand_in(name), name) for name in _DEMUCS)
    try:
        # An open file, because torch 2.13 looks at the name of a path and takes .safetensors at its word.
        with path.open("rb") as file, warnings.catch_warnings(), torch.serialization.safe_globals(inert):
            warnings.simplefilter("ignore")
            readable = without_sources(file) if kind == "pickle" and not unsafe else file
            return torch.load(readable, map_location="cpu", weights_only=not unsafe)
    except Exception as error:  # noqa: BLE001 a hostile or damaged pickle can raise anything
        raise CheckpointError(f"{path}: {_why_not(error, kind, unsafe)}") from None


def _why_not(error: Exception, kind: Kind, unsafe: bool) -> str:
    """Our own words for what torch.load says: its text advises to turn the safe loader off."""
    if unsafe:
        reason = f"{type(error).__name__}: {_one_line(error)}"
        return (
            f"could not be unpickled ({reason}); install what it was saved with, or give a plain state dict"
        )
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    if found and found[1].startswith("diffq."):
        return _QUANTISED
    if found and found[1].startswith("demucs."):
        known = " and ".join(_DEMUCS)
        return f"a Demucs package of {found[1]}: not supported, only {known} are; give one of these"
    if found or (isinstance(error, pickle.UnpicklingError) and kind == "zip"):
        name = found[1] if found else "of an unknown kind"
        return f"holds Python objects ({name}); --unsafe-pickle runs its code, only for files you trust"
    if kind == "pickle":
        return "a Python pickle, but cut short, damaged or not written by torch.save; download it again"
    return "damaged: its records do not make up tensors; download it again"


def _hyper_parameters(container: Any) -> dict[str, Any]:
    """The hyper-parameters of a Lightning file, or class and arguments of a Demucs package.

    As plain JSON data: what is not plain becomes text.
    """
    if not isinstance(container, Mapping):
        return {}
    raw = container.get("hyper_parameters")
    if "klass" in container:
        klass = container["klass"]
        klass = klass[1] if isinstance(klass, tuple) and len(klass) > 1 else klass  # see old_pickle
        raw = {key: container.get(key) for key in ("args", "kwargs")}
        raw["klass"] = f"{klass.__module__}.{klass.__name__}" if isinstance(klass, type) else str(klass)
    if not isinstance(raw, Mapping):
        return {}
    try:
        plain = json.loads(json.dumps(dict(raw), default=_to_plain, skipkeys=True))
    except (ValueError, RecursionError):
        return {}
    return dict(plain)


def _to_plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else str(value)


def _unwrap(path: Path, container: Any) -> Mapping[Any, Any]:
    """The innermost state dict of nested wrappers; what lies beside it (optimizer, epoch) is left behind."""
    for _ in range(_DEEPEST_WRAPPING):
        if isinstance(container, torch.nn.Module):  # only ever after --unsafe-pickle
            container = container.state_dict()
        if not isinstance(container, Mapping):
            raise CheckpointError(
                f"{path}: holds a {type(container).__name__}, not a state dict; give a file of weights"
            )
        if "__quantized" in container:
            raise CheckpointError(f"{path}: {_QUANTISED}")
        lightning = "hyper_parameters" in container or "pytorch-lightning_version" in container
        inner = next((container[key] for key in _WRAPPERS if _is_wrapped(container.get(key))), None)
        if inner is None:
            return container
        container = _generator_only(inner) if lightning else inner
    raise CheckpointError(f"{path}: wrapped more than {_DEEPEST_WRAPPING} times; give a plain state dict")


def _is_wrapped(value: Any) -> bool:
    return isinstance(value, Mapping | torch.nn.Module)


def _generator_only(state: Any) -> Any:
    """Of a GAN's Lightning file only the generator separates; discriminator and losses stay behind."""
    if not isinstance(state, Mapping):
        return state
    kept = {k: v for k, v in state.items() if isinstance(k, str) and k.startswith("generator.")}
    return kept or state


def _strip_prefixes(state: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """Take off the prefixes that every key carries."""
    while state:
        prefix = next((p for p in _PREFIXES if all(str(key).startswith(p) for key in state)), None)
        if prefix is None:
            break
        state = {str(key)[len(prefix) :]: value for key, value in state.items()}
    return state


def _check_state(path: Path, state: Mapping[Any, Any]) -> None:
    if not state:
        raise CheckpointError(f"{path}: holds no weights; give the checkpoint of a network")
    _refuse(path, "entries are not plain real tensors", (k for k, v in state.items() if not _is_plain(k, v)))
    lora = [key for key in state if re.search(r"lora_|\.lora\b", key, re.IGNORECASE)]
    if lora:
        raise CheckpointError(
            f"{path}: a LoRA add-on ({lora[0]}, ...), not a whole network; merge it into its base first"
        )
    limit = path.stat().st_size
    _refuse(path, "tensors larger than the file", (k for k, v in state.items() if v.nbytes > limit))
    _refuse(path, "weights not finite", (k for k, v in state.items() if not _is_finite(v)))


def _refuse(path: Path, what: str, keys: Iterable[Any]) -> None:
    names = [" ".join(str(key).split()) for key in keys]
    if names:
        raise CheckpointError(
            f"{path}: {what}: {', '.join(names)}; download it again or give another checkpoint"
        )


def _is_plain(key: Any, value: Any) -> bool:
    if not isinstance(key, str) or not isinstance(value, torch.Tensor):
        return False
    if value.is_nested or value.is_quantized:
        return False
    is_real = not value.is_complex() or _FILTER.search(key) is not None
    return value.layout is torch.strided and value.device.type == "cpu" and is_real


def _is_finite(tensor: torch.Tensor) -> bool:
    """Whether every value is finite in float32.

    aminmax passes NaN on and needs no memory; torch.isfinite makes copies of the tensor.
    """
    tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    if tensor.numel() == 0 or not tensor.is_floating_point():
        return True
    low, high = torch.aminmax(tensor.float() if tensor.element_size() == 1 else tensor)
    return bool(low.item() >= -_LARGEST_FLOAT32 and high.item() <= _LARGEST_FLOAT32)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
