"""`images`: what is read, what is refused, how masks lie, what is filled, and that no half file is ever left."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageOps

from pconv_cli import images
from pconv_cli._carry import Carried
from pconv_cli.errors import ItemError
from pconv_cli.layers import layers

RNG = np.random.default_rng(7)


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">L", len(data)) + name + data + struct.pack(">L", zlib.crc32(name + data))


def png_bytes(width: int, height: int, depth: int, colour: int, row: bytes, *extra: bytes) -> bytes:
    """PNG by hand, all rows alike."""
    head = chunk(b"IHDR", struct.pack(">LLBBBBB", width, height, depth, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress((b"\0" + row) * height))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + pixels + chunk(b"IEND", b"")


def tiff_bytes(order: str, tags: dict[int, tuple[int, bytes]], pixels: bytes) -> bytes:
    """TIFF by hand: one strip. `tags` hold type and bytes in the file's own order."""
    sizes = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 12: 8}
    tags = {**tags, 273: (4, struct.pack(order + "L", 8)), 279: (4, struct.pack(order + "L", len(pixels)))}
    start = 8 + len(pixels) + len(pixels) % 2
    table, data = struct.pack(order + "H", len(tags)), b""
    base = start + 2 + 12 * len(tags) + 4
    for tag, (kind, value) in sorted(tags.items()):
        table += struct.pack(order + "HHL", tag, kind, len(value) // sizes[kind])
        table += value.ljust(4, b"\0") if len(value) <= 4 else struct.pack(order + "L", base + len(data))
        data += value + b"\0" * (len(value) % 2) if len(value) > 4 else b""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "L", start)
    return head + pixels + b"\0" * (len(pixels) % 2) + table + b"\0\0\0\0" + data


def tiff_tags(order: str, width: int, height: int, bits: list[int], photometric: int) -> dict[int, tuple[int, bytes]]:
    def shorts(*values: int) -> tuple[int, bytes]:
        return 3, struct.pack(f"{order}{len(values)}H", *values)

    tags = {256: shorts(width), 257: shorts(height), 258: shorts(*bits), 259: shorts(1), 262: shorts(photometric)}
    return tags | {277: shorts(len(bits)), 278: shorts(height)}


def save(path: Path, array: np.ndarray, **options: object) -> Path:
    if path.suffix == ".webp":
        options = {"lossless": True, "exact": True, **options}
    Image.fromarray(array).save(path, **options)
    return path


def refused(path: Path) -> str:
    with pytest.raises(ItemError) as caught:
        images.read_picture(path)
    assert caught.value.path == str(path)
    assert "\n" not in caught.value.reason
    return caught.value.reason


# ---------------------------------------------------------------- refusals


def deep_row(values: list[int], order: str = ">") -> bytes:
    return struct.pack(f"{order}{len(values)}H", *values)


DEEP = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}
COLOUR_TYPES = {"L": 0, "LA": 4, "RGB": 2, "RGBA": 6}


@pytest.mark.parametrize("mode", DEEP)
@pytest.mark.parametrize("kind", ["png", "tiff <", "tiff >"])
def test_16_bits_per_channel_are_read_and_never_narrowed(tmp_path: Path, kind: str, mode: str) -> None:
    values = [[0x1234 + 1001 * x + 97 * c for c in range(DEEP[mode])] for x in range(4)]
    flat = [value for pixel in values for value in pixel]
    path = tmp_path / "deep"
    if kind == "png":
        path.write_bytes(png_bytes(4, 3, 16, COLOUR_TYPES[mode], deep_row(flat)))
    else:
        order = kind[-1]
        tags = tiff_tags(order, 4, 3, [16] * DEEP[mode], 2 if "RGB" in mode else 1)
        tags |= {338: (3, struct.pack(order + "H", 2))} if "A" in mode else {}
        path.write_bytes(tiff_bytes(order, tags, deep_row(flat, order) * 3))
    picture = images.read_picture(path)
    assert (picture.mode, picture.pixels.dtype) == (mode, np.uint16)
    assert picture.channels[1].tolist() == values


def test_float_tiffs_are_read_as_they_are(tmp_path: Path) -> None:
    values = np.array([[0.1, -3e7, np.nan, 4e-9]], np.float32)
    Image.fromarray(values).save(tmp_path / "x.tif")
    picture = images.read_picture(tmp_path / "x.tif")
    assert (picture.mode, picture.pixels.dtype) == ("L", np.float32)
    assert np.array_equal(picture.pixels, values, equal_nan=True)
    assert np.array_equal(picture.visible(), np.isfinite(values))


