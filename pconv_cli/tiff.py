"""Pictures larger than memory, or too deep for Pillow: windows of them, and what their files say. Read by rasterio.

Knows bands, masks, nodata and blocks: what a pixel of the file is, which pixels hold nothing, what cannot be restored
without changing it first, and what its owner should know. Does not know fills, outputs, networks, or tiles' planning.
How bands are seen: `layers`; bytes of TIFF directories: `_ifd`; whether a copy can be patched: `encoders`; what lies
beside: `companions`; how files are opened, and what is said of those that cannot be read: `_gdal`; which of them are
sound: `_heads`.
"""

from __future__ import annotations

import base64
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import RasterioError

from pconv_cli import _gdal, _heads
from pconv_cli._ifd import Directory, cut_short
from pconv_cli.companions import Companions
from pconv_cli.encoders import JPEG, patching
from pconv_cli.errors import ItemError, Loss
from pconv_cli.files import quietly
from pconv_cli.layers import Layer, layers
from pconv_cli.regions import Window
from pconv_cli.spaces import TYPES, as_held, is_ranged, nothing, top, without_alpha

XMP = 700
"""TIFF's number of the tag that holds an XMP packet."""
NOTES = 42112
"""The same of the one in which GDAL notes, as XML, what there is to say of the file and its bands."""

_ICC = 34675
_SPACES = {0: "RGB", 1: "RGB", 2: "RGB", 3: "RGB", 5: "CMYK", 6: "YCbCr", 8: "Lab", 9: "Lab", 10: "Lab"}

Validity = Literal["alpha", "mask band", "nodata"]


