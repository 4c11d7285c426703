"""Picture files with something wrong in them, made from good ones: the same files for the same seed.

    for name, kind, data in malformed(drawing, seed=0): ...

It knows the bytes of formats and what can be wrong with them. It does not know pconv, nor which of these files can
still be read: some can (a flipped bit may hit a comment, an unusual file may be in order), and so it promises nothing
about how a reader takes them.
"""

from __future__ import annotations

import io
import random
import struct
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, PngImagePlugin, features
from rasterio import Affine
from rasterio.io import MemoryFile

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".webp", ".bmp", ".tif", ".tiff")

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ICC = ICC[:24] + bytes(12) + ICC[36:84] + bytes(16) + ICC[100:]  # without the date of today

# Pillow's own limits must not stand in the way of looking at what came out.
Image.MAX_IMAGE_PIXELS = None
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY

_PNG = b"\x89PNG\r\n\x1a\n"


class Malformed(NamedTuple):
    """One file: a name that no other has, with a suffix; what is wrong with it, in a word; its bytes."""

    name: str
    kind: str
    data: bytes


def malformed(drawing: NDArray[np.uint8], seed: int = 0, *, cuts: int = 4, flips: int = 4) -> Iterator[Malformed]:
    """Make malformed files.

    Args:
        drawing: What the good ones show, (h, w, 3); some 40 pixels a side keep everything small.
        seed: Where files are cut and bits flipped.
        cuts: How often each good file is cut.
        flips: How often bits are flipped in each good file.

    Yields:
        Files with names like "0017-cut-rgb.png". Folders and links are the caller's own matter.
    """
    parents = good(drawing)
    made = (
        (kind, name, data)
        for kind, files in (
            ("unusual", _unusual(parents)),
            ("cut", _cut(parents, random.Random(seed), cuts)),
            ("flip", _flipped(parents, random.Random(seed + 1), flips)),
            ("header", _lying_headers(parents)),
            ("structure", _broken_structures(parents)),
            ("suffix", _wrong_suffixes(parents)),
            ("empty", _empty()),
            ("text", _text()),
            ("bomb", _bombs(parents)),
            ("metadata", _metadata_bombs(parents)),
            ("icc", _profiles(drawing)),
        )
        for name, data in files
    )
    for number, (kind, name, data) in enumerate(made):
        yield Malformed(f"{number:04}-{kind}-{name}", kind, data)


def changed_outside(source: Path, output: Path, hole: NDArray[np.bool_], *, by_gdal: bool = False) -> str:
    """Compare a picture and its restoration; it has no part in pconv's own bookkeeping.

    As Pillow reads them, but TIFFs as GDAL does: Pillow takes some damaged ones for other pictures.

    Args:
        source: The picture, damaged or not.
        output: What was made of it.
        hole: (h, w), where it may differ. Must look the same from all sides, for pictures that are turned.
        by_gdal: Whether it was GDAL that decoded the source, whatever it is.

    Returns:
        What is wrong, one line; empty where nothing is. A JPEG may differ by a little, on average.
    """
    if by_gdal or (source.read_bytes()[:2] in (b"II", b"MM") and output.read_bytes()[:2] in (b"II", b"MM")):
        return _changed_by_gdal(source, output, hole)
    try:
        before = _decoded(source)
    except Exception as error:
        return f"restored, but Pillow cannot read the source ({type(error).__name__}: {error})"
    try:
        after = _decoded(output)
    except Exception as error:
        return f"the output cannot be read ({type(error).__name__}: {error})"
    if before.mode != after.mode or before.mode == "P":
        before, after = before.convert("RGBA"), after.convert("RGBA")
    lossy = output.suffix.lower() in (".jpg", ".jpeg", ".jpe")
    return difference(np.asarray(before), np.asarray(after), hole, lossy=lossy)


def _changed_by_gdal(source: Path, output: Path, hole: NDArray[np.bool_]) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with rasterio.open(source) as first, rasterio.open(output) as second:
                lossy = "JPEG" in second.tags(ns="IMAGE_STRUCTURE").get("COMPRESSION", "")
                before, after = (np.moveaxis(raster.read(), 0, -1) for raster in (first, second))
    except rasterio.RasterioIOError as error:
        return f"restored, but GDAL cannot read it ({error})"
    return difference(before, after, hole, lossy=lossy)


def difference(before: NDArray[Any], after: NDArray[Any], hole: NDArray[np.bool_], *, lossy: bool) -> str:
    """As `changed_outside`, for pixels (h, w) or (h, w, bands)."""
    if before.shape != after.shape:
        return f"{before.shape} has become {after.shape}"
    hole = hole if hole.shape == before.shape[:2] else hole.T
    if hole.shape != before.shape[:2]:
        return f"{before.shape[:2]} restored with a mask of {hole.shape}"
    if lossy:
        step = np.abs(before.astype(np.float64) - after)[~hole].mean()
        return f"{step:.1f} steps from the source outside the hole" if step > 8 else ""
    same = (before == after) | ((before != before) & (after != after))
    changed = ~same.reshape(*hole.shape, -1).all(axis=2) & ~hole
    return f"{changed.sum()} pixels outside the hole have changed" if changed.any() else ""