def test_32_bit_integers_are_refused_with_a_way_out(tmp_path: Path) -> None:
    Image.new("I", (4, 4)).save(tmp_path / "x.tif")
    assert "int32" in refused(tmp_path / "x.tif") and "convert a copy" in refused(tmp_path / "x.tif")


def test_1_bit_and_cmyk_are_read_and_lab_and_ycc_tiffs_refused_with_a_way_out(tmp_path: Path) -> None:
    marks = noise(5, 9) > 127
    for name in ("one.png", "one.tif", "one.bmp"):
        Image.fromarray(marks).save(tmp_path / name)
        picture = images.read_picture(tmp_path / name)
        assert picture.mode == "1" and np.array_equal(picture.pixels, marks), name
    inks = noise(8, 8, 4)
    Image.frombytes("CMYK", (8, 8), inks.tobytes()).save(tmp_path / "c.tif")
    picture = images.read_picture(tmp_path / "c.tif")
    assert picture.mode == "CMYK" and np.array_equal(picture.pixels, inks)
    Image.new("CMYK", (8, 8), (10, 20, 30, 40)).save(tmp_path / "c.jpg")
    assert np.abs(images.read_picture(tmp_path / "c.jpg").pixels.astype(int) - [10, 20, 30, 40]).max() < 4
    for mode, name in (("YCbCr", "y.tif"), ("LAB", "l.tif")):
        Image.new(mode, (4, 4)).save(tmp_path / name)
        assert mode.lower() in refused(tmp_path / name).lower() and "convert a copy" in refused(tmp_path / name)


def test_a_tiff_channel_that_pillow_would_drop_is_a_layer_of_its_own(tmp_path: Path) -> None:
    tags = tiff_tags("<", 4, 4, [8] * 4, 2) | {338: (3, b"\0\0")}
    (tmp_path / "ir.tif").write_bytes(tiff_bytes("<", tags, bytes([1, 2, 3, 4]) * 16))
    with Image.open(tmp_path / "ir.tif") as opened:
        assert opened.mode == "RGB"
    picture = images.read_picture(tmp_path / "ir.tif")
    assert picture.mode == "BANDS" and picture.pixels[0, 0].tolist() == [1, 2, 3, 4]
    assert [layer.channels for layer in picture.layers] == [(0, 1, 2), (3,)]


@pytest.mark.parametrize("name", ["a.png", "a.webp"])
def test_animations_are_refused(tmp_path: Path, name: str) -> None:
    frames = [Image.fromarray(noise(8, 8, 3)) for _ in range(3)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    reason = refused(tmp_path / name)
    assert reason.startswith("animated, 3 frames") and "first" in reason


def test_the_first_picture_of_an_mpo_is_read_with_a_notice(tmp_path: Path) -> None:
    frames = [Image.fromarray(noise(16, 16, 3)) for _ in range(3)]
    frames[0].save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=frames[1:])
    picture = images.read_picture(tmp_path / "a.jpg")
    assert picture.format == "JPEG"
    assert picture.notices == ("MPO: 2 further pictures in the file: not carried over",)
    images.write_picture(picture, tmp_path / "out.jpg", overwrite=False)
    with Image.open(tmp_path / "out.jpg") as opened:
        assert opened.format == "JPEG"


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tif"])
def test_a_truncated_file_is_an_item_error(tmp_path: Path, suffix: str) -> None:
    whole = save(tmp_path / f"whole{suffix}", noise(64, 64, 3)).read_bytes()
    path = tmp_path / f"cut{suffix}"
    for share in (0.1, 0.5, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        assert "damaged" in refused(path)
        with pytest.raises(ItemError):
            images.read_mask(path)


def test_what_is_no_picture_is_an_item_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    assert "empty (0 bytes)" in refused(tmp_path / "empty.png")
    (tmp_path / "text.jpg").write_text("hello")
    assert "not a JPEG" in refused(tmp_path / "text.jpg")
    assert "no such file" in refused(tmp_path / "missing.png")
    assert "folder" in refused(tmp_path)


def test_permission_denied_is_an_item_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    assert "permission denied" in refused(tmp_path / "a.png")


def test_memory_error_is_an_item_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", noise(4, 4))

    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(images, "_pixels", full)
    assert "memory" in refused(path)


def test_a_huge_honest_scan_is_no_bomb(tmp_path: Path) -> None:
    (tmp_path / "big.png").write_bytes(png_bytes(60000, 60000, 8, 0, b"")[:4096])
    assert images.probe(tmp_path / "big.png") == (60000, 60000)


def test_a_header_that_promises_more_than_the_file_can_hold_is_damage_not_a_full_memory(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_bytes(2**30, 40, 8, 2, b"")[:4096])
    assert "cannot hold 1073741824 x 40 pixels" in refused(tmp_path / "a.png")
    with pytest.raises(ItemError, match="cannot hold"):
        images.read_mask(tmp_path / "a.png")


def test_metadata_longer_than_pillows_limit_is_read(tmp_path: Path) -> None:
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * 3_000_000))
    (tmp_path / "a.png").write_bytes(png_bytes(4, 4, 8, 0, b"abcd", text))
    assert images.read_picture(tmp_path / "a.png").carried.chunks[0][0] == b"zTXt"