class Source:
    """A picture file that windows are read from. A context manager; read-only; safe to use from several threads.

    Attributes:
        path: The file.
        state: What tells it from a later state of it, when it was opened: size in bytes, and time of change.
        width: Columns as stored.
        height: Rows as stored.
        bands: How many values a pixel has.
        dtype: One of `spaces.TYPES`.
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
        raw: Whether inks are read as they are stored, which GDAL has to be told each time the file is opened.
        tiff: The first directory of a TIFF; None of another format.
        own_mask: Whether there is a mask band in the file itself, one that can be written.
        in_place: Whether a copy of the file can be patched block by block; if not, it is written anew as a TIFF.
        why_anew: Why it cannot, empty if it can.
        jpeg_tables: What a copy has to be given before it is patched, or its blocks would change in quality; mostly
            empty.
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
        self.state = _stamp(path)
        with _gdal.reading(path):
            _heads.refuse_misread(path, "`pconv restore` takes it")
            self.raw = _is_cmyk(path)  # else GDAL makes RGB of it
            try:
                raster = _gdal.open(path, raw=self.raw)
            except RasterioError as error:
                if why := _heads.doubt(path):
                    raise ItemError(path, why) from error
                raise
            try:
                self._look(raster)
            except BaseException:
                raster.close()
                raise
            self._idle.append(raster)

    @property
    def colours(self) -> list[int]:
        """Bands other than alpha."""
        return [band for band in range(self.bands) if band != self.alpha]

    @property
    def nothing(self) -> float | None:
        """The nodata value, where pixels of this type can have it at all."""
        return as_held(self.nodata, self.dtype)

    @property
    def opaque(self) -> float:
        """The value of alpha that hides nothing."""
        return top(self.dtype)

    @property
    def xmp(self) -> bytes:
        """The XMP packet, empty where there is none.

        Raises:
            ItemError: The file is damaged there, or gone.
        """
        with self.raster() as raster:
            if self.tiff is not None:
                return self.tiff.value(XMP, 2**26)[2] if XMP in self.tiff.entries else b""
            return str(raster.tags(ns="xml:XMP").get("xml:XMP", "")).encode()

    @property
    def lost_by_fills(self) -> tuple[str, ...]:
        """What will be lost as soon as anything is filled; `Canvas.commit` tells how much."""
        jpeg = self.in_place and self.tiff is not None and self.tiff.number(259, 1) == JPEG
        return (*((self.encoded_again(),) if jpeg else ()), *self.stale)

    def seen_as(self, *, linear: bool) -> tuple[Layer, ...]:
        """What is filled together, and how it is seen as long as nothing is known of its values: see `layers.layers`.

        Args:
            linear: Whether values are linear light where no profile says what they are.
        """
        return layers(
            self.layers, self.dtype, palette=self.palette, icc=self.icc, linear=linear, inverted=self.inverted,
            nodata=self.nodata, alpha=self.alpha if self.premultiplied else None,
        )  # fmt: skip

    def strips(self, rows: int) -> Iterator[Window]:
        """The picture from top to bottom, so many rows at a time, or those decoded together where they are few."""
        rows = self.block[0] if rows <= self.block[0] <= 4 * rows else rows
        for y in range(0, self.height, rows):
            yield Window(0, y, self.width, min(rows, self.height - y))

    def encoded_again(self, count: int | None = None) -> Loss:
        """What to say of a JPEG-compressed TIFF of which so many blocks are encoded again; None: as many as have to."""
        down, across = self.block
        kind = "tile" if self.tiff is not None and 324 in self.tiff.entries else "strip"
        number = f"one {kind}" if count == 1 else f"{kind}s" if count is None else f"{count} {kind}s"
        holds, them = ("holds damage is", "it") if count == 1 else ("hold damage are", "them")
        blocks = f"the {number} of {across} x {down} px that {holds} encoded again"
        return Loss(f"JPEG-compressed: {blocks}, and pixels anywhere in {them} may move")

    @property
    def stale(self) -> tuple[str, ...]:
        """What goes on showing the damage in a patched copy: previews that GDAL does not make anew as overviews.

        Raises:
            ItemError: The file is damaged there, or gone.
        """
        if self.tiff is None or not self.in_place:
            return ()
        with _gdal.reading(self.path):
            count = sum(not view.is_view_of(self.tiff) for view in self.tiff.previews())
        previews = f"{count} embedded previews of other types" if count > 1 else "an embedded preview of another type"
        return (Loss(f"{previews} than the picture: still showing the damage"),) if count else ()

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
        self.refuse_beyond(window)
        with self.raster() as raster:
            return np.ascontiguousarray(np.moveaxis(raster.read(window=_gdal.window(window)), 0, -1))

    def valid(self, window: Window, pixels: NDArray[Any] | None = None) -> NDArray[np.bool_] | None:
        """Where the file says that there is a picture at all.

        Args:
            window: Part of the picture; it must not reach beyond.
            pixels: What `read` gave of it, where that is at hand already.

        Returns:
            (h, w), False where alpha or the mask band is 0, or the colours hold nothing, see `spaces.nothing`; None if
            the file has no way to say it.

        Raises:
            ItemError: The file is damaged there, or gone.
            ValueError: The window reaches beyond the picture.
        """
        self.refuse_beyond(window)
        if self.validity is None:
            return None
        by_value = self.validity == "nodata" or is_ranged(self.dtype)
        if pixels is None and (self.validity != "mask band" or by_value):
            pixels = self.read(window)
        shown = np.ones((window.height, window.width), np.bool_)
        if self.validity == "mask band":
            shown = self.mask(window) > 0
        elif self.alpha is not None and pixels is not None:
            shown = pixels[..., self.alpha] > 0
        if pixels is not None and by_value:
            shown &= ~self.is_nothing(pixels)
        return shown

    def mask(self, window: Window) -> NDArray[np.uint8]:
        """The mask band of a window, (h, w), 0 where there is no picture.

        Raises:
            ItemError: The file is damaged there, or gone.
        """
        with self.raster() as raster:
            return np.asarray(raster.read_masks(1, window=_gdal.window(window)))

    def is_nothing(self, pixels: NDArray[Any]) -> NDArray[np.bool_]:
        """Where the colours of (h, w, bands) hold nothing, see `spaces.nothing`."""
        found = nothing(pixels, self.nodata, but=self.alpha)
        return np.zeros(pixels.shape[:2], np.bool_) if found is None else found

    def thumbnail(self, longest: int) -> NDArray[Any]:
        """A small view of the whole picture, to draw on.

        Args:
            longest: Longest side of the view, at least 1; a smaller picture is not enlarged.

        Returns:
            (h, w, bands of the first layer) in the file's own type, without alpha.

        Raises:
            ItemError: The file is damaged, or gone.
            ValueError: `longest` is below 1.
        """
        if longest < 1:
            raise ValueError(f"longest must be at least 1, got {longest}")
        scale = min(longest / max(self.width, self.height), 1.0)
        shape = max(round(self.height * scale), 1), max(round(self.width * scale), 1)
        (first, *_) = self.seen_as(linear=False)
        bands = [band + 1 for band in (*first.channels, *([] if first.alpha is None else [first.alpha]))]
        with self.raster() as raster:
            # Nearest: it takes rows one at a time, where averaging would hold all that it averages.
            small = raster.read(bands, out_shape=(len(bands), *shape), resampling=Resampling.nearest)
        small = np.ascontiguousarray(np.moveaxis(small, 0, -1))
        return small if first.alpha is None else without_alpha(small[..., :-1], small[..., -1])

    def refuse_beyond(self, window: Window) -> None:
        """Make sure that a window lies inside the picture.

        Raises:
            ValueError: It does not.
        """
        inside = min(window.x, window.y) >= 0 and window.right <= self.width and window.bottom <= self.height
        if not inside or window.width < 1 or window.height < 1:
            raise ValueError(f"{window} is not inside {self.width} x {self.height} pixels")

    def refuse_changed(self) -> None:
        """Make sure that the file is as it was when it was opened.

        Raises:
            ItemError: It was changed, or is gone.
        """
        if _stamp(self.path) != self.state:
            raise ItemError(self.path, "was changed while it was being restored: run it again")

    @contextmanager
    def raster(self) -> Iterator[Any]:
        """A handle that nobody else uses meanwhile: GDAL's are not made for two threads at once.

        Raises:
            ItemError: The file is gone, or whatever was done inside the block has failed.
        """
        with _gdal.reading(self.path):
            with self._lock:
                if self._closed:
                    raise ItemError(self.path, "is closed already: open it again")
                raster = self._idle.pop() if self._idle else None
            if raster is None:
                raster = _gdal.open(self.path, raw=self.raw)
            try:
                yield raster
            finally:
                with self._lock:
                    closed = self._closed
                    if not closed:
                        self._idle.append(raster)
                if closed:
                    raster.close()

    def close(self) -> None:
        """Close all handles. Reads after it are refused."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        with _gdal.settings():
            for raster in idle:
                raster.close()

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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
        self.inks = self.raw and tiff is not None and colours >= 4 and tiff.number(332, 1) == 1
        self.inverted = tiff is not None and tiff.number(262, 1) == 0 and not _gdal.bits(raster)
        self.palette = None if self.inverted or kinds[0] != ColorInterp.palette else _palette(raster)
        self.layers = _layers(kinds, self.alpha, inks=self.inks)
        self.orientation = _orientation(tiff, raster)
        kind = () if tiff is None or 338 not in tiff.entries else tiff.numbers(338)
        self.premultiplied = self.alpha is not None and 1 in kind
        self.icc = _profile_of(tiff, raster)
        self.companions = Companions.of(path)
        self.nodata: float | None = raster.nodata if self.companions.nodata is None else self.companions.nodata
        if tiff is None and len(set(raster.nodatavals)) > 1:  # one transparent colour, whose values differ
            self.nodata = None
        beside = [Path(name).name for name in raster.files[1:]]
        self.validity = self._validity()
        # Alpha is a mask of the whole picture to GDAL as well, but none that could be written as one.
        has_mask = MaskFlags.per_dataset in self._flags and MaskFlags.alpha not in self._flags
        self.own_mask = has_mask and not any(name.endswith(".msk") for name in beside)
        self.tiff = tiff
        self.why_anew, self.jpeg_tables = ("it is not a TIFF", b"") if tiff is None else patching(tiff, raster)
        self.in_place = not self.why_anew
        if tiff is not None and self.in_place and cut_short(tiff):
            raise OSError("some of its pixels would lie beyond its end")
        self.notices_anew = tuple(self._find_notices(raster, beside, in_place=False))
        self.notices = tuple(self._find_notices(raster, beside, in_place=self.in_place))

    def _validity(self) -> Validity | None:
        if self.alpha is not None:
            return "alpha"
        if MaskFlags.per_dataset in self._flags and MaskFlags.nodata not in self._flags:
            return "mask band"
        return "nodata" if self.nothing is not None or self.dtype.kind == "f" else None

    def _find_notices(self, raster: Any, beside: list[str], *, in_place: bool) -> Iterator[str]:
        carried = {target.name.lower() for target in self.companions.targets(self.path)}
        left = [name for name in beside if name.lower() not in carried and name not in self.companions.lost]
        if left or self.companions.lost:
            yield Loss(f"beside the file and not carried over: {', '.join([*left, *self.companions.lost])}")
        if self.tiff is None:
            return
        pages = max(len(raster.subdatasets) - 1, 0)
        if pages:
            kept = "kept as they are" if in_place else "not carried over"
            yield (str if in_place else Loss)(f"only the first of {pages + 1} pages is restored, the others are {kept}")
        if in_place and 37724 in self.tiff.entries:
            yield "Photoshop layers in the file still show the damage: open the output without them"
        if in_place and raster.tags(ns="IMAGE_STRUCTURE").get("LAYOUT") == "COG":
            yield "a cloud-optimised GeoTIFF: the output is a GeoTIFF, no longer in the cloud-optimised order"


