"""`writing`, format by format: pixels outside the hole, and the metadata that has to survive a restoration."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from handmade import RNG, bmp_bytes, chunk, fill, noise, png_bytes, save, tiff_bytes, tiff_tags
from PIL import Image, ImageCms, ImageOps, PngImagePlugin, TiffImagePlugin

from pconv_cli import _carry, images, writing
from pconv_cli.errors import ItemError, Loss
from pconv_cli.picture import Picture

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<?xpacket begin=""?><x:xmpmeta xmlns:x="adobe:ns:meta/">\xc3\xbc</x:xmpmeta>'
PALETTE = noise(40 * 3).tobytes()
MODES = {"L": (), "LA": (2,), "RGB": (3,), "RGBA": (4,), "P": ()}
LOSSLESS = {
    ".png": ["L", "LA", "RGB", "RGBA", "P", "P+alpha"],
    ".webp": ["RGB", "RGBA"],
    ".bmp": ["L", "RGB", "P"],
    ".tif": ["L", "LA", "RGB", "RGBA", "P"],
}


def image_of(mode: str, height: int = 24, width: int = 30) -> Image.Image:
    array = noise(height, width, *MODES[mode.partition("+")[0]])
    if mode in ("LA", "RGBA"):
        array[..., -1] |= 1  # what is filled and stays transparent is told of
    if not mode.startswith("P"):
        return Image.fromarray(array)
    image = Image.fromarray(array % 40)
    image.putpalette(PALETTE)
    return image


def exif_of(orientation: int = 1) -> Image.Exif:
    exif = Image.Exif()
    exif[271], exif[274], exif[306] = "Maker", orientation, "2001:02:03 04:05:06"
    exif.get_ifd(34665)[36867] = "2000:01:01 00:00:00"
    exif.get_ifd(34665)[33434] = 1 / 250
    exif.get_ifd(34853)[1] = "N"
    exif.get_ifd(34853)[2] = (48.0, 8.0, 30.0)
    return exif


def restored(path: Path, target: Path) -> tuple[Picture, Picture, np.ndarray, tuple[str, ...]]:
    """Fill a hole with noise and write: before, after as read back, hole, losses."""
    before = images.read_picture(path)
    hole = np.zeros((before.height, before.width), np.bool_)
    hole[3:9, 4:20] = True
    filled = fill(before, noise(before.height, before.width, 3), hole)
    written = writing.write_picture(filled, target, overwrite=False)
    after = images.read_picture(target)
    if target.suffix != ".jpg":
        assert np.array_equal(after.rgb(), filled.rgb())
        assert written.outside_changed == 0
    return before, after, hole, written.notices


def lost_in(picture: Picture, target: Path) -> tuple[str, ...]:
    """What is said to be lost by writing a picture as it is."""
    return writing.write_picture(picture, target, overwrite=False).notices


def facts(path: Path) -> dict[str, object]:
    """What Pillow finds in a file, on its own."""
    with Image.open(path) as image:
        image.load()
        info = image.info
        exif = image.getexif()
        return {
            "icc": info.get("icc_profile"),
            "xmp": info.get("xmp"),
            "dpi": tuple(round(float(v), 2) for v in info.get("dpi", ())),
            "make": exif.get(271),
            "date": exif.get_ifd(34665).get(36867),
            "exposure": exif.get_ifd(34665).get(33434),
            "gps": exif.get_ifd(34853).get(2),
        }


FULL = {
    "icc": ICC,
    "xmp": XMP,
    "dpi": (300.0, 300.0),
    "make": "Maker",
    "date": "2000:01:01 00:00:00",
    "exposure": 1 / 250,
    "gps": (48.0, 8.0, 30.0),
}


def full_file(path: Path, mode: str = "RGB", orientation: int = 1) -> Path:
    """A file with all the metadata that its format can hold."""
    image = image_of(mode)
    exif = exif_of(orientation)
    if path.suffix == ".png":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", XMP.decode())
        image.save(path, icc_profile=ICC, exif=exif, dpi=(300, 300), pnginfo=info)
    elif path.suffix == ".webp":
        exif[282] = exif[283] = TiffImagePlugin.IFDRational(300, 1)
        exif[296] = 2
        image.save(path, icc_profile=ICC, exif=exif, xmp=XMP, lossless=True, exact=True)
    elif path.suffix == ".tif":
        info = TiffImagePlugin.ImageFileDirectory_v2()
        for tag in (271, 274, 306):
            info[tag] = exif[tag]
        info[34665], info[34853], info[700] = dict(exif.get_ifd(34665)), dict(exif.get_ifd(34853)), XMP
        image.save(path, icc_profile=ICC, tiffinfo=info, dpi=(300, 300))
    else:
        image.save(path, icc_profile=ICC, exif=exif, xmp=XMP, dpi=(300, 300), quality=88)
    return path


# ---------------------------------------------------------------- pixels


@pytest.mark.parametrize(("suffix", "mode"), [(s, m) for s, modes in LOSSLESS.items() for m in modes])
def test_pixels_outside_the_hole_are_bit_identical_and_the_mode_is_kept(tmp_path: Path, suffix: str, mode: str) -> None:
    options = {"lossless": True, "exact": True} if suffix == ".webp" else {}
    if mode == "P+alpha":
        options["transparency"] = bytes([255, 0, 128] + [255] * 36 + [7])
    image = image_of(mode)
    image.save(tmp_path / f"in{suffix}", **options)
    before, after, hole, lost = restored(tmp_path / f"in{suffix}", tmp_path / f"out{suffix}")
    assert (after.mode, after.format) == (before.mode, before.format) == (mode.partition("+")[0], before.format)
    assert np.array_equal(before.pixels, np.asarray(image))
    assert np.array_equal(after.pixels[~hole], before.pixels[~hole])
    assert not np.array_equal(after.pixels[hole], before.pixels[hole])
    assert after.carried.palette == before.carried.palette
    told = [notice for notice in lost if not (mode == "P+alpha" and "to be seen" in notice)]  # what is transparent
    assert (told, after.notices) == ([], ())
    if mode in ("LA", "RGBA"):
        assert np.array_equal(after.pixels[..., -1], before.pixels[..., -1])
    if mode.startswith("P"):
        assert len(after.carried.palette) in (160, 1024)  # 40 colours; TIFF and BMP readers give 256


@pytest.mark.parametrize("target", [".png", ".webp", ".bmp", ".tif"])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "P+alpha", "key L", "key RGB"])
def test_every_mode_reaches_every_lossless_format_with_its_colours_and_transparency(
    tmp_path: Path, mode: str, target: str
) -> None:
    image = image_of(mode.removeprefix("key "))
    options: dict[str, object] = {}
    if mode == "P+alpha":
        options["transparency"] = bytes([0, 100] * 20)
    elif mode.startswith("key"):
        options["transparency"] = image.getpixel((0, 0))
    image.save(tmp_path / "in.png", **options)
    before, after, _, _ = restored(tmp_path / "in.png", tmp_path / f"out{target}")
    old, new = before.visible(), after.visible()
    assert (old is None) == (new is None)
    assert old is None or np.array_equal(old, new)
    with Image.open(tmp_path / "in.png") as one, Image.open(tmp_path / f"out{target}") as two:
        alphas = [np.asarray(image.convert("RGBA"))[..., 3] for image in (one, two)]
    assert np.array_equal(*alphas)


@pytest.mark.parametrize("target", [".png", ".webp", ".bmp"])
def test_grey_in_which_white_is_0_keeps_its_alpha_as_it_is(tmp_path: Path, target: str) -> None:
    ramp = np.arange(0, 240, 15, np.uint8)
    grey, alpha = np.tile(ramp, (16, 1)), np.tile(ramp[:, None], (1, 16))
    tags = tiff_tags("<", 16, 16, [8, 8], 0) | {338: (3, struct.pack("<H", 2))}
    (tmp_path / "in.tif").write_bytes(tiff_bytes("<", tags, np.dstack([grey, alpha]).tobytes()))
    picture = images.read_picture(tmp_path / "in.tif")
    assert picture.inverted and picture.mode == "LA"
    writing.write_picture(picture, tmp_path / f"out{target}", overwrite=False)
    with Image.open(tmp_path / f"out{target}") as image:
        found = np.asarray(image.convert("RGBA"))
    assert np.array_equal(found[..., 0], 255 - grey) and np.array_equal(found[..., 3], alpha)


@pytest.mark.parametrize("key", [0, 1])
def test_one_bit_of_which_one_value_is_transparent_is_filled_with_both_and_keeps_that(tmp_path: Path, key: int) -> None:
    row, clear = bytes([0b00110101]) * 3, struct.pack(">H", key)
    (tmp_path / "in.png").write_bytes(png_bytes(24, 12, 1, 0, row, chunk(b"tRNS", clear)))
    before = images.read_picture(tmp_path / "in.png")
    assert before.mode == "1" and np.array_equal(before.opacity() > 0, before.pixels != key)
    hole = np.zeros((12, 24), np.bool_)
    hole[3:9, 5:20] = True
    for shade in (0, 255):
        filled = fill(before, np.full((12, 24, 3), shade, np.uint8), hole)
        written = writing.write_picture(filled, tmp_path / f"{shade}.png", overwrite=False)
        after = images.read_picture(tmp_path / f"{shade}.png")
        assert written.notices == () and (after.pixels[hole] == shade // 255).all()
        assert np.array_equal(after.pixels[~hole], before.pixels[~hole])
        assert np.array_equal(after.opacity() > 0, after.pixels != key)


@pytest.mark.parametrize(("given", "told"), [("PNG", "PNG in a file named .jpg: as a JPEG all pixels"), ("JPEG", "")])
def test_a_picture_that_its_name_makes_a_jpeg_is_told_to_be_one(tmp_path: Path, given: str, told: str) -> None:
    Image.fromarray(noise(40, 48, 3)).save(tmp_path / "in.jpg", given)
    hole = np.zeros((40, 48), np.bool_)
    hole[3:9, 5:20] = True
    picture = images.read_picture(tmp_path / "in.jpg")
    filled = fill(picture, np.zeros((40, 48, 3), np.uint8), hole)
    foreseen = writing.foreseen(filled, tmp_path / "out.jpg")
    written = writing.write_picture(filled, tmp_path / "out.jpg", overwrite=False)
    assert told in " ".join(written.notices) and bool(written.notices) == bool(told)
    assert set(written.notices) <= set(foreseen)


def test_colours_under_full_transparency_survive_webp(tmp_path: Path) -> None:
    rgba = noise(16, 16, 4)
    rgba[..., 3] = 0
    picture = images.read_picture(save(tmp_path / "in.png", rgba))
    writing.write_picture(picture, tmp_path / "out.webp", overwrite=False)
    assert np.array_equal(images.read_picture(tmp_path / "out.webp").pixels, rgba)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P+alpha", "key RGB"])
def test_transparency_is_never_dropped_for_jpeg(tmp_path: Path, mode: str) -> None:
    options = {"P+alpha": {"transparency": 3}, "key RGB": {"transparency": (1, 2, 3)}}.get(mode, {})
    image_of(mode.removeprefix("key ")).save(tmp_path / "in.png", **options)
    picture = images.read_picture(tmp_path / "in.png")
    with pytest.raises(ItemError, match=r"JPEG has no transparency .* write png, webp or tiff"):
        writing.write_picture(picture, tmp_path / "out.jpg", overwrite=False)


@pytest.mark.parametrize(("side", "target", "hint"), [(16384, "o.webp", "16383"), (65501, "o.jpg", "65500")])
def test_pictures_too_large_for_a_format_are_refused(tmp_path: Path, side: int, target: str, hint: str) -> None:
    picture = images.read_picture(save(tmp_path / "in.png", np.zeros((1, side), np.uint8)))
    with pytest.raises(ItemError, match=f"at most {hint}"):
        writing.write_picture(picture, tmp_path / target, overwrite=False)


@pytest.mark.parametrize("depth", [2, 4])
def test_shallow_grey_png_keeps_its_transparent_colour(tmp_path: Path, depth: int) -> None:
    row = bytes([0b00011011]) * 4 if depth == 2 else bytes([0x01, 0x23, 0x45, 0x67])
    key = chunk(b"tRNS", b"\0\x02")
    ground = chunk(b"bKGD", b"\0\x01")  # in steps of their own
    (tmp_path / "in.png").write_bytes(png_bytes(16 if depth == 2 else 8, 12, depth, 0, row, key, ground))
    before = images.read_picture(tmp_path / "in.png")
    shown = before.visible()
    assert shown is not None and not shown.all()
    writing.write_picture(before, tmp_path / "out.png", overwrite=False)
    after = images.read_picture(tmp_path / "out.png")
    assert np.array_equal(after.pixels, before.pixels)
    assert np.array_equal(after.visible(), shown)
    assert after.carried.chunks == ((b"bKGD", bytes([0, 255 // (2**depth - 1)]), False),)


@pytest.mark.parametrize("suffix", [".png", ".bmp"])
def test_colours_of_a_palette_are_all_of_their_16_bits_in_a_tiff(tmp_path: Path, suffix: str) -> None:
    image = Image.fromarray(noise(24, 30) % 4)
    image.putpalette([0, 0, 0, 255, 255, 255, 1, 128, 254, 7, 8, 9])
    image.save(tmp_path / f"in{suffix}")
    restored(tmp_path / f"in{suffix}", tmp_path / "out.tif")
    with Image.open(tmp_path / "out.tif") as made:
        assert made.mode == "P"
        table = np.array(made.tag_v2[320]).reshape(3, 256).T
    assert table[:4].tolist() == [[0] * 3, [65535] * 3, [257, 128 * 257, 254 * 257], [7 * 257, 8 * 257, 9 * 257]]
    assert not table[4:].any()


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_a_palette_whose_pixels_have_an_alpha_each_is_spelled_out_where_there_is_no_place_for_both(
    tmp_path: Path, suffix: str
) -> None:
    colours = Image.fromarray(noise(24, 30) % 40)
    colours.putpalette(PALETTE)
    image = Image.merge("LA", (Image.fromarray(np.array(colours)), Image.fromarray(noise(24, 30))))
    image.putpalette(PALETTE)
    assert image.mode == "PA"
    image.save(tmp_path / "in.tif")
    writing.write_picture(images.read_picture(tmp_path / "in.tif"), tmp_path / f"out{suffix}", overwrite=False)
    with Image.open(tmp_path / "in.tif") as before, Image.open(tmp_path / f"out{suffix}") as after:
        assert np.array_equal(np.array(after), np.array(before.convert("RGBA")))


def test_a_palette_index_that_the_file_does_not_define_survives(tmp_path: Path) -> None:
    palette = chunk(b"PLTE", PALETTE[:9])
    (tmp_path / "in.png").write_bytes(png_bytes(4, 12, 8, 3, bytes([0, 1, 2, 77]), palette))
    before = images.read_picture(tmp_path / "in.png")
    writing.write_picture(before, tmp_path / "out.png", overwrite=False)
    assert np.array_equal(images.read_picture(tmp_path / "out.png").pixels, before.pixels)


# ---------------------------------------------------------------- metadata and orientation


@pytest.mark.parametrize("target", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("source", [".jpg", ".png", ".webp", ".tif"])
def test_icc_exif_gps_xmp_and_dpi_go_from_every_format_to_every_other(tmp_path: Path, source: str, target: str) -> None:
    path = full_file(tmp_path / f"in{source}")
    have = facts(path)
    assert {**have, "dpi": FULL["dpi"]} == FULL
    _, _, _, lost = restored(path, tmp_path / f"out{target}")
    wanted = {**FULL, "dpi": ()} if target == ".webp" else FULL
    assert facts(tmp_path / f"out{target}") == wanted
    if source != ".webp" and target == ".webp":
        assert "resolution" in "".join(lost) or source == ".tif"
    else:
        assert lost == ()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("target", [".jpg", ".png", ".webp", ".tif", ".bmp"])
def test_the_output_is_displayed_as_the_input_is(tmp_path: Path, orientation: int, target: str) -> None:
    for source in (".png", ".tif"):
        path = full_file(tmp_path / f"in{source}", orientation=orientation)
        picture = images.read_picture(path)
        assert picture.orientation == orientation
        writing.write_picture(picture, tmp_path / f"out{target}", overwrite=True)
        with Image.open(path) as one, Image.open(tmp_path / f"out{target}") as two:
            shown = [np.asarray(ImageOps.exif_transpose(i).convert("RGB")).astype(int) for i in (one, two)]
        assert shown[0].shape == shown[1].shape
        assert np.abs(shown[0] - shown[1]).mean() < (6 if target == ".jpg" else 1e-9)
        if target != ".bmp":
            assert images.read_picture(tmp_path / f"out{target}").orientation == orientation


def test_bmp_says_what_it_cannot_hold_and_turns_resolution_with_the_pixels(tmp_path: Path) -> None:
    exif = exif_of(6)
    image_of("RGB").save(tmp_path / "in.jpg", exif=exif, icc_profile=ICC, xmp=XMP, dpi=(300, 150))
    picture = images.read_picture(tmp_path / "in.jpg")
    lost = lost_in(picture, tmp_path / "out.bmp")
    assert lost == ("BMP has no place for: ICC profile; EXIF; XMP",)
    assert facts(tmp_path / "out.bmp")["dpi"] == pytest.approx((150, 300), abs=0.02)
    writing.write_picture(images.read_picture(tmp_path / "out.bmp"), tmp_path / "again.bmp", overwrite=False)
    assert (tmp_path / "again.bmp").read_bytes() == (tmp_path / "out.bmp").read_bytes()


def test_the_profile_of_a_bmp_is_carried_where_there_is_room_for_it(tmp_path: Path) -> None:
    (tmp_path / "in.bmp").write_bytes(bmp_bytes(1, 1, 24, b"abc\0", header=124, icc=ICC))
    picture = images.read_picture(tmp_path / "in.bmp")
    for name in ("out.png", "out.tif", "out.webp", "out.jpg"):
        assert not any("profile" in notice for notice in lost_in(picture, tmp_path / name))
        assert facts(tmp_path / name)["icc"] == ICC
    assert lost_in(picture, tmp_path / "out.bmp") == ("BMP has no place for: ICC profile",)
    whole = (tmp_path / "in.bmp").read_bytes()
    (tmp_path / "in.bmp").write_bytes(whole[:-9])  # of which not all is there
    assert images.read_picture(tmp_path / "in.bmp").carried.icc == b""


def test_what_a_bmp_has_no_place_for_of_a_tiff_is_named(tmp_path: Path) -> None:
    tags = {305: "Scanner 3", 270: "a street"}
    Image.fromarray(noise(8, 8, 3)).save(tmp_path / "in.tif", tiffinfo=tags)
    lost = lost_in(images.read_picture(tmp_path / "in.tif"), tmp_path / "out.bmp")
    assert lost == ("BMP has no place for: TIFF tags ImageDescription, Software",)
    Image.fromarray(noise(8, 8, 3)).save(tmp_path / "in.tif", tiffinfo={274: 6})
    assert lost_in(images.read_picture(tmp_path / "in.tif"), tmp_path / "turned.bmp") == ()
    (told,) = lost_in(images.read_picture(full_file(tmp_path / "full.tif")), tmp_path / "again.bmp")
    assert told.startswith("BMP has no place for: ICC profile; EXIF; XMP; ") and "TIFF tags Make" in told


def test_chunks_that_webp_does_not_know_are_told(tmp_path: Path) -> None:
    data = save(tmp_path / "in.webp", noise(8, 8, 3)).read_bytes()
    private = b"PRIV" + struct.pack("<L", 3) + b"abc\0"
    (tmp_path / "in.webp").write_bytes(data[:4] + struct.pack("<L", len(data) + 4) + data[8:] + private)
    assert images.read_picture(tmp_path / "in.webp").notices == ("WebP chunk PRIV is not carried over",)
    assert _carry.webp_chunks(io.BytesIO(data[:4] + b"\xff" * 4 + data[8:])) == []
    full_file(tmp_path / "full.webp")
    assert images.read_picture(tmp_path / "full.webp").notices == ()


def test_an_aspect_ratio_of_a_jpeg_stays_in_one_and_is_told_elsewhere(tmp_path: Path) -> None:
    data = save(tmp_path / "in.jpg", noise(16, 16, 3)).read_bytes()
    (tmp_path / "in.jpg").write_bytes(data[:13] + b"\0\0\2\0\1" + data[18:])
    picture = images.read_picture(tmp_path / "in.jpg")
    assert lost_in(picture, tmp_path / "out.jpg") == ()
    assert (tmp_path / "out.jpg").read_bytes()[13:18] == b"\0\0\2\0\1"
    for name, kind in (("out.png", "PNG"), ("out.tif", "TIFF"), ("out.bmp", "BMP")):
        assert lost_in(picture, tmp_path / name) == (f"{kind} has no place for: its pixel aspect ratio",)
    again = lost_in(replace(picture, encoded=data[:-40]), tmp_path / "again.jpg")
    assert "encoded again" in again[0] and again[1] == "its pixel aspect ratio is not carried over"
    (tmp_path / "in.jpg").write_bytes(data[:13] + b"\0\0\1\0\1" + data[18:])
    assert lost_in(images.read_picture(tmp_path / "in.jpg"), tmp_path / "square.png") == ()


def test_texts_of_a_png_are_lost_unless_they_are_kept_as_they_are() -> None:
    packed, where = zlib.compress("Übel".encode("latin-1")), b"iTXt"
    chunks = [
        (b"tEXt", b"Two words\0 kept\n", False), (b"tEXt", b"Key\0one", False), (b"tEXt", b"Key\0two", True),
        (b"zTXt", b"Packed\0\0" + packed, False), (b"zTXt", b"Broken\0\0none", False),
        (where, b"Plain\0\0\0de\0w\0\xc3\x9c", False), (where, b"Deep\0\1\0\0\0" + zlib.compress(b"\xc3\x9c"), False),
        (where, b"XML:com.adobe.xmp\0\0\0\0\0<x/>", False), (b"zTXt", b"Raw profile type iptc\0\0none", False),
        (b"tIME", bytes(7), False), (b"gAMA", bytes(4), False),
    ]  # fmt: skip
    heard = {"Two_words": "kept", "Key": "two", "Packed": "Übel", "Broken": "none", "Plain": "Ü", "Deep": "Ü"}
    assert _carry.unheard(chunks, heard) == ["PNG chunks gAMA", "PNG texts Broken, Key"]
    assert _carry.unheard(chunks[:3], {}) == ["PNG texts Key, Two words"]


@pytest.mark.parametrize(("depth", "kept"), [(1, 1), (2, 170), (4, 34), (8, 2)])
def test_the_background_of_a_grey_png_stays_the_grey_that_it_is(tmp_path: Path, depth: int, kept: int) -> None:
    background = chunk(b"bKGD", struct.pack(">H", 1 if depth == 1 else 2))
    (tmp_path / "in.png").write_bytes(png_bytes(16, 4, depth, 0, bytes(range(2 * depth)), background))
    picture = images.read_picture(tmp_path / "in.png")
    assert (picture.notices, lost_in(picture, tmp_path / "out.png")) == ((), ())
    chunks = dict(png_chunks(tmp_path / "out.png"))
    assert chunks[b"IHDR"][8] == (1 if depth == 1 else 8) and chunks[b"bKGD"] == struct.pack(">H", kept)


def test_a_suggested_palette_of_a_png_in_colours_is_told_with_its_histogram(tmp_path: Path) -> None:
    extra = chunk(b"PLTE", bytes(6)), chunk(b"hIST", bytes(4))
    (tmp_path / "in.png").write_bytes(png_bytes(2, 2, 8, 2, b"abcdef", *extra))
    picture = images.read_picture(tmp_path / "in.png")
    assert picture.notices == ("its suggested palette is not carried over",)
    assert lost_in(picture, tmp_path / "out.png") == ()
    assert {name for name, _ in png_chunks(tmp_path / "out.png")} == {b"IHDR", b"IDAT", b"IEND"}


def test_webp_gets_a_resolution_where_there_was_no_exif(tmp_path: Path) -> None:
    picture = images.read_picture(save(tmp_path / "in.png", noise(8, 8, 3), dpi=(300, 300)))
    assert lost_in(picture, tmp_path / "out.webp") == ()
    assert images.read_picture(tmp_path / "out.webp").carried.dpi == pytest.approx((300, 300), abs=0.01)


def test_a_resolution_with_a_fraction_survives_in_tiff(tmp_path: Path) -> None:
    picture = images.read_picture(save(tmp_path / "in.png", noise(8, 8, 3), dpi=(72.5, 299.9994)))
    writing.write_picture(picture, tmp_path / "out.tif", overwrite=False)
    assert images.read_picture(tmp_path / "out.tif").carried.dpi == pytest.approx(picture.carried.dpi, abs=1e-3)


def test_a_profile_for_grey_is_not_put_on_rgb_pixels(tmp_path: Path) -> None:
    grey = bytearray(ICC)
    grey[16:20] = b"GRAY"
    save(tmp_path / "in.png", noise(8, 8), icc_profile=bytes(grey))
    picture = images.read_picture(tmp_path / "in.png")
    assert "grey" in lost_in(picture, tmp_path / "out.webp")[0]
    assert facts(tmp_path / "out.webp")["icc"] is None
    assert lost_in(picture, tmp_path / "out.tif") == ()
    assert facts(tmp_path / "out.tif")["icc"] == bytes(grey)


def test_metadata_too_long_for_jpeg_is_named_and_the_orientation_kept(tmp_path: Path) -> None:
    exif = exif_of(6)
    exif[270] = "x" * 70_000
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", "y" * 70_000)
    image_of("RGB").save(tmp_path / "in.png", exif=exif, pnginfo=info)
    picture = images.read_picture(tmp_path / "in.png")
    lost = lost_in(picture, tmp_path / "out.jpg")
    assert lost == ("JPEG has no place for: EXIF (too long); XMP (too long)",)
    assert images.read_picture(tmp_path / "out.jpg").orientation == 6


# ---------------------------------------------------------------- JPEG


def jpeg_facts(path: Path) -> tuple[object, ...]:
    with Image.open(path) as image:
        layers = [layer[1:3] for layer in image.layer]
        return image.mode, image.quantization, layers, bool(image.info.get("progressive")), image.info.get("comment")


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_keeps_tables_subsampling_progressive_and_comment(
    tmp_path: Path, mode: str, progressive: bool, subsampling: int
) -> None:
    ramp = np.add.outer(np.arange(48), np.arange(64)).astype(np.uint8)
    array = ramp if mode == "L" else np.dstack([ramp, ramp[::-1], ramp[:, ::-1]])
    options = {"quality": 71, "subsampling": subsampling, "progressive": progressive, "comment": b"a comment"}
    Image.fromarray(array).save(tmp_path / "in.jpg", dpi=(72, 96), **options)
    before = images.read_picture(tmp_path / "in.jpg")
    hole = np.zeros((48, 64), np.bool_)
    hole[16:32, 16:32] = True
    filled = fill(before, np.full((48, 64, 3), 200, np.uint8), hole)
    assert lost_in(filled, tmp_path / "out.jpg") == ()
    assert jpeg_facts(tmp_path / "out.jpg") == jpeg_facts(tmp_path / "in.jpg")
    assert facts(tmp_path / "out.jpg")["dpi"] == (72.0, 96.0)
    after = images.read_picture(tmp_path / "out.jpg")
    far = np.ones_like(hole)
    far[8:40, 8:40] = False
    change = np.abs(after.pixels.astype(int) - before.pixels)
    assert change[far].mean() < 1.0
    assert abs(after.pixels[hole].astype(int) - 200).mean() < 12


def test_jpeg_keeps_iptc_extended_xmp_and_all_comments(tmp_path: Path) -> None:
    segments = [
        (0xED, b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\x02hi"),
        (0xE1, b"http://ns.adobe.com/xmp/extension/\0" + b"e" * 50),
    ]
    segments += [(0xFE, b"one"), (0xFE, b"two")]
    extra = b"".join(struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data for marker, data in segments)
    image_of("RGB").save(tmp_path / "in.jpg", extra=extra)
    picture = images.read_picture(tmp_path / "in.jpg")
    writing.write_picture(picture, tmp_path / "out.jpg", overwrite=False)
    with Image.open(tmp_path / "out.jpg") as image:
        found = [data for name, data in image.applist if name not in ("APP0", "APP14")]
    assert found == [data for _, data in segments]
    assert "JPEG segments" in lost_in(picture, tmp_path / "out.png")[0]


def test_jpeg_exif_is_carried_verbatim(tmp_path: Path) -> None:
    block = b"Exif\0\0" + exif_of(3).tobytes()[6:] + b"maker notes at the end"
    image_of("RGB").save(tmp_path / "in.jpg", exif=block)
    _, after, _, _ = restored(tmp_path / "in.jpg", tmp_path / "out.jpg")
    assert b"Exif\0\0" + after.carried.exif == block


def exif_with(thumbnail: bytes, order: str = "<") -> bytes:
    """An EXIF block with a thumbnail, and something else behind that."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "L", 8)
    first = struct.pack(order + "HHHLHHL", 1, 274, 3, 1, 1, 0, 26)
    second = struct.pack(order + "HHHLLHHLLL", 2, 513, 4, 1, 56, 514, 4, 1, len(thumbnail), 0)
    return head + first + second + thumbnail + b"maker's note"


