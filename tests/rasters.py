"""What tests of big pictures share: raster files with everything that can hang on them, and TIFF read by hand."""

from __future__ import annotations

import contextlib
import struct
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from pconv_cli.canvas import Canvas
from pconv_cli.errors import ItemError
from pconv_cli.regions import Window
from pconv_cli.tiff import Source

RNG = np.random.default_rng(11)
WIDTH, HEIGHT = 200, 150
XMP = b"<?xpacket begin=''?><x:xmpmeta xmlns:x='adobe:ns:meta/' x:x='a=b'/><?xpacket end='w'?>"
HOLE = Window(70, 40, 20, 15)


def picture(bands: int = 3, dtype: str = "uint8", width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """(h, w, bands): smooth with some noise, so that codecs have something to do."""
    y, x = np.mgrid[:height, :width]
    waves = [100 + 60 * np.sin((x + 40 * band) / 23) + 40 * np.cos((y - 9 * band) / 17) for band in range(bands)]
    smooth = np.stack(waves, axis=-1) + RNG.integers(0, 12, (height, width, bands))
    return (smooth * (257 if dtype == "uint16" else 1)).astype(dtype)


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def save(path: Path, pixels: np.ndarray, after: Callable[[Any], None] = lambda raster: None, **options: Any) -> Path:
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    height, width, count = pixels.shape
    options = {"driver": "GTiff", "photometric": "RGB" if count in (3, 4) else "MINISBLACK"} | options
    if count == 4 and "ALPHA" not in options:
        options["ALPHA"] = "NO"
    with (
        hushed(),
        rasterio.Env(GDAL_PAM_ENABLED="NO", GDAL_TIFF_INTERNAL_MASK="YES"),
        rasterio.open(path, "w", width=width, height=height, count=count, dtype=pixels.dtype.name, **options) as raster,
    ):
        raster.write(np.moveaxis(pixels, -1, 0))
        after(raster)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def load(path: Path, **options: Any) -> np.ndarray:
    with hushed(), rasterio.Env(GDAL_PAM_ENABLED="NO"), rasterio.open(path, **options) as raster:
        return np.moveaxis(raster.read(), 0, -1)


def whole(source: Any) -> Window:
    return Window(0, 0, source.width, source.height)


def fill(source: Any, canvas: Any, window: Window = HOLE, value: int = 200) -> np.ndarray:
    pixels = np.full((window.height, window.width, source.bands), value, source.dtype)
    canvas.lay(window, pixels, np.ones((window.height, window.width), bool))
    return pixels


def restore(
    path: Path, output: Path, window: Window = HOLE, value: int = 200, overwrite: bool = False, mark: bool = False
) -> tuple[str, ...]:
    with Source(path) as source, Canvas(source, output, overwrite=overwrite, mark_valid=mark) as canvas:
        fill(source, canvas, window, value)
        return canvas.commit()


def filled(pixels: np.ndarray, window: Window = HOLE, value: int = 200) -> np.ndarray:
    pixels = pixels.copy()
    pixels[window.slices] = value
    return pixels


def refused(path: Path) -> str:
    with pytest.raises(ItemError) as caught:
        Source(path)
    assert caught.value.path == str(path)
    assert "\n" not in caught.value.reason
    return caught.value.reason


# ---------------------------------------------------------------- TIFF by hand


class Tag(NamedTuple):
    kind: int
    count: int
    data: bytes
    numbers: tuple[int, ...]


SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
POSITIONS = {273, 279, 324, 325}  # where the blocks lie and how long they are: what may change


def directory(data: bytes, at: int | None = None) -> tuple[dict[int, Tag], int]:
    """Tags of the directory at a position (the first one without), and the position of the next."""
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    word, counter, entry = ("Q", "Q", 20) if big else ("L", "H", 12)
    if at is None:
        (at,) = struct.unpack_from(order + word, data, 8 if big else 4)
    (count,) = struct.unpack_from(order + counter, data, at)
    at += struct.calcsize(counter if not big else "<Q")
    tags = {}
    for _ in range(count):
        tag, kind, number = struct.unpack_from(order + "HH" + word, data, at)
        place = at + (12 if big else 8)
        length = number * SIZES[kind]
        if length > (8 if big else 4):
            (place,) = struct.unpack_from(order + word, data, place)
        value = data[place : place + length]
        letter = {1: "B", 3: "H", 4: "L", 13: "L", 16: "Q", 18: "Q"}.get(kind)
        tags[tag] = Tag(kind, number, value, struct.unpack(f"{order}{number}{letter}", value) if letter else ())
        at += entry
    return tags, struct.unpack_from(order + word, data, at)[0]


def directories(path: Path) -> list[dict[int, Tag]]:
    data = path.read_bytes()
    tags, following = directory(data)
    found = [tags]
    while following:
        tags, following = directory(data, following)
        found.append(tags)
    return found


def blocks(path: Path, page: int = 0) -> list[bytes]:
    """Encoded bytes of each tile or strip."""
    data, tags = path.read_bytes(), directories(path)[page]
    starts, lengths = (tags[324], tags[325]) if 324 in tags else (tags[273], tags[279])
    return [data[at : at + length] for at, length in zip(starts.numbers, lengths.numbers, strict=True)]


def touched_blocks(path: Path, window: Window, bands: int) -> set[int]:
    """Numbers of the blocks that a window lies in."""
    tags = directories(path)[0]
    width, height = tags[256].numbers[0], tags[257].numbers[0]
    across, down = (tags[322].numbers[0], tags[323].numbers[0]) if 322 in tags else (width, tags[278].numbers[0])
    columns, rows = -(-width // across), -(-height // down)
    planes = bands if tags[284].numbers[0] == 2 else 1
    return {
        plane * columns * rows + y * columns + x
        for plane in range(planes)
        for y in range(window.y // down, -(-window.bottom // down))
        for x in range(window.x // across, -(-window.right // across))
    }


def give_tags(path: Path, tags: dict[int, tuple[int, int, bytes]]) -> None:
    """Write a file's first directory once more at its end, with further tags. Little-endian files only."""
    data = path.read_bytes()
    big = data[2] == 43
    word, counter, room, size = ("Q", "Q", 8, 20) if big else ("L", "H", 4, 12)
    (at,) = struct.unpack_from("<" + word, data, 8 if big else 4)
    (count,) = struct.unpack_from("<" + counter, data, at)
    at += struct.calcsize("<" + counter)
    entries = {struct.unpack_from("<H", data, at + i * size)[0]: data[at + i * size :][:size] for i in range(count)}
    following = data[at + count * size :][: struct.calcsize("<" + word)]
    data += b"\0" * (len(data) % 2)
    for tag, (kind, number, value) in tags.items():
        place = value.ljust(room, b"\0")
        if len(value) > room:
            place = struct.pack("<" + word, len(data))
            data += value + b"\0" * (len(value) % 2)
        entries[tag] = struct.pack("<HH" + word, tag, kind, number) + place
    head = struct.pack("<" + word, len(data))
    data += struct.pack("<" + counter, len(entries)) + b"".join(entries[tag] for tag in sorted(entries)) + following
    path.write_bytes(data[: 8 if big else 4] + head + data[16 if big else 8 :])


def sub_directory(path: Path, values: dict[int, tuple[int, int, bytes]]) -> int:
    """Append a directory (EXIF, GPS) to a little-endian file; its position."""
    data = path.read_bytes()
    data += b"\0" * (len(data) % 2)
    big = data[2] == 43
    word, counter, room = ("Q", "Q", 8) if big else ("L", "H", 4)
    at, table, extra = len(data), struct.pack("<" + counter, len(values)), b""
    base = at + len(table) + len(values) * (20 if big else 12) + struct.calcsize("<" + word)
    for tag, (kind, number, value) in sorted(values.items()):
        place = value.ljust(room, b"\0")
        if len(value) > room:
            place = struct.pack("<" + word, base + len(extra))
            extra += value + b"\0" * (len(value) % 2)
        table += struct.pack("<HH" + word, tag, kind, number) + place
    path.write_bytes(data + table + struct.pack("<" + word, 0) + extra)
    return at


def many_colours(path: Path) -> Path:
    """A palette of 65536 colours."""
    save(path, picture(1, "uint16"))
    colours = RNG.integers(0, 65536, 3 * 65536, dtype=np.uint16)
    give_tags(path, {262: (3, 1, b"\3\0"), 320: (3, len(colours), colours.astype("<u2").tobytes())})
    return path


def decorated(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    """A file with everything that can hang on a picture."""

    def after(raster: Any) -> None:
        raster.update_tags(AREA_OR_POINT="Point", TIFFTAG_SOFTWARE="pen and ink", scale="1:25000")
        raster.descriptions = [f"band {band}" for band in raster.indexes]

    icc = "AAAAGHRlc3RtbnRyUkdCIFhZWiAAAAAA"
    with hushed():
        place = {"crs": "EPSG:25832", "transform": from_origin(500000, 5600000, 0.5, 0.5), "nodata": 7}
    save(path, pixels, after, SOURCE_ICC_PROFILE=icc, **place, **options)
    exif = sub_directory(path, {33434: (5, 1, struct.pack("<LL", 1, 250)), 37510: (7, 12, b"ASCII\0\0\0abcd")})
    gps = sub_directory(path, {1: (2, 2, b"N\0"), 2: (5, 3, struct.pack("<6L", 50, 1, 7, 1, 30, 1))})
    word, kind = ("<Q", 18) if path.read_bytes()[2] == 43 else ("<L", 4)
    extra = {34665: (kind, 1, struct.pack(word, exif)), 34853: (kind, 1, struct.pack(word, gps))}
    extra |= {
        700: (1, len(XMP), XMP),
        271: (2, 6, b"Leica\0"),
        274: (3, 1, b"\6\0"),
        282: (5, 1, struct.pack("<LL", 600, 1)),
    }
    give_tags(path, extra | {283: (5, 1, struct.pack("<LL", 600, 1)), 65000: (7, 9, b"private!!")})
    return path