def _refuse(path: Path, raster: Any, tiff: Directory | None) -> None:
    """Raise for what could only be restored by changing it first."""
    kinds = list(raster.colorinterp)
    if not raster.count:
        raise ItemError(path, "holds several pictures and none of its own: save the one you mean as a TIFF")
    refuse_many_colours(path, raster)
    bits, types = _gdal.bits(raster), set(raster.dtypes)
    if "float32" in types and "NBITS" in raster.tags(1, ns="IMAGE_STRUCTURE"):
        raise ItemError(path, "pixels are float16 per channel, which cannot be written: convert a copy to float32")
    wrong = sorted(types - TYPES)
    if wrong or len(types) > 1 or bits - {1, 2, 4} or (bits and ColorInterp.palette not in kinds):
        number = bits.pop() if bits else 0
        few = f"{number} bit{'s' * (number > 1)}"
        what = " and ".join(wrong or sorted(types)) if wrong or len(types) > 1 else few
        way_out = "convert a copy to one of them"
        if tiff is None and what == few and number < 8:
            way_out = "`pconv restore` takes it"
        if wrong and not any(name.startswith("complex") for name in wrong):
            way_out = f"convert a copy (gdal_translate -ot Float64 {path.name} out.tif), which keeps 53 bits of a value"
        elif types == {"uint16"}:
            way_out = f"convert a copy (gdal_translate -co NBITS=16 {path.name} out.tif), which keeps all values"
        raise ItemError(path, f"pixels are {what} per channel, not 8, 16 or 32 bits, float32 or float64: {way_out}")
    # GDAL turns some of these into RGB while it reads, and cannot turn them back.
    space = raster.tags(ns="IMAGE_STRUCTURE").get("SOURCE_COLOR_SPACE", "RGB")
    if tiff is not None:
        photometric = tiff.number(262, 1)
        space = _SPACES.get(photometric, f"of TIFF number {photometric}")
        if space == "CMYK" or (space == "YCbCr" and tiff.number(259, 1) == JPEG):
            space = "RGB"
    elif space == "YCbCr":
        space = "RGB"
    if space != "RGB":
        # Of a JPEG; a conversion to RGB would lose the separation.
        way_out = "`pconv restore` takes it" if space == "CMYK" else "convert a copy to RGB first"
        raise ItemError(path, f"colours are {space}, not RGB or grey: {way_out}")