def jpeg_of(pixels: np.ndarray, size: tuple[int, int], bars: int = 0, quality: int = 85) -> bytes:
    out = io.BytesIO()
    small = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))
    Image.fromarray(np.pad(small, ((bars, bars), (0, 0), (0, 0)))).save(out, "JPEG", quality=quality)
    return out.getvalue()


def plain_with_damage(height: int = 240, width: int = 360) -> tuple[np.ndarray, np.ndarray]:
    across, down = np.meshgrid(np.arange(width), np.arange(height))
    pixels = np.stack([across * 150 // width + 20, down * 150 // height + 20, across * 0 + 90], -1).astype(np.uint8)
    hole = np.zeros((height, width), np.bool_)
    hole[60:150, 90:240] = True
    pixels[hole] = 255
    return pixels, hole


@pytest.mark.parametrize(("order", "bars"), [("<", 0), (">", 0), ("<", 10)])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_an_exif_thumbnail_is_made_anew_in_its_place(tmp_path: Path, suffix: str, order: str, bars: int) -> None:
    pixels, hole = plain_with_damage()
    old = jpeg_of(pixels, (120, 80), bars)
    exif = exif_with(old, order)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=95, exif=b"Exif\0\0" + exif)
    picture = images.read_picture(tmp_path / "a.jpg")
    filled = fill(picture, np.full_like(pixels, 60), hole)
    written = writing.write_picture(filled, tmp_path / f"b{suffix}", overwrite=False)
    assert written.notices == ()
    with Image.open(tmp_path / f"b{suffix}") as image:
        new = image.info["exif"].removeprefix(b"Exif\0\0")
    place = slice(56, 56 + len(old))
    assert new[:56] == exif[:56] and new[place.stop :] == b"maker's note" and len(new) == len(exif)
    view = np.asarray(Image.open(io.BytesIO(new[place])).convert("RGB")).astype(int)
    assert view.shape == (80 + 2 * bars, 120, 3)
    inside = view[bars + 22 : bars + 48, 32:78]
    assert np.abs(inside - 60).max() < 12, "the damage was white"
    before = np.asarray(Image.open(io.BytesIO(old)).convert("RGB")).astype(int)
    assert np.abs(view - before)[bars + 54 :].max() < 20


@pytest.mark.parametrize("trouble", ["another picture", "no room", "damaged"])
def test_an_exif_thumbnail_that_cannot_be_made_anew_is_a_loss(tmp_path: Path, trouble: str) -> None:
    pixels, hole = plain_with_damage()
    shown, quality = 255 - pixels if trouble == "another picture" else pixels, 3 if trouble == "no room" else 85
    old = jpeg_of(shown, (120, 80), quality=quality)
    old = old[:300] if trouble == "damaged" else old
    exif = exif_with(old)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=95, exif=b"Exif\0\0" + exif)
    colours = noise(240, 360, 3) if trouble == "no room" else np.full_like(pixels, 60)
    filled = fill(images.read_picture(tmp_path / "a.jpg"), colours, hole)
    written = writing.write_picture(filled, tmp_path / "b.jpg", overwrite=False)
    (notice,) = written.notices
    assert isinstance(notice, Loss) and "EXIF thumbnail" in notice
    with Image.open(tmp_path / "b.jpg") as image:
        assert image.info["exif"] == b"Exif\0\0" + exif
    whole = _carry.thumbnail_in(exif)
    assert whole is not None
    for cut in range(0, whole.stop, 7):
        assert _carry.thumbnail_in(exif[:cut]) is None, "what is cut short is found by nobody, and no error"