def _decoded(path: Path) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path) as image:
            image.load()
            return image.copy()


# ---------------------------------------------------------------- good files


def good(drawing: NDArray[np.uint8]) -> dict[str, bytes]:
    """Files of every kind that pictures come in, in order all of them, by name."""
    rgb = Image.fromarray(drawing)
    grey, palette = rgb.convert("L"), rgb.quantize(32, dither=Image.Dither.NONE)
    alpha = Image.fromarray(np.tile(np.linspace(20, 255, rgb.width).astype(np.uint8), (rgb.height, 1)))
    rgba, la = rgb.copy(), grey.copy()
    rgba.putalpha(alpha)
    la.putalpha(alpha)
    deep = np.asarray(grey).astype(np.uint16) * 257
    exif = Image.Exif()
    exif[271], exif[274] = "Maker", 6
    exif.get_ifd(34665)[36867] = "2000:01:01 00:00:00"
    files = {
        "rgb.png": _saved(rgb, "PNG"),
        "full.png": _saved(rgb, "PNG", icc_profile=ICC, exif=exif, dpi=(300, 300)),
        "grey.png": _saved(grey, "PNG"),
        "alpha.png": _saved(rgba, "PNG"),
        "greyalpha.png": _saved(la, "PNG"),
        "palette.png": _saved(palette, "PNG", transparency=0),
        "bits.png": _saved(grey.convert("1"), "PNG"),
        "deepgrey.png": _saved(Image.fromarray(deep), "PNG"),
        "deep.png": _deep_png(drawing),
        "rgb.jpg": _saved(rgb, "JPEG", quality=90),
        "turned.jpg": _saved(rgb, "JPEG", exif=exif, icc_profile=ICC, comment=b"a comment"),
        "progressive.jpg": _saved(rgb, "JPEG", progressive=True),
        "grey.jpg": _saved(grey, "JPEG"),
        "cmyk.jpg": _saved(rgb.convert("CMYK"), "JPEG"),
        "two.jpg": _saved(rgb, "MPO", save_all=True, append_images=[ImageOps.invert(rgb)]),
        "lossless.webp": _saved(rgba, "WEBP", lossless=True, exact=True),
        "lossy.webp": _saved(rgb, "WEBP", quality=80, exif=exif, icc_profile=ICC),
        "animated.webp": _saved(rgb, "WEBP", save_all=True, append_images=[ImageOps.invert(rgb)]),
        "rgb.bmp": _saved(rgb, "BMP"),
        "grey.bmp": _saved(grey, "BMP"),
        "palette.bmp": _saved(palette, "BMP"),
        "bits.bmp": _saved(grey.convert("1"), "BMP"),
        "alpha.bmp": _saved(rgba, "BMP"),
        "runs.bmp": _bmp_of_runs(np.asarray(grey)),
        "raw.tif": _saved(rgb, "TIFF"),
        "lzw.tif": _saved(rgb, "TIFF", compression="tiff_lzw", tiffinfo={317: 2}, icc_profile=ICC),
        "deflate.tif": _saved(rgba, "TIFF", compression="tiff_adobe_deflate"),
        "packbits.tif": _saved(grey, "TIFF", compression="packbits"),
        "jpeg.tif": _saved(rgb, "TIFF", compression="jpeg"),
        "fax.tif": _saved(grey.convert("1"), "TIFF", compression="group4"),
        "palette.tif": _saved(palette, "TIFF"),
        "big.tif": _saved(rgb, "TIFF", big_tiff=True),
        "pages.tif": _saved(rgb, "TIFF", save_all=True, append_images=[ImageOps.invert(rgb)]),
        "deepgrey.tif": _saved(Image.fromarray(deep), "TIFF"),
        "float.tif": _saved(Image.fromarray(np.asarray(grey).astype(np.float32) / 255), "TIFF"),
        "cmyk.tif": _saved(rgb.convert("CMYK"), "TIFF"),
        "tiled.tif": _raster(drawing, tiled=True, blockxsize=16, blockysize=16, compress="deflate"),
        "bigtiled.tif": _raster(drawing, tiled=True, blockxsize=16, blockysize=16, compress="lzw", BIGTIFF="YES"),
        "deep.tif": _raster(drawing.astype(np.uint16) * 257, compress="lzw", predictor=2),
        "planes.tif": _raster(drawing, interleave="band", blockysize=7),
        "ycc.tif": _raster(drawing, tiled=True, blockxsize=16, blockysize=16, compress="jpeg", photometric="YCBCR"),
    }  # fmt: skip
    return files


