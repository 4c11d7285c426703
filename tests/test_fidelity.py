"""What of a picture survives in which format: a table, a test of every cell of it, and the guide's copy.

`python tests/test_fidelity.py` prints the table for the guide.
"""

from __future__ import annotations

import contextlib
import re
import struct
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, IptcImagePlugin, PngImagePlugin, TiffImagePlugin

from pconv_cli import images, writing
from pconv_cli.errors import ItemError, Loss
from pconv_cli.layers import View, viewed
from pconv_cli.provenance import NAMESPACE, Entry, Unreadable, merged

ENTRY = Entry("none", "", "mask.png", "00" * 32, 1, 0.5, "2026-01-01T00:00:00Z")
TARGETS = {"JPEG": ".jpg", "PNG": ".png", "TIFF": ".tif", "WebP": ".webp", "BMP": ".bmp"}
GUIDE = Path(__file__).parent.parent / "pconv_cli" / "GUIDE.md"


@dataclass(frozen=True)
class Row:
    """One property of pictures.

    Attributes:
        name: What the table calls it.
        sources: Formats that can have it, and are made here.
        cells: What becomes of it, for each target.
        told: What the notice of a loss says of it, or the refusal.
    """

    name: str
    sources: str
    cells: str
    told: str = ""

    def cell(self, target: str) -> str:
        return self.cells.split()[list(TARGETS).index(target)]


# kept: it is there. rgb: its values are there, as red, green and blue. told: it is lost, a notice says so, `--strict`
# refuses. refused: with a line that says what to do. lossy: told; of a JPEG only the touched blocks are new.
ROWS = [
    Row("pixels outside the mask, bit by bit", "JPEG PNG TIFF WebP BMP", "lossy kept kept kept kept", "a JPEG: "),
    Row("grey", "JPEG PNG TIFF BMP", "kept kept kept rgb kept"),
    Row("grey + alpha", "PNG TIFF", "refused kept kept rgb rgb", "no transparency"),
    Row("alpha", "PNG TIFF WebP BMP", "refused kept kept kept kept", "no transparency"),
    Row("palette", "PNG TIFF BMP", "told kept kept told kept", "palette"),
    Row("palette with transparency", "PNG", "refused kept told told told", "palette|no transparency"),
    Row("1 bit per pixel", "PNG TIFF BMP", "told kept kept told kept", "1 bit"),
    Row("16 bits per channel, grey", "PNG TIFF", "refused kept kept refused refused", "16-bit"),
    Row("16 bits per channel, RGB", "PNG TIFF", "refused kept kept refused refused", "16-bit"),
    Row("16 bits per channel, RGBA", "PNG TIFF", "refused kept kept refused refused", "16-bit"),
    Row("8 and 16 bits, signed", "TIFF", "refused refused kept refused refused", "signed 16-bit"),
    Row("32 bits, signed or not", "TIFF", "refused refused kept refused refused", "hold 32-bit"),
    Row("32- and 64-bit floating point", "TIFF", "refused refused kept refused refused", "32-bit floating-point"),
    Row("CMYK", "JPEG TIFF", "kept refused kept refused refused", "CMYK"),
    Row("further channels (infrared and the like)", "TIFF", "refused refused kept refused refused", "channels"),
    Row("ICC profile", "JPEG PNG TIFF WebP", "kept kept kept kept told", "ICC profile"),
    Row("EXIF", "JPEG PNG TIFF WebP", "kept kept kept kept told", "EXIF"),
    Row("GPS position", "JPEG PNG TIFF WebP", "kept kept kept kept told", "EXIF"),
    Row("XMP", "JPEG PNG TIFF WebP", "kept kept kept kept told", "XMP"),
    Row("IPTC", "JPEG PNG TIFF", "kept kept kept told told", "IPTC|33723|34377"),
    Row("resolution (DPI)", "JPEG PNG TIFF WebP BMP", "kept kept kept kept kept", "resolution"),
    Row("resolution beside EXIF that has none", "JPEG PNG", "kept kept kept told kept", "resolution"),
    Row("orientation", "JPEG PNG TIFF WebP", "kept kept kept kept kept"),
    Row("JPEG comment", "JPEG", "kept told told told told", "comment"),
    Row("PNG text", "PNG", "told kept told told told", "tEXt"),
    Row("GeoTIFF and private TIFF tags", "TIFF", "told told kept told told", "33550, .*50999"),
    Row("nodata value", "TIFF", "told told kept told told", "nodata"),
    Row("further pages of a TIFF", "TIFF", "told told kept told told", "2 pages .* not carried over"),
    Row("further pictures of an MPO", "JPEG", "told told told told told", "MPO: 1 further picture"),
    Row("animation", "PNG WebP", "refused refused refused refused refused", "animated"),
]  # fmt: skip
WORDS = {"kept": "kept", "rgb": "as RGB", "told": "told", "refused": "refused", "lossy": "lossy"}


