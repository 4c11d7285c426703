"""Steps to what is known, against their definition written out pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pconv_cli import confidence
from pconv_cli.confidence import FARTHEST, steps_in_block, steps_to_known
from pconv_cli.nn.partial_conv import PartialConv2d
from pconv_cli.regions import Window


@st.composite
def planes(draw: st.DrawFn) -> NDArray[np.bool_]:
    """Small planes of all densities, the sparse ones above all: only there is anything far away."""
    height, width = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    share = draw(st.sampled_from([0.0, 0.005, 0.02, 0.1, 0.5, 1.0]))
    return np.random.default_rng(draw(st.integers(0, 2**32 - 1))).random((height, width)) < share


def by_definition(known: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The least of max(|dx|, |dy|) over all known pixels, capped."""
    rows, columns = np.nonzero(known)
    y, x = np.mgrid[: known.shape[0], : known.shape[1]]
    away = np.maximum(np.abs(y[..., None] - rows), np.abs(x[..., None] - columns))
    return np.minimum(away.min(axis=2, initial=FARTHEST), FARTHEST)


@settings(deadline=None)
@given(known=planes())
def test_steps_are_the_chebyshev_distance_to_the_nearest_known_pixel(known: NDArray[np.bool_]) -> None:
    steps = steps_to_known(known)
    assert steps.dtype == np.uint8
    np.testing.assert_array_equal(steps, by_definition(known))


@settings(deadline=None, max_examples=30)
@given(known=planes())
def test_steps_are_what_partial_convolutions_of_3_x_3_take(known: NDArray[np.bool_]) -> None:
    layer = PartialConv2d(1, 1, 3, padding=1)
    mask = torch.from_numpy(known)[None, None].float()
    expected = np.where(known, 0, FARTHEST)
    for step in range(1, 25):
        _, mask = layer(torch.zeros_like(mask), mask)
        now = mask[0, 0].numpy() > 0
        expected[now & (expected == FARTHEST)] = step
    np.testing.assert_array_equal(steps_to_known(known), expected)


@settings(deadline=None)
@given(known=planes(), data=st.data())
def test_a_block_has_the_steps_of_the_whole_wherever_it_is_cut(known: NDArray[np.bool_], data: st.DataObject) -> None:
    height, width = known.shape
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    block = Window(x, y, data.draw(st.integers(1, width - x)), data.draw(st.integers(1, height - y)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(confidence, "_NEAR", data.draw(st.integers(1, 4)))
        steps = steps_in_block(block, (height, width), lambda window: known[window.slices])
    np.testing.assert_array_equal(steps, by_definition(known)[block.slices])


def test_steps_beyond_255_are_255() -> None:
    known = np.zeros((1, 400), np.bool_)
    known[0, 0] = True
    steps = steps_to_known(known)
    assert steps[0, 254] == 254 and steps[0, 255] == 255 and (steps[0, 255:] == 255).all()
    far = steps_in_block(Window(300, 0, 10, 1), (1, 400), lambda window: known[window.slices])
    assert (far == 255).all()


def test_where_nothing_is_known_everything_is_farthest_away() -> None:
    assert (steps_to_known(np.zeros((3, 4), np.bool_)) == FARTHEST).all()
