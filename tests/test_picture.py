"""`picture`: what the network sees, what is filled, how masks lie on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from handmade import fill, noise, save
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageOps

from pconv_cli import images
from pconv_cli._carry import Carried
from pconv_cli.errors import ItemError
from pconv_cli.layers import layers
from pconv_cli.orientations import displayed
from pconv_cli.picture import Picture, align_mask

# ---------------------------------------------------------------- what the network sees, what is filled


def picture_of(pixels: np.ndarray, mode: str, carried: Carried | None = None) -> Picture:
    """A picture as if it had been read from a PNG."""
    carried = carried or Carried()
    palette = np.frombuffer(carried.palette, np.uint8).reshape(-1, 4) if mode == "P" else None
    groups = [tuple(range(3 if "RGB" in mode else 1))]
    alpha = {"LA": 1, "RGBA": 3}.get(mode)
    return Picture(
        Path("p"), pixels, mode, "PNG", 1, layers(groups, pixels.dtype, palette=palette), carried, alpha=alpha
    )


PALETTE = bytes([255, 0, 0, 255, 0, 255, 0, 255, 0, 0, 255, 255, 10, 10, 10, 0])


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P"])
def test_rgb_is_what_pillow_shows(tmp_path: Path, mode: str) -> None:
    shape = {"L": (5, 7), "P": (5, 7), "LA": (5, 7, 2), "RGB": (5, 7, 3), "RGBA": (5, 7, 4)}[mode]
    image = Image.fromarray(noise(*shape) % (4 if mode == "P" else 255))
    if mode == "P":
        image.putpalette(PALETTE, "RGBA")
    image.save(tmp_path / "a.png")
    picture = images.read_picture(tmp_path / "a.png")
    assert (picture.mode, picture.height, picture.width) == (mode, 5, 7)
    shown = np.asarray(image.convert("RGBA"))
    assert np.array_equal(picture.rgb(), shown[..., :3])
    visible = picture.visible()
    if mode in ("L", "RGB"):
        assert visible is None
    else:
        assert visible is not None and np.array_equal(visible, shown[..., 3] > 0)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), mode=st.sampled_from(["L", "LA", "RGB", "RGBA", "P", "key L", "key RGB"]))
def test_filled_changes_nothing_outside_the_hole_and_no_transparency(data: st.DataObject, mode: str) -> None:
    height, width = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6))
    mode, keyed = mode.removeprefix("key "), mode.startswith("key")
    bands = {"L": (), "P": (), "LA": (2,), "RGB": (3,), "RGBA": (4,)}[mode]
    small = st.sampled_from([0, 1, 2, 255])
    values = st.integers(0, 3) if mode == "P" else small
    pixels = data.draw(hnp.arrays(np.uint8, (height, width, *bands), elements=values))
    rgb = data.draw(hnp.arrays(np.uint8, (height, width, 3), elements=small))
    hole = data.draw(hnp.arrays(np.bool_, (height, width)))
    key = ((0,) if mode == "L" else (0, 0, 0)) if keyed else None
    before = picture_of(pixels, mode, Carried(palette=PALETTE if mode == "P" else b"", colour_key=key))
    original = pixels.copy()
    after = fill(before, rgb, hole)
    assert np.array_equal(before.pixels, original)
    assert np.array_equal(after.pixels[~hole], original[~hole])
    assert (before.visible() is None) == (after.visible() is None)
    if before.visible() is not None:
        assert np.array_equal(before.visible(), after.visible())
    if mode in ("LA", "RGBA"):
        assert np.array_equal(after.pixels[..., -1], original[..., -1])
    if mode in ("RGB", "RGBA") and not keyed:
        assert np.array_equal(after.rgb()[hole], rgb[hole])


def test_grey_takes_pillows_rounded_luminance_and_keeps_equal_channels() -> None:
    rgb = noise(64, 64, 3)
    hole = np.ones((64, 64), np.bool_)
    for pixels, mode in ((noise(64, 64), "L"), (noise(64, 64, 2), "LA")):
        grey = fill(picture_of(pixels, mode), rgb, hole).pixels.reshape(64, 64, -1)[..., 0]
        assert np.array_equal(grey, np.asarray(Image.fromarray(rgb).convert("L")))
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    filled = fill(picture_of(np.zeros((1, 256), np.uint8), "L"), ramp, np.ones((1, 256), np.bool_))
    assert np.array_equal(filled.pixels[0], np.arange(256))


def test_a_palette_takes_the_nearest_opaque_colour() -> None:
    rgb = np.array([[[250, 3, 3], [9, 200, 9], [10, 10, 90], [10, 10, 10]]], np.uint8)
    palette = PALETTE[:12] + bytes([10, 10, 10, 128])
    before = picture_of(np.zeros((1, 4), np.uint8), "P", Carried(palette=palette))
    filled = fill(before, rgb, np.ones((1, 4), np.bool_))
    assert filled.pixels[0, :3].tolist() == [0, 1, 2]
    assert filled.pixels[0, 3] != 3  # nearest of all, but half transparent


def test_a_hole_does_not_become_transparent_by_chance_of_the_colour_key() -> None:
    white = np.full((1, 2, 3), 255, np.uint8)
    before = picture_of(np.array([[[1, 2, 3], [255, 255, 255]]], np.uint8), "RGB", Carried(colour_key=(255, 255, 255)))
    after = fill(before, white, np.ones((1, 2), np.bool_))
    assert after.pixels.tolist() == [[[255, 255, 254], [255, 255, 255]]]


def test_filled_rejects_arrays_of_another_size() -> None:
    with pytest.raises(ValueError, match="need fills"):
        fill(picture_of(noise(4, 4, 3), "RGB"), noise(4, 5, 3), np.zeros((4, 5), np.bool_))


# ---------------------------------------------------------------- how masks lie


def oriented(path: Path, pixels: np.ndarray, orientation: int) -> Path:
    exif = Image.Exif()
    exif[274] = orientation
    return save(path, pixels, exif=exif)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_a_mask_lands_on_the_marked_pixels_however_it_was_drawn(tmp_path: Path, orientation: int, suffix: str) -> None:
    pixels = noise(12, 20, 3) % 200
    marks = np.zeros((12, 20), np.bool_)
    marks[1:4, 2:9] = marks[7, 15] = True
    pixels[marks] = 255
    path = oriented(tmp_path / f"p{suffix}", pixels, orientation)
    picture = images.read_picture(path)
    assert picture.orientation == orientation
    assert np.array_equal(picture.pixels, pixels)

    with Image.open(path) as opened:
        shown = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    as_displayed = save(tmp_path / "displayed.png", (shown == 255).all(axis=2))
    as_stored = save(tmp_path / "stored.png", marks)
    tagged = oriented(tmp_path / "tagged.png", marks.astype(np.uint8) * 255, orientation)
    for mask_path, drawn_on in ((as_displayed, "displayed"), (as_stored, "stored"), (tagged, "displayed")):
        hole = align_mask(images.read_mask(mask_path), picture, drawn_on)
        assert np.array_equal(hole, marks)
    assert np.array_equal(align_mask(images.read_mask(as_displayed), picture, "auto"), marks)
    if orientation >= 5:
        assert np.array_equal(align_mask(images.read_mask(as_stored), picture, "auto"), marks)


def test_a_square_picture_takes_the_mask_as_displayed_unless_told_otherwise(tmp_path: Path) -> None:
    picture = images.read_picture(oriented(tmp_path / "p.png", noise(8, 8, 3), 6))
    marks = np.zeros((8, 8), np.bool_)
    marks[0, 1] = True
    mask = images.read_mask(save(tmp_path / "m.png", marks))
    turned = np.rot90(marks)  # orientation 6 shows the stored pixels turned clockwise; this turns the mask back
    assert np.array_equal(align_mask(mask, picture, "auto"), turned)
    assert np.array_equal(align_mask(mask, picture, "displayed"), turned)
    assert np.array_equal(align_mask(mask, picture, "stored"), marks)


@pytest.mark.parametrize("drawn_on", ["auto", "displayed", "stored"])
def test_masks_are_never_stretched(tmp_path: Path, drawn_on: str) -> None:
    picture = images.read_picture(oriented(tmp_path / "p.png", noise(6, 9, 3), 6))
    mask = images.read_mask(save(tmp_path / "m.png", noise(6, 8)))
    with pytest.raises(ItemError, match=r"mask is 8 x 6, the picture .*masks are never stretched") as caught:
        align_mask(mask, picture, drawn_on)
    assert caught.value.path == str(tmp_path / "m.png")
    assert ("9 x 6" in caught.value.reason) == (drawn_on != "displayed")
    assert ("6 x 9 as displayed" in caught.value.reason) == (drawn_on != "stored")


def test_a_mask_that_fits_only_the_other_way_is_refused_when_told_how_it_was_drawn(tmp_path: Path) -> None:
    picture = images.read_picture(oriented(tmp_path / "p.png", noise(6, 9, 3), 6))
    lying = images.read_mask(save(tmp_path / "m.png", noise(6, 9)))
    with pytest.raises(ItemError, match="never stretched"):
        align_mask(lying, picture, "displayed")


def test_displayed_turns_by_exif() -> None:
    assert (displayed(np.array([[1, 2], [3, 4]]), 6) == [[3, 1], [4, 2]]).all()
