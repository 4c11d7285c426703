"""`marks`: what people write for damage that a picture shows, and where it is."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pconv_cli.errors import UsageError
from pconv_cli.marks import Mark, Unmarked, parse

BYTE = st.integers(0, 255)
MARKS = st.one_of(
    st.just(Mark("alpha")),
    st.just(Mark("nodata")),
    st.builds(lambda value: Mark("nodata", value=value), st.floats(allow_nan=False)),
    st.builds(lambda colour, spread: Mark("color", colour=colour, tolerance=spread), st.tuples(BYTE, BYTE, BYTE), BYTE),
    st.builds(lambda band: Mark("band", band=band), st.integers(1, 99_999)),
)


def where(mark: str, pixels: NDArray[Any], **told: Any) -> list[list[int]]:
    """Rows and columns that are marked in (h, w, bands), whose first three are its colours."""
    told = {"shown": None, "alpha": None, "nodata": None} | told
    found = parse(mark).where(pixels, lambda: pixels[..., :3].astype(np.uint8), **told)
    assert found.dtype == np.bool_ and found.shape == pixels.shape[:2]
    return np.argwhere(found).tolist()


@given(MARKS)
def test_what_a_mark_is_called_means_that_mark(mark: Mark) -> None:
    assert parse(str(mark)) == mark


@pytest.mark.parametrize(
    ("text", "same"),
    [("color=FF00ff", "color=#ff00ff"), ("colour=#ff00ff~0", "color=#ff00ff"), (" alpha ", "alpha"),
     ("nodata=-9999", "nodata=-9999.0"), ("nodata=1e3", "nodata=1000")],
)  # fmt: skip
def test_spellings_of_the_same_mark(text: str, same: str) -> None:
    assert parse(text) == parse(same)


@pytest.mark.parametrize(
    "text",
    ["", "alpha=", "alpha=1", "Alpha", "nodata=", "nodata=x", "band", "band=", "band=0", "band=-1", "band=1.5",
     "band=" + "9" * 5000, "color", "color=", "color=#ff", "color=#ff00ff~", "color=#ff00ff~256", "color=#gg0000",
     "color=#ff00ff~-1", "#ff00ff"],
)  # fmt: skip
def test_what_is_no_mark_is_a_usage_error_of_one_line(text: str) -> None:
    with pytest.raises(UsageError, match="--mask-from") as caught:
        parse(text)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=30))
def test_no_text_is_anything_but_a_mark_or_a_usage_error(text: str) -> None:
    with contextlib.suppress(UsageError):
        assert isinstance(parse(text), Mark)


def test_a_colour_is_marked_within_its_tolerance_in_every_channel() -> None:
    pixels = np.array([[[255, 0, 255], [252, 3, 255], [251, 0, 255], [255, 0, 0]]], np.uint8)
    assert where("color=#ff00ff", pixels) == [[0, 0]]
    assert where("color=#ff00ff~3", pixels) == [[0, 0], [0, 1]]
    assert where("color=#ff00ff~255", pixels) == [[0, 0], [0, 1], [0, 2], [0, 3]]


@pytest.mark.parametrize(
    ("dtype", "middle"),
    [("uint8", 127), ("uint16", 32767), ("int8", 63), ("int16", 16383), ("int32", 2**30 - 1), ("float32", 0.5)],
)
def test_a_band_is_marked_where_lighter_than_its_middle(dtype: str, middle: float) -> None:
    pixels = np.zeros((1, 3, 4), dtype)
    pixels[0, :, 3] = [middle, np.nextafter(np.float32(middle), 1) if dtype == "float32" else middle + 1, 0]
    assert where("band=4", pixels) == [[0, 1]]
    assert where("band=1", pixels) == []
    with pytest.raises(Unmarked, match="4 bands, so no band 5"):
        where("band=5", pixels)


def test_nodata_is_marked_where_every_colour_has_it_whatever_alpha_is() -> None:
    pixels = np.array([[[7, 7, 7, 0], [7, 7, 8, 7], [0, 0, 0, 0]]], np.uint8)
    assert where("nodata=7", pixels, alpha=3) == where("nodata", pixels, alpha=3, nodata=7.0) == [[0, 0]]
    assert where("nodata=7", pixels) == []
    assert where("nodata=0", pixels, alpha=3, nodata=7.0) == [[0, 2]], "what is asked for comes first"
    assert where("nodata=7.5", pixels) == where("nodata=-9999", pixels) == where("nodata=nan", pixels) == []
    with pytest.raises(Unmarked, match="nodata=0"):
        where("nodata", pixels)


def test_in_float_pictures_what_is_no_number_is_nodata_too() -> None:
    pixels = np.array([[[0.1, 1], [np.nan, 1], [1, np.inf], [-9999, -9999]]], np.float32)
    assert where("nodata", pixels) == [[0, 1], [0, 2]]
    assert where("nodata=-9999", pixels) == where("nodata", pixels, nodata=-9999.0) == [[0, 1], [0, 2], [0, 3]]
    assert where("nodata=1", pixels) == [[0, 0], [0, 1], [0, 2]], "where any band has it, as of NaN"
    tenth = np.full((1, 1, 1), 0.1, np.float32)
    assert where("nodata=0.1", tenth) == [[0, 0]], "as the picture itself rounds it"
    assert where("nodata=-1.8e308", tenth) == where("nodata=-1e300", tenth) == []


def test_nodata_may_be_any_value_that_the_type_holds() -> None:
    for dtype, value in (("int8", -128), ("int16", -32768), ("int32", -(2**31)), ("uint32", 2**32 - 1)):
        pixels = np.array([[[value, value], [0, 0], [1, value]]], dtype)
        assert where(f"nodata={value}", pixels) == where("nodata", pixels, nodata=float(value)) == [[0, 0], [0, 2]]
        assert where(f"nodata={value}", pixels, alpha=1) == [[0, 0]]
        assert where("nodata=0.5", pixels) == where("nodata=-1e300", pixels) == []
    doubles = np.array([[[0.1], [np.float32(0.1)], [-1.7e308], [np.nan]]], np.float64)
    assert where("nodata=0.1", doubles) == [[0, 0], [0, 3]], "not as 32 bits round it"
    assert where("nodata=-1.7e308", doubles) == [[0, 2], [0, 3]]


def test_alpha_marks_what_the_file_does_not_show() -> None:
    pixels = np.zeros((1, 2, 4), np.uint8)
    assert where("alpha", pixels, shown=np.array([[True, False]])) == [[0, 1]]
    with pytest.raises(Unmarked, match="draw a mask"):
        where("alpha", pixels)


def test_a_band_is_no_mask_where_it_is_one_of_the_colours_or_all_there_is() -> None:
    tones = np.dtype(np.uint8)
    parse("band=4").refuse_colours([(0, 1, 2), (3,)], tones)
    parse("band=2").refuse_colours([(0,), (1,)], tones)
    parse("alpha").refuse_colours([(0,)], tones)
    for band, groups in ((2, [(0, 1, 2), (3,)]), (1, [(0,)])):
        with pytest.raises(Unmarked, match="name another band"):
            Mark("band", band=band).refuse_colours(groups, tones)


def test_a_colour_is_no_mark_of_values_that_are_no_tones() -> None:
    for kind in ("uint8", "uint16", "float32"):
        parse("color=#ffffff").refuse_colours([(0, 1, 2)], np.dtype(kind))
    for kind in ("int8", "int16", "int32", "uint32"):
        parse("nodata=3").refuse_colours([(0, 1, 2)], np.dtype(kind))
        with pytest.raises(Unmarked, match=f"{kind} values, which are no colours: .* nodata=-9999"):
            parse("color=#ffffff").refuse_colours([(0, 1, 2)], np.dtype(kind))
