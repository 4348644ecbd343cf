import hashlib
import importlib
import io
import os
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rofo.export.errors import CheckpointError
from rofo.export.source import checkpoint as module
from rofo.export.source.checkpoint import load_checkpoint


def weights():
    generator = torch.Generator().manual_seed(0)
    return {
        "layers.0.weight": torch.randn(4, 3, generator=generator),
        "layers.0.bias": torch.randn(4, generator=generator),
        "count": torch.tensor(7),
    }


def prefixed(prefix, state):
    return {prefix + key: value for key, value in state.items()}


def save(tmp_path, content, name="model.ckpt", **options):
    path = tmp_path / name
    torch.save(content, path, **options)
    return path


def write(tmp_path, content, name="model.ckpt"):
    path = tmp_path / name
    path.write_bytes(content)
    return path


def refused(path, pattern, **options):
    with pytest.raises(CheckpointError, match=pattern) as caught:
        load_checkpoint(path, **options)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text and "weights_only" not in text
    return text


class MarkerOnLoad:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


class OwnClass:
    pass


CONTAINERS = {
    "raw": lambda s: s,
    "ordered": OrderedDict,
    "state": lambda s: {"state": s, "epoch": 3},
    "state_dict": lambda s: {"state_dict": s, "optimizer": {"state": [torch.ones(2)], "lr": 1e-4}},
    "model_state_dict": lambda s: {"epoch": 3, "optimizer_state_dict": {"state": {}}, "model_state_dict": s},
    "model": lambda s: {"model": s, "best_metric": 9.0},
    "best_state": lambda s: {"best_state": s, "history": [1, 2]},
    "nested": lambda s: {"model": {"state_dict": s}},
    "data parallel": lambda s: prefixed("module.", s),
    "compiled": lambda s: prefixed("_orig_mod.", s),
    "wrapped data parallel": lambda s: {"state_dict": prefixed("module.model.", s)},
    "parameters": lambda s: {k: torch.nn.Parameter(v) if v.is_floating_point() else v for k, v in s.items()},
    "lightning": lambda s: {
        "pytorch-lightning_version": "2.1.0",
        "state_dict": prefixed("model.", s),
        "hyper_parameters": {"dim": 4, "sizes": (1, 2)},
    },
    "lightning gan": lambda s: {
        "hyper_parameters": {},
        "state_dict": prefixed("generator.", s) | {"discriminator.weight": torch.ones(3)},
    },
    "numpy metrics": lambda s: {
        "model_state_dict": s,
        "best_metric": np.float64(9.5),
        "all_metrics": {"sdr": [np.float32(1.0)], "array": np.ones(3)},
    },
}


@pytest.mark.parametrize("old_pickle", [False, True], ids=["zip", "old pickle"])
@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_gives_the_same_flat_state(tmp_path, container, old_pickle):
    path = save(tmp_path, CONTAINERS[container](weights()), _use_new_zipfile_serialization=not old_pickle)
    state = load_checkpoint(path).state
    assert list(state) == list(weights())
    assert all(
        type(tensor) is torch.Tensor and torch.equal(tensor, weights()[key]) for key, tensor in state.items()
    )


def test_content_decides_not_the_name(tmp_path):
    assert load_checkpoint(save(tmp_path, weights(), "model.safetensors")).state.keys() == weights().keys()
    path = tmp_path / "model.ckpt"
    save_file(weights(), path)
    assert load_checkpoint(path).state.keys() == weights().keys()