def test_jpeg_stored_as_rgb_stays_rgb(tmp_path: Path) -> None:
    image_of("RGB", 48, 64).save(tmp_path / "in.jpg", keep_rgb=True, quality=100, subsampling=0)
    _, after, _, _ = restored(tmp_path / "in.jpg", tmp_path / "out.jpg")
    with Image.open(tmp_path / "in.jpg") as one, Image.open(tmp_path / "out.jpg") as two:
        assert [layer[0] for layer in one.layer] == [layer[0] for layer in two.layer]
    assert after.carried.jpeg["keep_rgb"]


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_jpeg_from_another_format_is_quality_95_full_chroma(tmp_path: Path, mode: str) -> None:
    image_of(mode).save(tmp_path / "in.png")
    _, after, _, _ = restored(tmp_path / "in.png", tmp_path / "out.jpg")
    image_of("L" if mode == "L" else "RGB").save(tmp_path / "ref.jpg", quality=95, subsampling=0)
    assert jpeg_facts(tmp_path / "out.jpg") == jpeg_facts(tmp_path / "ref.jpg")
    assert after.mode == ("L" if mode == "L" else "RGB")


def test_what_a_camera_puts_after_the_end_of_a_jpeg_stays_there_and_is_told_where_it_cannot(tmp_path: Path) -> None:
    plain = jpeg_file(tmp_path / "plain.jpg")
    source = tmp_path / "a.jpg"
    source.write_bytes(plain.read_bytes() + b"MOTION" * 99)
    picture = images.read_picture(source)
    hole = np.zeros((picture.height, picture.width), np.bool_)
    hole[3:9, 4:11] = True
    filled = picture.filled({layer: picture.seen(layer).copy() for layer in picture.layers}, hole)
    assert writing.write_picture(filled, tmp_path / "b.jpg", overwrite=False).notices == ()
    assert (tmp_path / "b.jpg").read_bytes().endswith(b"\xff\xd9" + b"MOTION" * 99)
    (notice,) = writing.write_picture(filled, tmp_path / "b.png", overwrite=False).notices
    assert isinstance(notice, Loss) and "594 bytes after the end of the JPEG" in notice


