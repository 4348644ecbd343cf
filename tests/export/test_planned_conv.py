"""Plans of the convolutional families are fast by construction: real builds, and the kernels they launch."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from loaded import Loaded, mdx_net, tfc_tdf
from planned import Kernel, read_kernels

from rofo.export.plan.gpus import GPUS
from rofo.export.plan.tensorrt import build_plan

KIM = {"g": 48, "hop_length": 1024, "dim_f": 3072, "dim_t": 256, "n_fft": 7680, "bn": 8, "l": 3}
MDX23C = {"num_channels": 128, "growth": 128, "dim_f": 4096, "dim_t": 256, "n_fft": 8192}
HALF = {"fp16": "half", "bf16": "bf16"}


@dataclass(frozen=True)
class Bound:
    """What a plan may need at most; `joined` sums are computed inside the kernel of a convolution."""

    kernels: int
    gigabytes: float
    convolutions: int
    joined: int


def planned(case: Loaded, folder: Path, precision: str = "fp16", batch: int = 1) -> list[Kernel]:
    plan = folder / "p.plan"
    build_plan(
        case.write(folder, precision, batch),
        plan,
        backend="tensorrt-rtx",
        gpu=GPUS["rtx4090"],
        stage=lambda _: None,
    )
    return read_kernels(plan.read_bytes())


def assert_within(kernels: list[Kernel], bound: Bound, precision: str = "fp16") -> None:
    convolutions = [kernel for kernel in kernels if kernel.computes("Conv")]
    products = [kernel for kernel in kernels if kernel.product and kernel not in convolutions]
    assert len(kernels) <= bound.kernels
    assert sum(kernel.bytes for kernel in kernels) <= bound.gigabytes * 1e9
    # In and out of packing the order changes; between convolutions and products it does not, ever.
    moves = [kernel for kernel in kernels if kernel.only_moves]
    assert len(moves) <= 4
    ends = {*range(2), *range(len(kernels) - 2, len(kernels))}
    assert {kernels.index(kernel) for kernel in moves} <= ends
    assert len(convolutions) == bound.convolutions
    assert all(kernel.types <= {HALF[precision]} for kernel in (*convolutions, *products))
    assert {kernel.sums_in for kernel in products} == {2}
    assert sum(kernel.computes("Add") for kernel in convolutions) == bound.joined


@pytest.mark.parametrize("precision", HALF)
def test_mdx_net_of_two_scales(precision: str, tmp_path: Path) -> None:
    """Public widths (measured: 45 kernels, 3.68 GB; the float32 graph 49, 7.82 GB)."""
    bound = Bound(kernels=47, gigabytes=3.8, convolutions=1 + 5 * 3 + 2 + 1, joined=0)
    assert_within(planned(mdx_net(tmp_path, num_blocks=5, **KIM), tmp_path, precision), bound, precision)


def test_tfc_tdf_of_two_scales(tmp_path: Path) -> None:
    """Public widths, one block per scale instead of two (measured: 111 kernels, 7.1 GB)."""
    case = tfc_tdf(tmp_path, num_scales=2, num_blocks_per_scale=1, **MDX23C)
    bound = Bound(kernels=114, gigabytes=7.3, convolutions=1 + 5 * 3 + 2 + 2, joined=5)
    assert_within(planned(case, tmp_path), bound)


def test_a_batch_takes_no_more_kernels(tmp_path: Path) -> None:
    case = mdx_net(tmp_path, num_blocks=5, g=16, dim_f=512, n_fft=1280, dim_t=64)
    one, two = (planned(case, tmp_path, batch=batch) for batch in (1, 2))
    assert len(two) <= len(one)
    assert sum(k.bytes for k in two) <= 2 * sum(k.bytes for k in one)


@pytest.mark.slow
def test_the_kim_shape(tmp_path: Path) -> None:
    """MDX-Net of Kim_Vocal_2's shape (measured: 96 kernels, 4.12 GB)."""
    bound = Bound(kernels=98, gigabytes=4.2, convolutions=1 + 11 * 3 + 5 + 1, joined=0)
    assert_within(planned(mdx_net(tmp_path, num_blocks=11, **KIM), tmp_path), bound)


@pytest.mark.slow
def test_the_mdx23c_shape(tmp_path: Path) -> None:
    """TFC-TDF v3 of MSST's MDX23C (measured: 402 kernels, 13.9 GB)."""
    bound = Bound(kernels=406, gigabytes=14.1, convolutions=1 + 22 * 3 + 5 + 2, joined=22)
    assert_within(planned(tfc_tdf(tmp_path, num_scales=5, **MDX23C), tmp_path), bound)
