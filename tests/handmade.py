"""Picture files made by hand, down to their bytes, and what the tests of pictures do with them again and again."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from pconv_cli.layers import View, viewed
from pconv_cli.picture import Picture

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


def bmp_bytes(
    width: int, height: int, bits: int, pixels: bytes, *, header: int = 40, compression: int = 0,
    masks: tuple[int, ...] = (), palette: bytes = b"", icc: bytes = b"",
) -> bytes:  # fmt: skip
    """BMP by hand; `masks` and `icc` need a header that has room for them."""
    size = len(pixels)
    head = struct.pack("<LllHHLLllLL", header, width, height, 1, bits, compression, size, 0, 0, len(palette) // 4, 0)
    head += b"".join(struct.pack("<L", mask) for mask in masks)
    if icc:
        head = head.ljust(56, b"\0") + b"DEBM"
        head = head.ljust(112, b"\0") + struct.pack("<LL", header + len(palette) + size, len(icc))
    start = 14 + header + len(palette)
    return struct.pack("<2sLLL", b"BM", start + size, 0, start) + head.ljust(header, b"\0") + palette + pixels + icc


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


def fill(picture: Picture, seen: np.ndarray, hole: np.ndarray, **options: bool) -> Picture:
    """The picture with all its layers filled alike."""
    return picture.filled(dict.fromkeys(viewed(picture.layers, View(), picture.pixels.dtype), seen), hole, **options)