def _strangers(drawing: NDArray[np.uint8]) -> dict[str, bytes]:
    """Files of formats that have no business here, by the suffix they should have."""
    image = Image.fromarray(drawing)
    files = {
        "gif": _saved(image.quantize(16), "GIF"),
        "ppm": _saved(image, "PPM"),
        "tga": _saved(image, "TGA"),
        "ico": _saved(image, "ICO", sizes=[(16, 16)]),
        "pdf": _saved(image, "PDF", creationDate=time.gmtime(0), modDate=time.gmtime(0)),
        "eps": _saved(image, "EPS"),
        # As much of a HEIC as tells that it is one.
        "heic": struct.pack(">L", 24) + b"ftypheic\0\0\0\0mif1heic" + struct.pack(">L", 40) + b"meta" + bytes(32),
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="48" height="40"/>',
        "psd": b"8BPS\0\1" + bytes(6) + struct.pack(">HLLHH", 3, 40, 48, 8, 3) + bytes(64),
        "vrt": b'<VRTDataset rasterXSize="48" rasterYSize="40"><VRTRasterBand dataType="Byte" band="1"/></VRTDataset>',
        "zip": b"PK\x03\x04" + bytes(60),
    }
    for feature, kind, suffix in (("jpg_2000", "JPEG2000", "jp2"), ("avif", "AVIF", "avif")):
        if features.check(feature):
            files[suffix] = _saved(image, kind)
    return files


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _raster(pixels: NDArray[Any], **options: Any) -> bytes:
    height, width, bands = pixels.shape
    shape = {"driver": "GTiff", "height": height, "width": width, "count": bands, "dtype": pixels.dtype}
    # A map's place, so that rasterio has nothing to warn of.
    place = {"transform": Affine(0.5, 0.0, 10.0, 0.0, -0.5, 20.0)}
    with MemoryFile() as memory:
        with memory.open(**shape, **place, **{"photometric": "RGB", **options}) as raster:
            raster.write(np.moveaxis(pixels, -1, 0))
        return bytes(memory.read())


def _deep_png(drawing: NDArray[np.uint8]) -> bytes:
    """RGB of 16 bits, which Pillow does not write."""
    height, width, _ = drawing.shape
    rows = b"".join(b"\0" + (row.astype(">u2") * 257).tobytes() for row in drawing)
    return _png(width, height, 16, 2, zlib.compress(rows))


def _bmp_of_runs(grey: NDArray[np.uint8], size: tuple[int, int] | None = None) -> bytes:
    """Grey as BMP of runs (RLE8), every pixel a run of its own; `size` is what the header claims."""
    height, width = grey.shape
    rows = b"".join(b"".join(bytes((1, value)) for value in row) + b"\0\0" for row in grey[::-1]) + b"\0\1"
    table = b"".join(bytes((i, i, i, 0)) for i in range(256))
    info = struct.pack("<LllHHLLllLL", 40, *(size or (width, height)), 1, 8, 1, len(rows), 2835, 2835, 256, 0)
    return b"BM" + struct.pack("<LHHL", 54 + 1024 + len(rows), 0, 0, 54 + 1024) + info + table + rows


# ---------------------------------------------------------------- damage that goes for all formats

_Files = Iterator[tuple[str, bytes]]


def _unusual(parents: dict[str, bytes]) -> _Files:
    """In order, but not what a restoration expects."""
    for name in (
        "bits.png", "deepgrey.png", "deep.png", "cmyk.jpg", "two.jpg", "animated.webp", "bits.bmp", "runs.bmp",
        "fax.tif", "pages.tif", "float.tif", "cmyk.tif", "deepgrey.tif", "deep.tif", "ycc.tif",
    ):  # fmt: skip
        yield name, parents[name]
    for value in (np.nan, np.inf, -1e38):
        data = np.full((40, 48), value, np.float32)
        yield f"{value}.tif", _saved(Image.fromarray(data), "TIFF")


def _cut(parents: dict[str, bytes], rng: random.Random, times: int) -> _Files:
    """Once within the first bytes, once shortly before the end, else anywhere."""
    for name, data in parents.items():
        places = [rng.randrange(1, 40), len(data) - rng.randrange(1, 20)]
        places += [rng.randrange(20, len(data)) for _ in range(max(times - 2, 0))]
        for place in places[:times]:
            yield name, data[:place]


def _flipped(parents: dict[str, bytes], rng: random.Random, times: int) -> _Files:
    """One bit or many; in the head, in the tail, anywhere."""
    for name, data in parents.items():
        for turn in range(times):
            spoilt, head = bytearray(data), min(len(data), 120)
            first, last = ((0, head), (0, len(data)), (len(data) - head, len(data)))[turn % 3]
            for _ in range(1 if turn % 2 == 0 else rng.randrange(2, 60)):
                spoilt[rng.randrange(first, last)] ^= 1 << rng.randrange(8)
            yield name, bytes(spoilt)


