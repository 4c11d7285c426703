"""Pictures larger than memory, or too deep for Pillow: read windows, put fills into a copy of the file. By rasterio.

It knows blocks, bands, masks and GDAL's habits. It knows nothing of networks, tiles' planning, batches, or what a
caller shows to people. Bytes of TIFF directories: `_ifd`; how a file gets its place: `files`.

Copy, then patch: the output begins as a byte copy of the input, so that every tag, page and pixel is there already, and
only blocks (tiles or strips) that hold a fill are encoded again, each of them once. Until then, what was read of the
input and what was laid on it wait in a scratch file beside the output, decoded; the input is only ever read, each block
once (JPEG: once more, to compare). What GDAL cannot update soundly is written anew.

GDAL can lose an error of a disk that is full when it closes a file. So nothing is taken to be written until it has been
read back.
"""

from __future__ import annotations

import base64
import errno
import logging
import math
import os
import shutil
import struct
import threading
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from io import BufferedRandom
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import CRSError, RasterioError
from rasterio.warp import transform as transform_points
from rasterio.windows import Window as _Part

from pconv_cli import files
from pconv_cli._ifd import Directory, cut_short, graft, graft_from, shared_jpeg_tables
from pconv_cli.companions import Companions
from pconv_cli.errors import ItemError, Loss
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

# TIFF compressions by number that GDAL writes back without losing anything: none, those of fax, LZW, deflate, PackBits,
# deflate's old number, Zstandard. JPEG has a chapter of its own.
_LOSSLESS = {1, 2, 3, 4, 5, 8, 32773, 32946, 50000}
_JPEG = 7
_ICC, _XMP = 34675, 700
_SPACES = {0: "RGB", 1: "RGB", 2: "RGB", 3: "RGB", 5: "CMYK", 6: "YCbCr", 8: "Lab", 9: "Lab", 10: "Lab"}
_LARGEST_BLOCK = 64 * 2**20  # decoded bytes; beyond it a block at a time is no bounded memory
_CLASSIC_LIMIT = 2**32 - 2**24  # bytes; a classic TIFF counts its positions in 32 bits
_STRIP = 32 * 2**20  # bytes of rows that are looked at together
MOST_AWAY = 0.5  # pixels that a mask may lie beside its picture on the map: less is rounding
_PAGE = 256  # pixels along the sides of what is kept decoded, at least

Validity = Literal["alpha", "mask band", "nodata"]


# ---------------------------------------------------------------- reading