def table() -> str:
    """The table as it stands in the guide."""
    lines = [["", *TARGETS], ["---"] * (1 + len(TARGETS))]
    lines += [[row.name, *(WORDS[row.cell(target)] for target in TARGETS)] for row in ROWS]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# ---------------------------------------------------------------- pictures that have it

HEIGHT, WIDTH = 32, 48
HOLE = np.zeros((HEIGHT, WIDTH), np.bool_)
HOLE[10:20, 18:30] = True
FAR = np.ones_like(HOLE)  # what no block that the hole touches reaches, chroma's neighbours included
FAR[:, 8:40] = False

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<?xpacket begin=""?><x:xmpmeta xmlns:x="adobe:ns:meta/">\xc3\xbc</x:xmpmeta>'
CAPTION = b"caption!"
IPTC = b"\x1c\x02\x78" + struct.pack(">H", len(CAPTION)) + CAPTION
RESOURCE = b"8BIM\x04\x04\0\0" + struct.pack(">L", len(IPTC)) + IPTC + b"\0" * (len(IPTC) % 2)
GEO = {33550: (12, (0.5, 0.5, 0.0)), 33922: (12, (0.0, 0.0, 0.0, 10.25, 50.5, 0.0)), 50999: (7, b"private")}
KEYS = {34735: (3, (1, 1, 0, 1, 1024, 0, 1, 2))}


def waves(channels: int, seed: int = 0) -> NDArray[np.float64]:
    """(HEIGHT, WIDTH, channels) in [0.05, 0.95]."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    turns = np.arange(channels) + seed
    return 0.5 + 0.45 * np.sin(x[..., None] / (5 + turns) + y[..., None] / (7 + 2 * turns))


def eight(channels: int) -> NDArray[np.uint8]:
    return np.squeeze((waves(channels) * 255).astype(np.uint8))


def gdal(path: Path, pixels: NDArray[Any], **options: Any) -> None:
    driver = {".png": "PNG", ".tif": "GTiff"}[path.suffix]
    pixels = pixels.reshape(HEIGHT, WIDTH, -1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        profile = {"driver": driver, "height": HEIGHT, "width": WIDTH, "count": pixels.shape[2], "dtype": pixels.dtype}
        with rasterio.open(path, "w", **profile, **options) as out:
            out.write(np.moveaxis(pixels, 2, 0))


def raw(path: Path) -> NDArray[Any]:
    """What GDAL reads, (h, w, channels)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        name = f"GTIFF_RAW:{path}" if path.suffix == ".tif" else path
        with rasterio.open(name) as source:
            return np.moveaxis(source.read(), 0, -1)


def deep(path: Path, channels: int) -> None:
    options = {} if path.suffix == ".png" or channels < 3 else {"photometric": "RGB"}
    options |= {"ALPHA": "YES"} if path.suffix == ".tif" and channels == 4 else {}
    gdal(path, (waves(channels) * 65535).astype(np.uint16), **options)


def save(path: Path, image: Image.Image, **options: Any) -> None:
    if path.suffix == ".webp":
        options = {"lossless": True, "exact": True} | options
    if path.suffix == ".jpg":
        options = {"quality": 90} | options
    image.save(path, **options)


def rgba(path: Path) -> None:
    if path.suffix != ".bmp":
        return save(path, Image.fromarray(eight(4)))
    save(path.with_suffix(".png"), Image.fromarray(eight(4)))  # Pillow writes BMPs whose alpha readers ignore
    writing.write_picture(images.read_picture(path.with_suffix(".png")), path, overwrite=False)


def exif(path: Path, orientation: int = 1) -> None:
    block = Image.Exif()
    block[271], block[274] = "Maker", orientation
    block.get_ifd(34665)[36867] = "2000:01:01 00:00:00"
    block.get_ifd(34853)[1], block.get_ifd(34853)[2] = "N", (48.0, 8.0, 30.0)
    if path.suffix == ".tif":
        info = TiffImagePlugin.ImageFileDirectory_v2()
        info[271], info[274] = "Maker", orientation
        info[34665], info[34853] = dict(block.get_ifd(34665)), dict(block.get_ifd(34853))
        return save(path, Image.fromarray(eight(3)), tiffinfo=info)
    save(path, Image.fromarray(eight(3)), exif=block)