def _wrong_suffixes(parents: dict[str, bytes]) -> _Files:
    """Every format under every suffix but its own, and formats that are none of ours."""
    own = {"rgb.png": (".png",), "rgb.jpg": (".jpg", ".jpeg", ".jpe"), "lossless.webp": (".webp",)}
    own |= {"rgb.bmp": (".bmp",), "lzw.tif": (".tif", ".tiff")}
    for name, right in own.items():
        for suffix in SUFFIXES:
            if suffix not in right:
                yield f"{name.partition('.')[2]}{suffix}", parents[name]
    with Image.open(io.BytesIO(parents["rgb.png"])) as image:
        drawing = np.asarray(image)
    for stranger, data in _strangers(drawing).items():
        for suffix in SUFFIXES:
            yield f"{stranger}{suffix}", data


def _empty() -> _Files:
    for suffix in SUFFIXES:
        yield f"nothing{suffix}", b""
    for suffix in (".png", ".jpg", ".tif", ".bmp", ".webp"):
        yield f"zeros{suffix}", bytes(4096)
        yield f"one{suffix}", b"\0"


def _text() -> _Files:
    pages = {
        "letter": b"Dear diary, today I was renamed.\n",
        "error": b"<!DOCTYPE html><html><title>404 Not Found</title></html>\n",
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n",
        "utf16": "Ein Brief\n".encode("utf-16"),
    }
    for i, (name, data) in enumerate(pages.items()):
        for suffix in SUFFIXES[i % 2 :: 2]:
            yield f"{name}{suffix}", data


# ---------------------------------------------------------------- PNG


def chunk(name: bytes, data: bytes) -> bytes:
    """A PNG chunk with its length and checksum."""
    return struct.pack(">L", len(data)) + name + data + struct.pack(">L", zlib.crc32(name + data))


