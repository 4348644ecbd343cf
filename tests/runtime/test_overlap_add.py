"""What must hold for any plan of streaming overlap-add; test_schemes.py holds it against MSST."""

from itertools import pairwise

import numpy as np
from golden.seeded import noise, stand_in
from hypothesis import given, settings
from hypothesis import strategies as st

from rofo.dsp.fade import Fade
from rofo.dsp.overlap_add import OverlapAdder


def stream(mix: np.ndarray, plan: Fade, blocks: list[int]) -> np.ndarray:
    edges = np.cumsum([0, *blocks])
    parts = [mix[:, a:b] for a, b in pairwise(edges)] + [mix[:, edges[-1] :]]
    joined = OverlapAdder()
    out = [joined.add(chunk, stand_in(chunk.samples)) for chunk in plan.cut(parts)]
    return np.concatenate(out, axis=-1)


@given(
    length=st.integers(1, 900),
    chunk=st.integers(20, 120),
    overlap=st.floats(0.0, 0.9),
    blocks=st.lists(st.integers(0, 150), max_size=8),
)
@settings(max_examples=200, deadline=None)
def test_any_plan_and_any_blocks(length: int, chunk: int, overlap: float, blocks: list[int]) -> None:
    mix, plan = noise(length, 1), Fade.of(chunk, 0, overlap)
    blocks = [b for i, b in enumerate(blocks) if sum(blocks[: i + 1]) <= length]
    got = stream(mix, plan, blocks)
    assert got.shape == (2, 1, length)
    np.testing.assert_array_equal(got, stream(mix, plan, []))


@given(length=st.integers(1, 900), chunk=st.integers(20, 120), overlap=st.floats(0.11, 0.9))
@settings(max_examples=200, deadline=None)
def test_every_sample_is_covered_and_weights_sum_right(length: int, chunk: int, overlap: float) -> None:
    plan = Fade.of(chunk, 0, overlap)
    joined, out, used = OverlapAdder(), [], 0
    for part in plan.cut([np.ones((1, length), np.float32)]):
        out.append(joined.add(part, np.ones((1, chunk), np.float32)))
        used += 1
    flat = np.concatenate(out, axis=-1)
    assert flat.shape == (1, length)
    assert used == -(-(length + plan.borders(length)) // plan.step)
    # A song of one chunk keeps the reference's silent last sample: its window ends in an exact zero.
    single = length == chunk and used == 1
    np.testing.assert_allclose(flat[:, : length - 1 if single else length], 1, rtol=1e-6)


def test_overlap_is_the_shared_fraction() -> None:
    assert Fade.of(352800, 2048, 0.5).step == Fade.of(352800, 2048, None).step == 176400
    assert Fade.of(352801, 2048, 1 - (352801 // 4) / 352801).step == 352801 // 4