def tagged(path: Path, tags: dict[int, tuple[int, Any]], image: Image.Image | None = None) -> None:
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, (kind, value) in tags.items():
        info.tagtype[tag] = kind
        info[tag] = value
    save(path, image or Image.fromarray(eight(3)), tiffinfo=info)


def xmp(path: Path) -> None:
    if path.suffix == ".tif":
        return tagged(path, {700: (1, XMP)})
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP.decode())
    save(path, Image.fromarray(eight(3)), **({"pnginfo": info} if path.suffix == ".png" else {"xmp": XMP}))


def iptc(path: Path) -> None:
    if path.suffix == ".tif":
        return tagged(path, {33723: (7, IPTC)})
    if path.suffix == ".png":
        info = PngImagePlugin.PngInfo()
        info.add_text("Raw profile type iptc", f"\niptc\n{len(RESOURCE):8}\n{RESOURCE.hex()}\n", zip=True)
        return save(path, Image.fromarray(eight(3)), pnginfo=info)
    body = b"Photoshop 3.0\0" + RESOURCE
    save(path, Image.fromarray(eight(3)), extra=struct.pack(">HH", 0xFFED, len(body) + 2) + body)


def resolution(path: Path) -> None:
    if path.suffix != ".webp":
        return save(path, Image.fromarray(eight(3)), dpi=(300, 300))
    block = Image.Exif()
    block[282] = block[283] = TiffImagePlugin.IFDRational(300, 1)
    block[296] = 2
    save(path, Image.fromarray(eight(3)), exif=block)


def resolution_beside_exif(path: Path) -> None:
    block = Image.Exif()
    block[271] = "Maker"
    save(path, Image.fromarray(eight(3)), exif=block, dpi=(300, 300))


def text(path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Title", "a text")
    save(path, Image.fromarray(eight(3)), pnginfo=info)


def several(path: Path, **options: Any) -> None:
    frames = [Image.fromarray(eight(3)), Image.fromarray(255 - eight(3))]
    save(path, frames[0], save_all=True, append_images=frames[1:], **options)


def profile(path: Path) -> None:
    save(path, Image.fromarray(eight(3)), icc_profile=ICC)


def cmyk(path: Path) -> None:
    image = Image.frombytes("CMYK", (WIDTH, HEIGHT), eight(4).tobytes())
    save(path, image, **({"compression": "tiff_lzw"} if path.suffix == ".tif" else {}))


def palette(path: Path, **options: Any) -> None:
    save(path, Image.fromarray(eight(3)).quantize(40, dither=Image.Dither.NONE), **options)


MAKE: dict[str, Callable[[Path], None]] = {
    "pixels outside the mask, bit by bit": lambda path: save(path, Image.fromarray(eight(3))),
    "grey": lambda path: save(path, Image.fromarray(eight(1))),
    "grey + alpha": lambda path: save(path, Image.fromarray(eight(2))),
    "alpha": rgba,
    "palette": palette,
    "palette with transparency": lambda path: palette(path, transparency=bytes([0, 128] + [255] * 20)),
    "1 bit per pixel": lambda path: save(path, Image.fromarray(eight(1) > 127)),
    "16 bits per channel, grey": lambda path: deep(path, 1),
    "16 bits per channel, RGB": lambda path: deep(path, 3),
    "16 bits per channel, RGBA": lambda path: deep(path, 4),
    "8 and 16 bits, signed": lambda path: gdal(path, (waves(1) * 7000 - 500).astype(np.int16)),
    "32 bits, signed or not": lambda path: gdal(path, (waves(1) * 4e9).astype(np.uint32)),
    "32- and 64-bit floating point": lambda path: gdal(path, (waves(1) * 7000 - 500).astype(np.float32)),
    "CMYK": cmyk,
    "further channels (infrared and the like)": lambda path: gdal(path, eight(4), photometric="RGB", ALPHA="NO"),
    "ICC profile": profile,
    "EXIF": exif,
    "GPS position": exif,
    "XMP": xmp,
    "IPTC": iptc,
    "resolution (DPI)": resolution,
    "resolution beside EXIF that has none": resolution_beside_exif,
    "orientation": lambda path: exif(path, 6),
    "JPEG comment": lambda path: save(path, Image.fromarray(eight(3)), comment=b"a comment"),
    "PNG text": text,
    "GeoTIFF and private TIFF tags": lambda path: tagged(path, GEO | KEYS),
    "nodata value": lambda path: tagged(path, {42113: (2, "7")}, Image.fromarray(np.where(HOLE, 7, eight(1)))),
    "further pages of a TIFF": several,
    "further pictures of an MPO": lambda path: several(path, format="MPO"),
    "animation": several,
}


# ---------------------------------------------------------------- whether it is there


def shown(path: Path, mode: str = "RGBA") -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert(mode))