def _png(width: int, height: int, depth: int, colour: int, packed: bytes, *extra: bytes) -> bytes:
    """A PNG of packed rows, whatever its header claims."""
    head = chunk(b"IHDR", struct.pack(">LLBBBBB", width, height, depth, colour, 0, 0, 0))
    return _PNG + head + b"".join(extra) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def zeros_packed(count: int) -> bytes:
    """What `zlib.compress(bytes(count))` decompresses to, without taking the time or the memory."""
    size, block = 1 << 20, zlib.compressobj(9, zlib.DEFLATED, -15)
    repeated = block.compress(bytes(size)) + block.flush(zlib.Z_FULL_FLUSH)  # stands alone, so it may be repeated
    rest = zlib.compressobj(9, zlib.DEFLATED, -15)
    end = rest.compress(bytes(count % size)) + rest.flush()
    return b"\x78\xda" + repeated * (count // size) + end + struct.pack(">L", (count % 65521) << 16 | 1)


def _png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks, at = [], len(_PNG)
    while at < len(data):
        (size,) = struct.unpack_from(">L", data, at)
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    return chunks


def _png_of(chunks: list[tuple[bytes, bytes]]) -> bytes:
    return _PNG + b"".join(chunk(name, data) for name, data in chunks)


# ---------------------------------------------------------------- TIFF


def _tiff_patched(data: bytes, patches: dict[int, tuple[int, int, int]]) -> bytes:
    """A classic little-endian TIFF with entries of its first directory changed: tag -> (type, count, value)."""
    spoilt = bytearray(data)
    (start,) = struct.unpack_from("<L", data, 4)
    (entries,) = struct.unpack_from("<H", data, start)
    for at in range(start + 2, start + 2 + 12 * entries, 12):
        (tag,) = struct.unpack_from("<H", data, at)
        if tag in patches:
            struct.pack_into("<HLL", spoilt, at + 2, *patches[tag])
    return bytes(spoilt)


def _tiff_linked(data: bytes, to: int) -> bytes:
    """The same TIFF, its first directory followed by one at `to`."""
    spoilt = bytearray(data)
    (start,) = struct.unpack_from("<L", data, 4)
    (entries,) = struct.unpack_from("<H", data, start)
    struct.pack_into("<L", spoilt, start + 2 + 12 * entries, to)
    return bytes(spoilt)


def _tiff(tags: dict[int, tuple[int, int, int]], behind: bytes = b"") -> bytes:
    """A little-endian TIFF of one directory, and what stands behind it."""
    table = b"".join(struct.pack("<HHLL", tag, *entry) for tag, entry in sorted(tags.items()))
    return b"II*\0" + struct.pack("<LH", 8, len(tags)) + table + bytes(4) + behind


# ---------------------------------------------------------------- lying headers


def _lying_headers(parents: dict[str, bytes]) -> _Files:
    """Sizes, depths, counts and positions that are not so."""
    head = b"".join(chunk(name, data) for name, data in _png_chunks(parents["rgb.png"])[1:])
    for label, width, height, depth, colour in (
        ("zero", 0, 40, 8, 2), ("flat", 48, 0, 8, 2), ("huge", 2**31 - 1, 2**31 - 1, 8, 2),
        ("minus", 2**32 - 1, 40, 8, 2),
        ("wide", 2**30, 1, 8, 2), ("high", 1, 2**30, 8, 2), ("taller", 48, 41, 8, 2), ("shorter", 48, 39, 8, 2),
        ("wider", 100, 40, 8, 2), ("giga", 18000, 18000, 8, 2), ("depth", 48, 40, 7, 2), ("colour", 48, 40, 8, 5),
        ("palette", 48, 40, 8, 3), ("deep", 48, 40, 16, 2), ("grey", 48, 40, 1, 0),
    ):  # fmt: skip
        yield (
            f"{label}.png",
            _PNG + chunk(b"IHDR", struct.pack(">LLBBBBB", width, height, depth, colour, 0, 0, 0)) + head,
        )

    jpeg = parents["rgb.jpg"]
    frame = jpeg.index(b"\xff\xc0")
    for label, offset, value in (
        ("zero", 5, b"\0\0"), ("flat", 7, b"\0\0"), ("huge", 5, b"\xff\xdc\xff\xdc"), ("wider", 7, b"\1\0"),
        ("taller", 5, b"\0\x60"), ("depth", 4, b"\x0c"), ("lossless", 1, b"\xc3"), ("arithmetic", 1, b"\xc9"),
        ("components", 9, b"\x09"), ("sampling", 11, b"\xff"), ("nosampling", 11, b"\0"), ("table", 12, b"\x07"),
        ("short", 2, b"\0\2"), ("long", 2, b"\xff\xff"),
    ):  # fmt: skip
        yield f"{label}.jpg", jpeg[: frame + offset] + value + jpeg[frame + offset + len(value) :]

    bmp = parents["rgb.bmp"]
    for label, at, form, values in (
        ("zero", 18, "<ll", (0, 40)), ("flat", 18, "<ll", (48, 0)), ("huge", 18, "<ll", (2**31 - 1, 2**31 - 1)),
        ("minus", 18, "<l", (-48,)), ("least", 22, "<l", (-(2**31),)), ("upside", 22, "<l", (-40,)),
        ("wider", 18, "<l", (60,)), ("taller", 22, "<l", (4000,)), ("giga", 18, "<ll", (18000, 18000)),
        ("planes", 26, "<H", (0,)), ("depth", 28, "<H", (13,)), ("bits", 28, "<H", (1,)), ("deep", 28, "<H", (64,)),
        ("runs", 30, "<L", (1,)), ("fields", 30, "<L", (3,)), ("jpeg", 30, "<L", (4,)), ("packing", 30, "<L", (99,)),
        ("offset", 10, "<L", (2**32 - 1,)), ("inside", 10, "<L", (3,)), ("core", 14, "<L", (12,)),
        ("head", 14, "<L", (2**32 - 1,)), ("colours", 46, "<L", (2**32 - 1,)),
    ):  # fmt: skip
        spoilt = bytearray(bmp)
        struct.pack_into(form, spoilt, at, *values)
        yield f"{label}.bmp", bytes(spoilt)

    webp, simple = parents["lossless.webp"], parents["lossy.webp"]
    yield "riff.webp", webp[:4] + b"\xff\xff\xff\xff" + webp[8:]
    yield "small.webp", webp[:4] + b"\0\0\0\0" + webp[8:]
    yield "chunk.webp", webp[:16] + b"\xff\xff\xff\x7f" + webp[20:]
    yield "sides.webp", webp[:21] + b"\xff\xff\xff\x0f" + webp[25:]
    yield "canvas.webp", simple[:24] + b"\xff" * 6 + simple[30:]
    yield "flags.webp", simple[:20] + b"\xff" + simple[21:]

    for source in ("raw.tif", "lzw.tif"):
        tiff = parents[source]
        for label, patches in {
            "zero": {256: (4, 1, 0)},
            "flat": {257: (4, 1, 0)},
            "huge": {256: (4, 1, 2**31 - 1), 257: (4, 1, 2**31 - 1)},
            "minus": {256: (9, 1, 2**32 - 1)},
            "wider": {256: (4, 1, 480)},
            "taller": {257: (4, 1, 4000)},
            "giga": {256: (4, 1, 18000), 257: (4, 1, 18000), 278: (4, 1, 18000)},
            "rows": {278: (4, 1, 0)},
            "far": {273: (4, 1, 2**32 - 2)},
            "before": {273: (4, 1, 0)},
            "count": {279: (4, 1, 2**32 - 1)},
            "nothing": {279: (4, 1, 0)},
            "strips": {273: (4, 2**28, 8)},
            "samples": {277: (3, 1, 65535)},
            "nosamples": {277: (3, 1, 0)},
            "depth": {258: (3, 1, 65535)},
            "nodepth": {258: (3, 1, 0)},
            "depths": {258: (3, 3, 2**32 - 8)},
            "packing": {259: (3, 1, 7)},
            "strange": {259: (3, 1, 9999)},
            "colours": {262: (3, 1, 6)},
            "palette": {262: (3, 1, 3)},
            "planes": {284: (3, 1, 2)},
            "type": {256: (99, 1, 48)},
            "text": {257: (2, 1, 40)},
            "halves": {257: (5, 1, 2**31)},
        }.items():
            yield f"{source.partition('.')[0]}{label}.tif", _tiff_patched(tiff, patches)
    big = bytearray(parents["big.tif"])
    struct.pack_into("<H", big, 4, 9)
    yield "words.tif", bytes(big)
    struct.pack_into("<HHQ", big, 4, 8, 0, 2**63)
    yield "faraway.tif", bytes(big)


# ---------------------------------------------------------------- broken structures


def _broken_structures(parents: dict[str, bytes]) -> _Files:
    """Parts that are missing, twice, in circles, or in the wrong order."""
    chunks = _png_chunks(parents["palette.png"])
    without: Callable[[bytes], list[tuple[bytes, bytes]]] = lambda name: [c for c in chunks if c[0] != name]  # noqa: E731
    yield "nopalette.png", _png_of(without(b"PLTE"))
    yield "nohead.png", _png_of(without(b"IHDR"))
    yield "nopixels.png", _png_of(without(b"IDAT"))
    yield "noend.png", _png_of(without(b"IEND"))
    yield "backwards.png", _png_of(chunks[::-1])
    yield "twoheads.png", _png_of([chunks[0], *chunks])
    yield "longpalette.png", _png_of([(name, data * 40 if name == b"PLTE" else data) for name, data in chunks])
    yield "oddpalette.png", _png_of([(name, data[:-1] if name == b"PLTE" else data) for name, data in chunks])
    yield "longalpha.png", _png_of([(name, data * 999 if name == b"tRNS" else data) for name, data in chunks])
    yield "lowercase.png", _png_of([chunks[0], (b"\0\xff\r\n", b"x"), *chunks[1:]])
    for name in (b"IHDR", b"PLTE", b"IDAT", b"IEND"):
        data = bytearray(parents["palette.png"])
        at = data.index(name)
        data[at + 4 + struct.unpack_from(">L", data, at - 4)[0]] ^= 0xFF
        yield f"crc{name.decode().lower()}.png", bytes(data)
    for label, rows in {"few": b"\0" * 50, "many": b"\0" * 100_000, "filter": b"\x09" * 145 * 40}.items():
        yield f"{label}rows.png", _png(48, 40, 8, 2, zlib.compress(rows))
    yield "notpacked.png", _png(48, 40, 8, 2, b"\x78\xda" + b"\xaa" * 300)

    jpeg = parents["rgb.jpg"]
    yield "noscan.jpg", jpeg[: jpeg.index(b"\xff\xda")] + b"\xff\xd9"
    yield "nostart.jpg", jpeg[2:]
    yield "notables.jpg", jpeg.replace(b"\xff\xdb", b"\xff\xe9")
    yield "nohuffman.jpg", jpeg.replace(b"\xff\xc4", b"\xff\xe9")
    yield "scans.jpg", jpeg[:-2] + jpeg[jpeg.index(b"\xff\xda") : -2] * 50 + b"\xff\xd9"
    yield "restarts.jpg", jpeg[:2] + b"\xff\xdd\0\4\0\1" + jpeg[2:]
    yield "onlymarks.jpg", b"\xff\xd8" + b"\xff" * 5000
    yield "stuck.jpg", b"\xff\xd8" + b"\xff\xe0\0\0" * 500

    tiff = parents["raw.tif"]
    (start,) = struct.unpack_from("<L", tiff, 4)
    yield "circle.tif", _tiff_linked(tiff, start)
    yield "beyond.tif", _tiff_linked(tiff, 2**32 - 2)
    second = tiff + struct.pack("<H", 1) + struct.pack("<HHLL", 256, 4, 1, 48) + struct.pack("<L", start)
    yield "bigcircle.tif", _tiff_linked(second, len(tiff))
    yield "nodirectory.tif", tiff[:4] + struct.pack("<L", 0) + tiff[8:]
    yield "outside.tif", tiff[:4] + struct.pack("<L", 2**32 - 10) + tiff[8:]
    yield "noentries.tif", tiff[:start] + b"\0\0" + tiff[start + 2 :]
    yield "entries.tif", tiff[:start] + b"\xff\xff" + tiff[start + 2 :]
    yield "bare.tif", _tiff({256: (3, 1, 48), 257: (3, 1, 40)})
    yield "mixed.tif", b"MM\0*" + tiff[4:]
    tiled = parents["tiled.tif"]
    for label, patches in {
        "tinytile": {322: (3, 1, 0), 323: (3, 1, 0)},
        "oddtile": {322: (3, 1, 17)},
        "hugetile": {322: (4, 1, 2**31 - 16), 323: (4, 1, 2**31 - 16)},
        "fartiles": {324: (4, 9, 2**32 - 4)},
        "fewtiles": {324: (4, 1, 8), 325: (4, 1, 8)},
        "manytiles": {324: (4, 2**30, 8), 325: (4, 2**30, 8)},
    }.items():
        yield f"{label}.tif", _tiff_patched(tiled, patches)

    webp = parents["animated.webp"]
    frame = webp.index(b"ANMF")
    yield "noframe.webp", webp[:frame] + b"XXXX" + webp[frame + 4 :]
    yield "riffonly.webp", b"RIFF\4\0\0\0WEBP"
    yield "nested.webp", b"RIFF" + struct.pack("<L", len(webp) + 12) + b"WEBP" + webp


# ---------------------------------------------------------------- bombs


def _bombs(parents: dict[str, bytes]) -> _Files:
    """Small files of billions of pixels, real ones and such as only claim it."""
    yield "real.png", _png(40000, 40000, 1, 0, zeros_packed(40000 * 5001))
    yield "stripe.png", _png(1_000_000, 1100, 8, 0, zeros_packed(1_000_001 * 1100))
    yield "claim.png", _png(60000, 60000, 8, 2, zlib.compress(bytes(1000)))
    yield "claim.bmp", _bmp_of_runs(np.zeros((2, 2), np.uint8), (60000, 60000))
    runs = struct.pack("<LllHHLLllLL", 40, 65000, 65000, 1, 8, 1, 2, 0, 0, 0, 0)
    yield "runs.bmp", b"BM" + struct.pack("<LHHL", 1080, 0, 0, 1078) + runs + bytes(1024) + b"\0\1"
    jpeg = parents["progressive.jpg"]
    frame = jpeg.index(b"\xff\xc2")
    yield "claim.jpg", jpeg[: frame + 5] + struct.pack(">HH", 65000, 65000) + jpeg[frame + 9 :]
    for label, packing in {"packbits": 32773, "lzw": 5, "deflate": 8, "none": 1, "fax": 4}.items():
        base = {256: (4, 1, 100_000), 257: (4, 1, 100_000), 258: (3, 1, 1 if label == "fax" else 8)}
        base |= {259: (3, 1, packing), 262: (3, 1, 1), 273: (4, 1, 200), 277: (3, 1, 1), 278: (4, 1, 100_000)}
        body = bytes(200) if label != "deflate" else zlib.compress(bytes(10**6))
        yield f"{label}.tif", _tiff(base | {279: (4, 1, len(body))}, bytes(70) + body)
    # One tile of zeros that stands for all of them: what it inflates to is real.
    packed, across = zlib.compress(bytes(4096 * 4096), 9), 16
    base = {256: (4, 1, 4096 * across), 257: (4, 1, 4096 * across), 258: (3, 1, 8), 259: (3, 1, 8), 262: (3, 1, 1)}
    base |= {277: (3, 1, 1), 322: (4, 1, 4096), 323: (4, 1, 4096), 324: (4, across**2, 0), 325: (4, across**2, 0)}
    places = len(_tiff(base))
    base |= {324: (4, across**2, places), 325: (4, across**2, places + 4 * across**2)}
    at = places + 8 * across**2
    tables = struct.pack(f"<{2 * across**2}L", *[at] * across**2, *[len(packed)] * across**2)
    yield "onetile.tif", _tiff(base, tables + packed)
    webp = parents["lossy.webp"]
    yield "claim.webp", webp[:24] + struct.pack("<L", 16382)[:3] * 2 + webp[30:]


def _metadata_bombs(parents: dict[str, bytes]) -> _Files:
    """Metadata that inflates, goes in circles, or never ends."""
    chunks = _png_chunks(parents["rgb.png"])
    bomb = zeros_packed(300 << 20)
    for label, extra in {
        "ztxt": [(b"zTXt", b"Comment\0\0" + bomb)],
        "itxt": [(b"iTXt", b"Comment\0\1\0\0\0" + bomb)],
        "xmp": [(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + bomb)],
        "iccp": [(b"iCCP", b"profile\0\0" + bomb)],
        "texts": [(b"tEXt", b"Comment\0" + b"x" * 100)] * 5000,
        "ztexts": [(b"zTXt", b"Comment\0\0" + zeros_packed(10 << 20))] * 20,
        "nokey": [(b"tEXt", b""), (b"zTXt", b"\0"), (b"iTXt", b"\0\0\0"), (b"iCCP", b""), (b"pHYs", b"\0")],
        "gamma": [(b"gAMA", b""), (b"cHRM", b"\0"), (b"sRGB", b""), (b"tIME", b""), (b"bKGD", b"")],
        "frames": [(b"acTL", struct.pack(">LL", 2**31, 0)), (b"fcTL", bytes(26))],
    }.items():
        yield f"{label}.png", _png_of([chunks[0], *extra, *chunks[1:]])

    circles = {
        "circle": _tiff({34665: (4, 1, 8), 34853: (4, 1, 8), 40965: (4, 1, 8)}),
        "next": b"II*\0" + struct.pack("<LHHHLLL", 8, 1, 271, 2, 4, 0x41414141, 8),
        "far": _tiff({271: (2, 2**32 - 1, 2**32 - 1), 34665: (4, 1, 2**32 - 1)}),
        "many": _tiff({271: (2, 100, 8)} | dict.fromkeys(range(500, 900), (4, 2**29, 8))),
        "orientation": _tiff({274: (3, 1, 99)}),
        "fraction": _tiff({282: (5, 1, 38), 283: (5, 1, 38)}, struct.pack("<LL", 1, 0)),
        "garbage": b"II*\0" + bytes(range(256)) * 4,
        "short": b"II",
        "none": b"",
    }
    jpeg, webp = parents["rgb.jpg"], parents["lossless.webp"]
    with Image.open(io.BytesIO(webp)) as image:
        image.load()
        picture = image.convert("RGB")
    for label, exif in circles.items():
        segment = b"Exif\0\0" + exif
        yield f"exif{label}.jpg", jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]
        yield f"exif{label}.png", _png_of([chunks[0], (b"eXIf", exif), *chunks[1:]])
        if exif:
            yield f"exif{label}.webp", _saved(picture, "WEBP", lossless=True, exif=exif)
    yield "segments.jpg", jpeg[:2] + (b"\xff\xe2\xff\xffICC_PROFILE\0\xff\xff" + b"x" * 65519) * 60 + jpeg[2:]
    yield "comments.jpg", jpeg[:2] + b"\xff\xfe\0\2" * 20000 + jpeg[2:]
    yield "photoshop.jpg", jpeg[:2] + b"\xff\xed\0\x20Photoshop 3.0\x008BIM\xff\xff\0\0\xff\xff\xff\xffxxxx" + jpeg[2:]
    yield "mpf.jpg", jpeg[:2] + b"\xff\xe2\0\x10MPF\0II*\0\xff\xff\xff\xff" + b"\0\0" + jpeg[2:]
    tiff = parents["lzw.tif"]
    for label, patches in {
        "iccfar": {34675: (7, 2**32 - 1, 2**32 - 9)},
        "icclong": {34675: (7, 2**31, 8)},
        "iccshort": {34675: (7, 1, 8)},
    }.items():
        yield f"{label}.tif", _tiff_patched(tiff, patches)
    with Image.open(io.BytesIO(parents["raw.tif"])) as image:
        yield "texts.tif", _saved(image, "TIFF", tiffinfo=dict.fromkeys(range(65000, 65200), "x" * 10000))


