"""`tiff`: windows of big pictures, what their files say of them, and what is refused in one line."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from handmade import bmp_bytes, png_bytes, tiff_bytes, tiff_tags
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from rasterio.enums import Resampling
from rasters import (
    HOLE,
    WIDTH,
    directories,
    filled,
    give_tags,
    hushed,
    load,
    many_colours,
    picture,
    refused,
    restore,
    save,
    whole,
)

from pconv_cli._heads import refuse_misread
from pconv_cli._ifd import Directory
from pconv_cli.canvas import Canvas
from pconv_cli.errors import ItemError
from pconv_cli.images import probe, read_picture
from pconv_cli.regions import Window
from pconv_cli.strips import mask_size, mask_strips
from pconv_cli.tiff import Source, orientation

RGBA = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
"""Masks of a BMP with alpha."""
XBGR = (0xFF000000, 0xFF0000, 0xFF00)
ADOBE_RGB = b"\xff\xee\0\x0eAdobe" + struct.pack(">HHHB", 100, 0, 0, 0)


def frame(numbers: bytes) -> bytes:
    """The frame header of a JPEG whose channels bear these numbers."""
    channels = b"".join(bytes([number, 0x11, 0]) for number in numbers)
    return b"\xff\xc0" + struct.pack(">HBHHB", 8 + len(channels), 8, 1, 1, len(numbers)) + channels


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (bmp_bytes(4, 1, 4, b"\4\x12\0\1", compression=2, palette=bytes(64)), "an RLE-compressed BMP of 4 bits"),
        (bmp_bytes(1, 1, 32, b"abcd", header=56, compression=3, masks=RGBA), "a BMP with alpha"),
        (bmp_bytes(1, 1, 24, b"abc\0", header=108), "a BMP of version 4"),
        (bmp_bytes(1, 1, 24, b"abc\0", header=124), "a BMP of version 5"),
        (bmp_bytes(1, 1, 24, b"abc\0", header=64), "a BMP of OS/2 2.0"),
        (
            bmp_bytes(1, 1, 32, b"abcd", header=52, compression=3, masks=XBGR),
            "a BMP with its colours in another order",
        ),
        (b"\xff\xd8\xff\xe0\0\4ab\xff\xff\xc3\0\x0b" + bytes(9), "a lossless JPEG"),
        (b"\xff\xd8" + ADOBE_RGB + frame(b"\1\2\3"), "a JPEG of RGB as it is"),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_what_gdal_would_read_wrong_or_call_damaged_is_refused_with_who_takes_it(
    tmp_path: Path, file: bytes, words: str
) -> None:
    path = tmp_path / "a"
    path.write_bytes(file)
    assert refused(path) == f"{words}, which cannot be read part by part: `pconv restore` takes it"
    for reading in (mask_size, lambda path: list(mask_strips(path))):
        with pytest.raises(ItemError, match=f"{words}, .*: save a copy as PNG"):
            reading(path)
    if path.read_bytes()[:2] == b"BM":
        assert read_picture(path).width


@pytest.mark.parametrize("numbers", [b"RGB", b"\1"], ids=["colours by their names", "grey"])
def test_jpegs_that_gdal_reads_as_they_are_are_not_refused(tmp_path: Path, numbers: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8" + ADOBE_RGB + frame(numbers))
    refuse_misread(tmp_path / "a.jpg", "")


@pytest.mark.parametrize("tag", [32997, 32998], ids=["of pictures", "of tiles"])
def test_a_volume_is_refused_for_its_other_slices_would_be_lost(tmp_path: Path, tag: int) -> None:
    tags = {**tiff_tags("<", 4, 4, [8], 1), tag: (4, struct.pack("<L", 2))}
    (tmp_path / "a.tif").write_bytes(tiff_bytes("<", tags, bytes(32)))
    assert refused(tmp_path / "a.tif").startswith("a volume of several slices")
    for reading in (Source, read_picture):
        with pytest.raises(ItemError, match="a volume of several slices"):
            reading(tmp_path / "a.tif")


@pytest.mark.parametrize("header", [40, 52, 56])
def test_bmps_that_gdal_reads_as_they_are_are_read(tmp_path: Path, header: int) -> None:
    masks = RGBA[:3] if header > 40 else ()
    (tmp_path / "a.bmp").write_bytes(
        bmp_bytes(1, 1, 32, b"abc\0", header=header, compression=3 * bool(masks), masks=masks)
    )
    with Source(tmp_path / "a.bmp") as source:
        assert source.read(Window(0, 0, 1, 1)).tolist() == [[[99, 98, 97]]] and source.alpha is None


def test_a_bmp_of_a_kind_that_cannot_be_read_is_not_said_to_be_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.bmp"
    path.write_bytes(bmp_bytes(1, 1, 32, b"abcd", header=52, compression=3, masks=RGBA[2::-1]))
    with pytest.raises(
        ItemError, match=r"a BMP of a kind that cannot be read \(Unsupported BMP .*\): save a copy as PNG"
    ):
        read_picture(path)


def test_what_is_sound_and_cannot_be_read_is_not_said_to_be_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "a.bmp"
    delta = b"\4\x07\0\0\0\2\1\1\2\5\0\1"
    path.write_bytes(bmp_bytes(4, 9, 8, delta, compression=1, palette=bytes(1024)))
    for reading in (Source, read_picture):
        with pytest.raises(ItemError) as error:
            reading(path)
        reason = error.value.reason
        assert "an RLE-compressed BMP that leaves pixels out" in reason and "save a copy without compression" in reason
    (tmp_path / "a.tif").write_bytes(tiff_bytes("<", tiff_tags("<", 16, 9, [5, 6, 5], 2), bytes(32 * 9)))
    for reading in (Source, probe):
        with pytest.raises(ItemError, match="channels of 5, 6 and 5 bits, which the libraries here cannot read: "):
            reading(tmp_path / "a.tif")
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff\xf7\0\x0b" + bytes(9))
    assert "JPEG-LS" in refused(tmp_path / "a.jpg") and "convert a copy to PNG" in refused(tmp_path / "a.jpg")


# ---------------------------------------------------------------- what says that there is no picture


def test_alpha_is_known_by_what_the_file_calls_it(tmp_path: Path) -> None:
    pixels = picture(4)
    pixels[:30, :, 3] = 0
    for kind, alpha in (("YES", 3), ("PREMULTIPLIED", 3), ("NO", None)):
        path = save(tmp_path / f"{kind}.tif", pixels, ALPHA=kind)
        with Source(path) as source:
            assert source.alpha == alpha and source.bands == 4
            valid = source.valid(Window(0, 20, 50, 20))
            if alpha is None:
                assert valid is None and source.validity is None
            else:
                assert source.validity == "alpha" and valid is not None
                np.testing.assert_array_equal(valid, pixels[20:40, :50, 3] > 0)
    save(tmp_path / "grey.tif", picture(2), ALPHA="YES")
    with Source(tmp_path / "grey.tif") as source:
        assert (source.bands, source.alpha, source.validity) == (2, 1, "alpha")


def test_a_nodata_value_that_no_pixel_can_have_says_nothing(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", picture(), compress="deflate")
    give_tags(path, {42113: (2, 6, b"-9999\0")})
    with Source(path) as source:
        assert source.validity is None and source.valid(HOLE) is None
    restore(path, tmp_path / "b.tif", mark=True)
    np.testing.assert_array_equal(load(tmp_path / "b.tif"), filled(load(path)))


@pytest.mark.parametrize("nodata", [None, np.nan, -9999.0, 0.1, -3.4028234663852886e38, -1.797693134862315e308])
def test_in_float_pictures_what_is_no_number_holds_nothing_nor_does_nodata(
    tmp_path: Path, nodata: float | None
) -> None:
    pixels = picture(2).astype(np.float32)
    pixels[0], pixels[1, :, 0], pixels[2, :, 1] = np.nan, np.inf, np.nan
    if nodata is not None:
        with np.errstate(over="ignore"):
            pixels[3] = nodata
            pixels[1, 20:, 0] = pixels[2, 20:, 1] = nodata  # one band alone says it as well as NaN does
    path = save(tmp_path / "a.tif", pixels, **({} if nodata in (None, -1.797693134862315e308) else {"nodata": nodata}))
    if nodata == -1.797693134862315e308:  # written by those who think in 64 bits
        give_tags(path, {42113: (2, 24, b"-1.797693134862315e+308\0")})
    with Source(path) as source:
        valid = source.valid(whole(source))
        assert valid is not None and valid[4:].all() and not valid[: 3 if nodata is None else 4].any()
        np.testing.assert_array_equal(source.valid(HOLE, source.read(HOLE)), valid[HOLE.slices])
        held = Canvas(source, tmp_path / "b.tif", overwrite=False, mark_valid=True)
        with held as canvas:
            fill_value = np.full((4, 9, 2), 5 if nodata is None or not abs(nodata) < 1e38 else nodata, np.float32)
            canvas.lay(Window(0, 0, 9, 4), fill_value, np.ones((4, 9), bool))
            canvas.commit()
    with Source(tmp_path / "b.tif") as made:
        assert made.valid(Window(0, 0, 9, 4)).all() and not made.valid(Window(9, 0, 9, 3)).any()
        np.testing.assert_allclose(made.read(Window(0, 0, 9, 4)), fill_value, rtol=1e-6)


@pytest.mark.parametrize("kind", ["alpha", "mask band", "nodata"])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "uint32", "float32", "float64"])
def test_what_is_valid_is_the_same_with_pixels_at_hand(tmp_path: Path, kind: str, dtype: str) -> None:
    pixels = np.maximum(picture(4) // 2, 1).astype(dtype)
    pixels[20:50] = 0
    if dtype.startswith("float"):
        pixels[60:70, :, 0] = np.nan
    mask = np.where(pixels[..., 3] > 0, 255, 0).astype(np.uint8)
    options: dict[str, Any] = {
        "alpha": {"ALPHA": "YES"}, "nodata": {"nodata": 0}, "mask band": {"after": lambda r: r.write_mask(mask)}
    }[kind]  # fmt: skip
    with Source(save(tmp_path / "a.tif", pixels, **options)) as source:
        assert source.validity == kind
        valid = source.valid(whole(source))
        np.testing.assert_array_equal(valid, source.valid(whole(source), source.read(whole(source))))
        np.testing.assert_array_equal(valid, (mask > 0) & np.isfinite(pixels).all(axis=2))


@pytest.mark.parametrize(("bands", "set_of_inks"), [(4, 2), (3, 1), (2, 1)])
def test_inks_of_other_names_or_numbers_are_bands_by_themselves(tmp_path: Path, bands: int, set_of_inks: int) -> None:
    path = save(tmp_path / "a.tif", picture(bands), photometric="CMYK", compress="lzw")
    give_tags(path, {332: (3, 1, struct.pack("<H", set_of_inks)), 262: (3, 1, b"\5\0")})
    with Source(path) as source:
        assert not source.inks and source.layers == tuple((band,) for band in range(bands))


# ---------------------------------------------------------------- hostile directories


def hostile(big: bool, first: int = 16, count: int = 1, entry: bytes = b"") -> bytes:
    """A TIFF whose first directory lies at a position and claims a number of tags."""
    head = struct.pack("<2sHHHQ", b"II", 43, 8, 0, first) if big else struct.pack("<2sHL", b"II", 42, first) + b"\0" * 8
    return head + struct.pack("<Q" if big else "<H", count) + entry


@pytest.mark.parametrize(
    "data",
    [
        b"II*\0", b"II+\0\x08\0", b"MM\0*\xff\xff\xff\xff", hostile(False, 2**32 - 1), hostile(True, 2**63 - 1),
        hostile(True, 2**64 - 1), hostile(False, count=65535), hostile(True, count=2**40),
        hostile(True, count=2**64 - 1),
    ],
)  # fmt: skip
def test_a_directory_that_is_not_there_is_an_item_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(data)
    assert "damaged or cut short" in refused(path)
    for look in (orientation, mask_size):
        with pytest.raises(ItemError, match="damaged or cut short"):
            look(path)


@pytest.mark.parametrize("big", ["NO", "YES"])
@pytest.mark.parametrize("compress", ["none", "deflate", "jpeg"])
def test_a_file_that_is_cut_is_refused_though_the_hole_is_elsewhere(tmp_path: Path, compress: str, big: str) -> None:
    options = {"compress": compress, "tiled": True, "blockxsize": 64, "blockysize": 64, "BIGTIFF": big}
    path = save(tmp_path / "a.tif", picture(1), **options)
    data = path.read_bytes()
    path.write_bytes(data[: directories(path)[0][324].numbers[-1]])
    assert "cut short (some of its pixels would lie beyond its end)" in refused(path)
    path.write_bytes(data + b"more")
    assert restore(path, tmp_path / "b.tif", Window(0, 0, 9, 9)) is not None


def test_a_last_strip_that_claims_rows_beyond_the_picture_is_no_cut(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", picture(1), compress="none", blockysize=16)
    tags, data = directories(path)[0], path.read_bytes()
    lengths = tags[279].numbers
    assert lengths[0] == 16 * WIDTH > lengths[-1] and tags[273].numbers[-1] + lengths[-1] == len(data)
    letter = "<LL" if tags[279].kind == 4 else "<HH"
    old, new = struct.pack(letter, lengths[-2], lengths[-1]), struct.pack(letter, lengths[0], lengths[0])
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))
    assert directories(path)[0][279].numbers[-1] == lengths[0]
    assert restore(path, tmp_path / "b.tif") == ()
    np.testing.assert_array_equal(load(tmp_path / "b.tif"), filled(load(path)))


@pytest.mark.parametrize("compress", ["deflate", "jpeg"])
def test_wherever_a_file_is_cut_nobody_is_told_of_buffers(tmp_path: Path, compress: str) -> None:
    path = save(tmp_path / "a.tif", picture(1, width=16, height=16), compress=compress)
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        try:
            restore(path, tmp_path / "b.tif", Window(0, 0, 4, 4), overwrite=True)
        except ItemError as error:
            assert "buffer" not in error.reason and "unpack" not in error.reason, (length, error.reason)


def test_a_tag_that_claims_more_than_there_is_gives_what_there_is(tmp_path: Path) -> None:
    entry = struct.pack("<HHQQ", 34675, 7, 2**62, 16) + struct.pack("<HHQQ", 700, 7, 2**62, 2**63)
    entry += struct.pack("<HHQQ", 274, 3, 0, 0)
    path = tmp_path / "a.tif"
    path.write_bytes(hostile(True, count=3, entry=entry + b"\0" * 8))
    found = Directory.first(path)
    assert len(found.value(34675, 2**62)[2]) == path.stat().st_size - 16
    with pytest.raises(ValueError, match="cannot be read"):
        found.value(700)
    assert found.number(274, 1) == 1 and orientation(path) == 1
    with pytest.raises(ValueError, match="274"):
        found.number(274)


@given(st.binary(max_size=200), st.sampled_from([b"II*\0", b"MM\0*", b"II+\0\x08\0\0\0", b"MM\0+\0\x08\0\0"]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_garbage_is_anything_but_an_item_error(tmp_path: Path, garbage: bytes, start: bytes) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(start + garbage)
    refused(path)
    with contextlib.suppress(ItemError):
        assert 1 <= orientation(path) <= 8


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # rasterio stumbles over GDAL's words
def test_any_byte_of_a_directory_may_be_wrong(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", picture(4, width=20, height=9), photometric="CMYK")
    good = path.read_bytes()
    for at in range(4, len(good) - 720):
        for value in (0, 255):
            path.write_bytes(good[:at] + bytes([value]) + good[at + 1 :])
            with contextlib.suppress(ItemError), Source(path) as source:
                source.read(Window(0, 0, 1, 1))
                source.thumbnail(9)


# ---------------------------------------------------------------- what is refused


def test_what_cannot_be_restored_is_refused_with_a_way_out(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    assert "no such file" in refused(path)
    assert "folder" in refused(tmp_path)
    path.touch()
    assert "empty (0 bytes)" in refused(path)
    path.write_text("hello")
    assert "not a TIFF" in refused(path)
    path.write_text('<?xml version="1.0"?>\n<VRTDataset rasterXSize="1" rasterYSize="1"></VRTDataset>')
    assert "is a VRT" in refused(path) and "gdal_translate" in refused(path)
    path.unlink()
    for dtype in ("int64", "uint64"):
        save(path, picture(1).astype(dtype))
        assert f"are {dtype} per channel, not 8, 16 or 32 bits, float32 or float64" in refused(path)
        assert "gdal_translate -ot Float64 a.tif out.tif" in refused(path) and "53 bits" in refused(path)
    save(path, picture(1).astype("complex64"))
    assert "complex64" in refused(path) and "gdal_translate" not in refused(path)
    save(path, picture(1, "float32"), NBITS=16)
    assert "float16" in refused(path)
    save(path, picture(1) % 4, NBITS=2)
    assert "2 bits" in refused(path) and "pconv restore" not in refused(path)
    assert "gdal_translate" not in refused(path)
    for depth, words in ((1, "1 bit per channel"), (4, "4 bits per channel")):
        (tmp_path / "a.png").write_bytes(png_bytes(16, 9, depth, 0, bytes([0b00110101]) * (2 * depth)))
        assert words in refused(tmp_path / "a.png") and "`pconv restore` takes it" in refused(tmp_path / "a.png")
    save(path, picture(1, "uint16") % 4096, NBITS=12)
    assert "12 bits" in refused(path) and "gdal_translate -co NBITS=16 a.tif out.tif" in refused(path)
    many_colours(path)
    assert "more than 256 colours: convert a copy (gdal_translate -ot Byte -expand rgb a.tif out.tif)" in refused(path)
    for mode, word in (("LAB", "Lab"), ("YCbCr", "YCbCr")):
        Image.new(mode, (9, 9)).save(path)
        assert f"colours are {word}" in refused(path)
    Image.new("CMYK", (9, 9)).save(tmp_path / "a.jpg")
    assert "colours are CMYK, not RGB or grey: `pconv restore` takes it" in refused(tmp_path / "a.jpg")


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_a_truncated_file_is_an_item_error_that_names_it(tmp_path: Path, share: float) -> None:
    data = save(tmp_path / "a.tif", picture(), compress="deflate", blockysize=16).read_bytes()
    (tmp_path / "a.tif").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ItemError, match="damaged") as caught, Source(tmp_path / "a.tif") as source:
        source.read(whole(source))
    assert caught.value.path == str(tmp_path / "a.tif") and "\n" not in caught.value.reason


# ---------------------------------------------------------------- views


def test_a_thumbnail_is_a_small_view_of_the_first_layer_in_the_files_own_values(tmp_path: Path) -> None:
    for bands, dtype in ((1, "uint8"), (3, "uint16"), (4, "uint8"), (1, "int16"), (5, "float64")):
        path = save(tmp_path / "a.tif", picture(bands, dtype))
        with Source(path) as source:
            view = source.thumbnail(50)
            layer = 1 if bands in (1, 5) else 3
            assert view.shape == (38, 50, layer) and view.dtype == dtype
            np.testing.assert_array_equal(source.thumbnail(10_000), load(path)[..., :layer])


def test_a_thumbnail_of_colours_that_are_multiplied_by_alpha_shows_them_without_it(tmp_path: Path) -> None:
    pixels = np.tile(np.uint8([40, 20, 10, 51]), (9, 12, 1))
    with Source(save(tmp_path / "a.tif", pixels, ALPHA="PREMULTIPLIED")) as source:
        assert source.thumbnail(6).tolist() == np.tile([200, 100, 50], (4, 6, 1)).tolist()


def test_a_thumbnail_comes_from_the_overviews_where_there_are_any(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", picture(3, width=600, height=500), compress="deflate", blockysize=16)
    with hushed(), rasterio.open(path, "r+") as raster:
        raster.build_overviews([2, 4], Resampling.average)
    data = bytearray(path.read_bytes())
    tags = directories(path)[0]
    for at, length in zip(tags[273].numbers, tags[279].numbers, strict=True):
        data[at : at + length] = b"\xff" * length
    path.write_bytes(data)  # the picture itself can be read no more
    with Source(path) as source:
        assert source.thumbnail(100).shape == (83, 100, 3)
        with pytest.raises(ItemError):
            source.read(whole(source))
