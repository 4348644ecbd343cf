"""What a plan of TensorRT-RTX says of itself: which kernels it launches, how often, and the memory it needs.

The program lies in the plan as text, in a form that is not documented (seen in 1.7), for only the GPU could
ask the library: a `descriptors` block with a line per tensor and a `main` block with a line per step, where a
loop is a label and a conditional jump back to it. Counters of loops and the steps that set, add and compare
them are the host's. Plans embed NVIDIA's own source: keep none of their text.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_NOT_LAUNCHED = {"label", "shape_call", "signal", "wait", "cjmp"}
_NUMBER = re.compile(r"(?:__d\^)?(M|-)?(\d+)i(?:32|64)$")


@dataclass(frozen=True)
class Launch:
    """A step of the program that is a kernel: its `kind`, its line, how often one run launches it."""

    kind: str
    line: str
    runs: int


def descriptors(plan: bytes) -> list[str]:
    """A line for each tensor. Raises ValueError where the text is not what is described above."""
    return _block(plan, b"descriptors")


def launches(plan: bytes) -> list[Launch]:
    """Every kernel of a plan in the order of the program. Raises ValueError as `descriptors`."""
    on_host = {_name(line) for line in descriptors(plan) if 'region="hmem"' in line}
    lines = _block(plan[plan.index(b"\ndescriptors {") :], b"main")
    trips = list(_trips(lines))
    found = [
        Launch(kind, line, _runs(place, trips))
        for place, line in enumerate(lines)
        if (kind := _kind(line)) and kind not in _NOT_LAUNCHED and not set(_outputs(line)) & on_host
    ]
    if not found:
        raise ValueError("no kernel in the plan's program")
    return found


def count_launches(plan: bytes) -> int | None:
    """How many kernels one run launches; None where the plan does not say."""
    try:
        return sum(launch.runs for launch in launches(plan))
    except ValueError:
        return None


def device_memory(plan: bytes) -> int | None:
    """Bytes of a plan's weights and working memory on the GPU; None where it does not say."""
    sizes = re.findall(rb"\n +region = \{ name=\S+ size=(\d+) [^}\n]*place=accelerator", plan)
    return sum(map(int, sizes)) or None


def _block(text: bytes, name: bytes) -> list[str]:
    start = text.index(b"\n" + name + b" {\n")
    return text[start : text.index(b"\n}", start)].decode("latin-1").splitlines()


@dataclass(frozen=True)
class _Trips:
    """A loop: the lines from `first` to `last` run `count` times."""

    first: int
    last: int
    count: int


def _trips(lines: list[str]) -> Iterator[_Trips]:
    labels = {match[1]: i for i, line in enumerate(lines) if (match := re.match(r" *label (\w+):", line))}
    for last, line in enumerate(lines):
        if _kind(line) == "cjmp":
            yield _loop(lines, labels, last)


def _loop(lines: list[str], labels: dict[str, int], last: int) -> _Trips:
    """Of the counter that the jump compares: where it starts, what is added, and below what it goes on."""
    jump = re.search(r'input=\{"([^"]+)" "([^"]+)" \}.* op=lt target=\{(\w+) ', lines[last])
    if not jump or labels.get(jump[3], last) >= last:
        raise ValueError("a jump that is no loop")
    counter, end, first = jump[1], jump[2], labels[jump[3]]
    starts = [line for line in lines[:first] if _kind(line) == "memset" and _outputs(line) == [counter]]
    steps = [line for line in lines[first:last] if _kind(line) == "add" and _outputs(line) == [counter]]
    if not starts or len(steps) != 1:
        raise ValueError("a loop without a counter")
    (source,) = re.findall(r' src="([^"]+)"', starts[-1])
    (step,) = re.findall(r' input=\{"[^"]+" "([^"]+)" \}', steps[0])
    count = -((_number(source) - _number(end)) // _number(step))
    return _Trips(first, last, max(1, count))


def _runs(place: int, trips: list[_Trips]) -> int:
    runs = 1
    for loop in trips:
        if loop.first < place < loop.last:
            runs *= loop.count
    return runs


def _number(text: str) -> int:
    match = _NUMBER.match(text)
    if not match:
        raise ValueError(f"{text} is no number")
    return -int(match[2]) if match[1] else int(match[2])


def _kind(line: str) -> str | None:
    match = re.match(r" *(\w+)(?:=\{| )", line)
    return match[1] if match and (match[1] == "label" or "={" in line) else None


def _outputs(line: str) -> list[str]:
    return [
        name
        for text in re.findall(r" output(?:_args)?=\{([^}]*)\}", line)
        for name in re.findall(r'"([^"]*)"', text)
    ]


def _name(line: str) -> str | None:
    match = re.search(r' name="([^"]*)"', line)
    return match[1] if match else None
