"""Which kernels a plan of TensorRT-RTX will launch, read from its own program. Needs no GPU."""

import math
import re
from collections import Counter
from dataclasses import dataclass

from rofo.export.plan.program import Launch, descriptors, launches

_BYTES = {"half": 2, "bf16": 2, "float": 4, "int32": 4, "int64": 8, "bool": 1, "int8": 1, "uint8": 1,
          "fp8_e4m3": 1}  # fmt: skip
_PRODUCTS = {"fully_connected", "batched_gemm", "matmul"}
_CONVOLUTIONS = {"corrltn", "convolution", "deconvolution"}

# A kernel that the compiler has made itself is named after the steps it is made of: these compute nothing.
_ONLY_MOVES = re.compile(r"__myl_(Cast|Conc|Move|Repl|Resh|Slic|Tran)+")

# Below this it is a parameter, a sum or a counter.
_STREAM_BYTES = 100_000


@dataclass(frozen=True)
class Kernel:
    """A kernel of the program: `nodes` of the ONNX graph it computes, bytes of all the tensors it names.

    `runs` is how often one run launches it: once for every trip of the loop it lies in. `takes` are the types
    of its inputs, `types` those of its larger tensors, weights among them. `sums_in` is the type code of a
    product's accumulator where the program tells, 2 for float32.
    """

    name: str
    nodes: tuple[str, ...]
    bytes: int
    runs: int
    takes: frozenset[str]
    types: frozenset[str]
    product: bool
    convolution: bool
    sums_in: int | None

    @property
    def fused_attention(self) -> bool:
        return self.name.startswith("_") and "mha" in self.name

    @property
    def multiplies_fp8(self) -> bool:
        """Whether both operands of a product are in E4M3 and its sums in float32.

        One that takes E4M3 but widens it first is a kernel of the compiler's own, which tells no sums.
        """
        return (
            self.product
            and self.takes <= {"fp8_e4m3", "float"}
            and "fp8_e4m3" in self.takes
            and self.sums_in == 2
        )

    @property
    def only_moves(self) -> bool:
        """Whether all it does is to bring a stream into another order or type."""
        return bool(_ONLY_MOVES.fullmatch(self.name)) and bool(self.types)

    def computes(self, operator: str) -> bool:
        """Whether it computes a node of an operator, by nodes named .../OPERATOR_n."""
        return any(re.search(rf"/{operator}_\d+$", node) for node in self.nodes)

    @property
    def place(self) -> str:
        """layers.I.AXIS, band_split or mask: the part of the network where most of its nodes are."""
        places = [place for place in map(_place, self.nodes) if place]
        return Counter(places).most_common(1)[0][0] if places else "mask"


def read_kernels(plan: bytes) -> list[Kernel]:
    """Every kernel of a plan in the order of the program; fails where it cannot be read."""
    known = dict(_tensors(descriptors(plan)))
    return [_kernel(launch, known) for launch in launches(plan)]


def gigabytes(kernels: list[Kernel]) -> float:
    """What one run touches."""
    return sum(kernel.bytes * kernel.runs for kernel in kernels) / 1e9


def _tensors(lines: list[str]):
    for line in lines:
        name, kind = re.search(r' name="([^"]*)"', line), re.search(r" type=(\w+)", line)
        dims = re.search(r" dims=\{([^}]*)\}", line)
        if name and kind:
            size = math.prod(map(int, dims[1].split() if dims else [])) * _BYTES[kind[1]]
            yield name[1], (size, kind[1])


def _kernel(launch: Launch, known: dict[str, tuple[int, str]]) -> Kernel:
    line = launch.line
    name = re.search(r" name=\"?([^\"\s]+)", line)
    assert name, "a kernel without a name: has the form of the program changed?"
    given, made = (_named(line, end, known) for end in ("input", "output"))
    tensors = list({**given, **made}.values())
    sums = re.search(r"accumulation_type=(\d+)", line)
    return Kernel(
        name=name[1],
        nodes=tuple(re.findall(r"\[ONNX Layer: ([^\]]*)\]", line)),
        bytes=sum(size for size, _ in tensors),
        runs=launch.runs,
        takes=frozenset(kind for _, kind in given.values()),
        types=frozenset(kind for size, kind in tensors if size > _STREAM_BYTES),
        product=launch.kind in _PRODUCTS or "backbone=gemm" in line,
        convolution=launch.kind in _CONVOLUTIONS or "backbone=conv" in line or "backbone=deconv" in line,
        sums_in=int(sums[1]) if sums else None,
    )


def _named(line: str, end: str, known: dict[str, tuple[int, str]]) -> dict[str, tuple[int, str]]:
    """The tensors among the inputs or outputs of a step."""
    lists = re.findall(rf" {end}(?:_args)?=\{{([^}}]*)\}}", line)
    names = {name for text in lists for name in re.findall(r'"([^"]*)"', text)}
    return {name: known[name] for name in names if name in known}


def _place(node: str) -> str | None:
    module = node.partition("/")[0]
    if match := re.match(r"(layers\.\d+\.over_\w+|band_split)", module):
        return match[1]
    return "mask" if module.startswith("mask_estimators") else None
