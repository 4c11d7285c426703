"""The door to GDAL: files are opened here, under settings of ours, and what fails becomes one line with a way out.

It knows which formats are opened at all, what GDAL and the system say of files that cannot be read or written, and how
rasterio wants to be asked. It knows nothing of what a picture or a mask is, of outputs and their places, or of threads.
Whoever opens a raster closes it.

GDAL can lose an error of a disk that is full when it closes a file. So nothing is taken to be written until it has been
read back: `checksum` and `rows` serve that, and `lost` tells of it.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.windows import Window as _Part

from pconv_cli import files
from pconv_cli.errors import ItemError, unwritable
from pconv_cli.files import quietly
from pconv_cli.regions import Window

# GDAL reports through Python's logging as well; without a handler of the caller's it would land on the terminal.
logging.getLogger("rasterio").addHandler(logging.NullHandler())

# In bytes: rasterio hands the number on as it is. PAM would write .aux.xml files beside pictures.
_SETTINGS: dict[str, Any] = {
    "GDAL_CACHEMAX": 32 * 2**20,
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_TIFF_INTERNAL_MASK": "YES",
    "GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO",  # it does not tell of a file that is cut short
}
# Formats by how their files begin. Those that describe other files (VRT and its kin) are left out on purpose: a picture
# must not make GDAL open anything else.
_FORMATS = {
    "GTiff": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG",),
    "BMP": (b"BM",),
    "WEBP": (b"RIFF",),
    "JP2OpenJPEG": (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"),
}
_NOT_A_PICTURE = (
    "not a TIFF, JPEG, PNG, WebP, BMP or JPEG 2000 picture, or its start is damaged: "
    "open it elsewhere and export a copy"
)
_UNKNOWN_KINDS = ("missing codec", "Unsupported JPEG")  # as libtiff and libjpeg say it
STRIP = 32 * 2**20
"""Bytes of rows that are looked at together."""


# ---------------------------------------------------------------- rasters


@contextmanager
def settings() -> Iterator[None]:
    """GDAL's settings, for this thread, as they are to be wherever a raster is used."""
    with rasterio.Env(**_SETTINGS):
        yield


def open(path: Path, mode: str = "r", *, raw: bool = False, **options: Any) -> Any:
    """Open a raster file, inside `settings`.

    Args:
        path: The file.
        mode: "r", or "r+" or "w" for a TIFF.
        raw: Whether a TIFF of inks is taken as it is: else GDAL makes RGB of it.
        options: What rasterio hands on to GDAL.

    Raises:
        ItemError: It is none that is opened.
    """
    driver = "GTiff"
    if mode == "r":
        with path.open("rb") as stream:
            head = stream.read(256)
        driver = format_of(head)
        if not driver:
            if b"<VRTDataset" in head:
                way_out = f"make a picture of it (gdal_translate {path.name} {path.stem}.tif)"
                raise ItemError(path, f"is a VRT, which holds no picture and only says where others lie: {way_out}")
            why = files.why_no_picture(path) or _NOT_A_PICTURE
            raise ItemError(path, why if head else "the file is empty (0 bytes): fetch it again")
    # An absolute path can be nothing but a path: GDAL takes "GTIFF_DIR:1:x.tif" and the like for more than a name.
    place = encodable(path).absolute()
    with quietly():
        return rasterio.open(f"GTIFF_RAW:{place}" if raw else place, mode, driver=driver, **options)


def copy(source: Path, target: Path, driver: str) -> None:
    """Copy a raster into another format, inside `settings`."""
    with quietly():
        rasterio.shutil.copy(str(encodable(source).absolute()), str(target.absolute()), driver=driver)


def format_of(head: bytes) -> str:
    """GDAL's name of the format of files that begin so; empty where it is none that is opened."""
    return next((name for name, starts in _FORMATS.items() if head.startswith(starts)), "")


def encodable(path: Path) -> Path:
    """Make sure that GDAL can be told of a file at all.

    Raises:
        ItemError: It cannot.
    """
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError as error:
        raise ItemError(path, "its name or a folder's is not Unicode, and cannot be opened: rename it") from error
    return path


def window(part: Window) -> Any:
    """A part of a raster as rasterio is told of it."""
    return _Part(part.x, part.y, part.width, part.height)


def rows(raster: Any) -> Iterator[NDArray[Any]]:
    """Read a raster from top to bottom, (bands, rows, width), as many rows together as `STRIP` has room for."""
    count = max(STRIP // (raster.width * raster.count * np.dtype(raster.dtypes[0]).itemsize), 1)
    for y in range(0, raster.height, count):
        yield raster.read(window=_Part(0, y, raster.width, min(count, raster.height - y)))


def bits(raster: Any) -> set[int]:
    """Bits per value, where they are neither 8 nor 16 nor 32."""
    return {int(raster.tags(band, ns="IMAGE_STRUCTURE").get("NBITS", 0)) for band in raster.indexes} - {0, 8, 16, 32}


def checksum(pixels: NDArray[Any]) -> int:
    """A number that other pixels do not have, as far as a disk's errors go."""
    return zlib.crc32(np.ascontiguousarray(pixels).data)


# ---------------------------------------------------------------- what fails


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """GDAL's settings; whatever goes wrong with a file that is read becomes an ItemError."""
    try:
        with settings():
            yield
    except ItemError:
        raise
    except Exception as error:  # a damaged file can make a decoder raise anything
        raise ItemError(path, _why_unreadable(path, error)) from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What goes wrong with a file that is written becomes an ItemError; a caller's own errors pass."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, (OSError, MemoryError, struct.error)) and "rasterio" not in type(error).__module__:
            raise
        said = f"cannot be written ({_cause(error)}): choose another output folder"
        raise _unwritable(path, error, said) from error


def lost() -> OSError:
    """The error of a disk that did not keep what was written to it, and said nothing."""
    return OSError(errno.EIO, os.strerror(errno.EIO))


def not_kept(path: Path, error: BaseException) -> ItemError:
    """The error of a file that was written and cannot be read back, by what was said on reading."""
    why = f"cannot be written (on reading it back: {_cause(error)})"
    way_out = "check the disk, or restore a copy that is compressed in another way (deflate, LZW)"
    return _unwritable(path, error, f"{why}: {way_out}")


def _why_unreadable(path: Path, error: Exception) -> str:
    why = files.why_unreadable(error)
    if why:
        return why
    if not path.exists():
        return "there is no such file any more: put it back and run it again"
    cause = _cause(error)
    if "libjpeg to allocate" in cause:
        return "a progressive JPEG, and too big to be read part by part: save a copy as TIFF"
    if any(words in cause for words in _UNKNOWN_KINDS):
        return f"compressed in a way that cannot be read ({cause.rstrip('.')}): convert a copy (deflate, LZW)"
    return files.damaged(cause)


def _unwritable(path: Path, error: BaseException, said: str) -> ItemError:
    """What a file cannot be written by: disk or memory, or else what is said of it."""
    with suppress(OSError):
        if not files.why_unwritable(error) and shutil.disk_usage(path.parent).free < 2**20:
            # GDAL tells no more than that a write has failed.
            error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return unwritable(path, error, files.why_unwritable(error) or said)


def _cause(error: BaseException) -> str:
    """What GDAL said first: rasterio's own words are that the details are elsewhere."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, struct.error):  # what Python says of buffers means nothing to anybody
        return "its structure cannot be read"
    return " ".join(str(error).split()) or type(error).__name__