class Source:
    """A picture file that windows are read from. A context manager; read-only; safe to use from several threads.

    Attributes:
        path: The file.
        width: Columns as stored.
        height: Rows as stored.
        bands: How many values a pixel has.
        dtype: uint8, uint16 or float32.
        layers: Bands that are filled together: three colours, four inks, or any other band but alpha alone.
        inks: Whether the first layer is cyan, magenta, yellow and black.
        inverted: Whether white is 0 (grey only).
        palette: (n, 4) RGBA, uint8, where pixels are numbers of colours; black and white are two such colours.
        icc: The colour profile, empty where there is none.
        orientation: EXIF orientation 1..8; 1 where there is none or it is invalid.
        block: Rows and columns that are decoded together.
        alpha: Index of the alpha band, or None. A fourth band that the file does not call alpha is a band like others.
        premultiplied: Whether colours are multiplied by alpha already.
        nodata: The value that stands for "nothing here", if the file names one; in float pictures NaN always does.
        validity: How the file itself says which pixels hold nothing, the best way first where it has several.
        companions: What lies beside the file and describes it: it goes with the output.
        in_place: Whether a copy of the file can be patched block by block; if not, it is written anew as a TIFF.
        notices: What of the file will not be as one might expect in the output, one line each.
        notices_anew: The same for an output that is written anew.
    """

    def __init__(self, path: Path) -> None:
        """Open the file and look at its head.

        Args:
            path: TIFF of any size, or another picture format that GDAL reads.

        Raises:
            ItemError: Missing, unreadable, or of a kind that would have to be changed to be restored.
        """
        self.path = path
        self._idle: list[Any] = []
        self._lock = threading.Lock()
        self._closed = False
        self._stamp = _stamp(path)
        with _reading(path):
            self._raw = _is_cmyk(path)  # else GDAL makes RGB of it
            raster = _open(path, raw=self._raw)
            try:
                self._look(raster)
            except BaseException:
                raster.close()
                raise
            self._idle.append(raster)

    def _look(self, raster: Any) -> None:
        path = self.path
        tiff = Directory.first(path) if raster.driver == "GTiff" else None
        with quietly():
            self._flags = raster.mask_flag_enums[0] if raster.count else []
        with suppress(CPLE_BaseError):  # of a tag that is beyond its range: rasterio would raise it at the next call
            _ = raster.colorinterp
        _refuse(path, raster, tiff)
        self.width: int = raster.width
        self.height: int = raster.height
        self.bands: int = raster.count
        self.dtype: np.dtype[Any] = np.dtype(raster.dtypes[0])
        self.block: tuple[int, int] = raster.block_shapes[0]
        kinds = list(raster.colorinterp)
        self.alpha = kinds.index(ColorInterp.alpha) if ColorInterp.alpha in kinds else None
        # Inks of other names or numbers have no colour that anybody knows of: each is a band by itself.
        colours = self.bands - (self.alpha is not None)
        self.inks = self._raw and tiff is not None and colours >= 4 and tiff.number(332, 1) == 1
        self.inverted = tiff is not None and tiff.number(262, 1) == 0 and not _bits(raster)
        self.palette = None if self.inverted or kinds[0] != ColorInterp.palette else _palette(raster)
        self.layers = _layers(kinds, self.alpha, inks=self.inks)
        self.orientation = _orientation(tiff, raster)
        kind = () if tiff is None or 338 not in tiff.entries else tiff.numbers(338)
        self.premultiplied = self.alpha is not None and 1 in kind
        self.icc = _profile_of(tiff, raster)
        self.companions = Companions.of(path)
        self.nodata: float | None = raster.nodata if self.companions.nodata is None else self.companions.nodata
        beside = [Path(name).name for name in raster.files[1:]]
        self.validity = self._validity()
        # Alpha is a mask of the whole picture to GDAL as well, but none that could be written as one.
        has_mask = MaskFlags.per_dataset in self._flags and MaskFlags.alpha not in self._flags
        self._own_mask = has_mask and not any(name.endswith(".msk") for name in beside)
        self._tiff = tiff
        self._why_anew = "it is not a TIFF" if tiff is None else _why_not_in_place(tiff, raster)
        self._tables = b""
        if tiff is not None and not self._why_anew and tiff.number(259, 1) == _JPEG:
            self._why_anew, self._tables = _jpeg_tables(raster, tiff)
        self.in_place = not self._why_anew
        if tiff is not None and self.in_place and cut_short(tiff):
            raise OSError("some of its pixels would lie beyond its end")
        self.notices_anew = tuple(self._find_notices(raster, beside, in_place=False))
        self.notices = tuple(self._find_notices(raster, beside, in_place=self.in_place))

    def _validity(self) -> Validity | None:
        if self.alpha is not None:
            return "alpha"
        if MaskFlags.per_dataset in self._flags and MaskFlags.nodata not in self._flags:
            return "mask band"
        return "nodata" if self._nothing is not None or self.dtype.kind == "f" else None

    @property
    def _nothing(self) -> float | None:
        """The nodata value, where pixels of this type can have it at all."""
        value = self.nodata
        if value is None or np.isnan(value):
            return None
        if self.dtype.kind == "f":
            with np.errstate(over="ignore"):  # written by those who think in 64 bits
                return float(np.float32(value))
        return int(value) if 0 <= value <= np.iinfo(self.dtype).max and value == int(value) else None

    @property
    def _next_to_nothing(self) -> float:
        """A value as near to the nodata value as can be."""
        nothing = self._nothing
        assert nothing is not None
        if self.dtype.kind == "f":
            return float(np.nextafter(np.float32(nothing), np.float32(0 if nothing else 1)))
        return nothing + (1 if nothing < np.iinfo(self.dtype).max else -1)

    @property
    def xmp(self) -> bytes:
        """The XMP packet, empty where there is none.

        Raises:
            ItemError: The file is damaged there, or gone.
        """
        with self._raster() as raster:
            if self._tiff is not None:
                return self._tiff.value(_XMP, 2**26)[2] if _XMP in self._tiff.entries else b""
            return str(raster.tags(ns="xml:XMP").get("xml:XMP", "")).encode()

    @property
    def lost_by_fills(self) -> tuple[str, ...]:
        """What will be lost as soon as anything is filled; `Canvas.commit` tells how much."""
        jpeg = self.in_place and self._tiff is not None and self._tiff.number(259, 1) == _JPEG
        return (Loss("JPEG-compressed: pixels in the blocks that hold damage are encoded again"),) if jpeg else ()

    @property
    def opaque(self) -> float:
        """The value of alpha that hides nothing."""
        return 1.0 if self.dtype.kind == "f" else int(np.iinfo(self.dtype).max)

    def _find_notices(self, raster: Any, beside: list[str], *, in_place: bool) -> Iterator[str]:
        carried = {target.name for target in self.companions.targets(self.path)}
        left = [name for name in beside if name not in carried and name not in self.companions.lost]
        if left or self.companions.lost:
            yield Loss(f"beside the file and not carried over: {', '.join([*left, *self.companions.lost])}")
        if self._tiff is None:
            return
        pages = max(len(raster.subdatasets) - 1, 0)
        if pages:
            kept = "kept as they are" if in_place else "not carried over"
            yield (str if in_place else Loss)(f"only the first of {pages + 1} pages is restored, the others are {kept}")
        if in_place and 330 in self._tiff.entries:
            yield "embedded previews (SubIFDs) still show the damage"
        if in_place and 37724 in self._tiff.entries:
            yield "Photoshop layers in the file still show the damage: open the output without them"
        if in_place and raster.tags(ns="IMAGE_STRUCTURE").get("LAYOUT") == "COG":
            yield "a cloud-optimised GeoTIFF: the output is a GeoTIFF, no longer in the cloud-optimised order"

    def read(self, window: Window) -> NDArray[Any]:
        """Read a window.

        Args:
            window: Part of the picture; it must not reach beyond.

        Returns:
            (h, w, bands) in the file's own type.

        Raises:
            ItemError: The file is damaged there, or gone.
            ValueError: The window reaches beyond the picture.
        """
        self._check(window)
        with self._raster() as raster:
            return np.ascontiguousarray(np.moveaxis(raster.read(window=_part(window)), 0, -1))

    def valid(self, window: Window, pixels: NDArray[Any] | None = None) -> NDArray[np.bool_] | None:
        """Where the file says that there is a picture at all.

        Args:
            window: Part of the picture; it must not reach beyond.
            pixels: What `read` gave of it, where that is at hand already.

        Returns:
            (h, w), False where alpha or the mask band is 0 or all colours have the nodata value, and in float pictures
            wherever a colour is no finite number; None if the file has no way to say it.

        Raises:
            ItemError: The file is damaged there, or gone.
            ValueError: The window reaches beyond the picture.
        """
        self._check(window)
        if self.validity is None:
            return None
        if pixels is None and (self.validity != "mask band" or self.dtype.kind == "f"):
            pixels = self.read(window)
        shown = np.ones((window.height, window.width), np.bool_)
        if self.validity == "mask band":
            shown = self._mask(window) > 0
        elif self.alpha is not None and pixels is not None:
            shown = pixels[..., self.alpha] > 0
        if pixels is not None and (self.validity == "nodata" or self.dtype.kind == "f"):
            shown &= ~self._is_nothing(pixels)
        return shown

    def thumbnail(self, longest: int) -> NDArray[Any]:
        """A small view of the whole picture, to draw on.

        Args:
            longest: Longest side of the view, at least 1; a smaller picture is not enlarged.

        Returns:
            (h, w, bands of the first layer) in the file's own type.

        Raises:
            ItemError: The file is damaged, or gone.
            ValueError: `longest` is below 1.
        """
        if longest < 1:
            raise ValueError(f"longest must be at least 1, got {longest}")
        scale = min(longest / max(self.width, self.height), 1.0)
        shape = max(round(self.height * scale), 1), max(round(self.width * scale), 1)
        bands = [band + 1 for band in self.layers[0]]
        with self._raster() as raster:
            # Nearest: it takes rows one at a time, where averaging would hold all that it averages.
            small = raster.read(bands, out_shape=(len(bands), *shape), resampling=Resampling.nearest)
        return np.ascontiguousarray(np.moveaxis(small, 0, -1))

    def close(self) -> None:
        """Close all handles. Reads after it are refused."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        with _gdal():
            for raster in idle:
                raster.close()

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self, window: Window) -> None:
        inside = min(window.x, window.y) >= 0 and window.right <= self.width and window.bottom <= self.height
        if not inside or window.width < 1 or window.height < 1:
            raise ValueError(f"{window} is not inside {self.width} x {self.height} pixels")

    @contextmanager
    def _raster(self) -> Iterator[Any]:
        """A handle that nobody else uses meanwhile: GDAL's are not made for two threads at once."""
        with _reading(self.path):
            with self._lock:
                if self._closed:
                    raise ItemError(self.path, "is closed already: open it again")
                raster = self._idle.pop() if self._idle else None
            if raster is None:
                raster = _open(self.path, raw=self._raw)
            try:
                yield raster
            finally:
                with self._lock:
                    closed = self._closed
                    if not closed:
                        self._idle.append(raster)
                if closed:
                    raster.close()

    def _mask(self, window: Window) -> NDArray[np.uint8]:
        with self._raster() as raster:
            return np.asarray(raster.read_masks(1, window=_part(window)))

    def _is_nothing(self, pixels: NDArray[Any]) -> NDArray[np.bool_]:
        """Where all colours of (h, w, bands) have the nodata value, or one is no number."""
        nothing, missing = np.ones(pixels.shape[:2], np.bool_), np.zeros(pixels.shape[:2], np.bool_)
        for band in self._colours:  # several times faster than `all` over a short axis
            nothing &= False if self._nothing is None else pixels[..., band] == self._nothing
            if self.dtype.kind == "f":
                missing |= ~np.isfinite(pixels[..., band])
        return nothing | missing

    @property
    def _colours(self) -> list[int]:
        return [band for band in range(self.bands) if band != self.alpha]


def _refuse(path: Path, raster: Any, tiff: Directory | None) -> None:
    """Raise for what could only be restored by changing it first."""
    kinds = list(raster.colorinterp)
    if not raster.count:
        raise ItemError(path, "holds several pictures and none of its own: save the one you mean as a TIFF")
    bits, types = _bits(raster), set(raster.dtypes)
    if "float32" in types and "NBITS" in raster.tags(1, ns="IMAGE_STRUCTURE"):
        raise ItemError(path, "pixels are float16 per channel, which cannot be written: convert a copy to float32")
    wrong = sorted(types - {"uint8", "uint16", "float32"})
    if wrong or len(types) > 1 or bits - {1, 2, 4} or (bits and ColorInterp.palette not in kinds):
        what = " and ".join(wrong or sorted(types)) if wrong or len(types) > 1 else f"{bits.pop()} bits"
        way_out = "convert a copy to one of them"
        if wrong and not any(name.startswith("complex") for name in wrong):
            bits_kept = "" if set(wrong) <= {"int8", "int16"} else ", which keeps 24 bits of each value"
            way_out = f"convert a copy (gdal_translate -ot Float32 {path.name} out.tif){bits_kept}"
        raise ItemError(path, f"pixels are {what} per channel, not 8 or 16 bits unsigned or float32: {way_out}")
    # GDAL turns some of these into RGB while it reads, and cannot turn them back.
    space = raster.tags(ns="IMAGE_STRUCTURE").get("SOURCE_COLOR_SPACE", "RGB")
    if tiff is not None:
        photometric = tiff.number(262, 1)
        space = _SPACES.get(photometric, f"of TIFF number {photometric}")
        if space in ("YCbCr", "CMYK") and (tiff.number(259, 1) == _JPEG) == (space == "YCbCr"):
            space = "RGB"
    elif space == "YCbCr":
        space = "RGB"
    if space != "RGB":
        raise ItemError(path, f"colours are {space}, not RGB or grey: convert a copy to RGB first")


