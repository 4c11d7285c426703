"""`strips`: masks of any size and mode mean the same as read whole."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handmade import tiff_bytes, tiff_tags
from PIL import Image
from rasters import load, many_colours, names, picture, save

from pconv_cli import images
from pconv_cli.errors import ItemError
from pconv_cli.strips import is_plain, marks_by_nodata, mask_size, mask_strips, write_map, write_mask
from pconv_cli.tiff import Source


def grey_ramp(width: int = 256, height: int = 9) -> np.ndarray:
    return np.tile(np.arange(width, dtype=np.uint8), (height, 1))


def colour_noise(bands: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (37, 53, bands), dtype=np.uint8)


def mask_files(folder: Path) -> Iterator[Path]:
    def put(name: str, image: Image.Image, **options: Any) -> Path:
        image.save(folder / name, **options)
        return folder / name

    ramp, rgb, rgba = (Image.fromarray(a) for a in (grey_ramp(), colour_noise(3), colour_noise(4)))
    bits, cut = ramp.convert("1", dither=Image.Dither.NONE), Image.fromarray(colour_noise(2))
    deep = Image.fromarray((np.arange(65536, dtype=np.uint16)).reshape(256, 256))
    few = rgb.quantize(19)
    for suffix in ("png", "tif", "bmp"):
        yield put(f"grey.{suffix}", ramp)
        yield put(f"rgb.{suffix}", rgb)
        yield put(f"bits.{suffix}", bits)
        yield put(f"palette.{suffix}", few)
    yield put("rgba.png", rgba)
    yield put("rgba.tif", rgba)
    yield put("la.png", cut)
    yield put("la.tif", cut)
    yield put("deep.png", deep)
    yield put("deep.tif", deep)
    yield put("packed.png", few, bits=8)
    yield put("clear.png", few, transparency=bytes(range(0, 190, 10)))
    yield put("key.png", ramp, transparency=200)
    yield put(
        "rgbkey.png",
        Image.fromarray(np.where(colour_noise(3) > 127, 255, 0).astype(np.uint8)),
        transparency=(255, 255, 0),
    )
    yield put("rgb.webp", rgb, lossless=True)
    yield put("rgba.webp", rgba, lossless=True, exact=True)
    yield put("grey.jpg", ramp, quality=95)
    yield put("turned.jpg", ramp, quality=95, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0")
    yield save(folder / "white0.tif", grey_ramp(), photometric="MINISWHITE")
    yield save(folder / "four.tif", grey_ramp(16) % 16, NBITS=4)
    yield save(folder / "bit.tif", grey_ramp(16) % 2, NBITS=1, photometric="MINISWHITE")
    yield save(folder / "nodata.tif", grey_ramp(), nodata=200)
    yield save(folder / "tiled.tif", grey_ramp(256, 40), tiled=True, blockxsize=16, blockysize=16, compress="zstd")


def test_a_mask_means_the_same_read_in_strips_and_read_whole(tmp_path: Path) -> None:
    for path in mask_files(tmp_path):
        # One of them is in a codec that Pillow does not read.
        expected = load(path)[..., 0] > 127 if path.name == "tiled.tif" else images.read_mask(path).hole
        height, width = expected.shape
        assert mask_size(path) == (width, height), path.name
        for rows in (1, 7, 256):
            strips = list(mask_strips(path, rows))
            assert {strip.dtype for strip in strips} == {np.dtype(bool)}
            assert [len(strip) for strip in strips[:-1]] == [rows] * (len(strips) - 1) and len(strips[-1]) <= rows
            np.testing.assert_array_equal(np.concatenate(strips), expected, err_msg=path.name)
    assert not [name for name in names(tmp_path) if name.endswith(".xml")]


@pytest.mark.parametrize("inverted", [False, True])
def test_what_has_a_masks_nodata_value_is_no_damage_whatever_it_looks_like(tmp_path: Path, inverted: bool) -> None:
    ramp, bits = grey_ramp(), grey_ramp(16) % 2
    colours, few = np.dstack([ramp] * 3), Image.fromarray(colour_noise(3)).quantize(5)
    colours[0, 255, 2] = 254  # not all of them are 255
    indices, table = np.asarray(few), np.array(few.getpalette("RGB"), np.uint8).reshape(-1, 3)[:5]
    light = np.asarray(few.convert("L")) > 127
    places = {index + 1: (*map(int, colour), 255) for index, colour in enumerate(table)}
    cases = {
        "grey": (ramp, {"nodata": 200}, (ramp > 127), ramp != 200),
        "black": (ramp, {"nodata": 0}, (ramp > 127), ramp != 0),
        "bits": (bits, {"nodata": 1, "NBITS": 1}, bits > 0, bits != 1),
        "deep": (ramp.astype(np.uint16) * 257, {"nodata": 65535}, (ramp > 127), ramp != 255),
        "colours": (colours, {"nodata": 255}, ramp > 127, (colours != 255).any(axis=2)),
        "palette": (
            indices + 1, {"nodata": 2, "photometric": "PALETTE", "after": lambda file: file.write_colormap(1, places)},
            light, indices + 1 != 2,
        ),
        "alpha": (np.dstack([ramp, np.full_like(ramp, 255)]), {"nodata": 200, "ALPHA": "YES"}, ramp > 127, ramp != 200),
    }  # fmt: skip
    for name, (pixels, options, white, valid) in cases.items():
        path = save(tmp_path / f"{name}.tif", pixels, **options)
        wanted = white ^ inverted
        np.testing.assert_array_equal(images.read_mask(path, inverted=inverted).hole, wanted & valid, err_msg=name)
        for rows in (4, 256):
            found = np.concatenate(list(mask_strips(path, rows, inverted=inverted)))
            np.testing.assert_array_equal(found, wanted & valid, err_msg=name)
        regardless = np.concatenate(list(mask_strips(path, inverted=inverted, nodata=False)))
        np.testing.assert_array_equal(regardless, wanted, err_msg=name)


def test_the_transparent_colour_of_a_png_is_black_and_no_nodata_value(tmp_path: Path) -> None:
    Image.fromarray(grey_ramp()).save(tmp_path / "a.png", transparency=200)
    wanted = (grey_ramp() > 127) & (grey_ramp() != 200)
    for inverted in (False, True):
        found = np.concatenate(list(mask_strips(tmp_path / "a.png", inverted=inverted)))
        np.testing.assert_array_equal(found, wanted ^ inverted)
        np.testing.assert_array_equal(images.read_mask(tmp_path / "a.png", inverted=inverted).hole, found)


@pytest.mark.parametrize("background", [0, 1, 255])
def test_a_mask_is_plain_where_all_but_its_nodata_value_is(tmp_path: Path, background: int) -> None:
    pixels = np.full((9, 20), 255, np.uint8)
    pixels[5:, 3:9] = background
    path = save(tmp_path / "a.tif", pixels, nodata=255)
    assert is_plain(path) and marks_by_nodata(path)
    pixels[8, 8] = 2
    assert is_plain(save(path, pixels, nodata=255)) == (background == 255)
    assert not marks_by_nodata(save(path, pixels)) and not is_plain(path)


def test_deep_colour_masks_draw_the_line_in_the_middle(tmp_path: Path) -> None:
    values = np.array([0, 32767, 32768, 65535], np.uint16)
    path = save(tmp_path / "a.tif", np.repeat(values[None, :, None], 3, axis=2))
    np.testing.assert_array_equal(next(mask_strips(path)), [[False, False, True, True]])


@pytest.mark.parametrize("bits", [8, 16])
def test_a_mask_in_which_white_is_0_is_no_palette_of_any_depth(tmp_path: Path, bits: int) -> None:
    values = np.array([0, 2**bits // 2 - 1, 2**bits // 2, 2**bits - 1], f"<u{bits // 8}")
    (tmp_path / "a.tif").write_bytes(tiff_bytes("<", tiff_tags("<", 4, 1, [bits], 0), values.tobytes()))
    np.testing.assert_array_equal(next(mask_strips(tmp_path / "a.tif")), [[True, True, False, False]])


def test_masks_that_have_no_middle_or_no_one_picture_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    for dtype in ("float32", "int16", "uint32"):
        save(path, picture(1).astype(dtype))
        with pytest.raises(ItemError, match=r"no 50 % grey: .* gdal_translate -scale 0 1 0 254 -ot Byte"):
            next(mask_strips(path))
    with pytest.raises(ItemError, match=r"more than 256 colours: .*-expand rgb"):
        next(mask_strips(many_colours(path)))
    pages = [Image.fromarray(grey_ramp()) for _ in range(3)]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    with pytest.raises(ItemError, match="3 pages"):
        next(mask_strips(path))
    for read in (mask_size, lambda path: next(mask_strips(path))):
        with pytest.raises(ItemError, match="no such file"):
            read(tmp_path / "missing.png")
    whole_file = save(path, colour_noise(1), compress="deflate", blockysize=4).read_bytes()
    path.write_bytes(whole_file[: len(whole_file) // 2])
    with pytest.raises(ItemError, match="damaged"):
        list(mask_strips(path))


def test_a_map_that_ends_before_its_picture_does_is_not_written(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", picture(1))
    with Source(path) as source, pytest.raises(ItemError, match="Input/output error"):
        write_map([np.zeros((64, source.width), np.uint8)], tmp_path / "m.tif", source, rows=64, overwrite=False)
    assert names(tmp_path) == ["a.tif"]


@pytest.mark.skipif(sys.platform != "linux", reason="names are Unicode elsewhere")
def test_a_mask_whose_name_is_not_unicode_is_refused_by_that_name(tmp_path: Path) -> None:
    target = tmp_path / os.fsdecode(b"\xff.png")
    with pytest.raises(ItemError, match="is not Unicode") as refused:
        write_mask(lambda: iter([np.zeros((4, 4), np.bool_)]), (4, 4), target, overwrite=False)
    assert refused.value.path == str(target) and names(tmp_path) == []