def test_content_decides_the_format_not_the_name(tmp_path: Path) -> None:
    array = noise(6, 5, 3)
    path = save(tmp_path / "lie.jpg", array, format="PNG")
    picture = images.read_picture(path)
    assert picture.format == "PNG"
    assert np.array_equal(picture.pixels, array)


def test_probe_gives_width_and_height_as_stored(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "a.webp", "a.tif"):
        exif = Image.Exif()
        exif[274] = 6
        assert images.probe(save(tmp_path / name, noise(6, 9, 3), exif=exif)) == (9, 6)
    (tmp_path / "x.png").write_text("no")
    with pytest.raises(ItemError):
        images.probe(tmp_path / "x.png")


def test_damaged_exif_is_carried_and_not_obeyed(tmp_path: Path) -> None:
    bad = b"Exif\0\0MM\0*\0\0\0\x08\0\x02\x01\x12\0\x03\0\0"
    picture = images.read_picture(save(tmp_path / "a.jpg", noise(8, 8, 3), exif=bad))
    assert picture.orientation == 1
    images.write_picture(picture, tmp_path / "b.jpg", overwrite=False)
    assert bad in (tmp_path / "b.jpg").read_bytes()
    worse = images.read_picture(save(tmp_path / "c.jpg", noise(8, 8, 3), exif=b"Exif\0\0garbage!"))
    assert "EXIF" in worse.notices[0]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tif"])
