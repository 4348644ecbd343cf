"""The yaml beside a checkpoint -> plain data, without running or expanding what a hostile file may hold."""

import math
import re
from pathlib import Path
from typing import Any

import yaml

from rofo.export.errors import CheckpointError

_LARGEST_FILE = 1_000_000  # bytes; public files have 2 to 10 kB
_MOST_NODES = 20_000  # after aliases are written out; public files have a few hundred
_DEEPEST = 50
_TUPLE = "tag:yaml.org,2002:python/tuple"
_PLAIN_TAGS = frozenset(
    f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map", "merge")
) | {_TUPLE}


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a yaml file as JSON-able data: mappings with text keys, lists, text, numbers, booleans, None.

    Tuples become lists, `1e-5` is a number as its author meant (YAML 1.1 calls it text), not-a-number and
    infinity become text. Raises CheckpointError for a file that is not a yaml mapping, is over 1 MB, has
    Python tags other than tuple, or aliases that expand without measure.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}; give a readable yaml file") from None
    if len(text) > _LARGEST_FILE:
        raise CheckpointError(
            f"{path}: over {_LARGEST_FILE // 1_000_000} MB, not a model's yaml; give the yaml"
        )
    try:
        return _load(text)
    except _RefusedError as error:
        raise CheckpointError(f"{path}: {error}; use the yaml published with the checkpoint") from None
    except yaml.YAMLError as error:
        raise CheckpointError(f"{path}: not valid yaml ({_problem(error)}); download it again") from None
    except (RecursionError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path}: not a model's yaml ({type(error).__name__}); download it again"
        ) from None


class _RefusedError(Exception):
    """Valid yaml that is not a plain mapping."""


class _PlainLoader(yaml.SafeLoader):
    """SafeLoader for plain data: tuples as lists, no dates (JSON has none), YAML 1.2 floats."""

    nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.nodes += 1
        if self.nodes > _MOST_NODES:
            raise _RefusedError(f"more than {_MOST_NODES} entries")
        return super().compose_node(parent, index)


def _tuple_as_list(loader: _PlainLoader, node: yaml.Node) -> list[Any]:
    if not isinstance(node, yaml.SequenceNode):
        raise _RefusedError("a tuple that is not a list")
    return loader.construct_sequence(node, deep=True)


_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":value"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_PlainLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)
_PlainLoader.add_constructor(_TUPLE, _tuple_as_list)


def _load(text: bytes) -> dict[str, Any]:
    loader = _PlainLoader(text)
    try:
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise _RefusedError("not a mapping of sections")
        if _expanded(node, {}, 0) > _MOST_NODES:
            raise _RefusedError(f"aliases that expand to more than {_MOST_NODES} entries")
        data: dict[str, Any] = _plain(loader.construct_document(node))
        return data
    finally:
        loader.dispose()


def _expanded(node: yaml.Node, known: dict[int, int], depth: int) -> int:
    """How many nodes there are once every alias is written out; refuses odd tags, cycles and great depth."""
    if node.tag not in _PLAIN_TAGS:
        raise _RefusedError(
            f"the tag {node.tag.removeprefix('tag:yaml.org,2002:')!r}, which plain data never needs"
        )
    if depth > _DEEPEST:
        raise _RefusedError(f"nested more than {_DEEPEST} deep")
    if id(node) not in known:
        total = 1
        if isinstance(node, yaml.MappingNode):
            total += sum(_expanded(child, known, depth + 1) for pair in node.value for child in pair)
        elif isinstance(node, yaml.SequenceNode):
            total += sum(_expanded(child, known, depth + 1) for child in node.value)
        known[id(node)] = total
    return known[id(node)]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _problem(error: yaml.YAMLError) -> str:
    """PyYAML's complaint in one line, with the line number of the file."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return " ".join(str(error).split())[:200]