def _bits(raster: Any) -> set[int]:
    """Bits per value, where they are neither 8 nor 16 nor 32."""
    return {int(raster.tags(band, ns="IMAGE_STRUCTURE").get("NBITS", 0)) for band in raster.indexes} - {0, 8, 16, 32}


def _is_cmyk(path: Path) -> bool:
    """Whether a file is a TIFF of inks."""
    with path.open("rb") as stream:
        head = stream.read(8)
    if not head.startswith(_FORMATS["GTiff"]):
        return False
    return Directory.first(path).number(262, 1) == 5


def _palette(raster: Any) -> NDArray[np.uint8]:
    table = np.array(sorted(raster.colormap(1).items()), dtype=object)
    colours = np.array([colour for _, colour in table], np.uint8).reshape(-1, 4)
    # What GDAL calls transparent is the colour of the nodata value: in a TIFF that hides nothing.
    colours[:, 3] = 255
    return colours


def _layers(kinds: list[ColorInterp], alpha: int | None, *, inks: bool) -> tuple[tuple[int, ...], ...]:
    bands = [band for band in range(len(kinds)) if band != alpha]
    together = 4 if inks else 3 if len(bands) >= 3 and kinds[bands[0]] == ColorInterp.red else 1
    return (tuple(bands[:together]), *((band,) for band in bands[together:]))


def _orientation(tiff: Directory | None, raster: Any) -> int:
    if tiff is not None:
        number = tiff.number(274, 1)
    else:
        text = raster.tags().get("EXIF_Orientation", "")
        number = int(text) if text.isdecimal() else 1
    return number if 1 <= number <= 8 else 1


def _profile_of(tiff: Directory | None, raster: Any) -> bytes:
    if tiff is not None:
        return tiff.value(_ICC, 2**26)[2] if _ICC in tiff.entries else b""
    text = raster.tags(ns="COLOR_PROFILE").get("SOURCE_ICC_PROFILE", "")
    with suppress(ValueError):
        return base64.b64decode(text)
    return b""


def _why_not_in_place(tiff: Directory, raster: Any) -> str:
    """Why a copy of the file cannot be patched; empty if it can."""
    compression = tiff.number(259, 1)
    if compression not in _LOSSLESS and compression != _JPEG:
        return f"its compression (TIFF number {compression}) cannot be updated"
    down, across = raster.block_shapes[0]
    if compression != 1 and 322 not in tiff.entries:
        # One big strip is shown as rows, but only to readers; one that is not compressed to writers as well.
        down, across = min(tiff.number(278, raster.height), raster.height), raster.width
    planes = 1 if tiff.number(284, 1) == 2 else raster.count
    block = across * down * planes * np.dtype(raster.dtypes[0]).itemsize
    return "" if block <= _LARGEST_BLOCK else f"its blocks are of {block >> 20} MiB each, too big to be patched"


def _placement(raster: Any, companions: Companions) -> tuple[Any, Any]:
    """Coordinate system and transform of a raster, None for either that nothing tells; what lies beside comes first."""
    crs, transform = raster.crs or None, None if raster.transform.is_identity else raster.transform
    with suppress(CRSError):
        crs = CRS.from_wkt(companions.crs) if companions.crs else crs
    if companions.geotransform is not None:
        transform = rasterio.Affine.from_gdal(*companions.geotransform)
    return crs, transform


# ---------------------------------------------------------------- masks


def mask_size(path: Path) -> tuple[int, int]:
    """Width and height of a mask file as stored, from its head alone.

    Raises:
        ItemError: Not a picture that can be opened.
    """
    with _reading(path), closing(_open(path)) as raster:
        return raster.width, raster.height


def pixel_bytes(path: Path) -> int:
    """Bytes that a pixel takes in memory, of all bands together, from the head of a file alone.

    Raises:
        ItemError: Not a picture that can be opened.
    """
    with _reading(path), closing(_open(path)) as raster:
        return sum(np.dtype(kind).itemsize for kind in raster.dtypes)


def refuse_elsewhere(path: Path, source: Source) -> None:
    """Make sure that a mask as large as its picture does not lie elsewhere on the map.

    Raises:
        ItemError: It does, by more than `MOST_AWAY`, or a file cannot be opened.
    """
    away, way_out = off_the_map(path, source)
    if not away <= MOST_AWAY:
        far = "its coordinate system cannot be compared with that of the picture"
        if not math.isnan(away):
            far = f"mask lies elsewhere on the map, {away:.6g} pixels from the picture"
        raise ItemError(path, f"{far}: {way_out}")


def off_the_map(path: Path, source: Source) -> tuple[float, str]:
    """How far from its picture a mask lies on the map, if both say where they lie.

    Args:
        path: The mask.
        source: The picture.

    Returns:
        How far the farthest corner of the mask is from where it belongs, in pixels of the picture, NaN where the two
        cannot be compared; and the way out. 0 and nothing where either file does not say where it lies.

    Raises:
        ItemError: A file cannot be opened.
    """
    with _reading(path), closing(_open(path)) as raster:
        (crs, transform), width, height = _placement(raster, Companions.of(path)), raster.width, raster.height
    with source._raster() as raster:
        target, grid = _placement(raster, source.companions)
    counted = crs is None and transform is not None and abs(transform.a) == abs(transform.e) == 1  # in pixels, no place
    if transform is None or counted or grid is None or grid.is_degenerate:
        return 0.0, ""
    corners = np.array([(0, 0), (width, 0), (0, height), (width, height)], float)
    x, y = _mapped(transform, corners)
    elsewhere = bool(crs and target and crs != target)
    if elsewhere:
        try:
            with quietly():
                x, y = (np.array(axis) for axis in transform_points(crs, target, x, y))
        except (CPLE_BaseError, RasterioError):  # there is no way from one to the other
            x = y = np.full(4, np.nan)
    belongs = corners / (width, height) * (source.width, source.height)
    with np.errstate(invalid="ignore"):
        away = float(np.abs(np.stack(_mapped(~grid, np.stack((x, y), axis=1)), axis=1) - belongs).max())
    ways = [f"bring it there ({_warping(path, source, target if elsewhere else None, grid)})"]
    if not np.isfinite(away):
        away, ways = float("nan"), []
    if (width, height) == (source.width, source.height):
        ways.append(f"if it fits pixel by pixel, take its place on the map from it (gdal_edit.py -unsetgt {path.name})")
    return away, ", or, ".join(ways)


