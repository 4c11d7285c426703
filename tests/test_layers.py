"""`layers`: which channels go together, what the network sees of them, and that fills land there and nowhere else."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from pconv_cli._carry import Carried
from pconv_cli.layers import (
    Layer,
    Palette,
    Spread,
    View,
    dotted,
    filling_gaps,
    layers,
    ranged,
    ranged_by,
    stretched,
    viewed,
    whites_of,
)
from pconv_cli.picture import Picture
from pconv_cli.spaces import Space

RNG = np.random.default_rng(5)
F = np.dtype(np.float32)


def test_channels_that_stand_together_are_not_copied() -> None:
    pixels = np.zeros((4, 5, 6), np.uint8)
    rgb, infrared, apart = layers([(0, 1, 2), (3,), (5,)], pixels.dtype)
    for layer in (rgb, infrared, apart):
        assert np.may_share_memory(layer.taken(pixels), pixels)
    scattered = Layer((0, 2, 4), rgb.space)
    pixels[..., 2] = 9
    assert scattered.taken(pixels)[0, 0].tolist() == [0, 9, 0]


@given(data=st.data())
def test_a_fill_lands_in_its_channels_and_in_the_hole_only(data: st.DataObject) -> None:
    pixels = data.draw(hnp.arrays(np.uint16, (3, 4, 5)))
    where = data.draw(hnp.arrays(np.bool_, (3, 4)))
    layer = layers([(1, 2, 3), (4,)], pixels.dtype)[data.draw(st.integers(0, 1))]
    after = pixels.copy()
    layer.put(after, np.full((3, 4, 3), 0.5, np.float32), where)
    mine = list(layer.channels)
    assert (after[where][:, mine] == 32768).all()
    others = [channel for channel in range(5) if channel not in mine]
    assert np.array_equal(after[..., others], pixels[..., others])
    assert np.array_equal(after[~where], pixels[~where])


def test_colours_that_are_multiplied_by_alpha_are_seen_and_filled_without_it_and_further_bands_as_they_are() -> None:
    pixels = np.array([[[50, 25, 0, 100, 9], [50, 25, 0, 0, 9], [7, 7, 7, 200, 9]]], np.uint8)
    colours, further = layers([(0, 1, 2), (4,)], pixels.dtype, alpha=3)
    assert colours.seen(pixels)[0].tolist() == [[128, 64, 0], [50, 25, 0], [9, 9, 9]]
    assert further.seen(pixels)[0].tolist() == [[9] * 3] * 3
    where = np.array([[True, True, False]])
    after = pixels.copy()
    colours.put(after, np.full((1, 3, 3), 204, np.uint8), where)
    assert after[0].tolist() == [[80, 80, 80, 100, 9], [204, 204, 204, 0, 9], [7, 7, 7, 200, 9]]
    assert colours.seen(after)[0, :2].tolist() == [[204] * 3] * 2  # as other fills go by it
    colours.hide(after, where)
    assert after[0].tolist() == [[80, 80, 80, 100, 9], [0, 0, 0, 0, 9], [7, 7, 7, 200, 9]]
    (told,) = ranged([layers([(0, 1, 2)], F, alpha=3)[0]], [(0, 5)])
    assert told.seen(np.array([[1, 0.5, 0, 0.2]], F)).tolist() == pytest.approx(np.array([[1, 0.5, 0]]))


def test_inks_are_looked_at_as_one_colour_and_filled_as_three_and_black() -> None:
    (whole,) = made = layers([(0, 1, 2, 3)], np.dtype(np.uint8))
    assert viewed(made, View(channels=1, raw=True), np.dtype(np.uint8))[0].channels == (0,)
    colours, black = viewed(made, View(), np.dtype(np.uint8))
    assert (colours.channels, black.channels) == ((0, 1, 2), (3,))
    pixels = np.uint8([[[150, 100, 90, 50]] * 2])
    assert colours.seen(pixels)[0, 0].tolist() == [105, 155, 165] and black.seen(pixels)[0, 0].tolist() == [205] * 3
    assert whole.seen(pixels)[0, 0] * 255 == pytest.approx(np.array([105, 155, 165]) * 205 / 255)
    for layer in (colours, black):
        layer.put(pixels, np.full((1, 2, 3), 200, np.uint8), np.array([[True, False]]))
    assert pixels[0].tolist() == [[55] * 4, [150, 100, 90, 50]]
    singles = viewed(made, View(channels=1), np.dtype(np.uint8))
    assert [layer.channels for layer in singles] == [(0,), (1,), (2,), (3,)]
    assert [int(layer.seen(pixels)[0, 1, 0]) for layer in singles] == [105, 155, 165, 205]


@pytest.mark.parametrize(("nodata", "kept"), [(None, (1, 2)), (-9999.0, (1,))])
def test_where_damage_is_what_holds_no_value_the_rest_of_a_pixel_stays(
    nodata: float | None, kept: tuple[int, ...]
) -> None:
    (layer,) = layers([(0, 1, 2)], np.dtype(np.float32))
    (gaps,) = filling_gaps([layer], np.dtype(np.float32), nodata)
    pixels = np.array([[[np.nan, 2e5, -9999]], [[0.1, 0.2, 0.3]]], np.float32)
    fill = np.full((2, 1, 3), 0.25, np.float32)
    whole, where = pixels.copy(), np.array([[True], [False]])
    gaps.put(whole, fill, where)
    for channel in range(3):
        same = pixels[0, 0, channel] == whole[0, 0, channel]
        assert same == (channel in kept), channel
    assert np.isfinite(whole).all() and (whole[1] == pixels[1]).all()
    assert filling_gaps([layer], np.dtype(np.uint16), nodata) == (layer,)


def test_of_integers_that_are_no_tones_what_was_measured_stays_too_and_no_fill_becomes_nothing() -> None:
    (layer,) = layers([(0, 1, 2)], np.dtype(np.int16), nodata=0)
    (seen,) = ranged([layer], [(-10, 10)])
    (gaps,) = filling_gaps([seen], np.dtype(np.int16), -9999, 0)
    pixels = np.array([[[-9999, 7, 0]]], np.int16)
    gaps.put(pixels, np.full((1, 1, 3), 0.5, np.float32), np.array([[True]]))  # half way is 0, and 0 is nothing
    assert pixels.tolist() == [[[1, 7, 1]]]


def test_a_value_for_nothing_is_none_of_the_range_whichever_band_has_it() -> None:
    (layer,) = layers([(0, 1, 2)], np.dtype(np.float32))
    sample = np.array([[-9999, 5, 5], [2, 3, 4]], np.float32)
    space = ranged_by(layer, sample, -9999).space
    assert isinstance(space, Space) and (space.low, space.high) == (2, 4)


def test_a_value_for_nothing_that_no_float_of_the_pictures_type_can_be_is_infinite_there_without_a_word() -> None:
    (gaps,) = filling_gaps(layers([(0,)], F), F, 1e300)
    with np.errstate(all="raise"):
        assert gaps.measured(np.array([1, np.inf, np.nan, 3e38], F)).tolist() == [True, False, False, True]


def test_a_profile_and_white_is_zero_are_for_the_channels_that_they_speak_of() -> None:
    grey, extra = layers([(0,), (1,)], np.dtype(np.uint8), inverted=True)
    assert grey.seen(np.array([[[0, 7]]], np.uint8))[0, 0].tolist() == [255] * 3
    assert extra.space.inverted  # the whole file stores white as 0
    light = bytes(128) + struct.pack(">L4sLL", 1, b"kTRC", 144, 12) + b"curv" + bytes(8)
    first, second = layers([(0,), (1,)], np.dtype(np.uint16), icc=light)
    assert first.space.tones and not second.space.tones
    first, second = layers([(0, 1, 2), (3,)], np.dtype(np.uint16), icc=b"no profile at all", linear=True)
    assert not first.space.tones and second.space.tones  # a profile comes before --linear, also one of no use


def test_palette_pixels_that_are_not_defined_are_seen_black_and_fills_take_opaque_colours() -> None:
    table = np.array([[255, 0, 0, 255], [0, 255, 0, 0], [0, 250, 0, 255]], np.uint8)
    palette = Palette(table)
    assert palette.seen(np.array([[[0], [200]]], np.uint8)).tolist() == [[[255, 0, 0], [0, 0, 0]]]
    assert palette.own(np.array([[0, 255, 0]], np.uint8)).tolist() == [[2]]
    assert palette.own(np.array([[0.0, 1.0, 0.0]], np.float32)).tolist() == [[2]]


# ---------------------------------------------------------------- floating point


def limits(values: NDArray[Any]) -> tuple[float, float]:
    spread = Spread(layers([(0,)], values.dtype)[0])
    spread.add(values.reshape(-1, 1))
    return spread.limits()


def test_limits_are_lowest_and_highest_of_what_is_finite() -> None:
    values = np.linspace(-300, 8000, 5000, dtype=np.float32)
    assert limits(values) == (-300, 8000)
    assert limits(np.concatenate([values, np.array([np.nan, np.inf, -np.inf], np.float32)])) == (-300, 8000)
    assert limits(np.array([np.nan], np.float32)) == (0, 1)
    assert limits(np.array([], np.float32)) == (0, 1)
    assert limits(np.full(9, 42, np.float32)) == (42, 42)
    assert limits(np.full(9, 1e308)) == (1e308, 1e308)
    assert limits(np.linspace(1e308, 1.5e308, 50)) == (1e308, 1.5e308)
    low, high = limits(np.linspace(-1, 1, 50) * 1.7e308)
    assert np.isfinite(high - low), "a span that no double holds is cut"


def test_a_few_wild_values_leave_the_rest_most_of_the_range() -> None:
    values = np.concatenate([np.linspace(100, 200, 10000), [-1e30, 3e38]]).astype(np.float32)
    low, high = limits(values)
    assert 0 <= low < 1 and 299 < high <= 300


def test_a_few_honest_highlights_stay_within_reach_of_fills() -> None:
    values = np.concatenate([np.linspace(0, 100, 10000), [150.0, -60.0]]).astype(np.float32)
    assert limits(values) == (-60, 150)


def test_one_value_nearly_everywhere_is_no_reason_to_lose_the_others() -> None:
    values = np.zeros(10000, np.float32)
    values[5] = 80
    assert limits(values) == (0, 80)


def test_where_nearly_all_is_one_value_a_few_wild_ones_are_told_from_the_others() -> None:
    values = np.zeros(100000, np.float32)
    values[100:137] = np.linspace(3, 5, 37)
    assert limits(values) == (0, 5)
    values[7] = 1e30
    low, high = limits(values)
    assert low == 0 and 5 <= high <= 15
    values[9] = -3e38
    low, high = limits(values)
    assert -15 <= low < 0 and 5 <= high <= 15


def test_a_wild_value_that_a_sample_of_many_does_not_hold_is_out_of_reach() -> None:
    values = np.full(2**21, 7, np.float32)
    values[1] = 1e30
    assert limits(values) == (7, 7)


def test_what_stands_for_nothing_is_an_end_far_off_that_programs_write_and_no_few_pixels_have() -> None:
    heights = np.linspace(-50, 900, 1000).astype(np.float32)

    def found(values: NDArray[Any], value: float, count: int) -> tuple[float, float] | None:
        second = np.concatenate([values, np.full(count, value, values.dtype)])
        parts = np.split(np.stack([np.zeros_like(second), second], axis=-1), 2)
        return stretched(layers([(0,), (1,)], values.dtype), values.dtype, parts)[1]

    assert found(heights, -9999, 1000) == (-9999, 0.5)
    assert found(heights.astype(np.float64), -np.finfo(np.float64).max, 1000) == (-np.finfo(np.float64).max, 0.5)
    assert found(heights, float(np.finfo(np.float32).max), 1000) == (np.finfo(np.float32).max, 0.5)
    assert found(heights.astype(np.int16), -32768, 1000) == (-32768, 0.5)
    assert found(heights, -1e5, 1000) is None
    assert found(heights * 20, -9999, 1000) is None, "not far"
    assert found(np.tile(heights, 5), -9999, 4) is None, "few, which limits leave out"
    assert found(np.full(10, -9999, np.float32), -9999, 10) is None


@given(st.lists(st.integers(0, 5000), max_size=6), st.integers(0, 10**6))
def test_limits_do_not_depend_on_the_parts_that_a_picture_is_read_in(cuts: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.choice([0, 1e30, np.nan, 3], 5000, p=[0.5, 0.0005, 0.1, 0.3995]).astype(np.float32)
    values[values == 3] = rng.normal(150, 20, (values == 3).sum())
    (layer,) = layers([(0,)], F)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pconv_cli.layers._SAMPLE", 600)
        whole, parts = Spread(layer), Spread(layer)
        whole.add(values.reshape(-1, 1))
        for part in np.split(values, sorted(cuts)):
            parts.add(part.reshape(-1, 1))
        assert parts.limits() == whole.limits()
        assert parts._sample.size <= 600


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=40))
def test_limits_are_finite_in_order_and_within_what_is_there(values: list[float]) -> None:
    low, high = limits(np.array(values, np.float32))
    assert np.isfinite([low, high]).all() and min(values) <= low <= high <= max(values)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=40))
def test_limits_of_doubles_are_no_infinite_span_apart(values: list[float]) -> None:
    low, high = limits(np.array(values))
    assert np.isfinite(high - low) and low <= high
    if np.abs(values).max() < 1e307:
        assert min(values) <= low and high <= max(values)
    at = ranged(layers([(0,)], np.dtype(np.float64)), [(low, high)])[0]
    seen = at.seen(np.array(values)[:, None])
    assert seen.min() >= 0 and seen.max() <= 1 and np.isfinite(at.space.own(seen)).all()


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.uint32])
def test_limits_of_integers_are_lowest_and_highest_but_for_a_few_wild_ones(dtype: Any) -> None:
    ends = np.iinfo(dtype)
    assert limits(np.array([ends.min, ends.max, 5], dtype)) == (ends.min, ends.max)
    values = np.repeat(np.arange(50, 60), 1000).astype(dtype)
    assert limits(values) == (50, 59)
    values[17] = ends.max
    low, high = limits(values)
    assert low == 50 and 59 < high < 70


def test_what_lies_within_0_and_1_is_shown_as_it_is() -> None:
    made = layers([(0,)], F)
    assert ranged(made, [(0.25, 0.6)])[0].space.name == "as it is"
    (stretched,) = ranged(made, [(-1.0, 3.0)])
    assert stretched.seen(np.array([[-1], [1], [3], [np.nan]], np.float32))[:, 0].tolist() == [0, 0.5, 1, 0]
    assert stretched.space.own(np.array([[0.5] * 3, [1.0] * 3], np.float32)).tolist() == [[1], [3]]
    (single,) = ranged(layers([(0,)], np.dtype(np.int16)), [(0, 1)])
    assert single.seen(np.array([[0], [1]], np.int16))[:, 0].tolist() == [0, 1], "of integers only by chance"


def test_a_sample_sets_the_range_but_for_what_stands_for_nothing() -> None:
    (tones,), (metres,) = (layers([(0,)], np.dtype(kind)) for kind in (np.uint8, np.int16))
    sample = np.array([[[-32768]] * 4, [[7]] * 4, [[90]] * 4], np.int16)
    assert ranged_by(tones, sample.astype(np.uint8), 0.0) is tones
    made = [ranged_by(metres, sample, nothing).space for nothing in (-32768, None)]
    assert [(at.low, at.high) for at in made if isinstance(at, Space)] == [(7, 90), (-32768, 90)]
    beside_alpha = Layer((1,), *(layer.space for layer in layers([(0,)], np.dtype(np.uint16))))
    deep = ranged_by(beside_alpha, np.array([[700], [65535]], np.uint16), 65535)
    assert deep.channels == (1,) and isinstance(deep.space, Space) and deep.space.high == 1023


def test_known_float_pixels_set_the_range_and_the_damage_does_not() -> None:
    pixels = np.linspace(0, 50, 400, dtype=np.float32).reshape(20, 20)
    hole = np.zeros((20, 20), np.bool_)
    hole[5:9, 5:9] = True
    pixels[hole] = -32768
    picture = Picture(Path("p"), pixels, "L", "TIFF", 1, layers([(0,)], F), Carried()).known_outside(hole)
    (layer,) = picture.layers
    assert (layer.space.low, layer.space.high) == (0, 50)
    filled = picture.filled({layer: np.ones((20, 20, 3), np.float32)}, hole)
    assert (filled.pixels[hole] == 50).all()
    assert np.array_equal(filled.pixels[~hole], pixels[~hole])


# ---------------------------------------------------------------- there and back


@pytest.mark.parametrize(
    ("mode", "dtype", "channels", "linear"),
    [("LA", np.uint8, 2, False), ("LA", np.uint16, 2, False), ("RGB", np.uint16, 3, True), ("RGBA", np.uint16, 4, True),
     ("L", np.uint8, 1, True), ("RGB", np.float32, 3, True)],
)  # fmt: skip
def test_what_is_shown_to_the_network_comes_back_as_it_was(mode: str, dtype: type, channels: int, linear: bool) -> None:
    """The network's own input as fill: the picture is as before, to a step of its own, and untouched outside."""
    kind = np.dtype(dtype)
    pixels = RNG.random((16, 20, channels))
    pixels = pixels.astype(kind) if kind == F else (pixels * np.iinfo(kind).max).astype(kind)
    group = tuple(range(3 if "RGB" in mode else 1))
    alpha = {"LA": 1, "RGBA": 3}.get(mode)
    picture = Picture(Path("p"), pixels, mode, "TIFF", 1, layers([group], kind, linear=linear), Carried(), alpha=alpha)
    (layer,) = picture.layers
    seen = picture.seen(layer)
    assert seen.shape == (16, 20, 3) and (seen.max() <= 1 or seen.dtype == np.uint8)
    if linear:
        assert seen[..., : len(group)].mean() > 0.6  # tones of a screen are lighter than light itself
    hole = RNG.random((16, 20)) < 0.5
    after = picture.filled({layer: seen}, hole).pixels
    assert after.dtype == kind and np.array_equal(after[~hole], pixels[~hole])
    step = 1e-4 if kind == F else 1
    assert np.abs(after.astype(float) - pixels).max() <= step
    if alpha is not None:
        assert np.array_equal(after[..., alpha], pixels[..., alpha])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_what_was_transparent_is_opaque_once_it_is_revealed(dtype: type) -> None:
    kind = np.dtype(dtype)
    pixels = np.zeros((4, 4, 4), kind)
    picture = Picture(Path("p"), pixels, "RGBA", "TIFF", 1, layers([(0, 1, 2)], kind), Carried(), alpha=3)
    hole = np.eye(4, dtype=np.bool_)
    (layer,) = picture.layers
    fill = np.full((4, 4, 3), 255 if kind == np.uint8 else 1, np.uint8 if kind == np.uint8 else np.float32)
    after = picture.filled({layer: fill}, hole, reveal=True)
    top = 1 if kind == F else np.iinfo(kind).max
    assert (after.pixels[hole] == top).all() and not after.pixels[~hole].any() and after.revealed
    kept = picture.filled({layer: fill}, hole)
    assert (kept.pixels[hole][:, :3] == top).all() and not kept.pixels[..., 3].any() and not kept.revealed


