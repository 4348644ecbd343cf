"""Golden files: .npz whose `header` tells the tool and the facts of cases, and whose arrays are outputs."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Case:
    """What a tool was given (JSON data) and what it gave, by name."""

    facts: dict[str, Any]
    outputs: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Golden:
    """One file: the tool with its commit, licence and versions of libraries, and its cases."""

    tool: dict[str, Any]
    cases: dict[str, Case]


def write(path: Path, tool: Mapping[str, Any], cases: Mapping[str, Case]) -> None:
    header = json.dumps({"tool": tool, "cases": {name: case.facts for name, case in cases.items()}})
    arrays = {f"{name}|{key}": array for name, case in cases.items() for key, array in case.outputs.items()}
    assert all(array.dtype == np.float32 and np.isfinite(array).all() for array in arrays.values())
    np.savez_compressed(path, header=np.array(header), **arrays)


@cache
def read(name: str) -> Golden:
    """The golden file `name`.npz."""
    with np.load(FOLDER / f"{name}.npz") as file:
        header = json.loads(str(file["header"]))
        cases = {case: Case(facts) for case, facts in header["cases"].items()}
        for key in file.files:
            if key != "header":
                case, _, output = key.partition("|")
                cases[case].outputs[output] = file[key]
    return Golden(header["tool"], cases)