def same_outside(one: NDArray[Any], other: NDArray[Any], target: Path) -> bool:
    """Whether pixels outside the hole are the same; from one JPEG to another outside of touched blocks."""
    where = FAR if target.suffix == ".jpg" else ~HOLE
    return one.shape == other.shape and one.dtype == other.dtype and np.array_equal(one[where], other[where])


def in_mode(mode: str) -> Callable[[Path, Path], bool]:
    """Whether Pillow reads a file in some mode, with what it shows outside the hole unchanged."""

    def check(source: Path, target: Path) -> bool:
        with Image.open(target) as image:
            right = image.mode == mode
        one, other = shown(source), shown(target)
        if target.suffix == ".jpg" != source.suffix:
            return right and np.abs(one.astype(int) - other)[FAR].mean() < 3
        return right and same_outside(one, other, target)

    return check


def as_stored(source: Path, target: Path) -> bool:
    return same_outside(raw(source), raw(target), target) and np.unique(raw(target)).size > 256


def inks(source: Path, target: Path) -> bool:
    one, other = (np.asarray(Image.open(path)) for path in (source, target))
    if source.suffix == ".tif" and target.suffix == ".jpg":
        return bool(np.abs(one.astype(int) - other)[FAR].mean() < 3)
    return one.shape[2] == 4 and same_outside(one, other, target)


def facts(path: Path) -> dict[str, Any]:
    """What Pillow finds in a file, on its own."""
    with Image.open(path) as image:
        image.load()
        block = image.getexif()
        caption = (IptcImagePlugin.getiptcinfo(image) or {}).get((2, 120)) if path.suffix != ".png" else None
        digits = str(image.info.get("Raw profile type iptc", "")).split("\n")[3:]
        dpi = image.info.get("dpi", (block.get(282, 0), block.get(283, 0)))
        return {
            "ICC profile": image.info.get("icc_profile"),
            "EXIF": (block.get(271), block.get_ifd(34665).get(36867)),
            "GPS position": block.get_ifd(34853).get(2),
            "XMP": image.info.get("xmp"),
            "IPTC": caption or (CAPTION if CAPTION in bytes.fromhex("".join(digits)) else None),
            "resolution (DPI)": tuple(round(float(value)) for value in dpi),
            "resolution beside EXIF that has none": tuple(round(float(value)) for value in dpi),
            "JPEG comment": image.info.get("comment"),
            "PNG text": image.info.get("Title"),
            "GeoTIFF and private TIFF tags": [dict(getattr(image, "tag_v2", {})).get(tag) for tag in GEO | KEYS],
            "nodata value": dict(getattr(image, "tag_v2", {})).get(42113),
            "further pages of a TIFF": getattr(image, "n_frames", 1),
        }


FACTS = {
    "ICC profile": ICC,
    "EXIF": ("Maker", "2000:01:01 00:00:00"),
    "GPS position": (48.0, 8.0, 30.0),
    "XMP": XMP,
    "IPTC": CAPTION,
    "resolution (DPI)": (300, 300),
    "resolution beside EXIF that has none": (300, 300),
    "JPEG comment": b"a comment",
    "PNG text": "a text",
    "GeoTIFF and private TIFF tags": [value for _, value in (GEO | KEYS).values()],
    "nodata value": "7",
    "further pages of a TIFF": 2,
}


def displayed(source: Path, target: Path) -> bool:
    with Image.open(source) as one, Image.open(target) as other:
        turned = target.suffix == ".bmp" or other.getexif().get(274) == one.getexif().get(274) == 6
        pair = [np.asarray(ImageOps.exif_transpose(image).convert("RGB")).astype(int) for image in (one, other)]
    hole = np.rot90(HOLE, -1)
    return bool(turned and pair[0].shape == pair[1].shape and np.abs(pair[0] - pair[1])[~hole].mean() < 3)


