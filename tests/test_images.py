"""`images`: what is read and what is refused, pictures and masks."""

from __future__ import annotations

import contextlib
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from handmade import chunk, noise, png_bytes, save, tiff_bytes, tiff_tags
from PIL import Image

from pconv_cli import images, writing
from pconv_cli.errors import ItemError


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


def test_32_bit_integers_are_read_as_they_are(tmp_path: Path) -> None:
    values = np.array([[-(2**31), 0, 2**31 - 1]], np.int32)
    Image.fromarray(values).save(tmp_path / "x.tif")
    picture = images.read_picture(tmp_path / "x.tif")
    assert (picture.mode, picture.pixels.dtype) == ("L", np.int32)
    assert np.array_equal(picture.pixels, values)


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
    writing.write_picture(picture, tmp_path / "out.jpg", overwrite=False)
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
    (tmp_path / "self.png").symlink_to("self.png")
    assert "link that leads back to itself" in refused(tmp_path / "self.png")


def test_what_is_of_a_kind_that_cannot_be_read_is_not_said_to_be_cut_short(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg", noise(8, 8, 3))
    data = (tmp_path / "a.jpg").read_bytes()
    at = data.index(b"\xff\xc0") + 4
    (tmp_path / "a.jpg").write_bytes(data[:at] + b"\x0c" + data[at + 1 :])
    assert "12 bits, JPEG-LS" in refused(tmp_path / "a.jpg") and "convert a copy" in refused(tmp_path / "a.jpg")
    tags = tiff_tags("<", 8, 8, [8, 8, 8], 2) | {259: (3, struct.pack("<H", 34712))}
    (tmp_path / "a.tif").write_bytes(tiff_bytes("<", tags, b"\0" * 100))
    assert "convert a copy" in refused(tmp_path / "a.tif")


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
    writing.write_picture(picture, tmp_path / "b.jpg", overwrite=False)
    assert bad in (tmp_path / "b.jpg").read_bytes()
    worse = images.read_picture(save(tmp_path / "c.jpg", noise(8, 8, 3), exif=b"Exif\0\0garbage!"))
    assert "EXIF" in worse.notices[0]


@pytest.mark.parametrize("shape", [(120, 160, 3), (120, 160)])
def test_a_jpeg_that_breaks_off_inside_is_told_of(tmp_path: Path, shape: tuple[int, ...]) -> None:
    whole = save(tmp_path / "whole.jpg", noise(*shape))
    assert not images.read_picture(whole).notices
    broken, data = tmp_path / "broken.jpg", whole.read_bytes()
    broken.write_bytes(data[: len(data) // 2] + b"\xff\xd9")  # no decoder finds fault with that
    (notice,) = images.read_picture(broken).notices
    assert "rows are one mid-grey" in notice and "look at it" in notice
    grey = save(tmp_path / "grey.jpg", np.full((120, 160), 128, np.uint8))
    assert not images.read_picture(grey).notices


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
            writing.write_picture(images.read_picture(path), out, overwrite=True)
            images.read_mask(path)
        assert not seen


@pytest.mark.parametrize("value", [0, 9, 255])
def test_an_invalid_orientation_counts_as_upright(tmp_path: Path, value: int) -> None:
    exif = Image.Exif()
    exif[274] = value
    for name in ("a.jpg", "a.tif"):
        picture = images.read_picture(save(tmp_path / name, noise(4, 6), exif=exif))
        assert (picture.orientation, picture.pixels.shape) == (1, (4, 6))


def test_formats_and_suffixes_agree() -> None:
    assert sorted(images.READ_SUFFIXES) == [".bmp", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"]
    assert all(suffix in images.READ_SUFFIXES for suffix, _ in images.FORMATS.values())


def test_whatever_a_tiff_makes_a_reader_raise_is_an_item_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.tif", noise(4, 4))

    def broken(*_: object) -> None:
        raise KeyError("what no one has thought of")

    monkeypatch.setattr(images, "_tiff_mode", broken)
    assert "damaged" in refused(path)


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
