"""Strict reading of a public state dict: every key is used once and fits, or is named in an error."""

from collections.abc import Mapping

import torch
from torch import Tensor

from rofo.export.errors import CheckpointError

_SHOWN = 12


class Weights:
    """A state dict that is consumed while a network is built.

    `take` removes a tensor from `state`, so that the checkpoint and the network never both lie whole in
    memory. Problems are collected; `finish` raises one CheckpointError that lists them all.
    """

    def __init__(self, state: dict[str, Tensor]) -> None:
        self._state = state
        self._missing: list[str] = []
        self._misshapen: list[str] = []

    def take(self, key: str, *shape: int) -> Tensor:
        """The tensor of `key` in float32. Zeros stand in for one that is missing or has another shape."""
        tensor = self._state.pop(key, None)
        if tensor is None:
            self._missing.append(key)
            return torch.zeros(shape)
        if tuple(tensor.shape) != shape:
            self._misshapen.append(f"{key} is {_text(tensor.shape)}, should be {_text(shape)}")
            return torch.zeros(shape)
        return tensor.to(torch.float32)

    def rows(self, key: str) -> int:
        """First dimension of a tensor still to be taken, 0 where there is none."""
        tensor = self._state.get(key)
        return 0 if tensor is None or tensor.ndim == 0 else tensor.shape[0]

    def discard(self, key: str) -> None:
        """Drop an alias of a tensor that was read under its own name."""
        self._state.pop(key, None)

    def finish(self) -> None:
        """Raise CheckpointError naming all missing, misshapen and left-over keys."""
        problems: Mapping[str, list[str]] = {
            "missing": self._missing,
            "wrong shape": self._misshapen,
            "unexpected": sorted(self._state),
        }
        found = [f"{kind}: {_listed(keys)}" for kind, keys in problems.items() if keys]
        if found:
            raise CheckpointError(
                "the weights do not fit the network (" + "; ".join(found) + "); check that the yaml "
                "belongs to this checkpoint and that the variant is supported"
            )


def _text(shape: tuple[int, ...] | torch.Size) -> str:
    return "x".join(map(str, shape)) or "a scalar"


def _listed(keys: list[str]) -> str:
    more = len(keys) - _SHOWN
    return ", ".join(keys[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