def test_damaged_bytes_give_a_picture_or_an_item_error_and_no_warning(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[271], exif[274], exif.get_ifd(34665)[36867] = "Maker", 6, "2000:01:01 00:00:00"
    options = {} if suffix == ".bmp" else {"exif": exif}
    whole = save(tmp_path / f"whole{suffix}", noise(8, 8, 3), **options).read_bytes()
    path = tmp_path / f"hurt{suffix}"
    rng = np.random.default_rng(3)
    for _ in range(150):
        hurt = bytearray(whole)
        for at in rng.integers(0, min(len(whole), 400), 3):
            hurt[at] = rng.integers(0, 256)
        path.write_bytes(hurt)
        out = tmp_path / f"out{rng.choice(['.tif', '.png', '.jpg'])}"
        with warnings.catch_warnings(record=True) as seen, contextlib.suppress(ItemError):
            images.write_picture(images.read_picture(path), out, overwrite=True)
            images.read_mask(path)
        assert not seen


@pytest.mark.parametrize("value", [0, 9, 255])
def test_an_invalid_orientation_counts_as_upright(tmp_path: Path, value: int) -> None:
    exif = Image.Exif()
    exif[274] = value
    for name in ("a.jpg", "a.tif"):
        picture = images.read_picture(save(tmp_path / name, noise(4, 6), exif=exif))
        assert (picture.orientation, picture.pixels.shape) == (1, (4, 6))


# ---------------------------------------------------------------- what the network sees, what is filled


def picture_of(pixels: np.ndarray, mode: str, carried: Carried | None = None) -> images.Picture:
    """A picture as if it had been read from a PNG."""
    carried = carried or Carried()
    palette = np.frombuffer(carried.palette, np.uint8).reshape(-1, 4) if mode == "P" else None
    groups = [tuple(range(3 if "RGB" in mode else 1))]
    alpha = {"LA": 1, "RGBA": 3}.get(mode)
    return images.Picture(
        Path("p"), pixels, mode, "PNG", 1, layers(groups, pixels.dtype, palette=palette), carried, alpha=alpha
    )


def fill(picture: images.Picture, seen: np.ndarray, hole: np.ndarray, **options: bool) -> images.Picture:
    """The picture with all its layers filled alike."""
    return picture.filled(dict.fromkeys(picture.layers, seen), hole, **options)


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


# ---------------------------------------------------------------- masks


def mask_of(path: Path, image: Image.Image) -> np.ndarray:
    image.save(path)
    return images.read_mask(path).hole


def test_a_mask_is_a_hole_above_half_grey(tmp_path: Path) -> None:
    ramp = np.array([[0, 127, 128, 255]], np.uint8)
    expected = [False, False, True, True]
    for name in ("m.png", "m.bmp", "m.tif", "m.webp"):
        assert mask_of(tmp_path / name, Image.fromarray(ramp))[0].tolist() == expected
        assert mask_of(tmp_path / name, Image.fromarray(np.dstack([ramp] * 3)))[0].tolist() == expected


def test_what_is_transparent_in_a_mask_is_not_damaged(tmp_path: Path) -> None:
    white, alpha = np.full((1, 4), 255, np.uint8), np.array([[0, 127, 128, 255]], np.uint8)
    expected = [False, False, True, True]
    assert mask_of(tmp_path / "a.png", Image.fromarray(np.dstack([white, alpha])))[0].tolist() == expected
    assert mask_of(tmp_path / "b.png", Image.fromarray(np.dstack([white] * 3 + [alpha])))[0].tolist() == expected
    palette = Image.fromarray(np.array([[0, 1, 2, 3]], np.uint8))
    palette.putpalette(b"".join(bytes([255, 255, 255, a]) for a in alpha[0]), "RGBA")
    assert mask_of(tmp_path / "c.png", palette)[0].tolist() == expected


def test_16_bit_masks_are_halved_at_16_bits(tmp_path: Path) -> None:
    deep = np.array([[0, 127, 255, 32767, 32768, 65535]], np.uint16)
    expected = [False, False, False, False, True, True]
    for name in ("m.png", "m.tif"):
        assert mask_of(tmp_path / name, Image.fromarray(deep))[0].tolist() == expected
    row = deep.repeat(3).astype(">u2").tobytes()
    (tmp_path / "rgb.png").write_bytes(png_bytes(6, 2, 16, 2, row))
    assert images.read_mask(tmp_path / "rgb.png").hole[1].tolist() == expected
    tags = tiff_tags(">", 6, 1, [16], 1)
    (tmp_path / "mm.tif").write_bytes(tiff_bytes(">", tags, deep.astype(">u2").tobytes()))
    assert images.read_mask(tmp_path / "mm.tif").hole[0].tolist() == expected


def test_1_bit_and_cmyk_masks_are_read(tmp_path: Path) -> None:
    marks = noise(9, 11) > 127
    assert np.array_equal(mask_of(tmp_path / "m.png", Image.fromarray(marks)), marks)
    grey = Image.fromarray(marks.astype(np.uint8) * 255)
    assert np.array_equal(mask_of(tmp_path / "m.tif", grey.convert("RGB").convert("CMYK")), marks)


def test_tall_masks_are_read_whole(tmp_path: Path) -> None:
    marks = noise(700, 3) > 127
    rgb = np.dstack([marks.astype(np.uint8) * 255] * 3)
    assert np.array_equal(mask_of(tmp_path / "m.png", Image.fromarray(rgb)), marks)


def test_float_and_many_page_masks_are_refused(tmp_path: Path) -> None:
    Image.new("F", (4, 4)).save(tmp_path / "f.tif")
    with pytest.raises(ItemError, match="50 % grey"):
        images.read_mask(tmp_path / "f.tif")
    Image.new("L", (4, 4)).save(tmp_path / "p.tif", save_all=True, append_images=[Image.new("L", (4, 4))])
    with pytest.raises(ItemError, match="2 pages"):
        images.read_mask(tmp_path / "p.tif")


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
        hole = images.align_mask(images.read_mask(mask_path), picture, drawn_on)
        assert np.array_equal(hole, marks)
    assert np.array_equal(images.align_mask(images.read_mask(as_displayed), picture, "auto"), marks)
    if orientation >= 5:
        assert np.array_equal(images.align_mask(images.read_mask(as_stored), picture, "auto"), marks)


def test_a_square_picture_takes_the_mask_as_displayed_unless_told_otherwise(tmp_path: Path) -> None:
    picture = images.read_picture(oriented(tmp_path / "p.png", noise(8, 8, 3), 6))
    marks = np.zeros((8, 8), np.bool_)
    marks[0, 1] = True
    mask = images.read_mask(save(tmp_path / "m.png", marks))
    turned = np.rot90(marks)  # orientation 6 shows the stored pixels turned clockwise; this turns the mask back
    assert np.array_equal(images.align_mask(mask, picture, "auto"), turned)
    assert np.array_equal(images.align_mask(mask, picture, "displayed"), turned)
    assert np.array_equal(images.align_mask(mask, picture, "stored"), marks)


@pytest.mark.parametrize("drawn_on", ["auto", "displayed", "stored"])
def test_masks_are_never_stretched(tmp_path: Path, drawn_on: str) -> None:
    picture = images.read_picture(oriented(tmp_path / "p.png", noise(6, 9, 3), 6))
    mask = images.read_mask(save(tmp_path / "m.png", noise(6, 8)))
    with pytest.raises(ItemError, match=r"mask is 8 x 6, the picture .*masks are never stretched") as caught:
        images.align_mask(mask, picture, drawn_on)
    assert caught.value.path == str(tmp_path / "m.png")
    assert ("9 x 6" in caught.value.reason) == (drawn_on != "displayed")
    assert ("6 x 9 as displayed" in caught.value.reason) == (drawn_on != "stored")


def test_a_mask_that_fits_only_the_other_way_is_refused_when_told_how_it_was_drawn(tmp_path: Path) -> None:
    picture = images.read_picture(oriented(tmp_path / "p.png", noise(6, 9, 3), 6))
    lying = images.read_mask(save(tmp_path / "m.png", noise(6, 9)))
    with pytest.raises(ItemError, match="never stretched"):
        images.align_mask(lying, picture, "displayed")


# ---------------------------------------------------------------- putting files in place


@pytest.fixture
def picture(tmp_path: Path) -> images.Picture:
    return images.read_picture(save(tmp_path / "in.png", noise(32, 40, 3)))


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_folders_are_made_and_only_the_file_is_left(picture: images.Picture, tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "out.png"
    images.write_picture(picture, target, overwrite=False)
    assert files(target.parent) == ["out.png"]


def test_an_existing_file_is_kept_unless_overwrite(picture: images.Picture, tmp_path: Path) -> None:
    target = tmp_path / "out.png"
    target.write_text("precious")
    for write in (
        lambda **k: images.write_picture(picture, target, **k),
        lambda **k: images.copy_file(picture.path, target, **k),
    ):
        with pytest.raises(ItemError, match="--overwrite"):
            write(overwrite=False)
        assert target.read_text() == "precious"
    images.write_picture(picture, target, overwrite=True)
    assert np.array_equal(images.read_picture(target).pixels, picture.pixels)
    images.copy_file(picture.path, target, overwrite=True)
    assert target.read_bytes() == picture.path.read_bytes()


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_meanwhile_is_not_clobbered(
    picture: images.Picture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    target = tmp_path / "out.png"
    real = os.fsync

    def racing(fd: int) -> None:
        real(fd)
        target.write_text("theirs")

    monkeypatch.setattr(os, "fsync", racing)
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(ItemError, match="is there already"):
        images.write_picture(picture, target, overwrite=False)
    assert target.read_text() == "theirs"
    assert files(tmp_path) == ["in.png", "out.png"]


def no_links(*_: object, **__: object) -> None:
    raise PermissionError(1, "Operation not permitted")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize("place", ["encoder", "fsync", "replace"])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_a_write_that_fails_midway_leaves_nothing(
    picture: images.Picture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    place: str,
    suffix: str,
) -> None:
    def half(_image: Image.Image, stream: io.BufferedRandom, *_: object, **__: object) -> None:
        stream.write(b"half a file")
        raise error

    def fail(*_: object) -> None:
        raise error

    owner, name = {"encoder": (Image.Image, "save"), "fsync": (os, "fsync"), "replace": (Path, "replace")}[place]
    monkeypatch.setattr(owner, name, half if place == "encoder" else fail)
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else ItemError) as caught:
        images.write_picture(picture, tmp_path / f"out{suffix}", overwrite=True)
    assert files(tmp_path) == ["in.png"]
    if isinstance(error, OSError):
        assert "No space left" in caught.value.reason and "free some room" in caught.value.reason


def test_a_failed_overwrite_keeps_the_old_file(
    picture: images.Picture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out.png").write_text("old")

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    for write in (images.write_picture, lambda p, t, **k: images.copy_file(p.path, t, **k)):
        with pytest.raises(ItemError, match="Input/output error"):
            write(picture, tmp_path / "out.png", overwrite=True)
    assert (tmp_path / "out.png").read_text() == "old"
    assert files(tmp_path) == ["in.png", "out.png"]


def test_a_picture_never_replaces_its_own_source(picture: images.Picture, tmp_path: Path) -> None:
    (tmp_path / "soft.png").symlink_to(picture.path)
    (tmp_path / "hard.png").hardlink_to(picture.path)
    before = picture.path.read_bytes()
    for target in (picture.path, tmp_path / "soft.png", tmp_path / "hard.png", tmp_path / "." / "in.png"):
        for overwrite in (True, False):
            with pytest.raises(ItemError, match="own source"):
                images.write_picture(picture, target, overwrite=overwrite)
            with pytest.raises(ItemError, match="own source"):
                images.copy_file(picture.path, target, overwrite=overwrite)
    assert picture.path.read_bytes() == before


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_permissions_follow_the_umask(picture: images.Picture, tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        images.write_picture(picture, tmp_path / "a.png", overwrite=False)
        images.copy_file(picture.path, tmp_path / "b.png", overwrite=False)
    finally:
        os.umask(old)
    assert [stat.S_IMODE((tmp_path / n).stat().st_mode) for n in ("a.png", "b.png")] == [0o640, 0o640]


def test_copy_is_byte_for_byte_and_names_the_side_at_fault(tmp_path: Path) -> None:
    source = tmp_path / "a.jpg"
    source.write_bytes(noise(3_000_000).tobytes())
    images.copy_file(source, tmp_path / "new" / "b.jpg", overwrite=False)
    assert (tmp_path / "new" / "b.jpg").read_bytes() == source.read_bytes()
    with pytest.raises(ItemError, match="no such file") as caught:
        images.copy_file(tmp_path / "none.jpg", tmp_path / "c.jpg", overwrite=False)
    assert caught.value.path == str(tmp_path / "none.jpg")
    with pytest.raises(ItemError, match="cannot be written") as caught:
        images.copy_file(source, source / "c.jpg", overwrite=False)  # its folder is a file
    assert caught.value.path == str(source / "c.jpg")


def test_an_unknown_suffix_names_the_known_ones(picture: images.Picture, tmp_path: Path) -> None:
    with pytest.raises(ItemError, match="jpeg, jpg, png, tif"):
        images.write_picture(picture, tmp_path / "out.gif", overwrite=False)
    assert files(tmp_path) == ["in.png"]


def test_formats_and_suffixes_agree() -> None:
    assert sorted(images.READ_SUFFIXES) == [".bmp", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"]
    assert all(suffix in images.READ_SUFFIXES for suffix, _ in images.FORMATS.values())


def test_whatever_a_tiff_makes_a_reader_raise_is_an_item_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.tif", noise(4, 4))

    def broken(*_: object) -> None:
        raise KeyError("what no one has thought of")

    monkeypatch.setattr(images, "_tiff_mode", broken)
    assert "damaged" in refused(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tif"])
def test_pixels_that_are_read_only_are_not_written_to(tmp_path: Path, suffix: str) -> None:
    picture = images.read_picture(save(tmp_path / f"a{suffix}", noise(16, 16, 3)))
    picture.pixels.flags.writeable = False
    hole = np.eye(16, dtype=np.bool_)
    filled = fill(picture, noise(16, 16, 3), hole)
    filled.pixels.flags.writeable = False
    images.write_picture(filled, tmp_path / f"b{suffix}", overwrite=False)
    assert not np.array_equal(images.read_picture(tmp_path / f"b{suffix}").pixels, picture.pixels)
