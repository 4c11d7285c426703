"""What GDAL's encoders can do: blocks of a TIFF written back soundly, and bytes of what is too deep for Pillow.

Knows compressions, the size of blocks, and how the quality of a JPEG inside is repeated. Does not know how a picture is
read, what is filled, or how a file gets its place: what is made here is made in memory.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import rasterio
from numpy.typing import NDArray

from pconv_cli import _gdal
from pconv_cli._ifd import Directory, shared_jpeg_tables
from pconv_cli.files import quietly

JPEG = 7
"""TIFF's number of the one compression that loses something, and is written back nevertheless."""

# TIFF compressions by number that GDAL writes back without losing anything: none, those of fax, LZW, deflate, PackBits,
# deflate's old number, Zstandard.
_LOSSLESS = {1, 2, 3, 4, 5, 8, 32773, 32946, 50000}
_LARGEST_BLOCK = 64 * 2**20  # decoded bytes; beyond it a block at a time is no bounded memory


def encoded(pixels: NDArray[Any], mode: str, kind: Literal["TIFF", "PNG"] = "TIFF") -> bytes:
    """The bytes of a picture of 16 bits or of inks, without metadata.

    Args:
        pixels: (h, w, channels), uint8 or uint16.
        mode: "L", "LA", "RGB", "RGBA" or "CMYK".
        kind: The format.
    """
    height, width, count = pixels.shape
    profile: dict[str, Any] = {"driver": kind, "height": height, "width": width, "count": count, "dtype": pixels.dtype}
    if kind == "TIFF":
        photometric = {"L": "MINISBLACK", "LA": "MINISBLACK", "CMYK": "CMYK"}.get(mode, "RGB")
        profile |= {"driver": "GTiff", "compress": "deflate", "predictor": 2}
        profile |= {
            "photometric": photometric,
            "interleave": "pixel",
            "ALPHA": "NON-PREMULTIPLIED" if mode in ("LA", "RGBA") else "NO",
        }
    with _gdal.settings(), quietly(), rasterio.MemoryFile() as memory:
        with memory.open(**profile) as made:
            made.write(np.moveaxis(pixels, -1, 0))
        return bytes(memory.getbuffer())


def patching(tiff: Directory, raster: Any) -> tuple[str, bytes]:
    """What it takes to patch a copy of a TIFF.

    Returns:
        Why it cannot be patched, empty if it can; and JPEG tables that the copy has to be given first, mostly none.
    """
    why = _why_not_in_place(tiff, raster)
    return _jpeg_tables(raster, tiff) if not why and tiff.number(259, 1) == JPEG else (why, b"")


def threads(tiff: Directory) -> dict[str, str]:
    """Options with which blocks of a TIFF are encoded side by side, where that is sound; else none.

    GDAL tells its threads neither how chroma is sampled nor from which end bytes are filled with bits, and where a file
    does not say how many values a pixel has, they complain to the terminal.
    """
    chroma = tiff.number(259, 1) == JPEG and tiff.number(262, 1) == 6
    unsound = chroma or tiff.number(266, 1) == 2 or 277 not in tiff.entries
    return {} if unsound else {"NUM_THREADS": "ALL_CPUS"}


def _why_not_in_place(tiff: Directory, raster: Any) -> str:
    """Why a copy of the file cannot be patched; empty if it can."""
    compression = tiff.number(259, 1)
    if compression not in _LOSSLESS and compression != JPEG:
        return f"its compression (TIFF number {compression}) cannot be updated"
    down, across = raster.block_shapes[0]
    if compression != 1 and 322 not in tiff.entries:
        # One big strip is shown as rows, but only to readers; one that is not compressed to writers as well.
        down, across = min(tiff.number(278, raster.height), raster.height), raster.width
    planes = 1 if tiff.number(284, 1) == 2 else raster.count
    block = across * down * planes * np.dtype(raster.dtypes[0]).itemsize
    return "" if block <= _LARGEST_BLOCK else f"its blocks are of {block >> 20} MiB each, too big to be patched"


def _jpeg_tables(raster: Any, tiff: Directory) -> tuple[str, bytes]:
    """How the quality of a JPEG-compressed file can be kept: why it cannot be, and tables that it has to be given.

    GDAL finds the quality out, and repeats it, where the tables that all blocks share are those of a quality of
    libjpeg. Where each block has tables of its own, it takes 75. There, the file is given shared tables as well: blocks
    with their own do not look at them.
    """
    if "JPEG_QUALITY" in raster.tags(ns="IMAGE_STRUCTURE"):
        return "", b""
    tables = shared_jpeg_tables(tiff, lambda quality: _libjpeg_tables(quality, raster))
    return ("", tables) if tables else ("its JPEG tables are not those of any quality that could be repeated", b"")


def _libjpeg_tables(quality: int, raster: Any) -> bytes:
    """Quantisation tables of a quality, as GDAL itself writes them for such a picture."""
    options: dict[str, Any] = {"driver": "GTiff", "width": 16, "height": 16, "count": raster.count, "dtype": "uint8"}
    options |= {"compress": "jpeg", "JPEG_QUALITY": quality, "JPEGTABLESMODE": 1}
    if raster.tags(ns="IMAGE_STRUCTURE").get("SOURCE_COLOR_SPACE") == "YCbCr":
        options["photometric"] = "YCBCR"
    with rasterio.MemoryFile() as memory, quietly():
        with memory.open(**options) as made:
            made.write(np.zeros((raster.count, 16, 16), np.uint8))
        with memory.open() as made:
            return bytes.fromhex(made.get_tag_item("JPEGTABLES", "TIFF", bidx=1))
