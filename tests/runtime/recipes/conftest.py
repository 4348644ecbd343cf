"""Recipes of hand-made engines, each with a loudness of its own, so that no two signals are alike."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rofo import Separator


@pytest.fixture
def put(make_engine: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Put an engine of `make_engine` beside the recipes, as NAME.json and its .onnx file."""

    def put_(name: str, kind: str = "level", **options: object) -> Path:
        made = make_engine(kind, **options)
        (tmp_path / f"{name}.json").write_text(
            made.with_suffix(".json").read_text().replace(f'"{made.name}"', f'"{name}.onnx"')
        )
        shutil.copy(made, tmp_path / f"{name}.onnx")
        return tmp_path / f"{name}.json"

    return put_


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a recipe; its path."""

    def write_(text: str, name: str = "recipe.toml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write_


@pytest.fixture
def opened() -> Callable[..., Separator]:
    """A separator on ONNX Runtime."""
    return lambda path, **options: Separator(path, backend="onnxruntime", **options)