def test_safetensors(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(prefixed("module.", weights()), path)
    loaded = load_checkpoint(path)
    assert all(torch.equal(loaded.state[key], value) for key, value in weights().items())
    assert loaded.hyper_parameters == {}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floating_dtypes_are_kept_for_the_consumer_to_cast(tmp_path, dtype):
    path = save(tmp_path, {"w": torch.ones(3, dtype=dtype)})
    assert load_checkpoint(path).state["w"].dtype == dtype


def test_hyper_parameters_are_plain_json_data(tmp_path):
    path = save(tmp_path, CONTAINERS["lightning"](weights()))
    assert load_checkpoint(path).hyper_parameters == {"dim": 4, "sizes": [1, 2]}


def test_hashes_are_of_the_file_and_of_its_last_10000_kib(tmp_path):
    path = save(tmp_path, {"w": torch.randn(2_700_000)})
    content = path.read_bytes()
    assert len(content) > 10_240_000
    loaded = load_checkpoint(path)
    assert loaded.sha256 == hashlib.sha256(content).hexdigest()
    assert loaded.tail_md5 == hashlib.md5(content[-10_240_000:]).hexdigest()


def test_tail_of_a_short_file_is_the_whole_file(tmp_path):
    path = save(tmp_path, weights())
    assert load_checkpoint(path).tail_md5 == hashlib.md5(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("old_pickle", [False, True], ids=["zip", "old pickle"])
def test_malicious_pickle_does_not_run(tmp_path, old_pickle):
    marker = tmp_path / "marker"
    path = save(
        tmp_path,
        {"state_dict": weights(), "evil": MarkerOnLoad(marker)},
        _use_new_zipfile_serialization=not old_pickle,
    )
    refused(
        path,
        r"holds Python objects \(posix\.system\); --unsafe-pickle runs its code, only for files you trust$",
    )
    assert not marker.exists()


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_malicious_plain_pickle_does_not_run(tmp_path, protocol):
    marker = tmp_path / "marker"
    refused(write(tmp_path, pickle.dumps(MarkerOnLoad(marker), protocol)), "download|--unsafe-pickle")
    assert not marker.exists()


def test_unsafe_pickle_runs_code_only_when_asked(tmp_path):
    marker = tmp_path / "marker"
    path = save(tmp_path, {"state_dict": weights(), "evil": MarkerOnLoad(marker)})
    assert load_checkpoint(path, unsafe_pickle=True).state.keys() == weights().keys()
    assert marker.exists()


def test_custom_class_is_named(tmp_path):
    path = save(tmp_path, {"state_dict": weights(), "hyper_parameters": {"config": SimpleNamespace(dim=1)}})
    refused(path, r"holds Python objects \(types\.SimpleNamespace\); --unsafe-pickle")
    assert load_checkpoint(path, unsafe_pickle=True).hyper_parameters == {"config": "namespace(dim=1)"}


def test_whole_module_needs_unsafe_pickle(tmp_path):
    path = save(tmp_path, {"model": torch.nn.Linear(2, 3)})
    refused(path, "holds Python objects")
    assert list(load_checkpoint(path, unsafe_pickle=True).state) == ["weight", "bias"]


def test_unsafe_pickle_of_an_absent_module(tmp_path):
    path = save(tmp_path, {"state_dict": weights(), "x": OwnClass()})
    content = path.read_bytes()
    name = OwnClass.__module__.encode()
    # Same length, so that the zip stays whole but for its checksums.
    path.write_bytes(content.replace(name + b"\nOwnClass", b"z" * len(name) + b"\nOwnClass"))
    refused(path, "damaged")


def test_numpy_values_are_not_weights(tmp_path):
    refused(save(tmp_path, {"a": np.float64(1.0), "w": torch.ones(2)}), "not plain real tensors: a;")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (b"demucs.wdemucs\nWDemucs", "a Demucs package of demucs.wdemucs.WDemucs: not supported, only"),
        (b"diffq.uniform\nUniformQuantizer", "quantised by diffq: not supported"),
    ],
)
def test_what_a_demucs_package_needs_is_named_without_being_loaded(name, message, tmp_path):
    path = save(tmp_path, weights())
    with zipfile.ZipFile(path) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    data = next(n for n in records if n.endswith("/data.pkl"))
    records[data] = b"\x80\x02}X\x05\x00\x00\x00klassc" + name + b"\ns."
    with zipfile.ZipFile(path, "w") as archive:
        for record, content in records.items():
            archive.writestr(record, content)
    refused(path, message)


def test_a_demucs_package_that_is_run_says_the_same(tmp_path):
    package = {"klass": OwnClass, "args": (), "kwargs": {"segment": Fraction(39, 5)}, "state": weights()}
    found = load_checkpoint(save(tmp_path, package), unsafe_pickle=True).hyper_parameters
    assert found == {"klass": f"{__name__}.OwnClass", "args": [], "kwargs": {"segment": "39/5"}}


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        (b"", "an empty file"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 5\n",
            "a git-lfs pointer.*git lfs pull",
        ),
        (b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", "a web page"),
        (b"\n\n<HTML lang=en>", "a web page"),
        (b'{"error": "Repository not found"}', r"a text file \('\{\"error\": \"Repository not found\"\}'\)"),
        (b"\x08\x09\x12\x07pytorch\x1a\x052.3.0" + bytes(600), "an ONNX model"),
        (b"\x1f\x8b\x08" + bytes(40), "gzip"),
        (bytes(257) + b"ustar\x00" + bytes(300), "tar archive"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
        (bytes(range(256)) * 3, "neither torch.save nor safetensors"),
        (b"PK\x03\x04" + bytes(100), "cut short or damaged"),
        (b"\x80\x02", "cut short, damaged or not written by torch.save"),
        (b"\x80\x02}q\x00.", "not written by torch.save"),
        (struct.pack("<Q", 64) + b'{"w":{"dtype":"F32"', "damaged safetensors"),
    ],
    ids=lambda value: value[:12] if isinstance(value, bytes) else "",
)
def test_what_is_not_a_checkpoint_is_said_in_words(tmp_path, content, pattern):
    refused(write(tmp_path, content), pattern)


def test_missing_file_and_directory(tmp_path):
    refused(tmp_path / "none.ckpt", "No such file")
    refused(tmp_path, "directory")


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.99])
@pytest.mark.parametrize("old_pickle", [False, True], ids=["zip", "old pickle"])
def test_file_cut_short(tmp_path, old_pickle, kept):
    path = save(tmp_path, {"w": torch.ones(5000)}, _use_new_zipfile_serialization=not old_pickle)
    content = path.read_bytes()
    refused(write(tmp_path, content[: int(len(content) * kept)]), "cut short")


