"""Looking things up in a state dict whose keys and shapes are not trusted."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch

from rofo.export.errors import CheckpointError


class Keys:
    """Look-ups in a state dict that raise CheckpointError, naming the key, whatever is wrong with it."""

    def __init__(self, path: Path, state: Mapping[str, torch.Tensor], network: str) -> None:
        self.path, self.state, self.network = path, state, network

    def size(self, key: str, axis: int) -> int:
        """One dimension of a tensor."""
        tensor = self.state.get(key)
        if tensor is None:
            raise self.error(f"has no {key}")
        if axis >= tensor.ndim or tensor.shape[axis] < 1:
            raise self.error(f"{key} has the shape {tuple(tensor.shape)}")
        return int(tensor.shape[axis])

    def ratio(self, key: str, divisor: int) -> int:
        """First dimension of a weight over what it must be a multiple of."""
        rows = self.size(key, 0)
        if rows % divisor:
            raise self.error(f"{key} has {rows} rows, not a multiple of {divisor}")
        return rows // divisor

    def narrowing(self, key: str) -> int:
        """How many times more inputs than outputs a linear layer has."""
        inputs, outputs = self.size(key, 1), self.size(key, 0)
        if outputs > inputs:
            raise self.error(f"{key} has {inputs} inputs for {outputs} outputs")
        return inputs // outputs

    def count(self, pattern: str) -> int:
        """How many numbers, from 0 up and without a gap, stand where the pattern's group is."""
        found = self.numbers(pattern)
        if found != list(range(len(found))) or not found:
            listed = ", ".join(map(str, found[:20])) or "none"
            raise self.error(f"numbers of {pattern.replace(chr(92), '').replace('(d+)', 'N')}* are {listed}")
        return len(found)

    def numbers(self, pattern: str) -> list[int]:
        """The numbers that stand where the pattern's group is."""
        matches = (re.match(pattern.replace(r"(\d+)", r"(\d{1,6})"), key) for key in self.state)
        return sorted({int(match[1]) for match in matches if match})

    def error(self, problem: str) -> CheckpointError:
        """What to raise for a problem."""
        return CheckpointError(
            f"{self.path}: not a whole {self.network}: {problem}; give the complete checkpoint"
        )


def without_windows(path: Path, state: Mapping[str, torch.Tensor], pattern: str) -> dict[str, torch.Tensor]:
    """A state dict without the windows of its transforms, keys in which `pattern` is found.

    Raises CheckpointError where one is not Hann's.
    """
    windows = {key for key in state if re.search(pattern, key)}
    for key in windows:
        window = state[key].float()
        if not torch.allclose(window, torch.hann_window(len(window)), atol=1e-3):
            raise CheckpointError(f"{path}: {key} is no Hann window; this STFT is not supported")
    return {key: tensor for key, tensor in state.items() if key not in windows}