def _mapped(transform: Any, points: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Take points, (n, 2), through a transform."""
    x, y = points.T
    return transform.a * x + transform.b * y + transform.c, transform.d * x + transform.e * y + transform.f


def _warping(path: Path, source: Source, crs: Any, grid: Any) -> str:
    """The command that brings a raster onto the grid of a picture, if one does."""
    code = None
    with suppress(CRSError):
        code = crs.to_epsg() if crs else None
    if grid.b or grid.d or grid.e > 0 or (crs and code is None):
        return "with gdalwarp, onto the picture's grid"
    (left, right), (top, bottom) = _mapped(grid, np.array([(0, 0), (source.width, source.height)], float))
    edges = " ".join(f"{edge:.15g}" for edge in (left, bottom, right, top))
    system = f"-t_srs EPSG:{code} " if code else ""
    return f"gdalwarp {system}-te {edges} -ts {source.width} {source.height} {path.name} moved.tif"


def orientation(path: Path) -> int:
    """EXIF orientation of a TIFF, 1..8; 1 where there is none or it is invalid.

    Raises:
        ItemError: Not a TIFF that can be opened.
    """
    with _reading(path):
        return _orientation(Directory.first(path), None)


def encoded(pixels: NDArray[Any], mode: str, kind: Literal["TIFF", "PNG"] = "TIFF") -> bytes:
    """The bytes of a picture of 16 bits, of floating point or of inks, without metadata.

    Args:
        pixels: (h, w, channels), uint8, uint16 or, for a TIFF, float32.
        mode: "L", "LA", "RGB", "RGBA" or "CMYK".
        kind: The format.
    """
    height, width, count = pixels.shape
    profile: dict[str, Any] = {"driver": kind, "height": height, "width": width, "count": count, "dtype": pixels.dtype}
    if kind == "TIFF":
        photometric = {"L": "MINISBLACK", "LA": "MINISBLACK", "CMYK": "CMYK"}.get(mode, "RGB")
        profile |= {"driver": "GTiff", "compress": "deflate", "predictor": 3 if pixels.dtype.kind == "f" else 2}
        profile |= {
            "photometric": photometric,
            "interleave": "pixel",
            "ALPHA": "NON-PREMULTIPLIED" if mode in ("LA", "RGBA") else "NO",
        }
    with _gdal(), quietly(), rasterio.MemoryFile() as memory:
        with memory.open(**profile) as made:
            made.write(np.moveaxis(pixels, -1, 0))
        return bytes(memory.getbuffer())


def mask_strips(path: Path, rows: int = 256) -> Generator[NDArray[np.bool_], None, None]:
    """Read a mask from top to bottom without holding more of it than a strip.

    Args:
        path: A picture of any format and size that GDAL reads, of any mode but floating point.
        rows: Rows of a strip, at least 1.

    Yields:
        (rows or fewer, width) as stored, True where lighter than 50 % grey and not transparent: damaged. EXIF
        orientation is not applied. The rule is that of `images.read_mask`.

    Raises:
        ItemError: Missing, unreadable, damaged, floating point, or with more than one picture in it.
        ValueError: `rows` is below 1.
    """
    if rows < 1:
        raise ValueError(f"rows must be at least 1, got {rows}")
    with _reading(path):
        raster = _open(path)
    try:
        with _reading(path):
            white = _Whiteness(path, raster)
        width, height = raster.width, raster.height

        def read(strip: Window) -> NDArray[np.bool_]:
            with _reading(path):
                return white(raster.read(white.bands, window=_part(strip)))

        strips = [Window(0, y, width, min(rows, height - y)) for y in range(0, height, rows)]
        with closing(_ahead(read, strips, threads=1, ahead=2)) as found:
            for _, strip in found:
                yield strip
    finally:
        with _gdal():
            raster.close()


def write_mask(
    strips: Callable[[], Iterator[NDArray[np.bool_]]], size: tuple[int, int], target: Path, *, overwrite: bool
) -> None:
    """Write a mask of any size, white where damaged, without holding more of it than a strip; all of it or nothing.

    Args:
        strips: Gives the mask from top to bottom, `(rows, width)` each, True = damaged.
        size: Height and width.
        target: PNG where the name ends so, else TIFF; its folder must be there.
        overwrite: Whether a file that is there may be replaced.

    Raises:
        ItemError: The target exists, or the disk says no.
    """
    height, width = size
    part, copy = files.hidden(target), files.hidden(target)
    profile: dict[str, Any] = {"height": height, "width": width, "count": 1, "dtype": "uint8", "BLOCKYSIZE": 256}
    profile |= {"compress": "deflate", "BIGTIFF": "IF_SAFER"}
    top, damaged = 0, 0
    try:
        with _writing(target), _gdal():
            files.refuse_taken(target, overwrite=overwrite)
            with closing(_open(part, "w", **profile)) as made:
                for strip in strips():
                    white = strip.astype(np.uint8) * np.uint8(255)
                    made.write(white, 1, window=_Part(0, top, width, len(strip)))
                    top, damaged = top + len(strip), damaged + int(strip.sum())
            if target.suffix.lower() == ".png":
                with quietly():
                    rasterio.shutil.copy(str(_encodable(part).absolute()), str(copy.absolute()), driver="PNG")
            else:
                part.replace(copy)
            if top != height or sum(int(strip.sum()) for strip in mask_strips(copy)) != damaged:
                raise ItemError(target, "what was written does not read back as it should: check the disk")
            _flush(copy)
            files.place(copy, target, overwrite=overwrite)
    finally:
        part.unlink(missing_ok=True)
        copy.unlink(missing_ok=True)


def is_plain(path: Path) -> bool:
    """Whether all pixels of a picture are one colour, read in strips.

    Raises:
        ItemError: Not a picture that can be read.
    """
    with _reading(path), closing(_open(path)) as raster:
        first = raster.read(window=_Part(0, 0, 1, 1))
        rows = max(_STRIP // (raster.width * raster.count * np.dtype(raster.dtypes[0]).itemsize), 1)
        strips = range(0, raster.height, rows)
        return all(
            (raster.read(window=_Part(0, y, raster.width, min(rows, raster.height - y))) == first).all() for y in strips
        )


def write_map(strips: Iterable[NDArray[np.uint8]], target: Path, source: Source, *, rows: int, overwrite: bool) -> None:
    """Write a value for each pixel of a picture as a grey TIFF of 8 bits, deflate, all of it or nothing.

    No more of it than a strip is held. It lies, is displayed, and is placed on the map, as the picture is.

    Args:
        strips: (rows, w) from top to bottom, as the picture is stored; the last may have fewer rows.
        target: Where to; folders are made.
        source: The picture.
        rows: Rows of a strip.
        overwrite: Whether a file that is there may be replaced.

    Raises:
        ItemError: The target exists, or the disk says no.
    """
    profile: dict[str, Any] = {"width": source.width, "height": source.height, "count": 1, "dtype": "uint8"}
    profile |= {"compress": "deflate", "photometric": "MINISBLACK", "BIGTIFF": "IF_SAFER", "blockysize": rows}
    with source._raster() as raster:
        crs, transform = _placement(raster, source.companions)
    profile |= {"crs": crs} if crs else {}
    profile |= {} if transform is None else {"transform": transform}
    sums: list[tuple[Window, int]] = []
    with _writing(target):
        files.refuse_taken(target, overwrite=overwrite)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = files.hidden(_encodable(target))
        try:
            with _gdal():
                with closing(_open(part, "w", **profile)) as made:
                    for number, values in enumerate(strips):
                        strip = Window(0, number * rows, source.width, len(values))
                        made.write(values[None], window=_part(strip))
                        sums.append((strip, _checksum(values)))
                if source.orientation != 1:
                    order = Directory.first(part).order
                    graft(part, {274: (3, 1, struct.pack(order + "H", source.orientation))})
                with closing(_open(part)) as made:
                    if any(_checksum(made.read(1, window=_part(strip))) != known for strip, known in sums):
                        raise OSError(errno.EIO, os.strerror(errno.EIO))
            _flush(part)
            files.place(part, target, overwrite=overwrite)
        finally:
            part.unlink(missing_ok=True)


class _Whiteness:
    """How the pixels of one mask file say that they are lighter than 50 % grey."""

    def __init__(self, path: Path, raster: Any) -> None:
        kinds, types = list(raster.colorinterp), set(raster.dtypes)
        if not types <= {"uint8", "uint16"}:
            raise ItemError(path, "a mask of 32-bit or floating-point values has no 50 % grey: save it as 8-bit grey")
        if len(raster.subdatasets) > 1:
            raise ItemError(path, f"{len(raster.subdatasets)} pages in one TIFF: split it into one file per page first")
        structure = raster.tags(1, ns="IMAGE_STRUCTURE")
        self._bits = int(structure.get("NBITS", 8 * np.dtype(raster.dtypes[0]).itemsize))
        self._inverted = "YES" in (structure.get("MINISWHITE"), raster.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE"))
        self._table: NDArray[np.uint8] | None = None
        if kinds[0] == ColorInterp.palette:
            table = np.tile(np.array([0, 0, 0, 255], np.uint8), (256, 1))
            for index, colour in raster.colormap(1).items():
                table[index % 256] = colour
            self._table, self._inverted = table, False
        colours = 3 if kinds[0] == ColorInterp.red and raster.count >= 3 else 1
        self._alpha = ColorInterp.alpha in kinds[colours:]
        self.bands = [*range(1, colours + 1)] + ([kinds.index(ColorInterp.alpha) + 1] if self._alpha else [])
        # The one transparent colour of a PNG, which GDAL shows as nodata; that of a TIFF means no transparency.
        self._key = None
        if raster.driver == "PNG" and self._table is None and raster.nodata is not None:
            self._key = np.array(raster.nodatavals[:colours]).reshape(-1, 1, 1)

    def __call__(self, pixels: NDArray[Any]) -> NDArray[np.bool_]:
        """(bands, h, w) as stored to (h, w), True where white."""
        key = None if self._key is None else (pixels == self._key).all(axis=0)
        if self._table is not None:
            pixels = np.moveaxis(self._table[pixels[0]], -1, 0)
            return self._light(pixels[:3], pixels[3])
        alpha = pixels[-1] if self._alpha else None
        colours = pixels[:-1] if self._alpha else pixels
        if self._bits != 8:
            colours, alpha = self._as_8_bits(colours), None if alpha is None else self._as_8_bits(alpha)
        if self._inverted:
            colours = 255 - colours
        light = self._light(colours, alpha)
        return light if key is None else light & ~key

    def _as_8_bits(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        wide = values.astype(np.uint32)
        return (wide >> (self._bits - 8) if self._bits > 8 else wide * 255 // (2**self._bits - 1)).astype(np.uint8)

    @staticmethod
    def _light(colours: NDArray[np.uint8], alpha: NDArray[np.uint8] | None) -> NDArray[np.bool_]:
        light = colours[0]
        if len(colours) == 3:
            # In Pillow's own integers, so that both ways to read a mask draw the line at the same pixel.
            total = np.full(light.shape, 0x8000, np.uint32)
            for colour, weight in zip(colours, (19595, 38470, 7471), strict=True):
                total += colour * np.uint32(weight)
            light = (total >> 16).astype(np.uint8)
        white = light > 127 if alpha is None else light.astype(np.uint32) * alpha > 127 * 255
        return np.asarray(white)


# ---------------------------------------------------------------- what is laid on top


class _Pages:
    """The picture where it has been looked at, decoded once and kept in a file, with what was laid on top.

    A page is a block of the source, or a few of them: what is decoded to see a part of it is kept whole.
    """

    def __init__(self, stream: BufferedRandom, source: Source) -> None:
        self._stream, self._source = stream, source
        # Blocks as wide as a picture are cut: few of their columns may be wanted.
        self._down, self._across = (max(s, -(-_PAGE // s) * s) if s <= 4 * _PAGE else _PAGE for s in source.block)
        self._row = self._across * source.bands * source.dtype.itemsize
        self._slots: dict[tuple[int, int], int] = {}
        self._laid: set[tuple[int, int]] = set()
        self._lock = threading.Lock()

    def read(self, window: Window) -> NDArray[Any]:
        """Give a window, what was laid included."""
        self._source._check(window)
        pages = list(self._parts(window))
        self._fetch([key for key, _, _ in pages])
        pixels = np.empty((window.height, window.width, self._source.bands), self._source.dtype)
        for key, (rows, columns), here in pages:
            with self._lock:
                page = self._load(key, rows)
            pixels[here] = page[:, columns]
        return pixels

    def merged(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Give a window, what was laid included, and where that is, (h, w); keep nothing."""
        pages = list(self._parts(window))
        if all(key in self._slots for key, _, _ in pages):
            pixels = np.empty((window.height, window.width, self._source.bands), self._source.dtype)
        else:
            pixels = self._source.read(window)
        where = np.zeros((window.height, window.width), np.bool_)
        for key, (rows, columns), here in pages:
            if key in self._slots:
                with self._lock:
                    page, laid = self._load(key, rows), self._load_laid(key, rows)
                pixels[here], where[here] = page[:, columns], laid[:, columns]
        return pixels, where

    def lay(self, window: Window, pixels: NDArray[Any], where: NDArray[np.bool_]) -> None:
        """Lay pixels on top where `where` is True."""
        pages = [part for part in self._parts(window) if where[part[2]].any()]
        self._fetch([key for key, _, _ in pages])
        for key, (rows, columns), here in pages:
            wanted = where[here]
            with self._lock:
                page, laid = self._load(key, rows), self._load_laid(key, rows)
                page[:, columns][wanted] = pixels[here][wanted]
                laid[:, columns] |= wanted
                self._store(key, rows.start, page, laid)
                self._laid.add(key)

    def room(self, windows: Iterable[Window]) -> int:
        """Bytes that all pages take which some windows touch."""
        down, across, keys = self._down, self._across, set[tuple[int, int]]()
        for window in windows:
            columns = range(window.x // across, -(-window.right // across))
            keys.update((y, x) for y in range(window.y // down, -(-window.bottom // down)) for x in columns)
        return len(keys) * down * (self._row + across)

    def laid(self) -> list[Window]:
        """Pages in which anything was laid; the last ones may reach beyond the picture."""
        down, across = self._down, self._across
        return [Window(x * across, y * down, across, down) for y, x in sorted(self._laid)]

    def _fetch(self, keys: list[tuple[int, int]]) -> None:
        """Read the pages that are not there yet from the source: those of one row together."""
        for row, found in groupby((key for key in keys if key not in self._slots), itemgetter(0)):
            columns = [x for _, x in found]
            left, top = columns[0] * self._across, row * self._down
            right = min((columns[-1] + 1) * self._across, self._source.width)
            window = Window(left, top, right - left, min(self._down, self._source.height - top))
            pixels = self._source.read(window)
            for x in columns:
                part = pixels[:, x * self._across - left :][:, : self._across]
                page = np.zeros((window.height, self._across, self._source.bands), self._source.dtype)
                page[:, : part.shape[1]] = part
                with self._lock:
                    if (row, x) not in self._slots:  # nor has another thread been here meanwhile, and laid something
                        self._slots[row, x] = len(self._slots)
                        self._store((row, x), 0, page, np.zeros(page.shape[:2], np.bool_))

    def _load(self, key: tuple[int, int], rows: slice) -> NDArray[Any]:
        page = np.empty((rows.stop - rows.start, self._across, self._source.bands), self._source.dtype)
        self._stream.seek(self._start(key) + rows.start * self._row)
        self._stream.readinto(page.data.cast("B"))
        return page

    def _load_laid(self, key: tuple[int, int], rows: slice) -> NDArray[np.bool_]:
        laid = np.empty((rows.stop - rows.start, self._across), np.bool_)
        self._stream.seek(self._start(key) + self._down * self._row + rows.start * self._across)
        self._stream.readinto(laid.data.cast("B"))
        return laid

    def _store(self, key: tuple[int, int], first: int, page: NDArray[Any], laid: NDArray[np.bool_]) -> None:
        start = self._start(key)
        for at, data in (
            (start + first * self._row, page),
            (start + self._down * self._row + first * self._across, laid),
        ):
            self._stream.seek(at)
            self._stream.write(data.data.cast("B"))
        self._stream.flush()

    def _start(self, key: tuple[int, int]) -> int:
        return self._slots[key] * self._down * (self._row + self._across)

    def _parts(self, window: Window) -> Iterator[tuple[tuple[int, int], tuple[slice, slice], tuple[slice, slice]]]:
        """Pages that a window touches, row by row: key, rows and columns in the page, and in the window."""
        down, across = self._down, self._across
        for y in range(window.y // down, -(-window.bottom // down)):
            for x in range(window.x // across, -(-window.right // across)):
                left, right = max(x * across, window.x), min((x + 1) * across, window.right)
                top, bottom = max(y * down, window.y), min((y + 1) * down, window.bottom)
                there = Window(left - x * across, top - y * down, right - left, bottom - top)
                here = Window(left - window.x, top - window.y, right - left, bottom - top)
                yield (y, x), there.slices, here.slices


class _Copying:
    """A file that is copied by a thread of its own, so that the disk works while tiles are computed."""

    def __init__(self, source: Path, target: Path) -> None:
        self.target = target
        self._source = source
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def begin(self) -> None:
        """Begin, unless that was done before."""
        with self._lock:
            if self._thread is None:
                self._stopped.clear()
                self._error = None
                self._thread = threading.Thread(target=self._run, name="copy")
                self._thread.start()

    def wait(self) -> None:
        """Wait until the copy is there.

        Raises:
            OSError: It cannot be made.
        """
        self.begin()
        assert self._thread is not None
        self._thread.join()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Stop at once and remove the copy."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.target.unlink(missing_ok=True)

    def _run(self) -> None:
        try:
            _copy(self._source, self.target, self._stopped.is_set)
        except BaseException as error:
            self._error = error


def _ahead(
    function: Callable[[Window], Any], windows: list[Window], threads: int = 2, ahead: int = 4
) -> Generator[tuple[Window, Any], None, None]:
    """Go through windows with what a function makes of each, worked out a little ahead by other threads."""
    with ThreadPoolExecutor(threads, "ahead") as pool:
        waiting = deque((window, pool.submit(function, window)) for window in windows[:ahead])
        following = iter(windows[ahead:])
        while waiting:
            window, future = waiting.popleft()
            yield window, future.result()
            waiting.extend((one, pool.submit(function, one)) for one in islice(following, 1))


def _copy(source: Path, target: Path, stopped: Callable[[], bool]) -> None:
    with source.open("rb") as stream, target.open("xb") as out:
        while not stopped() and (chunk := stream.read(8 << 20)):
            out.write(chunk)


def _flush(path: Path) -> None:
    with path.open("r+b") as stream:
        os.fsync(stream.fileno())


class Canvas:
    """What a big picture is becoming: the source underneath, fills on top.

    A context manager; leaving it without `commit` removes every temporary file. Reading and laying are safe from
    several threads.

    Attributes:
        outside_changed: Pixels that are not as they were although nothing was laid there, counted in what was written,
            after it has been read back: 0 but for JPEG-compressed blocks. Others have a checksum to agree with.
    """

    def __init__(
        self, source: Source, output: Path, *, overwrite: bool, mark_valid: bool = False, as_laid: bool = False
    ) -> None:
        """Make sure of the output's place, and hold it with a scratch file beside it.

        Args:
            source: What is restored; it must stay open until after `commit`.
            output: Where to; folders are made.
            overwrite: Whether a file that is there may be replaced.
            mark_valid: Whether filled pixels are to count as picture from then on: alpha full, mask band 255.
            as_laid: Whether a fill that has the nodata value is meant to be nothing; else it is moved off it.

        Raises:
            ItemError: The output exists, is the source, is no .tif or .tiff, or its folder cannot be written.
        """
        self._source, self._output, self._overwrite = source, output, overwrite
        self._mark, self._as_laid = mark_valid, as_laid
        self._done = False
        self._hidden = 0  # filled pixels that the output says are not there
        self.outside_changed = 0
        if output.suffix.lower() not in (".tif", ".tiff"):
            raise ItemError(output, f"pictures this big are written as TIFF, not '{output.suffix}': name it .tif")
        _encodable(output)
        with _writing(output):
            files.refuse_same(source.path, output)
            files.refuse_taken(output, overwrite=overwrite)
            source.companions.refuse_taken(output, overwrite=overwrite)
            output.parent.mkdir(parents=True, exist_ok=True)
            self._held = files.Held(output)
        self._pages = _Pages(self._held.stream, source)
        self._copying = _Copying(source.path, self._held.second)

    def read(self, window: Window) -> NDArray[Any]:
        """Read a window, what was laid included.

        Args:
            window: Part of the picture; it must not reach beyond.

        Returns:
            (h, w, bands) in the file's own type.

        Raises:
            ItemError: The source is damaged there or gone, or the scratch file is.
            ValueError: The window reaches beyond the picture.
        """
        with _writing(self._output):
            return self._pages.read(window)

    def lay(self, window: Window, pixels: NDArray[Any], where: NDArray[np.bool_]) -> None:
        """Lay pixels on top; what was laid there before is gone.

        Args:
            window: Part of the picture; it must not reach beyond.
            pixels: (h, w, bands) in the file's own type.
            where: (h, w), True where they are to be taken.

        Raises:
            ItemError: The disk says no.
            ValueError: Shapes or types do not fit, or the window reaches beyond the picture.
        """
        self._source._check(window)
        shape = (window.height, window.width)
        if pixels.shape != (*shape, self._source.bands) or pixels.dtype != self._source.dtype:
            wanted = f"{(*shape, self._source.bands)} {self._source.dtype}"
            raise ValueError(f"need pixels {wanted}, got {pixels.shape} {pixels.dtype}")
        if where.shape != shape or where.dtype != np.bool_:
            raise ValueError(f"need where {shape} bool, got {where.shape} {where.dtype}")
        if self._source.in_place:
            self._copying.begin()
        with _writing(self._output):
            self._pages.lay(window, pixels, where)

    def room(self, windows: Iterable[Window]) -> int:
        """Bytes that the output and what is decoded meanwhile take beside each other, at least.

        Args:
            windows: What will be read or laid.
        """
        return self._source.path.stat().st_size + self._pages.room(windows)

    def commit(
        self,
        finished: Callable[[int, int], None] | None = None,
        *,
        ready: Callable[[Path, Sequence[str]], None] | None = None,
        xmp: bytes | None = None,
    ) -> tuple[str, ...]:
        """Write the output, all of it or nothing.

        Args:
            finished: Called with how many blocks that may hold fills are done, and how many there are.
            ready: Called with the finished file just before it gets its name, and what will be returned.
            xmp: A packet that takes the place of the source's own; None: that stays.

        Returns:
            What in the output is not as one might expect, one line each.

        Raises:
            ItemError: The source cannot be read or was changed meanwhile, somebody else has taken the output's name, or
                the disk says no.
            ValueError: It was committed already.
        """
        if self._done:
            raise ValueError("committed already")
        source, part = self._source, self._copying.target
        if _stamp(source.path) != source._stamp:
            raise ItemError(source.path, "was changed while it was being restored: run it again")
        progress = finished or (lambda done, total: None)
        try:
            with _writing(self._output), _gdal():
                why = source._why_anew or self._why_no_room()
                notices = list(source.notices_anew if why else source.notices)
                if why:
                    self._copying.stop()
                    written = self._write_anew(part, why, notices, progress)
                else:
                    written = self._patch_copy(part, notices, progress)
                if self._hidden:
                    who = "mask band" if source._own_mask or source.alpha is None else "alpha"
                    pixels = f"{self._hidden} pixel{'s' * (self._hidden > 1)}"
                    notices.append(
                        f"filled but not to be seen, for its {who} stays as it is: {pixels}; "
                        "if the damage is what that marks, leave out the mask: it is filled and shown then"
                    )
                if written:
                    self._rebuild_overviews(part, notices)
                if xmp is not None:
                    graft(part, {_XMP: (1, len(xmp), xmp)})
                with ThreadPoolExecutor(1, "flush") as pool:
                    flushed = pool.submit(_flush, part)
                    self._read_back(part, written)
                    flushed.result()
                if ready is not None:
                    ready(part, notices)
                with source.companions.beside(self._output, overwrite=self._overwrite):
                    files.place(part, self._output, overwrite=self._overwrite)
        finally:
            self._copying.stop()
        self._done = True
        self.close()
        return tuple(notices)

    def close(self) -> None:
        """Remove the scratch file; what was not committed is gone."""
        self._copying.stop()
        self._held.close()

    def __enter__(self) -> Canvas:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _merged(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Pixels of a window as the output is to have them, and where any were laid."""
        source = self._source
        pixels, where = self._pages.merged(window)
        if where.any():
            empty = where & source._is_nothing(pixels) if self._as_laid else np.zeros_like(where)
            if self._mark and source.alpha is not None:
                pixels[where & ~empty, source.alpha] = source.opaque
            if source._nothing is not None and source.palette is None and not self._as_laid:
                hit = where & source._is_nothing(pixels)  # a fill that is it by chance would be a hole
                pixels[hit, source._colours[-1]] = source._next_to_nothing
        return pixels, where

    def _touched(self, across: int, down: int) -> list[Window]:
        """Blocks of a grid in which anything may have been laid, in the order of the file."""
        width, height = self._source.width, self._source.height
        found = {
            (y, x)
            for laid in self._pages.laid()
            for y in range(laid.y // down, -(-min(laid.bottom, height) // down))
            for x in range(laid.x // across, -(-min(laid.right, width) // across))
        }
        return [
            Window(x * across, y * down, min(across, width - x * across), min(down, height - y * down))
            for y, x in sorted(found)
        ]

    def _why_no_room(self) -> str:
        """Why a copy would grow beyond what its kind of TIFF can hold; empty if it will not."""
        source = self._source
        assert source._tiff is not None
        if source._tiff.big:
            return ""
        with source._raster() as raster:
            down, across = raster.block_shapes[0]
            growth = sum(block.area for block in self._touched(across, down)) * source.bands * source.dtype.itemsize
            size = source.path.stat().st_size
            growth += size // 3 if raster.overviews(1) else 0
        return "" if size + growth < _CLASSIC_LIMIT else "it would grow beyond the 4 GiB that a classic TIFF can hold"

    def _patch_copy(
        self, part: Path, notices: list[str], progress: Callable[[int, int], None]
    ) -> dict[Window, int | None]:
        """Copy the file and write the blocks that hold fills; what was written, with a checksum where it must agree."""
        source = self._source
        written: dict[Window, int | None] = {}
        assert source._tiff is not None
        with _reading(source.path):
            source.path.open("rb").close()  # its absence is the source's fault, whatever else fails the output's
        self._copying.wait()
        jpeg = source._tiff.number(259, 1) == _JPEG
        if source._tables:
            graft(part, {347: (7, len(source._tables), source._tables)})
        with closing(
            _open(part, "r+", raw=source._raw, IGNORE_COG_LAYOUT_BREAK="YES", NUM_THREADS="ALL_CPUS")
        ) as raster:
            down, across = raster.block_shapes[0]
            planar = source._tiff.number(284, 1) == 2
            touched = self._touched(across, down)
            for done, (window, (pixels, where)) in enumerate(_ahead(self._merged, touched), start=1):
                bands = list(range(source.bands)) if where.any() else []
                if bands and (jpeg or planar):
                    # What is not encoded again cannot lose by it; and every plane has blocks of its own.
                    before = source.read(window)
                    changed = [band for band in bands if (pixels[..., band] != before[..., band]).any()]
                    bands = changed if planar or not changed else bands
                if bands:
                    planes = np.moveaxis(pixels[..., bands], -1, 0)
                    raster.write(planes, [band + 1 for band in bands], window=_part(window))
                    written[window] = None if jpeg else _checksum(pixels)
                self._mark_mask(raster, window, pixels, where)
                progress(done, len(touched))
        if jpeg and written:
            count = f"the {len(written)} blocks that hold" if len(written) > 1 else "the one block that holds"
            notices.append(Loss(f"JPEG-compressed: pixels in {count} damage are encoded again"))
        return written

    def _mark_mask(self, raster: Any, window: Window, pixels: NDArray[Any], where: NDArray[np.bool_]) -> None:
        mask = self._source._mask(window) if self._source._own_mask and where.any() else None
        if mask is not None and self._mark:
            filled = where & ~self._source._is_nothing(pixels)
            if (mask[filled] != 255).any():
                mask[filled] = 255
                raster.write_mask(mask, window=_part(window))
        self._count_hidden(pixels, where, mask)

    def _count_hidden(self, pixels: NDArray[Any], where: NDArray[np.bool_], mask: NDArray[np.uint8] | None) -> None:
        """Count what was filled, but for what is meant to be nothing, and is not to be seen as alpha or the mask is."""
        alpha = self._source.alpha
        plane = mask if mask is not None else None if alpha is None else pixels[..., alpha]
        if plane is not None and where.any():
            hidden = where & (plane == 0)
            hidden &= ~self._source._is_nothing(pixels) if self._as_laid else True
            self._hidden += int(np.count_nonzero(hidden))

    def _write_anew(
        self, part: Path, why: str, notices: list[str], progress: Callable[[int, int], None]
    ) -> dict[Window, int | None]:
        """Write a new TIFF with everything that can be kept, rows of blocks from top to bottom."""
        source = self._source
        row = source.width * source.bands * source.dtype.itemsize
        side = next((side for side in (512, 256, 128, 64, 32) if side * row <= _STRIP), 16)
        total = -(-source.width // side) * -(-source.height // side)
        mask = source.validity == "mask band"
        written: dict[Window, int | None] = {}
        with source._raster() as raster:
            profile = _profile(raster, source, side)
            settings = _settings(raster, palette=profile["photometric"] == "PALETTE")
            kinds = raster.colorinterp
        with closing(_open(part, "w", **profile)) as target:
            settings(target)
            for y in range(0, source.height, side):
                strip = Window(0, y, source.width, min(side, source.height - y))
                pixels, where = self._merged(strip)
                shown = source._mask(strip) if mask else None
                if shown is not None and self._mark:
                    shown[where & ~source._is_nothing(pixels)] = 255
                self._count_hidden(pixels, where, shown)
                # Block by block: of wider pieces GDAL may flush blocks half full, and encode them twice.
                for x in range(0, source.width, side):
                    window = Window(x, y, min(side, source.width - x), strip.height)
                    block = pixels[:, x : window.right]
                    target.write(np.moveaxis(block, -1, 0), window=_part(window))
                    written[window] = _checksum(block)
                if shown is not None:
                    target.write_mask(shown, window=_part(strip))
                progress(len(written), total)
            differ = source.palette is None and target.colorinterp != kinds
        if differ:  # said of a file that is being made, it would be forgotten
            with closing(_open(part, "r+", raw=source._raw)) as target:
                target.colorinterp = kinds
        lost = _carry_tags(source, part)
        losses = f"; lost: {', '.join(lost)}" if lost else ""
        kind = Loss if lost else str
        notices.append(kind(f"written anew as a deflate TIFF, because {why}{losses}"))
        return written

    def _rebuild_overviews(self, part: Path, notices: list[str]) -> None:
        """Smaller views inside the file still show the damage: make them again."""
        source = self._source
        with source._raster() as raster:
            own = raster.driver == "GTiff" and not any(name.endswith(".ovr") for name in raster.files[1:])
            factors = raster.overviews(1) if own else []
        if not factors:
            return
        with _reading(source.path), closing(_open(source.path, raw=source._raw, OVERVIEW_LEVEL=0)) as raster:
            name = raster.tags(1).get("RESAMPLING", "")
        method = getattr(Resampling, name.lower(), None)
        if method is None and source.palette is not None:
            method = Resampling.nearest
        if method is None:
            notices.append("overviews were made anew by averaging: the file does not say how they were made")
        with closing(
            _open(part, "r+", raw=source._raw, IGNORE_COG_LAYOUT_BREAK="YES", NUM_THREADS="ALL_CPUS")
        ) as raster:
            raster.build_overviews(factors, Resampling.average if method is None else method)

    def _read_back(self, part: Path, written: dict[Window, int | None]) -> None:
        """Make sure that the file can be read and holds what was written."""
        source = self._source
        try:
            with Source(part) as made:
                if (made.width, made.height, made.bands) != (source.width, source.height, source.bands):
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                for window, pixels in _ahead(made.read, list(written)):
                    checksum = written[window]
                    # What has its checksum is, outside the fills, what was read: there is nothing to count.
                    lost = checksum is not None and _checksum(pixels) != checksum
                    if checksum is None or (self._mark and source._own_mask):
                        wanted, where = self._merged(window)
                    if checksum is None:
                        before = source.read(window)
                        changed = (before != pixels).any(axis=-1)
                        self.outside_changed += int((changed & ~where).sum())
                        # The one thing to be told of a JPEG block: whether it is still the old one.
                        lost = not changed.any() and _farthest(before, wanted) > 32
                    if self._mark and source._own_mask:
                        lost = lost or bool((made._mask(window)[where] != 255).any())
                    if lost:
                        raise OSError(errno.EIO, os.strerror(errno.EIO))
                with made._raster() as raster:
                    levels = len(raster.overviews(1))
        except ItemError as error:
            # A file of ours that cannot be read was not written.
            if error.path == str(part) and error.__cause__ is not None:
                raise error.__cause__ from None
            raise
        for level in range(levels):
            with closing(_open(part, raw=source._raw, OVERVIEW_LEVEL=level)) as raster:
                rows = max(_STRIP // (raster.width * raster.count * source.dtype.itemsize), 1)
                for y in range(0, raster.height, rows):
                    raster.read(window=_Part(0, y, raster.width, min(rows, raster.height - y)))


def _profile(raster: Any, source: Source, side: int) -> dict[str, Any]:
    """How a new file is created that is to hold the same picture."""
    colours = "CMYK" if source._raw else "RGB" if raster.colorinterp[0] == ColorInterp.red else "MINISBLACK"
    # Black and white are two colours to GDAL, and a palette to nobody else.
    named = {0: "MINISWHITE", 1: "MINISBLACK"}.get(source._tiff.number(262, 3) if source._tiff else 3)
    photometric = "PALETTE" if source.palette is not None else colours
    photometric = named if named and colours == "MINISBLACK" else photometric
    alpha = "NO" if source.alpha is None else "PREMULTIPLIED" if source.premultiplied else "NON-PREMULTIPLIED"
    profile = {"width": source.width, "height": source.height, "count": source.bands, "dtype": source.dtype.name}
    profile |= {"tiled": True, "blockxsize": side, "blockysize": side, "interleave": "pixel", "BIGTIFF": "IF_SAFER"}
    # Differences of numbers of colours mean nothing, and those of fewer than 8 bits cannot be taken.
    predictor = 1 if source.palette is not None else 3 if source.dtype.kind == "f" else 2
    profile |= {"compress": "deflate", "predictor": predictor, "ZLEVEL": 1, "photometric": photometric, "ALPHA": alpha}
    if source.nodata is not None:
        profile["nodata"] = source.nodata
    if raster.crs:
        profile["crs"] = raster.crs
    if not raster.transform.is_identity:
        profile["transform"] = raster.transform
    icc = raster.tags(ns="COLOR_PROFILE").get("SOURCE_ICC_PROFILE")
    bits = _bits(raster)
    profile |= {"NBITS": bits.pop()} if bits else {}
    return profile | ({"SOURCE_ICC_PROFILE": icc} if icc else {})


def _settings(raster: Any, *, palette: bool) -> Callable[[Any], None]:
    """What a new file is told after it has been created: read from one file now, applied to another later."""
    points, reference = raster.gcps
    rpcs, described = raster.rpcs, raster.descriptions
    own, spaces = raster.tags(), _tags_by_namespace(raster, 0)
    of_bands = {band: (raster.tags(band), _tags_by_namespace(raster, band)) for band in raster.indexes}
    scales, offsets, units = raster.scales, raster.offsets, raster.units
    colours = raster.colormap(1) if palette else None

    def apply(target: Any) -> None:
        if colours is not None:
            target.write_colormap(1, colours)
        if points:
            target.gcps = points, reference
        if rpcs:
            target.rpcs = rpcs
        if any(described):
            target.descriptions = described
        if set(scales) != {1.0} or any(offsets):
            target.scales, target.offsets = scales, offsets
        if any(units):
            target.units = [unit or "" for unit in units]
        target.update_tags(**own)
        for name, values in spaces.items():
            target.update_tags(ns=name, **values)
        for band, (plain, named) in of_bands.items():
            target.update_tags(band, **plain)
            for name, values in named.items():
                target.update_tags(band, ns=name, **values)

    return apply


def _tags_by_namespace(raster: Any, band: int) -> dict[str, dict[str, str]]:
    """What a band, or with 0 the whole, is tagged with in namespaces; without those that GDAL fills by itself."""
    made = {"IMAGE_STRUCTURE", "DERIVED_SUBDATASETS", "COLOR_PROFILE", "SUBDATASETS", "RPC", "TIFF", "EXIF", "xml:XMP"}
    return {name: raster.tags(band, ns=name) for name in raster.tag_namespaces(band) if name not in made}


def _carry_tags(source: Source, part: Path) -> list[str]:
    """Give a new file the tags that GDAL did not; the names of those that cannot be given."""
    if source._tiff is None:
        with source._raster() as raster:
            own, kind, texts = raster.tags(), raster.driver, raster.tags(ns="xml:XMP")
        tags = {}
        if own.get("EXIF_Orientation", "1") in "2345678":
            tags[274] = (3, 1, struct.pack("<H", int(own["EXIF_Orientation"])))
        if texts:
            xmp = texts["xml:XMP"].encode()
            tags[700] = (1, len(xmp), xmp)
        graft(part, tags)
        if kind == "JPEG":
            return ["EXIF"] if any(name.startswith("EXIF_") for name in own) else []
        return {"PNG": ["EXIF, if it had any"], "WEBP": ["EXIF and colour profile, if it had any"]}.get(kind, [])
    return graft_from(source._tiff, part)


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


# ---------------------------------------------------------------- GDAL and the disk

_NOT_A_PICTURE = (
    "not a TIFF, JPEG, PNG, WebP, BMP or JPEG 2000 picture, or its start is damaged: "
    "open it elsewhere and export a copy"
)


@contextmanager
def _gdal() -> Iterator[None]:
    with rasterio.Env(**_SETTINGS):
        yield


def _open(path: Path, mode: str = "r", *, raw: bool = False, **options: Any) -> Any:
    # An absolute path can be nothing but a path: GDAL takes "GTIFF_DIR:1:x.tif" and the like for more than a name.
    driver = "GTiff"
    if mode == "r":
        with path.open("rb") as stream:
            head = stream.read(256)
        driver = next((name for name, starts in _FORMATS.items() if head.startswith(starts)), "")
        if not driver:
            if b"<VRTDataset" in head:
                way_out = f"make a picture of it (gdal_translate {path.name} {path.stem}.tif)"
                raise ItemError(path, f"is a VRT, which holds no picture and only says where others lie: {way_out}")
            raise ItemError(path, _NOT_A_PICTURE if head else "the file is empty (0 bytes): fetch it again")
    place = _encodable(path).absolute()
    with quietly():
        return rasterio.open(f"GTIFF_RAW:{place}" if raw else place, mode, driver=driver, **options)


def _encodable(path: Path) -> Path:
    """Make sure that GDAL can be told of a file at all."""
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError as error:
        raise ItemError(path, "its name or a folder's is not Unicode, and cannot be opened: rename it") from error
    return path


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """GDAL's settings; whatever goes wrong with a file that is read becomes an ItemError."""
    try:
        with _gdal():
            yield
    except ItemError:
        raise
    except Exception as error:  # a damaged file can make a decoder raise anything
        raise ItemError(path, _why_unreadable(path, error)) from error


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """What goes wrong with a file that is written becomes an ItemError; a caller's own errors pass."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, (OSError, MemoryError, struct.error)) and "rasterio" not in type(error).__module__:
            raise
        raise ItemError(path, _why_unwritable(path, error)) from error


def _part(window: Window) -> Any:
    return _Part(window.x, window.y, window.width, window.height)


def _checksum(pixels: NDArray[Any]) -> int:
    return zlib.crc32(np.ascontiguousarray(pixels).data)


def _farthest(one: NDArray[Any], other: NDArray[Any]) -> int:
    """The largest difference of two arrays of integers."""
    return int(np.abs(one.astype(np.int32) - other).max())


def _stamp(path: Path) -> tuple[int, int]:
    """What tells a file from a later state of it."""
    with _reading(path):
        if path.is_dir():
            raise IsADirectoryError(path)
        state = path.stat()
        return state.st_size, state.st_mtime_ns


def _why_unreadable(path: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file: check the name"
    if isinstance(error, IsADirectoryError):
        return "is a folder, not a picture: name the files in it"
    if isinstance(error, PermissionError):
        return "permission denied: give yourself the right to read it"
    if isinstance(error, MemoryError):
        return "too big for the memory of this machine: cut it into parts, or use a machine with more"
    if not path.exists():
        return "there is no such file any more: put it back and run it again"
    cause = _cause(error)
    if "libjpeg to allocate" in cause:
        return "a progressive JPEG, and too big to be read part by part: save a copy as TIFF"
    return f"damaged or cut short ({cause}): fetch it again"


def _why_unwritable(path: Path, error: Exception) -> str:
    why = files.why_unwritable(error)
    with suppress(OSError):
        if not why and shutil.disk_usage(path.parent).free < 2**20:
            # GDAL tells no more than that a write has failed.
            why = files.why_unwritable(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    return why or f"cannot be written ({_cause(error)}): choose another output folder"


def _cause(error: BaseException) -> str:
    """What GDAL said first: rasterio's own words are that the details are elsewhere."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, struct.error):  # what Python says of buffers means nothing to anybody
        return "its structure cannot be read"
    return " ".join(str(error).split()) or type(error).__name__
