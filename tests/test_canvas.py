"""`canvas`: fills in a copy of the file, everything else as it was, and never half a file."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from handmade import chunk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.rpc import RPC
from rasterio.shutil import copy as rasterio_copy
from rasters import (
    HEIGHT,
    HOLE,
    POSITIONS,
    RNG,
    SIZES,
    WIDTH,
    XMP,
    Tag,
    blocks,
    decorated,
    directories,
    directory,
    fill,
    filled,
    give_tags,
    hushed,
    load,
    names,
    picture,
    restore,
    save,
    sub_directory,
    touched_blocks,
    whole,
)

from pconv_cli import _gdal, encoders, files, writing
from pconv_cli._pages import Pages
from pconv_cli.canvas import Canvas
from pconv_cli.errors import ItemError, Loss
from pconv_cli.regions import Window
from pconv_cli.strips import mask_strips, write_map
from pconv_cli.tiff import Source

# ---------------------------------------------------------------- copy, then patch


@pytest.mark.parametrize("big", ["NO", "YES"], ids=["classic", "big"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize(("bands", "interleave"), [(1, "pixel"), (3, "pixel"), (3, "band"), (4, "pixel"), (4, "band")])
@pytest.mark.parametrize("layout", ["tiles", "strips"])
@pytest.mark.parametrize("compress", ["none", "lzw", "deflate", "zstd", "packbits"])
def test_outside_the_fill_every_pixel_and_every_block_without_fill_stays(
    tmp_path: Path, compress: str, layout: str, bands: int, interleave: str, dtype: str, big: str
) -> None:
    shape = {"tiled": True, "blockxsize": 64, "blockysize": 64} if layout == "tiles" else {"blockysize": 16}
    predictor = {"predictor": 2} if compress in ("lzw", "zstd") else {}
    pixels = picture(bands, dtype)
    path = decorated(
        tmp_path / "a.tif", pixels, compress=compress, interleave=interleave, BIGTIFF=big, **shape, **predictor
    )
    before, stamp = path.read_bytes(), path.stat().st_mtime_ns
    with Source(path) as source:
        assert source.in_place and source.notices == () and source.dtype == dtype
        assert (source.width, source.height, source.bands) == (WIDTH, HEIGHT, bands)
    assert restore(path, tmp_path / "b.tif", value=201) == ()
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (before, stamp)
    np.testing.assert_array_equal(load(tmp_path / "b.tif"), filled(pixels, value=201))

    touched = touched_blocks(path, HOLE, bands)
    old, new = blocks(path), blocks(tmp_path / "b.tif")
    assert {number for number, pair in enumerate(zip(old, new, strict=True)) if pair[0] != pair[1]} == touched
    tags, kept = directories(path)[0], directories(tmp_path / "b.tif")[0]
    assert tags.keys() == kept.keys() >= {271, 274, 282, 700, 34665, 34853, 34675, 33550, 34735, 42113, 65000}
    for tag in tags.keys() - POSITIONS:
        assert kept[tag] == tags[tag], tag
    after = (tmp_path / "b.tif").read_bytes()
    for tag in (34665, 34853):
        assert directory(after, kept[tag].numbers[0]) == directory(before, tags[tag].numbers[0])
    assert names(tmp_path) == ["a.tif", "b.tif"]


def test_the_old_number_of_deflate_and_the_other_byte_order_are_patched_alike(tmp_path: Path) -> None:
    pixels = picture(3, "uint16")
    for endian in ("LITTLE", "BIG"):
        path = save(tmp_path / "a.tif", pixels, compress="deflate", blockysize=16, ENDIANNESS=endian)
        data = path.read_bytes()
        order = "<" if endian == "LITTLE" else ">"
        old = struct.pack(order + "HHL", 259, 3, 1) + struct.pack(order + "H", 8)
        assert data.count(old) == 1
        path.write_bytes(data.replace(old, old[:-2] + struct.pack(order + "H", 32946)))
        restore(path, tmp_path / "b.tif", overwrite=True)
        np.testing.assert_array_equal(load(tmp_path / "b.tif"), filled(pixels))
        assert (tmp_path / "b.tif").read_bytes()[:2] == path.read_bytes()[:2]
        assert directories(tmp_path / "b.tif")[0][259].numbers == (32946,)


def test_block_lengths_that_outgrow_their_16_bits_are_still_right(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((300, 300, 3), np.uint8)).save(
        tmp_path / "a.tif", compression="tiff_adobe_deflate", strip_size=300 * 3 * 100
    )
    noise = RNG.integers(0, 256, (300, 300, 3), dtype=np.uint8)
    with Source(tmp_path / "a.tif") as source, Canvas(source, tmp_path / "b.tif", overwrite=False) as canvas:
        canvas.lay(whole(source), noise, np.ones((300, 300), bool))
        canvas.commit()
    np.testing.assert_array_equal(load(tmp_path / "b.tif"), noise)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "b.tif")), noise)


def test_other_pages_are_kept_byte_for_byte(tmp_path: Path) -> None:
    pages = [Image.fromarray(picture()[:, :, :3]) for _ in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:], compression="tiff_lzw")
    notices = restore(tmp_path / "a.tif", tmp_path / "b.tif")
    assert notices == ("only the first of 3 pages is restored, the others are kept as they are",)
    for page in (1, 2):
        assert blocks(tmp_path / "a.tif", page) == blocks(tmp_path / "b.tif", page)
        assert directories(tmp_path / "a.tif")[page] == directories(tmp_path / "b.tif")[page]
    with Image.open(tmp_path / "b.tif") as image:
        np.testing.assert_array_equal(np.asarray(image), filled(np.asarray(pages[0])))
        assert image.n_frames == 3
        for page in (1, 2):
            image.seek(page)
            np.testing.assert_array_equal(np.asarray(image), np.asarray(pages[page]))


def test_without_fills_the_output_is_the_input(tmp_path: Path) -> None:
    path = decorated(tmp_path / "a.tif", picture(), compress="deflate", tiled=True, blockxsize=64, blockysize=64)
    with Source(path) as source, Canvas(source, tmp_path / "b.tif", overwrite=False) as canvas:
        same = source.read(HOLE)
        canvas.lay(HOLE, same, np.ones(same.shape[:2], bool))  # what is there already is no reason to encode again
        assert canvas.commit() == ()
    assert path.read_bytes() == (tmp_path / "b.tif").read_bytes()


def test_a_plane_that_does_not_change_is_left_alone(tmp_path: Path) -> None:
    pixels = picture(4)
    path = save(
        tmp_path / "a.tif", pixels, compress="deflate", interleave="band", tiled=True, blockxsize=64, blockysize=64
    )
    with Source(path) as source, Canvas(source, tmp_path / "b.tif", overwrite=False) as canvas:
        part = source.read(HOLE)
        part[..., :3] = 200
        canvas.lay(HOLE, part, np.ones(part.shape[:2], bool))
        canvas.commit()
    old, new = blocks(path), blocks(tmp_path / "b.tif")
    assert old[len(old) * 3 // 4 :] == new[len(new) * 3 // 4 :] and old != new


def test_missing_blocks_of_a_sparse_file_are_filled_where_needed(tmp_path: Path) -> None:
    with (
        hushed(),
        rasterio.open(
            tmp_path / "a.tif",
            "w",
            driver="GTiff",
            width=256,
            height=256,
            count=3,
            dtype="uint8",
            SPARSE_OK=True,
            tiled=True,
            blockxsize=64,
            blockysize=64,
            compress="lzw",
        ),
    ):
        pass
    restore(tmp_path / "a.tif", tmp_path / "b.tif")
    np.testing.assert_array_equal(load(tmp_path / "b.tif"), filled(np.zeros((256, 256, 3), np.uint8)))
    assert sum(1 for block in blocks(tmp_path / "b.tif") if block) == len(touched_blocks(tmp_path / "a.tif", HOLE, 3))


def test_a_cloud_optimised_file_is_patched_and_says_what_it_is_no_longer(tmp_path: Path) -> None:
    save(tmp_path / "plain.tif", picture(3, width=700, height=600))
    with hushed():
        rasterio_copy(tmp_path / "plain.tif", tmp_path / "a.tif", driver="COG", blocksize=128, overviews="NONE")
    notices = restore(tmp_path / "a.tif", tmp_path / "b.tif")
    assert len(notices) == 1 and "cloud-optimised" in notices[0]
    np.testing.assert_array_equal(load(tmp_path / "b.tif"), filled(load(tmp_path / "a.tif")))


# ---------------------------------------------------------------- blocks that lie where others do


def point(path: Path, page: int, starts: tuple[int, ...], lengths: tuple[int, ...]) -> None:
    """Have the blocks of a page lie elsewhere in its file."""
    data, tags = path.read_bytes(), directories(path)[page]
    order = "<" if data[:2] == b"II" else ">"
    for tag, numbers in zip((324, 325) if 324 in tags else (273, 279), (starts, lengths), strict=True):
        new = struct.pack(f"{order}{len(numbers)}{ {3: 'H', 4: 'L', 16: 'Q'}[tags[tag].kind] }", *numbers)
        if new != tags[tag].data:
            assert data.count(tags[tag].data) == 1 and len(new) == len(tags[tag].data)
            data = data.replace(tags[tag].data, new)
    path.write_bytes(data)


def placed(path: Path, page: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Where the blocks of a page lie, and how long they are."""
    tags = directories(path)[page]
    return (tags[324].numbers, tags[325].numbers) if 324 in tags else (tags[273].numbers, tags[279].numbers)


