"""Files of any size with one thing to say of each pixel, a strip of rows at a time: masks, and maps of grey.

Knows polarity in files (what is lighter than 50 % grey and not transparent is damaged), whatever mode a mask is saved
in, and that what was written is read back before it gets its name. Does not know what damage is for, or what the grey
of a map means. How GDAL is asked: `_gdal`; where a picture lies on the map: `georeference`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp

from pconv_cli import _gdal, _heads, files
from pconv_cli._ifd import Directory, graft
from pconv_cli.errors import OF_ONES, ItemError
from pconv_cli.georeference import placement
from pconv_cli.regions import Window
from pconv_cli.tiff import Source, ahead, refuse_many_colours

DRAWN = 40
"""Of 255: what is lighter than that on a mask is no noise of a scanner or a camera."""

_AS_PNG = "save a copy as PNG"


def mask_size(path: Path) -> tuple[int, int]:
    """Width and height of a mask file as stored, from its head alone.

    Raises:
        ItemError: Not a picture that can be opened.
    """
    with _gdal.reading(path):
        _heads.refuse_misread(path, _AS_PNG)
        with closing(_gdal.open(path)) as raster:
            return raster.width, raster.height


def mask_strips(
    path: Path, rows: int = 256, *, inverted: bool = False, nodata: bool = True
) -> Generator[NDArray[np.bool_], None, None]:
    """Read a mask from top to bottom without holding more of it than a strip.

    Args:
        path: A picture of any format and size that GDAL reads, of any mode but floating point.
        rows: Rows of a strip, at least 1.
        inverted: Whether what is darker, or transparent, is damaged.
        nodata: Whether pixels that have the file's nodata value are no damage, whatever it looks like.

    Yields:
        (rows or fewer, width) as stored, True where lighter than 50 % grey and not transparent: damaged. EXIF
        orientation is not applied. The rule is that of `images.read_mask`.

    Raises:
        ItemError: Missing, unreadable, damaged, floating point, or with more than one picture in it.
        ValueError: `rows` is below 1.
    """
    if rows < 1:
        raise ValueError(f"rows must be at least 1, got {rows}")
    with _gdal.reading(path):
        _heads.refuse_misread(path, _AS_PNG)
        raster = _gdal.open(path)
    try:
        with _gdal.reading(path):
            white = _Whiteness(path, raster)
        width, height = raster.width, raster.height

        def read(strip: Window) -> NDArray[np.bool_]:
            with _gdal.reading(path):
                pixels = raster.read(white.bands, window=_gdal.window(strip))
                damaged = ~white(pixels) if inverted else white(pixels)
                empty = white.nothing(pixels) if nodata else None
                return damaged if empty is None else damaged & ~empty

        strips = [Window(0, y, width, min(rows, height - y)) for y in range(0, height, rows)]
        with closing(ahead(read, strips, threads=1, begun=2)) as found:
            for _, strip in found:
                yield strip
    finally:
        with _gdal.settings():
            raster.close()


def write_mask(
    strips: Callable[[], Iterator[NDArray[np.bool_]]], size: tuple[int, int], target: Path, *, overwrite: bool,
    place: tuple[Any, Any] = (None, None),
) -> None:  # fmt: skip
    """Write a mask of any size, white where damaged, without holding more of it than a strip; all of it or nothing.

    Args:
        strips: Gives the mask from top to bottom, `(rows, width)` each, True = damaged.
        size: Height and width.
        target: PNG where the name ends so, else TIFF; its folder must be there.
        overwrite: Whether a file that is there may be replaced.
        place: Where a TIFF lies on the map: coordinate system and transform, None for either that nothing tells.

    Raises:
        ItemError: The target exists, or the disk says no.
    """
    height, width = size
    part, copy = files.hidden(_gdal.encodable(target)), files.hidden(target)
    profile: dict[str, Any] = {"height": height, "width": width, "count": 1, "dtype": "uint8", "BLOCKYSIZE": 256}
    profile |= {"compress": "deflate", "BIGTIFF": "IF_SAFER"} | _placed(*place)
    top, damaged = 0, 0
    try:
        with _gdal.writing(target), _gdal.settings():
            files.refuse_taken(target, overwrite=overwrite)
            with closing(_gdal.open(part, "w", **profile)) as made:
                for strip in strips():
                    white = strip.astype(np.uint8) * np.uint8(255)
                    made.write(white, 1, window=_gdal.window(Window(0, top, width, len(strip))))
                    top, damaged = top + len(strip), damaged + int(strip.sum())
            if target.suffix.lower() == ".png":
                _gdal.copy(part, copy, "PNG")
            else:
                part.replace(copy)
            if top != height or sum(int(strip.sum()) for strip in mask_strips(copy)) != damaged:
                raise ItemError(target, "what was written does not read back as it should: check the disk")
            files.flush(copy)
            files.place(copy, target, overwrite=overwrite)
    finally:
        part.unlink(missing_ok=True)
        copy.unlink(missing_ok=True)


def is_plain(path: Path) -> bool:
    """Whether all pixels of a mask are one colour, but for those that have its nodata value; read in strips.

    Raises:
        ItemError: Not a picture that can be read.
    """
    with _gdal.reading(path), closing(_gdal.open(path)) as raster:
        key, first = _nodata(raster), None
        for rows in _gdal.rows(raster):
            pixels = rows.reshape(len(rows), -1)
            if key is not None:
                pixels = pixels[:, (pixels != key).any(axis=0)]
            first = pixels[:, :1] if first is None else first
            if (pixels != first).any():
                return False
            first = first if first.size else None
        return True


def is_drawn_on(path: Path, *, inverted: bool) -> bool:
    """Whether something is drawn on a mask that marks nothing: two tones, or what is too light for noise on black.

    Args:
        path: The file, which is read in strips.
        inverted: Whether black is what it would mark.

    Raises:
        ItemError: Not a mask that can be read.
    """
    if is_plain(path):
        return False
    found = np.zeros(256, np.bool_)
    with _gdal.reading(path), closing(_gdal.open(path)) as raster:
        white = _Whiteness(path, raster)
        for pixels in _gdal.rows(raster):
            light, shown = white.tones(pixels[[band - 1 for band in white.bands]])
            found[light[shown]] = True
    tones = np.flatnonzero(found[::-1] if inverted else found)
    # One: it is in the alpha, or 8 bits do not tell tones apart. None: all is hidden.
    return len(tones) in (1, 2) or (len(tones) > 0 and int(tones[-1]) >= DRAWN)


def marks_by_nodata(path: Path, *, inverted: bool = False) -> bool:
    """Whether a mask that marks nothing would mark something if its nodata value were damage like any other.

    Args:
        path: The file.
        inverted: As for `mask_strips`.

    Raises:
        ItemError: Not a mask that can be read.
    """
    with _gdal.reading(path), closing(_gdal.open(path)) as raster:
        if _nodata(raster) is None:
            return False
    with closing(mask_strips(path, inverted=inverted, nodata=False)) as strips:
        return any(strip.any() for strip in strips)


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
    profile |= _placed(*placement(source))
    sums: list[tuple[Window, int]] = []
    with _gdal.writing(target):
        files.refuse_taken(target, overwrite=overwrite)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = files.hidden(_gdal.encodable(target))
        try:
            with _gdal.settings():
                with closing(_gdal.open(part, "w", **profile)) as made:
                    for number, values in enumerate(strips):
                        strip = Window(0, number * rows, source.width, len(values))
                        made.write(values[None], window=_gdal.window(strip))
                        sums.append((strip, _gdal.checksum(values)))
                if source.orientation != 1:
                    order = Directory.first(part).order
                    graft(part, {274: (3, 1, struct.pack(order + "H", source.orientation))})
                with closing(_gdal.open(part)) as made:
                    whole = sum(strip.height for strip, _ in sums) == source.height
                    read = (_gdal.checksum(made.read(1, window=_gdal.window(strip))) for strip, _ in sums)
                    if not whole or any(now != known for now, (_, known) in zip(read, sums, strict=True)):
                        raise _gdal.lost()
            files.flush(part)
            files.place(part, target, overwrite=overwrite)
        finally:
            part.unlink(missing_ok=True)


def _placed(crs: Any, transform: Any) -> dict[str, Any]:
    return ({"crs": crs} if crs else {}) | ({} if transform is None else {"transform": transform})


def _nodata(raster: Any) -> float | None:
    """The value for "nothing here"; None of a PNG, which has a transparent colour that GDAL shows as such."""
    return None if raster.driver == "PNG" else raster.nodata


class _Whiteness:
    """How the pixels of one mask file say that they are lighter than 50 % grey."""

    def __init__(self, path: Path, raster: Any) -> None:
        kinds, types = list(raster.colorinterp), set(raster.dtypes)
        if not types <= {"uint8", "uint16"}:
            kind = " and ".join(sorted(types - {"uint8", "uint16"}))
            raise ItemError(path, f"a mask of {kind} values has no 50 % grey: save it as 8-bit grey ({OF_ONES})")
        if len(raster.subdatasets) > 1:
            raise ItemError(path, f"{len(raster.subdatasets)} pages in one TIFF: split it into one file per page first")
        refuse_many_colours(path, raster)
        structure = raster.tags(1, ns="IMAGE_STRUCTURE")
        self._bits = int(structure.get("NBITS", 8 * np.dtype(raster.dtypes[0]).itemsize))
        self._inverted = "YES" in (structure.get("MINISWHITE"), raster.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE"))
        self._table: NDArray[np.uint8] | None = None
        if kinds[0] == ColorInterp.palette and not self._inverted:
            table = np.tile(np.array([0, 0, 0, 255], np.uint8), (256, 1))
            for index, colour in raster.colormap(1).items():
                table[index % 256] = colour
            if _nodata(raster) is not None:
                table[:, 3] = 255  # GDAL calls that colour transparent, which in a TIFF it is not
            self._table = table
        colours = 3 if kinds[0] == ColorInterp.red and raster.count >= 3 else 1
        self._alpha = ColorInterp.alpha in kinds[colours:]
        self.bands = [*range(1, colours + 1)] + ([kinds.index(ColorInterp.alpha) + 1] if self._alpha else [])
        self._colours, self._nodata = colours, _nodata(raster)
        self._key = None  # the one transparent colour of a PNG
        if raster.driver == "PNG" and self._table is None and raster.nodata is not None:
            self._key = np.array(raster.nodatavals[:colours]).reshape(-1, 1, 1)

    def __call__(self, pixels: NDArray[Any]) -> NDArray[np.bool_]:
        """(bands, h, w) as stored to (h, w), True where white."""
        light, alpha, key = self._seen(pixels)
        white = light > 127 if alpha is None else light.astype(np.uint32) * alpha > 127 * 255
        return np.asarray(white if key is None else white & ~key)

    def tones(self, pixels: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """How light (bands, h, w) as stored are, (h, w), and which of that can be seen at all."""
        light, alpha, key = self._seen(pixels)
        shown = np.ones(light.shape, np.bool_) if alpha is None else alpha > 0
        for hidden in (key, self.nothing(pixels)):
            shown = shown if hidden is None else shown & ~hidden
        return light, shown

    def _seen(
        self, pixels: NDArray[Any]
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None, NDArray[np.bool_] | None]:
        """Lightness, alpha and where the transparent colour is, (h, w) each; None where there is no such thing."""
        key = None if self._key is None else (pixels == self._key).all(axis=0)
        if self._table is not None:
            pixels = np.moveaxis(self._table[pixels[0]], -1, 0)
            return self._light(pixels[:3]), pixels[3], None
        alpha = pixels[-1] if self._alpha else None
        colours = pixels[:-1] if self._alpha else pixels
        if self._bits != 8:
            colours, alpha = self._as_8_bits(colours), None if alpha is None else self._as_8_bits(alpha)
        if self._inverted:
            colours = 255 - colours
        return self._light(colours), alpha, key

    def nothing(self, pixels: NDArray[Any]) -> NDArray[np.bool_] | None:
        """Where (bands, h, w) as stored are what stands for no value; None where the file names none."""
        return None if self._nodata is None else (pixels[: self._colours] == self._nodata).all(axis=0)

    def _as_8_bits(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        wide = values.astype(np.uint32)
        return (wide >> (self._bits - 8) if self._bits > 8 else wide * 255 // (2**self._bits - 1)).astype(np.uint8)

    @staticmethod
    def _light(colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
        light: NDArray[np.uint8] = colours[0]
        if len(colours) == 3:
            # In Pillow's own integers, so that both ways to read a mask draw the line at the same pixel.
            total = np.full(light.shape, 0x8000, np.uint32)
            for colour, weight in zip(colours, (19595, 38470, 7471), strict=True):
                total += colour.astype(np.uint32) * weight
            light = (total >> 16).astype(np.uint8)
        return light
