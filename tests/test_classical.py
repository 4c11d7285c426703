"""Methods that learn nothing: all keep to the hole, none looks into it, and each does what it is known for."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from conftest import box, texture
from numpy.typing import NDArray

from pconv_cli import classical
from pconv_cli.errors import UsageError

SHAPES = {
    "box": box(48, 40, 16, 12, 30, 26),
    "corner": box(48, 40, 0, 0, 15, 18),
    "everything but a column": ~box(48, 40, 20, 0, 21, 40),
    "several": box(48, 40, 3, 3, 9, 9) | box(48, 40, 20, 20, 40, 24) | box(48, 40, 47, 39, 48, 40),
}
ROUNDING = {"telea": 2}  # OpenCV cuts off, and adds a step of a gradient that is not quite 0


def painted(picture: NDArray[np.uint8], hole: NDArray[np.bool_], colour: int) -> NDArray[np.uint8]:
    return np.where(hole[..., None], np.uint8(colour), picture)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", classical.METHODS)
def test_only_the_hole_changes_and_what_stood_in_it_does_not_matter(method: str, shape: str) -> None:
    picture, hole = texture(48, 40), SHAPES[shape]
    seen = painted(picture, hole, 255)
    filled = classical.fill(method, seen, hole)
    assert filled.dtype == np.uint8 and filled.shape == picture.shape
    assert (filled[~hole] == picture[~hole]).all()
    assert (seen == painted(picture, hole, 255)).all(), "the input is left as it was"
    assert (classical.fill(method, painted(picture, hole, 0), hole) == filled).all()


@pytest.mark.parametrize("method", classical.METHODS)
def test_a_flat_picture_is_filled_flat(method: str) -> None:
    picture = np.full((40, 48, 3), (200, 120, 30), np.uint8)
    hole = SHAPES["several"]
    off = np.abs(classical.fill(method, painted(picture, hole, 255), hole).astype(int) - picture)
    assert off.max() <= ROUNDING.get(method, 0)


@pytest.mark.parametrize("method", classical.METHODS)
def test_without_a_hole_nothing_changes(method: str) -> None:
    picture = texture(20, 20)
    assert (classical.fill(method, picture, np.zeros((20, 20), np.bool_)) == picture).all()


@pytest.mark.parametrize("method", classical.METHODS)
def test_channels_keep_their_order_and_do_not_mix(method: str) -> None:
    hole = SHAPES["box"]
    picture = texture(48, 40)
    picture[..., 1] = 77
    seen = painted(picture, hole, 255)
    filled = classical.fill(method, seen, hole)
    assert np.abs(filled[..., 1].astype(int) - 77).max() <= ROUNDING.get(method, 0)
    swapped = classical.fill(method, seen[..., ::-1].copy(), hole)[..., ::-1]
    assert np.abs(swapped.astype(int) - filled).max() <= 1


def test_biharmonic_continues_a_slope() -> None:
    slope = np.repeat(np.linspace(40, 200, 48)[None, :, None], 40, 0).repeat(3, 2).round().astype(np.uint8)
    hole = SHAPES["box"]
    off = classical.fill("biharmonic", painted(slope, hole, 255), hole).astype(int) - slope
    assert np.abs(off).max() <= 1


def test_biharmonic_hole_by_hole_is_the_same_as_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    picture, hole = texture(48, 40), SHAPES["several"]
    together = classical.fill("biharmonic", picture, hole)
    monkeypatch.setattr(classical, "SPLIT", 1)
    assert np.abs(classical.fill("biharmonic", picture, hole).astype(int) - together).max() <= 1


def test_fillnodata_reaches_across_the_picture() -> None:
    """Its search distance is 100 px where nobody says."""
    picture = np.full((300, 300, 3), 90, np.uint8)
    hole = np.ones((300, 300), np.bool_)
    hole[0, 0] = False
    assert (classical.fill("fillnodata", painted(picture, hole, 255), hole) == 90).all()


def test_fillnodata_rounds_and_stays_between_the_known_values() -> None:
    picture, hole = texture(48, 40), SHAPES["box"]
    filled = classical.fill("fillnodata", painted(picture, hole, 255), hole)[hole]
    assert filled.min() >= picture[~hole].min() and filled.max() <= picture[~hole].max()
    row = np.repeat(np.array([[10, 0, 0, 0, 0, 14]], np.uint8)[..., None], 3, 2)
    between = np.array([[False, True, True, True, True, False]])
    # Weights 1/d: (10 + 14/4) / (1 + 1/4) = 10.8 beside the 10, (10/2 + 14/3) / (1/2 + 1/3) = 11.6, and so on.
    assert classical.fill("fillnodata", row, between)[0, :, 0].tolist() == [10, 11, 12, 12, 13, 14]


def test_an_unknown_method_is_refused_with_the_names() -> None:
    with pytest.raises(UsageError, match="patchmatch: no such method; there are telea, ns, biharmonic, fillnodata"):
        classical.fill("patchmatch", texture(8, 8), box(8, 8, 2, 2, 4, 4))


@pytest.mark.parametrize(
    ("method", "package"),
    [("telea", "cv2"), ("ns", "cv2"), ("biharmonic", "skimage.restoration"), ("fillnodata", "rasterio.fill")],
)
def test_a_missing_package_is_one_line_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch, method: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=r"pip install 'pconv\[evaluate\]'") as caught:
        classical.load(method)
    text = str(caught.value)
    assert text.startswith(f"{method}: ") and package in text and "\n" not in text
    assert ("headless" in text) == (package == "cv2")