def _profiles(drawing: NDArray[np.uint8]) -> _Files:
    """Colour profiles that are none."""
    image, cmyk = Image.fromarray(drawing), Image.fromarray(drawing).convert("CMYK")
    lying = ICC[:128] + struct.pack(">L", 2**32 - 1) + ICC[132:]
    far = ICC[:136] + struct.pack(">LL", 2**32 - 8, 2**32 - 1) + ICC[144:]
    profiles = {
        "one": b"\0", "zeros": bytes(128), "garbage": random.Random(1).randbytes(3000),
        "nan": b"\x7f\xc0\0\0" * 200,
        "half": ICC[: len(ICC) // 2], "tags": lying, "far": far, "size": struct.pack(">L", 2**32 - 1) + ICC[4:],
        "space": ICC[:16] + b"CMYK" + ICC[20:], "huge": ICC + bytes(3 << 20),
    }  # fmt: skip
    for label, profile in profiles.items():
        yield f"{label}.png", _saved(image, "PNG", icc_profile=profile)
        yield f"{label}.jpg", _saved(image, "JPEG", icc_profile=profile)
        yield f"{label}.tif", _saved(image, "TIFF", icc_profile=profile)
        yield f"{label}.webp", _saved(image, "WEBP", lossless=True, icc_profile=profile)
        if label in ("garbage", "half", "nan"):
            yield f"{label}cmyk.jpg", _saved(cmyk, "JPEG", icc_profile=profile)
            yield f"{label}cmyk.tif", _saved(cmyk, "TIFF", icc_profile=profile)