def test_a_picture_of_black_and_white_dots_is_filled_with_dots_of_the_same_tone_and_a_drawing_with_areas() -> None:
    black_and_white = np.array([[0, 0, 0, 255], [255, 255, 255, 255]], np.uint8)
    rng = np.random.default_rng(0)
    halftone = (rng.random((64, 64)) < 0.4).astype(np.uint8)
    drawing = np.zeros((64, 64), np.uint8)
    drawing[20:40] = 1
    known = np.ones((64, 64), np.bool_)
    made = layers([(0,)], np.dtype(np.uint8), palette=black_and_white)
    grey = np.full((40, 40, 3), 0.3, np.float32)
    (dots,), (areas,) = dotted(made, halftone, known), dotted(made, drawing, known)
    assert abs(dots.space.own(grey).mean() - 0.3) < 0.01
    assert not areas.space.own(grey).any() and (areas.space.own(grey + 0.5) == 1).all()
    nearly_white = np.full((40, 40, 3), 0.97, np.float32)
    assert (dots.space.own(nearly_white) == 1).all(), "paper has no dots"
    assert dots.space.name != areas.space.name
    inverted = dotted(layers([(0,)], np.dtype(np.uint8), palette=black_and_white[::-1]), halftone, known)[0]
    assert abs(1 - inverted.space.own(grey).mean() - 0.3) < 0.01


def test_bits_are_counted_in_what_is_known_and_layer_by_layer() -> None:
    made = layers([(0, 1, 2), (3,)], np.dtype(np.uint16))
    pixels = np.zeros((4, 4), np.uint16)
    pixels[0, 1], pixels[2, 3] = 900, 5000
    assert whites_of(made, [pixels]) == [(0, 1023), (0, 8191)]
    assert whites_of(made, []) == [(0, 255), (0, 255)]

    def parts() -> Iterator[NDArray[Any]]:
        yield np.full((1, 4), 40000, np.uint16)
        pytest.fail("all bits are used: no more need be read")

    assert whites_of(made, parts()) == [(0, 65535)] * 2
    assert ranged(made, [(0, 65535)] * 2)[0].space.name == "as it is"
    assert ranged(made, [(0, 1023)] * 2)[0].space.name == "uint16 0 to 1023 shown as 0 to 1"
    inks = layers([(0, 1, 2, 3)], np.dtype(np.uint16))
    assert whites_of(inks, [pixels]) == [(0, 65535)], "how much ink a few bits are, nobody knows"