@pytest.mark.parametrize("endian", ["LITTLE", "BIG"])
@pytest.mark.parametrize("big", ["NO", "YES"], ids=["classic", "big"])
@pytest.mark.parametrize("compress", ["none", "lzw", "deflate", "packbits", "jpeg"])
def test_tiles_that_have_their_bytes_in_common_change_alone(
    tmp_path: Path, compress: str, big: str, endian: str
) -> None:
    tile = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)  # noise, so that a fill makes it shorter
    path = save(
        tmp_path / "a.tif", np.tile(tile, (8, 8, 1)), tiled=True, blockxsize=64, blockysize=64, compress=compress,
        BIGTIFF=big, ENDIANNESS=endian, interleave="band" if compress == "lzw" else "pixel",
    )  # fmt: skip
    starts, lengths = placed(path, 0)
    planes = [number // 64 * 64 for number in range(len(starts))]  # one for each band, or one for all
    point(path, 0, tuple(starts[number] for number in planes), tuple(lengths[number] for number in planes))
    before, hole = load(path), Window(70, 70, 50, 40)
    restore(path, tmp_path / "b.tif", hole)
    after = load(tmp_path / "b.tif")
    if compress == "jpeg":
        assert np.abs(after[64:128, 64:128].astype(int) - filled(before, hole)[64:128, 64:128]).max() < 120
        after[64:128, 64:128] = filled(before, hole)[64:128, 64:128]
    np.testing.assert_array_equal(after, filled(before, hole))
    assert (tmp_path / "b.tif").stat().st_size < path.stat().st_size + 40 * max(lengths) * len(set(planes))


@pytest.mark.parametrize("alike", ["strips", "directory"])
@pytest.mark.parametrize("compress", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_pages_that_have_their_strips_in_common_change_alone(tmp_path: Path, compress: str, alike: str) -> None:
    pixels = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    path, image = tmp_path / "a.tif", Image.fromarray(pixels)
    image.save(path, save_all=True, append_images=[image, image], compression=compress, strip_size=WIDTH * 3 * 16)
    data = path.read_bytes()
    if alike == "strips":
        point(path, 0, *placed(path, 2))
    else:  # even the tables of where they are, and how long
        at = struct.unpack_from("<L", data, 4)[0]
        second = directory(data)[1]
        size = 2 + 12 * len(directory(data)[0])
        path.write_bytes(data[:second] + data[at : at + size] + data[second + size :])
    restore(path, tmp_path / "b.tif", value=0)
    with Image.open(path) as old, Image.open(tmp_path / "b.tif") as new:
        assert old.n_frames == new.n_frames == 3
        for page in range(3):
            old.seek(page)
            new.seek(page)
            wanted = np.asarray(old) if page else filled(np.asarray(old), value=0)
            np.testing.assert_array_equal(np.asarray(new), wanted)


def test_tiles_that_overviews_have_in_common_with_the_picture_change_alone(tmp_path: Path) -> None:
    pixels = np.full((512, 512, 3), 90, np.uint8)
    path = save(tmp_path / "a.tif", pixels, tiled=True, blockxsize=64, blockysize=64)
    with hushed(), rasterio.open(path, "r+") as raster:
        raster.build_overviews([2, 4], Resampling.nearest)
    starts, lengths = placed(path, 1)
    for page in (0, 2):
        count = len(placed(path, page)[0])
        point(path, page, starts[:1] * count, lengths[:1] * count)
    hole = Window(0, 0, 60, 60)
    assert restore(path, tmp_path / "b.tif", hole) == ()
    expected = filled(pixels, hole)
    np.testing.assert_array_equal(load(tmp_path / "b.tif"), expected)
    for level, step in enumerate((2, 4)):
        np.testing.assert_array_equal(load(tmp_path / "b.tif", OVERVIEW_LEVEL=level), expected[::step, ::step])


def test_tiles_of_a_mask_that_have_their_bytes_in_common_change_alone(tmp_path: Path) -> None:
    mask = np.tile(RNG.integers(0, 2, (64, 64), dtype=np.uint8) * np.uint8(255), (4, 4))
    path = save(
        tmp_path / "a.tif", picture(3, width=256, height=256), lambda raster: raster.write_mask(mask),
        compress="deflate", tiled=True, blockxsize=64, blockysize=64,
    )  # fmt: skip
    starts, lengths = placed(path, 1)
    point(path, 1, starts[:1] * 16, lengths[:1] * 16)
    hole = Window(64, 64, 60, 60)
    restore(path, tmp_path / "b.tif", hole, mark=True)
    with Source(tmp_path / "b.tif") as made:
        np.testing.assert_array_equal(made.mask(whole(made)), filled(mask, hole, 255))


def test_what_tiles_in_common_come_to_counts_where_room_is_scarce(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(
        tmp_path / "a.tif",
        np.tile(picture(3, width=64, height=64), (4, 4, 1)),
        tiled=True,
        blockxsize=64,
        blockysize=64,
    )
    starts, lengths = placed(path, 0)
    whole = 256 * 256 * 3
    monkeypatch.setattr("pconv_cli.canvas._CLASSIC_LIMIT", path.stat().st_size + whole + 1000)
    assert restore(path, tmp_path / "b.tif") == ()
    point(path, 0, starts[:1] * 16, lengths[:1] * 16)
    assert "4 GiB" in restore(path, tmp_path / "c.tif")[0]


# ---------------------------------------------------------------- JPEG inside


@pytest.mark.parametrize(("colours", "interleave"), [("YCBCR", "pixel"), ("RGB", "pixel"), ("RGB", "band")])
@pytest.mark.parametrize("tables", [0, 1, 2, 3])
@pytest.mark.parametrize("quality", [60, 75, 90, 98])
def test_jpeg_blocks_are_encoded_again_at_their_own_quality(
    tmp_path: Path, quality: int, tables: int, colours: str, interleave: str
) -> None:
    options = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "jpeg", "interleave": interleave}
    path = save(
        tmp_path / "a.tif", picture(), photometric=colours, JPEG_QUALITY=quality, JPEGTABLESMODE=tables, **options
    )
    small = Window(70, 70, 4, 4)
    notices = restore(path, tmp_path / "b.tif", small, value=100)
    told = "the one tile of 64 x 64 px that holds damage is encoded again, and pixels anywhere in it may move"
    assert notices == (f"JPEG-compressed: {told}",)
    old, new = load(path).astype(int), load(tmp_path / "b.tif").astype(int)
    block = Window(64, 64, 64, 64)
    difference = np.abs(new - old)
    difference[small.y - 10 : small.bottom + 10, small.x - 10 : small.right + 10] = 0
    # The same tables change next to nothing; those of another quality would show all over the block.
    assert difference[block.slices].mean() < (0.6 if colours == "YCBCR" else 0.25)
    difference[block.slices] = 0
    assert not difference.any()
    touched = touched_blocks(path, small, 3)
    was, now = blocks(path), blocks(tmp_path / "b.tif")
    assert {number for number, pair in enumerate(zip(was, now, strict=True)) if pair[0] != pair[1]} == touched
    tags, kept = directories(path)[0], directories(tmp_path / "b.tif")[0]
    assert kept.keys() - tags.keys() <= {347} and all(kept[tag] == tags[tag] for tag in tags.keys() - POSITIONS - {347})


@pytest.mark.parametrize("interleave", ["pixel", "band"])
@pytest.mark.parametrize("tables", [0, 1, 3])
@pytest.mark.parametrize("quality", [60, 90])
def test_jpeg_blocks_of_inks_are_encoded_again_as_inks(
    tmp_path: Path, quality: int, tables: int, interleave: str
) -> None:
    path = save(
        tmp_path / "a.tif", picture(4), photometric="CMYK", compress="jpeg", JPEG_QUALITY=quality,
        JPEGTABLESMODE=tables, interleave=interleave, tiled=True, blockxsize=64, blockysize=64,
    )  # fmt: skip
    small = Window(70, 70, 16, 16)
    (notice,) = restore(path, tmp_path / "b.tif", small, value=100)
    assert "the one tile of 64 x 64 px that holds damage is encoded again" in notice
    with Source(path) as source, Source(tmp_path / "b.tif") as made:
        assert made.inks and made.bands == 4
        old, new = source.read(whole(source)).astype(int), made.read(whole(made)).astype(int)
    with Image.open(tmp_path / "b.tif") as image:
        assert image.mode == "CMYK"
        np.testing.assert_array_equal(np.asarray(image), new)
    assert np.abs(new[small.slices] - 100).mean() < 4
    difference = np.abs(new - old)
    difference[small.y - 10 : small.bottom + 10, small.x - 10 : small.right + 10] = 0
    assert difference[64:128, 64:128].mean() < 0.25
    difference[64:128, 64:128] = 0
    assert not difference.any()
    was, now = blocks(path), blocks(tmp_path / "b.tif")
    changed = {number for number, pair in enumerate(zip(was, now, strict=True)) if pair[0] != pair[1]}
    assert changed == touched_blocks(path, small, 4)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_jpeg_subsampling_is_kept(tmp_path: Path, subsampling: int) -> None:
    path = jpeg_in_tiff(tmp_path / "a.tif", picture(), quality=90, subsampling=subsampling)
    restore(path, tmp_path / "b.tif", Window(70, 70, 4, 4), value=100)
    tags = directories(tmp_path / "b.tif")[0]
    assert tags[530].numbers == {0: (1, 1), 1: (2, 1), 2: (2, 2)}[subsampling]
    difference = np.abs(load(tmp_path / "b.tif").astype(int) - load(path))
    assert np.median(difference) <= 1 and difference.mean() < 1
    np.asarray(Image.open(tmp_path / "b.tif"))


def jpeg_in_tiff(path: Path, pixels: np.ndarray, rows: int = 0, **options: Any) -> Path:
    """Strips, or one, that are whole JPEG streams with tables of their own, as scanners and tifffile write them."""
    height, width = pixels.shape[:2]
    streams = []
    for y in range(0, height, rows or height):
        Image.fromarray(pixels[y : y + (rows or height)]).save(path.with_suffix(".jpg"), **options)
        stream = path.with_suffix(".jpg").read_bytes()
        streams.append(stream + b"\0" * (len(stream) % 2))
    path.with_suffix(".jpg").unlink()
    at = stream.index(b"\xff\xc0") + 11
    ratio = stream[at] >> 4, stream[at] & 15
    shorts = {256: (width,), 257: (height,), 258: (8, 8, 8), 259: (7,), 262: (6,), 277: (3,), 278: (rows or height,)}
    shorts |= {284: (1,), 530: ratio}
    tags = {tag: (3, struct.pack(f"<{len(values)}H", *values)) for tag, values in shorts.items()}
    lengths = [len(stream) for stream in streams]
    starts = [8 + sum(lengths[:number]) for number in range(len(lengths))]
    tags |= {tag: (4, struct.pack(f"<{len(values)}L", *values)) for tag, values in ((273, starts), (279, lengths))}
    base, table, extra = 8 + sum(lengths), b"", b""
    for tag, (kind, value) in sorted(tags.items()):
        place = value.ljust(4, b"\0")
        if len(value) > 4:
            place = struct.pack("<L", base + 6 + 12 * len(tags) + len(extra))
            extra += value
        table += struct.pack("<HHL", tag, kind, len(value) // SIZES[kind]) + place
    head = b"II*\0" + struct.pack("<L", base)
    path.write_bytes(head + b"".join(streams) + struct.pack("<H", len(tags)) + table + b"\0\0\0\0" + extra)
    return path


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_several_strips_of_any_jpeg_subsampling_are_encoded_again(tmp_path: Path, subsampling: int) -> None:
    path = jpeg_in_tiff(tmp_path / "a.tif", picture(), rows=16, quality=90, subsampling=subsampling)
    small = Window(70, 30, 4, 20)
    restore(path, tmp_path / "b.tif", small, value=100)
    assert directories(tmp_path / "b.tif")[0][530].numbers == {0: (1, 1), 1: (2, 1), 2: (2, 2)}[subsampling]
    old, new = load(path), load(tmp_path / "b.tif").astype(int)
    assert np.abs(new[small.slices] - 100).mean() < 12
    strips = slice(16, 64)
    assert np.abs(new - old)[strips].mean() < 1.5
    new[strips] = old[strips]
    np.testing.assert_array_equal(new, old)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "group4"])
def test_bits_that_fill_bytes_from_the_other_end_are_patched(tmp_path: Path, compression: str) -> None:
    image = Image.fromarray(picture(1)[..., 0] > 100)
    image.save(tmp_path / "a.tif", compression=compression, tiffinfo={266: 2, 278: 16})
    assert directories(tmp_path / "a.tif")[0][266].numbers == (2,)
    restore(tmp_path / "a.tif", tmp_path / "b.tif", value=1)
    assert directories(tmp_path / "b.tif")[0][266].numbers == (2,)
    with Image.open(tmp_path / "b.tif") as made:
        np.testing.assert_array_equal(np.asarray(made), filled(np.asarray(image), value=1))


def test_what_cannot_be_read_back_is_no_fault_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = jpeg_in_tiff(tmp_path / "a.tif", picture(), rows=16, subsampling=0)
    monkeypatch.setattr("pconv_cli.canvas.threads", lambda tiff: {"NUM_THREADS": "ALL_CPUS"})
    with pytest.raises(ItemError, match=r"written \(on reading it back: .+\): check the disk, or .*copy") as caught:
        restore(path, tmp_path / "b.tif")
    assert "folder" not in caught.value.reason and "See previous" not in caught.value.reason
    assert names(tmp_path) == ["a.tif"]


def test_tables_of_a_camera_are_repeated_no_coarser(tmp_path: Path) -> None:
    """Tables that are of no libjpeg quality: the next finer one is taken."""
    path = jpeg_in_tiff(tmp_path / "a.tif", picture(), qtables=[[3] * 64, [4] * 64], subsampling=0)
    restore(path, tmp_path / "b.tif", Window(70, 70, 4, 4), value=100)
    difference = np.abs(load(tmp_path / "b.tif").astype(int) - load(path))
    difference[60:90, 60:90] = 0
    assert difference.mean() < 0.6 and difference.max() < 8


def test_shared_tables_of_no_known_quality_have_the_file_written_anew(tmp_path: Path) -> None:
    path = jpeg_in_tiff(tmp_path / "a.tif", picture(), qtables=[[3] * 64, [4] * 64], subsampling=0)
    give_tags(
        path,
        {
            347: (
                7,
                138,
                b"\xff\xd8"
                + b"".join(
                    b"\xff\xdb\0\x43" + bytes([number]) + bytes([value]) * 64 for number, value in ((0, 3), (1, 4))
                )
                + b"\xff\xd9",
            )
        },
    )
    with Source(path) as source:
        assert not source.in_place
    (notice,) = restore(path, tmp_path / "b.tif")
    assert "tables" in notice
    np.testing.assert_array_equal(load(tmp_path / "b.tif"), filled(load(path)))


# ---------------------------------------------------------------- what says that there is no picture


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32"])
def test_marking_makes_alpha_full_where_filled(tmp_path: Path, dtype: str) -> None:
    pixels = picture(4, dtype)
    pixels[..., 3] = 9
    path = save(tmp_path / "a.tif", pixels, ALPHA="YES", compress="lzw")
    restore(path, tmp_path / "b.tif", mark=True)
    expected = filled(pixels)
    expected[(*HOLE.slices, 3)] = np.iinfo(dtype).max
    np.testing.assert_array_equal(load(tmp_path / "b.tif"), expected)
    restore(path, tmp_path / "c.tif")
    np.testing.assert_array_equal(load(tmp_path / "c.tif"), filled(pixels))


@pytest.mark.parametrize("compress", ["deflate", "lerc"])
@pytest.mark.parametrize("overviews", [False, True])
def test_marking_alpha_makes_no_mask_beside_it(tmp_path: Path, compress: str, overviews: bool) -> None:
    pixels = picture(4, width=600, height=500)
    hole = Window(100, 100, 60, 40)
    pixels[..., 3] = 255
    pixels[(*hole.slices, 3)] = 0
    path = save(tmp_path / "a.tif", pixels, ALPHA="YES", compress=compress, tiled=True, blockxsize=64, blockysize=64)
    if overviews:
        with hushed(), rasterio.open(path, "r+") as raster:
            raster.build_overviews([2], Resampling.nearest)
    pages = len(directories(path))
    restore(path, tmp_path / "b.tif", hole, mark=True)
    assert len(directories(tmp_path / "b.tif")) == pages
    with hushed(), rasterio.open(tmp_path / "b.tif") as raster:
        assert MaskFlags.alpha in raster.mask_flag_enums[0] and (raster.dataset_mask() == 255).all()
    expected = filled(pixels, hole)
    expected[(*hole.slices, 3)] = 255
    np.testing.assert_array_equal(load(tmp_path / "b.tif"), expected)
    if overviews:
        np.testing.assert_array_equal(load(tmp_path / "b.tif", OVERVIEW_LEVEL=0), expected[::2, ::2])


@pytest.mark.parametrize("nodata", [0, 200, 255])
def test_a_fill_is_never_the_nodata_value(tmp_path: Path, nodata: int) -> None:
    pixels = picture()
    pixels[:10] = nodata
    pixels[10, :, 0] = nodata  # one band alone says nothing
    path = save(tmp_path / "a.tif", pixels, nodata=nodata, compress="deflate")
    with Source(path) as source:
        assert (source.validity, source.nodata) == ("nodata", nodata)
        valid = source.valid(whole(source))
        np.testing.assert_array_equal(valid, ~(pixels == nodata).all(axis=2))
    restore(path, tmp_path / "b.tif", Window(0, 0, 30, 30), value=nodata)
    with Source(tmp_path / "b.tif") as source:
        assert source.valid(Window(0, 0, 30, 30)).all() and not source.valid(Window(40, 0, 30, 9)).any()
        out = source.read(Window(0, 0, 30, 30)).astype(int)
        assert np.abs(out - nodata).sum(axis=2).max() == 1
    restore(path, tmp_path / "c.tif", Window(0, 0, 30, 30), value=nodata, mark=True)
    np.testing.assert_array_equal(load(tmp_path / "c.tif"), load(tmp_path / "b.tif"))


@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [("int8", -128), ("int16", -32768), ("int16", -9999), ("int16", 32767), ("int32", -(2**31)), ("int32", 2**31 - 1),
     ("uint32", 2**32 - 1), ("float64", -9999), ("float64", -1.7e308), ("float64", 0)],
)  # fmt: skip
@pytest.mark.parametrize("compress", ["deflate", "lzma"])
def test_of_any_type_a_fill_that_would_be_nodata_is_the_value_beside_it(
    tmp_path: Path, dtype: str, nodata: float, compress: str
) -> None:
    pixels = (picture(1) // 2).astype(dtype)
    pixels[:50] = nodata
    path = save(tmp_path / "a.tif", pixels, nodata=nodata, compress=compress)
    with Source(path) as source, Canvas(source, tmp_path / "b.tif", overwrite=False) as canvas:
        assert source.nothing == nodata and source.in_place == (compress == "deflate")
        canvas.lay(HOLE, np.full((HOLE.height, HOLE.width, 1), nodata, dtype), np.ones((HOLE.height, HOLE.width), bool))
        canvas.commit()
    made = load(tmp_path / "b.tif")
    fills = np.unique(made[HOLE.slices])
    assert made.dtype == dtype and len(fills) == 1 and fills[0] != nodata and np.isfinite(fills[0])
    assert abs(float(fills[0]) - nodata) <= max(1, abs(nodata) * 1e-15)
    made[HOLE.slices] = pixels[HOLE.slices]
    assert made.tobytes() == pixels.tobytes()


@pytest.mark.parametrize("compress", ["deflate", "jpeg"])
def test_the_mask_band_is_read_and_marked(tmp_path: Path, compress: str) -> None:
    mask = np.full((HEIGHT, WIDTH), 255, np.uint8)
    mask[:60] = 0
    path = save(
        tmp_path / "a.tif",
        picture(),
        lambda raster: raster.write_mask(mask),
        compress=compress,
        tiled=True,
        blockxsize=64,
        blockysize=64,
    )
    with Source(path) as source:
        assert source.validity == "mask band" and source.notices == ()
        np.testing.assert_array_equal(source.valid(whole(source)), mask > 0)
    restore(path, tmp_path / "b.tif")
    with Source(tmp_path / "b.tif") as source:
        np.testing.assert_array_equal(source.valid(whole(source)), mask > 0)
    restore(path, tmp_path / "c.tif", mark=True)
    with Source(tmp_path / "c.tif") as source:
        np.testing.assert_array_equal(source.valid(whole(source)), filled(mask, value=255) > 0)
        assert np.abs(source.read(HOLE).astype(int) - 200).mean() < 3
    assert names(tmp_path) == ["a.tif", "b.tif", "c.tif"]


@pytest.mark.parametrize(("given", "kept"), [(6, 6), (3, 3), (34, 1), (0, 1)])
def test_a_jpeg_written_anew_lies_as_it_did_and_no_turn_is_made_up(tmp_path: Path, given: int, kept: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = given
    Image.fromarray(picture()).save(tmp_path / "a.jpg", exif=exif)
    restore(tmp_path / "a.jpg", tmp_path / "b.tif")
    with Source(tmp_path / "b.tif") as made:
        assert made.orientation == kept
    assert (274 in directories(tmp_path / "b.tif")[0]) == (kept != 1)


# ---------------------------------------------------------------- what lies beside


def test_files_beside_the_picture_are_read_but_not_carried_over_and_named(tmp_path: Path) -> None:
    mask = np.full((HEIGHT, WIDTH), 255, np.uint8)
    mask[:60] = 0
    path = save(tmp_path / "a.tif", picture(), compress="lzw")
    with hushed(), rasterio.Env(GDAL_TIFF_INTERNAL_MASK="NO"):
        with rasterio.open(path, "r+") as raster:
            raster.write_mask(mask)
        with rasterio.Env(TIFF_USE_OVR="YES"), rasterio.open(path, "r+") as raster:
            raster.build_overviews([2], Resampling.nearest)
    assert {"a.tif.msk", "a.tif.ovr"} <= set(names(tmp_path))
    beside = names(tmp_path)
    notices = restore(path, tmp_path / "b.tif", mark=True)
    assert len(notices) == 1 and "a.tif.msk" in notices[0] and "a.tif.ovr" in notices[0]
    np.testing.assert_array_equal(load(tmp_path / "b.tif"), filled(load(path)))
    assert names(tmp_path) == sorted([*beside, "b.tif"])


@pytest.mark.parametrize("compress", ["lzw", "lzma"])
def test_what_places_a_picture_from_beside_it_goes_with_the_output(tmp_path: Path, compress: str) -> None:
    path, output = save(tmp_path / "a.tif", picture(1), compress=compress), tmp_path / "b.tif"
    place = rasterio.Affine(0.5, 0, 500000, 0, -0.5, 5600000)
    (tmp_path / "a.tif.aux.xml").write_text(
        f"<PAMDataset><SRS>{rasterio.CRS.from_epsg(25832).to_wkt()}</SRS>"
        f"<GeoTransform>{', '.join(map(str, place.to_gdal()))}</GeoTransform>"
        "<PAMRasterBand band='1'><Metadata><MDI key='STATISTICS_MEAN'>7</MDI><MDI key='kept'>8</MDI></Metadata>"
        "</PAMRasterBand></PAMDataset>"
    )
    notices = restore(path, output)
    assert not any(isinstance(notice, Loss) for notice in notices)
    with hushed(), rasterio.open(path) as old, rasterio.open(output) as new:
        assert new.crs == old.crs == "EPSG:25832" and new.transform == old.transform == place
        assert new.tags(1) == {"kept": "8"} and old.tags(1)["STATISTICS_MEAN"] == "7"
    with Source(path) as source:
        write_map([np.zeros((HEIGHT, WIDTH), np.uint8)], tmp_path / "m.tif", source, rows=256, overwrite=False)
    with hushed(), rasterio.open(tmp_path / "m.tif") as map_:
        assert map_.crs == "EPSG:25832" and map_.transform == place
    assert names(tmp_path) == ["a.tif", "a.tif.aux.xml", "b.tif", "b.tif.aux.xml", "m.tif"]


@pytest.mark.parametrize("compress", ["lzw", "lzma"])
def test_statistics_in_the_file_go_once_anything_is_filled_and_nothing_else_does(tmp_path: Path, compress: str) -> None:
    def counted(raster: Any) -> None:
        raster.update_tags(author="me & you", STATISTICS_NOTE="of all")
        raster.update_tags(1, STATISTICS_MEAN="7", kept="8 < 9", STATISTICS_MAXIMUM="")
        raster.update_tags(2, STATISTICS_MEAN="9")
        raster.descriptions = ["one", "two"]

    path, output = save(tmp_path / "a.tif", picture(2), counted, compress=compress), tmp_path / "b.tif"
    assert not any(isinstance(notice, Loss) for notice in restore(path, output))
    with hushed(), rasterio.open(path) as old, rasterio.open(output) as new:
        assert old.tags(2) == {"STATISTICS_MEAN": "9"} and new.tags(2) == {}
        assert new.tags(1) == {"kept": "8 < 9"} and new.descriptions == ("one", "two")
        assert {**new.tags(), "STATISTICS_NOTE": "of all"} == old.tags()
    if compress == "lzw":
        (before, *_), (after, *_) = directories(path), directories(output)
        assert {tag for tag in before if before[tag] != after[tag]} <= POSITIONS | {42112}
        with Source(path) as source, Canvas(source, tmp_path / "c.tif", overwrite=False) as canvas:
            canvas.commit()
        assert directories(tmp_path / "c.tif")[0][42112] == before[42112]


def test_a_world_file_goes_with_the_output_but_over_nothing(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", picture(1))
    (tmp_path / "a.tfw").write_text("2\n0\n0\n-2\n100\n200\n")
    (tmp_path / "b.tfw").write_text("mine")
    with pytest.raises(ItemError, match=r"b\.tfw beside it is there already"):
        restore(path, tmp_path / "b.tif")
    assert names(tmp_path) == ["a.tfw", "a.tif", "b.tfw"] and (tmp_path / "b.tfw").read_text() == "mine"
    assert restore(path, tmp_path / "b.tif", overwrite=True) == ()
    assert (tmp_path / "b.tfw").read_bytes() == (tmp_path / "a.tfw").read_bytes()
    writing.copy_file(path, tmp_path / "c.tif", overwrite=False)
    assert names(tmp_path) == ["a.tfw", "a.tif", "b.tfw", "b.tif", "c.tfw", "c.tif"]


def test_a_table_beside_the_picture_places_the_output_and_upper_case_is_no_loss(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", picture(1))
    corners = [(0, 0), (WIDTH, 0), (0, HEIGHT)]
    points = [f'  ({500 + 2 * x},{900 - 2 * y}) ({x},{y}) Label "Pt",' for x, y in corners]
    system = '  CoordSys Earth Projection 8, 104, "m", 9, 0, 0.9996, 500000, 0'
    lines = ["!table", "Definition Table", '  File "a.tif"', '  Type "RASTER"', *points, system]
    (tmp_path / "a.TAB").write_text("\n".join(lines))
    assert restore(path, tmp_path / "b.tif") == ()
    with hushed(), rasterio.open(tmp_path / "b.tif") as made:
        assert made.crs == "EPSG:32632" and made.transform == rasterio.Affine(2, 0, 500, 0, -2, 900)
    assert 'File "b.tif"' in (tmp_path / "b.tab").read_text()
    (tmp_path / "a.TAB").unlink()
    (tmp_path / "a.TFW").write_text("2\n0\n0\n-2\n100\n200\n")
    assert restore(path, tmp_path / "c.tif") == ()
    assert "c.tfw" in names(tmp_path)


def test_without_an_output_nothing_is_left_beside_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.tif", picture(1))
    (tmp_path / "a.tfw").write_text("2\n0\n0\n-2\n100\n200\n")

    def taken(*_: object) -> None:
        raise FileExistsError

    place = files.place
    monkeypatch.setattr(
        files,
        "place",
        lambda part, target, **more: place(part, target, **more) if target.suffix == ".tfw" else taken(),
    )
    with pytest.raises(ItemError):
        restore(path, tmp_path / "b.tif")
    with pytest.raises(ItemError):
        writing.copy_file(path, tmp_path / "b.tif", overwrite=False)
    assert names(tmp_path) == ["a.tfw", "a.tif"]


# ---------------------------------------------------------------- overviews


@pytest.mark.parametrize("compress", ["deflate", "jpeg"])
@pytest.mark.parametrize("method", ["average", "nearest", "cubic"])
def test_overviews_are_made_again_the_way_they_were(tmp_path: Path, method: str, compress: str) -> None:
    pixels = picture(3, width=600, height=500)
    path = save(tmp_path / "a.tif", pixels, compress=compress, tiled=True, blockxsize=64, blockysize=64)
    with hushed(), rasterio.open(path, "r+") as raster:
        raster.build_overviews([2, 4], Resampling[method])
    before = path.read_bytes()
    hole = Window(100, 100, 200, 200)
    notices = restore(path, tmp_path / "b.tif", hole)
    assert not any("overviews" in notice for notice in notices) and path.read_bytes() == before
    with hushed(), rasterio.open(tmp_path / "b.tif") as raster:
        assert raster.overviews(1) == [2, 4]
    for level, factor in enumerate((2, 4)):
        small = load(tmp_path / "b.tif", OVERVIEW_LEVEL=level)
        rows, columns = (slice((100 + 40) // factor, (300 - 40) // factor),) * 2
        assert np.abs(small[rows, columns].astype(int) - 200).max() <= (0 if compress == "deflate" else 6)
        far = np.abs(small.astype(int) - load(path, OVERVIEW_LEVEL=level))[350 // factor :]
        assert far.max() <= (0 if compress == "deflate" else 12)


def test_overviews_of_unknown_making_are_averaged_and_that_is_said(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", picture(3, width=600, height=500), compress="deflate")
    with hushed(), rasterio.open(path, "r+") as raster:
        raster.build_overviews([2], Resampling.average)
    data = path.read_bytes()
    assert data.count(b"RESAMPLING") == 1
    path.write_bytes(data.replace(b"RESAMPLING", b"SOMETHINGX"))
    (notice,) = restore(path, tmp_path / "b.tif", Window(100, 100, 100, 100))
    assert "averaging" in notice
    assert (load(tmp_path / "b.tif", OVERVIEW_LEVEL=0)[60:90, 60:90] == 200).all()


def with_preview(path: Path, preview: np.ndarray, *, below: bool, kind: int = 1) -> Path:
    """Give a little-endian classic TIFF a smaller view of itself, as a second page or in a SubIFD."""
    height, width, bands = preview.shape
    data = path.read_bytes()
    strip = len(data) + len(data) % 2
    path.write_bytes(data.ljust(strip, b"\0") + preview.tobytes())
    numbers = {254: kind, 256: width, 257: height, 259: 1, 262: 2 if bands == 3 else 1, 273: strip, 277: bands}
    numbers |= {278: height, 279: preview.nbytes, 284: 1}
    tags = {tag: (4, 1, struct.pack("<L", value)) for tag, value in numbers.items()}
    bits = struct.pack(f"<{bands}H", *[8 * preview.dtype.itemsize] * bands)
    at = sub_directory(path, tags | {258: (3, bands, bits)})
    if below:
        give_tags(path, {330: (4, 1, struct.pack("<L", at))})
    else:
        data = path.read_bytes()
        (first,) = struct.unpack_from("<L", data, 4)
        after = first + 2 + 12 * struct.unpack_from("<H", data, first)[0]
        path.write_bytes(data[:after] + struct.pack("<L", at) + data[after + 4 :])
    return path


@pytest.mark.parametrize("below", [False, True])
@pytest.mark.parametrize(("dtype", "bands"), [("uint16", 3), ("uint8", 3), ("uint16", 1)])
def test_a_preview_is_made_anew_or_said_to_show_the_damage(tmp_path: Path, dtype: str, bands: int, below: bool) -> None:
    pixels = picture(3, "uint16", width=400, height=320)
    small = (pixels[::4, ::4, :bands] >> (8 if dtype == "uint8" else 0)).astype(dtype)
    path = with_preview(save(tmp_path / "a.tif", pixels, compress="deflate"), small, below=below)
    with Source(path) as source:
        foreseen = source.lost_by_fills
    notices = restore(path, tmp_path / "b.tif", Window(100, 100, 200, 160))
    data = (tmp_path / "b.tif").read_bytes()
    tags, following = directory(data)
    page, _ = directory(data, tags[330].numbers[0] if below else following)
    start, length = page[273].numbers[0], page[279].numbers[0]
    stays = data[start : start + length] == small.tobytes()
    told = [notice for notice in notices if "still showing the damage" in notice]
    assert stays == bool(told) == ((dtype, bands) != ("uint16", 3))
    assert all(isinstance(notice, Loss) for notice in told) and foreseen == tuple(told)
    assert any("averaging" in notice for notice in notices) == (not stays)


def test_what_lies_below_and_is_no_smaller_view_is_not_made_anew(tmp_path: Path) -> None:
    pixels = picture(3, width=400, height=320)
    path = with_preview(save(tmp_path / "a.tif", pixels, compress="deflate"), pixels[::4, ::4], below=True, kind=0)
    (notice,) = restore(path, tmp_path / "b.tif", Window(100, 100, 200, 160))
    assert "still showing the damage" in notice
    with Source(path) as source:
        assert source.notices == (), "without a fill there is nothing to say"


# ---------------------------------------------------------------- written anew


def test_a_codec_that_is_not_updated_is_written_anew_with_everything_that_can_be_kept(tmp_path: Path) -> None:
    pixels = picture(4, "uint16")
    path = decorated(tmp_path / "a.tif", pixels, compress="lzma", ALPHA="PREMULTIPLIED")
    with Source(path) as source:
        assert not source.in_place
    (notice,) = restore(path, tmp_path / "b.tif", value=5000)
    assert notice.startswith("written anew") and "compression" in notice and notice.endswith("lost: EXIF, GPS")
    np.testing.assert_array_equal(load(tmp_path / "b.tif"), filled(pixels, value=5000))
    with hushed(), rasterio.open(path) as old, rasterio.open(tmp_path / "b.tif") as new:
        assert new.crs == old.crs and new.transform == old.transform and new.nodata == old.nodata == 7
        assert new.descriptions == old.descriptions and new.colorinterp == old.colorinterp
        assert new.tags() == old.tags()
        assert new.tags(ns="COLOR_PROFILE") == old.tags(ns="COLOR_PROFILE") != {}
        assert new.compression.name == "deflate" and new.block_shapes[0] == (512, 512)
    old_tags, new_tags = directories(path)[0], directories(tmp_path / "b.tif")[0]
    for tag in (262, 271, 274, 282, 283, 338, 700, 33550, 34675, 34735, 65000):
        assert new_tags[tag] == old_tags[tag], tag


@pytest.mark.parametrize("endian", ["LITTLE", "BIG"])
def test_parameters_of_a_compression_are_no_loss_where_another_is_written(tmp_path: Path, endian: str) -> None:
    path = save(tmp_path / "a.tif", picture(), compress="lerc_deflate", ENDIANNESS=endian)
    assert 50674 in directories(path)[0]
    (notice,) = restore(path, tmp_path / "b.tif")
    assert "written anew" in notice and not isinstance(notice, Loss)
    assert 50674 not in directories(tmp_path / "b.tif")[0]
    with Image.open(tmp_path / "b.tif") as made:
        np.testing.assert_array_equal(np.asarray(made), filled(load(path)))


@pytest.mark.parametrize("compress", ["lerc", "lzma"])
def test_what_values_mean_survives_being_written_anew(tmp_path: Path, compress: str) -> None:
    colours = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.nir]

    def after(raster: Any) -> None:
        raster.scales, raster.offsets, raster.units = (2.0, 1.0, 0.5, 1.0), (1.0, 0.0, 0.0, -3.0), ("m", "", "", "K")
        raster.update_tags(2, ns="stuff", A="b")
        raster.update_tags(2, plain="c")
        raster.update_tags(ns="stuff", A="d")

    path = save(tmp_path / "a.tif", picture(4, "float32"), after, compress=compress)
    with hushed(), rasterio.open(path, "r+") as raster:  # GDAL forgets it of a file that is being made
        raster.colorinterp = colours
    (notice,) = restore(path, tmp_path / "b.tif")
    assert "written anew" in notice and not isinstance(notice, Loss)
    with hushed(), rasterio.open(path) as old, rasterio.open(tmp_path / "b.tif") as new:
        assert new.scales == old.scales == (2.0, 1.0, 0.5, 1.0) and new.offsets == old.offsets == (1.0, 0.0, 0.0, -3.0)
        assert [unit or "" for unit in new.units] == [unit or "" for unit in old.units] == ["m", "", "", "K"]
        assert list(new.colorinterp) == list(old.colorinterp) == colours
        assert new.tags(2, ns="stuff") == {"A": "b"} and new.tags(ns="stuff") == {"A": "d"}
        assert new.tags(2)["plain"] == "c"


def test_ground_control_points_and_rpcs_survive_being_written_anew(tmp_path: Path) -> None:
    points = [GroundControlPoint(row, column, 10.0 + column, 50.0 - row) for row in (0, 99) for column in (0, 150)]
    rpcs = RPC(
        height_off=1, height_scale=2, lat_off=3, lat_scale=4, line_den_coeff=[1.0] * 20, line_num_coeff=[2.0] * 20,
        line_off=5, line_scale=6, long_off=7, long_scale=8, samp_den_coeff=[3.0] * 20, samp_num_coeff=[4.0] * 20,
        samp_off=9, samp_scale=10, err_bias=None, err_rand=None,
    )  # fmt: skip

    def with_points(raster: Any) -> None:
        raster.gcps = points, rasterio.crs.CRS.from_epsg(4326)

    def with_rpcs(raster: Any) -> None:
        raster.rpcs = rpcs

    for after in (with_points, with_rpcs):
        path = save(tmp_path / "a.tif", picture(), after, compress="lzma")
        restore(path, tmp_path / "b.tif", overwrite=True)
        with hushed(), rasterio.open(path) as old, rasterio.open(tmp_path / "b.tif") as new:
            assert [point.asdict() for point in new.gcps[0]] == [
                point.asdict() | {"id": mine.id} for point, mine in zip(old.gcps[0], new.gcps[0], strict=True)
            ]
            assert new.gcps[1] == old.gcps[1] and bool(new.rpcs) == bool(old.rpcs)
            assert new.rpcs is None or new.rpcs.to_gdal() == old.rpcs.to_gdal()
    assert names(tmp_path) == ["a.tif", "b.tif"]


def test_mask_band_and_overviews_survive_being_written_anew(tmp_path: Path) -> None:
    mask = np.full((500, 600), 255, np.uint8)
    mask[:60] = 0
    pixels = picture(3, width=600, height=500)
    path = save(tmp_path / "a.tif", pixels, lambda raster: raster.write_mask(mask), compress="lzma")
    with hushed(), rasterio.open(path, "r+") as raster:
        raster.build_overviews([2], Resampling.nearest)
    hole = Window(50, 40, 100, 100)
    (notice,) = restore(path, tmp_path / "b.tif", hole, mark=True)
    assert "lost" not in notice
    with Source(tmp_path / "b.tif") as source:
        np.testing.assert_array_equal(source.valid(whole(source)), filled(mask, hole, 255) > 0)
        np.testing.assert_array_equal(source.read(whole(source)), filled(pixels, hole))
    assert (load(tmp_path / "b.tif", OVERVIEW_LEVEL=0)[25:65, 30:70] == 200).all()
    assert names(tmp_path) == ["a.tif", "b.tif"]


@pytest.mark.parametrize(
    ("name", "options"),
    [("a.jpg", {"quality": 90}), ("a.png", {}), ("a.bmp", {}), ("a.webp", {"lossless": True}), ("a.jp2", {})],
)
def test_other_formats_are_written_anew_as_tiff(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    path = tmp_path / name
    if name == "a.jp2":
        save(path, picture(), driver="JP2OpenJPEG", photometric=None, QUALITY=100, REVERSIBLE="YES")
    else:
        exif = Image.Exif()
        exif[274] = 6
        Image.fromarray(picture()).save(path, **options, exif=exif, xmp=XMP, dpi=(300, 300))
    pixels = load(path)
    (notice,) = restore(path, tmp_path / "b.tif")
    assert notice == "written anew as a deflate TIFF in blocks of 512 pixels, because it is not a TIFF"
    np.testing.assert_array_equal(load(tmp_path / "b.tif"), filled(pixels))
    tags = directories(tmp_path / "b.tif")[0]
    with_exif, with_xmp = name in ("a.jpg", "a.png", "a.webp"), name in ("a.jpg", "a.webp")
    assert tags.get(274, Tag(3, 1, b"", (1,))).numbers == ((6,) if with_exif else (1,))
    assert (700 in tags) == with_xmp and tags.get(700, Tag(1, 0, XMP, ())).data == XMP
    resolution = struct.unpack("<LL", tags[282].data) if 282 in tags else ()
    assert (round(resolution[0] / resolution[1]) if resolution else 300) == 300
    assert bool(resolution) == (name in ("a.jpg", "a.png", "a.bmp"))
    assert names(tmp_path) == sorted([name, "b.tif"])


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("key.png", "its transparent colour"),
        ("palette.png", "the transparency of its palette"),
        ("text.png", ""),
        ("texts.png", "PNG texts Comment, Latin, Packed"),
        ("suggested.png", "its suggested palette"),
        ("comment.jpg", ""),
        ("latin.jpg", "JPEG segments (comments and the like)"),
        ("tail.jpg", "594 bytes after the end of the JPEG"),
        ("oblong.jpg", "its pixel aspect ratio"),
        ("private.webp", "WebP chunk PRIV"),
        ("exif.webp", "EXIF, GPS"),
        ("iptc.jpg", "JPEG segments (comments and the like)"),
        ("grey.png", ""),
    ],
)
def test_of_other_formats_what_no_new_tiff_holds_is_named_and_the_rest_is_there(
    tmp_path: Path, name: str, told: str
) -> None:
    image, options = Image.fromarray(picture()), dict[str, Any]()
    if name == "key.png":
        options["transparency"] = (74, 83, 92)
    elif name == "palette.png":
        image, options["transparency"] = image.quantize(64), bytes([255, 128])
    elif name == "grey.png":
        image, options["transparency"] = image.convert("L"), 83
    elif name == "text.png":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("Author", "nobody")
        options["pnginfo"].add_text("Some title", "plain")
    elif name == "texts.png":
        options["pnginfo"] = info = PngImagePlugin.PngInfo()
        for key, text in (("Title", "kept"), ("Latin", "Caf\xe9"), ("Comment", "one"), ("Comment", "two")):
            info.add(b"tEXt", f"{key}\0{text}".encode("latin-1"))
        info.add_text("Packed", "Caf\xe9", zip=True)
    elif name in ("comment.jpg", "latin.jpg"):
        options["comment"] = b"a comment" if name == "comment.jpg" else b"Caf\xe9"
    elif name == "exif.webp":
        options |= {"exif": (exif := Image.Exif()), "lossless": True}
        exif[271], exif.get_ifd(34665)[36867], exif.get_ifd(34853)[1] = "Maker", "2000:01:01 00:00:00", "N"
    image.save(tmp_path / name, **options)
    data = (tmp_path / name).read_bytes()
    if name == "suggested.png":
        (tmp_path / name).write_bytes(data[:33] + chunk(b"PLTE", bytes(30)) + data[33:])
    elif name == "tail.jpg":
        (tmp_path / name).write_bytes(data + b"MOTION" * 99)
    elif name == "oblong.jpg":
        (tmp_path / name).write_bytes(data[:13] + b"\0\0\2\0\1" + data[18:])
    elif name == "private.webp":
        private = b"PRIV" + struct.pack("<L", 3) + b"abc\0"
        (tmp_path / name).write_bytes(data[:4] + struct.pack("<L", len(data) + len(private) - 8) + data[8:] + private)
    elif name == "iptc.jpg":
        resource = b"8BIM\x04\x04\0\0\0\0\0\x08\x1c\x02\x19\0\x03abc"
        segments = {0xED: b"Photoshop 3.0\0" + resource, 0xFE: b"one", 0xEA: b"private"}
        more = b"".join(struct.pack(">BBH", 0xFF, kind, len(text) + 2) + text for kind, text in segments.items())
        (tmp_path / name).write_bytes(data[:2] + more + data[2:])
    (notice,) = restore(tmp_path / name, tmp_path / "b.tif")
    assert notice.endswith(f"it is not a TIFF{'; lost: ' * bool(told)}{told}")
    assert isinstance(notice, Loss) == bool(told)
    tags = directories(tmp_path / "b.tif")[0]
    assert name != "exif.webp" or tags[271].data == b"Maker\0"
    assert name != "iptc.jpg" or tags[33723].data.endswith(b"abc")
    with Source(tmp_path / "b.tif") as made:
        assert made.nodata == (83 if name == "grey.png" else None)


def test_blocks_too_big_to_hold_have_the_file_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "_LARGEST_BLOCK", 50_000)
    monkeypatch.setattr(_gdal, "STRIP", WIDTH * 3 * 40)  # rows of blocks of 32
    pixels = picture()
    path = save(tmp_path / "a.tif", pixels, compress="deflate", blockysize=HEIGHT)
    (notice,) = restore(path, tmp_path / "b.tif")
    assert "too big to be patched" in notice
    np.testing.assert_array_equal(load(tmp_path / "b.tif"), filled(pixels))
    with Source(save(tmp_path / "c.tif", pixels, compress="deflate", blockysize=16)) as source:
        assert source.in_place
    # What is not compressed has no blocks to speak of.
    path = save(tmp_path / "d.tif", pixels, blockysize=HEIGHT)
    assert restore(path, tmp_path / "e.tif") == ()
    np.testing.assert_array_equal(load(tmp_path / "e.tif"), filled(pixels))
    assert directories(path) == directories(tmp_path / "e.tif")


def test_a_classic_file_near_its_limit_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = picture()
    path = save(tmp_path / "a.tif", pixels, compress="deflate", blockysize=16)
    monkeypatch.setattr("pconv_cli.canvas._CLASSIC_LIMIT", path.stat().st_size + 100)
    (notice,) = restore(path, tmp_path / "b.tif")
    assert "4 GiB" in notice
    np.testing.assert_array_equal(load(tmp_path / "b.tif"), filled(pixels))
    pages = [Image.fromarray(pixels)] * 2
    pages[0].save(path, save_all=True, append_images=pages[1:])
    assert "the others are not carried over" in restore(path, tmp_path / "d.tif")[0]
    save(path, pixels, compress="deflate", blockysize=16, BIGTIFF="YES")
    assert restore(path, tmp_path / "c.tif") == ()


# ---------------------------------------------------------------- any depth, any colour


def bits() -> np.ndarray:
    return (picture(1) > 100).astype(np.uint8)


def colour_table(raster: Any) -> None:
    raster.write_colormap(1, {i: (i, 255 - i, i // 2, 255) for i in range(256)})


KINDS: dict[str, tuple[np.ndarray, dict[str, Any], dict[str, Any]]] = {
    "float": (picture(1).astype(np.float32) / 999, {"predictor": 3}, {"layers": ((0,),), "validity": "nodata"}),
    "float RGB": (picture(3).astype(np.float32), {"interleave": "band"}, {"layers": ((0, 1, 2),)}),
    "double": (picture(1) / 999, {"predictor": 3}, {"layers": ((0,),), "validity": "nodata"}),
    "int8": ((picture(2) // 2).astype(np.int8) - 99, {"predictor": 2}, {"layers": ((0,), (1,)), "validity": None}),
    "int16": (picture(1).astype(np.int16) * -9, {"nodata": -9999}, {"nothing": -9999, "validity": "nodata"}),
    "int32 RGB": (picture(3).astype(np.int32) * -(2**23), {"predictor": 2}, {"layers": ((0, 1, 2),)}),
    "uint32": (picture(1).astype(np.uint32) << 24, {"nodata": 2**32 - 1}, {"nothing": 2**32 - 1}),
    "CMYK": (picture(4), {"photometric": "CMYK"}, {"layers": ((0, 1, 2, 3),), "inks": True}),
    "CMYK and a spot colour": (picture(5, "uint16"), {"photometric": "CMYK"}, {"layers": ((0, 1, 2, 3), (4,))}),
    "two inks": (picture(2), {"photometric": "CMYK"}, {"layers": ((0,), (1,)), "inks": False}),
    "palette": (picture(1), {"photometric": "PALETTE", "after": colour_table}, {"layers": ((0,),)}),
    "1 bit": (bits(), {"NBITS": 1}, {"layers": ((0,),), "inverted": False}),
    "1 bit, white is 0": (bits(), {"NBITS": 1, "photometric": "MINISWHITE"}, {"inverted": False}),
    "white is 0": (picture(1), {"photometric": "MINISWHITE"}, {"inverted": True, "palette": None}),
    "white is 0, 16 bit": (picture(1, "uint16"), {"photometric": "MINISWHITE"}, {"inverted": True}),
    "5 bands": (picture(5), {}, {"layers": ((0,), (1,), (2,), (3,), (4,)), "alpha": None}),
    "RGB and infrared": (picture(4), {"ALPHA": "NO"}, {"layers": ((0, 1, 2), (3,)), "alpha": None}),
    "RGB, alpha, infrared": (
        picture(5), {"photometric": "RGB", "ALPHA": "YES"},
        {"layers": ((0, 1, 2), (4,)), "alpha": 3, "validity": "alpha"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", ["tiles", "strips", "anew"])
@pytest.mark.parametrize("kind", KINDS)
def test_pictures_of_any_depth_and_colour_are_told_apart_and_patched_as_stored(
    tmp_path: Path, kind: str, layout: str
) -> None:
    pixels, options, told = KINDS[kind]
    shape = {"tiled": True, "blockxsize": 64, "blockysize": 64} if layout == "tiles" else {"blockysize": 16}
    path = save(tmp_path / "a.tif", pixels, compress="lzma" if layout == "anew" else "lzw", **shape, **options)
    with Source(path) as source:
        assert {name: getattr(source, name) for name in told} == told
        np.testing.assert_array_equal(source.read(whole(source)), pixels)
        assert source.in_place == (layout != "anew") and source.orientation == 1 and source.icc == b""
    value = 1 - int(pixels[HOLE.slices].min()) if "NBITS" in options else 77
    notices = restore(path, tmp_path / "b.tif", value=value)
    with Source(tmp_path / "b.tif") as made:
        np.testing.assert_array_equal(made.read(whole(made)), filled(pixels, value=value))
        assert {name: getattr(made, name) for name in told} == told
    one, other = directories(path)[0], directories(tmp_path / "b.tif")[0]
    if layout == "anew":
        assert "written anew" in notices[0] and one[262] == other[262] and one[258] == other[258]
        return
    assert notices == ()
    assert {tag: one[tag] for tag in one.keys() - POSITIONS} == {tag: other[tag] for tag in other.keys() - POSITIONS}
    old, new = blocks(path), blocks(tmp_path / "b.tif")
    untouched = set(range(len(old))) - touched_blocks(path, HOLE, pixels.shape[2])
    assert untouched and all(old[i] == new[i] for i in untouched)


@pytest.mark.parametrize("compress", ["CCITTRLE", "CCITTFAX3", "CCITTFAX4"])
@pytest.mark.parametrize("photometric", ["MINISWHITE", "MINISBLACK"])
def test_fax_is_patched_and_stays_fax(tmp_path: Path, compress: str, photometric: str) -> None:
    path = save(tmp_path / "a.tif", bits(), NBITS=1, compress=compress, photometric=photometric, blockysize=16)
    for value in (0, 1):
        assert restore(path, tmp_path / "b.tif", value=value, overwrite=True) == ()
        np.testing.assert_array_equal(load(tmp_path / "b.tif"), filled(bits_of(path), value=value))
        one, other = directories(path)[0], directories(tmp_path / "b.tif")[0]
        assert {tag for tag in one if one[tag] != other[tag]} <= POSITIONS and one.keys() == other.keys()


def bits_of(path: Path) -> np.ndarray:
    """As Pillow reads them, turned to how GDAL numbers black and white."""
    with Image.open(path) as image:
        white = np.asarray(image)[..., None]
    return (~white if directories(path)[0][262].numbers == (0,) else white).astype(np.uint8)


def test_float_pixels_come_through_to_the_bit(tmp_path: Path) -> None:
    strange = np.array([0x7FC12345, 0xFF800000, 0x80000000, 1], np.uint32).view(np.float32)  # NaN, -inf, -0, tiny
    pixels = picture(1).astype(np.float32)
    pixels[:4, :, 0] = strange[:, None]
    for compress in ("deflate", "lzma"):
        path = save(tmp_path / "a.tif", pixels, compress=compress, predictor=3 if compress == "deflate" else 1)
        restore(path, tmp_path / "b.tif", overwrite=True)
        assert load(tmp_path / "b.tif").tobytes() == filled(pixels).tobytes()


# ---------------------------------------------------------------- what is told, what is refused


def test_pixels_that_change_outside_are_counted_in_jpeg_and_there_are_none_elsewhere(tmp_path: Path) -> None:
    for compress in ("jpeg", "deflate", "lzma"):
        path = save(tmp_path / "a.tif", picture(), compress=compress, tiled=True, blockxsize=64, blockysize=64)
        with Source(path) as source, Canvas(source, tmp_path / "b.tif", overwrite=True) as canvas:
            fill(source, canvas)
            notices = canvas.commit()
        changed = (load(path) != load(tmp_path / "b.tif")).any(axis=2)
        changed[HOLE.slices] = False
        assert canvas.outside_changed == changed.sum() and bool(changed.any()) == (compress == "jpeg")
        assert any(isinstance(notice, Loss) for notice in notices) == (compress == "jpeg")


def test_an_output_may_be_refused_when_it_is_there(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", picture(), compress="jpeg")

    def no(part: Path, notices: Sequence[str]) -> None:
        assert load(part).shape == (HEIGHT, WIDTH, 3) and "JPEG" in notices[0]
        raise ItemError(path, "no")

    with Source(path) as source, Canvas(source, tmp_path / "b.tif", overwrite=False) as canvas:
        fill(source, canvas)
        with pytest.raises(ItemError, match="no"):
            canvas.commit(ready=no)
    assert names(tmp_path) == ["a.tif"]


def test_an_output_that_cannot_be_is_refused_at_once(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", picture())
    (tmp_path / "there.tif").write_bytes(b"old")
    (tmp_path / "file").write_bytes(b"x")
    with Source(path) as source:
        for output, words in (
            (tmp_path / "b.png", "name it .tif"),
            (path, "its own source"),
            (tmp_path / "there.tif", "--overwrite"),
            (tmp_path / "file" / "b.tif", "cannot be written"),
        ):
            with pytest.raises(ItemError, match=words) as caught:
                Canvas(source, output, overwrite=output == path)
            assert caught.value.path == str(output)
    assert names(tmp_path) == ["a.tif", "file", "there.tif"]


def test_a_folder_without_the_right_to_write_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "a.tif", picture())
    with Source(path) as source:
        opened = Path.open

        def denied(self: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
            if "x" in mode:
                raise PermissionError(errno.EACCES, "Permission denied")
            return opened(self, mode, *rest, **more)

        monkeypatch.setattr(Path, "open", denied)
        with pytest.raises(ItemError, match="Permission denied"):
            Canvas(source, tmp_path / "b.tif", overwrite=False)


def test_nonsense_from_the_caller_is_a_value_error(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", picture())
    with Source(path) as source, Canvas(source, tmp_path / "b.tif", overwrite=False) as canvas:
        for window in (Window(-1, 0, 5, 5), Window(0, 0, WIDTH + 1, 5), Window(0, 0, 0, 5)):
            for ask in (source.read, source.valid, canvas.read):
                with pytest.raises(ValueError, match="not inside"):
                    ask(window)
        pixels, where = np.zeros((15, 20, 3), np.uint8), np.ones((15, 20), bool)
        for wrong in (pixels[..., :2], pixels.astype(np.uint16)):
            with pytest.raises(ValueError, match="need pixels"):
                canvas.lay(HOLE, wrong, where)
        with pytest.raises(ValueError, match="need where"):
            canvas.lay(HOLE, pixels, where[:3])
        with pytest.raises(ValueError, match="at least 1"):
            source.thumbnail(0)
        canvas.commit()
        with pytest.raises(ValueError, match="already"):
            canvas.commit()
    with pytest.raises(ItemError, match="closed"):
        source.read(HOLE)
    with pytest.raises(ValueError, match="rows"):
        next(mask_strips(path, 0))


# ---------------------------------------------------------------- faults


@pytest.fixture(params=["copied", "anew"])
def ready(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Any, Any, Path]]:
    """A canvas with a fill, for a file that is patched and for one that is written anew."""
    compress = {"copied": "deflate", "anew": "lzma", "jpeg": "jpeg"}[request.param]
    path = save(tmp_path / "a.tif", picture(), compress=compress, tiled=True, blockxsize=64, blockysize=64)
    before, stamp = path.read_bytes(), path.stat().st_mtime_ns
    with Source(path) as source, Canvas(source, tmp_path / "b.tif", overwrite=False) as canvas:
        fill(source, canvas)
        yield source, canvas, tmp_path / "b.tif"
    if path.exists():
        assert (path.read_bytes(), path.stat().st_mtime_ns) == (before, stamp)
    assert not [name for name in names(tmp_path) if name.endswith(".part")]


def fails(canvas: Any, words: str, at: Path) -> None:
    with pytest.raises(ItemError, match=words) as caught:
        canvas.commit()
    assert caught.value.path == str(at) and "\n" not in caught.value.reason


def replace_writer(monkeypatch: pytest.MonkeyPatch, write: Callable[..., None]) -> None:
    """Have all writing of pixels go elsewhere."""

    class Handle:
        def __init__(self, raster: Any) -> None:
            self.raster, self.write = raster, write

        def __getattr__(self, name: str) -> Any:
            return getattr(self.raster, name)

    opened = _gdal.open

    def stand_in(path: Path, mode: str = "r", **more: Any) -> Any:
        raster = opened(path, mode, **more)
        return raster if mode == "r" else Handle(raster)

    monkeypatch.setattr(_gdal, "open", stand_in)


@pytest.mark.parametrize("ready", ["copied"], indirect=True)
def test_a_disk_that_fills_up_while_copying_leaves_nothing(
    ready: tuple[Any, Any, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, canvas, output = ready

    def full(*names: Any) -> None:
        Path(names[1]).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    canvas._copying.stop()  # what was begun before the disk filled up
    monkeypatch.setattr("pconv_cli.canvas._copy", full)
    fails(canvas, "No space left on device.*free some room", output)
    assert not output.exists() and len(names(output.parent)) == 2  # the input and the fills: another try is open
    monkeypatch.undo()
    canvas.commit()


def test_a_write_that_gdal_refuses_leaves_nothing(
    ready: tuple[Any, Any, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, canvas, output = ready

    def write(*_: object, **__: object) -> None:
        raise rasterio.errors.RasterioIOError("Write failed.\nSee previous") from RuntimeError("TIFF:\nWrite error")

    replace_writer(monkeypatch, write)
    fails(canvas, "TIFF: Write error", output)
    assert not output.exists()


@pytest.mark.parametrize("ready", ["copied", "anew", "jpeg"], indirect=True)
def test_a_write_that_is_lost_without_a_word_is_found(
    ready: tuple[Any, Any, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As happens when a disk fills up just as GDAL closes the file: rasterio does not tell."""
    _, canvas, output = ready
    lost: list[object] = []
    replace_writer(monkeypatch, lambda *sent, **_: lost.append(sent))
    fails(canvas, "Input/output error", output)
    assert lost and not output.exists()


def test_a_mark_that_is_lost_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    path = save(tmp_path / "a.tif", picture(), lambda raster: raster.write_mask(mask), compress="lzw")
    monkeypatch.setattr(Canvas, "_mark_mask", lambda *_: None)
    with pytest.raises(ItemError, match="Input/output error"):
        restore(path, tmp_path / "b.tif", mark=True)
    assert names(tmp_path) == ["a.tif"]


@pytest.mark.parametrize("options", [{"interleave": "band"}, {"compress": "jpeg"}])
def test_a_mark_is_read_back_where_it_alone_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, str]
) -> None:
    read_back, looked_at = Canvas._read_back, list[Window]()

    def looking(canvas: Canvas, part: Path, written: dict[Window, int | None]) -> None:
        looked_at.extend(written)
        read_back(canvas, part, written)

    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    path = save(tmp_path / "a.tif", picture(), lambda raster: raster.write_mask(mask), **options)
    monkeypatch.setattr(Canvas, "_read_back", looking)
    with Source(path) as source, Canvas(source, tmp_path / "b.tif", overwrite=False, mark_valid=True) as canvas:
        same = source.read(HOLE)
        canvas.lay(HOLE, same, np.ones(same.shape[:2], bool))
        assert not any(isinstance(notice, Loss) for notice in canvas.commit())
    assert looked_at and all(window.y < HOLE.bottom and HOLE.y < window.bottom for window in looked_at)
    with Source(tmp_path / "b.tif") as made:
        mask[HOLE.slices] = 255
        np.testing.assert_array_equal(made.mask(whole(made)), mask)
        np.testing.assert_array_equal(made.read(whole(made)), load(path))


def test_what_is_counted_is_counted_once_when_a_commit_is_tried_again(tmp_path: Path) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    path = save(tmp_path / "a.tif", picture(), lambda raster: raster.write_mask(mask), compress="jpeg")

    def no(part: Path, notices: Sequence[str]) -> None:
        raise ItemError(path, "no")

    def said(tries: int) -> tuple[tuple[str, ...], int]:
        with Source(path) as source, Canvas(source, tmp_path / "b.tif", overwrite=True) as canvas:
            fill(source, canvas)
            for _ in range(tries - 1):
                with pytest.raises(ItemError, match="no"):
                    canvas.commit(ready=no)
            return canvas.commit(), canvas.outside_changed

    assert f"not to be seen, for its mask band stays as it is: {HOLE.area} pixels" in " ".join(said(1)[0])
    assert said(1) == said(2)


def test_a_scratch_file_cut_short_is_an_error_of_the_disk(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", picture())
    with Source(path) as source, (tmp_path / "scratch").open("w+b") as stream:
        pages = Pages(stream, source)
        pages.lay(HOLE, source.read(HOLE), np.ones((HOLE.height, HOLE.width), bool))
        stream.truncate(100)
        with pytest.raises(OSError, match="Input/output error"):
            pages.read(HOLE)


@pytest.mark.parametrize("compress", ["deflate", "jpeg", "lzma"])
def test_a_disk_that_is_really_full_leaves_nothing(tmp_path: Path, compress: str) -> None:
    """In a process of its own that may write no bigger files: GDAL's own words go to its standard error."""
    pytest.importorskip("resource")
    path = save(tmp_path / "a.tif", picture(3, width=400, height=400) // 64, compress=compress, blockysize=16)
    code = f"""
import resource, signal, numpy as np
from pathlib import Path
from pconv_cli._pages import Pages
from pconv_cli.canvas import Canvas
from pconv_cli.errors import ItemError
from pconv_cli.regions import Window
from pconv_cli.tiff import Source
noise = np.random.default_rng(0).integers(0, 256, (160, 160, 3), dtype=np.uint8)
with Source(Path({str(path)!r})) as source:
    with Canvas(source, Path({str(tmp_path / "b.tif")!r}), overwrite=False) as canvas:
        canvas.lay(Window(9, 9, 160, 160), noise, np.ones((160, 160), bool))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, ({path.stat().st_size + 2000}, -1))
        try:
            canvas.commit()
        except ItemError as error:
            assert "cannot be written" in error.reason, error
            print("refused")
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert ran.stdout == "refused\n", ran.stderr
    assert names(tmp_path) == ["a.tif"]


def test_a_disk_that_fills_up_while_laying_is_an_item_error(ready: tuple[Any, Any, Path]) -> None:
    source, canvas, output = ready

    class Full:
        def __init__(self, stream: Any) -> None:
            self.stream = stream

        def write(self, *_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        def __getattr__(self, name: str) -> Any:
            return getattr(self.stream, name)

    canvas._held.stream = canvas._pages._stream = Full(canvas._held.stream)
    with pytest.raises(ItemError, match="No space left on device") as caught:
        fill(source, canvas, Window(0, 0, 10, 10))
    assert caught.value.path == str(output)


def test_a_source_that_vanishes_or_changes_is_named(ready: tuple[Any, Any, Path]) -> None:
    source, canvas, output = ready
    hidden = source.path.with_suffix(".away")
    source.path.rename(hidden)
    fails(canvas, "no such file", source.path)
    hidden.rename(source.path)
    stamp = source.path.stat()
    os.utime(source.path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 10**9))
    fails(canvas, "was changed while", source.path)
    os.utime(source.path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert not output.exists()


def test_an_output_that_appears_meanwhile_is_not_replaced(ready: tuple[Any, Any, Path]) -> None:
    _, canvas, output = ready
    output.write_bytes(b"somebody else's")
    fails(canvas, "is there already", output)
    assert output.read_bytes() == b"somebody else's"


def test_without_hard_links_the_output_is_placed_all_the_same(
    ready: tuple[Any, Any, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, canvas, output = ready

    def none(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", none)
    canvas.commit()
    assert load(output).shape == (HEIGHT, WIDTH, 3)


def test_overwriting_replaces_the_old_output_only_when_all_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "a.tif", picture(), compress="lzw")
    (tmp_path / "b.tif").write_bytes(b"old")
    with Source(path) as source, Canvas(source, tmp_path / "b.tif", overwrite=True) as canvas:
        fill(source, canvas)
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
            fails(canvas, "Input/output error", tmp_path / "b.tif")
        assert (tmp_path / "b.tif").read_bytes() == b"old"
        canvas.commit()
    np.testing.assert_array_equal(load(tmp_path / "b.tif"), filled(load(path)))
    assert names(tmp_path) == ["a.tif", "b.tif"]


def test_a_callers_own_error_and_an_interrupt_pass_and_leave_nothing(ready: tuple[Any, Any, Path]) -> None:
    _, canvas, output = ready
    for error in (KeyboardInterrupt, RuntimeError):

        def stop(part: Path, notices: object, error: type[BaseException] = error) -> None:
            raise error("enough")

        with pytest.raises(error, match="enough"):
            canvas.commit(ready=stop)
        assert not output.exists() and len(names(output.parent)) == 2


def test_leaving_without_commit_leaves_nothing(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", picture())
    output = tmp_path / "new" / "b.tif"
    with Source(path) as source, Canvas(source, output, overwrite=False) as canvas:
        fill(source, canvas)
        held = names(tmp_path / "new")  # the fills, and the copy if it has been begun by now
        assert held and all(name.endswith(".part") for name in held)
    assert names(tmp_path / "new") == []


# ---------------------------------------------------------------- threads


def test_eight_threads_read_and_lay_what_one_does(tmp_path: Path) -> None:
    pixels = picture(3, width=600, height=500)
    path = save(tmp_path / "a.tif", pixels, compress="deflate", tiled=True, blockxsize=64, blockysize=64)
    windows = [Window(x, y, 50, 50) for y in range(0, 451, 50) for x in range(0, 551, 50)]
    start = threading.Barrier(8)

    def work(number: int) -> None:
        start.wait()
        for window in windows[number::8]:
            np.testing.assert_array_equal(source.read(window), pixels[window.slices])
            fill(source, canvas, Window(window.x + 5, window.y + 5, 30, 30), number)
            assert (canvas.read(window)[5:35, 5:35] == number).all()

    with Source(path) as source, Canvas(source, tmp_path / "b.tif", overwrite=False) as canvas:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
        canvas.commit()
    expected = pixels.copy()
    for number in range(8):
        for window in windows[number::8]:
            expected[window.y + 5 : window.y + 35, window.x + 5 : window.x + 35] = number
    np.testing.assert_array_equal(load(tmp_path / "b.tif"), expected)


@pytest.mark.parametrize(
    "options",
    [
        {"tiled": True, "blockxsize": 64, "blockysize": 64},
        {"tiled": True, "blockxsize": 512, "blockysize": 512},
        {"tiled": True, "blockxsize": 2048, "blockysize": 2048},
        {"blockysize": 3},
        {"blockysize": 700},
    ],
    ids=["small tiles", "tiles", "huge tiles", "strips", "one strip"],
)
def test_no_pixel_of_the_source_is_read_twice_however_often_it_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    pixels = picture(3, width=1200, height=700)
    path = save(tmp_path / "a.tif", pixels, compress="deflate", **options)
    read, times = Source.read, np.zeros((700, 1200), int)

    def counted(source: Any, window: Window) -> Any:
        if source.path == path:
            times[window.slices] += 1
        return read(source, window)

    monkeypatch.setattr(Source, "read", counted)
    with Source(path) as source, Canvas(source, tmp_path / "b.tif", overwrite=False) as canvas:
        for _ in range(2):
            for window in (Window(300, 200, 100, 90), Window(390, 250, 300, 300), Window(0, 0, 1, 1)):
                np.testing.assert_array_equal(canvas.read(window), filled(pixels, HOLE)[window.slices])
                fill(source, canvas)
        assert times.max() == 1 and times[699, 1199] == 0, "nor is what nobody looks at"


def test_what_is_laid_while_another_thread_reads_the_block_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "a.tif", picture(3), compress="deflate")
    read, begun, laid = Source.read, threading.Event(), threading.Event()

    def slow(source: Any, window: Window) -> Any:
        pixels = read(source, window)
        if threading.current_thread() is reader:
            begun.set()
            assert laid.wait(60)
        return pixels

    monkeypatch.setattr(Source, "read", slow)
    with Source(path) as source, Canvas(source, tmp_path / "b.tif", overwrite=False) as canvas:
        reader = threading.Thread(target=canvas.read, args=(HOLE,))
        reader.start()
        assert begun.wait(60)
        fill(source, canvas)
        laid.set()
        reader.join()
        assert (canvas.read(HOLE) == 200).all()


# ---------------------------------------------------------------- any lays in any order


@st.composite
def lays(draw: st.DrawFn) -> list[tuple[Window, int]]:
    def one() -> tuple[Window, int]:
        x, y = draw(st.integers(0, 329)), draw(st.integers(0, 289))
        width, height = draw(st.integers(1, 330 - x)), draw(st.integers(1, 290 - y))
        return Window(x, y, width, height), draw(st.integers(0, 2**32 - 1))

    return [one() for _ in range(draw(st.integers(0, 6)))]


@given(
    plan=lays(),
    bands=st.sampled_from([1, 3, 4]),
    dtype=st.sampled_from(["uint8", "uint16"]),
    layout=st.sampled_from(["tiles", "strips", "anew"]),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_lays_in_any_order_read_back_and_commit_as_a_plain_array_says(
    tmp_path: Path, plan: list[tuple[Window, int]], bands: int, dtype: str, layout: str
) -> None:
    options: dict[str, Any] = {"compress": "lzma" if layout == "anew" else "lzw", "blockysize": 37}
    if layout == "tiles":
        options |= {"tiled": True, "blockxsize": 80, "blockysize": 48}
    model = picture(bands, dtype, 330, 290)
    path = save(tmp_path / "a.tif", model, **options)
    with Source(path) as source, Canvas(source, tmp_path / "b.tif", overwrite=True) as canvas:
        for window, seed in plan:
            rng = np.random.default_rng(seed)
            pixels = rng.integers(0, np.iinfo(dtype).max + 1, (window.height, window.width, bands)).astype(dtype)
            where = rng.random((window.height, window.width)) < rng.choice([0.0, 0.01, 0.5, 1.0])
            canvas.lay(window, pixels, where)
            model[window.slices][where] = pixels[where]
            np.testing.assert_array_equal(canvas.read(window), model[window.slices])
        np.testing.assert_array_equal(canvas.read(whole(source)), model)
        canvas.commit()
    np.testing.assert_array_equal(load(tmp_path / "b.tif"), model)