def jpeg_file(path: Path) -> Path:
    Image.fromarray(noise(30, 40, 3)).save(path, quality=90)
    return path


# ---------------------------------------------------------------- PNG


def png_chunks(path: Path) -> list[tuple[bytes, bytes]]:
    data, at, found = path.read_bytes(), 8, []
    while at < len(data):
        (size,) = struct.unpack(">L", data[at : at + 4])
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    return found


def test_png_keeps_texts_colour_chunks_density_and_safe_private_chunks(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", "Müller")
    info.add_text("Long", "z" * 200, zip=True)
    info.add_itxt("Title", "日本", "ja", "題")
    kept = {b"gAMA": b"\0\0\xb1\x8f", b"cHRM": bytes(range(32)), b"tIME": b"\x07\xd0\1\1\0\0\0", b"prVa": b"mine"}
    for name, data in kept.items():
        info.add(name, data)
    info.add(b"unSA", b"about the pixels")
    image_of("RGB").save(tmp_path / "in.png", pnginfo=info)
    data = (tmp_path / "in.png").read_bytes()
    density = chunk(b"pHYs", struct.pack(">LLB", 11811, 3937, 1))
    (tmp_path / "in.png").write_bytes(data[:33] + density + data[33:])
    _, after, _, lost = restored(tmp_path / "in.png", tmp_path / "out.png")
    before = images.read_picture(tmp_path / "in.png")
    old, new = png_chunks(tmp_path / "in.png"), png_chunks(tmp_path / "out.png")
    for name in [b"tEXt", b"zTXt", b"iTXt", b"pHYs", *kept]:
        chosen = [pair for pair in old if pair[0] == name]
        assert chosen and chosen == [pair for pair in new if pair[0] == name], name
    assert not any(name == b"unSA" for name, _ in new)
    assert before.notices == ("PNG chunk unSA is not carried over",)
    assert (lost, after.notices) == ((), ())
    assert "PNG chunks cHRM, gAMA, iTXt" in lost_in(before, tmp_path / "o.webp")[0]


@pytest.mark.parametrize("per_metre", [1, 2834, 2835, 3937, 11811, 23622, 47244, 100_001])
def test_png_density_comes_back_as_the_same_integer(tmp_path: Path, per_metre: int) -> None:
    density = chunk(b"pHYs", struct.pack(">LLB", per_metre, per_metre + 1, 1))
    (tmp_path / "in.png").write_bytes(png_bytes(4, 4, 8, 0, b"abcd", density))
    writing.write_picture(images.read_picture(tmp_path / "in.png"), tmp_path / "out.png", overwrite=False)
    assert density[4:-4] in (tmp_path / "out.png").read_bytes()


def test_png_exif_and_xmp_after_the_pixels_are_found(tmp_path: Path) -> None:
    exif = chunk(b"eXIf", exif_of(6).tobytes()[6:])
    data = png_bytes(4, 4, 8, 0, b"abcd")
    (tmp_path / "in.png").write_bytes(data[:-12] + exif + data[-12:])
    picture = images.read_picture(tmp_path / "in.png")
    assert picture.orientation == 6
    writing.write_picture(picture, tmp_path / "out.png", overwrite=False)
    assert facts(tmp_path / "out.png")["gps"] == (48.0, 8.0, 30.0)


def test_a_16_bit_png_keeps_all_that_an_8_bit_one_does(tmp_path: Path) -> None:
    """Its pixels are written by another library than its metadata."""
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", "Müller")
    info.add(b"sBIT", b"\x0c\x0c\x0c")
    info.add(b"gAMA", b"\0\0\xb1\x8f")
    info.add(b"prVa", b"mine", True)
    image_of("RGB").save(tmp_path / "8.png", pnginfo=info, icc_profile=ICC, exif=exif_of(6), dpi=(300, 150))
    dress = [pair for pair in png_chunks(tmp_path / "8.png") if pair[0] not in (b"IHDR", b"IDAT", b"IEND")]
    row = RNG.integers(0, 65536, 30 * 3).astype(">u2").tobytes()
    (tmp_path / "in.png").write_bytes(png_bytes(30, 24, 16, 2, row, *(chunk(*pair) for pair in dress)))
    before, after, hole, lost = restored(tmp_path / "in.png", tmp_path / "out.png")
    assert lost == () and before.pixels.dtype == after.pixels.dtype == np.uint16
    assert np.array_equal(after.pixels[~hole], before.pixels[~hole])
    assert sorted(pair for pair in png_chunks(tmp_path / "out.png") if pair[0] in dict(dress)) == sorted(dress)
    with Image.open(tmp_path / "out.png") as image:
        image.verify()  # checksums too


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("target", [".png", ".tif"])
def test_the_transparent_colour_of_a_16_bit_png_stays_transparent_at_full_depth(
    tmp_path: Path, mode: str, target: str
) -> None:
    values = np.arange(1000, 1000 + 30 * (3 if mode == "RGB" else 1)).astype(">u2")
    key = chunk(b"tRNS", values[6:9].tobytes() if mode == "RGB" else values[2:3].tobytes())
    (tmp_path / "in.png").write_bytes(png_bytes(30, 24, 16, 2 if mode == "RGB" else 0, values.tobytes(), key))
    before, after, hole, _ = restored(tmp_path / "in.png", tmp_path / f"out{target}")
    shown = before.visible()
    assert shown is not None and (~shown).sum() == 24
    assert np.array_equal(after.visible(), shown)
    colours = after.channels[..., : before.channels.shape[2]]
    assert np.array_equal(colours[~hole], before.channels[~hole])
    if target == ".tif":
        assert set(np.unique(after.channels[..., -1])) == {0, 65535}


# ---------------------------------------------------------------- IPTC

IIM = b"\x1c\x02\x78\0\x07caption\0\0\0\0"


def test_iptc_that_a_tiff_calls_numbers_is_turned_back_to_bytes(tmp_path: Path) -> None:
    numbers = struct.pack(">4L", *struct.unpack("<4L", IIM))
    for order, data in (("<", IIM), (">", IIM), (">", numbers)):
        tags = tiff_tags(order, 30, 24, [8], 1) | {33723: (4, data)}
        (tmp_path / "in.tif").write_bytes(tiff_bytes(order, tags, noise(24, 30).tobytes()))
        assert _carry.iptc_of(images.read_picture(tmp_path / "in.tif").carried.photoshop) == IIM


def test_iptc_is_found_among_named_and_odd_resources() -> None:
    others = b"8BIM\x03\xed\x04name\0" + struct.pack(">L", 3) + b"abc\0" + b"8BIM\x04\x0a\0\0\0\0\0\0"
    assert _carry.iptc_of(others + _carry.as_resource(IIM)) == IIM
    assert _carry.iptc_of(others) == b""
    for size in range(len(others)):
        assert _carry.iptc_of(others[:size]) == b""


def test_resources_longer_than_a_jpeg_segment_are_cut_and_joined(tmp_path: Path) -> None:
    long = _carry.as_resource(b"\x1c\x02\x78" + bytes(150_000)) + b"8BIM\x04\x0a\0\0\0\0\0\x02yz"
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type iptc", _carry.iptc_text(long), zip=True)
    image_of("RGB").save(tmp_path / "in.png", pnginfo=info)
    _, after, _, lost = restored(tmp_path / "in.png", tmp_path / "out.jpg")
    assert lost == () and after.carried.photoshop == long
    again, back, _, lost = restored(tmp_path / "out.jpg", tmp_path / "back.tif")
    assert lost == () and back.carried.photoshop == again.carried.photoshop == long


# ---------------------------------------------------------------- TIFF


def tiff_entries(path: Path) -> TiffImagePlugin.ImageFileDirectory_v2:
    with Image.open(path) as image:
        return image.tag_v2


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_tiff_keeps_its_lossless_compression_and_predictor(tmp_path: Path, compression: str, mode: str) -> None:
    predictor = {317: 2} if compression in ("tiff_lzw", "tiff_adobe_deflate") else {}
    image_of(mode).save(tmp_path / "in.tif", compression=compression, tiffinfo=predictor)
    before, after, hole, _ = restored(tmp_path / "in.tif", tmp_path / "out.tif")
    assert np.array_equal(after.pixels[~hole], before.pixels[~hole])
    old, new = tiff_entries(tmp_path / "in.tif"), tiff_entries(tmp_path / "out.tif")
    assert [new.get(tag) for tag in (258, 259, 277, 317, 338)] == [old.get(tag) for tag in (258, 259, 277, 317, 338)]


def test_a_jpeg_compressed_tiff_stays_one_and_says_so(tmp_path: Path) -> None:
    image_of("RGB", 64, 64).save(tmp_path / "in.tif", compression="jpeg", tiffinfo={278: 16})
    before = images.read_picture(tmp_path / "in.tif")
    hole = np.zeros((64, 64), np.bool_)
    hole[3:9, 4:20] = True
    written = writing.write_picture(fill(before, noise(64, 64, 3), hole), tmp_path / "out.tif", overwrite=False)
    (notice,) = written.notices
    assert isinstance(notice, Loss) and "the one strip of 64 x 16 px that holds damage" in notice
    after = images.read_picture(tmp_path / "out.tif")
    changed = (after.pixels != before.pixels).any(axis=2)
    assert not changed[16:].any()
    assert written.outside_changed == (changed & ~hole).sum() > 0
    assert tiff_entries(tmp_path / "out.tif")[259] == 7


def rational(order: str, *values: int) -> tuple[int, bytes]:
    return 5, struct.pack(f"{order}{len(values)}L", *values)


@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_tags_of_every_kind_survive(tmp_path: Path, order: str) -> None:
    def doubles(*values: float) -> tuple[int, bytes]:
        return 12, struct.pack(f"{order}{len(values)}d", *values)

    def shorts(*values: int) -> tuple[int, bytes]:
        return 3, struct.pack(f"{order}{len(values)}H", *values)

    tags = tiff_tags(order, 30, 24, [8, 8, 8], 2) | {
        270: (2, "Grüße aus Köln\0".encode()),
        282: rational(order, 4000000, 10000),
        283: rational(order, 400, 1),
        296: shorts(3),
        315: (2, "Müller\0".encode("latin-1")),
        700: (1, XMP),
        33432: (2, b"me\0"),
        33550: doubles(0.5, 0.5, 0.0),
        33723: (4, struct.pack(order + "3L", 1, 2, 3)),
        33922: doubles(0, 0, 0, 10.25, 50.5, 0),
        34264: doubles(*range(16)),
        34377: (7, b"8BIM\x04\x04\0\0\0\0\0\x02hi"),
        34735: shorts(1, 1, 0, 1, 1024, 0, 1, 2),
        34736: doubles(6378137.0, 298.257),
        34737: (2, b"WGS 84|\0"),
        42112: (2, b"<GDALMetadata/>\0"),
        42113: (2, b"0\0"),
        50999: (7, b"private"),
    }
    (tmp_path / "in.tif").write_bytes(tiff_bytes(order, tags, noise(24, 30, 3).tobytes()))
    before, after, _, lost = restored(tmp_path / "in.tif", tmp_path / "out.tif")
    assert (before.notices, lost) == ((), ())
    assert after.carried.tags == before.carried.tags
    assert before.carried.dpi == after.carried.dpi == (1016.0, 1016.0)
    old, new = tiff_entries(tmp_path / "in.tif"), tiff_entries(tmp_path / "out.tif")
    layout = {256, 257, 258, 259, 262, 273, 277, 278, 279}
    for tag in set(tags) - layout - {33723}:  # which Pillow shortens with a warning
        assert new[tag] == old[tag] and new.tagtype[tag] == old.tagtype[tag], tag
    assert "TIFF tags 33550" in lost_in(before, tmp_path / "o.png")[0]


def test_how_inks_lie_in_a_tiff_is_no_loss_in_another_format(tmp_path: Path) -> None:
    tags = tiff_tags("<", 4, 4, [8] * 4, 5) | {332: (3, struct.pack("<H", 1)), 334: (3, struct.pack("<H", 4))}
    (tmp_path / "in.tif").write_bytes(tiff_bytes("<", tags, noise(4, 4, 4).tobytes()))
    assert lost_in(images.read_picture(tmp_path / "in.tif"), tmp_path / "out.jpg") == ()


def test_tiff_layers_stay_with_a_warning_and_are_named_where_they_cannot(tmp_path: Path) -> None:
    tags = tiff_tags("<", 4, 4, [8], 1) | {37724: (7, b"layers that show the damage")}
    (tmp_path / "in.tif").write_bytes(tiff_bytes("<", tags, noise(16).tobytes()))
    picture = images.read_picture(tmp_path / "in.tif")
    (told,) = lost_in(picture, tmp_path / "out.tif")
    assert "Photoshop layers" in told and not isinstance(told, Loss)
    assert tiff_entries(tmp_path / "out.tif")[37724] == b"layers that show the damage"
    assert "Photoshop layers" in lost_in(picture, tmp_path / "out.png")[0]


def test_a_tiff_tag_that_points_outside_the_file_is_named_where_it_is_not_copied(tmp_path: Path) -> None:
    image_of("L").save(tmp_path / "in.tif", software="x" * 40)
    data = bytearray((tmp_path / "in.tif").read_bytes())
    at = data.index(struct.pack("<HHL", 305, 2, 41))
    data[at + 8 : at + 12] = struct.pack("<L", 10**9)
    (tmp_path / "in.tif").write_bytes(data)
    picture = images.read_picture(tmp_path / "in.tif")
    assert lost_in(picture, tmp_path / "out.tif") == ()
    assert "TIFF tag 305" in lost_in(picture, tmp_path / "out.png")[0]


def test_exif_that_runs_in_circles_ends(tmp_path: Path) -> None:
    block = b"II*\0\x08\0\0\0" + struct.pack("<HHHLL", 1, 34665, 4, 1, 8) + b"\0\0\0\0"
    picture = images.read_picture(save(tmp_path / "a.png", noise(4, 4), exif=block))
    assert picture.orientation == 1
    writing.write_picture(picture, tmp_path / "b.tif", overwrite=False)


def test_colours_that_a_tiff_multiplies_by_alpha_stay_so_there_and_are_themselves_elsewhere(tmp_path: Path) -> None:
    tags = tiff_tags("<", 4, 4, [8] * 4, 2) | {338: (3, b"\x01\0")}
    (tmp_path / "in.tif").write_bytes(tiff_bytes("<", tags, b"\x10\x20\x30\x80" * 15 + bytes(4)))
    before = images.read_picture(tmp_path / "in.tif")
    assert lost_in(before, tmp_path / "out.tif") == ()
    assert tiff_entries(tmp_path / "out.tif")[338] == (1,)
    for name in ("out.png", "out.webp", "out.bmp"):
        written = writing.write_picture(before, tmp_path / name, overwrite=False)
        assert written == writing.Written()
        made = images.read_picture(tmp_path / name).pixels.reshape(-1, 4)
        assert made[[0, 15]].tolist() == [[32, 64, 96, 128], [0, 0, 0, 0]]
    (tmp_path / "in.tif").write_bytes(tiff_bytes("<", tags, b"\x10\x20\x30\x2f" * 16))
    assert "colours above their alpha" in lost_in(images.read_picture(tmp_path / "in.tif"), tmp_path / "glow.png")[0]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_white_is_zero_stays_in_tiff_and_is_turned_round_elsewhere(tmp_path: Path, dtype: type) -> None:
    values = RNG.integers(0, 2 ** (8 * dtype().itemsize), (24, 30)).astype(dtype)
    tags = tiff_tags("<", 30, 24, [8 * dtype().itemsize], 0)
    (tmp_path / "in.tif").write_bytes(tiff_bytes("<", tags, values.tobytes()))
    before, after, hole, _ = restored(tmp_path / "in.tif", tmp_path / "out.tif")
    assert np.array_equal(before.pixels, values)
    assert np.array_equal(after.pixels[~hole], values[~hole]) and tiff_entries(tmp_path / "out.tif")[262] == 0
    _, after, hole, _ = restored(tmp_path / "in.tif", tmp_path / "out.png")
    assert after.pixels.dtype == dtype and np.array_equal(after.pixels[~hole], ~values[~hole])


# ---------------------------------------------------------------- BMP


def test_bmp_with_an_alpha_mask_keeps_it(tmp_path: Path) -> None:
    rgba = noise(24, 30, 4)
    writing.write_picture(
        images.read_picture(save(tmp_path / "in.png", rgba, dpi=(300, 300))), tmp_path / "in.bmp", overwrite=False
    )
    with Image.open(tmp_path / "in.bmp") as image:
        assert image.mode == "RGBA" and np.array_equal(np.asarray(image), rgba)
    before, after, hole, _ = restored(tmp_path / "in.bmp", tmp_path / "out.bmp")
    assert after.mode == "RGBA"
    assert np.array_equal(after.pixels[~hole], before.pixels[~hole])
    assert facts(tmp_path / "out.bmp")["dpi"] == (300.0, 300.0)


def test_streams_are_closed_after_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[io.IOBase] = []
    real = Path.open

    def watched(self: Path, *args: object, **options: object) -> object:
        opened.append(real(self, *args, **options))
        return opened[-1]

    path = full_file(tmp_path / "a.tif")
    monkeypatch.setattr(Path, "open", watched)
    images.read_picture(path)
    assert opened and all(stream.closed for stream in opened)


@pytest.mark.parametrize("colours", [[0, 0, 0, 255, 255, 255], [255, 255, 255, 0, 0, 0], [0, 0, 0, 1, 1, 1, 2, 2, 2]])
def test_a_palette_that_looks_like_grey_survives_bmp(tmp_path: Path, colours: list[int]) -> None:
    image = Image.fromarray(noise(24, 30) % (len(colours) // 3))
    image.putpalette(colours)
    image.save(tmp_path / "in.png")
    before, _, hole, _ = restored(tmp_path / "in.png", tmp_path / "out.bmp")
    with Image.open(tmp_path / "out.bmp") as opened:
        assert np.array_equal(np.asarray(opened.convert("RGB"))[~hole], before.rgb()[~hole])