CHECKS: dict[str, Callable[[Path, Path], bool]] = {
    "pixels outside the mask, bit by bit": in_mode("RGB"),
    "grey": in_mode("L"),
    "grey + alpha": in_mode("LA"),
    "alpha": in_mode("RGBA"),
    "palette": in_mode("P"),
    "palette with transparency": in_mode("P"),
    "1 bit per pixel": in_mode("1"),
    "16 bits per channel, grey": as_stored,
    "16 bits per channel, RGB": as_stored,
    "16 bits per channel, RGBA": as_stored,
    "8 and 16 bits, signed": as_stored,
    "32 bits, signed or not": as_stored,
    "32- and 64-bit floating point": as_stored,
    "CMYK": inks,
    "further channels (infrared and the like)": lambda source, target: same_outside(raw(source), raw(target), target),
    "orientation": displayed,
}


def holds(row: Row, source: Path, target: Path) -> bool:
    """Whether a file has what its source has."""
    if row.name in CHECKS:
        return CHECKS[row.name](source, target)
    return bool(facts(target)[row.name] == FACTS[row.name])


# ---------------------------------------------------------------- every cell

CASES = [(row, source, target) for row in ROWS for source in row.sources.split() for target in TARGETS]


def says(told: str, notices: tuple[str, ...]) -> bool:
    return bool(told) and any(re.search(told, notice) for notice in notices if isinstance(notice, Loss))


@pytest.mark.parametrize("stamp", [False, True], ids=["as it is", "with provenance"])
@pytest.mark.parametrize(("row", "source", "target"), CASES, ids=[f"{r.name}: {s} to {t}" for r, s, t in CASES])
def test_every_cell_of_the_table_is_true(tmp_path: Path, row: Row, source: str, target: str, stamp: bool) -> None:
    fate = row.cell(target)
    path, out = tmp_path / f"in{TARGETS[source]}", tmp_path / f"out{TARGETS[target]}"
    MAKE[row.name](path)
    if fate == "refused":
        with pytest.raises(ItemError, match=row.told) as caught:
            writing.write_picture(images.read_picture(path), out, overwrite=False)
        assert ": " in caught.value.reason and "\n" not in caught.value.reason
        assert not out.exists()
        return
    picture = images.read_picture(path)
    fills = {layer: (255 if picture.pixels.dtype == np.uint8 else 1) - picture.seen(layer)
             for layer in viewed(picture.layers, View(), picture.pixels.dtype)}  # fmt: skip
    filled, beside = picture.filled(fills, HOLE), b""
    with contextlib.suppress(Unreadable):  # the XMP of the row of that name is none that could be added to
        filled, beside = writing.stamped(filled, out, lambda xmp: merged(xmp, ENTRY)) if stamp else (filled, beside)
    written = writing.write_picture(filled, out, overwrite=False)
    assert filled.stamped == (stamp and target != "BMP" and row.name != "XMP")
    if stamp and row.name != "XMP":
        assert NAMESPACE.encode() in (beside if target == "BMP" else facts(out)["XMP"])
    told = (*picture.notices, *written.notices)
    ahead = writing.foreseen(picture, out)
    assert set(filter(lambda notice: isinstance(notice, Loss), told)) <= set(ahead)
    assert says(row.told, ahead) == (fate in ("told", "lossy"))
    if fate == "kept":
        assert holds(row, path, out)
    elif fate == "rgb":
        assert shown(out).shape == shown(path).shape and same_outside(shown(path), shown(out), out)
        assert not any(isinstance(notice, Loss) for notice in told)
    elif fate == "told" and row.name != "further pictures of an MPO":
        assert says(row.told, told) and not holds(row, path, out)
    if target != "JPEG":
        assert written.outside_changed == 0
    elif source == "JPEG" and picture.mode == "RGB":  # and nothing beyond the blocks that the hole touches
        changed = (images.read_picture(out).pixels != picture.pixels).any(axis=2)
        assert not changed[FAR].any() and written.outside_changed == (changed & ~HOLE).sum() > 0
    made = images.read_picture(out)
    if made.pixels.shape[:2] == HOLE.shape:  # a BMP is turned upright
        assert not np.array_equal(picture.rgb()[HOLE], made.rgb()[HOLE])


def test_the_readme_has_the_table() -> None:
    assert table() in GUIDE.read_text(encoding="utf-8")


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
