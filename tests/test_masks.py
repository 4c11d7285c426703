"""`masks`: growing damage, whole or strip by strip."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import box
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from pconv_cli.masks import dilate, dilated_strips, turned_strips
from pconv_cli.orientations import displayed


def grown(hole: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """What growing means, pixel by pixel."""
    out = np.zeros_like(hole)
    for y, x in np.argwhere(hole):
        out[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1] = True
    return out


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 40), st.integers(0, 60), st.sampled_from([0.01, 0.2]))
def test_damage_grows_by_a_square_and_never_inwards_from_the_border(
    seed: int, width: int, height: int, radius: int, share: float
) -> None:
    hole = np.random.default_rng(seed).random((height, width)) < share
    before = hole.copy()
    np.testing.assert_array_equal(dilate(hole, radius), grown(hole, radius))
    np.testing.assert_array_equal(hole, before)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 10**6), st.lists(st.integers(0, 20), max_size=12), st.integers(1, 30), st.integers(0, 50),
    st.sampled_from([0, 0.01, 0.2]),
)  # fmt: skip
def test_damage_that_comes_in_any_strips_grows_as_the_whole(
    seed: int, heights: list[int], width: int, radius: int, share: float
) -> None:
    hole = np.random.default_rng(seed).random((sum(heights), width)) < share
    strips = np.split(hole, np.cumsum(heights)[:-1].astype(int)) if heights else []
    out = list(dilated_strips(strips, radius))
    assert sum(len(strip) for strip in out) == len(hole)
    np.testing.assert_array_equal(np.concatenate([hole[:0], *out]), dilate(hole, radius))


@pytest.mark.parametrize("rows", [1, 7, 64, 500])
def test_no_strip_waits_for_more_than_the_radius_below_it(rows: int) -> None:
    given_rows = 0

    def strips() -> object:
        nonlocal given_rows
        for y in range(0, 500, rows):
            strip = box(20, 500, 5, 100, 9, 300)[y : y + rows]
            given_rows += len(strip)
            yield strip

    taken = 0
    for strip in dilated_strips(strips(), 10):  # type: ignore[arg-type]
        taken += len(strip)
        assert given_rows - taken <= 10 or given_rows == 500
    assert taken == 500


def test_without_growth_strips_pass_as_they_are() -> None:
    strips = [np.ones((3, 4), np.bool_), np.zeros((2, 4), np.bool_)]
    assert [a is b for a, b in zip(dilated_strips(strips, 0), strips, strict=True)] == [True, True]


@given(
    hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=30)), st.integers(1, 8),
    st.integers(1, 9), st.integers(1, 9),
)  # fmt: skip
def test_damage_in_strips_is_turned_as_the_whole_would_be(
    hole: NDArray[np.bool_], orientation: int, came: int, rows: int
) -> None:
    strips = (hole[top : top + came] for top in range(0, len(hole), came))
    turned = list(turned_strips(strips, hole.shape[1], orientation, rows))
    assert all(len(strip) <= max(came, rows) for strip in turned)
    np.testing.assert_array_equal(np.concatenate(turned), displayed(hole, orientation))