def refuse_many_colours(path: Path, raster: Any) -> None:
    """Make sure that a palette, if there is one, has no more colours than fit in a byte.

    Raises:
        ItemError: It has.
    """
    grey = raster.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES"  # a palette to GDAL as well
    if raster.colorinterp[0] == ColorInterp.palette and raster.dtypes[0] != "uint8" and not grey:
        # Without -ot they are colours of 16 bits, of which only the lowest 8 are used.
        way_out = f"convert a copy (gdal_translate -ot Byte -expand rgb {path.name} out.tif)"
        raise ItemError(path, f"pixels are numbers of a palette of more than 256 colours: {way_out}")


def _is_cmyk(path: Path) -> bool:
    """Whether a file is a TIFF of inks."""
    with path.open("rb") as stream:
        head = stream.read(8)
    return _gdal.format_of(head) == "GTiff" and Directory.first(path).number(262, 1) == 5


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


def pixel_bytes(path: Path) -> int:
    """Bytes that a pixel takes in memory, of all bands together, from the head of a file alone.

    Raises:
        ItemError: Not a picture that can be opened.
    """
    with _gdal.reading(path), closing(_gdal.open(path)) as raster:
        return sum(np.dtype(kind).itemsize for kind in raster.dtypes)


def orientation(path: Path) -> int:
    """EXIF orientation of a TIFF, 1..8; 1 where there is none or it is invalid.

    Raises:
        ItemError: Not a TIFF that can be opened.
    """
    with _gdal.reading(path):
        return _orientation(Directory.first(path), None)


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


def _stamp(path: Path) -> tuple[int, int]:
    """What tells a file from a later state of it."""
    with _gdal.reading(path):
        if path.is_dir():
            raise IsADirectoryError(path)
        state = path.stat()
        return state.st_size, state.st_mtime_ns


def ahead(
    function: Callable[[Window], Any], windows: list[Window], threads: int = 2, begun: int = 4
) -> Generator[tuple[Window, Any], None, None]:
    """Go through windows with what a function makes of each, worked out a little ahead by other threads."""
    with ThreadPoolExecutor(threads, "ahead") as pool:
        waiting = deque((window, pool.submit(function, window)) for window in windows[:begun])
        following = iter(windows[begun:])
        while waiting:
            window, future = waiting.popleft()
            yield window, future.result()
            waiting.extend((one, pool.submit(function, one)) for one in islice(following, 1))