def test_safetensors_cut_short(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file(weights(), path)
    refused(write(tmp_path, path.read_bytes()[:-10]), "damaged safetensors file")


def test_flipped_byte_in_the_weights_is_noticed(tmp_path):
    path = save(tmp_path, {"w": torch.zeros(1000)})
    content = bytearray(path.read_bytes())
    middle = content.find(bytes(3000)) + 1500
    content[middle] ^= 1
    assert torch.load(io.BytesIO(content))["w"].count_nonzero() == 1, "torch itself does not notice"
    refused(write(tmp_path, bytes(content)), "damaged, checksum wrong in .*data/0")


def test_file_saved_without_checksums_loads(tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        path = save(tmp_path, weights())
    finally:
        torch.serialization.set_crc32_options(before)
    assert load_checkpoint(path).state.keys() == weights().keys()


def test_other_zip_archives(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.ckpt", b"x")
    refused(path, "a zip archive, but not of torch.save")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(100_000))
    refused(path, "compressed")


def test_torchscript_program(tmp_path):
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", b"\x80\x02}.")
        archive.writestr("m/constants.pkl", b"\x80\x02).")
    refused(path, "TorchScript")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_not_finite_are_all_named(tmp_path, value):
    state = {**weights(), "bad.a": torch.tensor([1.0, value]), "bad.b": torch.tensor([value]).half()}
    refused(save(tmp_path, state), "weights not finite: bad.a, bad.b;")


def test_double_too_big_for_float32_is_not_finite(tmp_path):
    refused(save(tmp_path, {"w": torch.tensor([1e300], dtype=torch.float64)}), "weights not finite: w;")


@pytest.mark.parametrize(
    ("entry", "name"),
    [(3, "count"), ({"a": 1}, "group"), (None, "x"), (torch.ones(2, dtype=torch.complex64), "c")],
)
def test_entries_that_are_no_weights_are_named(tmp_path, entry, name):
    refused(save(tmp_path, {**weights(), name: entry}), f"not plain real tensors: {name};")


def test_expanded_tensor_cannot_pretend_to_be_huge(tmp_path):
    refused(save(tmp_path, {"w": torch.ones(1).expand(1 << 40)}), "larger than the file: w;")


@pytest.mark.parametrize("content", [[torch.ones(2)], torch.ones(2), {}, {"state_dict": {}}, "text", 3])
def test_no_state_dict(tmp_path, content):
    refused(save(tmp_path, content), "not a state dict|holds no weights")


def test_self_referring_wrapper(tmp_path):
    loop = {}
    loop["state"] = loop
    refused(save(tmp_path, loop), "wrapped more than")


@pytest.mark.parametrize(
    "key",
    [
        "layers.0.to_qkv.lora_A",
        "base_model.model.layers.0.to_q.lora_B.default.weight",
        "layers.0.lora.weight",
    ],
)
def test_lora_addon(tmp_path, key):
    refused(save(tmp_path, {**weights(), key: torch.ones(2)}), "LoRA add-on .*merge it into its base")


@pytest.mark.parametrize("version", ["1.13.1", "2.5.1", "2.9.1+cu128"])
def test_torch_with_a_leaky_safe_loader_is_refused(tmp_path, monkeypatch, version):
    path = save(tmp_path, weights())
    monkeypatch.setattr(module.torch, "__version__", version)
    refused(path, rf"torch {version.replace('+', '.')} has known holes.*2\.10")


def test_loading_allocates_no_second_copy_of_the_weights(tmp_path, monkeypatch):
    path = save(tmp_path, {f"w{i}": torch.ones(1000) for i in range(4)})
    casts = []
    monkeypatch.setattr(torch.Tensor, "float", lambda self: casts.append(self) or self)
    monkeypatch.setattr(torch.Tensor, "clone", lambda self: casts.append(self) or self)
    load_checkpoint(path)
    assert not casts


def test_a_file_that_holds_a_class_with_its_source_is_read_without_it(tmp_path, monkeypatch):
    """As PyTorch before 1.6 wrote it; nothing of the class is run, or its source looked at."""
    folder = tmp_path / "demucs"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "model.py").write_text("import torch\n\n\nclass Demucs(torch.nn.Module):\n    secret = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    klass = importlib.import_module("demucs.model").Demucs
    state = {f"layers.{i}": torch.randn(3, 4) for i in range(5)}
    path = tmp_path / "old.th"
    torch.save((klass, (), {"sources": 4}, state), path, _use_new_zipfile_serialization=False)
    monkeypatch.delitem(sys.modules, "demucs.model")
    monkeypatch.delitem(sys.modules, "demucs")
    assert b"secret" in path.read_bytes()
    source = load_checkpoint(path)
    assert source.hyper_parameters == {"klass": "demucs.model.Demucs", "args": [], "kwargs": {"sources": 4}}
    assert all(torch.equal(source.state[name], tensor) for name, tensor in state.items())
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CheckpointError, match="cut short"):
        load_checkpoint(path)
